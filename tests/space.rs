//! A backup for which there is no room does not begin.

use std::fs;
use std::time::{Duration, Instant};

use backstay::error::ErrorKind;
use backstay::id::BackupKind;
use backstay::run::space::{Expected, Found, judge};

use crate::common::Sandbox;

const MIB: u64 = 1 << 20;

fn refused(expected: Option<Expected>, found: &Found) -> Option<String> {
    judge("demo/files", BackupKind::Full, expected, found).err().map(|error| {
        assert_eq!(error.kind(), ErrorKind::Waiting);
        assert!(!error.hints().is_empty());
        error.to_string()
    })
}

#[test]
fn what_is_known_to_be_too_large_is_refused_with_figures() {
    let expected = |of| Some(Expected { stored: 3 * MIB, content: 9 * MIB, of });
    let free = |bytes| Found { free: Some(("/backup".into(), bytes)), ..Found::default() };
    assert_eq!(refused(expected(3), &free(3 * MIB)), None);
    assert_eq!(refused(None, &free(0)), None, "nobody knows that it is too large");
    assert_eq!(
        refused(expected(3), &free(3 * MIB - 1)).unwrap(),
        "there is no room for a full of demo/files: it may take 3.0 MiB, as the largest of the \
         last 3 of its kind did, and /backup has 3.0 MiB free"
    );
    let used = |used, budget| Found { used: Some((used, budget)), ..Found::default() };
    assert_eq!(refused(expected(1), &used(7 * MIB, 10 * MIB)), None);
    assert_eq!(
        refused(expected(1), &used(8 * MIB, 10 * MIB)).unwrap(),
        "there is no room for a full of demo/files: it may take 3.0 MiB, as the last full did, and \
         8.0 MiB of the repository's budget of 10.0 MiB are used"
    );
    // Even the first one has no place where nothing is left.
    assert!(refused(None, &used(10 * MIB, 10 * MIB)).is_some());
    assert_eq!(refused(None, &used(0, 10 * MIB)), None);
    let scratch = |bytes| Found { scratch: Some(("/fast".into(), bytes)), ..Found::default() };
    assert_eq!(refused(expected(2), &scratch(9 * MIB)), None);
    assert_eq!(
        refused(expected(2), &scratch(MIB)).unwrap(),
        "there is no room for a full of demo/files: the scratch directory /fast has 1.0 MiB free, \
         and all of the content has to lie there: 9.0 MiB, as the largest of the last 2 of its kind \
         did"
    );
}

fn sandbox(budget: &str, jobs: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    let mut noise = vec![0_u8; MIB as usize];
    fastrand::Rng::with_seed(1).fill(&mut noise);
    fs::write(sandbox.path("src/noise"), noise).unwrap();
    write(&sandbox, budget, jobs);
    sandbox.run(&["init"]).expect(0);
    sandbox
}

fn write(sandbox: &Sandbox, budget: &str, jobs: &str) {
    let text = format!(
        "version: 1\nstack: demo\ntier: development\ntimezone: UTC\nrepositories:\n  main: {{ \
         local: {{ path: {} }}, budget: {budget} }}\nsources:\n  files: {{ directory: {{ path: {} \
         }} }}\n{jobs}",
        sandbox.path("repo").display(),
        sandbox.path("src").display()
    );
    fs::write(sandbox.path("policy.yaml"), text).unwrap();
}

const DAILY: &str = "jobs:\n  daily: { sources: all, kind: full, schedule: { every: 1h }, keep: { for: 7d }, retry: { times: 5, pause: 1s } }\n";

#[test]
fn a_budget_is_kept_to_by_hand() {
    let sandbox = sandbox("2MiB", DAILY);
    sandbox.backup(&["--kind", "full"]);
    for args in [&["backup", "--kind", "full"][..], &["backup", "--kind", "full", "--dry-run"]] {
        let ran = sandbox.run(args).expect(6);
        assert!(ran.stderr.contains("there is no room for a full of demo/files"), "{}", ran.stderr);
        assert!(ran.stderr.contains("budget of 2.0 MiB"), "{}", ran.stderr);
        assert!(ran.stderr.contains("raise `budget`"), "{}", ran.stderr);
    }
    // Nothing was left behind, and what is small has room.
    let listed = sandbox.run(&["list", "--output", "json"]).expect(0).json();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    sandbox.backup(&["--kind", "incremental"]);
    write(&sandbox, "20MiB", DAILY);
    sandbox.backup(&["--kind", "full"]);
}

#[test]
fn a_run_without_room_fails_once_and_the_next_begins_when_there_is_some() {
    let sandbox = sandbox("2MiB", DAILY);
    sandbox.backup(&["--kind", "full"]);
    let clock = format!("2026-11-21T02:59:50Z {} 120", jiff::Timestamp::now());
    let mut command = sandbox.command(&["daemon"]);
    let log = fs::File::create(sandbox.path("log")).unwrap();
    let mut daemon = command.env("BACKSTAY_CLOCK", &clock).stderr(log).spawn().unwrap();
    let until = |what: &str, is: &dyn Fn(&[serde_json::Value]) -> bool| {
        let begun = Instant::now();
        loop {
            let runs = sandbox.run(&["runs", "--output", "json"]).expect(0).json();
            let runs = runs.as_array().unwrap().clone();
            if is(&runs) {
                return runs;
            }
            let log = fs::read_to_string(sandbox.path("log")).unwrap();
            assert!(begun.elapsed() < Duration::from_secs(90), "{what}: {runs:#?}\n{log}");
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    let state = |run: &serde_json::Value, state: &str| run["state"] == state;
    let runs = until("a failure", &|runs| runs.iter().any(|run| state(run, "failed")));
    assert_eq!(runs[0]["attempts"], 1, "{runs:#?}");
    let why = runs[0]["why"].as_str().unwrap();
    assert!(why.contains("there is no room for a full of demo/files"), "{why}");
    write(&sandbox, "200MiB", DAILY);
    until("a success", &|runs| runs.iter().any(|run| state(run, "succeeded")));
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}
