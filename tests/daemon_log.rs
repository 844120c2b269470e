//! What the daemon says to programs: each line has its time, and names the run that it is about.

use std::fs;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::daemon::{Site, count};

#[test]
fn each_line_for_programs_has_its_time_and_its_run() {
    let site = Site::new(
        "2026-11-21T12:00:00Z",
        1,
        "jobs:\n  \
         daily: { sources: all, kind: full, schedule: { cron: \"0 3 * * *\" }, keep: { for: 7d }, retry: { times: 0 }, \
         hooks: { before: { argv: [test, -e, ready] } } }\n  \
         clean: { prune: {}, schedule: { cron: \"0 4 * * *\" }, retry: { times: 0 } }\n",
    );
    let daemon = site.daemon(&["--output", "json", "--listen", "0.0.0.0:0"]);
    site.run(&["trigger", "daily"]).expect(0);
    site.until("a failure", |runs| count(runs, "failed") == 1);
    fs::write(site.sandbox.path("ready"), "").unwrap();
    site.run(&["trigger", "daily"]).expect(0);
    site.until("success", |runs| count(runs, "succeeded") == 1);
    site.run(&["trigger", "clean"]).expect(0);
    let over = |run: &Value| run["job"] == "clean" && !run["ended"].is_null();
    let runs = site.until("the prune", |runs| runs.iter().any(over));
    daemon.end();
    let lines: Vec<Value> =
        site.log().lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    for line in &lines {
        let time: Timestamp = line["time"].as_str().expect("a time").parse().unwrap();
        let (from, to) = ("2026-11-21T12:00:00Z", "2026-11-21T13:00:00Z");
        assert!(time >= from.parse().unwrap() && time < to.parse().unwrap(), "{line}");
        assert!(line["event"].is_string(), "{line}");
        if line["event"] == "warning" {
            assert!(line["code"].is_string(), "{line}");
        }
    }
    // Nobody has to read the message to know what a line is about.
    for run in &runs {
        let about = |line: &&Value| line["run"] == run["id"];
        let of: Vec<&Value> = lines.iter().filter(about).collect();
        assert!(of.len() >= 2, "{run}: {lines:#?}");
        for line in &of {
            assert_eq!((&line["stack"], &line["job"]), (&json!("demo"), &run["job"]), "{line}");
            let source = if run["job"] == "clean" { Value::Null } else { json!("files") };
            assert_eq!(line["source"], source, "{line}");
        }
        assert_eq!(of[0]["event"], "note", "it begins");
        let last = if run["state"] == "failed" { "warning" } else { "note" };
        assert_eq!(of.last().unwrap()["event"], last, "{of:#?}");
    }
    let said = |text: &str| {
        lines.iter().find(|line| line["message"].as_str().is_some_and(|said| said.contains(text)))
    };
    assert_eq!(said("jobs watched").unwrap()["run"], Value::Null);
    // It was for people alone.
    assert_eq!(said("reads the names of stacks").unwrap()["event"], "warning");
}

#[test]
fn the_error_that_ends_a_daemon_has_its_time_too() {
    let site = Site::new("2026-11-21T12:00:00Z", 1, "");
    site.policy("jobs: { daily: 7 }\n");
    let ran = site.run(&["daemon", "--output", "json"]).expect(3);
    let last: Value = serde_json::from_str(ran.stderr.lines().last().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["exit_code"]), (&json!("error"), &json!(3)));
    assert!(last["time"].as_str().unwrap().starts_with("2026-11-21T12:"), "{last}");
    // What other commands say stays as it was.
    let ran = site.run(&["list", "--output", "json"]).expect(3);
    let last: Value = serde_json::from_str(ran.stderr.lines().last().unwrap()).unwrap();
    assert_eq!(last["time"], Value::Null, "{last}");
}
