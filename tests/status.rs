//! What `status` says of how well everything is protected.

use std::fs;

use jiff::Timestamp;

use crate::common::{Ran, Sandbox};

pub struct Site(pub Sandbox);

impl Site {
    pub fn new() -> Self {
        let sandbox = Sandbox::new();
        fs::write(sandbox.path("src/file"), "content").unwrap();
        let root = sandbox.root().display().to_string();
        let text = format!(
            "version: 1\nstack: demo\ntier: development\ntimezone: UTC\nrepositories:\n  \
             main: {{ local: {{ path: {root}/repo }} }}\n  off: {{ local: {{ path: {root}/off }} }}\n\
             sources:\n  files: {{ directory: {{ path: {root}/src }} }}\n  \
             other: {{ command: {{ argv: [echo, x] }}, objectives: {{ rpo: 60h }} }}\njobs:\n  \
             daily: {{ sources: all, kind: full, schedule: {{ cron: \"0 3 * * *\" }}, keep: {{ for: 7d }} }}\n  \
             away: {{ copy: {{ to: off }}, schedule: {{ after: [daily] }}, keep: {{ for: 7d }} }}\n"
        );
        fs::write(sandbox.path("policy.yaml"), text).unwrap();
        let site = Self(sandbox);
        site.at("2026-11-21T03:00:00Z", &["init"]).expect(0);
        site
    }

    /// Runs at this time.
    pub fn at(&self, time: &str, args: &[&str]) -> Ran {
        let mut command = self.0.command(args);
        command.env("BACKSTAY_CLOCK", format!("{time} {} 1", Timestamp::now()));
        command.env("BACKSTAY_STATE_DIR", self.0.path("state"));
        Ran::from(&command.output().unwrap())
    }

    fn verdicts(&self, time: &str, code: i32) -> Vec<(String, String)> {
        let lines = self.at(time, &["status", "--output", "json"]).expect(code).json();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let lines = lines.as_array().unwrap().iter();
        lines.map(|line| (text(&line["source"]), text(&line["verdict"]))).collect()
    }
}

fn verdicts(files: &str, other: &str) -> Vec<(String, String)> {
    let pair = |source: &str, verdict: &str| (format!("demo/{source}"), verdict.to_owned());
    vec![pair("files", files), pair("other", other)]
}

#[test]
fn exposure_comes_from_what_lies_in_the_repository() {
    let site = Site::new();
    assert_eq!(site.verdicts("2026-11-21T03:00:30Z", 4), verdicts("unprotected", "unprotected"));
    site.at("2026-11-21T03:01:00Z", &["backup"]).expect(0);
    assert_eq!(site.verdicts("2026-11-21T10:00:00Z", 0), verdicts("holds", "holds"));
    // A day later the stack's RPO is missed, and that of the source that has its own is not.
    assert_eq!(site.verdicts("2026-11-22T03:02:00Z", 4), verdicts("missed", "holds"));
    let line = &site.at("2026-11-21T10:01:00Z", &["status", "files", "--output", "json"]).json()[0];
    assert!((25_100..25_300).contains(&line["exposure_seconds"].as_u64().unwrap()), "{line}");
    assert_eq!(line["next_run"], "2026-11-22T03:00:00Z");
    assert_eq!(line["rpo_seconds"], 86_400);
    assert!(line["replicated"].is_null(), "{line}");
    site.at("2026-11-21T10:02:00Z", &["copy", "--to", "off"]).expect(0);
    let line = &site.at("2026-11-21T10:03:00Z", &["status", "files", "--output", "json"]).json()[0];
    assert_eq!(line["replicated"], line["time"], "{line}");

    let shown = site.at("2026-11-22T03:02:00Z", &["status"]).expect(4).stdout;
    let files = shown.lines().find(|line| line.starts_with("demo/files")).unwrap();
    for part in ["24 h", "2026-11-23 03:00:00Z", "MISSED"] {
        assert!(files.contains(part), "{part}: {shown}");
    }
}

#[test]
fn the_newest_point_is_verified_where_all_that_it_is_made_of_is() {
    let site = Site::new();
    site.at("2026-11-21T03:01:00Z", &["backup"]).expect(0);
    let line = |time: &str| {
        site.at(time, &["status", "files", "--output", "json"]).expect(0).json()[0].clone()
    };
    let shown = |time: &str| {
        let shown = site.at(time, &["status"]).expect(0).stdout;
        let line = shown.lines().find(|line| line.starts_with("demo/files")).unwrap();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let first = line("2026-11-21T03:02:00Z");
    assert!(first["newest_verified"].is_null(), "{first}");
    assert_eq!(first["chain_length"], 1, "{first}");
    assert!(first["stored"]["main"]["bytes"].as_u64().unwrap() > 0, "{first}");
    assert!(first["free_bytes"]["main"].as_u64().unwrap() > 0, "{first}");
    assert_eq!(
        shown("2026-11-21T03:02:00Z")[1..5],
        ["development", "2026-11-21", "03:01:00Z", "no"]
    );
    site.at("2026-11-21T03:03:00Z", &["verify", "demo/files", "--depth", "stored"]).expect(0);
    assert_eq!(line("2026-11-21T03:04:00Z")["newest_verified"], "stored");
    assert_eq!(shown("2026-11-21T03:04:00Z")[4], "stored");
    // A newer one has something that nobody looked at, and is made of two backups.
    fs::write(site.0.path("src/another"), "more").unwrap();
    site.at("2026-11-21T03:05:00Z", &["backup", "demo/files", "--kind", "incremental"]).expect(0);
    let newer = line("2026-11-21T03:06:00Z");
    assert!(newer["newest_verified"].is_null(), "{newer}");
    assert_eq!(newer["chain_length"], 2, "{newer}");
    assert!(
        newer["stored"]["main"]["objects"].as_u64() > first["stored"]["main"]["objects"].as_u64()
    );
    // Its own objective, in full.
    let shown = site.at("2026-11-21T03:06:00Z", &["status", "other"]).expect(0).stdout;
    assert!(shown.contains("2 d 12 h"), "{shown}");
    let checked = site.at("2026-11-21T03:06:00Z", &["check"]).stdout;
    assert!(checked.contains("2 d 12 h"), "{checked}");
}

#[test]
fn a_point_that_lies_ahead_proves_nothing_and_hides_no_other() {
    let site = Site::new();
    site.at("2030-01-01T00:00:10Z", &["backup"]).expect(0);
    assert_eq!(site.verdicts("2026-11-21T10:00:00Z", 4), verdicts("missed", "missed"));
    let line = &site.at("2026-11-21T10:00:00Z", &["status", "files", "--output", "json"]).json()[0];
    assert_eq!(line["ahead"], true, "{line}");
    assert!(line["exposure_seconds"].is_null(), "{line}");
    assert_eq!(line["missed"], serde_json::json!(["rpo"]), "{line}");
    let ran = site.at("2026-11-21T10:00:00Z", &["status", "files"]).expect(4);
    assert!(ran.stdout.contains("MISSED: the newest point lies ahead"), "{}", ran.stdout);
    assert!(ran.stderr.contains("which lies ahead: a clock was wrong"), "{}", ran.stderr);
    // What is made by a clock that is right counts, however the other one is called.
    site.at("2026-11-21T10:01:00Z", &["backup"]).expect(0);
    assert_eq!(site.verdicts("2026-11-21T10:02:00Z", 0), verdicts("holds", "holds"));
    assert_eq!(site.verdicts("2026-11-22T11:00:00Z", 4), verdicts("missed", "holds"));
    let line = &site.at("2026-11-21T10:02:00Z", &["status", "files", "--output", "json"]).json()[0];
    assert!(line["time"].as_str().unwrap().starts_with("2026-11-21T10:01"), "{line}");
    assert!(line["ahead"].is_null(), "{line}");
}

#[test]
fn a_repository_that_cannot_be_asked_is_told_and_never_taken_for_good() {
    let site = Site::new();
    site.at("2026-11-21T03:01:00Z", &["backup"]).expect(0);
    fs::rename(site.0.path("repo"), site.0.path("gone")).unwrap();
    assert_eq!(site.verdicts("2026-11-21T03:02:00Z", 1), verdicts("unknown", "unknown"));
    let ran = site.at("2026-11-21T03:02:00Z", &["status"]).expect(1);
    assert!(ran.stdout.contains("UNKNOWN"), "{}", ran.stdout);
    assert!(ran.stderr.contains("there is no repository at"), "{}", ran.stderr);
    fs::rename(site.0.path("gone"), site.0.path("repo")).unwrap();
    // The other place is not where its backups are made: that it is away is no objective missed.
    fs::remove_dir_all(site.0.path("off")).unwrap();
    assert_eq!(site.verdicts("2026-11-21T03:03:00Z", 0), verdicts("holds", "holds"));
}

#[test]
fn what_is_not_meant_is_said() {
    let site = Site::new();
    let ran = site.at("2026-11-21T03:01:00Z", &["status", "nothing"]).expect(1);
    assert!(ran.stderr.contains("no source of the policies is meant"), "{}", ran.stderr);
    let ran = site.at("2026-11-21T03:01:00Z", &["status", "--repository", "s3://x"]).expect(2);
    assert!(ran.stderr.contains("objectives stand in policies"), "{}", ran.stderr);
}

#[test]
fn how_long_recovery_takes_is_what_was_measured() {
    let site = Site::new();
    site.at("2026-11-21T03:01:00Z", &["backup"]).expect(0);
    let line = || {
        site.at("2026-11-21T03:05:00Z", &["status", "files", "--output", "json"]).json()[0].clone()
    };
    assert!(line()["measured_rto_seconds"].is_null(), "nothing was measured yet: {}", line());
    let scratch = site.0.path("scratch");
    fs::create_dir(&scratch).unwrap();
    let scratch = scratch.to_str().unwrap();
    let prove = ["verify", "demo/files", "--depth", "restore", "--scratch", scratch];
    let proven = site.at("2026-11-21T03:02:00Z", &[&prove[..], &["--output", "json"]].concat());
    assert_eq!(proven.expect(0).json()[0]["verdict"], "proven");
    let measured = line();
    assert_eq!(measured["measured_rto_seconds"], 1, "{measured}");
    assert_eq!(measured["estimated_rto_seconds"], 1, "{measured}");
    assert!(measured["measured_rto_at"].as_str().unwrap().starts_with("2026-11-21T03:02:"));
    assert!(measured["missed"].is_null(), "{measured}");
    let shown = site.at("2026-11-21T03:05:00Z", &["status", "files"]).expect(0).stdout;
    assert!(shown.contains("24 h, took 1 s"), "{shown}");

    // What takes longer than it may is missed.
    let state = rusqlite::Connection::open(site.0.path("state/state.db")).unwrap();
    state.execute_batch("UPDATE recoveries SET restore_seconds = 100000").unwrap();
    let slow = site.at("2026-11-21T03:05:00Z", &["status", "files"]).expect(4).stdout;
    assert!(slow.contains("MISSED: recovery would take 27 h"), "{slow}");
    assert_eq!(line()["missed"], serde_json::json!(["rto"]), "{}", line());
    // What was found damaged, or could not be told, is no measure.
    state.execute_batch("UPDATE recoveries SET verdict = 'inconclusive'").unwrap();
    assert!(line()["measured_rto_seconds"].is_null(), "{}", line());
}
