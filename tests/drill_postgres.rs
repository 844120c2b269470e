//! Drills of PostgreSQL: a server recovers, is asked, and tells how much was lost.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::common::Ran;
use crate::drill::{add, codes, passed};
use crate::postgres_wal::Archiving;

fn scratch(this: &Archiving) -> PathBuf {
    let scratch = this.sandbox.path("scratch");
    fs::create_dir_all(&scratch).unwrap();
    this.give(&scratch);
    scratch
}

/// Holds a drill as root where the suite runs as root, so that servers get networks of their own.
pub fn drilled(this: &Archiving, args: &[&str], code: i32) -> Value {
    let scratch = scratch(this);
    let programs = this.server.tool("postgres").parent().unwrap().display().to_string();
    let mut all = vec!["--output", "json", "drill", "run"];
    all.extend(args);
    all.extend(["--scratch", scratch.to_str().unwrap(), "--programs", &programs]);
    let ran: Ran = this.sandbox.run_with_key(&all).expect(code);
    assert!(fs::read_dir(&scratch).unwrap().next().is_none(), "something is left");
    ran.json()["evidence"].clone()
}

pub fn ready(drills: &str) -> Option<Archiving> {
    let this = Archiving::start(17, true)?;
    add(&this.sandbox, drills);
    this.server.sql("postgres", "CREATE TABLE ledger (n int PRIMARY KEY, at timestamptz)");
    this.server.sql(
        "postgres",
        "INSERT INTO ledger SELECT g, clock_timestamp() FROM generate_series(1, 500) g",
    );
    fs::write(this.sandbox.path("src/config.py"), "x").unwrap();
    this.run(&["backup"]).expect(0);
    // Something to be replayed: without a commit nothing tells how new the copy is.
    this.server.sql("postgres", "INSERT INTO ledger VALUES (0, clock_timestamp())");
    this.archive();
    Some(this)
}

const DRILLS: &str = "  whole:
    checks:
      rows: { source: pg, sql: { database: postgres, query: 'SELECT count(*) FROM ledger', expect: { at_least: 500 } } }
  wrong:
    sources: [pg]
    checks:
      rows: { source: pg, sql: { database: postgres, query: 'SELECT count(*) FROM ledger', expect: { is: '1' } } }
      gone: { source: pg, sql: { database: postgres, query: 'SELECT count(*) FROM never_was' } }
  cannot:
    sources: [pg]
    checks:
      typo: { source: pg, sql: { database: postgres, query: 'SELEC 1' } }
";

#[test]
fn a_server_and_files_are_recovered_and_measured() {
    let Some(this) = ready(DRILLS) else { return };
    this.server.sql("postgres", "INSERT INTO ledger VALUES (501, clock_timestamp())");
    let truth =
        this.server.value("postgres", "SELECT extract(epoch FROM at) FROM ledger WHERE n = 501");
    this.archive();
    let found = drilled(&this, &["whole"], 0);
    assert!(passed(&found), "{found:#}");
    let pg = found["sources"].as_array().unwrap().iter().find(|one| one["source"] == "pg").unwrap();
    assert_eq!(pg["rpo"]["basis"], "last_commit");
    assert!(pg["server"].as_str().unwrap().starts_with("PostgreSQL 17"));
    let amcheck = pg["proven"].to_string();
    assert!(amcheck.contains("pg_amcheck found nothing wrong"), "{amcheck}");
    assert_eq!(found["checks"][0]["found"], "502");
    // What the server says is what the ledger says.
    let reached: jiff::Timestamp = pg["rpo"]["recovered_to"].as_str().unwrap().parse().unwrap();
    let reached = reached.as_microsecond() as f64 / 1e6;
    let truth: f64 = truth.parse().unwrap();
    assert!((reached - truth).abs() < 1.0, "{reached} and {truth}");
    assert!(found["skew_seconds"].is_number());
    if crate::common::is_root() && found["environment"]["network_isolated"] == true {
        let probes = found["environment"]["probes"].as_array().unwrap();
        assert!(!probes.is_empty());
        assert!(probes.iter().all(|probe| probe["before"] != "reachable"), "{probes:?}");
    }
    // A table was dropped: as of before that.
    let before = this.server.value(
        "postgres",
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
    );
    this.server.sql("postgres", "DROP TABLE ledger");
    this.archive();
    let gone = drilled(&this, &["whole"], 1);
    assert_eq!(codes(&gone), ["check_failed"], "{gone:#}");
    let back = drilled(&this, &["whole", "--scenario", "table-dropped", "--at", &before], 0);
    assert!(passed(&back), "{back:#}");
    assert_eq!(back["scenario"], "table_dropped");
}

#[test]
fn wrong_rows_fail_and_a_question_that_cannot_be_asked_is_inconclusive() {
    let Some(this) = ready(DRILLS) else { return };
    let wrong = drilled(&this, &["wrong"], 1);
    assert_eq!(wrong["verdict"], "fail");
    assert_eq!(codes(&wrong), ["check_failed", "check_failed"], "{wrong:#}");
    let cannot = drilled(&this, &["cannot"], 1);
    assert_eq!(cannot["verdict"], "inconclusive", "{cannot:#}");
    assert!(codes(&cannot).contains(&"check_not_run".to_owned()), "{cannot:#}");
}

#[test]
fn missing_wal_fails() {
    let Some(this) = ready(DRILLS) else { return };
    for n in 600..603 {
        this.server.sql("postgres", &format!("INSERT INTO ledger VALUES ({n}, clock_timestamp())"));
        this.archive();
    }
    let mut wal: Vec<PathBuf> = this
        .sandbox
        .objects()
        .into_iter()
        .filter(|path| path.to_string_lossy().contains("/wal/"))
        .collect();
    wal.sort();
    // What was pushed ahead is pushed once more in its turn: it would be back.
    let last = wal[wal.len() - 1].file_name().unwrap().to_string_lossy()[..24].to_owned();
    let archived = "SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver";
    while this.server.value("postgres", archived) < last {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    fs::remove_file(this.sandbox.path("repo").join(&wal[wal.len() - 2])).unwrap();
    let found = drilled(&this, &["whole"], 1);
    assert_eq!(found["verdict"], "fail");
    assert!(codes(&found).contains(&"not_restored".to_owned()), "{found:#}");
    assert!(found["findings"].to_string().contains("is missing"), "{found:#}");
}

#[test]
fn queries_of_a_playbook_are_asked_of_what_was_recovered() {
    let Some(this) = ready("  rehearsal: {}\n") else { return };
    let path = this.sandbox.path("policy.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let playbook = "playbooks:
  restore:
    assess:
      before: { sql: { connection: 'host=nowhere dbname=postgres', query: 'SELECT 1' } }
    recover:
      back: { restore: { source: pg, to: /srv/elsewhere } }
    validate:
      rows: { sql: { connection: 'host=nowhere dbname=postgres', query: 'SELECT count(*) FROM ledger', expect: { at_least: 500 } } }
      page: { http: { url: 'http://nowhere.invalid/' } }
";
    let drill = "drills:\n  rehearsal: { playbook: restore }\n";
    let text = text.replace("drills:\n  rehearsal: {}\n", &format!("{playbook}{drill}"));
    fs::write(&path, text).unwrap();
    let found = drilled(&this, &["rehearsal"], 0);
    assert!(passed(&found), "{found:#}");
    assert_eq!(found["checks"][0]["name"], "rows");
    assert_eq!(found["checks"][0]["state"], "passed");
    let step = |name: &str| {
        let steps = found["steps"].as_array().unwrap();
        steps.iter().find(|step| step["name"] == name).unwrap()["state"].clone()
    };
    assert_eq!(
        [step("rows"), step("before"), step("page")],
        ["done", "not_executed", "not_executed"]
    );
    fs::write(&path, fs::read_to_string(&path).unwrap().replace("at_least: 500", "is: '7'"))
        .unwrap();
    let wrong = drilled(&this, &["rehearsal"], 1);
    assert_eq!(codes(&wrong), ["check_failed"], "{wrong:#}");
}
