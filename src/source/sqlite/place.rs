//! Putting a restored database where it belongs. What another one left beside that place would be
//! taken for its own: a `-wal` file is replayed into any database of the same name.

use std::fs::{self, File};
use std::io::{Read, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;
use serde::Serialize;

use super::database::check_file;
use crate::archive::entry::Entry;
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::source::directory::OwnerNumbers;
use crate::telemetry::Reporter;

/// What `SQLite` keeps beside a database.
const SIDECARS: [&str; 3] = ["-journal", "-wal", "-shm"];

/// What was restored.
#[derive(Debug, Clone, Serialize)]
pub struct Placed {
    /// Where it is.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: u64,
    /// What `integrity_check` found in it, before it was given its name.
    pub integrity: Vec<String>,
    /// Files that had its name, or belonged to the one that had, and the names they have now.
    pub aside: Vec<(PathBuf, PathBuf)>,
}

/// A restore that has looked and changed nothing.
#[derive(Debug)]
pub struct Placing {
    target: PathBuf,
    /// What is there, in the order in which it is to be renamed.
    existing: Vec<PathBuf>,
    stamp: String,
}

impl Placing {
    /// Looks whether a database can be put at `target`; over one that is there only if `replace`,
    /// and never over one that somebody has open. `stamp` becomes part of the old one's name.
    pub fn prepare(target: &Path, replace: bool, stamp: &str) -> Result<Self> {
        let target =
            std::path::absolute(target).doing(|| format!("failed to find {}", target.display()))?;
        let all = std::iter::once(target.clone()).chain(sidecars(&target));
        let existing: Vec<PathBuf> = all.filter(|path| path.symlink_metadata().is_ok()).collect();
        if let Some(first) = existing.first() {
            let conflict = |text: String| Error::new(ErrorKind::Conflict, text);
            if let Some(odd) =
                existing.iter().find(|path| !path.symlink_metadata().is_ok_and(|m| m.is_file()))
            {
                return Err(conflict(format!(
                    "{} is no regular file, and is not replaced",
                    odd.display()
                )));
            }
            let users = users(&target);
            if !users.is_empty() {
                return Err(conflict(format!(
                    "{} is open in {}",
                    target.display(),
                    users.join(", ")
                ))
                .hint("stop the application first: it would go on with the old database")
                .hint("or restore to another name, and look at it there"));
            }
            if !replace {
                let error = conflict(format!("{} exists", first.display()));
                return Err(if *first == target {
                    error.hint("restore to another name, or give --overwrite: the old one is kept under another name")
                } else {
                    error.hint("it belongs to a database that is gone, and would be replayed into this one: --overwrite gives it another name")
                });
            }
            check_free(&target)?;
        }
        Ok(Self { target, existing, stamp: stamp.to_owned() })
    }

    /// Where the database will be.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// What is there and gets another name.
    pub fn existing(&self) -> &[PathBuf] {
        &self.existing
    }

    /// Writes the database beside its place, lets `SQLite` look at it, and only then gives it its
    /// name. One in which something is wrong takes nobody's place.
    pub fn put(
        self,
        content: &mut dyn Read,
        like: &Entry,
        numeric_owner: bool,
        reporter: &Reporter,
    ) -> Result<Placed> {
        let Self { target, existing, stamp } = self;
        let doing = || format!("failed to write {}", target.display());
        let parent = target.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent).doing(doing)?;
        let mut file =
            tempfile::Builder::new().prefix(".backstay-").tempfile_in(parent).doing(doing)?;
        let mut buffer = vec![0; 256 << 10];
        let mut bytes = 0;
        loop {
            reporter.check()?;
            let read = content.read(&mut buffer).map_err(|error| Error::io(doing(), error))?;
            if read == 0 {
                break;
            }
            file.write_all(&buffer[..read]).doing(doing)?;
            bytes += read as u64;
            reporter.progress().add_bytes(read as u64);
        }
        own(file.as_file(), like, numeric_owner).doing(doing)?;
        file.as_file().sync_all().doing(doing)?;
        reporter.phase("checking");
        let integrity = check_file(file.path());
        if let (Some(first), false) = (integrity.first(), existing.is_empty()) {
            return Err(Error::damaged(format!(
                "what was backed up is damaged, and takes nobody's place: {first}"
            ))
            .hint("restore it to another name to look at it, or take an older backup"));
        }
        // Two within a second: what was put aside first stays as well.
        let mut stamp = stamp;
        for number in 2.. {
            if existing.iter().all(|old| !renamed(old, &target, &stamp).exists()) {
                break;
            }
            stamp = format!("{}_{number}", stamp.split('_').next().unwrap_or_default());
        }
        let mut aside = Vec::new();
        // The database goes first: without it nobody makes anything of what belongs to it.
        for old in existing {
            let new = renamed(&old, &target, &stamp);
            fs::rename(&old, &new).doing(|| format!("failed to rename {}", old.display()))?;
            aside.push((old, new));
        }
        file.persist_noclobber(&target).map_err(|error| Error::io(doing(), error.error))?;
        File::open(parent).and_then(|directory| directory.sync_all()).doing(doing)?;
        Ok(Placed { path: target, bytes, integrity, aside })
    }
}

/// `NAME.before_STAMP`, and for what belongs to it `NAME.before_STAMP-wal`: together they are still
/// the old database.
fn renamed(old: &Path, target: &Path, stamp: &str) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(format!(".before_{stamp}"));
    let suffix = SIDECARS.iter().find(|suffix| sidecar(target, suffix) == *old);
    name.push(suffix.copied().unwrap_or_default());
    name.into()
}

fn sidecar(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn sidecars(path: &Path) -> impl Iterator<Item = PathBuf> + '_ {
    SIDECARS.iter().map(|suffix| sidecar(path, suffix))
}

/// Where what is known of a database lies in a backup.
pub fn facts_path(path: &[u8]) -> Vec<u8> {
    [path, b".json"].concat()
}

fn own(file: &File, like: &Entry, numeric_owner: bool) -> std::io::Result<()> {
    file.set_permissions(fs::Permissions::from_mode(like.mode & 0o777))?;
    if rustix::process::geteuid().is_root() {
        let numbers = OwnerNumbers::default();
        let name = |name: &Option<String>| name.clone().filter(|_| !numeric_owner);
        let uid = numbers.user(name(&like.user).as_deref(), like.uid);
        let gid = numbers.group(name(&like.group).as_deref(), like.gid);
        std::os::unix::fs::fchown(file, Some(uid), Some(gid))?;
    }
    Ok(())
}

/// An error if somebody has the database locked, as every session in WAL mode has for as long as it
/// lasts. Nothing is opened by `SQLite`, which would tidy up what is there.
fn check_free(path: &Path) -> Result<()> {
    let Ok(file) = File::options().read(true).write(true).open(path) else { return Ok(()) };
    match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::ACCESS | Errno::AGAIN) => Err(Error::new(
            ErrorKind::Conflict,
            format!("{} is in use: it is locked", path.display()),
        )
        .hint("stop the application first: it would go on with the old database")),
        // On a file system without locks nobody can tell.
        _ => Ok(()),
    }
}

/// Processes that have the database or what belongs to it open, as far as this user may see them:
/// `gunicorn (1234)`.
pub fn users(path: &Path) -> Vec<String> {
    let ids: Vec<(u64, u64)> = std::iter::once(path.to_path_buf())
        .chain(sidecars(path))
        .filter_map(|path| path.metadata().ok().map(|found| (found.dev(), found.ino())))
        .collect();
    let mut users = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        if pid == std::process::id() {
            continue;
        }
        let open = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let uses = |found: fs::Metadata| ids.contains(&(found.dev(), found.ino()));
        if open.filter_map(|fd| fs::metadata(fd.path()).ok()).any(uses) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            users.push(format!("{} ({pid})", name.trim()));
        }
    }
    users
}
