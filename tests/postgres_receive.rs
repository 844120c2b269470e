//! WAL received as the server writes it: an RPO of seconds, without `archive_command`.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::Ran;
use crate::common::daemon::Daemon;
use crate::common::postgres::{ALL, Server};
use crate::postgres_cluster::standby_of;
use crate::postgres_wal::Archiving;

const SLOT: &str = "backstay_demo_pg";

/// A server that archives nothing, and a repository.
fn silent(major: u32, encrypted: bool) -> Option<Archiving> {
    let this = Archiving::start(major, encrypted)?;
    this.server.sql_each(
        "postgres",
        &["ALTER SYSTEM SET archive_command = '/bin/false'", "SELECT pg_reload_conf()"],
    );
    Some(this)
}

impl Archiving {
    fn receiver(&self, more: &[&str]) -> Daemon {
        let log = self.sandbox.path("receive.log");
        let file = fs::File::options().create(true).append(true).open(&log).unwrap();
        let mut command = self.command(&[&["wal", "receive", "--every", "1s"], more].concat());
        Daemon::new(command.stderr(file).spawn().unwrap(), log)
    }

    fn said(&self) -> String {
        fs::read_to_string(self.sandbox.path("receive.log")).unwrap_or_default()
    }

    #[track_caller]
    fn until(&self, what: &str, is: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{what}: {}", self.said());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until everything written so far is durable in the repository: the server was told so.
    #[track_caller]
    fn until_received(&self, server: &Server) {
        let lsn = server.value("postgres", "SELECT pg_current_wal_flush_lsn()::text");
        let there = format!(
            "SELECT restart_lsn >= '{lsn}' FROM pg_replication_slots WHERE slot_name = '{SLOT}'"
        );
        self.until(&lsn, || {
            let row = server.rows("postgres", &there);
            row.first().is_some_and(|row| row == "t")
        });
    }

    fn slices(&self) -> Vec<PathBuf> {
        let all = self.sandbox.objects();
        all.into_iter().filter(|path| path.to_str().unwrap().contains(".part/")).collect()
    }
}

#[test]
fn what_was_written_a_second_before_the_server_died_comes_back() {
    for major in ALL {
        let Some(mut this) = silent(major, major == 17) else { return };
        this.server.sql("postgres", "CREATE TABLE t (n int)");
        let receiver = this.receiver(&[]);
        this.until("the slot", || this.said().contains("receiving from"));
        this.run(&["backup", "demo/pg"]).expect(0);
        for n in 0..3 {
            this.server.sql("postgres", &format!("INSERT INTO t VALUES ({n})"));
            this.until_received(&this.server);
        }
        assert!(!this.slices().is_empty());
        // Nothing was archived, no segment was ended, and the machine is gone.
        this.server.kill();
        receiver.kill();
        let status = this.run(&["wal", "status", "--offline", "--output", "json"]);
        let wal = &status.json()[0]["repositories"][0]["wal"];
        assert!(wal["open_bytes"].as_u64().unwrap() > 0, "{wal}");
        let copy = this.recover(&["--latest"]);
        assert_eq!(copy.value("postgres", "SELECT count(*) FROM t"), "3", "PostgreSQL {major}");
    }
}

#[test]
fn a_receiver_that_was_killed_goes_on_and_slices_go_when_their_segment_is_whole() {
    let Some(this) = silent(17, true) else { return };
    this.edit(&[("for: 7d, at_least: 3", "for: 1s, at_least: 1"), (", keep: 7d }", " }")]);
    this.server.sql("postgres", "CREATE TABLE t (n int)");
    let receiver = this.receiver(&[]);
    this.until("the slot", || this.said().contains("receiving from"));
    this.run(&["backup", "demo/pg", "--job", "daily"]).expect(0);
    this.server.sql("postgres", "INSERT INTO t VALUES (0)");
    this.until_received(&this.server);
    receiver.kill();
    // Somebody else receives nothing meanwhile; the server keeps it.
    for n in 1..4 {
        this.server.sql("postgres", &format!("INSERT INTO t VALUES ({n})"));
        this.server.sql("postgres", "SELECT pg_switch_wal()");
    }
    this.server.sql("postgres", "INSERT INTO t VALUES (4)");
    let receiver = this.receiver(&[]);
    this.until_received(&this.server);
    // A second one waits, and says for whom.
    let second = this.receiver(&["--slot", SLOT]);
    this.until("the other", || this.said().contains("somebody receives through"));
    second.end();
    receiver.end();
    let whole = this.wal().len();
    assert!(whole >= 4, "{whole}");
    let before = this.slices();
    let of_whole = |path: &PathBuf| {
        let text = path.to_str().unwrap().split(".part/").next().unwrap();
        this.wal().iter().any(|wal| wal.to_str().unwrap().starts_with(&format!("{text}.zst")))
    };
    assert!(before.iter().any(of_whole), "slices of the first segment: {before:?}");
    for _ in 0..2 {
        let mut command = this.command(&["prune", "--yes"]);
        command.env("BACKSTAY_TUNING", "grace=1");
        Ran::from(&command.output().unwrap()).expect(0);
        std::thread::sleep(Duration::from_millis(1100));
    }
    let left = this.slices();
    assert!(!left.iter().any(of_whole), "{left:?}");
    let open: Vec<&PathBuf> = before.iter().filter(|path| !of_whole(path)).collect();
    assert_eq!(open, left.iter().collect::<Vec<_>>(), "those of the open segment stay");
    let copy = this.recover(&["--latest"]);
    assert_eq!(copy.value("postgres", "SELECT count(*) FROM t"), "5");
}

#[test]
fn a_repository_that_is_away_is_waited_for_and_nothing_is_lost() {
    let Some(this) = silent(17, false) else { return };
    this.server.sql("postgres", "CREATE TABLE t (n int)");
    let receiver = this.receiver(&[]);
    this.until("the slot", || this.said().contains("receiving from"));
    this.run(&["backup", "demo/pg"]).expect(0);
    let (repository, away) = (this.sandbox.path("repo"), this.sandbox.path("away"));
    fs::rename(&repository, &away).unwrap();
    fs::write(&repository, "a file where the directory was").unwrap();
    for n in 0..3 {
        this.server.sql("postgres", &format!("INSERT INTO t VALUES ({n})"));
        this.server.sql("postgres", "SELECT pg_switch_wal()");
    }
    this.until("trouble", || this.said().contains("tried again"));
    fs::remove_file(&repository).unwrap();
    fs::rename(&away, &repository).unwrap();
    this.server.sql("postgres", "INSERT INTO t VALUES (3)");
    this.until_received(&this.server);
    receiver.end();
    let copy = this.recover(&["--latest"]);
    assert_eq!(copy.value("postgres", "SELECT count(*) FROM t"), "4");
}

#[test]
fn a_slot_that_lost_its_wal_or_is_another_one_is_named() {
    let Some(this) = silent(17, false) else { return };
    this.server.sql("postgres", "ALTER SYSTEM SET max_slot_wal_keep_size = '16MB'");
    this.server.sql("postgres", "SELECT pg_reload_conf()");
    this.server.sql("postgres", "CREATE TABLE t (n int)");
    let receiver = this.receiver(&[]);
    this.until("the slot", || this.said().contains("receiving from"));
    this.until_received(&this.server);
    receiver.kill();
    let slot = format!("SELECT wal_status FROM pg_replication_slots WHERE slot_name = '{SLOT}'");
    this.until("a lost slot", || {
        this.server.sql_each(
            "postgres",
            &["INSERT INTO t VALUES (1)", "SELECT pg_switch_wal()", "CHECKPOINT"],
        );
        this.server.value("postgres", &slot) == "lost"
    });
    let lost = this.run(&["wal", "receive"]).expect(1);
    assert!(lost.stderr.contains("was invalidated"), "{}", lost.stderr);
    assert!(lost.stderr.contains("pg_drop_replication_slot"), "{}", lost.stderr);
    assert!(lost.stderr.contains("base backup"), "{}", lost.stderr);
    for (args, says) in [
        (&["--slot", "No-Slot"][..], "is no name of a replication slot"),
        (&["--every", "0s"], "0s"),
        (&["--source", "demo/nothing"], "nothing"),
    ] {
        let ran = this.run(&[&["wal", "receive"], args].concat());
        assert!(ran.code == 2 || ran.code == 1, "{args:?}: {}", ran.code);
        assert!(ran.stderr.contains(says), "{args:?}: {}", ran.stderr);
    }
}

#[test]
fn a_promotion_is_followed_to_the_new_timeline() {
    let Some(primary) = Server::with(17, "wal_keep_size = 0", "") else { return };
    primary.sql("postgres", "CREATE TABLE t (n int)");
    let standby = standby_of(&primary);
    let Some(mut this) = silent(17, false) else { return };
    // The source is the standby: its walsender sees the timeline end.
    let text = fs::read_to_string(this.sandbox.path("policy.yaml")).unwrap();
    let connection = |server: &Server| server.connection("postgres").replace('\'', "''");
    let text = text.replace(&connection(&this.server), &connection(&standby));
    fs::write(this.sandbox.path("policy.yaml"), text).unwrap();
    this.server.stop();
    let receiver = this.receiver(&[]);
    this.until("the slot", || this.said().contains("receiving from"));
    this.run(&["backup", "demo/pg"]).expect(0);
    primary.sql("postgres", "INSERT INTO t VALUES (1)");
    this.until("the row", || standby.value("postgres", "SELECT count(*) FROM t") == "1");
    standby.sql("postgres", "SELECT pg_promote()");
    this.until("the switch", || this.said().contains("follows timeline 2"));
    standby.sql("postgres", "INSERT INTO t VALUES (2)");
    this.until_received(&standby);
    receiver.signal(Signal::TERM);
    receiver.end();
    assert!(this.wal().iter().any(|path| path.to_str().unwrap().contains("00000002.history")));
    let copy = this.recover(&["--latest"]);
    assert_eq!(copy.value("postgres", "SELECT count(*) FROM t"), "2");
    assert_eq!(copy.value("postgres", "SELECT timeline_id FROM pg_control_checkpoint()"), "3");
}
