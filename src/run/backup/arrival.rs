//! Files that come as they come, each to be stored on the spot: what can be read only once.

use std::io::{self, Read};
use std::sync::Arc;

use super::base::Base;
use super::beside::{Beside, Noted};
use super::layering::Waiting;
use super::session::Writing;
use super::stream;
use super::tally::Tally;
use super::worker::SegmentSeries;
use crate::archive::digest::Digest;
use crate::archive::entry::Entry;
use crate::archive::increment::increment_path;
use crate::archive::index::line_of;
use crate::archive::manifest::StoredObject;
use crate::error::{Error, Result};
use crate::source::{Arriving, Earlier, Increment};
use crate::store::layout;

/// Content of unknown length that is kept in memory to learn its length.
const SHORT: u64 = 4 << 20;

/// What is known of the backup that a new one builds on.
#[derive(Clone)]
pub struct Known<'a> {
    /// What of it may be referred to.
    pub base: &'a Base,
    /// Its files.
    pub earlier: Arc<Earlier>,
}

impl Known<'_> {
    /// Its file of this path, if the content may be referred to.
    fn file(&self, path: &[u8]) -> Result<Option<Entry>> {
        let found = self.earlier.file(path)?;
        Ok(found.filter(|entry| self.base.can_refer_to(entry)))
    }
}

/// Objects that only the next incremental needs.
#[derive(Default)]
pub struct BesideObjects {
    /// The server's list of files.
    pub listing: Option<StoredObject>,
    /// Digests of pages.
    pub pages: Option<StoredObject>,
}

/// Stores files in the order they arrive. Frames are compressed on all cores, because only one
/// thread can read.
pub struct Arrivals<'a> {
    writing: &'a Writing<'a>,
    tally: &'a Tally,
    series: SegmentSeries<'a>,
    known: Option<Known<'a>>,
    pages: Option<Beside>,
    beside: BesideObjects,
}

impl<'a> Arrivals<'a> {
    /// Nothing yet.
    pub fn new(writing: &'a Writing<'a>, tally: &'a Tally, known: Option<Known<'a>>) -> Self {
        let threads = writing.cx.tuning.workers;
        let series = SegmentSeries::new(writing, tally).compressed_by(threads);
        let beside = BesideObjects::default();
        Self { writing, tally, series, known, pages: None, beside }
    }

    /// What the earlier backup has at this path, if it may be referred to.
    pub fn earlier(&self, path: &[u8]) -> Result<Option<Entry>> {
        self.known.as_ref().map_or(Ok(None), |known| known.file(path))
    }

    /// Refers to content of the earlier backup.
    pub fn keep(&self, file: &Entry) -> Result<()> {
        self.writing.cx.reporter.progress().add_bytes(file.size);
        self.tally.keep(file, &line_of(file)?)
    }

    /// Stores an increment of a file.
    pub fn increment(
        &mut self,
        file: &Entry,
        increment: Increment,
        input: &mut dyn Arriving,
    ) -> Result<()> {
        let Increment { size, part, more } = increment;
        let path = increment_path(&file.path, part);
        let member = Entry { size, layers: Vec::new(), pages: None, ..file.clone() };
        let member = Entry { path: path.clone(), ..member };
        let shown = member.display_path();
        self.series.end_if_full()?;
        self.series.layering().push(Waiting { member: path, file: file.clone(), part, more });
        let mut content = Counted { input: &mut *input, read: 0 };
        self.series.push(member, Some(&mut content))?;
        content.check(size, &shown)?;
        if let Some(file) = self.series.layering().last_mut() {
            input.ended(file)?;
        }
        self.tally.with_counts(|counts| {
            counts.new_files += u64::from(!more);
            counts.new_bytes += size;
        });
        Ok(())
    }

    /// Stores the server's list of files, and once more for the next incremental.
    pub fn listing(&mut self, entry: Entry, input: &mut dyn Arriving) -> Result<()> {
        let path = layout::listing(&self.writing.backup, self.writing.is_encrypted());
        let mut beside = Beside::create(self.writing, path)?;
        self.file(entry, None, &mut Noted { input, beside: &mut beside })?;
        self.beside.listing = Some(beside.finish()?);
        Ok(())
    }

    /// Stores digests of pages.
    pub fn page_digests(&mut self, digests: &[u8]) -> Result<()> {
        let pages = match &mut self.pages {
            Some(pages) => pages,
            none => {
                let path = layout::pages(&self.writing.backup, self.writing.is_encrypted());
                none.insert(Beside::create(self.writing, path)?)
            }
        };
        pages.add(digests)
    }

    /// A short file is compared with what the earlier backup has before it is stored.
    fn same_as_earlier(&self, entry: &Entry, content: &[u8]) -> Result<Option<Entry>> {
        let Some(earlier) = self.earlier(&entry.path)? else { return Ok(None) };
        let mut digest = Digest::default();
        digest.update(content);
        let same = earlier.size == content.len() as u64
            && earlier.sha256 == Some(digest.finish())
            && earlier.layers.is_empty()
            && earlier.same_metadata(entry);
        Ok(same.then_some(earlier))
    }

    /// Stores what has no content.
    pub fn empty(&mut self, entry: Entry) -> Result<()> {
        self.series.push(entry, None)
    }

    /// Stores a file.
    pub fn file(
        &mut self,
        mut entry: Entry,
        size: Option<u64>,
        input: &mut dyn Arriving,
    ) -> Result<()> {
        let limit = self.writing.cx.tuning.large_file;
        let path = entry.display_path();
        let mut head = Vec::new();
        let size = if size.is_some() {
            size
        } else {
            let short = SHORT.min(limit);
            let read = (&mut *input).take(short + 1).read_to_end(&mut head);
            read.map_err(|error| Error::io(format!("failed to read `{path}`"), error))?;
            Some(head.len() as u64).filter(|size| *size <= short)
        };
        if let Some(size) = size.filter(|size| *size <= SHORT && self.known.is_some()) {
            // One byte more, to notice what is longer than it should be.
            let left = size + 1 - (head.len() as u64).min(size);
            let read = (&mut *input).take(left).read_to_end(&mut head);
            read.map_err(|error| Error::io(format!("failed to read `{path}`"), error))?;
            if head.len() as u64 == size
                && let Some(earlier) = self.same_as_earlier(&entry, &head)?
            {
                let mut entry = entry.with_content_of(&earlier);
                input.ended(&mut entry)?;
                return self.keep(&entry);
            }
        }
        let mut content = Counted { input: io::Cursor::new(head).chain(&mut *input), read: 0 };
        if let Some(size) = size.filter(|size| *size <= limit)
            && !entry.is_awkward()
        {
            self.series.end_if_full()?;
            entry.size = size;
            self.series.push(entry, Some(&mut content))?;
            content.check(size, &path)?;
            let Some(entry) = self.series.last_mut() else { return Ok(()) };
            input.ended(entry)?;
            let entry = entry.clone();
            self.series.report(&entry);
            return Ok(());
        }
        // No list of members can hold an awkward name, and the last segment is written when the
        // content is long gone: slices have no names.
        let workers = self.writing.cx.tuning.workers;
        let stored = stream::store(self.writing, self.tally, &mut content, workers)?;
        if let Some(size) = size {
            content.check(size, &path)?;
        }
        entry.size = stored.size;
        entry.sha256 = Some(stored.sha256);
        entry.parts = stored.parts;
        input.ended(&mut entry)?;
        self.series.report(&entry);
        self.tally.add_entry(&entry)
    }

    /// Ends the last segment, and what lies beside.
    pub fn finish(mut self) -> Result<BesideObjects> {
        self.series.finish()?;
        self.beside.pages = self.pages.take().map(Beside::finish).transpose()?;
        Ok(self.beside)
    }
}

/// Counts what was read, to tell an input of another length than was said.
struct Counted<R> {
    input: R,
    read: u64,
}

impl<R: Read> Counted<R> {
    fn check(&mut self, size: u64, path: &str) -> Result<()> {
        let more = self
            .read(&mut [0])
            .map_err(|error| Error::io(format!("failed to read `{path}`"), error))?;
        if self.read != size {
            let longer = if more > 0 { "longer" } else { "shorter" };
            return Err(Error::failed(format!(
                "`{path}` is {longer} than the {size} bytes it was announced with"
            )));
        }
        Ok(())
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(out)?;
        self.read += read as u64;
        Ok(read)
    }
}
