//! What is asked of a copy, and what came of it.

use jiff::SignedDuration;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::wal::WalCopied;
use crate::archive::manifest::Manifest;
use crate::id::{BackupId, SourceAddress};
use crate::policy::Keep;
use crate::run::lock::LockTerms;

/// A copy of one source's backups.
pub struct Request<'a> {
    /// The source.
    pub address: SourceAddress,
    /// The rule that the target keeps a backup by, if there is one.
    pub rule: &'a dyn Fn(&Manifest) -> Option<Keep>,
    /// The zone whose days, weeks and months count.
    pub zone: TimeZone,
    /// The window of point-in-time recovery.
    pub wal_keep: Option<SignedDuration>,
    /// Read back what was stored, and compare its digest.
    pub read_back: bool,
    /// How the copies are locked.
    pub lock: Option<LockTerms>,
}

/// A backup that was copied.
#[derive(Debug, Clone, Serialize)]
pub struct Copied {
    /// The backup.
    pub backup: BackupId,
    /// Objects that were sent; those that lay there already are not among them.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What came of copying one source.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// `STACK/SOURCE`.
    pub source: String,
    /// Backups that are in the target now and were not before, or were not whole.
    pub copied: Vec<Copied>,
    /// Backups that were there already.
    pub present: usize,
    /// Backups that were not copied, and why.
    pub failed: Vec<(BackupId, String)>,
    /// WAL that was copied beside what the backups themselves need.
    pub wal: WalCopied,
    /// Seconds it took.
    pub seconds: f64,
}
