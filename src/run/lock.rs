//! How long what is backed up is locked, and what of it.

use jiff::{SignedDuration, Timestamp};

use super::copy::{below, sizes};
use crate::archive::manifest::Manifest;
use crate::error::Result;
use crate::policy::LockMode;
use crate::store::{Lock, SourceStore, layout};

/// Locks end at the beginning of a week, so that those of many backups end together and one that was
/// prolonged on Monday is long enough on Tuesday.
const WEEK: i64 = 7 * 24 * 3600;
/// A Monday, in seconds after the epoch.
const MONDAY: i64 = 4 * 24 * 3600;

/// How backups are locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockTerms {
    /// Who may lift a lock.
    pub mode: LockMode,
    /// How long a backup stays in any case, counted from its end.
    pub period: SignedDuration,
}

impl LockTerms {
    /// The lock of a backup that ended then. `None` if its time is over already.
    pub fn lock(&self, end: Timestamp, now: Timestamp) -> Option<Lock> {
        let until = end.checked_add(self.period).unwrap_or(Timestamp::MAX);
        (until > now).then(|| Lock { mode: self.mode, until: round_up(until) })
    }
}

/// The next beginning of a week.
fn round_up(at: Timestamp) -> Timestamp {
    let since = at.as_second() - MONDAY + i64::from(at.subsec_nanosecond() > 0);
    let weeks = since.div_euclid(WEEK) + i64::from(since.rem_euclid(WEEK) > 0);
    Timestamp::from_second(weeks * WEEK + MONDAY).unwrap_or(Timestamp::MAX)
}

/// Keys of everything without which a backup is lost, but for its manifest: its own objects and older
/// ones, the WAL it needs, what an engine wrote for it, and the keys of the repository.
pub fn needed(source: &SourceStore, manifest: &Manifest) -> Result<Vec<String>> {
    let mut keys: Vec<String> = manifest.objects().map(|(path, _, _)| source.key(path)).collect();
    if let Some(wal) = &manifest.wal {
        let encrypted = manifest.is_encrypted();
        let path = |name: String| layout::wal_file(wal.system_id, &name, encrypted);
        keys.extend(wal.segments().map(|name| source.key(&path(name))));
    }
    if let Some(snapshots) = &manifest.snapshots {
        let there = sizes(source)?;
        let directories = snapshots.directories();
        let paths = directories.flat_map(|(_, directory)| below(&there, &directory));
        keys.extend(paths.map(|(path, _)| source.key(&path)));
    }
    keys.push(layout::DESCRIPTOR.to_owned());
    if let Some(encryption) = &manifest.encryption {
        let wanted = |key: &String| {
            let name = key.rsplit('/').next().unwrap_or_default();
            encryption.keys.iter().any(|id| name.split('.').next() == Some(id))
        };
        let listed = source.store().list(layout::KEYS)?;
        keys.extend(listed.into_iter().map(|object| object.key).filter(wanted));
    }
    keys.sort();
    keys.dedup();
    Ok(keys)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn locks_end_at_the_beginning_of_a_week() {
        // The 23rd of November 2026 is a Monday.
        for (time, end) in [
            ("2026-11-21T12:00:00Z", "2026-11-23T00:00:00Z"),
            ("2026-11-23T00:00:00Z", "2026-11-23T00:00:00Z"),
            ("2026-11-23T00:00:00.1Z", "2026-11-30T00:00:00Z"),
            ("2026-11-29T23:59:59Z", "2026-11-30T00:00:00Z"),
            ("1969-12-30T00:00:00Z", "1970-01-05T00:00:00Z"),
        ] {
            assert_eq!(round_up(at(time)), at(end), "{time}");
        }
    }

    #[test]
    fn what_need_not_stay_any_more_is_not_locked() {
        let terms =
            LockTerms { mode: LockMode::Governance, period: SignedDuration::from_hours(48) };
        let now = at("2026-11-21T12:00:00Z");
        let lock = terms.lock(at("2026-11-20T00:00:00Z"), now).unwrap();
        assert_eq!(lock.until, at("2026-11-23T00:00:00Z"));
        assert_eq!(terms.lock(at("2026-11-19T12:00:00Z"), now), None);
    }
}
