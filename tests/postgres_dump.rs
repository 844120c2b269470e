//! Dumps of PostgreSQL databases, with real servers.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use crate::common::postgres::{ALL, Server};
use crate::common::{Ran, Sandbox};

/// Names that a shell, a file system or a connection string would take for something else.
const ODD: [&str; 9] = [
    "plain",
    "with space",
    "it's \"quoted\"",
    "../up",
    "..",
    "-dash",
    "a=b",
    "日本語",
    "back\\slash%41",
];

/// A sandbox with a source `pg`, described by `settings` beside its connection.
fn sandbox(server: &Server, settings: &str) -> Sandbox {
    sandbox_at(server, "postgres", settings)
}

fn sandbox_at(server: &Server, database: &str, settings: &str) -> Sandbox {
    sandbox_as(server, &server.connection(database), settings)
}

/// The programs of the server's own version.
fn sandbox_as(server: &Server, connection: &str, settings: &str) -> Sandbox {
    let programs = format!("programs: {}", server.tool("pg_dump").parent().unwrap().display());
    let comma = if settings.is_empty() { "" } else { ", " };
    sandbox_with(connection, &format!("{programs}{comma}{settings}"))
}

fn sandbox_with(connection: &str, settings: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    let connection = connection.replace('\'', "''");
    let comma = if settings.is_empty() { "" } else { ", " };
    let source =
        format!("  pg: {{ postgres_dump: {{ connection: '{connection}'{comma}{settings} }} }}\n");
    sandbox.write_policy(false, &source);
    sandbox.run(&["init"]).expect(0);
    sandbox
}

fn backup(sandbox: &Sandbox) -> Ran {
    sandbox.run(&["backup", "demo/pg"])
}

fn backups(sandbox: &Sandbox) -> usize {
    let list = sandbox.run(&["list", "demo/pg", "--output", "json"]).expect(0).json();
    list.as_array().unwrap().len()
}

fn paths(sandbox: &Sandbox) -> Vec<String> {
    let ran = sandbox.run(&["ls", "demo/pg"]).expect(0);
    ran.stdout.lines().map(str::to_owned).collect()
}

fn read(sandbox: &Sandbox, path: &str) -> Vec<u8> {
    let out =
        sandbox.command(&["restore", "demo/pg", "--to", "-", "--path", path]).output().unwrap();
    assert!(out.status.success(), "{path}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

fn json(sandbox: &Sandbox, path: &str) -> Value {
    serde_json::from_slice(&read(sandbox, path)).unwrap()
}

/// Rows of a table as its facts have them.
fn rows(facts: &Value, table: &str) -> u64 {
    let tables = facts["tables"].as_array().unwrap();
    let found = tables.iter().find(|found| found["name"] == table);
    found.unwrap_or_else(|| panic!("no {table} in {facts}"))["rows"].as_u64().unwrap()
}

#[test]
fn all_databases_of_every_version_are_dumped_whatever_their_names() {
    for major in ALL {
        let Some(server) = Server::start(major) else { return };
        for (number, name) in ODD.iter().enumerate() {
            server.create_database(name);
            server
                .sql(name, &format!("CREATE TABLE t AS SELECT generate_series(1, {number}) AS n"));
        }
        server.sql("postgres", "CREATE ROLE shut NOLOGIN; ALTER ROLE shut SET work_mem = '7MB'");
        server.sql_each("postgres", &["CREATE DATABASE off ALLOW_CONNECTIONS false"]);
        let sandbox = sandbox(&server, "databases: all, exclude: [postgres], checksums: true");
        let ran = backup(&sandbox).expect(0);
        assert!(ran.stderr.contains("database `off` is not dumped"), "{}", ran.stderr);
        let listed = paths(&sandbox);
        assert_eq!(listed.iter().filter(|path| path.starts_with("dumps/")).count(), ODD.len());
        assert!(!listed.iter().any(|path| path.contains("template") || path.contains("postgres")));
        let overview = json(&sandbox, "server.json");
        assert_eq!(overview["databases"].as_array().unwrap().len(), ODD.len());
        assert_eq!(overview["left_out"][0]["database"], "off");
        let globals = String::from_utf8(read(&sandbox, "globals.sql")).unwrap();
        assert!(globals.contains("CREATE ROLE shut") && globals.contains("SCRAM-SHA-256$"));
        // PostgreSQL's own programs take every one of them.
        sandbox.restore_all("out");
        for (number, name) in ODD.iter().enumerate() {
            let stem = backstay::source::postgres::dump::encode_name(name);
            let facts = json(&sandbox, &format!("facts/{stem}.json"));
            assert_eq!(
                (rows(&facts, "t"), facts["database"].as_str()),
                (number as u64, Some(*name))
            );
            let copy = format!("copy {number}");
            server.create_database(&copy);
            let dump = sandbox.path(format!("out/dumps/{stem}.pgc"));
            let dump = dump.to_str().unwrap();
            server
                .run("pg_restore", &["--exit-on-error", "-d", &format!("dbname='{copy}'"), dump])
                .expect(0);
            assert_eq!(server.value(&copy, "SELECT count(*) FROM t"), number.to_string());
        }
        sandbox.run(&["verify", "--depth", "content"]).expect(0);
    }
}

impl Sandbox {
    /// Restores `demo/pg` as files.
    #[track_caller]
    fn restore_all(&self, out: &str) {
        self.run(&["restore", "demo/pg", "--to", out]).expect(0);
        assert!(Path::new(&self.path(out)).join("server.json").exists());
        assert!(fs::read_dir(self.path(out).join("dumps")).unwrap().count() > 0);
    }
}

/// A database with most of what can be in one.
fn fill(server: &Server, name: &str) {
    server.create_database(name);
    server.sql(
        name,
        "CREATE ROLE owner LOGIN PASSWORD 'x'; CREATE ROLE reader; GRANT reader TO owner; \
         ALTER ROLE owner SET work_mem = '5MB'; \
         CREATE SCHEMA app AUTHORIZATION owner; CREATE SCHEMA other; \
         CREATE TABLE app.person (id serial PRIMARY KEY, name text, born date); \
         ALTER TABLE app.person OWNER TO owner; GRANT SELECT ON app.person TO reader; \
         INSERT INTO app.person (name, born) SELECT 'Zoë ' || n, date '2000-01-01' + n FROM generate_series(1, 1000) n; \
         CREATE TABLE app.\"odd \"\"table\" (\"select\" int, backstay_row text); \
         INSERT INTO app.\"odd \"\"table\" SELECT n, E'tab\\t\\\\ ' || n FROM generate_series(1, 77) n; \
         CREATE UNLOGGED TABLE other.cache AS SELECT generate_series(1, 55) n; \
         CREATE TABLE other.parent (n int, at int) PARTITION BY RANGE (at); \
         CREATE TABLE other.low PARTITION OF other.parent FOR VALUES FROM (0) TO (100); \
         CREATE TABLE other.high PARTITION OF other.parent FOR VALUES FROM (100) TO (1000); \
         INSERT INTO other.parent SELECT n, n FROM generate_series(0, 299) n; \
         CREATE TABLE other.nothing (); INSERT INTO other.nothing DEFAULT VALUES; \
         CREATE VIEW app.names AS SELECT name FROM app.person; \
         CREATE MATERIALIZED VIEW app.many AS SELECT count(*) FROM app.person; \
         CREATE INDEX ON app.person (born); CREATE EXTENSION hstore; \
         SELECT lo_from_bytea(0, decode(repeat('ab', 5000), 'hex')); \
         CREATE FUNCTION app.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    );
    let named = name.replace('"', "\"\"");
    for statement in [
        "ALTER DATABASE \"{}\" OWNER TO owner",
        "ALTER DATABASE \"{}\" SET search_path TO app, \"$user\", public",
        "ALTER DATABASE \"{}\" SET app.note TO 'a, \\\\ b'",
        "ALTER ROLE owner IN DATABASE \"{}\" SET statement_timeout TO '9min'",
        "COMMENT ON DATABASE \"{}\" IS 'the app''s \\ data'",
        "REVOKE CONNECT ON DATABASE \"{}\" FROM PUBLIC",
        "GRANT CONNECT ON DATABASE \"{}\" TO reader WITH GRANT OPTION",
        "ALTER DATABASE \"{}\" CONNECTION LIMIT 17",
    ] {
        server.sql_each("postgres", &[&statement.replace("{}", &named)]);
    }
}

/// What `pg_dump` says of a database, without what differs from run to run.
fn plain(server: &Server, name: &str) -> String {
    let ran = server.run("pg_dump", &["-C", "-d", &format!("dbname='{name}'")]).expect(0);
    let own = |line: &&str| !line.starts_with("\\") && !line.starts_with("--");
    ran.stdout.lines().filter(own).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_database_comes_back_on_another_server_as_it_was() {
    for major in ALL {
        let (Some(server), Some(other)) = (Server::start(major), Server::start(major)) else {
            return;
        };
        fill(&server, "the app");
        let sandbox = sandbox_at(&server, "the app", "checksums: true");
        backup(&sandbox).expect(0);
        let to = other.connection("postgres");
        let ran = sandbox.run(&["restore", "demo/pg", "--to", &to]).expect(0);
        assert!(
            ran.stderr.contains("1 433 rows in 6 tables as in the snapshot, checksums equal"),
            "{}",
            ran.stderr
        );
        let (was, is) = (plain(&server, "the app"), plain(&other, "the app"));
        let differing: Vec<_> = was.lines().zip(is.lines()).filter(|(was, is)| was != is).collect();
        assert!(was == is, "what pg_dump says of both differs: {differing:#?}");
        let roles = "SELECT rolname, rolpassword, rolcanlogin, (SELECT string_agg(g.rolname, ',') FROM pg_auth_members m \
             JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = a.oid), (SELECT string_agg(setconfig::text, ',') \
             FROM pg_db_role_setting s WHERE s.setrole = a.oid) FROM pg_authid a WHERE rolname IN ('owner', 'reader') ORDER BY 1";
        assert_eq!(server.rows("postgres", roles), other.rows("postgres", roles));
        // A second time: it is there and has content.
        let ran = sandbox.run(&["restore", "demo/pg", "--to", &to]).expect(1);
        assert!(ran.stderr.contains("exists and is not empty"), "{}", ran.stderr);
        assert!(ran.stderr.contains("--database the app=the app_restored"), "{}", ran.stderr);
        // Beside it, with roles that are there already.
        let ran = sandbox
            .run(&[
                "restore",
                "demo/pg",
                "--to",
                &to,
                "--database",
                "the app=copy",
                "--output",
                "json",
            ])
            .expect(0);
        let report = ran.json();
        assert_eq!(report["postgres"]["databases"][0]["tables_equal"], 6, "{report}");
        assert_eq!(report["postgres"]["roles_made"].as_array().unwrap().len(), 0);
        // Into an empty one that somebody made.
        other.create_database("made");
        sandbox
            .run(&["restore", "demo/pg", "--to", &to, "--database", "the app=made", "--no-owner"])
            .expect(0);
        assert_eq!(
            other.value("made", "SELECT tableowner FROM pg_tables WHERE tablename = 'person'"),
            "postgres"
        );
        // A part.
        sandbox
            .run(&[
                "restore",
                "demo/pg",
                "--to",
                &to,
                "--database",
                "the app=part",
                "--table",
                "app.person",
                "--no-owner",
            ])
            .expect(0);
        assert_eq!(
            other.rows(
                "part",
                "SELECT schemaname, tablename FROM pg_tables WHERE schemaname !~ '^(pg_|inf)'"
            ),
            ["app|person"]
        );
        sandbox
            .run(&[
                "restore",
                "demo/pg",
                "--to",
                &to,
                "--database",
                "the app=schema",
                "--schema",
                "other",
            ])
            .expect(0);
        assert_eq!(other.value("schema", "SELECT count(*) FROM other.parent"), "300");
    }
}

#[test]
fn a_dump_of_an_old_server_comes_back_on_a_new_one_and_not_the_other_way() {
    let (Some(old), Some(new)) = (Server::start(15), Server::start(18)) else { return };
    fill(&old, "app");
    let sandbox = sandbox_at(&old, "app", "checksums: true");
    backup(&sandbox).expect(0);
    let programs = new.tool("pg_restore").parent().unwrap().display().to_string();
    let to = new.connection("postgres");
    sandbox.run(&["restore", "demo/pg", "--to", &to, "--programs", &programs]).expect(0);
    let back = sandbox_at(&new, "app", "");
    backup(&back).expect(0);
    let ran = back
        .run(&["restore", "demo/pg", "--to", &old.connection("postgres"), "--database", "app=x"])
        .expect(1);
    assert!(
        ran.stderr.contains("was dumped from PostgreSQL 18, and this server is 15"),
        "{}",
        ran.stderr
    );
    assert!(!old.databases().contains(&"x".to_owned()));
}

#[test]
fn a_swap_puts_the_restored_database_in_the_place_of_the_one_in_use() {
    let Some(server) = Server::start(17) else { return };
    fill(&server, "app");
    let sandbox = sandbox_at(&server, "app", "");
    backup(&sandbox).expect(0);
    server.sql("app", "DROP TABLE app.person CASCADE");
    let mut user = server.client("app");
    let ran = sandbox.run(&["restore", "demo/pg", "--to", "server", "--swap"]).expect(6);
    assert!(ran.stderr.contains("needs a confirmation"), "{}", ran.stderr);
    sandbox.run(&["restore", "demo/pg", "--to", "server", "--swap", "--dry-run"]).expect(0);
    assert_eq!(server.databases().len(), 4);
    let own = server.connection("app");
    let args = ["restore", "demo/pg", "--swap", "--yes", "--database", "app", "--to"];
    let ran = sandbox.run(&[&args[..], &[&own]].concat()).expect(2);
    assert!(ran.stderr.contains("dbname=postgres"), "{}", ran.stderr);
    // The server of the policy is reached by another database than the one to be renamed.
    let ran = sandbox.run(&["restore", "demo/pg", "--to", "server", "--swap", "--yes"]).expect(0);
    assert_eq!(server.value("app", "SELECT count(*) FROM app.person"), "1000");
    assert!(user.batch_execute("SELECT 1").is_err(), "who was connected is not any more");
    let aside =
        server.databases().into_iter().find(|name| name.starts_with("app_before_")).unwrap();
    assert!(ran.stderr.contains(&format!("DROP DATABASE \"{aside}\"")), "{}", ran.stderr);
    assert_eq!(server.databases().len(), 5);
    let closed = format!("SELECT datallowconn FROM pg_database WHERE datname = '{aside}'");
    assert_eq!(server.value("postgres", &closed), "f");
}

#[test]
fn what_is_damaged_or_refused_leaves_no_database_behind() {
    let Some(server) = Server::start(15) else { return };
    fill(&server, "app");
    let sandbox = sandbox_at(&server, "app", "");
    backup(&sandbox).expect(0);
    let to = server.connection("postgres");
    // Roles that are not there, and one that may not make them.
    server.sql("postgres", "CREATE ROLE small LOGIN CREATEDB");
    let Some(empty) = Server::start(15) else { return };
    empty.sql("postgres", "CREATE ROLE small LOGIN CREATEDB");
    let weak = empty.connection_as("small", "postgres");
    let ran = sandbox.run(&["restore", "demo/pg", "--to", &weak]).expect(1);
    assert!(ran.stderr.contains("--no-owner"), "{}", ran.stderr);
    assert_eq!(empty.databases().len(), 3);
    // The content of the dump is not what was backed up.
    let objects = sandbox.objects();
    let segment =
        objects.iter().find(|path| path.to_string_lossy().ends_with("000001.tar.zst")).unwrap();
    let segment = sandbox.path("repo").join(segment);
    let mut bytes = fs::read(&segment).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 0x55;
    fs::write(&segment, bytes).unwrap();
    let ran = sandbox.run(&["restore", "demo/pg", "--to", &to, "--database", "app=bad"]);
    assert!([1, 5].contains(&ran.code), "{}", ran.stderr);
    assert!(!server.databases().contains(&"bad".to_owned()), "{}", ran.stderr);
    // A password in the arguments, and servers that cannot take it.
    let ran = sandbox.run(&["restore", "demo/pg", "--to", "postgres://u:secret@h/d"]).expect(2);
    assert!(
        ran.stderr.contains("command line") && !ran.stderr.contains("secret"),
        "{}",
        ran.stderr
    );
    sandbox.run(&["restore", "demo/pg", "--to", "out", "--swap"]).expect(2);
    sandbox.run(&["restore", "demo/pg", "--to", &to, "--database", "nope"]).expect(1);
}

#[test]
fn dumps_in_directory_format_go_through_scratch_both_ways() {
    let Some(server) = Server::start(18) else { return };
    fill(&server, "app");
    let scratch = tempfile::tempdir().unwrap();
    let settings = format!(
        "databases: [app], jobs: 3, checksums: true, scratch: {}",
        scratch.path().display()
    );
    let sandbox = sandbox(&server, &settings);
    backup(&sandbox).expect(0);
    assert_eq!(
        fs::read_dir(scratch.path()).unwrap().count(),
        0,
        "the scratch directory is cleared"
    );
    assert!(paths(&sandbox).iter().any(|path| path == "dumps/app.pgd/toc.dat"));
    let to = server.connection("postgres");
    let args = ["restore", "demo/pg", "--to", &to, "--database", "app=copy"];
    let ran = sandbox.run(&args).expect(2);
    assert!(ran.stderr.contains("--scratch"), "{}", ran.stderr);
    let place = scratch.path().to_str().unwrap();
    sandbox.run(&[&args[..], &["--scratch", place, "--jobs", "3"]].concat()).expect(0);
    assert_eq!(server.value("copy", "SELECT count(*) FROM app.person"), "1000");
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    // PostgreSQL's own program, on the files.
    sandbox.restore_all("out");
    server.create_database("by hand");
    let dump = sandbox.path("out/dumps/app.pgd");
    server
        .run("pg_restore", &["--exit-on-error", "-j2", "-d", "by hand", dump.to_str().unwrap()])
        .expect(0);
    sandbox.run(&["backup", "demo/pg", "--dry-run"]).expect(0);
    assert_eq!(backups(&sandbox), 1);
}

/// A directory with PostgreSQL's programs, `pg_dump` among them as `script`, where `REAL` is the
/// real one.
fn programs(server: &Server, script: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["pg_dump", "pg_dumpall", "pg_restore"] {
        let real = server.tool(name);
        let path = dir.path().join(name);
        if name == "pg_dump" {
            let script = script.replace("REAL", &real.display().to_string());
            let guard = format!("[ \"$1\" != --version ] || exec {} --version", real.display());
            fs::write(&path, format!("#!/bin/bash\n{guard}\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        } else {
            std::os::unix::fs::symlink(real, path).unwrap();
        }
    }
    dir
}

#[test]
fn a_dump_that_fails_is_killed_cut_off_or_empty_commits_nothing() {
    let Some(server) = Server::start(17) else { return };
    fill(&server, "app");
    for (what, script, expected) in [
        ("fails at its end", "REAL \"$@\"; echo no luck >&2; exit 3", "no luck"),
        ("is killed", "REAL \"$@\" | head -c 3000; kill -9 $$", "signal: 9"),
        ("is cut off", "REAL \"$@\" | head -c 3000", "no whole archive"),
        ("loses its last byte", "REAL \"$@\" | head -c -1", "no whole archive"),
        ("has something before it", "echo hello; REAL \"$@\"", "no whole archive"),
        ("has something after it", "REAL \"$@\"; echo hello", "no whole archive"),
        ("is empty", "exit 0", "no whole archive"),
        ("never comes", "exec sleep 600", "after 2 seconds"),
        ("is another format", "REAL \"$@\" --format=tar", "no whole archive"),
    ] {
        let programs = programs(&server, script);
        let settings = format!(
            "timeout: {}, programs: {}",
            if what == "never comes" { "2s" } else { "1m" },
            programs.path().display()
        );
        let sandbox = sandbox_with(&server.connection("app"), &settings);
        let ran = backup(&sandbox).expect(1);
        assert!(ran.stderr.contains(expected), "{what}: {}", ran.stderr);
        assert!(ran.stderr.contains("failed to dump database `app`"), "{what}: {}", ran.stderr);
        assert_eq!(backups(&sandbox), 0, "{what}");
    }
    // Nobody is left behind in the server.
    let left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'backstay'";
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while server.value("postgres", left) != "0" {
        assert!(std::time::Instant::now() < deadline, "sessions are left behind");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn a_server_that_is_killed_under_a_dump_commits_nothing() {
    let Some(mut server) = Server::start(18) else { return };
    fill(&server, "app");
    // pg_dump has its snapshot and stops in the middle, so that the kill hits it there.
    let mark = tempfile::tempdir().unwrap();
    let script = format!(
        "REAL \"$@\" | {{ head -c 2000; touch {0}/begun; until [ -e {0}/go ]; do sleep 0.02; done; cat; }}; exit ${{PIPESTATUS[0]}}",
        mark.path().display()
    );
    server.sql("app", "CREATE TABLE big AS SELECT n, repeat(md5(n::text), 100) t FROM generate_series(1, 60000) n");
    let programs = programs(&server, &script);
    let settings = format!("programs: {}", programs.path().display());
    let sandbox = sandbox_with(&server.connection("app"), &settings);
    let child = sandbox
        .command(&["backup", "demo/pg"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    while !mark.path().join("begun").exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    server.kill();
    fs::write(mark.path().join("go"), "").unwrap();
    let ran = crate::common::finish(child).expect(1);
    assert!(ran.stderr.contains("failed to dump database `app`"), "{}", ran.stderr);
    assert_eq!(backups(&sandbox), 0);
    // It comes back, and the next one succeeds.
    server.boot();
    let sandbox = sandbox_at(&server, "app", "");
    backup(&sandbox).expect(0);
    assert_eq!(rows(&json(&sandbox, "facts/app.json"), "big"), 60000);
    // Too long for a tar member: slices, which come back like anything else.
    assert!(sandbox.objects().iter().any(|path| {
        let name = path.to_string_lossy();
        name.ends_with(".zst") && !name.ends_with(".tar.zst") && !name.contains("index")
    }));
    sandbox.run(&["verify", "--depth", "content"]).expect(0);
    let args = ["restore", "demo/pg", "--to", "server", "--database", "app=copy"];
    sandbox.run(&args).expect(0);
    assert_eq!(server.value("copy", "SELECT count(*) FROM big"), "60000");
    // Damage in it is found, and the database that was begun is gone.
    let objects = sandbox.objects();
    let large = objects
        .iter()
        .max_by_key(|path| fs::metadata(sandbox.path("repo").join(path)).unwrap().len());
    let large = sandbox.path("repo").join(large.unwrap());
    let mut bytes = fs::read(&large).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&large, bytes).unwrap();
    let args = ["restore", "demo/pg", "--to", "server", "--database", "app=bad"];
    sandbox.run(&args).expect(5);
    assert!(!server.databases().contains(&"bad".to_owned()));
}

#[test]
fn an_interrupted_dump_or_restore_leaves_nothing_behind() {
    let Some(server) = Server::start(15) else { return };
    fill(&server, "app");
    let mark = tempfile::tempdir().unwrap();
    let begun = mark.path().join("begun");
    let paused = format!("touch {}; sleep 600", begun.display());
    let interrupt = |child: std::process::Child| {
        while !begun.exists() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        fs::remove_file(&begun).unwrap();
        crate::common::finish(child).expect(130);
    };
    let spawn = |sandbox: &Sandbox, args: &[&str]| {
        let mut command = sandbox.command(args);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
        command.spawn().unwrap()
    };
    let programs = programs(&server, &format!("REAL \"$@\" | head -c 3000; {paused}"));
    let settings = format!("programs: {}", programs.path().display());
    let sandbox = sandbox_with(&server.connection("app"), &settings);
    interrupt(spawn(&sandbox, &["backup", "demo/pg"]));
    assert_eq!(backups(&sandbox), 0);
    let sandbox = sandbox_at(&server, "app", "");
    backup(&sandbox).expect(0);
    let place = programs.path().join("pg_restore");
    fs::remove_file(&place).unwrap();
    let real = server.tool("pg_restore").display().to_string();
    let guard = format!("[ \"$1\" != --version ] || exec {real} --version");
    fs::write(&place, format!("#!/bin/bash\n{guard}\n{real} \"$@\"; {paused}\n")).unwrap();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
    let place = programs.path().display().to_string();
    let args =
        ["restore", "demo/pg", "--to", "server", "--database", "app=new", "--programs", &place];
    interrupt(spawn(&sandbox, &args));
    assert!(!server.databases().contains(&"new".to_owned()));
}

#[test]
fn programs_that_are_too_old_or_missing_are_asked_for_by_name() {
    let (Some(old), Some(new)) = (Server::start(15), Server::start(18)) else { return };
    let place = old.tool("pg_dump").parent().unwrap().display().to_string();
    let sandbox = sandbox_with(&new.connection("postgres"), &format!("programs: {place}"));
    let ran = backup(&sandbox).expect(1);
    assert!(
        ran.stderr.contains("pg_dump 15.") && ran.stderr.contains("needs 18 or newer"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("postgresql-client-18"), "{}", ran.stderr);
    let ran = sandbox.run(&["check"]).expect(1);
    assert!(ran.stdout.contains("needs 18 or newer"), "{}", ran.stdout);
    let sandbox = sandbox_with(&new.connection("postgres"), "programs: /nonexistent");
    assert!(backup(&sandbox).expect(1).stderr.contains("there is no pg_dump in /nonexistent"));
    // A newer one will do for an older server.
    let sandbox = sandbox_as(&new, &old.connection("postgres"), "");
    backup(&sandbox).expect(0);
}

#[test]
fn counts_are_those_of_the_dump_while_others_write() {
    for major in ALL {
        let Some(server) = Server::start(major) else { return };
        server.create_database("bench");
        server.run("pgbench", &["-i", "-q", "-s", "2", "bench"]).expect(0);
        let mut load = std::process::Command::new(server.tool("pgbench"))
            .args([
                "-c",
                "4",
                "-T",
                "120",
                "-n",
                "bench",
                "-U",
                "postgres",
                "-p",
                &server.port.to_string(),
                "-h",
            ])
            .arg(server.socket())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while server.value("bench", "SELECT count(*) > 50 FROM pgbench_history") != "t" {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let sandbox = sandbox_at(&server, "bench", "checksums: true");
        for _ in 0..3 {
            backup(&sandbox).expect(0);
        }
        load.kill().unwrap();
        load.wait().unwrap();
        let list = sandbox.run(&["list", "demo/pg", "--output", "json"]).expect(0).json();
        let mut before = 0;
        for (number, backup) in list.as_array().unwrap().iter().enumerate() {
            let id = backup["backup"].as_str().unwrap();
            let name = format!("bench=copy{number}");
            let ran = sandbox
                .run(&[
                    "restore",
                    "demo/pg",
                    "--backup",
                    id,
                    "--to",
                    "server",
                    "--database",
                    &name,
                    "--output",
                    "json",
                ])
                .expect(0)
                .json();
            assert_eq!(ran["postgres"]["databases"][0]["checksums_equal"], 4, "{ran}");
            // The sums that pgbench keeps equal, in the copy.
            let copy = format!("copy{number}");
            let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers), \
                (SELECT sum(bbalance) FROM pgbench_branches), (SELECT sum(delta) FROM pgbench_history)";
            let sums = server.rows(&copy, sums).remove(0);
            let all: Vec<&str> = sums.split('|').collect();
            assert!(all.iter().all(|sum| *sum == all[0]), "{sums}");
            let history: u64 =
                server.value(&copy, "SELECT count(*) FROM pgbench_history").parse().unwrap();
            assert!(history > before, "nothing was written between two backups");
            before = history;
        }
    }
}

#[test]
fn a_role_that_cannot_read_everything_is_told_what_it_needs() {
    for major in ALL {
        let Some(server) = Server::start(major) else { return };
        fill(&server, "app");
        server.sql("app", "CREATE ROLE backup LOGIN; ALTER TABLE app.person ENABLE ROW LEVEL SECURITY; GRANT CONNECT ON DATABASE app TO backup");
        let sandbox = sandbox_as(&server, &server.connection_as("backup", "app"), "");
        let ran = sandbox.run(&["check"]).expect(1);
        for statement in [
            "GRANT pg_read_all_data TO \"backup\"",
            "ALTER ROLE \"backup\" BYPASSRLS",
            "GRANT SELECT ON LARGE OBJECT",
        ] {
            assert!(ran.stdout.contains(statement), "{statement}: {}", ran.stdout);
        }
        let ran = backup(&sandbox).expect(1);
        assert!(ran.stderr.contains("permission denied"), "{}", ran.stderr);
        assert_eq!(backups(&sandbox), 0);
        server.sql("app", "GRANT pg_read_all_data TO backup");
        let ran = backup(&sandbox).expect(1);
        assert!(
            ran.stderr.contains("row-level security") || ran.stderr.contains("large object"),
            "{}",
            ran.stderr
        );
        server.sql("app", "ALTER ROLE backup BYPASSRLS; DO $$ BEGIN EXECUTE format('GRANT SELECT ON LARGE OBJECT %s TO backup', \
            (SELECT oid FROM pg_largeobject_metadata)); END $$");
        sandbox.run(&["check"]).expect(0);
        // Without the passwords of roles, which it may not read: said, and recorded.
        server.sql(
            "app",
            "REVOKE pg_read_all_data FROM backup; GRANT USAGE ON SCHEMA app, other TO backup; \
             GRANT SELECT ON ALL TABLES IN SCHEMA app, other TO backup; \
             GRANT SELECT ON ALL SEQUENCES IN SCHEMA app, other TO backup",
        );
        let ran = sandbox.run(&["check", "--verbose"]).expect(0);
        assert!(ran.stdout.contains("GRANT SELECT ON pg_catalog.pg_authid"), "{}", ran.stdout);
        let ran = backup(&sandbox).expect(0);
        assert!(ran.stderr.contains("without their passwords"), "{}", ran.stderr);
        assert_eq!(json(&sandbox, "server.json")["role_passwords"], false);
        let globals = String::from_utf8(read(&sandbox, "globals.sql")).unwrap();
        assert!(globals.contains("CREATE ROLE owner") && !globals.contains("SCRAM"));
    }
}

#[test]
fn templates_with_content_and_empty_databases_are_dumped_and_nothing_at_all_is_refused() {
    let (Some(server), Some(other)) = (Server::start(15), Server::start(15)) else { return };
    let sandbox = sandbox(&server, "databases: all");
    backup(&sandbox).expect(0);
    assert_eq!(json(&sandbox, "server.json")["databases"], serde_json::json!(["postgres"]));
    server.sql("template1", "CREATE TABLE in_every_new_database (n int)");
    server.create_database("empty");
    server.sql("postgres", "CREATE TABLE mine AS SELECT 1 AS n");
    backup(&sandbox).expect(0);
    let overview = json(&sandbox, "server.json");
    assert_eq!(overview["databases"], serde_json::json!(["empty", "postgres", "template1"]));
    let ran =
        sandbox.run(&["restore", "demo/pg", "--to", &other.connection("template1")]).expect(0);
    assert_eq!(other.value("postgres", "SELECT count(*) FROM mine"), "1", "{}", ran.stderr);
    assert_eq!(other.value("template1", "SELECT count(*) FROM in_every_new_database"), "0");
    assert!(other.databases().contains(&"empty".to_owned()));
    let none = sandbox_as(
        &server,
        &server.connection("postgres"),
        "databases: all, exclude: [\"[a-z]*\"]",
    );
    let ran = backup(&none).expect(1);
    assert!(ran.stderr.contains("there is no database to dump"), "{}", ran.stderr);
}
