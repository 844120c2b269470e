//! What is wrong: pure. Policies, runs and what was found in repositories in; alerts out.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use super::admission::{Admission, admit, jitter_of};
use super::look::Look;
use super::timetable::next_due;
use crate::notify::{Alert, What};
use crate::policy::{Job, Period, Policy, Schedule, Source, Work};
use crate::state::{RunRow, RunState};

/// A source that archives WAL and whose newest point is older than half its RPO archives none; but
/// not before this.
const WAL_SILENCE: u64 = 300;

/// What alerts are made of.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// What is in force.
    pub policies: &'a [Policy],
    /// The newest run of each job and source that is over and was not skipped.
    pub outcomes: &'a [RunRow],
    /// All that is not over.
    pub open: &'a [RunRow],
    /// What was found of each source.
    pub looks: &'a [Look],
    /// The longest interval between two runs, by stack and job.
    pub intervals: &'a BTreeMap<(String, String), Period>,
    /// What is wrong with the policies as they are in their files now.
    pub invalid: Option<&'a str>,
    /// The time.
    pub now: Timestamp,
}

/// The facts by what they are about: there may be thousands of each.
struct Index<'a> {
    looks: BTreeMap<(&'a str, &'a str), &'a Look>,
    /// When a run of each source ended last that succeeded.
    successes: BTreeMap<(&'a str, &'a str), Timestamp>,
    open: BTreeMap<(&'a str, &'a str, &'a str), Vec<&'a RunRow>>,
}

impl<'a> Index<'a> {
    fn of(facts: &Facts<'a>) -> Self {
        let looks = facts.looks.iter().map(|look| (look.names(), look)).collect();
        let mut successes: BTreeMap<_, Timestamp> = BTreeMap::new();
        for row in facts.outcomes.iter().filter(|row| row.state == RunState::Succeeded) {
            let Some(ended) = row.ended else { continue };
            let last = successes.entry((&*row.slot.stack, &*row.slot.source)).or_insert(ended);
            *last = ended.max(*last);
        }
        let mut open: BTreeMap<_, Vec<&RunRow>> = BTreeMap::new();
        for row in facts.open {
            let slot = &row.slot;
            open.entry((&*slot.stack, &*slot.job, &*slot.source)).or_default().push(row);
        }
        Self { looks, successes, open }
    }

    /// Whether a run of the source succeeded since somebody looked: there is a newer point, which
    /// nobody has seen yet.
    fn is_outdated(&self, stack: &str, source: &str) -> bool {
        let looked = self.looks.get(&(stack, source)).and_then(|look| look.at);
        let success = self.successes.get(&(stack, source));
        looked.zip(success).is_some_and(|(looked, success)| *success > looked)
    }
}

/// All that is wrong.
pub fn evaluate(facts: &Facts<'_>) -> Vec<Alert> {
    let index = &Index::of(facts);
    let mut alerts = Vec::new();
    if let Some(why) = facts.invalid {
        alerts.push(Alert::of("", What::PolicyInvalid { why: why.to_owned() }));
    }
    alerts.extend(facts.outcomes.iter().filter_map(|row| of_run(facts, row)));
    for policy in facts.policies {
        alerts.extend(of_repositories(facts, policy));
        alerts.extend(
            fenced(facts, &policy.stack)
                .map(|why| Alert::of(&policy.stack, What::SiteFenced { why: why.to_owned() })),
        );
        for (name, source) in &policy.sources {
            let look = index.looks.get(&(policy.stack.as_str(), name.as_str()));
            let Some(look) = look.filter(|look| look.is_known()) else { continue };
            of_source(&Place { facts, index, policy, name, source, look }, &mut alerts);
        }
    }
    alerts
}

/// Whether nobody can tell that an alert is over: what it is about was not looked at.
pub fn is_undecided(alert: &Alert, facts: &Facts<'_>) -> bool {
    let policy = facts.policies.iter().find(|policy| policy.stack == alert.stack);
    let Some(policy) = policy.filter(|_| alert.what.needs_look()) else { return false };
    let is_exposure = matches!(
        alert.what,
        What::ObjectiveMissed { .. }
            | What::ObjectiveAtRisk { .. }
            | What::WindowBreaksObjective { .. }
    );
    let index = Index::of(facts);
    if is_exposure && index.is_outdated(&alert.stack, &alert.source) {
        return true;
    }
    if alert.source.is_empty() {
        return !facts.looks.iter().any(|look| look.names().0 == alert.stack);
    }
    let look = index.looks.get(&(alert.stack.as_str(), alert.source.as_str()));
    policy.sources.contains_key(&alert.source) && !look.is_some_and(|look| look.is_known())
}

/// What the last run of a job came to.
fn of_run(facts: &Facts<'_>, row: &RunRow) -> Option<Alert> {
    let slot = &row.slot;
    let policy = facts.policies.iter().find(|policy| policy.stack == slot.stack)?;
    let is_there = policy.jobs.contains_key(&slot.job)
        && (slot.source.is_empty() || policy.sources.contains_key(&slot.source));
    let why = || row.why.clone().unwrap_or_default();
    // That nothing is written on a fenced site is as it should be, and told once.
    if fenced(facts, &slot.stack).is_some() {
        return None;
    }
    let what = match row.state {
        // Whoever cancelled it knows.
        RunState::Failed | RunState::Abandoned if !row.cancelled => {
            What::RunFailed { run: row.id.clone(), attempts: row.attempts, why: why() }
        }
        RunState::Missed => What::RunMissed { due: row.due, why: why() },
        _ => return None,
    };
    is_there.then(|| Alert::of(&slot.stack, what).source(&slot.source).job(&slot.job))
}

/// Which other site is the active one, if one is.
fn fenced<'a>(facts: &Facts<'a>, stack: &str) -> Option<&'a str> {
    let mut own = facts.looks.iter().filter(|look| look.names().0 == stack);
    own.find_map(|look| look.fenced.as_deref())
}

/// Repositories that do not answer, each once.
fn of_repositories(facts: &Facts<'_>, policy: &Policy) -> Vec<Alert> {
    let mut silent: BTreeMap<&str, &str> = BTreeMap::new();
    for look in facts.looks.iter().filter(|look| look.names().0 == policy.stack) {
        silent.extend(look.unreachable.iter().map(|(name, why)| (name.as_str(), why.as_str())));
    }
    let known = silent.into_iter().filter(|(name, _)| policy.repositories.contains_key(*name));
    known
        .map(|(name, why)| {
            let what = What::RepositoryUnreachable { why: why.to_owned() };
            Alert::of(&policy.stack, what).repository(name)
        })
        .collect()
}

/// A source, with what is known of it.
struct Place<'a> {
    facts: &'a Facts<'a>,
    index: &'a Index<'a>,
    policy: &'a Policy,
    name: &'a str,
    source: &'a Source,
    look: &'a Look,
}

fn of_source(place: &Place<'_>, alerts: &mut Vec<Alert>) {
    let look = place.look;
    let alert = |what| Alert::of(&place.policy.stack, what).source(place.name);
    alerts.extend(place.objective().map(alert));
    if let Some(newest) = place.silent_wal() {
        alerts.push(alert(What::WalArchivingStopped { newest }));
    }
    let shrunk = look.sizes.iter().find_map(|size| Some((size, shrunk_from(size)?)));
    if let Some((size, median)) = shrunk {
        let (backup, bytes) = (size.backup.clone(), size.bytes);
        alerts.push(alert(What::BackupShrunk { backup, bytes, median }));
    }
    if look.damaged > 0 {
        alerts.push(alert(What::DamageFound { objects: look.damaged }));
    }
    let mut copied = BTreeSet::new();
    for (job, to) in place.copies() {
        if let Some(what) = place.lag(job, to)
            && copied.insert(to)
        {
            alerts.push(alert(what).repository(to));
        }
    }
}

/// The median, if the backup is below half of it.
fn shrunk_from(size: &super::look::Size) -> Option<u64> {
    size.median.filter(|median| size.bytes < median.div_ceil(2))
}

impl<'a> Place<'a> {
    fn rpo(&self) -> Period {
        self.policy.objectives_of(self.name).rpo
    }

    /// Whether the RPO is missed, or will be.
    fn objective(&self) -> Option<What> {
        if self.index.is_outdated(&self.policy.stack, self.name) {
            return None;
        }
        let (now, rpo) = (self.facts.now, self.rpo());
        let next = self.next();
        let Some(newest) = self.look.time else {
            let soon = now.checked_add(signed(rpo)).unwrap_or(now);
            let hope = next.as_ref().and_then(|next| next.end).is_some_and(|end| end <= soon);
            return (!hope).then_some(What::ObjectiveMissed { newest: None, rpo: rpo.as_secs() });
        };
        let missed = newest.checked_add(signed(rpo)).ok()?;
        if self.look.ahead || now > missed {
            let rpo = rpo.as_secs();
            return Some(What::ObjectiveMissed { newest: Some(newest), rpo });
        }
        // What WAL brings does not wait for runs.
        if self.source.has_wal_archive() {
            return None;
        }
        let end = next.as_ref().and_then(|next| next.end);
        if end.is_some_and(|end| end <= missed) {
            return None;
        }
        if let Some(next) = next
            && next.unhindered <= missed
            && !next.windows.is_empty()
        {
            let begins = next.start;
            return Some(What::WindowBreaksObjective { windows: next.windows, begins, missed });
        }
        Some(What::ObjectiveAtRisk { newest, rpo: rpo.as_secs(), next: end })
    }

    fn silent_wal(&self) -> Option<Timestamp> {
        let newest = self.look.time.filter(|_| self.source.has_wal_archive())?;
        let limit = (self.rpo().as_secs() / 2).max(WAL_SILENCE);
        let age = self.facts.now.duration_since(newest).as_secs();
        (u64::try_from(age).unwrap_or(0) > limit).then_some(newest)
    }

    /// Jobs that copy the source away from its own repository.
    fn copies(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let home = self.look.repository.as_str();
        self.policy.jobs.iter().filter_map(move |(name, job)| match &job.work {
            Work::Copy(copy) if copy.to != home => Some((name.as_str(), copy.to.as_str())),
            _ => None,
        })
    }

    /// Whether a copy is further behind than two intervals of the job that makes it.
    fn lag(&self, job: &str, to: &str) -> Option<What> {
        let key = (self.policy.stack.clone(), job.to_owned());
        let allowed = self.facts.intervals.get(&key)?.as_secs() * 2;
        let newest = self.look.time?;
        let copied = self.look.elsewhere.get(to).copied();
        let known = !self.look.unreachable.contains_key(to);
        let behind = copied.is_none_or(|copied| copied < newest);
        let since = copied.or(self.look.oldest)?;
        let age = self.facts.now.duration_since(since).as_secs();
        let late = u64::try_from(age).unwrap_or(0) > allowed;
        (known && behind && late).then_some(What::CopyLags { copied, allowed })
    }

    /// The run that can end first.
    fn next(&self) -> Option<Next> {
        let runs = self.policy.jobs_of(self.name).filter_map(|(name, job)| self.next_of(name, job));
        runs.min_by_key(|next| next.end.unwrap_or(Timestamp::MAX))
    }

    fn next_of(&self, name: &str, job: &Job) -> Option<Next> {
        let now = self.facts.now;
        let expected = job.expected.map_or(SignedDuration::ZERO, signed);
        let slot = (self.policy.stack.as_str(), name, self.name);
        let open = self.index.open.get(&slot).map_or(&[][..], Vec::as_slice);
        if let Some(row) = open.iter().find(|row| row.state == RunState::Running) {
            let start = row.started.unwrap_or(now);
            let end = start.checked_add(expected).ok()?.max(now);
            return Some(Next {
                start: Some(start),
                end: Some(end),
                unhindered: end,
                windows: vec![],
            });
        }
        let zone = self.policy.time_zone();
        let due = match open.first() {
            Some(row) => row.due.max(now),
            None => next_of_schedule(self.policy, name, now, &zone, &mut BTreeSet::new())?,
        };
        let jitter = jitter_of(&self.policy.stack, name, &job.execution);
        let wanted = due.checked_add(jitter).unwrap_or(due);
        let rpo = signed(self.rpo());
        let latest = self
            .look
            .time
            .and_then(|newest| newest.checked_add(rpo).ok()?.checked_sub(expected).ok());
        let windows = &self.policy.windows;
        let unhindered = wanted.checked_add(expected).unwrap_or(Timestamp::MAX);
        let admission = admit(&job.execution, windows, &zone, wanted, latest);
        let Some(Admission { start, waits_for, .. }) = admission else {
            let mut windows = job.execution.avoid.clone();
            windows.extend(job.execution.within.clone());
            return Some(Next { start: None, end: None, unhindered, windows });
        };
        let end = start.checked_add(expected).unwrap_or(Timestamp::MAX);
        Some(Next { start: Some(start), end: Some(end), unhindered, windows: waits_for })
    }
}

/// A run that will be.
struct Next {
    /// When it begins; never, if no window lets it.
    start: Option<Timestamp>,
    /// When it can have ended.
    end: Option<Timestamp>,
    /// When it could have ended without windows.
    unhindered: Timestamp,
    /// The windows that it waits for.
    windows: Vec<String>,
}

/// When a job is due next. One that follows others: when the first of them is.
fn next_of_schedule(
    policy: &Policy,
    name: &str,
    now: Timestamp,
    zone: &TimeZone,
    seen: &mut BTreeSet<String>,
) -> Option<Timestamp> {
    let job = policy.jobs.get(name)?;
    if !seen.insert(name.to_owned()) {
        return None;
    }
    match &job.schedule {
        Schedule::After(names) => {
            names.iter().filter_map(|name| next_of_schedule(policy, name, now, zone, seen)).min()
        }
        Schedule::Cron(_) | Schedule::Every(_) => next_due(job, now, false, zone).map(|(_, at)| at),
    }
}

fn signed(period: Period) -> SignedDuration {
    SignedDuration::try_from(period.get()).unwrap_or(SignedDuration::MAX)
}
