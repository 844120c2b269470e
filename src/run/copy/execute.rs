//! Sends what is to be copied.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};

use super::object::{self, Proof};
use super::plan::{PlannedCopy, below, plan, sizes};
use super::request::{Copied, Outcome, Request};
use super::wal;
use crate::archive::manifest::Manifest;
use crate::error::{Error, ErrorKind, Result};
use crate::run::context::host_name;
use crate::run::{Context, hold, lock};
use crate::store::{
    Intent, Lease, Repository, SnapshotStore, SourceStore, Terms, WalStore, Worker, copy_keys,
    copy_policies, layout,
};
use crate::telemetry::{Event, WarningCode, failpoint};

/// How long an intent says it takes. Only a tombstone ends it.
const INTENT_HOURS: i64 = 14 * 24;

/// Brings the keys that all copies need.
pub fn prepare(from: &Repository, to: &Repository) -> Result<()> {
    check_fit(from, to)?;
    copy_keys(from, to.store())
}

/// Fails where copies of one repository cannot live in the other.
pub fn check_fit(from: &Repository, to: &Repository) -> Result<()> {
    if from.descriptor().id == to.descriptor().id {
        return Err(Error::usage(format!(
            "{} and {} are the same repository",
            from.store().name(),
            to.store().name()
        )));
    }
    if from.is_encrypted() != to.is_encrypted() {
        let word = |encrypted| if encrypted { "encrypted" } else { "not encrypted" };
        return Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "the repository in {} is {} and that in {} is {}",
                from.store().name(),
                word(from.is_encrypted()),
                to.store().name(),
                word(to.is_encrypted())
            ),
        )
        .hint(
            "copies stay as they are: let `backstay copy` or `backstay init` create the target",
        ));
    }
    Ok(())
}

/// Copies one source's backups.
pub fn copy(
    from: &Repository,
    to: &Repository,
    request: &Request<'_>,
    cx: &Context,
) -> Result<Outcome> {
    let started = Instant::now();
    let by = Worker::here(host_name());
    let terms = Terms {
        stack: &request.address.stack,
        name: "copy",
        purpose: "copy into this repository",
        period: cx.tuning.prune.lease,
        by: by.clone(),
    };
    let lease = Lease::take(to.store(), &terms, &cx.clock)?;
    copy_policies(from, to, &request.address.stack)?;
    if request.lock.is_some() {
        to.store().check_locking()?;
    }
    let (source, target) = (from.source(&request.address), to.source(&request.address));
    let plan = plan(&source, &target, request, cx.clock.now())?;
    let mut outcome =
        Outcome { source: plan.source.clone(), present: plan.present, ..Outcome::default() };
    cx.reporter.emit(Event::Started {
        verb: "copy",
        source: plan.source.clone(),
        backup: None,
        kind: None,
    });
    cx.reporter.phase("copying");
    cx.reporter.progress().expect(
        plan.copies.iter().map(|copy| copy.objects).sum::<u64>() + plan.wal.files,
        plan.copies.iter().map(|copy| copy.bytes).sum::<u64>() + plan.wal.bytes,
    );
    let work = Work { source, target, request, cx, by };
    for planned in &plan.copies {
        lease.check()?;
        match work.one(planned) {
            Ok(copied) => outcome.copied.push(copied),
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                let message = format!("{} was not copied: {}", planned.backup, error.chain());
                cx.reporter.warn(WarningCode::Other, planned.backup.to_string(), message);
                outcome.failed.push((planned.backup.clone(), error.chain()));
            }
        }
    }
    lease.check()?;
    // A copy that failed may be what this WAL is for; the next attempt makes use of it.
    let reader = |source| WalStore::reader(source, from.is_encrypted());
    outcome.wal = wal::send(&reader(&work.source), &reader(&work.target), &plan.wal, cx)?;
    outcome.seconds = started.elapsed().as_secs_f64();
    Ok(outcome)
}

struct Work<'a> {
    source: SourceStore,
    target: SourceStore,
    request: &'a Request<'a>,
    cx: &'a Context,
    by: Worker,
}

impl Work<'_> {
    fn one(&self, planned: &PlannedCopy) -> Result<Copied> {
        let manifest = self.source.manifest(&planned.backup)?;
        let _held = hold::hold(&self.source, &manifest, "copy", self.cx)?;
        let body = self.source.commit_bytes(&planned.backup)?;
        let snapshots = self.snapshots_of(&manifest)?;
        let needed = || needed_by(&manifest, &snapshots);
        self.announce(&manifest, needed().collect())?;
        failpoint::reach("copy.intent");
        // Refused or not, the intent stays: it is why a prune spares what the next attempt needs.
        self.check_marks(needed())?;
        let copied = self.send_all(&manifest, &snapshots)?;
        self.send_wal(&manifest)?;
        self.check_arrived(&manifest, &snapshots)?;
        failpoint::reach("copy.before_commit");
        let terms = self.request.lock;
        let lock = terms.and_then(|terms| terms.lock(manifest.end, self.cx.clock.now()));
        if let Some(lock) = lock {
            self.target.store().lock(&lock::needed(&self.target, &manifest)?, lock)?;
        }
        if !self.target.commit_copy(&planned.backup, &body, lock)? {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("the commit key of {} is taken in the target", planned.backup),
            )
            .hint("a prune of the target gave this copy up; the next backup is copied as usual"));
        }
        failpoint::reach("copy.after_commit");
        self.target.delete_intent(&planned.backup)?;
        Ok(copied)
    }

    /// Says what the manifest needs, before anything of it is relied on. An intent that lies there
    /// is of an attempt that did not come to its end: it says the same.
    fn announce(&self, manifest: &Manifest, objects: Vec<String>) -> Result<()> {
        let now = self.cx.clock.now();
        let expires = now.checked_add(SignedDuration::from_hours(INTENT_HOURS));
        let intent = Intent {
            version: 1,
            backup: manifest.backup.clone(),
            commit: layout::commit(&manifest.backup),
            base: None,
            created: now,
            expires: expires.unwrap_or(Timestamp::MAX),
            writer: self.by.clone(),
            run: None,
            nonce: manifest.nonce.clone(),
            objects,
        };
        match self.target.create_intent(&intent) {
            Err(error) if error.kind() == ErrorKind::Conflict => {
                let intents = self.target.intents()?;
                let same = intents.iter().any(|(other, _)| {
                    other.backup == intent.backup && other.objects == intent.objects
                });
                if same { Ok(()) } else { Err(error) }
            }
            created => created,
        }
    }

    fn check_marks(&self, mut needed: impl Iterator<Item = String>) -> Result<()> {
        let marked = self.target.marked()?;
        let Some(path) = needed.find(|path| marked.contains(path)) else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Busy, format!("a prune of the target is about to remove {path}"))
            .hint("it is copied once that prune is finished, which takes its grace period"))
    }

    /// Objects that StarRocks wrote for the backup, with their sizes.
    fn snapshots_of(&self, manifest: &Manifest) -> Result<Vec<(String, u64)>> {
        let Some(snapshots) = &manifest.snapshots else { return Ok(Vec::new()) };
        let there = sizes(&self.source)?;
        Ok(snapshots.directories().flat_map(|(_, directory)| below(&there, &directory)).collect())
    }

    fn send_all(&self, manifest: &Manifest, snapshots: &[(String, u64)]) -> Result<Copied> {
        let there = sizes(&self.target)?;
        let own = manifest.objects().map(|(path, size, sum)| (path, size, Proof::Sha256(sum)));
        let engine = snapshots.iter().map(|(path, size)| (path.as_str(), *size, Proof::Name));
        let mut objects: Vec<(&str, u64, Proof<'_>)> =
            own.chain(engine).filter(|(path, size, _)| there.get(*path) != Some(size)).collect();
        // Older segments first: what is cut short is then of most use to the next attempt.
        objects.sort_by(|a, b| a.0.cmp(b.0));
        let (source, target, reporter) = (&self.source, &self.target, &self.cx.reporter);
        let read_back = self.request.read_back;
        let (next, bytes) = (AtomicUsize::new(0), AtomicU64::new(0));
        let failed: Mutex<Option<Error>> = Mutex::default();
        std::thread::scope(|scope| {
            for _ in 0..self.cx.tuning.workers {
                scope.spawn(|| {
                    while let Some(object) = objects.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let sent = object::send(source, target, *object, read_back, reporter);
                        if let Err(error) = sent {
                            next.store(objects.len(), Ordering::Relaxed);
                            lock(&failed).get_or_insert(error);
                            return;
                        }
                        bytes.fetch_add(object.1, Ordering::Relaxed);
                        reporter.progress().add_file();
                        failpoint::reach("copy.object");
                    }
                });
            }
        });
        if let Some(error) = lock(&failed).take() {
            return Err(error);
        }
        if let Some(snapshots) = &manifest.snapshots {
            let (from, to) = (SnapshotStore::of(source), SnapshotStore::of(target));
            to.copy_repository_info(&from, &snapshots.repository)?;
        }
        Ok(Copied {
            backup: manifest.backup.clone(),
            objects: objects.len() as u64,
            bytes: bytes.into_inner(),
        })
    }

    /// Sends the WAL that a base backup needs, which is older than any decision about it here.
    fn send_wal(&self, manifest: &Manifest) -> Result<()> {
        let Some(needed) = &manifest.wal else { return Ok(()) };
        let encrypted = manifest.is_encrypted();
        let from = WalStore::reader(&self.source, encrypted);
        let to = WalStore::reader(&self.target, encrypted);
        for name in needed.segments() {
            self.cx.reporter.check()?;
            to.copy_from(&from, needed.system_id, &name)?;
        }
        // Where its timeline came from, if it has been another before.
        for range in &needed.ranges {
            let name = format!("{:08X}.history", range.timeline);
            if from.digest(needed.system_id, &name)?.is_some() {
                to.copy_from(&from, needed.system_id, &name)?;
            }
        }
        match to.missing(needed)?.first() {
            None => Ok(()),
            Some(name) => {
                Err(Error::damaged(format!("the target took {name} and does not list it"))
                    .hint("`backstay check` probes the store"))
            }
        }
    }

    /// Asks the target what it has before anybody is told that the copy exists.
    fn check_arrived(&self, manifest: &Manifest, snapshots: &[(String, u64)]) -> Result<()> {
        let there: BTreeMap<String, u64> = sizes(&self.target)?;
        let own = manifest.objects().map(|(path, size, _)| (path, size));
        let engine = snapshots.iter().map(|(path, size)| (path.as_str(), *size));
        match own.chain(engine).find(|(path, size)| there.get(*path) != Some(size)) {
            None => Ok(()),
            Some((path, size)) => Err(Error::damaged(format!(
                "the target took {path} and does not list it with its {size} bytes"
            ))
            .hint("`backstay check` probes the store")),
        }
    }
}

/// Everything that lies in the target before a copy is announced, its WAL included.
fn needed_by(manifest: &Manifest, snapshots: &[(String, u64)]) -> impl Iterator<Item = String> {
    let encrypted = manifest.is_encrypted();
    let wal = manifest.wal.iter().flat_map(move |needed| {
        let path = move |name: String| layout::wal_file(needed.system_id, &name, encrypted);
        needed.segments().map(path)
    });
    let engine = snapshots.iter().map(|(path, _)| path.clone());
    manifest.objects().map(|(path, _, _)| path.to_owned()).chain(engine).chain(wal)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
