//! A directory of one's own for a restore that is thrown away, and what a killed one left there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::source::{mysql, postgres};
use crate::telemetry::{Reporter, WarningCode};

/// What the names of such directories begin with.
const PREFIX: &str = "backstay-scratch-";

/// Held for as long as somebody works there.
const LOCK: &str = ".lock";

/// Where a data directory lies in such a directory.
pub const DATA: &str = "data";

/// A directory of one's own, that goes when this does.
#[derive(Debug)]
pub struct Place {
    directory: TempDir,
    _lock: File,
}

impl Place {
    /// Makes one below `scratch`, if there is room for `bytes`, after removing what killed ones
    /// left there.
    pub fn make(scratch: &Path, bytes: u64, reporter: &Reporter) -> Result<Self> {
        if !scratch.is_dir() {
            return Err(Error::usage(format!("there is no directory {}", scratch.display())));
        }
        clean(scratch, reporter)?;
        let failed = || format!("failed to look at {}", scratch.display());
        let found = rustix::fs::statvfs(scratch).doing(failed)?;
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        // Recovery and the server itself write as well.
        let needed = bytes.saturating_add(bytes / 10).saturating_add(64 << 20);
        if free < needed {
            return Err(Error::failed(format!(
                "{} has {} MiB free, and this backup takes {} MiB",
                scratch.display(),
                free >> 20,
                needed >> 20
            ))
            .hint("give another directory with --scratch"));
        }
        let directory = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(scratch)
            .doing(|| format!("failed to create a directory in {}", scratch.display()))?;
        let lock = directory.path().join(LOCK);
        let file = File::create(&lock).doing(|| format!("failed to create {}", lock.display()))?;
        file.lock().doing(|| format!("failed to lock {}", lock.display()))?;
        Ok(Self { directory, _lock: file })
    }

    /// A directory for the socket of a server: its path may have a hundred bytes, and that of a
    /// scratch directory may be longer.
    pub fn runtime() -> Result<TempDir> {
        tempfile::Builder::new()
            .prefix("backstay-")
            .tempdir()
            .doing(|| "failed to create a directory for a socket".to_owned())
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The directory itself.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

/// Removes what killed ones left: nobody holds their lock.
fn clean(scratch: &Path, reporter: &Reporter) -> Result<()> {
    let failed = || format!("failed to read {}", scratch.display());
    for entry in fs::read_dir(scratch).doing(failed)? {
        let entry = entry.doing(failed)?;
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let path = entry.path();
        let Ok(lock) = File::open(path.join(LOCK)) else { continue };
        if lock.try_lock().is_err() {
            continue;
        }
        postgres::end_leftover(&path.join(DATA));
        mysql::end_leftover(&path.join(DATA));
        let text = format!("{} was left by a run that was killed, and is removed", path.display());
        reporter.warn(WarningCode::Other, path.display().to_string(), text);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(format!("failed to remove {}", path.display()), error)
                    .with_kind(ErrorKind::Failed));
            }
            _ => {}
        }
    }
    Ok(())
}
