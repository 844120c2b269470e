//! The tables `run_totals` and `run_durations`, which triggers fill: counters that never go back.

use std::collections::BTreeMap;

use rusqlite::params;

use super::database::State;
use super::ledger::LastEnds;
use super::runs::RunState;
use crate::error::Result;

/// What a run comes to that was not skipped.
pub const OUTCOMES: [RunState; 4] =
    [RunState::Succeeded, RunState::Failed, RunState::Missed, RunState::Abandoned];

/// How many runs of a job and source ended in a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunTotal {
    /// The stack.
    pub stack: String,
    /// The job.
    pub job: String,
    /// The source; empty for what is not of one source.
    pub source: String,
    /// The state's word.
    pub state: String,
    /// How many.
    pub total: u64,
}

/// How long the runs of a job took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Durations {
    /// How many took at most so many seconds.
    pub at_most: BTreeMap<u64, u64>,
    /// All together, in microseconds.
    pub micros: u64,
    /// How many there were.
    pub count: u64,
}

impl Durations {
    /// Of no runs: every bucket is there, so that none appears later.
    pub(super) fn none() -> Self {
        Self { at_most: BUCKETS.map(|le| (le, 0)).into(), ..Self::default() }
    }

    /// Takes a row of the table.
    pub(super) fn take(&mut self, le: i64, total: i64) {
        let total = u64::try_from(total).unwrap_or(0);
        match u64::try_from(le).unwrap_or(0) {
            0 => self.micros = total,
            FOREVER => self.count = total,
            le => _ = self.at_most.insert(le, total),
        }
    }
}

/// What is counted apart, in seconds, as the trigger has it.
const BUCKETS: [u64; 10] = [10, 60, 300, 900, 1800, 3600, 7200, 14_400, 28_800, 86_400];

impl State {
    /// How many runs ended how.
    pub fn run_totals(&self) -> Result<Vec<RunTotal>> {
        let read = || -> rusqlite::Result<Vec<RunTotal>> {
            self.connection
                .prepare("SELECT stack, job, source, state, total FROM run_totals")?
                .query_map([], |row| {
                    let total: i64 = row.get(4)?;
                    Ok(RunTotal {
                        stack: row.get(0)?,
                        job: row.get(1)?,
                        source: row.get(2)?,
                        state: row.get(3)?,
                        total: u64::try_from(total).unwrap_or(0),
                    })
                })?
                .collect()
        };
        read().map_err(|error| self.error("count runs", error))
    }

    /// How long the runs of each job took, by stack and job.
    pub fn run_durations(&self) -> Result<BTreeMap<(String, String), Durations>> {
        let read = || -> rusqlite::Result<BTreeMap<(String, String), Durations>> {
            let mut found: BTreeMap<(String, String), Durations> = BTreeMap::new();
            let mut select =
                self.connection.prepare("SELECT stack, job, le, total FROM run_durations")?;
            let mut rows = select.query([])?;
            while let Some(row) = rows.next()? {
                let (le, total): (i64, i64) = (row.get(2)?, row.get(3)?);
                let of = (row.get(0)?, row.get(1)?);
                found.entry(of).or_insert_with(Durations::none).take(le, total);
            }
            Ok(found)
        };
        read().map_err(|error| self.error("read how long runs took", error))
    }

    /// What the runs of each of these came to last.
    pub(super) fn last_ends(&self, of: &[(&str, &str, &str)]) -> Result<Vec<LastEnds>> {
        let newest = |(stack, job, source): &(&str, &str, &str)| {
            let mut ends = LastEnds::default();
            // One after the other: each is a look into an index, however many rows there are.
            for state in OUTCOMES {
                let found = self.select(
                    "WHERE stack = ? AND job = ? AND source = ? AND state = ?
                     ORDER BY due DESC LIMIT 1",
                    params![stack, job, source, state.word()],
                )?;
                for row in found {
                    ends.take(row);
                }
            }
            Ok(ends)
        };
        of.iter().map(newest).collect()
    }
}

/// The bucket that everything is in, as the trigger has it.
const FOREVER: u64 = 9_223_372_036_854;
