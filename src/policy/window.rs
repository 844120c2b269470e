//! Stretches of time in which jobs may or may not begin.

use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::cron::{Cron, resolve};
use super::value::Period;

/// A stretch of time that comes again, or one of the calendar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Written", into = "Written")]
#[schemars(with = "Written")]
pub struct Window {
    /// When it is open.
    pub when: When,
    /// Jobs that avoid it wait whatever that costs. Otherwise they wait as long as the RPO allows.
    pub hard: bool,
    /// What it is for, for people.
    pub reason: Option<String>,
}

/// When a window is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// From each of these times on, for so long.
    Again {
        /// When it opens.
        opens: Cron,
        /// How long it stays open, in elapsed time.
        length: Period,
    },
    /// Once.
    Once {
        /// When it opens.
        from: CivilTime,
        /// When it closes.
        until: CivilTime,
    },
}

/// The longest window that comes again.
pub const LONGEST: Period = Period::from_secs(7 * 86_400);

impl Window {
    /// When the window that is open at `instant` closes; `None` if it is not open then.
    pub fn closes_after(&self, instant: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match &self.when {
            When::Again { opens, length } => {
                let length = SignedDuration::try_from(length.get()).ok()?;
                // Openings may overlap: what counts is when the last of them ends.
                let first = instant.checked_sub(length).ok()?;
                let until = instant.checked_add(SignedDuration::from_nanos(1)).ok()?;
                opens
                    .due_between(first, until, zone)
                    .filter_map(|due| due.at.checked_add(length).ok())
                    .filter(|closes| *closes > instant)
                    .max()
            }
            When::Once { from, until } => {
                let (from, until) = (resolve(from.0, zone)?, resolve(until.0, zone)?);
                (from <= instant && instant < until).then_some(until)
            }
        }
    }

    /// When the window is open first at or after `instant`; `None` if never again.
    pub fn opens_from(&self, instant: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        if self.closes_after(instant, zone).is_some() {
            return Some(instant);
        }
        match &self.when {
            When::Again { opens, .. } => opens.next_after(instant, zone).map(|due| due.at),
            When::Once { from, .. } => resolve(from.0, zone).filter(|from| *from >= instant),
        }
    }
}

/// A civil time, written `2026-12-24T18:00`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CivilTime(pub DateTime);

impl<'de> Deserialize<'de> for CivilTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bad = || {
            de::Error::custom(format!(
                "`{text}` is no date and time\nwrite 2026-12-24T18:00; it is in the policy's time zone"
            ))
        };
        // What names an offset is an instant, and the zone of the policy would be ignored.
        if text.len() < 16 || text[10..].contains(['Z', 'z', '+', '-', '[']) {
            return Err(bad());
        }
        text.parse().map(Self).map_err(|_| bad())
    }
}

impl Serialize for CivilTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl JsonSchema for CivilTime {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "CivilTime".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A date and time in the policy's time zone: \"2026-12-24T18:00\".",
            "pattern": "^\\d{4}-\\d{2}-\\d{2}[T ]\\d{2}:\\d{2}(:\\d{2})?$"
        })
    }
}

/// A window as it is written.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename = "Window")]
struct Written {
    /// When it opens, again and again. Needs `for`.
    #[serde(skip_serializing_if = "Option::is_none")]
    cron: Option<Cron>,
    /// How long it stays open.
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    length: Option<Period>,
    /// When it opens, once. Needs `until`.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<CivilTime>,
    /// When it closes.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<CivilTime>,
    /// Jobs that avoid it wait even if they miss their RPO for it.
    #[serde(default)]
    hard: bool,
    /// What it is for, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl TryFrom<Written> for Window {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let when = match (written.cron, written.length, written.from, written.until) {
            (Some(opens), Some(length), None, None) => When::Again { opens, length },
            (None, None, Some(from), Some(until)) if from < until => When::Once { from, until },
            (None, None, Some(_), Some(_)) => {
                return Err("the window closes before it opens\nmove `until` after `from`");
            }
            (Some(_), None, None, None) => {
                return Err("`for` is missing\nadd how long it stays open: `for: 1h`");
            }
            (None, None, Some(_), None) => {
                return Err("`until` is missing\nadd when it closes");
            }
            _ => {
                return Err(
                    "a window comes again or is of the calendar\nwrite `{ cron: \"0 2 * * *\", for: 1h }` or `{ from: 2026-12-24T18:00, until: 2027-01-02T06:00 }`",
                );
            }
        };
        Ok(Self { when, hard: written.hard, reason: written.reason })
    }
}

impl From<Window> for Written {
    fn from(window: Window) -> Self {
        let (cron, length, from, until) = match window.when {
            When::Again { opens, length } => (Some(opens), Some(length), None, None),
            When::Once { from, until } => (None, None, Some(from), Some(until)),
        };
        Self { cron, length, from, until, hard: window.hard, reason: window.reason }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn again(cron: &str, length: &str) -> Window {
        let when = When::Again { opens: cron.parse().unwrap(), length: length.parse().unwrap() };
        Window { when, hard: false, reason: None }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn open_from_its_first_instant_up_to_its_last() {
        let window = again("0 2 * * *", "1h");
        let closes = |time: &str| window.closes_after(at(time), &TimeZone::UTC);
        assert_eq!(closes("2026-11-21T01:59:59Z"), None);
        assert_eq!(closes("2026-11-21T02:00:00Z"), Some(at("2026-11-21T03:00:00Z")));
        assert_eq!(closes("2026-11-21T02:59:59Z"), Some(at("2026-11-21T03:00:00Z")));
        assert_eq!(closes("2026-11-21T03:00:00Z"), None);
        let opens = |time: &str| window.opens_from(at(time), &TimeZone::UTC).unwrap();
        assert_eq!(opens("2026-11-21T02:30:00Z"), at("2026-11-21T02:30:00Z"));
        assert_eq!(opens("2026-11-21T03:00:00Z"), at("2026-11-22T02:00:00Z"));
    }

    #[test]
    fn openings_that_overlap_are_one() {
        let window = again("0 1,2 * * *", "90m");
        let closes = window.closes_after(at("2026-11-21T02:10:00Z"), &TimeZone::UTC);
        assert_eq!(closes, Some(at("2026-11-21T03:30:00Z")));
    }
}
