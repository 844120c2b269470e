//! The tables `alerts`, `told`, `notifications` and `looks`: what fires, who knows of it, and what
//! was last found of each source.
//!
//! What an alert or a find is made of is none of the state's business: both are text here.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use rusqlite::{Row, params};

use super::database::State;
use crate::error::Result;

/// An alert that fires, or did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertRow {
    /// What makes two alerts the same.
    pub fingerprint: String,
    /// What it says, as JSON.
    pub alert: String,
    /// Since when.
    pub started: Timestamp,
    /// When it was over.
    pub resolved: Option<Timestamp>,
}

/// What a receiver was told of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// When last.
    pub at: Timestamp,
    /// That it is over.
    pub resolved: bool,
}

/// What came of telling a receiver something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NotifyResult {
    /// It took it.
    Delivered,
    /// It did not.
    Failed,
    /// It was not told: it had refused for too long.
    Dropped,
}

impl NotifyResult {
    const ALL: [Self; 3] = [Self::Delivered, Self::Failed, Self::Dropped];

    /// The word in the table and in metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

/// How often a receiver was told something with one result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotifyTotal {
    /// The stack whose policy names it.
    pub stack: String,
    /// The receiver.
    pub receiver: String,
    /// The result.
    pub result: NotifyResult,
    /// How often.
    pub total: u64,
    /// When last.
    pub last: Timestamp,
    /// What it said then.
    pub said: String,
}

/// What was found of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookRow {
    /// The stack.
    pub stack: String,
    /// The source.
    pub source: String,
    /// When.
    pub at: Timestamp,
    /// What, as JSON.
    pub found: String,
}

/// Receivers by stack and name, and what each was told of which alert.
pub type ToldBy = BTreeMap<(String, String), BTreeMap<String, Told>>;

impl State {
    /// All that fires, and what is over and was not told to everybody.
    pub fn alerts(&self) -> Result<Vec<AlertRow>> {
        let read = || -> rusqlite::Result<Vec<AlertRow>> {
            self.connection
                .prepare("SELECT fingerprint, alert, started, resolved FROM alerts ORDER BY started, fingerprint")?
                .query_map([], alert)?
                .collect()
        };
        read().map_err(|error| self.error("read what fires", error))
    }

    /// Writes down what fires. Rows that are there are replaced.
    pub fn put_alerts(&self, rows: &[AlertRow]) -> Result<()> {
        self.change("write what fires", |transaction| {
            let mut put = transaction.prepare(
                "INSERT OR REPLACE INTO alerts (fingerprint, alert, started, resolved)
                 VALUES (?, ?, ?, ?)",
            )?;
            for row in rows {
                put.execute(params![
                    row.fingerprint,
                    row.alert,
                    row.started.as_microsecond(),
                    row.resolved.map(Timestamp::as_microsecond)
                ])?;
            }
            Ok(())
        })
    }

    /// Forgets alerts, and who was told of them.
    pub fn forget_alerts(&self, fingerprints: &BTreeSet<String>) -> Result<()> {
        self.change("forget what fired", |transaction| {
            for fingerprint in fingerprints {
                transaction.execute("DELETE FROM alerts WHERE fingerprint = ?", [fingerprint])?;
                transaction.execute("DELETE FROM told WHERE fingerprint = ?", [fingerprint])?;
            }
            Ok(())
        })
    }

    /// Who was told of what.
    pub fn told(&self) -> Result<ToldBy> {
        let read = || -> rusqlite::Result<ToldBy> {
            let mut found = ToldBy::new();
            let mut select = self
                .connection
                .prepare("SELECT stack, receiver, fingerprint, at, resolved FROM told")?;
            let mut rows = select.query([])?;
            while let Some(row) = rows.next()? {
                let told = Told { at: instant(row, 3)?, resolved: row.get(4)? };
                found.entry((row.get(0)?, row.get(1)?)).or_default().insert(row.get(2)?, told);
            }
            Ok(found)
        };
        read().map_err(|error| self.error("read who was told", error))
    }

    /// Writes down what a receiver took: of which alerts, and whether that they are over.
    pub fn tell(
        &self,
        (stack, receiver): (&str, &str),
        alerts: &[(String, bool)],
        now: Timestamp,
    ) -> Result<()> {
        self.change("write who was told", |transaction| {
            let mut put = transaction.prepare(
                "INSERT OR REPLACE INTO told (stack, receiver, fingerprint, at, resolved)
                 VALUES (?, ?, ?, ?, ?)",
            )?;
            for (fingerprint, resolved) in alerts {
                put.execute(params![stack, receiver, fingerprint, now.as_microsecond(), resolved])?;
            }
            Ok(())
        })
    }

    /// Counts what came of telling a receiver something.
    pub fn count_notification(
        &self,
        (stack, receiver): (&str, &str),
        result: NotifyResult,
        said: &str,
        now: Timestamp,
    ) -> Result<()> {
        self.change("count a notification", |transaction| {
            transaction.execute(
                "INSERT INTO notifications (stack, receiver, result, total, last, said)
                 VALUES (?1, ?2, ?3, 1, ?4, ?5)
                 ON CONFLICT DO UPDATE SET total = total + 1, last = ?4, said = ?5",
                params![stack, receiver, result.word(), now.as_microsecond(), said],
            )?;
            Ok(())
        })
    }

    /// How often receivers were told something.
    pub fn notification_totals(&self) -> Result<Vec<NotifyTotal>> {
        let read = || -> rusqlite::Result<Vec<NotifyTotal>> {
            self.connection
                .prepare("SELECT stack, receiver, result, total, last, said FROM notifications")?
                .query_map([], |row| {
                    let word: String = row.get(2)?;
                    let result = NotifyResult::ALL.into_iter().find(|one| one.word() == word);
                    Ok(NotifyTotal {
                        stack: row.get(0)?,
                        receiver: row.get(1)?,
                        result: result.ok_or(rusqlite::Error::InvalidColumnIndex(2))?,
                        total: count(row, 3)?,
                        last: instant(row, 4)?,
                        said: row.get(5)?,
                    })
                })?
                .collect()
        };
        read().map_err(|error| self.error("read notifications", error))
    }

    /// Keeps what was found of sources, in place of all that was found before.
    pub fn put_looks(&self, rows: &[LookRow]) -> Result<()> {
        self.change("write what was found", |transaction| {
            transaction.execute("DELETE FROM looks", [])?;
            let mut put = transaction.prepare(
                "INSERT OR REPLACE INTO looks (stack, source, at, found) VALUES (?, ?, ?, ?)",
            )?;
            for row in rows {
                put.execute(params![row.stack, row.source, row.at.as_microsecond(), row.found])?;
            }
            Ok(())
        })
    }

    /// What was last found of each source.
    pub fn looks(&self) -> Result<Vec<LookRow>> {
        let read = || -> rusqlite::Result<Vec<LookRow>> {
            self.connection
                .prepare("SELECT stack, source, at, found FROM looks ORDER BY stack, source")?
                .query_map([], |row| {
                    Ok(LookRow {
                        stack: row.get(0)?,
                        source: row.get(1)?,
                        at: instant(row, 2)?,
                        found: row.get(3)?,
                    })
                })?
                .collect()
        };
        read().map_err(|error| self.error("read what was found", error))
    }
}

fn alert(row: &Row<'_>) -> rusqlite::Result<AlertRow> {
    let resolved: Option<i64> = row.get(3)?;
    Ok(AlertRow {
        fingerprint: row.get(0)?,
        alert: row.get(1)?,
        started: instant(row, 2)?,
        resolved: resolved.map(|value| micros(3, value)).transpose()?,
    })
}

fn instant(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    micros(column, row.get(column)?)
}

fn micros(column: usize, value: i64) -> rusqlite::Result<Timestamp> {
    Timestamp::from_microsecond(value)
        .map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

fn count(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    Ok(u64::try_from(value).unwrap_or(0))
}
