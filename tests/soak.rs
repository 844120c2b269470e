//! Backups, prunes, copies, restores and verifications side by side in processes of their own, that
//! are killed and stopped at random moments, past every expiry.
//!
//! Afterwards every listed backup verifies to content in both repositories, and one prune after the
//! grace period leaves no orphan. `BACKSTAY_SOAK=5000 BACKSTAY_SOAK_SEED=7` runs more of it
//! (`make soak`); the seed is printed.

use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::{Sandbox, noise};
use crate::prune::orphans_in;

/// All times short: a process that is stopped for two seconds has missed each of them.
const TIMES: &str = "grace=1.2,window=0.4,linger=0.6,silence=1,copy_silence=1.5,lease=0.4,hold=0.7";

/// Processes at once.
const ACTORS: usize = 4;

struct Running {
    child: Child,
    verb: &'static str,
    log: std::path::PathBuf,
    /// When it is killed, or stopped.
    ends_at: Option<Instant>,
    fate: Fate,
    /// When it goes on after it was stopped.
    wakes_at: Option<Instant>,
    disturbed: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Undisturbed,
    Killed,
    Stopped,
}

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    let policy = sandbox.path("policy.yaml");
    let text = fs::read_to_string(&policy).unwrap();
    let offsite = sandbox.path("offsite").display().to_string();
    let text = text
        .replace(
            "\nsources:",
            &format!("\n  offsite: {{ local: {{ path: {offsite} }} }}\nsources:"),
        )
        .replace("for: 7d, at_least: 3", "for: 1s, at_least: 3");
    let copies = "  copies: { copy: { to: offsite }, schedule: { after: [daily] }, keep: { for: 2s, at_least: 4 } }\n";
    fs::write(&policy, text + copies).unwrap();
    sandbox.run(&["init"]).expect(0);
    for number in 0..12 {
        fs::write(sandbox.path(format!("src/{number}")), noise(number, 9_000)).unwrap();
    }
    sandbox
}

fn start(sandbox: &Sandbox, rng: &mut fastrand::Rng, number: usize) -> Running {
    let out = format!("out/{number}");
    let (verb, args): (&str, Vec<&str>) = match rng.u32(..100) {
        0..45 => {
            for _ in 0..rng.u32(1..4) {
                let name = sandbox.path(format!("src/{}", rng.u32(..12)));
                fs::write(name, noise(rng.u64(..), 9_000)).unwrap();
            }
            let kind = if rng.u32(..6) == 0 { "full" } else { "incremental" };
            let size = ["--segment-size", "12000"];
            (
                "backup",
                [&["backup", "demo/files", "--job", "daily", "--kind", kind], &size[..]].concat(),
            )
        }
        45..65 => ("prune", vec!["prune", "--yes"]),
        65..80 => ("copy", vec!["copy", "--to", "offsite"]),
        80..92 => {
            let from = if rng.bool() { "main" } else { "offsite" };
            let key = ["--identity", "recovery.key", "--repository", from];
            ("restore", [&["restore", "demo/files", "--to", &out], &key[..]].concat())
        }
        _ => ("verify", vec!["verify", "--depth", "content", "--identity", "recovery.key"]),
    };
    let mut command = sandbox.command(&args);
    command.env("BACKSTAY_TUNING", TIMES).env("RUST_BACKTRACE", "1");
    let log = sandbox.path(format!("log/{number}-{verb}"));
    let file = fs::File::create(&log).unwrap();
    command.stdout(Stdio::from(file.try_clone().unwrap())).stderr(Stdio::from(file));
    let child = command.spawn().unwrap();
    let fate = match rng.u32(..100) {
        0..35 => Fate::Killed,
        35..60 => Fate::Stopped,
        _ => Fate::Undisturbed,
    };
    let after = Duration::from_millis(rng.u64(1..90));
    let ends_at = (fate != Fate::Undisturbed).then(|| Instant::now() + after);
    Running { child, verb, log, ends_at, fate, wakes_at: None, disturbed: false }
}

impl Running {
    /// Kills, stops or wakes it when it is time. Returns its exit code once it ended.
    fn turn(&mut self, rng: &mut fastrand::Rng) -> Option<i32> {
        if let Some(status) = self.child.try_wait().unwrap() {
            return Some(status.code().unwrap_or(-1));
        }
        let now = Instant::now();
        if self.ends_at.is_some_and(|at| now >= at) {
            self.ends_at = None;
            self.disturbed = true;
            let signal = if self.fate == Fate::Killed { Signal::KILL } else { Signal::STOP };
            let _ = kill_process(Pid::from_child(&self.child), signal);
            if self.fate == Fate::Stopped {
                self.wakes_at = Some(now + Duration::from_millis(rng.u64(100..2500)));
            }
        }
        if self.wakes_at.is_some_and(|at| now >= at) {
            self.wakes_at = None;
            let _ = kill_process(Pid::from_child(&self.child), Signal::CONT);
        }
        None
    }
}

#[test]
fn nothing_is_lost_whatever_is_killed_or_stopped() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let rounds = number("BACKSTAY_SOAK").unwrap_or(200) as usize;
    let seed = number("BACKSTAY_SOAK_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    eprintln!("seed {seed}, {rounds} processes");
    let mut rng = fastrand::Rng::with_seed(seed);
    let sandbox = sandbox();
    fs::create_dir(sandbox.path("out")).unwrap();
    fs::create_dir(sandbox.path("log")).unwrap();
    let (mut started, mut disturbed) = (0, 0);
    let mut running: Vec<Running> = Vec::new();
    let mut done = std::collections::BTreeMap::new();
    while started < rounds || !running.is_empty() {
        while running.len() < ACTORS && started < rounds {
            running.push(start(&sandbox, &mut rng, started));
            started += 1;
        }
        running.retain_mut(|one| {
            let Some(code) = one.turn(&mut rng) else { return true };
            disturbed += usize::from(one.disturbed);
            *done.entry((one.verb, code)).or_insert(0) += 1;
            // Done, failed, busy, killed; and damage for a reader whose hold ended while it slept.
            let fine = [0, 1, 75, -1].contains(&code) || (code == 5 && one.verb == "restore");
            let log = || fs::read_to_string(&one.log).unwrap();
            assert!(fine, "{} ended with {code}, seed {seed}:\n{}", one.verb, log());
            false
        });
        std::thread::sleep(Duration::from_millis(2));
    }
    eprintln!("{disturbed} were killed or stopped; ends: {done:?}");
    assert!(done.get(&("backup", 0)).is_some_and(|count| *count > rounds / 20), "{done:?}");

    sandbox.run_with_key(&["verify", "--depth", "content"]).expect(0);
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(2600));
        let mut prune = sandbox.command(&["prune", "--yes"]);
        let pruned = prune.env("BACKSTAY_TUNING", TIMES.replace("window=0.4", "window=60"));
        crate::common::Ran::from(&pruned.output().unwrap()).expect(0);
    }
    for repository in ["repo", "offsite"] {
        assert_eq!(orphans_in(&sandbox, repository), [""; 0], "in {repository}, seed {seed}");
    }
    sandbox.run_with_key(&["verify", "--depth", "content"]).expect(0);
}
