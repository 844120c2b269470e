//! Objects back into a bucket.

use std::io::Read;

use bytes::Bytes;

use super::source::attributes;
use crate::archive::entry::Entry;
use crate::error::{Error, Result};
use crate::store::Objects;
use crate::telemetry::Reporter;

/// Bytes of a piece of a large object; ten thousand of them are the most that an object may have.
const PIECE: u64 = 16 << 20;
const MOST_PIECES: u64 = 9_000;

/// What came of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It was stored.
    Stored,
    /// Another one has its key, and stays.
    Exists,
}

/// Stores an object under `key`, with everything that is kept beside it.
pub fn put(
    objects: &Objects,
    key: &str,
    entry: &Entry,
    content: &mut dyn Read,
    replace: bool,
    reporter: &Reporter,
) -> Result<Put> {
    let attributes = attributes(entry);
    let piece = PIECE.max(entry.size.div_ceil(MOST_PIECES));
    let mut next = |expected: u64| -> Result<Bytes> {
        reporter.check()?;
        let mut bytes = Vec::with_capacity(expected.min(piece) as usize);
        content
            .take(piece)
            .read_to_end(&mut bytes)
            .map_err(|error| Error::io(format!("failed to read `{key}`"), error))?;
        reporter.progress().add_bytes(bytes.len() as u64);
        Ok(bytes.into())
    };
    let stored = if entry.size <= piece {
        let bytes = next(entry.size)?;
        // Whatever proves the content comes after its last byte.
        next(0)?;
        objects.put(key, &attributes, bytes, !replace)?
    } else {
        let mut pieces = objects.begin(key, &attributes)?;
        loop {
            let bytes = next(piece)?;
            if bytes.is_empty() {
                break;
            }
            pieces.push(bytes)?;
        }
        pieces.finish(!replace)?
    };
    Ok(if stored { Put::Stored } else { Put::Exists })
}
