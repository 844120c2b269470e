//! What is wrong with drills: one that did not pass, and none that passed for too long. Pure.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::drill::evidence::Verdict;
use crate::notify::{Alert, What};
use crate::policy::{Drill, Period, Policy};
use crate::state::{DrillRow, RunRow, RunState};

/// A drill takes its time: so much is added to what its schedule allows, and a tenth of that.
const GRACE: SignedDuration = SignedDuration::from_hours(1);

/// The longest intervals between two runs, by stack and job.
pub type Intervals = BTreeMap<(String, String), Period>;

/// What is known of a drill of a policy.
pub fn row_of<'a>(rows: &'a [DrillRow], stack: &str, name: &str) -> Option<&'a DrillRow> {
    rows.iter().find(|row| row.stack == stack && row.name == name)
}

/// Whether none of a name has passed for longer than its schedule allows, in seconds. One that was never
/// held counts from `since`, when there was first something to recover. `None`: nobody can tell.
pub fn overdue(
    policy: &Policy,
    name: &str,
    intervals: &Intervals,
    passed: Option<Timestamp>,
    since: Option<Timestamp>,
    now: Timestamp,
) -> Option<(bool, u64)> {
    let interval = intervals.get(&(policy.stack.clone(), Drill::job_name(name)))?;
    let allowed = SignedDuration::try_from(interval.get()).ok()?;
    let from = passed.or(since)?;
    let most = allowed.checked_add(allowed / 10)?.checked_add(GRACE)?;
    Some((now.duration_since(from) > most, interval.as_secs()))
}

/// What alerts about drills are made of.
pub struct Facts<'a> {
    /// What is in force.
    pub policies: &'a [Policy],
    /// What is known of drills.
    pub rows: &'a [DrillRow],
    /// The longest intervals.
    pub intervals: &'a Intervals,
    /// The oldest point of each stack.
    pub oldest: &'a BTreeMap<String, Timestamp>,
    /// All that goes on or waits: what a drill that still goes on came to is for its run to say.
    pub open: &'a [RunRow],
    /// What fires already: what is said of the run that held a drill is not said twice.
    pub firing: &'a [Alert],
    /// The time.
    pub now: Timestamp,
}

/// All that is wrong.
pub fn alerts(facts: &Facts<'_>) -> Vec<Alert> {
    let Facts { rows, intervals, oldest, now, .. } = *facts;
    let mut alerts = Vec::new();
    for policy in facts.policies {
        for name in policy.drills.keys() {
            let job = Drill::job_name(name);
            let row = row_of(rows, &policy.stack, name);
            let is_told = facts.firing.iter().any(|alert| {
                alert.stack == policy.stack
                    && alert.job == job
                    && matches!(alert.what, What::RunFailed { .. })
            }) || facts.open.iter().any(|run| {
                (&run.slot.stack, &run.slot.job, run.state)
                    == (&policy.stack, &job, RunState::Running)
            });
            let bad = [Verdict::Inconclusive, Verdict::Fail];
            let verdict = row.and_then(|row| bad.into_iter().find(|one| one.word() == row.verdict));
            if let (Some(row), Some(verdict), false) = (row, verdict, is_told) {
                let (drill, why) = (row.drill.clone(), row.why.clone());
                let what = What::DrillFailed { drill, verdict: verdict.words().to_owned(), why };
                alerts.push(Alert::of(&policy.stack, what).job(&job));
            }
            let passed = row.and_then(|row| row.passed);
            let since = oldest.get(&policy.stack).copied();
            if let Some((true, allowed)) = overdue(policy, name, intervals, passed, since, now) {
                let what = What::DrillOverdue { passed, allowed };
                alerts.push(Alert::of(&policy.stack, what).job(&job));
            }
        }
    }
    alerts
}
