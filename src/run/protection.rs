//! What of a source could be restored now, and how old that is.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::archive::manifest::{Manifest, NeededWal, parse_data_path};
use crate::archive::wal::WalSegment;
use crate::error::Result;
use crate::id::{BackupId, BackupKind};
use crate::store::{SourceStore, WalStore};

/// How far back sizes are compared.
const WEEK: SignedDuration = SignedDuration::from_hours(7 * 24);

/// How far two clocks may be apart.
const APART: SignedDuration = SignedDuration::from_mins(5);

/// Whether an instant of the past lies ahead of `now`: then a clock was wrong, or is.
pub fn is_ahead(instant: Timestamp, now: Timestamp) -> bool {
    instant.duration_since(now) > APART
}

/// The newest instant that a source can be restored to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    // What was damaged at the source already protects nothing, and neither does what is not what users saw.
    let counts = |one: &&Manifest| one.tainted.is_none() && source.epochs().of(one).is_none();
    for manifest in manifests.iter().filter(counts) {
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
        for file in store.list(wal.system_id, timeline)?.into_iter().filter(|f| !f.divergent) {
            let Some(segment) = WalSegment::parse(&file.name, size) else { continue };
            if segment == next {
                next.number += 1;
                last = last.max(Some(file.stored_at));
            }
        }
    }
    // And of the segment that the server was writing.
    let tail = store.tail(wal.system_id, next.timeline, next.start(size), size)?;
    Ok(last.max(tail.map(|tail| tail.stored_at)))
}

/// What of a source lies in one repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Holding {
    /// The newest instant that it can be restored to.
    #[serde(skip)]
    pub newest: Option<Newest>,
    /// The oldest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Timestamp>,
    /// How many backups there are.
    pub backups: usize,
    /// The newest backup of each kind, and how large those before it were.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sizes: Vec<Size>,
    /// The backups whose objects the newest one is made of, itself among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain_length: Option<usize>,
    /// What all of it takes in the repository, but for WAL.
    #[serde(skip)]
    pub stored: Stored,
    /// The objects that the backups are made of.
    #[serde(skip)]
    pub objects: BTreeSet<String>,
    /// Those of the backup that the newest instant is restored from.
    #[serde(skip)]
    pub newest_objects: BTreeSet<String>,
}

/// What backups take in a repository; what several share counts once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stored {
    /// Bytes.
    pub bytes: u64,
    /// Objects.
    pub objects: usize,
}

/// How large the newest backup of a kind is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// The kind.
    pub kind: BackupKind,
    /// The newest backup of it.
    pub backup: BackupId,
    /// Bytes of content of all that it holds.
    pub bytes: u64,
    /// Bytes that were stored for it, without what it shares with older ones.
    #[serde(default)]
    pub stored_bytes: u64,
    /// The median of those of the 7 days before it; of the three before it, if these are fewer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub median: Option<u64>,
}

/// What these backups, and the WAL beside them, come to.
pub fn holding(source: &SourceStore, manifests: &[Manifest]) -> Result<Holding> {
    let current = manifests.iter().filter(|manifest| source.epochs().of(manifest).is_none());
    let points = current.flat_map(|manifest| &manifest.recovery_points);
    let objects: BTreeMap<&str, u64> = manifests
        .iter()
        .flat_map(Manifest::objects)
        .map(|(path, bytes, _)| (path, bytes))
        .collect();
    let newest = newest(source, manifests)?;
    let newest_objects = newest.as_ref().map(|newest| objects_of(manifests, newest));
    let newest_objects = newest_objects.unwrap_or_default();
    let backups: BTreeSet<BackupId> =
        newest_objects.iter().filter_map(|path| Some(parse_data_path(path)?.0)).collect();
    Ok(Holding {
        oldest: points.map(|point| point.time).min(),
        backups: manifests.len(),
        sizes: sizes(manifests),
        chain_length: newest.is_some().then_some(backups.len()),
        stored: Stored { bytes: objects.values().sum(), objects: objects.len() },
        objects: objects.into_keys().map(str::to_owned).collect(),
        newest_objects,
        newest,
    })
}

/// The objects of the backup that an instant is restored from.
pub fn objects_of(manifests: &[Manifest], newest: &Newest) -> BTreeSet<String> {
    let found = manifests.iter().find(|manifest| manifest.backup == newest.backup);
    let objects = found.into_iter().flat_map(Manifest::objects);
    objects.map(|(path, ..)| path.to_owned()).collect()
}

fn sizes(manifests: &[Manifest]) -> Vec<Size> {
    let mut found = Vec::new();
    for kind in [BackupKind::Full, BackupKind::Incremental, BackupKind::Snapshot] {
        let mut of: Vec<&Manifest> =
            manifests.iter().filter(|manifest| manifest.kind == kind).collect();
        of.sort_by_key(|manifest| manifest.end);
        let Some(last) = of.pop() else { continue };
        let before: Vec<(Timestamp, u64)> =
            of.iter().map(|manifest| (manifest.end, manifest.counts.bytes)).collect();
        found.push(Size {
            kind,
            backup: last.backup.clone(),
            bytes: last.counts.bytes,
            stored_bytes: last.counts.stored_bytes,
            median: median(&before, last.end),
        });
    }
    found
}

/// The median of the sizes of a week before `end`, or of the last three if these are fewer; `before`
/// has the oldest first.
fn median(before: &[(Timestamp, u64)], end: Timestamp) -> Option<u64> {
    let week = end.checked_sub(WEEK).unwrap_or(end);
    let within = before.iter().filter(|(at, _)| *at >= week).count();
    let mut sizes: Vec<u64> =
        before[before.len() - within.max(3).min(before.len())..].iter().map(|one| one.1).collect();
    sizes.sort_unstable();
    match sizes.len() {
        0 => None,
        count if count % 2 == 1 => Some(sizes[count / 2]),
        count => Some(u64::midpoint(sizes[count / 2 - 1], sizes[count / 2])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_of_a_week_or_of_the_last_three() {
        let day = |day: i64| Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * day);
        let daily: Vec<(Timestamp, u64)> = (0..20).map(|at| (day(at), at as u64)).collect();
        // 13 to 19, and not what lies further back.
        assert_eq!(median(&daily, day(20)), Some(16));
        let weekly: Vec<(Timestamp, u64)> = vec![(day(0), 90), (day(7), 10), (day(14), 12)];
        assert_eq!(median(&weekly, day(21)), Some(12));
        assert_eq!(median(&weekly[..2], day(14)), Some(50));
        assert_eq!(median(&[], day(1)), None);
    }
}
