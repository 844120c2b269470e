//! Keeping a standby at the newest backup.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::time::Instant;

use jiff::Timestamp;
use serde::Serialize;

use super::restore::{BackupFiles, Request as Restore, kept_views};
use super::select::{BackupChoice, find_backup};
use super::{Context, hold, host_name};
use crate::archive::crypt::Keyring;
use crate::archive::manifest::Manifest;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{BackupId, SourceAddress};
use crate::policy::Standby;
use crate::source::starrocks::restore::{Change, Followed, Following};
use crate::source::starrocks::{Listing, View};
use crate::source::{SnapshotPlace, read_stored};
use crate::store::{
    Lease, Repository, SnapshotStore, SourceStore, Synced, SyncedDatabase, Terms, Worker,
};

/// The largest list of partitions that is read.
const LIMIT: u64 = 1 << 30;

/// A sync of one standby.
pub struct Request<'a> {
    /// Where the backups are read from.
    pub repository: &'a Repository,
    /// What opens what the next incremental needs; views are only read with a recovery identity.
    pub keys: &'a Keyring,
    /// The source.
    pub address: &'a SourceAddress,
    /// The job: its records are under this name.
    pub job: &'a str,
    /// The standby.
    pub standby: &'a Standby,
    /// Put the backup also in the place of what no sync put there.
    pub replace: bool,
    /// Say what would be done and do nothing.
    pub dry_run: bool,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// `STACK/SOURCE`.
    pub source: String,
    /// The job.
    pub job: String,
    /// The backup that the standby has now; in a dry run would have.
    pub backup: BackupId,
    /// What the standby is as of: in a dry run what it is as of already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub point: Option<Timestamp>,
    /// How old that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<i64>,
    /// Nothing is done.
    pub dry_run: bool,
    /// Its databases.
    pub databases: Vec<Followed>,
    /// Views that the standby refused, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
    /// Seconds it took.
    pub seconds: f64,
}

impl Outcome {
    /// Databases that were restored.
    pub fn restored(&self) -> impl Iterator<Item = &Followed> {
        self.databases.iter().filter(|one| one.change != Change::Unchanged)
    }
}

/// How old what a standby has is. `None`: it was never synced.
pub fn lag(source: &SourceStore, job: &str, now: Timestamp) -> Result<Option<(Timestamp, i64)>> {
    let found = source.synced(job)?.map(|(_, record)| record);
    // What is about to be in its place may not be there yet.
    let found = found.filter(|record| record.done);
    Ok(found.map(|record| (record.point, now.duration_since(record.point).as_secs())))
}

/// Brings the standby to the newest backup.
///
/// # Errors
/// [`ErrorKind::Conflict`] where somebody else wrote to the standby; [`ErrorKind::Busy`] where another
/// sync of it goes on.
pub fn sync(request: &Request<'_>, cx: &Context) -> Result<Outcome> {
    let started = Instant::now();
    let source = request.repository.source(request.address);
    let manifest = find_backup(request.repository, request.address, &BackupChoice::Latest)?;
    let _lease = if request.dry_run { None } else { Some(lease(request, cx)?) };
    let _held = if request.dry_run { None } else { hold::hold(&source, &manifest, "sync", cx)? };
    let newest = source.synced(request.job)?;
    let before = newest.as_ref().map(|(_, record)| record);
    if let Some(before) = before.filter(|before| before.backup > manifest.backup) {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "the standby has {} already, and the newest backup here is {}",
                before.backup, manifest.backup
            ),
        )
        .hint("is the copy behind? a standby is never put back to an older backup"));
    }
    let point = manifest.recovery_points.last().map_or(manifest.start, |point| point.time);
    let listing = listing(&source, &manifest, request.keys, cx)?;
    let mut source_cx = cx.for_source();
    source_cx.snapshots = Some(SnapshotPlace {
        store: SnapshotStore::of(&source),
        address: request.address.clone(),
        backup: None,
    });
    let config = request.standby.as_source();
    let following = Following::prepare(&config, &source_cx, (&manifest, &listing), before)?;
    if !request.replace {
        following.check_own()?;
    }
    let mut outcome = Outcome {
        source: request.address.to_string(),
        job: request.job.to_owned(),
        backup: manifest.backup.clone(),
        point: before.filter(|before| before.done).map(|before| before.point),
        lag_seconds: None,
        dry_run: request.dry_run,
        databases: following.plan(),
        refused: Vec::new(),
        seconds: 0.0,
    };
    if !request.dry_run {
        let views = views(request, &source, &manifest, &listing, cx)?;
        let mut number = newest.map_or(0, |(number, _)| number);
        let mut note = |databases: &BTreeMap<String, SyncedDatabase>, done: bool| {
            number += 1;
            let by = Worker::here(host_name());
            let now = cx.clock.now();
            let record = Synced {
                done,
                databases: databases.clone(),
                ..Synced::new(request.job, &manifest.backup, point, by, now)
            };
            if source.create_synced(number, &record)? {
                return Ok(());
            }
            Err(Error::new(ErrorKind::Busy, "another sync of this standby goes on")
                .hint("run this again when it is done"))
        };
        let stamp = cx.clock.now().strftime("%Y%m%dT%H%M%SZ").to_string();
        (outcome.databases, outcome.refused) = following.run(views, &stamp, &mut note)?;
        outcome.point = Some(point);
    }
    let now = cx.clock.now();
    outcome.lag_seconds = outcome.point.map(|point| now.duration_since(point).as_secs());
    outcome.seconds = started.elapsed().as_secs_f64();
    Ok(outcome)
}

fn lease(request: &Request<'_>, cx: &Context) -> Result<Lease> {
    let name = format!("sync-{}", request.job);
    let terms = Terms {
        stack: &request.address.stack,
        name: &name,
        purpose: "sync this standby",
        period: cx.tuning.prune.lease,
        by: Worker::here(host_name()),
    };
    Lease::take(request.repository.store(), &terms, &cx.clock)
}

fn listing(
    source: &SourceStore,
    manifest: &Manifest,
    keys: &Keyring,
    cx: &Context,
) -> Result<Listing> {
    let object = manifest.snapshots.as_ref().and_then(|snapshots| snapshots.listing.as_ref());
    let object = object.ok_or_else(|| {
        Error::unsupported(format!(
            "{} does not say which partition is in which snapshot",
            manifest.backup
        ))
        .hint("only backups of StarRocks can be synced to a standby")
    })?;
    let mut bytes = Vec::new();
    read_stored(source, object, keys, &cx.reporter.fresh(), &mut |plain| {
        plain
            .take(LIMIT)
            .read_to_end(&mut bytes)
            .map(drop)
            .map_err(|error| Error::io(format!("failed to read {}", object.path), error))
    })?;
    Listing::parse(&bytes)
}

/// Views of the backup. `None`: nobody here can read them.
fn views(
    request: &Request<'_>,
    source: &SourceStore,
    manifest: &Manifest,
    listing: &Listing,
    cx: &Context,
) -> Result<Option<BTreeMap<String, Vec<View>>>> {
    let everything = Restore::whole(source.clone(), manifest, request.keys.clone());
    let restore = Restore { dry_run: true, ..everything };
    let read = BackupFiles::open(&restore, cx).and_then(|files| kept_views(&files, listing));
    match read {
        Ok(views) => Ok(Some(views)),
        Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::Damaged) => {
            Err(error)
        }
        Err(error) => {
            cx.reporter.note(format!(
                "views stay as the standby has them: those of the backup cannot be read here: {}",
                error.chain()
            ));
            Ok(None)
        }
    }
}
