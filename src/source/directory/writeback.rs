//! Disks that write while files are still being restored.
//!
//! The kernel keeps gigabytes before it begins to write them, and then the last thing that a restore
//! does, and waits for, is to write all of it. Begun in time, the disk works while processors do.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags};

/// Bytes after which the disk is told to write.
const STEP: u64 = 128 << 20;

/// Counts what is written to one file system, and has it written to disk now and then.
#[derive(Debug)]
pub(super) struct Writeback {
    /// A description of its own: one that is shared would take errors away from who syncs at the
    /// end, since each is told to a description once.
    root: Option<OwnedFd>,
    unwritten: AtomicU64,
    at_work: AtomicBool,
}

impl Writeback {
    /// Of the file system that a directory is on. Where it cannot be opened, the end comes later.
    pub(super) fn new(root: &impl AsFd) -> Arc<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(root, ".", flags, Mode::empty()).ok();
        Arc::new(Self { root, unwritten: AtomicU64::new(0), at_work: AtomicBool::new(false) })
    }

    /// So much was written.
    pub(super) fn written(self: &Arc<Self>, bytes: u64) {
        let unwritten = self.unwritten.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if unwritten < STEP || self.root.is_none() || self.at_work.swap(true, Ordering::AcqRel) {
            return;
        }
        self.unwritten.store(0, Ordering::Relaxed);
        let this = Arc::clone(self);
        let started = std::thread::Builder::new().spawn(move || {
            if let Some(root) = &this.root {
                // What fails here fails again for who syncs at the end.
                let _ = rustix::fs::syncfs(root);
            }
            this.at_work.store(false, Ordering::Release);
        });
        if started.is_err() {
            self.at_work.store(false, Ordering::Release);
        }
    }
}
