//! What retention holds in the long run, and how much of each source may be lost.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp, ToSpan as _};
use serde::Serialize;

use super::timetable::{MOST_RUNS, Run, runs};
use crate::id::{BackupId, BackupKind};
use crate::policy::{Candidate, Keep, Period, Policy, plan_retention};

/// The longest time that is looked ahead for exposures.
const EXPOSURE_DAYS: i64 = 400;

/// The longest time that is looked ahead for retention.
const RETENTION_DAYS: i64 = 3 * 366;

/// How much of a source may be lost at the worst, if no run fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exposure {
    /// The source.
    pub source: String,
    /// How much may be lost.
    pub rpo: Period,
    /// The longest time between two runs that begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub longest_gap: Option<Period>,
    /// The longest time from the begin of the newest backup to the end of the next: what is lost
    /// when the disaster comes just before that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worst: Option<Period>,
    /// When that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// WAL is archived all the time, and bounds the loss in place of the runs.
    pub archives_wal: bool,
    /// Whether the RPO holds.
    pub holds: bool,
}

/// The exposure of each source over a little more than a year from `from` on; less if there are
/// very many runs.
pub fn exposures(policy: &Policy, from: Timestamp) -> Vec<Exposure> {
    let all = runs_for(policy, from, EXPOSURE_DAYS);
    let mut backups: BTreeMap<&str, Vec<(Timestamp, Timestamp)>> = BTreeMap::new();
    for run in &all {
        for source in run.sources.iter().filter(|_| run.kind.is_some()) {
            backups.entry(source).or_default().push((run.start, run.end));
        }
    }
    let of = |(name, source): (&String, &crate::policy::Source)| {
        let rpo = policy.objectives_of(name).rpo;
        let found = backups.get_mut(name.as_str()).map(|all| Worst::of(all)).unwrap_or_default();
        let archives_wal = source.has_wal_archive();
        let holds = archives_wal || found.exposed.is_some_and(|(worst, _)| worst <= rpo);
        Exposure {
            source: name.clone(),
            rpo,
            longest_gap: found.gap,
            worst: found.exposed.map(|(worst, _)| worst),
            at: found.exposed.map(|(_, at)| at),
            archives_wal,
            holds,
        }
    };
    policy.sources.iter().map(of).collect()
}

#[derive(Default)]
struct Worst {
    gap: Option<Period>,
    exposed: Option<(Period, Timestamp)>,
}

impl Worst {
    /// Of backups of one source, by begin and end, in order of their begin.
    fn of(backups: &mut [(Timestamp, Timestamp)]) -> Self {
        let gaps = backups.windows(2).map(|pair| elapsed(pair[0].0, pair[1].0));
        let gap = gaps.max();
        // A backup counts from its end on: one that began later may have ended before.
        backups.sort_by_key(|(start, end)| (*end, *start));
        let (mut newest, mut exposed) = (None, None);
        for (start, end) in backups {
            let worst = newest.map(|newest| (elapsed(newest, *end), *end));
            if worst.map(|(worst, _)| worst) > exposed.map(|(longest, _)| longest) {
                exposed = worst;
            }
            newest = newest.max(Some(*start));
        }
        Self { gap, exposed }
    }
}

/// What retention holds of the backups that one job makes of one source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holding {
    /// The job.
    pub job: String,
    /// The kind of its backups.
    pub kind: BackupKind,
    /// Its rule.
    pub keep: Keep,
    /// How many backups of each source stay.
    pub backups: usize,
    /// The age of the oldest.
    pub oldest: Period,
    /// The rule was not fully used within the time looked at: more will stay.
    pub growing: bool,
}

/// What retention holds in the long run, for each job that backs up.
pub fn holdings(policy: &Policy, from: Timestamp) -> Vec<Holding> {
    let zone = policy.time_zone();
    let mut by_job: BTreeMap<&str, Vec<Timestamp>> = BTreeMap::new();
    let all = runs_for(policy, from, RETENTION_DAYS);
    for run in all.iter().filter(|run| run.kind.is_some() && !run.is_covered()) {
        by_job.entry(&run.job).or_default().push(run.end);
    }
    let of = |(name, job): (&String, &crate::policy::Job)| {
        let kind = job.kind()?;
        let ends = by_job.remove(name.as_str()).unwrap_or_default();
        let (held, growing) = settle(name, kind, job.keep, &ends, &zone);
        let last = ends.last().copied().unwrap_or(from);
        let oldest =
            held.iter().min().map_or(Period::from_secs(0), |oldest| elapsed(*oldest, last));
        let backups = held.len();
        Some(Holding { job: name.clone(), kind, keep: job.keep, backups, oldest, growing })
    };
    policy.jobs.iter().filter_map(of).collect()
}

/// The ends of the backups that stay after the last, and whether their number still grew in the
/// last quarter of the time. Backups are put to the rule a few at a time, so that a job that runs
/// every minute does not take a million of them.
fn settle(
    job: &str,
    kind: BackupKind,
    keep: Keep,
    ends: &[Timestamp],
    zone: &jiff::tz::TimeZone,
) -> (Vec<Timestamp>, bool) {
    let step = (ends.len() / 16).clamp(1, 64);
    let mut held: Vec<Candidate> = Vec::new();
    let mut counts = Vec::new();
    for step in ends.chunks(step) {
        let Some(now) = step.last() else { break };
        for end in step {
            held.push(Candidate {
                backup: BackupId::new(kind, *end, None),
                job: Some(job.to_owned()),
                rule: Some(keep),
                end: *end,
                stored_at: *end,
                pinned: false,
                sound: true,
                tainted: false,
                divergent: false,
            });
        }
        let verdicts = plan_retention(&held, *now, zone);
        let mut stays = verdicts.iter().map(|verdict| !verdict.expires());
        held.retain(|_| stays.next().unwrap_or(true));
        counts.push(held.len());
    }
    let earlier = counts[..counts.len() * 3 / 4].iter().max().copied().unwrap_or(0);
    // A calendar's months are not of one length: one or two more are no growth.
    let growing = counts.last().is_some_and(|last| *last > earlier + 1 + earlier / 16);
    (held.into_iter().map(|candidate| candidate.end).collect(), growing)
}

/// The runs of so many days, or of fewer if there are very many.
fn runs_for(policy: &Policy, from: Timestamp, days: i64) -> Vec<Run> {
    let until = from.checked_add((days * 24).hours()).unwrap_or(Timestamp::MAX);
    let mut all = runs(policy, from, until);
    all.truncate(MOST_RUNS);
    all
}

fn elapsed(from: Timestamp, until: Timestamp) -> Period {
    let elapsed = until.duration_since(from).max(SignedDuration::ZERO);
    Period::new(elapsed.unsigned_abs())
}
