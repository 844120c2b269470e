//! `backstay playbook list`

use serde::Serialize;

use crate::cli::ExitStatus;
use crate::cli::format::{Align, table};
use crate::cli::setup::App;
use crate::error::Result;
use crate::playbook::compile::{Wanted, compile};

/// List the playbooks of the policies.
#[derive(Debug, clap::Args)]
pub struct Args {}

#[derive(Serialize)]
struct Row {
    stack: String,
    playbook: String,
    modes: Vec<&'static str>,
    steps: usize,
    hash: String,
    description: Option<String>,
}

const HEAD: [(&str, Align); 5] = [
    ("PLAYBOOK", Align::Left),
    ("MODES", Align::Left),
    ("STEPS", Align::Right),
    ("PLAN", Align::Left),
    ("", Align::Left),
];

/// Runs the command.
pub fn run(app: &App, _args: &Args) -> Result<ExitStatus> {
    let set = app.policies_to_read()?;
    let mut rows = Vec::new();
    for policy in &set.policies {
        for (name, playbook) in &policy.playbooks {
            let plan = compile(policy, Wanted { playbook: name, ..Wanted::default() })?;
            rows.push(Row {
                stack: policy.stack.clone(),
                playbook: name.clone(),
                modes: playbook.modes.iter().map(|mode| mode.word()).collect(),
                steps: plan.steps.len(),
                hash: plan.hash()?,
                description: playbook.description.clone(),
            });
        }
    }
    if app.printer.is_json() {
        app.printer.json(&rows)?;
        return Ok(ExitStatus::Done);
    }
    if rows.is_empty() {
        app.printer.talk("no policy has `playbooks`");
        return Ok(ExitStatus::Done);
    }
    let lines: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            vec![
                format!("{}/{}", row.stack, row.playbook),
                row.modes.join(", "),
                row.steps.to_string(),
                row.hash[..12].to_owned(),
                row.description.clone().unwrap_or_default(),
            ]
        })
        .collect();
    table(&HEAD, &lines).into_iter().try_for_each(|line| app.printer.data(line))?;
    Ok(ExitStatus::Done)
}
