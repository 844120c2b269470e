//! What is told of archived WAL, and WAL in copies.

use std::fs;

use crate::common::Ran;
use crate::postgres_wal::Archiving;

impl Archiving {
    fn policy(&self, from: &str, to: &str) {
        let path = self.sandbox.path("policy.yaml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from}: {text}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
    }

    fn more(&self, number: u32) {
        self.server.sql("postgres", &format!("INSERT INTO t VALUES ({number})"));
        self.archive();
    }

    fn status(&self, code: i32) -> serde_json::Value {
        self.run(&["wal", "status", "--output", "json"]).expect(code).json()
    }

    /// The file names of segments, oldest first.
    fn segments(&self) -> Vec<String> {
        let name =
            |path: std::path::PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        let mut all: Vec<String> = self
            .wal()
            .into_iter()
            .map(name)
            .filter_map(|name| Some(name.get(..24)?.to_owned()).filter(|n| !n.contains('.')))
            .collect();
        all.sort();
        all.dedup();
        all
    }
}

fn verdict(status: &serde_json::Value, at: usize) -> String {
    status[0]["repositories"][at]["verdict"].as_str().unwrap().to_owned()
}

#[test]
fn what_lies_where_and_what_is_missing() {
    let Some(this) = Archiving::start(17, true) else { return };
    this.server.sql("postgres", "CREATE TABLE t (n int)");
    // WAL of which nothing can be recovered.
    this.more(0);
    let before = this.status(4);
    assert_eq!(verdict(&before, 0), "no_base", "{before}");
    this.run(&["backup", "demo/pg"]).expect(0);
    (1..4).for_each(|n| this.more(n));
    let found = this.status(0);
    assert_eq!(verdict(&found, 0), "holds", "{found}");
    let wal = &found[0]["repositories"][0]["wal"];
    assert_eq!(wal["system_id"], found[0]["server"]["system_id"]);
    assert_eq!(wal["gaps"].as_array().unwrap().len(), 0);
    let segments = this.segments();
    assert_eq!(wal["timelines"][0]["last"], segments.last().unwrap().as_str());
    // All that is archived is told by the server, and nothing but the open segment is exposed.
    let exposed = found[0]["repositories"][0]["exposure_bytes"].as_u64().unwrap();
    assert!(exposed < 16 << 20, "{exposed}");

    let text = this.run(&["wal", "status"]).expect(0).stdout;
    assert!(text.contains("PostgreSQL 17") && text.contains("primary"), "{text}");
    assert!(text.contains("recovery from") && text.contains("would be lost now"), "{text}");

    // A hole after the newest base backup.
    let hole = &segments[segments.len() - 2];
    let object = this.wal().into_iter().find(|p| p.to_string_lossy().contains(hole.as_str()));
    let object = this.sandbox.path("repo").join(object.unwrap());
    let kept = fs::read(&object).unwrap();
    fs::remove_file(&object).unwrap();
    let holed = this.status(4);
    assert_eq!(verdict(&holed, 0), "gap");
    let gaps = &holed[0]["repositories"][0]["wal"]["gaps"];
    assert_eq!(gaps[0]["first"], hole.as_str());
    assert_eq!(gaps[0]["current"], true);
    let text = this.run(&["wal", "status"]).expect(4).stdout;
    assert!(text.contains(&format!("MISSING {hole} (1 segment): take a base backup")), "{text}");
    fs::write(&object, kept).unwrap();
    this.give(&object);

    // The server is gone: what lies there is told all the same.
    let offline = this.run(&["wal", "status", "--offline", "--output", "json"]).expect(0).json();
    assert!(offline[0]["server"].is_null());
    assert!(offline[0]["repositories"][0]["exposure_seconds"].is_u64());
    let Archiving { server, sandbox } = this;
    drop(server);
    let text = Ran::from(&sandbox.command(&["wal", "status"]).output().unwrap()).expect(0).stdout;
    assert!(text.contains("does not answer") && text.contains("recovery from"), "{text}");
}

#[test]
fn an_archiver_that_fails_is_seen() {
    let Some(this) = Archiving::start(15, false) else { return };
    this.server.sql("postgres", "CREATE TABLE t (n int)");
    this.run(&["backup", "demo/pg"]).expect(0);
    this.more(1);
    this.status(0);
    let round = this.run(&["check", "--archive"]).expect(0).stdout;
    assert!(round.contains("was archived in main within"), "{round}");

    let set = |value: &str| {
        let sql = format!("ALTER SYSTEM SET archive_command = '{value}'");
        this.server.sql_each("postgres", &[&sql, "SELECT pg_reload_conf()"]);
    };
    // Somebody archives elsewhere, and says that all is well.
    set("true");
    let elsewhere = this.run(&["check"]).expect(0).stdout;
    assert!(elsewhere.contains("does not look like ours: true"), "{elsewhere}");

    set("false");
    this.server.sql("postgres", "INSERT INTO t VALUES (2)");
    this.server.sql("postgres", "SELECT pg_switch_wal()");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let failed = "SELECT failed_count > 0 FROM pg_stat_archiver";
    while this.server.value("postgres", failed) != "t" {
        assert!(std::time::Instant::now() < deadline);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let text = this.run(&["wal", "status"]).expect(4).stdout;
    assert!(text.contains("FAILS: 0000000"), "{text}");
    let check = this.run(&["check"]).expect(1).stdout;
    assert!(check.contains("NOT READY") && check.contains("attempt to archive failed"), "{check}");

    set("");
    let text = this.run(&["wal", "status"]).expect(4).stdout;
    assert!(text.contains("ARCHIVES NOTHING: `archive_command` is empty"), "{text}");
    let check = this.run(&["check", "--archive"]).expect(1);
    assert!(check.stdout.contains("archive_command = 'backstay wal push %p'"), "{}", check.stdout);
}

#[test]
fn copies_can_be_recovered_to_any_instant() {
    let Some(this) = Archiving::start(18, true) else { return };
    this.server.sql("postgres", "CREATE TABLE t (n int)");
    this.run(&["backup", "demo/pg"]).expect(0);
    let backed_up = this.segments().len();
    (1..4).for_each(|n| this.more(n));
    let copy = this.sandbox.path("copy");
    let to = copy.to_str().unwrap();

    let plan = this.run(&["copy", "--to", to, "demo/pg"]).expect(0);
    assert!(plan.stderr.contains("of WAL"), "{}", plan.stderr);
    // Nothing is sent twice, and what came since is.
    let again = this.run(&["copy", "--to", to, "demo/pg", "--output", "json"]).expect(0).json();
    assert_eq!(again["copies"][0]["wal"]["files"], 0, "{again}");
    this.more(4);
    let dry = ["copy", "--to", to, "demo/pg", "--dry-run"];
    let dry = this.run(&dry).expect(0).stdout;
    assert!(dry.contains("WAL: 1 file"), "{dry}");
    let more = this.run(&["copy", "--to", to, "demo/pg", "--output", "json"]).expect(0).json();
    assert_eq!(more["copies"][0]["wal"]["files"], 1, "{more}");
    assert_eq!(more["copies"][0]["copied"].as_array().unwrap().len(), 0);
    let all = this.segments();
    assert!(all.len() > backed_up + 2, "{all:?}");

    // A file of the copy that is other than the original is not passed over.
    let name = all.last().unwrap();
    let entry = walk(&copy).into_iter().find(|p| p.to_string_lossy().contains(name)).unwrap();
    let kept = fs::read(&entry).unwrap();
    fs::remove_file(&entry).unwrap();
    let mended = this.run(&["copy", "--to", to, "demo/pg", "--output", "json"]).expect(0).json();
    assert_eq!(mended["copies"][0]["wal"]["files"], 1, "{mended}");
    assert_eq!(fs::read(&entry).unwrap(), kept, "byte for byte");

    // The first repository is lost. Everything comes back from the copy, to the last row.
    fs::rename(this.sandbox.path("repo"), this.sandbox.path("gone")).unwrap();
    this.policy(&this.sandbox.path("repo").display().to_string(), &copy.display().to_string());
    this.give(&copy);
    let server = this.recover(&["--latest"]);
    assert_eq!(server.value("postgres", "SELECT count(*) FROM t"), "4");
}

fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(walk(&path));
        } else {
            all.push(path);
        }
    }
    all
}

#[test]
fn what_a_check_finds_says_what_mends_it() {
    let Some(this) = Archiving::start(17, false) else { return };
    let said = || this.run(&["check"]).expect(0).stdout;
    let off = ["ALTER SYSTEM SET summarize_wal = off", "SELECT pg_reload_conf()"];
    this.server.sql_each("postgres", &off);
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut first = said();
    while !first.contains("summarize_wal") && std::time::Instant::now() < until {
        first = said();
    }
    assert!(first.contains("`summarize_wal` is off"), "{first}");
    assert!(first.contains("`archive_timeout` is 0"), "{first}");
    let slot = "SELECT pg_create_physical_replication_slot('left behind'::name, true)";
    let slot = slot.replace("left behind", "left_behind");
    this.server.sql_each(
        "postgres",
        &[
            &slot,
            "ALTER SYSTEM SET summarize_wal = on",
            "ALTER SYSTEM SET archive_timeout = 60",
            "ALTER SYSTEM SET synchronous_standby_names = 'nobody'",
            "SELECT pg_reload_conf()",
        ],
    );
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut second = said();
    while second.contains("summarize_wal") && std::time::Instant::now() < deadline {
        second = said();
    }
    assert!(!second.contains("summarize_wal") && !second.contains("archive_timeout"), "{second}");
    assert!(second.contains("pg_drop_replication_slot('left_behind')"), "{second}");
    assert!(second.contains("is nobody and no such standby is connected"), "{second}");
}

#[test]
fn a_standby_follows_what_is_archived() {
    let Some(this) = Archiving::start(17, true) else { return };
    this.server.sql("postgres", "CREATE TABLE t (n int)");
    this.run(&["backup", "demo/pg"]).expect(0);
    this.more(1);
    let mut standby = crate::common::postgres::Server::vacant(17);
    let data = standby.data();
    let args = ["restore", "demo/pg", "--to", data.to_str().unwrap(), "--standby"];
    let ran = this.sandbox.run_with_key(&args).expect(0);
    assert!(
        ran.stderr.contains("as a standby") && ran.stderr.contains("promote"),
        "{}",
        ran.stderr
    );
    assert!(data.join("standby.signal").exists() && !data.join("recovery.signal").exists());
    standby.boot();
    let comes_to = |wanted: &str| {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while standby.value("postgres", "SELECT count(*) FROM t") != wanted {
            assert!(std::time::Instant::now() < deadline, "{}", standby.log());
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    };
    comes_to("1");
    assert_eq!(standby.value("postgres", "SELECT pg_is_in_recovery()"), "t");
    this.more(2);
    this.more(3);
    comes_to("3");
    // The repository is away for a while: the standby asks again.
    let (repo, away) = (this.sandbox.path("repo"), this.sandbox.path("away"));
    fs::rename(&repo, &away).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(1));
    fs::rename(&away, &repo).unwrap();
    this.more(4);
    comes_to("4");
    standby.sql("postgres", "SELECT pg_promote()");
    standby.sql("postgres", "INSERT INTO t VALUES (5)");
    comes_to("5");
    assert_eq!(standby.value("postgres", "SHOW archive_mode"), "off");
    let wrong = ["restore", "demo/pg", "--to", "x", "--standby", "--at", "2026-11-21T00:00:00Z"];
    this.run(&wrong).expect(2);
}

#[test]
fn configuration_that_lies_elsewhere_is_pointed_out() {
    let settings = "ident_file = '/nonexistent/pg_ident.conf'";
    let Some(server) = crate::common::postgres::Server::with(15, settings, "") else { return };
    let sandbox = crate::common::Sandbox::new();
    let connection = server.connection("postgres").replace('\'', "''");
    let source = format!("  pg: {{ postgres_cluster: {{ connection: '{connection}' }} }}\n");
    sandbox.write_policy(false, &source);
    sandbox.run(&["init"]).expect(0);
    let said = sandbox.run(&["check"]).expect(0).stdout;
    assert!(said.contains("in no base backup: /nonexistent/pg_ident.conf"), "{said}");
    assert!(said.contains("the policy has no `wal`"), "{said}");
}

#[test]
fn a_restored_server_is_started_and_waited_for() {
    let Some(mut this) = Archiving::start(17, true) else { return };
    this.server.sql("postgres", "CREATE TABLE t (n int)");
    this.run(&["backup", "demo/pg"]).expect(0);
    this.more(1);
    this.more(2);
    let mut copy = crate::common::postgres::Server::vacant(17);
    let data = copy.data();
    let programs = copy.tool("postgres").parent().unwrap().display().to_string();
    let restore = |this: &Archiving, more: &[&str]| {
        let mut args = vec!["restore", "demo/pg", "--to", data.to_str().unwrap(), "--start"];
        args.extend(["--programs", &programs]);
        args.extend(more);
        this.sandbox.run_with_key(&args)
    };
    let stop = |data: &std::path::Path| {
        let pid = fs::read_to_string(data.join("postmaster.pid")).unwrap();
        let pid: i32 = pid.lines().next().unwrap().parse().unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::QUIT).unwrap();
        while data.join("postmaster.pid").exists() {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    };
    let good = this.run(&["list", "demo/pg", "--output", "json"]).expect(0).json();
    let good = good[0]["backup"].as_str().unwrap().to_owned();
    let broken = this.server.data().join("postgresql.conf");
    let text = fs::read_to_string(&broken).unwrap();
    fs::write(&broken, format!("{text}\nno_such_setting = 7\n")).unwrap();
    this.run(&["backup", "demo/pg"]).expect(0);
    // The place of the one that is lost: its port, and its socket.
    this.server.stop();

    // Where it is to go there is nothing: the server itself says so, and everything stays.
    let ran = restore(&this, &["--backup", &good, "--name", "nobody ever named this"]).expect(1);
    assert!(ran.stderr.contains("ended before") && ran.stderr.contains("FATAL"), "{}", ran.stderr);
    assert!(data.join("global/pg_control").exists());
    fs::remove_dir_all(&data).unwrap();

    let ran = restore(&this, &["--backup", &good, "--latest"]).expect(0);
    assert!(ran.stderr.contains("started: it is open after"), "{}", ran.stderr);
    stop(&data);
    fs::remove_dir_all(&data).unwrap();

    let ran = restore(&this, &["--latest"]).expect(1);
    assert!(ran.stderr.contains("configuration is not one"), "{}", ran.stderr);
    assert!(ran.stderr.contains("no_such_setting"), "{}", ran.stderr);
    fs::write(data.join("postgresql.conf"), &text).unwrap();
    copy.boot();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while copy.value("postgres", "SELECT pg_is_in_recovery()") != "f" {
        assert!(std::time::Instant::now() < deadline);
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(copy.value("postgres", "SELECT count(*) FROM t"), "2");
}
