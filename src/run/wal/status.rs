//! What of a cluster's WAL lies in a repository, and how far recovery gets with it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::keep::{Base, Reach, reach};
use crate::archive::manifest::Manifest;
use crate::archive::wal::{Lsn, WalSegment};
use crate::error::Result;
use crate::id::BackupId;
use crate::store::{StoredWal, WalStore};

/// WAL of one cluster in one repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ArchivedWal {
    /// The cluster, as text: it is too large for most programs' numbers.
    pub system_id: String,
    /// Timelines, ascending.
    pub timelines: Vec<ArchivedTimeline>,
    /// The newest base backup that can be restored and whose WAL is there.
    pub base: Option<BackupId>,
    /// How far recovery from it gets before something is missing.
    pub end: Option<Lsn>,
    /// When the store took the last segment before that, or slice.
    pub archived_at: Option<Timestamp>,
    /// Bytes of the segment after that which lie there in slices: recovery gets to their end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_bytes: Option<u64>,
    /// The timeline that it ends on.
    #[serde(skip)]
    on: Option<u32>,
    /// Segments that are missing between others, behind the start of what recovery may begin with.
    pub gaps: Vec<Gap>,
}

/// WAL of one timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ArchivedTimeline {
    /// The timeline.
    pub timeline: u32,
    /// The first segment.
    pub first: Option<String>,
    /// The last segment.
    pub last: Option<String>,
    /// How many files, with histories and notes.
    pub files: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// When the store took the last one.
    pub newest: Option<Timestamp>,
    /// Files at its end that a site wrote after another one took over: no recovery goes there.
    #[serde(skip_serializing_if = "is_none")]
    pub divergent: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_none(count: &u64) -> bool {
    *count == 0
}

/// Segments that are missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The first.
    pub first: String,
    /// The last.
    pub last: String,
    /// How many.
    pub segments: u64,
    /// Recovery from the newest base backup ends here.
    pub current: bool,
}

/// Looks at the WAL of a cluster, beside these backups of its source.
pub fn archived(
    store: &WalStore,
    system_id: u64,
    manifests: &[Manifest],
    segment_size: Option<u64>,
    keep: Option<SignedDuration>,
    now: Timestamp,
) -> Result<ArchivedWal> {
    let mut listed: BTreeMap<u32, Vec<StoredWal>> = BTreeMap::new();
    for timeline in store.timelines(system_id)? {
        listed.insert(timeline, store.list(system_id, timeline)?);
    }
    let mut bases = Vec::new();
    for manifest in manifests {
        let Some(needed) = manifest.wal.as_ref().filter(|needed| needed.system_id == system_id)
        else {
            continue;
        };
        let there = needed.segments().all(|name| has(&listed, &name));
        let current = store.epochs().of(manifest).is_none();
        let sound = there && manifest.tainted.is_none() && current;
        bases.extend(Base::of(&manifest.backup, manifest.end, needed, sound));
    }
    let size = bases.last().map(|base| base.segment_size).or(segment_size).unwrap_or(16 << 20);
    let mut wal = judge(system_id, &listed, &bases, size, keep, now);
    if let (Some(timeline), Some(end)) = (wal.on, wal.end)
        && !wal.gaps.iter().any(|gap| gap.current)
        && let Some(tail) = store.tail(system_id, timeline, end, size)?
    {
        wal.end = tail.end(size).max(wal.end);
        wal.archived_at = wal.archived_at.max(Some(tail.stored_at));
        wal.open_bytes = Some(tail.bytes);
    }
    Ok(wal)
}

fn has(listed: &BTreeMap<u32, Vec<StoredWal>>, name: &str) -> bool {
    let timeline = name.get(..8).and_then(|text| u32::from_str_radix(text, 16).ok());
    let files = timeline.and_then(|timeline| listed.get(&timeline));
    files.is_some_and(|files| files.binary_search_by(|file| file.name.as_str().cmp(name)).is_ok())
}

/// Pure.
fn judge(
    system_id: u64,
    listed: &BTreeMap<u32, Vec<StoredWal>>,
    bases: &[Base],
    size: u64,
    keep: Option<SignedDuration>,
    now: Timestamp,
) -> ArchivedWal {
    let mut wal = ArchivedWal {
        system_id: system_id.to_string(),
        timelines: Vec::new(),
        base: None,
        end: None,
        archived_at: None,
        open_bytes: None,
        on: None,
        gaps: Vec::new(),
    };
    let newest = bases.iter().filter(|base| base.sound).max_by_key(|base| base.end);
    if let Some(base) = newest {
        let (timeline, end, archived_at) = follow(listed, base);
        (wal.base, wal.end, wal.archived_at) = (Some(base.backup.clone()), Some(end), archived_at);
        wal.on = Some(timeline);
    }
    // Before what recovery may begin with there are just the pieces that old backups need.
    let from = match reach(&bases.iter().collect::<Vec<_>>(), keep, now) {
        Reach::From(boundary) => boundary.first,
        Reach::All(_) => 0,
    };
    let mut last_number: Option<u64> = None;
    for (timeline, files) in listed {
        let numbers: BTreeSet<u64> = files
            .iter()
            .filter(|file| !file.divergent)
            .filter_map(|file| Some(WalSegment::parse(&file.name, size)?.number))
            .collect();
        let name = |number: u64| WalSegment { timeline: *timeline, number }.name(size);
        wal.timelines.push(ArchivedTimeline {
            timeline: *timeline,
            first: numbers.first().map(|number| name(*number)),
            last: numbers.last().map(|number| name(*number)),
            files: files.len() as u64,
            bytes: files.iter().map(|file| file.size).sum(),
            newest: files.iter().map(|file| file.stored_at).max(),
            divergent: files.iter().filter(|file| file.divergent).count() as u64,
        });
        // A timeline begins within a segment of the one that it came from, which may never have
        // been complete.
        let mut before = last_number;
        for &number in &numbers {
            if let Some(before) = before
                && number > before + 1
                && number > from
            {
                let first = (before + 1).max(from);
                let current = newest
                    .is_some_and(|base| number > base.start.0 / size && *timeline >= base.timeline);
                wal.gaps.push(Gap {
                    first: name(first),
                    last: name(number - 1),
                    segments: number - first,
                    current,
                });
            }
            before = Some(number);
        }
        last_number = last_number.max(numbers.last().copied());
    }
    wal
}

/// The timeline on which, and up to where, segments follow a backup without a gap, and when the last
/// of them was stored. A new timeline begins within the segment that the old one ended in.
fn follow(listed: &BTreeMap<u32, Vec<StoredWal>>, base: &Base) -> (u32, Lsn, Option<Timestamp>) {
    let size = base.segment_size;
    let mut next = base.start.0 / size;
    let mut archived_at = None;
    let mut on = base.timeline;
    for (timeline, files) in listed.range(base.timeline..) {
        for file in files.iter().filter(|file| !file.divergent) {
            let Some(segment) = WalSegment::parse(&file.name, size) else { continue };
            let overlaps = segment.number + 1 == next && *timeline > base.timeline;
            if segment.number == next || overlaps {
                next = segment.number + 1;
                on = *timeline;
                archived_at = archived_at.max(Some(file.stored_at));
            }
        }
    }
    (on, Lsn(next * size), archived_at)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const SIZE: u64 = 16 << 20;

    fn at(second: u64) -> Timestamp {
        Timestamp::from_second(second as i64).unwrap()
    }

    fn listed(files: &[(u32, &[u64])]) -> BTreeMap<u32, Vec<StoredWal>> {
        let stored = |timeline: u32, number: u64| StoredWal {
            name: WalSegment { timeline, number }.name(SIZE),
            size: 1,
            stored_at: at(number),
            divergent: false,
        };
        files
            .iter()
            .map(|(timeline, all)| (*timeline, all.iter().map(|n| stored(*timeline, *n)).collect()))
            .collect()
    }

    fn base(segment: u64, timeline: u32) -> Base {
        Base {
            backup: BackupId::parse(&format!("202611{segment:02}T020000Z-full-9d2m")).unwrap(),
            system_id: 7,
            segment_size: SIZE,
            start: Lsn(segment * SIZE + 40),
            timeline,
            end: at(segment),
            sound: true,
            held: false,
        }
    }

    fn gaps(files: &[(u32, &[u64])], bases: &[Base]) -> Vec<(u64, u64, bool)> {
        let wal = judge(7, &listed(files), bases, SIZE, None, at(100));
        let number = |name: &str| WalSegment::parse(name, SIZE).unwrap().number;
        wal.gaps.iter().map(|gap| (number(&gap.first), gap.segments, gap.current)).collect()
    }

    #[test]
    fn gaps_are_found_where_recovery_may_pass() {
        let whole: &[u64] = &[2, 3, 4, 5, 6];
        assert_eq!(gaps(&[(1, whole)], &[base(3, 1)]), []);
        assert_eq!(gaps(&[(1, &[2, 3, 5, 6])], &[base(3, 1)]), [(4, 1, true)]);
        assert_eq!(gaps(&[(1, &[2, 5, 6])], &[base(5, 1)]), [], "before all that counts");
        let two = [base(2, 1), base(6, 1)];
        assert_eq!(gaps(&[(1, &[2, 5, 6])], &two), [(3, 2, false)], "only older ones pass there");
        // The segment of the switch lies on the new timeline alone.
        assert_eq!(gaps(&[(1, &[2, 3]), (2, &[4, 5])], &[base(2, 1)]), []);
        assert_eq!(gaps(&[(1, &[2, 3, 4]), (2, &[4, 5])], &[base(2, 1)]), []);
        assert_eq!(gaps(&[(1, &[2, 3]), (2, &[5, 6])], &[base(2, 1)]), [(4, 1, true)]);
        assert_eq!(gaps(&[(1, &[2, 4])], &[]), [(3, 1, false)]);
    }

    #[test]
    fn recovery_gets_as_far_as_nothing_is_missing() {
        let end = |files: &[(u32, &[u64])], base: Base| {
            let wal = judge(7, &listed(files), &[base], SIZE, None, at(100));
            (wal.end.unwrap().0 / SIZE, wal.archived_at)
        };
        assert_eq!(end(&[(1, &[3, 4, 5])], base(3, 1)), (6, Some(at(5))));
        assert_eq!(end(&[(1, &[3, 5])], base(3, 1)), (4, Some(at(3))));
        assert_eq!(end(&[(1, &[3, 4]), (2, &[4, 5])], base(3, 1)), (6, Some(at(5))));
        assert_eq!(end(&[(1, &[3, 4]), (2, &[5])], base(3, 1)), (6, Some(at(5))));
        let none = judge(7, &listed(&[(1, &[3])]), &[], SIZE, None, at(100));
        assert_eq!((none.base, none.end), (None, None));
    }
}
