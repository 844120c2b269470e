//! What a restore is asked to do, and what came of it.

use std::collections::HashSet;
use std::path::PathBuf;

use serde::Serialize;

use super::selection::Selection;
use crate::archive::crypt::Keyring;
use crate::archive::digest::Digest;
use crate::archive::manifest::Manifest;
use crate::source::directory::extract::{Existing, Placement};
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
    /// What of it goes elsewhere.
    pub placement: Placement,
    /// What to do with what is there.
    pub existing: Existing,
    /// Owners by number, whatever their names are here.
    pub numeric_owner: bool,
    /// Say what would be done and do nothing.
    pub dry_run: bool,
}

impl<'a> Request<'a> {
    /// Everything, to where the target is set to.
    pub fn whole(source: SourceStore, manifest: &'a Manifest, keys: Keyring) -> Self {
        Self {
            source,
            manifest,
            keys,
            selection: Selection::default(),
            target: PathBuf::new(),
            placement: Placement::default(),
            existing: Existing::Refuse,
            numeric_owner: false,
            dry_run: false,
        }
    }
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

/// Findings kept of what was not restored.
pub const FINDINGS_KEPT: usize = 1000;

/// Entries that were not restored: how many, and the first of them. A lost segment may hold
/// millions.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Failures {
    /// How many.
    #[serde(rename = "failed_count")]
    pub count: u64,
    /// The first of them.
    #[serde(rename = "failed")]
    pub first: Vec<Finding>,
    /// Stored data is damaged for one of them at least.
    #[serde(skip)]
    pub damage: bool,
}

impl Failures {
    /// Adds a finding.
    pub fn push(&mut self, finding: Finding) {
        self.count += 1;
        self.damage |= finding.damage;
        if self.first.len() < FINDINGS_KEPT {
            self.first.push(finding);
        }
    }

    /// Adds what others found.
    pub fn extend(&mut self, others: Self) {
        self.count += others.count;
        self.damage |= others.damage;
        let room = FINDINGS_KEPT.saturating_sub(self.first.len());
        self.first.extend(others.first.into_iter().take(room));
    }
}

/// Paths of entries that were not restored, by a digest of 16 bytes each.
#[derive(Debug, Default)]
pub struct Missing(HashSet<[u8; 16]>);

impl Missing {
    /// Adds a path.
    pub fn insert(&mut self, path: &[u8]) {
        self.0.insert(key(path));
    }

    /// Whether the path was added.
    pub fn contains(&self, path: &[u8]) -> bool {
        !self.0.is_empty() && self.0.contains(&key(path))
    }
}

fn key(path: &[u8]) -> [u8; 16] {
    let mut digest = Digest::default();
    digest.update(path);
    let digest = digest.finish();
    std::array::from_fn(|at| digest[at])
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
    /// Files in the target that others take the place of, as a dry run finds them.
    pub replaced: u64,
    /// Files that changed while they were backed up: what is stored of them may be torn.
    pub changed: u64,
    /// Bytes fetched from the store.
    pub fetched: u64,
    /// Seconds it took.
    pub seconds: f64,
    /// Entries that were not restored.
    #[serde(flatten)]
    pub failed: Failures,
    /// Attributes that could not be set: what, how often, and an example.
    pub not_set: Vec<(String, u64, String)>,
}

impl Outcome {
    /// Whether everything asked for was restored.
    pub fn is_complete(&self) -> bool {
        self.failed.count == 0
    }
}
