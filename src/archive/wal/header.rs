//! What stands at the beginning of a WAL segment: `XLogLongPageHeaderData` of PostgreSQL.

use super::position::{WalSegment, is_segment_size};
use crate::error::{Error, ErrorKind, Result};

/// Bytes of the header.
pub const HEADER: usize = 40;

/// The first page of every file has the long header.
const LONG: u16 = 2;

/// What a segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalHeader {
    /// Changes with each major version that changes WAL: `0xD110` is 15.
    pub magic: u16,
    /// The timeline the first page was written on. Earlier than that of the file's name where a
    /// timeline branched off within the segment.
    pub timeline: u32,
    /// The position of the first page.
    pub start: u64,
    /// The cluster.
    pub system_id: u64,
    /// Bytes in a segment.
    pub segment_size: u64,
}

impl WalHeader {
    /// Reads the first bytes of a segment. `None` if it is none.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let half = |at: usize| bytes.get(at..)?.first_chunk().map(|b| u16::from_le_bytes(*b));
        let word = |at: usize| bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b));
        let long = |at: usize| bytes.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b));
        let found = Self {
            magic: half(0)?,
            timeline: word(4)?,
            start: long(8)?,
            system_id: long(24)?,
            segment_size: u64::from(word(32)?),
        };
        // All versions since 9.3 have 0xD0.. or 0xD1...
        let known = found.magic >> 9 == 0xD0 >> 1 && half(2)? & LONG != 0;
        (known && is_segment_size(found.segment_size)).then_some(found)
    }

    /// An error unless this is the header of that segment of that cluster.
    pub fn expect(&self, system_id: u64, segment: WalSegment, size: u64) -> Result<()> {
        let name = segment.name(size);
        let wrong = |what: String| {
            Err(Error::new(ErrorKind::Conflict, format!("WAL segment {name} {what}")))
        };
        if self.system_id != system_id {
            return wrong(format!("is of cluster {}, not of {system_id}", self.system_id));
        }
        if self.segment_size != size {
            return wrong(format!("has segments of {} bytes, not of {size}", self.segment_size));
        }
        if self.start != segment.start(size).0 {
            // A recycled file under its next name, before anything was written to it.
            return wrong("holds another segment".to_owned());
        }
        if self.timeline > segment.timeline {
            return wrong(format!("is of timeline {}", self.timeline));
        }
        Ok(())
    }
}

/// An error unless `plain` is that whole segment of that cluster.
pub fn check_segment(plain: &[u8], system_id: u64, segment: WalSegment, size: u64) -> Result<()> {
    let name = segment.name(size);
    let header = WalHeader::read(plain)
        .ok_or_else(|| Error::damaged(format!("WAL segment {name} does not begin like one")))?;
    header.expect(system_id, segment, size)?;
    if plain.len() as u64 != size {
        return Err(Error::damaged(format!(
            "WAL segment {name} has {} bytes instead of {size}",
            plain.len()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_segment_says_whose_it_is() {
        let mut page = vec![0; 1 << 20];
        page[0..2].copy_from_slice(&0xD110u16.to_le_bytes());
        page[2] = 2;
        page[4] = 1;
        page[8..16].copy_from_slice(&(3u64 << 20).to_le_bytes());
        page[24..32].copy_from_slice(&77u64.to_le_bytes());
        page[32..36].copy_from_slice(&(1u32 << 20).to_le_bytes());
        let segment = WalSegment { timeline: 1, number: 3 };
        check_segment(&page, 77, segment, 1 << 20).unwrap();
        check_segment(&page, 77, WalSegment { timeline: 2, ..segment }, 1 << 20).unwrap();
        let wrong = |page: &[u8], id, segment, size| {
            check_segment(page, id, segment, size).unwrap_err().to_string()
        };
        assert!(wrong(&page, 78, segment, 1 << 20).contains("of cluster 77"));
        let next = WalSegment { number: 4, ..segment };
        assert!(wrong(&page, 77, next, 1 << 20).contains("another segment"));
        assert!(wrong(&page, 77, segment, 16 << 20).contains("segments of"));
        assert!(wrong(&page[..9000], 77, segment, 1 << 20).contains("9000 bytes"));
        assert!(wrong(&[0; 100], 77, segment, 1 << 20).contains("does not begin"));
        page[4] = 2;
        assert!(wrong(&page, 77, segment, 1 << 20).contains("timeline 2"));
    }
}
