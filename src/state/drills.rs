//! The table `drills`: the newest drill of each name, and when one last passed.

use jiff::Timestamp;
use rusqlite::{Row, params};

use super::database::State;
use crate::error::Result;

/// The newest drill of a name, as its evidence tells.
#[derive(Debug, Clone, PartialEq)]
pub struct DrillRow {
    /// The stack.
    pub stack: String,
    /// The name in the policy.
    pub name: String,
    /// The drill.
    pub drill: String,
    /// When it began.
    pub at: Timestamp,
    /// `pass`, `pass_with_findings`, `inconclusive` or `fail`.
    pub verdict: String,
    /// The gravest of its findings; empty where none changes the verdict.
    pub why: String,
    /// RTO from the declaration in seconds, where it was measured.
    pub rto: Option<f64>,
    /// The largest RPO of its sources in seconds, where it was measured.
    pub rpo: Option<f64>,
    /// When the last one that passed began.
    pub passed: Option<Timestamp>,
}

impl State {
    /// Keeps what is known of a drill. One that is older than what is known changes only when one last
    /// passed.
    pub fn put_drill(&self, row: &DrillRow) -> Result<()> {
        self.connection
            .execute(
                "INSERT INTO drills (stack, name, drill, at, verdict, why, rto, rpo, passed)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
                 ON CONFLICT (stack, name) DO UPDATE SET
                     drill = iif(?4 >= at, ?3, drill), verdict = iif(?4 >= at, ?5, verdict),
                     why = iif(?4 >= at, ?6, why), rto = iif(?4 >= at, ?7, rto),
                     rpo = iif(?4 >= at, ?8, rpo), at = max(?4, at),
                     passed = nullif(max(coalesce(?9, 0), coalesce(passed, 0)), 0)",
                params![
                    row.stack,
                    row.name,
                    row.drill,
                    row.at.as_microsecond(),
                    row.verdict,
                    row.why,
                    row.rto,
                    row.rpo,
                    row.passed.map(Timestamp::as_microsecond),
                ],
            )
            .map(drop)
            .map_err(|error| self.error("keep what is known of a drill", error))
    }

    /// What is known of drills, by stack and name.
    pub fn drills(&self) -> Result<Vec<DrillRow>> {
        let read = || -> rusqlite::Result<Vec<DrillRow>> {
            let mut select = self.connection.prepare(
                "SELECT stack, name, drill, at, verdict, why, rto, rpo, passed
                 FROM drills ORDER BY stack, name",
            )?;
            select.query_map([], one)?.collect()
        };
        read().map_err(|error| self.error("read what is known of drills", error))
    }
}

fn one(row: &Row<'_>) -> rusqlite::Result<DrillRow> {
    let (at, passed): (i64, Option<i64>) = (row.get(3)?, row.get(8)?);
    Ok(DrillRow {
        stack: row.get(0)?,
        name: row.get(1)?,
        drill: row.get(2)?,
        at: Timestamp::from_microsecond(at).unwrap_or(Timestamp::UNIX_EPOCH),
        verdict: row.get(4)?,
        why: row.get(5)?,
        rto: row.get(6)?,
        rpo: row.get(7)?,
        passed: passed.and_then(|at| Timestamp::from_microsecond(at).ok()),
    })
}
