//! Reading members out of a segment, at the places the index names.

use std::io::Read;

use crate::archive::crypt::{DecryptReader, Keyring};
use crate::archive::entry::{Entry, Position};
use crate::archive::frame::FrameReader;
use crate::archive::member::{self, Member, read_error};
use crate::error::{Error, Result};
use crate::store::{ObjectReader, ReadAhead, SourceStore, layout};
use crate::telemetry::Reporter;

/// Jumps over less than this are read: a request costs more.
const GAP: u64 = 1 << 20;

/// What an age header and what the last chunk may add to a range.
const SLACK: u64 = 16 << 10;

/// A segment, read by position.
pub struct SegmentCursor {
    frames: FrameReader<DecryptReader<ObjectReader>>,
    path: String,
    encrypted: bool,
    /// Compressed offset up to which reading forward is announced.
    announced: u64,
    read_ahead: ReadAhead,
}

impl SegmentCursor {
    /// Opens the segment stored at `path`, of `size` stored bytes.
    pub fn open(
        source: &SourceStore,
        path: &str,
        size: u64,
        keys: &Keyring,
        reporter: &Reporter,
    ) -> Result<Self> {
        let object = source.open(path, size, reporter);
        let encrypted = layout::is_encrypted(path);
        let read_ahead = object.read_ahead();
        let input = DecryptReader::open(object, encrypted, keys, path)?;
        let frames = FrameReader::new(input, 0).map_err(|error| read_error(error, path))?;
        Ok(Self { frames, path: path.to_owned(), encrypted, announced: 0, read_ahead })
    }

    /// Says that positions up to compressed offset `until` will be read.
    pub fn expect_until(&mut self, until: u64) {
        self.announced = until;
        let stored =
            if self.encrypted { until.saturating_add(until / 4096 + SLACK) } else { until };
        self.read_ahead.set(stored);
    }

    /// Goes to the member that the index says is at `at`, and reads its header.
    pub fn member(&mut self, entry: &Entry, at: Position) -> Result<Member> {
        let Position(frame, skip, span) = at;
        let damaged = |error| read_error(error, &self.path);
        let (current, inside) = self.frames.position().map_err(damaged)?;
        let behind = frame < current || (frame == current && skip < inside);
        if behind || frame > current.saturating_add(GAP) {
            self.frames
                .input_mut()
                .move_to(frame)
                .and_then(|()| self.frames.restart(frame))
                .map_err(|error| read_error(error, &self.path))?;
        }
        let end = frame.saturating_add(span);
        if end > self.announced {
            self.expect_until(end);
        }
        self.frames.advance_to(frame, skip).map_err(|error| read_error(error, &self.path))?;
        let place = self.path.clone();
        let member = member::decode(&mut self.frames, &place)?.ok_or_else(|| {
            Error::damaged(format!("{place} ends where `{}` should be", entry.display_path()))
        })?;
        Ok(member)
    }

    /// What follows the header read last.
    pub fn content(&mut self) -> &mut dyn Read {
        &mut self.frames
    }
}
