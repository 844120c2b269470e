//! Counters that work adds to and displays read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde::Serialize;

/// Counters of one piece of work. All are monotone; reading them takes no lock.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    files: AtomicU64,
    bytes: AtomicU64,
    stored: AtomicU64,
    total_files: AtomicU64,
    total_bytes: AtomicU64,
    warnings: AtomicU64,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            stored: AtomicU64::new(0),
            total_files: AtomicU64::new(0),
            total_bytes: AtomicU64::new(0),
            warnings: AtomicU64::new(0),
        }
    }
}

impl Progress {
    /// One more entry is done.
    pub fn add_file(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
    }

    /// `bytes` more of content are done.
    pub fn add_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// `bytes` more went to or came from the store.
    pub fn add_stored(&self, bytes: u64) {
        self.stored.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What the whole is expected to be; an estimate for backups (from the base), exact else.
    pub fn expect(&self, files: u64, bytes: u64) {
        self.total_files.store(files, Ordering::Relaxed);
        self.total_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn count_warning(&self) {
        self.warnings.fetch_add(1, Ordering::Relaxed);
    }

    /// The counters now.
    pub fn snapshot(&self) -> ProgressSnapshot {
        ProgressSnapshot {
            seconds: self.started.elapsed().as_secs_f64(),
            files: self.files.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            stored_bytes: self.stored.load(Ordering::Relaxed),
            total_files: self.total_files.load(Ordering::Relaxed),
            total_bytes: self.total_bytes.load(Ordering::Relaxed),
            warnings: self.warnings.load(Ordering::Relaxed),
        }
    }
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ProgressSnapshot {
    /// Seconds since the work began.
    pub seconds: f64,
    /// Entries done.
    pub files: u64,
    /// Bytes of content done.
    pub bytes: u64,
    /// Bytes sent to, or fetched from, the store.
    pub stored_bytes: u64,
    /// Entries expected, 0 if unknown.
    pub total_files: u64,
    /// Bytes expected, 0 if unknown.
    pub total_bytes: u64,
    /// Warnings so far.
    pub warnings: u64,
}
