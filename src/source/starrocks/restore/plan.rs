//! What is restored from which snapshot, in which order. Pure.

use std::collections::BTreeMap;

use crate::archive::snapshot::Snapshots;
use crate::error::{Error, Result};
use crate::source::starrocks::partitions::Listing;
use crate::source::starrocks::sql::Part;

/// What is done in one database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The database of the backup.
    pub from: String,
    /// The one that is restored into.
    pub to: String,
    /// Jobs, one after another.
    pub steps: Vec<Step>,
    /// Tables with the rows that they should have, where that is known.
    pub tables: BTreeMap<String, Option<u64>>,
    /// Tables whose partitions StarRocks makes and drops by itself.
    pub dynamic: Vec<String>,
}

/// What is appended to the names of databases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// To that of what is restored, until it is put in its place.
    pub restored: String,
    /// To that of what was in use before.
    pub aside: String,
}

impl Names {
    /// With the time in them, so that nothing has such a name yet.
    pub fn at(stamp: &str) -> Self {
        Self { restored: format!("_restored_{stamp}"), aside: format!("_before_{stamp}") }
    }
}

/// One job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The snapshot.
    pub label: String,
    /// Its timestamp.
    pub timestamp: String,
    /// What is taken of it: every partition by name, so that what it has beside them stays away.
    pub parts: Vec<Part>,
    /// Replicas of what is made.
    pub replicas: u32,
}

impl Plan {
    /// Each partition is restored once, from the snapshot that has it, the oldest first: nothing is
    /// overwritten. `tables` are those that are wanted; none: all. There are never more replicas
    /// than living backends.
    pub fn of(
        listing: &Listing,
        snapshots: &Snapshots,
        (from, to): (&str, &str),
        tables: &[String],
        backends: usize,
    ) -> Result<Self> {
        let database = listing.databases.get(from).ok_or_else(|| {
            let names = listing.databases.keys().map(String::as_str);
            Error::not_found(format!("the backup has no database `{from}`"))
                .hint(crate::policy::hint_at(from, names))
        })?;
        if let Some(missing) = tables.iter().find(|name| !database.tables.contains_key(*name)) {
            let names = database.tables.keys().map(String::as_str);
            return Err(Error::not_found(format!(
                "the backup has no table `{missing}` in `{from}`"
            ))
            .hint(crate::policy::hint_at(missing, names)));
        }
        let alive = u32::try_from(backends).unwrap_or(u32::MAX).max(1);
        let mut steps: BTreeMap<(usize, u32), Step> = BTreeMap::new();
        let mut plan = Self {
            from: from.to_owned(),
            to: to.to_owned(),
            steps: Vec::new(),
            tables: BTreeMap::new(),
            dynamic: Vec::new(),
        };
        let wanted =
            database.tables.iter().filter(|(name, _)| tables.is_empty() || tables.contains(name));
        for (name, table) in wanted {
            if table.partitions.is_empty() {
                continue;
            }
            plan.tables.insert(name.clone(), table.rows);
            if table.dynamic {
                plan.dynamic.push(name.clone());
            }
            for (partition, place) in &table.partitions {
                let at = snapshots.list.iter().position(|known| known.label == place.label);
                let at = at.ok_or_else(|| {
                    Error::damaged(format!(
                        "partition `{partition}` of `{from}`.`{name}` is in the snapshot {}, which the manifest does not name",
                        place.label
                    ))
                })?;
                let replicas = place.replicas.clamp(1, alive);
                let step = steps.entry((at, replicas)).or_insert_with(|| Step {
                    label: place.label.clone(),
                    timestamp: snapshots.list[at].timestamp.clone(),
                    parts: Vec::new(),
                    replicas,
                });
                match step.parts.last_mut().filter(|part| part.table == *name) {
                    Some(part) => part.partitions.push(partition.clone()),
                    None => step
                        .parts
                        .push(Part { table: name.clone(), partitions: vec![partition.clone()] }),
                }
            }
        }
        plan.steps = steps.into_values().collect();
        Ok(plan)
    }

    /// What would be done, a line each.
    pub fn describe(&self) -> Vec<String> {
        let step = |step: &Step| {
            let partitions: usize = step.parts.iter().map(|part| part.partitions.len()).sum();
            format!(
                "restore {partitions} partitions of {} tables of `{}` into `{}` from {} (timestamp {}), with {} replicas",
                step.parts.len(),
                self.from,
                self.to,
                step.label,
                step.timestamp,
                step.replicas
            )
        };
        self.steps.iter().map(step).collect()
    }
}
