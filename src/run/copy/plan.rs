//! Which backups the target lacks and would keep.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;

use super::request::Request;
use super::wal::{self, WalPlan};
use crate::archive::manifest::{Manifest, NeededWal};
use crate::archive::snapshot::Snapshots;
use crate::error::Result;
use crate::id::BackupId;
use crate::policy::{Candidate, Keep, plan_retention};
use crate::run::wal::Base;
use crate::store::{CommitRef, SourceStore, WalStore, layout};

/// Manifests in memory at once.
const MANIFESTS_AT_ONCE: usize = 64;

/// What is to be copied of one source.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// `STACK/SOURCE`.
    pub source: String,
    /// Backups to copy, oldest first.
    pub copies: Vec<PlannedCopy>,
    /// How many are in the target already, and whole.
    pub present: usize,
    /// Backups that are not copied, and why.
    pub left_out: Vec<(BackupId, Why)>,
    /// WAL that the target lacks of what it would keep when the backups are there.
    pub wal: WalPlan,
}

/// One backup to copy.
#[derive(Debug, Clone, Serialize)]
pub struct PlannedCopy {
    /// The backup.
    pub backup: BackupId,
    /// Objects that the target lacks.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// It was copied before, and the target lost something of it since.
    pub mends: bool,
}

/// Why a backup is not copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Why {
    /// The target's keep rule would let it expire at once.
    NotKept,
    /// It lost objects: there is nothing whole to copy.
    Damaged {
        /// How many.
        objects: u64,
    },
    /// Its manifest cannot be read.
    Unreadable {
        /// What is wrong.
        message: String,
    },
    /// A prune of the target gave an earlier copy of it up: its name is taken for ever.
    GivenUp,
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotKept => f.write_str("the target's keep rule would not keep it"),
            Self::Damaged { objects } => write!(f, "it is damaged: {objects} objects are missing"),
            Self::Unreadable { message } => write!(f, "its manifest cannot be read: {message}"),
            Self::GivenUp => f.write_str("a prune of the target gave an earlier copy of it up"),
        }
    }
}

/// A backup on one side.
struct Side {
    commit: CommitRef,
    job: Option<String>,
    rule: Option<Keep>,
    end: Timestamp,
    /// Objects it needs, with their sizes.
    needs: Vec<(String, u64)>,
    /// How many of them are missing or have another size on this side.
    lost: u64,
    /// It has damage of the source.
    tainted: bool,
    divergent: bool,
    /// WAL that it needs.
    wal: Option<NeededWal>,
    encrypted: bool,
}

impl Side {
    /// What recovery may begin with, if it is that.
    fn base(&self) -> Option<Base> {
        let sound = self.lost == 0 && !self.tainted;
        Base::of(&self.commit.backup, self.end, self.wal.as_ref()?, sound)
    }
}

/// Compares both sides.
pub fn plan(
    from: &SourceStore,
    to: &SourceStore,
    request: &Request<'_>,
    now: Timestamp,
) -> Result<Plan> {
    let (mine, unreadable) = side(from, from, request)?;
    let (theirs, _) = side(to, from, request)?;
    let taken: BTreeSet<BackupId> = to.commits()?.into_iter().map(|commit| commit.backup).collect();
    let there = sizes(to)?;
    let kept = kept(&mine, &theirs, request, now);

    let mut plan = Plan {
        source: request.address.to_string(),
        copies: Vec::new(),
        present: 0,
        left_out: unreadable
            .into_iter()
            .map(|(backup, message)| (backup, Why::Unreadable { message }))
            .collect(),
        wal: WalPlan::default(),
    };
    for (backup, side) in &mine {
        let copied = theirs.get(backup);
        if copied.is_some_and(|copied| copied.lost == 0) {
            plan.present += 1;
            continue;
        }
        let why = if side.lost > 0 {
            Some(Why::Damaged { objects: side.lost })
        } else if copied.is_none() && taken.contains(backup) {
            Some(Why::GivenUp)
        } else if copied.is_none() && !kept.contains(backup) {
            Some(Why::NotKept)
        } else {
            None
        };
        if let Some(why) = why {
            plan.left_out.push((backup.clone(), why));
            continue;
        }
        let lacking: Vec<u64> = side
            .needs
            .iter()
            .filter(|(path, size)| there.get(path) != Some(size))
            .map(|(_, size)| *size)
            .collect();
        plan.copies.push(PlannedCopy {
            backup: backup.clone(),
            objects: lacking.len() as u64,
            bytes: lacking.iter().sum(),
            mends: copied.is_some(),
        });
    }
    plan.left_out.sort_by(|a, b| a.0.cmp(&b.0));
    let planned: BTreeSet<&BackupId> = plan.copies.iter().map(|copy| &copy.backup).collect();
    let stay = theirs.values().filter(|side| !planned.contains(&side.commit.backup));
    let come = mine.values().filter(|side| planned.contains(&side.commit.backup));
    plan.wal = plan_wal((from, to), &stay.chain(come).collect::<Vec<_>>(), request, now)?;
    Ok(plan)
}

/// Which WAL the target lacks when it has these backups.
fn plan_wal(
    (from, to): (&SourceStore, &SourceStore),
    sides: &[&Side],
    request: &Request<'_>,
    now: Timestamp,
) -> Result<WalPlan> {
    let bases: Vec<Base> = sides.iter().filter_map(|side| side.base()).collect();
    let needed: Vec<&NeededWal> = sides.iter().filter_map(|side| side.wal.as_ref()).collect();
    let encrypted = sides.iter().any(|side| side.encrypted);
    let sides = wal::Sides {
        from: &WalStore::reader(from, encrypted),
        to: &WalStore::reader(to, encrypted),
        bases: &bases,
        needed: &needed,
    };
    wal::plan(&sides, request.wal_keep, now)
}

type Sides = (BTreeMap<BackupId, Side>, Vec<(BackupId, String)>);

/// What lies in a repository. `knowing` tells what is divergent: the target is the same source.
fn side(source: &SourceStore, knowing: &SourceStore, request: &Request<'_>) -> Result<Sides> {
    let commits = source.commits()?;
    let there = sizes(source)?;
    let (mut sides, mut unreadable) = (BTreeMap::new(), Vec::new());
    for some in commits.chunks(MANIFESTS_AT_ONCE) {
        for (commit, manifest) in source.manifests(some)? {
            match manifest {
                Ok(manifest) => {
                    let rule = (request.rule)(&manifest);
                    let divergent = knowing.epochs().of(&manifest).is_some();
                    let side = Side { divergent, ..one(commit, &manifest, rule, &there) };
                    sides.insert(side.commit.backup.clone(), side);
                }
                Err(error) => unreadable.push((commit.backup, error.chain())),
            }
        }
    }
    Ok((sides, unreadable))
}

fn one(
    commit: CommitRef,
    manifest: &Manifest,
    rule: Option<Keep>,
    there: &BTreeMap<String, u64>,
) -> Side {
    let mut needs: Vec<(String, u64)> =
        manifest.objects().map(|(path, size, _)| (path.to_owned(), size)).collect();
    let mut lost = needs.iter().filter(|(path, size)| there.get(path) != Some(size)).count() as u64;
    for (snapshot, directory) in manifest.snapshots.iter().flat_map(Snapshots::directories) {
        let found = below(there, &directory);
        let bytes = found.iter().fold(0, |sum: u64, (_, size)| sum.saturating_add(*size));
        let missing = snapshot.objects.saturating_sub(found.len() as u64);
        lost += missing.max(u64::from(bytes != snapshot.bytes));
        needs.extend(found);
    }
    Side {
        commit,
        job: manifest.job.clone(),
        rule,
        end: manifest.end,
        needs,
        lost,
        tainted: manifest.tainted.is_some(),
        divergent: false,
        wal: manifest.wal.clone(),
        encrypted: manifest.is_encrypted(),
    }
}

/// Objects in a directory, of those that were listed; `directory` ends in a slash.
pub fn below(there: &BTreeMap<String, u64>, directory: &str) -> Vec<(String, u64)> {
    there
        .range(directory.to_owned()..)
        .take_while(|(path, _)| path.starts_with(directory))
        .map(|(path, size)| (path.clone(), *size))
        .collect()
}

/// Objects of a source with their sizes, by path.
pub fn sizes(source: &SourceStore) -> Result<BTreeMap<String, u64>> {
    let root = source.key("");
    let mut listed = source.store().list(&source.key(layout::DATA))?;
    listed.extend(source.store().list(&source.key(layout::SNAPSHOTS))?);
    let path = |key: &str| key.strip_prefix(&root).map(str::to_owned);
    Ok(listed.into_iter().filter_map(|object| Some((path(&object.key)?, object.size))).collect())
}

/// What the target would keep if everything were there.
fn kept(
    mine: &BTreeMap<BackupId, Side>,
    theirs: &BTreeMap<BackupId, Side>,
    request: &Request<'_>,
    now: Timestamp,
) -> BTreeSet<BackupId> {
    let only_mine = mine.iter().filter(|(backup, _)| !theirs.contains_key(*backup));
    let candidates: Vec<Candidate> = theirs
        .iter()
        .chain(only_mine)
        .map(|(backup, side)| Candidate {
            backup: backup.clone(),
            job: side.job.clone(),
            rule: side.rule,
            end: side.end,
            stored_at: side.commit.stored_at,
            pinned: false,
            sound: side.lost == 0,
            tainted: side.tainted,
            divergent: side.divergent,
        })
        .collect();
    plan_retention(&candidates, now, &request.zone)
        .into_iter()
        .filter(|verdict| !verdict.expires())
        .map(|verdict| verdict.backup)
        .collect()
}
