//! Increments of relation files, in the layout that PostgreSQL 17 gave them: which pages of a file
//! are another's, and the pages.
//!
//! ```text
//! u32 magic · u32 count of blocks · u32 truncation length · u32 × count: block numbers, ascending
//! zeros up to a whole page, if there are blocks · the blocks
//! ```
//!
//! Laid over a file: it is cut, or filled with zeros, to the truncation length in pages, and each
//! block is written to its place.

use std::io::Read;

use super::member::read_error;
use crate::error::{Error, Result};

/// Bytes in a page.
pub const PAGE: usize = 8192;

/// Pages in a file at most: 1 GiB.
const PAGES: u32 = 1 << 17;

const MAGIC: u32 = 0xd3ae_1f0d;

/// What the name of an increment begins with.
const PREFIX: &[u8] = b"INCREMENTAL.";

/// Parts of one increment are told apart by what follows this.
const PART: u8 = b'~';

/// What stands before the blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncrementHeader {
    /// Pages that the file has at least; what an older one has beyond them is not wanted.
    pub truncation: u32,
    /// Numbers of the blocks, within the file.
    pub blocks: Vec<u32>,
}

impl IncrementHeader {
    /// Reads the header of an increment of `size` bytes, and the padding after it. Also gives the
    /// bytes that were read. `place` names the increment in errors.
    pub fn read(input: &mut dyn Read, size: u64, place: &str) -> Result<(Self, Vec<u8>)> {
        let bad = |what: &str| Error::damaged(format!("{place} is no increment: {what}"));
        let failed = |error| read_error(error, place);
        let mut bytes = vec![0; 12];
        input.read_exact(&mut bytes).map_err(failed)?;
        let word = |bytes: &[u8], at: usize| {
            bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u32::from_le_bytes(*b))
        };
        if word(&bytes, 0) != MAGIC {
            return Err(bad("it does not begin like one"));
        }
        let (count, truncation) = (u64::from(word(&bytes, 4)), word(&bytes, 8));
        if count > u64::from(PAGES) || truncation > PAGES {
            return Err(bad("no file has so many pages"));
        }
        if size != Self::size_of(count) {
            return Err(bad("its length does not fit its number of blocks"));
        }
        bytes.resize(Self::length_of(count) as usize, 0);
        input.read_exact(&mut bytes[12..]).map_err(failed)?;
        let blocks: Vec<u32> = (0..count as usize).map(|at| word(&bytes, 12 + 4 * at)).collect();
        if !blocks.is_sorted_by(|a, b| a < b) || blocks.last().is_some_and(|last| *last >= PAGES) {
            return Err(bad("its blocks are out of order, or beyond what a file has"));
        }
        Ok((Self { truncation, blocks }, bytes))
    }

    /// Its bytes, padding included.
    pub fn encode(&self) -> Vec<u8> {
        let count = self.blocks.len();
        let mut bytes = Vec::with_capacity(Self::length_of(count as u64) as usize);
        for word in [MAGIC, count as u32, self.truncation].iter().chain(&self.blocks) {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.resize(Self::length_of(count as u64) as usize, 0);
        bytes
    }

    fn length_of(count: u64) -> u64 {
        let length = 12 + 4 * count;
        if count == 0 { length } else { length.next_multiple_of(PAGE as u64) }
    }

    fn size_of(count: u64) -> u64 {
        Self::length_of(count) + count * PAGE as u64
    }

    /// Bytes of the whole increment.
    pub fn size(&self) -> u64 {
        Self::size_of(self.blocks.len() as u64)
    }

    /// Bytes of the file that it makes.
    pub fn result(&self) -> u64 {
        let end = self.blocks.last().map_or(0, |last| last + 1);
        u64::from(self.truncation.max(end)) * PAGE as u64
    }
}

/// The name of a file's increment: `base/5/INCREMENTAL.16384`. Parts from the second on are named
/// with their number: `base/5/INCREMENTAL.16384~2`.
pub fn increment_path(path: &[u8], part: u32) -> Vec<u8> {
    let slash = path.iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1);
    let mut name = [&path[..slash], PREFIX, &path[slash..]].concat();
    if part > 1 {
        name.push(PART);
        name.extend(part.to_string().bytes());
    }
    name
}

/// The file that an increment of the server's is of, by the increment's name.
pub fn increment_of(path: &[u8]) -> Option<Vec<u8>> {
    let slash = path.iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1);
    let name = path[slash..].strip_prefix(PREFIX).filter(|name| !name.is_empty())?;
    Some([&path[..slash], name].concat())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn headers_are_what_the_server_writes() {
        for (truncation, blocks, size, result) in [
            (7, vec![], 12, 7),
            (0, vec![], 12, 0),
            (3, vec![1, 9], PAGE * 3, 10),
            (30, vec![1, 9], PAGE * 3, 30),
            (4000, (0..3000).collect::<Vec<u32>>(), PAGE * 3002, 4000),
        ] {
            let header = IncrementHeader { truncation, blocks };
            let bytes = header.encode();
            assert_eq!(header.size(), size as u64);
            assert_eq!(header.result(), result * PAGE as u64);
            let (read, raw) = IncrementHeader::read(&mut &bytes[..], size as u64, "x").unwrap();
            assert_eq!((read, raw), (header.clone(), bytes.clone()));
            let wrong = IncrementHeader::read(&mut &bytes[..], size as u64 + 1, "x").unwrap_err();
            assert!(wrong.to_string().contains("length"), "{wrong}");
        }
        let unordered = IncrementHeader { truncation: 1, blocks: vec![2, 2] };
        let bytes = unordered.encode();
        assert!(IncrementHeader::read(&mut &bytes[..], unordered.size(), "x").is_err());
        assert!(IncrementHeader::read(&mut &[0; 12][..], 12, "x").is_err());
        for wrong in [
            IncrementHeader { truncation: PAGES + 1, blocks: vec![] },
            IncrementHeader { truncation: 1, blocks: vec![PAGES] },
        ] {
            let bytes = wrong.encode();
            assert!(IncrementHeader::read(&mut &bytes[..], wrong.size(), "x").is_err());
        }
        let mut claim = unordered.encode();
        claim[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        let size = IncrementHeader::size_of(u64::from(u32::MAX));
        assert!(IncrementHeader::read(&mut &claim[..], size, "x").is_err());
    }

    #[test]
    fn increments_are_told_by_their_names() {
        assert_eq!(increment_path(b"base/5/16384.1", 1), b"base/5/INCREMENTAL.16384.1");
        assert_eq!(increment_path(b"base/5/16384", 2), b"base/5/INCREMENTAL.16384~2");
        assert_eq!(increment_of(b"base/5/INCREMENTAL.16384").unwrap(), b"base/5/16384");
        assert!(increment_of(b"base/INCREMENTAL.5/16384").is_none());
        assert!(increment_of(b"base/5/INCREMENTAL.").is_none());
    }
}
