//! Whether playbooks could be carried out: what a look finds, what is remembered of it, and what the daemon
//! makes of that. And that nothing is pruned while one is carried out.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::common::playbook::Stage;
use crate::notify::{Site, free_port};

fn one(program: &str) -> String {
    format!(
        "  move:\n    recover:\n      files: {{ restore: {{ source: files, to: /nowhere/out }} }}\n      program: {{ command: {{ apply: {{ argv: [{program}] }} }} }}\n"
    )
}

fn readiness(stage: &Stage) -> (String, serde_json::Value) {
    let listed = stage.run("l", &["list", "--output", "json"]).expect(0).json();
    (listed[0]["readiness"].as_str().unwrap().to_owned(), listed[0].clone())
}

#[test]
fn an_edited_playbook_is_to_be_verified_until_somebody_looked() {
    let stage = Stage::new(&one("true"));
    fs::write(stage.sandbox.path("src/a"), "a").unwrap();
    stage.sandbox.run(&["backup", "demo/files"]).expect(0);
    assert_eq!(readiness(&stage).0, "needs verify");
    // The plan alone says nothing about the world.
    stage.run("l", &["check", "--plan-only"]).expect(0);
    assert_eq!(readiness(&stage).0, "needs verify");
    let ran = stage.run("l", &["check"]).expect(0);
    assert!(ran.stdout.contains("of what was written would be lost; RPO"), "{}", ran.stdout);
    let (is, row) = readiness(&stage);
    assert_eq!(is, "ready");
    assert!(row["loss_seconds"].is_u64() && row["checked"].is_string(), "{row}");
    // Another plan: what was found of the one before says nothing.
    stage.write(&one("no-such-program"));
    assert_eq!(readiness(&stage).0, "needs verify");
    let status = stage.sandbox.run(&["status"]);
    assert!(status.stderr.contains("playbook demo/move: needs verify"), "{}", status.stderr);
    stage.run("l", &["check"]).expect(1);
    let (is, row) = readiness(&stage);
    assert_eq!(is, "not ready");
    assert!(row["missing"][0].as_str().unwrap().contains("no-such-program"), "{row}");
    let listed = stage.run("l", &["list"]).expect(0);
    assert!(listed.stderr.contains("no program `no-such-program`"), "{}", listed.stderr);
    // As it was, it is what somebody looked at.
    stage.write(&one("true"));
    assert_eq!(readiness(&stage).0, "needs verify", "only the last look is kept");
    stage.run("l", &["check", "move"]).expect(0);
    assert_eq!(readiness(&stage).0, "ready");
}

fn page(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let head = "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

const JOBS: &str = "sources:\n  files: { directory: { path: $SRC } }\njobs:\n  \
    often: { sources: all, kind: full, schedule: { every: 24h }, keep: { at_least: 2 } }\n";

#[test]
fn the_daemon_looks_and_tells_what_could_not_be_carried_out() {
    let playbooks = |program: &str| {
        format!(
            "{JOBS}notify:\n  command: {{ argv: [\"true\"] }}\nplaybooks:\n  move:\n    preflight: {{ every: 1m }}\n    recover:\n      program: {{ command: {{ apply: {{ argv: [{program}] }} }} }}\n"
        )
    };
    let site = Site::new(None, &playbooks("true"));
    let port = free_port();
    let daemon = site.daemon(&["--listen", &format!("127.0.0.1:{port}")]);
    let listed = || {
        let ran = site.run(&["playbook", "list", "--output", "json"]).expect(0).json();
        ran[0]["readiness"].as_str().unwrap().to_owned()
    };
    site.until("it is ready", || listed() == "ready");
    let alerts = || site.run(&["notify", "list", "--output", "json"]).expect(0).stdout;
    assert!(!alerts().contains("BackstayPlaybookNotReady"));
    // Edited, it is looked at at once, and not when the time is over.
    site.policy(&playbooks("no-such-program"));
    site.until("it is not ready", || listed() == "not ready");
    site.until("people are told", || alerts().contains("BackstayPlaybookNotReady"));
    assert!(alerts().contains("no-such-program"), "{}", alerts());
    let page = page(port);
    let series = r#"backstay_playbook_ready{stack="demo",playbook="move"}"#;
    assert!(page.contains(&format!("{series} 0")), "{page}");
    assert!(page.contains("backstay_playbook_preflight_timestamp_seconds{"), "{page}");
    site.policy(&playbooks("true"));
    site.until("it is ready again", || listed() == "ready");
    site.until("it is over", || !alerts().contains("BackstayPlaybookNotReady"));
    daemon.end();
}

#[test]
fn nothing_goes_while_a_playbook_is_carried_out() {
    let stage = Stage::new("  move:\n    cutover:\n      agree: { approval: { of: 1 } }\n");
    let policy = stage.sandbox.path("policy.yaml");
    let text = fs::read_to_string(&policy).unwrap();
    fs::write(&policy, text.replace("for: 7d, at_least: 3", "for: 1s, at_least: 1")).unwrap();
    for text in ["a", "b", "c"] {
        fs::write(stage.sandbox.path("src/a"), text).unwrap();
        stage.sandbox.run(&["backup", "--job", "daily", "--kind", "full", "demo/files"]).expect(0);
    }
    let commits = stage.sandbox.path("repo/demo/sources/files/commits");
    let count = || fs::read_dir(&commits).unwrap().count();
    let prune = || {
        let mut command = stage.sandbox.command(&["prune", "--yes"]);
        command.env("BACKSTAY_TUNING", "grace=0,window=60,silence=0.2,linger=0");
        crate::common::Ran::from(&command.output().unwrap())
    };
    let before = count();
    assert_eq!(before, 3);
    stage.run("l", &["run", "move", "--yes"]).expect(6);
    let run = stage.newest();
    let wait = || std::thread::sleep(std::time::Duration::from_millis(1100));
    wait();
    let ran = prune().expect(0);
    assert!(ran.stderr.contains(&format!("nothing goes of demo: run {run}")), "{}", ran.stderr);
    assert_eq!(count(), before, "{}", ran.stdout);
    stage.run("l", &["abort", &run, "--leave", "--reason", "seen", "--yes"]).expect(0);
    let ran = prune().expect(0);
    assert!(count() < before, "{}\n{}", ran.stdout, ran.stderr);
}
