//! A standby that is kept at the newest backup: over two clusters and one bucket.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::Ran;
use crate::common::daemon::Daemon;
use crate::common::starrocks::StarRocks;
use crate::common::starrocks::fixture::Fixture;

const VERSION: &str = "3.3.5-6d81f75";

/// Site A with its buckets, and site B.
struct Sites {
    a: Fixture,
    b: StarRocks,
}

impl Sites {
    fn new(more: &str) -> Self {
        let sites = Self { a: Fixture::new(VERSION), b: StarRocks::start(VERSION, 2) };
        sites.write_policy(more);
        sites
    }

    /// The fixture's policy with a job that syncs, and `more` settings of it.
    fn write_policy(&self, more: &str) {
        let path = self.a.sandbox.path("policy.yaml");
        self.a.write_policy("");
        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str(&format!(
            "  to-b: {{ sync: {{ source: warehouse, {more} to: {{ frontends: [\"{}\"], user: backup, password: \"${{file:{}}}\", \
             storage: {{ access_key_id: \"${{env:T_ACCESS}}\", secret_access_key: \"${{env:T_SECRET}}\" }} }} }}, schedule: {{ after: [daily] }} }}\n",
            self.b.addresses().join("\", \""),
            self.a.sandbox.path("password").display(),
        ));
        fs::write(path, text).unwrap();
    }

    fn sync(&self, more: &[&str]) -> Ran {
        self.a.run(&[&["sync", "to-b"], more].concat())
    }

    /// What became of each database, by name.
    fn changes(&self) -> Vec<(String, String)> {
        let done = self.sync(&["--output", "json"]).expect(0).json();
        let list = done["syncs"][0]["databases"].as_array().unwrap().clone();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        list.iter().map(|one| (text(&one["database"]), text(&one["change"]))).collect()
    }

    #[track_caller]
    fn assert_same(&self) {
        let (a, b) = (self.a.cluster.world(), self.b.world());
        for (database, table) in [("dw", "orders"), ("dw", "customers"), ("mart", "daily")] {
            assert_eq!(a.rows(database, table), b.rows(database, table), "{database}.{table}");
        }
        let names: Vec<&String> = b.databases.keys().collect();
        assert_eq!(names, ["dw", "mart"], "nothing is left beside");
    }

    fn sent_to_b(&self, start: &str) -> usize {
        self.b.statements().iter().filter(|text| text.starts_with(start)).count()
    }
}

fn pair(database: &str, change: &str) -> (String, String) {
    (database.to_owned(), change.to_owned())
}

#[test]
fn a_standby_follows_backup_after_backup() {
    let sites = Sites::new("");
    sites.a.backup(&["--kind", "full"]);
    let said = sites.sync(&["--dry-run"]).expect(0).stderr;
    assert!(said.contains("never synced") && said.contains("would make `dw`"), "{said}");
    assert!(sites.b.world().databases.is_empty(), "a dry run changes nothing");
    assert_eq!(sites.changes(), [pair("dw", "new"), pair("mart", "new")]);
    sites.assert_same();
    // Nobody here can read the backup's views, and the standby has none yet.
    assert!(sites.b.world().databases["dw"].views.is_empty());
    // Nothing new: nothing is restored.
    let restored = sites.sent_to_b("RESTORE");
    assert_eq!(sites.changes(), [pair("dw", "unchanged"), pair("mart", "unchanged")]);
    assert_eq!(sites.sent_to_b("RESTORE"), restored);
    // One database changed.
    {
        let mut world = sites.a.cluster.world();
        world.load("dw", "orders", "p20260102", &["5,e"]);
        world.truncate("dw", "orders", "p20260103");
    }
    sites.a.backup(&[]);
    let said = sites.sync(&["--dry-run"]).expect(0).stderr;
    assert!(said.contains("would bring `dw` to") && said.contains("ago"), "{said}");
    let ran = sites.sync(&["--identity", "recovery.key", "--output", "json"]).expect(0).json();
    assert_eq!(ran["syncs"][0]["databases"][0]["change"], "renewed");
    assert_eq!(ran["syncs"][0]["databases"][1]["change"], "unchanged");
    sites.assert_same();
    assert!(sites.b.world().databases["dw"].views.contains_key("v"));
    assert!(sites.b.world().databases["dw"].materialized.contains_key("mv"));
    // Without the key they stay as the standby has them.
    sites.a.cluster.world().load("dw", "orders", "p20260102", &["6,f"]);
    sites.a.backup(&[]);
    assert_eq!(sites.changes()[0], pair("dw", "renewed"));
    sites.assert_same();
    assert!(sites.b.world().databases["dw"].views.contains_key("v"));
}

#[test]
fn what_somebody_else_wrote_to_the_standby_is_never_replaced_unasked() {
    let sites = Sites::new("");
    sites.a.backup(&["--kind", "full"]);
    {
        let mut world = sites.b.world();
        world.table("dw", "own", &[]);
        world.load("dw", "own", "own", &["theirs"]);
    }
    let ran = sites.sync(&[]).expect(1);
    assert!(ran.stderr.contains("no sync put it there"), "{}", ran.stderr);
    assert!(ran.stderr.contains("--replace"), "{}", ran.stderr);
    assert_eq!(sites.b.world().rows("dw", "own"), ["theirs"]);
    assert!(sites.sync(&["--replace"]).expect(6).stderr.contains("--yes"));
    let ran = sites.sync(&["--replace", "--yes"]).expect(0);
    assert!(ran.stderr.contains("is kept as `dw_before_"), "{}", ran.stderr);
    {
        let mut world = sites.b.world();
        let kept = world.databases.keys().find(|name| name.starts_with("dw_before_")).unwrap();
        assert_eq!(world.rows(kept, "own"), ["theirs"]);
        // The standby was made the active one, and somebody works there.
        world.load("dw", "orders", "p20260101", &["9,z"]);
    }
    sites.a.cluster.world().load("mart", "daily", "daily", &["y"]);
    sites.a.backup(&[]);
    let ran = sites.sync(&[]).expect(1);
    assert!(ran.stderr.contains("it is not as the last sync left it"), "{}", ran.stderr);
    assert!(sites.b.world().rows("dw", "orders").contains(&"9,z".to_owned()));
    assert_eq!(sites.b.world().rows("mart", "daily"), ["x"], "not half of it either");
}

#[test]
fn a_sync_that_was_killed_is_done_by_the_next_one() {
    // At each statement that changes something: it is carried out, and nobody hears of it any more.
    let begin = [
        "CREATE DATABASE",
        "RESTORE",
        "ALTER DATABASE `dw` RENAME",
        "ALTER DATABASE `dw_backstay_sync`",
        "DROP DATABASE `dw_",
    ];
    let sites = Sites::new("");
    sites.a.backup(&["--kind", "full"]);
    sites.sync(&[]).expect(0);
    for start in begin {
        sites.a.cluster.world().load("dw", "orders", "p20260102", &["5,e"]);
        sites.a.backup(&[]);
        sites.b.world().faults.halt_after = Some(start);
        let mut child = sites.a.command(&["sync", "to-b"]).spawn().unwrap();
        while sites.b.world().faults.halt_after.is_some() {
            assert!(child.try_wait().unwrap().is_none(), "{start} never came");
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let ran = sites.sync(&[]);
        assert_eq!(ran.code, 0, "{start}: {}", ran.stderr);
        sites.assert_same();
    }
}

#[test]
fn a_standby_with_other_rows_keeps_what_it_had() {
    let sites = Sites::new("");
    sites.a.backup(&["--kind", "full"]);
    sites.sync(&[]).expect(0);
    let before = sites.b.world().rows("dw", "orders");
    sites.a.cluster.world().load("dw", "orders", "p20260102", &["5,e"]);
    sites.a.backup(&[]);
    sites.b.world().faults.lose_rows = true;
    let ran = sites.sync(&[]).expect(5);
    assert!(ran.stderr.contains("rows at the standby"), "{}", ran.stderr);
    assert_eq!(sites.b.world().rows("dw", "orders"), before);
    sites.b.world().faults.lose_rows = false;
    sites.sync(&[]).expect(0);
    sites.assert_same();
}

#[test]
fn the_lag_is_measured_and_held_against_what_is_allowed() {
    let sites = Sites::new("max_lag: 1s,");
    sites.a.backup(&["--kind", "full"]);
    let mut late = sites.a.command(&["sync", "to-b", "--output", "json"]);
    let now = jiff::Timestamp::now();
    let later = now + jiff::SignedDuration::from_hours(2);
    late.env("BACKSTAY_CLOCK", format!("{later} {now} 1"));
    let ran = Ran::from(&late.output().unwrap()).expect(4);
    assert!(ran.stderr.contains("behind, and 1s are allowed"), "{}", ran.stderr);
    let done: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert!(done["syncs"][0]["lag_seconds"].as_i64().unwrap() > 3600, "{done}");
    // It is what the recovery point says, and no job's word.
    let manifest = sites.a.manifest(done["syncs"][0]["backup"].as_str().unwrap());
    assert_eq!(done["syncs"][0]["point"], manifest["recovery_points"][0]["time"]);
}

#[test]
fn the_site_that_is_active_is_no_standby() {
    let sites = Sites::new("site: b,");
    let path = sites.a.sandbox.path("policy.yaml");
    let mut text = fs::read_to_string(&path).unwrap();
    text.push_str("role: { repository: offsite }\nsites: { a: null, b: null }\n");
    fs::write(&path, text).unwrap();
    sites.a.backup(&["--kind", "full"]);
    sites.sync(&[]).expect(0);
    let role = serde_json::json!({
        "role": 1, "epoch": 1, "site": "b", "time": "2026-01-01T00:00:00Z", "run": "r",
        "fence": "f", "by": { "host": "h", "pid": 1 }, "nonce": "n"
    });
    let place = sites.a.offsite.root.path().join(crate::common::s3::BUCKET).join("site/sr/role");
    fs::create_dir_all(&place).unwrap();
    fs::write(place.join("00000001.json"), role.to_string()).unwrap();
    let before = sites.b.statements().len();
    let ran = sites.sync(&[]).expect(1);
    assert!(ran.stderr.contains("site b of stack sr is the active one"), "{}", ran.stderr);
    assert_eq!(sites.b.statements().len(), before, "it was not even asked");
}

#[test]
fn a_sync_is_planned_after_the_backup() {
    let sites = Sites::new("");
    let ran = sites.a.run(&["check", "--output", "json"]);
    assert!(!ran.stdout.contains("error"), "{}", ran.stdout);
    let ran = sites.a.run(&["plan", "--output", "json"]).expect(0);
    assert!(ran.stdout.contains("\"to-b\""), "{}", ran.stdout);
}

/// A backup that was killed leaves a job that nobody waits for, and only one runs in a database.
#[test]
fn the_job_of_a_backup_that_was_killed_is_ended_by_the_next_one() {
    let fixture = Fixture::new(VERSION);
    fixture.cluster.world().faults.stuck_in = Some("UPLOADING");
    let mut killed = fixture.command(&["backup", "sr/warehouse"]).spawn().unwrap();
    while fixture.cluster.world().slots.get("dw").is_none_or(|job| job.state != "UPLOADING") {
        assert!(killed.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::yield_now();
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    let mut next = fixture.command(&["backup", "sr/warehouse"]).spawn().unwrap();
    while fixture.sent("CANCEL BACKUP").is_empty() {
        assert!(next.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::yield_now();
    }
    fixture.cluster.world().faults.stuck_in = None;
    assert!(next.wait().unwrap().success());
    assert_eq!(fixture.sent("CANCEL BACKUP"), ["CANCEL BACKUP FROM `dw`"]);
    fixture.run(&["verify", "--depth", "stored"]).expect(0);
}

#[test]
fn the_daemon_syncs_when_the_backup_is_done() {
    let sites = Sites::new("");
    let state = sites.a.sandbox.path("state");
    let command = |args: &[&str]| {
        let mut command = sites.a.command(args);
        command.env("BACKSTAY_STATE_DIR", &state);
        command
    };
    let log = sites.a.sandbox.path("daemon.log");
    let said = fs::File::create(&log).unwrap();
    let child = command(&["daemon"]).stderr(said).stdin(Stdio::null()).spawn().unwrap();
    let daemon = Daemon::new(child, log);
    let begun = Instant::now();
    let patience = |what: &str| {
        assert!(begun.elapsed() < Duration::from_secs(120), "{what}: {}", daemon.said());
        std::thread::sleep(Duration::from_millis(100));
    };
    while !command(&["trigger", "daily"]).output().unwrap().status.success() {
        patience("nobody takes the job");
    }
    loop {
        let ran = Ran::from(&command(&["runs", "--output", "json"]).output().unwrap());
        let runs: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
        let runs = runs.as_array().cloned().unwrap_or_default();
        let sync = runs.iter().find(|run| run["job"] == "to-b" && run["state"] == "succeeded");
        if sync.is_some() {
            break;
        }
        patience("nothing is synced");
    }
    sites.assert_same();
    daemon.end();
}
