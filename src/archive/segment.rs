//! The chain every stored byte goes through: frames, then age, then SHA-256, then the store.

use std::io::{self, Read, Write};

use super::crypt::{EncryptWriter, Recipients};
use super::digest::{Digest, DigestWriter};
use super::entry::{Entry, Position};
use super::frame::FrameWriter;
use super::member;
use crate::error::{Error, Result};

/// Encryption over a digest over `W`: what is between the frames and the store.
pub type SealedWriter<W> = EncryptWriter<DigestWriter<W>>;

/// Opens the lower half of the chain.
pub fn sealed<W: Write>(out: W, recipients: &Recipients) -> io::Result<SealedWriter<W>> {
    recipients.encrypt(DigestWriter::new(out))
}

/// Ends the lower half: the inner writer, and size and SHA-256 of the stored bytes.
pub fn unseal<W: Write>(writer: SealedWriter<W>) -> io::Result<(W, u64, String)> {
    let (out, digest) = writer.finish()?.into_parts();
    let size = digest.bytes();
    Ok((out, size, digest.finish_hex()))
}

/// What came of reading one file's content into a segment.
#[derive(Debug)]
pub struct Copied {
    /// SHA-256 of the logical content as stored.
    pub sha256: [u8; 32],
    /// The input ended before the size announced: zeros were stored for the rest.
    pub short: bool,
}

/// Writes a tree segment: a complete tar archive.
pub struct TarSegment<W: Write> {
    frames: FrameWriter<SealedWriter<W>>,
    settling: Settling,
    content: u64,
}

/// Entries whose place is not known yet.
#[derive(Default)]
struct Settling {
    /// The plain offset of their end, and they; in their place is the number of the frame.
    pending: Vec<(u64, Entry)>,
    /// Where each frame that was written ends.
    ends: Vec<u64>,
}

impl Settling {
    /// Gives the entries whose last frame is written their place.
    fn settle(&mut self, closed: &[(u64, u64)], done: &mut Vec<Entry>) {
        self.ends.extend(closed.iter().map(|(_, compressed)| compressed));
        let mut closed = closed.iter().peekable();
        let mut ready = 0;
        for (end, entry) in &mut self.pending {
            while closed.next_if(|(plain, _)| plain < end).is_some() {}
            let Some(&&(_, compressed)) = closed.peek() else { break };
            place(entry, &self.ends, compressed);
            ready += 1;
        }
        done.extend(self.pending.drain(..ready).map(|(_, entry)| entry));
    }
}

/// Entries that got their place, and what is left when a segment ends.
pub struct FinishedSegment<W> {
    /// The writer under the chain.
    pub out: W,
    /// The last entries.
    pub entries: Vec<Entry>,
    /// Stored bytes.
    pub size: u64,
    /// SHA-256 of the stored bytes.
    pub sha256: String,
    /// Bytes of the tar archive.
    pub plain: u64,
    /// Bytes of file content in it.
    pub content: u64,
}

impl<W: Write> TarSegment<W> {
    /// Starts a segment in `out`.
    pub fn new(out: W, recipients: &Recipients, level: i32) -> io::Result<Self> {
        Ok(Self::with(FrameWriter::new(sealed(out, recipients)?, level)?))
    }

    /// The same, compressed by `threads` threads: for who pushes from one thread only.
    pub fn parallel(
        out: W,
        recipients: &Recipients,
        level: i32,
        threads: usize,
    ) -> io::Result<Self> {
        Ok(Self::with(FrameWriter::parallel(sealed(out, recipients)?, level, threads)?))
    }

    fn with(frames: FrameWriter<SealedWriter<W>>) -> Self {
        Self { frames, settling: Settling::default(), content: 0 }
    }

    /// Compressed bytes so far.
    pub fn compressed(&self) -> u64 {
        self.frames.compressed()
    }

    /// Adds a member. `content` is read to `entry.size` (or its extents); the entry gets its
    /// position and digest. Entries of earlier calls whose place is now complete go to `done`.
    pub fn push(
        &mut self,
        mut entry: Entry,
        content: Option<&mut dyn Read>,
        done: &mut Vec<Entry>,
    ) -> Result<Option<Copied>> {
        let failed = |error| Error::io("failed to write a segment", error);
        let closed = self.frames.take_closed();
        self.settling.settle(&closed, done);
        let (blocks, data) = member::encode(&entry)?;
        let (frame, skip) = self.frames.position().map_err(failed)?;
        entry.at = Some(Position(frame, skip, 0));
        self.frames.write_all(&blocks).map_err(failed)?;
        let mut copied = None;
        if let Some(content) = content {
            let result = self.copy(&entry, content)?;
            entry.sha256 = Some(result.sha256);
            entry.changed |= result.short;
            copied = Some(result);
            self.content += data;
            self.zeros(member::padding(data)).map_err(failed)?;
        }
        self.settling.pending.push((self.frames.plain(), entry));
        Ok(copied)
    }

    /// The entry pushed last: what was learnt after reading it can still be added.
    pub fn last_mut(&mut self) -> Option<&mut Entry> {
        self.settling.pending.last_mut().map(|(_, entry)| entry)
    }

    fn copy(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<Copied> {
        let mut digest = Digest::default();
        let mut short = false;
        let whole = [(0, entry.size)];
        let extents = entry.sparse.as_deref().unwrap_or(&whole);
        let mut logical = 0;
        for &(offset, length) in extents {
            digest.update_zeros(offset - logical);
            let mut left = length;
            while left > 0 && !short {
                let read = self
                    .frames
                    .fill_from(content, left, &mut |bytes| digest.update(bytes))
                    .map_err(|error| {
                        // What is not of the operating system says itself what it is of: the
                        // content, or the store that took no more of it.
                        let told = matches!(error.get_ref(), Some(inner) if inner.is::<Error>());
                        let verb = if told { "store" } else { "read" };
                        Error::io(format!("failed to {verb} `{}`", entry.display_path()), error)
                    })?;
                left -= read;
                short = read == 0;
            }
            if left > 0 {
                digest.update_zeros(left);
                self.zeros(left).map_err(|error| Error::io("failed to write a segment", error))?;
            }
            logical = offset + length;
        }
        digest.update_zeros(entry.size - logical);
        Ok(Copied { sha256: digest.finish(), short })
    }

    fn zeros(&mut self, mut count: u64) -> io::Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        while count > 0 {
            let step = count.min(ZEROS.len() as u64);
            self.frames.write_all(&ZEROS[..step as usize])?;
            count -= step;
        }
        Ok(())
    }

    /// Ends the archive.
    pub fn finish(mut self) -> Result<FinishedSegment<W>> {
        let failed = |error| Error::io("failed to write a segment", error);
        self.frames.write_all(&member::END).map_err(failed)?;
        let Self { mut frames, mut settling, content } = self;
        let mut entries = Vec::new();
        settling.settle(&frames.take_closed(), &mut entries);
        let (sealed, plain, closed) = frames.finish_with_ends().map_err(failed)?;
        settling.settle(&closed, &mut entries);
        if !settling.pending.is_empty() {
            return Err(Error::failed("a member without an end"));
        }
        let (out, size, sha256) = unseal(sealed).map_err(failed)?;
        Ok(FinishedSegment { out, entries, size, sha256, plain, content })
    }
}

/// Turns the number of the frame, which is known at once, into where it begins and how far the
/// member reaches, which are known once the frames are written.
fn place(entry: &mut Entry, ends: &[u64], end: u64) {
    if let Some(Position(frame, _, span)) = &mut entry.at {
        *frame = (*frame).checked_sub(1).map_or(0, |before| ends[before as usize]);
        *span = end - *frame;
    }
}
