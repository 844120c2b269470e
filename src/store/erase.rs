//! Removing objects for good.

use super::blocking::Store;
use super::catalogue::SourceStore;
use super::layout;
use crate::error::Result;
use crate::id::BackupId;

/// What became of an object that was to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Erased {
    /// It is gone.
    Gone,
    /// There was nothing.
    Absent,
    /// Object lock keeps it.
    Retained,
}

impl Store {
    /// Removes objects for good.
    pub fn erase(&self, keys: &[String]) -> Vec<(String, Result<Erased>)> {
        keys.iter().map(|key| (key.clone(), self.delete(key).map(|()| Erased::Gone))).collect()
    }
}

impl SourceStore {
    /// Removes the manifest of a backup: from here on it does not exist.
    pub fn erase_commit(&self, backup: &BackupId) -> Result<()> {
        let key = self.key(&layout::commit(backup));
        for (_, erased) in self.store().erase(std::slice::from_ref(&key)) {
            erased?;
        }
        Ok(())
    }
}
