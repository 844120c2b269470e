//! Which backups have a path, and in which versions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::archive::crypt::Keyring;
use crate::archive::entry::{Entry, EntryType, Time, display_path};
use crate::archive::manifest::Manifest;
use crate::archive::sort::Sorter;
use crate::error::{Error, Result};
use crate::id::BackupId;
use crate::run::Context;
use crate::run::restore::Selection;
use crate::store::SourceStore;

/// A path with its versions, oldest first.
#[derive(Debug, Clone, Serialize)]
pub struct Found {
    /// The path, escaped where it is not text.
    pub path: String,
    /// Its bytes, where it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes: Option<Vec<u8>>,
    /// Its versions.
    pub versions: Vec<Version>,
}

/// A version of a path: backups that follow one another and have the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Version {
    /// The oldest backup with it.
    pub first: BackupId,
    /// The newest backup with it.
    pub last: BackupId,
    /// How many there are.
    pub backups: u64,
    /// What it is like.
    #[serde(flatten)]
    pub state: State,
}

/// What makes versions differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// What it is.
    pub r#type: EntryType,
    /// Bytes of content.
    pub size: u64,
    /// When the content was changed, as seconds and nanoseconds.
    pub mtime: Time,
    /// Digest of the content.
    pub sha256: Option<String>,
    /// What a link points to.
    pub target: Option<String>,
}

/// Looks for paths in backups of one source, oldest first, and gives each path with its versions.
///
/// Backups that share an index are looked at once. Matches are sorted outside of memory.
pub fn find(
    source: &SourceStore,
    backups: &[Manifest],
    selection: &Selection,
    keys: &Keyring,
    cx: &Context,
    tell: &mut dyn FnMut(&Found) -> Result<()>,
) -> Result<()> {
    let mut sorter = Sorter::default();
    let mut of_index: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, manifest) in backups.iter().enumerate() {
        of_index.entry(&manifest.index.path).or_default().push(at);
    }
    cx.reporter.phase("reading indexes");
    let entries = of_index.values().map(|at| backups[at[0]].index.entries).sum();
    cx.reporter.progress().expect(entries, 0);
    for sharing in of_index.values() {
        for entry in source.index(&backups[sharing[0]], keys, &cx.reporter)? {
            cx.reporter.check()?;
            cx.reporter.progress().add_file();
            let entry = entry?;
            if !selection.contains(&entry.path) {
                continue;
            }
            for at in sharing {
                sorter.push(key(&entry.path, *at), state(&entry)?)?;
            }
        }
    }
    let mut current: Option<(Vec<u8>, Vec<Version>)> = None;
    for record in sorter.finish()? {
        let (key, value) = record?;
        let (path, at) = split(&key);
        let state: State = serde_json::from_slice(&value)
            .map_err(|error| Error::failed("failed to read what was found").with_source(error))?;
        if current.as_ref().is_some_and(|(known, _)| known != path)
            && let Some(found) = current.take()
        {
            tell(&finished(found))?;
        }
        let (_, versions) = current.get_or_insert_with(|| (path.to_vec(), Vec::new()));
        add(versions, state, at, backups);
    }
    current.map_or(Ok(()), |found| tell(&finished(found)))
}

/// Adds what a backup has. A version goes on only if no backup in between lacks it.
fn add(versions: &mut Vec<Version>, state: State, at: usize, backups: &[Manifest]) {
    let backup = &backups[at].backup;
    let before = at.checked_sub(1).map(|before| &backups[before].backup);
    match versions.last_mut() {
        Some(last) if last.state == state && Some(&last.last) == before => {
            last.last = backup.clone();
            last.backups += 1;
        }
        _ => versions.push(Version {
            first: backup.clone(),
            last: backup.clone(),
            backups: 1,
            state,
        }),
    }
}

fn finished((path, versions): (Vec<u8>, Vec<Version>)) -> Found {
    let text = display_path(&path);
    let path_bytes = std::str::from_utf8(&path).is_err().then_some(path);
    Found { path: text, path_bytes, versions }
}

fn state(entry: &Entry) -> Result<Vec<u8>> {
    let state = State {
        r#type: entry.kind,
        size: entry.size,
        mtime: entry.mtime,
        sha256: entry.sha256.map(hex::encode),
        target: entry.target.as_deref().or(entry.hardlink.as_deref()).map(display_path),
    };
    serde_json::to_vec(&state)
        .map_err(|error| Error::failed("failed to keep what was found").with_source(error))
}

/// Path, NUL (which no path holds), number of the backup: sorts by path and then by age.
fn key(path: &[u8], at: usize) -> Vec<u8> {
    [path, &[0], &(at as u64).to_be_bytes()].concat()
}

fn split(key: &[u8]) -> (&[u8], usize) {
    let (rest, number) = key.split_at(key.len().saturating_sub(8));
    let number = number.try_into().map_or(0, u64::from_be_bytes);
    (&rest[..rest.len().saturating_sub(1)], number as usize)
}
