//! What is begun when several runs want to: small worlds on a clock that jumps.

use std::collections::BTreeMap;
use std::sync::mpsc::channel;
use std::time::Duration;

use backstay::daemon::admission::jitter_of;
use backstay::daemon::supervise::{self, Ended, Work};
use backstay::daemon::tick::{Decisions, Place, Protected, decide, due_slots};
use backstay::daemon::timetable::{Run, runs};
use backstay::policy::{Cron, Hooks, Policy, parse};
use backstay::state::{RunRow, RunState, State};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use crate::simulation::{PLACE, World, row};

const FROM: &str = "2026-11-22T02:30:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn text(jobs: &str) -> String {
    format!(
        "version: 1\nstack: demo\nobjectives: {{ rto: 8h, rpo: 60h }}\ntimezone: UTC\n\
         repositories:\n  main: {{ local: {{ path: /srv/main }} }}\n  off: {{ local: {{ path: /srv/off }} }}\n\
         sources:\n  db: {{ directory: {{ path: /srv/db }} }}\n  \
         files: {{ directory: {{ path: /srv/files }}, objectives: {{ rpo: 30h }} }}\n{jobs}"
    )
}

fn policy(jobs: &str) -> Policy {
    let parsed = parse(text(jobs), "policy.yaml");
    parsed.unwrap_or_else(|error| panic!("{}", error.render(false))).policies.remove(0)
}

/// What was begun, or came to its end without: job, source, minutes after 03:00, state.
fn told(world: &World) -> Vec<(String, String, i64, RunState)> {
    let begin = at("2026-11-22T03:00:00Z");
    let all = world.over.iter().map(|(row, state, _)| {
        let when = row.started.unwrap_or(row.due).duration_since(begin).as_mins();
        (row.slot.job.clone(), row.slot.source.clone(), when, *state)
    });
    let mut all: Vec<_> = all.collect();
    all.sort_by(|a, b| (&a.0, &a.1, a.2, a.3.word()).cmp(&(&b.0, &b.1, b.2, b.3.word())));
    all
}

fn of(told: &[(String, String, i64, RunState)], job: &str, source: &str) -> Vec<(i64, RunState)> {
    let of = told.iter().filter(|one| one.0 == job && one.1 == source);
    of.map(|one| (one.2, one.3)).collect()
}

const COLLIDING: &str = "jobs:\n  \
    hourly: { sources: [db], kind: snapshot, schedule: { cron: '0 * * * *' }, expected: 5m, keep: { for: 24h }HOURLY }\n  \
    weekly: { sources: [db], kind: full, schedule: { cron: '0 3 * * 0' }, expected: 2h, keep: { for: 4w }WEEKLY }\n  \
    away: { copy: { to: off }, schedule: { after: [hourly] }, keep: { for: 7d } }\n";

fn colliding(hourly: &str, weekly: &str) -> String {
    COLLIDING.replace("HOURLY", hourly).replace("WEEKLY", weekly)
}

fn world(jobs: &str) -> World {
    World::of(&text(jobs), FROM, 0)
}

#[test]
fn jobs_of_one_time_are_one_run_whatever_their_jitter() {
    use RunState::{Skipped, Succeeded};
    for (hourly, weekly) in
        [(", jitter: 20m", ""), ("", ", jitter: 20m"), (", jitter: 9m", ", jitter: 20m"), ("", "")]
    {
        let jobs = colliding(hourly, weekly);
        let mut world = world(&jobs);
        world.run_until(at("2026-11-22T07:30:00Z"));
        let told = told(&world);
        let jitter =
            |job: &str| jitter_of("demo", job, &world.policy.jobs[job].execution).as_mins();
        let weekly = of(&told, "weekly", "db");
        assert_eq!(weekly, [(jitter("weekly"), Succeeded)], "{told:?}");
        let hourly = of(&told, "hourly", "db");
        // 03:00 is done by the weekly one, and 04:00 waits for its end and is done then; 05:00 too.
        assert_eq!(hourly[0], (0, Skipped), "{told:?}");
        let well: Vec<i64> =
            hourly.iter().filter(|one| one.1 == Succeeded).map(|one| one.0).collect();
        assert!(well[0] >= 120 && well.len() >= 2, "{told:?}");
        // What follows the one that was covered follows the end of the other.
        let copies = of(&told, "away", "");
        assert_eq!(copies[0], (jitter("weekly") + 120, Succeeded), "{told:?}");
        // `plan` says the same.
        let planned: Vec<Run> =
            runs(&world.policy, at(FROM), at("2026-11-22T03:59:00Z")).into_iter().collect();
        let begun: Vec<(&str, i64)> = planned
            .iter()
            .filter(|run| !run.is_covered())
            .map(|run| (&*run.job, run.start.duration_since(at("2026-11-22T03:00:00Z")).as_mins()))
            .collect();
        assert_eq!(begun, [("weekly", jitter("weekly"))], "{planned:?}");
        assert_eq!(planned.len(), 2);
    }
}

#[test]
fn nobody_waits_for_a_stronger_run_that_a_window_keeps_from_beginning() {
    let window = "windows:\n  busy: { cron: '0 3 * * *', for: 90m, hard: true }\n";
    let mut world = world(&format!("{window}{}", colliding("", ", avoid: [busy]")));
    world.run_until(at("2026-11-22T07:30:00Z"));
    let told = told(&world);
    assert_eq!(
        of(&told, "hourly", "db")[..2],
        [(0, RunState::Succeeded), (60, RunState::Succeeded)]
    );
    assert_eq!(of(&told, "weekly", "db"), [(90, RunState::Succeeded)]);
}

#[test]
fn where_the_stronger_run_fails_the_others_are_begun_in_its_place() {
    let mut one = world(&colliding("", ", jitter: 20m"));
    one.unlucky.insert("weekly".into());
    one.run_until(at("2026-11-22T05:40:00Z"));
    let begun = told(&one);
    assert!(of(&begun, "weekly", "db").iter().all(|run| run.1 == RunState::Failed), "{begun:?}");
    let well = of(&begun, "hourly", "db");
    assert!(well.iter().any(|run| run.0 >= 120 && run.1 == RunState::Succeeded), "{begun:?}");
    assert!(!of(&begun, "away", "").is_empty(), "{begun:?}");

    // Too late by its own rule: its row says what it waited for.
    let mut one = world(&colliding(", start_within: 30m", ""));
    one.unlucky.insert("weekly".into());
    one.run_until(at("2026-11-22T05:40:00Z"));
    let due = at("2026-11-22T03:00:00Z");
    let missed = one.over.iter().find(|(row, _, _)| row.due == due && row.slot.job == "hourly");
    let missed = missed.unwrap();
    assert_eq!(missed.1, RunState::Missed);
    let why = missed.2.as_ref().unwrap();
    assert!(why.starts_with("it could not begin within 30m: waits for run "), "{why}");
    assert!(why.ends_with(" of `weekly`, which does the same"), "{why}");
}

/// What is due of a policy after a night without a daemon, and what is decided about it.
fn morning(policy: &Policy, protected: &Protected, most: usize) -> (Vec<RunRow>, Decisions) {
    let (since, now) = (at("2026-11-21T23:00:00Z"), at("2026-11-22T08:00:30Z"));
    let place = Place { most, ..PLACE };
    let open: Vec<RunRow> = policy
        .jobs
        .iter()
        .flat_map(|(name, job)| {
            due_slots(policy, (name, job), (since, now), &place, 100).slots.into_iter().map(row)
        })
        .collect();
    let decisions = decide(std::slice::from_ref(policy), &open, protected, now, &place);
    (open, decisions)
}

fn begun(open: &[RunRow], decisions: &Decisions) -> Vec<String> {
    let of = |id: &String| open.iter().find(|row| row.id == *id).unwrap();
    let name = |row: &RunRow| format!("{} {}", row.slot.job, row.slot.source);
    decisions.begin.iter().map(of).map(name).collect()
}

const NIGHTLY: &str = "jobs:\n  \
    db: { sources: [db], kind: full, schedule: { cron: '0 3 * * *' }, keep: { for: 7d }ONE }\n  \
    files: { sources: [files], kind: full, schedule: { cron: '0 3 * * *' }, keep: { for: 7d }TWO }\n";

fn nightly(one: &str, two: &str, more: &str) -> Policy {
    policy(&format!("{more}{}", NIGHTLY.replace("ONE", one).replace("TWO", two)))
}

#[test]
fn a_pool_takes_as_many_as_it_has_places() {
    let both = ", pools: [disk]";
    // `db` was never backed up, and goes first.
    let protected = Protected::from([(("demo".into(), "files".into()), at(FROM))]);
    for (places, expected) in [(1, vec!["db db"]), (2, vec!["db db", "files files"])] {
        let policy = nightly(both, both, &format!("pools: {{ disk: {places} }}\n"));
        let (open, decisions) = morning(&policy, &protected, 10);
        assert_eq!(begun(&open, &decisions), expected);
    }
    // Who is in no pool is not kept waiting by it, and a run that goes on has a place.
    let policy = nightly(both, "", "pools: { disk: 1 }\n");
    let (mut open, _) = morning(&policy, &Protected::new(), 10);
    let mut other = open[0].clone();
    (other.id, other.slot.nominal) = ("other".into(), "another".into());
    (other.slot.source, other.state, other.attempts) = ("more".into(), RunState::Running, 1);
    open.push(other);
    let now = at("2026-11-22T08:00:30Z");
    let decisions = decide(std::slice::from_ref(&policy), &open, &Protected::new(), now, &PLACE);
    assert_eq!(begun(&open, &decisions), ["files files"]);
}

#[test]
fn who_has_priority_goes_first_and_of_equals_who_is_nearest_to_its_rpo() {
    let key = |source: &str| ("demo".to_owned(), source.to_owned());
    let newest = at("2026-11-21T03:00:00Z");
    // Of the same age: `files` may lose less.
    let same = Protected::from([(key("db"), newest), (key("files"), newest)]);
    let older = Protected::from([
        (key("db"), newest - SignedDuration::from_hours(40)),
        (key("files"), newest),
    ]);
    let never = Protected::from([(key("files"), newest)]);
    for (one, two, protected, first) in [
        ("", "", &same, "files files"),
        ("", "", &older, "db db"),
        ("", "", &never, "db db"),
        (", priority: 1", "", &same, "db db"),
        (", priority: 1", ", priority: 2", &older, "files files"),
    ] {
        let policy = nightly(one, two, "");
        let (open, decisions) = morning(&policy, protected, 1);
        assert_eq!(begun(&open, &decisions), [first], "{one}{two} {protected:?}");
        let (open, decisions) = morning(&policy, protected, 2);
        assert_eq!(begun(&open, &decisions)[0], first);
        assert_eq!(decisions.begin.len(), 2);
    }
}

#[test]
fn what_does_not_catch_up_is_missed_and_what_does_is_done_once() {
    let policy = policy(
        "jobs:\n  \
         none: { sources: [db], kind: full, schedule: { cron: '0 */2 * * *' }, keep: { for: 7d }, catch_up: none }\n  \
         latest: { sources: [files], kind: full, schedule: { cron: '0 1-6/2 * * *' }, keep: { for: 7d } }\n",
    );
    let due = |name: &str, now: &str| {
        let span = (at("2026-11-21T23:00:00Z"), at(now));
        let slots = due_slots(&policy, (name, &policy.jobs[name]), span, &PLACE, 100).slots;
        let states: Vec<RunState> = slots.iter().map(|run| run.state).collect();
        (states, slots)
    };
    use RunState::{Missed, Waiting};
    let (states, slots) = due("none", "2026-11-22T06:10:00Z");
    assert_eq!(states, [Missed; 4]);
    assert!(slots[3].why.as_ref().unwrap().contains("does not catch up"), "{slots:?}");
    assert!(slots[0].why.as_ref().unwrap().contains("a later one was due"), "{slots:?}");
    // The daemon is there when the last one is due: it is not caught up with, but done.
    assert_eq!(due("none", "2026-11-22T06:00:20Z").0, [Missed, Missed, Missed, Waiting]);
    assert_eq!(due("latest", "2026-11-22T06:10:00Z").0, [Missed, Missed, Waiting]);
}

#[test]
fn a_run_that_could_not_begin_in_time_is_missed_in_the_state() {
    let directory = tempfile::tempdir().unwrap();
    let state = State::open(directory.path(), at(FROM)).unwrap();
    let policy = nightly(", start_within: 10m", ", start_within: 1h", "");
    let (due, now) = (at("2026-11-22T03:00:00Z"), at("2026-11-22T03:10:01Z"));
    for (name, job) in &policy.jobs {
        let span = (due - SignedDuration::from_hours(1), due);
        let slots = due_slots(&policy, (name, job), span, &PLACE, 100);
        state.advance("demo", name, slots.until, &slots.slots).unwrap();
    }
    // No place is free.
    let place = Place { most: 0, ..PLACE };
    let policies = std::slice::from_ref(&policy);
    for now in [due + SignedDuration::from_mins(10), now] {
        let open = state.open_runs().unwrap();
        assert_eq!(open.len(), 2, "{now}");
        let decisions = decide(policies, &open, &Protected::new(), now, &place);
        state.settle(&decisions.settle, now).unwrap();
    }
    let open = state.open_runs().unwrap();
    assert_eq!(open.iter().map(|row| &*row.slot.job).collect::<Vec<_>>(), ["files"]);
    let ends: BTreeMap<String, RunRow> = state
        .runs(&backstay::state::RunFilter { limit: 9, ..Default::default() })
        .unwrap()
        .into_iter()
        .map(|row| (row.slot.job.clone(), row))
        .collect();
    let row = &ends["db"];
    assert_eq!((row.state, row.ended), (RunState::Missed, Some(now)));
    assert_eq!(row.why.as_deref(), Some("it could not begin within 10m"));
    // A run that was begun is not late when it is tried again.
    let epoch = state.claim(&open[0].id, "me", now).unwrap();
    assert!(epoch && state.retry(&open[0].id, "me", "broken", now).unwrap());
    let later = now + SignedDuration::from_hours(3);
    let decisions = decide(policies, &state.open_runs().unwrap(), &Protected::new(), later, &PLACE);
    assert_eq!((decisions.begin.len(), decisions.settle.len()), (1, 0));
}

#[test]
fn a_run_that_takes_too_long_is_ended() {
    let directory = tempfile::tempdir().unwrap();
    let (tell, ended) = channel();
    let work = Work {
        id: "run".into(),
        argv: ["sh", "-c", "sleep 60 & wait"].map(Into::into).to_vec(),
        hooks: Hooks::default(),
        environment: Vec::new(),
        stop_after: Some(Duration::from_millis(50)),
        log: directory.path().join("run"),
    };
    drop(supervise::start(work, tell));
    let (run, ended) = ended.recv_timeout(Duration::from_secs(50)).unwrap();
    assert_eq!(run, "run");
    // Whoever takes too long takes as long the next time.
    let why = "it took longer than it may".to_owned();
    assert_eq!(ended, Ended::Failed { why, again: false });
}

#[test]
fn last_days_weekdays_and_numbered_ones_are_due_when_they_are() {
    let due = |text: &str, count: usize| -> Vec<String> {
        let cron: Cron = text.parse().unwrap();
        let zone = TimeZone::UTC;
        let all = cron.due_between(at("2026-01-01T00:00:00Z"), Timestamp::MAX, &zone);
        all.take(count).map(|due| due.nominal.strftime("%m-%d %H:%M").to_string()).collect()
    };
    // The last day of the month, in February too.
    assert_eq!(due("0 3 L * *", 3), ["01-31 03:00", "02-28 03:00", "03-31 03:00"]);
    assert_eq!(due("0 3 L 2 *", 3), ["02-28 03:00", "02-28 03:00", "02-29 03:00"]);
    // The working day nearest to the 15th: 2026-02-15 and 03-15 are Sundays, 08-15 is a Saturday.
    assert_eq!(due("0 3 15W * *", 3), ["01-15 03:00", "02-16 03:00", "03-16 03:00"]);
    assert_eq!(due("0 3 15W 8 *", 1), ["08-14 03:00"]);
    // Never of another month: 2026-02-01 is a Sunday, 08-01 a Saturday.
    assert_eq!(due("0 3 1W 2,8 *", 2), ["02-02 03:00", "08-03 03:00"]);
    // The last working day: 2026-01-31 is a Saturday, 05-31 a Sunday.
    assert_eq!(due("0 3 LW 1,5 *", 2), ["01-30 03:00", "05-29 03:00"]);
    // The second Friday, and the fifth, which not every month has.
    assert_eq!(due("0 3 * * 5#2", 3), ["01-09 03:00", "02-13 03:00", "03-13 03:00"]);
    assert_eq!(due("0 3 * * 5#5", 3), ["01-30 03:00", "05-29 03:00", "07-31 03:00"]);
    // The last Friday.
    assert_eq!(due("0 3 * * 5L", 3), ["01-30 03:00", "02-27 03:00", "03-27 03:00"]);
}
