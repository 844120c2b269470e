//! Copies: whole repositories that restore alone, whatever happened on the way.

use std::fs;
use std::time::Duration;

use backstay::telemetry::failpoint;

use crate::common::{Ran, Sandbox, assert_same_tree, noise};

/// A sandbox whose policy has a second repository that a job copies into.
fn sandbox(encrypted: bool) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write_policy(encrypted, "");
    let policy = sandbox.path("policy.yaml");
    let text = fs::read_to_string(&policy).unwrap();
    let offsite = sandbox.path("offsite");
    let text = text
        .replace(
            "\nsources:",
            &format!("\n  offsite: {{ local: {{ path: {} }} }}\nsources:", offsite.display()),
        )
        .replace("for: 7d, at_least: 3", "for: 1s, at_least: 2");
    let copies = "  copies: { copy: { to: offsite }, schedule: { after: [daily] }, keep: { for: 8w, at_least: 3 } }\n";
    fs::write(&policy, text + copies).unwrap();
    sandbox.run(&["init"]).expect(0);
    sandbox
}

fn backup(sandbox: &Sandbox, number: u64) -> String {
    fs::write(sandbox.path(format!("src/{number}")), noise(number, 20_000)).unwrap();
    fs::write(sandbox.path("src/changing"), noise(number + 1000, 30_000)).unwrap();
    sandbox.backup(&["--job", "daily", "--segment-size", "10000"])
}

fn copy(sandbox: &Sandbox) -> Ran {
    sandbox.run(&["copy", "--to", "offsite"])
}

fn listed(sandbox: &Sandbox, repository: &str) -> Vec<String> {
    let lines = sandbox.run(&["list", "--repository", repository, "--output", "json"]);
    let lines = lines.expect(0).json();
    let backup = |line: &serde_json::Value| line["backup"].as_str().unwrap().to_owned();
    lines.as_array().unwrap().iter().map(backup).collect()
}

/// Verifies and restores the copy with nothing but its address and the recovery key.
#[track_caller]
fn restores_alone(sandbox: &Sandbox, out: &str) {
    let away = sandbox.path("repo.away");
    fs::rename(sandbox.path("repo"), &away).unwrap();
    let url = sandbox.path("offsite").display().to_string();
    let key = sandbox.path("recovery.key").display().to_string();
    let alone = ["--repository", &url, "--identity", &key];
    sandbox.run_bare(&[&["verify", "--depth", "content"][..], &alone].concat()).expect(0);
    sandbox.run_bare(&[&["restore", "demo/files", "--to", out][..], &alone].concat()).expect(0);
    assert_same_tree(&sandbox.path("src"), &sandbox.path(out));
    fs::rename(away, sandbox.path("repo")).unwrap();
}

#[test]
fn a_copy_restores_alone() {
    for encrypted in [true, false] {
        let sandbox = sandbox(encrypted);
        let backups: Vec<String> = (0..3).map(|number| backup(&sandbox, number)).collect();
        let plan = sandbox.run(&["copy", "--to", "offsite", "--dry-run"]).expect(0);
        for backup in &backups {
            assert!(plan.stdout.contains(backup.as_str()), "{}", plan.stdout);
        }
        assert!(listed(&sandbox, "offsite").is_empty(), "a dry run copies nothing");
        copy(&sandbox).expect(0);
        assert_eq!(listed(&sandbox, "offsite"), backups);
        restores_alone(&sandbox, "out");
        // The same bytes under the same names.
        let commit = format!("demo/sources/files/commits/{}.json", backups[2]);
        let read = |repository: &str| fs::read(sandbox.path(repository).join(&commit)).unwrap();
        assert_eq!(read("repo"), read("offsite"));
        // Nothing is sent twice.
        let again = copy(&sandbox).expect(0);
        assert!(again.stderr.contains("0 backups copied"), "{}", again.stderr);
        // An incremental on top sends only what is new.
        let more = backup(&sandbox, 9);
        let ran = sandbox.run(&["copy", "--to", "offsite", "--output", "json"]).expect(0).json();
        let copied = &ran["copies"][0]["copied"];
        assert_eq!(copied[0]["backup"], more.as_str());
        assert!(copied[0]["bytes"].as_u64().unwrap() < 120_000, "{copied}");
        restores_alone(&sandbox, "again");
    }
}

#[test]
fn a_copy_needs_no_policy_and_makes_its_target() {
    let sandbox = sandbox(true);
    backup(&sandbox, 0);
    let (from, to) = (sandbox.path("repo"), sandbox.path("elsewhere"));
    let (from, to) = (from.display().to_string(), to.display().to_string());
    sandbox.run_bare(&["copy", "--repository", &from, "--to", &to]).expect(0);
    let key = sandbox.path("recovery.key").display().to_string();
    let alone = ["--repository", &to, "--identity", &key];
    sandbox.run_bare(&[&["restore", "demo/files", "--to", "out"][..], &alone].concat()).expect(0);
    assert_same_tree(&sandbox.path("src"), &sandbox.path("out"));
    let same = sandbox.run_bare(&["copy", "--repository", &from, "--to", &from]).expect(2);
    assert!(same.stderr.contains("same repository"), "{}", same.stderr);
    let plain = sandbox.path("plain").display().to_string();
    sandbox.run_bare(&["init", "--repository", &plain, "--no-encryption"]).expect(0);
    let ran = sandbox.run_bare(&["copy", "--repository", &from, "--to", &plain]).expect(1);
    assert!(ran.stderr.contains("not encrypted"), "{}", ran.stderr);
    let ran = sandbox.run(&["copy", "--to", "offsit"]).expect(2);
    assert!(ran.stderr.contains("offsite"), "{}", ran.stderr);
}

#[test]
fn killed_at_any_step_the_next_copy_goes_on() {
    for name in failpoint::ALL.iter().filter(|name| name.starts_with("copy.")) {
        let sandbox = sandbox(true);
        let backups: Vec<String> = (0..2).map(|number| backup(&sandbox, number)).collect();
        let mut command = sandbox.command(&["copy", "--to", "offsite"]);
        let killed = command.env("BACKSTAY_FAILPOINT", name).output().unwrap();
        assert_eq!(Ran::from(&killed).code, 128 + 9, "{name} was not reached");
        let expected = if *name == "copy.after_commit" { 1 } else { 0 };
        assert_eq!(listed(&sandbox, "offsite").len(), expected, "{name}");
        copy(&sandbox).expect(0);
        assert_eq!(listed(&sandbox, "offsite"), backups);
        restores_alone(&sandbox, "out");
    }
}

#[test]
fn what_is_damaged_is_not_copied() {
    let sandbox = sandbox(true);
    let first = backup(&sandbox, 0);
    let data = sandbox.path("repo/demo/sources/files/data").join(&first);
    let segment = data.join("000001.tar.zst.age");
    let good = fs::read(&segment).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    fs::write(&segment, &bad).unwrap();
    let ran = copy(&sandbox).expect(1);
    assert!(ran.stderr.contains("was altered"), "{}", ran.stderr);
    assert!(listed(&sandbox, "offsite").is_empty());
    let arrived = sandbox.path("offsite/demo/sources/files/data").join(&first);
    assert!(!arrived.join("000001.tar.zst.age").exists(), "altered bytes never arrive");
    fs::remove_file(&segment).unwrap();
    let plan = sandbox.run(&["copy", "--to", "offsite", "--dry-run"]).expect(0);
    assert!(plan.stdout.contains("damaged"), "{}", plan.stdout);
    fs::write(&segment, &good).unwrap();
    copy(&sandbox).expect(0);
    restores_alone(&sandbox, "out");
}

#[test]
fn what_the_target_lost_is_sent_again() {
    let sandbox = sandbox(true);
    let first = backup(&sandbox, 0);
    backup(&sandbox, 1);
    copy(&sandbox).expect(0);
    let lost = sandbox.path("offsite/demo/sources/files/data").join(first);
    fs::remove_file(lost.join("000001.tar.zst.age")).unwrap();
    let ran = copy(&sandbox).expect(0);
    assert!(ran.stderr.contains("copied"), "{}", ran.stderr);
    restores_alone(&sandbox, "out");
}

#[test]
fn both_sides_keep_by_their_own_rule() {
    let sandbox = sandbox(true);
    let backups: Vec<String> = (0..4).map(|number| backup(&sandbox, number)).collect();
    copy(&sandbox).expect(0);
    std::thread::sleep(Duration::from_millis(1100));
    for _ in 0..2 {
        let mut prune = sandbox.command(&["prune", "--yes"]);
        let ran = prune.env("BACKSTAY_TUNING", "grace=0.5,linger=0").output().unwrap();
        Ran::from(&ran).expect(0);
        std::thread::sleep(Duration::from_millis(1100));
    }
    assert_eq!(listed(&sandbox, "main"), backups[2..]);
    assert_eq!(listed(&sandbox, "offsite"), backups);
    restores_alone(&sandbox, "out");
    // What expired here is not brought back, and what is there stays there.
    copy(&sandbox).expect(0);
    assert_eq!(listed(&sandbox, "main"), backups[2..]);
}
