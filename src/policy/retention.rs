//! How long backups are kept: the rule as written in a policy, and what it says of given backups.
//!
//! [`plan`] is pure: backups in, a verdict for each out. `prune --dry-run` prints exactly that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::value::Period;
use crate::id::BackupId;

/// A keep rule. A backup is kept as long as any part of the rule wants it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Keep {
    /// Every backup younger than this, by its end.
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    pub period: Option<Period>,
    /// The newest so many, whatever their age: the floor that outlives a week of failures. 3 where
    /// a policy does not say.
    pub at_least: u32,
    /// The newest of each of the last so many hours that have one.
    pub hourly: u32,
    /// The newest of each of the last so many days that have one.
    pub daily: u32,
    /// The newest of each of the last so many ISO weeks that have one.
    pub weekly: u32,
    /// The newest of each of the last so many months that have one.
    pub monthly: u32,
    /// The newest of each of the last so many years that have one.
    pub yearly: u32,
}

/// Backups of a job that stay, whatever their age, where its rule says nothing of it.
pub const DEFAULT_FLOOR: u32 = 3;

/// A rule as a policy has it. A rule that is recorded with a backup says everything.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct Written {
    #[serde(rename = "for")]
    period: Option<Period>,
    at_least: Option<u32>,
    hourly: u32,
    daily: u32,
    weekly: u32,
    monthly: u32,
    yearly: u32,
}

/// Reads a rule of a policy.
pub(super) fn written<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Keep>, D::Error> {
    let Written { period, at_least, hourly, daily, weekly, monthly, yearly } =
        Written::deserialize(deserializer)?;
    let keep = Keep { period, at_least: 0, hourly, daily, weekly, monthly, yearly };
    let floor = if keep.is_empty() { 0 } else { DEFAULT_FLOOR };
    Ok(Some(Keep { at_least: at_least.unwrap_or(floor), ..keep }))
}

impl Keep {
    /// Whether the rule keeps nothing at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether some backups stay however old they become.
    pub const fn has_floor(&self) -> bool {
        self.at_least > 0
            || self.hourly > 0
            || self.daily > 0
            || self.weekly > 0
            || self.monthly > 0
            || self.yearly > 0
    }

    /// How long a backup stays, whatever comes after it: `for`, or else the shortest stretch of which
    /// the rule keeps one. `None` where only numbers count.
    pub fn at_least_for(&self) -> Option<SignedDuration> {
        if let Some(period) = self.period {
            return SignedDuration::try_from(period.get()).ok();
        }
        let hours = |calendar| match calendar {
            Calendar::Hour => 1,
            Calendar::Day => 24,
            Calendar::Week => 7 * 24,
            Calendar::Month => 31 * 24,
            Calendar::Year => 366 * 24,
        };
        let wanted = self.calendars().into_iter().filter(|(_, count)| *count > 0);
        let spans =
            wanted.map(|(of, count)| SignedDuration::from_hours(hours(of) * i64::from(count)));
        spans.min()
    }

    /// A rule that keeps what either of both keeps.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            period: self.period.max(other.period),
            at_least: self.at_least.max(other.at_least),
            hourly: self.hourly.max(other.hourly),
            daily: self.daily.max(other.daily),
            weekly: self.weekly.max(other.weekly),
            monthly: self.monthly.max(other.monthly),
            yearly: self.yearly.max(other.yearly),
        }
    }

    fn calendars(&self) -> [(Calendar, u32); 5] {
        [
            (Calendar::Hour, self.hourly),
            (Calendar::Day, self.daily),
            (Calendar::Week, self.weekly),
            (Calendar::Month, self.monthly),
            (Calendar::Year, self.yearly),
        ]
    }
}

/// How far a backup's `end` may lie after the store's own time of its commit. One that lies
/// further ahead could push every honest backup out of the floor.
pub const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_mins(10);

/// A backup of one source, as retention sees it.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The backup.
    pub backup: BackupId,
    /// The job it was made for. Rules count within one job.
    pub job: Option<String>,
    /// The rule in force for it. Without one it stays until it is deleted by hand.
    pub rule: Option<Keep>,
    /// When everything was stored, by the writer's clock: its age counts from here.
    pub end: Timestamp,
    /// When the store took the commit, by the store's clock.
    pub stored_at: Timestamp,
    /// Somebody pinned it.
    pub pinned: bool,
    /// Every object it needs is there.
    pub sound: bool,
    /// It has damage that was at the source already.
    pub tainted: bool,
    /// A site wrote it that was not the active one any more.
    pub divergent: bool,
}

impl Candidate {
    /// Whether it counts for floors: it could be restored, and its age is believable. Damage of
    /// the source counts nothing, so that the backups from before it stay.
    fn counts(&self) -> bool {
        self.could_count() && !self.tainted
    }

    fn could_count(&self) -> bool {
        self.sound && !self.divergent && self.end.duration_since(self.stored_at) <= CLOCK_TOLERANCE
    }
}

/// A stretch of the calendar of which the newest backup stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Calendar {
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// An ISO week.
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
}

impl Calendar {
    /// A text that is the same for all instants of one stretch.
    fn stretch_of(self, at: &Zoned) -> String {
        let format = match self {
            // With the offset: the hour that DST repeats is two.
            Self::Hour => "%Y-%m-%d %H %z",
            Self::Day => "%Y-%m-%d",
            Self::Week => "%G-W%V",
            Self::Month => "%Y-%m",
            Self::Year => "%Y",
        };
        at.strftime(format).to_string()
    }
}

/// Why a backup stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Reason {
    /// Somebody pinned it.
    Pinned,
    /// No rule was recorded: it stays until somebody deletes it.
    NoRule,
    /// It is younger than `keep.for`.
    Young {
        /// The rule's period.
        keep_for: Period,
    },
    /// It is one of the newest of its job.
    Floor {
        /// Its place, from 1.
        place: u32,
        /// The rule's number.
        at_least: u32,
    },
    /// It is the newest of its hour, day, week, month or year.
    Newest {
        /// The stretch.
        of: Calendar,
        /// Which one: `2026-W47`.
        stretch: String,
    },
    /// It is the newest of its source that can be restored. That one always stays.
    LastGood,
    /// No backup of the source is known to be sound: none goes.
    NoneSound,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pinned => f.write_str("pinned"),
            Self::NoRule => f.write_str("no keep rule: stays until it is deleted"),
            Self::Young { keep_for } => write!(f, "younger than {keep_for}"),
            Self::Floor { place, at_least } => write!(f, "{place} of at least {at_least}"),
            Self::Newest { stretch, .. } => write!(f, "newest of {stretch}"),
            Self::LastGood => f.write_str("the newest that can be restored"),
            Self::NoneSound => f.write_str("no backup of the source is whole"),
        }
    }
}

/// What becomes of one backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The backup.
    pub backup: BackupId,
    /// Why it stays. Empty: it goes.
    pub reasons: Vec<Reason>,
}

impl Verdict {
    /// Whether it goes.
    pub fn expires(&self) -> bool {
        self.reasons.is_empty()
    }
}

/// Which backups of one source stay at `now`, and why. Calendars are those of `zone`.
///
/// The verdicts are in the order of the candidates.
pub fn plan(candidates: &[Candidate], now: Timestamp, zone: &TimeZone) -> Vec<Verdict> {
    let mut reasons: Vec<Vec<Reason>> = vec![Vec::new(); candidates.len()];
    let mut newest_first: Vec<usize> = (0..candidates.len()).collect();
    newest_first.sort_by_key(|at| {
        let candidate = &candidates[*at];
        std::cmp::Reverse((candidate.end, &candidate.backup))
    });

    let mut jobs: BTreeMap<Option<&str>, Vec<usize>> = BTreeMap::new();
    for at in &newest_first {
        let candidate = &candidates[*at];
        if candidate.pinned {
            reasons[*at].push(Reason::Pinned);
        }
        match candidate.rule {
            Some(rule) if !rule.is_empty() => {
                jobs.entry(candidate.job.as_deref()).or_default().push(*at);
                if let Some(keep_for) = rule.period
                    && is_younger(candidate, keep_for, now)
                {
                    reasons[*at].push(Reason::Young { keep_for });
                }
            }
            _ => reasons[*at].push(Reason::NoRule),
        }
    }
    for members in jobs.values() {
        let counting: Vec<usize> =
            members.iter().copied().filter(|at| candidates[*at].counts()).collect();
        keep_floor(candidates, &counting, &mut reasons);
        for calendar in 0..5 {
            keep_newest_of(candidates, &counting, calendar, zone, &mut reasons);
        }
    }
    // The last without damage, and the last at all: newer, if damaged in places.
    let last = newest_first.iter().find(|at| candidates[**at].counts());
    let newest = newest_first.iter().find(|at| candidates[**at].could_count());
    for at in last.into_iter().chain(newest.filter(|at| Some(*at) != last)) {
        reasons[*at].push(Reason::LastGood);
    }
    if newest.is_none() {
        for reasons in &mut reasons {
            reasons.push(Reason::NoneSound);
        }
    }
    candidates
        .iter()
        .zip(reasons)
        .map(|(candidate, reasons)| Verdict { backup: candidate.backup.clone(), reasons })
        .collect()
}

fn is_younger(candidate: &Candidate, keep_for: Period, now: Timestamp) -> bool {
    let age = now.duration_since(candidate.end);
    SignedDuration::try_from(keep_for.get()).map_or(true, |keep_for| age <= keep_for)
}

/// `at_least`: each backup by its own rule, since rules of one job differ once a policy changed.
fn keep_floor(candidates: &[Candidate], newest_first: &[usize], reasons: &mut [Vec<Reason>]) {
    for (place, at) in (1..).zip(newest_first) {
        let at_least = candidates[*at].rule.map_or(0, |rule| rule.at_least);
        if place <= at_least {
            reasons[*at].push(Reason::Floor { place, at_least });
        }
    }
}

fn keep_newest_of(
    candidates: &[Candidate],
    newest_first: &[usize],
    calendar: usize,
    zone: &TimeZone,
    reasons: &mut [Vec<Reason>],
) {
    let mut seen = BTreeSet::new();
    for at in newest_first {
        let Some(rule) = candidates[*at].rule else { continue };
        let (of, wanted) = rule.calendars()[calendar];
        let stretch = of.stretch_of(&candidates[*at].end.to_zoned(zone.clone()));
        if seen.insert(stretch.clone()) && seen.len() as u64 <= u64::from(wanted) {
            reasons[*at].push(Reason::Newest { of, stretch });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::BackupKind;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn backup(end: &str, rule: Keep) -> Candidate {
        let end = at(end);
        Candidate {
            backup: BackupId::new(BackupKind::Full, end, None),
            job: Some("daily".to_owned()),
            rule: Some(rule),
            end,
            stored_at: end,
            pinned: false,
            sound: true,
            tainted: false,
            divergent: false,
        }
    }

    fn expired(candidates: &[Candidate], now: &str) -> Vec<usize> {
        let verdicts = plan(candidates, at(now), &TimeZone::UTC);
        (0..candidates.len()).filter(|at| verdicts[*at].expires()).collect()
    }

    fn days(keep: u64) -> Keep {
        Keep { period: Some(Period::from_secs(keep * 86400)), ..Keep::default() }
    }

    #[test]
    fn age_counts_from_the_end() {
        let rule = days(7);
        let all = ["2026-11-01T00:00:00Z", "2026-11-09T00:00:00Z", "2026-11-10T00:00:00Z"]
            .map(|end| backup(end, rule));
        assert_eq!(expired(&all, "2026-11-16T00:00:00Z"), [0]);
        assert_eq!(expired(&all, "2026-11-16T00:00:01Z"), [0, 1]);
        // Whatever its age, the last one stays.
        assert_eq!(expired(&all, "2030-01-01T00:00:00Z"), [0, 1]);
    }

    #[test]
    fn damage_of_the_source_does_not_push_out_what_is_whole() {
        let rule = Keep { at_least: 2, ..days(1) };
        let mut all = ["2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z", "2026-11-03T00:00:00Z"]
            .map(|end| backup(end, rule));
        (all[1].tainted, all[2].tainted) = (true, true);
        assert_eq!(expired(&all, "2027-01-01T00:00:00Z"), [1]);
        all[0].tainted = true;
        assert_eq!(expired(&all, "2027-01-01T00:00:00Z"), [0, 1]);
    }

    #[test]
    fn the_floor_outlives_every_age() {
        let rule = Keep { at_least: 2, ..days(1) };
        let all = ["2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z", "2026-11-03T00:00:00Z"]
            .map(|end| backup(end, rule));
        assert_eq!(expired(&all, "2027-01-01T00:00:00Z"), [0]);
    }

    #[test]
    fn a_divergent_backup_holds_no_place_and_goes_with_its_age() {
        let rule = Keep { at_least: 2, ..days(3) };
        let mut all: Vec<Candidate> =
            (1..=4).map(|day| backup(&format!("2026-11-0{day}T02:00:00Z"), rule)).collect();
        // The newest two were written by a site that had been fenced.
        for candidate in &mut all[2..] {
            candidate.divergent = true;
        }
        assert_eq!(expired(&all, "2026-11-05T03:00:00Z"), [] as [usize; 0]);
        assert_eq!(expired(&all, "2026-11-20T03:00:00Z"), [2, 3]);
    }

    #[test]
    fn a_damaged_backup_holds_no_place_in_the_floor() {
        let rule = Keep { at_least: 2, ..days(1) };
        let mut all = ["2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z", "2026-11-03T00:00:00Z"]
            .map(|end| backup(end, rule));
        all[2].sound = false;
        assert_eq!(expired(&all, "2027-01-01T00:00:00Z"), [2]);
        for backup in &mut all {
            backup.sound = false;
        }
        assert_eq!(
            expired(&all, "2027-01-01T00:00:00Z"),
            [0; 0],
            "nothing goes where nothing is sound"
        );
    }

    #[test]
    fn a_clock_far_ahead_pushes_nobody_out() {
        let rule = Keep { at_least: 1, ..days(1) };
        let honest = backup("2026-11-01T00:00:00Z", rule);
        let mut forged = backup("2036-11-01T00:00:00Z", rule);
        forged.stored_at = at("2026-11-02T00:00:00Z");
        let verdicts = plan(&[honest, forged], at("2026-12-01T00:00:00Z"), &TimeZone::UTC);
        assert!(verdicts[0].reasons.contains(&Reason::LastGood), "{verdicts:?}");
        assert!(verdicts[0].reasons.contains(&Reason::Floor { place: 1, at_least: 1 }));
    }

    #[test]
    fn calendars_keep_the_newest_of_each_stretch() {
        let rule = Keep { daily: 2, monthly: 2, ..Keep::default() };
        let all = [
            "2026-09-30T02:00:00Z",
            "2026-10-31T02:00:00Z",
            "2026-11-19T02:00:00Z",
            "2026-11-20T02:00:00Z",
            "2026-11-20T14:00:00Z",
            "2026-11-21T02:00:00Z",
        ]
        .map(|end| backup(end, rule));
        // Days 20 and 21, months 10 and 11.
        assert_eq!(expired(&all, "2026-11-21T03:00:00Z"), [0, 2, 3]);
    }

    #[test]
    fn days_are_those_of_the_zone() {
        let rule = Keep { daily: 1, ..Keep::default() };
        let all = ["2026-11-20T15:00:00Z", "2026-11-20T17:00:00Z"].map(|end| backup(end, rule));
        let zone = TimeZone::get("Asia/Shanghai").expect("a zone");
        let verdicts = plan(&all, at("2026-11-21T03:00:00Z"), &zone);
        let Reason::Newest { stretch, .. } = &verdicts[1].reasons[0] else {
            panic!("{verdicts:?}")
        };
        assert_eq!(stretch, "2026-11-21");
        assert!(verdicts[0].expires());
    }

    #[test]
    fn pins_and_hand_made_backups_stay() {
        let mut all = ["2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z", "2026-11-03T00:00:00Z"]
            .map(|end| backup(end, days(1)));
        all[0].pinned = true;
        all[1].rule = None;
        assert_eq!(expired(&all, "2027-01-01T00:00:00Z"), [0; 0]);
    }

    #[test]
    fn jobs_count_for_themselves() {
        let rule = Keep { at_least: 1, ..Keep::default() };
        let mut all = ["2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z"].map(|end| backup(end, rule));
        all[0].job = Some("weekly".to_owned());
        assert_eq!(expired(&all, "2027-01-01T00:00:00Z"), [0; 0]);
    }
}
