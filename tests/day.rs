//! A day of the daemon in a few minutes: a real server that archives its WAL, files, and a store
//! that fails in every way stores fail. What is due is done once, and nothing is left behind.
//!
//! `BACKSTAY_SOAK=1` has the whole day, else it is the third of it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use rustix::process::Signal;
use serde_json::Value;

use crate::common::chaos::{Fault, Lasts};
use crate::common::daemon::Daemon;
use crate::common::postgres::{Server, children, user};
use crate::common::s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};
use crate::common::{BACKSTAY, Ran, Sandbox, assert_same_tree, is_root, thorough};

fn weather() -> &'static [(Option<(Fault, Lasts)>, i64)] {
    if thorough() { WEATHER } else { SHORT }
}

/// How much faster than time the clock runs: a day is three minutes.
const FACTOR: i64 = 480;

/// The first part of all keys.
const PLACE: &str = "demo";

/// What the store does, one after another, and for how many hours of the day.
const WEATHER: &[(Option<(Fault, Lasts)>, i64)] = &[
    (None, 3),
    (Some((Fault::SlowDown, Lasts::Passing)), 2),
    (Some((Fault::LostReply, Lasts::Passing)), 2),
    (Some((Fault::OwnWrite, Lasts::Passing)), 2),
    (None, 1),
    (Some((Fault::Truncated, Lasts::Passing)), 2),
    // An outage.
    (Some((Fault::SlowDown, Lasts::From(0))), 1),
    (None, 2),
    (Some((Fault::LaggingList, Lasts::Passing)), 2),
    (Some((Fault::Conflict, Lasts::Passing)), 2),
    // A token that has expired.
    (Some((Fault::Expired, Lasts::From(0))), 1),
    (None, 4),
];

/// The same for a third of a day.
const SHORT: &[(Option<(Fault, Lasts)>, i64)] = &[
    (None, 1),
    (Some((Fault::OwnWrite, Lasts::Passing)), 2),
    // An outage.
    (Some((Fault::SlowDown, Lasts::From(0))), 1),
    (None, 4),
];

struct Day {
    sandbox: Sandbox,
    server: Server,
    s3: S3Server,
    /// What its clock says at a time of the machine.
    begun: Timestamp,
    anchor: Timestamp,
    clock: String,
}

impl Day {
    fn new() -> Option<Self> {
        let server = Server::with(17, "archive_mode = on\nsummarize_wal = on", "")?;
        let s3 = S3Server::start();
        let sandbox = Sandbox::new();
        for number in 0..200 {
            fs::write(sandbox.path(format!("src/{number}")), vec![number as u8; 3000]).unwrap();
        }
        for directory in ["tmp", "scratch"] {
            fs::create_dir(sandbox.path(directory)).unwrap();
        }
        let (begun, anchor) = (Timestamp::now(), Timestamp::now());
        let mut day = Self { sandbox, server, s3, begun, anchor, clock: String::new() };
        day.server.create_database("shop");
        day.server.sql(
            "shop",
            "CREATE TABLE ledger (id serial PRIMARY KEY, at timestamptz DEFAULT now())",
        );
        day.policy(&["every: 1h", "every: 4h", "every: 6h", "every: 5h"]);
        day.give(day.sandbox.root());
        day.run(&["init"]).expect(0);
        let archive = format!(
            "ALTER SYSTEM SET archive_command = '{} {BACKSTAY} --policy {} wal push %p'",
            day.environment()
                .iter()
                .map(|(name, value)| format!("{name}=\"{value}\""))
                .collect::<Vec<_>>()
                .join(" "),
            day.sandbox.path("policy.yaml").display()
        );
        day.server.sql_each("postgres", &[&archive, "SELECT pg_reload_conf()"]);
        // The store's times are those of the machine: the day ends about now. It begins after a turn of all jobs.
        day.anchor = Timestamp::now();
        let turn = 4 * 3600;
        let hours: i64 = weather().iter().map(|(_, hours)| hours).sum();
        let begin = day.anchor - SignedDuration::from_hours(hours + 2);
        day.begun = Timestamp::from_second(begin.as_second() / turn * turn + 600).unwrap();
        day.clock = format!("{} {} {FACTOR}", day.begun, day.anchor);
        Some(day)
    }

    /// Writes the policy, with these schedules of its jobs.
    fn policy(&self, [files, dumps, base, proof]: &[&str; 4]) {
        let s3 = format!(
            "s3: {{ bucket: {BUCKET}, prefix: {PLACE}, endpoint: \"{}\", region: us-east-1, \
             allow_http: true, access_key_id: \"${{env:T_ACCESS}}\", timeout: 3s, retry_for: 8s, secret_access_key: \
             \"${{env:T_SECRET}}\" }}",
            self.s3.endpoint()
        );
        let connection = |database: &str| self.server.connection(database).replace('\'', "''");
        let text = format!(
            "version: 1\nstack: demo\nobjectives: {{ rto: 8h, rpo: 26h }}\ntimezone: UTC\n\
             repositories:\n  main:\n    {s3}\n    encryption: {{ recipients: [{public}], \
             writer_identity: \"${{file:{root}/writer.key}}\", identity: \"${{file:{root}/recovery.key}}\" }}\n  \
             off:\n    local: {{ path: {root}/off }}\n    encryption: {{ recipients: [{public}], identity: \"${{file:{root}/recovery.key}}\" }}\n\
             sources:\n  files: {{ directory: {{ path: {root}/src }} }}\n  \
             dump: {{ postgres_dump: {{ connection: '{dump}', programs: {programs} }} }}\n  \
             pg: {{ postgres_cluster: {{ connection: '{cluster}', wal: {{ archive: {{ to: [main] }}, keep: 7d }} }} }}\n\
             jobs:\n  \
             hourly: {{ sources: [files], kind: incremental, schedule: {{ {files} }}, keep: {{ for: 7d, at_least: 3 }} }}\n  \
             dumps: {{ sources: [dump], kind: snapshot, schedule: {{ {dumps} }}, keep: {{ for: 24h, at_least: 2 }} }}\n  \
             cluster: {{ sources: [pg], kind: incremental, schedule: {{ {base} }}, keep: {{ for: 7d }} }}\n  \
             away: {{ copy: {{ to: off }}, schedule: {{ after: [dumps] }}, keep: {{ for: 7d }} }}\n  \
             proof: {{ verify: {{ budget: 1GiB }}, schedule: {{ {proof} }} }}\n",
            public = self.sandbox.public,
            root = self.sandbox.root().display(),
            programs = self.server.tool("pg_dump").parent().unwrap().display(),
            dump = connection("shop"),
            cluster = connection("postgres"),
        );
        fs::write(self.sandbox.path("policy.yaml"), text).unwrap();
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        let path = |name: &str| self.sandbox.path(name).display().to_string();
        vec![
            ("T_ACCESS", ACCESS_KEY.to_owned()),
            ("T_SECRET", SECRET_KEY.to_owned()),
            ("TMPDIR", path("tmp")),
            ("BACKSTAY_STATE_DIR", path("state")),
            // What takes seconds takes hours of this day.
            ("BACKSTAY_TUNING", "window=14400,lease=14400,linger=28800".to_owned()),
        ]
    }

    /// Gives everything below to the server's user.
    fn give(&self, path: &Path) {
        if !is_root() {
            return;
        }
        let (uid, gid) = user();
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
        fs::set_permissions(self.sandbox.root(), fs::Permissions::from_mode(0o755)).unwrap();
        if path.is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                self.give(&entry.unwrap().path());
            }
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.sandbox.command(args);
        command.envs(self.environment());
        if !self.clock.is_empty() {
            command.env("BACKSTAY_CLOCK", &self.clock);
        }
        if is_root() {
            let (uid, gid) = user();
            command.uid(uid).gid(gid);
        }
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::from(&self.command(args).output().unwrap())
    }

    fn daemon(&self) -> Daemon {
        let log = fs::File::create(self.sandbox.path("daemon.log")).unwrap();
        let child = self.command(&["daemon"]).stderr(log).stdin(Stdio::null()).spawn().unwrap();
        Daemon::new(child, self.sandbox.path("daemon.log"))
    }

    fn runs(&self) -> Vec<Value> {
        let ran = self.run(&["runs", "--output", "json", "--limit", "10000"]).expect(0);
        ran.json().as_array().unwrap().clone()
    }
}

/// What a process holds.
#[derive(Debug)]
struct Holds {
    descriptors: usize,
    threads: usize,
    resident: u64,
}

impl Holds {
    fn of(pid: u32) -> Self {
        let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let resident = line.trim().trim_end_matches(" kB").parse().unwrap();
        Self { descriptors: count("fd"), threads: count("task"), resident }
    }

    /// The least of several looks, while no run is about to begin or end.
    fn at_rest(pid: u32) -> Self {
        let looks: Vec<Self> = (0..40)
            .map(|_| {
                std::thread::sleep(Duration::from_millis(100));
                Self::of(pid)
            })
            .collect();
        let least = |what: fn(&Self) -> u64| looks.iter().map(what).min().unwrap();
        Self {
            descriptors: least(|look| look.descriptors as u64) as usize,
            threads: least(|look| look.threads as u64) as usize,
            resident: least(|look| look.resident),
        }
    }
}

/// Files below a directory, by their paths.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[test]
fn a_day_with_a_store_that_fails_leaves_nothing_behind() {
    let Some(day) = Day::new() else { return };
    let hour = |hours: i64| Duration::from_millis((hours * 3_600_000 / FACTOR) as u64);
    let daemon = day.daemon();
    let begun = Instant::now();
    let (mut passed, mut row, mut early) = (0, 0, None);
    for (at, (weather, hours)) in weather().iter().enumerate() {
        if let Some((fault, lasts)) = weather {
            day.s3.chaos.begin(PLACE, *fault, *lasts, at as u64);
        }
        passed += hours;
        while begun.elapsed() < hour(passed) {
            // Somebody works meanwhile.
            day.server.sql("shop", "INSERT INTO ledger DEFAULT VALUES; SELECT pg_switch_wal()");
            fs::write(day.sandbox.path(format!("src/{}", row % 250)), format!("{row}")).unwrap();
            row += 1;
            std::thread::sleep(Duration::from_millis(700));
        }
        if weather.is_some() {
            assert!(!day.s3.chaos.end(PLACE).is_empty(), "{weather:?} met nobody");
        } else if early.is_none() {
            early = Some(Holds::at_rest(daemon.pid()));
        }
    }

    // What is due next is due in 23 hours. What goes on is waited for, and what follows it.
    let daily =
        day.begun + (Timestamp::now() - day.anchor) * FACTOR - SignedDuration::from_hours(1);
    let daily = format!("cron: \"{}\"", daily.to_zoned(TimeZone::UTC).strftime("%M %H * * *"));
    day.policy(&[&daily; 4].map(String::as_str));
    daemon.signal(Signal::HUP);
    let deadline = Instant::now() + Duration::from_secs(120);
    let is_open = |run: &Value| matches!(run["state"].as_str(), Some("waiting" | "running"));
    let late = loop {
        let late = Holds::at_rest(daemon.pid());
        if children(daemon.pid()).is_empty() && !day.runs().iter().any(is_open) {
            break late;
        }
        assert!(Instant::now() < deadline, "{}", daemon.said());
    };
    let early = early.unwrap();
    // A look at the repositories may be going on. What is left by each run would be some seventy.
    assert!(late.threads <= early.threads + 3, "{early:?} {late:?}");
    assert!(late.descriptors <= early.descriptors + 6, "{early:?} {late:?}");
    assert!(late.resident <= early.resident + 16 * 1024, "{early:?} {late:?}");
    let said = daemon.said();
    daemon.end();

    // Every slot of the day is one row that has ended, and each was done at most once.
    let runs = day.runs();
    let mut slots: BTreeMap<(String, String), u32> = BTreeMap::new();
    for run in &runs {
        let text = |name: &str| run[name].as_str().unwrap_or_default().to_owned();
        *slots.entry((text("job"), text("nominal"))).or_default() += 1;
        let ended = ["succeeded", "failed", "skipped", "missed", "abandoned"];
        assert!(ended.contains(&run["state"].as_str().unwrap()), "{run:#}");
    }
    assert!(slots.values().all(|rows| *rows == 1), "{slots:#?}");
    let of = |job: &str, state: &str| {
        runs.iter()
            .filter(|run| run["job"] == job && (state.is_empty() || run["state"] == state))
            .count()
    };
    // One more or less, since a day begins and ends at some time between.
    let near = |job: &str, hours: i64| {
        (of(job, "") as i64 - passed / hours).abs() <= if hours == 1 { 2 } else { 1 }
    };
    assert!(near("hourly", 1) && near("dumps", 4), "{runs:#?}");
    assert!(of("hourly", "succeeded") as i64 >= passed / 2, "{runs:#?}\n{said}");
    let most: &[&str] = &["dumps", "away", "cluster", "proof"];
    for job in &most[..if thorough() { 4 } else { 2 }] {
        assert!(of(job, "succeeded") >= 1, "{job}: {runs:#?}\n{said}");
    }

    // Nothing lies about: no temporary files, no process.
    assert_eq!(files_below(&day.sandbox.path("tmp")), Vec::<PathBuf>::new());
    let state = files_below(&day.sandbox.path("state"));
    let left: Vec<_> = state
        .iter()
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.contains(".tmp") || name.contains(".new")
        })
        .collect();
    assert!(left.is_empty(), "{left:?}");

    // Prune wants a clock that is the store's, so it comes when the day is over.
    let mut prune = day.command(&["prune", "--yes"]);
    Ran::from(&prune.env_remove("BACKSTAY_CLOCK").output().unwrap()).expect(0);
    // And what is there is what was backed up: by who backs up, whose own the files are.
    day.give(&day.sandbox.path("src"));
    day.run(&["backup", "demo/files", "demo/pg"]).expect(0);
    day.run(&["verify", "--depth", "content"]).expect(0);
    let out = day.sandbox.path("scratch/files");
    day.run(&["restore", "demo/files", "--to", out.to_str().unwrap()]).expect(0);
    assert_same_tree(&day.sandbox.path("src"), &out);
    let proof = ["verify", "demo/pg", "demo/dump", "--depth", "restore", "--scratch"];
    let scratch = day.sandbox.path("scratch/proof");
    fs::create_dir(&scratch).unwrap();
    day.give(&scratch);
    let programs = day.server.tool("postgres").parent().unwrap().display().to_string();
    let place = [scratch.to_str().unwrap(), "--programs", &programs];
    day.run(&[&proof[..], &place].concat()).expect(0);
}
