//! What drills say of loss, held against what the tests know themselves: their own ledgers.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;

use crate::common::Sandbox;
use crate::common::daemon::Daemon;
use crate::common::postgres::Server;
use crate::drill::{add, codes, drilled, passed};
use crate::drill_postgres::{drilled as drilled_cluster, ready};
use crate::postgres_wal::Archiving;

/// Waits until something is so, for a minute and a half at most.
#[track_caller]
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < Duration::from_secs(90), "{what}: never");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn daemon(mut command: std::process::Command, root: &Path) -> Daemon {
    let path = root.join("daemon.log");
    let log = fs::File::options().create(true).append(true).open(&path).unwrap();
    // What else is run here runs as others.
    command.env("BACKSTAY_STATE_DIR", root.join("daemon-state"));
    let child = command.stderr(log).stdin(Stdio::null()).spawn().unwrap();
    Daemon::new(child, path)
}

/// Gives a source of the policy a heartbeat: `before` is what its line ends with.
fn beat(sandbox: &Sandbox, before: &str, every: &str) {
    let path = sandbox.path("policy.yaml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(&format!("{before} }}\n")), "{text}");
    let after = format!("{before}, heartbeat: {{ every: {every} }} }}\n");
    fs::write(path, text.replacen(&format!("{before} }}\n"), &after, 1)).unwrap();
}

fn seconds(at: Timestamp) -> f64 {
    at.as_microsecond() as f64 / 1e6
}

fn instant(value: &Value) -> f64 {
    seconds(value.as_str().unwrap().parse().unwrap())
}

/// How many heartbeats of a source a server has.
fn beats(server: &Server) -> u64 {
    let there = "SELECT to_regclass('backstay_heartbeat.beat') IS NOT NULL";
    if server.value("postgres", there) != "t" {
        return 0;
    }
    let rows = server.rows("postgres", "SELECT sum(beats) FROM backstay_heartbeat.beat");
    rows.first().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Between which moments rows were committed, by the test's own clock.
#[derive(Default)]
struct Ledger(Vec<(f64, f64)>);

impl Ledger {
    fn write(&mut self, server: &Server) {
        let number = 10_000 + self.0.len();
        let row = format!("INSERT INTO ledger VALUES ({number}, clock_timestamp())");
        let before = seconds(Timestamp::now());
        server.sql("postgres", &row);
        self.0.push((before, seconds(Timestamp::now())));
    }

    fn of(&self, number: &str) -> (f64, f64) {
        self.0[number.parse::<usize>().unwrap() - 10_000]
    }
}

/// Rounds of the test of killed servers, where nothing else is asked for.
const ROUNDS: usize = 20;

#[test]
fn what_is_lost_is_what_the_ledger_lacks_when_a_server_is_killed() {
    let drills = "  quick:
    sources: [pg]
    checks:
      last: { source: pg, sql: { database: postgres, query: 'SELECT max(n) FROM ledger' } }
";
    let Some(mut this) = ready(drills) else { return };
    beat(&this.sandbox, "keep: 7d } }", "1s");
    let start = |this: &Archiving| daemon(this.command(&["daemon"]), this.sandbox.root());
    let mut beating = Some(start(&this));
    let mut rng = fastrand::Rng::with_seed(8);
    let mut ledger = Ledger::default();
    let (mut rounds, mut tries, mut exact) = (0, 0, 0);
    while rounds < ROUNDS {
        tries += 1;
        assert!(tries < 3 * ROUNDS, "the machine stands still all the time");
        // Now and then nobody writes heartbeats: then the last commit tells it.
        let wanted = tries % 4 != 0;
        match (wanted, beating.is_some()) {
            (true, false) => beating = Some(start(&this)),
            (false, true) => beating.take().unwrap().end(),
            _ => {}
        }
        if wanted {
            let before = beats(&this.server);
            until("a heartbeat", || beats(&this.server) > before);
        }
        for _ in 0..rng.usize(1..4) {
            ledger.write(&this.server);
        }
        let since = Instant::now();
        let switch = "SELECT pg_walfile_name(pg_current_wal_lsn()), pg_switch_wal()";
        let segment = this.server.rows("postgres", switch).remove(0);
        let segment = segment.split('|').next().unwrap().to_owned();
        let stood_still = since.elapsed() > Duration::from_millis(400);
        until(&segment, || this.wal().iter().any(|path| path.to_string_lossy().contains(&segment)));
        // What comes after this is lost: it stays in a segment that nobody archives.
        ledger.write(&this.server);
        std::thread::sleep(Duration::from_millis(rng.u64(0..1500)));
        this.server.kill();
        let failed = Timestamp::now();
        this.server.reboot();
        this.arm();
        if stood_still {
            continue;
        }
        rounds += 1;
        let found = drilled_cluster(&this, &["quick", "--failed-at", &failed.to_string()], 0);
        let last = found["checks"][0]["found"].as_str().unwrap();
        let (before, after) = ledger.of(last);
        let truth = (seconds(failed) - after, seconds(failed) - before);
        let rpo = &found["sources"][0]["rpo"];
        let lost = rpo["seconds"].as_f64().unwrap();
        let is = lost > truth.0 - 1.0 && lost < truth.1 + 1.0;
        assert!(is, "{lost}, and by the ledger {truth:?}: {found:#}");
        if rpo["basis"] == "heartbeat" {
            exact += 1;
        } else {
            assert_eq!(rpo["basis"], "last_commit");
        }
        if rounds % 7 == 0 {
            this.run(&["backup", "demo/pg"]).expect(0);
        }
    }
    assert!(exact >= ROUNDS / 2, "{exact}");
    if let Some(daemon) = beating {
        daemon.end();
    }
}

#[test]
fn files_and_dumps_are_as_new_as_the_heartbeat_in_them() {
    let Some(server) = Server::start(17) else { return };
    server.sql("postgres", "CREATE TABLE orders (n int)");
    server.sql("postgres", "INSERT INTO orders SELECT generate_series(1, 100)");
    let sandbox = Sandbox::new();
    let connection = server.connection("postgres").replace('\'', "''");
    let programs = server.tool("postgres").parent().unwrap().display().to_string();
    let dump = format!(
        "  meta: {{ postgres_dump: {{ programs: {programs}, connection: '{connection}' }} }}\n"
    );
    sandbox.write_policy(true, &dump);
    let src = sandbox.path("src").display().to_string();
    beat(&sandbox, &format!("path: {src} }}"), "5s");
    beat(&sandbox, &format!("'{connection}' }}"), "5s");
    add(&sandbox, "  all: {}\n");
    fs::write(sandbox.path("src/config.py"), "x").unwrap();
    fs::create_dir(sandbox.path("scratch")).unwrap();
    sandbox.run(&["init"]).expect(0);
    let marker = sandbox.path("src/.backstay-heartbeat");
    let daemon = daemon(sandbox.command(&["daemon"]), sandbox.root());
    until("heartbeats", || marker.exists() && beats(&server) > 0);
    sandbox.run(&["backup"]).expect(0);
    let now = seconds(Timestamp::now());
    daemon.end();
    let found = drilled(&sandbox, &["all", "--programs", &programs], 0);
    assert!(passed(&found), "{found:#}");
    let mut reached = Vec::new();
    for source in found["sources"].as_array().unwrap() {
        assert_eq!(source["rpo"]["basis"], "heartbeat", "{source:#}");
        let to = instant(&source["rpo"]["recovered_to"]);
        let beaten = instant(&source["heartbeat"]["at"]);
        assert!(to <= beaten && beaten <= now, "{source:#}");
        assert!(source["heartbeat"]["beats"].as_u64().unwrap() >= 1);
        assert_eq!(source["heartbeat"]["server_at"].is_string(), source["source"] == "meta");
        reached.push(to);
    }
    let skew = found["skew_seconds"].as_f64().unwrap();
    assert!((skew - (reached[0] - reached[1]).abs()).abs() < 0.001, "{skew} and {reached:?}");
    let report = sandbox.run(&["drill", "report", "--language", "zh"]).expect(0).stdout;
    assert!(report.contains("心跳"), "{report}");
}

#[test]
fn a_heartbeat_that_nobody_writes_is_a_finding_and_its_failure_a_warning() {
    let sandbox = Sandbox::new();
    sandbox.write_policy(true, "");
    let src = sandbox.path("src").display().to_string();
    beat(&sandbox, &format!("path: {src} }}"), "1s");
    add(&sandbox, "  all: {}\n");
    fs::create_dir(sandbox.path("scratch")).unwrap();
    sandbox.run(&["init"]).expect(0);
    // Nothing is mounted there: nothing is made of it.
    let daemon = daemon(sandbox.command(&["daemon"]), sandbox.root());
    until("a warning", || daemon.said().contains("no heartbeat is written"));
    assert!(daemon.said().contains("is something not mounted"), "{}", daemon.said());
    assert!(fs::read_dir(sandbox.path("src")).unwrap().next().is_none());
    fs::write(sandbox.path("src/config.py"), "x").unwrap();
    let marker = sandbox.path("src/.backstay-heartbeat");
    until("the heartbeat", || marker.exists());
    until("a note", || daemon.said().contains("the heartbeat is written again"));
    daemon.end();
    fs::remove_file(marker).unwrap();
    sandbox.backup(&[]);
    let found = drilled(&sandbox, &["all"], 0);
    assert_eq!(found["verdict"], "pass_with_findings");
    assert_eq!(codes(&found), ["heartbeat_missing"], "{found:#}");
    assert_eq!(found["sources"][0]["rpo"]["basis"], "snapshot");
}

#[test]
fn a_role_without_rights_is_told_what_it_needs() {
    let Some(server) = Server::start(17) else { return };
    server.sql_each("postgres", &["CREATE ROLE reader LOGIN", "CREATE SCHEMA other"]);
    let sandbox = Sandbox::new();
    let connection = server.connection_as("reader", "postgres").replace('\'', "''");
    let dump = format!("  meta: {{ postgres_dump: {{ connection: '{connection}' }} }}\n");
    sandbox.write_policy(false, &dump);
    beat(&sandbox, &format!("'{connection}' }}"), "1s");
    sandbox.run(&["init"]).expect(0);
    let daemon = daemon(sandbox.command(&["daemon"]), sandbox.root());
    let way = "CREATE SCHEMA backstay_heartbeat AUTHORIZATION \"reader\"";
    until("a warning", || daemon.said().contains(way));
    server.sql("postgres", way);
    until("heartbeats", || beats(&server) > 0);
    // A site that was fenced is left alone.
    server.sql_each(
        "postgres",
        &[
            "ALTER DATABASE postgres SET default_transaction_read_only = on",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'reader'",
        ],
    );
    until("a refusal", || server.log().contains("INSERT in a read-only transaction"));
    let before = beats(&server);
    until("a warning", || daemon.said().matches("no heartbeat is written").count() > 1);
    assert_eq!(beats(&server), before);
    daemon.end();
}
