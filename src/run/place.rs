//! A directory of one's own for a restore that is thrown away, and what a killed one left there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::run::space::free_bytes;
use crate::source::{mysql, postgres};
use crate::telemetry::{Reporter, WarningCode, human};

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
        check_room(scratch, bytes, free_bytes(scratch)?)?;
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

/// Room for what is not in the backup: a server writes as well, and its recovery.
const BESIDE: u64 = 64 << 20;

/// Fails where there is no room for a restore of so many bytes.
fn check_room(scratch: &Path, bytes: u64, free: u64) -> Result<()> {
    let beside = (bytes / 10).saturating_add(BESIDE);
    if free >= bytes.saturating_add(beside) {
        return Ok(());
    }
    Err(Error::failed(format!(
        "{} has {} free, and restoring there takes {} for the content and {} beside it",
        scratch.display(),
        human::size(free),
        human::size(bytes),
        human::size(beside)
    ))
    .hint("give another directory with --scratch"))
}

/// Directories below `scratch` whose names begin so and whose `lock` nobody holds: whoever made them
/// was killed. Each comes with the lock, which is ours while it is held.
pub fn abandoned(scratch: &Path, prefix: &str, lock: &str) -> Result<Vec<(PathBuf, File)>> {
    let failed = || format!("failed to read {}", scratch.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(scratch).doing(failed)? {
        let entry = entry.doing(failed)?;
        if !entry.file_name().to_string_lossy().starts_with(prefix) {
            continue;
        }
        let path = entry.path();
        let Ok(lock) = File::open(path.join(lock)) else { continue };
        if lock.try_lock().is_ok() {
            found.push((path, lock));
        }
    }
    Ok(found)
}

/// Removes what killed ones left: nobody holds their lock.
pub fn clean(scratch: &Path, reporter: &Reporter) -> Result<()> {
    for (path, _lock) in abandoned(scratch, PREFIX, LOCK)? {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_not_laid_at_the_door_of_the_backup() {
        let scratch = Path::new("/scratch");
        assert!(check_room(scratch, 16, 1 << 30).is_ok());
        let refused = check_room(scratch, 16, 1 << 20).expect_err("there is no room");
        assert_eq!(
            refused.to_string(),
            "/scratch has 1.0 MiB free, and restoring there takes 16 B for the content and 64 MiB \
             beside it"
        );
        assert!(check_room(scratch, u64::MAX, u64::MAX - 1).is_err());
    }
}
