//! A timeline's history: which timelines it branched off, and where.

use super::position::{Lsn, WalRange};
use crate::error::{Error, Result};

/// Where a timeline ended that a later one came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ancestor {
    /// The earlier timeline.
    pub timeline: u32,
    /// Where it was left.
    pub end: Lsn,
}

/// The way to one timeline, oldest first, without itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History(pub Vec<Ancestor>);

impl History {
    /// Reads `00000003.history`: number, position and reason, one ancestor a line.
    pub fn parse(timeline: u32, text: &str) -> Result<Self> {
        let bad = || Error::damaged(format!("{timeline:08X}.history is damaged"));
        let mut ancestors: Vec<Ancestor> = Vec::new();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.split_whitespace();
            let number = words.next().and_then(|word| word.parse().ok()).ok_or_else(bad)?;
            let end = words.next().and_then(|word| word.parse().ok()).ok_or_else(bad)?;
            let rises = ancestors.last().is_none_or(|last| last.timeline < number);
            if !rises || number >= timeline {
                return Err(bad());
            }
            ancestors.push(Ancestor { timeline: number, end });
        }
        Ok(Self(ancestors))
    }

    /// The WAL from a position on `from` to the end of `timeline`, which this is the history of:
    /// one range for each timeline on the way. `None`: there is no such way.
    pub fn way(&self, from: u32, start: Lsn, timeline: u32) -> Option<Vec<WalRange>> {
        let mut ranges = Vec::new();
        let mut start = start;
        for ancestor in self.0.iter().skip_while(|ancestor| ancestor.timeline != from) {
            // Left before the position: what comes after it is of another life.
            if ancestor.end < start {
                return None;
            }
            ranges.push(WalRange { timeline: ancestor.timeline, start, stop: ancestor.end });
            start = ancestor.end;
        }
        if ranges.is_empty() && from != timeline {
            return None;
        }
        ranges.push(WalRange { timeline, start, stop: Lsn(u64::MAX) });
        Some(ranges)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_way_to_a_timeline_goes_over_its_ancestors() {
        let text = "1\t0/5000000\tno recovery target specified\n\n3\t0/7000000\tat 7\n";
        let history = History::parse(4, text).unwrap();
        assert_eq!(history.0.len(), 2);
        let way = history.way(1, Lsn(0x300_0000), 4).unwrap();
        let brief: Vec<_> = way.iter().map(|r| (r.timeline, r.start.0 >> 24)).collect();
        assert_eq!(brief, [(1, 3), (3, 5), (4, 7)]);
        assert_eq!(history.way(3, Lsn(0x600_0000), 4).unwrap().len(), 2);
        assert_eq!(history.way(4, Lsn(0x800_0000), 4).unwrap().len(), 1);
        assert!(history.way(1, Lsn(0x500_0001), 4).is_none(), "after the branch");
        assert!(history.way(2, Lsn(0x300_0000), 4).is_none(), "another branch");
        for bad in ["x 0/1 r", "1", "4 0/1 r", "2 0/1 r\n1 0/2 r"] {
            assert!(History::parse(4, bad).is_err(), "{bad}");
        }
    }
}
