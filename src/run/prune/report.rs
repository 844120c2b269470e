//! What a prune did.

use jiff::Timestamp;
use serde::Serialize;

use super::plan::Blocked;
use crate::id::BackupId;

/// A number of objects and their stored bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Tally {
    /// Adds one object.
    pub fn add(&mut self, size: u64) {
        self.objects += 1;
        self.bytes = self.bytes.saturating_add(size);
    }
}

impl FromIterator<u64> for Tally {
    fn from_iter<I: IntoIterator<Item = u64>>(sizes: I) -> Self {
        let mut tally = Self::default();
        sizes.into_iter().for_each(|size| tally.add(size));
        tally
    }
}

/// What was done to one source.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// `STACK/SOURCE`.
    pub source: String,
    /// Backups that expired: they are no longer listed.
    pub expired: Vec<BackupId>,
    /// Backups that stay.
    pub kept: usize,
    /// Unfinished backups that were given up, because their writers gave no sign of life.
    pub given_up: Vec<BackupId>,
    /// What was announced.
    pub marked: Tally,
    /// What waits for the end of a grace period, with what was announced now.
    pub waiting: Tally,
    /// When the first of that may go.
    pub next_deletion: Option<Timestamp>,
    /// What was deleted.
    pub deleted: Tally,
    /// What object lock keeps although nobody needs it.
    pub retained: Tally,
    /// Backups that would expire if object lock did not keep them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub locked: Vec<BackupId>,
    /// Why nothing may go.
    pub blocked: Option<Blocked>,
}
