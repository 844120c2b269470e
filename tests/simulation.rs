//! Two years of the shipped policies through the daemon's own decisions, on a clock that jumps from
//! event to event.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;

use backstay::daemon::admission::jitter_of;
use backstay::daemon::cover::done_by;
use backstay::daemon::forecast::{exposures, holdings};
use backstay::daemon::tick::{Fleet, Place, Protected, decide, due_slots, following_slots};
use backstay::daemon::timetable::next_due;
use backstay::id::BackupId;
use backstay::policy::{Candidate, Policy, Work, parse, plan_retention};
use backstay::state::{NewRun, RunRow, RunState, Slot};
use jiff::{SignedDuration, Timestamp};

/// A machine with a daemon, whose runs take as long as the policy expects.
pub struct World {
    pub policy: Policy,
    pub now: Timestamp,
    pub open: Vec<RunRow>,
    ends: HashMap<String, (Timestamp, bool)>,
    slots: HashMap<Slot, RunState>,
    pub protected: Protected,
    since: BTreeMap<String, Timestamp>,
    due: BTreeMap<String, Option<Timestamp>>,
    /// Of each source: begin and end of what succeeded.
    done: BTreeMap<String, Vec<(Timestamp, Timestamp)>>,
    /// Backups that are kept, by source.
    held: BTreeMap<String, Vec<Candidate>>,
    counts: HashMap<RunState, u64>,
    random: fastrand::Rng,
    /// One of so many runs fails; 0: none.
    failing: u32,
    /// Jobs whose runs all fail.
    pub unlucky: HashSet<String>,
    /// Slots that another run did.
    covered: HashSet<Slot>,
    /// What is over, in the order of that: the run, and why if it was not done.
    pub over: Vec<(RunRow, RunState, Option<String>)>,
    pruned: Timestamp,
}

pub const PLACE: Place<'static> = Place { host: "here", most: 1000, fleet: None };

/// The row of a slot that is new.
pub fn row(run: NewRun) -> RunRow {
    RunRow {
        id: run.id,
        slot: run.slot,
        due: run.due,
        not_before: run.not_before,
        state: run.state,
        why: run.why,
        attempts: 0,
        owner: None,
        heartbeat: None,
        started: None,
        ended: None,
        backup: None,
        cancelled: false,
    }
}

impl World {
    fn new(name: &str, zone: &str, from: &str, failing: u32) -> Self {
        let text = fs::read_to_string(format!("policies/{name}.yaml")).unwrap();
        let text = text.replace("timezone: Asia/Shanghai", &format!("timezone: {zone}"));
        Self::of(&text, from, failing)
    }

    /// Of a policy, which is loaded at an instant.
    pub fn of(text: &str, from: &str, failing: u32) -> Self {
        let mut policy = parse(text, "policy.yaml").unwrap().policies.remove(0);
        // Whatever host a source lies on, it is this one.
        policy.sources.values_mut().for_each(|source| source.host = None);
        let now = from.parse().unwrap();
        let jobs: Vec<String> = policy.jobs.keys().cloned().collect();
        Self {
            now,
            open: Vec::new(),
            ends: HashMap::new(),
            slots: HashMap::new(),
            protected: Protected::new(),
            since: jobs.iter().map(|job| (job.clone(), now)).collect(),
            due: BTreeMap::new(),
            done: BTreeMap::new(),
            held: BTreeMap::new(),
            counts: HashMap::new(),
            random: fastrand::Rng::with_seed(7),
            failing,
            unlucky: HashSet::new(),
            covered: HashSet::new(),
            over: Vec::new(),
            pruned: now,
            policy,
        }
    }

    fn add(&mut self, new: Vec<NewRun>) {
        for run in new {
            let again = self.slots.insert(run.slot.clone(), run.state);
            assert!(again.is_none(), "{:?} was made twice", run.slot);
            assert!(run.not_before >= run.due, "{run:?}");
            if run.state.is_final() {
                *self.counts.entry(run.state).or_default() += 1;
                continue;
            }
            self.open.push(row(run));
        }
    }

    fn settle(&mut self, id: &str, state: RunState, why: Option<String>) -> RunRow {
        let at = self.open.iter().position(|row| row.id == id).expect("it is open");
        let row = self.open.swap_remove(at);
        let was = self.slots.insert(row.slot.clone(), state);
        assert!(was.is_some_and(|was| !was.is_final()), "{row:?} ended twice");
        *self.counts.entry(state).or_default() += 1;
        self.over.push((row.clone(), state, why));
        row
    }

    /// What follows a run that is over.
    fn follow(&mut self, row: &RunRow) {
        let follow = following_slots(&self.policy, row, &self.open, self.now, &PLACE);
        // The same slot may follow several runs of one time; the state takes it once.
        let new = follow.into_iter().filter(|run| !self.slots.contains_key(&run.slot));
        let new: Vec<NewRun> = new.collect();
        self.add(new);
    }

    /// Ends what is over, and begins what follows.
    fn end_runs(&mut self) {
        let over: Vec<(String, bool)> = self
            .ends
            .iter()
            .filter(|(_, (end, _))| *end <= self.now)
            .map(|(id, (_, well))| (id.clone(), *well))
            .collect();
        for (id, well) in over {
            self.ends.remove(&id);
            let state = if well { RunState::Succeeded } else { RunState::Failed };
            let row = self.settle(&id, state, None);
            let job = &self.policy.jobs[&row.slot.job];
            if let (true, Work::Backup { kind, .. }) = (well, &job.work) {
                let started = row.started.unwrap();
                let key = (row.slot.stack.clone(), row.slot.source.clone());
                self.protected.insert(key, started);
                let source = row.slot.source.clone();
                self.done.entry(source.clone()).or_default().push((started, self.now));
                let candidate = Candidate {
                    backup: BackupId::new(*kind, started, None),
                    job: Some(row.slot.job.clone()),
                    rule: Some(job.keep),
                    end: self.now,
                    stored_at: self.now,
                    pinned: false,
                    sound: true,
                    tainted: false,
                    divergent: false,
                };
                self.held.entry(source).or_default().push(candidate);
            }
            let slot = &row.slot;
            // One source's failure does not keep others from being copied.
            let others = || {
                self.slots.iter().any(|(other, state)| {
                    (*state == RunState::Succeeded || self.covered.contains(other))
                        && (&other.job, &other.nominal) == (&slot.job, &slot.nominal)
                })
            };
            if well || others() {
                self.follow(&row);
            }
            if well {
                let policies = std::slice::from_ref(&self.policy);
                let covered: Vec<RunRow> =
                    done_by(policies, &self.open, &row).into_iter().cloned().collect();
                for row in &covered {
                    self.settle(&row.id, RunState::Skipped, Some("covered".into()));
                    self.covered.insert(row.slot.clone());
                }
                for row in &covered {
                    self.follow(row);
                }
            }
        }
    }

    fn make_slots(&mut self) {
        let zone = self.policy.time_zone();
        let jobs: Vec<String> = self.policy.jobs.keys().cloned().collect();
        for name in jobs {
            let job = &self.policy.jobs[&name];
            let since = self.since[&name];
            let due = self
                .due
                .entry(name.clone())
                .or_insert_with(|| next_due(job, since, false, &zone).map(|(_, due)| due));
            if due.is_none_or(|due| due > self.now) {
                continue;
            }
            let due = due_slots(&self.policy, (&name, job), (since, self.now), &PLACE, usize::MAX);
            assert_eq!(due.until, self.now);
            self.since.insert(name.clone(), self.now);
            self.due.remove(&name);
            self.add(due.slots);
        }
    }

    fn decide(&mut self) {
        let policies = std::slice::from_ref(&self.policy);
        let decisions = decide(policies, &self.open, &self.protected, self.now, &PLACE);
        for (id, state, why) in decisions.settle {
            assert!(state.is_final() && !why.is_empty());
            self.settle(&id, state, Some(why));
        }
        for (id, why) in decisions.hold {
            let row = self.open.iter_mut().find(|row| row.id == id).unwrap();
            assert!(row.why.replace(why.clone()) != Some(why), "{row:?} is told that twice");
        }
        for (id, when, _) in decisions.postpone {
            let row = self.open.iter_mut().find(|row| row.id == id).unwrap();
            assert!(when > self.now, "{row:?} is put off to the past");
            row.not_before = when;
        }
        for id in decisions.begin {
            let now = self.now;
            let at = self.open.iter().position(|row| row.id == id).unwrap();
            let row = &self.open[at];
            assert!(row.not_before <= now && row.due <= now, "{row:?} begins before its time");
            let same = |other: &&RunRow| {
                other.state == RunState::Running
                    && (&other.slot.job, &other.slot.source) == (&row.slot.job, &row.slot.source)
            };
            assert!(!self.open.iter().any(|other| same(&other)), "{row:?} overtakes itself");
            let expected = self.policy.jobs[&row.slot.job].expected;
            let takes = expected.map_or(SignedDuration::from_secs(60), |period| {
                SignedDuration::try_from(period.get()).unwrap()
            });
            let unlucky = self.unlucky.contains(&row.slot.job);
            let well = !unlucky && (self.failing == 0 || self.random.u32(..self.failing) != 0);
            self.ends.insert(id, (now.checked_add(takes).unwrap(), well));
            let row = &mut self.open[at];
            (row.state, row.started, row.attempts) = (RunState::Running, Some(now), 1);
        }
    }

    /// The rules are put to what is there, as a prune does.
    fn prune(&mut self) {
        let zone = self.policy.time_zone();
        self.pruned = self.now;
        for (source, held) in &mut self.held {
            let of_jobs = |held: &[Candidate]| {
                let mut counts: BTreeMap<String, usize> = BTreeMap::new();
                held.iter()
                    .for_each(|one| *counts.entry(one.job.clone().unwrap()).or_default() += 1);
                counts
            };
            let before = of_jobs(held);
            let verdicts = plan_retention(held, self.now, &zone);
            let mut stays = verdicts.iter().map(|verdict| !verdict.expires());
            held.retain(|_| stays.next().unwrap_or(true));
            let left = of_jobs(held);
            for (job, before) in before {
                let floor = self.policy.jobs[&job].keep.at_least as usize;
                let count = left.get(&job).copied().unwrap_or(0);
                assert!(count >= floor.min(before), "{source} {job}: {count} of {before} stay");
            }
            assert!(!held.is_empty(), "{source} lost its last backup");
        }
    }

    pub fn next_event(&self) -> Timestamp {
        let due = self.due.values().flatten();
        let ends = self.ends.values().map(|(end, _)| end);
        let waiting = self
            .open
            .iter()
            .filter(|row| row.state == RunState::Waiting && row.not_before > self.now)
            .map(|row| &row.not_before);
        *due.chain(ends).chain(waiting).min().expect("there is always something ahead")
    }

    pub fn run_until(&mut self, end: Timestamp) {
        while self.now < end {
            self.end_runs();
            self.make_slots();
            self.decide();
            if self.now.duration_since(self.pruned) >= SignedDuration::from_hours(24) {
                self.prune();
            }
            let next = self.next_event();
            assert!(next > self.now, "the clock stands still at {}: {:?}", self.now, self.open);
            self.now = next;
        }
    }
}

fn two_years(name: &str, zone: &str, from: &str, failing: u32) -> World {
    let mut world = World::new(name, zone, from, failing);
    let begin = world.now;
    let end = begin.checked_add(SignedDuration::from_hours(2 * 366 * 24)).unwrap();
    world.run_until(end);
    world.prune();
    let open: BTreeSet<&str> = world.open.iter().map(|row| row.slot.job.as_str()).collect();
    // What is not over was due just now, or goes on.
    for row in &world.open {
        let age = world.now.duration_since(row.due);
        assert!(age < SignedDuration::from_hours(48), "{row:?} never came to its end: {open:?}");
    }
    let finals = world.slots.values().filter(|state| state.is_final()).count();
    assert_eq!(finals + world.open.len(), world.slots.len());
    assert_eq!(world.counts.values().sum::<u64>(), finals as u64);
    assert!(!world.counts.contains_key(&RunState::Missed), "{name} {zone}: {:?}", world.counts);
    world
}

/// No run fails: then nothing is exposed for longer than `plan` says, and retention holds what it
/// says.
fn holds_what_plan_says(name: &str, zone: &str, from: &str) {
    let world = two_years(name, zone, from, 0);
    let begin: Timestamp = from.parse().unwrap();
    let planned = exposures(&world.policy, begin);
    for exposure in &planned {
        let done = world.done.get(&exposure.source).map(Vec::as_slice).unwrap_or_default();
        assert!(done.len() > 700, "{name} {zone} {}: {} backups", exposure.source, done.len());
        let mut done = done.to_vec();
        done.sort();
        // From the begin of one to the end of the next.
        let worst = done.windows(2).map(|two| two[1].1.duration_since(two[0].0)).max().unwrap();
        let said = SignedDuration::try_from(exposure.worst.unwrap().get()).unwrap();
        // Two years have nights that the year of `plan` does not have, of an hour more.
        let slack = SignedDuration::from_mins(61);
        assert!(worst <= said + slack, "{name} {zone} {}: {worst} for {said}", exposure.source);
    }
    for holding in holdings(&world.policy, begin) {
        for (source, held) in &world.held {
            let count = held.iter().filter(|one| one.job.as_ref() == Some(&holding.job)).count();
            let most = holding.backups + 2;
            let what = format!("{name} {zone} {source} {}", holding.job);
            assert!(count <= most, "{what}: {count} for {}", holding.backups);
            // One job's backups may all be done by a stronger one.
            assert!(count == 0 || count + 2 + most / 8 >= holding.backups, "{what}: {count}");
        }
    }
    let jittered = world.policy.jobs.iter().any(|(name, job)| {
        jitter_of(&world.policy.stack, name, &job.execution) > SignedDuration::ZERO
    });
    assert!(jittered || world.counts[&RunState::Succeeded] > 5000, "{:?}", world.counts);
}

#[test]
fn superset_over_clock_changes_in_berlin_and_new_york() {
    holds_what_plan_says("superset", "Europe/Berlin", "2026-01-01T00:00:00Z");
    holds_what_plan_says("superset", "America/New_York", "2026-01-01T00:00:00Z");
}

#[test]
fn redash_in_shanghai_and_over_clock_changes_in_cairo() {
    holds_what_plan_says("redash", "Asia/Shanghai", "2026-01-01T00:00:00Z");
    holds_what_plan_says("redash", "Africa/Cairo", "2026-01-01T00:00:00Z");
}

#[test]
fn a_data_platform_over_half_an_hour_in_lord_howe_and_a_day_that_apia_left_out() {
    holds_what_plan_says("data-platform", "Australia/Lord_Howe", "2026-01-01T00:00:00Z");
    holds_what_plan_says("data-platform", "Pacific/Apia", "2011-01-01T00:00:00Z");
}

#[test]
fn every_slot_comes_to_one_end_when_runs_fail() {
    for (name, zone) in [("superset", "Europe/Berlin"), ("redash", "America/New_York")] {
        let world = two_years(name, zone, "2026-01-01T00:00:00Z", 5);
        let failed = world.counts[&RunState::Failed];
        let well = world.counts[&RunState::Succeeded];
        assert!(failed * 8 > well && failed * 2 < well, "{failed} of {well}");
    }
}

#[test]
fn a_long_time_is_made_rows_in_parts_and_its_last_slot_at_once() {
    let text = fs::read_to_string("policies/superset.yaml").unwrap();
    let policy = parse(&text, "policy.yaml").unwrap().policies.remove(0);
    let place = Place { host: "here", most: 2, fleet: Some(&Fleet::default()) };
    let (since, now) = ("2026-08-01T00:00:00Z", "2026-11-21T12:34:56Z");
    let (since, now): (Timestamp, Timestamp) = (since.parse().unwrap(), now.parse().unwrap());
    for (name, job) in &policy.jobs {
        let whole = due_slots(&policy, (name, job), (since, now), &place, usize::MAX);
        assert_eq!(whole.until, now);
        let mut rows: BTreeMap<Slot, NewRun> = BTreeMap::new();
        let mut at = since;
        let mut parts = 0;
        while at < now {
            let part = due_slots(&policy, (name, job), (at, now), &place, 10);
            let most = 10.max(policy.sources.len()) + policy.sources.len();
            assert!(part.slots.len() <= most, "{name}: {}", part.slots.len());
            assert!(part.until > at, "{name} stands still at {at}");
            let waiting = |run: &&NewRun| run.state == RunState::Waiting;
            let waits = |runs: &[NewRun]| runs.iter().filter(waiting).cloned().collect::<Vec<_>>();
            assert_eq!(waits(&part.slots), waits(&whole.slots), "{name}: the last waits at once");
            for run in part.slots {
                // As in the state: what is there stays.
                rows.entry(run.slot.clone()).or_insert(run);
            }
            at = part.until;
            parts += 1;
        }
        let none = due_slots(&policy, (name, job), (since, now), &place, 0);
        assert!(none.slots.iter().all(|run| run.due == whole.slots.last().unwrap().due), "{name}");
        let ids: BTreeSet<&String> = rows.values().map(|run| &run.id).collect();
        assert_eq!(ids.len(), rows.len());
        assert_eq!(rows.len(), whole.slots.len());
        for run in &whole.slots {
            assert_eq!(rows[&run.slot], *run);
        }
        assert!(parts > 3 || whole.slots.len() < 40, "{name}: {parts}");
    }
}
