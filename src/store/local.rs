//! What a repository in a directory needs beyond its objects: leftovers of writers that were
//! killed, empty directories, and deletions that are on disk. Symbolic links are never followed.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use jiff::Timestamp;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::blocking::{Listed, Store};
use super::erase::{Erased, Place};
use super::layout;
use crate::error::{Error, ErrorKind, IoContext as _, Result};

impl Store {
    /// The directory that the objects lie in, if it is one.
    pub fn directory(&self) -> Option<&Path> {
        match self.place() {
            Place::Directory(root) => Some(root),
            _ => None,
        }
    }

    /// Fails where a directory that was a repository is none any more: its disk was unmounted, say. What is written
    /// then would lie below the mount point, and be missing when the disk is back. A bucket is there or does not answer.
    pub(super) fn check_there(&self) -> Result<()> {
        let Place::Directory(root) = self.place() else { return Ok(()) };
        if root.join(layout::DESCRIPTOR).exists() {
            return Ok(());
        }
        let what = format!("{} is no repository any more", root.display());
        Err(Error::new(ErrorKind::Unreachable, what)
            .hint("is its disk mounted? `backstay.json` has to be there"))
    }

    /// What writers left below a directory when they were killed, sorted: `object_store` writes
    /// `NAME#1` and renames it when it is whole. No listing shows these. A writer that is still at
    /// work has them too, so look only where none is. Empty for anything but a local directory.
    pub fn staged(&self, prefix: &str) -> Result<Vec<Listed>> {
        let Place::Directory(root) = self.place() else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        self.walk_staged(root, prefix, |_, _, listed| {
            found.push(listed);
            Ok(())
        })?;
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// Removes of what [`Store::staged`] lists what nobody wrote to since `before`, and returns it.
    pub fn erase_staged(&self, prefix: &str, before: Timestamp) -> Result<Vec<Listed>> {
        let Place::Directory(root) = self.place() else { return Ok(Vec::new()) };
        let mut removed = Vec::new();
        self.walk_staged(root, prefix, |directory, name, listed| {
            if listed.stored_at >= before {
                return Ok(());
            }
            match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
                Ok(()) => removed.push(listed),
                Err(Errno::NOENT) => {}
                Err(errno) => {
                    return Err(Error::io(self.about("delete", &listed.key), errno.into()));
                }
            }
            Ok(())
        })?;
        removed.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(removed)
    }

    /// Removes a directory that has nothing in it. `false` if it has, or is not there; a store
    /// without directories has nothing to remove.
    pub fn remove_empty_directory(&self, prefix: &str) -> Result<bool> {
        let Place::Directory(root) = self.place() else { return Ok(false) };
        let prefix = prefix.trim_matches('/');
        let (parent, name) = prefix.rsplit_once('/').unwrap_or(("", prefix));
        if name.is_empty() || name == "." || name == ".." {
            return Err(Error::usage(format!("`{prefix}` is no directory of a repository")));
        }
        let Some(directory) = self.open(root, parent)? else { return Ok(false) };
        match rustix::fs::unlinkat(&directory, name, AtFlags::REMOVEDIR) {
            Ok(()) => {
                rustix::fs::fsync(&directory).doing(|| self.about("sync", parent))?;
                Ok(true)
            }
            Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
            Err(Errno::NOTDIR | Errno::LOOP) => Err(self.not_a_directory(prefix)),
            Err(errno) => Err(Error::io(self.about("delete", prefix), errno.into())),
        }
    }

    /// Opens a directory of the repository, one name after another. `None` if it is not there.
    fn open(&self, root: &Path, prefix: &str) -> Result<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut directory =
            rustix::fs::openat(CWD, root, flags, Mode::empty()).doing(|| self.about("open", ""))?;
        let mut so_far = String::new();
        for name in prefix.split('/').filter(|name| !name.is_empty()) {
            so_far = if so_far.is_empty() { name.to_owned() } else { format!("{so_far}/{name}") };
            if name == "." || name == ".." {
                return Err(self.not_a_directory(&so_far));
            }
            let flags = flags | OFlags::NOFOLLOW;
            directory = match rustix::fs::openat(&directory, name, flags, Mode::empty()) {
                Ok(directory) => directory,
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::NOTDIR | Errno::LOOP) => return Err(self.not_a_directory(&so_far)),
                Err(errno) => return Err(Error::io(self.about("open", &so_far), errno.into())),
            };
        }
        Ok(Some(directory))
    }

    fn walk_staged(
        &self,
        root: &Path,
        prefix: &str,
        mut take: impl FnMut(&OwnedFd, &CStr, Listed) -> Result<()>,
    ) -> Result<()> {
        // Names, not open directories: there may be many of them side by side.
        let mut todo = vec![prefix.trim_matches('/').to_owned()];
        while let Some(at) = todo.pop() {
            let Some(directory) = self.open(root, &at)? else { continue };
            let entries = Dir::read_from(&directory).doing(|| self.about("list", &at))?;
            for entry in entries {
                let entry = entry.doing(|| self.about("list", &at))?;
                let (name, raw) = (entry.file_name(), entry.file_name().to_bytes());
                let Ok(text) = std::str::from_utf8(raw) else { continue };
                if text == "." || text == ".." {
                    continue;
                }
                let key = if at.is_empty() { text.to_owned() } else { format!("{at}/{text}") };
                let stat = match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => stat,
                    Err(Errno::NOENT) => continue,
                    Err(errno) => return Err(Error::io(self.about("read", &key), errno.into())),
                };
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => todo.push(key),
                    FileType::RegularFile if is_staged(text) => {
                        let stored_at = Timestamp::from_second(stat.st_mtime).unwrap_or_default();
                        let listed = Listed { key, size: stat.st_size.cast_unsigned(), stored_at };
                        take(&directory, name, listed)?;
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn not_a_directory(&self, prefix: &str) -> Error {
        Error::new(ErrorKind::Conflict, format!("{prefix} in {} is no directory", self.name()))
            .hint("symbolic links inside of a repository are not followed")
    }

    fn about(&self, doing: &str, key: &str) -> String {
        format!("failed to {doing} {key} in {}", self.name())
    }
}

/// Whether the name is one that `object_store` writes under before it renames: `NAME#NUMBER`.
fn is_staged(name: &str) -> bool {
    name.split_once('#')
        .is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

/// Makes deletions durable: a result in a directory that cannot be synced becomes an error.
pub(super) fn sync_directories(root: &Path, results: &mut [(String, Result<Erased>)]) {
    let mut failed: BTreeMap<String, Option<Errno>> = BTreeMap::new();
    for (key, result) in results {
        if !matches!(result, Ok(Erased::Gone)) {
            continue;
        }
        let directory = key.rsplit_once('/').map_or("", |(directory, _)| directory);
        let synced = *failed.entry(directory.to_owned()).or_insert_with(|| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::openat(CWD, root.join(directory), flags, Mode::empty())
                .and_then(rustix::fs::fsync)
                .err()
                // Somebody else removed the directory meanwhile, which is as good.
                .filter(|errno| *errno != Errno::NOENT)
        });
        if let Some(errno) = synced {
            let message = format!("failed to make the deletion of {key} durable");
            *result = Err(Error::io(message, errno.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_staged;

    #[test]
    fn only_a_number_after_the_sign_is_a_leftover() {
        for name in ["000001.tar.zst#1", "index.zst.age#27", "#3"] {
            assert!(is_staged(name), "{name}");
        }
        for name in ["000001.tar.zst", "a#", "a#b", "a#1b", "a#1#2"] {
            assert!(!is_staged(name), "{name}");
        }
    }
}
