//! Which WAL stays. Pure: a prune removes what this lets go, and a copy does not send it.
//!
//! WAL is only of use from the start of a base backup on. Positions grow along every way that
//! recovery can take, over timelines too; so what lies before the lowest start of the backups that
//! count is of no use to any of them, whatever timeline it is of.

use std::fmt;

use jiff::{SignedDuration, Timestamp};

use crate::archive::manifest::NeededWal;
use crate::archive::wal::{Lsn, WalSegment};
use crate::id::BackupId;

/// A base backup that stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The backup.
    pub backup: BackupId,
    /// Its cluster.
    pub system_id: u64,
    /// Bytes in a segment.
    pub segment_size: u64,
    /// Where replay of it begins.
    pub start: Lsn,
    /// The timeline it is consistent on.
    pub timeline: u32,
    /// When everything was stored.
    pub end: Timestamp,
    /// It can be restored, and the source was not damaged.
    pub sound: bool,
    /// Somebody reads it now.
    pub held: bool,
}

impl Base {
    /// What a manifest says of it; `None` if it needs no WAL.
    pub fn of(backup: &BackupId, end: Timestamp, needed: &NeededWal, sound: bool) -> Option<Self> {
        Some(Self {
            backup: backup.clone(),
            system_id: needed.system_id,
            segment_size: needed.segment_size,
            start: needed.ranges.iter().map(|range| range.start).min()?,
            timeline: needed.ranges.iter().map(|range| range.timeline).max()?,
            end,
            sound,
            held: false,
        })
    }
}

/// What stays of a cluster's WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// All of it, and why.
    All(String),
    /// What is not before a boundary.
    From(Boundary),
}

/// Where the WAL that stays begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boundary {
    /// The first segment that stays.
    pub first: u64,
    /// Bytes in a segment.
    pub segment_size: u64,
    /// The backup that needs it.
    pub backup: BackupId,
    /// The newest timeline that a sound backup is of. What a later one has may be the only way on.
    pub timeline: u32,
    /// What was archived since then stays in any case.
    pub since: Option<Timestamp>,
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(why) => f.write_str(why),
            Self::From(boundary) => {
                let segment = WalSegment { timeline: boundary.timeline, number: boundary.first };
                let start = segment.start(boundary.segment_size);
                write!(f, "{} is recovered from {start} on", boundary.backup)?;
                match boundary.since {
                    Some(since) => write!(f, ", and what was archived since {since} stays"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// What stays of one cluster's WAL beside these backups, all that will be left of it.
///
/// Without `keep` that is everything from the oldest of them on. With it, every instant of that
/// period can be recovered to, from the newest sound backup that is older or else the oldest one.
pub fn reach(bases: &[&Base], keep: Option<SignedDuration>, now: Timestamp) -> Reach {
    let Some(newest) = bases.iter().filter(|base| base.sound).max_by_key(|base| base.end) else {
        return Reach::All("no base backup of this cluster is sound".to_owned());
    };
    let segment_size = newest.segment_size;
    if bases.iter().any(|base| base.segment_size != segment_size) {
        return Reach::All("backups of this cluster differ in the size of WAL segments".to_owned());
    }
    let since = keep.map(|keep| now.checked_sub(keep).unwrap_or(Timestamp::MIN));
    // From the backup on that the window begins with.
    let from = since.map(|since| {
        let sound = || bases.iter().filter(|base| base.sound).map(|base| base.end);
        sound().filter(|end| *end <= since).max().or_else(|| sound().min()).unwrap_or(newest.end)
    });
    let counts = |base: &&&Base| base.held || from.is_none_or(|from| base.end >= from);
    let first = bases.iter().filter(counts).min_by_key(|base| base.start).unwrap_or(newest);
    let timelines = bases.iter().filter(|base| base.sound).map(|base| base.timeline);
    Reach::From(Boundary {
        first: first.start.0 / segment_size,
        segment_size,
        backup: first.backup.clone(),
        timeline: timelines.max().unwrap_or(newest.timeline),
        since,
    })
}

impl Reach {
    /// Whether a file stays, if no backup needs it to become consistent.
    pub fn keeps(&self, name: &str, stored_at: Timestamp) -> bool {
        let Self::From(boundary) = self else { return true };
        // A history, or a name from a time when segments had another size.
        let segment =
            name.get(..24).and_then(|stem| WalSegment::parse(stem, boundary.segment_size));
        let Some(segment) = segment else { return true };
        segment.number >= boundary.first
            || segment.timeline > boundary.timeline
            || boundary.since.is_some_and(|since| stored_at > since)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const SIZE: u64 = 16 << 20;

    fn day(day: i64) -> Timestamp {
        Timestamp::from_second(1_000_000_000 + day * 86_400).unwrap()
    }

    fn days(days: i64) -> SignedDuration {
        SignedDuration::from_hours(24 * days)
    }

    /// A backup of a day, which begins in the segment of that number.
    fn base(at: i64, sound: bool) -> Base {
        Base {
            backup: BackupId::parse(&format!("202611{at:02}T020000Z-full-9d2m")).unwrap(),
            system_id: 7,
            segment_size: SIZE,
            start: Lsn(at as u64 * SIZE + 40),
            timeline: 1,
            end: day(at),
            sound,
            held: false,
        }
    }

    /// The first of the segments 1 to 30, one a day, that stays on day 30.
    fn first(bases: &[Base], keep: Option<SignedDuration>) -> u64 {
        let reach = reach(&bases.iter().collect::<Vec<_>>(), keep, day(30));
        let keeps = |number: &u64| {
            let name = WalSegment { timeline: 1, number: *number }.name(SIZE);
            reach.keeps(&name, day(*number as i64))
        };
        let first = (1..=30).find(keeps).unwrap();
        assert!((first..=30).all(|number| keeps(&number)), "no hole behind {first}");
        first
    }

    #[test]
    fn wal_stays_from_the_oldest_backup_on() {
        let bases = [base(10, true), base(20, true), base(28, true)];
        assert_eq!(first(&bases, None), 10);
        assert_eq!(first(&[base(5, false), base(20, true)], None), 5);
        assert_eq!(first(&[base(5, false), base(20, false)], None), 1, "none is sound");
        assert_eq!(first(&[], None), 1);
    }

    #[test]
    fn a_window_begins_with_the_sound_backup_before_it() {
        let bases = [base(10, true), base(20, true), base(28, true)];
        assert_eq!(first(&bases, Some(days(1))), 28);
        assert_eq!(first(&bases, Some(days(5))), 20);
        assert_eq!(first(&bases, Some(days(15))), 10);
        // All backups are younger: what is in the window stays.
        assert_eq!(first(&bases, Some(days(25))), 6);
        assert_eq!(first(&bases[1..], Some(days(12))), 19, "archived in the window");
        // A damaged one is nothing that a window could begin with, and pushes nothing out.
        assert_eq!(first(&[base(10, true), base(20, false), base(28, true)], Some(days(5))), 10);
        assert_eq!(first(&[base(10, true), base(29, false)], Some(days(0))), 10);
    }

    #[test]
    fn who_reads_a_backup_goes_on_to_read_wal() {
        let mut bases = [base(10, true), base(20, true), base(28, true)];
        bases[0].held = true;
        assert_eq!(first(&bases, Some(days(1))), 10);
    }

    #[test]
    fn what_is_no_plain_segment_of_the_past_stays() {
        let base = base(20, true);
        let reach = reach(&[&base], None, day(30));
        let keeps = |name: &str| reach.keeps(name, day(0));
        assert!(!keeps("000000010000000000000013"));
        assert!(!keeps("000000010000000000000013.partial"));
        assert!(!keeps("000000010000000000000013.00000028.backup"));
        assert!(keeps("000000010000000000000014"));
        assert!(keeps("00000002.history"));
        assert!(keeps("000000020000000000000013"), "no backup is of that timeline yet");
        let mut other = base.clone();
        other.segment_size = 1 << 20;
        let other = super::reach(&[&base, &other], None, day(30));
        assert!(matches!(other, Reach::All(_)));
    }
}
