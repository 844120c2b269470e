//! Data directories of servers are not copied while they may be in use.

use std::fs;
use std::os::unix::fs::FileExt as _;

use crate::common::Sandbox;

fn refused(prepare: &dyn Fn(&std::path::Path)) -> String {
    let sandbox = Sandbox::ready(false);
    let data = sandbox.path("src/data");
    fs::create_dir(&data).unwrap();
    prepare(&data);
    let ran = sandbox.run(&["backup", "demo/files"]).expect(1);
    assert!(ran.stderr.contains("allow_live: true"), "{}", ran.stderr);
    assert_eq!(sandbox.run(&["list"]).expect(0).stdout, "");
    // Asked for, it is done.
    let policy = fs::read_to_string(sandbox.path("policy.yaml")).unwrap();
    let policy = policy.replace("/src } }", "/src, allow_live: true } }");
    fs::write(sandbox.path("policy.yaml"), policy).unwrap();
    sandbox.run(&["backup", "demo/files"]).expect(0);
    ran.stderr
}

fn touch(directory: &std::path::Path, names: &[&str]) {
    for name in names {
        let path = directory.join(name);
        if let Some(directory) = name.strip_suffix('/') {
            fs::create_dir_all(path.parent().unwrap().join(directory)).unwrap();
        } else {
            fs::write(path, "x").unwrap();
        }
    }
}

#[test]
fn a_running_postgresql_is_refused_and_a_stopped_one_is_not() {
    let said = refused(&|data| touch(data, &["PG_VERSION", "global/", "postmaster.pid"]));
    assert!(said.contains("running PostgreSQL server (postmaster.pid)"), "{said}");
    assert!(said.contains("postgres_dump"), "{said}");
    let sandbox = Sandbox::ready(false);
    touch(&sandbox.path("src"), &["PG_VERSION", "global/"]);
    sandbox.backup(&[]);
}

#[test]
fn elasticsearch_starrocks_and_mysql_are_refused() {
    for (names, what) in [
        (&["node.lock", "_state/"][..], "an Elasticsearch data directory"),
        (&["image/", "bdb/"][..], "a StarRocks frontend"),
        (&["cluster_id", "data/", "meta/"][..], "a StarRocks backend"),
        (&["ibdata1", "mysql/"][..], "a MySQL or MariaDB data directory"),
    ] {
        let said = refused(&|data| touch(data, names));
        assert!(said.contains(what), "{said}");
    }
}

fn sqlite(path: &std::path::Path) {
    let mut page = vec![0; 4096];
    page[..16].copy_from_slice(b"SQLite format 3\0");
    fs::write(path, page).unwrap();
}

#[test]
fn an_sqlite_database_with_a_journal_is_refused() {
    for suffix in ["-wal", "-journal"] {
        let said = refused(&|data| {
            sqlite(&data.join("app.db"));
            fs::write(data.join(format!("app.db{suffix}")), "frames").unwrap();
        });
        assert!(said.contains("`data/app.db` is an SQLite database in use"), "{said}");
    }
}

#[test]
fn an_sqlite_database_that_a_process_has_open_is_refused() {
    let sandbox = Sandbox::ready(false);
    let path = sandbox.path("src/open.sqlite");
    sqlite(&path);
    // Opened by this test, which is another process than the one that backs up.
    let open = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    open.write_all_at(b"x", 2000).unwrap();
    let said = sandbox.run(&["backup", "demo/files"]).expect(1).stderr;
    assert!(said.contains("an SQLite database in use"), "{said}");
    drop(open);
    sandbox.backup(&[]);
}
