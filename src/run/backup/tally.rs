//! What all threads of a backup add to.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::buried::bury;
use crate::archive::entry::{Entry, EntryType, SegmentRef, sort_key};
use crate::archive::index::line_of;
use crate::archive::manifest::{Counts, Segment};
use crate::archive::sort::Sorter;
use crate::error::{Error, Result};
use crate::id::BackupId;
use crate::store::Completing;
use crate::telemetry::failpoint;

/// Bytes of index lines sorted in memory; more spill to disk.
const INDEX_BUDGET: usize = 16 << 20;
const DEAD_BUDGET: usize = 4 << 20;

/// Segments that the store may be completing at once.
const COMPLETING: usize = 4;

/// Marks a line whose entry consists of slices: it also goes to the list of large files.
pub const HAS_PARTS: u8 = 1;
const PLAIN: u8 = 0;

/// The shared results.
pub struct Tally {
    index: Mutex<Sorter>,
    dead: Mutex<Sorter>,
    live: Mutex<BTreeMap<SegmentRef, u64>>,
    segments: Mutex<Vec<Segment>>,
    completing: Mutex<Vec<(Segment, Completing)>>,
    counts: Mutex<Counts>,
    error: Mutex<Option<Error>>,
    failed: AtomicBool,
    next_segment: AtomicU32,
    layered: AtomicU64,
}

/// The results, when all threads are done.
pub struct Results {
    /// Index lines by path; the first byte of each value is a flag.
    pub index: Sorter,
    /// Names that are dead, by segment and path.
    pub dead: Sorter,
    /// Bytes wanted of older segments.
    pub live: BTreeMap<SegmentRef, u64>,
    /// Segments this backup wrote.
    pub segments: Vec<Segment>,
    /// Counts.
    pub counts: Counts,
    /// Files that are made of layers.
    pub layered: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            index: Mutex::new(Sorter::new(INDEX_BUDGET)),
            dead: Mutex::new(Sorter::new(DEAD_BUDGET)),
            live: Mutex::default(),
            segments: Mutex::default(),
            completing: Mutex::default(),
            counts: Mutex::default(),
            error: Mutex::default(),
            failed: AtomicBool::new(false),
            next_segment: AtomicU32::new(1),
            layered: AtomicU64::new(0),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tally {
    /// The next segment number.
    pub fn next_segment(&self) -> u32 {
        self.next_segment.fetch_add(1, Ordering::SeqCst)
    }

    /// Puts an entry into the index.
    pub fn add_entry(&self, entry: &Entry) -> Result<()> {
        let line = line_of(entry)?;
        self.add_line(entry, &line)
    }

    fn add_line(&self, entry: &Entry, line: &[u8]) -> Result<()> {
        self.count(entry);
        self.layered.fetch_add(u64::from(!entry.layers.is_empty()), Ordering::Relaxed);
        let mut value = Vec::with_capacity(line.len() + 1);
        value.push(if entry.parts.is_empty() { PLAIN } else { HAS_PARTS });
        value.extend_from_slice(line);
        lock(&self.index).push(sort_key(&entry.path), value)
    }

    /// Puts an entry of the base into the index whose content stays where it is. `line` is the
    /// entry's line.
    pub fn keep(&self, entry: &Entry, line: &[u8]) -> Result<()> {
        let mut live = lock(&self.live);
        if let Some(segment) = &entry.segment {
            add(&mut live, segment, data_of(entry));
        }
        for part in &entry.parts {
            add(&mut live, &part.segment, part.size);
        }
        for layer in &entry.layers {
            add(&mut live, &layer.segment, layer.size);
        }
        drop(live);
        self.add_line(entry, line)
    }

    /// Puts an entry into the index that `own` wrote an increment of, over layers of older backups.
    pub fn add_layered(&self, entry: &Entry, own: &BackupId) -> Result<()> {
        let mut live = lock(&self.live);
        for layer in entry.layers.iter().filter(|layer| layer.segment.backup != *own) {
            add(&mut live, &layer.segment, layer.size);
        }
        drop(live);
        self.add_entry(entry)
    }

    /// Notes that the tar member of a base's entry is not wanted any more.
    pub fn bury(&self, entry: &Entry) -> Result<()> {
        // What lies in a last segment is never referred to, so it needs no dead list.
        let Some(segment) = &entry.segment else { return Ok(()) };
        if entry.kind == EntryType::Dir || entry.is_awkward() {
            return Ok(());
        }
        bury(&mut lock(&self.dead), segment, &entry.path)
    }

    /// A segment is on its way; the store is completing it.
    pub fn add_segment(&self, segment: Segment, completing: Completing) -> Result<()> {
        let mut waiting = lock(&self.completing);
        waiting.push((segment, completing));
        // At most one a thread: a store that is slow to complete slows compression down.
        let ready = if waiting.len() > COMPLETING { Some(waiting.remove(0)) } else { None };
        drop(waiting);
        ready.map_or(Ok(()), |ready| self.stored(ready))
    }

    /// Waits until every segment is stored.
    pub fn wait_for_segments(&self) -> Result<()> {
        let waiting = std::mem::take(&mut *lock(&self.completing));
        waiting.into_iter().try_for_each(|ready| self.stored(ready))
    }

    fn stored(&self, (segment, completing): (Segment, Completing)) -> Result<()> {
        let version = completing.wait()?.version;
        failpoint::reach("backup.segment");
        lock(&self.counts).stored_bytes += segment.size;
        lock(&self.segments).push(Segment { version, ..segment });
        Ok(())
    }

    /// Changes the counts.
    pub fn with_counts(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut lock(&self.counts));
    }

    fn count(&self, entry: &Entry) {
        let mut counts = lock(&self.counts);
        match entry.kind {
            EntryType::File | EntryType::Stream => {
                counts.files += 1;
                counts.bytes += entry.size;
            }
            EntryType::Dir => counts.directories += 1,
            EntryType::Symlink => counts.symlinks += 1,
            EntryType::Hardlink => counts.hardlinks += 1,
            EntryType::Char | EntryType::Block => counts.devices += 1,
        }
        counts.changed += u64::from(entry.changed);
    }

    /// Remembers the first error; everything stops soon after.
    pub fn fail(&self, error: Error) {
        lock(&self.error).get_or_insert(error);
        self.failed.store(true, Ordering::SeqCst);
    }

    /// Whether something failed.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// The first error, if any.
    pub fn take_error(&self) -> Option<Error> {
        lock(&self.error).take()
    }

    /// The results.
    pub fn into_results(self) -> Results {
        let inner =
            |mutex: Mutex<Sorter>| mutex.into_inner().unwrap_or_else(PoisonError::into_inner);
        Results {
            index: inner(self.index),
            dead: inner(self.dead),
            live: self.live.into_inner().unwrap_or_else(PoisonError::into_inner),
            segments: self.segments.into_inner().unwrap_or_else(PoisonError::into_inner),
            counts: self.counts.into_inner().unwrap_or_else(PoisonError::into_inner),
            layered: self.layered.into_inner(),
        }
    }
}

/// Bytes of content that the entry's tar member holds.
pub fn data_of(entry: &Entry) -> u64 {
    match (entry.kind, &entry.sparse) {
        (EntryType::File, Some(extents)) => extents.iter().map(|&(_, length)| length).sum(),
        (EntryType::File, None) => entry.size,
        _ => 0,
    }
}

fn add(live: &mut BTreeMap<SegmentRef, u64>, segment: &SegmentRef, bytes: u64) {
    if let Some(sum) = live.get_mut(segment) {
        *sum += bytes;
    } else {
        live.insert(segment.clone(), bytes);
    }
}
