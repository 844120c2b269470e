//! `SQLite` databases as sources, with real writers.

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::Connection;

use crate::common::{Ran, Sandbox};

/// A sandbox with the source `demo/db`, the database `superset.db` in `app`.
fn sandbox(settings: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("app")).unwrap();
    let path = sandbox.path("app/superset.db");
    let comma = if settings.is_empty() { "" } else { ", " };
    let source = format!("  db: {{ sqlite: {{ path: {}{comma}{settings} }} }}\n", path.display());
    sandbox.write_policy(true, &source);
    sandbox.run(&["init"]).expect(0);
    sandbox
}

fn open(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(60)).unwrap();
    connection
}

fn live(sandbox: &Sandbox) -> Connection {
    open(&sandbox.path("app/superset.db"))
}

/// Two tables that agree with each other between transactions, and never within one.
fn fill(database: &Connection, mode: &str, rows: u32) {
    let sql = format!(
        "PRAGMA journal_mode = {mode};
         CREATE TABLE a (id INTEGER PRIMARY KEY, text TEXT); CREATE TABLE b (id INTEGER PRIMARY KEY);
         CREATE INDEX a_text ON a (text);
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         INSERT INTO a SELECT i, hex(randomblob(100)) FROM n;
         INSERT INTO b SELECT id FROM a;"
    );
    database.execute_batch(&sql).unwrap();
}

fn number(database: &Connection, query: &str) -> i64 {
    database.query_row(query, [], |row| row.get(0)).unwrap()
}

fn backup(sandbox: &Sandbox) -> Ran {
    sandbox.run(&["backup", "demo/db"])
}

fn restore(sandbox: &Sandbox, to: &str, more: &[&str]) -> Ran {
    let mut args = vec!["restore", "demo/db", "--to", to];
    args.extend(more);
    sandbox.run_with_key(&args)
}

fn backups(sandbox: &Sandbox) -> usize {
    let list = sandbox.run(&["list", "demo/db", "--output", "json"]).expect(0).json();
    list.as_array().unwrap().len()
}

#[track_caller]
fn is_sound(path: &Path) -> i64 {
    let database = open(path);
    let said: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(said, "ok");
    let rows = number(&database, "SELECT count(*) FROM a");
    assert_eq!(rows, number(&database, "SELECT count(*) FROM b"), "half a transaction");
    rows
}

#[test]
fn a_database_is_one_transaction_while_others_write_to_it() {
    for (mode, settings) in [("wal", ""), ("delete", ""), ("delete", "scratch: SCRATCH")] {
        let place = tempfile::tempdir().unwrap();
        let sandbox = sandbox(&settings.replace("SCRATCH", &place.path().display().to_string()));
        fill(&live(&sandbox), mode, 20_000);
        let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let database = live(&sandbox);
                while !stop.load(Ordering::SeqCst) {
                    let done = database.execute_batch(
                        "BEGIN IMMEDIATE; INSERT INTO a (text) VALUES (hex(randomblob(500)));
                         UPDATE a SET text = hex(randomblob(100)) WHERE id % 97 = abs(random() % 97);
                         INSERT INTO b SELECT max(id) FROM a; COMMIT",
                    );
                    match done {
                        Ok(()) => written.fetch_add(1, Ordering::SeqCst),
                        Err(_) => {
                            let _ = database.execute_batch("ROLLBACK");
                            0
                        }
                    };
                }
            });
            for round in 0..3 {
                let before = written.load(Ordering::SeqCst);
                let ran = backup(&sandbox);
                let restored = (ran.code == 0)
                    .then(|| restore(&sandbox, &format!("out{round}.db"), &["--output", "json"]));
                // The writer is at work while the backup is.
                while written.load(Ordering::SeqCst) == before {
                    std::thread::sleep(Duration::from_millis(5));
                }
                if ran.code != 0 || round == 2 {
                    stop.store(true, Ordering::SeqCst);
                }
                ran.expect(0);
                let report = restored.unwrap().expect(0).json();
                assert_eq!(report["sqlite"]["integrity"], serde_json::json!([]));
                let rows = is_sound(&sandbox.path(format!("out{round}.db")));
                assert!(rows >= 20_000 + before as i64, "{rows} rows, {before} before the backup");
            }
        });
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "something is left in scratch");
        sandbox.run_with_key(&["verify", "demo/db", "--depth", "content"]).expect(0);
    }
}

#[test]
fn what_is_committed_lies_in_the_wal_alone_and_is_there() {
    let sandbox = sandbox("");
    let database = live(&sandbox);
    database.execute_batch("PRAGMA wal_autocheckpoint = 0").unwrap();
    fill(&database, "wal", 1000);
    fs::set_permissions(sandbox.path("app/superset.db"), fs::Permissions::from_mode(0o640))
        .unwrap();
    let file = fs::metadata(sandbox.path("app/superset.db")).unwrap().len();
    assert!(file < 20_000, "the rows are not in the file: {file}");
    backup(&sandbox).expect(0);
    let ls = sandbox.run_with_key(&["ls", "demo/db"]).expect(0).stdout;
    assert!(ls.contains("superset.db\n") && ls.contains("superset.db.json"), "{ls}");
    restore(&sandbox, "new/", &[]).expect(0);
    let restored = sandbox.path("new/superset.db");
    assert_eq!(fs::metadata(&restored).unwrap().permissions().mode() & 0o7777, 0o640);
    assert_eq!(fs::read_dir(sandbox.path("new")).unwrap().count(), 1);
    assert_eq!(is_sound(&restored), 1000);
    // As files, with what is known of it.
    restore(&sandbox, "files", &["--path", "*"]).expect(0);
    let facts = fs::read_to_string(sandbox.path("files/superset.db.json")).unwrap();
    let facts: serde_json::Value = serde_json::from_str(&facts).unwrap();
    assert_eq!((&facts["journal_mode"], &facts["tables"]), (&"wal".into(), &2.into()));
    let proof = sandbox
        .run_with_key(&["verify", "demo/db", "--depth", "restore", "--scratch", "app"])
        .expect(0);
    let said = proof.stdout + &proof.stderr;
    assert!(said.contains("integrity_check found nothing wrong"), "{said}");
    let said = sandbox.run(&["check", "--output", "json"]).expect(0).stdout;
    assert!(said.contains("2 tables, journal mode wal") && said.contains("open in"), "{said}");
}

#[test]
fn a_database_in_use_is_not_replaced_and_the_old_one_stays() {
    let sandbox = sandbox("");
    let database = live(&sandbox);
    fill(&database, "wal", 100);
    backup(&sandbox).expect(0);
    let target = sandbox.path("app/superset.db").display().to_string();
    let ran = restore(&sandbox, &target, &[]).expect(1);
    assert!(ran.stderr.contains("is open in"), "{}", ran.stderr);
    let ran = restore(&sandbox, &target, &["--overwrite", "--yes"]).expect(1);
    assert!(ran.stderr.contains("is open in"), "{}", ran.stderr);
    database.execute_batch("DELETE FROM a; PRAGMA wal_autocheckpoint = 0").unwrap();
    drop(database);
    let ran = restore(&sandbox, &target, &[]).expect(1);
    assert!(ran.stderr.contains("exists") && ran.stderr.contains("--overwrite"), "{}", ran.stderr);
    let ran = restore(&sandbox, &target, &["--overwrite"]).expect(6);
    assert!(ran.stderr.contains("--yes"), "{}", ran.stderr);
    // What a process that was killed leaves would be replayed into the database that is restored.
    fs::write(format!("{target}-wal"), b"of another database").unwrap();
    let ran = restore(&sandbox, &target, &["--overwrite", "--dry-run"]).expect(0);
    assert!(ran.stderr.contains("superset.db-wal another name"), "{}", ran.stderr);
    restore(&sandbox, &target, &["--overwrite", "--yes"]).expect(0);
    assert_eq!(is_sound(Path::new(&target)), 100);
    let names: Vec<String> = fs::read_dir(sandbox.path("app"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let old = names.iter().find(|name| name.contains(".before_") && name.ends_with('Z')).unwrap();
    assert!(names.iter().any(|name| *name == format!("{old}-wal")), "{names:?}");
    fs::remove_file(sandbox.path(format!("app/{old}-wal"))).unwrap();
    let old = open(&sandbox.path(format!("app/{old}")));
    assert_eq!(number(&old, "SELECT count(*) FROM a"), 0);
    // A log without its database is not left for the restored one.
    fs::create_dir(sandbox.path("bare")).unwrap();
    fs::write(sandbox.path("bare/x.db-wal"), b"left").unwrap();
    let ran = restore(&sandbox, "bare/x.db", &[]).expect(1);
    assert!(ran.stderr.contains("would be replayed"), "{}", ran.stderr);
}

#[test]
fn a_damaged_database_is_stored_and_takes_nobody_s_place() {
    let sandbox = sandbox("");
    let path = sandbox.path("app/superset.db");
    fill(&live(&sandbox), "delete", 5000);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let middle = file.metadata().unwrap().len() / 4096 / 2 * 4096;
    file.write_all_at(&[0xAB; 4096], middle).unwrap();
    drop(file);
    let ran = backup(&sandbox).expect(0);
    assert!(ran.stderr.contains("is damaged where it lies"), "{}", ran.stderr);
    let show = sandbox.run(&["show", "demo/db", "--output", "json"]).expect(0).json();
    assert_eq!(show["tainted"]["files"], 1, "{show}");
    let ran = restore(&sandbox, "beside.db", &[]).expect(5);
    assert!(ran.stderr.contains("restored as it was backed up"), "{}", ran.stderr);
    assert_eq!(fs::read(&path).unwrap(), fs::read(sandbox.path("beside.db")).unwrap());
    let ran = restore(&sandbox, "app/superset.db", &["--overwrite", "--yes"]).expect(5);
    assert!(ran.stderr.contains("takes nobody's place"), "{}", ran.stderr);
    assert_eq!(fs::read_dir(sandbox.path("app")).unwrap().count(), 1);
    sandbox
        .run_with_key(&["verify", "demo/db", "--depth", "restore", "--scratch", "app"])
        .expect(5);
}

#[test]
fn what_is_no_database_is_said_so_and_nothing_is_stored() {
    let sandbox = sandbox("");
    let path = sandbox.path("app/superset.db");
    let fails = |said: &str| {
        let ran = backup(&sandbox);
        assert_ne!(ran.code, 0);
        assert!(ran.stderr.contains(said), "{}", ran.stderr);
        let check = sandbox.run(&["check"]);
        assert_ne!(check.code, 0, "{}", check.stdout);
        assert_eq!(backups(&sandbox), 0);
    };
    fails("relative SQLAlchemy URI");
    fs::write(&path, "").unwrap();
    fails("is an empty database");
    fs::write(&path, "x".repeat(10_000)).unwrap();
    fails("another kind of file, or encrypted");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    fails("is no file");
}
