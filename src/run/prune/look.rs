//! What lies there, seen in the order that `store::protocol` asks for: objects, claims, manifests.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::request::{Request, Times};
use super::wal::{self, WalFile};
use crate::archive::manifest::Manifest;
use crate::archive::snapshot::Snapshots;
use crate::error::{Error, ErrorKind, Result};
use crate::id::BackupId;
use crate::policy::Keep;
use crate::run::wal::Base;
use crate::store::protocol::{Claim, Survey};
use crate::store::{CommitRef, Hold, Intent, KeptBy, ListedMark, SourceStore, Worker, layout};

/// Manifests in memory at once.
const MANIFESTS_AT_ONCE: usize = 64;

/// An object of the source. Its number is its place in [`Looked::objects`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Path relative to the source.
    pub path: String,
    /// Stored bytes.
    pub size: u64,
    /// When the store took it.
    pub stored_at: Timestamp,
    /// The backup in whose directory it is.
    pub backup: Option<BackupId>,
    /// What it is of the WAL beside the backups.
    pub wal: Option<WalFile>,
}

/// A backup, without the lists of its manifest.
#[derive(Debug, Clone)]
pub struct Backup {
    /// Its commit.
    pub commit: CommitRef,
    /// The job it was made for.
    pub job: Option<String>,
    /// The rule in force.
    pub rule: Option<Keep>,
    /// When everything was stored.
    pub end: Timestamp,
    /// How many of the objects it needs are missing or have another size.
    pub lost: u64,
    /// It has damage of the source.
    pub tainted: bool,
    /// A site wrote it that was not the active one any more.
    pub divergent: bool,
    /// It was committed while this prune looked: nothing is decided about it.
    pub is_new: bool,
}

/// An intent whose writer gave no sign of life for too long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dead {
    /// The backup that will never be.
    pub backup: BackupId,
    /// Its last sign of life, by the store's clock.
    pub last_sign: Timestamp,
    /// Who wrote.
    pub writer: Worker,
}

/// Everything about one source.
#[derive(Debug)]
pub struct Looked {
    /// The instant it is judged at.
    pub now: Timestamp,
    /// Objects, by path.
    pub objects: Vec<Object>,
    /// What the decisions are made from; objects by number.
    pub survey: Survey<BackupId, usize>,
    /// Backups, oldest first.
    pub backups: Vec<Backup>,
    /// Those of them that WAL belongs to.
    pub bases: Vec<Base>,
    /// Pinned backups.
    pub pinned: BTreeSet<BackupId>,
    /// Backups that the store does not let go.
    pub locked: BTreeMap<BackupId, KeptBy>,
    /// Marks that lie there.
    pub marks: Vec<ListedMark>,
    /// Intents, with the store's time of each.
    pub intents: Vec<(Intent, Timestamp)>,
    /// Commit keys that are taken, tombstones included.
    pub taken: BTreeSet<BackupId>,
    /// Holds that no longer count.
    pub stale_holds: Vec<String>,
    /// Writers that were given up, or would be.
    pub dead: Vec<Dead>,
    /// Manifests that cannot be read. With one of these nothing may go: who knows what it needs.
    pub unreadable: Vec<String>,
}

impl Looked {
    /// The numbers of the objects whose paths begin so.
    pub fn below(&self, directory: &str) -> std::ops::Range<usize> {
        let start = self.objects.partition_point(|object| object.path.as_str() < directory);
        let rest = self.objects[start..].iter();
        start..start + rest.take_while(|object| object.path.starts_with(directory)).count()
    }

    /// The number of an object, if it is there.
    pub fn number(&self, path: &str) -> Option<usize> {
        self.objects.binary_search_by(|object| object.path.as_str().cmp(path)).ok()
    }
}

/// Looks at a source. With `bury`, writers taken for dead get their tombstone on the way.
pub fn look(
    source: &SourceStore,
    request: &Request<'_>,
    now: Timestamp,
    bury: Option<&Worker>,
) -> Result<Looked> {
    let marks = source.marks()?;
    let before: BTreeSet<BackupId> = ids(&source.commits()?);
    let objects = objects(source)?;
    let intents = source.intents()?;
    let (holds, stale_holds) = living(source.holds()?, now);
    let pinned = source.pins()?.into_iter().map(|pin| pin.backup).collect();

    let dead = dead(&intents, &before, &objects, now, &request.times);
    if let Some(by) = bury {
        for dead in &dead {
            let reason = format!("no sign of life since {}", dead.last_sign);
            source.bury(&dead.backup, &reason, by, now)?;
        }
    }
    let commits = source.commits()?;
    let mut taken = ids(&commits);
    check_listing(source, &before, &taken, &objects, &intents)?;
    if bury.is_none() {
        taken.extend(dead.iter().map(|dead| dead.backup.clone()));
    }

    let mut looked = Looked {
        now,
        survey: Survey {
            stored: (0..)
                .zip(&objects)
                .filter_map(|(at, object)| Some((at, object.backup.clone()?)))
                .collect(),
            claims: Vec::new(),
            needs: BTreeMap::new(),
        },
        objects,
        backups: Vec::new(),
        bases: Vec::new(),
        pinned,
        locked: BTreeMap::new(),
        marks,
        intents,
        taken,
        stale_holds,
        dead,
        unreadable: Vec::new(),
    };
    read_manifests(source, &commits, &before, request, &mut looked)?;
    looked.survey.claims = claims(&looked, &holds);
    Ok(looked)
}

/// What intents and holds claim, as of now: for the second look, after a mark was made.
pub fn claims_now(source: &SourceStore, now: Timestamp) -> Result<Vec<Claim<BackupId, usize>>> {
    let intents = source.intents()?;
    let taken = ids(&source.commits()?);
    let (holds, _) = living(source.holds()?, now);
    let open = intents.iter().filter(|(intent, _)| !taken.contains(&intent.backup));
    let writers = open.map(|(intent, _)| Claim {
        writes: Some(intent.backup.clone()),
        relies_on: intent.base.clone(),
        objects: BTreeSet::new(),
    });
    Ok(writers.chain(holds.iter().map(of_hold)).collect())
}

fn claims(looked: &Looked, holds: &[Hold]) -> Vec<Claim<BackupId, usize>> {
    let open = looked.intents.iter().filter(|(intent, _)| !looked.taken.contains(&intent.backup));
    let writers = open.map(|(intent, _)| Claim {
        writes: Some(intent.backup.clone()),
        relies_on: intent.base.clone(),
        objects: intent.objects.iter().filter_map(|path| looked.number(path)).collect(),
    });
    writers.chain(holds.iter().map(of_hold)).collect()
}

fn of_hold(hold: &Hold) -> Claim<BackupId, usize> {
    Claim { writes: None, relies_on: Some(hold.backup.clone()), objects: BTreeSet::new() }
}

fn ids(commits: &[CommitRef]) -> BTreeSet<BackupId> {
    commits.iter().map(|commit| commit.backup.clone()).collect()
}

fn living(holds: Vec<(String, Hold)>, now: Timestamp) -> (Vec<Hold>, Vec<String>) {
    let (living, stale): (Vec<_>, Vec<_>) =
        holds.into_iter().partition(|(_, hold)| hold.expires > now);
    let living = living.into_iter().map(|(_, hold)| hold).collect();
    (living, stale.into_iter().map(|(id, _)| id).collect())
}

fn objects(source: &SourceStore) -> Result<Vec<Object>> {
    let root = source.key("");
    let mut listed = source.store().list(&source.key(layout::DATA))?;
    listed.extend(source.store().list(&source.key(layout::SNAPSHOTS))?);
    let mut objects: Vec<Object> = listed
        .into_iter()
        .filter_map(|object| {
            let path = object.key.strip_prefix(&root)?.to_owned();
            let backup = layout::backup_of(&path)?;
            let (size, stored_at, backup) = (object.size, object.stored_at, Some(backup));
            Some(Object { path, size, stored_at, backup, wal: None })
        })
        .collect();
    objects.extend(wal::objects(source)?);
    objects.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(objects)
}

/// Open intents without a sign of life. Whatever a writer stores is one.
fn dead(
    intents: &[(Intent, Timestamp)],
    taken: &BTreeSet<BackupId>,
    objects: &[Object],
    now: Timestamp,
    times: &Times,
) -> Vec<Dead> {
    let mut signs: BTreeMap<&BackupId, Timestamp> = BTreeMap::new();
    for object in objects {
        let Some(backup) = &object.backup else { continue };
        let sign = signs.entry(backup).or_insert(object.stored_at);
        *sign = object.stored_at.max(*sign);
    }
    intents
        .iter()
        .filter(|(intent, _)| !taken.contains(&intent.backup))
        .filter_map(|(intent, stored_at)| {
            let last_sign =
                signs.get(&intent.backup).map_or(*stored_at, |sign| *sign.max(stored_at));
            let is_copy = !intent.objects.is_empty();
            let silence = if is_copy { times.copy_silence } else { times.silence };
            let is_dead = now.duration_since(last_sign) > silence;
            let (backup, writer) = (intent.backup.clone(), intent.writer.clone());
            is_dead.then_some(Dead { backup, last_sign, writer })
        })
        .collect()
}

/// A listing that lost something is a reason to stop, never one to delete.
fn check_listing(
    source: &SourceStore,
    before: &BTreeSet<BackupId>,
    after: &BTreeSet<BackupId>,
    objects: &[Object],
    intents: &[(Intent, Timestamp)],
) -> Result<()> {
    let place = format!("{} in {}", source.key(layout::COMMITS), source.store().name());
    if let Some(gone) = before.difference(after).next() {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!("the commit of {gone} was listed and is not any more: {place}"),
        )
        .hint("if nobody deleted it just now, the store's listings cannot be trusted")
        .hint("nothing was marked or deleted"));
    }
    // WAL may be archived before there is a backup.
    let stored = objects.iter().filter(|object| object.backup.is_some()).count();
    if after.is_empty() && intents.is_empty() && stored > 0 {
        return Err(Error::damaged(format!(
            "there are {} objects of {} and not one commit: {place}",
            stored,
            source.address()
        ))
        .hint("the commits were removed, or the store does not list them; nothing is deleted")
        .hint("`verify --repair-from` brings manifests back from a copy"));
    }
    Ok(())
}

fn read_manifests(
    source: &SourceStore,
    commits: &[CommitRef],
    before: &BTreeSet<BackupId>,
    request: &Request<'_>,
    looked: &mut Looked,
) -> Result<()> {
    for some in commits.chunks(MANIFESTS_AT_ONCE) {
        for (commit, manifest) in source.manifests(some)? {
            match manifest {
                Ok(manifest) => {
                    let divergent = source.epochs().of(&manifest).is_some();
                    let seen = Seen { is_new: !before.contains(&commit.backup), divergent };
                    add(looked, commit, &manifest, (request.rule)(&manifest), seen);
                }
                Err(error) => looked.unreadable.push(error.chain()),
            }
        }
    }
    Ok(())
}

/// What the manifest does not say of a backup.
struct Seen {
    is_new: bool,
    divergent: bool,
}

fn add(
    looked: &mut Looked,
    commit: CommitRef,
    manifest: &Manifest,
    rule: Option<Keep>,
    Seen { is_new, divergent }: Seen,
) {
    let (mut needs, mut lost) = (BTreeSet::new(), 0);
    for (path, size, _) in manifest.objects() {
        match looked.number(path) {
            Some(number) => {
                needs.insert(number);
                lost += u64::from(looked.objects[number].size != size);
            }
            None => lost += 1,
        }
    }
    for (snapshot, directory) in manifest.snapshots.iter().flat_map(Snapshots::directories) {
        let numbers = looked.below(&directory);
        lost += snapshot.objects.saturating_sub(numbers.len() as u64);
        needs.extend(numbers);
    }
    if let Some(needed) = &manifest.wal {
        for name in needed.segments() {
            let path = layout::wal_file(needed.system_id, &name, manifest.is_encrypted());
            match looked.number(&path) {
                Some(number) => _ = needs.insert(number),
                None => lost += 1,
            }
        }
        let sound = lost == 0 && manifest.tainted.is_none() && !is_new && !divergent;
        looked.bases.extend(Base::of(&commit.backup, manifest.end, needed, sound));
    }
    looked.survey.needs.insert(commit.backup.clone(), needs);
    looked.backups.push(Backup {
        commit,
        job: manifest.job.clone(),
        rule,
        end: manifest.end,
        // Objects were listed before it was there.
        lost: if is_new { 0 } else { lost },
        tainted: manifest.tainted.is_some(),
        divergent,
        is_new,
    });
}

/// Whether so much time passed since `from` that what was seen then counts no more.
pub fn is_over(from: Timestamp, now: Timestamp, window: SignedDuration) -> bool {
    let passed = now.duration_since(from);
    // A clock that was set back says nothing about how much time passed.
    passed > window || passed.is_negative()
}
