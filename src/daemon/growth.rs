//! How much a repository will hold, from what it holds.
//!
//! Nothing is assumed that was not seen: the next backup of a job takes what the middle one of its
//! last took, a source grows as it grew between its oldest and its newest backup, WAL is written as
//! in the last week.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::forecast::Holding;
use crate::archive::manifest::Manifest;
use crate::id::BackupKind;

/// Backups of a job whose middle one counts.
const LAST: usize = 9;

/// What is looked back on for WAL.
const WEEK: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Growth is told only where it was watched for as long.
const WATCHED: SignedDuration = SignedDuration::from_hours(24);

/// What of a source lies in a repository.
#[derive(Debug, Default)]
pub struct Stored<'a> {
    /// Its backups, in any order.
    pub backups: Vec<&'a Manifest>,
    /// Its WAL: bytes, and when they were stored.
    pub wal: Vec<(u64, Timestamp)>,
}

/// What of a source will lie in a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Growth {
    /// The repository.
    pub repository: String,
    /// The source.
    pub source: String,
    /// Bytes that its backups and its WAL take now.
    pub bytes: u64,
    /// Of these, WAL.
    pub wal_bytes: u64,
    /// Bytes of content that it gains a day; loses, if negative. `None`: it was not watched for a
    /// day yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_bytes_a_day: Option<i64>,
    /// Bytes once retention holds all that it will, if the source stays as it is. `None`: a job has
    /// made no backup yet, or it is another repository than that of the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settled_bytes: Option<u64>,
    /// The same in a year, if the source goes on to grow as it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub year_bytes: Option<u64>,
}

/// What will lie in a source's own repository, with the jobs that back it up; of another one, with
/// none, only what is there.
pub fn growth(
    (repository, source): (&str, &str),
    stored: &Stored<'_>,
    jobs: Option<&[&Holding]>,
    wal_days: Option<f64>,
    now: Timestamp,
) -> Growth {
    let wal_bytes: u64 = stored.wal.iter().map(|(bytes, _)| bytes).sum();
    let mut objects: BTreeMap<&str, u64> = BTreeMap::new();
    for manifest in &stored.backups {
        objects.extend(manifest.objects().map(|(path, bytes, _)| (path, bytes)));
    }
    let bytes = objects.values().sum::<u64>() + wal_bytes;
    let a_day = content_a_day(&stored.backups);
    let settled = jobs.and_then(|jobs| settled(stored, jobs, wal_days, now));
    let content = newest(&stored.backups).map_or(0, |newest| newest.counts.bytes);
    let factor = match a_day {
        Some(a_day) if content > 0 => (1.0 + a_day * 365.0 / content as f64).max(0.0),
        _ => 1.0,
    };
    Growth {
        repository: repository.to_owned(),
        source: source.to_owned(),
        bytes,
        wal_bytes,
        content_bytes_a_day: a_day.map(|bytes| bytes.round() as i64),
        settled_bytes: settled,
        year_bytes: settled.map(|settled| (settled as f64 * factor) as u64),
    }
}

fn newest<'a>(backups: &[&'a Manifest]) -> Option<&'a Manifest> {
    backups.iter().copied().max_by_key(|manifest| manifest.end)
}

fn content_a_day(backups: &[&Manifest]) -> Option<f64> {
    let oldest = backups.iter().min_by_key(|manifest| manifest.end)?;
    let newest = newest(backups)?;
    let watched = newest.end.duration_since(oldest.end);
    let gained = newest.counts.bytes as f64 - oldest.counts.bytes as f64;
    (watched >= WATCHED).then(|| gained / (watched.as_secs_f64() / 86_400.0))
}

fn settled(
    stored: &Stored<'_>,
    jobs: &[&Holding],
    wal_days: Option<f64>,
    now: Timestamp,
) -> Option<u64> {
    let mut sum = 0;
    for holding in jobs {
        let one = typical(&stored.backups, &holding.job, holding.kind)?;
        sum += one * holding.backups as u64;
    }
    let recent = stored.wal.iter().filter(|(_, at)| now.duration_since(*at) <= WEEK);
    let recent: u64 = recent.map(|(bytes, _)| bytes).sum();
    let first = stored.wal.iter().map(|(_, at)| *at).min();
    let watched = first.map_or(WEEK, |first| now.duration_since(first).min(WEEK));
    let days = (watched.as_secs_f64() / 86_400.0).max(1.0 / 24.0);
    let wal = wal_days.map_or(0.0, |kept| recent as f64 / days * kept);
    Some(sum + wal as u64)
}

/// What the next backup of a job takes: the middle of its last, or of the last of its kind.
fn typical(backups: &[&Manifest], job: &str, kind: BackupKind) -> Option<u64> {
    let middle = |wanted: &dyn Fn(&Manifest) -> bool| {
        let mut last: Vec<&Manifest> =
            backups.iter().copied().filter(|manifest| wanted(manifest)).collect();
        last.sort_by_key(|manifest| std::cmp::Reverse(manifest.end));
        let mut sizes: Vec<u64> =
            last.iter().take(LAST).map(|manifest| manifest.counts.stored_bytes).collect();
        sizes.sort_unstable();
        sizes.get(sizes.len() / 2).copied()
    };
    // One that had to be a full tells nothing about the others.
    middle(&|manifest| manifest.job.as_deref() == Some(job) && manifest.kind == kind)
        .or_else(|| middle(&|manifest| manifest.kind == kind))
        .or_else(|| middle(&|_| true))
}
