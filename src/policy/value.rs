//! Values written as short text: durations, sizes, names, and settings that may be secret.

use std::{fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::secret::SecretRef;

/// Why a value could not be read. The first line of its text is the message, the others are hints.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}\n{hint}")]
pub struct ValueError {
    /// What is wrong, a lower-case fragment.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

impl ValueError {
    pub(super) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into() }
    }
}

/// A length of time in whole seconds, written like `15m`, `4h`, `7d`, `4w` or `1h30m`.
///
/// A day is 24 hours and a week 7 days, whatever the clocks do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(Duration);

/// The units of [`Period`], longest first, in seconds.
const TIME_UNITS: [(&str, u64); 5] =
    [("w", 604_800), ("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];

/// The longest period taken: a hundred years.
const MAX_PERIOD: u64 = 100 * 366 * 86_400;

impl Period {
    /// A period of whole seconds; the rest of `duration` is dropped.
    pub const fn new(duration: Duration) -> Self {
        Self(Duration::from_secs(duration.as_secs()))
    }

    /// A period of `seconds`.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// The period as a standard duration.
    pub const fn get(self) -> Duration {
        self.0
    }

    /// The period in seconds.
    pub const fn as_secs(self) -> u64 {
        self.0.as_secs()
    }
}

impl FromStr for Period {
    type Err = ValueError;

    /// Parses numbers with units, longest unit first. Zero is refused.
    fn from_str(text: &str) -> Result<Self, ValueError> {
        const HINT: &str = "write a number and a unit of s, m, h, d or w, such as 15m, 4h or 1h30m";
        let wrong =
            |why: &str| ValueError::new(format!("bad duration `{}`: {why}", brief(text)), HINT);
        let mut total = 0_u64;
        let mut rest = text;
        let mut allowed = &TIME_UNITS[..];
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, tail) = rest.split_at(digits);
            if number.is_empty() {
                return Err(wrong("it must start with a number"));
            }
            let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
            let (unit, tail) = tail.split_at(letters);
            if unit.is_empty() {
                return Err(wrong("the unit is missing"));
            }
            let Some(index) = allowed.iter().position(|(name, _)| *name == unit) else {
                return Err(wrong(if TIME_UNITS.iter().any(|(name, _)| *name == unit) {
                    "units go from long to short, each once"
                } else {
                    "unknown unit"
                }));
            };
            total = number
                .parse::<u64>()
                .ok()
                .and_then(|number| number.checked_mul(allowed[index].1))
                .and_then(|seconds| total.checked_add(seconds))
                .filter(|total| *total <= MAX_PERIOD)
                .ok_or_else(|| wrong("it is longer than a hundred years"))?;
            allowed = &allowed[index + 1..];
            rest = tail;
        }
        if total == 0 {
            return Err(wrong("it must be longer than zero"));
        }
        Ok(Self::from_secs(total))
    }
}

impl fmt::Display for Period {
    /// Up to two days in hours, beyond in days: `26h`, `7d`, `4d12h`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.as_secs();
        let units = if rest < 2 * 86_400 { &TIME_UNITS[2..] } else { &TIME_UNITS[1..] };
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, seconds) in units {
            if rest >= *seconds {
                write!(f, "{}{unit}", rest / seconds)?;
                rest %= seconds;
            }
        }
        Ok(())
    }
}

/// A number of bytes, written like `50MiB` or `10GB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(u64);

const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1000),
    ("B", 1),
];

impl Size {
    /// A size of `bytes`.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = ValueError;

    /// Parses a whole number with a unit of bytes. Zero is refused.
    fn from_str(text: &str) -> Result<Self, ValueError> {
        const HINT: &str = "write a whole number and a unit of B, kB, MB, GB, TB, KiB, MiB, GiB or TiB, such as 50MiB";
        let wrong = |why: &str| ValueError::new(format!("bad size `{}`: {why}", brief(text)), HINT);
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err(wrong("it must start with a whole number"));
        }
        let unit = unit.trim_start();
        let factor = match unit {
            "" => return Err(wrong("the unit is missing")),
            "KB" => 1000,
            _ => SIZE_UNITS
                .iter()
                .find(|(name, _)| *name == unit)
                .map(|(_, factor)| *factor)
                .ok_or_else(|| {
                    wrong(if unit.contains("bit") || unit.ends_with('b') {
                        "sizes count bytes, not bits"
                    } else if unit.ends_with("/s") {
                        "leave out the `/s`"
                    } else {
                        "unknown unit"
                    })
                })?,
        };
        let bytes = number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(factor))
            .ok_or_else(|| wrong("it is too large"))?;
        if bytes == 0 {
            return Err(wrong("it must be more than zero"));
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Size {
    /// In the largest unit that needs no fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = SIZE_UNITS
            .iter()
            .find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor))
            .unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

/// Text that is written in the policy, or a reference to a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// The text itself. Not secret.
    Plain(String),
    /// Where the text lies.
    Secret(SecretRef),
}

impl Setting {
    /// Whether the text is only a reference.
    pub const fn is_secret(&self) -> bool {
        matches!(self, Self::Secret(_))
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(text) => f.write_str(text),
            Self::Secret(reference) => reference.fmt(f),
        }
    }
}

impl FromStr for Setting {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text.starts_with("${") {
            return text.parse().map(Self::Secret);
        }
        Ok(Self::Plain(text.to_owned()))
    }
}

impl FromStr for SecretRef {
    type Err = ValueError;

    /// Parses a reference. The error never shows the text, which may be the secret itself.
    fn from_str(text: &str) -> Result<Self, ValueError> {
        match Self::parse(text) {
            Some(Self::File(path)) if !path.starts_with('/') => Err(ValueError::new(
                "the path of the secret's file is not absolute",
                "write the whole path: ${file:/run/secrets/NAME}",
            )),
            Some(Self::Env(name))
                if name.contains(|char: char| char.is_whitespace() || char == '=') =>
            {
                Err(ValueError::new(
                    "this is not the name of an environment variable",
                    "a name has no spaces and no `=`: ${env:NAME}",
                ))
            }
            Some(reference) => Ok(reference),
            None if text.starts_with("${") => Err(bad_reference()),
            None => Err(ValueError::new(
                "a secret is written here, where only a reference to one may be",
                "take it out, treat it as leaked if the file was shared, and write ${env:NAME}, ${file:PATH} or ${command:PROGRAM ARGS}",
            )),
        }
    }
}

fn bad_reference() -> ValueError {
    ValueError::new(
        "this is not a reference to a secret",
        "write ${env:NAME}, ${file:/absolute/path} or ${command:PROGRAM ARGS}",
    )
}

/// Whether `name` may name a stack, repository, source, job, site, playbook or drill.
///
/// Names become parts of object keys and file names: 1 to 64 of `a-z 0-9 . _ -`, the first a
/// letter or digit.
pub fn is_valid_name(name: &str) -> bool {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    name.len() <= 64
        && name.bytes().all(allowed)
        && name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
}

/// What is shown of a value that is not secret: enough to find it, never a screenful.
fn brief(text: &str) -> String {
    if text.chars().count() <= 24 {
        return text.to_owned();
    }
    text.chars().take(23).chain(['…']).collect()
}

macro_rules! text_value {
    ($type:ty, $name:literal, $schema:tt) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

text_value!(Period, "Period", {
    "type": "string",
    "description": "A length of time: 15m, 4h, 7d, 4w, 1h30m.",
    "pattern": "^([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?$",
    "minLength": 2
});
text_value!(Size, "Size", {
    "type": "string",
    "description": "A number of bytes: 50MiB, 10GB.",
    "pattern": "^[0-9]+ *(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)$"
});
text_value!(Setting, "Setting", {
    "type": "string",
    "description": "Text, or a reference to a secret: ${env:NAME}, ${file:PATH}, ${command:PROGRAM ARGS}."
});
text_value!(SecretRef, "SecretRef", {
    "type": "string",
    "description": "A reference to a secret, never the secret: ${env:NAME}, ${file:PATH}, ${command:PROGRAM ARGS}.",
    "pattern": "^\\$\\{(env|file|command):.*[^ ].*\\}$"
});

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn periods_read_and_show() {
        for (text, seconds, shown) in [
            ("15m", 900, "15m"),
            ("26h", 93_600, "26h"),
            ("7d", 604_800, "7d"),
            ("4w", 2_419_200, "28d"),
            ("1h30m", 5400, "1h30m"),
            ("90s", 90, "1m30s"),
        ] {
            let period: Period = text.parse().unwrap();
            assert_eq!((period.as_secs(), period.to_string().as_str()), (seconds, shown));
        }
        for text in
            ["", "0s", "15", "m", "1m1h", "1h1h", "15M", "1y", "-1h", "99999999999w", "1h 3m", "1µ"]
        {
            assert!(text.parse::<Period>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_read_and_show() {
        for (text, bytes, shown) in [
            ("50MiB", 52_428_800, "50MiB"),
            ("10GB", 10_000_000_000, "10GB"),
            ("1 kB", 1000, "1kB"),
            ("7B", 7, "7B"),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!((size.bytes(), size.to_string().as_str()), (bytes, shown));
        }
        for text in ["", "0B", "12", "1.5GB", "100Mbit", "10MB/s", "99999999TiB", "MiB", "1é"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_literal_secret_is_not_in_its_error() {
        let error = "hunter2-hunter2".parse::<SecretRef>().unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
    }

    #[test]
    fn names_fit_object_keys() {
        for name in ["a", "0", "pg.main_2-x", &"a".repeat(64)] {
            assert!(is_valid_name(name), "{name}");
        }
        for name in ["", ".", "..", "-a", "A", "a/b", "a b", "é", &"a".repeat(65)] {
            assert!(!is_valid_name(name), "{name}");
        }
    }
}
