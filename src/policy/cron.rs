//! Cron expressions: five fields, civil time.
//!
//! `croner` reads them. When they are due follows from civil times alone, by one rule for all of
//! them: a time that the clocks skip is due at the first instant after the gap, a time that exists
//! twice is due at the first of both. What must happen in elapsed time is no cron expression but
//! `every`.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use jiff::{
    Timestamp, ToSpan as _,
    civil::{Date, DateTime, date},
    tz::{AmbiguousOffset, TimeZone},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::value::ValueError;

/// The sample of the calendar on which schedules are judged: nine years with three leap days, the
/// same on every day of use, so that a policy that passes today passes tomorrow.
const FIRST_DAY: Date = date(2024, 1, 1);
const DAYS: usize = 3288;
const DAY_WORDS: usize = DAYS.div_ceil(64);
const MINUTES: usize = 24 * 60;
const MINUTE_WORDS: usize = MINUTES.div_ceil(64);

/// A cron expression of five fields.
///
/// The fields are minute, hour, day of the month, month and day of the week (0 or 7 is Sunday).
/// Lists, ranges, steps, names, and `L`, `W` and `#` are read.
#[derive(Clone)]
pub struct Cron(Arc<Parsed>);

struct Parsed {
    text: String,
    expression: croner::Cron,
    /// The minutes of a day it matches.
    minutes: Minutes,
    /// The days of the sample it matches.
    days: Arc<Days>,
}

/// A bit for each day of the sample.
type Days = [u64; DAY_WORDS];

/// The days that fields name, by what is written in the last three. A fleet has thousands of
/// expressions and few sets of days.
static DAYS_BY_FIELDS: LazyLock<Mutex<HashMap<String, Arc<Days>>>> = LazyLock::new(Mutex::default);

/// Sets of days that are remembered.
const REMEMBERED: usize = 1000;

impl Cron {
    /// The expression as written.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// What is due from `start` on and before `end`, in order, no instant twice.
    pub fn due_between<'a>(
        &'a self,
        start: Timestamp,
        end: Timestamp,
        zone: &'a TimeZone,
    ) -> impl Iterator<Item = Due> + 'a {
        let mut last = None;
        // A skipped day is due when the next begins.
        let first = start.to_zoned(zone.clone()).date().saturating_sub(2.days());
        std::iter::successors(Some(first), |day| day.tomorrow().ok())
            .filter(|day| self.runs_on_date(*day))
            .flat_map(move |day| self.due_on(day, zone))
            .skip_while(move |due| due.at < start)
            .take_while(move |due| due.at < end)
            .filter(move |due| last.replace(due.at) != Some(due.at))
    }

    /// What is due first after `instant`. `None` beyond the calendar's end.
    pub fn next_after(&self, instant: Timestamp, zone: &TimeZone) -> Option<Due> {
        let start = instant.checked_add(jiff::SignedDuration::from_nanos(1)).ok()?;
        self.due_between(start, Timestamp::MAX, zone).next()
    }

    fn due_on<'a>(&'a self, day: Date, zone: &'a TimeZone) -> impl Iterator<Item = Due> + 'a {
        self.minutes().iter().filter_map(move |minute| {
            let nominal = time_of(day, minute);
            Some(Due { nominal, at: resolve(nominal, zone)? })
        })
    }

    fn runs_on_date(&self, day: Date) -> bool {
        let since = (day - FIRST_DAY).get_days();
        match usize::try_from(since) {
            Ok(index) if index < DAYS => self.runs_on(index),
            _ => runs_on_date(&self.0.expression, &self.0.minutes, day),
        }
    }

    /// Whether both run at the same minute of some day.
    pub fn meets(&self, other: &Self) -> bool {
        let common = |a: &[u64], b: &[u64]| a.iter().zip(b).any(|(a, b)| a & b != 0);
        common(&*self.0.days, &*other.0.days) && common(&self.0.minutes.0, &other.0.minutes.0)
    }

    /// Whether it runs on a day of the sample.
    pub(super) fn runs_on(&self, day: usize) -> bool {
        self.0.days[day / 64] >> (day % 64) & 1 == 1
    }

    /// The minutes of a day it runs at.
    pub(super) fn minutes(&self) -> &Minutes {
        &self.0.minutes
    }
}

impl FromStr for Cron {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        check_fields(text, &fields)?;
        let expression: croner::Cron =
            text.parse().map_err(|error: croner::errors::CronError| {
                ValueError::new(
                    format!(
                        "bad cron expression: {}",
                        error
                            .to_string()
                            .trim_start_matches("Component error: ")
                            .trim_end_matches('.')
                            .to_lowercase()
                    ),
                    "the fields are minute 0-59, hour 0-23, day 1-31, month 1-12, weekday 0-7",
                )
            })?;
        let minutes = minutes_of(&expression);
        let days = days_by_fields(&fields[2..], &expression, &minutes);
        if days.iter().all(|word| *word == 0) {
            return Err(ValueError::new(
                format!("`{}` never happens", fields.join(" ")),
                "the day does not exist in that month: `28` exists in every month, `L` is the last day",
            ));
        }
        let text = fields.join(" ");
        Ok(Self(Arc::new(Parsed { text, expression, minutes, days })))
    }
}

fn check_fields(text: &str, fields: &[&str]) -> Result<(), ValueError> {
    if text.trim_start().starts_with('@') {
        let same = match text.trim().to_ascii_lowercase().as_str() {
            "@hourly" => "0 * * * *",
            "@weekly" => "0 0 * * 0",
            "@monthly" => "0 0 1 * *",
            "@yearly" | "@annually" => "0 0 1 1 *",
            _ => "0 0 * * *",
        };
        return Err(ValueError::new(
            "nicknames are not cron expressions",
            format!("write \"{same}\""),
        ));
    }
    if fields.len() != 5 {
        let hint = if fields.len() == 6 {
            "there is no field for seconds: leave out the first"
        } else {
            "write minute, hour, day of the month, month and day of the week: \"30 2 * * *\" is 02:30 every day"
        };
        let found = fields.len();
        return Err(ValueError::new(
            format!("a cron expression has 5 fields, this has {found}"),
            hint,
        ));
    }
    let restricted = |field: &str| !matches!(field, "*" | "?");
    if restricted(fields[2]) && restricted(fields[4]) {
        return Err(ValueError::new(
            "day of the month and day of the week are both restricted",
            "cron programs disagree on what that means: use two jobs, or `#` for \"the first Monday\" (\"0 3 * * 1#1\")",
        ));
    }
    Ok(())
}

fn minutes_of(cron: &croner::Cron) -> Minutes {
    let mut minutes = Minutes::default();
    for minute in 0..MINUTES {
        let hour = cron.pattern.hour_match(minute as u32 / 60).unwrap_or(false);
        if hour && cron.pattern.minute_match(minute as u32 % 60).unwrap_or(false) {
            minutes.0[minute / 64] |= 1 << (minute % 64);
        }
    }
    minutes
}

fn days_by_fields(fields: &[&str], cron: &croner::Cron, minutes: &Minutes) -> Arc<Days> {
    if minutes.iter().next().is_none() {
        return Arc::new([0; DAY_WORDS]);
    }
    let key = fields.join(" ");
    let known = || DAYS_BY_FIELDS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(days) = known().get(&key) {
        return days.clone();
    }
    let days = Arc::new(days_of(cron, minutes));
    let mut known = known();
    if known.len() < REMEMBERED {
        known.insert(key, days.clone());
    }
    days
}

fn days_of(cron: &croner::Cron, minutes: &Minutes) -> Days {
    let mut days = [0; DAY_WORDS];
    for (index, day) in sample().enumerate() {
        if runs_on_date(cron, minutes, day) {
            days[index / 64] |= 1 << (index % 64);
        }
    }
    days
}

fn runs_on_date(cron: &croner::Cron, minutes: &Minutes, day: Date) -> bool {
    let Some(minute) = minutes.iter().next() else { return false };
    cron.is_time_matching(&time_of(day, minute)).unwrap_or(false)
}

/// One time that an expression names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Due {
    /// When it is due.
    pub at: Timestamp,
    /// The civil time that the expression names, which may not exist on that day.
    pub nominal: DateTime,
}

/// The minute of a day as a civil time.
pub(super) fn time_of(day: Date, minute: usize) -> DateTime {
    day.at((minute / 60) as i8, (minute % 60) as i8, 0, 0)
}

/// The instant of a civil time: the first after the gap if the clocks skip it, the first of both if
/// it exists twice.
pub(super) fn resolve(time: DateTime, zone: &TimeZone) -> Option<Timestamp> {
    match zone.to_ambiguous_timestamp(time).offset() {
        AmbiguousOffset::Unambiguous { offset } | AmbiguousOffset::Fold { before: offset, .. } => {
            offset.to_timestamp(time).ok()
        }
        AmbiguousOffset::Gap { after, .. } => {
            let before_the_gap = after.to_timestamp(time).ok()?;
            zone.following(before_the_gap).next().map(|transition| transition.timestamp())
        }
    }
}

/// The days of the sample, in order.
pub(super) fn sample() -> impl Iterator<Item = Date> {
    // Counting days is most of what judging a schedule takes.
    static SAMPLE: LazyLock<Vec<Date>> =
        LazyLock::new(|| FIRST_DAY.series(1.day()).take(DAYS).collect());
    SAMPLE.iter().copied()
}

/// A set of minutes of a day.
#[derive(Debug, Clone, Default)]
pub(super) struct Minutes([u64; MINUTE_WORDS]);

impl Minutes {
    /// Adds all of `other`.
    pub(super) fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(all, one)| *all |= one);
    }

    /// The minutes, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().enumerate().flat_map(|(index, word)| {
            let bits = std::iter::successors(Some(*word), |word| Some(word & word.wrapping_sub(1)));
            bits.take_while(|word| *word != 0)
                .map(move |word| index * 64 + word.trailing_zeros() as usize)
        })
    }
}

impl PartialEq for Cron {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Cron {}

impl fmt::Debug for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cron").field(&self.as_str()).finish()
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Cron {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Cron {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl JsonSchema for Cron {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Cron".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "Minute, hour, day of the month, month, day of the week: \"30 2 * * *\".",
            "pattern": "^[^@ ]+( +[^ ]+){4}$"
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn clock_changes_follow_one_rule() {
        let due = |cron: &str, zone: &str, from: &str, count: usize| -> Vec<String> {
            let zone = TimeZone::get(zone).unwrap();
            let from = from.parse::<DateTime>().unwrap().to_zoned(zone.clone()).unwrap();
            let cron = cron.parse::<Cron>().unwrap();
            let due = cron.due_between(from.timestamp(), Timestamp::MAX, &zone);
            due.take(count)
                .map(|due| due.at.to_zoned(zone.clone()).strftime("%d %H:%M %z").to_string())
                .collect()
        };
        // Skipped: at the first instant after the gap, and once however many times fall into it.
        for (cron, expected) in [
            ("30 2 * * *", ["28 03:00 +0200", "29 02:30 +0200"]),
            ("*/10 2 * * *", ["28 03:00 +0200", "29 02:00 +0200"]),
            ("0 2,14 * * *", ["28 03:00 +0200", "28 14:00 +0200"]),
            ("0 2,3 * * *", ["28 03:00 +0200", "29 02:00 +0200"]),
        ] {
            assert_eq!(due(cron, "Europe/Berlin", "2027-03-28T00:00", 2), expected, "{cron}");
        }
        // Twice: at the first of both, wildcards too.
        for (cron, expected) in [
            ("30 2 * * *", ["31 02:30 +0200", "01 02:30 +0100"]),
            ("0 2,14 * * *", ["31 02:00 +0200", "31 14:00 +0100"]),
            ("30 2-3 * * *", ["31 02:30 +0200", "31 03:30 +0100"]),
            ("0 * * * *", ["31 02:00 +0200", "31 03:00 +0100"]),
        ] {
            assert_eq!(due(cron, "Europe/Berlin", "2027-10-31T01:30", 2), expected, "{cron}");
        }
        // At midnight, by half an hour, and by a whole day that never was.
        assert_eq!(
            due("0 0 * * *", "Africa/Cairo", "2026-04-23T12:00", 2),
            ["24 01:00 +0300", "25 00:00 +0300"]
        );
        assert_eq!(
            due("15 2 * * *", "Australia/Lord_Howe", "2026-10-04T00:00", 2),
            ["04 02:30 +1100", "05 02:15 +1100"]
        );
        assert_eq!(
            due("0 12 * * *", "Pacific/Apia", "2011-12-29T00:00", 3),
            ["29 12:00 -1000", "31 00:00 +1400", "31 12:00 +1400"]
        );
        assert_eq!(
            due("0 4 29 2 *", "UTC", "2097-01-01T00:00", 1),
            ["29 04:00 +0000"],
            "2100 is no leap year"
        );
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for text in [
            "0 0 31 2 *",
            "0 0 30 2 *",
            "0 3 13 * 5",
            "0 0 3 * * *",
            "@daily",
            "",
            "61 * * * *",
            "* * * *",
            "a b c d e",
            "0 25 * * *",
            "0 0 31 4,6,9,11 *",
        ] {
            assert!(text.parse::<Cron>().is_err(), "{text}");
        }
    }

    #[test]
    fn meeting_needs_the_same_day_and_minute() {
        let cron = |text: &str| text.parse::<Cron>().unwrap();
        assert!(cron("0 3 * * *").meets(&cron("0 3 1 * *")));
        assert!(!cron("0 3 * * 0").meets(&cron("0 3 * * 1-6")));
        assert!(!cron("0 3 * * *").meets(&cron("30 */4 * * *")));
    }
}
