//! The segment that a server is still writing, slice by slice.
//!
//! `<segment>.part/<from>-<to>` holds the bytes of a segment from one offset to another, both in
//! eight hexadecimal digits. Slices are created once like everything else, and are of no use any
//! more when the whole segment is there.

use std::io::Write;

use jiff::Timestamp;

use super::layout;
use super::wal::{WalPut, WalStore};
use crate::archive::crypt::Keyring;
use crate::archive::wal::{Lsn, WalSegment};
use crate::error::{Error, Result};
use crate::telemetry::Reporter;

/// A stored slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSlice {
    /// The segment's name.
    pub segment: String,
    /// The first byte, within the segment.
    pub from: u64,
    /// The byte after the last.
    pub to: u64,
    /// Stored bytes.
    pub size: u64,
    /// When the store took it, by the store's clock.
    pub stored_at: Timestamp,
}

/// The beginning of a segment, put together from slices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// The segment's name.
    pub segment: String,
    /// How many bytes there are from its start on.
    pub bytes: u64,
    /// When the store took the last slice.
    pub stored_at: Timestamp,
    /// The slices, each beginning where the one before ended or before that.
    pub slices: Vec<StoredSlice>,
}

impl Tail {
    /// As much of a segment as there is without a hole. `None`: not even its first byte. Pure.
    pub fn of(segment: &str, slices: &[StoredSlice]) -> Option<Self> {
        let mut own: Vec<&StoredSlice> =
            slices.iter().filter(|slice| slice.segment == segment).collect();
        // Of those that begin at the same byte the longest.
        own.sort_by_key(|slice| (slice.from, std::cmp::Reverse(slice.to)));
        let mut used: Vec<StoredSlice> = Vec::new();
        let mut bytes = 0;
        for slice in own {
            if slice.from <= bytes && slice.to > bytes {
                bytes = slice.to;
                used.push(slice.clone());
            }
        }
        let stored_at = used.iter().map(|slice| slice.stored_at).max()?;
        Some(Self { segment: segment.to_owned(), bytes, stored_at, slices: used })
    }

    /// Up to where it gets.
    pub fn end(&self, segment_size: u64) -> Option<Lsn> {
        let segment = WalSegment::parse(&self.segment, segment_size)?;
        Some(Lsn(segment.start(segment_size).0 + self.bytes))
    }
}

impl WalStore {
    /// Stores bytes of a segment from an offset on, and returns when they are durable.
    pub fn put_slice(
        &self,
        system_id: u64,
        segment: &str,
        from: u64,
        plain: &[u8],
    ) -> Result<WalPut> {
        let to = from + plain.len() as u64;
        let path = layout::wal_slice(system_id, segment, (from, to), self.is_encrypted());
        self.put_at(&path, plain)
    }

    /// The slices of one timeline.
    pub fn slices(&self, system_id: u64, timeline: u32) -> Result<Vec<StoredSlice>> {
        let root = self.source().key("");
        let directory = self.source().key(&layout::wal_timeline(system_id, timeline));
        let listed = self.source().store().list(&directory)?;
        Ok(listed
            .into_iter()
            .filter_map(|object| {
                let path = object.key.strip_prefix(&root)?;
                let (segment, from, to) = layout::parse_wal_slice(path)?;
                Some(StoredSlice {
                    segment: segment.to_owned(),
                    from,
                    to,
                    size: object.size,
                    stored_at: object.stored_at,
                })
            })
            .collect())
    }

    /// As much as there is of the segment that follows `end` on a timeline: the one whose first
    /// bytes were stored and that is not there as a whole.
    pub fn tail(
        &self,
        system_id: u64,
        timeline: u32,
        end: Lsn,
        segment_size: u64,
    ) -> Result<Option<Tail>> {
        let segment = WalSegment { timeline, number: end.0 / segment_size }.name(segment_size);
        let mut slices = self.slices(system_id, timeline)?;
        slices.retain(|slice| slice.segment == segment);
        Ok(Tail::of(&segment, &self.without_divergent(system_id, slices)?))
    }

    /// Writes a tail to `out`, after which it is known to be what was stored, and fills it up with
    /// zeros to a whole segment.
    pub fn get_tail(
        &self,
        system_id: u64,
        tail: &Tail,
        segment_size: u64,
        keys: &Keyring,
        reporter: &Reporter,
        out: &mut dyn Write,
    ) -> Result<()> {
        let failed = |error| Error::io(format!("failed to write {}", tail.segment), error);
        let mut written = 0u64;
        for slice in &tail.slices {
            let range = (slice.from, slice.to);
            let path = layout::wal_slice(system_id, &tail.segment, range, self.is_encrypted());
            let mut plain = Vec::new();
            if !self.get_at(&path, keys, reporter, &mut plain)? {
                return Err(Error::damaged(format!("{path} is gone from the repository")));
            }
            if plain.len() as u64 != slice.to - slice.from {
                return Err(Error::damaged(format!("{path} has another length than its name")));
            }
            out.write_all(&plain[(written - slice.from) as usize..]).map_err(failed)?;
            written = slice.to;
        }
        let zeros = vec![0; 64 << 10];
        let mut left = segment_size.saturating_sub(written);
        while left > 0 {
            let some = left.min(zeros.len() as u64);
            out.write_all(&zeros[..some as usize]).map_err(failed)?;
            left -= some;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const NAME: &str = "000000010000000000000003";

    fn slice(segment: &str, from: u64, to: u64) -> StoredSlice {
        let stored_at = Timestamp::from_second(to as i64).unwrap();
        StoredSlice { segment: segment.to_owned(), from, to, size: 1, stored_at }
    }

    #[test]
    fn a_tail_ends_before_the_first_hole() {
        let bytes = |slices: &[(u64, u64)]| {
            let all: Vec<_> = slices.iter().map(|(from, to)| slice(NAME, *from, *to)).collect();
            Tail::of(NAME, &all).map(|tail| (tail.bytes, tail.slices.len()))
        };
        assert_eq!(bytes(&[]), None);
        assert_eq!(bytes(&[(8, 16)]), None, "without its beginning it is nothing");
        assert_eq!(bytes(&[(8, 16), (0, 8)]), Some((16, 2)));
        assert_eq!(bytes(&[(0, 8), (16, 24)]), Some((8, 1)));
        // Whoever begins again after an interruption cuts at other places.
        assert_eq!(bytes(&[(0, 8), (8, 12), (0, 10), (10, 20), (20, 21)]), Some((21, 4)));
        assert_eq!(bytes(&[(0, 8), (4, 16), (8, 9)]), Some((16, 2)));
        let other = slice("000000010000000000000004", 0, 8);
        assert_eq!(Tail::of(NAME, &[other]), None);
    }

    #[test]
    fn its_end_is_a_position() {
        let tail = Tail::of(NAME, &[slice(NAME, 0, 0x1234)]).unwrap();
        assert_eq!(tail.end(16 << 20).unwrap().to_string(), "0/3001234");
        assert_eq!(tail.stored_at, Timestamp::from_second(0x1234).unwrap());
    }
}
