//! What holds of the scheduler whatever a policy says.

use std::collections::{BTreeMap, BTreeSet};

use backstay::daemon::admission::{admit, jitter_of};
use backstay::daemon::timetable::{next_due, runs};
use backstay::policy::{Cron, Execution, Period, Policy, Schedule, Window, parse};
use backstay::state::RunState;
use indexmap::IndexMap;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan as _, civil};
use proptest::prelude::*;

use crate::simulation::World;

const ZONES: [&str; 7] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Shanghai",
    "Africa/Cairo",
    "Australia/Lord_Howe",
    "Pacific/Apia",
];

fn zone() -> impl Strategy<Value = TimeZone> {
    prop::sample::select(&ZONES[..]).prop_map(|name| TimeZone::get(name).unwrap())
}

/// Around the clock changes of some years, and elsewhere.
fn instant() -> impl Strategy<Value = Timestamp> {
    let changes =
        ["2026-03-29", "2026-10-25", "2026-03-08", "2026-11-01", "2026-04-24", "2011-12-30"];
    let near = (prop::sample::select(changes.to_vec()), -200_000_i64..200_000).prop_map(
        |(day, seconds)| {
            let day: civil::Date = day.parse().unwrap();
            let noon = day.at(12, 0, 0, 0).to_zoned(TimeZone::UTC).unwrap().timestamp();
            noon + SignedDuration::from_secs(seconds)
        },
    );
    let any = (1_300_000_000_i64..1_900_000_000)
        .prop_map(|second| Timestamp::from_second(second).unwrap());
    prop_oneof![near, any]
}

fn field(most: u32) -> impl Strategy<Value = String> {
    prop_oneof![
        Just("*".to_owned()),
        (0..most).prop_map(|value| value.to_string()),
        (0..most, 0..most).prop_map(|(a, b)| format!("{a},{b}")),
        (0..most, 0..most).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
        (1..most).prop_map(|step| format!("*/{step}")),
    ]
}

fn cron() -> impl Strategy<Value = Cron> {
    let days =
        prop::sample::select(vec!["* * *", "* * 0", "* * 1-5", "1-7 * *", "L * *", "* * 5#2"]);
    (field(60), field(24), days)
        .prop_map(|(minute, hour, days)| format!("{minute} {hour} {days}").parse().unwrap())
}

/// When a window opens: not so often that nothing is ever left.
fn opening() -> impl Strategy<Value = Cron> {
    let days = prop::sample::select(vec!["* * *", "* * 6", "* * 1-5", "L * *"]);
    (0..60_u32, 0..24_u32, 0..24_u32, days).prop_map(|(minute, one, two, days)| {
        format!("{minute} {one},{two} {days}").parse().unwrap()
    })
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() }
}

/// A policy with one source and these jobs.
fn policy_text(jobs: &str) -> String {
    format!(
        "version: 1\nstack: demo\nobjectives: {{ rto: 8h, rpo: 60h }}\ntimezone: UTC\n\
         repositories: {{ main: {{ local: {{ path: /srv/main }} }} }}\n\
         sources:\n  db: {{ directory: {{ path: /srv/db }} }}\n  files: {{ directory: {{ path: /srv/files }} }}\n\
         jobs:\n{jobs}"
    )
}

fn policy(jobs: &str) -> Policy {
    let parsed = parse(policy_text(jobs), "policy.yaml");
    parsed.unwrap_or_else(|error| panic!("{}", error.render(false))).policies.remove(0)
}

/// What several jobs want, as a policy: kinds, sources, hours, and minutes of jitter.
fn colliding() -> impl Strategy<Value = String> {
    let job = (0..3_usize, 0..3_usize, 1..6_u32, 0..25_u32);
    prop::collection::vec(job, 2..6).prop_map(|jobs| {
        let line = |(number, (kind, sources, step, jitter)): (usize, (usize, usize, u32, u32))| {
            let kind = ["full", "incremental", "snapshot"][kind];
            let sources = ["[db]", "[files]", "all"][sources];
            let jitter = if jitter == 0 { String::new() } else { format!(", jitter: {jitter}m") };
            format!(
                "  job{number}: {{ sources: {sources}, kind: {kind}, schedule: {{ cron: '0 */{step} * * *' }}, expected: 1m, keep: {{ for: 7d }}{jitter} }}\n"
            )
        };
        policy_text(&jobs.into_iter().enumerate().map(line).collect::<String>())
    })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn times_ascend_and_none_is_lost_or_comes_twice(cron in cron(), zone in zone(), from in instant()) {
        let until = from + SignedDuration::from_hours(5 * 24);
        let due: Vec<_> = cron.due_between(from, until, &zone).collect();
        prop_assert!(due.windows(2).all(|two| two[0].at < two[1].at), "{due:?}");
        for one in &due {
            let here = one.at.to_zoned(zone.clone()).datetime();
            if here == one.nominal {
                // Of a time that exists twice the first.
                let first = zone.to_ambiguous_timestamp(one.nominal).earlier().unwrap();
                prop_assert_eq!(first, one.at);
            } else {
                // A time that does not exist: the first instant after the gap.
                prop_assert!(here > one.nominal);
                let before = (one.at - SignedDuration::from_secs(1)).to_zoned(zone.clone());
                prop_assert!(before.datetime() < one.nominal, "{one:?}");
            }
        }
        // Every civil time that the expression names, read in another zone, is due here once.
        let all: BTreeSet<Timestamp> = due.iter().map(|one| one.at).collect();
        let begin = from.to_zoned(zone.clone()).datetime().saturating_add(1.day());
        let end = until.to_zoned(zone.clone()).datetime().saturating_sub(1.day());
        let as_utc = |time: civil::DateTime| time.to_zoned(TimeZone::UTC).unwrap().timestamp();
        for named in cron.due_between(as_utc(begin), as_utc(end), &TimeZone::UTC).take(2000) {
            let mut there = zone.to_ambiguous_timestamp(named.nominal).earlier().unwrap();
            if there.to_zoned(zone.clone()).datetime() != named.nominal {
                there = zone.following(there).next().unwrap().timestamp();
            }
            prop_assert!(all.contains(&there), "{:?} {there} {due:?}", named.nominal);
        }
        // One after the other gives the same.
        let mut at = from - SignedDuration::from_nanos(1);
        for one in due.iter().take(50) {
            let next = cron.next_after(at, &zone).unwrap();
            prop_assert_eq!(next, *one);
            at = next.at;
        }
    }

    #[test]
    fn elapsed_time_is_on_its_grid(seconds in 1_u64..3_000_000, from in instant(), zone in zone()) {
        let mut policy = policy("  often: { sources: all, kind: full, schedule: { every: 1h }, keep: { for: 7d } }\n");
        let job = &mut policy.jobs["often"];
        job.schedule = Schedule::Every(Period::from_secs(seconds));
        let step = SignedDuration::from_secs(seconds as i64);
        let (_, first) = next_due(job, from, false, &zone).unwrap();
        prop_assert!(first > from && first.duration_since(from) <= step);
        prop_assert_eq!(first.as_second() % seconds as i64, 0);
        prop_assert_eq!(first.subsec_nanosecond(), 0);
        prop_assert_eq!(next_due(job, first, true, &zone).unwrap().1, first);
        prop_assert_eq!(next_due(job, first, false, &zone).unwrap().1, first + step);
    }

    #[test]
    fn jitter_is_the_same_every_time_and_within_its_bounds(
        stack in "[a-z]{1,9}", job in "[a-z]{1,9}", seconds in 1_u64..200_000,
    ) {
        let execution = Execution { jitter: Some(Period::from_secs(seconds)), ..Execution::default() };
        let jitter = jitter_of(&stack, &job, &execution);
        prop_assert!(jitter >= SignedDuration::ZERO);
        prop_assert!(jitter < SignedDuration::from_secs(seconds as i64));
        prop_assert_eq!(jitter, jitter_of(&stack, &job, &execution.clone()));
        prop_assert_eq!(jitter_of(&stack, &job, &Execution::default()), SignedDuration::ZERO);
    }

    #[test]
    fn no_run_begins_where_a_window_forbids_it(
        hard in opening(), soft in opening(), open in opening(),
        lengths in (1_u64..400, 1_u64..400, 30_u64..900),
        zone in zone(), wanted in instant(), slack in prop::option::of(0_i64..200_000),
    ) {
        let window = |cron: &Cron, minutes: u64, hard: bool| {
            let opens = cron.clone();
            let length = Period::from_secs(minutes * 60);
            Window { when: backstay::policy::When::Again { opens, length }, hard, reason: None }
        };
        let windows = IndexMap::from([
            ("hard".to_owned(), window(&hard, lengths.0, true)),
            ("soft".to_owned(), window(&soft, lengths.1, false)),
            ("open".to_owned(), window(&open, lengths.2, false)),
        ]);
        let execution = Execution {
            avoid: vec!["hard".into(), "soft".into()],
            within: vec!["open".into()],
            ..Execution::default()
        };
        let latest = slack.map(|slack| wanted + SignedDuration::from_secs(slack));
        if let Some(found) = admit(&execution, &windows, &zone, wanted, latest) {
            let is_open = |name: &str| windows[name].closes_after(found.start, &zone).is_some();
            prop_assert!(found.start >= wanted);
            prop_assert!(!is_open("hard"), "{found:?}");
            prop_assert!(is_open("open"), "{found:?}");
            // A soft one gives way only where something is at stake, and says so.
            let despite = found.despite.iter().any(|name| name == "soft");
            prop_assert!(!is_open("soft") || despite, "{found:?}");
            prop_assert!(found.despite.is_empty() || latest.is_some());
            prop_assert!(found.start == wanted || !found.waits_for.is_empty());
        }
    }
}

proptest! {
    // Each case is half a day of a daemon.
    #![proptest_config(ProptestConfig { cases: 6, ..config() })]

    #[test]
    fn of_each_source_and_time_one_run_is_done_and_as_planned(text in colliding()) {
        let from = "2026-11-21T00:30:00Z";
        let (begin, end): (Timestamp, Timestamp) =
            (from.parse().unwrap(), "2026-11-21T13:30:00Z".parse().unwrap());
        let mut world = World::of(&text, from, 0);
        world.run_until(end);
        // As it was done.
        let mut done: BTreeMap<(String, Timestamp), Vec<(String, Timestamp)>> = BTreeMap::new();
        let mut due: BTreeSet<(String, Timestamp)> = BTreeSet::new();
        for (row, state, why) in &world.over {
            prop_assert!(matches!(state, RunState::Succeeded | RunState::Skipped), "{row:?} {why:?}");
            let key = (row.slot.source.clone(), row.due);
            due.insert(key.clone());
            if *state == RunState::Succeeded {
                done.entry(key).or_default().push((row.slot.job.clone(), row.started.unwrap()));
            }
        }
        for key in &due {
            prop_assert_eq!(done.get(key).map(Vec::len), Some(1), "{:?} {:?}\n{}", key, done.get(key), text);
        }
        // As it was planned.
        let mut planned: BTreeMap<(String, Timestamp), Vec<(String, Timestamp)>> = BTreeMap::new();
        for run in runs(&world.policy, begin, end) {
            for source in &run.sources {
                let key = (source.clone(), run.due);
                planned.entry(key).or_default().push((run.job.clone(), run.start));
            }
        }
        prop_assert_eq!(&planned, &done, "{}", text);
    }
}
