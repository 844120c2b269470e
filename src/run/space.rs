//! Whether there is room for a backup, before it begins.
//!
//! How large it will be is taken from the last ones of the same source and kind. A file system that
//! runs full half way harms more than the backup.

use std::path::{Path, PathBuf};

use crate::archive::manifest::Manifest;
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::id::BackupKind;
use crate::store::{CommitRef, SourceStore, Store};

/// How many of the last backups tell what the next one takes.
const LAST: usize = 3;

/// Where a backup needs room, and how much it may take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Room {
    /// The repository's directory, if it is one.
    pub directory: Option<PathBuf>,
    /// The most that all objects of the repository may take, in bytes.
    pub budget: Option<u64>,
    /// Where the whole content lies while it is backed up.
    pub scratch: Option<PathBuf>,
}

/// What the next backup takes, if it is like the last ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Bytes stored anew: the most of any of them.
    pub stored: u64,
    /// Bytes of content: likewise.
    pub content: u64,
    /// How many backups tell so.
    pub of: usize,
}

/// What there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Free bytes where the repository lies, and where that is.
    pub free: Option<(PathBuf, u64)>,
    /// What the repository's objects take, and may.
    pub used: Option<(u64, u64)>,
    /// Free bytes in the scratch directory, and where that is.
    pub scratch: Option<(PathBuf, u64)>,
}

/// Refuses a backup for which there is no room.
pub(super) fn check(
    room: &Room,
    store: &Store,
    source: &SourceStore,
    commits: &[CommitRef],
    kind: BackupKind,
) -> Result<()> {
    let last: Vec<CommitRef> = commits
        .iter()
        .rev()
        .filter(|commit| commit.backup.kind() == kind)
        .take(LAST)
        .cloned()
        .collect();
    let manifests = source.manifests(&last)?;
    let readable: Vec<Manifest> =
        manifests.into_iter().filter_map(|(_, manifest)| manifest.ok()).collect();
    let found = look(room, store)?;
    judge(&source.address().to_string(), kind, expected(&readable), &found)
}

/// What the next backup takes, after the last ones of its kind. `None`: there were none.
pub fn expected(last: &[Manifest]) -> Option<Expected> {
    let most = |of: fn(&Manifest) -> u64| last.iter().map(of).max();
    Some(Expected {
        stored: most(|manifest| manifest.counts.stored_bytes)?,
        content: most(|manifest| manifest.counts.bytes)?,
        of: last.len(),
    })
}

fn look(room: &Room, store: &Store) -> Result<Found> {
    let free = |path: &Option<PathBuf>| match path {
        Some(path) => free_bytes(path).map(|free| Some((path.clone(), free))),
        None => Ok(None),
    };
    let used = |budget: u64| {
        let objects = store.list("")?;
        let used = objects.iter().fold(0, |sum: u64, object| sum.saturating_add(object.size));
        Ok::<_, Error>((used, budget))
    };
    Ok(Found {
        free: free(&room.directory)?,
        used: room.budget.map(used).transpose()?,
        scratch: free(&room.scratch)?,
    })
}

/// What this user may still write to the file system of a directory.
pub fn free_bytes(path: &Path) -> Result<u64> {
    let failed = || format!("failed to ask how much room there is in {}", path.display());
    let told = rustix::fs::statvfs(path).doing(failed)?;
    Ok(told.f_bavail.saturating_mul(told.f_frsize))
}

/// Compares. What is not known is no reason to refuse; a budget that is used up is.
pub fn judge(
    source: &str,
    kind: BackupKind,
    expected: Option<Expected>,
    found: &Found,
) -> Result<()> {
    let like = match expected {
        Some(Expected { of: 1, .. }) => format!(", as the last {kind} did"),
        Some(Expected { of, .. }) => format!(", as the largest of the last {of} of its kind did"),
        None => String::new(),
    };
    let refuse = |what: String| {
        Error::new(ErrorKind::Waiting, format!("there is no room for a {kind} of {source}: {what}"))
    };
    let (stored, content) = expected.map_or((0, 0), |one| (one.stored, one.content));
    if let Some((path, free)) = &found.free
        && stored > *free
    {
        return Err(refuse(format!(
            "it may take {}{like}, and {} has {} free",
            about(stored),
            path.display(),
            about(*free)
        ))
        .hint("make room there, or let `backstay prune` remove what is no longer kept"));
    }
    if let Some((used, budget)) = found.used
        && (used >= budget || stored > budget - used)
    {
        return Err(refuse(format!(
            "it may take {}{like}, and {} of the repository's budget of {} are used",
            about(stored),
            about(used),
            about(budget)
        ))
        .hint("raise `budget`, or let `backstay prune` remove what is no longer kept"));
    }
    if let Some((path, free)) = &found.scratch
        && content > *free
    {
        return Err(refuse(format!(
            "the scratch directory {} has {} free, and all of the content has to lie there: {}{like}",
            path.display(),
            about(*free),
            about(content)
        ))
        .hint("make room there, or name another `scratch`"));
    }
    Ok(())
}

/// A size for people.
fn about(bytes: u64) -> String {
    let units = [("TiB", 1_u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.into_iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} B"),
    }
}
