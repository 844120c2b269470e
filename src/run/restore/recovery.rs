//! How far WAL is replayed after a restore, and whether it reaches that far.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::archive::crypt::Keyring;
use crate::archive::manifest::NeededWal;
use crate::archive::wal::{History, Lsn, WalRange, WalSegment};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{StoredWal, Tail, WalStore};
use crate::telemetry::Reporter;

/// How far the store's clock may be behind the server's. Whoever asks for more than there is, and
/// is not told here, is told by the server: it ends with an error before a target it cannot reach.
const CLOCKS: SignedDuration = SignedDuration::from_mins(10);

/// What is to be restored to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Goal {
    /// The first consistent moment of the backup.
    #[default]
    Immediate,
    /// The end of what was archived.
    Latest,
    /// The last commit before this instant.
    Time(Timestamp),
    /// A position.
    Lsn(Lsn),
    /// A transaction.
    Xid(u32),
    /// A restore point that somebody named.
    Name(String),
    /// No end: it follows what is archived, and stays a standby until somebody promotes it.
    Standby,
}

/// How a server is to recover.
#[derive(Debug, Clone, Default)]
pub struct Recovery {
    /// How far.
    pub goal: Goal,
    /// On which timeline; the newest that the backup leads to if not said.
    pub timeline: Option<u32>,
    /// What happens there: `promote`, `pause` or `shutdown`.
    pub action: String,
    /// What fetches WAL.
    pub command: String,
    /// A server that a standby streams from as well.
    pub primary: Option<String>,
    /// All WAL on the way is put beside the data, and nothing fetches any.
    pub brings_wal: bool,
    /// It archives as the server did that was backed up: it takes its place.
    pub archives: bool,
}

/// The way that recovery goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Way {
    /// The timeline it ends on.
    pub timeline: u32,
    /// Where replay begins.
    pub start: Lsn,
    /// Up to where segments lie there without a hole.
    pub end: Lsn,
    /// How many these are.
    pub segments: u64,
    /// The first segment that is missing although later ones are there.
    pub hole: Option<String>,
    /// When the last segment before the end or the hole was archived, by the store's clock.
    #[serde(skip)]
    pub archived_at: Option<Timestamp>,
    /// The names of these segments.
    #[serde(skip)]
    pub names: Vec<String>,
    /// The beginning of the segment after them, which the server was writing.
    #[serde(skip)]
    pub tail: Option<Tail>,
}

/// Finds the way from a backup over what is archived.
pub fn find_way(
    wal: &WalStore,
    needed: &NeededWal,
    recovery: &Recovery,
    keys: &Keyring,
    reporter: &Reporter,
) -> Result<Way> {
    let range = needed.ranges.last().ok_or_else(|| Error::damaged("the backup needs no WAL"))?;
    let ranges = choose_timeline(wal, needed, *range, recovery.timeline, keys, reporter)?;
    let mut listed: BTreeMap<u32, Vec<StoredWal>> = BTreeMap::new();
    for range in &ranges {
        listed.insert(range.timeline, wal.list(needed.system_id, range.timeline)?);
    }
    let mut way = walk(&ranges, &listed, needed.segment_size);
    if way.hole.is_none() {
        let size = needed.segment_size;
        let tail = wal.tail(needed.system_id, way.timeline, way.end, size)?;
        way.extend(tail, size);
    }
    Ok(way)
}

impl Way {
    /// Goes on into the segment that was not whole yet.
    fn extend(&mut self, tail: Option<Tail>, segment_size: u64) {
        let end = tail.as_ref().and_then(|tail| tail.end(segment_size));
        if let (Some(tail), Some(end)) = (tail, end)
            && end > self.end
        {
            self.end = end;
            self.archived_at = self.archived_at.max(Some(tail.stored_at));
            self.tail = Some(tail);
        }
    }
}

fn choose_timeline(
    wal: &WalStore,
    needed: &NeededWal,
    range: WalRange,
    wanted: Option<u32>,
    keys: &Keyring,
    reporter: &Reporter,
) -> Result<Vec<WalRange>> {
    let candidates = if let Some(timeline) = wanted {
        vec![timeline]
    } else {
        let mut all = wal.timelines(needed.system_id)?;
        all.push(range.timeline);
        all.retain(|timeline| *timeline >= range.timeline);
        all.sort_unstable_by(|a, b| b.cmp(a));
        all
    };
    for timeline in candidates {
        let history = if timeline == range.timeline {
            History::default()
        } else {
            let name = format!("{timeline:08X}.history");
            let mut text = Vec::new();
            if !wal.get(needed.system_id, &name, keys, reporter, &mut text)? {
                return Err(Error::not_found(format!(
                    "timeline {timeline} is archived without {name}: nobody knows where it branched off"
                ))
                .hint("push that file from the server's pg_wal, or choose a timeline with --timeline"));
            }
            History::parse(timeline, &String::from_utf8_lossy(&text))?
        };
        // Where the backup is consistent must be on the way, not only where it begins.
        let reaches = history.way(range.timeline, range.stop, timeline).is_some();
        if let Some(way) = history.way(range.timeline, range.start, timeline)
            && reaches
        {
            return Ok(way);
        }
    }
    Err(Error::new(
        ErrorKind::Conflict,
        format!("the backup does not lead to timeline {}", wanted.unwrap_or(range.timeline)),
    )
    .hint("that timeline branched off before the backup was complete: take an older backup with --backup"))
}

/// Walks from segment to segment. Pure.
fn walk(ranges: &[WalRange], listed: &BTreeMap<u32, Vec<StoredWal>>, size: u64) -> Way {
    let first = ranges.first().map_or(Lsn(0), |range| range.start);
    let timeline = ranges.last().map_or(1, |range| range.timeline);
    let mut way = Way {
        timeline,
        start: first,
        end: first,
        segments: 0,
        hole: None,
        archived_at: None,
        names: Vec::new(),
        tail: None,
    };
    for (at, range) in ranges.iter().enumerate() {
        // What a site wrote after another took over leads nowhere; what lies before the place where a
        // newer timeline branched off is the past of that one, whoever brought it.
        let is_last = at + 1 == ranges.len();
        let there: BTreeMap<u64, &StoredWal> = listed
            .get(&range.timeline)
            .into_iter()
            .flatten()
            .filter(|file| !(is_last && file.divergent))
            .filter_map(|file| Some((WalSegment::parse(&file.name, size)?.number, file)))
            .collect();
        // The segment in which a timeline was left is read from its successor.
        let last = ranges.get(at + 1).map(|next| next.start.0 / size);
        let Some(end) = last.or_else(|| there.keys().next_back().map(|last| last + 1)) else {
            return way;
        };
        for number in range.start.0 / size..end {
            let Some(file) = there.get(&number) else {
                let segment = WalSegment { timeline: range.timeline, number };
                way.hole = Some(segment.name(size));
                return way;
            };
            way.segments += 1;
            way.names.push(file.name.clone());
            way.end = Lsn((number + 1) * size);
            way.archived_at = way.archived_at.max(Some(file.stored_at));
        }
    }
    way
}

/// An error if it is certain that the goal is not reached; otherwise what there is to be said.
pub fn check(goal: &Goal, way: &Way, stop: Lsn, stop_time: Timestamp) -> Result<Option<String>> {
    let refuse = |text: String| Err(Error::new(ErrorKind::Conflict, text));
    let hole = way.hole.as_ref().map(|name| format!("WAL segment {name} is missing"));
    let newest = "`--latest` goes as far as WAL does";
    match goal {
        Goal::Lsn(lsn) if *lsn < stop => refuse(format!(
            "{lsn} lies before {stop}, where the backup becomes consistent"
        ))
        .map_err(|error| error.hint("take an older backup with --backup")),
        Goal::Time(time) if *time < stop_time => {
            refuse(format!("{time} lies before {stop_time}, when the backup became consistent"))
                .map_err(|error| error.hint("take an older backup with --backup"))
        }
        Goal::Lsn(lsn) if *lsn > way.end => refuse(match hole {
            Some(hole) => format!("{lsn} cannot be reached: {hole}"),
            None => format!("{lsn} cannot be reached: WAL is archived up to {}", way.end),
        })
        .map_err(|error| error.hint(newest)),
        Goal::Time(time) if way.archived_at.is_none_or(|at| time.duration_since(at) > CLOCKS) => {
            refuse(match (hole, way.archived_at) {
                (Some(hole), _) => format!("{time} cannot be reached: {hole}"),
                (None, Some(at)) => {
                    format!("{time} cannot be reached: the last WAL was archived at {at}")
                }
                (None, None) => format!("{time} cannot be reached: no WAL was archived"),
            })
            .map_err(|error| error.hint(newest))
        }
        Goal::Latest if way.hole.is_some() => {
            refuse(format!("{}, and there is WAL after it", hole.unwrap_or_default())).map_err(
                |error| {
                    error.hint(format!("`--lsn {}` goes up to the hole", way.end)).hint(
                        "a server cannot tell a hole from the end, and would open as if nothing were missing",
                    )
                },
            )
        }
        Goal::Immediate | Goal::Latest | Goal::Standby => Ok(None),
        Goal::Time(_) | Goal::Lsn(_) | Goal::Xid(_) | Goal::Name(_) => Ok(hole.map(|hole| {
            format!("{hole}: if the target comes after {} the server ends with an error", way.end)
        })),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const SIZE: u64 = 16 << 20;

    fn lsn(segment: u64) -> Lsn {
        Lsn(segment * SIZE + 40)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// Archived segments, each a second after the one before.
    fn listed(files: &[(u32, &[u64])]) -> BTreeMap<u32, Vec<StoredWal>> {
        let stored = |timeline: u32, number: u64| StoredWal {
            name: WalSegment { timeline, number }.name(SIZE),
            size: 1,
            stored_at: at(number as i64),
            divergent: false,
        };
        files
            .iter()
            .map(|(timeline, all)| (*timeline, all.iter().map(|n| stored(*timeline, *n)).collect()))
            .collect()
    }

    fn ranges(parts: &[(u32, u64, u64)]) -> Vec<WalRange> {
        let range = |(timeline, start, stop)| WalRange {
            timeline,
            start: lsn(start),
            stop: if stop == 0 { Lsn(u64::MAX) } else { lsn(stop) },
        };
        parts.iter().copied().map(range).collect()
    }

    #[test]
    fn a_hole_is_told_from_the_end() {
        let way = walk(&ranges(&[(1, 3, 0)]), &listed(&[(1, &[2, 3, 4, 5])]), SIZE);
        assert_eq!((way.segments, way.end, way.hole), (3, Lsn(6 * SIZE), None));
        let way = walk(&ranges(&[(1, 3, 0)]), &listed(&[(1, &[2, 3, 5])]), SIZE);
        assert_eq!(way.hole.unwrap(), "000000010000000000000004");
        // The segment of the switch lies on the new timeline.
        let all = listed(&[(1, &[3, 4]), (2, &[5, 6])]);
        let way = walk(&ranges(&[(1, 3, 5), (2, 5, 0)]), &all, SIZE);
        assert_eq!((way.segments, way.timeline, way.hole), (4, 2, None));
        let all = listed(&[(1, &[3]), (2, &[5, 6])]);
        let way = walk(&ranges(&[(1, 3, 5), (2, 5, 0)]), &all, SIZE);
        assert_eq!(way.hole.unwrap(), "000000010000000000000004");
        let way = walk(&ranges(&[(1, 3, 0)]), &listed(&[]), SIZE);
        assert_eq!((way.segments, way.hole), (0, None));
    }

    #[test]
    fn what_cannot_be_reached_is_refused() {
        let whole = walk(&ranges(&[(1, 3, 0)]), &listed(&[(1, &[3, 4, 5])]), SIZE);
        let holed = walk(&ranges(&[(1, 3, 0)]), &listed(&[(1, &[3, 5])]), SIZE);
        let said = |goal: Goal, way: &Way| match check(&goal, way, lsn(3), at(3)) {
            Ok(None) => String::new(),
            Ok(Some(warning)) => format!("warning: {warning}"),
            Err(error) => error.to_string(),
        };
        assert_eq!(said(Goal::Lsn(lsn(5)), &whole), "");
        assert!(said(Goal::Lsn(lsn(6)), &whole).contains("archived up to"));
        assert!(said(Goal::Lsn(Lsn(3 * SIZE)), &whole).contains("before"));
        assert!(said(Goal::Lsn(lsn(5)), &holed).contains("missing"));
        assert_eq!(said(Goal::Time(at(5)), &whole), "");
        assert_eq!(said(Goal::Time(at(600)), &whole), "");
        assert!(said(Goal::Time(at(606)), &whole).contains("last WAL"));
        assert!(said(Goal::Time(at(2)), &whole).contains("before"));
        assert!(said(Goal::Time(at(605)), &holed).contains("missing"));
        assert!(said(Goal::Time(at(3)), &holed).starts_with("warning"));
        assert_eq!(said(Goal::Latest, &whole), "");
        assert!(said(Goal::Latest, &holed).contains("after it"));
        assert!(said(Goal::Xid(700), &holed).starts_with("warning"));
        assert_eq!(said(Goal::Immediate, &holed), "");
    }
}
