//! Other commands of this program, run as a person would run them: each is a process of its own, as
//! the daemon's runs are.

use serde_json::Value;

use super::program::{Surroundings, run};
use crate::error::{Error, Result};
use crate::playbook::action::{Job, Means};
use crate::policy::Program;

/// Runs a command of this program that changes something, and gives what it reports.
pub fn backstay(means: &Means, job: &Job<'_>, arguments: &[String]) -> Result<Value> {
    call(means, job, arguments, || crate::telemetry::failpoint::reach("playbook.mid_apply"))
}

/// Runs a command of this program that changes nothing, and gives what it reports.
pub fn look(means: &Means, job: &Job<'_>, arguments: &[String]) -> Result<Value> {
    call(means, job, arguments, || {})
}

fn call(means: &Means, job: &Job<'_>, arguments: &[String], begun: impl FnOnce()) -> Result<Value> {
    let mut argv: Vec<String> = vec!["/proc/self/exe".into()];
    let fixed: [(&str, String); 3] = [
        ("--policy", means.policy_path.display().to_string()),
        ("--state-dir", means.state_directory.display().to_string()),
        ("--output", "json".to_owned()),
    ];
    for (name, value) in fixed {
        argv.extend([name.to_owned(), value]);
    }
    argv.push("--no-progress".to_owned());
    for identity in &means.identity {
        argv.extend(["--identity".to_owned(), identity.display().to_string()]);
    }
    argv.extend(arguments.iter().cloned());
    let ran = run(&Program::Argv(argv), &Surroundings::default(), job, &[0], begun)
        .map_err(|error| said(&error).unwrap_or(error))?;
    serde_json::from_str(&ran.output)
        .map_err(|error| Error::failed("failed to read what it reported").with_source(error))
}

/// What went wrong in the other process, in its own words: among the events that it wrote, the error that
/// it ended with.
fn said(error: &Error) -> Option<Error> {
    let text = error.chain();
    let event = |line: &str| -> Option<Value> {
        let event: Value = serde_json::from_str(line.get(line.find('{')?..)?).ok()?;
        (event["event"] == "error").then_some(event)
    };
    let event = text.lines().rev().find_map(event)?;
    let hints = event["hints"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let told = Error::new(error.kind(), event["chain"].as_str()?.to_owned());
    Some(hints.fold(told, Error::hint))
}
