//! What standbys of a source have: one record after another, each created once. The newest tells what
//! a sync put there, so that nothing else is ever replaced.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::catalogue::{SourceStore, to_json};
use super::coordination::{CONTROL_LIMIT, Worker};
use super::layout;
use crate::error::{Error, Result};
use crate::id::BackupId;

/// The version of records that this program writes and reads.
const VERSION: u32 = 1;
/// Records of a standby that stay.
const KEPT: usize = 4;

/// What a standby has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Synced {
    /// Format version.
    #[serde(rename = "sync")]
    pub version: u32,
    /// The job.
    pub job: String,
    /// The backup.
    pub backup: BackupId,
    /// What the standby is as of.
    pub point: Timestamp,
    /// When this was written.
    pub time: Timestamp,
    /// Everything is in its place. Otherwise it is about to be, and what is there may still be what was there before.
    pub done: bool,
    /// Databases, by name.
    pub databases: BTreeMap<String, SyncedDatabase>,
    /// Who wrote it.
    pub by: Worker,
}

/// A database of a standby.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncedDatabase {
    /// A digest of what the backup has of it.
    pub backup: String,
    /// Digests of what it may look like at the standby: that of what was restored, and that of what was there before.
    pub standby: Vec<String>,
}

impl Synced {
    /// A new record.
    pub fn new(
        job: &str,
        backup: &BackupId,
        point: Timestamp,
        by: Worker,
        time: Timestamp,
    ) -> Self {
        Self {
            version: VERSION,
            job: job.to_owned(),
            backup: backup.clone(),
            point,
            time,
            done: false,
            databases: BTreeMap::new(),
            by,
        }
    }
}

impl SourceStore {
    /// The newest record of a standby, and its number.
    pub fn synced(&self, job: &str) -> Result<Option<(u64, Synced)>> {
        let Some(number) = self.sync_numbers(job)?.pop() else { return Ok(None) };
        let key = self.key(&layout::sync(job, number));
        let damaged = || Error::damaged(format!("the record {key} is damaged"));
        let bytes = self.store().read_if_exists(&key, CONTROL_LIMIT)?.ok_or_else(damaged)?;
        let found: Synced =
            serde_json::from_slice(&bytes).map_err(|error| damaged().with_source(error))?;
        if found.version > VERSION {
            let what =
                format!("the record {key} has format {}; this program reads 1", found.version);
            return Err(Error::unsupported(what).hint("use a newer backstay"));
        }
        Ok(Some((number, found)))
    }

    /// Writes the record of this number, and removes old ones. `Ok(false)`: somebody else wrote it.
    pub fn create_synced(&self, number: u64, record: &Synced) -> Result<bool> {
        let key = self.key(&layout::sync(&record.job, number));
        if !self.store().create_ours(&key, &to_json(record, &key)?)? {
            return Ok(false);
        }
        let numbers = self.sync_numbers(&record.job)?;
        let old = numbers.len().saturating_sub(KEPT);
        for number in &numbers[..old] {
            // One that stays does no harm.
            let _ = self.store().delete(&self.key(&layout::sync(&record.job, *number)));
        }
        Ok(true)
    }

    fn sync_numbers(&self, job: &str) -> Result<Vec<u64>> {
        let listed = self.store().list(&self.key(&layout::syncs(job)))?;
        let mut numbers: Vec<u64> =
            listed.iter().filter_map(|one| layout::journal_number(&one.key)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }
}
