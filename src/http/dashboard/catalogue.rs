//! The backups of all repositories, as they were listed last.

use jiff::Timestamp;
use serde::Deserialize;

use super::finder::{Found, Known};
use super::page::Scene;
use crate::error::{Error, Result};

/// How old a listing may be, in seconds.
const AGE: u64 = 300;

/// The most backups that are held at once, the newest.
const MOST: usize = 50_000;

/// A backup in a repository, as `backstay list` has it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Backup {
    /// The repository.
    pub repository: String,
    /// `STACK/SOURCE`.
    pub source: String,
    /// Its id.
    #[serde(rename = "backup")]
    pub id: String,
    /// Its kind.
    pub kind: Option<String>,
    /// The newest instant that it can be restored to.
    pub recovery_point: Option<Timestamp>,
    /// When it was done.
    pub end: Option<Timestamp>,
    /// The job that made it.
    pub job: Option<String>,
    /// Files in it.
    pub files: Option<u64>,
    /// Bytes of content.
    pub bytes: Option<u64>,
    /// Bytes that it added to the repository.
    pub stored_bytes: Option<u64>,
    /// Why it cannot be read, if it cannot.
    pub damaged: Option<String>,
}

/// What is known of the backups.
pub enum Listed {
    /// These, as of then, and why they are not newer.
    Backups(Vec<Backup>, Timestamp, Option<Error>),
    /// They are being read.
    Reading,
    /// They could not be read.
    Failed(Error),
}

/// The backups, the oldest first.
pub fn listed(scene: &Scene<'_>) -> Result<Listed> {
    // What succeeded since the last listing made a backup that is not in it.
    let newest = (scene.api.ledger)()?.newest_successes()?.into_values().max();
    Ok(match scene.find(&["list"], AGE, newest) {
        Known::Found(Found { at, value }, failed) => {
            let all: &[serde_json::Value] = value.as_array().map_or(&[], Vec::as_slice);
            let from = all.len().saturating_sub(MOST);
            let read = all[from..].iter().filter_map(|line| Backup::deserialize(line).ok());
            let mut backups: Vec<Backup> = read.collect();
            backups.sort_by_key(Backup::at);
            Listed::Backups(backups, at, failed)
        }
        Known::Reading => Listed::Reading,
        Known::Failed(error) => Listed::Failed(error),
    })
}

impl Backup {
    /// The instant that it stands for.
    pub fn at(&self) -> Option<Timestamp> {
        self.recovery_point.or(self.end).or_else(|| {
            let id = crate::id::BackupId::parse(&self.id).ok()?;
            Some(id.time())
        })
    }
}
