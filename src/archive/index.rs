//! The complete listing of a backup: JSON lines in frames, sorted by path.

use std::io::{self, BufRead, BufReader, Read, Write};

use super::entry::{Entry, compare};
use super::frame::{FrameReader, FrameWriter};
use crate::error::{Error, Result};

/// The longest line a reader accepts: names of 4 KiB, many extents and attributes fit easily.
pub const LINE_LIMIT: usize = 16 << 20;

const HEADER: &str = "{\"backstay_index\":1}";

/// Writes an index. Entries must come in order.
pub struct IndexWriter<W: Write> {
    frames: FrameWriter<W>,
    entries: u64,
}

impl<W: Write> IndexWriter<W> {
    /// Starts an index in `out`.
    pub fn new(out: W, level: i32) -> io::Result<Self> {
        let mut frames = FrameWriter::new(out, level)?;
        frames.write_all(HEADER.as_bytes())?;
        frames.write_all(b"\n")?;
        Ok(Self { frames, entries: 0 })
    }

    /// Adds an entry as its line, without the line break.
    pub fn push_line(&mut self, line: &[u8]) -> io::Result<()> {
        self.frames.write_all(line)?;
        self.frames.write_all(b"\n")?;
        self.entries += 1;
        Ok(())
    }

    /// Ends the index: the inner writer and the number of entries.
    pub fn finish(self) -> io::Result<(W, u64)> {
        let (out, _) = self.frames.finish()?;
        Ok((out, self.entries))
    }
}

/// The line of an entry, without the line break.
pub fn line_of(entry: &Entry) -> Result<Vec<u8>> {
    serde_json::to_vec(entry).map_err(|error| {
        Error::failed(format!("failed to write the index entry of {}", entry.display_path()))
            .with_source(error)
    })
}

/// Reads an index, checking order and form.
pub struct IndexReader<R> {
    lines: BufReader<FrameReader<R>>,
    name: String,
    line: Vec<u8>,
    number: u64,
    previous: Option<Vec<u8>>,
    expected: Option<u64>,
    failed: bool,
}

impl<R: Read> IndexReader<R> {
    /// Reads the decrypted object `input`; `name` names it in errors. `expected` is the number of
    /// entries that the manifest gives.
    pub fn new(input: R, name: &str, expected: Option<u64>) -> Result<Self> {
        let frames = FrameReader::new(input, 0)
            .map_err(|error| Error::io(format!("failed to read {name}"), error))?;
        let mut reader = Self {
            lines: BufReader::with_capacity(256 << 10, frames),
            name: name.to_owned(),
            line: Vec::new(),
            number: 0,
            previous: None,
            expected,
            failed: false,
        };
        if !reader.next_line()? {
            return Err(Error::damaged(format!("{name} is empty")));
        }
        reader.check_header()?;
        Ok(reader)
    }

    fn check_header(&self) -> Result<()> {
        let version = serde_json::from_slice::<serde_json::Value>(&self.line)
            .ok()
            .and_then(|value| value.get("backstay_index")?.as_u64());
        match version {
            Some(1) => Ok(()),
            Some(newer) => Err(Error::unsupported(format!(
                "{} has index format {newer}; this program reads 1",
                self.name
            ))
            .hint("use a newer backstay")),
            None => Err(Error::damaged(format!("{} is not an index", self.name))),
        }
    }

    fn next_line(&mut self) -> Result<bool> {
        self.line.clear();
        self.number += 1;
        let read = (&mut self.lines)
            .take(LINE_LIMIT as u64 + 1)
            .read_until(b'\n', &mut self.line)
            .map_err(|error| self.read_error(error))?;
        if read == 0 {
            return Ok(false);
        }
        if self.line.pop() != Some(b'\n') {
            return Err(Error::damaged(format!(
                "{} is truncated or has too long a line ({})",
                self.name, self.number
            )));
        }
        Ok(true)
    }

    fn read_error(&self, error: io::Error) -> Error {
        let damaged =
            matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof);
        let message = format!("failed to read {}", self.name);
        if damaged { Error::damaged(message).with_source(error) } else { Error::io(message, error) }
    }

    /// The bytes of the line the last entry came from.
    pub fn last_line(&self) -> &[u8] {
        &self.line
    }

    /// The next entry.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        if !self.next_line()? {
            let found = self.number - 2;
            return match self.expected {
                Some(expected) if expected != found => Err(Error::damaged(format!(
                    "{} has {found} entries and the manifest says {expected}",
                    self.name
                ))),
                _ => Ok(None),
            };
        }
        let entry: Entry = serde_json::from_slice(&self.line).map_err(|error| {
            Error::damaged(format!("{}, line {}, is no entry", self.name, self.number))
                .with_source(error)
        })?;
        if let Some(previous) = &self.previous
            && compare(previous, &entry.path).is_ge()
        {
            return Err(Error::damaged(format!(
                "{}, line {}, is out of order",
                self.name, self.number
            )));
        }
        match &mut self.previous {
            Some(previous) => previous.clone_from(&entry.path),
            none => *none = Some(entry.path.clone()),
        }
        Ok(Some(entry))
    }
}

impl<R: Read> Iterator for IndexReader<R> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.next_entry().transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}
