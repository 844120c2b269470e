//! What an earlier attempt of a run began, ended for good.

use jiff::Timestamp;

use crate::archive::manifest::Manifest;
use crate::error::Result;
use crate::store::{SourceStore, Worker};

/// Sees to it that no writer that began a backup for this run commits it any more, and gives the
/// manifest of the backup that one of them did commit.
///
/// A tombstone at the commit key or the commit itself: a store creates only one of them.
pub fn give_up(
    source: &SourceStore,
    run: &str,
    by: &Worker,
    now: Timestamp,
) -> Result<Option<Manifest>> {
    for (intent, _) in source.intents()? {
        if intent.run.as_deref() == Some(run) {
            source.bury(&intent.backup, "its run was taken over", by, now)?;
        }
    }
    let commits = source.commits()?;
    let manifests = source.manifests(&commits)?;
    let readable = manifests.into_iter().rev().filter_map(|(_, manifest)| manifest.ok());
    Ok(readable.into_iter().find(|manifest| manifest.run == run))
}
