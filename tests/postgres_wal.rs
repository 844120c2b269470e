//! WAL archived and fetched as PostgreSQL does it, and recovery to a point in time.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::postgres::{Server, run_as, user};
use crate::common::{BACKSTAY, Ran, Sandbox, is_root};

/// A server that archives into a sandbox, in which everything belongs to the server's user.
pub struct Archiving {
    pub server: Server,
    pub sandbox: Sandbox,
}

impl Archiving {
    pub fn start(major: u32, encrypted: bool) -> Option<Self> {
        let summaries = if major >= 17 { "\nsummarize_wal = on" } else { "" };
        let settings = format!("archive_mode = on\nwal_keep_size = 0{summaries}");
        let server = Server::with(major, &settings, "")?;
        let sandbox = Sandbox::new();
        let connection = server.connection("postgres").replace('\'', "''");
        let sources = format!(
            "  pg: {{ postgres_cluster: {{ connection: '{connection}', wal: {{ archive: {{ to: \
             [main] }}, keep: 7d }} }} }}\n"
        );
        sandbox.write_policy(encrypted, &sources);
        fs::set_permissions(sandbox.root(), fs::Permissions::from_mode(0o755)).unwrap();
        let this = Self { server, sandbox };
        this.give(this.sandbox.root());
        this.run(&["init"]).expect(0);
        this.arm();
        Some(this)
    }

    /// Has the server archive; again, where it was started anew with the settings of its first start.
    pub fn arm(&self) {
        let command = format!(
            "ALTER SYSTEM SET archive_command = '{BACKSTAY} --policy {} wal push %p'",
            self.sandbox.path("policy.yaml").display()
        );
        self.server.sql_each("postgres", &[&command, "SELECT pg_reload_conf()"]);
    }

    /// Gives everything below to the server's user.
    pub fn give(&self, path: &Path) {
        if !is_root() {
            return;
        }
        let (uid, gid) = user();
        chown(path, Some(uid), Some(gid)).unwrap();
        if path.is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                self.give(&entry.unwrap().path());
            }
        }
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.sandbox.command(args);
        if is_root() {
            let (uid, gid) = user();
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Runs as the server's user.
    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::from(&self.command(args).output().unwrap())
    }

    fn backup(&self) {
        self.run(&["backup", "demo/pg"]).expect(0);
    }

    /// Waits until everything written so far is archived.
    pub fn archive(&self) {
        let switch = "SELECT pg_walfile_name(pg_current_wal_lsn()), pg_switch_wal()";
        let row = self.server.rows("postgres", switch).remove(0);
        let name = row.split('|').next().unwrap().to_owned();
        let suffix = [format!("{name}.zst"), format!("{name}.zst.age")];
        let deadline = Instant::now() + Duration::from_secs(100);
        let there = || {
            let all = self.sandbox.objects();
            all.iter().any(|path| suffix.iter().any(|s| path.ends_with(s)))
        };
        while !there() {
            assert!(Instant::now() < deadline, "{name} is not archived:\n{}", self.server.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Restores to a place for a server.
    fn restore(&self, more: &[&str]) -> (Server, Ran) {
        let vacant = Server::vacant(self.server.major);
        let data = vacant.data();
        let mut args = vec!["restore", "demo/pg", "--to", data.to_str().unwrap()];
        args.extend(more);
        let ran = self.sandbox.run_with_key(&args);
        (vacant, ran)
    }

    /// Restores, starts, and waits until the server is one of its own.
    pub fn recover(&self, more: &[&str]) -> Server {
        let (mut copy, ran) = self.restore(more);
        ran.expect(0);
        open(&mut copy);
        copy
    }

    /// Objects of WAL, by the names of their files.
    pub fn wal(&self) -> Vec<PathBuf> {
        let all = self.sandbox.objects().into_iter();
        all.filter(|path| path.to_string_lossy().contains("/wal/")).collect()
    }
}

fn open(server: &mut Server) {
    server.boot();
    let deadline = Instant::now() + Duration::from_secs(60);
    while server.value("postgres", "SELECT pg_is_in_recovery()") != "f" {
        assert!(Instant::now() < deadline, "it does not open:\n{}", server.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// pgbench at work, as long as it lives.
struct Load(Child);

impl Load {
    fn on(server: &Server) -> Self {
        let mut command = run_as(&server.tool("pgbench"), true);
        command.args(["-n", "-c", "2", "-R", "200", "-T", "600", "postgres"]);
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

/// The sums that pgbench keeps equal.
fn check_ledger(server: &Server) {
    let sum = |table: &str, column: &str| {
        let query = format!("SELECT coalesce(sum({column}), 0) FROM pgbench_{table}");
        server.value("postgres", &query)
    };
    let all = [
        sum("accounts", "abalance"),
        sum("tellers", "tbalance"),
        sum("branches", "bbalance"),
        sum("history", "delta"),
    ];
    assert!(all.iter().all(|one| *one == all[0]), "{all:?}");
}

/// A moment to which the cluster can be recovered, and the marks that were there then.
struct Moment {
    target: [String; 2],
    marks: usize,
}

/// Leaves a mark, and returns how to come back to where it is the last.
fn mark(server: &Server, marks: usize) -> Moment {
    let mut client = server.client("postgres");
    let mut transaction = client.transaction().unwrap();
    let value = |row: &postgres::Row| row.get::<_, String>(0);
    let query = format!("INSERT INTO marks VALUES ({marks}) RETURNING pg_current_xact_id()::text");
    let xid = value(&transaction.query_one(&query, &[]).unwrap());
    transaction.commit().unwrap();
    let time = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', \
                'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    let time = value(&client.query_one(time, &[]).unwrap());
    let lsn = value(&client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).unwrap());
    let (option, target) = match marks % 3 {
        0 => ("--lsn", lsn),
        1 => ("--at", time),
        _ => ("--xid", xid),
    };
    Moment { target: [option.to_owned(), target], marks }
}

/// A cluster at work is recovered to moments picked at random, and then to its end.
fn a_ledger_comes_back(major: u32, moments: usize) {
    let Some(this) = Archiving::start(major, major != 15) else { return };
    let server = &this.server;
    server.run("pgbench", &["-i", "-q", "-s", "1", "postgres"]).expect(0);
    server.sql("postgres", "CREATE TABLE marks (n int)");
    let load = Load::on(server);
    this.backup();
    let mut kept = Vec::new();
    for n in 1..=moments {
        std::thread::sleep(Duration::from_millis(fastrand::u64(5..250)));
        kept.push(mark(server, n));
        std::thread::sleep(Duration::from_millis(2));
        if n == moments / 4 {
            // Recovery goes on from an incremental as from a full.
            let ran = this.run(&["backup", "demo/pg"]).expect(0);
            assert!(ran.stdout.contains("-incr-"), "{}", ran.stderr);
        }
    }
    server.sql("postgres", "SELECT pg_create_restore_point('before the accident')");
    server.sql("postgres", "DROP TABLE marks");
    std::thread::sleep(Duration::from_millis(100));
    this.archive();
    drop(load);

    let marks = |copy: &Server| copy.value("postgres", "SELECT count(*) FROM marks");
    for Moment { target: [option, target], marks: expected } in &kept {
        let copy = this.recover(&[option, target]);
        assert_eq!(marks(&copy), expected.to_string(), "PostgreSQL {major} {option} {target}");
        check_ledger(&copy);
        assert_eq!(copy.value("postgres", "SHOW archive_mode"), "off");
    }
    let copy = this.recover(&["--name", "before the accident"]);
    assert_eq!(marks(&copy), moments.to_string());
    check_ledger(&copy);
    let copy = this.recover(&["--latest"]);
    let gone = "SELECT to_regclass('marks') IS NULL";
    assert_eq!(copy.value("postgres", gone), "t");
    check_ledger(&copy);
    if major == 17 {
        copy.run("pg_amcheck", &["--all", "--install-missing"]).expect(0);
    }
}

#[test]
fn a_ledger_comes_back_as_it_was_at_any_moment_on_15() {
    a_ledger_comes_back(15, 20);
}

#[test]
fn a_ledger_comes_back_as_it_was_at_any_moment_on_17() {
    a_ledger_comes_back(17, 20);
}

#[test]
fn a_ledger_comes_back_as_it_was_at_any_moment_on_18() {
    a_ledger_comes_back(18, 20);
}

#[test]
fn a_fork_of_the_timeline_is_followed_or_not() {
    let Some(this) = Archiving::start(17, true) else { return };
    let server = &this.server;
    server.sql("postgres", "CREATE TABLE t (n int)");
    this.backup();
    server.sql("postgres", "INSERT INTO t VALUES (1)");
    let fork = server.value("postgres", "SELECT pg_current_wal_insert_lsn()");
    server.sql("postgres", "INSERT INTO t VALUES (2)");
    this.archive();

    // The copy goes on where it was left at 1, and archives to the same place.
    let (mut copy, ran) = this.restore(&["--lsn", &fork]);
    ran.expect(0);
    let settings = copy.data().join("postgresql.auto.conf");
    let command = server.value("postgres", "SHOW archive_command");
    let text = fs::read_to_string(&settings).unwrap()
        + &format!("archive_mode = on\narchive_command = '{command}'\n");
    fs::write(&settings, text).unwrap();
    open(&mut copy);
    copy.sql("postgres", "INSERT INTO t VALUES (3)");
    let copied = Archiving { server: copy, sandbox: this.sandbox };
    copied.archive();
    let names: Vec<String> = copied.wal().iter().map(|p| p.display().to_string()).collect();
    assert!(names.iter().any(|name| name.contains("00000002.history")), "{names:?}");

    let rows = |copy: &Server| copy.rows("postgres", "SELECT n FROM t ORDER BY n").join(" ");
    assert_eq!(rows(&copied.recover(&["--latest"])), "1 3");
    assert_eq!(rows(&copied.recover(&["--latest", "--timeline", "1"])), "1 2");
    let (_, ran) = copied.restore(&["--latest", "--timeline", "7"]);
    assert!(ran.expect(1).stderr.contains("00000007.history"));
    // From a backup after the fork there is no way back to the other branch.
    copied.run(&["backup", "demo/pg"]).expect(0);
    drop(this.server);
}

#[test]
fn what_recovery_cannot_reach_is_refused_beforehand() {
    let Some(this) = Archiving::start(17, false) else { return };
    this.server.sql("postgres", "CREATE TABLE t (n int)");
    this.backup();
    for n in 0..3 {
        this.server.sql("postgres", &format!("INSERT INTO t VALUES ({n})"));
        this.archive();
    }
    let refused = |args: &[&str], text: &str| {
        let (copy, ran) = this.restore(args);
        assert!(ran.code != 0 && ran.stderr.contains(text), "{args:?}: {}", ran.stderr);
        assert!(!copy.data().exists(), "{args:?}");
    };
    refused(&["--at", "2020-01-01T00:00:00Z"], "no backup");
    refused(&["--at", "2999-01-01T00:00:00Z"], "cannot be reached");
    refused(&["--lsn", "0/10"], "no backup");
    refused(&["--lsn", "FFFF/10"], "archived up to");
    let latest = ["--latest", "--lsn", "0/1"];
    assert_eq!(this.restore(&latest).1.code, 2, "one target");
    let (_, ran) = this.restore(&["--latest", "--dry-run", "--output", "json"]);
    assert!(ran.expect(0).json()["cluster"]["recovery"]["segments"].as_u64().unwrap() >= 3);
    // A segment in the middle is lost.
    let wal = this.wal();
    let lost = &wal[wal.len() - 2];
    fs::remove_file(this.sandbox.path("repo").join(lost)).unwrap();
    refused(&["--latest"], "and there is WAL after it");
    this.restore(&["--immediate"]).1.expect(0);
}

#[test]
fn an_outage_of_the_repository_never_promotes() {
    let Some(this) = Archiving::start(17, true) else { return };
    this.server.sql("postgres", "CREATE TABLE t AS SELECT 1 AS n");
    this.backup();
    this.server.sql("postgres", "INSERT INTO t VALUES (2)");
    this.archive();
    let (mut copy, ran) = this.restore(&["--latest"]);
    ran.expect(0);
    let (repo, away) = (this.sandbox.path("repo"), this.sandbox.path("away"));
    let policy = this.sandbox.path("policy.yaml");
    let good = fs::read_to_string(&policy).unwrap();
    for fault in ["repository", "policy", "key"] {
        match fault {
            "repository" => fs::rename(&repo, &away).unwrap(),
            "policy" => fs::write(&policy, "version: 1\nstack: [").unwrap(),
            _ => fs::rename(this.sandbox.path("recovery.key"), &away).unwrap(),
        }
        let mut command = run_as(&copy.tool("postgres"), true);
        command.arg("-D").arg(copy.data()).args(["-c", "port=1", "-c", "listen_addresses="]);
        command.arg("-c").arg(format!("unix_socket_directories={}", copy.socket().display()));
        let ran = Ran::from(&command.stdin(Stdio::null()).output().unwrap());
        assert!(ran.code != 0 && ran.stderr.contains("FATAL"), "{fault}: {}", ran.stderr);
        assert!(!copy.data().join("pg_wal/00000002.history").exists(), "{fault}");
        match fault {
            "repository" => fs::rename(&away, &repo).unwrap(),
            "policy" => fs::write(&policy, &good).unwrap(),
            _ => fs::rename(&away, this.sandbox.path("recovery.key")).unwrap(),
        }
    }
    open(&mut copy);
    assert_eq!(copy.value("postgres", "SELECT count(*) FROM t"), "2");
}

#[test]
fn exit_codes_are_what_the_server_takes_them_for() {
    let Some(this) = Archiving::start(17, true) else { return };
    this.backup();
    let object = this.wal().remove(0);
    let name = object.file_name().unwrap().to_str().unwrap().split('.').next().unwrap().to_owned();
    let system_id = object.iter().nth(4).unwrap().to_str().unwrap().to_owned();
    // A data directory with the one segment, as far as these commands look at it.
    let data = this.sandbox.path("data");
    fs::create_dir_all(data.join("pg_wal")).unwrap();
    fs::create_dir_all(data.join("global")).unwrap();
    fs::copy(this.server.data().join("global/pg_control"), data.join("global/pg_control")).unwrap();
    this.give(&data);
    let file = data.join("pg_wal").join(&name);
    let get = |more: &[&str], env: &str| {
        let mut args =
            vec!["wal", "get", &name, "pg_wal/RECOVERYXLOG", "--identity", "../recovery.key"];
        args.extend(more);
        let mut command = this.command(&args);
        command.current_dir(&data).env("BACKSTAY_FAILPOINT", env);
        let _ = fs::remove_file(data.join("pg_wal/RECOVERYXLOG"));
        let ran = Ran::from(&command.output().unwrap());
        assert_eq!(data.join("pg_wal/RECOVERYXLOG").exists(), ran.code == 0, "{}", ran.stderr);
        let left = fs::read_dir(data.join("pg_wal")).unwrap().count();
        assert!(left <= 2 || ran.code == 137, "{left} files");
        ran.code
    };
    assert_eq!(get(&[], ""), 0);
    fs::rename(data.join("pg_wal/RECOVERYXLOG"), &file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().len(), 16 << 20);
    let missing = |more: &[&str]| {
        let mut args =
            vec!["wal", "get", "0000000100000000000000EE", "x", "--system-id", &system_id];
        args.extend(more);
        this.run(&args).code
    };
    assert_eq!(missing(&[]), 1);
    assert_eq!(missing(&["--bogus"]), 126);
    assert_eq!(missing(&["--source", "demo/nothing"]), 126);
    assert_eq!(missing(&["--policy", "nowhere.yaml"]), 126);
    assert_eq!(missing(&["--policy", "nowhere.yaml", "--standby"]), 1);
    assert_eq!(get(&[], "wal.get:panic"), 126);
    assert_eq!(get(&["--standby"], "wal.get:panic"), 1);
    assert_eq!(get(&[], "wal.get"), 137);
    for entry in fs::read_dir(data.join("pg_wal")).unwrap().flatten() {
        if entry.file_name() != name.as_str() {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    let (repo, away) = (this.sandbox.path("repo"), this.sandbox.path("away"));
    fs::rename(&repo, &away).unwrap();
    assert_eq!(missing(&[]), 126);
    fs::create_dir(&repo).unwrap();
    assert_eq!(missing(&[]), 126, "an empty directory in its place proves nothing");
    fs::remove_dir(&repo).unwrap();
    fs::rename(&away, &repo).unwrap();
    let stored = fs::read(repo.join(&object)).unwrap();
    let mut damaged = stored.clone();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(repo.join(&object), &damaged).unwrap();
    assert_eq!(get(&[], ""), 126);
    fs::write(repo.join(&object), &stored).unwrap();

    let push = |file: &Path, env: &str, more: &[&str]| {
        let mut args = vec!["wal", "push", file.to_str().unwrap()];
        args.extend(more);
        let ran = Ran::from(&this.command(&args).env("BACKSTAY_FAILPOINT", env).output().unwrap());
        assert!(ran.code <= 125 || env == "wal.push", "{} {}", ran.code, ran.stderr);
        ran
    };
    push(&file, "", &[]).expect(0);
    let good = fs::read(&file).unwrap();
    let other = [&good[..9000], &[1; 100][..], &good[9100..]].concat();
    let with = |content: &[u8]| {
        fs::write(&file, content).unwrap();
        push(&file, "", &[])
    };
    let ran = with(&other);
    assert!(ran.code != 0 && ran.stderr.contains("other content"), "{}", ran.stderr);
    assert!(with(&good[..1 << 20]).stderr.contains("bytes instead of"));
    assert!(with(b"nonsense").stderr.contains("does not begin like WAL"));
    let foreign = [&good[..24], &[7; 8][..], &good[32..]].concat();
    assert!(with(&foreign).stderr.contains("of cluster"));
    let elsewhere = [&good[..8], &[0; 8][..], &good[16..]].concat();
    assert!(with(&elsewhere).stderr.contains("another segment"));
    with(&good).expect(0);
    assert_eq!(push(&file, "wal.push:panic", &[]).code, 1);
    assert_ne!(push(&file, "", &["--bogus"]).code, 0);
    assert_eq!(fs::read(repo.join(&object)).unwrap(), stored, "it was never touched");
    let history = data.join("pg_wal/00000009.history");
    for (text, code) in
        [("1\t0/3000000\tx\n", 0), ("1\t0/3000000\tx\n", 0), ("1\t0/4000000\tx\n", 1)]
    {
        fs::write(&history, text).unwrap();
        push(&history, "", &[]).expect(code);
    }
    // A partial segment has a name of its own, and is nobody's whole one.
    let partial = data.join("pg_wal/0000000100000000000000EE.partial");
    let mut content = good.clone();
    content[8..16].copy_from_slice(&(0xEE_u64 << 24).to_le_bytes());
    fs::write(&partial, content).unwrap();
    push(&partial, "", &[]).expect(0);
    assert_eq!(missing(&[]), 1);
    let note = this.sandbox.path("data/pg_wal/notes.txt");
    fs::write(&note, "x").unwrap();
    push(&note, "", &[]).expect(2);
}

#[test]
fn whoever_is_interrupted_twice_ends_as_the_server_expects() {
    let sandbox = Sandbox::new();
    sandbox.write_policy(false, "  pg: { postgres_cluster: { connection: host=127.0.0.1 } }\n");
    sandbox.run(&["init"]).expect(0);
    // Opening it waits for somebody to write, for ever.
    let file = sandbox.path("000000010000000000000001");
    assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    let mut command = sandbox.command(&["wal", "push", file.to_str().unwrap()]);
    let mut child = command.stdin(Stdio::null()).spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    let catches = || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim();
        u64::from_str_radix(mask, 16).unwrap() & 2 != 0
    };
    while !catches() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(status.code(), Some(1));
}
