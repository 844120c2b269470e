//! When jobs are due: against another program's reading of the same expressions, and over two years
//! of the shipped policies in places with every kind of clock change.

use std::collections::BTreeSet;
use std::fs;
use std::str::FromStr as _;

use backstay::daemon::forecast::{exposures, holdings};
use backstay::daemon::timetable::{Run, runs};
use backstay::policy::{Cron, Policy, parse};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::common::{Sandbox, thorough};

const ZONES: [&str; 6] = [
    "Europe/Berlin",
    "America/New_York",
    "Asia/Shanghai",
    "Africa/Cairo",
    "Australia/Lord_Howe",
    "Pacific/Apia",
];

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn years() -> (Timestamp, Timestamp) {
    (at("2026-01-01T00:00:00Z"), at("2028-01-01T00:00:00Z"))
}

/// A shipped policy in another zone, and with objectives that a night of 25 hours does not break.
fn shipped(name: &str, zone: &str) -> Policy {
    let text = fs::read_to_string(format!("policies/{name}.yaml")).unwrap();
    let text = text.replace("timezone: Asia/Shanghai", &format!("timezone: {zone}"));
    read(&text)
}

fn read(text: &str) -> Policy {
    let set = parse(text, "policy.yaml").unwrap_or_else(|error| panic!("{}", error.render(false)));
    set.policies.into_iter().next().unwrap()
}

/// Where both mean the same: UTC has no clock changes, and neither L, W nor # are in the grammar of
/// both.
#[test]
fn expressions_mean_what_another_library_says_they_mean() {
    let (from, _) = years();
    for text in [
        "0 3 * * *",
        "30 */4 * * *",
        "*/15 9-17 * * 1-5",
        "5,35 0-23/3 * 1-6 *",
        "0 0 1 * *",
        "0 0 29 2 *",
        "59 23 31 12 *",
        "10-50/20 1,13 */7 * *",
        "0 12 * jan,jul mon",
        "*/7 * * * 0",
    ] {
        let ours: Cron = text.parse().unwrap();
        // The other one has seconds, and counts the days of the week from 1.
        let fields: Vec<&str> = text.split(' ').collect();
        let weekday = match fields[4] {
            "1-5" => "Mon-Fri",
            "mon" => "Mon",
            "0" => "Sun",
            other => other,
        };
        let other = format!("0 {} {} {} {} {weekday}", fields[0], fields[1], fields[2], fields[3]);
        let other = cron::Schedule::from_str(&other).unwrap();
        let start = chrono::DateTime::from_timestamp(from.as_second() - 1, 0).unwrap();
        // It knows no year after 2100.
        let end = at("2099-01-01T00:00:00Z");
        let expected: Vec<i64> = other
            .after(&start)
            .map(|due| due.timestamp())
            .take_while(|due| *due < end.as_second())
            .take(500)
            .collect();
        let found: Vec<i64> = ours
            .due_between(from, end, &TimeZone::UTC)
            .take(500)
            .map(|due| due.at.as_second())
            .collect();
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn two_years_of_the_shipped_policies_hold_in_every_zone() {
    let (from, until) = years();
    for (number, zone) in ZONES.iter().enumerate() {
        for (turn, name) in ["superset", "redash", "data-platform"].iter().enumerate() {
            // Each zone with one of them, and all with all where there is time.
            if number % 3 != turn && !thorough() {
                continue;
            }
            let policy = shipped(name, zone);
            let all = runs(&policy, from, until);
            let case = format!("{name} in {zone}");
            assert!(all.len() > 2 * 365, "{case}");
            assert!(all.is_sorted_by_key(|run| run.start), "{case}");
            let mut names = BTreeSet::new();
            for run in &all {
                assert!(run.start >= run.due, "{case}: {run:?} begins before it is due");
                let name = (&run.job, run.nominal.to_string(), &run.follows);
                assert!(names.insert(name), "{case}: {run:?} is there twice");
            }
            hold_what_is_forecast(&policy, &all, from, &case);
            for holding in holdings(&policy, from) {
                let floor = holding.keep.at_least as usize;
                assert!(holding.backups >= floor, "{case}: {holding:?}");
                assert!(!holding.growing, "{case}: {holding:?}");
            }
        }
    }
}

/// No source is exposed for longer than the plan says.
fn hold_what_is_forecast(policy: &Policy, all: &[Run], from: Timestamp, case: &str) {
    // Within the time that the forecast looks at.
    let until = from + SignedDuration::from_hours(400 * 24);
    let done: Vec<&Run> =
        all.iter().filter(|run| run.kind.is_some() && run.start < until).collect();
    for exposure in exposures(policy, from) {
        let mut of: Vec<&&Run> =
            done.iter().filter(|run| run.sources.contains(&exposure.source)).collect();
        of.sort_by_key(|run| run.end);
        // Just before each end the newest of those that ended before is all there is.
        let mut newest = None;
        let groups = of.chunk_by(|a, b| a.end == b.end).filter_map(|together| {
            let exposed = newest.map(|newest| together[0].end.duration_since(newest));
            newest = newest.max(together.iter().map(|run| run.start).max());
            exposed
        });
        let exposed: Vec<SignedDuration> = groups.collect();
        let found = exposed.into_iter().max().unwrap().unsigned_abs();
        assert_eq!(Some(found), exposure.worst.map(|worst| worst.get()), "{case}: {exposure:?}");
        assert!(exposure.holds, "{case}: {exposure:?}");
    }
}

const WINDOWS: &str = r#"
version: 1
stack: shop
objectives: { rto: 8h, rpo: 26h }
timezone: Europe/Berlin
repositories:
  main: { local: { path: /srv/backup } }
sources:
  db: { directory: { path: /srv/db }, objectives: { rpo: 5h } }
  files: { directory: { path: /srv/files } }
windows:
  logs: { cron: "0 3 * * *", for: 2h, reason: "logs are packed" }
  orphans: { cron: "0 4 * * 6", for: 90m, hard: true }
  night: { cron: "0 22 * * *", for: 9h }
jobs:
  weekly: { sources: all, kind: full, schedule: { cron: "0 3 * * 0" }, expected: 2h, keep: { for: 4w, at_least: 2 } }
  daily: { sources: all, kind: incremental, schedule: { cron: "0 3 * * *" }, expected: 30m, keep: { for: 7d }, avoid: [orphans], within: [night] }
  often: { sources: [db], kind: snapshot, schedule: { cron: "0 */4 * * *" }, expected: 10m, keep: { for: 24h }, avoid: [logs, orphans] }
  moved: { sources: [files], kind: incremental, schedule: { cron: "30 3 * * *" }, keep: { for: 7d }, avoid: [logs] }
"#;

fn with_windows() -> Policy {
    read(WINDOWS)
}

#[test]
fn jobs_of_one_time_become_one_run_of_the_strongest_kind() {
    // A Sunday: both are due at 03:00.
    let all = runs(&with_windows(), at("2026-11-22T01:59:00Z"), at("2026-11-22T02:01:00Z"));
    let shown: Vec<(&str, usize, usize)> =
        all.iter().map(|run| (run.job.as_str(), run.sources.len(), run.covered.len())).collect();
    assert_eq!(shown, [("weekly", 2, 0), ("daily", 0, 2)]);
    assert_eq!(all[1].covered["db"], "weekly");
}

#[test]
fn a_soft_window_gives_way_to_the_rpo_and_a_hard_one_does_not() {
    let policy = with_windows();
    let berlin = |day: &str| {
        let from = format!("{day}T00:00:00+01:00[Europe/Berlin]").parse::<jiff::Zoned>().unwrap();
        (from.timestamp(), from.timestamp() + SignedDuration::from_hours(24))
    };
    let of = |day: &str, job: &str| -> Vec<String> {
        let (from, until) = berlin(day);
        runs(&policy, from, until)
            .into_iter()
            .filter(|run| run.job == job)
            .map(|run| {
                let start = run.start.to_zoned(policy.time_zone());
                format!("{} {:?} {:?}", start.strftime("%H:%M"), run.waits_for, run.despite)
            })
            .collect()
    };
    // 04:00 lies within `logs`; waiting until 05:00 would break the RPO of 5 h on no day but those
    // whose last backup was at 00:00.
    assert_eq!(of("2026-11-25", "often")[1], "04:00 [] []".replace("[] []", "[] [\"logs\"]"));
    // On Saturdays `orphans` is hard: until 05:30, whatever it costs.
    assert_eq!(of("2026-11-28", "often")[1], "05:30 [\"orphans\"] [\"logs\"]");
    // Nothing of `files` is at stake: it waits for the end of the window.
    assert_eq!(of("2026-11-25", "moved"), ["05:00 [\"logs\"] []"]);
}

#[test]
fn a_plan_does_not_depend_on_where_one_begins_to_look() {
    let (from, until) = years();
    let middle = at("2027-03-27T22:30:00Z");
    for policy in [with_windows(), shipped("superset", "Europe/Berlin")] {
        let whole = runs(&policy, from, until);
        let halves = [runs(&policy, from, middle), runs(&policy, middle, until)].concat();
        assert_eq!(halves.len(), whole.len());
        assert_eq!(halves, whole);
    }
}

#[test]
fn plan_shows_runs_losses_and_what_stays() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("policy.yaml"), WINDOWS).unwrap();
    let plan = |args: &[&str]| sandbox.run(&[&["plan", "--from", "2026-11-22"], args].concat());
    let ran = plan(&[]).expect(4);
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.bind(|| {
        insta::assert_snapshot!("plan", ran.stdout);
        insta::assert_snapshot!("plan_day", plan(&["--gantt", "day"]).expect(4).stdout);
        insta::assert_snapshot!("plan_week", plan(&["--gantt", "week"]).expect(4).stdout);
    });
    let json: serde_json::Value =
        serde_json::from_str(&plan(&["--output", "json"]).expect(4).stdout).unwrap();
    assert_eq!(json[0]["runs"][0]["job"], "often");
    assert_eq!(json[0]["sources"][0]["holds"], false);
    assert_eq!(json[0]["retention"][0]["backups"], 4);
}

#[test]
fn plan_refuses_what_makes_no_sense() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("policy.yaml"), WINDOWS).unwrap();
    for (args, code, said) in [
        (&["plan", "shp"][..], 1, "did you mean `shop`"),
        (&["plan", "--from", "tomorrow"], 2, "`tomorrow` is not a time"),
        (&["plan", "--from", "2026-11-22", "--until", "2026-11-21"], 2, "not after the begin"),
    ] {
        let ran = sandbox.run(args).expect(code);
        assert!(ran.stderr.contains(said), "{}", ran.stderr);
    }
}
