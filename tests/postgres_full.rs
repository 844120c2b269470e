//! Disks without room, on either side of a backup of PostgreSQL: nothing that was not stored is
//! taken for stored, and what was kept back arrives when there is room.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::postgres::{Server, user};
use crate::crash::Tiny;
use crate::postgres_wal::Archiving;

const MAJOR: u32 = 17;

#[track_caller]
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < Duration::from_secs(90), "{what}: never");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn resize(at: &Path, size: &str) {
    let options = format!("remount,size={size}");
    let resized = Command::new("mount").args(["-o", &options]).arg(at).status();
    assert!(resized.unwrap().success());
}

/// Bytes that are taken on a file system.
fn used(at: &Path) -> u64 {
    let found = rustix::fs::statvfs(at).unwrap();
    (found.f_blocks - found.f_bfree) * found.f_frsize
}

/// A server that archives to a repository on a disk that can be filled.
fn ready(sources: &Path, this: &Archiving) {
    this.give(sources.parent().unwrap());
    this.server.sql("postgres", "CREATE TABLE ledger AS SELECT generate_series(1, 100) AS n");
}

#[test]
fn a_repository_without_room_takes_no_backup_and_the_server_keeps_its_wal() {
    let Some(this) = Archiving::start(MAJOR, false) else { return };
    let sources = this.sandbox.path("repo/demo/sources");
    let Some(_tiny) = Tiny::mount(&sources, "200m") else { return };
    ready(&sources, &this);
    this.run(&["backup", "demo/pg"]).expect(0);
    this.server.sql("postgres", "INSERT INTO ledger VALUES (101)");
    this.archive();

    resize(&sources, &(used(&sources) + (16 << 10)).to_string());
    this.server.sql("postgres", "INSERT INTO ledger SELECT generate_series(102, 50000)");
    let failed = "SELECT failed_count FROM pg_stat_archiver";
    let before: u64 = this.server.value("postgres", failed).parse().unwrap();
    let last = this.server.value("postgres", "SELECT pg_walfile_name(pg_current_wal_lsn())");
    this.server.sql("postgres", "SELECT pg_switch_wal()");
    until("a push that fails", || {
        this.server.value("postgres", failed).parse::<u64>().unwrap() > before
    });
    assert!(this.server.log().contains("No space left"), "{}", this.server.log());
    let waits = this.server.data().join(format!("pg_wal/archive_status/{last}.ready"));
    assert!(waits.exists(), "the server has it still");
    let ran = this.run(&["backup", "demo/pg"]).expect(1);
    assert!(ran.stderr.contains("No space left"), "{}", ran.stderr);
    assert_eq!(this.sandbox.listed(), 1);
    let status = this.run(&["wal", "status", "--output", "json"]);
    assert!(status.stdout.contains(&last) || status.code != 0, "{}", status.stdout);

    // There is room again: it arrives by itself, and nothing is missing.
    resize(&sources, "200m");
    until("the WAL that waited", || !waits.exists());
    this.server.sql("postgres", "INSERT INTO ledger VALUES (50001)");
    this.archive();
    this.run(&["verify", "--depth", "content"]).expect(0);
    let copy = this.recover(&["--latest"]);
    assert_eq!(copy.value("postgres", "SELECT count(*) FROM ledger"), "50001");
}

#[test]
fn a_target_without_room_gets_no_pg_control() {
    let Some(this) = Archiving::start(MAJOR, false) else { return };
    this.run(&["backup", "demo/pg"]).expect(0);
    let vacant = Server::vacant(MAJOR);
    let place = vacant.data().parent().unwrap().join("tiny");
    let Some(_tiny) = Tiny::mount(&place, "8m") else { return };
    let data = place.join("data");
    let args = ["restore", "demo/pg", "--to", data.to_str().unwrap()];
    let ran = this.sandbox.run_with_key(&args).expect(1);
    assert!(ran.stderr.contains("No space left"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("damaged"), "{}", ran.stderr);
    assert!(!data.join("global/pg_control").exists(), "no server starts on half of it");
    resize(&place, "400m");
    // What it left is no cluster, and nothing is put upon it.
    let again = this.sandbox.run_with_key(&args).expect(1);
    assert!(again.stderr.contains("not empty"), "{}", again.stderr);
    fs::remove_dir_all(&data).unwrap();
    this.sandbox.run_with_key(&args).expect(0);
    assert!(data.join("global/pg_control").exists());
}

#[test]
fn a_server_that_runs_out_of_room_leaves_no_backup() {
    let Some(mut this) = Archiving::start(MAJOR, false) else { return };
    this.run(&["backup", "demo/pg"]).expect(0);
    this.server.stop();
    let wal = this.server.data().join("pg_wal");
    let aside = wal.with_extension("aside");
    fs::rename(&wal, &aside).unwrap();
    let Some(_tiny) = Tiny::mount(&wal, "200m") else { return };
    let copied = Command::new("cp").arg("-a").arg(aside.join(".")).arg(&wal).status();
    assert!(copied.unwrap().success());
    let (uid, gid) = user();
    std::os::unix::fs::chown(&wal, Some(uid), Some(gid)).unwrap();
    this.server.reboot();
    // Segments that are ready to be written to are used up, and there is room for no other.
    this.server.sql("postgres", "ALTER SYSTEM SET wal_recycle = off");
    this.server.sql("postgres", "SELECT pg_reload_conf()");
    this.server.sql("postgres", "CREATE TABLE t AS SELECT generate_series(1, 1000) AS n");
    this.server.sql("postgres", "CHECKPOINT");
    let segments = || {
        let names = fs::read_dir(&wal).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter_map(|name| name.into_string().ok()).filter(|name| name.len() == 24).max()
    };
    let current = || this.server.value("postgres", "SELECT pg_walfile_name(pg_current_wal_lsn())");
    until("the last segment that is there", || {
        if segments() == Some(current()) {
            return true;
        }
        this.server.sql_each("postgres", &["INSERT INTO t VALUES (1)", "SELECT pg_switch_wal()"]);
        this.server.sql("postgres", "INSERT INTO t VALUES (1)");
        false
    });
    resize(&wal, &(used(&wal) + (1 << 20)).to_string());
    let listed = this.sandbox.listed();
    let ran = this.run(&["backup", "demo/pg"]);
    assert_ne!(ran.code, 0, "{}", ran.stderr);
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    assert_eq!(this.sandbox.listed(), listed, "{}", ran.stderr);
    assert!(this.server.log().contains("No space left"), "{}", this.server.log());
    resize(&wal, "400m");
    this.server.stop();
    this.server.reboot();
    this.arm();
    this.run(&["backup", "demo/pg"]).expect(0);
    assert_eq!(this.sandbox.listed(), listed + 1);
}
