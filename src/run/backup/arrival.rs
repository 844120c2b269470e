//! Files that come as they come, each to be stored on the spot: what can be read only once.

use std::io::{self, Read};

use super::session::Writing;
use super::stream;
use super::tally::Tally;
use super::worker::SegmentSeries;
use crate::archive::entry::Entry;
use crate::error::{Error, Result};
use crate::source::Arriving;

/// Content of unknown length that is kept in memory to learn its length.
const SHORT: u64 = 4 << 20;

/// Stores files in the order they arrive. Frames are compressed on all cores, because only one
/// thread can read.
pub struct Arrivals<'a> {
    writing: &'a Writing<'a>,
    tally: &'a Tally,
    series: SegmentSeries<'a>,
}

impl<'a> Arrivals<'a> {
    /// Nothing yet.
    pub fn new(writing: &'a Writing<'a>, tally: &'a Tally) -> Self {
        let threads = writing.cx.tuning.workers;
        Self { writing, tally, series: SegmentSeries::new(writing, tally).compressed_by(threads) }
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

    /// Ends the last segment.
    pub fn finish(mut self) -> Result<()> {
        self.series.finish()
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
