//! What of a source could be restored now, and how old that is.

use jiff::Timestamp;
use serde::Serialize;

use crate::archive::manifest::{Manifest, NeededWal};
use crate::archive::wal::WalSegment;
use crate::error::Result;
use crate::id::BackupId;
use crate::store::{SourceStore, WalStore};

/// The newest instant that a source can be restored to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Newest {
    /// The instant.
    pub time: Timestamp,
    /// The backup that it is restored from.
    pub backup: BackupId,
    /// It is reached by replaying WAL that was archived after that backup.
    pub by_wal: bool,
}

/// The newest instant that these backups, and the WAL beside them, can be restored to.
///
/// What was archived without a gap after a base backup counts: up to when the store took the last
/// file, which is when the server had finished it at the latest.
pub fn newest(source: &SourceStore, manifests: &[Manifest]) -> Result<Option<Newest>> {
    let mut best: Option<Newest> = None;
    for manifest in manifests {
        let Some(time) = manifest.recovery_points.iter().map(|point| point.time).max() else {
            continue;
        };
        let found = Newest { time, backup: manifest.backup.clone(), by_wal: false };
        if best.as_ref().is_none_or(|best| found.time >= best.time) {
            best = Some(found);
        }
    }
    let Some(best) = best else { return Ok(None) };
    let base = manifests.iter().find(|manifest| manifest.backup == best.backup);
    let Some((base, wal)) = base.and_then(|base| Some((base, base.wal.as_ref()?))) else {
        return Ok(Some(best));
    };
    let last = archived_until(&WalStore::reader(source, base.is_encrypted()), wal)?;
    Ok(Some(match last {
        Some(time) if time > best.time => Newest { time, by_wal: true, ..best },
        _ => best,
    }))
}

/// When the last file was stored of those that follow a backup without a gap.
fn archived_until(store: &WalStore, wal: &NeededWal) -> Result<Option<Timestamp>> {
    let Some(end) = wal.ranges.last() else { return Ok(None) };
    let size = wal.segment_size;
    let mut next = WalSegment::of(end.timeline, end.stop, size);
    let mut last = None;
    for timeline in store.timelines(wal.system_id)? {
        if timeline < end.timeline {
            continue;
        }
        next.timeline = timeline;
        // A new timeline begins within the segment that the old one ended in.
        for file in store.list(wal.system_id, timeline)? {
            let Some(segment) = WalSegment::parse(&file.name, size) else { continue };
            if segment == next {
                next.number += 1;
                last = last.max(Some(file.stored_at));
            }
        }
    }
    Ok(last)
}
