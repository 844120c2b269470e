//! Daemons that share a state in PostgreSQL: each slot is done by one of them, whoever is killed,
//! stands still or loses the database meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::process::Signal;
use serde_json::Value;

use crate::common::daemon::Daemon;
use crate::common::postgres::Server;
use crate::common::{Ran, Sandbox};
use crate::metrics::{get, value};
use crate::notify::{Answer, Server as Hook, free_port};

const MAJOR: u32 = 15;

/// A repository, a server with an empty database, and a policy that names it.
struct Fleet {
    sandbox: Sandbox,
    server: Server,
    clock: String,
}

impl Fleet {
    /// `None`, said loudly, where there is no PostgreSQL.
    fn new(shows: &str, factor: i32, rest: &str) -> Option<Self> {
        let server = Server::start(MAJOR)?;
        server.create_database("backstay");
        let sandbox = Sandbox::new();
        fs::write(sandbox.path("src/file"), "content").unwrap();
        let mut fleet = Self { sandbox, server, clock: String::new() };
        fleet.policy(rest);
        fleet.sandbox.run(&["init"]).expect(0);
        fleet.run("a", &["runs"]).expect(0);
        // From here on, however long that took.
        fleet.clock = format!("{shows} {} {factor}", Timestamp::now());
        Some(fleet)
    }

    fn state(&self) -> String {
        let connection = self.server.connection("backstay");
        format!("state: {{ postgres: {{ connection: \"{connection}\" }} }}\n")
    }

    fn policy(&self, rest: &str) {
        self.policy_with(&self.state(), rest);
    }

    fn policy_with(&self, state: &str, rest: &str) {
        let text = format!(
            "version: 1\nstack: demo\nobjectives: {{ rto: 8h, rpo: 500d }}\ntimezone: UTC\n{state}\
             repositories:\n  main: {{ local: {{ path: {repo} }} }}\nsources:\n  \
             files: {{ directory: {{ path: {src} }} }}\n{rest}",
            repo = self.sandbox.path("repo").display(),
            src = self.sandbox.path("src").display(),
        );
        fs::write(self.sandbox.path("policy.new"), text).unwrap();
        fs::rename(self.sandbox.path("policy.new"), self.sandbox.path("policy.yaml")).unwrap();
    }

    /// A command as on the host `host`: with a state directory of its own.
    fn command(&self, host: &str, args: &[&str]) -> Command {
        let mut command = self.sandbox.command(args);
        if !self.clock.is_empty() {
            command.env("BACKSTAY_CLOCK", &self.clock);
        }
        command.env("BACKSTAY_STATE_DIR", self.sandbox.path(format!("state-{host}")));
        command
    }

    fn run(&self, host: &str, args: &[&str]) -> Ran {
        Ran::from(&self.command(host, args).output().unwrap())
    }

    fn daemon(&self, host: &str, args: &[&str]) -> Daemon {
        let path = self.sandbox.path(format!("daemon-{host}.log"));
        let log = fs::File::options().create(true).append(true).open(&path).unwrap();
        let mut command = self.command(host, &[&["daemon", "--host", host], args].concat());
        let child = command.stderr(log).stdin(Stdio::null()).spawn().unwrap();
        Daemon::new(child, path)
    }

    fn runs(&self) -> Vec<Value> {
        let ran = self.run("other", &["runs", "--output", "json", "--limit", "100000"]).expect(0);
        ran.json().as_array().unwrap().clone()
    }

    /// Waits until the runs are as they should be.
    #[track_caller]
    fn until(&self, what: &str, is: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let begun = Instant::now();
        loop {
            let runs = self.runs();
            if is(&runs) {
                return runs;
            }
            let logs = self.logs();
            assert!(begun.elapsed() < Duration::from_secs(90), "{what}: {runs:#?}\n{logs}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn logs(&self) -> String {
        let mut all = String::new();
        for entry in fs::read_dir(self.sandbox.root()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|end| end == "log") {
                all.push_str(&format!("--- {}\n", path.display()));
                all.push_str(&fs::read_to_string(path).unwrap());
            }
        }
        all
    }

    #[track_caller]
    fn until_said(&self, daemon: &Daemon, text: &str) {
        let begun = Instant::now();
        while !daemon.said().contains(text) {
            assert!(begun.elapsed() < Duration::from_secs(60), "{text}: {}", daemon.said());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn value(&self, query: &str) -> String {
        self.server.value("backstay", query)
    }
}

fn count(runs: &[Value], state: &str) -> usize {
    runs.iter().filter(|run| run["state"] == state).count()
}

/// A source whose backups hang until `go` is there, and a job for it.
fn hanging(more: &str) -> String {
    format!(
        "  dump: {{ command: {{ argv: [sh, -c, 'touch begun; while ! test -e go; do sleep 0.1; done; echo x'] }} }}\n\
         jobs:\n  dump: {{ sources: [dump], kind: full, schedule: {{ every: 50h }}, keep: {{ for: 7d }}{more} }}\n"
    )
}

/// Shortly before a time that `every: 50h` is due.
const BEFORE: &str = "2026-11-22T03:59:56Z";

#[test]
fn runs_logs_cancel_and_status_work_from_any_host() {
    let jobs = "jobs:\n  often: { sources: all, kind: full, schedule: { every: 4h }, keep: { for: 7d } }\n  \
                then: { sources: all, kind: snapshot, schedule: { after: [often] }, keep: { for: 7d } }\n";
    let Some(fleet) = Fleet::new("2026-11-21T02:00:00Z", 1800, jobs) else { return };
    let empty = fleet.run("other", &["runs"]).expect(0);
    assert!(empty.stderr.contains("there are no runs"), "{}", empty.stderr);
    let daemon = fleet.daemon("a", &[]);
    let runs = fleet.until("two rounds", |runs| count(runs, "succeeded") >= 4);
    let first = runs.iter().find(|run| run["state"] == "succeeded").unwrap();
    let id = first["id"].as_str().unwrap();
    let said = fleet.run("other", &["logs", id]).expect(0).stdout;
    assert!(said.contains("backup demo/files"), "{said}");
    let status = fleet.run("other", &["status", "--output", "json"]).expect(0).json();
    assert_eq!(status[0]["last_run"]["state"], "succeeded", "{status:#}");
    let prefix = fleet.run("other", &["logs", &id[..4]]).expect(2);
    assert!(prefix.stderr.contains("several runs begin with"), "{}", prefix.stderr);
    daemon.end();
    assert_eq!(fleet.value("SELECT count(*) FROM backstay.daemons"), "0");
    let schedule = "SELECT schedule FROM backstay.cursors WHERE job = 'often'";
    assert_eq!(fleet.value(schedule), "every 14400 s");
    // A clock that was ahead is told of, and keeps nothing from being done.
    let done = count(&fleet.runs(), "succeeded");
    fleet.server.sql(
        "backstay",
        "UPDATE backstay.cursors SET until = 1893456000000000;
         UPDATE backstay.runs SET due = 1893456000000000 WHERE state = 'succeeded'",
    );
    let daemon = fleet.daemon("a", &[]);
    fleet.until_said(&daemon, "a clock was wrong");
    fleet.until("another round", |runs| count(runs, "succeeded") > done);
    daemon.end();
    let ahead = "SELECT count(*) FROM backstay.runs
                 WHERE due > 1880000000000000 AND state = 'succeeded'";
    assert_eq!(fleet.value(ahead), "0");
    // Each time was done once, whatever else happened.
    let nominal = |run: &Value| (run["job"].to_string(), run["nominal"].to_string());
    let all: BTreeSet<_> = runs.iter().map(nominal).collect();
    assert_eq!(all.len(), runs.len());
}

#[test]
fn somebody_elsewhere_cancels() {
    let Some(fleet) = Fleet::new(BEFORE, 1, &hanging(", retry: { times: 0 }")) else { return };
    let daemon = fleet.daemon("a", &["--silence", "4"]);
    let runs = fleet.until("a run", |runs| count(runs, "running") == 1);
    let id = runs[0]["id"].as_str().unwrap();
    fleet.run("other", &["cancel", id]).expect(0);
    let runs = fleet.until("its end", |runs| count(runs, "failed") == 1);
    assert_eq!(runs[0]["why"], "somebody cancelled it");
    daemon.end();
}

#[test]
fn a_run_that_is_replaced_is_skipped_whichever_daemon_finds_that() {
    // 50 hours are five seconds.
    let Some(fleet) = Fleet::new(BEFORE, 36_000, &hanging(", overlap: replace")) else { return };
    let [first, second] = ["a", "b"].map(|host| fleet.daemon(host, &["--silence", "4"]));
    let runs = fleet.until("some that are replaced", |runs| {
        runs.iter().filter(|run| run["why"] == "a later run takes its place").count() >= 4
    });
    assert_eq!(count(&runs, "failed"), 0, "{runs:#?}");
    fs::write(fleet.sandbox.path("go"), "").unwrap();
    fleet.until("success", |runs| count(runs, "succeeded") >= 1);
    first.end();
    second.end();
}

#[test]
fn a_newer_schema_is_refused_and_so_are_two_states() {
    let Some(fleet) = Fleet::new(BEFORE, 1, "") else { return };
    fleet.run("a", &["runs"]).expect(0);
    assert_eq!(fleet.value("SELECT version FROM backstay.schema_version"), "3");
    // What the first schema was: nothing was counted.
    let text =
        "DROP TRIGGER runs_end ON backstay.runs; DROP TRIGGER runs_never_begin ON backstay.runs;
         DROP FUNCTION backstay.count_ended; DROP FUNCTION backstay.count_never_begun;
         DROP TABLE backstay.run_totals; DROP TABLE backstay.run_durations;
         ALTER TABLE backstay.cursors DROP COLUMN schedule;
         INSERT INTO backstay.runs (id, stack, job, source, nominal, due, not_before, state)
         VALUES ('r', 's', 'j', 't', 'n', 1, 1, 'missed');
         UPDATE backstay.schema_version SET version = 1";
    fleet.server.sql("backstay", text);
    fleet.run("a", &["runs"]).expect(0);
    assert_eq!(fleet.value("SELECT version FROM backstay.schema_version"), "3");
    assert_eq!(fleet.value("SELECT state || total FROM backstay.run_totals"), "missed1");
    fleet.server.sql("backstay", "UPDATE backstay.schema_version SET version = 7");
    for args in [&["runs"][..], &["daemon"]] {
        let ran = fleet.run("a", args).expect(1);
        assert!(ran.stderr.contains("has schema 7; this program knows 3"), "{}", ran.stderr);
        assert!(ran.stderr.contains("use a newer backstay"), "{}", ran.stderr);
    }
    // Two policies of one directory that do not agree.
    let both = fleet.sandbox.path("both");
    fs::create_dir(&both).unwrap();
    let text = fs::read_to_string(fleet.sandbox.path("policy.yaml")).unwrap();
    fs::write(both.join("a.yaml"), &text).unwrap();
    let other = text.replace("stack: demo", "stack: other").replace(&fleet.state(), "");
    fs::write(both.join("b.yaml"), other).unwrap();
    let ran = fleet.run("a", &["daemon", "--policy", both.to_str().unwrap()]).expect(3);
    assert!(ran.stderr.contains("name different states"), "{}", ran.stderr);
}

#[test]
fn a_database_that_is_not_there_is_said() {
    let Some(mut fleet) = Fleet::new(BEFORE, 1, "") else { return };
    fleet.server.stop();
    let ran = fleet.run("a", &["runs"]).expect(1);
    assert!(ran.stderr.contains("failed to open the state in postgres@"), "{}", ran.stderr);
}

#[test]
fn runs_of_a_host_are_done_there_or_are_missed() {
    let rest = "  here: { directory: { path: /etc/hostname }, host: west }\n  \
                there: { directory: { path: /etc/hostname }, host: east }\n\
                jobs:\n  all: { sources: all, kind: full, schedule: { every: 50h }, keep: { for: 7d }, start_within: 10s }\n";
    let rest = rest.replace("/etc/hostname", "/etc/init.d");
    let Some(fleet) = Fleet::new(BEFORE, 1, &rest) else { return };
    let port = free_port();
    let north =
        fleet.daemon("north", &["--silence", "4", "--listen", &format!("127.0.0.1:{port}")]);
    let west = fleet.daemon("west", &["--silence", "4"]);
    let runs = fleet.until("all of it", |runs| {
        runs.len() == 3 && runs.iter().all(|run| run["ended"].is_string())
    });
    let of = |source: &str| runs.iter().find(|run| run["source"] == source).unwrap();
    assert_eq!(of("files")["state"], "succeeded");
    assert_eq!(of("here")["state"], "succeeded", "{runs:#?}");
    assert!(of("here")["owner"].as_str().unwrap().starts_with("west/"));
    assert_eq!(of("there")["state"], "missed");
    let why = of("there")["why"].as_str().unwrap();
    assert_eq!(why, "host down: no daemon of `east` was heard of");
    // Any of the daemons tells what became of all of them.
    let page = get(port, "/metrics").unwrap().1;
    let is = |name: &str, labels: &str| {
        let series = format!("backstay_{name}{{stack=\"demo\",{labels}}}");
        value(&page, &series).unwrap_or_else(|| panic!("{series}: {page}"))
    };
    assert_eq!(value(&page, "backstay_state_up"), Some(1.0));
    for (source, outcome, never) in
        [("here", "succeeded", 0.0), ("files", "succeeded", 0.0), ("there", "missed", 1.0)]
    {
        let slot = format!("job_name=\"all\",source=\"{source}\"");
        let ended = format!("{slot},outcome=\"{outcome}\"");
        assert_eq!(is("job_runs_total", &ended), 1.0, "{source}");
        assert_eq!(is("job_last_outcome", &ended), 1.0, "{source}");
        assert_eq!(is("job_never_succeeded", &slot), never, "{source}");
        assert_eq!(is("job_waiting", &slot), 0.0, "{source}");
    }
    assert_eq!(is("job_run_duration_seconds_count", "job_name=\"all\""), 2.0);
    let bucket =
        |le| is("job_run_duration_seconds_bucket", &format!("job_name=\"all\",le=\"{le}\""));
    assert_eq!((bucket("86400"), bucket("+Inf")), (2.0, 2.0));
    assert!(is("job_run_duration_seconds_sum", "job_name=\"all\"") > 0.0);
    north.end();
    west.end();
}

#[test]
fn what_a_killed_daemon_did_is_taken_over_within_a_minute() {
    let Some(fleet) = Fleet::new(BEFORE, 1, &hanging(", retry: { times: 3, pause: 1s }")) else {
        return;
    };
    let first = fleet.daemon("a", &[]);
    fleet.until("a run", |runs| count(runs, "running") == 1);
    let second = fleet.daemon("b", &[]);
    fleet.until_said(&second, "jobs watched");
    first.kill();
    let killed = Instant::now();
    let runs = fleet.until("its successor", |runs| runs[0]["attempts"] == 2);
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(60), "{took:?}");
    assert!(runs[0]["owner"].as_str().unwrap().starts_with("b/"), "{runs:#?}");
    fs::write(fleet.sandbox.path("go"), "").unwrap();
    fleet.until("its end", |runs| count(runs, "succeeded") == 1);
    second.end();
}

#[test]
fn a_daemon_that_stood_still_changes_nothing_any_more() {
    let Some(fleet) = Fleet::new(BEFORE, 1, &hanging(", retry: { times: 3, pause: 1s }")) else {
        return;
    };
    let first = fleet.daemon("a", &["--silence", "6"]);
    fleet.until("a run", |runs| count(runs, "running") == 1);
    let second = fleet.daemon("b", &["--silence", "6"]);
    first.signal(Signal::STOP);
    let runs = fleet
        .until("its successor", |runs| runs[0]["state"] == "running" && runs[0]["attempts"] == 2);
    assert!(runs[0]["owner"].as_str().unwrap().starts_with("b/"), "{runs:#?}");
    let epoch = fleet.value("SELECT epoch FROM backstay.runs");
    first.signal(Signal::CONT);
    fleet.until_said(&first, "does not count: another daemon took it over");
    assert_eq!(fleet.value("SELECT epoch FROM backstay.runs"), epoch);
    assert_eq!(runs[0]["id"], fleet.runs()[0]["id"]);
    assert_eq!(fleet.runs()[0]["state"], "running");
    fs::write(fleet.sandbox.path("go"), "").unwrap();
    fleet.until("its end", |runs| count(runs, "succeeded") == 1);
    let listed = fleet.run("a", &["list", "demo/dump", "--output", "json"]).expect(0).json();
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed:#}");
    first.end();
    second.end();
}

#[test]
fn what_ends_while_the_database_is_away_is_written_down_when_it_is_back() {
    let Some(mut fleet) = Fleet::new(BEFORE, 1, &hanging("")) else { return };
    let daemon = fleet.daemon("a", &[]);
    // Before it does anything it asks whether it may.
    fleet.until("a run", |_| fleet.sandbox.path("begun").exists());
    fleet.server.kill();
    fleet.until_said(&daemon, "the state: ");
    fs::write(fleet.sandbox.path("go"), "").unwrap();
    fleet.until_said(&daemon, "which is tried again");
    fleet.server.reboot();
    let runs = fleet.until("its end", |runs| count(runs, "succeeded") == 1);
    assert_eq!(runs[0]["attempts"], 1, "{runs:#?}");
    assert!(runs[0]["backup"].is_string(), "{runs:#?}");
    fleet.until_said(&daemon, "the state answers again");
    daemon.end();
}

#[test]
fn a_policy_may_be_switched_to_a_shared_state() {
    let jobs = "jobs:\n  often: { sources: all, kind: full, schedule: { every: 4h }, keep: { for: 7d } }\n";
    let Some(fleet) = Fleet::new("2026-11-21T02:00:00Z", 1800, jobs) else { return };
    fleet.policy_with("", jobs);
    let daemon = fleet.daemon("a", &[]);
    // Another host knows nothing of what this one keeps for itself.
    let alone = |fleet: &Fleet| {
        let ran = fleet.run("a", &["runs", "--output", "json"]).expect(0);
        ran.json().as_array().unwrap().clone()
    };
    let begun = Instant::now();
    while count(&alone(&fleet), "succeeded") < 2 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", fleet.logs());
        std::thread::sleep(Duration::from_millis(200));
    }
    let before = alone(&fleet);
    fleet.policy(jobs);
    fleet.until_said(&daemon, "the policies name another state");
    daemon.end();
    let ran = fleet.run("a", &["state", "rebuild", "--output", "json"]).expect(0).json();
    assert!(ran["added"].as_u64().unwrap() >= 2, "{ran:#}");
    let again = fleet.run("a", &["state", "rebuild", "--output", "json"]).expect(0).json();
    assert_eq!(again["added"], 0, "{again:#}");
    let daemon = fleet.daemon("a", &[]);
    let fresh = |run: &&Value| !run["nominal"].as_str().unwrap().starts_with("as backup");
    let runs = fleet.until("new ones", |runs| {
        runs.iter().filter(fresh).filter(|run| run["state"] == "succeeded").count() >= 2
    });
    daemon.end();
    let old: BTreeSet<&str> = before
        .iter()
        .filter(|run| run["state"] == "succeeded")
        .map(|run| run["nominal"].as_str().unwrap())
        .collect();
    let twice = runs
        .iter()
        .filter(|run| run["state"] == "succeeded")
        .find(|run| old.contains(run["nominal"].as_str().unwrap()));
    assert_eq!(twice, None, "done by both");
}

/// Every change of a run, as the database saw it.
const AUDIT: &str = "
    CREATE TABLE audit (at bigserial, id text, was text, is_now text, owner_was text, owner_now text,
                        epoch_was bigint, epoch_now bigint);
    CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO public.audit (id, was, is_now, owner_was, owner_now, epoch_was, epoch_now)
        VALUES (new.id, old.state, new.state, old.owner, new.owner, old.epoch, new.epoch);
        RETURN NULL;
    END $$;
    CREATE TRIGGER audit AFTER UPDATE ON backstay.runs FOR EACH ROW
    WHEN (old.state <> new.state OR old.epoch <> new.epoch OR old.owner IS DISTINCT FROM new.owner)
    EXECUTE FUNCTION audit();";

/// Three daemons, many slots; one is killed or stands still every few seconds, and the server is
/// restarted. `BACKSTAY_SLOTS=2000` makes it long.
#[test]
fn three_daemons_do_every_slot_once() {
    let slots: usize =
        std::env::var("BACKSTAY_SLOTS").ok().map_or(120, |text| text.parse().unwrap());
    let hours = if slots > 500 { 20 } else { 6 };
    let sources = slots / hours;
    let mut rest = String::new();
    for source in 0..sources {
        rest.push_str(&format!(
            "  s{source}: {{ command: {{ argv: [sh, -c, 'echo $BACKSTAY_RUN $BACKSTAY_EPOCH >> ran; echo x'] }} }}\n"
        ));
    }
    // Every full hour of the morning of one day, and then not for a year.
    let names: Vec<String> = (0..sources).map(|source| format!("s{source}")).collect();
    rest.push_str(&format!(
        "jobs:\n  all: {{ sources: [{}], kind: full, schedule: {{ cron: \"0 1-{hours} 21 11 *\" }}, keep: {{ for: 7d }}, retry: {{ times: 50, pause: 10s }} }}\n",
        names.join(", ")
    ));
    // An hour is as long as its slots take, more or less.
    let factor = if slots > 500 { 300 } else { 400 };
    let Some(mut fleet) = Fleet::new("2026-11-20T23:58:00Z", factor, &rest) else { return };
    fleet.run("a", &["runs"]).expect(0);
    fleet.server.sql("backstay", AUDIT);
    let hosts = ["a", "b", "c"];
    let start = |fleet: &Fleet, host: &str| fleet.daemon(host, &["--silence", "3", "--jobs", "2"]);
    let mut daemons: Vec<Daemon> = hosts.iter().map(|host| start(&fleet, host)).collect();
    let mut random = fastrand::Rng::with_seed(7);
    let mut stopped: Option<(usize, Instant)> = None;
    let (mut killed, mut stood, mut restarted) = (0, 0, 0);
    let begun = Instant::now();
    let patience = Duration::from_secs(if slots > 500 { 1500 } else { 240 });
    let open = "SELECT (SELECT count(*) FROM backstay.runs) || ' ' ||
                (SELECT count(*) FROM backstay.runs WHERE state IN ('waiting', 'running'))";
    loop {
        std::thread::sleep(Duration::from_millis(1500));
        if stopped.is_some_and(|(_, since)| since.elapsed() > Duration::from_secs(5)) {
            let (at, _) = stopped.take().unwrap();
            daemons[at].signal(Signal::CONT);
        }
        let told = fleet.value(open);
        let (all, open) = told.split_once(' ').unwrap();
        let made: usize = all.parse().unwrap();
        if made == sources * hours && open == "0" {
            break;
        }
        assert!(begun.elapsed() < patience, "{made} made, {open} open\n{}", fleet.logs());
        // Towards the end they may get on with it.
        if made == sources * hours && killed + stood > 6 && restarted > 0 {
            continue;
        }
        let at = random.usize(0..3);
        match random.u32(0..10) {
            0..=2 if stopped.is_none_or(|(other, _)| other != at) => {
                let daemon = daemons.remove(at);
                daemon.kill();
                daemons.insert(at, start(&fleet, hosts[at]));
                killed += 1;
            }
            3..=5 if stopped.is_none() => {
                daemons[at].signal(Signal::STOP);
                stopped = Some((at, Instant::now()));
                stood += 1;
            }
            6 if restarted < 2 => {
                fleet.server.kill();
                std::thread::sleep(Duration::from_secs(2));
                fleet.server.reboot();
                restarted += 1;
            }
            _ => {}
        }
    }
    if let Some((at, _)) = stopped {
        daemons[at].signal(Signal::CONT);
    }
    let logs = fleet.logs();
    daemons.into_iter().for_each(Daemon::end);
    eprintln!(
        "{} slots in {:?}: killed {killed}, stood still {stood}, restarted {restarted}; {}",
        sources * hours,
        begun.elapsed(),
        ["succeeded", "failed", "skipped", "missed", "abandoned"]
            .map(|state| format!("{state} {}", count(&fleet.runs(), state)))
            .join(", ")
    );
    assert!(killed > 0 && stood > 0, "killed {killed}, stood still {stood}");

    // One row for every slot, and each is over.
    let runs = fleet.runs();
    let mut rows: BTreeMap<(String, String), usize> = BTreeMap::new();
    for run in &runs {
        let text = |name: &str| run[name].as_str().unwrap().to_owned();
        *rows.entry((text("source"), text("nominal"))).or_default() += 1;
        assert!(run["ended"].is_string(), "{run:#}");
    }
    for source in &names {
        for hour in 1..=hours {
            let key = (source.clone(), format!("2026-11-21T{hour:02}:00:00"));
            assert_eq!(rows.remove(&key), Some(1), "{key:?}");
        }
    }
    assert!(rows.is_empty(), "{rows:?}");

    // No epoch began a run twice.
    let ran = fs::read_to_string(fleet.sandbox.path("ran")).unwrap();
    let mut began = BTreeSet::new();
    for line in ran.lines() {
        assert!(began.insert(line), "`{line}` twice\n{logs}");
    }
    // What is final stays; an epoch ends what it began; only a claim or a successor counts it up.
    let wrong = fleet.server.rows(
        "backstay",
        "SELECT * FROM audit WHERE NOT (
             (was = 'waiting' AND is_now = 'running' AND epoch_now = epoch_was + 1)
          OR (was = 'waiting' AND is_now IN ('skipped', 'missed') AND epoch_now = epoch_was)
          OR (was = 'running' AND is_now = 'running' AND epoch_now = epoch_was + 1
              AND owner_now <> owner_was)
          OR (was = 'running' AND is_now IN ('waiting', 'succeeded', 'failed', 'abandoned')
              AND epoch_now = epoch_was AND owner_now = owner_was))",
    );
    assert!(wrong.is_empty(), "{wrong:#?}\n{logs}");
    // What the rows name is what is there.
    let listed = fleet.run("a", &["list", "--output", "json"]).expect(0).json();
    let by_id: BTreeMap<&str, &str> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|line| (line["backup"].as_str().unwrap(), line["run"].as_str().unwrap()))
        .collect();
    for run in runs.iter().filter(|run| run["state"] == "succeeded") {
        assert!(by_id.contains_key(run["backup"].as_str().unwrap()), "{run:#}\n{logs}");
    }
    // And what is there was made by the epoch that the rows name: of each run one.
    let lines = listed.as_array().unwrap();
    let by_run: BTreeSet<&str> = lines.iter().map(|line| line["run"].as_str().unwrap()).collect();
    assert_eq!(by_run.len(), lines.len(), "a run made two backups\n{logs}");
    let done = count(&runs, "succeeded");
    assert!(done * 4 > runs.len(), "only {done} of {} were done\n{logs}", runs.len());
}

/// What was begun under an older epoch is never listed, even if nobody ends it.
#[test]
fn a_stale_process_commits_nothing() {
    let Some(fleet) = Fleet::new(BEFORE, 1, &hanging("")) else { return };
    // Begun by hand, as a daemon would whose machine then stands still.
    let stale = |run: &str| {
        let mut command = fleet.command("a", &["backup", "demo/dump", "--run", run]);
        command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
    };
    let mut child = stale("r1");
    let intents = fleet.sandbox.path("repo/demo/sources/dump/intent");
    let begun = Instant::now();
    while fs::read_dir(&intents).map_or(0, Iterator::count) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "no intent");
        std::thread::sleep(Duration::from_millis(50));
    }
    let give_up = ["backup", "demo/dump", "--give-up", "--run", "r1", "--output", "json"];
    let none = fleet.run("b", &give_up).expect(0).json();
    assert_eq!(none["backups"], serde_json::json!([]));
    fs::write(fleet.sandbox.path("go"), "").unwrap();
    assert!(!child.wait().unwrap().success());
    assert!(fleet.run("a", &["list", "demo/dump"]).expect(0).stdout.is_empty());

    // One that was committed before is found, and stays.
    assert!(stale("r2").wait().unwrap().success());
    let give_up = ["backup", "demo/dump", "--give-up", "--run", "r2", "--output", "json"];
    let found = fleet.run("b", &give_up).expect(0).json();
    let listed = fleet.run("a", &["list", "demo/dump", "--output", "json"]).expect(0).json();
    assert_eq!(found["backups"][0]["backup"], listed[0]["backup"], "{found:#} {listed:#}");

    // One that comes too late to have an intent learns that the run is another's.
    let mut command = fleet.command("a", &["backup", "demo/dump", "--run", "r3"]);
    let ran = Ran::from(&command.env("BACKSTAY_EPOCH", "1").output().unwrap()).expect(1);
    assert!(ran.stderr.contains("run r3 is not this process's any more"), "{}", ran.stderr);
    let listed = fleet.run("a", &["list", "demo/dump", "--output", "json"]).expect(0).json();
    assert_eq!(listed.as_array().unwrap().len(), 1);
}

#[test]
fn one_of_several_daemons_tells_people_and_another_when_it_is_gone() {
    let hook = Hook::new(&[Answer::Say(200, "ok")]);
    let rest = format!(
        "  dump: {{ command: {{ argv: [\"false\"] }} }}\njobs:\n  \
         dump: {{ sources: [dump], kind: full, schedule: {{ every: 1h }}, keep: {{ for: 7d }}, retry: {{ times: 0 }} }}\n\
         notify: {{ webhook: {{ url: \"{}\" }} }}\n",
        hook.url("/")
    );
    let Some(fleet) = Fleet::new(BEFORE, 1, &rest) else { return };
    let silence = ["--silence", "6"];
    let first = fleet.daemon("a", &silence);
    fleet.until_said(&first, "jobs watched");
    let second = fleet.daemon("b", &silence);
    // Both see that it failed, whoever of them did it.
    fleet.until_said(&first, "ALERT: demo/dump dump: the run failed");
    fleet.until_said(&second, "ALERT: demo/dump dump: the run failed");
    let times = || hook.heard().iter().filter(|one| one.body.contains("BackstayRunFailed")).count();
    let begun = Instant::now();
    while times() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "{}", fleet.logs());
        std::thread::sleep(Duration::from_millis(100));
    }
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(times(), 1, "{:#?}", hook.heard());
    first.kill();
    let begun = Instant::now();
    while times() == 1 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", fleet.logs());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(times(), 2, "who did not tell yet says what fires once");
    second.end();
}
