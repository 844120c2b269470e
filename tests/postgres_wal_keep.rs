//! Which WAL stays, and where it is brought.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::common::Ran;
use crate::postgres_wal::Archiving;

const QUICK: &str = "grace=0.5,window=60,linger=0,silence=3600,copy_silence=3600";

impl Archiving {
    fn edit(&self, changes: &[(&str, &str)]) {
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
    // The server may have archived the rest of the last backup meanwhile.
    let there = this.names();
    assert!(left.is_subset(&there), "{left:?} {there:?}");
}
