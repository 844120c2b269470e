//! What must not look well: backups that nobody could open, that hold nothing, or that went elsewhere.

use std::fs;

use crate::common::Sandbox;

fn wraps(sandbox: &Sandbox) -> Vec<std::path::PathBuf> {
    let keys = fs::read_dir(sandbox.path("repo/keys")).unwrap();
    keys.map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "age"))
        .collect()
}

#[test]
fn what_shall_be_encrypted_is_never_stored_readable() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("src/file"), "content").unwrap();
    let repo = sandbox.path("repo").display().to_string();
    sandbox.run_bare(&["init", "--repository", &repo, "--no-encryption"]).expect(0);
    let refused = sandbox.run(&["backup"]).expect(3);
    assert!(refused.stderr.contains("asks for encryption"), "{}", refused.stderr);
    let refused = sandbox.run(&["init"]).expect(1);
    assert!(refused.stderr.contains("not encrypted"), "{}", refused.stderr);
    let key = sandbox.public.clone();
    sandbox.run_bare(&["init", "--repository", &repo, "--recipient", &key]).expect(1);
    assert!(!sandbox.objects().iter().any(|path| path.display().to_string().contains("data/")));
}

#[test]
fn an_encrypted_repository_is_not_written_to_by_a_policy_that_knows_nothing_of_it() {
    let sandbox = Sandbox::ready(true);
    fs::write(sandbox.path("src/file"), "content").unwrap();
    sandbox.backup(&[]);
    // Somebody who writes to the store says that it is not encrypted.
    let descriptor = sandbox.path("repo/backstay.json");
    let text = fs::read_to_string(&descriptor).unwrap();
    fs::write(&descriptor, text.replace("\"encrypted\": true", "\"encrypted\": false")).unwrap();
    sandbox.run(&["backup"]).expect(3);
    fs::write(&descriptor, text).unwrap();
    sandbox.write_policy(false, "");
    sandbox.run(&["backup"]).expect(3);
    sandbox.run(&["check"]).expect(1);
}

#[test]
fn a_key_that_nobody_can_open_is_damage_everywhere() {
    let sandbox = Sandbox::ready(true);
    fs::write(sandbox.path("src/file"), "content").unwrap();
    sandbox.backup(&[]);
    for wrap in wraps(&sandbox) {
        fs::remove_file(wrap).unwrap();
    }
    for args in [&["check"][..], &["backup"], &["verify", "--depth", "list"], &["verify"]] {
        let ran = sandbox.run(args);
        assert!([1, 5].contains(&ran.code), "{args:?} ended with {}", ran.code);
        let text = ran.stdout + &ran.stderr;
        assert!(text.contains("keys/") && text.contains(".age"), "{args:?}: {text}");
    }
    assert_eq!(sandbox.listed(), 1);
    let ran = sandbox.run_with_key(&["restore", "demo/files", "--to", "out"]).expect(5);
    assert!(ran.stderr.contains("secret half is gone"), "{}", ran.stderr);
}

#[test]
fn a_pinned_key_is_the_only_one_that_is_written_to() {
    let sandbox = Sandbox::ready(true);
    fs::write(sandbox.path("src/file"), "content").unwrap();
    let policy = sandbox.path("policy.yaml");
    let text = fs::read_to_string(&policy).unwrap();
    let pin = |key: &str| {
        let pinned = format!("encryption: {{ repository_key: {key}, ");
        fs::write(&policy, text.replace("encryption: { ", &pinned)).unwrap();
    };
    let unpinned = sandbox.run(&["check"]).expect(0);
    assert!(unpinned.stdout.contains("repository_key: age1"), "{}", unpinned.stdout);
    let key = fs::read_dir(sandbox.path("repo/keys")).unwrap();
    let key = key
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "pub"))
        .map(|path| fs::read_to_string(path).unwrap().trim().to_owned())
        .unwrap();
    pin(&key);
    sandbox.run(&["check"]).expect(0);
    sandbox.run(&["init"]).expect(0);
    sandbox.backup(&[]);
    pin(&sandbox.public);
    sandbox.run(&["check"]).expect(1);
    sandbox.run(&["init"]).expect(1);
    sandbox.run(&["backup"]).expect(1);
    fs::rename(sandbox.path("repo"), sandbox.path("away")).unwrap();
    sandbox.run(&["init"]).expect(1);
}

#[test]
fn a_source_that_lost_all_its_files_is_no_backup() {
    let sandbox = Sandbox::ready(true);
    for number in 0..20 {
        fs::write(sandbox.path(format!("src/{number}")), "content").unwrap();
    }
    sandbox.backup(&[]);
    fs::rename(sandbox.path("src"), sandbox.path("gone")).unwrap();
    fs::create_dir(sandbox.path("src")).unwrap();
    for kind in [&["--kind", "incremental"][..], &["--kind", "full"], &["--dry-run"]] {
        let refused = sandbox.run(&[&["backup"], kind].concat()).expect(1);
        assert!(refused.stderr.contains("not mounted"), "{}", refused.stderr);
    }
    assert_eq!(sandbox.listed(), 1);
    fs::write(sandbox.path("src/one"), "content").unwrap();
    let warned = sandbox.run(&["backup"]).expect(0);
    assert!(warned.stderr.contains("1 files are left of 20"), "{}", warned.stderr);
    fs::remove_file(sandbox.path("src/one")).unwrap();
    let policy = sandbox.path("policy.yaml");
    let text = fs::read_to_string(&policy).unwrap();
    fs::write(&policy, text.replace("/src } }", "/src, allow_empty: true } }")).unwrap();
    sandbox.backup(&[]);
    assert_eq!(sandbox.listed(), 3);
}

#[test]
fn a_repository_that_is_asked_for_is_used_or_refused() {
    let sandbox = Sandbox::ready(true);
    fs::write(sandbox.path("src/file"), "content").unwrap();
    for elsewhere in ["nope", "/mnt/usb"] {
        let refused = sandbox.run(&["backup", "--repository", elsewhere]).expect(2);
        assert!(refused.stderr.contains("copy --to"), "{}", refused.stderr);
    }
    assert_eq!(sandbox.listed(), 0);
    sandbox.run(&["backup", "--repository", "main"]).expect(0);
    assert_eq!(sandbox.listed(), 1);
}

#[test]
fn of_two_who_create_a_repository_the_loser_leaves_no_key_in_use() {
    let sandbox = Sandbox::new();
    let other = sandbox.run_bare(&["key", "generate", "--out", "other.key"]).expect(0);
    let people = [sandbox.public.clone(), other.stdout.trim().to_owned()];
    for round in 0..6 {
        let repo = sandbox.path(format!("race-{round}")).display().to_string();
        let start = |person: &String| {
            let args = ["init", "--repository", &repo, "--recipient", person];
            let mut command = std::process::Command::new(crate::common::BACKSTAY);
            command.args(args).stdout(std::process::Stdio::null());
            command.stderr(std::process::Stdio::null()).spawn().unwrap()
        };
        let mut racing: Vec<_> = people.iter().map(start).collect();
        let codes: Vec<bool> = racing.iter_mut().map(|one| one.wait().unwrap().success()).collect();
        let winner = if codes[0] { "recovery.key" } else { "other.key" };
        assert_eq!(codes.iter().filter(|won| **won).count(), 1, "{codes:?}");
        let args = ["key", "list", "--repository", &repo, "--identity", winner];
        let keys = sandbox.run_bare(&args).expect(0).stdout;
        let newest = keys.lines().last().unwrap();
        assert!(!newest.contains("not opened"), "{keys}");
    }
}

#[test]
fn a_repository_that_lost_its_descriptor_is_not_made_anew() {
    let sandbox = Sandbox::ready(true);
    fs::write(sandbox.path("src/file"), "content").unwrap();
    sandbox.backup(&[]);
    fs::rename(sandbox.path("repo/backstay.json"), sandbox.path("backstay.json")).unwrap();
    let refused = sandbox.run(&["init"]).expect(1);
    assert!(refused.stderr.contains("bring it back"), "{}", refused.stderr);
    fs::rename(sandbox.path("backstay.json"), sandbox.path("repo/backstay.json")).unwrap();
    sandbox.run_with_key(&["verify", "--depth", "content"]).expect(0);
}

#[test]
fn a_repository_that_is_gone_when_a_backup_ends_gets_none() {
    let sandbox = Sandbox::new();
    let repository = sandbox.path("repo").display().to_string();
    let script = format!("mv {repository} {repository}.away; mkdir {repository}; echo x");
    sandbox
        .write_policy(false, &format!("  dump: {{ command: {{ argv: [sh, -c, '{script}'] }} }}\n"));
    sandbox.run(&["init"]).expect(0);
    let ran = sandbox.run(&["backup", "demo/dump"]);
    assert_ne!(ran.code, 0, "{}", ran.stdout);
    assert!(ran.stderr.contains("is gone"), "{}", ran.stderr);
    std::fs::remove_dir_all(&repository).unwrap();
    std::fs::rename(format!("{repository}.away"), &repository).unwrap();
    assert!(sandbox.run(&["list"]).expect(0).stdout.is_empty());
    sandbox.run(&["verify"]).expect(0);
}
