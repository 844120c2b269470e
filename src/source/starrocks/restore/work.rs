//! Carrying a plan out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use jiff::SignedDuration;
use serde::Serialize;

use super::plan::{Names, Plan, Step};
use crate::archive::manifest::Manifest;
use crate::archive::snapshot::Snapshots;
use crate::error::{Error, ErrorKind, Result};
use crate::policy::StarRocks;
use crate::source::starrocks::beside::View;
use crate::source::starrocks::cluster::{Cluster, Facts, Login};
use crate::source::starrocks::content;
use crate::source::starrocks::job::{self, End, Job, Pause, State, Work};
use crate::source::starrocks::partitions::Listing;
use crate::source::starrocks::repository::{self, Bucket};
use crate::source::starrocks::said::Failure;
use crate::source::starrocks::sql;
use crate::source::starrocks::version::Version;
use crate::source::{SnapshotPlace, SourceContext};

/// How long after StarRocks' own timeout a job is cancelled from here.
const SLACK: SignedDuration = SignedDuration::from_secs(60);

/// What is wanted.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `OLD` or `OLD=NEW`; none: all.
    pub databases: Vec<String>,
    /// Only these tables.
    pub tables: Vec<String>,
    /// Put what was restored in the place of what is in use.
    pub swap: bool,
    /// Views of each database, to be made anew.
    pub views: BTreeMap<String, Vec<View>>,
    /// Statements that give rights, to be carried out.
    pub grants: Vec<String>,
}

/// A restore that was planned and not begun.
pub struct Restoring<'a> {
    config: &'a StarRocks,
    cx: &'a SourceContext,
    cluster: Cluster,
    repository: String,
    bucket: Bucket,
    plans: Vec<Plan>,
    views: BTreeMap<String, Vec<View>>,
    grants: Vec<String>,
    /// Databases that are swapped: the one in use, and the name it gets.
    swaps: Vec<Option<String>>,
}

/// What became of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Done {
    /// Databases, in order.
    pub databases: Vec<Restored>,
    /// Views that were made anew.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub views: Vec<String>,
    /// How many statements gave rights.
    #[serde(skip_serializing_if = "is_zero")]
    pub grants: usize,
    /// What StarRocks refused of these, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
}

impl Done {
    /// Whether every table has the rows that it should have.
    pub fn is_sound(&self) -> bool {
        self.databases.iter().all(|restored| restored.differing().next().is_none())
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// A database that was restored.
#[derive(Debug, Clone, Serialize)]
pub struct Restored {
    /// Its name in the backup.
    pub from: String,
    /// Its name now.
    pub to: String,
    /// What was in use before, under its new name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aside: Option<String>,
    /// Tables with their rows.
    pub tables: Vec<Compared>,
    /// Tables whose partitions StarRocks no longer makes and drops by itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dynamic: Vec<String>,
    /// Partitions that were dropped because the backup does not have them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<String>,
    /// Seconds it took.
    pub seconds: f64,
}

/// A table and its rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// The table.
    pub table: String,
    /// Rows in the backup, where that is known.
    pub recorded: Option<u64>,
    /// Rows now.
    pub found: u64,
}

impl Compared {
    /// Whether it has other rows than it should.
    pub fn differs(&self) -> bool {
        self.recorded.is_some_and(|recorded| recorded != self.found)
    }
}

impl Restored {
    /// Tables that have other rows than they should.
    pub fn differing(&self) -> impl Iterator<Item = &Compared> {
        self.tables.iter().filter(|table| table.differs())
    }
}

impl<'a> Restoring<'a> {
    /// Looks at the cluster and the bucket, and plans. Nothing is changed.
    pub fn prepare(
        config: &'a StarRocks,
        cx: &'a SourceContext,
        (manifest, listing): (&Manifest, &Listing),
        options: &Options,
        names: &Names,
    ) -> Result<Self> {
        let place = cx.snapshots.as_ref().ok_or_else(|| Error::failed("there is no repository"))?;
        let snapshots = manifest
            .snapshots
            .as_ref()
            .ok_or_else(|| Error::damaged(format!("{} names no snapshots", manifest.backup)))?;
        let bucket = Bucket::of(place, &config.storage)?;
        let mut cluster = Cluster::open(Login::of(config)?, &cx.reporter)?;
        let facts = cluster.facts()?;
        facts.check()?;
        check_version(&facts, manifest)?;
        cluster.follow_leader()?;
        let there = databases(&mut cluster)?;
        let mut plans = Vec::new();
        let mut swaps = Vec::new();
        for (from, to) in wanted(options, listing, names)? {
            let live = from.clone();
            let to = match to {
                Some(to) => to,
                None => format!("{from}{}", names.restored),
            };
            if there.contains(&to) {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("there is a database `{to}` already, and nothing is written into it"),
                )
                .hint(format!("restore beside it: --database {from}=OTHER_NAME, or --swap")));
            }
            // Views name the databases of their tables.
            if options.views.contains_key(&from) && to != from && !options.swap {
                return Err(Error::usage(format!(
                    "the views of `{from}` are of tables in `{from}`, and it is restored as `{to}`"
                ))
                .hint(format!(
                    "--views goes with --swap, or with --database {from}={from} where there is none"
                )));
            }
            let plan = Plan::of(listing, snapshots, (&from, &to), &options.tables, facts.backends)?;
            plans.push(plan);
            swaps.push(match (options.swap, there.contains(&live)) {
                (true, true) => Some(format!("{live}{}", names.aside)),
                _ => None,
            });
        }
        if options.swap && !options.tables.is_empty() {
            return Err(Error::usage("--swap takes whole databases: a part cannot take its place"));
        }
        check_bucket(place, snapshots, &plans, cx)?;
        Ok(Self {
            config,
            cx,
            cluster,
            repository: snapshots.repository.clone(),
            bucket,
            plans,
            swaps: if options.swap { swaps } else { Vec::new() },
            views: options.views.clone(),
            grants: options.grants.clone(),
        })
    }

    /// What would be done, a line each.
    pub fn describe(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (at, plan) in self.plans.iter().enumerate() {
            lines.extend(plan.describe());
            let aside = self.swaps.get(at);
            if let Some(Some(aside)) = aside {
                lines.push(format!("rename `{}` to `{aside}`", plan.from));
            }
            if aside.is_some() {
                lines.push(format!("rename `{}` to `{}`", plan.to, plan.from));
            }
        }
        lines
    }

    /// Databases in use that get another name.
    pub fn replaced(&self) -> Vec<(&str, &str)> {
        let pairs = self.plans.iter().zip(&self.swaps);
        pairs.filter_map(|(plan, aside)| Some((plan.from.as_str(), aside.as_deref()?))).collect()
    }

    /// Does it.
    pub fn run(mut self) -> Result<Done> {
        let mut done = self.restore()?;
        if done.is_sound() {
            self.put_in_place(&mut done)?;
        }
        Ok(done)
    }

    /// Restores everything beside what is in use, and compares.
    pub(super) fn restore(&mut self) -> Result<Done> {
        self.cx.reporter.phase("attaching the repository");
        repository::ensure(&mut self.cluster, &self.repository, &self.bucket, true)?;
        let mut done = Done::default();
        for plan in self.plans.clone() {
            done.databases.push(self.database(&plan)?);
        }
        Ok(done)
    }

    /// Gives what was restored the names of what is in use, where that is wanted.
    pub(super) fn put_in_place(&mut self, done: &mut Done) -> Result<()> {
        for (at, aside) in self.swaps.clone().into_iter().enumerate() {
            let restored = &mut done.databases[at];
            self.swap(restored, aside)?;
        }
        self.replay(done)
    }

    /// The cluster.
    pub(super) fn cluster(&mut self) -> &mut Cluster {
        &mut self.cluster
    }

    /// Makes views anew and gives rights. What StarRocks refuses is told; the rest is done.
    fn replay(&mut self, done: &mut Done) -> Result<()> {
        let lost = |failure: Failure| failure.into_error("make views and give rights");
        let restored: BTreeSet<String> =
            done.databases.iter().map(|restored| restored.to.clone()).collect();
        for (database, views) in std::mem::take(&mut self.views) {
            if !restored.contains(&database) {
                continue;
            }
            // A view may be of another one, which may come later.
            let mut open = views;
            while !open.is_empty() {
                let (before, mut left) = (open.len(), Vec::new());
                let mut refused = Vec::new();
                for view in open {
                    match self.cluster.submit_in(&database, &view.definition) {
                        Ok(_) => done.views.push(format!("{database}.{}", view.name)),
                        Err(Failure::Said(why)) => {
                            refused.push(format!("view {database}.{}: {why}", view.name));
                            left.push(view);
                        }
                        Err(failure) => return Err(lost(failure)),
                    }
                }
                if left.len() == before {
                    done.refused.append(&mut refused);
                    break;
                }
                open = left;
            }
        }
        for statement in std::mem::take(&mut self.grants) {
            match self.cluster.submit(&statement) {
                Ok(_) => done.grants += 1,
                Err(Failure::Said(why)) => done.refused.push(format!("{statement}: {why}")),
                Err(failure) => return Err(lost(failure)),
            }
        }
        Ok(())
    }

    fn database(&mut self, plan: &Plan) -> Result<Restored> {
        let started = Instant::now();
        let failed =
            |failure: Failure| failure.into_error(&format!("make the database `{}`", plan.to));
        self.cx.reporter.phase("restoring");
        self.cluster.submit(&sql::create_database(&plan.to)).map_err(failed)?;
        for step in &plan.steps {
            self.step(plan, step).map_err(|error| {
                error.hint(format!(
                    "what is restored so far is in `{}`; nothing else was touched",
                    plan.to
                ))
            })?;
            // Before StarRocks looks at what is too old for it.
            for table in step.parts.iter().filter(|part| plan.dynamic.contains(&part.table)) {
                let statement = sql::stop_dynamic_partitions(&plan.to, &table.table);
                self.cluster.ask(&statement).map_err(|failure| {
                    failure.into_error(&format!("keep the partitions of `{}`", table.table))
                })?;
            }
        }
        self.cx.reporter.phase("comparing");
        let dropped = self.check_partitions(plan)?;
        let mut tables = Vec::new();
        for (table, recorded) in &plan.tables {
            self.cx.reporter.check()?;
            let found = content::count(&mut self.cluster, &plan.to, table)?;
            tables.push(Compared { table: table.clone(), recorded: *recorded, found });
        }
        Ok(Restored {
            from: plan.from.clone(),
            to: plan.to.clone(),
            aside: None,
            tables,
            dynamic: plan.dynamic.clone(),
            dropped,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    fn step(&mut self, plan: &Plan, step: &Step) -> Result<()> {
        let timeout = self.config.timeout.unwrap_or(StarRocks::USUAL_TIMEOUT).get();
        let span = SignedDuration::try_from(timeout).unwrap_or(SignedDuration::MAX);
        let now = self.cx.clock.now();
        let deadline = now.saturating_add(span.saturating_add(SLACK)).unwrap_or(now);
        let doing = format!("restore {} into `{}`", step.label, plan.to);
        let statement = sql::restore(
            &plan.to,
            &step.label,
            &self.repository,
            &step.parts,
            &step.timestamp,
            step.replicas,
            timeout.as_secs(),
        );
        let mut pause = Pause::new();
        while let Err(failure) = self.cluster.submit(&statement) {
            let busy = failure.has("Another backup or restore job is being submitted");
            if matches!(failure, Failure::Lost(_)) {
                if self.was_taken(&plan.to, step)? {
                    break;
                }
            } else if !busy {
                return Err(failure.into_error(&doing));
            }
            if self.cx.clock.now() > deadline {
                return Err(failure.into_error(&doing));
            }
            pause.wait(&self.cx.reporter)?;
        }
        let end = Job {
            cluster: &mut self.cluster,
            work: Work::Restore,
            database: &plan.to,
            label: &step.label,
            timestamp: Some(&step.timestamp),
            repository: &self.repository,
            reporter: &self.cx.reporter,
            clock: &*self.cx.clock,
            deadline,
        }
        .wait()?;
        match end {
            End::Finished => Ok(()),
            End::Cancelled(status) => Err(Failure::Said(status).into_error(&doing)),
            End::Lost => Err(Error::failed(format!(
                "failed to {doing}: the job was nowhere to be seen any more"
            ))
            .hint("`SHOW RESTORE` on the leader tells what goes on")),
        }
    }

    fn was_taken(&mut self, database: &str, step: &Step) -> Result<bool> {
        let rows = self.cluster.ask(&sql::show_restore(database)).map_err(|failure| {
            failure.into_error(&format!("look for the restore of {}", step.label))
        })?;
        let seen = job::state(&rows, Work::Restore, &step.label, Some(&step.timestamp));
        Ok(seen != State::Nowhere)
    }

    /// Sees that every partition is there, and drops what the backup does not have.
    fn check_partitions(&mut self, plan: &Plan) -> Result<Vec<String>> {
        let mut dropped = Vec::new();
        for table in plan.tables.keys() {
            let wanted: BTreeSet<&String> = plan
                .steps
                .iter()
                .flat_map(|step| &step.parts)
                .filter(|part| part.table == *table)
                .flat_map(|part| &part.partitions)
                .collect();
            let doing = format!("look at the partitions of `{}`.`{table}`", plan.to);
            let rows = self
                .cluster
                .ask(&sql::partitions(&plan.to, table))
                .map_err(|failure| failure.into_error(&doing))?;
            let there: BTreeSet<String> =
                rows.iter().map(|row| row.text("PartitionName").to_owned()).collect();
            if let Some(missing) = wanted.iter().find(|name| !there.contains(**name)) {
                return Err(Error::failed(format!(
                    "partition `{missing}` of `{}`.`{table}` was restored and is gone",
                    plan.to
                ))
                .hint("StarRocks drops partitions by their age where `dynamic_partition.enable` is on: turn `dynamic_partition_enable` off in the frontends for the time of the restore"));
            }
            for extra in there.iter().filter(|name| !wanted.contains(name)) {
                self.cluster
                    .ask(&sql::drop_partition(&plan.to, table, extra))
                    .map_err(|failure| failure.into_error(&format!("drop `{table}`.`{extra}`")))?;
                dropped.push(format!("{table}.{extra}"));
            }
        }
        Ok(dropped)
    }

    /// Gives what is in use another name, and its name to what was restored.
    fn swap(&mut self, restored: &mut Restored, aside: Option<String>) -> Result<()> {
        let live = restored.from.clone();
        let rename = |cluster: &mut Cluster, from: &str, to: &str| {
            let renamed = cluster.submit(&sql::rename_database(from, to));
            match renamed {
                Ok(_) => Ok(()),
                Err(failure) => {
                    // Its reply may have been lost.
                    let there = databases(cluster)?;
                    if there.contains(to) && !there.contains(from) {
                        return Ok(());
                    }
                    Err(failure.into_error(&format!("rename `{from}` to `{to}`")))
                }
            }
        };
        if let Some(aside) = &aside {
            rename(&mut self.cluster, &live, aside)?;
        }
        if let Err(error) = rename(&mut self.cluster, &restored.to, &live) {
            if let Some(aside) = &aside {
                rename(&mut self.cluster, aside, &live).map_err(|second| {
                    second.hint(format!("`{live}` is called `{aside}` now: give it its name back"))
                })?;
            }
            return Err(error.hint(format!("`{live}` is what it was before")));
        }
        restored.to = live;
        restored.aside = aside;
        Ok(())
    }
}

/// What a snapshot is of goes into the same version or a newer one.
pub(super) fn check_version(facts: &Facts, manifest: &Manifest) -> Result<()> {
    let text = manifest.server.as_deref().and_then(|text| text.strip_prefix("StarRocks "));
    let Some(taken) = text.and_then(Version::parse) else { return Ok(()) };
    if (facts.version.major, facts.version.minor) < (taken.major, taken.minor) {
        return Err(Error::unsupported(format!(
            "the snapshots are of StarRocks {taken}, and this cluster runs {}",
            facts.version
        ))
        .hint("StarRocks restores into the same version or a newer one"));
    }
    Ok(())
}

/// Looks whether everything is in the bucket before anything is begun: StarRocks itself would try
/// for hours.
fn check_bucket(
    place: &SnapshotPlace,
    snapshots: &Snapshots,
    plans: &[Plan],
    cx: &SourceContext,
) -> Result<()> {
    let needed: BTreeSet<&str> =
        plans.iter().flat_map(|plan| &plan.steps).map(|step| step.label.as_str()).collect();
    for snapshot in snapshots.list.iter().filter(|one| needed.contains(one.label.as_str())) {
        cx.reporter.check()?;
        let found = place.store.examine(
            &snapshots.repository,
            &snapshot.label,
            Some(&snapshot.timestamp),
            false,
            &cx.reporter.fresh(),
        )?;
        if let Some(flaw) = found.flaws.first() {
            return Err(Error::damaged(format!("{} {}", flaw.object, flaw.problem)).hint(
                "`backstay verify` names all that is wrong; a copy may be whole: --repository",
            ));
        }
    }
    Ok(())
}

pub(super) fn databases(cluster: &mut Cluster) -> Result<BTreeSet<String>> {
    let rows = cluster
        .ask(sql::DATABASES)
        .map_err(|failure| failure.into_error("look at the databases"))?;
    Ok(rows.iter().map(|row| row.at(0).to_owned()).collect())
}

/// Databases by name, with the name that they are to have.
fn wanted(
    options: &Options,
    listing: &Listing,
    names: &Names,
) -> Result<Vec<(String, Option<String>)>> {
    if options.databases.is_empty() {
        let all = listing.databases.keys();
        return Ok(all.map(|name| (name.clone(), None)).collect());
    }
    let mut pairs: Vec<(String, Option<String>)> = Vec::new();
    for text in &options.databases {
        let (from, to) = match text.split_once('=') {
            Some((from, to)) => (from, Some(to.to_owned())),
            None => (text.as_str(), None),
        };
        if to.is_some() && options.swap {
            return Err(Error::usage("--swap gives what was restored the name of what is in use")
                .hint(format!("give --database {from}, without a new name")));
        }
        let own = to.clone().unwrap_or_else(|| format!("{from}{}", names.restored));
        let fine = |c: char| c.is_alphanumeric() || c == '_';
        if own.is_empty() || own.len() > 64 || !own.chars().all(fine) {
            return Err(Error::usage(format!("`{own}` cannot be the name of a database")));
        }
        if pairs.iter().any(|(other, _)| other == from) {
            return Err(Error::usage(format!("`{from}` is given twice")));
        }
        pairs.push((from.to_owned(), to));
    }
    Ok(pairs)
}
