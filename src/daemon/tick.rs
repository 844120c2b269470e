//! What is to be done now: pure. Policies, what waits and what goes on in; decisions out.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::admission::{admit, jitter_of};
use super::cover::{Candidate, held, rank};
use super::timetable::{Nominal, last_due, next_due};
use crate::policy::{CatchUp, Job, Overlap, Period, Policy, Schedule, Work};
use crate::state::{NewRun, RunRow, RunState, Slot};

/// How late a slot may be found without having been missed meanwhile.
const PROMPT: SignedDuration = SignedDuration::from_secs(60);

/// How long a slot waits for a daemon of its host, where its job does not say it, and for one that
/// knows its job.
const PATIENCE: SignedDuration = SignedDuration::from_mins(10);

/// Where the daemon is.
#[derive(Debug, Clone)]
pub struct Place<'a> {
    /// This machine: runs of sources of other hosts are not its business.
    pub host: &'a str,
    /// The most runs of this daemon that go on at once.
    pub most: usize,
    /// Those it shares its state with; `None` if it has it to itself.
    pub fleet: Option<&'a Fleet>,
}

/// Daemons that share a state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fleet {
    /// Who this one is.
    pub owner: String,
    /// The hosts on which one is.
    pub hosts: BTreeSet<String>,
}

impl Place<'_> {
    /// Whether slots of a source of this host are made here. Those that share a state make all of
    /// them: a host that is down makes none, and what it misses is a row too.
    fn makes(&self, host: Option<&str>) -> bool {
        self.fleet.is_some() || host.is_none_or(|host| host == self.host)
    }

    /// Whether a run that goes on is this daemon's.
    fn does(&self, row: &RunRow) -> bool {
        self.fleet.is_none_or(|fleet| row.owner.as_ref() == Some(&fleet.owner))
    }
}

/// Slots that are to be rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueSlots {
    /// They.
    pub slots: Vec<NewRun>,
    /// Up to when there is a row of every slot of the job, once these are.
    pub until: Timestamp,
}

/// The slots of a job after `since` and up to `now`: one for each source, and for each time. The
/// latest waits, the others are missed.
///
/// Those that are missed are at most `most`, or those of one time, the oldest first: a long time may
/// have many. The latest is always among what is given, so that it waits for no others to be rows.
pub fn due_slots(
    policy: &Policy,
    (name, job): (&str, &Job),
    (since, now): (Timestamp, Timestamp),
    place: &Place<'_>,
    most: usize,
) -> DueSlots {
    let zone = policy.time_zone();
    let sources = sources(policy, job, place);
    let latest = last_due(job, (since, now), &zone).filter(|_| !sources.is_empty());
    let Some((nominal, latest)) = latest else {
        return DueSlots { slots: Vec::new(), until: now };
    };
    let slots_at = |nominal: &Nominal, due: Timestamp, missed: Option<&'static str>| {
        let wanted = due.checked_add(jitter_of(&policy.stack, name, &job.execution));
        let (nominal, not_before) = (nominal.to_string(), wanted.unwrap_or(due));
        sources
            .iter()
            .map(|source| {
                let slot = Slot {
                    stack: policy.stack.clone(),
                    job: name.to_owned(),
                    source: source.clone(),
                    nominal: nominal.clone(),
                };
                NewRun {
                    id: slot.run_id(due),
                    slot,
                    due,
                    not_before,
                    state: if missed.is_some() { RunState::Missed } else { RunState::Waiting },
                    why: missed.map(str::to_owned),
                }
            })
            .collect::<Vec<NewRun>>()
    };
    let mut slots = Vec::new();
    let mut until = since;
    while let Some((nominal, due)) = next_due(job, until, false, &zone) {
        if due >= latest {
            until = now;
            break;
        }
        if most == 0 || (!slots.is_empty() && slots.len() + sources.len() > most) {
            break;
        }
        let why = "a later one was due before anybody could do it";
        slots.extend(slots_at(&nominal, due, Some(why)));
        until = due;
    }
    let late = now.duration_since(latest) > PROMPT;
    let missed = (job.execution.catch_up == CatchUp::None && late)
        .then_some("it was due while nobody was there, and the job does not catch up");
    slots.extend(slots_at(&nominal, latest, missed));
    DueSlots { slots, until }
}

/// The slots that follow a run that succeeded, unless others of its job and time still go on.
pub fn following_slots(
    policy: &Policy,
    done: &RunRow,
    open: &[RunRow],
    now: Timestamp,
    place: &Place<'_>,
) -> Vec<NewRun> {
    let same = |other: &&RunRow| {
        other.id != done.id
            && (&other.slot.stack, &other.slot.job, &other.slot.nominal)
                == (&done.slot.stack, &done.slot.job, &done.slot.nominal)
    };
    if open.iter().any(|other| same(&other)) {
        return Vec::new();
    }
    let mut slots = Vec::new();
    for (name, job) in &policy.jobs {
        let Schedule::After(names) = &job.schedule else { continue };
        if !names.contains(&done.slot.job) {
            continue;
        }
        for source in sources(policy, job, place) {
            let slot = Slot {
                stack: policy.stack.clone(),
                job: name.clone(),
                source,
                nominal: format!("{} {}", done.slot.job, done.slot.nominal),
            };
            slots.push(NewRun {
                id: slot.run_id(now),
                slot,
                due: now,
                not_before: now,
                state: RunState::Waiting,
                why: None,
            });
        }
    }
    slots
}

/// The sources of a job that are this daemon's business; for other work one that stands for all.
fn sources(policy: &Policy, job: &Job, place: &Place<'_>) -> Vec<String> {
    if !matches!(job.work, Work::Backup { .. }) {
        return vec![String::new()];
    }
    policy
        .sources
        .iter()
        .filter(|(name, source)| job.covers(name) && place.makes(source.host.as_deref()))
        .map(|(name, _)| name.clone())
        .collect()
}

/// What is to be done with what waits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decisions {
    /// To be begun now, in this order.
    pub begin: Vec<String>,
    /// Over without having begun: run, state, why.
    pub settle: Vec<(String, RunState, String)>,
    /// To be looked at again later: run, when, why.
    pub postpone: Vec<(String, Timestamp, String)>,
    /// Waiting for what comes of another that stands for them: run, why; where that is news.
    pub hold: Vec<(String, String)>,
    /// Going on, and to be ended because a later one takes its place.
    pub end: Vec<String>,
}

/// The newest instant that each source (`STACK/SOURCE`) can be restored to, as far as is known.
pub type Protected = BTreeMap<(String, String), Timestamp>;

/// Decides about all that waits, given all that is not final.
pub fn decide(
    policies: &[Policy],
    open: &[RunRow],
    protected: &Protected,
    now: Timestamp,
    place: &Place<'_>,
) -> Decisions {
    let mut decisions = Decisions::default();
    let running: Vec<&RunRow> = open.iter().filter(|row| row.state == RunState::Running).collect();
    let mut waiting: Vec<(Ready<'_>, bool)> = Vec::new();
    for row in open.iter().filter(|row| row.state == RunState::Waiting) {
        let policy = policies.iter().find(|policy| policy.stack == row.slot.stack);
        let job = policy.and_then(|policy| policy.jobs.get(&row.slot.job));
        // Another daemon may have read its policies earlier, or later.
        let recent = now.duration_since(row.not_before) <= PATIENCE;
        let settled = place.fleet.is_none() || !recent;
        let (Some(policy), Some(job)) = (policy, job) else {
            let why = "the policy does not have the job any more".to_owned();
            if settled {
                decisions.settle.push((row.id.clone(), RunState::Skipped, why));
            }
            continue;
        };
        if let Some(fleet) = place.fleet
            && let Some(host) = elsewhere(policy, row, place)
        {
            if !fleet.hosts.contains(host)
                && let Some(state) = host_is_down(job, row, now)
            {
                let why = format!("host down: no daemon of `{host}` was heard of");
                decisions.settle.push((row.id.clone(), state, why));
            }
            continue;
        }
        if !settled && !row.slot.source.is_empty() && !policy.sources.contains_key(&row.slot.source)
        {
            continue;
        }
        if !row.slot.source.is_empty() && !policy.sources.contains_key(&row.slot.source) {
            let why = "the policy does not have the source any more".to_owned();
            decisions.settle.push((row.id.clone(), RunState::Skipped, why));
            continue;
        }
        let one = Ready { row, policy, job, exposure: exposure(policy, row, protected, now) };
        let admitted = !one.is_late(now)
            && row.not_before <= now
            && one.is_admitted(protected, now, &mut decisions);
        waiting.push((one, admitted));
    }
    let candidates: Vec<Candidate<'_>> = waiting
        .iter()
        .map(|(one, admitted)| Candidate {
            row: one.row,
            rank: rank(policies, one.row),
            ready: *admitted,
            soon: one.is_soon(protected, now),
        })
        .collect();
    let held = held(policies, &candidates, &running);
    let mut ready: Vec<Ready<'_>> = Vec::new();
    for (one, admitted) in waiting {
        if let Some(other) = held.get(one.row.id.as_str()) {
            let why =
                format!("waits for run {} of `{}`, which does the same", other.id, other.slot.job);
            if one.row.why.as_ref() != Some(&why) {
                decisions.hold.push((one.row.id.clone(), why));
            }
        } else if one.is_late(now) {
            decisions.settle.push((one.row.id.clone(), RunState::Missed, one.why_late()));
        } else if admitted {
            ready.push(one);
        }
    }
    overlaps(&mut ready, &running, &mut decisions);
    // Who is nearest to its RPO goes first, of those the policy puts first.
    ready.sort_by_key(|one| {
        let priority = std::cmp::Reverse(one.job.execution.priority);
        (priority, std::cmp::Reverse(one.exposure), one.row.due, one.row.id.clone())
    });
    begin(&ready, &running, policies, place, &mut decisions);
    decisions
}

/// The host that the source of a run lies on, if that is another one.
fn elsewhere<'a>(policy: &'a Policy, row: &RunRow, place: &Place<'_>) -> Option<&'a str> {
    let host = policy.sources.get(&row.slot.source)?.host.as_deref()?;
    (host != place.host).then_some(host)
}

/// What becomes of a run whose host is down. `None`: it waits.
fn host_is_down(job: &Job, row: &RunRow, now: Timestamp) -> Option<RunState> {
    let patience = job.execution.start_within.map_or(PATIENCE, signed);
    let state = if row.attempts == 0 { RunState::Missed } else { RunState::Abandoned };
    (now.duration_since(row.due.max(row.not_before)) > patience).then_some(state)
}

struct Ready<'a> {
    row: &'a RunRow,
    policy: &'a Policy,
    job: &'a Job,
    /// How far the source is beyond its RPO (or, negative, from it).
    exposure: SignedDuration,
}

impl Ready<'_> {
    /// Why it did not begin in time, with what it waited for last.
    fn why_late(&self) -> String {
        let patience = self.job.execution.start_within.unwrap_or(Period::from_secs(0));
        let waited = self.row.why.as_ref().map(|why| format!(": {why}"));
        format!("it could not begin within {patience}{}", waited.unwrap_or_default())
    }

    /// Whether it waits for its jitter alone, and no window is in its way after that.
    fn is_soon(&self, protected: &Protected, now: Timestamp) -> bool {
        let (row, execution) = (self.row, &self.job.execution);
        let jitter = jitter_of(&self.policy.stack, &row.slot.job, execution);
        let at = row.not_before;
        if at <= now || row.attempts > 0 || row.due.checked_add(jitter).is_ok_and(|due| due < at) {
            return false;
        }
        let (windows, zone) = (&self.policy.windows, self.policy.time_zone());
        admit(execution, windows, &zone, at, self.latest(protected))
            .is_some_and(|admission| admission.start <= at)
    }

    fn is_late(&self, now: Timestamp) -> bool {
        let Some(patience) = self.job.execution.start_within else { return false };
        // A run that was begun once is tried again whatever the time.
        let late = now.duration_since(self.row.due);
        self.row.attempts == 0
            && SignedDuration::try_from(patience.get()).is_ok_and(|patience| late > patience)
    }

    /// Whether its windows let it begin now.
    fn is_admitted(
        &self,
        protected: &Protected,
        now: Timestamp,
        decisions: &mut Decisions,
    ) -> bool {
        let zone = self.policy.time_zone();
        let execution = &self.job.execution;
        let latest = self.latest(protected);
        match admit(execution, &self.policy.windows, &zone, now, latest) {
            Some(admission) if admission.start <= now => true,
            Some(admission) => {
                let why = format!("waits for {}", admission.waits_for.join(", "));
                // Not beyond the instant at which a soft window gives way.
                let latest = latest.filter(|latest| *latest > now);
                let again = latest.map_or(admission.start, |latest| latest.min(admission.start));
                decisions.postpone.push((self.row.id.clone(), again, why));
                false
            }
            None => {
                let why = "no window that it keeps to opens again".to_owned();
                decisions.settle.push((self.row.id.clone(), RunState::Missed, why));
                false
            }
        }
    }

    /// When it has to begin so that the RPO holds.
    fn latest(&self, protected: &Protected) -> Option<Timestamp> {
        let key = (self.row.slot.stack.clone(), self.row.slot.source.clone());
        let rpo = signed(self.policy.objectives_of(&self.row.slot.source).rpo);
        let expected = self.job.expected.map_or(SignedDuration::ZERO, signed);
        protected.get(&key)?.checked_add(rpo).ok()?.checked_sub(expected).ok()
    }
}

fn exposure(
    policy: &Policy,
    row: &RunRow,
    protected: &Protected,
    now: Timestamp,
) -> SignedDuration {
    let key = (row.slot.stack.clone(), row.slot.source.clone());
    let rpo = signed(policy.objectives_of(&row.slot.source).rpo);
    match protected.get(&key) {
        Some(newest) => now.duration_since(*newest).saturating_sub(rpo),
        // Nothing is more exposed than what was never backed up; a copy exposes nothing.
        None if row.slot.source.is_empty() => SignedDuration::MIN,
        None => SignedDuration::MAX,
    }
}

/// Of one job and source only one waits, and none while another goes on; as the job has it.
fn overlaps(ready: &mut Vec<Ready<'_>>, running: &[&RunRow], decisions: &mut Decisions) {
    let key =
        |row: &RunRow| (row.slot.stack.clone(), row.slot.job.clone(), row.slot.source.clone());
    let mut newest: BTreeMap<_, (Timestamp, String)> = BTreeMap::new();
    for one in ready.iter() {
        let this = (one.row.due, one.row.id.clone());
        let newest = newest.entry(key(one.row)).or_insert_with(|| this.clone());
        *newest = this.max(newest.clone());
    }
    ready.retain(|one| {
        let row = one.row;
        if newest.get(&key(row)).is_some_and(|(_, id)| *id != row.id) {
            let why = "a later one was due before it could begin".to_owned();
            decisions.settle.push((row.id.clone(), RunState::Skipped, why));
            return false;
        }
        let Some(other) = running.iter().find(|other| key(other) == key(row)) else { return true };
        match one.job.execution.overlap {
            Overlap::Skip => {
                let why = format!("run {} of the same job has not ended", other.id);
                decisions.settle.push((row.id.clone(), RunState::Skipped, why));
            }
            Overlap::Wait => {}
            Overlap::Replace if other.cancelled => {}
            Overlap::Replace => decisions.end.push(other.id.clone()),
        }
        false
    });
}

/// Whether a later run waits to take the place of one that goes on.
pub fn is_replaced(policies: &[Policy], open: &[RunRow], row: &RunRow, now: Timestamp) -> bool {
    let policy = policies.iter().find(|policy| policy.stack == row.slot.stack);
    let job = policy.and_then(|policy| policy.jobs.get(&row.slot.job));
    let waits = |other: &RunRow| {
        (&other.slot.stack, &other.slot.job, &other.slot.source)
            == (&row.slot.stack, &row.slot.job, &row.slot.source)
            && other.state == RunState::Waiting
            && other.due > row.due
            && other.not_before <= now
    };
    job.is_some_and(|job| job.execution.overlap == Overlap::Replace) && open.iter().any(waits)
}

/// As many as there is room for, one of each source at once.
fn begin(
    ready: &[Ready<'_>],
    running: &[&RunRow],
    policies: &[Policy],
    place: &Place<'_>,
    decisions: &mut Decisions,
) {
    let own = running.iter().filter(|row| place.does(row)).count();
    let mut room = place.most.saturating_sub(own);
    let busy = |row: &RunRow| (row.slot.stack.clone(), row.slot.source.clone());
    let mut sources: BTreeSet<_> = running.iter().map(|row| busy(row)).collect();
    let mut pools: BTreeMap<(String, String), u32> = BTreeMap::new();
    for row in running {
        let policy = policies.iter().find(|policy| policy.stack == row.slot.stack);
        let job = policy.and_then(|policy| policy.jobs.get(&row.slot.job));
        for pool in job.map(|job| job.execution.pools.as_slice()).unwrap_or_default() {
            *pools.entry((row.slot.stack.clone(), pool.clone())).or_default() += 1;
        }
    }
    for one in ready {
        if room == 0 {
            return;
        }
        // Copies of one stack are one another's business too: their source is empty.
        if sources.contains(&busy(one.row)) {
            continue;
        }
        let keys: Vec<_> = one
            .job
            .execution
            .pools
            .iter()
            .map(|pool| (one.row.slot.stack.clone(), pool.clone()))
            .collect();
        let is_full = |key: &(String, String)| {
            let places = one.policy.pools.get(&key.1).copied().unwrap_or(u32::MAX);
            pools.get(key).copied().unwrap_or(0) >= places
        };
        if keys.iter().any(is_full) {
            continue;
        }
        for key in keys {
            *pools.entry(key).or_default() += 1;
        }
        sources.insert(busy(one.row));
        room -= 1;
        decisions.begin.push(one.row.id.clone());
    }
}

fn signed(period: Period) -> SignedDuration {
    SignedDuration::try_from(period.get()).unwrap_or(SignedDuration::MAX)
}
