//! Prune: what goes, what stays, who is waited for, and what happens when it is killed.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use backstay::telemetry::failpoint;
use rustix::process::{Pid, Signal, kill_process};

use crate::common::{Ran, Sandbox, noise};

/// Short times. A writer counts as dead after so many seconds that no slow machine gets there.
const QUICK: &str = "grace=0.5,window=60,linger=0,silence=3600,copy_silence=3600";
/// The same, and everybody who is silent is dead.
const DEADLY: &str = "grace=0.5,window=60,linger=0,silence=0.2,copy_silence=0.2";

/// A sandbox with a job that keeps two backups.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::ready(true);
    let policy = sandbox.path("policy.yaml");
    let text = fs::read_to_string(&policy).unwrap();
    fs::write(&policy, text.replace("for: 7d, at_least: 3", "for: 1s, at_least: 2")).unwrap();
    sandbox
}

/// A backup of content that no other has, of the job `daily`.
fn backup(sandbox: &Sandbox, number: u64) -> String {
    fs::write(sandbox.path(format!("src/{number}")), noise(number, 20_000)).unwrap();
    fs::write(sandbox.path("src/changing"), noise(number + 1000, 30_000)).unwrap();
    sandbox.backup(&["--job", "daily", "--segment-size", "10000"])
}

fn pause() {
    std::thread::sleep(Duration::from_millis(1100));
}

fn prune(sandbox: &Sandbox, times: &str, more: &[&str]) -> Command {
    let mut command = sandbox.command(&["prune", "--yes"]);
    command.args(more).env("BACKSTAY_TUNING", times);
    command
}

fn pruned(sandbox: &Sandbox, times: &str) -> Ran {
    Ran::from(&prune(sandbox, times, &[]).output().unwrap())
}

fn orphans(sandbox: &Sandbox) -> Vec<String> {
    orphans_in(sandbox, "repo")
}

/// Objects below `data/` that no manifest names.
pub fn orphans_in(sandbox: &Sandbox, repository: &str) -> Vec<String> {
    let root = sandbox.path(repository).join("demo/sources/files");
    let mut needed = BTreeSet::new();
    for entry in fs::read_dir(root.join("commits")).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        let manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
        let object = |value: &serde_json::Value| value["path"].as_str().map(str::to_owned);
        for segment in manifest["segments"].as_array().into_iter().flatten() {
            needed.extend(object(segment));
            needed.extend(object(&segment["dead"]));
        }
        needed.extend(["index", "large", "sums"].iter().filter_map(|part| object(&manifest[part])));
    }
    let prefix = "demo/sources/files/";
    sandbox
        .objects_in(repository)
        .iter()
        .filter_map(|path| path.to_str()?.strip_prefix(prefix).map(str::to_owned))
        .filter(|path| path.starts_with("data/") && !needed.contains(path))
        .collect()
}

fn is_listed(sandbox: &Sandbox, backup: &str) -> bool {
    sandbox.run(&["list"]).expect(0).stdout.contains(backup)
}

#[track_caller]
fn assert_sound(sandbox: &Sandbox, backups: usize) {
    assert_eq!(sandbox.listed(), backups);
    sandbox.run_with_key(&["verify", "--depth", "content"]).expect(0);
}

#[test]
fn what_expired_goes_in_two_phases() {
    let sandbox = sandbox();
    let backups: Vec<String> = (0..4).map(|number| backup(&sandbox, number)).collect();
    pause();
    let plan = prune(&sandbox, QUICK, &["--dry-run"]).output().unwrap();
    let plan = Ran::from(&plan).expect(0).stdout;
    for (backup, expected) in backups.iter().zip(["expires", "expires", "2 of at", "1 of at"]) {
        let line = plan.lines().find(|line| line.contains(backup)).unwrap();
        assert!(line.contains(expected), "{line}");
    }
    assert_eq!(sandbox.listed(), 4, "a dry run changes nothing");
    let before = sandbox.objects().len();

    pruned(&sandbox, QUICK).expect(0);
    assert_sound(&sandbox, 2);
    assert!(!orphans(&sandbox).is_empty(), "what is announced stays for the grace period");
    assert!(sandbox.objects().len() > before - 3, "only manifests went");
    // Before the grace period is over nothing more happens.
    pruned(&sandbox, "grace=3600").expect(0);
    assert!(!orphans(&sandbox).is_empty());

    pause();
    let ran = pruned(&sandbox, QUICK).expect(0);
    assert!(ran.stderr.contains("deleted"), "{}", ran.stderr);
    assert_eq!(orphans(&sandbox), [""; 0]);
    assert_sound(&sandbox, 2);
    // And the finished mark goes with the next one.
    pruned(&sandbox, QUICK).expect(0);
    let left = sandbox.objects();
    let left: Vec<_> =
        left.iter().filter(|path| path.to_str().unwrap().contains("files/prune/")).collect();
    assert!(left.is_empty(), "{left:?}");
    sandbox.restore("out", &[]);
    crate::common::assert_same_tree(&sandbox.path("src"), &sandbox.path("out"));
}

#[test]
fn without_a_person_nothing_is_deleted() {
    let sandbox = sandbox();
    for number in 0..3 {
        backup(&sandbox, number);
    }
    pause();
    let ran = sandbox.run(&["prune"]).expect(6);
    assert!(ran.stderr.contains("--yes"), "{}", ran.stderr);
    assert_eq!(sandbox.listed(), 3);
}

#[test]
fn the_newest_good_one_never_goes() {
    let sandbox = sandbox();
    let policy = sandbox.path("policy.yaml");
    let text = fs::read_to_string(&policy).unwrap();
    fs::write(&policy, text.replace("at_least: 2", "at_least: 1")).unwrap();
    let first = backup(&sandbox, 0);
    let second = backup(&sandbox, 1);
    pause();
    // The newest lost an object: the one before it is the last that can be restored.
    let own = sandbox.path("repo/demo/sources/files/data").join(&second);
    let segment = fs::read_dir(own)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_str().unwrap().ends_with(".tar.zst.age"));
    fs::remove_file(segment.unwrap()).unwrap();
    let ran = pruned(&sandbox, QUICK).expect(0);
    assert!(ran.stdout.contains("DAMAGED"), "{}", ran.stdout);
    assert!(is_listed(&sandbox, &first));
}

#[test]
fn pins_hold_until_they_are_removed() {
    let sandbox = sandbox();
    let first = backup(&sandbox, 0);
    sandbox.run(&["pin", &first, "--reason", "before the migration"]).expect(0);
    sandbox.run(&["pin", &first]).expect(0);
    for number in 1..4 {
        backup(&sandbox, number);
    }
    pause();
    pruned(&sandbox, QUICK).expect(0);
    assert!(is_listed(&sandbox, &first));
    let refused = sandbox.run(&["delete", &first, "--yes"]).expect(1);
    assert!(refused.stderr.contains("unpin"), "{}", refused.stderr);
    sandbox.run(&["unpin", &first]).expect(0);
    pruned(&sandbox, QUICK).expect(0);
    assert!(!is_listed(&sandbox, &first));
    assert_sound(&sandbox, 2);
}

#[test]
fn deleting_by_hand_refuses_the_last_one() {
    let sandbox = sandbox();
    let first = backup(&sandbox, 0);
    let second = backup(&sandbox, 1);
    let refused = sandbox.run(&["delete", &second, "--yes"]).expect(1);
    assert!(refused.stderr.contains("--last"), "{}", refused.stderr);
    sandbox.run(&["delete", &first]).expect(6);
    sandbox.run(&["delete", &first, "--dry-run"]).expect(0);
    assert_sound(&sandbox, 2);
    sandbox.run(&["delete", &first, "--yes"]).expect(0);
    assert_sound(&sandbox, 1);
    sandbox.run(&["delete", &second, "--yes", "--last"]).expect(0);
    assert_eq!(sandbox.listed(), 0);
}

#[test]
fn killed_at_any_step_the_next_one_finishes() {
    for name in failpoint::ALL.iter().filter(|name| name.starts_with("prune.")) {
        let sandbox = sandbox();
        for number in 0..4 {
            backup(&sandbox, number);
        }
        pause();
        if name.starts_with("prune.delet") {
            pruned(&sandbox, QUICK).expect(0);
            pause();
        }
        let killed = prune(&sandbox, QUICK, &[]).env("BACKSTAY_FAILPOINT", name).output().unwrap();
        assert_eq!(Ran::from(&killed).code, 128 + 9, "{name} was not reached");
        sandbox.run_with_key(&["verify", "--depth", "content"]).expect(0);
        for _ in 0..3 {
            pause();
            pruned(&sandbox, QUICK).expect(0);
        }
        assert_sound(&sandbox, 2);
        assert_eq!(orphans(&sandbox), [""; 0], "{name}");
    }
}

#[test]
fn what_a_killed_backup_left_is_collected() {
    let sandbox = sandbox();
    backup(&sandbox, 0);
    fs::write(sandbox.path("src/more"), noise(9, 50_000)).unwrap();
    let mut command = sandbox.command(&["backup", "demo/files", "--segment-size", "10000"]);
    command.env("BACKSTAY_FAILPOINT", "backup.before_commit");
    assert_eq!(Ran::from(&command.output().unwrap()).code, 128 + 9);
    assert!(!orphans(&sandbox).is_empty());
    // It might still be alive.
    pruned(&sandbox, QUICK).expect(0);
    pause();
    pruned(&sandbox, QUICK).expect(0);
    assert!(!orphans(&sandbox).is_empty());
    let ran = pruned(&sandbox, DEADLY).expect(0);
    assert!(ran.stderr.contains("given up"), "{}", ran.stderr);
    pause();
    pruned(&sandbox, DEADLY).expect(0);
    assert_eq!(orphans(&sandbox), [""; 0]);
    assert_sound(&sandbox, 1);
}

#[test]
fn a_writer_that_wakes_up_after_it_was_given_up_commits_nothing() {
    let sandbox = sandbox();
    backup(&sandbox, 0);
    fs::write(sandbox.path("src/more"), noise(9, 50_000)).unwrap();
    let writer = stopped(&sandbox, &["backup", "demo/files"], "backup.before_commit");
    pause();
    pruned(&sandbox, DEADLY).expect(0);
    pause();
    pruned(&sandbox, DEADLY).expect(0);
    assert_eq!(orphans(&sandbox), [""; 0]);
    let ran = go_on(writer).expect(1);
    assert!(ran.stderr.contains("was given up because its writer seemed dead"), "{}", ran.stderr);
    assert_sound(&sandbox, 1);
}

#[test]
fn a_backup_is_not_taken_from_under_an_incremental() {
    let sandbox = sandbox();
    for number in 0..3 {
        backup(&sandbox, number);
    }
    fs::write(sandbox.path("src/more"), noise(9, 50_000)).unwrap();
    let writer = stopped(&sandbox, &["backup", "demo/files"], "backup.before_commit");
    let base = sandbox.run(&["list", "--output", "json"]).expect(0).json();
    let base = base.as_array().unwrap().last().unwrap()["backup"].as_str().unwrap().to_owned();
    // More backups, so that its base is no longer among those that stay.
    backup(&sandbox, 5);
    backup(&sandbox, 6);
    pause();
    pruned(&sandbox, QUICK).expect(0);
    assert!(is_listed(&sandbox, &base), "somebody builds on it");
    pause();
    pruned(&sandbox, QUICK).expect(0);
    go_on(writer).expect(0);
    sandbox.run_with_key(&["verify", "--depth", "content"]).expect(0);
    for _ in 0..2 {
        pruned(&sandbox, QUICK).expect(0);
        pause();
    }
    pruned(&sandbox, QUICK).expect(0);
    assert_eq!(orphans(&sandbox), [""; 0]);
    sandbox.run_with_key(&["verify", "--depth", "content"]).expect(0);
}

#[test]
fn a_restore_keeps_what_it_reads() {
    let sandbox = sandbox();
    let first = backup(&sandbox, 0);
    let args = ["restore", "demo/files", "--to", "out", "--identity", "recovery.key"];
    let reader = stopped(&sandbox, &args, "restore.first_file");
    for number in 1..4 {
        backup(&sandbox, number);
    }
    for _ in 0..3 {
        pause();
        pruned(&sandbox, QUICK).expect(0);
    }
    assert!(is_listed(&sandbox, &first), "somebody reads it");
    go_on(reader).expect(0);
    pruned(&sandbox, QUICK).expect(0);
    assert!(!is_listed(&sandbox, &first));
    let holds = sandbox.path("repo/demo/sources/files/hold");
    assert_eq!(fs::read_dir(holds).unwrap().count(), 0);
}

#[test]
fn what_cannot_be_read_lets_nothing_go() {
    let sandbox = sandbox();
    let first = backup(&sandbox, 0);
    for number in 1..4 {
        backup(&sandbox, number);
    }
    pause();
    let commit = sandbox.path(format!("repo/demo/sources/files/commits/{first}.json"));
    fs::write(&commit, "{ not json").unwrap();
    let ran = pruned(&sandbox, QUICK).expect(5);
    assert!(ran.stdout.contains("nothing may go"), "{}", ran.stdout);
    assert!(ran.stdout.contains(&first), "{}", ran.stdout);
    let left = sandbox.objects();
    assert!(!left.iter().any(|path| path.to_str().unwrap().contains("files/prune/")));
}

#[test]
fn data_without_any_commit_is_not_garbage() {
    let sandbox = sandbox();
    backup(&sandbox, 0);
    fs::rename(sandbox.path("repo/demo/sources/files/commits"), sandbox.path("elsewhere")).unwrap();
    let ran = pruned(&sandbox, DEADLY).expect(5);
    assert!(ran.stderr.contains("not one commit"), "{}", ran.stderr);
    pause();
    pruned(&sandbox, DEADLY).expect(5);
    fs::rename(sandbox.path("elsewhere"), sandbox.path("repo/demo/sources/files/commits")).unwrap();
    assert_sound(&sandbox, 1);
}

#[test]
fn two_prunes_do_not_run_at_once() {
    let sandbox = sandbox();
    for number in 0..4 {
        backup(&sandbox, number);
    }
    pause();
    let mut first = prune(&sandbox, QUICK, &[]);
    first.env("BACKSTAY_FAILPOINT", "prune.marked:stop");
    let first = start_stopped(first);
    let busy = pruned(&sandbox, QUICK).expect(75);
    assert!(busy.stderr.contains("lease"), "{}", busy.stderr);
    go_on(first).expect(0);
    pruned(&sandbox, QUICK).expect(0);
    assert_sound(&sandbox, 2);
}

#[test]
fn a_prune_that_slept_too_long_deletes_nothing_more() {
    let sandbox = sandbox();
    for number in 0..4 {
        backup(&sandbox, number);
    }
    pause();
    let times = "grace=0.5,window=1,linger=0,silence=3600,lease=0.5";
    let mut slow = prune(&sandbox, times, &[]);
    slow.env("BACKSTAY_FAILPOINT", "prune.marked:stop");
    let slow = start_stopped(slow);
    pause();
    pause();
    let ran = go_on(slow);
    assert!(ran.code == 1 || ran.code == 75, "{}: {}", ran.code, ran.stderr);
    assert_sound(&sandbox, 4);
    for _ in 0..3 {
        pruned(&sandbox, QUICK).expect(0);
        pause();
    }
    assert_sound(&sandbox, 2);
    assert_eq!(orphans(&sandbox), [""; 0]);
}

/// A command that stops itself at a step.
fn stopped(sandbox: &Sandbox, args: &[&str], step: &str) -> std::process::Child {
    let mut command = sandbox.command(args);
    command.env("BACKSTAY_FAILPOINT", format!("{step}:stop"));
    start_stopped(command)
}

#[expect(clippy::zombie_processes, reason = "`go_on` waits for it")]
fn start_stopped(mut command: Command) -> std::process::Child {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let state = text.lines().find(|line| line.starts_with("State:")).unwrap_or("State: gone");
        if state.contains("T (stopped)") {
            return child;
        }
        assert!(!state.contains("Z (zombie)"), "it ended before it stopped");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn go_on(child: std::process::Child) -> Ran {
    kill_process(Pid::from_child(&child), Signal::CONT).unwrap();
    Ran::from(&child.wait_with_output().unwrap())
}
