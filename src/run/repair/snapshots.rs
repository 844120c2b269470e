//! Snapshots that StarRocks wrote: each object has its MD5 in its name, so that a copy's is proven by itself.

use super::outcome::{Mended, Outcome, Pair};
use crate::archive::manifest::Manifest;
use crate::archive::snapshot::{REPOSITORY_INFO, split_digest};
use crate::error::{Error, ErrorKind, Result};
use crate::run::copy::{Proof, below, send, sizes};
use crate::run::hold;
use crate::store::SnapshotStore;
use crate::telemetry::failpoint;

/// Fetches what is damaged or missing of the snapshots of a backup. `wanted` says in which of their
/// directories, each with a slash at its end, something is wrong, and whether it is `__repo_info`.
pub fn mend_snapshots(
    pair: Pair<'_>,
    manifest: &Manifest,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<Vec<Mended>> {
    let Some(snapshots) = &manifest.snapshots else { return Ok(Vec::new()) };
    let directories: Vec<String> = snapshots
        .directories()
        .map(|(_, directory)| directory)
        .filter(|directory| wanted(directory))
        .collect();
    let info = format!("{}/{REPOSITORY_INFO}", snapshots.directory());
    let info = wanted(&info).then_some(info);
    if directories.is_empty() && info.is_none() {
        return Ok(Vec::new());
    }
    // What expires meanwhile must not be brought back.
    let _held = hold::hold_only(pair.here, manifest, "repair", pair.cx)?;
    let (here, there) = (sizes(pair.here)?, sizes(pair.there)?);
    let mended = |object: &str, bytes: u64, result: Outcome| Mended {
        source: pair.here.address().to_string(),
        object: object.to_owned(),
        bytes,
        result,
    };
    let mut all = Vec::new();
    pair.cx.reporter.phase("repairing");
    for directory in &directories {
        let before = all.len();
        let (mine, theirs) = (below(&here, directory), below(&there, directory));
        for (path, size) in &theirs {
            if split_digest(path).is_none() {
                continue;
            }
            // What is as it should be is left alone.
            if mine.contains(&(path.clone(), *size)) && is_sound(pair, true, path, *size)? {
                continue;
            }
            all.push(mended(path, *size, fetch(pair, path, *size)?));
        }
        for (path, size) in &mine {
            let alone = split_digest(path).is_some() && !theirs.iter().any(|(one, _)| one == path);
            if alone && !is_sound(pair, true, path, *size)? {
                all.push(mended(path, *size, Outcome::NotThere));
            }
        }
        if all.len() == before {
            all.push(mended(directory, 0, Outcome::NotThere));
        }
    }
    if let Some(info) = info {
        let (mine, theirs) = (SnapshotStore::of(pair.here), SnapshotStore::of(pair.there));
        let result = match theirs.repository_info(&snapshots.repository)? {
            None => Outcome::NotThere,
            Some(_) if pair.dry_run => Outcome::WouldFetch,
            Some(_) => {
                mine.copy_repository_info(&theirs, &snapshots.repository)?;
                Outcome::Fetched
            }
        };
        all.push(mended(&info, 0, result));
    }
    Ok(all)
}

fn fetch(pair: Pair<'_>, path: &str, size: u64) -> Result<Outcome> {
    if pair.dry_run {
        let sound = is_sound(pair, false, path, size)?;
        return Ok(if sound { Outcome::WouldFetch } else { Outcome::AlteredThere });
    }
    match send(pair.there, pair.here, (path, size, Proof::Name), false, &pair.cx.reporter) {
        Err(error) if error.kind() == ErrorKind::Damaged => return Ok(Outcome::AlteredThere),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Outcome::NotThere),
        sent => sent?,
    }
    if !is_sound(pair, true, path, size)? {
        let store = pair.here.store().name();
        return Err(Error::damaged(format!("{store} did not keep {path} as it was sent"))
            .hint("the store cannot be trusted: `backstay check` probes it"));
    }
    failpoint::reach("repair.object");
    Ok(Outcome::Fetched)
}

/// Whether an object has the MD5 in its name, here or there.
fn is_sound(pair: Pair<'_>, here: bool, path: &str, size: u64) -> Result<bool> {
    let Some((_, expected)) = split_digest(path) else { return Ok(false) };
    let store = SnapshotStore::of(if here { pair.here } else { pair.there });
    match store.digest_of(path, size, &pair.cx.reporter) {
        Ok(found) => Ok(found == expected),
        Err(error) if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::NotFound) => Ok(false),
        Err(error) => Err(error),
    }
}
