//! Where a source brings its entries: compared with the base, and kept or handed to workers.

use std::io::Read;
use std::sync::mpsc::SyncSender;

use super::ahead::{Ahead, Lined};
use super::arrival::{Arrivals, BesideObjects, Known};
use super::base::Base;
use super::groups::{BaseName, Groups};
use super::session::Writing;
use super::stream;
use super::tally::Tally;
use super::worker::{Batch, Job, goes_last};
use crate::archive::entry::{Entry, EntryType, compare, sort_key};
use crate::archive::index::line_of;
use crate::archive::sort::Sorter;
use crate::error::{Error, Result};
use crate::source::{Arriving, EntrySink, Increment, Item};

/// Content of one batch: enough to keep a worker busy, little enough to share work evenly.
const BATCH_BYTES: u64 = 4 << 20;
const BATCH_FILES: usize = 128;
const LAST_BUDGET: usize = 8 << 20;

/// The sink of a backup.
pub struct Sink<'a> {
    writing: &'a Writing<'a>,
    tally: &'a Tally,
    batches: Option<SyncSender<Batch>>,
    batch: Batch,
    batch_bytes: u64,
    base: Option<BaseSide<'a>>,
    /// Files with several names.
    links: Groups,
    /// Entries of the last segment: other than directories first, then those; by path.
    last: Sorter,
    changed: bool,
    previous: Option<Vec<u8>>,
    /// Where files go of a source that brings them as they come.
    arrivals: Option<Arrivals<'a>>,
    paranoid: bool,
    /// Decide and store nothing.
    dry_run: bool,
}

struct BaseSide<'a> {
    base: &'a Base,
    index: Ahead,
    /// The next entry, with the line that it is written back as if it is kept.
    next: Option<Lined>,
}

impl BaseSide<'_> {
    fn advance(&mut self) -> Result<Option<Lined>> {
        let next = self.index.next_entry()?;
        Ok(std::mem::replace(&mut self.next, next))
    }
}

/// Adds an entry to those of the last segment: other than directories first; by path.
pub fn push_last(last: &mut Sorter, entry: &Entry) -> Result<()> {
    let mut key = vec![u8::from(entry.kind == EntryType::Dir)];
    key.extend(sort_key(&entry.path));
    last.push(key, line_of(entry)?)
}

/// What is left to be done when a source has brought everything.
pub struct Gathered {
    /// Files with several names that are to be stored, by device, inode and path.
    pub links: Sorter,
    /// Entries of the last segment.
    pub last: Sorter,
    /// Anything differs from the base.
    pub changed: bool,
    /// What only the next incremental needs.
    pub beside: BesideObjects,
}

impl<'a> Sink<'a> {
    /// A sink that compares with `base`, whose index is read alongside.
    pub fn new(
        writing: &'a Writing<'a>,
        tally: &'a Tally,
        batches: SyncSender<Batch>,
        base: Option<(&'a Base, Ahead)>,
        (paranoid, dry_run): (bool, bool),
    ) -> Result<Self> {
        let mut base = base.map(|(base, index)| BaseSide { base, index, next: None });
        if let Some(side) = &mut base {
            side.advance()?;
        }
        Ok(Self {
            writing,
            tally,
            batches: Some(batches),
            batch: Batch::new(),
            batch_bytes: 0,
            changed: base.is_none(),
            base,
            links: Groups::new(),
            last: Sorter::new(LAST_BUDGET),
            previous: None,
            arrivals: None,
            paranoid,
            dry_run,
        })
    }

    /// Takes what the source brings in the order it comes. There must be no base to walk along.
    #[must_use]
    pub fn in_any_order(mut self, known: Option<Known<'a>>) -> Self {
        self.arrivals = Some(Arrivals::new(self.writing, self.tally, known));
        self
    }

    fn arrivals(&mut self) -> Result<&mut Arrivals<'a>> {
        self.arrivals.as_mut().ok_or_else(|| Error::failed("a file came out of order"))
    }

    fn next_arrival(&mut self) -> Result<&mut Arrivals<'a>> {
        if self.tally.has_failed() {
            return Err(Error::failed("storing failed"));
        }
        self.writing.cx.reporter.progress().add_file();
        self.arrivals()
    }

    /// The source has brought everything.
    pub fn finish(mut self) -> Result<Gathered> {
        let mut beside = BesideObjects::default();
        if let Some(arrivals) = self.arrivals.take() {
            beside = arrivals.finish()?;
        }
        while self.base.as_ref().is_some_and(|side| side.next.is_some()) {
            self.removed()?;
        }
        self.send()?;
        self.batches = None;
        let (links, changed) = self.links.resolve(self.tally, &mut self.last)?;
        Ok(Gathered { links, last: self.last, changed: self.changed || changed, beside })
    }

    /// Drops the base's next entry: the source has nothing there any more.
    fn removed(&mut self) -> Result<()> {
        self.changed = true;
        if let Some(side) = &mut self.base
            && let Some((gone, _)) = side.advance()?
        {
            self.tally.bury(&gone)?;
        }
        Ok(())
    }

    /// The base's entry at `path` with its line, after dropping those before it.
    fn base_entry(&mut self, path: &[u8]) -> Result<Option<(Entry, Vec<u8>)>> {
        loop {
            let Some(side) = &mut self.base else { return Ok(None) };
            match side.next.as_ref().map(|(next, _)| compare(&next.path, path)) {
                Some(std::cmp::Ordering::Less) => self.removed()?,
                Some(std::cmp::Ordering::Equal) => return side.advance(),
                _ => return Ok(None),
            }
        }
    }

    fn check_order(&mut self, path: &[u8]) -> Result<()> {
        if let Some(previous) = &mut self.previous {
            if compare(previous, path).is_ge() {
                return Err(Error::failed(format!(
                    "the source brought `{}` out of order",
                    crate::archive::entry::display_path(path)
                )));
            }
            previous.clear();
            previous.extend_from_slice(path);
        } else {
            self.previous = Some(path.to_vec());
        }
        Ok(())
    }

    fn queue(&mut self, job: Job) -> Result<()> {
        self.changed = true;
        if self.dry_run {
            return self.pretend(&job);
        }
        // What may be long is not kept waiting behind others, nor others behind it.
        let alone = job.content.as_ref().is_some_and(|content| content.is_open_ended());
        if alone {
            self.send()?;
        }
        self.batch_bytes += job.entry.size;
        self.batch.push(job);
        if alone || self.batch_bytes >= BATCH_BYTES || self.batch.len() >= BATCH_FILES {
            self.send()?;
        }
        Ok(())
    }

    /// Counts what a real run would store.
    fn pretend(&self, job: &Job) -> Result<()> {
        if job.content.is_some() {
            self.tally.with_counts(|counts| {
                counts.new_files += 1;
                counts.new_bytes += job.entry.size;
            });
        }
        self.tally.add_entry(&job.entry)
    }

    fn send(&mut self) -> Result<()> {
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if let (false, Some(batches)) = (batch.is_empty(), &self.batches) {
            batches.send(batch).map_err(|_| Error::failed("the threads that store are gone"))?;
        }
        Ok(())
    }

    /// Whether the base's entry stands for the file as it is, without reading it.
    fn is_unchanged(&self, entry: &Entry, base: &Entry) -> bool {
        // A further name of a file is found as a file; the index knows it as a hard link.
        let same_type = base.kind == entry.kind
            || (entry.kind == EntryType::File && base.kind == EntryType::Hardlink);
        match entry.kind {
            EntryType::File => {
                !self.paranoid
                    && same_type
                    && !base.racy
                    && !base.changed
                    && base.size == entry.size
                    && base.mtime == entry.mtime
                    && base.ctime == entry.ctime
                    && base.ino == entry.ino
            }
            _ => base.same_metadata(entry) && base.mtime == entry.mtime,
        }
    }
}

impl EntrySink for Sink<'_> {
    fn entry(&mut self, item: Item) -> Result<()> {
        if self.tally.has_failed() {
            return Err(Error::failed("storing failed"));
        }
        let Item { entry, link_group, content } = item;
        self.writing.cx.reporter.progress().add_file();
        if let Some(arrivals) = &mut self.arrivals {
            // Two of one path are noticed when the index is written.
            return if goes_last(&entry) {
                push_last(&mut self.last, &entry)
            } else {
                arrivals.empty(entry)
            };
        }
        self.check_order(&entry.path)?;
        let base = self.base_entry(&entry.path)?;
        let reusable = match (&self.base, &base) {
            (Some(side), Some((base, _))) => side.base.can_refer_to(base),
            _ => false,
        };
        let unchanged = base.as_ref().is_some_and(|(base, _)| self.is_unchanged(&entry, base));

        if let Some(device) = link_group {
            let base = base.map(|(entry, line)| BaseName { entry, line, unchanged, reusable });
            if unchanged {
                self.writing.cx.reporter.progress().add_bytes(entry.size);
            }
            return self.links.push(device, &entry, base.as_ref());
        }
        match (unchanged && reusable, base) {
            (true, Some((base, line))) => {
                if entry.kind == EntryType::File {
                    self.writing.cx.reporter.progress().add_bytes(entry.size);
                }
                self.tally.keep(&base, &line)
            }
            // What lies in the base's last segment is shared with all of the base or stored again.
            (_, base) if goes_last(&entry) => {
                self.changed |= !unchanged;
                // A directory now where a file or a link was: that one is not wanted any more.
                if let Some((base, _)) = base {
                    self.tally.bury(&base)?;
                }
                push_last(&mut self.last, &entry)
            }
            (_, base) => {
                let base = base.map(|(base, _)| base);
                self.queue(Job { entry, content, base, reusable })
            }
        }
    }

    fn file(&mut self, entry: Entry, size: Option<u64>, input: &mut dyn Arriving) -> Result<()> {
        self.next_arrival()?.file(entry, size, input)
    }

    fn earlier(&mut self, path: &[u8]) -> Result<Option<Entry>> {
        self.arrivals()?.earlier(path)
    }

    fn increment(
        &mut self,
        file: &Entry,
        increment: Increment,
        input: &mut dyn Arriving,
    ) -> Result<()> {
        self.next_arrival()?.increment(file, increment, input)
    }

    fn keep(&mut self, file: &Entry) -> Result<()> {
        self.next_arrival()?.keep(file)
    }

    fn listing(&mut self, entry: Entry, input: &mut dyn Arriving) -> Result<()> {
        self.next_arrival()?.listing(entry, input)
    }

    fn page_digests(&mut self, digests: &[u8]) -> Result<()> {
        self.arrivals()?.page_digests(digests)
    }

    fn stream(&mut self, mut entry: Entry, input: &mut dyn Read) -> Result<()> {
        self.changed = true;
        self.writing.cx.reporter.progress().add_file();
        let workers = self.writing.cx.tuning.workers;
        let stored = stream::store(self.writing, self.tally, input, workers)?;
        entry.size = stored.size;
        entry.sha256 = Some(stored.sha256);
        entry.parts = stored.parts;
        self.tally.with_counts(|counts| {
            counts.new_files += 1;
            counts.new_bytes += entry.size;
        });
        self.tally.add_entry(&entry)
    }
}
