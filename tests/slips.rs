//! What is done by mistake: wrong places, wrong targets, work that is cut short.

use std::fs;
use std::os::unix::fs::symlink;

use crate::common::{Ran, Sandbox};

/// `demo/files` with some files, and `demo/cmd`, a stream.
fn with_backups(encrypted: bool) -> Sandbox {
    let sandbox = Sandbox::ready(encrypted);
    for name in ["a", "b", "c"] {
        fs::write(sandbox.path("src").join(name), name.repeat(1000)).unwrap();
    }
    sandbox.write_policy(encrypted, "  cmd: { command: { argv: [echo, hello] } }\n");
    sandbox.run(&["backup"]).expect(0);
    sandbox
}

#[test]
fn what_lies_beside_the_backups_is_verified_too() {
    for encrypted in [false, true] {
        let sandbox = with_backups(encrypted);
        let clean = sandbox.run_with_key(&["verify"]).expect(0);
        assert!(!clean.stderr.contains("RESTORE.md"), "{}", clean.stderr);
        fs::remove_file(sandbox.path("repo/RESTORE.md")).unwrap();
        fs::write(sandbox.path("repo/restore.sh"), "rm -rf /\n").unwrap();
        let told = sandbox.run_with_key(&["verify"]).expect(0).stderr;
        assert!(told.contains("RESTORE.md is missing"), "{told}");
        assert!(told.contains("restore.sh is not what this or an earlier version wrote"), "{told}");
        let policy = fs::read_dir(sandbox.path("repo/demo/policy")).unwrap().next().unwrap();
        let policy = policy.unwrap().path();
        let mut bytes = fs::read(&policy).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&policy, bytes).unwrap();
        let told = sandbox.run_with_key(&["verify"]).expect(5).stderr;
        assert!(told.contains("demo/policy/"), "{told}");
        assert!(told.contains("every backup is sound, and 1 policy beside them is not"), "{told}");
    }
}

#[test]
fn damaged_manifests_count_as_backups() {
    let sandbox = with_backups(false);
    let commits = sandbox.path("repo/demo/sources/cmd/commits");
    let commit = fs::read_dir(commits).unwrap().next().unwrap().unwrap().path();
    fs::write(commit, "{}").unwrap();
    let told = sandbox.run(&["verify"]).expect(5).stderr;
    assert!(told.contains("1 of 2 backups is damaged"), "{told}");
}

#[test]
fn a_repository_is_not_created_among_files() {
    let sandbox = Sandbox::new();
    let src = sandbox.path("src").display().to_string();
    fs::write(sandbox.path("src/mine"), "mine").unwrap();
    let init = ["init", "--repository", &src, "--no-encryption"];
    for dry in [&[][..], &["--dry-run"]] {
        let told = sandbox.run_bare(&[&init[..], dry].concat()).expect(1).stderr;
        assert!(told.contains("is not empty and is no repository"), "{told}");
    }
    assert_eq!(fs::read_dir(&src).unwrap().count(), 1);
    // What an `init` that was cut short leaves is no obstacle.
    fs::remove_file(sandbox.path("src/mine")).unwrap();
    fs::write(sandbox.path("src/RESTORE.md"), "half").unwrap();
    sandbox.run_bare(&init).expect(0);
}

#[test]
fn targets_that_cannot_be_meant_are_refused() {
    let sandbox = with_backups(false);
    symlink("src", sandbox.path("link-to-directory")).unwrap();
    symlink("elsewhere", sandbox.path("link")).unwrap();
    let restore = |more: &[&str]| sandbox.run(&[&["restore"][..], more].concat());
    for target in ["/dev/null", "link"] {
        let ran = restore(&["cmd", "--to", target, "--overwrite", "--yes"]).expect(1);
        assert!(ran.stderr.contains("is no regular file"), "{}", ran.stderr);
    }
    assert!(sandbox.path("link").symlink_metadata().unwrap().is_symlink());
    for target in ["repo", "repo/demo/new"] {
        let ran = restore(&["files", "--to", target, "--overwrite", "--yes"]).expect(2);
        assert!(ran.stderr.contains("lies in the repository"), "{}", ran.stderr);
    }
    assert!(!sandbox.path("repo/demo/new").exists());
    let ran = restore(&["files", "--to", "consumer"]).expect(2);
    assert!(ran.stderr.contains("./consumer"), "{}", ran.stderr);
    assert!(!sandbox.path("consumer").exists());
    let ran = restore(&["cmd", "--to", "consumer"]).expect(2);
    assert!(ran.stderr.contains("has no `restore:`"), "{}", ran.stderr);
}

#[test]
fn a_dry_run_says_what_is_right_already_and_what_would_be_replaced() {
    let sandbox = with_backups(false);
    sandbox.run(&["restore", "files", "--to", "out"]).expect(0);
    fs::write(sandbox.path("out/b"), "other").unwrap();
    fs::remove_file(sandbox.path("out/c")).unwrap();
    let args = ["restore", "files", "--to", "out", "--delta", "--dry-run"];
    let told = sandbox.run(&args).expect(0).stderr;
    assert!(told.contains("2.9 KiB in 3 files"), "{told}");
    assert!(told.contains("1 file right already, 1 replaced"), "{told}");
    assert_eq!(fs::read(sandbox.path("out/b")).unwrap(), b"other");
    let report = sandbox.run(&[&args[..], &["--output", "json"]].concat()).expect(0).json();
    assert_eq!((&report["tree"]["kept"], &report["tree"]["replaced"]), (&1.into(), &1.into()));
    let args = ["restore", "files", "--to", "out", "--overwrite", "--dry-run"];
    let told = sandbox.run(&args).expect(0).stderr;
    assert!(told.contains("2 replaced"), "{told}");
    // A file that is in the way of a directory costs what is below it, and is no damage.
    let args = ["restore", "files", "--to", "out", "--delta", "--yes"];
    let told = sandbox.run(&args).expect(0).stderr;
    assert!(told.contains("1 file right already"), "{told}");
}

#[test]
fn only_damage_is_answered_with_a_hint_at_verify_and_only_what_came_back_is_counted() {
    let sandbox = with_backups(false);
    fs::create_dir_all(sandbox.path("out/a/in-the-way")).unwrap();
    let args = ["restore", "files", "--to", "out", "--delta", "--yes"];
    let told = sandbox.run(&args).expect(1).stderr;
    assert!(!told.contains("verify --depth content"), "{told}");
    assert!(told.contains("2.0 KiB in 2 files"), "{told}");
}

#[test]
fn an_incremental_that_nobody_can_base_is_shown_as_a_full() {
    let sandbox = Sandbox::ready(true);
    let policy = sandbox.path("policy.yaml");
    let text = fs::read_to_string(&policy).unwrap();
    let writer =
        format!(", writer_identity: \"${{file:{}}}\"", sandbox.path("writer.key").display());
    assert!(text.contains(&writer));
    fs::write(&policy, text.replace(&writer, "")).unwrap();
    let told = sandbox.run(&["check"]).expect(0).stdout;
    assert!(told.contains("daily: full (no writer_identity)"), "{told}");
}

#[test]
fn a_repository_alone_is_not_enough_for_what_needs_a_policy() {
    let sandbox = Sandbox::ready(false);
    let repo = sandbox.path("repo").display().to_string();
    for verb in ["backup", "check"] {
        let ran: Ran = sandbox.run_bare(&[verb, "--repository", &repo]).expect(2);
        assert!(ran.stderr.contains("this command needs one"), "{}", ran.stderr);
        assert!(!ran.stderr.contains("--repository URL"), "{}", ran.stderr);
    }
}

#[test]
fn several_backups_within_a_second_are_no_reason_to_doubt_the_clock() {
    let sandbox = Sandbox::ready(false);
    for _ in 0..4 {
        let ran = sandbox.run(&["backup"]).expect(0);
        assert!(!ran.stderr.contains("clock"), "{}", ran.stderr);
    }
}

#[test]
fn slips_on_the_command_line_are_exit_2_and_named() {
    let sandbox = with_backups(true);
    for (args, why) in [
        (&["restore", "files", "--to", ""][..], "--to is empty"),
        (&["key", "rotate", "--recipient", "foo"], "`foo` is not an age recipient"),
        (&["init", "--repository", "/tmp/x", "--recipient", "foo"], "is not an age recipient"),
    ] {
        let ran = sandbox.run(args).expect(2);
        assert!(ran.stderr.contains(why), "{args:?}: {}", ran.stderr);
    }
    fs::write(sandbox.path("a-file"), "").unwrap();
    let ran = sandbox.run_with_key(&["restore", "files", "--to", "a-file", "--delta", "--yes"]);
    assert!(ran.stderr.contains("a-file is no directory"), "{}", ran.stderr);
    let ran = sandbox.run(&["list", "--identity", "nofile"]).expect(1);
    let told = ran.stderr.lines().next().unwrap();
    assert_eq!(told, "error: failed to read the identity file nofile");
    // A variable that somebody unset is none, and no reason to call options required.
    let mut command = sandbox.command(&["list"]);
    command.env("BACKSTAY_IDENTITY", "").env("BACKSTAY_STATE_DIR", "");
    Ran::from(&command.output().unwrap()).expect(0);
    let ran = sandbox.run(&["restore", "files"]).expect(2);
    assert!(ran.stderr.contains("--to <TARGET>"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("--policy"), "{}", ran.stderr);
}

#[test]
fn damage_does_not_widen_the_table() {
    let sandbox = with_backups(false);
    let commits = sandbox.path("repo/demo/sources/cmd/commits");
    let commit = fs::read_dir(commits).unwrap().next().unwrap().unwrap().path();
    fs::write(commit, "{}").unwrap();
    let told = sandbox.run(&["list"]).expect(5).stdout;
    let (reasons, table): (Vec<_>, Vec<_>) = told.lines().partition(|line| line.starts_with("  "));
    assert_eq!((table.len(), reasons.len()), (3, 1), "{told}");
    assert!(table.iter().all(|line| line.len() < 110), "{told}");
}

#[test]
fn the_manual_has_the_sections_people_look_for() {
    let sandbox = Sandbox::new();
    let page = sandbox.run_bare(&["man"]).expect(0).stdout;
    for title in ["EXIT STATUS", "ENVIRONMENT", "FILES", "EXAMPLES"] {
        assert!(page.contains(&format!(".SH \"{title}\"")), "{title}: {page}");
    }
    assert!(page.contains("BACKSTAY_POLICY") && !page.contains("EXTRA"), "{page}");
    sandbox.run_bare(&["man", "--out", "pages"]).expect(0);
    assert_eq!(fs::read_to_string(sandbox.path("pages/backstay.1")).unwrap(), page);
}

#[test]
fn plain_text_over_the_net_is_said_unless_it_is_meant() {
    let sandbox = Sandbox::new();
    // No name ends in `.invalid`, so nothing is ever asked.
    let url = "s3://bucket/x?endpoint=http://s3.invalid&retry_for=1s";
    let list = |url: &str| {
        let mut command = sandbox.bare(&["list", "--repository", url]);
        command.env("AWS_ACCESS_KEY_ID", "x").env("AWS_SECRET_ACCESS_KEY", "x");
        Ran::from(&command.output().unwrap()).expect(1).stderr
    };
    assert!(list(url).contains("in plain text"));
    assert!(!list(&format!("{url}&allow_http=true")).contains("in plain text"));
}

#[test]
fn keys_are_kept_from_others_and_go_where_they_are_sent() {
    use std::os::unix::fs::PermissionsExt as _;
    let sandbox = with_backups(true);
    let ran = sandbox.run_bare(&["key", "generate", "--out", "-"]).expect(0);
    assert!(ran.stdout.contains("AGE-SECRET-KEY-1"));
    assert!(!sandbox.path("-").exists());
    let key = sandbox.path("recovery.key");
    assert!(!sandbox.run_with_key(&["list"]).expect(0).stderr.contains("may read"));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let told = sandbox.run_with_key(&["list"]).expect(0).stderr;
    assert_eq!(told.matches("everybody on this machine may read").count(), 1, "{told}");
    let other = sandbox.run_bare(&["key", "generate", "--out", "other.key"]).expect(0).stdout;
    sandbox.run_with_key(&["key", "add-recipient", other.trim()]).expect(0);
    let told = sandbox.run(&["key", "rotate"]).expect(0).stderr;
    assert!(told.contains(&format!("opened by: {}", sandbox.public)), "{told}");
    assert!(told.contains("who is not named here does not open it"), "{told}");
}

#[test]
fn a_path_too_long_for_other_programs_is_told() {
    let sandbox = Sandbox::ready(false);
    let mut directory = rustix::fs::open(
        sandbox.path("src"),
        rustix::fs::OFlags::DIRECTORY,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    let name = "n".repeat(200);
    for _ in 0..25 {
        rustix::fs::mkdirat(&directory, &name, rustix::fs::Mode::RWXU).unwrap();
        let flags = rustix::fs::OFlags::DIRECTORY;
        directory =
            rustix::fs::openat(&directory, &name, flags, rustix::fs::Mode::empty()).unwrap();
    }
    let told = sandbox.run(&["backup"]).expect(0).stderr;
    assert_eq!(told.matches("paths of 4096 bytes and more").count(), 1, "{told}");
}

#[test]
fn an_interrupted_restore_says_how_to_go_on() {
    use rustix::process::{Pid, Signal, kill_process};
    let sandbox = with_backups(false);
    let mut command = sandbox.command(&["restore", "files", "--to", "out"]);
    command.env("BACKSTAY_FAILPOINT", "restore.first_file:stop");
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    let pid = Pid::from_child(&child);
    let status = format!("/proc/{}/status", child.id());
    while !fs::read_to_string(&status).unwrap().contains("T (stopped)") {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    kill_process(pid, Signal::INT).unwrap();
    kill_process(pid, Signal::CONT).unwrap();
    let ran = crate::common::finish(child);
    // The signal may come when all is done.
    if ran.code == 130 {
        assert!(ran.stderr.contains("out is incomplete"), "{}", ran.stderr);
        assert!(ran.stderr.contains("--delta --yes"), "{}", ran.stderr);
    }
    sandbox.run(&["restore", "files", "--to", "out", "--delta", "--yes"]).expect(0);
    assert_eq!(fs::read_dir(sandbox.path("out")).unwrap().count(), 3);
}

#[test]
fn objects_of_one_size_that_changed_places_are_found() {
    let sandbox = with_backups(false);
    let second = sandbox.backup(&["--kind", "full"]);
    let data = sandbox.path("repo/demo/sources/files/data");
    let mut names = fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().file_name());
    let first = names.find(|name| *name != *second).unwrap();
    let (one, other) = (data.join(first).join("SHA256SUMS"), data.join(&second).join("SHA256SUMS"));
    assert_eq!(fs::metadata(&one).unwrap().len(), fs::metadata(&other).unwrap().len());
    let (a, b) = (fs::read(&one).unwrap(), fs::read(&other).unwrap());
    fs::write(one, b).unwrap();
    fs::write(other, a).unwrap();
    sandbox.run(&["verify", "--depth", "list"]).expect(0);
    let told = sandbox.run(&["verify"]).expect(5).stderr;
    assert!(told.contains("2 of 3 backups are damaged"), "{told}");
}

#[test]
fn a_file_that_changed_while_it_was_read_is_told_of_when_it_comes_back() {
    use std::io::Write as _;
    use std::sync::atomic::{AtomicBool, Ordering};
    let sandbox = Sandbox::ready(false);
    fs::write(sandbox.path("src/still"), "still").unwrap();
    let log = sandbox.path("src/log");
    fs::write(&log, vec![7; 64 << 20]).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = fs::OpenOptions::new().append(true).open(&log).unwrap();
            while !stop.load(Ordering::Relaxed) {
                file.write_all(b"line\n").unwrap();
            }
        });
        let ran = sandbox.run(&["backup"]);
        stop.store(true, Ordering::Relaxed);
        assert!(ran.expect(0).stderr.contains("`log` changed while it was read"));
    });
    assert!(sandbox.run(&["show", "files"]).expect(0).stdout.contains("ls --changed"));
    let listed = sandbox.run(&["ls", "files", "--changed"]).expect(0).stdout;
    assert_eq!(listed, "log  (changed while it was read)\n");
    let restore = |path: &str| {
        let args = ["restore", "files", "--path", path, "--to", &format!("out-{path}")];
        sandbox.run(&args).expect(0).stderr
    };
    assert!(restore("log").contains("1 file changed while it was backed up"));
    assert!(!restore("still").contains("changed"));
}
