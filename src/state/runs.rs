//! The tables `runs` and `cursors`: every time that a job was due, and what came of it.
//!
//! A row is a slot: a job, a source and the time that the schedule names. There is never a second
//! row of the same three, so that nothing is done twice, and a slot that nobody could do is a row
//! too, and not an absence.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, Row, Transaction, TransactionBehavior, params};
use serde::{Deserialize, Serialize};

use super::database::State;
use super::ledger::Cursor;
use crate::archive::digest::Digest;
use crate::error::{Error, Result};
use crate::id;

/// What a slot is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// It is to be done.
    Waiting,
    /// Somebody does it.
    Running,
    /// Done.
    Succeeded,
    /// Tried as often as it may be.
    Failed,
    /// Not done on purpose: [`RunRow::why`] says it.
    Skipped,
    /// It was due and nobody could do it in time.
    Missed,
    /// Who did it is gone, and nobody may try again.
    Abandoned,
}

impl RunState {
    const ALL: [Self; 7] = [
        Self::Waiting,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Skipped,
        Self::Missed,
        Self::Abandoned,
    ];

    /// The word in the table and on the screen.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Missed => "missed",
            Self::Abandoned => "abandoned",
        }
    }

    /// The state of this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }

    /// Whether nothing comes after it.
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Waiting | Self::Running)
    }
}

/// What names a slot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Slot {
    /// The stack.
    pub stack: String,
    /// The job.
    pub job: String,
    /// The source; empty for what is not of one source.
    pub source: String,
    /// The time that the schedule names.
    pub nominal: String,
}

impl Slot {
    /// The id of its run. Whoever makes the slot gives it the same one, and no other slot has it,
    /// however many are made at once.
    pub fn run_id(&self, due: Timestamp) -> String {
        let mut digest = Digest::default();
        for part in [&self.stack, &self.job, &self.source, &self.nominal] {
            digest.update(part.as_bytes());
            // No name has it.
            digest.update(&[0]);
        }
        id::run_id_of(due, &digest.finish())
    }
}

/// A slot that is new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRun {
    /// Its name.
    pub slot: Slot,
    /// The id of its run.
    pub id: String,
    /// When it is due.
    pub due: Timestamp,
    /// When it may begin.
    pub not_before: Timestamp,
    /// Waiting, or final from the beginning.
    pub state: RunState,
    /// Why, if it is final.
    pub why: Option<String>,
}

/// A slot as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRow {
    /// The id of its run.
    pub id: String,
    /// Its name.
    #[serde(flatten)]
    pub slot: Slot,
    /// When it is due.
    pub due: Timestamp,
    /// When it may begin.
    pub not_before: Timestamp,
    /// What it is in.
    pub state: RunState,
    /// Why it was skipped, missed or failed, or waits again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How often it was begun.
    pub attempts: u32,
    /// Who does it, or did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// When its owner was last known to be there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<Timestamp>,
    /// When it was begun last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// The backup that it made; of one that was skipped the one that another made in its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// Somebody wants it to end.
    pub cancelled: bool,
}

/// Which runs are asked for.
#[derive(Debug, Clone, Default)]
pub struct RunFilter {
    /// Of this stack.
    pub stack: Option<String>,
    /// Of this source.
    pub source: Option<String>,
    /// Of this job.
    pub job: Option<String>,
    /// Only these states; all if empty.
    pub states: Vec<RunState>,
    /// Due at this instant or later.
    pub since: Option<Timestamp>,
    /// Due before this instant.
    pub until: Option<Timestamp>,
    /// Without so many of the newest.
    pub skip: usize,
    /// At most so many, the newest.
    pub limit: usize,
}

const COLUMNS: &str = "id, stack, job, source, nominal, due, not_before, state, why, attempts, \
                       owner, heartbeat, started, ended, backup, cancelled";

impl State {
    /// How far the slots of a job are rows. Where that is not known it is `now` from here on:
    /// a job that is new is not due for what lies behind it.
    pub fn cursor(&self, stack: &str, job: &str, now: Timestamp) -> Result<Cursor> {
        let found = || -> rusqlite::Result<Option<(i64, Option<String>)>> {
            self.connection
                .prepare("SELECT until, schedule FROM cursors WHERE stack = ? AND job = ?")?
                .query_row([stack, job], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
        };
        let known = found().map_err(|error| self.error("read when jobs are due", error))?;
        if let Some((until, schedule)) = known {
            return Ok(Cursor { until: micros(until)?, schedule });
        }
        self.advance(stack, job, now, &[])?;
        Ok(Cursor { until: now, schedule: None })
    }

    /// Says how far they are, whatever was known.
    pub fn set_cursor(&self, stack: &str, job: &str, cursor: &Cursor) -> Result<()> {
        self.change("write when jobs are due", |transaction| {
            transaction.execute(
                "INSERT INTO cursors (stack, job, until, schedule) VALUES (?, ?, ?, ?)
                 ON CONFLICT DO UPDATE SET until = excluded.until, schedule = excluded.schedule",
                params![stack, job, cursor.until.as_microsecond(), cursor.schedule],
            )?;
            Ok(())
        })
    }

    /// Takes back what a clock that was ahead said of a job: its slots are rows up to `until` at
    /// most, and what is over and was due later counts as due then.
    pub fn put_back(&self, stack: &str, job: &str, until: Timestamp) -> Result<()> {
        self.change("write when jobs are due", |transaction| {
            let values = params![stack, job, until.as_microsecond()];
            transaction.execute(
                "UPDATE cursors SET until = min(until, ?3) WHERE stack = ?1 AND job = ?2",
                values,
            )?;
            transaction.execute(
                "UPDATE runs SET due = ?3 WHERE stack = ?1 AND job = ?2 AND due > ?3
                 AND state NOT IN ('waiting', 'running')",
                values,
            )?;
            Ok(())
        })
    }

    /// Adds the slots of a job up to `until`, and remembers that they are there; both or neither.
    /// Slots that are there already stay as they are.
    pub fn advance(&self, stack: &str, job: &str, until: Timestamp, runs: &[NewRun]) -> Result<()> {
        self.change("write when jobs are due", |transaction| {
            insert(transaction, runs)?;
            transaction.execute(
                "INSERT INTO cursors (stack, job, until) VALUES (?, ?, ?)
                 ON CONFLICT DO UPDATE SET until = max(until, excluded.until)",
                params![stack, job, until.as_microsecond()],
            )?;
            Ok(())
        })
    }

    /// Adds slots that follow others.
    pub fn add_runs(&self, runs: &[NewRun]) -> Result<()> {
        self.change("add runs", |transaction| insert(transaction, runs))
    }

    /// All that is not final, in the order in which it is due.
    pub fn open_runs(&self) -> Result<Vec<RunRow>> {
        self.select(
            "WHERE state IN ('waiting', 'running') ORDER BY due, stack, job, source",
            params![],
        )
    }

    /// One run, by its id or the start of it.
    pub fn run(&self, id: &str) -> Result<Option<RunRow>> {
        let found = self.select(
            "WHERE id >= ?1 AND id < ?1 || char(1114111) ORDER BY id LIMIT 2",
            params![id],
        )?;
        match found.len() {
            2 if found[0].id != id => {
                Err(Error::usage(format!("several runs begin with `{id}`"))
                    .hint("give more of the id"))
            }
            _ => Ok(found.into_iter().next()),
        }
    }

    /// Runs, the newest last.
    pub fn runs(&self, filter: &RunFilter) -> Result<Vec<RunRow>> {
        let states: Vec<&str> = filter.states.iter().map(|state| state.word()).collect();
        let mut found = self.select(
            "WHERE (?1 IS NULL OR stack = ?1) AND (?2 IS NULL OR source = ?2)
               AND (?3 IS NULL OR job = ?3) AND (?4 = '' OR instr(?4, ',' || state || ',') > 0)
               AND (?6 IS NULL OR due >= ?6) AND (?7 IS NULL OR due < ?7)
             ORDER BY due DESC, id DESC LIMIT ?5 OFFSET ?8",
            params![
                filter.stack,
                filter.source,
                filter.job,
                if states.is_empty() { String::new() } else { format!(",{},", states.join(",")) },
                i64::try_from(filter.limit).unwrap_or(i64::MAX),
                filter.since.map(Timestamp::as_microsecond),
                filter.until.map(Timestamp::as_microsecond),
                i64::try_from(filter.skip).unwrap_or(i64::MAX)
            ],
        )?;
        found.reverse();
        Ok(found)
    }

    /// Takes a waiting run. `false`: somebody else did, or it waits no more.
    pub fn claim(&self, id: &str, owner: &str, now: Timestamp) -> Result<bool> {
        self.change("claim a run", |transaction| {
            let changed = transaction.execute(
                "UPDATE runs SET state = 'running', owner = ?2, heartbeat = ?3, started = ?3,
                        attempts = attempts + 1, why = NULL
                 WHERE id = ?1 AND state = 'waiting' AND cancelled = 0",
                params![id, owner, now.as_microsecond()],
            )?;
            Ok(changed == 1)
        })
    }

    /// Says that the owner is still there. Gives the ids of its runs that somebody wants to end.
    pub fn beat(&self, owner: &str, now: Timestamp) -> Result<Vec<String>> {
        self.change("say that runs go on", |transaction| {
            transaction.execute(
                "UPDATE runs SET heartbeat = ?2 WHERE state = 'running' AND owner = ?1",
                params![owner, now.as_microsecond()],
            )?;
            let mut cancelled = transaction.prepare(
                "SELECT id FROM runs WHERE state = 'running' AND owner = ? AND cancelled = 1",
            )?;
            cancelled.query_map([owner], |row| row.get(0))?.collect()
        })
    }

    /// Ends a run that `owner` does. `false`: it is not the owner's any more, and what it did does
    /// not count.
    pub fn finish(
        &self,
        id: &str,
        owner: &str,
        (state, why): (RunState, Option<&str>),
        backup: Option<&str>,
        now: Timestamp,
    ) -> Result<bool> {
        self.change("end a run", |transaction| {
            let changed = transaction.execute(
                "UPDATE runs SET state = ?3, why = ?4, backup = ?5, ended = ?6
                 WHERE id = ?1 AND state = 'running' AND owner = ?2",
                params![id, owner, state.word(), why, backup, now.as_microsecond()],
            )?;
            Ok(changed == 1)
        })
    }

    /// Puts a run that `owner` did back to those that wait.
    pub fn retry(&self, id: &str, owner: &str, why: &str, not_before: Timestamp) -> Result<bool> {
        self.change("put a run back", |transaction| {
            let changed = transaction.execute(
                "UPDATE runs SET state = 'waiting', why = ?3, not_before = ?4
                 WHERE id = ?1 AND state = 'running' AND owner = ?2",
                params![id, owner, why, not_before.as_microsecond()],
            )?;
            Ok(changed == 1)
        })
    }

    /// Ends runs that still wait. Those that do not wait any more stay as they are.
    pub fn settle(&self, runs: &[(String, RunState, String)], now: Timestamp) -> Result<()> {
        self.change("end runs", |transaction| {
            let mut update = transaction.prepare(
                "UPDATE runs SET state = ?2, why = ?3, ended = ?4
                 WHERE id = ?1 AND state = 'waiting'",
            )?;
            for (id, state, why) in runs {
                update.execute(params![id, state.word(), why, now.as_microsecond()])?;
            }
            Ok(())
        })
    }

    /// Ends runs that still wait as skipped, because another one made the backup that they were to
    /// make.
    pub fn stand_in(
        &self,
        runs: &[String],
        why: &str,
        backup: Option<&str>,
        now: Timestamp,
    ) -> Result<()> {
        self.change("end runs", |transaction| {
            let mut update = transaction.prepare(
                "UPDATE runs SET state = 'skipped', why = ?2, backup = ?3, ended = ?4
                 WHERE id = ?1 AND state = 'waiting'",
            )?;
            for id in runs {
                update.execute(params![id, why, backup, now.as_microsecond()])?;
            }
            Ok(())
        })
    }

    /// Moves runs that still wait.
    pub fn postpone(&self, runs: &[(String, Timestamp, String)]) -> Result<()> {
        self.change("move runs", |transaction| {
            let mut update = transaction.prepare(
                "UPDATE runs SET not_before = ?2, why = ?3 WHERE id = ?1 AND state = 'waiting'",
            )?;
            for (id, not_before, why) in runs {
                update.execute(params![id, not_before.as_microsecond(), why])?;
            }
            Ok(())
        })
    }

    /// Marks a run that is not final as unwanted: one that waits ends at once, one that goes on is
    /// ended by its owner. `false` if it is final.
    pub fn cancel(&self, id: &str, now: Timestamp) -> Result<bool> {
        self.change("cancel a run", |transaction| {
            let waited = transaction.execute(
                "UPDATE runs SET state = 'skipped', why = 'cancelled', cancelled = 1, ended = ?2
                 WHERE id = ?1 AND state = 'waiting'",
                params![id, now.as_microsecond()],
            )?;
            let running = transaction.execute(
                "UPDATE runs SET cancelled = 1 WHERE id = ?1 AND state = 'running'",
                params![id],
            )?;
            Ok(waited + running == 1)
        })
    }

    /// Takes over what an owner that is gone left running: from here on it is `owner`'s.
    pub fn adopt(&self, id: &str, from: &str, owner: &str, now: Timestamp) -> Result<bool> {
        self.change("take over a run", |transaction| {
            let changed = transaction.execute(
                "UPDATE runs SET owner = ?3, heartbeat = ?4
                 WHERE id = ?1 AND state = 'running' AND owner = ?2",
                params![id, from, owner, now.as_microsecond()],
            )?;
            Ok(changed == 1)
        })
    }

    /// Forgets final runs that were due before `instant`, but the newest of each source and job.
    pub fn forget_runs(&self, instant: Timestamp) -> Result<usize> {
        self.change("forget old runs", |transaction| {
            transaction.execute(
                "DELETE FROM runs WHERE due < ?1 AND state NOT IN ('waiting', 'running')
                   AND EXISTS (SELECT 1 FROM runs AS newer WHERE newer.stack = runs.stack
                     AND newer.job = runs.job AND newer.source = runs.source
                     AND newer.state = runs.state AND newer.due > runs.due)",
                [instant.as_microsecond()],
            )
        })
    }

    /// Whether a run of the same job and time succeeded, of any source, or another one made a backup
    /// in its place.
    pub fn has_succeeded(&self, slot: &Slot) -> Result<bool> {
        let sql = "WHERE stack = ? AND job = ? AND nominal = ? AND (state = 'succeeded'
                   OR (state = 'skipped' AND backup IS NOT NULL)) LIMIT 1";
        Ok(!self.select(sql, params![slot.stack, slot.job, slot.nominal])?.is_empty())
    }

    /// When the newest run of each source began that succeeded.
    pub fn newest_successes(&self) -> Result<BTreeMap<(String, String), Timestamp>> {
        let found = || -> rusqlite::Result<BTreeMap<(String, String), Timestamp>> {
            self.connection
                .prepare(
                    "SELECT stack, source, max(started) FROM runs
                     WHERE state = 'succeeded' AND started IS NOT NULL GROUP BY stack, source",
                )?
                .query_map([], |row| Ok(((row.get(0)?, row.get(1)?), instant_of(2, row.get(2)?)?)))?
                .collect()
        };
        found().map_err(|error| self.error("read what succeeded", error))
    }

    pub(super) fn select(&self, rest: &str, values: impl rusqlite::Params) -> Result<Vec<RunRow>> {
        let found = || -> rusqlite::Result<Vec<RunRow>> {
            let sql = format!("SELECT {COLUMNS} FROM runs {rest}");
            let mut statement = self.connection.prepare(&sql)?;
            statement.query_map(values, row)?.collect()
        };
        found().map_err(|error| self.error("read runs", error))
    }

    pub(super) fn change<T>(
        &self,
        doing: &str,
        change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let done = || -> rusqlite::Result<T> {
            // At once, so that two that read before they write do not both wait for each other.
            let transaction =
                Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)?;
            let value = change(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        done().map_err(|error| self.error(doing, error))
    }
}

fn insert(transaction: &Transaction<'_>, runs: &[NewRun]) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare(
        "INSERT INTO runs (id, stack, job, source, nominal, due, not_before, state, why, ended)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT DO NOTHING",
    )?;
    for run in runs {
        let ended = run.state.is_final().then(|| run.not_before.as_microsecond());
        insert.execute(params![
            run.id,
            run.slot.stack,
            run.slot.job,
            run.slot.source,
            run.slot.nominal,
            run.due.as_microsecond(),
            run.not_before.as_microsecond(),
            run.state.word(),
            run.why,
            ended
        ])?;
    }
    Ok(())
}

fn row(row: &Row<'_>) -> rusqlite::Result<RunRow> {
    let word: String = row.get(7)?;
    let state = RunState::from_word(&word);
    let instant = |column: usize| -> rusqlite::Result<Option<Timestamp>> {
        let value: Option<i64> = row.get(column)?;
        value.map(|value| instant_of(column, value)).transpose()
    };
    let needed =
        |column: usize| instant(column)?.ok_or(rusqlite::Error::InvalidColumnIndex(column));
    Ok(RunRow {
        id: row.get(0)?,
        slot: Slot {
            stack: row.get(1)?,
            job: row.get(2)?,
            source: row.get(3)?,
            nominal: row.get(4)?,
        },
        due: needed(5)?,
        not_before: needed(6)?,
        state: state.ok_or(rusqlite::Error::InvalidColumnIndex(7))?,
        why: row.get(8)?,
        attempts: row.get(9)?,
        owner: row.get(10)?,
        heartbeat: instant(11)?,
        started: instant(12)?,
        ended: instant(13)?,
        backup: row.get(14)?,
        cancelled: row.get(15)?,
    })
}

fn instant_of(column: usize, value: i64) -> rusqlite::Result<Timestamp> {
    Timestamp::from_microsecond(value)
        .map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

pub(super) fn micros(value: i64) -> Result<Timestamp> {
    Timestamp::from_microsecond(value)
        .map_err(|error| Error::damaged("a time in the state is no time").with_source(error))
}
