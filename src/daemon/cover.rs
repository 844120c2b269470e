//! Runs that another run of their source stands for.
//!
//! Of the runs of a source that are due at the same time, by the schedule and whatever their jitter,
//! only the strongest kind is begun. The others wait for what comes of it: when it succeeds they are
//! done as well, and when it does not they are begun in its place.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::coalesce::strength;
use crate::policy::{Job, Policy};
use crate::state::{RunRow, RunState};

/// Which of two runs stands for the other: the stronger kind, and of equals the job that the policy
/// names first.
pub(super) type Rank = (u8, Reverse<usize>);

/// A run that waits.
pub(super) struct Candidate<'a> {
    /// It.
    pub(super) row: &'a RunRow,
    /// `None`: it is no backup.
    pub(super) rank: Option<Rank>,
    /// It would begin now, if its source and a place were free.
    pub(super) ready: bool,
    /// It waits for its jitter alone.
    pub(super) soon: bool,
}

/// The job of a run, as the policies have it now.
fn job_of<'a>(policies: &'a [Policy], row: &RunRow) -> Option<(usize, &'a Job)> {
    let policy = policies.iter().find(|policy| policy.stack == row.slot.stack)?;
    let (place, _, job) = policy.jobs.get_full(&row.slot.job)?;
    Some((place, job))
}

/// The rank of a run; none if it is no backup.
pub(super) fn rank(policies: &[Policy], row: &RunRow) -> Option<Rank> {
    let (place, job) = job_of(policies, row)?;
    Some((strength(job.kind()?), Reverse(place)))
}

/// The runs that wait and that `done`, which succeeded, has done as well: it is no weaker, and began
/// when they were due already.
pub fn done_by<'a>(policies: &[Policy], open: &'a [RunRow], done: &RunRow) -> Vec<&'a RunRow> {
    let Some(rank_of_done) = rank(policies, done) else { return Vec::new() };
    let is_done = |row: &&RunRow| {
        row.state == RunState::Waiting
            && began_after(done, row)
            && rank(policies, row).is_some_and(|rank| rank.0 <= rank_of_done.0)
    };
    open.iter().filter(is_done).collect()
}

/// Whether a run of another job was begun when this one of the same source was due already.
fn began_after(begun: &RunRow, row: &RunRow) -> bool {
    (&begun.slot.stack, &begun.slot.source) == (&row.slot.stack, &row.slot.source)
        && begun.slot.job != row.slot.job
        && begun.attempts > 0
        && begun.started.is_some_and(|started| row.due <= started)
}

/// Of the runs that wait those that another one stands for: their ids, and that one.
pub(super) fn held<'a>(
    policies: &[Policy],
    waiting: &[Candidate<'a>],
    running: &[&'a RunRow],
) -> BTreeMap<&'a str, &'a RunRow> {
    let key = |row: &'a RunRow| (row.slot.stack.as_str(), row.slot.source.as_str());
    let mut sources: BTreeMap<_, Vec<&Candidate<'a>>> = BTreeMap::new();
    for one in waiting.iter().filter(|one| one.rank.is_some()) {
        sources.entry(key(one.row)).or_default().push(one);
    }
    let mut goes_on: BTreeMap<_, Vec<(&'a RunRow, Option<Rank>)>> = BTreeMap::new();
    for row in running {
        goes_on.entry(key(row)).or_default().push((row, rank(policies, row)));
    }
    let mut held = BTreeMap::new();
    for (source, waiting) in sources {
        let begun = goes_on.get(&source).map(Vec::as_slice).unwrap_or_default();
        for one in &waiting {
            let by_begun = begun
                .iter()
                .find(|(row, rank)| {
                    began_after(row, one.row) && rank.map(|r| r.0) >= one.rank.map(|r| r.0)
                })
                .map(|(row, _)| *row);
            let by_waiting = || {
                let stands = waiting.iter().filter(|other| other.stands_for(one));
                stands.max_by_key(|other| other.rank).map(|other| other.row)
            };
            if let Some(other) = by_begun.or_else(by_waiting) {
                held.insert(one.row.id.as_str(), other);
            }
        }
    }
    held
}

impl Candidate<'_> {
    /// Whether this one, which is not begun or is to be tried again, stands for another that waits.
    fn stands_for(&self, other: &Self) -> bool {
        self.rank > other.rank
            && self.row.slot.job != other.row.slot.job
            && (self.ready
                || (self.soon && self.row.due == other.row.due)
                || began_after(self.row, other.row))
    }
}
