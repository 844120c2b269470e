//! Incremental base backups, with real servers: 15, where changed pages are found here, and 17 and
//! 18, where the server finds them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::common::postgres::{ALL, Server};
use crate::common::{Ran, Sandbox, finish, has_tools};
use crate::postgres_cluster::{
    Load, SLOW, check_ledger, connect, listed, open, sandbox, sandbox_as, slow_backup, standby_of,
    verify,
};
use crate::postgres_wal::Archiving;

/// A server that can make increments, where its version has them.
fn server(major: u32) -> Option<Server> {
    Server::with(major, if major >= 17 { "summarize_wal = on" } else { "" }, "")
}

/// Takes a backup, and gives its id and what was said.
fn backup(sandbox: &Sandbox, kind: &str) -> (String, Ran) {
    let ran = sandbox.run(&["backup", "demo/pg", "--kind", kind]).expect(0);
    (ran.stdout.trim().rsplit('@').next().unwrap().to_owned(), ran)
}

fn incremental(sandbox: &Sandbox) -> String {
    let (id, ran) = backup(sandbox, "incremental");
    assert!(id.contains("-incr-"), "{id}\n{}", ran.stderr);
    id
}

/// Restores one backup to a place for a server.
fn restore(sandbox: &Sandbox, major: u32, id: &str) -> Server {
    let vacant = Server::vacant(major);
    let (data, spaces) = (vacant.data(), vacant.data().with_file_name("spaces"));
    let (data, spaces) = (data.to_str().unwrap(), spaces.to_str().unwrap());
    let args = ["restore", "demo/pg", "--backup", id, "--to", data, "--tablespaces", spaces];
    sandbox.run_with_key(&args).expect(0);
    vacant
}

/// Restores one backup, has PostgreSQL's own programs look at it, and starts it.
fn started(sandbox: &Sandbox, major: u32, id: &str) -> Server {
    let mut copy = restore(sandbox, major, id);
    verify(&copy);
    open(&mut copy);
    copy.run("pg_amcheck", &["--all", "--install-missing"]).expect(0);
    copy
}

fn count(server: &Server, database: &str, table: &str) -> String {
    server.value(database, &format!("SELECT count(*) || ' ' || coalesce(sum(n), 0) FROM {table}"))
}

/// Bytes of a backup's own objects.
fn own_bytes(sandbox: &Sandbox, id: &str) -> u64 {
    let directory = sandbox.path("repo/demo/sources/pg/data").join(id);
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

fn shown(sandbox: &Sandbox, id: &str) -> serde_json::Value {
    sandbox.run(&["show", id, "--output", "json"]).expect(0).json()
}

#[test]
fn every_member_of_a_chain_comes_back() {
    for major in ALL {
        let Some(server) = server(major) else { continue };
        let place = server.directory("space");
        server.create_database("other");
        server.sql_each(
            "postgres",
            &[
                &format!("CREATE TABLESPACE elsewhere LOCATION '{}'", place.display()),
                "CREATE TABLE far TABLESPACE elsewhere AS SELECT generate_series(1, 50000) AS n",
                "CREATE TABLE grows AS SELECT generate_series(1, 50000) AS n",
                "CREATE TABLE shrinks AS SELECT generate_series(1, 50000) AS n",
                "CREATE TABLE goes AS SELECT generate_series(1, 50000) AS n",
                "CREATE TABLE stays AS SELECT generate_series(1, 50000) AS n",
                "CREATE TABLE empties AS SELECT generate_series(1, 50000) AS n",
                "CREATE INDEX ON far (n)",
            ],
        );
        server.sql("other", "CREATE TABLE beyond AS SELECT generate_series(1, 30000) AS n");
        let load = Load::on(&server);
        let sandbox = sandbox(&server, major != 18);
        let tables = ["far", "grows", "shrinks", "stays", "empties"];
        let mut chain = Vec::new();
        let rounds: [&[&str]; 4] = [
            &[],
            &[
                "INSERT INTO grows SELECT generate_series(1, 40000)",
                "DELETE FROM shrinks WHERE n > 20000",
                "DROP TABLE goes",
                "TRUNCATE empties",
                "UPDATE far SET n = n + 1 WHERE n % 1000 = 0",
                "CREATE TABLE comes AS SELECT generate_series(1, 20000) AS n",
                "CREATE DATABASE later",
            ],
            &[
                "VACUUM shrinks",
                "INSERT INTO empties SELECT generate_series(1, 100)",
                "UPDATE comes SET n = n + 1 WHERE n < 100",
                "DROP DATABASE later",
                "CREATE INDEX ON grows (n)",
            ],
            &[
                "INSERT INTO shrinks SELECT generate_series(1, 60000)",
                "INSERT INTO empties SELECT generate_series(1, 50000)",
                "VACUUM FULL far",
                "TRUNCATE grows",
            ],
        ];
        for (round, statements) in rounds.iter().enumerate() {
            server.sql_each("postgres", statements);
            server.sql(
                "other",
                &format!("INSERT INTO beyond SELECT generate_series(1, {round} * 100)"),
            );
            let mut counts: Vec<(&str, &str, String)> =
                tables.iter().map(|t| ("postgres", *t, count(&server, "postgres", t))).collect();
            counts.push(("other", "beyond", count(&server, "other", "beyond")));
            let id = match round {
                0 => backup(&sandbox, "full").0,
                _ => incremental(&sandbox),
            };
            chain.push((id, counts));
        }
        drop(load);
        let last = shown(&sandbox, &chain[3].0);
        assert!(last["cluster"]["layered"].as_u64().unwrap() > 0, "{last}");
        sandbox.run_with_key(&["verify", "--depth", "content"]).expect(0);
        for (id, counts) in &chain {
            let copy = started(&sandbox, major, id);
            check_ledger(&copy);
            for (database, table, expected) in counts {
                let found = count(&copy, database, table);
                assert_eq!(found, *expected, "{table} in {id} of {major}");
            }
            let has = |table: &str| {
                copy.value("postgres", &format!("SELECT to_regclass('{table}') IS NOT NULL")) == "t"
            };
            assert_eq!(has("goes"), *id == chain[0].0);
            assert_eq!(has("comes"), *id != chain[0].0);
        }

        // One file alone is whole, as a file and as a stream.
        let copy = restore(&sandbox, major, &chain[3].0);
        let node = server.value("postgres", "SELECT pg_relation_filepath('pgbench_accounts')");
        let whole = fs::read(copy.data().join(&node)).unwrap();
        let out = sandbox.path("one");
        let one = ["restore", "demo/pg", "--path", &node, "--to"];
        let to_out = [&one[..], &[out.to_str().unwrap()]].concat();
        sandbox.run_with_key(&to_out).expect(0);
        assert!(fs::read(out.join(&node)).unwrap() == whole);
        let mut command =
            sandbox.command(&[&one[..], &["-", "--identity", "recovery.key"]].concat());
        assert!(command.output().unwrap().stdout == whole);

        // What the last one needs stays when older ones expire.
        for (id, _) in &chain[..3] {
            sandbox.run(&["delete", id, "--yes"]).expect(0);
        }
        let mut command = sandbox.command(&["prune", "--yes"]);
        command.env("BACKSTAY_TUNING", "grace=0.5,silence=1,window=60,linger=0.5");
        Ran::from(&command.output().unwrap()).expect(0);
        std::thread::sleep(std::time::Duration::from_millis(1100));
        Ran::from(&command.output().unwrap()).expect(0);
        assert_eq!(listed(&sandbox), 1);
        sandbox.run_with_key(&["verify", "--depth", "content"]).expect(0);
        let copy = started(&sandbox, major, &chain[3].0);
        check_ledger(&copy);
        for (database, table, expected) in &chain[3].1 {
            assert_eq!(count(&copy, database, table), *expected, "{table} of {major}");
        }
        // And the next one builds on it.
        let id = incremental(&sandbox);
        drop(started(&sandbox, major, &id));
    }
}

#[test]
fn a_small_change_is_a_small_backup() {
    for major in ALL {
        let Some(server) = server(major) else { continue };
        server.sql_each(
            "postgres",
            &[
                "CREATE TABLE t (id int PRIMARY KEY, n int, text text) WITH (fillfactor = 90)",
                "INSERT INTO t SELECT i, 0, md5(i::text) || md5((-i)::text) || md5((i * 7)::text) \
                 FROM generate_series(1, 600000) AS i",
                "VACUUM (FREEZE) t",
                "CHECKPOINT",
            ],
        );
        let sandbox = sandbox(&server, false);
        let (full, _) = backup(&sandbox, "full");
        // Nothing happened: no wait, and next to nothing is stored.
        let idle = incremental(&sandbox);
        server.sql("postgres", "UPDATE t SET n = 1 WHERE id % 110 = 0 AND id < 540000");
        let changed = server.value(
            "postgres",
            "SELECT round(100.0 * count(DISTINCT (ctid::text::point)[0]) / \
             (pg_relation_size('t') / 8192), 1) FROM t WHERE n = 1",
        );
        let all = changed.parse::<f64>().unwrap();
        assert!(all > 30.0, "many pages: {changed} %");
        incremental(&sandbox);
        server.sql("postgres", "UPDATE t SET n = 2 WHERE id < 6000");
        let small = incremental(&sandbox);
        let [whole, none, little] = [&full, &idle, &small].map(|id| own_bytes(&sandbox, id));
        assert!(none * 100 <= whole * 2, "{major}: {none} of {whole}");
        assert!(little * 100 <= whole * 3, "{major}: {little} of {whole}");
        // What many pages changed of comes in parts, and all of it is there as a stream too.
        let copy = started(&sandbox, major, &small);
        let node = server.value("postgres", "SELECT pg_relation_filepath('t')");
        let plain = restore(&sandbox, major, &small);
        let args = ["restore", "demo/pg", "--path", &node, "--to", "-"];
        let streamed = sandbox.command(&args).output().unwrap().stdout;
        assert!(streamed == fs::read(plain.data().join(&node)).unwrap());
        assert_eq!(copy.value("postgres", "SELECT count(*) FROM t WHERE n = 2"), "5999");
    }
}

#[test]
fn what_cannot_be_built_on_gives_a_full_and_a_reason() {
    let full_because = |sandbox: &Sandbox, why: &str| {
        let (id, ran) = backup(sandbox, "incremental");
        assert!(id.contains("-full-") && ran.stderr.contains(why), "{id}\n{}", ran.stderr);
        let intents = sandbox.path("repo/demo/sources/pg/intent");
        assert!(!intents.exists() || fs::read_dir(intents).unwrap().next().is_none());
        id
    };
    for major in ALL {
        let Some(mut server) = server(major) else { continue };
        let sandbox = sandbox(&server, true);
        let (id, _) = backup(&sandbox, "incremental");
        assert!(id.contains("-full-"), "{id}");
        incremental(&sandbox);
        // What the next one needs is gone.
        let name = if major >= 17 { "backup_manifest.zst.age" } else { "pages.zst.age" };
        let newest = newest_with(&sandbox, name);
        fs::remove_file(&newest).unwrap();
        let id = full_because(&sandbox, "are damaged");
        // It is there and altered.
        let path = sandbox.path("repo/demo/sources/pg/data").join(&id).join(name);
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&path, &bytes).unwrap();
        full_because(&sandbox, "takes a full backup");
        // Without the key for it.
        let policy = fs::read_to_string(sandbox.path("policy.yaml")).unwrap();
        let at = policy.find(", writer_identity").unwrap();
        let end = at + policy[at..].find('}').unwrap() + 2;
        let without = format!("{}{}", &policy[..at], &policy[end..]);
        fs::write(sandbox.path("policy.yaml"), without).unwrap();
        full_because(&sandbox, "takes a full backup");
        fs::write(sandbox.path("policy.yaml"), policy).unwrap();
        // Damage is not built on, and neither is what has no checksums where there are some now.
        backup(&sandbox, "full");
        incremental(&sandbox);
        server.sql("postgres", "CREATE TABLE bad AS SELECT generate_series(1, 5000) AS n");
        let node = server.value("postgres", "SELECT pg_relation_filepath('bad')");
        let damage = |server: &mut Server, bytes: &[u8]| {
            server.stop();
            let file = fs::OpenOptions::new().write(true).open(server.data().join(&node)).unwrap();
            file.write_all_at(bytes, 3 * 8192 + 5000).unwrap();
            drop(file);
            server.boot();
            connect(&sandbox, &server.connection("postgres"), true, "");
        };
        server.stop();
        let kept = fs::read(server.data().join(&node)).unwrap()[3 * 8192 + 5000..][..6].to_vec();
        server.boot();
        damage(&mut server, b"damage");
        let id = incremental(&sandbox);
        assert_eq!(shown(&sandbox, &id)["tainted"]["pages"], 1, "{major}");
        damage(&mut server, &kept);
        full_because(&sandbox, "has damaged pages");
        incremental(&sandbox);
        server.stop();
        let data = server.data();
        let ran = server.run("pg_checksums", &["--disable", "-N", "-D", data.to_str().unwrap()]);
        ran.expect(0);
        server.boot();
        connect(&sandbox, &server.connection("postgres"), true, "");
        full_because(&sandbox, "page checksums were switched");
        if major >= 17 {
            incremental(&sandbox);
            server.sql("postgres", "ALTER SYSTEM SET summarize_wal = off");
            server.sql("postgres", "SELECT pg_reload_conf()");
            std::thread::sleep(std::time::Duration::from_millis(500));
            full_because(&sandbox, "`summarize_wal` is off");
            // On again, but not for all of the time since.
            server.sql("postgres", "CREATE TABLE t AS SELECT generate_series(1, 1000) AS n");
            server.sql("postgres", "SELECT pg_switch_wal()");
            server.sql("postgres", "CHECKPOINT");
            for summary in fs::read_dir(server.data().join("pg_wal/summaries")).unwrap() {
                fs::remove_file(summary.unwrap().path()).unwrap();
            }
            server.sql("postgres", "ALTER SYSTEM SET summarize_wal = on");
            server.sql("postgres", "SELECT pg_reload_conf()");
            let (id, ran) = backup(&sandbox, "incremental");
            drop(started(&sandbox, major, &id));
            assert!(id.contains("-incr-") || ran.stderr.contains("summar"), "{}", ran.stderr);
        }
    }
}

fn newest_with(sandbox: &Sandbox, name: &str) -> PathBuf {
    let mut found = sandbox.objects();
    found.retain(|path| path.ends_with(name));
    sandbox.path("repo").join(found.pop().unwrap())
}

#[test]
fn an_incremental_is_proven_by_starting_it() {
    for major in ALL {
        let Some(this) = Archiving::start(major, true) else { continue };
        this.server.sql("postgres", "CREATE TABLE t AS SELECT generate_series(1, 50000) AS n");
        this.run(&["backup", "demo/pg"]).expect(0);
        this.server.sql("postgres", "UPDATE t SET n = 0 WHERE n < 300");
        let ran = this.run(&["backup", "demo/pg"]).expect(0);
        assert!(ran.stdout.contains("-incr-"), "{}", ran.stderr);
        let scratch = this.sandbox.path("scratch");
        fs::create_dir_all(&scratch).unwrap();
        this.give(&scratch);
        let programs = this.server.tool("postgres").parent().unwrap().display().to_string();
        let scratch = scratch.to_str().unwrap();
        let mut args = vec!["verify", "demo/pg", "--depth", "restore", "--scratch", scratch];
        args.extend(["--programs", &programs, "--identity", "recovery.key"]);
        let ran = this.run(&args).expect(0);
        assert!(ran.stdout.contains("pg_amcheck found nothing wrong"), "{}", ran.stdout);
    }
}

#[test]
fn a_damaged_layer_is_named() {
    for major in ALL {
        let Some(server) = server(major) else { continue };
        server.sql("postgres", "CREATE TABLE t AS SELECT generate_series(1, 100000) AS n");
        let sandbox = sandbox(&server, false);
        backup(&sandbox, "full");
        server.sql("postgres", "UPDATE t SET n = 0 WHERE n < 2000");
        let first = incremental(&sandbox);
        server.sql("postgres", "UPDATE t SET n = 1 WHERE n > 99000");
        incremental(&sandbox);
        let node = server.value("postgres", "SELECT pg_relation_filepath('t')");
        let segment = sandbox.path("repo/demo/sources/pg/data").join(&first).join("000001.tar.zst");
        let kept = fs::read(&segment).unwrap();
        let mut bytes = kept.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        fs::write(&segment, &bytes).unwrap();
        let ran = sandbox.run(&["verify", "--depth", "content"]).expect(5);
        assert!(ran.stdout.contains("000001.tar.zst"), "{}", ran.stdout);
        let vacant = Server::vacant(major);
        let to = vacant.data();
        let ran = sandbox.run(&["restore", "demo/pg", "--to", to.to_str().unwrap()]).expect(5);
        assert!(!to.join("global/pg_control").exists(), "{}", ran.stderr);
        let args = ["restore", "demo/pg", "--path", &node, "--to", "-"];
        let ran = sandbox.run(&args);
        assert_eq!(ran.code, 5, "{}", ran.stderr);
        fs::write(&segment, &kept).unwrap();
        sandbox.run(&["verify", "--depth", "content"]).expect(0);
    }
}

#[test]
fn an_increment_that_is_cut_off_is_none() {
    for major in ALL {
        let Some(mut server) = server(major) else { continue };
        server.run("pgbench", &["-i", "-q", "-s", "3", "postgres"]).expect(0);
        let sandbox = sandbox_as(&server.connection("postgres"), true, SLOW);
        backup(&sandbox, "full");
        server.sql("postgres", "UPDATE pgbench_accounts SET abalance = 1");
        let child = slow_backup(&sandbox, &server);
        server.kill();
        let ran = finish(child);
        assert!(ran.stderr.contains("failed to back up demo/pg"), "{}", ran.stderr);
        assert_eq!(listed(&sandbox), 1, "PostgreSQL {major}");
        server.boot();
        while server.run("pg_isready", &["-q"]).code != 0 {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        connect(&sandbox, &server.connection("postgres"), true, "");
        let id = incremental(&sandbox);
        let copy = started(&sandbox, major, &id);
        let sum = copy.value("postgres", "SELECT sum(abalance) FROM pgbench_accounts");
        assert_eq!(sum, "300000");
    }
}

#[test]
fn a_chain_comes_back_by_hand() {
    if !has_tools(&["age", "zstd", "tar", "python3"]) {
        return;
    }
    for major in ALL {
        let Some(server) = server(major) else { continue };
        let sandbox = sandbox(&server, major != 17);
        let change = |statement: &str| server.sql("postgres", statement);
        change("CREATE TABLE t AS SELECT generate_series(1, 200000) AS n");
        backup(&sandbox, "full");
        change("UPDATE t SET n = 0 WHERE n < 1000");
        incremental(&sandbox);
        change("UPDATE t SET n = 1 WHERE n > 199000");
        change("CREATE TABLE u AS SELECT generate_series(1, 20000) AS n");
        incremental(&sandbox);
        change("UPDATE u SET n = 1 WHERE n < 10");
        change("DELETE FROM t WHERE n > 100000");
        change("VACUUM t");
        let last = incremental(&sandbox);
        let expected = restore(&sandbox, major, &last);
        let by_hand = sandbox.path("by hand");
        let mut command = std::process::Command::new("sh");
        command.arg(sandbox.path("repo/restore.sh"));
        if major != 17 {
            command.args(["-i", "recovery.key"]);
        }
        command.current_dir(sandbox.root()).args(["repo", "demo/pg", "latest"]).arg(&by_hand);
        Ran::from(&command.output().unwrap()).expect(0);
        assert!(!sandbox.path("by hand.layer").exists());
        let made_by_restore = |path: &Path| {
            let path = path.to_str().unwrap();
            path.starts_with("pg_wal/")
                || ["backup_manifest", "postgresql.auto.conf", "recovery.signal"].contains(&path)
        };
        let [ours, theirs] = [&expected.data(), &by_hand].map(|root| {
            files(root).into_iter().filter(|path| !made_by_restore(path)).collect::<BTreeSet<_>>()
        });
        assert_eq!(ours, theirs);
        for path in ours {
            let same = fs::read(expected.data().join(&path)).unwrap()
                == fs::read(by_hand.join(&path)).unwrap();
            assert!(same, "{} of {major}", path.display());
        }
        // Who wrote a reader from the specification alone gets the same.
        let out = sandbox.path("out");
        let read = |verb: &str, more: &[&str]| {
            let reader = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/foreign/reader.py");
            let mut command = std::process::Command::new("python3");
            command.current_dir(sandbox.root()).arg(reader).args([verb, "repo", "demo/pg", &last]);
            if major != 17 {
                command.args(["--identity", "recovery.key"]);
            }
            Ran::from(&command.args(more).output().unwrap()).expect(0);
        };
        read("verify", &[]);
        read("restore", &["out"]);
        for path in files(&out).into_iter().filter(|path| path.starts_with("base")) {
            let same = fs::read(expected.data().join(&path)).unwrap_or_default()
                == fs::read(out.join(&path)).unwrap();
            assert!(same, "{} of {major}", path.display());
        }
        // And so does who has a copy of the repository.
        let (from, to) = (sandbox.path("repo"), sandbox.path("elsewhere"));
        let (from, to) = (from.display().to_string(), to.display().to_string());
        sandbox.run_bare(&["copy", "--repository", &from, "--to", &to]).expect(0);
        let alone = ["verify", "--depth", "content", "--repository", &to, "--identity"];
        sandbox.run_bare(&[&alone[..], &["recovery.key"]].concat()).expect(0);
    }
}

/// Restores the newest backup, incremental or not, and looks at it.
fn check_newest(sandbox: &Sandbox, server: &Server, id: &str) {
    let copy = started(sandbox, server.major, id);
    check_ledger(&copy);
}

#[test]
fn a_standby_is_backed_up_incrementally_and_so_is_who_was_promoted() {
    for major in ALL {
        let Some(server) = server(major) else { continue };
        let load = Load::on(&server);
        let standby = standby_of(&server);
        let sandbox = sandbox(&standby, true);
        backup(&sandbox, "full");
        server.run("pgbench", &["-n", "-t", "500", "postgres"]).expect(0);
        server.sql("postgres", "CHECKPOINT");
        let target = server.value("postgres", "SELECT pg_current_wal_lsn()");
        let reached = format!("SELECT pg_last_wal_replay_lsn() >= '{target}'");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while standby.value("postgres", &reached) != "t" {
            assert!(std::time::Instant::now() < deadline);
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let id = incremental(&sandbox);
        check_newest(&sandbox, &standby, &id);
        drop(load);
        // At once again, there may be nothing that the server could compare: it says so.
        let (id, ran) = backup(&sandbox, "incremental");
        assert!(id.contains("-incr-") || ran.stderr.contains("takes a full"), "{}", ran.stderr);
        check_newest(&sandbox, &standby, &id);
        // On the timeline that came of it.
        standby.sql("postgres", "SELECT pg_promote()");
        standby.sql("postgres", "UPDATE pgbench_tellers SET filler = 'x'");
        let (id, ran) = backup(&sandbox, "incremental");
        assert!(id.contains("-incr-") || ran.stderr.contains("takes a full"), "{}", ran.stderr);
        eprintln!("{major}: {id} {}", ran.stderr);
        check_newest(&sandbox, &standby, &id);
        let shown = shown(&sandbox, &id);
        assert_eq!(shown["recovery_points"][0]["timeline"], 2);
    }
}

#[test]
fn the_page_for_restoring_by_hand_has_the_program_that_the_script_has() {
    let page = include_str!("../src/store/embedded/RESTORE.md");
    let script = include_str!("../src/store/embedded/restore.sh");
    let program = page.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
    assert!(program.contains("INCREMENTAL") && script.contains(program));
}

/// Regular files below a directory, relative to it.
fn files(root: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut todo = vec![root.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else {
                found.insert(path.strip_prefix(root).unwrap().to_owned());
            }
        }
    }
    found
}
