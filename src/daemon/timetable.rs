//! The runs of a stretch of time, if each takes as long as expected and none fails.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use indexmap::IndexMap;
use jiff::civil::DateTime;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde::Serialize;

use super::admission::{Admission, admit, jitter_of};
use super::coalesce::{Covered, Wanted, coalesce, strength};
use crate::id::BackupKind;
use crate::policy::{Job, Period, Policy, Schedule, Work};

/// The most runs that a timetable holds.
pub const MOST_RUNS: usize = 200_000;

/// How far back the past is looked at.
const LOOK_BACK: SignedDuration = SignedDuration::from_hours(8 * 24);

/// What names a run for ever: its job and the time it was due by the job's schedule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(untagged)]
pub enum Nominal {
    /// A time of the calendar, in the policy's zone.
    Civil(DateTime),
    /// An instant: elapsed time, or the end of another run.
    Instant(Timestamp),
}

impl std::fmt::Display for Nominal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Civil(time) => time.fmt(f),
            Self::Instant(instant) => instant.fmt(f),
        }
    }
}

/// A run that will be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Run {
    /// The job.
    pub job: String,
    /// What it does: `backup`, `copy`, `verify`, `prune`.
    pub verb: &'static str,
    /// Its kind, if it is a backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<BackupKind>,
    /// The sources that it backs up, without those that another run covers.
    pub sources: Vec<String>,
    /// What it is called by its schedule.
    pub nominal: Nominal,
    /// When it is due.
    pub due: Timestamp,
    /// When it begins.
    pub start: Timestamp,
    /// When it ends, as far as the policy says how long it takes.
    pub end: Timestamp,
    /// The job it follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub follows: Option<String>,
    /// Windows it waits for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<String>,
    /// Windows that give way to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub despite: Vec<String>,
    /// Sources that a stronger run of the same time backs up in its place: source and job.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub covered: Covered,
}

impl Run {
    /// Whether others do all of it.
    pub fn is_covered(&self) -> bool {
        self.kind.is_some() && self.sources.is_empty()
    }
}

/// The runs that begin from `from` on and before `until`, in order of their start.
///
/// `every` counts from the epoch, so that it is the same whenever one asks. What happens shortly
/// before `from` is looked at too: it decides when windows give way, and what follows it.
pub fn runs(policy: &Policy, from: Timestamp, until: Timestamp) -> Vec<Run> {
    let mut planner = Planner {
        policy,
        zone: policy.time_zone(),
        until,
        queue: BinaryHeap::new(),
        near: BTreeSet::new(),
        begun: BTreeMap::new(),
        done: Vec::new(),
    };
    let before = from.checked_sub(LOOK_BACK).unwrap_or(from);
    for (name, job) in &policy.jobs {
        planner.enqueue_next(name, job, before, true);
    }
    planner.run();
    let mut done = planner.done;
    done.retain(|run| run.start >= from && run.start < until);
    done
}

/// Every job with each of its sources: stack, job, source. What is not of one source has an empty one.
pub fn slots_of(policies: &[Policy]) -> Vec<(&str, &str, &str)> {
    let mut slots = Vec::new();
    for policy in policies {
        for (name, job) in &policy.jobs {
            let slot = |source| (policy.stack.as_str(), name.as_str(), source);
            if job.kind().is_none() {
                slots.push(slot(""));
                continue;
            }
            let covered = policy.sources.keys().filter(|source| job.covers(source));
            slots.extend(covered.map(|source| slot(source)));
        }
    }
    slots
}

/// The first time at or after (`inclusive`) or after `instant` that the job is due by its own
/// schedule; nothing for jobs that follow others.
pub fn next_due(
    job: &Job,
    instant: Timestamp,
    inclusive: bool,
    zone: &TimeZone,
) -> Option<(Nominal, Timestamp)> {
    match &job.schedule {
        Schedule::Cron(cron) => {
            let after = if inclusive {
                instant.checked_sub(SignedDuration::from_nanos(1)).ok()?
            } else {
                instant
            };
            let due = cron.next_after(after, zone)?;
            Some((Nominal::Civil(due.nominal), due.at))
        }
        Schedule::Every(period) => {
            let period = i64::try_from(period.as_secs()).ok()?.max(1);
            let second = instant.as_second();
            let whole = inclusive && instant.subsec_nanosecond() == 0;
            let next = if whole && second.rem_euclid(period) == 0 {
                second
            } else {
                (second.div_euclid(period) + 1) * period
            };
            let at = Timestamp::from_second(next).ok()?;
            Some((Nominal::Instant(at), at))
        }
        Schedule::After(_) => None,
    }
}

/// The last time after `since` and up to `now` that the job is due by its own schedule.
pub fn last_due(
    job: &Job,
    (since, now): (Timestamp, Timestamp),
    zone: &TimeZone,
) -> Option<(Nominal, Timestamp)> {
    // What is due often is found in the last hour, and what is due seldom within few steps.
    let mut back = SignedDuration::from_hours(1);
    loop {
        let from = now.checked_sub(back).map_or(since, |from| from.max(since));
        let mut last: Option<(Nominal, Timestamp)> = None;
        while let Some((nominal, due)) =
            next_due(job, last.as_ref().map_or(from, |(_, at)| *at), false, zone)
            && due <= now
        {
            last = Some((nominal, due));
        }
        if last.is_some() || from == since {
            return last;
        }
        back = back.saturating_mul(8);
    }
}

/// The schedule of a job, as text: by the same one it is due at the same times.
pub fn schedule_of(policy: &Policy, job: &Job) -> String {
    match &job.schedule {
        Schedule::Cron(cron) => format!("cron {cron} {}", policy.timezone),
        Schedule::Every(period) => format!("every {} s", period.as_secs()),
        Schedule::After(_) => "after others".to_owned(),
    }
}

/// Whether a job has the same schedule in both sets of policies.
pub fn is_due_as_before(before: &[Policy], after: &[Policy], stack: &str, job: &str) -> bool {
    let find = |policies: &[Policy]| {
        let policy = policies.iter().find(|policy| policy.stack == stack)?;
        Some(schedule_of(policy, policy.jobs.get(job)?))
    };
    find(before).is_some_and(|schedule| find(after) == Some(schedule))
}

/// The jobs that only the later policies have: stack and job.
pub fn jobs_not_in(before: &[Policy], after: &[Policy]) -> Vec<(String, String)> {
    let had = |stack: &str, job: &String| {
        before.iter().any(|policy| policy.stack == stack && policy.jobs.contains_key(job))
    };
    let all = after.iter().flat_map(|policy| policy.jobs.keys().map(|job| (&policy.stack, job)));
    let new = all.filter(|(stack, job)| !had(stack, job));
    new.map(|(stack, job)| (stack.clone(), job.clone())).collect()
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    start: Timestamp,
    /// The place of the job in the policy.
    job: usize,
    due: Timestamp,
    nominal: Nominal,
    follows: Option<String>,
    waits_for: Vec<String>,
    despite: Vec<String>,
}

struct Planner<'a> {
    policy: &'a Policy,
    zone: TimeZone,
    until: Timestamp,
    queue: BinaryHeap<Reverse<Waiting>>,
    /// Of what is in the queue the backups that no window holds up: when they are due, and the job.
    near: BTreeSet<(Timestamp, usize)>,
    /// When each source was last begun to be backed up, by job.
    begun: BTreeMap<String, BTreeMap<usize, Timestamp>>,
    done: Vec<Run>,
}

impl Planner<'_> {
    fn run(&mut self) {
        while let Some(first) = self.next() {
            if self.done.len() >= MOST_RUNS {
                return;
            }
            let start = first.start;
            let mut together = vec![first];
            while self.queue.peek().is_some_and(|Reverse(next)| next.start == start)
                && let Some(next) = self.next()
            {
                // Of one job that a window held up more than once only the latest is done.
                together.retain(|other| other.job != next.job);
                together.push(next);
            }
            self.begin(together);
        }
    }

    /// The run that begins next. The one after it of its job takes its place.
    fn next(&mut self) -> Option<Waiting> {
        let Reverse(next) = self.queue.pop()?;
        self.near.remove(&(next.due, next.job));
        if next.follows.is_none()
            && let Some((name, job)) = self.policy.jobs.get_index(next.job)
        {
            self.enqueue_next(name, job, next.due, false);
        }
        Some(next)
    }

    /// Runs that begin at the same instant.
    fn begin(&mut self, together: Vec<Waiting>) {
        let jobs: &IndexMap<String, Job> = &self.policy.jobs;
        let mut peers: BTreeMap<Timestamp, BTreeMap<usize, Covered>> = BTreeMap::new();
        for waiting in &together {
            peers.entry(waiting.due).or_insert_with(|| self.peers(&together, waiting.due));
        }
        for waiting in together {
            let Some((name, job)) = jobs.get_index(waiting.job) else { continue };
            let by_peers = peers.get(&waiting.due).and_then(|peers| peers.get(&waiting.job));
            let mut covered = by_peers.cloned().unwrap_or_default();
            let mut sources = self.sources(job);
            for source in &sources {
                if let Some(other) = self.begun_for(source, &waiting, job) {
                    covered.entry(source.clone()).or_insert(other);
                }
            }
            sources.retain(|source| !covered.contains_key(source));
            for source in sources.iter().filter(|_| job.kind().is_some()) {
                let begun = self.begun.entry(source.clone()).or_default();
                begun.insert(waiting.job, waiting.start);
            }
            let end = waiting.start.checked_add(expected(job)).unwrap_or(Timestamp::MAX);
            let run = Run {
                job: name.clone(),
                verb: job.work.verb(),
                kind: job.kind(),
                sources,
                nominal: waiting.nominal,
                due: waiting.due,
                start: waiting.start,
                end,
                follows: waiting.follows,
                waits_for: waiting.waits_for,
                despite: waiting.despite,
                covered,
            };
            self.enqueue_followers(&run);
            self.done.push(run);
        }
    }

    /// What the runs that begin together, and those of the same time that begin later by their
    /// jitter alone, leave to each other, by job.
    fn peers(&self, together: &[Waiting], due: Timestamp) -> BTreeMap<usize, Covered> {
        let near = self.near.range((due, 0)..=(due, usize::MAX)).map(|(_, job)| *job);
        let all: BTreeSet<usize> = together.iter().map(|waiting| waiting.job).chain(near).collect();
        let named = |place: &usize| self.policy.jobs.get_index(*place);
        let wanted: Vec<Wanted> = all
            .iter()
            .filter_map(named)
            .map(|(name, job)| Wanted {
                job: name.clone(),
                kind: job.kind(),
                sources: self.sources(job),
            })
            .collect();
        all.into_iter().zip(coalesce(&wanted)).collect()
    }

    /// The job whose run of the source began when this one was due already, and is no weaker.
    fn begun_for(&self, source: &str, waiting: &Waiting, job: &Job) -> Option<String> {
        let strength_of = |place: usize| {
            let (name, job) = self.policy.jobs.get_index(place)?;
            Some((name, strength(job.kind()?)))
        };
        let kind = strength(job.kind()?);
        let begun = self.begun.get(source)?.iter();
        let mut begun = begun.filter(|(place, start)| {
            **place != waiting.job && **start >= waiting.due && **start < waiting.start
        });
        begun.find_map(|(place, _)| {
            let (name, strength) = strength_of(*place)?;
            (strength >= kind).then(|| name.clone())
        })
    }

    fn sources(&self, job: &Job) -> Vec<String> {
        match &job.work {
            Work::Backup { .. } => {
                self.policy.sources.keys().filter(|source| job.covers(source)).cloned().collect()
            }
            _ => Vec::new(),
        }
    }

    fn enqueue_next(&mut self, name: &str, job: &Job, instant: Timestamp, inclusive: bool) {
        if let Some((nominal, due)) = next_due(job, instant, inclusive, &self.zone) {
            let wanted = due.checked_add(jitter_of(&self.policy.stack, name, &job.execution));
            let wanted = wanted.unwrap_or(Timestamp::MAX);
            self.enqueue(name, job, (nominal, due), wanted, None);
        }
    }

    /// Jobs that come after this one: when it is over, and all that others do in its place.
    fn enqueue_followers(&mut self, run: &Run) {
        let by_others =
            run.covered.iter().filter_map(|(source, job)| self.end_of(source, job, run));
        let over = by_others.chain((!run.is_covered()).then_some(run.end)).max();
        let Some(over) = over else { return };
        for (name, job) in &self.policy.jobs {
            let Schedule::After(names) = &job.schedule else { continue };
            if names.contains(&run.job) {
                let called = (Nominal::Instant(over), over);
                self.enqueue(name, job, called, over, Some(run.job.clone()));
            }
        }
    }

    /// When the run of a job ends that does what `run` is there for.
    fn end_of(&self, source: &str, job: &str, run: &Run) -> Option<Timestamp> {
        let (place, name, job) = self.policy.jobs.get_full(job)?;
        let begun = self.begun.get(source).and_then(|begun| begun.get(&place)).copied();
        let start = match begun.filter(|start| *start >= run.due) {
            Some(start) => start,
            None if self.near.contains(&(run.due, place)) => {
                run.due.checked_add(jitter_of(&self.policy.stack, name, &job.execution)).ok()?
            }
            None => run.start,
        };
        start.checked_add(expected(job)).ok().map(|end| end.max(run.start))
    }

    fn enqueue(
        &mut self,
        name: &str,
        job: &Job,
        (nominal, due): (Nominal, Timestamp),
        wanted: Timestamp,
        follows: Option<String>,
    ) {
        if due >= self.until {
            return;
        }
        let latest = self.latest_start(job);
        let windows = &self.policy.windows;
        let Some(Admission { start, waits_for, despite }) =
            admit(&job.execution, windows, &self.zone, wanted, latest)
        else {
            return;
        };
        let is_near = waits_for.is_empty() && follows.is_none() && job.kind().is_some();
        let Some(job) = self.policy.jobs.get_index_of(name) else { return };
        if is_near {
            self.near.insert((due, job));
        }
        let waiting = Waiting { start, job, due, nominal, follows, waits_for, despite };
        self.queue.push(Reverse(waiting));
    }

    /// When a backup has to begin so that no source of the job loses more than its RPO.
    fn latest_start(&self, job: &Job) -> Option<Timestamp> {
        self.sources(job)
            .iter()
            .filter_map(|source| {
                let rpo = signed(self.policy.objectives_of(source).rpo);
                let last = self.begun.get(source)?.values().max()?;
                last.checked_add(rpo).ok()?.checked_sub(expected(job)).ok()
            })
            .min()
    }
}

/// How long a run is expected to take.
fn expected(job: &Job) -> SignedDuration {
    job.expected.map_or(SignedDuration::ZERO, signed)
}

fn signed(period: Period) -> SignedDuration {
    SignedDuration::try_from(period.get()).unwrap_or(SignedDuration::MAX)
}
