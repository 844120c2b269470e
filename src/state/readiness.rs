//! The table `readiness`: whether each playbook could have been carried out when somebody looked last.

use jiff::Timestamp;
use rusqlite::{Row, params};

use super::database::State;
use crate::error::Result;

/// What was found of a playbook in one mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadinessRow {
    /// The stack.
    pub stack: String,
    /// The playbook.
    pub playbook: String,
    /// How it would be run.
    pub mode: String,
    /// When it was looked at.
    pub at: Timestamp,
    /// The plan that it was then.
    pub hash: String,
    /// How much was missing.
    pub problems: u64,
    /// The first of it; empty where nothing was.
    pub why: String,
    /// How long it would take in seconds, where earlier runs tell.
    pub takes: Option<u64>,
    /// How much of what was written would be lost, in seconds, where that can be told.
    pub loss: Option<u64>,
}

impl State {
    /// Keeps what was found last.
    pub fn put_readiness(&self, row: &ReadinessRow) -> Result<()> {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.connection
            .execute(
                "INSERT OR REPLACE INTO readiness
                     (stack, playbook, mode, at, hash, problems, why, takes, loss)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                params![
                    row.stack,
                    row.playbook,
                    row.mode,
                    row.at.as_microsecond(),
                    row.hash,
                    number(row.problems),
                    row.why,
                    row.takes.map(number),
                    row.loss.map(number),
                ],
            )
            .map(drop)
            .map_err(|error| self.error("keep whether a playbook is ready", error))
    }

    /// What was found of every playbook, by stack, name and mode.
    pub fn readiness(&self) -> Result<Vec<ReadinessRow>> {
        let read = || -> rusqlite::Result<Vec<ReadinessRow>> {
            let mut select = self.connection.prepare(
                "SELECT stack, playbook, mode, at, hash, problems, why, takes, loss
                 FROM readiness ORDER BY stack, playbook, mode",
            )?;
            select.query_map([], one)?.collect()
        };
        read().map_err(|error| self.error("read which playbooks are ready", error))
    }
}

fn one(row: &Row<'_>) -> rusqlite::Result<ReadinessRow> {
    let at: i64 = row.get(3)?;
    let problems: i64 = row.get(5)?;
    let number = |value: Option<i64>| value.map(i64::unsigned_abs);
    Ok(ReadinessRow {
        stack: row.get(0)?,
        playbook: row.get(1)?,
        mode: row.get(2)?,
        at: Timestamp::from_microsecond(at).unwrap_or(Timestamp::UNIX_EPOCH),
        hash: row.get(4)?,
        problems: problems.unsigned_abs(),
        why: row.get(6)?,
        takes: number(row.get(7)?),
        loss: number(row.get(8)?),
    })
}
