//! Hooks: what they learn, and that nothing keeps them going when they are to end.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::common::Sandbox;
use crate::common::daemon::Daemon;
use crate::daemon::{Site, count};

/// A job with these keys beside the usual ones.
fn job(more: &str) -> String {
    format!(
        "jobs:\n  daily: {{ sources: all, kind: full, schedule: {{ cron: \"0 3 * * *\" }}, keep: {{ for: 7d }}, {more} }}\n"
    )
}

/// A hook that goes on for longer than any test, by a grandchild of the daemon; `more` are other keys of it.
fn endless(site: &Site, begin: &str, more: &str) -> String {
    let mark = site.sandbox.root().display();
    format!(
        "{{ argv: [sh, -c, '{begin} touch begun; sleep 600 & wait'], environment: {{ MARK: \"{mark}\" }}{more} }}"
    )
}

/// Hours before the job is due: it is asked for.
fn site() -> Site {
    Site::new("2026-11-21T12:00:00Z", 1, &job("retry: { times: 0 }"))
}

fn begin(site: &Site) -> Daemon {
    let daemon = site.daemon(&[]);
    site.run(&["trigger", "daily"]).expect(0);
    daemon
}

/// How many processes have the mark of this directory.
fn marked(directory: &Path) -> usize {
    let wanted = format!("MARK={}", directory.display());
    let of = |entry: fs::DirEntry| fs::read(entry.path().join("environ")).ok();
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| of(entry.ok()?))
        .filter(|environ| environ.split(|byte| *byte == 0).any(|one| one == wanted.as_bytes()))
        .count()
}

#[track_caller]
fn until(what: &str, is: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[track_caller]
fn until_gone(directory: &Path) {
    until("a hook goes on", || marked(directory) == 0);
}

fn id(run: &Value) -> &str {
    run["id"].as_str().unwrap()
}

#[test]
fn hooks_learn_of_the_run_and_of_what_came_of_it() {
    let site = site();
    fs::create_dir(site.sandbox.path("there")).unwrap();
    let hook = |name: &str| {
        format!(
            "{{ argv: [sh, -c, 'env > {name}'], directory: \"{}\", environment: {{ WHO: {name} }} }}",
            site.sandbox.path("there").display()
        )
    };
    let [before, after, failed] = ["before", "after", "failed"].map(hook);
    site.policy(&job(&format!(
        "hooks: {{ before: {before}, after: {after}, on_failure: {failed} }}"
    )));
    let daemon = begin(&site);
    let runs = site.until("a run", |runs| count(runs, "succeeded") == 1);
    daemon.end();
    for (name, outcome) in [("before", ""), ("after", "succeeded")] {
        let said = fs::read_to_string(site.sandbox.path("there").join(name)).unwrap();
        for line in [
            &format!("BACKSTAY_RUN={}", id(&runs[0])),
            "BACKSTAY_STACK=demo",
            "BACKSTAY_JOB=daily",
            "BACKSTAY_SOURCE=files",
            &format!("BACKSTAY_OUTCOME={outcome}"),
            &format!("WHO={name}"),
        ] {
            assert!(said.lines().any(|one| one == line), "{name}: {line}: {said}");
        }
    }
    assert!(!site.sandbox.path("there/failed").exists());
}

#[test]
fn a_hook_that_takes_too_long_is_ended_with_all_that_it_started() {
    let site = site();
    let before = endless(&site, "", ", timeout: 1s");
    let after = "{ argv: [sh, -c, 'echo $BACKSTAY_OUTCOME > after'] }";
    site.policy(&job(&format!(
        "hooks: {{ before: {before}, after: {after} }}, retry: {{ times: 0 }}"
    )));
    let daemon = begin(&site);
    let runs = site.until("a failure", |runs| count(runs, "failed") == 1);
    assert_eq!(runs[0]["why"], "the hook `before` failed: it took longer than 1s");
    until_gone(site.sandbox.root());
    assert_eq!(fs::read_to_string(site.sandbox.path("after")).unwrap(), "failed\n");
    daemon.end();
}

#[test]
fn a_hook_that_cannot_be_started_fails_the_run() {
    let site = site();
    site.policy(&job("hooks: { before: { argv: [/no/such/program] } }, retry: { times: 0 }"));
    let daemon = begin(&site);
    let runs = site.until("a failure", |runs| count(runs, "failed") == 1);
    daemon.end();
    let why = runs[0]["why"].as_str().unwrap();
    assert!(why.contains("`/no/such/program` could not be started"), "{why}");
    let said = site.run(&["logs", id(&runs[0])]).expect(0).stdout;
    assert!(said.contains("No such file or directory"), "{said}");
}

#[test]
fn the_time_of_hooks_counts_for_stop_after() {
    let site = site();
    let before = endless(&site, "", "");
    site.policy(&job(&format!("stop_after: 2s, hooks: {{ before: {before} }}")));
    let daemon = begin(&site);
    let runs = site.until("a failure", |runs| count(runs, "failed") == 1);
    assert_eq!(
        (&runs[0]["why"], &runs[0]["attempts"]),
        (&"it took longer than it may".into(), &1.into())
    );
    until_gone(site.sandbox.root());
    daemon.end();
}

#[test]
fn a_run_is_cancelled_during_its_hook() {
    let site = site();
    // It puts something in order before it ends.
    let before = endless(&site, "trap \"sleep 1; touch told; exit 0\" TERM;", "");
    let after = "{ argv: [sh, -c, 'sleep 2; echo $BACKSTAY_OUTCOME > after'] }";
    site.policy(&job(&format!("hooks: {{ before: {before}, after: {after} }}")));
    let daemon = begin(&site);
    let runs = site.until("a run", |runs| count(runs, "running") == 1);
    until("the hook", || site.sandbox.path("begun").exists());
    site.run(&["cancel", id(&runs[0])]).expect(0);
    let runs = site.until("its end", |runs| count(runs, "failed") == 1);
    assert_eq!(runs[0]["why"], "somebody cancelled it");
    assert!(site.sandbox.path("told").exists(), "it was waited for");
    // What comes after a run that was ended is done to its end.
    assert_eq!(fs::read_to_string(site.sandbox.path("after")).unwrap(), "stopped\n");
    until_gone(site.sandbox.root());
    assert!(site.run(&["list"]).expect(0).stdout.is_empty());
    daemon.end();
}

#[test]
fn hooks_of_a_killed_daemon_end_and_the_next_one_begins_them_anew() {
    let site = site();
    let before = endless(&site, "echo >> count; test -e go && exit 0;", "");
    let policy = job(&format!("hooks: {{ before: {before} }}, retry: {{ times: 2, pause: 1s }}"));
    site.policy(&policy);
    let daemon = begin(&site);
    until("the hook", || site.sandbox.path("begun").exists());
    assert!(marked(site.sandbox.root()) >= 2);
    daemon.kill();
    until_gone(site.sandbox.root());
    assert_eq!(count(&site.runs(), "running"), 1, "nobody knows yet");
    fs::write(site.sandbox.path("go"), "").unwrap();
    let site = Site { clock: format!("2026-11-21T12:30:00Z {} 60", Timestamp::now()), ..site };
    let daemon = site.daemon(&["--silence", "1"]);
    let runs = site.until("its success", |runs| count(runs, "succeeded") == 1);
    daemon.end();
    assert_eq!(runs[0]["attempts"], 2, "{runs:#?}");
    assert_eq!(fs::read_to_string(site.sandbox.path("count")).unwrap(), "\n\n");
}

#[test]
fn a_daemon_that_ends_takes_its_hooks_along() {
    let site = site();
    let before = endless(&site, "", "");
    let after = "{ argv: [sh, -c, 'touch after; sleep 600'] }";
    site.policy(&job(&format!("hooks: {{ before: {before}, after: {after} }}")));
    let daemon = begin(&site);
    until("the hook", || site.sandbox.path("begun").exists());
    let begun = Instant::now();
    daemon.end();
    // 30 s of grace, and 10 s each for what is told to end; service managers wait for two minutes.
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(110), "{took:?}");
    assert!(site.sandbox.path("after").exists());
    until_gone(site.sandbox.root());
    let runs = site.runs();
    assert_eq!(
        (&runs[0]["state"], &runs[0]["why"]),
        (&"waiting".into(), &"the daemon ends".into())
    );
}

#[test]
fn hooks_of_a_daemon_that_stands_still_end_before_others_take_over() {
    let sandbox = Sandbox::new();
    let line = "MARK=\"$1\" BACKSTAY_LEASE=1 \"$0\" --become-patient-guard $$ sleep 600 & wait";
    let backstay = sandbox.command(&[]).get_program().to_owned();
    let mut shell = Command::new("sh")
        .args(["-c", line])
        .arg(backstay)
        .arg(sandbox.root())
        .process_group(0)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    until("it begins", || marked(sandbox.root()) == 2);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(marked(sandbox.root()), 2, "it goes on while the daemon is there");
    kill_process(Pid::from_child(&shell), Signal::STOP).unwrap();
    until_gone(sandbox.root());
    let _ = shell.kill();
    shell.wait().unwrap();
}
