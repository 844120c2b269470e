//! Killed, interrupted, out of room: what is listed is complete, and the next run goes on.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backstay::archive::crypt::Keyring;
use backstay::clock::ManualClock;
use backstay::id::{BackupKind, SourceAddress};
use backstay::run::backup::{Request, backup};
use backstay::run::{BackupChoice, Context, Tuning, find_backup};
use backstay::source::directory::{Config, DirectorySource};
use backstay::store::{Location, Repository};
use backstay::telemetry::{Reporter, failpoint};
use rustix::process::{Pid, Signal, kill_process};

use crate::common::{
    Ran, Sandbox, as_nobody, assert_same_tree, cannot, finish, has_root, is_root, noise, odd_tree,
};

const SMALL: [&str; 4] = ["--segment-size", "20000", "--large-file", "100000"];

#[test]
fn killed_at_any_step_of_a_backup_only_complete_backups_are_listed() {
    for name in failpoint::ALL.iter().filter(|name| name.starts_with("backup.")) {
        let sandbox = Sandbox::ready(true);
        odd_tree(&sandbox.path("src"));
        fs::write(sandbox.path("src/large"), noise(1, 150_000)).unwrap();
        sandbox.backup(&SMALL);
        fs::write(sandbox.path("src/plain.txt"), "changed").unwrap();
        fs::write(sandbox.path("src/large"), noise(2, 150_000)).unwrap();
        let mut command = sandbox.command(&["backup", "demo/files"]);
        if *name == "backup.first_part" {
            // Only what is larger than one part is sent in parts.
            fs::write(sandbox.path("src/in-parts"), noise(3, 20 << 20)).unwrap();
        } else {
            command.args(SMALL);
        }
        command.env("BACKSTAY_FAILPOINT", name);
        let ran = Ran::from(&command.output().unwrap());
        assert_eq!(ran.code, 128 + 9, "{name} was not reached: {}", ran.stderr);
        let expected = if *name == "backup.after_commit" { 2 } else { 1 };
        assert_eq!(sandbox.listed(), expected, "{name}");
        sandbox.run_with_key(&["verify", "--depth", "content"]).expect(0);
        sandbox.backup(&SMALL);
        sandbox.restore("out", &[]);
        assert_same_tree(&sandbox.path("src"), &sandbox.path("out"));
        sandbox.run_with_key(&["verify", "--depth", "content"]).expect(0);
    }
}

#[test]
fn a_restore_killed_at_any_step_is_finished_by_another_with_delta() {
    let sandbox = Sandbox::ready(true);
    odd_tree(&sandbox.path("src"));
    fs::write(sandbox.path("src/large"), noise(1, 150_000)).unwrap();
    sandbox.backup(&SMALL);
    for name in failpoint::ALL.iter().filter(|name| name.starts_with("restore.")) {
        let args = ["restore", "demo/files", "--identity", "recovery.key", "--to", name];
        let mut command = sandbox.command(&args);
        let ran = Ran::from(&command.env("BACKSTAY_FAILPOINT", name).output().unwrap());
        assert_eq!(ran.code, 128 + 9, "{name} was not reached: {}", ran.stderr);
        sandbox.restore(name, &["--delta", "--yes"]);
        assert_same_tree(&sandbox.path("src"), &sandbox.path(name));
    }
}

/// Starts a backup of a pipe that never ends, and waits until it has stored something.
fn endless(sandbox: &Sandbox) -> std::process::Child {
    let source =
        "  slow: { command: { shell: \"head -c 9000000 /dev/urandom; exec sleep 60\" } }\n";
    sandbox.write_policy(false, source);
    let child = sandbox
        .command(&["backup", "demo/slow", "--segment-size", "4000000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let data = sandbox.path("repo/demo/sources/slow/intent");
    let start = Instant::now();
    while fs::read_dir(&data).map_or(0, Iterator::count) == 0 {
        assert!(start.elapsed() < Duration::from_secs(20), "the backup does not begin");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(400));
    child
}

#[test]
fn an_interrupted_backup_lists_nothing_and_says_what_is_left() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let sandbox = Sandbox::ready(false);
        let child = endless(&sandbox);
        kill_process(Pid::from_child(&child), signal).unwrap();
        let start = Instant::now();
        let ran = finish(child).expect(130);
        assert!(start.elapsed() < Duration::from_secs(10), "it takes long to stop");
        assert!(ran.stderr.contains("interrupted"), "{}", ran.stderr);
        assert_eq!(sandbox.listed(), 0);
        let left = sandbox.objects().iter().any(|path| path.to_string_lossy().contains("/data/"));
        assert_eq!(left, ran.stderr.contains("prune will collect"), "{}", ran.stderr);
    }
}

/// A small file system of its own, gone when it is dropped.
pub struct Tiny<'a>(&'a Path);

impl<'a> Tiny<'a> {
    pub fn mount(at: &'a Path, size: &str) -> Option<Self> {
        if !has_root() {
            return None;
        }
        fs::create_dir_all(at).unwrap();
        let options = format!("size={size},mode=0755");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "none"])
            .arg(at)
            .output()
            .is_ok_and(|output| output.status.success());
        if mounted { Some(Self(at)) } else { cannot("tmpfs cannot be mounted").then_some(Self(at)) }
    }
}

impl Drop for Tiny<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_full_repository_fails_the_backup_and_lists_nothing_of_it() {
    let sandbox = Sandbox::new();
    let repo = sandbox.path("repo");
    let Some(_tiny) = Tiny::mount(&repo, "64m") else { return };
    sandbox.write_policy(false, "");
    sandbox.run(&["init"]).expect(0);
    let shrunk = Command::new("mount").args(["-o", "remount,size=1m"]).arg(&repo).status();
    assert!(shrunk.unwrap().success());
    fs::write(sandbox.path("src/small"), "small").unwrap();
    sandbox.backup(&[]);
    fs::write(sandbox.path("src/too-large"), noise(1, 3 << 20)).unwrap();
    let ran = sandbox.run(&["backup", "demo/files"]).expect(1);
    assert!(ran.stderr.contains("No space left"), "{}", ran.stderr);
    assert_eq!(sandbox.listed(), 1);
    sandbox.run(&["verify", "--depth", "content"]).expect(0);
}

#[test]
fn a_full_target_fails_the_restore_and_says_why() {
    let sandbox = Sandbox::ready(false);
    for number in 0..8 {
        fs::write(sandbox.path(format!("src/{number}")), noise(number, 400_000)).unwrap();
    }
    sandbox.backup(&[]);
    let out = sandbox.path("out");
    let Some(_tiny) = Tiny::mount(&out, "1m") else { return };
    let ran = sandbox.run(&["restore", "demo/files", "--to", "out"]).expect(1);
    assert!(ran.stderr.contains("No space left"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("damaged"), "{}", ran.stderr);
}

#[test]
fn read_only_targets_and_repositories_are_told_apart_from_damage() {
    let sandbox = Sandbox::ready(false);
    fs::write(sandbox.path("src/file"), "content").unwrap();
    sandbox.backup(&[]);
    sandbox.open_to_all();
    let out = sandbox.path("out");
    fs::create_dir(&out).unwrap();
    fs::set_permissions(&out, fs::Permissions::from_mode(0o555)).unwrap();
    let run = |args: &[&str]| {
        let mut command = sandbox.command(args);
        if is_root() {
            as_nobody(&mut command);
        }
        Ran::from(&command.output().unwrap())
    };
    let make_readable = Command::new("chmod").args(["-R", "a+rX"]).arg(sandbox.root()).status();
    assert!(make_readable.unwrap().success());
    let ran = run(&["restore", "demo/files", "--to", "out"]).expect(1);
    assert!(ran.stderr.contains("ermission denied"), "{}", ran.stderr);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
    let make_fixed = Command::new("chmod").args(["-R", "a-w"]).arg(sandbox.path("repo")).status();
    assert!(make_fixed.unwrap().success());
    let ran = run(&["backup", "demo/files"]).expect(1);
    assert!(ran.stderr.contains("ermission denied"), "{}", ran.stderr);
    assert_eq!(sandbox.listed(), 1);
    // Reading needs no right to write.
    run(&["verify", "--depth", "content"]).expect(0);
    let _ = Command::new("chmod").args(["-R", "u+w"]).arg(sandbox.root()).status();
}

#[test]
fn latest_stays_the_newest_when_the_clock_is_set_back() {
    let sandbox = Sandbox::ready(false);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let url = sandbox.path("repo").display().to_string();
    let store = Location::parse(&url).unwrap().connect(runtime.handle(), false).unwrap();
    let repository = Repository::open(&store).unwrap();
    let address = SourceAddress::new("demo", "files");
    let source = DirectorySource::new(Config {
        paths: vec![sandbox.path("src")],
        relative: true,
        ..Config::default()
    })
    .unwrap();
    let clock = Arc::new(ManualClock::new("2030-01-01T00:00:10Z".parse().unwrap()));
    let mut made = Vec::new();
    for (round, now) in
        ["2030-01-01T00:00:10Z", "2029-12-31T23:00:00Z", "2029-06-01T00:00:00Z"].iter().enumerate()
    {
        clock.set(now.parse().unwrap());
        fs::write(sandbox.path("src/round"), format!("{round}")).unwrap();
        let cx = Context {
            reporter: Reporter::silent(),
            clock: clock.clone(),
            tuning: Tuning::default(),
        };
        let request = Request {
            address: address.clone(),
            source: &source,
            kind: BackupKind::Incremental,
            run: format!("run-{round}"),
            job: None,
            keep: None,
            level: 3,
            paranoid: false,
            writer: Keyring::default(),
            encrypted: None,
            pinned_key: None,
            policy: None,
            dry_run: false,
        };
        let outcome = backup(&repository, &request, &cx).unwrap();
        assert_eq!(outcome.warnings > 0, round > 0, "round {round}: a clock behind is told");
        made.push(outcome.backup.unwrap());
        let latest = find_backup(&repository, &address, &BackupChoice::Latest).unwrap();
        assert_eq!(latest.backup, *made.last().unwrap(), "the one made last is the latest");
    }
    assert!(made.is_sorted());
    sandbox.run(&["restore", "demo/files", "--to", "out"]).expect(0);
    assert_eq!(fs::read_to_string(sandbox.path("out/round")).unwrap(), "2");
    // The machine's own clock is behind these backups: it is told, and the next one is named after.
    let ran = sandbox.run(&["backup", "demo/files"]).expect(0);
    assert!(ran.stderr.contains("check the clock"), "{}", ran.stderr);
    assert!(ran.stdout.contains("@20300101T0000"), "{}", ran.stdout);
}
