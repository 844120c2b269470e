//! What becomes of each backup and each object, and why. Pure: `--dry-run` prints exactly this.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;

use super::look::{Backup, Looked};
use super::report::Tally;
use super::request::{Expiry, Request};
use super::wal::{self, TimelineFate};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{BackupId, BackupKind};
use crate::policy::{Candidate, Reason, plan_retention};
use crate::run::wal::Reach;
use crate::store::ListedMark;
use crate::store::protocol::{Unknown, may_expire, to_delete, to_mark};

/// What would become of a source.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// `STACK/SOURCE`.
    pub source: String,
    /// The instant it is judged at.
    pub now: Timestamp,
    /// Every backup, oldest first.
    pub backups: Vec<PlannedBackup>,
    /// Backups that were begun and whose writer is taken for dead.
    pub given_up: Vec<BackupId>,
    /// Every object that does not simply stay, or all of them where that was asked.
    pub objects: Vec<ObjectFate>,
    /// What becomes of WAL, timeline by timeline.
    pub wal: Vec<TimelineFate>,
    /// Marks whose grace period is over.
    pub deletions: Vec<Deletion>,
    /// What a new mark would name.
    pub marking: Tally,
    /// What is marked already and waits for the end of its grace period.
    pub waiting: Tally,
    /// When the first of that may go.
    pub next_deletion: Option<Timestamp>,
    /// Why nothing of the source may go at all.
    pub blocked: Option<Blocked>,
    #[serde(skip)]
    pub(super) expiring: BTreeSet<BackupId>,
    #[serde(skip)]
    pub(super) to_mark: Vec<usize>,
}

/// Why nothing of a source may go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Blocked {
    /// In words.
    pub why: String,
    /// It is damage, and does not end by itself.
    pub damage: bool,
}

impl std::fmt::Display for Blocked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.why)
    }
}

/// What becomes of a backup.
#[derive(Debug, Clone, Serialize)]
pub struct PlannedBackup {
    /// The backup.
    pub backup: BackupId,
    /// Its kind.
    pub kind: BackupKind,
    /// The job it was made for.
    pub job: Option<String>,
    /// When everything was stored.
    pub end: Timestamp,
    /// Whether it goes.
    pub expires: bool,
    /// Why it stays, in words.
    pub stays_because: Vec<String>,
    /// Objects it needs that are missing or have another size.
    pub lost_objects: u64,
}

/// What becomes of an object.
#[derive(Debug, Clone, Serialize)]
pub struct ObjectFate {
    /// Path relative to the source.
    pub path: String,
    /// Stored bytes.
    pub size: u64,
    /// What becomes of it.
    #[serde(flatten)]
    pub fate: Fate,
}

impl ObjectFate {
    fn waits_until(&self) -> Option<Timestamp> {
        match self.fate {
            Fate::Waits { until } => Some(until),
            _ => None,
        }
    }
}

/// What becomes of an object, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "fate", rename_all = "snake_case")]
pub enum Fate {
    /// Backups that stay need it.
    Needed {
        /// How many.
        backups: usize,
        /// The newest of them.
        newest: BackupId,
    },
    /// Somebody reads or writes what needs it.
    Claimed,
    /// WAL that point-in-time recovery may need.
    Recovery,
    /// Nobody needs it: it is announced, and goes after the grace period.
    Mark,
    /// It is announced already.
    Waits {
        /// When it may go.
        until: Timestamp,
    },
    /// Its grace period is over and nobody needs it: it goes now.
    Delete,
}

/// A mark whose grace period is over.
#[derive(Debug, Clone, Serialize)]
pub struct Deletion {
    /// The mark.
    pub mark: String,
    /// When it was made, by the store's clock.
    pub marked_at: Timestamp,
    /// What goes.
    pub objects: Tally,
    /// Objects that were marked and are needed after all.
    pub spared: usize,
    #[serde(skip)]
    pub(super) numbers: Vec<usize>,
}

/// Decides about everything that was seen.
pub fn decide(looked: &Looked, request: &Request<'_>) -> Result<Plan> {
    let expired = expired(looked, request)?;
    let decided = blocked(looked).map_or_else(
        || {
            let free = expired.names.iter().filter(|name| !looked.locked.contains_key(*name));
            let free = free.cloned().collect();
            let may = may_expire(&free, &looked.survey.claims, &looked.pinned);
            mark_and_delete(looked, request, may).map_err(|unknown| waits_for(&unknown))
        },
        Err,
    );
    let (decided, blocked) = match decided {
        Ok(decided) => (decided, None),
        Err(why) => (Decided::default(), Some(why)),
    };
    let waiting = waiting(looked, request);
    let fates = fates(looked, &decided, &waiting);
    let objects: Vec<ObjectFate> = looked
        .objects
        .iter()
        .zip(fates)
        .map(|(object, fate)| ObjectFate { path: object.path.clone(), size: object.size, fate })
        .collect();
    let sum = |wanted: &dyn Fn(&Fate) -> bool| {
        objects.iter().filter(|object| wanted(&object.fate)).map(|object| object.size).collect()
    };
    let wal = wal::timelines(looked, &objects, &decided.reaches);
    let to_mark = (0..objects.len()).filter(|number| objects[*number].fate == Fate::Mark);
    Ok(Plan {
        source: request.address.to_string(),
        now: looked.now,
        backups: planned(looked, &expired, &decided.expiring),
        given_up: looked.dead.iter().map(|dead| dead.backup.clone()).collect(),
        marking: sum(&|fate| *fate == Fate::Mark),
        waiting: sum(&|fate| matches!(fate, Fate::Waits { .. })),
        next_deletion: objects.iter().filter_map(ObjectFate::waits_until).min(),
        to_mark: to_mark.collect(),
        wal,
        objects,
        deletions: decided.deletions,
        blocked,
        expiring: decided.expiring,
    })
}

/// What may be done.
#[derive(Default)]
struct Decided {
    expiring: BTreeSet<BackupId>,
    unwanted: BTreeSet<usize>,
    deletions: Vec<Deletion>,
    /// What stays of each cluster's WAL.
    reaches: BTreeMap<u64, Reach>,
}

fn mark_and_delete(
    looked: &Looked,
    request: &Request<'_>,
    expiring: BTreeSet<BackupId>,
) -> Result<Decided, Unknown<BackupId>> {
    let mut unwanted = to_mark(&looked.survey, &expiring)?;
    let reaches = wal::reaches(looked, request, &expiring);
    let needed = needed(looked, &expiring);
    let claimed: BTreeSet<&usize> =
        looked.survey.claims.iter().flat_map(|claim| &claim.objects).collect();
    let is_free = |number: &usize| !needed.contains_key(number) && !claimed.contains(number);
    unwanted.extend(wal::beyond(looked, &reaches).into_iter().filter(is_free));
    // What may be deleted now is told from all backups, also those that expire next.
    let beyond = wal::beyond(looked, &wal::reaches(looked, request, &BTreeSet::new()));
    let is_kept =
        |number: &usize| looked.objects[*number].wal.is_some() && !beyond.contains(number);
    let is_mature = |mark: &&ListedMark| {
        mark.done_at.is_none() && looked.now.duration_since(mark.stored_at) >= request.times.grace
    };
    let mut deletions = Vec::new();
    for mark in looked.marks.iter().filter(is_mature) {
        let there: BTreeSet<usize> =
            mark.mark.objects.iter().filter_map(|path| looked.number(path)).collect();
        let mut numbers = to_delete(&there, &looked.survey)?;
        numbers.retain(|number| !is_kept(number));
        deletions.push(Deletion {
            mark: mark.id.clone(),
            marked_at: mark.stored_at,
            objects: numbers.iter().map(|number| looked.objects[*number].size).collect(),
            spared: there.len() - numbers.len(),
            numbers: numbers.into_iter().collect(),
        });
    }
    Ok(Decided { expiring, unwanted, deletions, reaches })
}

/// Objects in marks that are too young, and when they may go.
fn waiting(looked: &Looked, request: &Request<'_>) -> BTreeMap<usize, Timestamp> {
    let mut waiting = BTreeMap::new();
    for mark in looked.marks.iter().filter(|mark| mark.done_at.is_none()) {
        let until = mark.stored_at.checked_add(request.times.grace).unwrap_or(Timestamp::MAX);
        if until <= looked.now {
            continue;
        }
        for number in mark.mark.objects.iter().filter_map(|path| looked.number(path)) {
            waiting.entry(number).or_insert(until);
        }
    }
    waiting
}

/// What becomes of every object, in their order.
fn fates(looked: &Looked, decided: &Decided, waiting: &BTreeMap<usize, Timestamp>) -> Vec<Fate> {
    let needed = needed(looked, &decided.expiring);
    let deleted: BTreeSet<usize> =
        decided.deletions.iter().flat_map(|deletion| &deletion.numbers).copied().collect();
    let fate = |number: usize| {
        if let Some((backups, newest)) = needed.get(&number) {
            Fate::Needed { backups: *backups, newest: (*newest).clone() }
        } else if deleted.contains(&number) {
            Fate::Delete
        } else if looked.objects[number].wal.is_some() && !decided.unwanted.contains(&number) {
            Fate::Recovery
        } else if let Some(until) = waiting.get(&number) {
            Fate::Waits { until: *until }
        } else if decided.unwanted.contains(&number) {
            Fate::Mark
        } else {
            Fate::Claimed
        }
    };
    (0..looked.objects.len()).map(fate).collect()
}

/// The rule's word on each backup.
struct Expired {
    names: BTreeSet<BackupId>,
    reasons: BTreeMap<BackupId, Vec<Reason>>,
}

fn expired(looked: &Looked, request: &Request<'_>) -> Result<Expired> {
    let old: Vec<&Backup> = looked.backups.iter().filter(|backup| !backup.is_new).collect();
    let candidates: Vec<Candidate> = old.iter().map(|backup| candidate(backup, looked)).collect();
    let verdicts = plan_retention(&candidates, looked.now, &request.zone);
    let reasons: BTreeMap<_, _> =
        verdicts.into_iter().map(|verdict| (verdict.backup, verdict.reasons)).collect();
    let names = match &request.expiry {
        Expiry::ByRule => {
            let expires = reasons.iter().filter(|(_, reasons)| reasons.is_empty());
            expires.map(|(backup, _)| backup.clone()).collect()
        }
        Expiry::These { backups, last } => {
            for backup in backups {
                check_deletable(backup, &reasons, *last)?;
            }
            backups.clone()
        }
    };
    Ok(Expired { names, reasons })
}

fn check_deletable(
    backup: &BackupId,
    reasons: &BTreeMap<BackupId, Vec<Reason>>,
    last: bool,
) -> Result<()> {
    let Some(reasons) = reasons.get(backup) else {
        return Err(Error::not_found(format!("there is no backup {backup}")));
    };
    let refused = |why: &str| Error::new(ErrorKind::Conflict, format!("{backup} {why}"));
    if reasons.contains(&Reason::Pinned) {
        return Err(refused("is pinned and is not deleted")
            .hint(format!("`backstay unpin {backup}` first")));
    }
    let is_last = reasons.contains(&Reason::LastGood) || reasons.contains(&Reason::NoneSound);
    if is_last && !last {
        return Err(refused("is the newest backup that can be restored, and is not deleted")
            .hint("take another backup first, or give --last if the source is gone for good"));
    }
    Ok(())
}

fn candidate(backup: &Backup, looked: &Looked) -> Candidate {
    Candidate {
        backup: backup.commit.backup.clone(),
        job: backup.job.clone(),
        rule: backup.rule,
        end: backup.end,
        stored_at: backup.commit.stored_at,
        pinned: looked.pinned.contains(&backup.commit.backup),
        sound: backup.lost == 0,
        tainted: backup.tainted,
        divergent: backup.divergent,
    }
}

fn planned(looked: &Looked, expired: &Expired, allowed: &BTreeSet<BackupId>) -> Vec<PlannedBackup> {
    let mut planned: Vec<PlannedBackup> = looked
        .backups
        .iter()
        .map(|backup| {
            let id = &backup.commit.backup;
            let expires = allowed.contains(id);
            let reasons = expired.reasons.get(id).map(Vec::as_slice).unwrap_or_default();
            let mut stays_because: Vec<String> = reasons.iter().map(Reason::to_string).collect();
            if backup.is_new {
                stays_because.push("committed just now".to_owned());
            } else if let Some(by) = looked.locked.get(id) {
                stays_because.push(by.to_string());
            } else if expired.names.contains(id) && !expires {
                stays_because.push("somebody reads it or builds on it".to_owned());
            }
            PlannedBackup {
                backup: id.clone(),
                kind: id.kind(),
                job: backup.job.clone(),
                end: backup.end,
                expires,
                stays_because: if expires { Vec::new() } else { stays_because },
                lost_objects: backup.lost,
            }
        })
        .collect();
    planned.sort_by(|a, b| a.backup.cmp(&b.backup));
    planned
}

/// Which objects backups that stay need: how many do, and the newest.
fn needed<'a>(
    looked: &'a Looked,
    expiring: &BTreeSet<BackupId>,
) -> BTreeMap<usize, (usize, &'a BackupId)> {
    let mut needed = BTreeMap::new();
    for (backup, objects) in &looked.survey.needs {
        if expiring.contains(backup) {
            continue;
        }
        for number in objects {
            let (count, newest) = needed.entry(*number).or_insert((0, backup));
            *count += 1;
            *newest = backup.max(*newest);
        }
    }
    needed
}

fn blocked(looked: &Looked) -> Option<Blocked> {
    let first = looked.unreadable.first()?;
    let why = match looked.unreadable.len() {
        1 => format!("what a manifest needs cannot be told: {first}"),
        more => format!("what {more} manifests need cannot be told: {first}"),
    };
    Some(Blocked { why, damage: true })
}

fn waits_for(unknown: &Unknown<BackupId>) -> Blocked {
    let gone = &unknown.gone;
    let why = match &unknown.writes {
        Some(backup) => format!("{backup} is being written and builds on {gone}, which is gone"),
        None => format!("somebody reads {gone}, which is gone"),
    };
    Blocked { why, damage: false }
}
