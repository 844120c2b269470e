//! Backups are proven by starting them.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use crate::common::postgres::{ALL, Server};
use crate::common::{Ran, Sandbox};
use crate::postgres_wal::Archiving;

/// A scratch directory that the server's user may enter.
fn scratch(this: &Archiving) -> PathBuf {
    let scratch = this.sandbox.path("scratch");
    fs::create_dir_all(&scratch).unwrap();
    this.give(&scratch);
    scratch
}

fn prove(this: &Archiving, more: &[&str]) -> Ran {
    let scratch = scratch(this);
    let programs = this.server.tool("postgres").parent().unwrap().display().to_string();
    let scratch = scratch.to_str().unwrap();
    let mut args = vec!["verify", "demo/pg", "--depth", "restore", "--scratch", scratch];
    args.extend(["--programs", &programs, "--identity", "recovery.key"]);
    args.extend(more);
    let mut command = this.command(&args);
    Ran::from(&command.output().unwrap())
}

fn is_empty(directory: &std::path::Path) -> bool {
    fs::read_dir(directory).unwrap().next().is_none()
}

#[test]
fn a_server_recovers_from_each_base_backup_and_all_is_removed() {
    for major in ALL {
        let Some(this) = Archiving::start(major, true) else { continue };
        let load = "CREATE TABLE t AS SELECT n, md5(n::text) AS m FROM generate_series(1, 50000) n; \
                    CREATE INDEX ON t (m)";
        this.server.sql("postgres", load);
        this.server.sql_each("postgres", &["CREATE DATABASE \"it's another\"", "CHECKPOINT"]);
        this.run(&["backup", "demo/pg"]).expect(0);
        let ran = prove(&this, &[]).expect(0);
        assert!(
            ran.stdout.contains("proven") && ran.stdout.contains("PostgreSQL"),
            "{}",
            ran.stdout
        );
        assert!(ran.stdout.contains("pg_amcheck found nothing wrong"), "{}", ran.stdout);
        assert!(ran.stdout.contains("of 3 databases"), "{}", ran.stdout);
        assert!(is_empty(&scratch(&this)));
        // As whoever runs the suite, which may be root: the server runs as somebody else then.
        let scratch = scratch(&this);
        let programs = this.server.tool("postgres").parent().unwrap().display().to_string();
        let json = this
            .sandbox
            .run_with_key(&[
                "verify",
                "--depth",
                "restore",
                "--scratch",
                scratch.to_str().unwrap(),
                "--programs",
                &programs,
                "--output",
                "json",
                "demo/pg",
            ])
            .expect(0)
            .json();
        assert_eq!(json[0]["source"], "demo/pg");
        assert!(json[0]["restore_seconds"].as_f64().unwrap() > 0.0);
        assert!(json[0]["findings"].as_array().unwrap().is_empty());
        assert!(is_empty(&scratch));
    }
}

#[test]
fn what_is_wrong_in_a_relation_is_found() {
    let Some(mut this) = Archiving::start(17, false) else { return };
    let load =
        "CREATE TABLE t AS SELECT n FROM generate_series(1, 10000) n; CREATE INDEX i ON t (n)";
    this.server.sql("postgres", load);
    let path = this.server.value("postgres", "SELECT pg_relation_filepath('i')");
    this.server.sql_each("postgres", &["CHECKPOINT"]);
    this.server.stop();
    let file = fs::OpenOptions::new().write(true).open(this.server.data().join(&path)).unwrap();
    file.write_all_at(b"damage", 3 * 8192 + 5000).unwrap();
    let port = this.server.port.to_string();
    this.server.boot();
    let policy = this.sandbox.path("policy.yaml");
    let text = fs::read_to_string(&policy).unwrap();
    fs::write(&policy, text.replace(&port, &this.server.port.to_string())).unwrap();
    this.run(&["backup", "demo/pg"]).expect(0);
    let ran = prove(&this, &[]).expect(5);
    assert!(ran.stdout.contains("DAMAGED") && ran.stdout.contains("pg_amcheck"), "{}", ran.stdout);
    assert!(is_empty(&scratch(&this)));
}

#[test]
fn a_killed_proof_leaves_nothing_for_long() {
    let Some(this) = Archiving::start(17, false) else { return };
    this.run(&["backup", "demo/pg"]).expect(0);
    let scratch = scratch(&this);
    let programs = this.server.tool("postgres").parent().unwrap().display().to_string();
    let args = ["verify", "demo/pg", "--depth", "restore", "--scratch", scratch.to_str().unwrap()];
    let mut command = this.command(&args);
    command.args(["--programs", &programs]).env("BACKSTAY_FAILPOINT", "prove.started");
    assert_eq!(Ran::from(&command.output().unwrap()).code, 128 + 9);
    let left = fs::read_dir(&scratch).unwrap().next().unwrap().unwrap().path();
    let pid = fs::read_to_string(left.join("data/postmaster.pid")).unwrap();
    let pid = pid.lines().next().unwrap().to_owned();
    assert!(PathBuf::from(format!("/proc/{pid}")).exists(), "the server lives on");
    let ran = prove(&this, &[]).expect(0);
    assert!(ran.stderr.contains("left by a run that was killed"), "{}", ran.stderr);
    assert!(is_empty(&scratch) && !left.exists());
    let cwd = fs::read_link(format!("/proc/{pid}/cwd"));
    assert!(cwd.is_err() || !cwd.unwrap().starts_with(&scratch), "it was ended");
}

#[test]
fn dumps_go_into_a_new_server() {
    let Some(server) = Server::start(17) else { return };
    let sandbox = Sandbox::new();
    let programs = server.tool("postgres").parent().unwrap().display().to_string();
    let connection = server.connection("postgres").replace('\'', "''");
    let source = format!(
        "  pg: {{ postgres_dump: {{ connection: '{connection}', databases: all, programs: {programs} }} }}\n"
    );
    sandbox.write_policy(true, &source);
    sandbox.run(&["init"]).expect(0);
    server.sql_each("postgres", &["CREATE DATABASE shop", "CREATE ROLE seller LOGIN"]);
    server.sql("shop", "CREATE TABLE orders AS SELECT generate_series(1, 777) AS n");
    server.sql("shop", "ALTER TABLE orders OWNER TO seller");
    sandbox.run(&["backup", "demo/pg"]).expect(0);
    // Others must be able to pass: the server is not run by root.
    let scratch = tempfile::Builder::new().prefix("backstay-scratch").tempdir().unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(scratch.path(), mode).unwrap();
    let place = scratch.path().to_str().unwrap();
    let args =
        ["verify", "demo/pg", "--depth", "restore", "--scratch", place, "--programs", &programs];
    let ran = sandbox.run_with_key(&args).expect(0);
    assert!(ran.stdout.contains("`shop`: 777 rows in 1 tables"), "{}", ran.stdout);
    assert!(is_empty(scratch.path()));
}

#[test]
fn files_come_back_and_damage_is_found() {
    let sandbox = Sandbox::new();
    sandbox.write_policy(true, "");
    sandbox.run(&["init"]).expect(0);
    fs::write(sandbox.path("src/a"), vec![7; 300_000]).unwrap();
    fs::write(sandbox.path("src/b"), b"b").unwrap();
    sandbox.run(&["backup", "demo/files"]).expect(0);
    let scratch = sandbox.path("scratch");
    let place = scratch.to_str().unwrap();
    let args = ["verify", "--depth", "restore", "--scratch", place];
    sandbox.run_with_key(&["verify", "--depth", "restore"]).expect(2);
    let missing = sandbox.run_with_key(&args);
    assert!(missing.code != 0 && missing.stderr.contains("no directory"), "{}", missing.stderr);
    fs::create_dir(&scratch).unwrap();
    let ran = sandbox.run_with_key(&args).expect(0);
    assert!(ran.stdout.contains("with the digests of the index"), "{}", ran.stdout);
    let wrong = sandbox.run_with_key(&["verify", "--scratch", place]).expect(2);
    assert!(wrong.stderr.contains("goes with --depth restore"), "{}", wrong.stderr);

    let object = sandbox.objects().into_iter().find(|p| p.to_string_lossy().contains("000001.tar"));
    let object = sandbox.path("repo").join(object.unwrap());
    let mut bytes = fs::read(&object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&object, bytes).unwrap();
    let ran = sandbox.run_with_key(&args).expect(5);
    assert!(ran.stdout.contains("WRONG") || ran.stderr.contains("damaged"), "{}", ran.stdout);
    assert!(is_empty(&scratch));
}
