//! What a daemon and the commands about it ask of a state, whatever it is kept in.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::runs::{NewRun, RunFilter, RunRow, RunState, Slot};
use super::totals::{Durations, RunTotal};
use crate::error::Result;

/// How often a run was taken: what was begun under an older number does not count any more.
pub type Epoch = i64;

/// What a write about a run that goes on carries: without it nothing is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence<'a> {
    /// Who does the run.
    pub owner: &'a str,
    /// Under which number it was taken.
    pub epoch: Epoch,
}

/// A run that its owner still has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The run.
    pub id: String,
    /// Under which number.
    pub epoch: Epoch,
    /// Somebody wants it to end.
    pub cancelled: bool,
}

/// How far the slots of a job are rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// Up to when.
    pub until: Timestamp,
    /// The schedule that they were made by; `None`: nobody knows.
    pub schedule: Option<String>,
}

/// What the runs of a job and source came to last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LastEnds {
    /// The newest that is over and was not skipped.
    pub outcome: Option<RunRow>,
    /// The newest that succeeded.
    pub success: Option<RunRow>,
}

impl LastEnds {
    /// Takes the newest run of one of the states that count.
    pub(super) fn take(&mut self, row: RunRow) {
        if row.state == RunState::Succeeded {
            self.success = Some(row.clone());
        }
        if self.outcome.as_ref().is_none_or(|newest| row.due > newest.due) {
            self.outcome = Some(row);
        }
    }
}

/// The runs of daemons, and what is known of them.
///
/// One daemon has a state of its own in SQLite ([`State`](super::State)); any number of them share
/// one in PostgreSQL ([`SharedState`](super::SharedState)).
pub trait Ledger {
    /// Where it lies, for people. No secrets.
    fn place(&self) -> String;

    /// Whether other daemons may work with it at the same time.
    fn is_shared(&self) -> bool;

    /// Runs `work`, which asks and changes this ledger, as one: nobody else does such work
    /// meanwhile, and if it fails nothing was changed. `Ok(false)`: somebody else is at it, `work`
    /// was not run, and `wait` was not asked for.
    fn together(&self, wait: bool, work: &mut dyn FnMut() -> Result<()>) -> Result<bool>;

    /// How far the slots of a job are rows. Where that is not known it is `now` from here on.
    fn cursor(&self, stack: &str, job: &str, now: Timestamp) -> Result<Cursor>;

    /// Says how far they are, whatever was known.
    fn set_cursor(&self, stack: &str, job: &str, cursor: &Cursor) -> Result<()>;

    /// Takes back what a clock that was ahead said of a job: its slots are rows up to `until` at
    /// most, and what is over and was due later counts as due then.
    fn put_back(&self, stack: &str, job: &str, until: Timestamp) -> Result<()>;

    /// Adds the slots of a job up to `until`, and remembers that they are there; both or neither.
    fn advance(&self, stack: &str, job: &str, until: Timestamp, runs: &[NewRun]) -> Result<()>;

    /// Adds slots that follow others. Those that are there already stay as they are.
    fn add_runs(&self, runs: &[NewRun]) -> Result<()>;

    /// All that is not final, in the order in which it is due.
    fn open_runs(&self) -> Result<Vec<RunRow>>;

    /// One run, by its id or the start of it.
    fn run(&self, id: &str) -> Result<Option<RunRow>>;

    /// Runs, the newest last.
    fn runs(&self, filter: &RunFilter) -> Result<Vec<RunRow>>;

    /// Takes a waiting run. `None`: somebody else did, or it waits no more.
    fn claim(&self, id: &str, owner: &str, now: Timestamp) -> Result<Option<Epoch>>;

    /// Says that the owner, a daemon with this host label, is still there. Gives what it has.
    fn beat(&self, owner: &str, host: &str, now: Timestamp) -> Result<Vec<Held>>;

    /// Whether a run goes on under this number.
    fn holds(&self, id: &str, epoch: Epoch) -> Result<bool>;

    /// Takes over what daemons left running that were silent for longer than `silence`.
    fn take_over(
        &self,
        owner: &str,
        silence: SignedDuration,
        now: Timestamp,
    ) -> Result<Vec<(RunRow, Epoch)>>;

    /// The host labels of daemons that were not silent for longer than `silence`.
    fn hosts(&self, silence: SignedDuration) -> Result<BTreeSet<String>>;

    /// Says that a daemon ends, and has no runs any more.
    fn leave(&self, owner: &str) -> Result<()>;

    /// Ends a run. `false`: it is not the owner's any more, and what it did does not count.
    fn finish(
        &self,
        id: &str,
        fence: Fence<'_>,
        outcome: (RunState, Option<&str>),
        backup: Option<&str>,
        now: Timestamp,
    ) -> Result<bool>;

    /// Puts a run back to those that wait. `false`: it is not the owner's any more.
    fn retry(&self, id: &str, fence: Fence<'_>, why: &str, not_before: Timestamp) -> Result<bool>;

    /// Ends runs that still wait. Those that do not wait any more stay as they are.
    fn settle(&self, runs: &[(String, RunState, String)], now: Timestamp) -> Result<()>;

    /// Ends runs that still wait as skipped, because another one made the backup that they were to
    /// make.
    fn stand_in(
        &self,
        runs: &[String],
        why: &str,
        backup: Option<&str>,
        now: Timestamp,
    ) -> Result<()>;

    /// Moves runs that still wait.
    fn postpone(&self, runs: &[(String, Timestamp, String)]) -> Result<()>;

    /// Marks a run that is not final as unwanted. `false` if it is final.
    fn cancel(&self, id: &str, now: Timestamp) -> Result<bool>;

    /// Forgets final runs that were due before `instant`, but the newest of each source and job.
    fn forget_runs(&self, instant: Timestamp) -> Result<usize>;

    /// Whether a run of the same job and time succeeded, of any source, or another one made a backup
    /// in its place.
    fn has_succeeded(&self, slot: &Slot) -> Result<bool>;

    /// When the newest run of each source began that succeeded.
    fn newest_successes(&self) -> Result<BTreeMap<(String, String), Timestamp>>;

    /// Adds runs that are known from repositories and are not known here. Gives how many those are.
    fn restore_runs(&self, runs: &[RunRow]) -> Result<usize>;

    /// What the runs of each of these — stack, job, source — came to last, in their order.
    fn last_ends(&self, of: &[(&str, &str, &str)]) -> Result<Vec<LastEnds>>;

    /// How many runs ended how: counters that never go back.
    fn run_totals(&self) -> Result<Vec<RunTotal>>;

    /// How long the runs of each job took, by stack and job.
    fn run_durations(&self) -> Result<BTreeMap<(String, String), Durations>>;

    /// Keeps what a run said, for those that cannot read its daemon's files.
    fn keep_words(&self, id: &str, words: &str) -> Result<()>;

    /// What a run said, as far as it was kept here.
    fn words(&self, id: &str) -> Result<Option<String>>;
}
