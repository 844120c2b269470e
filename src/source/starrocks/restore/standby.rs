//! A standby: databases that are kept at what the newest backup has.
//!
//! What was restored takes the place of what the last sync put there, whole databases at a time, so
//! that a standby is never half of one backup and half of another. Anything else that has the name is
//! somebody's work, and stays.

use std::collections::BTreeMap;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::plan::Names;
use super::work::{Options, Restoring, check_version, databases};
use crate::archive::manifest::Manifest;
use crate::error::{Error, ErrorKind, Result};
use crate::policy::StarRocks;
use crate::source::SourceContext;
use crate::source::starrocks::beside::{View, views_of};
use crate::source::starrocks::cluster::{Cluster, Facts, Login};
use crate::source::starrocks::content::{self, Database};
use crate::source::starrocks::job::Pause;
use crate::source::starrocks::partitions::{ListedDatabase, Listing};
use crate::source::starrocks::sql;
use crate::store::{Synced, SyncedDatabase};
use crate::telemetry::WarningCode;

/// What a database is called while it is restored.
const COMING: &str = "_backstay_sync";
/// What the one before is called until it goes.
const GOING: &str = "_backstay_before";

/// Writes down what databases look like that are about to be in their place, or are now.
pub type Note<'a> = &'a mut dyn FnMut(&BTreeMap<String, SyncedDatabase>, bool) -> Result<()>;

/// What becomes of a database of the standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It has what the backup has.
    Unchanged,
    /// There is none yet.
    New,
    /// It takes the place of what the last sync put there.
    Renewed,
    /// It takes the place of what somebody else put there, which stays under another name.
    Replaced,
}

/// A database of the standby.
#[derive(Debug, Clone, Serialize)]
pub struct Followed {
    /// Its name.
    pub database: String,
    /// What became of it.
    pub change: Change,
    /// Its rows, where it was restored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// What was there before, where it stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aside: Option<String>,
    /// Tables whose partitions StarRocks no longer makes and drops by itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dynamic: Vec<String>,
}

/// A sync that was planned and not begun.
pub struct Following<'a> {
    config: &'a StarRocks,
    cx: &'a SourceContext,
    taken: (&'a Manifest, &'a Listing),
    cluster: Cluster,
    facts: Facts,
    before: BTreeMap<String, SyncedDatabase>,
    plan: BTreeMap<String, Planned>,
    /// Databases that somebody else changed: what, and how it is known.
    foreign: Vec<(String, String)>,
}

struct Planned {
    change: Change,
    /// What is there.
    found: Option<Database>,
}

impl<'a> Following<'a> {
    /// Looks at the standby and plans. Nothing is changed.
    pub fn prepare(
        config: &'a StarRocks,
        cx: &'a SourceContext,
        taken: (&'a Manifest, &'a Listing),
        before: Option<&Synced>,
    ) -> Result<Self> {
        let (manifest, listing) = taken;
        let mut cluster = Cluster::open(Login::of(config)?, &cx.reporter)?;
        let facts = cluster.facts()?;
        facts.check()?;
        check_version(&facts, manifest)?;
        cluster.follow_leader()?;
        let before = before.map(|record| record.databases.clone()).unwrap_or_default();
        let mut following = Self {
            config,
            cx,
            taken,
            cluster,
            facts,
            before,
            plan: BTreeMap::new(),
            foreign: Vec::new(),
        };
        following.look(listing)?;
        Ok(following)
    }

    fn look(&mut self, listing: &Listing) -> Result<()> {
        (self.plan, self.foreign) = (BTreeMap::new(), Vec::new());
        let there = databases(&mut self.cluster)?;
        for (name, listed) in &listing.databases {
            self.cx.reporter.check()?;
            let tables = listed.tables.values();
            if tables.map(|table| table.partitions.len()).sum::<usize>() == 0 {
                continue;
            }
            // One that was killed between two renames left it under its other name.
            let place = if there.contains(name) { name.clone() } else { format!("{name}{GOING}") };
            let mut planned = Planned { change: Change::New, found: None };
            if there.contains(&place) {
                let found = content::look(&mut self.cluster, self.facts.version, &place, false)?;
                let state = state_of(&found);
                planned.change = match self.before.get(name) {
                    Some(known) if !known.standby.contains(&state) => {
                        let why = "it is not as the last sync left it".to_owned();
                        self.foreign.push((name.clone(), why));
                        Change::Replaced
                    }
                    Some(known) => {
                        let is_new = known.standby.first() == Some(&state) && place == *name;
                        if is_new && known.backup == digest(listed) {
                            Change::Unchanged
                        } else {
                            Change::Renewed
                        }
                    }
                    None => {
                        self.foreign.push((name.clone(), "no sync put it there".to_owned()));
                        Change::Replaced
                    }
                };
                planned.found = Some(found);
            }
            self.plan.insert(name.clone(), planned);
        }
        Ok(())
    }

    /// What would become of each database.
    pub fn plan(&self) -> Vec<Followed> {
        self.plan
            .iter()
            .map(|(name, planned)| Followed {
                database: name.clone(),
                change: planned.change,
                rows: None,
                aside: None,
                dynamic: Vec::new(),
            })
            .collect()
    }

    /// Fails where something would be replaced that no sync put there.
    pub fn check_own(&self) -> Result<()> {
        let Some((name, why)) = self.foreign.first() else { return Ok(()) };
        Err(Error::new(
            ErrorKind::Conflict,
            format!("`{name}` at the standby was written by somebody else: {why}"),
        )
        .hint("if this site is the active one now, stop the job: it would undo what was done here")
        .hint(format!(
            "to have the backup in its place all the same: --replace, which keeps it as `{name}_before_TIME`"
        )))
    }

    /// Does it. `note` writes down what is about to be in its place, before it is, and again when it
    /// is. Views are those of the backup, or where nobody here can read them those that are there.
    pub fn run(
        mut self,
        views: Option<BTreeMap<String, Vec<View>>>,
        stamp: &str,
        note: Note<'_>,
    ) -> Result<(Vec<Followed>, Vec<String>)> {
        let (manifest, listing) = self.taken;
        self.tidy(stamp)?;
        self.look(listing)?;
        let mut known = self.before.clone();
        known.retain(|name, _| listing.databases.contains_key(name));
        let changed: Vec<String> = self
            .plan
            .iter()
            .filter(|(_, planned)| planned.change != Change::Unchanged)
            .map(|(name, _)| name.clone())
            .collect();
        if changed.is_empty() {
            note(&known, true)?;
            return Ok((self.plan(), Vec::new()));
        }
        let own_views = |name: &String| {
            let found = self.plan.get(name).and_then(|planned| planned.found.as_ref());
            found.map(views_of).unwrap_or_default()
        };
        let mut views = views.unwrap_or_else(|| {
            changed.iter().map(|name| (name.clone(), own_views(name))).collect()
        });
        views.retain(|name, views| changed.contains(name) && !views.is_empty());
        let options = Options { databases: changed, swap: true, views, ..Options::default() };
        let names = Names { restored: COMING.to_owned(), aside: GOING.to_owned() };
        let taken = (manifest, listing);
        let mut restoring = Restoring::prepare(self.config, self.cx, taken, &options, &names)?;
        let mut done = restoring.restore()?;
        if let Some((restored, table)) = done
            .databases
            .iter()
            .find_map(|restored| Some((restored, restored.differing().next()?)))
        {
            return Err(Error::damaged(format!(
                "`{}`.`{}` has {} rows at the standby, and {} in the backup",
                restored.from,
                table.table,
                table.found,
                table.recorded.unwrap_or_default()
            ))
            .hint("the standby has what it had before; `backstay verify` proves the snapshot"));
        }
        for restored in &done.databases {
            let found =
                content::look(restoring.cluster(), self.facts.version, &restored.to, false)?;
            let mut standby = vec![state_of(&found)];
            let before = self.plan.get(&restored.from).and_then(|planned| planned.found.as_ref());
            standby.extend(before.map(state_of));
            let listed = listing.databases.get(&restored.from).map(digest);
            let backup = listed.unwrap_or_default();
            known.insert(restored.from.clone(), SyncedDatabase { backup, standby });
        }
        note(&known, false)?;
        self.cx.reporter.phase("putting it in its place");
        restoring.put_in_place(&mut done)?;
        note(&known, true)?;
        let mut followed = self.plan();
        for restored in &done.databases {
            let Some(one) = followed.iter_mut().find(|one| one.database == restored.from) else {
                continue;
            };
            one.rows = Some(restored.tables.iter().map(|table| table.found).sum());
            one.dynamic.clone_from(&restored.dynamic);
            if restored.aside.is_some() {
                one.aside = self.let_go(&restored.from, one.change == Change::Replaced, stamp)?;
            }
        }
        Ok((followed, done.refused))
    }

    /// Clears away what one that was killed left there.
    fn tidy(&mut self, stamp: &str) -> Result<()> {
        let there = databases(&mut self.cluster)?;
        for name in self.taken.1.databases.keys() {
            let (coming, going) = (format!("{name}{COMING}"), format!("{name}{GOING}"));
            if there.contains(&coming) {
                self.cx.reporter.note(format!("`{coming}` was left by a sync that was ended"));
                self.end_job(&coming)?;
                self.drop(&coming)?;
            }
            if !there.contains(&going) {
                continue;
            }
            if there.contains(name) {
                let found = content::look(&mut self.cluster, self.facts.version, &going, false)?;
                let state = state_of(&found);
                let own = self.before.get(name).is_some_and(|known| known.standby.contains(&state));
                self.let_go(name, !own, stamp)?;
            } else {
                self.rename(&going, name)?;
            }
        }
        Ok(())
    }

    /// Drops what was there before, or keeps it under a name with the time.
    fn let_go(&mut self, name: &str, keep: bool, stamp: &str) -> Result<Option<String>> {
        let going = format!("{name}{GOING}");
        if !keep {
            return self.drop(&going).map(|()| None);
        }
        let kept = format!("{name}_before_{stamp}");
        self.rename(&going, &kept)?;
        let message = format!("what was `{name}` at the standby is kept as `{kept}`");
        self.cx.reporter.warn(WarningCode::Other, kept.clone(), message);
        Ok(Some(kept))
    }

    fn drop(&mut self, database: &str) -> Result<()> {
        match self.cluster.submit(&sql::drop_database(database)) {
            Ok(_) => Ok(()),
            // Its reply may have been lost.
            Err(_) if !databases(&mut self.cluster)?.contains(database) => Ok(()),
            Err(failure) => Err(failure.into_error(&format!("drop `{database}`"))),
        }
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<()> {
        match self.cluster.submit(&sql::rename_database(from, to)) {
            Ok(_) => Ok(()),
            Err(failure) => {
                let there = databases(&mut self.cluster)?;
                if there.contains(to) && !there.contains(from) {
                    return Ok(());
                }
                Err(failure.into_error(&format!("rename `{from}` to `{to}`")))
            }
        }
    }

    /// Ends a restore that still runs there.
    fn end_job(&mut self, database: &str) -> Result<()> {
        let doing = format!("end the restore into `{database}`");
        let mut pause = Pause::new();
        for _ in 0..LOOKS {
            let rows = self
                .cluster
                .ask(&sql::show_restore(database))
                .map_err(|failure| failure.into_error(&doing))?;
            let over = rows
                .first()
                .is_none_or(|row| matches!(row.text("State"), "FINISHED" | "CANCELLED" | ""));
            if over {
                return Ok(());
            }
            // It may have ended by itself.
            let _ = self.cluster.submit(&sql::cancel_restore(database));
            pause.wait(&self.cx.reporter)?;
        }
        Err(Error::failed(format!("failed to {doing}"))
            .hint(format!("`{}` on a frontend ends it", sql::cancel_restore(database))))
    }
}

/// How often a job that is to end is looked at.
const LOOKS: u32 = 30;

/// A digest of what a database looks like: its tables, and the ids and versions of partitions, which
/// every load changes. Its name is not part of it.
fn state_of(database: &Database) -> String {
    let mut digest = Sha256::new();
    for table in &database.tables {
        digest.update(format!("{}\n{}\n", table.name, table.schema()));
        let mut partitions: Vec<_> = table.partitions.iter().collect();
        partitions.sort_by(|a, b| a.name.cmp(&b.name));
        for one in partitions {
            digest.update(format!("  {} {} {}\n", one.name, one.id, one.version));
        }
    }
    hex::encode(digest.finalize())
}

/// A digest of what a backup has of a database: which partition is in which snapshot.
fn digest(listed: &ListedDatabase) -> String {
    let mut digest = Sha256::new();
    for (name, table) in &listed.tables {
        digest.update(format!("{name}\n{}\n", table.schema));
        for (name, one) in &table.partitions {
            digest.update(format!("  {name} {} {} {}\n", one.id, one.version, one.label));
        }
    }
    hex::encode(digest.finalize())
}
