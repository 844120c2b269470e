//! Which WAL stays, and where it is brought.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::common::Ran;
use crate::postgres_wal::Archiving;

const QUICK: &str = "grace=0.5,window=60,linger=0,silence=3600,copy_silence=3600";

impl Archiving {
    pub fn edit(&self, changes: &[(&str, &str)]) {
        let policy = self.sandbox.path("policy.yaml");
        let mut text = fs::read_to_string(&policy).unwrap();
        for (from, to) in changes {
            assert!(text.contains(from), "{from}: {text}");
            text = text.replace(from, to);
        }
        fs::write(&policy, text).unwrap();
    }

    fn quickly(&self, args: &[&str]) -> Ran {
        let mut command = self.command(args);
        Ran::from(&command.env("BACKSTAY_TUNING", QUICK).output().unwrap())
    }

    fn backup_of_job(&self) {
        self.run(&["backup", "demo/pg", "--job", "daily"]).expect(0);
    }

    fn write_and_archive(&self, number: u32) {
        self.server.sql("postgres", &format!("INSERT INTO t VALUES ({number})"));
        self.archive();
    }

    /// Waits until the server has nothing left to archive: a backup fetches its WAL itself, and
    /// the server sends the same a little later.
    fn settle(&self) {
        let deadline = Instant::now() + Duration::from_secs(100);
        let ready = || {
            let status = self.server.data().join("pg_wal/archive_status");
            let names = fs::read_dir(status).unwrap().map(|entry| entry.unwrap().file_name());
            names.filter(|name| name.to_str().unwrap().ends_with(".ready")).count()
        };
        while ready() > 0 {
            assert!(Instant::now() < deadline, "not archived:\n{}", self.server.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn names(&self) -> BTreeSet<String> {
        let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        self.wal().into_iter().map(name).collect()
    }
}

fn pause() {
    std::thread::sleep(Duration::from_millis(1100));
}

#[test]
fn wal_goes_when_no_backup_can_use_it() {
    let Some(this) = Archiving::start(17, true) else { return };
    this.edit(&[("for: 7d, at_least: 3", "for: 1s, at_least: 1")]);
    this.server.sql("postgres", "CREATE TABLE t (n int)");
    this.write_and_archive(0);
    // WAL without any backup stays.
    this.quickly(&["prune", "--yes"]).expect(0);
    let before = this.names();
    assert!(!before.is_empty());
    this.backup_of_job();
    let first = this.names();
    (1..3).for_each(|n| this.write_and_archive(n));
    this.backup_of_job();
    this.write_and_archive(3);
    pause();

    // One that cannot be restored pushes nothing out, and neither does the window.
    let all = this.names();
    let plan = this.quickly(&["prune", "--dry-run"]).expect(0).stdout;
    assert!(plan.contains("what was archived since") && !plan.contains(" go, up to"), "{plan}");
    this.edit(&[(", keep: 7d }", " }")]);
    let plan = this.quickly(&["prune", "--dry-run"]).expect(0).stdout;
    assert!(
        plan.contains("timeline 1: ") && plan.contains(" go, up to 0000000100000000"),
        "{plan}"
    );
    assert!(plan.contains("is recovered from"), "{plan}");
    let json = this.quickly(&["prune", "--dry-run", "--output", "json"]).expect(0).json();
    let timeline = &json["plans"][0]["wal"][0];
    assert_eq!(timeline["timeline"], 1);
    let going = timeline["goes"]["objects"].as_u64().unwrap();
    assert!(going >= first.len() as u64, "{timeline}");
    assert_eq!(this.names(), all, "a dry run changes nothing");

    this.quickly(&["prune", "--yes"]).expect(0);
    assert_eq!(this.names(), all, "it is announced first");
    pause();
    this.quickly(&["prune", "--yes"]).expect(0);
    let left = this.names();
    assert_eq!(left.len() as u64, all.len() as u64 - going);
    assert!(left.is_disjoint(&first) && left.is_subset(&all), "{left:?}");
    this.sandbox.run_with_key(&["verify", "demo/pg", "--depth", "content"]).expect(0);
    let copy = this.recover(&["--latest"]);
    assert_eq!(copy.value("postgres", "SELECT count(*) FROM t"), "4");

    // A backup without its WAL is not sound, and then nothing goes at all.
    this.write_and_archive(4);
    this.backup_of_job();
    this.settle();
    let newest: BTreeSet<String> = this.names().difference(&left).cloned().collect();
    for path in this.wal() {
        if newest.contains(path.file_name().unwrap().to_str().unwrap()) {
            fs::remove_file(this.sandbox.path("repo").join(path)).unwrap();
        }
    }
    pause();
    let plan = this.quickly(&["prune", "--dry-run"]).expect(0).stdout;
    assert!(plan.contains("DAMAGED") && !plan.contains(" go, up to"), "{plan}");
    for _ in 0..2 {
        this.quickly(&["prune", "--yes"]).expect(0);
        pause();
    }
    let there = this.names();
    assert!(left.is_subset(&there), "{left:?} {there:?}");
}

#[test]
fn wal_stays_while_a_backup_is_written_and_goes_when_it_was_given_up() {
    let Some(this) = Archiving::start(17, true) else { return };
    this.edit(&[("for: 7d, at_least: 3", "for: 1s, at_least: 1"), (", keep: 7d }", " }")]);
    this.server.sql("postgres", "CREATE TABLE t (n int)");
    this.write_and_archive(0);
    this.backup_of_job();
    // Killed when everything but the commit was there.
    let mut command = this.command(&["backup", "demo/pg", "--job", "daily"]);
    let killed = command.env("BACKSTAY_FAILPOINT", "cluster.received").output().unwrap();
    assert_eq!(Ran::from(&killed).code, 128 + 9);
    let before = this.names();
    pause();
    let plan = this.quickly(&["prune", "--dry-run"]).expect(0).stdout;
    assert!(plan.contains("is being written, and may need any of it"), "{plan}");
    assert!(!plan.contains(" go, up to"), "{plan}");
    this.quickly(&["prune", "--yes"]).expect(0);
    assert!(before.is_subset(&this.names()));
    // Whoever was silent for so long is given up.
    let given_up = QUICK.replace("silence=3600", "silence=0.2");
    for _ in 0..3 {
        let mut command = this.command(&["prune", "--yes"]);
        let ran = Ran::from(&command.env("BACKSTAY_TUNING", &given_up).output().unwrap());
        ran.expect(0);
        pause();
    }
    let left = this.names();
    assert!(!before.is_subset(&left), "what lies before the backup goes: {left:?}");
    let copy = this.recover(&["--latest"]);
    assert_eq!(copy.value("postgres", "SELECT count(*) FROM t"), "1");
}

#[test]
fn a_backup_whose_wal_is_about_to_go_is_not_committed() {
    let Some(this) = Archiving::start(15, false) else { return };
    let mut command = this.command(&["backup", "demo/pg"]);
    command.env("BACKSTAY_FAILPOINT", "cluster.received:stop");
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    let stopped = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        stat.rsplit(')').next().unwrap().trim().starts_with('T')
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !stopped() {
        assert!(std::time::Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(20));
    }
    // Somebody announces what it needs: a prune that saw no intent of it.
    let wal = this.wal();
    let paths: Vec<String> = wal
        .iter()
        .map(|path| path.to_str().unwrap().split_once("sources/pg/").unwrap().1.to_owned())
        .collect();
    let marks = this.sandbox.path("repo/demo/sources/pg/prune");
    fs::create_dir_all(&marks).unwrap();
    let mark = serde_json::json!({
        "mark": 1, "created": "2026-11-21T00:00:00Z", "objects": paths,
        "by": {"host": "elsewhere", "pid": 1},
    });
    fs::write(marks.join("20261121T000000Z-abcdef.json"), mark.to_string()).unwrap();
    this.give(&marks);
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(75), "{said}");
    assert!(said.contains("a prune is about to remove wal/"), "{said}");
    let listed = this.run(&["list", "demo/pg", "--output", "json"]).expect(0).json();
    assert_eq!(listed.as_array().unwrap().len(), 0);
}

#[test]
fn who_copies_a_base_backup_announces_its_wal() {
    let Some(this) = Archiving::start(18, true) else { return };
    this.run(&["backup", "demo/pg"]).expect(0);
    let to = this.sandbox.path("copy");
    let mut command = this.command(&["copy", "--to", to.to_str().unwrap(), "demo/pg"]);
    let killed = command.env("BACKSTAY_FAILPOINT", "copy.intent").output().unwrap();
    assert_eq!(Ran::from(&killed).code, 128 + 9);
    let intents = to.join("demo/sources/pg/intent");
    let intent = fs::read_dir(&intents).unwrap().next().unwrap().unwrap().path();
    let intent: serde_json::Value = serde_json::from_slice(&fs::read(intent).unwrap()).unwrap();
    let named = intent["objects"].as_array().unwrap().iter();
    let named: BTreeSet<&str> = named.map(|path| path.as_str().unwrap()).collect();
    let shown = this.run(&["show", "demo/pg", "--output", "json"]).expect(0).json();
    let wal: Vec<&&str> = named.iter().filter(|path| path.starts_with("wal/")).collect();
    assert!(!wal.is_empty() && !shown["wal"].is_null(), "{intent}");
    this.run(&["copy", "--to", to.to_str().unwrap(), "demo/pg"]).expect(0);
}
