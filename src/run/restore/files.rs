//! The files of a backup, for a source that puts them back some other way than as files.

use std::collections::BTreeMap;
use std::io::{self, Read};

use super::output::ContentReader;
use super::request::Request;
use crate::archive::entry::{Entry, EntryType, is_safe};
use crate::archive::frame::FRAME_SIZE;
use crate::error::{Error, Result};
use crate::run::Context;
use crate::run::hold;
use crate::source::StoredFiles;
use crate::store::Held;

/// The files of the backup that a request names. While it exists the backup is held: prune leaves
/// it alone.
pub struct BackupFiles<'a> {
    request: &'a Request<'a>,
    cx: &'a Context,
    paths: Vec<String>,
    entries: BTreeMap<String, Entry>,
    _held: Option<Held>,
}

impl<'a> BackupFiles<'a> {
    /// Reads the index. Sources of this kind have few files.
    pub fn open(request: &'a Request<'a>, cx: &'a Context) -> Result<Self> {
        let held = if request.dry_run {
            None
        } else {
            hold::hold(&request.source, request.manifest, "restore", cx)?
        };
        let (mut paths, mut entries) = (Vec::new(), BTreeMap::new());
        for entry in request.source.index(request.manifest, &request.keys, &cx.reporter.fresh())? {
            let entry = entry?;
            if entry.kind != EntryType::File || !is_safe(&entry.path) {
                continue;
            }
            let Ok(path) = String::from_utf8(entry.path.clone()) else { continue };
            paths.push(path.clone());
            entries.insert(path, entry);
        }
        Ok(Self { request, cx, paths, entries, _held: held })
    }
}

impl BackupFiles<'_> {
    /// What the index says of a file.
    pub fn entry(&self, path: &str) -> Option<&Entry> {
        self.entries.get(path)
    }
}

impl StoredFiles for BackupFiles<'_> {
    fn paths(&self) -> &[String] {
        &self.paths
    }

    fn open(&self, path: &str) -> Result<Box<dyn Read + '_>> {
        let entry = self
            .entries
            .get(path)
            .ok_or_else(|| Error::damaged(format!("the backup has no `{path}`")))?;
        Ok(Box::new(Proven::new(ContentReader::of(self.request, self.cx, entry.clone())?)))
    }
}

/// Gives a byte only when the frame that it came in has been read to its end, where its checksum
/// is: a frame has at most [`FRAME_SIZE`] bytes, so those that were read last are held back. What a
/// server has been told cannot be taken back. The last ones are given when all of the content was
/// found to be what was backed up.
struct Proven<R> {
    inner: R,
    held: Vec<u8>,
    start: usize,
    at_end: bool,
}

/// How much is read at once.
const STEP: usize = 256 << 10;

impl<R: Read> Proven<R> {
    fn new(inner: R) -> Self {
        Self { inner, held: Vec::new(), start: 0, at_end: false }
    }

    /// Bytes that may be given.
    fn proven(&self) -> usize {
        let held = self.held.len() - self.start;
        if self.at_end { held } else { held.saturating_sub(FRAME_SIZE) }
    }

    fn read_on(&mut self) -> io::Result<()> {
        if self.start >= FRAME_SIZE {
            self.held.drain(..self.start);
            self.start = 0;
        }
        let length = self.held.len();
        self.held.resize(length + STEP, 0);
        let read = self.inner.read(&mut self.held[length..]);
        self.held.truncate(length + read.as_ref().map_or(0, |read| *read));
        self.at_end = read? == 0;
        Ok(())
    }
}

impl<R: Read> Read for Proven<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.proven() == 0 && !self.at_end {
            self.read_on()?;
        }
        let given = self.proven().min(out.len());
        out[..given].copy_from_slice(&self.held[self.start..][..given]);
        self.start += given;
        Ok(given)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// Bytes, and then an error.
    struct Broken(io::Cursor<Vec<u8>>);

    impl Read for Broken {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            match self.0.read(out)? {
                0 => Err(io::Error::other("damaged")),
                read => Ok(read),
            }
        }
    }

    #[test]
    fn a_frame_that_may_be_damaged_is_held_back() {
        let plain: Vec<u8> = (0..3 * FRAME_SIZE as u32 + 12_345).map(|i| (i >> 7) as u8).collect();
        let mut all = Vec::new();
        Proven::new(&plain[..]).read_to_end(&mut all).unwrap();
        assert_eq!(all, plain);
        let mut some = Vec::new();
        let mut broken = Proven::new(Broken(io::Cursor::new(plain.clone())));
        broken.read_to_end(&mut some).unwrap_err();
        assert_eq!(some.len(), plain.len() - FRAME_SIZE);
        assert!(plain.starts_with(&some));
    }
}
