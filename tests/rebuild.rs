//! A state that was lost is brought back from the repositories, as far as they know.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;

use crate::common::{Ran, Sandbox};

fn at(sandbox: &Sandbox, shows: &str, args: &[&str]) -> Ran {
    let mut command = sandbox.command(args);
    command.env("BACKSTAY_CLOCK", format!("{shows} {} 1", Timestamp::now()));
    Ran::from(&command.output().unwrap())
}

fn runs(sandbox: &Sandbox) -> Vec<Value> {
    sandbox.run(&["runs", "--output", "json"]).expect(0).json().as_array().unwrap().clone()
}

#[test]
fn what_jobs_did_last_is_known_again_and_what_was_due_since_is_caught_up_with() {
    let sandbox = Sandbox::ready(true);
    fs::write(sandbox.path("src/file"), "one").unwrap();
    at(&sandbox, "2026-11-19T03:00:05Z", &["backup", "--job", "daily"]).expect(0);
    fs::write(sandbox.path("src/file"), "two").unwrap();
    at(&sandbox, "2026-11-20T03:00:05Z", &["backup", "--job", "daily"]).expect(0);
    // By hand, and so of no job.
    at(&sandbox, "2026-11-20T05:00:00Z", &["backup", "--kind", "snapshot"]).expect(0);
    // One that did not come to its end.
    let mut killed = sandbox.command(&["backup", "--job", "daily"]);
    killed.env("BACKSTAY_FAILPOINT", "backup.intent").output().unwrap();
    assert!(!sandbox.path("state").exists(), "there is a state");

    let seen = sandbox.run(&["state", "rebuild", "--dry-run", "--output", "json"]).expect(0).json();
    assert_eq!((&seen["runs"], &seen["added"]), (&2.into(), &0.into()), "{seen:#}");
    assert_eq!(seen["sources"][0]["source"], "demo/files");
    assert_eq!(seen["sources"][0]["backups"], 3);
    let last = seen["jobs"][0]["last_success"].as_str().unwrap();
    assert!(last.starts_with("2026-11-20T03:00:05"), "{seen:#}");
    assert_eq!(seen["intents"].as_array().unwrap().len(), 1, "{seen:#}");
    assert!(!sandbox.path("state").exists(), "a dry run writes");

    let done = sandbox.run(&["state", "rebuild"]).expect(0);
    assert!(done.stdout.contains("demo/files"), "{}", done.stdout);
    assert!(done.stderr.contains("repositories tell of 2 runs, 2 were new to"), "{}", done.stderr);
    assert!(done.stderr.contains("has not ended"), "{}", done.stderr);
    let known = runs(&sandbox);
    assert_eq!(known.len(), 2);
    let listed = sandbox.run(&["list", "--output", "json"]).expect(0).json();
    assert_eq!(known[1]["backup"], listed[1]["backup"]);
    assert_eq!(known[1]["id"], listed[1]["run"]);
    let again = sandbox.run(&["state", "rebuild", "--output", "json"]).expect(0).json();
    assert_eq!(again["added"], 0, "{again:#}");
    assert_eq!(runs(&sandbox), known);

    // Two times were due since: the later one is done, and neither is forgotten.
    let mut daemon = sandbox.command(&["daemon"]);
    daemon.env("BACKSTAY_CLOCK", format!("2026-11-22T10:00:00Z {} 1", Timestamp::now()));
    let log = fs::File::create(sandbox.path("log")).unwrap();
    let mut daemon = daemon.stderr(log).stdin(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    let all = loop {
        let all = runs(&sandbox);
        if all.iter().filter(|run| run["state"] == "succeeded").count() == 3 {
            break all;
        }
        let log = fs::read_to_string(sandbox.path("log")).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(60), "{all:#?}\n{log}");
        std::thread::sleep(Duration::from_millis(100));
    };
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let new: Vec<(&str, &str)> = all[2..]
        .iter()
        .map(|run| (run["nominal"].as_str().unwrap(), run["state"].as_str().unwrap()))
        .collect();
    assert_eq!(new, [("2026-11-21T03:00:00", "missed"), ("2026-11-22T03:00:00", "succeeded")]);
}

#[test]
fn a_repository_that_does_not_answer_is_said_and_the_others_count() {
    let sandbox = Sandbox::ready(false);
    fs::write(sandbox.path("src/file"), "one").unwrap();
    sandbox.run(&["backup", "--job", "daily"]).expect(0);
    let text = fs::read_to_string(sandbox.path("policy.yaml")).unwrap();
    let other =
        format!("  gone: {{ local: {{ path: {} }} }}\nsources:", sandbox.path("no").display());
    fs::write(sandbox.path("policy.yaml"), text.replacen("sources:", &other, 1)).unwrap();
    let ran = sandbox.run(&["state", "rebuild"]).expect(1);
    assert!(ran.stderr.contains("demo gone: "), "{}", ran.stderr);
    assert_eq!(runs(&sandbox).len(), 1);
    let url = format!("{}", sandbox.path("repo").display());
    let ran = sandbox.run_bare(&["state", "rebuild", "--repository", &url]).expect(2);
    assert!(ran.stderr.contains("which jobs there are stands in policies"), "{}", ran.stderr);
}
