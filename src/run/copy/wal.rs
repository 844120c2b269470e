//! WAL into the other repository: everything that recovery from the copies there may need.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::archive::manifest::NeededWal;
use crate::error::{Error, Result};
use crate::run::Context;
use crate::run::wal::{Base, reach};
use crate::store::{StoredWal, WalStore};
use crate::telemetry::failpoint;

/// WAL to copy.
#[derive(Debug, Clone, Default, Serialize)]
pub struct WalPlan {
    /// How many files the target lacks.
    pub files: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// Which: cluster and name, in the order in which they are replayed.
    #[serde(skip)]
    pub lacking: Vec<(u64, StoredWal)>,
}

/// WAL that was copied.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct WalCopied {
    /// Files that were sent.
    pub files: u64,
    /// Their stored bytes.
    pub bytes: u64,
}

/// Both sides of a copy, and what there will be to recover from.
pub struct Sides<'a> {
    /// Where WAL is copied from.
    pub from: &'a WalStore,
    /// Where to.
    pub to: &'a WalStore,
    /// Base backups that the target has when the copy is done.
    pub bases: &'a [Base],
    /// What each of them needs.
    pub needed: &'a [&'a NeededWal],
}

/// Finds what the target lacks of what it would keep. WAL of a cluster of which it has no base
/// backup is of no use there.
pub fn plan(sides: &Sides<'_>, keep: Option<SignedDuration>, now: Timestamp) -> Result<WalPlan> {
    let mut plan = WalPlan::default();
    let clusters: BTreeSet<u64> = sides.bases.iter().map(|base| base.system_id).collect();
    for system_id in clusters {
        let own: Vec<&Base> =
            sides.bases.iter().filter(|base| base.system_id == system_id).collect();
        let reach = reach(&own, keep, now);
        let named: BTreeSet<String> = sides
            .needed
            .iter()
            .filter(|needed| needed.system_id == system_id)
            .flat_map(|needed| needed.segments())
            .collect();
        for timeline in sides.from.timelines(system_id)? {
            let there: BTreeMap<String, u64> = sides
                .to
                .list(system_id, timeline)?
                .into_iter()
                .map(|file| (file.name, file.size))
                .collect();
            // Of another size it may be another file, which copying finds out and refuses.
            let lacks = |file: &StoredWal| there.get(&file.name) != Some(&file.size);
            let wanted = |file: &StoredWal| {
                named.contains(&file.name) || reach.keeps(&file.name, file.stored_at)
            };
            let files = sides.from.list(system_id, timeline)?;
            let files = files.into_iter().filter(|file| wanted(file) && lacks(file));
            plan.lacking.extend(files.map(|file| (system_id, file)));
        }
    }
    // The way to a timeline before the timeline itself, and then from the beginning: what is cut
    // short has no hole.
    plan.lacking.sort_by_key(|(system_id, file)| {
        (*system_id, !file.name.ends_with(".history"), file.name.clone())
    });
    plan.files = plan.lacking.len() as u64;
    plan.bytes = plan.lacking.iter().map(|(_, file)| file.size).sum();
    Ok(plan)
}

/// Sends it.
pub fn send(from: &WalStore, to: &WalStore, plan: &WalPlan, cx: &Context) -> Result<WalCopied> {
    let (next, files, bytes) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let failed: Mutex<Option<Error>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..cx.tuning.workers {
            scope.spawn(|| {
                while let Some((system_id, file)) =
                    plan.lacking.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let sent = cx
                        .reporter
                        .check()
                        .and_then(|()| to.copy_from(from, *system_id, &file.name));
                    if let Err(error) = sent {
                        next.store(plan.lacking.len(), Ordering::Relaxed);
                        let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                        failed.get_or_insert(error);
                        return;
                    }
                    files.fetch_add(1, Ordering::Relaxed);
                    bytes.fetch_add(file.size, Ordering::Relaxed);
                    cx.reporter.progress().add_file();
                    failpoint::reach("wal.copied");
                }
            });
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(WalCopied { files: files.into_inner(), bytes: bytes.into_inner() }),
    }
}
