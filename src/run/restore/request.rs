//! What a restore is asked to do, and what came of it.

use std::path::PathBuf;

use serde::Serialize;

use super::selection::Selection;
use crate::archive::crypt::Keyring;
use crate::archive::manifest::Manifest;
use crate::source::directory::extract::Existing;
use crate::store::SourceStore;

/// One restore of one backup.
pub struct Request<'a> {
    /// Where from.
    pub source: SourceStore,
    /// What.
    pub manifest: &'a Manifest,
    /// What opens it.
    pub keys: Keyring,
    /// Which part of it.
    pub selection: Selection,
    /// Where to.
    pub target: PathBuf,
    /// What to do with what is there.
    pub existing: Existing,
    /// Owners by number, whatever their names are here.
    pub numeric_owner: bool,
    /// Say what would be done and do nothing.
    pub dry_run: bool,
}

/// Something that went wrong with one entry, while the others were restored.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The entry.
    pub path: String,
    /// What happened.
    pub message: String,
    /// Stored data is damaged, and not just refused here.
    pub damage: bool,
}

/// What came of a restore.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// Files written.
    pub files: u64,
    /// Directories created or found.
    pub directories: u64,
    /// Symbolic links, hard links and devices created.
    pub others: u64,
    /// Bytes of content of all files.
    pub bytes: u64,
    /// Files that were right already.
    pub kept: u64,
    /// Bytes fetched from the store.
    pub fetched: u64,
    /// Seconds it took.
    pub seconds: f64,
    /// Entries that were not restored.
    pub failed: Vec<Finding>,
    /// Attributes that could not be set: what, how often, and an example.
    pub not_set: Vec<(String, u64, String)>,
}

impl Outcome {
    /// Whether everything asked for was restored.
    pub fn is_complete(&self) -> bool {
        self.failed.is_empty()
    }
}
