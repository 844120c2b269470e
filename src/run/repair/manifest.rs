//! Manifests that cannot be read.

use super::outcome::{Outcome, Pair};
use crate::archive::manifest::{self, Commit, Manifest};
use crate::error::{Error, ErrorKind, Result};
use crate::id::BackupId;
use crate::store::{SourceStore, layout};

/// What lies at a commit key.
pub(super) enum Found {
    /// Nothing, or the tombstone of a backup that was given up.
    Nothing,
    /// Bytes that no writer wrote.
    Damaged,
    /// A backup, with the bytes that say so.
    Backup(Box<Manifest>, bytes::Bytes),
}

/// Looks at a commit key.
pub(super) fn look(source: &SourceStore, backup: &BackupId) -> Result<Found> {
    let key = source.key(&layout::commit(backup));
    let read = match source.store().read_if_exists(&key, manifest::SIZE_LIMIT) {
        Ok(None) => return Ok(Found::Nothing),
        Ok(Some(bytes)) => {
            Commit::parse(&bytes, source.address(), backup, &key).map(|commit| (commit, bytes))
        }
        Err(error) => Err(error),
    };
    match read {
        Ok((Commit::Backup(manifest), bytes)) => Ok(Found::Backup(manifest, bytes)),
        Ok((Commit::Aborted, _)) => Ok(Found::Nothing),
        Err(error) if error.kind() == ErrorKind::Damaged => Ok(Found::Damaged),
        Err(error) => Err(error),
    }
}

/// Puts the manifest of the other repository in the place of one that cannot be read, if that one
/// is of the same backup. Returns it as well.
pub fn mend_manifest(pair: Pair<'_>, backup: &BackupId) -> Result<(Outcome, Option<Manifest>)> {
    if !matches!(look(pair.here, backup)?, Found::Damaged) {
        // Somebody else repaired it, or it expired.
        return Ok((Outcome::AsStored, None));
    }
    let (manifest, body) = match look(pair.there, backup)? {
        Found::Nothing => return Ok((Outcome::NotThere, None)),
        Found::Damaged => return Ok((Outcome::AlteredThere, None)),
        Found::Backup(manifest, body) => (manifest, body),
    };
    if pair.dry_run {
        return Ok((Outcome::WouldFetch, Some(*manifest)));
    }
    pair.here.put(&layout::commit(backup), body.clone())?;
    if pair.here.commit_bytes(backup)? != body {
        let store = pair.here.store().name();
        return Err(Error::damaged(format!("{store} did not keep the manifest of {backup}"))
            .hint("the store cannot be trusted: `backstay check` probes it"));
    }
    Ok((Outcome::Fetched, Some(*manifest)))
}
