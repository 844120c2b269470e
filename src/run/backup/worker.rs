//! Threads that read files and write segments.

use std::io::{self, Read};

use super::layering::Layering;
use super::session::Writing;
use super::stream;
use super::tally::Tally;
use crate::archive::digest::Digest;
use crate::archive::entry::{Entry, EntryType, SegmentRef, display_path};
use crate::archive::index::line_of;
use crate::archive::manifest::{Segment, SegmentType};
use crate::archive::segment::TarSegment;
use crate::error::{Error, Result};
use crate::run::crew::Queue;
use crate::source::{Content, OpenError};
use crate::store::{Upload, layout};
use crate::telemetry::WarningCode;

/// Content of unknown length that is kept in memory to learn its length.
const SHORT: u64 = 4 << 20;

/// One entry to be stored.
pub struct Job {
    /// What the walk found.
    pub entry: Entry,
    /// How to read it, for files.
    pub content: Option<Box<dyn Content>>,
    /// What the base has at the same path.
    pub base: Option<Entry>,
    /// The base's content may be referred to if it turns out to be the same.
    pub reusable: bool,
}

/// Jobs that go to one worker together, in index order.
pub type Batch = Vec<Job>;

/// Takes batches until there are no more, then ends its segment.
pub fn work(writing: &Writing<'_>, tally: &Tally, batches: &Queue<Batch>) {
    let mut segments = SegmentSeries::new(writing, tally);
    while let Some(batch) = batches.take() {
        for job in batch {
            if tally.has_failed() {
                // Go on receiving, so that the sender is not stuck.
                break;
            }
            let Job { entry, mut content, base, reusable } = job;
            let result = segments.take(entry, content.as_deref_mut(), base, reusable);
            // Before the content is dropped, which may wake others that then fail because of it.
            if let Err(error) = result {
                tally.fail(error);
            }
        }
    }
    if !tally.has_failed()
        && let Err(error) = segments.finish()
    {
        tally.fail(error);
    }
}

/// One tar segment after another.
pub struct SegmentSeries<'a> {
    writing: &'a Writing<'a>,
    tally: &'a Tally,
    open: Option<(SegmentRef, TarSegment<Upload>)>,
    /// Where entries go whose place is known; by default the index.
    settled: Vec<Entry>,
    keep_settled: bool,
    last_was_large: bool,
    /// Increments among what was pushed.
    layering: Layering,
    /// Threads that compress for the one that pushes; 0: it does so itself.
    compressors: usize,
}

impl<'a> SegmentSeries<'a> {
    /// Segments of this backup.
    pub fn new(writing: &'a Writing<'a>, tally: &'a Tally) -> Self {
        Self {
            writing,
            tally,
            open: None,
            settled: Vec::new(),
            keep_settled: false,
            last_was_large: false,
            layering: Layering::default(),
            compressors: 0,
        }
    }

    /// Has frames compressed by so many threads: for who pushes all there is from one.
    #[must_use]
    pub fn compressed_by(mut self, threads: usize) -> Self {
        self.compressors = threads;
        self
    }

    /// Leaves entries to [`SegmentSeries::take_settled`] instead of the index.
    #[must_use]
    pub fn keeping(mut self) -> Self {
        self.keep_settled = true;
        self
    }

    /// Entries whose place is known since the last call, in the order they were pushed.
    pub fn take_settled(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.settled)
    }

    fn take(
        &mut self,
        mut entry: Entry,
        content: Option<&mut (dyn Content + 'static)>,
        base: Option<Entry>,
        reusable: bool,
    ) -> Result<()> {
        self.end_if_full()?;
        let Some(content) = content else {
            self.push(entry, None)?;
            return base.map_or(Ok(()), |base| self.tally.bury(&base));
        };
        let stored = match base {
            Some(base) if reusable => {
                if self.keep_if_equal(&mut entry, content, &base)? {
                    return Ok(());
                }
                self.tally.bury(&base)?;
                self.store(entry, content)?
            }
            Some(base) => {
                self.tally.bury(&base)?;
                self.store(entry, content)?
            }
            None => self.store(entry, content)?,
        };
        if let Stored::Vanished(path) = stored {
            vanished(self.writing, self.tally, &path);
        }
        Ok(())
    }

    /// Reads the file and, if it still is what the base has, refers to that.
    fn keep_if_equal(
        &mut self,
        entry: &mut Entry,
        content: &mut dyn Content,
        base: &Entry,
    ) -> Result<bool> {
        let digest = match content.open(entry) {
            // The store path meets the same and reports it.
            Err(OpenError::Vanished) => return Ok(false),
            Err(OpenError::Failed(error)) => return Err(error),
            Ok(mut reader) => {
                if base.size != entry.size || base.sparse != entry.sparse {
                    return Ok(false);
                }
                self.digest(entry, &mut *reader)?
            }
        };
        let changed = content.changed();
        if changed || Some(digest) != base.sha256 || !entry.same_metadata(base) {
            return Ok(false);
        }
        entry.sha256 = base.sha256;
        entry.segment.clone_from(&base.segment);
        entry.at = base.at;
        entry.parts.clone_from(&base.parts);
        let line = line_of(entry)?;
        self.tally.keep(entry, &line)?;
        Ok(true)
    }

    fn digest(&self, entry: &Entry, reader: &mut dyn Read) -> Result<[u8; 32]> {
        let mut digest = Digest::default();
        let mut buffer = vec![0; 256 << 10];
        let whole = vec![(0, entry.size)];
        let mut logical = 0;
        for &(offset, length) in entry.sparse.as_ref().unwrap_or(&whole) {
            digest.update_zeros(offset - logical);
            let mut left = length;
            while left > 0 {
                self.writing.cx.reporter.check()?;
                let want = left.min(buffer.len() as u64) as usize;
                let read = reader.read(&mut buffer[..want]).map_err(|error| {
                    Error::io(format!("failed to read `{}`", entry.display_path()), error)
                })?;
                if read == 0 {
                    break;
                }
                digest.update(&buffer[..read]);
                left -= read as u64;
            }
            logical = offset + length;
        }
        digest.update_zeros(entry.size - logical);
        Ok(digest.finish())
    }

    /// Stores a file with its content.
    pub fn store(&mut self, mut entry: Entry, content: &mut dyn Content) -> Result<Stored> {
        if content.is_open_ended() {
            return self.store_open_ended(entry, content);
        }
        let path = entry.path.clone();
        let expected = entry.clone();
        let reader = match content.open(&mut entry) {
            Ok(reader) => reader,
            Err(OpenError::Vanished) => return Ok(Stored::Vanished(path)),
            Err(OpenError::Failed(error)) => return Err(error),
        };
        // What the file is now is what counts, but its owner's name is not looked up again.
        if (entry.uid, entry.gid) != (expected.uid, expected.gid) {
            (entry.user, entry.group) = (None, None);
        }
        let replaced = entry.ino != expected.ino;
        let size = entry.size;
        let large = size > self.writing.cx.tuning.large_file;
        self.last_was_large = large;
        let mut reader = reader;
        if large {
            // One at a time: its frames are compressed on all cores, and hold memory for all.
            let _turn = self.writing.large.lock();
            let sparse = entry.sparse.clone();
            let mut whole = stream::Filled::new(&mut *reader, sparse, size);
            let workers = self.writing.cx.tuning.workers;
            let stored = stream::store(self.writing, self.tally, &mut whole, workers)?;
            let short = whole.short();
            drop(reader);
            entry.sha256 = Some(stored.sha256);
            entry.parts = stored.parts;
            entry.changed = content.changed() || short;
            self.report(&entry);
            if self.keep_settled {
                self.settled.push(entry);
            } else {
                self.tally.add_entry(&entry)?;
            }
        } else {
            self.push(entry, Some(&mut *reader))?;
            drop(reader);
            let changed = content.changed();
            if let Some((_, segment)) = &mut self.open
                && let Some(entry) = segment.last_mut()
            {
                entry.changed |= changed;
                if entry.fingerprint.is_some() {
                    entry.sha256 = None;
                }
                let entry = entry.clone();
                self.report(&entry);
            }
        }
        Ok(if replaced { Stored::Replaced } else { Stored::Yes })
    }

    /// Stores content whose length nobody knows: a member if it turns out to be short, for a tar
    /// header begins with the size; slices otherwise.
    fn store_open_ended(&mut self, mut entry: Entry, content: &mut dyn Content) -> Result<Stored> {
        let mut reader = match content.open(&mut entry) {
            Ok(reader) => reader,
            Err(OpenError::Vanished) => return Ok(Stored::Vanished(entry.path)),
            Err(OpenError::Failed(error)) => return Err(error),
        };
        let short = SHORT.min(self.writing.cx.tuning.large_file);
        let failed =
            |error| Error::io(format!("failed to read `{}`", display_path(&entry.path)), error);
        let mut head = Vec::new();
        reader.by_ref().take(short + 1).read_to_end(&mut head).map_err(failed)?;
        if head.len() as u64 <= short {
            drop(reader);
            entry.size = head.len() as u64;
            self.report(&entry);
            self.push(entry, Some(&mut &head[..]))?;
            return Ok(Stored::Yes);
        }
        let mut whole = io::Cursor::new(head).chain(reader);
        let compressors = self.writing.compressors;
        let stored = stream::store(self.writing, self.tally, &mut whole, compressors)?;
        entry.size = stored.size;
        entry.sha256 = Some(stored.sha256);
        entry.parts = stored.parts;
        self.report(&entry);
        self.tally.add_entry(&entry)?;
        Ok(Stored::Yes)
    }

    /// The increments that were pushed.
    pub fn layering(&mut self) -> &mut Layering {
        &mut self.layering
    }

    /// The entry pushed last, if it is still in the current segment.
    pub fn last_mut(&mut self) -> Option<&mut Entry> {
        self.open.as_mut().and_then(|(_, segment)| segment.last_mut())
    }

    /// Counts a file as stored by this backup.
    pub fn report(&self, entry: &Entry) {
        self.tally.with_counts(|counts| {
            counts.new_files += 1;
            counts.new_bytes += entry.size;
        });
        if entry.changed {
            let path = entry.display_path();
            let message = format!("`{path}` changed while it was read");
            self.writing.cx.reporter.warn(WarningCode::Changed, path, message);
        }
    }

    /// Whether the file stored last became a stream of its own.
    pub fn last_was_large(&self) -> bool {
        self.last_was_large
    }

    /// Opens a segment, if none is open: it is written even if nothing follows.
    pub fn open(&mut self) -> Result<()> {
        self.current().map(drop)
    }

    /// The number of the current segment.
    pub fn number(&self) -> Option<u32> {
        self.open.as_ref().map(|(reference, _)| reference.number)
    }

    /// Adds a member to the current segment.
    pub fn push(&mut self, mut entry: Entry, content: Option<&mut dyn Read>) -> Result<()> {
        self.writing.cx.reporter.check()?;
        let progress = self.writing.cx.reporter.progress().clone();
        let mut settled = std::mem::take(&mut self.settled);
        let (reference, segment) = self.current()?;
        entry.segment = Some(reference.clone());
        match content {
            Some(content) => {
                let mut counted = Counted { inner: content, progress: &progress };
                segment.push(entry, Some(&mut counted), &mut settled)?;
            }
            None => {
                segment.push(entry, None, &mut settled)?;
            }
        }
        self.settled = settled;
        self.flush_settled()
    }

    fn current(&mut self) -> Result<&mut (SegmentRef, TarSegment<Upload>)> {
        if self.open.is_none() {
            let reference = SegmentRef {
                backup: self.writing.backup.clone(),
                number: self.tally.next_segment(),
            };
            let path = layout::segment(&reference, SegmentType::Tar, self.writing.is_encrypted());
            let upload = self.writing.source.upload(&path, &self.writing.cx.reporter);
            let (recipients, level) = (&self.writing.content, self.writing.level);
            let segment = match self.compressors {
                0 => TarSegment::new(upload, recipients, level),
                threads => TarSegment::parallel(upload, recipients, level, threads),
            };
            let segment = segment.map_err(|error| Error::io("failed to start a segment", error))?;
            self.open = Some((reference, segment));
        }
        self.open.as_mut().ok_or_else(|| Error::failed("no segment is open"))
    }

    /// Ends the current segment if it is large enough. Called between groups that must not be
    /// divided.
    pub fn end_if_full(&mut self) -> Result<()> {
        if self.is_full() { self.finish() } else { Ok(()) }
    }

    /// Whether the current segment is large enough to be ended.
    pub fn is_full(&self) -> bool {
        let limit = self.writing.cx.tuning.segment_size;
        self.open.as_ref().is_some_and(|(_, segment)| segment.compressed() >= limit)
    }

    /// Ends the current segment.
    pub fn finish(&mut self) -> Result<()> {
        let Some((reference, segment)) = self.open.take() else { return Ok(()) };
        let done = segment.finish()?;
        let segment = Segment {
            path: layout::segment(&reference, SegmentType::Tar, self.writing.is_encrypted()),
            kind: SegmentType::Tar,
            size: done.size,
            sha256: done.sha256,
            version: None,
            plain: done.plain,
            content: done.content,
            live: done.content,
            dead: None,
        };
        self.tally.add_segment(segment, done.out.finish_later()?)?;
        self.settled.extend(done.entries);
        self.flush_settled()
    }

    fn flush_settled(&mut self) -> Result<()> {
        if self.keep_settled {
            return Ok(());
        }
        for settled in self.settled.drain(..) {
            match self.layering.settle(settled) {
                Some(entry) if entry.layers.is_empty() => self.tally.add_entry(&entry)?,
                Some(entry) => self.tally.add_layered(&entry, &self.writing.backup)?,
                None => {}
            }
        }
        Ok(())
    }
}

/// What became of a file.
pub enum Stored {
    /// It is in a segment.
    Yes,
    /// What is in a segment is another file, which took the name since it was listed.
    Replaced,
    /// It was gone when its turn came.
    Vanished(Vec<u8>),
}

/// Notes that a file was gone when its turn came.
pub fn vanished(writing: &Writing<'_>, tally: &Tally, path: &[u8]) {
    tally.with_counts(|counts| counts.vanished += 1);
    let path = crate::archive::entry::display_path(path);
    let message = format!("`{path}` was removed before it could be read");
    writing.cx.reporter.warn(WarningCode::Vanished, path, message);
}

/// Whether an entry belongs into the last segment: directories, and names no list can hold.
pub fn goes_last(entry: &Entry) -> bool {
    entry.kind == EntryType::Dir || entry.is_awkward()
}

struct Counted<'a> {
    inner: &'a mut dyn Read,
    progress: &'a crate::telemetry::Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(out)?;
        self.progress.add_bytes(read as u64);
        Ok(read)
    }
}
