//! Positions in PostgreSQL's write-ahead log, and the names of the files it is kept in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A position in the WAL of one cluster, in bytes; written `16/B374D848`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl FromStr for Lsn {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let half = |part: &str| {
            let hex = !part.is_empty() && part.bytes().all(|b| b.is_ascii_hexdigit());
            u32::from_str_radix(part, 16).ok().filter(|_| hex).map(u64::from)
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| {
                Error::usage(format!("`{}` is no position in WAL", text.escape_default()))
                    .hint("such a position looks like 16/B374D848")
            })
    }
}

impl TryFrom<String> for Lsn {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> Self {
        lsn.to_string()
    }
}

/// One WAL file of a timeline: the bytes from `number` × size on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WalSegment {
    /// The timeline.
    pub timeline: u32,
    /// Which, from the beginning of the log.
    pub number: u64,
}

impl WalSegment {
    /// The segment that holds the byte at `lsn`, where segments have `size` bytes.
    pub fn of(timeline: u32, lsn: Lsn, size: u64) -> Self {
        Self { timeline, number: lsn.0 / size }
    }

    /// Its first position.
    pub fn start(self, size: u64) -> Lsn {
        Lsn(self.number * size)
    }

    /// The name of its file: `000000010000001600000B37`.
    pub fn name(self, size: u64) -> String {
        let per_id = 0x1_0000_0000 / size;
        format!("{:08X}{:08X}{:08X}", self.timeline, self.number / per_id, self.number % per_id)
    }

    /// The segment of this file name; `None` if it is the name of something else.
    pub fn parse(name: &str, size: u64) -> Option<Self> {
        let is_hex = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
        if name.len() != 24 || !name.bytes().all(is_hex) {
            return None;
        }
        let part = |at: usize| u32::from_str_radix(name.get(at..at + 8)?, 16).ok();
        let per_id = 0x1_0000_0000 / size;
        let (high, low) = (u64::from(part(8)?), u64::from(part(16)?));
        (low < per_id).then(|| Some(Self { timeline: part(0)?, number: high * per_id + low }))?
    }
}

/// WAL of one timeline, from `start` up to `stop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalRange {
    /// The timeline.
    pub timeline: u32,
    /// The first byte.
    pub start: Lsn,
    /// The byte after the last.
    pub stop: Lsn,
}

impl WalRange {
    /// The segments that hold it, where segments have `size` bytes.
    pub fn segments(self, size: u64) -> impl Iterator<Item = WalSegment> {
        let first = self.start.0 / size;
        // A range that ends where a segment begins needs nothing of that one.
        let last = self.stop.0.saturating_sub(1) / size;
        (first..=last.max(first)).map(move |number| WalSegment { timeline: self.timeline, number })
    }
}

/// Whether a server may use segments of this size: a power of two from 1 MiB to 1 GiB.
pub fn is_segment_size(size: u64) -> bool {
    size.is_power_of_two() && (1 << 20..=1 << 30).contains(&size)
}

/// Whether this is a name of what PostgreSQL archives: a segment, also partial, a timeline's
/// history, or a backup's.
pub fn is_archived_name(name: &str) -> bool {
    let hex = |text: &str, length: usize| {
        text.len() == length
            && text.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b))
    };
    if let Some(timeline) = name.strip_suffix(".history") {
        return hex(timeline, 8);
    }
    if let Some(stem) = name.strip_suffix(".backup") {
        return stem.split_once('.').is_some_and(|(name, at)| hex(name, 24) && hex(at, 8));
    }
    hex(name.strip_suffix(".partial").unwrap_or(name), 24)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const MIB16: u64 = 16 << 20;

    #[test]
    fn positions_are_written_as_the_server_writes_them() {
        let lsn: Lsn = "16/B374D848".parse().unwrap();
        assert_eq!(lsn, Lsn(0x16_B374_D848));
        assert_eq!(lsn.to_string(), "16/B374D848");
        assert_eq!(Lsn(0).to_string(), "0/0");
        for bad in ["", "16", "/", "16/", "16/+1", "16/123456789", "x/1"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }

    #[test]
    fn segments_are_named_as_the_server_names_them() {
        for (lsn, size, name) in [
            ("0/1000028", MIB16, "000000010000000000000001"),
            ("16/B374D848", MIB16, "0000000100000016000000B3"),
            ("16/B374D848", 1 << 20, "000000010000001600000B37"),
            ("16/B374D848", 1 << 30, "000000010000001600000002"),
        ] {
            let segment = WalSegment::of(1, lsn.parse().unwrap(), size);
            assert_eq!(segment.name(size), name);
            assert_eq!(WalSegment::parse(name, size), Some(segment));
        }
        assert_eq!(WalSegment::parse("0000000100000016000001B3", MIB16), None);
        assert_eq!(WalSegment::parse("0000000100000016000000b3", MIB16), None);
    }

    #[test]
    fn a_range_needs_the_segments_it_has_bytes_of() {
        let range = |start: &str, stop: &str| WalRange {
            timeline: 1,
            start: start.parse().unwrap(),
            stop: stop.parse().unwrap(),
        };
        let count = |range: WalRange| range.segments(MIB16).count();
        assert_eq!(count(range("0/2000028", "0/2000138")), 1);
        assert_eq!(count(range("0/2000028", "0/3000000")), 1);
        assert_eq!(count(range("0/2000028", "0/3000001")), 2);
        assert_eq!(count(range("0/2000000", "0/2000000")), 1);
    }

    #[test]
    fn names_of_what_is_archived() {
        for good in [
            "000000010000001600000002",
            "000000010000001600000002.partial",
            "00000002.history",
            "000000010000000000000002.00000028.backup",
        ] {
            assert!(is_archived_name(good), "{good}");
        }
        for bad in ["", "../x", "00000002", "0000000g.history", "archive_status", "a.backup"] {
            assert!(!is_archived_name(bad), "{bad}");
        }
    }
}
