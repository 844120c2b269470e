//! The daemon: what is due is done once, and whatever happens is a row.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;

use crate::common::daemon::{Daemon, introduce};
use crate::common::{Ran, Sandbox};

/// A repository and a policy with these jobs; a clock that runs from `shows` on, `factor` times as
/// fast as time.
pub struct Site {
    pub sandbox: Sandbox,
    pub clock: String,
}

impl Site {
    pub fn new(shows: &str, factor: i32, jobs: &str) -> Self {
        let sandbox = Sandbox::new();
        fs::write(sandbox.path("src/file"), "content").unwrap();
        let clock = || format!("{shows} {} {factor}", Timestamp::now());
        let site = Self { sandbox, clock: clock() };
        site.policy(jobs);
        site.run(&["init"]).expect(0);
        // From here on, however long that took.
        Self { clock: clock(), ..site }
    }

    pub fn policy(&self, jobs: &str) {
        let text = format!(
            "version: 1\nstack: demo\nobjectives: {{ rto: 8h, rpo: 60h }}\ntimezone: UTC\n\
             repositories:\n  main: {{ local: {{ path: {repo} }} }}\nsources:\n  \
             files: {{ directory: {{ path: {src} }} }}\n{jobs}",
            repo = self.sandbox.path("repo").display(),
            src = self.sandbox.path("src").display(),
        );
        // As an editor does it: never half a file.
        fs::write(self.sandbox.path("policy.new"), text).unwrap();
        fs::rename(self.sandbox.path("policy.new"), self.sandbox.path("policy.yaml")).unwrap();
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.sandbox.command(args);
        command.env("BACKSTAY_CLOCK", &self.clock);
        command.env("BACKSTAY_STATE_DIR", self.sandbox.path("state"));
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::from(&self.command(args).output().unwrap())
    }

    pub fn daemon(&self, args: &[&str]) -> Daemon {
        introduce(self.command(&["daemon"]), &self.sandbox, &self.clock);
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.sandbox.path("daemon.log"))
            .unwrap();
        let mut command = self.command(&[&["daemon"], args].concat());
        let child = command.stderr(log).stdin(Stdio::null()).spawn().unwrap();
        Daemon::new(child, self.sandbox.path("daemon.log"))
    }

    pub fn runs(&self) -> Vec<Value> {
        let ran = self.run(&["runs", "--output", "json", "--limit", "10000"]).expect(0);
        ran.json().as_array().unwrap().clone()
    }

    /// Waits until the runs are as they should be, for half a minute at most.
    #[track_caller]
    pub fn until(&self, what: &str, is: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let begun = Instant::now();
        loop {
            let runs = self.runs();
            if is(&runs) {
                return runs;
            }
            let log = fs::read_to_string(self.sandbox.path("daemon.log")).unwrap_or_default();
            assert!(begun.elapsed() < Duration::from_secs(60), "{what}: {runs:#?}\n{log}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.sandbox.path("daemon.log")).unwrap()
    }
}

pub fn count(runs: &[Value], state: &str) -> usize {
    runs.iter().filter(|run| run["state"] == state).count()
}

const DAILY: &str = "jobs:\n  daily: { sources: all, kind: incremental, schedule: { cron: \"0 3 * * *\" }, keep: { for: 7d } }\n";

#[test]
fn what_is_due_is_done_and_what_follows_it_too() {
    // An hour is two seconds.
    let site = Site::new(
        "2026-11-21T02:00:00Z",
        1800,
        "jobs:\n  \
         often: { sources: all, kind: incremental, schedule: { every: 4h }, keep: { for: 7d }, \
         hooks: { before: { argv: [touch, before] }, after: { argv: [sh, -c, 'echo $BACKSTAY_OUTCOME > after'] } } }\n  \
         then: { sources: all, kind: snapshot, schedule: { after: [often] }, keep: { for: 7d } }\n",
    );
    let daemon = site.daemon(&[]);
    let runs = site.until("four runs", |runs| count(runs, "succeeded") >= 4);
    daemon.end();
    let nominal = |job: &str| -> Vec<String> {
        let of = runs.iter().filter(|run| run["job"] == job && run["state"] == "succeeded");
        of.map(|run| run["nominal"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(nominal("often")[0], "2026-11-21T04:00:00Z");
    assert_eq!(nominal("often")[1], "2026-11-21T08:00:00Z");
    assert_eq!(nominal("then")[0], "often 2026-11-21T04:00:00Z");
    // What the rows name is what is there.
    let listed = site.run(&["list", "--output", "json"]).expect(0).json();
    let listed = listed.as_array().unwrap();
    for run in runs.iter().filter(|run| run["state"] == "succeeded") {
        let backup = listed.iter().find(|line| line["backup"] == run["backup"]).unwrap();
        assert_eq!((&backup["run"], &backup["job"]), (&run["id"], &run["job"]));
    }
    assert!(site.sandbox.path("before").exists());
    assert_eq!(fs::read_to_string(site.sandbox.path("after")).unwrap(), "succeeded\n");
    let first = runs.iter().find(|run| run["job"] == "often").unwrap();
    let said = site.run(&["logs", first["id"].as_str().unwrap()]).expect(0).stdout;
    assert!(said.contains("backup demo/files"), "{said}");
}

#[test]
fn a_new_job_is_not_due_for_what_lies_behind_it_and_one_that_was_missed_is_done_once() {
    let site = Site::new("2026-11-21T12:00:00Z", 1, DAILY);
    let daemon = site.daemon(&[]);
    std::thread::sleep(Duration::from_secs(2));
    assert!(site.runs().is_empty(), "{:#?}", site.runs());
    daemon.end();
    // Three days later: three times were due, one is done.
    let later = Site { clock: format!("2026-11-24T12:00:00Z {} 1", Timestamp::now()), ..site };
    let daemon = later.daemon(&[]);
    let runs = later.until("one run", |runs| count(runs, "succeeded") == 1);
    daemon.end();
    let states: Vec<(&str, &str)> = runs
        .iter()
        .map(|run| (run["nominal"].as_str().unwrap(), run["state"].as_str().unwrap()))
        .collect();
    assert_eq!(
        states,
        [
            ("2026-11-22T03:00:00", "missed"),
            ("2026-11-23T03:00:00", "missed"),
            ("2026-11-24T03:00:00", "succeeded")
        ]
    );
    // And not again.
    let daemon = later.daemon(&[]);
    std::thread::sleep(Duration::from_secs(2));
    daemon.end();
    assert_eq!(later.runs().len(), 3);
}

#[test]
fn after_a_long_time_what_is_due_is_done_at_once_and_the_rest_becomes_rows_meanwhile() {
    let more: String = (0..9)
        .map(|number| format!("  s{number}: {{ command: {{ argv: [echo, x] }} }}\n"))
        .collect();
    let jobs = format!(
        "{more}jobs:\n  often: {{ sources: all, kind: full, schedule: {{ every: 5m }}, keep: {{ for: 7d }} }}\n  \
         clean: {{ verify: {{ budget: 1GiB }}, schedule: {{ cron: \"0 3 * * *\" }} }}\n"
    );
    let site = Site::new("2026-08-23T12:00:30Z", 1, &jobs);
    let daemon = site.daemon(&[]);
    let begun = Instant::now();
    while !site.log().contains("jobs watched") {
        assert!(begun.elapsed() < Duration::from_secs(30), "{}", site.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_secs(1));
    daemon.end();
    // A quarter of a million slots later.
    let later = Site { clock: format!("2026-11-21T12:00:30Z {} 1", Timestamp::now()), ..site };
    let daemon = later.daemon(&[]);
    let state = rusqlite::Connection::open(later.sandbox.path("state/state.db")).unwrap();
    state.busy_timeout(Duration::from_secs(30)).unwrap();
    let is = |what: &str| -> i64 {
        let sql = format!("SELECT count(*) FROM runs WHERE {what}");
        state.query_row(&sql, [], |row| row.get(0)).unwrap()
    };
    let begun = Instant::now();
    while is("state = 'succeeded' AND job = 'often'") < 10
        || is("attempts > 0 AND job = 'clean'") < 1
        || is("state = 'missed' AND job = 'often'") < 6_000
        || is("state = 'missed' AND job = 'clean'") < 89
    {
        assert!(begun.elapsed() < Duration::from_secs(240), "{}", later.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    daemon.end();
    assert!(!later.log().contains("the state:"), "{}", later.log());
    assert_eq!(
        is("state = 'succeeded' AND nominal <> '2026-11-21T12:00:00Z' AND job = 'often'"),
        0
    );
}

#[test]
fn no_change_of_a_policy_makes_a_job_due() {
    let wait = |site: &Site, text: &str, times: usize| {
        let begun = Instant::now();
        while site.log().matches(text).count() < times {
            assert!(begun.elapsed() < Duration::from_secs(60), "{text}: {}", site.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        // The rounds that follow.
        std::thread::sleep(Duration::from_millis(1500));
    };
    let nominal = |site: &Site| -> Vec<String> {
        let runs = site.runs();
        runs.iter().map(|run| run["nominal"].as_str().unwrap().to_owned()).collect()
    };
    let at =
        |site: Site, time: &str| Site { clock: format!("{time} {} 1", Timestamp::now()), ..site };
    let site = Site::new("2026-11-21T02:59:54Z", 1, DAILY);
    let daemon = site.daemon(&[]);
    site.until("the run of 03:00", |runs| count(runs, "succeeded") == 1);
    daemon.end();
    let first = ["2026-11-21T03:00:00"];

    // While a daemon runs: other times, which were due earlier today; another zone; elapsed time;
    // and a job that was away for a while.
    let site = at(site, "2026-11-21T12:00:30Z");
    let daemon = site.daemon(&[]);
    wait(&site, "jobs watched", 2);
    let other = |schedule: &str| DAILY.replace("cron: \"0 3 * * *\"", schedule);
    let early = other("cron: \"0 11 * * *\"");
    let named = early.replace("daily:", "nightly:");
    for (number, jobs) in [&early, &other("every: 5m"), &named, &early].into_iter().enumerate() {
        site.policy(jobs);
        wait(&site, "are in force", number + 1);
        assert_eq!(nominal(&site), first, "{jobs}: {}", site.log());
    }
    daemon.end();

    // While none does.
    let site = at(site, "2026-11-21T13:00:00Z");
    for (number, (zone, schedule)) in [
        ("UTC", "cron: \"30 12 * * *\""),
        ("Asia/Shanghai", "cron: \"30 12 * * *\""),
        ("UTC", "every: 1h"),
    ]
    .into_iter()
    .enumerate()
    {
        site.policy(&other(schedule));
        let file = site.sandbox.path("policy.yaml");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("timezone: UTC", &format!("timezone: {zone}"))).unwrap();
        let daemon = site.daemon(&[]);
        wait(&site, "jobs watched", number + 3);
        daemon.end();
        assert_eq!(nominal(&site), first, "{zone} {schedule}: {}", site.log());
    }
    // And what is due by the new one is done, also if nobody was there at that time.
    let site = at(site, "2026-11-21T14:10:00Z");
    let daemon = site.daemon(&[]);
    site.until("the run of 14:00", |runs| count(runs, "succeeded") == 2);
    daemon.end();
    assert_eq!(nominal(&site).last().unwrap(), "2026-11-21T14:00:00Z");
}

#[test]
fn a_clock_that_was_ahead_keeps_no_job_from_being_done() {
    let jobs = "jobs:\n  often: { sources: all, kind: full, schedule: { every: 1m }, keep: { for: 7d } }\n";
    let site = Site::new("2029-12-31T23:59:54Z", 1, jobs);
    let daemon = site.daemon(&[]);
    site.until("a run", |runs| count(runs, "succeeded") >= 1);
    daemon.end();
    let line = || site.run(&["status", "--output", "json"]);
    assert_eq!(line().expect(0).json()[0]["verdict"], "holds");

    let site = Site { clock: format!("2026-11-21T12:00:57Z {} 1", Timestamp::now()), ..site };
    let line = |code| site.run(&["status", "--output", "json"]).expect(code).json()[0].clone();
    assert_eq!(line(4)["verdict"], "missed");
    let daemon = site.daemon(&[]);
    let is_now = |run: &&Value| {
        run["state"] == "succeeded" && run["nominal"].as_str().unwrap().starts_with("2026-11-21")
    };
    let runs = site.until("a run of now", |runs| runs.iter().filter(is_now).count() >= 1);
    daemon.end();
    // What came of it is the newest that is known, not what was done on a day that is to come.
    let newest = runs.iter().rfind(|run| run["state"] == "succeeded").unwrap();
    assert!(is_now(&newest), "{runs:#?}");
    assert_eq!(site.log().matches("a clock was wrong").count(), 1, "{}", site.log());
    let found = line(0);
    assert!(found["time"].as_str().unwrap().starts_with("2026-11-21"), "{found}");
    assert!(found["last_run"]["nominal"].as_str().unwrap().starts_with("2026-11-21"), "{found}");
}

#[test]
fn what_may_help_is_tried_again_and_what_cannot_is_not() {
    let retry = "retry: { times: 2, pause: 1m }";
    let job = |more: &str| {
        format!(
            "jobs:\n  daily: {{ sources: all, kind: full, schedule: {{ cron: \"0 3 * * *\" }}, keep: {{ for: 7d }}, {retry}{more} }}\n"
        )
    };
    let site = Site::new(
        "2026-11-21T02:59:00Z",
        60,
        &job(
            ", hooks: { before: { argv: [sh, -c, 'test -e ready || { echo not yet; exit 1; }'] }, on_failure: { argv: [touch, ready] } }",
        ),
    );
    let daemon = site.daemon(&[]);
    let runs = site.until("a second try", |runs| count(runs, "succeeded") == 1);
    assert_eq!(runs[0]["attempts"], 2);
    let log = site.log();
    assert!(log.contains("tried again in 1m"), "{log}");
    daemon.end();
    let said = site.run(&["logs", runs[0]["id"].as_str().unwrap()]).expect(0).stdout;
    assert!(said.contains("not yet"), "{said}");

    // Damage stays damage, however often one looks.
    let site = Site::new("2026-11-21T02:57:00Z", 60, &job(""));
    fs::write(site.sandbox.path("repo/backstay.json"), "{").unwrap();
    let daemon = site.daemon(&[]);
    let runs = site.until("a failure", |runs| count(runs, "failed") == 1);
    daemon.end();
    assert_eq!(runs[0]["attempts"], 1, "{runs:#?}");
    assert!(runs[0]["why"].as_str().unwrap().contains("backstay.json"), "{runs:#?}");
}

#[test]
fn one_sources_failure_does_not_keep_others_from_being_copied() {
    let site = Site::new(
        "2026-11-21T02:59:00Z",
        60,
        "  broken: { command: { argv: [\"false\"] } }\njobs:\n  \
         all: { sources: all, kind: full, schedule: { cron: \"0 3 * * *\" }, keep: { for: 7d }, retry: { times: 0 } }\n  \
         then: { sources: [files], kind: snapshot, schedule: { after: [all] }, keep: { for: 7d } }\n",
    );
    let daemon = site.daemon(&[]);
    let runs = site.until("all of it", |runs| count(runs, "succeeded") == 2);
    daemon.end();
    assert_eq!(count(&runs, "failed"), 1, "{runs:#?}");
    assert_eq!(runs[2]["nominal"], "all 2026-11-21T03:00:00", "{runs:#?}");
}

#[test]
fn what_is_old_goes_after_what_is_new_was_verified() {
    // Prune wants a clock that is nearly the store's.
    let site = Site::new(
        &Timestamp::now().to_string(),
        6,
        "jobs:\n  \
         often: { sources: all, kind: full, schedule: { every: 1m }, keep: { at_least: 2 } }\n  \
         proof: { verify: { budget: 1GiB }, schedule: { after: [often] } }\n  \
         clean: { prune: {}, schedule: { after: [proof] } }\n",
    );
    for _ in 0..3 {
        site.run(&["backup", "--job", "often"]).expect(0);
    }
    let daemon = site.daemon(&[]);
    let done = |runs: &[Value], job: &str| {
        runs.iter().filter(|run| run["job"] == job && run["state"] == "succeeded").count()
    };
    let runs = site.until("a round", |runs| done(runs, "clean") >= 1);
    daemon.end();
    assert!(done(&runs, "proof") >= 1, "{runs:#?}");
    let listed = site.run(&["list", "--output", "json"]).expect(0).json();
    // The floor, and perhaps one that was made since.
    let count = listed.as_array().unwrap().len();
    assert!((2..=3).contains(&count), "{count}");
}

#[test]
fn what_was_backed_up_is_restored_to_see_that_it_can_be() {
    let site = Site::new(
        "2026-11-21T02:57:00Z",
        60,
        "jobs:\n  \
         daily: { sources: all, kind: full, schedule: { cron: \"0 3 * * *\" }, keep: { for: 7d } }\n",
    );
    let scratch = site.sandbox.path("scratch");
    fs::create_dir(&scratch).unwrap();
    let text = fs::read_to_string(site.sandbox.path("policy.yaml")).unwrap();
    let proof = format!(
        "  proof: {{ verify: {{ depth: restore, scratch: {}, sources: [files] }}, schedule: {{ after: [daily] }} }}\n",
        scratch.display()
    );
    fs::write(site.sandbox.path("policy.yaml"), text + &proof).unwrap();
    let daemon = site.daemon(&[]);
    let runs = site.until("the proof", |runs| count(runs, "succeeded") == 2);
    daemon.end();
    let run = runs.iter().find(|run| run["job"] == "proof").unwrap();
    let said = site.run(&["logs", run["id"].as_str().unwrap()]).expect(0).stdout;
    assert!(said.contains("prove demo/files"), "{said}");
    let line = site.run(&["status", "--output", "json"]).json()[0].clone();
    assert!(line["measured_rto_seconds"].as_u64().is_some(), "{line}");
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0, "it is left empty");
}

#[test]
fn drills_are_held_as_jobs() {
    // A drill that sees the clock run away knows nothing.
    let site = Site::new("2026-11-21T12:00:00Z", 1, DAILY);
    site.run(&["backup"]).expect(0);
    let scratch = site.sandbox.path("scratch");
    fs::create_dir(&scratch).unwrap();
    let text = fs::read_to_string(site.sandbox.path("policy.yaml")).unwrap();
    let drills = format!(
        "drills:\n  daily: {{ scratch: {place}, schedule: {{ cron: \"0 3 * * *\" }} }}\n  \
         strict: {{ scratch: {place}, checks: {{ there: {{ source: files, files: {{ present: [nothing] }} }} }}, \
         schedule: {{ cron: \"0 4 * * *\" }} }}\n",
        place = scratch.display()
    );
    fs::write(site.sandbox.path("policy.yaml"), text + &drills).unwrap();
    let planned = site.run(&["plan", "--output", "json"]).expect(0).stdout;
    assert!(planned.contains("drill-daily"), "{planned}");
    let daemon = site.daemon(&[]);
    let of = |runs: &[Value], job: &str, state: &str| {
        runs.iter().filter(|run| run["job"] == job && run["state"] == state).count()
    };
    for (job, state) in [("drill-daily", "succeeded"), ("drill-strict", "failed")] {
        site.run(&["trigger", job]).expect(0);
        site.until(job, |runs| of(runs, job, state) == 1);
    }
    let runs = site.runs();
    daemon.end();
    let failed = runs.iter().find(|run| run["job"] == "drill-strict").unwrap();
    assert_eq!(failed["attempts"], 1, "{failed}");
    assert!(failed["why"].as_str().unwrap().starts_with("the drill ended with FAIL: "), "{failed}");
    let listed = site.run(&["drill", "list", "--output", "json"]).expect(0).stdout;
    assert!(listed.contains("\"pass\"") && listed.contains("\"fail\""), "{listed}");
}

/// A job whose runs hang until `go` is there.
pub fn hanging(more: &str) -> String {
    format!(
        "  dump: {{ command: {{ argv: [sh, -c, 'while ! test -e go; do sleep 0.1; done; echo x'] }} }}\n\
         jobs:\n  dump: {{ sources: [dump], kind: full, schedule: {{ every: 1h }}, keep: {{ for: 7d }}{more} }}\n  \
         files: {{ sources: [files], kind: full, schedule: {{ every: 50h }}, keep: {{ for: 7d }} }}\n"
    )
}

#[test]
fn a_run_that_hangs_is_ended_and_never_overtaken() {
    // A minute is a second.
    let site =
        Site::new("2026-11-21T02:57:00Z", 60, &hanging(", stop_after: 59m, retry: { times: 0 }"));
    // In real time a run of 59 m would last long: it is cancelled by hand.
    let daemon = site.daemon(&[]);
    let runs = site.until("a run", |runs| count(runs, "running") == 1);
    let id = runs[0]["id"].as_str().unwrap().to_owned();
    let ran = site.run(&["cancel", &id[..id.len() - 2]]).expect(0);
    assert!(ran.stderr.contains("is told to end"), "{}", ran.stderr);
    let runs = site.until("its end", |runs| count(runs, "failed") == 1);
    assert_eq!(runs[0]["why"], "somebody cancelled it");
    let again = site.run(&["cancel", &id]).expect(1);
    assert!(again.stderr.contains("is failed already"), "{}", again.stderr);
    assert!(site.run(&["list", "demo/dump"]).expect(0).stdout.is_empty());
    daemon.end();
}

#[test]
fn the_next_is_skipped_while_the_last_goes_on() {
    let site = Site::new("2026-11-21T02:59:50Z", 600, &hanging(""));
    let daemon = site.daemon(&[]);
    let runs = site.until("skipped ones", |runs| count(runs, "skipped") >= 2);
    assert_eq!(count(&runs, "running"), 1);
    assert!(runs[1]["why"].as_str().unwrap().contains("has not ended"), "{runs:#?}");
    fs::write(site.sandbox.path("go"), "").unwrap();
    site.until("success", |runs| count(runs, "succeeded") >= 1);
    daemon.end();
}

#[test]
fn a_run_that_is_replaced_is_skipped_and_nobody_is_alarmed() {
    let notify = "notify: { command: { argv: [sh, -c, 'cat >> told'] } }\n";
    let jobs = hanging(", overlap: replace");
    let site = Site::new("2026-11-21T02:59:50Z", 600, &format!("{jobs}{notify}"));
    let daemon = site.daemon(&[]);
    site.until("two that are replaced", |runs| count(runs, "skipped") >= 2);
    fs::write(site.sandbox.path("go"), "").unwrap();
    let is_done = |run: &Value| run["job"] == "dump" && run["state"] == "succeeded";
    let runs = site.until("success", |runs| runs.iter().any(is_done));
    daemon.end();
    assert_eq!(count(&runs, "failed"), 0, "{runs:#?}");
    let replaced = |run: &&Value| run["why"] == "a later run takes its place";
    assert!(runs.iter().filter(replaced).count() >= 2, "{runs:#?}");
    let told = fs::read_to_string(site.sandbox.path("told")).unwrap_or_default();
    assert!(!told.contains("BackstayRunFailed"), "{told}");
}

#[test]
fn a_daemon_that_ends_parks_its_runs_and_one_that_is_killed_leaves_them_to_the_next() {
    let site = Site::new("2026-11-21T02:59:55Z", 1, &hanging(""));
    let daemon = site.daemon(&[]);
    site.until("a run", |runs| count(runs, "running") == 1);
    let pid = daemon.pid();
    daemon.kill();
    // What it started ends with it.
    let begun = Instant::now();
    while processes_of(pid) > 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "a run outlives its daemon");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(count(&site.runs(), "running"), 1, "nobody knows yet");
    fs::write(site.sandbox.path("go"), "").unwrap();
    let site = Site {
        // Half an hour later, a minute a second: its second attempt is long over when the next is due.
        clock: format!("2026-11-21T03:30:00Z {} 60", Timestamp::now()),
        ..site
    };
    let daemon = site.daemon(&["--silence", "1"]);
    let again = |run: &&Value| run["state"] == "succeeded" && run["attempts"] == 2;
    site.until("its success", |runs| runs.iter().filter(again).count() == 1);
    assert!(site.log().contains("whoever did it is gone"), "{}", site.log());
    daemon.end();
}

/// Processes that were told to end with this one.
fn processes_of(supervisor: u32) -> usize {
    let wanted = format!("BACKSTAY_SUPERVISOR={supervisor}");
    let of = |entry: fs::DirEntry| fs::read(entry.path().join("environ")).ok();
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| of(entry.ok()?))
        .filter(|environ| environ.split(|byte| *byte == 0).any(|one| one == wanted.as_bytes()))
        .count()
}

#[test]
fn a_bad_policy_keeps_the_old_one_in_force_and_a_good_one_takes_over() {
    let site = Site::new("2026-11-21T12:00:00Z", 1, DAILY);
    let daemon = site.daemon(&[]);
    let wait = |text: &str| {
        let begun = Instant::now();
        while !site.log().contains(text) {
            assert!(begun.elapsed() < Duration::from_secs(30), "{text}: {}", site.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    wait("jobs watched: 1");
    site.policy("jobs: { daily: 7 }\n");
    wait("the old ones stay in force");
    assert!(site.log().contains("policy.yaml:"), "{}", site.log());
    site.policy(&DAILY.replace("0 3 * * *", "0 4 * * *"));
    wait("are in force");
    daemon.end();
    assert!(site.runs().is_empty());
}

#[test]
fn a_hangup_has_the_policies_read_again_and_fires_nothing() {
    let site = Site::new("2026-11-21T12:00:00Z", 1, DAILY);
    let daemon = site.daemon(&[]);
    let wait = |times: usize| {
        let begun = Instant::now();
        let read = "the policies were read again, and are in force";
        while site.log().matches(read).count() < times || !site.log().contains("jobs watched: 1") {
            assert!(begun.elapsed() < Duration::from_secs(60), "{times}: {}", site.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    wait(0);
    for times in 1..3 {
        let pid = rustix::process::Pid::from_raw(daemon.pid() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
        wait(times);
    }
    daemon.end();
    assert!(site.runs().is_empty());
}

#[test]
fn what_is_due_is_done_although_the_policy_is_broken_by_now() {
    let site = Site::new("2026-11-21T02:59:30Z", 1, DAILY);
    let daemon = site.daemon(&[]);
    let wait = |text: &str| {
        let begun = Instant::now();
        while !site.log().contains(text) {
            assert!(begun.elapsed() < Duration::from_secs(90), "{text}: {}", site.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    wait("jobs watched: 1");
    site.policy("jobs: { daily: 7 }\n");
    wait("the old ones stay in force");
    wait("succeeded: ");
    daemon.end();
    // Whoever looks what was done need not mend the policy first.
    assert_eq!(count(&site.runs(), "succeeded"), 1);
}

#[test]
fn two_daemons_do_not_share_a_state() {
    let site = Site::new("2026-11-21T12:00:00Z", 1, DAILY);
    let daemon = site.daemon(&[]);
    let begun = Instant::now();
    while !site.log().contains("jobs watched") {
        assert!(begun.elapsed() < Duration::from_secs(30), "{}", site.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    let ran = site.run(&["daemon"]).expect(75);
    assert!(ran.stderr.contains("another daemon uses this state"), "{}", ran.stderr);
    daemon.end();
}

#[test]
fn what_is_not_there_is_said() {
    let site = Site::new("2026-11-21T12:00:00Z", 1, DAILY);
    for (args, code, said) in [
        (&["runs"][..], 0, "there are no runs"),
        (&["logs", "2026"], 1, "there is no run `2026`"),
        (&["cancel", "2026"], 1, "there is no run `2026`"),
        (&["daemon", "--jobs", "0"], 2, "--jobs"),
        (&["daemon", "--repository", "s3://x"], 2, "a daemon needs policies"),
    ] {
        let ran = site.run(args).expect(code);
        assert!(ran.stderr.contains(said), "{args:?}: {}", ran.stderr);
    }
}
