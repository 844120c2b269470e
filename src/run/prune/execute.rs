//! Carries a plan out: deletes what was announced long enough ago, announces what nobody needs any
//! more, and removes the manifests of expired backups.

use jiff::Timestamp;

use super::look::{Looked, claims_now, is_over, look};
use super::plan::{Plan, decide};
use super::report::Outcome;
use super::request::Request;
use crate::error::{Error, ErrorKind, Result};
use crate::id::BackupId;
use crate::run::Context;
use crate::run::context::host_name;
use crate::store::protocol::may_expire;
use crate::store::{Erased, Lease, Mark, OBJECTS_PER_MARK, Repository, SourceStore, Terms, Worker};
use crate::telemetry::{WarningCode, failpoint};

/// Deleted at once: between two batches the time is looked at.
const BATCH: usize = 500;

/// What a prune would do now, without writing anything.
pub fn plan(repository: &Repository, request: &Request<'_>, cx: &Context) -> Result<Plan> {
    let source = repository.source(&request.address);
    let mut looked = look(&source, request, cx.clock.now(), None)?;
    judge(&source, &mut looked, request)
}

/// Decides, and once more where the store keeps what would go.
fn judge(source: &SourceStore, looked: &mut Looked, request: &Request<'_>) -> Result<Plan> {
    let plan = decide(looked, request)?;
    if plan.expiring.is_empty() {
        return Ok(plan);
    }
    looked.locked = source.kept(&plan.expiring)?;
    if looked.locked.is_empty() { Ok(plan) } else { decide(looked, request) }
}

/// Prunes one source.
pub fn prune(repository: &Repository, request: &Request<'_>, cx: &Context) -> Result<Outcome> {
    let by = Worker::here(host_name());
    let terms = Terms {
        stack: &request.address.stack,
        name: "prune",
        purpose: "prune",
        period: request.times.lease,
        by: by.clone(),
    };
    let lease = Lease::take(repository.store(), &terms, &cx.clock)?;
    check_clock(&lease, cx)?;
    let source = repository.source(&request.address);
    let began = cx.clock.now();
    // The store's clock: marks and commits bear its times.
    let mut looked = look(&source, request, lease.stored_at(), Some(&by))?;
    let plan = judge(&source, &mut looked, request)?;
    let looked = looked;
    let work = Work { source: &source, request, cx, lease: &lease, by: &by, began };
    for dead in &looked.dead {
        cx.reporter.note(format!(
            "{}: {} is given up: {} gave no sign of life since {}",
            request.address, dead.backup, dead.writer, dead.last_sign
        ));
    }
    let mut outcome = Outcome {
        source: plan.source.clone(),
        given_up: plan.given_up.clone(),
        waiting: plan.waiting,
        next_deletion: plan.next_deletion,
        blocked: plan.blocked.clone(),
        locked: looked.locked.keys().cloned().collect(),
        ..Outcome::default()
    };
    work.delete(&looked, &plan, &mut outcome)?;
    work.mark(&looked, &plan, &mut outcome)?;
    work.expire(&plan, &mut outcome)?;
    outcome.kept = plan.backups.len() - outcome.expired.len();
    work.tidy(&looked);
    Ok(outcome)
}

/// How far this machine's clock may be from the store's.
const CLOCK_TOLERANCE: jiff::SignedDuration = jiff::SignedDuration::from_mins(10);

fn check_clock(lease: &Lease, cx: &Context) -> Result<()> {
    let here = cx.clock.now();
    let apart = here.duration_since(lease.stored_at()).abs();
    if apart <= CLOCK_TOLERANCE {
        return Ok(());
    }
    Err(Error::failed(format!(
        "the store's clock says {} and this machine's {here}: ages cannot be told",
        lease.stored_at()
    ))
    .hint("set this machine's clock; nothing was marked or deleted"))
}

struct Work<'a> {
    source: &'a SourceStore,
    request: &'a Request<'a>,
    cx: &'a Context,
    lease: &'a Lease,
    by: &'a Worker,
    began: Timestamp,
}

impl Work<'_> {
    /// Fails if what was seen is too old to act on. Whoever was stopped for an hour wakes up here.
    fn check(&self) -> Result<()> {
        self.cx.reporter.check()?;
        self.lease.check()?;
        if is_over(self.began, self.cx.clock.now(), self.request.times.window) {
            return Err(Error::new(
                ErrorKind::Conflict,
                "what was seen of the repository is too old to delete anything by",
            )
            .hint("run prune again; it goes on where this one stopped"));
        }
        Ok(())
    }

    fn delete(&self, looked: &Looked, plan: &Plan, outcome: &mut Outcome) -> Result<()> {
        if !plan.deletions.is_empty()
            && let Some(doubt) = self.source.store().versioning_doubt()
        {
            self.cx.reporter.warn(WarningCode::Other, self.request.address.to_string(), doubt);
        }
        for deletion in &plan.deletions {
            let mut retained = false;
            for numbers in deletion.numbers.chunks(BATCH) {
                self.check()?;
                let objects: Vec<_> =
                    numbers.iter().map(|number| &looked.objects[*number]).collect();
                let keys: Vec<String> =
                    objects.iter().map(|object| self.source.key(&object.path)).collect();
                let results = self.source.store().erase(&keys);
                for (object, (_, erased)) in objects.iter().zip(results) {
                    match erased? {
                        Erased::Gone => outcome.deleted.add(object.size),
                        Erased::Absent => {}
                        Erased::Retained { .. } => {
                            retained = true;
                            outcome.retained.add(object.size);
                        }
                    }
                }
                failpoint::reach("prune.deleting");
            }
            failpoint::reach("prune.deleted");
            // One that spared objects is finished too: if they become unwanted they are marked anew.
            if !retained {
                self.source.finish_mark(&deletion.mark, self.cx.clock.now())?;
            }
        }
        for mark in &looked.marks {
            let Some(done_at) = mark.done_at else { continue };
            if looked.now.duration_since(done_at) >= self.request.times.linger {
                self.check()?;
                self.source.delete_mark(&mark.id)?;
            }
        }
        Ok(())
    }

    fn mark(&self, looked: &Looked, plan: &Plan, outcome: &mut Outcome) -> Result<()> {
        if plan.to_mark.is_empty() && plan.expiring.is_empty() {
            return Ok(());
        }
        self.check()?;
        // Backups are named even if all that they need stays: who pins one must learn of it.
        let mut backups: Vec<BackupId> = plan.expiring.iter().cloned().collect();
        let mut chunks = plan.to_mark.chunks(OBJECTS_PER_MARK);
        let mut chunk = chunks.next().unwrap_or_default();
        loop {
            let objects: Vec<_> = chunk.iter().map(|number| &looked.objects[*number]).collect();
            self.source.create_mark(&Mark {
                version: 1,
                created: self.cx.clock.now(),
                backups: std::mem::take(&mut backups),
                objects: objects.iter().map(|object| object.path.clone()).collect(),
                by: Some(self.by.clone()),
            })?;
            for object in objects {
                outcome.marked.add(object.size);
                outcome.waiting.add(object.size);
            }
            failpoint::reach("prune.marked");
            match chunks.next() {
                Some(next) => chunk = next,
                None => break,
            }
        }
        if outcome.next_deletion.is_none() {
            outcome.next_deletion = looked.now.checked_add(self.request.times.grace).ok();
        }
        Ok(())
    }

    /// Removes manifests. Only now, after the mark is there, and only of backups that nobody began
    /// to rely on meanwhile.
    fn expire(&self, plan: &Plan, outcome: &mut Outcome) -> Result<()> {
        if plan.expiring.is_empty() {
            return Ok(());
        }
        let claims = claims_now(self.source, self.cx.clock.now())?;
        let pinned = self.source.pins()?.into_iter().map(|pin| pin.backup).collect();
        let announced: Vec<BackupId> =
            self.source.intents()?.into_iter().map(|(intent, _)| intent.backup).collect();
        for backup in may_expire(&plan.expiring, &claims, &pinned) {
            self.check()?;
            if let Erased::Retained { .. } = self.source.erase_commit(&backup)? {
                // Locked since it was looked at, or the store does not say so before it is asked.
                outcome.locked.push(backup);
                continue;
            }
            failpoint::reach("prune.expiring");
            if announced.contains(&backup) {
                // Its writer may not know yet that it committed, and would commit again.
                let now = self.cx.clock.now();
                self.source.bury(&backup, "it expired", self.by, now)?;
                self.source.delete_intent(&backup)?;
            }
            outcome.expired.push(backup);
        }
        failpoint::reach("prune.expired");
        Ok(())
    }

    /// Removes notes that no longer mean anything. What cannot be removed now is next time.
    fn tidy(&self, looked: &Looked) {
        let tell = |what: String, error: Error| {
            let message = format!("{what} stays for now: {}", error.chain());
            self.cx.reporter.warn(WarningCode::Other, self.request.address.to_string(), message);
        };
        for hold in &looked.stale_holds {
            if let Err(error) = self.source.delete_hold(hold) {
                tell(format!("the hold {hold}"), error);
            }
        }
        for (intent, stored_at) in &looked.intents {
            let silent = looked.now.duration_since(*stored_at) > self.request.times.silence;
            let given_up = looked.dead.iter().any(|dead| dead.backup == intent.backup);
            let over = given_up || (silent && looked.taken.contains(&intent.backup));
            if over && let Err(error) = self.source.delete_intent(&intent.backup) {
                tell(format!("the intent of {}", intent.backup), error);
            }
        }
        let before = looked.now.checked_sub(self.request.times.silence).unwrap_or(Timestamp::MIN);
        // One that is neither committed nor old may be somebody's who began just now.
        let is_over = |backup: &BackupId| looked.taken.contains(backup) || backup.time() < before;
        if let Err(error) = self.source.remove_leftovers(before, &is_over) {
            tell("what unfinished uploads left".to_owned(), error);
        }
    }
}
