//! The table `recoveries`: how long it took to bring a backup back, each time that was tried.

use jiff::Timestamp;
use rusqlite::{Row, params};

use super::database::State;
use crate::error::Result;

/// How many of a source are kept in one repository.
const KEPT: u32 = 100;

/// One time that a backup was brought back for a proof.
#[derive(Debug, Clone, PartialEq)]
pub struct Recovery {
    /// The backup.
    pub backup: String,
    /// When it was begun.
    pub at: Timestamp,
    /// Bytes that were restored.
    pub bytes: u64,
    /// Seconds until everything was restored.
    pub restore_seconds: f64,
    /// Seconds more until a server took writes.
    pub recovery_seconds: f64,
    /// Seconds that looking at it took.
    pub check_seconds: f64,
    /// `proven`, `inconclusive` or `damaged`.
    pub verdict: String,
}

impl Recovery {
    /// How long who waits for it waited: until it could be used.
    pub fn seconds(&self) -> f64 {
        self.restore_seconds + self.recovery_seconds
    }
}

impl State {
    /// Keeps how long a backup of a source (`STACK/SOURCE`) in the repository with this id took.
    pub fn record_recovery(&self, repository: &str, source: &str, one: &Recovery) -> Result<()> {
        let record = || {
            let transaction = self.connection.unchecked_transaction()?;
            transaction.execute(
                "INSERT OR REPLACE INTO recoveries (repository, source, at, backup, bytes,
                     restore_seconds, recovery_seconds, check_seconds, verdict)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                params![
                    repository,
                    source,
                    one.at.as_microsecond(),
                    one.backup,
                    i64::try_from(one.bytes).unwrap_or(i64::MAX),
                    one.restore_seconds,
                    one.recovery_seconds,
                    one.check_seconds,
                    one.verdict,
                ],
            )?;
            transaction.execute(
                "DELETE FROM recoveries WHERE repository = ?1 AND source = ?2 AND at NOT IN
                     (SELECT at FROM recoveries WHERE repository = ?1 AND source = ?2
                      ORDER BY at DESC LIMIT ?3)",
                params![repository, source, KEPT],
            )?;
            transaction.commit()
        };
        record().map_err(|error| self.error("keep how long a recovery took", error))
    }

    /// How long backups of a source in a repository took, the newest last.
    pub fn recoveries(&self, repository: &str, source: &str) -> Result<Vec<Recovery>> {
        let read = || -> rusqlite::Result<Vec<Recovery>> {
            let mut select = self.connection.prepare(
                "SELECT at, backup, bytes, restore_seconds, recovery_seconds, check_seconds, verdict
                 FROM recoveries WHERE repository = ? AND source = ? ORDER BY at",
            )?;
            select.query_map([repository, source], recovery)?.collect()
        };
        read().map_err(|error| self.error("read how long recoveries took", error))
    }

    /// How long backups of a source took, from whichever repository, the newest last.
    pub fn recoveries_of(&self, source: &str) -> Result<Vec<Recovery>> {
        let read = || -> rusqlite::Result<Vec<Recovery>> {
            let mut select = self.connection.prepare(
                "SELECT at, backup, bytes, restore_seconds, recovery_seconds, check_seconds, verdict
                 FROM recoveries WHERE source = ? ORDER BY at",
            )?;
            select.query_map([source], recovery)?.collect()
        };
        read().map_err(|error| self.error("read how long recoveries took", error))
    }
}

fn recovery(row: &Row<'_>) -> rusqlite::Result<Recovery> {
    let at: i64 = row.get(0)?;
    let bytes: i64 = row.get(2)?;
    Ok(Recovery {
        at: Timestamp::from_microsecond(at).unwrap_or(Timestamp::UNIX_EPOCH),
        backup: row.get(1)?,
        bytes: bytes.unsigned_abs(),
        restore_seconds: row.get(3)?,
        recovery_seconds: row.get(4)?,
        check_seconds: row.get(5)?,
        verdict: row.get(6)?,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_newest_are_kept() {
        let place = tempfile::tempdir().unwrap();
        let state = State::open(place.path(), Timestamp::UNIX_EPOCH).unwrap();
        let one = |second| Recovery {
            backup: "b".to_owned(),
            at: Timestamp::from_second(second).unwrap(),
            bytes: 7,
            restore_seconds: 1.5,
            recovery_seconds: 0.25,
            check_seconds: 9.0,
            verdict: "proven".to_owned(),
        };
        for second in 0..i64::from(KEPT) + 5 {
            state.record_recovery("r", "a/b", &one(second)).unwrap();
        }
        state.record_recovery("r", "a/c", &one(3)).unwrap();
        let kept = state.recoveries("r", "a/b").unwrap();
        assert_eq!(kept.len(), KEPT as usize);
        assert_eq!(kept.last(), Some(&one(i64::from(KEPT) + 4)));
        assert!((kept[0].seconds() - 1.75).abs() < 1e-9);
        assert_eq!(state.recoveries("r", "a/c").unwrap(), [one(3)]);
        assert!(state.recoveries("other", "a/b").unwrap().is_empty());
    }
}
