//! Names that become object keys: backups, runs, keys, stacks and sources.

use std::fmt;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// `length` random characters that are easy to read aloud: no `l`, `o`, `0` or `1`.
pub fn random_suffix(length: usize) -> String {
    let mut rng = fastrand::Rng::new();
    (0..length).map(|_| ALPHABET[rng.usize(..ALPHABET.len())] as char).collect()
}

/// 128 random bits as hex: tells our own write from another's after a lost reply.
pub fn nonce() -> String {
    format!("{:032x}", fastrand::Rng::new().u128(..))
}

/// `20261121T020000Z`.
pub fn compact_time(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// What a backup refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackupKind {
    /// Refers to nothing older.
    Full,
    /// Refers to older segments.
    Incremental,
    /// A full that nothing is ever based on.
    Snapshot,
}

impl BackupKind {
    /// The word in a backup id.
    pub fn tag(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Incremental => "incr",
            Self::Snapshot => "snap",
        }
    }

    /// The word on the command line and in manifests.
    pub fn word(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Incremental => "incremental",
            Self::Snapshot => "snapshot",
        }
    }

    fn from_tag(tag: &str) -> Option<Self> {
        [Self::Full, Self::Incremental, Self::Snapshot].into_iter().find(|kind| kind.tag() == tag)
    }
}

impl fmt::Display for BackupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A backup's name: `20261121T020000Z-full-7k3f`. Sorts by time; unique within its source.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupId(String);

impl BackupId {
    /// A new id. It is later than `newest`, also when the clock stepped back: ids of one source
    /// never go backwards, so that "latest" needs no clock to be right.
    pub fn new(kind: BackupKind, now: Timestamp, newest: Option<&Self>) -> Self {
        let floor = newest
            .map(Self::time)
            .and_then(|time| time.checked_add(jiff::SignedDuration::from_secs(1)).ok());
        let at = floor.map_or(now, |floor| now.max(floor));
        Self(format!("{}-{}-{}", compact_time(at), kind.tag(), random_suffix(4)))
    }

    /// Parses an id; refuses anything that is not exactly of the form.
    pub fn parse(text: &str) -> Result<Self> {
        if Self::parts(text).is_some() {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::usage(format!("`{}` is not a backup id", text.escape_default()))
                .hint("ids look like 20261121T020000Z-full-7k3f; `backstay list` shows them"))
        }
    }

    /// Whether `text` is an id, or the start of one that no source can be called.
    pub fn looks_like(text: &str) -> bool {
        let (date, rest) = text.split_at_checked(8).unwrap_or_default();
        date.len() == 8 && date.bytes().all(|b| b.is_ascii_digit()) && rest.starts_with('T')
    }

    fn parts(text: &str) -> Option<(Timestamp, BackupKind)> {
        let mut words = text.splitn(3, '-');
        let (time, tag, suffix) = (words.next()?, words.next()?, words.next()?);
        let suffix_ok = (4..=8).contains(&suffix.len())
            && suffix.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !suffix_ok || time.len() != 16 || !time.is_ascii() {
            return None;
        }
        let civil = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", time).ok()?;
        let at = civil.to_zoned(TimeZone::UTC).ok()?.timestamp();
        (compact_time(at) == time).then_some((at, BackupKind::from_tag(tag)?))
    }

    /// The instant in the name. A name, not a measurement: see [`BackupId::new`].
    pub fn time(&self) -> Timestamp {
        Self::parts(&self.0).map_or(Timestamp::UNIX_EPOCH, |(at, _)| at)
    }

    /// The kind in the name.
    pub fn kind(&self) -> BackupKind {
        Self::parts(&self.0).map_or(BackupKind::Full, |(_, kind)| kind)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for BackupId {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<BackupId> for String {
    fn from(id: BackupId) -> Self {
        id.0
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A run's name: `20261121T020000Z-x7k3fq`. All sources of one `backup` command share it.
pub fn run_id(now: Timestamp) -> String {
    format!("{}-{}", compact_time(now), random_suffix(6))
}

/// The name of what happens at `at` and has this digest: `20261121T020000Z-x7k3fqab2cd4`. Names of
/// the same instant are told apart by 60 bits.
pub fn run_id_of(at: Timestamp, digest: &[u8; 32]) -> String {
    let letters = digest.iter().take(12).map(|byte| ALPHABET[usize::from(*byte) % 32] as char);
    format!("{}-{}", compact_time(at), letters.collect::<String>())
}

/// A repository key's name: `20261121T020000Z-x7k3`.
pub fn key_id(now: Timestamp) -> String {
    format!("{}-{}", compact_time(now), random_suffix(4))
}

/// The instant in a repository key's name.
pub fn time_of_key(id: &str) -> Option<Timestamp> {
    let (time, _) = id.split_once('-')?;
    let civil = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", time).ok()?;
    civil.to_zoned(TimeZone::UTC).ok().map(|at| at.timestamp())
}

/// Whether `text` can be a stack or source name: `[a-z0-9][a-z0-9._-]{0,63}`.
pub fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.len() <= 64
        && bytes.next().is_some_and(plain)
        && bytes.all(|b| plain(b) || matches!(b, b'.' | b'_' | b'-'))
}

/// `STACK/SOURCE`: the address of a source.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct SourceAddress {
    /// The stack.
    pub stack: String,
    /// The source within it.
    pub source: String,
}

impl SourceAddress {
    /// An address from two names that were checked with [`is_name`].
    pub fn new(stack: impl Into<String>, source: impl Into<String>) -> Self {
        Self { stack: stack.into(), source: source.into() }
    }

    /// Parses `STACK/SOURCE`.
    pub fn parse(text: &str) -> Result<Self> {
        match text.split_once('/') {
            Some((stack, source)) if is_name(stack) && is_name(source) => {
                Ok(Self::new(stack, source))
            }
            _ => Err(Error::usage(format!("`{}` is not STACK/SOURCE", text.escape_default()))),
        }
    }
}

impl SourceAddress {
    /// Whether one of `given` names it: as STACK/SOURCE, SOURCE or STACK. No names name all.
    pub fn is_named_by(&self, given: &[String]) -> bool {
        given.is_empty()
            || given.iter().any(|given| {
                *given == self.to_string() || *given == self.stack || *given == self.source
            })
    }
}

impl fmt::Display for SourceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.stack, self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_never_go_back() {
        let now: Timestamp = "2026-11-21T02:00:00Z".parse().expect("a time");
        let first = BackupId::new(BackupKind::Full, now, None);
        assert!(first.as_str().starts_with("20261121T020000Z-full-"), "{first}");
        assert_eq!(BackupId::parse(first.as_str()).expect("parses"), first);
        assert_eq!(first.time(), now);
        let earlier: Timestamp = "2026-11-21T01:00:00Z".parse().expect("a time");
        let second = BackupId::new(BackupKind::Incremental, earlier, Some(&first));
        assert!(second > first);
        assert!(second.as_str().starts_with("20261121T020001Z-incr-"), "{second}");
    }

    #[test]
    fn odd_ids_are_refused() {
        for bad in [
            "",
            "x",
            "20261121T020000Z",
            "20261121T020000Z-full",
            "20261121T020000Z-fool-abcd",
            "20261321T020000Z-full-abcd",
            "20261121T020000Z-full-abc",
            "20261121T020000Z-full-AB12",
            "20261121T020000Z-full-ab/2",
            "../../etc",
            "20261121T020000Z-full-abcd\n",
        ] {
            assert!(BackupId::parse(bad).is_err(), "{bad:?}");
        }
    }
}
