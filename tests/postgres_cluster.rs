//! Base backups of PostgreSQL clusters, with real servers.

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::common::postgres::{ALL, Server, run_as};
use crate::common::{Ran, Sandbox, finish};

/// A sandbox with a source `pg`.
pub fn sandbox(server: &Server, encrypted: bool) -> Sandbox {
    sandbox_as(&server.connection("postgres"), encrypted, "")
}

pub fn sandbox_as(connection: &str, encrypted: bool, settings: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    connect(&sandbox, connection, encrypted, settings);
    sandbox.run(&["init"]).expect(0);
    sandbox
}

pub fn connect(sandbox: &Sandbox, connection: &str, encrypted: bool, settings: &str) {
    let connection = connection.replace('\'', "''");
    sandbox.write_policy(
        encrypted,
        &format!("  pg: {{ postgres_cluster: {{ connection: '{connection}'{settings} }} }}\n"),
    );
}

pub fn backup(sandbox: &Sandbox) -> Ran {
    sandbox.run(&["backup", "demo/pg"])
}

pub fn manifest(sandbox: &Sandbox) -> serde_json::Value {
    sandbox.run(&["show", "demo/pg", "--output", "json"]).expect(0).json()
}

pub fn listed(sandbox: &Sandbox) -> usize {
    let list = sandbox.run(&["list", "demo/pg", "--output", "json"]).expect(0).json();
    list.as_array().unwrap().len()
}

/// pgbench at work, as long as it lives.
pub struct Load(Child);

impl Load {
    pub fn on(server: &Server) -> Self {
        server.run("pgbench", &["-i", "-q", "-s", "2", "postgres"]).expect(0);
        let mut command = run_as(&server.tool("pgbench"), true);
        command.args(["-n", "-c", "2", "-T", "600", "postgres"]);
        command.env("PGHOST", server.socket()).env("PGPORT", server.port.to_string());
        command.env("PGUSER", "postgres").stdin(Stdio::null());
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Restores the newest backup for a server of this version.
fn restore(sandbox: &Sandbox, major: u32, more: &[&str]) -> (Server, Ran) {
    let vacant = Server::vacant(major);
    let data = vacant.data();
    let mut args = vec!["restore", "demo/pg", "--to", data.to_str().unwrap()];
    args.extend(more);
    let ran = sandbox.run_with_key(&args);
    (vacant, ran)
}

/// Starts a restored server, and waits until it is a server of its own.
pub fn open(server: &mut Server) {
    server.boot();
    let deadline = Instant::now() + Duration::from_secs(60);
    while server.value("postgres", "SELECT pg_is_in_recovery()") != "f" {
        assert!(Instant::now() < deadline, "it does not open");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// PostgreSQL's own checks of a data directory that no server has started from yet.
pub fn verify(server: &Server) {
    let data = server.data();
    let mut command = run_as(&server.tool("pg_verifybackup"), false);
    let ran = Ran::from(&command.arg("-e").arg(&data).output().unwrap());
    ran.expect(0);
}

/// The sums that pgbench keeps equal.
fn ledger(server: &Server) -> [String; 3] {
    let one = |table: &str, column: &str| {
        server.value("postgres", &format!("SELECT sum({column}) FROM pgbench_{table}"))
    };
    [one("accounts", "abalance"), one("tellers", "tbalance"), one("branches", "bbalance")]
}

pub fn check_ledger(server: &Server) {
    let [accounts, tellers, branches] = ledger(server);
    assert_eq!((&accounts, &accounts), (&tellers, &branches));
    let deltas = server.value("postgres", "SELECT coalesce(sum(delta), 0) FROM pgbench_history");
    assert_eq!(accounts, deltas);
}

#[test]
fn a_busy_cluster_comes_back_whole() {
    for major in ALL {
        let Some(server) = Server::start(major) else { continue };
        let place = server.directory("space");
        server.sql_each(
            "postgres",
            &[
                &format!("CREATE TABLESPACE elsewhere LOCATION '{}'", place.display()),
                "CREATE TABLE far TABLESPACE elsewhere AS SELECT generate_series(1, 50000) AS n",
                "CREATE UNLOGGED TABLE fleeting AS SELECT generate_series(1, 1000) AS n",
                "CREATE EXTENSION amcheck",
            ],
        );
        let load = Load::on(&server);
        let sandbox = sandbox(&server, major == 17);
        let ran = backup(&sandbox).expect(0);
        drop(load);
        assert!(ran.stdout.contains("full"), "{}{}", ran.stdout, ran.stderr);
        let shown = manifest(&sandbox);
        assert_eq!(shown["source_kind"], "postgres_cluster");
        assert!(shown["server"].as_str().unwrap().starts_with(&format!("PostgreSQL {major}")));
        let range = &shown["wal"]["ranges"][0];
        assert_eq!(range["stop"], shown["recovery_points"][0]["lsn"]);
        assert!(shown["wal"]["tail"].is_null() && shown["tainted"].is_null(), "{shown}");

        // A tablespace is not put back to where the server has it, unless that is said.
        let (_, ran) = restore(&sandbox, major, &[]);
        let ran = ran.expect(2);
        assert!(ran.stderr.contains("--tablespaces DIR"), "{}", ran.stderr);

        let mut copy = Server::vacant(major);
        let (data, spaces) = (copy.data(), copy.data().with_file_name("spaces"));
        let to = ["restore", "demo/pg", "--to", data.to_str().unwrap()];
        let all = [&to[..], &["--tablespaces", spaces.to_str().unwrap()]].concat();
        sandbox.run_with_key(&all).expect(0);
        verify(&copy);
        open(&mut copy);
        check_ledger(&copy);
        assert_eq!(copy.value("postgres", "SELECT count(*) FROM far"), "50000");
        assert_eq!(copy.value("postgres", "SELECT count(*) FROM fleeting"), "0");
        assert_eq!(copy.value("postgres", "SHOW archive_mode"), "off");
        assert_eq!(copy.value("postgres", "SELECT pg_is_in_recovery()"), "f");
        let found = copy.value(
            "postgres",
            "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'elsewhere'",
        );
        assert!(Path::new(&found).starts_with(&spaces), "{found}");
        copy.run("pg_amcheck", &["--all", "--install-missing"]).expect(0);
    }
}

/// A backup that takes long enough to be met by something, and that has begun to stream.
pub fn slow_backup(sandbox: &Sandbox, server: &Server) -> Child {
    let mut command = sandbox.command(&["backup", "demo/pg"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let query = "SELECT count(*) FROM pg_stat_progress_basebackup WHERE backup_streamed > 1000000";
    while server.value("postgres", query) == "0" {
        let over = child.try_wait().unwrap().is_some() || Instant::now() > deadline;
        assert!(!over, "{:?}", finish(child).stderr);
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

pub const SLOW: &str = ", max_rate: 4MiB";

#[test]
fn a_backup_that_is_cut_off_is_none() {
    for major in ALL {
        // The server dies; its connection is cut; the slot it needs is taken away.
        for what in ["kill", "cut", "wal"] {
            let Some(mut server) = Server::start(major) else { continue };
            server.run("pgbench", &["-i", "-q", "-s", "3", "postgres"]).expect(0);
            let sandbox = sandbox_as(&server.connection("postgres"), true, SLOW);
            let child = slow_backup(&sandbox, &server);
            let cut = |command: &str| {
                server.rows(
                    "postgres",
                    &format!(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_replication \
                         WHERE state = '{command}'"
                    ),
                )
            };
            match what {
                "kill" => server.kill(),
                "cut" => assert_eq!(cut("backup").len(), 1),
                _ => assert_eq!(cut("streaming").len(), 1),
            }
            let ran = finish(child);
            assert!(matches!(ran.code, 1 | 69 | 75), "{what}: {} {}", ran.code, ran.stderr);
            assert!(ran.stderr.contains("failed to back up demo/pg"), "{}", ran.stderr);
            assert_eq!(listed(&sandbox), 0, "PostgreSQL {major}, {what}");
            if what == "kill" {
                continue;
            }
            let slots = server.value("postgres", "SELECT count(*) FROM pg_replication_slots");
            assert_eq!(slots, "0", "{what}");
        }
    }
}

/// A standby of this server.
pub fn standby_of(server: &Server) -> Server {
    let mut standby = Server::vacant(server.major);
    fs::set_permissions(standby.directory("data"), fs::Permissions::from_mode(0o700)).unwrap();
    let mut command = run_as(&server.tool("pg_basebackup"), false);
    command.args(["-X", "stream", "-c", "fast", "-D"]).arg(standby.data());
    command.env("PGHOST", server.socket()).env("PGPORT", server.port.to_string());
    command.env("PGUSER", "postgres");
    Ran::from(&command.output().unwrap()).expect(0);
    fs::write(standby.data().join("standby.signal"), "").unwrap();
    // Not by `-R`, which writes what only the client library of its own version knows.
    let primary = format!(
        "\nprimary_conninfo = 'host={} port={} user=postgres'\n",
        server.socket().display(),
        server.port
    );
    let settings = standby.data().join("postgresql.auto.conf");
    fs::write(&settings, fs::read_to_string(&settings).unwrap() + &primary).unwrap();
    standby.boot();
    standby
}

#[test]
fn a_standby_can_be_backed_up() {
    for major in ALL {
        let Some(server) = Server::start(major) else { continue };
        let load = Load::on(&server);
        let standby = standby_of(&server);
        let sandbox = sandbox(&standby, true);
        backup(&sandbox).expect(0);
        drop(load);
        let shown = manifest(&sandbox);
        assert!(shown["wal"]["tail"].is_string(), "{shown}");
        let (mut copy, ran) = restore(&sandbox, major, &[]);
        ran.expect(0);
        verify(&copy);
        assert!(!copy.data().join("standby.signal").exists());
        open(&mut copy);
        check_ledger(&copy);
        assert_eq!(copy.value("postgres", "SHOW primary_conninfo"), "");
        copy.run("pg_amcheck", &["--all", "--install-missing"]).expect(0);

        // Promoted in the middle, it is neither the one nor the other.
        let sandbox = sandbox_as(&standby.connection("postgres"), true, SLOW);
        let child = slow_backup(&sandbox, &standby);
        standby.sql("postgres", "SELECT pg_promote()");
        let ran = finish(child).expect(1);
        assert!(ran.stderr.contains("promoted"), "{}", ran.stderr);
        assert_eq!(listed(&sandbox), 0);

        // And on the new timeline it works again.
        let sandbox = self::sandbox(&standby, true);
        backup(&sandbox).expect(0);
        assert_eq!(manifest(&sandbox)["recovery_points"][0]["timeline"], 2);
        let (mut copy, ran) = restore(&sandbox, major, &[]);
        ran.expect(0);
        verify(&copy);
        open(&mut copy);
        check_ledger(&copy);
    }
}

#[test]
fn damaged_pages_are_found_and_named() {
    for major in ALL {
        let Some(mut server) = Server::start(major) else { continue };
        let sandbox = sandbox(&server, false);
        server.sql("postgres", "CREATE TABLE t AS SELECT generate_series(1, 10000) AS n");
        backup(&sandbox).expect(0);
        let path = server.value("postgres", "SELECT pg_relation_filepath('t')");
        server.stop();
        let file = fs::OpenOptions::new().write(true).open(server.data().join(&path)).unwrap();
        file.write_all_at(b"damage", 3 * 8192 + 5000).unwrap();
        server.boot();
        connect(&sandbox, &server.connection("postgres"), false, "");
        let ran = backup(&sandbox).expect(0);
        assert!(ran.stderr.contains(&path) && ran.stderr.contains(": 3)"), "{}", ran.stderr);
        let shown = manifest(&sandbox);
        assert_eq!(shown["tainted"]["pages"], 1, "{shown}");
        let text = sandbox.run(&["show", "demo/pg"]).expect(0).stdout;
        assert!(text.contains("1 damaged page"), "{text}");
    }
}

#[test]
fn a_role_that_may_only_replicate_is_enough() {
    let hba = "local all limited reject";
    let Some(server) = Server::with(17, "", hba) else { return };
    server.sql("postgres", "CREATE ROLE limited LOGIN REPLICATION");
    let sandbox = sandbox_as(&server.connection_as("limited", "postgres"), false, "");
    sandbox.run(&["check"]).expect(0);
    backup(&sandbox).expect(0);
    let (mut copy, ran) = restore(&sandbox, 17, &[]);
    ran.expect(0);
    verify(&copy);
    open(&mut copy);

    server.sql("postgres", "ALTER ROLE limited NOREPLICATION");
    let ran = backup(&sandbox);
    assert!(ran.code != 0 && ran.stderr.contains("REPLICATION"), "{}", ran.stderr);
}

#[test]
fn a_server_that_a_service_runs_gives_no_backup_and_is_named() {
    let Some(server) = Server::start(17) else { return };
    server.sql_each("postgres", &["CREATE ROLE rdsadmin SUPERUSER", "CREATE ROLE app LOGIN"]);
    let sandbox = sandbox_as(&server.connection_as("app", "postgres"), false, "");
    for args in [&["backup", "demo/pg"][..], &["check"]] {
        let ran = sandbox.run(args);
        assert_ne!(ran.code, 0, "{}", ran.stderr);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(said.contains("run by Amazon RDS"), "{said}");
        assert!(said.contains("`postgres_dump`"), "{said}");
    }
    assert_eq!(listed(&sandbox), 0);
    // Who may replicate is never told so, whatever roles there are.
    server.sql("postgres", "ALTER ROLE app REPLICATION");
    backup(&sandbox).expect(0);
}

#[test]
fn without_its_wal_a_backup_is_not_restored() {
    let Some(server) = Server::start(17) else { return };
    let sandbox = sandbox(&server, false);
    backup(&sandbox).expect(0);
    let wal = sandbox.objects().into_iter().find(|path| path.to_string_lossy().contains("/wal/"));
    let wal = sandbox.path("repo").join(wal.unwrap());
    let kept = fs::read(&wal).unwrap();
    fs::remove_file(&wal).unwrap();
    let (copy, ran) = restore(&sandbox, 17, &[]);
    let ran = ran.expect(5);
    assert!(ran.stderr.contains("WAL segment") && !copy.data().exists(), "{}", ran.stderr);
    sandbox.run_with_key(&["verify"]).expect(5);
    // Another content under its name: nothing starts from what is there by then.
    let mut other = kept.clone();
    let middle = other.len() / 2;
    other[middle] ^= 1;
    fs::write(&wal, &other).unwrap();
    let (copy, ran) = restore(&sandbox, 17, &[]);
    ran.expect(5);
    assert!(!copy.data().join("global/pg_control").exists());
    sandbox.run_with_key(&["verify", "--depth", "content"]).expect(5);
    fs::write(&wal, &kept).unwrap();
    sandbox.run_with_key(&["verify", "--depth", "content"]).expect(0);
}

#[test]
fn a_restore_goes_to_an_empty_directory_and_is_nothing_before_its_end() {
    let Some(server) = Server::start(15) else { return };
    let sandbox = sandbox(&server, false);
    backup(&sandbox).expect(0);
    let (copy, ran) = restore(&sandbox, 15, &["--dry-run"]);
    ran.expect(0);
    assert!(!copy.data().exists());
    for name in ["cluster.files_restored", "cluster.before_control"] {
        let copy = Server::vacant(15);
        let data = copy.data();
        let mut command = sandbox.command(&["restore", "demo/pg", "--to", data.to_str().unwrap()]);
        let ran = Ran::from(&command.env("BACKSTAY_FAILPOINT", name).output().unwrap());
        assert_eq!(ran.code, 128 + 9, "{}", ran.stderr);
        assert!(!data.join("global/pg_control").exists());
        let ran = sandbox.run(&["restore", "demo/pg", "--to", data.to_str().unwrap()]);
        assert!(ran.code != 0 && ran.stderr.contains("not empty"), "{}", ran.stderr);
    }
    for name in ["cluster.read", "cluster.received"] {
        let mut command = sandbox.command(&["backup", "demo/pg"]);
        let ran = Ran::from(&command.env("BACKSTAY_FAILPOINT", name).output().unwrap());
        assert_eq!(ran.code, 128 + 9, "{}", ran.stderr);
        assert_eq!(listed(&sandbox), 1);
    }
    // One file alone is a file.
    let out = sandbox.path("out");
    let args = ["restore", "demo/pg", "--to", out.to_str().unwrap(), "--path", "PG_VERSION"];
    sandbox.run(&args).expect(0);
    assert_eq!(fs::read_to_string(out.join("PG_VERSION")).unwrap(), "15\n");
    let mode = fs::metadata(server.data()).unwrap().permissions().mode();
    let (copy, ran) = restore(&sandbox, 15, &[]);
    ran.expect(0);
    assert_eq!(fs::metadata(copy.data()).unwrap().permissions().mode(), mode);
}

#[test]
fn a_copy_of_the_repository_brings_the_cluster_back() {
    let Some(server) = Server::start(18) else { return };
    server.sql("postgres", "CREATE TABLE t AS SELECT generate_series(1, 1000) AS n");
    let sandbox = sandbox(&server, true);
    backup(&sandbox).expect(0);
    let (from, to) = (sandbox.path("repo"), sandbox.path("elsewhere"));
    let (from, to) = (from.display().to_string(), to.display().to_string());
    sandbox.run_bare(&["copy", "--repository", &from, "--to", &to]).expect(0);
    sandbox.run_bare(&["copy", "--repository", &from, "--to", &to]).expect(0);
    drop(server);
    let mut copy = Server::vacant(18);
    let data = copy.data().display().to_string();
    let alone = ["--repository", &to, "--identity", "recovery.key"];
    sandbox.run_bare(&[&["verify", "--depth", "content"][..], &alone].concat()).expect(0);
    sandbox.run_bare(&[&["restore", "demo/pg", "--to", &data][..], &alone].concat()).expect(0);
    verify(&copy);
    open(&mut copy);
    assert_eq!(copy.value("postgres", "SELECT count(*) FROM t"), "1000");
}

#[test]
fn another_cluster_under_the_same_name_is_pointed_out() {
    // Servers of tests are copies of one, with one identifier; a new one differs.
    let (Some(one), Some(other)) = (Server::start(17), Server::start(18)) else { return };
    let sandbox = sandbox(&one, false);
    let ran = backup(&sandbox).expect(0);
    assert!(!ran.stderr.contains("this is cluster"), "{}", ran.stderr);
    connect(&sandbox, &other.connection("postgres"), false, "");
    let ran = backup(&sandbox).expect(0);
    assert!(ran.stderr.contains("this is cluster"), "{}", ran.stderr);
}

#[test]
fn a_panic_ends_a_backup_and_leaves_nothing_at_the_server() {
    let Some(server) = Server::start(17) else { return };
    let sandbox = sandbox(&server, false);
    let mut command = sandbox.command(&["backup", "demo/pg"]);
    let ran = Ran::from(&command.env("BACKSTAY_FAILPOINT", "cluster.read:panic").output().unwrap());
    assert_eq!(ran.code, 101, "{}", ran.stderr);
    assert_eq!(listed(&sandbox), 0);
    let slots = server.value("postgres", "SELECT count(*) FROM pg_replication_slots");
    assert_eq!(slots, "0");
    backup(&sandbox).expect(0);
}
