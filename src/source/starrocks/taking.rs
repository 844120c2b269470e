//! Taking a backup: snapshots first, one database after another, and then what they leave out.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::beside::{self, Beside, Lacking, Made};
use super::cluster::{Cluster, Facts, Login};
use super::content::{self, Database};
use super::job::{self, End, Job, Pause, State, Work};
use super::partitions::{
    Changes, LISTING, LISTING_LIMIT, ListedDatabase, ListedPartition, ListedTable, Listing, all_of,
    changes,
};
use super::repository::{self, Bucket};
use super::said::Failure;
use super::source::StarRocksSource;
use super::sql;
use crate::archive::entry::{Entry, EntryType};
use crate::archive::manifest::RecoveryPoint;
use crate::archive::snapshot::{Info, Snapshot, Snapshots};
use crate::error::{Error, ErrorKind, Result};
use crate::policy::StarRocks;
use crate::source::{Captured, Earlier, EntrySink, Item, SnapshotPlace, SourceContext};
use crate::store::layout;
use crate::telemetry::WarningCode;

/// What tells of the backup as a whole.
const OVERVIEW: &str = "starrocks.json";

/// How often a snapshot is begun again, each time under a new label.
const ATTEMPTS: u32 = 3;

/// How long after StarRocks' own timeout a job is cancelled from here.
const SLACK: SignedDuration = SignedDuration::from_secs(60);

/// Why a job is not waited for any more.
const NOWHERE: &str = "it was nowhere to be seen any more: did another job take its place, or does the user lack EXPORT?";

/// How often a repository is asked for a snapshot that a job says is done.
const LOOKS: u32 = 10;

#[derive(Serialize)]
struct Overview<'a> {
    version: u32,
    starrocks: &'a str,
    run_mode: &'a str,
    repository: &'a str,
    databases: Vec<&'a str>,
    left_out: Vec<Lacking>,
    not_exported: &'a [Lacking],
}

/// Takes a backup.
pub fn take(
    source: &StarRocksSource,
    cx: &SourceContext,
    sink: &mut dyn EntrySink,
) -> Result<Captured> {
    let place = cx.snapshots.as_ref().ok_or_else(|| Error::failed("there is no repository"))?;
    let bucket = Bucket::of(place, &source.config.storage)?;
    let name = repository::name_of(&place.address);
    let base = Base::of(cx, &name)?;
    let mut cluster = Cluster::open(Login::of(&source.config)?, &cx.reporter)?;
    let facts = cluster.facts()?;
    facts.check()?;
    cx.reporter.phase("looking at tables");
    let names = content::databases(&mut cluster, &source.which())?;
    if names.is_empty() {
        return Err(Error::failed("there is no database to back up")
            .hint("a database without any right of the user is not shown either"));
    }
    cluster.follow_leader()?;
    if cx.dry_run {
        return pretend(cx, &mut cluster, &facts, &names, base.as_ref());
    }
    if repository::ensure(&mut cluster, &name, &bucket, false)? {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!("the cluster only reads the repository {name}: it is the other site's"),
        )
        .hint(format!(
            "if this site is to write from now on: `{}`, and back up again",
            sql::drop_repository(&name)
        )));
    }
    let mut taking = Taking {
        config: &source.config,
        cx,
        place,
        cluster,
        repository: &name,
        number: 0,
        listing: Listing { version: Listing::VERSION, ..Listing::default() },
        own: Vec::new(),
    };
    let recovery = cx.clock.now();
    let mut databases = Vec::new();
    for database in &names {
        cx.reporter.phase("looking at tables");
        let now =
            content::look(&mut taking.cluster, facts.version, database, source.config.counts)?;
        for (table, why) in &now.left_out {
            let message = format!("`{database}`.`{table}` is left out: {why}");
            cx.reporter.warn(WarningCode::Other, format!("{database}.{table}"), message);
        }
        let before = base.as_ref().and_then(|base| base.listing.databases.get(database));
        let changes = if base.is_some() { changes(&now, before) } else { all_of(&now) };
        cx.reporter.phase("making a snapshot");
        taking.database(&now, &changes)?;
        databases.push(now);
    }
    cx.reporter.phase("keeping what snapshots leave out");
    let (made, lacking) = beside(&mut taking.cluster, &facts, &databases)?;
    for lacking in &lacking {
        let message = format!("{} is not kept: {}", lacking.what, lacking.why);
        cx.reporter.warn(WarningCode::Other, lacking.what.clone(), message);
    }
    let Taking { listing, own, .. } = taking;
    let snapshots = needed(&name, own, base.as_ref(), &listing);
    let left_out: Vec<Lacking> = databases.iter().flat_map(left_out).collect();
    let overview = Overview {
        version: 1,
        starrocks: &facts.version_text,
        run_mode: &facts.run_mode,
        repository: &name,
        databases: names.iter().map(String::as_str).collect(),
        left_out: left_out.clone(),
        not_exported: &lacking,
    };
    store(cx, sink, &overview, &listing, &made)?;
    Ok(Captured {
        skipped: left_out.len() as u64,
        recovery: Some(RecoveryPoint::at(recovery)),
        server: Some(format!("StarRocks {}", facts.version_text)),
        snapshots: Some(snapshots),
        ..Captured::default()
    })
}

fn left_out(database: &Database) -> Vec<Lacking> {
    let one = |(table, why): &(String, String)| Lacking {
        what: format!("{}.{table}", database.name),
        why: why.clone(),
    };
    database.left_out.iter().map(one).collect()
}

fn beside(
    cluster: &mut Cluster,
    facts: &Facts,
    databases: &[Database],
) -> Result<(Vec<Made>, Vec<Lacking>)> {
    let mut beside = Beside::new(cluster);
    beside.cluster(facts)?;
    for database in databases {
        beside.database(database)?;
    }
    Ok((beside.made, beside.lacking))
}

/// Says what would be taken.
fn pretend(
    cx: &SourceContext,
    cluster: &mut Cluster,
    facts: &Facts,
    names: &[String],
    base: Option<&Base>,
) -> Result<Captured> {
    for database in names {
        let now = content::look(cluster, facts.version, database, false)?;
        let before = base.and_then(|base| base.listing.databases.get(database));
        let changes = if base.is_some() { changes(&now, before) } else { all_of(&now) };
        let taken: usize = changes
            .take
            .iter()
            .map(|part| match part.partitions.len() {
                0 => now
                    .tables
                    .iter()
                    .find(|table| table.name == part.table)
                    .map_or(0, |table| table.partitions.len()),
                some => some,
            })
            .sum();
        cx.reporter.note(format!(
            "{database}: would make a snapshot of {taken} partitions in {} tables; {} stay in older ones",
            changes.take.len(),
            changes.keep.len()
        ));
    }
    Ok(Captured::default())
}

/// What an incremental builds on.
struct Base {
    listing: Listing,
    snapshots: Vec<Snapshot>,
}

impl Base {
    fn of(cx: &SourceContext, repository: &str) -> Result<Option<Self>> {
        let Some(earlier) = &cx.earlier else { return Ok(None) };
        let snapshots = earlier.manifest.snapshots.as_ref();
        let Some(snapshots) = snapshots.filter(|known| known.repository == repository) else {
            return Err(earlier.refusal.refuse("it has no snapshots in this repository"));
        };
        let Some(listing) = read_listing(earlier, snapshots)? else {
            return Err(earlier
                .refusal
                .refuse("it does not say which partition is in which snapshot"));
        };
        Ok(Some(Self { listing, snapshots: snapshots.list.clone() }))
    }
}

fn read_listing(earlier: &Earlier, snapshots: &Snapshots) -> Result<Option<Listing>> {
    let Some(object) = &snapshots.listing else { return Ok(None) };
    let mut bytes = Vec::new();
    earlier.read(object, &mut |plain| {
        plain
            .take(LISTING_LIMIT)
            .read_to_end(&mut bytes)
            .map(drop)
            .map_err(|error| Error::io(format!("failed to read {}", object.path), error))
    })?;
    Listing::parse(&bytes).map(Some)
}

/// The snapshots that a backup needs: its own, and older ones that still hold some partition.
fn needed(
    repository: &str,
    own: Vec<Snapshot>,
    base: Option<&Base>,
    listing: &Listing,
) -> Snapshots {
    let mut wanted: BTreeMap<&str, u64> = BTreeMap::new();
    for database in listing.databases.values() {
        for table in database.tables.values() {
            for partition in table.partitions.values() {
                *wanted.entry(&partition.label).or_default() += 1;
            }
        }
    }
    let older = base.map(|base| base.snapshots.clone()).unwrap_or_default();
    let list = older.into_iter().chain(own).filter_map(|mut snapshot| {
        snapshot.partitions = *wanted.get(snapshot.label.as_str())?;
        Some(snapshot)
    });
    Snapshots { repository: repository.to_owned(), list: list.collect(), listing: None }
}

struct Taking<'a> {
    config: &'a StarRocks,
    cx: &'a SourceContext,
    place: &'a SnapshotPlace,
    cluster: Cluster,
    repository: &'a str,
    /// Of the last label.
    number: u32,
    listing: Listing,
    own: Vec<Snapshot>,
}

impl Taking<'_> {
    fn database(&mut self, now: &Database, changes: &Changes) -> Result<()> {
        for gone in &changes.gone {
            self.cx.reporter.note(format!("{}: {gone} is gone", now.name));
        }
        let mut info = None;
        if changes.take.is_empty() {
            self.cx.reporter.note(format!("{}: nothing changed", now.name));
        } else {
            info = Some(self.snapshot(now, changes)?);
        }
        let listed = listed(now, changes, info.as_ref());
        self.listing.databases.insert(now.name.clone(), listed);
        Ok(())
    }

    /// Makes one snapshot, and returns its label and what it says of itself.
    fn snapshot(&mut self, now: &Database, changes: &Changes) -> Result<(String, Info)> {
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            let label = self.begin(now, changes)?;
            match self.wait(&now.name, &label)? {
                End::Finished => return self.accept(&now.name, label),
                End::Cancelled(status) => {
                    let again = status.contains("already merged");
                    let doing = format!("make the snapshot {label} of `{}`", now.name);
                    let error = Failure::Said(status.clone()).into_error(&doing);
                    if !again {
                        return Err(error);
                    }
                    self.cx.reporter.note(format!("{}: once more: {status}", now.name));
                    last = status;
                }
                End::Lost => {
                    NOWHERE.clone_into(&mut last);
                    self.cx.reporter.note(format!("{}: once more: {last}", now.name));
                }
            }
        }
        Err(Error::failed(format!(
            "StarRocks made no snapshot of `{}` in {ATTEMPTS} attempts: {last}",
            now.name
        ))
        .hint("`SHOW BACKUP` on a frontend tells what goes on; only one job runs in a database"))
    }

    fn timeout(&self) -> Duration {
        self.config.timeout.unwrap_or(StarRocks::USUAL_TIMEOUT).get()
    }

    fn deadline(&self) -> Timestamp {
        let timeout = SignedDuration::try_from(self.timeout()).unwrap_or(SignedDuration::MAX);
        self.cx.clock.now().saturating_add(timeout.saturating_add(SLACK)).unwrap_or(Timestamp::MAX)
    }

    fn next_label(&mut self) -> Result<String> {
        let backup = self.place.backup.as_ref().ok_or_else(|| Error::failed("no backup"))?;
        self.number += 1;
        Ok(layout::snapshot_label(backup, self.number))
    }

    /// Submits the job, once StarRocks takes it, and returns its label.
    fn begin(&mut self, now: &Database, changes: &Changes) -> Result<String> {
        let deadline = self.deadline();
        let mut pause = Pause::new();
        let mut told = false;
        let mut label = self.next_label()?;
        loop {
            let seconds = self.timeout().as_secs();
            let statement = sql::backup(&now.name, &label, self.repository, &changes.take, seconds);
            let Err(failure) = self.cluster.submit(&statement) else { return Ok(label) };
            let busy = failure.has("Can only run one backup or restore job")
                || failure.has("Another backup or restore job is being submitted");
            if failure.has("already exist in repository") {
                label = self.next_label()?;
            } else if busy && self.cx.clock.now() < deadline {
                if !told {
                    let whose = format!("{}: waits for another job to end", now.name);
                    self.cx.reporter.note(whose);
                    told = true;
                    self.end_leftover(&now.name)?;
                }
                pause.wait(&self.cx.reporter)?;
            } else if matches!(failure, Failure::Lost(_)) && self.was_taken(&now.name, &label)? {
                return Ok(label);
            } else if matches!(failure, Failure::Lost(_)) && self.cx.clock.now() < deadline {
                pause.wait(&self.cx.reporter)?;
            } else {
                let doing = format!("make the snapshot {label} of `{}`", now.name);
                return Err(failure.into_error(&doing));
            }
        }
    }

    /// Ends the job of a backup of this source that was killed: nobody waits for it any more.
    fn end_leftover(&mut self, database: &str) -> Result<()> {
        let Some(own) = &self.place.backup else { return Ok(()) };
        let failed = |failure: Failure| {
            failure.into_error(&format!("look for the job that is in the way in `{database}`"))
        };
        let rows = self.cluster.ask(&sql::show_backup(database)).map_err(failed)?;
        let label = rows.first().map(|row| row.text("SnapshotName").to_owned()).unwrap_or_default();
        if !self.place.store.is_leftover(&label, own)? {
            return Ok(());
        }
        self.cx.reporter.note(format!("{database}: ends the job {label}, whose backup was killed"));
        // It may have ended by itself.
        let _ = self.cluster.submit(&sql::cancel_backup(database));
        Ok(())
    }

    /// Whether a job is there that no answer came to.
    fn was_taken(&mut self, database: &str, label: &str) -> Result<bool> {
        let failed = |failure: Failure| failure.into_error(&format!("look for the job {label}"));
        let rows = self.cluster.ask(&sql::show_backup(database)).map_err(failed)?;
        Ok(job::state(&rows, Work::Backup, label, None) != State::Nowhere)
    }

    fn wait(&mut self, database: &str, label: &str) -> Result<End> {
        let deadline = self.deadline();
        Job {
            cluster: &mut self.cluster,
            work: Work::Backup,
            database,
            label,
            timestamp: None,
            repository: self.repository,
            reporter: &self.cx.reporter,
            clock: &*self.cx.clock,
            deadline,
        }
        .wait()
    }

    /// A job that says it is done is believed when the bucket says so too.
    fn accept(&mut self, database: &str, label: String) -> Result<(String, Info)> {
        self.cx.reporter.phase("looking at the snapshot");
        let statement = sql::show_snapshot(self.repository, &label);
        let mut pause = Pause::new();
        let mut looks = 0;
        let timestamp = loop {
            let rows = self
                .cluster
                .ask(&statement)
                .map_err(|failure| failure.into_error(&format!("look for the snapshot {label}")))?;
            match job::timestamp(&rows, &label) {
                Ok(timestamp) => break timestamp,
                Err(error) if looks == LOOKS => return Err(error),
                Err(_) => pause.wait(&self.cx.reporter)?,
            }
            looks += 1;
        };
        let reporter = self.cx.reporter.fresh();
        let found = self.place.store.examine(
            self.repository,
            &label,
            Some(&timestamp),
            false,
            &reporter,
        )?;
        if let Some(flaw) = found.flaws.first() {
            return Err(Error::damaged(format!(
                "StarRocks says that the snapshot {label} is done, and {} {}",
                flaw.object, flaw.problem
            ))
            .hint("nothing was committed; is the bucket the one that the repository leads to?"));
        }
        let info = found.info.ok_or_else(|| Error::damaged(format!("{label} has no __info_")))?;
        self.cx.reporter.progress().add_stored(found.bytes);
        self.own.push(Snapshot {
            database: database.to_owned(),
            label: label.clone(),
            timestamp,
            objects: found.objects,
            bytes: found.bytes,
            partitions: info.partitions(),
        });
        Ok((label, info))
    }
}

/// Where each partition is now. Versions are those that the snapshot has, whatever was seen before.
fn listed(now: &Database, changes: &Changes, taken: Option<&(String, Info)>) -> ListedDatabase {
    let mut listed = ListedDatabase::default();
    for table in &now.tables {
        let in_snapshot =
            taken.and_then(|(label, info)| Some((label, info.backup_objects.get(&table.name)?)));
        let seen: BTreeMap<&str, &content::Partition> =
            table.partitions.iter().map(|one| (one.name.as_str(), one)).collect();
        let mut partitions: BTreeMap<String, ListedPartition> = changes
            .keep
            .iter()
            .filter(|((name, _), _)| *name == table.name)
            .map(|((_, partition), kept)| (partition.clone(), kept.clone()))
            .collect();
        if let Some((label, found)) = in_snapshot {
            for (name, partition) in &found.partitions {
                let replicas = seen.get(name.as_str()).map_or(1, |seen| seen.replicas);
                let (id, version) = (partition.id, partition.version);
                let place = ListedPartition { id, version, replicas, label: label.clone() };
                partitions.insert(name.clone(), place);
            }
        }
        let same = |name: &str, partition: &ListedPartition| {
            seen.get(name).is_some_and(|seen| seen.version == partition.version)
        };
        let still = partitions.len() == seen.len()
            && partitions.iter().all(|(name, partition)| same(name, partition));
        listed.tables.insert(
            table.name.clone(),
            ListedTable {
                id: in_snapshot.map_or(0, |(_, found)| found.id),
                schema: table.schema(),
                rows: table.rows.filter(|_| still),
                dynamic: table.is_dynamic(),
                partitions,
            },
        );
    }
    listed
}

/// Brings the files.
fn store(
    cx: &SourceContext,
    sink: &mut dyn EntrySink,
    overview: &Overview<'_>,
    listing: &Listing,
    made: &[Made],
) -> Result<()> {
    let now = cx.clock.now().as_second();
    let entry = |path: &str, kind: EntryType| {
        let mut entry = Entry::new(path, kind);
        entry.mode = if kind == EntryType::Dir { 0o700 } else { 0o600 };
        (entry.mtime, entry.ctime) = ((now, 0), (now, 0));
        entry
    };
    let json = |value: serde_json::Result<Vec<u8>>| {
        value.map_err(|error| Error::failed("failed to write JSON").with_source(error))
    };
    for path in [".", beside::CLUSTER, beside::DATABASES] {
        let entry = entry(path, EntryType::Dir);
        sink.entry(Item { entry, link_group: None, content: None })?;
    }
    let overview = json(serde_json::to_vec_pretty(overview))?;
    sink.file(entry(OVERVIEW, EntryType::File), None, &mut &overview[..])?;
    let listing = json(serde_json::to_vec(listing))?;
    sink.listing(entry(LISTING, EntryType::File), &mut &listing[..])?;
    let mut paths = BTreeSet::new();
    for file in made.iter().filter(|file| paths.insert(&file.path)) {
        sink.file(entry(&file.path, EntryType::File), None, &mut &file.content[..])?;
    }
    Ok(())
}
