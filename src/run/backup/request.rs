//! What a backup is asked to do, and what came of it.

use serde::Serialize;

use crate::archive::crypt::Keyring;
use crate::archive::manifest::{Counts, Manifest};
use crate::error::Result;
use crate::id::{BackupId, BackupKind, SourceAddress};
use crate::run::lock::LockTerms;
use crate::run::space::Room;
use crate::source::Source;

/// One backup of one source.
pub struct Request<'a> {
    /// The source's address.
    pub address: SourceAddress,
    /// The source.
    pub source: &'a dyn Source,
    /// The kind asked for.
    pub kind: BackupKind,
    /// The run it is part of.
    pub run: String,
    /// The job it is made for.
    pub job: Option<String>,
    /// The keep rule in force.
    pub keep: Option<serde_json::Value>,
    /// zstd level.
    pub level: i32,
    /// Compare content, not times.
    pub paranoid: bool,
    /// The writer identity: it opens earlier indexes and can read later ones.
    pub writer: Keyring,
    /// Whether the policy asks for encryption. `None`: nobody said.
    pub encrypted: Option<bool>,
    /// The repository key the policy insists on.
    pub pinned_key: Option<String>,
    /// The policy's text, to be kept beside the backup.
    pub policy: Option<&'a str>,
    /// Read and decide, and store nothing.
    pub dry_run: bool,
}

/// What a backup keeps to, whatever is asked for.
#[derive(Default)]
pub struct Terms<'a> {
    /// Where there is to be room for it.
    pub room: Room,
    /// Asked once others can see that it is being written: whether it still may be.
    pub permit: Option<&'a dyn Fn() -> Result<()>>,
    /// How it is locked.
    pub lock: Option<LockTerms>,
}

/// What came of a backup.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// `STACK/SOURCE`.
    pub source: String,
    /// The backup; `None` for a dry run.
    pub backup: Option<BackupId>,
    /// The kind taken.
    pub kind: BackupKind,
    /// The backup it is based on.
    pub base: Option<BackupId>,
    /// Nothing changed since the base: its segments and index are shared.
    pub unchanged: bool,
    /// What was counted.
    pub counts: Counts,
    /// Seconds it took.
    pub seconds: f64,
    /// Warnings given.
    pub warnings: u64,
    /// The manifest, if committed.
    #[serde(skip)]
    pub manifest: Option<Box<Manifest>>,
}

impl Outcome {
    /// That of a backup which an earlier attempt of the run had committed.
    pub fn of_earlier(manifest: Manifest) -> Self {
        Self {
            source: manifest.address().to_string(),
            backup: Some(manifest.backup.clone()),
            kind: manifest.kind,
            base: manifest.base.clone(),
            unchanged: false,
            counts: manifest.counts.clone(),
            seconds: 0.0,
            warnings: 0,
            manifest: Some(Box::new(manifest)),
        }
    }
}
