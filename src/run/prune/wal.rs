//! WAL beside the backups: what of it goes, and what stays and why.
//!
//! It goes like every object: it is announced in a mark, and deleted a grace period later if it is
//! still not wanted. WAL has no place in the lists of an intent, so that who writes a base backup
//! keeps all of it from going; and who wants to commit one looks at the marks for it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::look::{Looked, Object};
use super::plan::{Fate, ObjectFate};
use super::report::Tally;
use super::request::Request;
use crate::archive::wal::{WalSegment, is_archived_name};
use crate::error::Result;
use crate::id::BackupId;
use crate::run::wal::{Base, Reach, reach};
use crate::store::{SourceStore, layout};

/// What becomes of one timeline's WAL.
#[derive(Debug, Clone, Serialize)]
pub struct TimelineFate {
    /// The cluster.
    pub system_id: String,
    /// The timeline.
    pub timeline: u32,
    /// What stays.
    pub stays: Tally,
    /// What goes: now, or after the grace period.
    pub goes: Tally,
    /// The first segment that stays.
    pub first: Option<String>,
    /// The last segment that goes.
    pub last: Option<String>,
    /// Why what stays does.
    pub why: String,
}

/// A file that PostgreSQL archived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalFile {
    /// The cluster.
    pub system_id: u64,
    /// PostgreSQL's name of it.
    pub name: String,
    /// A part of it only, which is of no use once all of it is there.
    pub slice: bool,
}

impl WalFile {
    fn parse(path: &str) -> Option<Self> {
        if let Some((segment, _, _)) = layout::parse_wal_slice(path) {
            let system_id = path.split('/').nth(1)?.parse().ok()?;
            return Some(Self { system_id, name: segment.to_owned(), slice: true });
        }
        let mut parts = path.split('/');
        let (Some("wal"), Some(system_id), Some(timeline), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        let name = name.strip_suffix(".age").unwrap_or(name).strip_suffix(".zst")?;
        let right = is_archived_name(name) && name.get(..8) == Some(timeline);
        let system_id = system_id.parse().ok().filter(|_| right)?;
        Some(Self { system_id, name: name.to_owned(), slice: false })
    }

    fn timeline(&self) -> u32 {
        self.name.get(..8).and_then(|text| u32::from_str_radix(text, 16).ok()).unwrap_or(0)
    }
}

/// Everything that lies there.
pub fn objects(source: &SourceStore) -> Result<Vec<Object>> {
    let root = source.key("");
    let listed = source.store().list(&source.key(layout::WAL))?;
    Ok(listed
        .into_iter()
        .filter_map(|object| {
            let path = object.key.strip_prefix(&root)?.to_owned();
            let wal = Some(WalFile::parse(&path)?);
            let (size, stored_at) = (object.size, object.stored_at);
            Some(Object { path, size, stored_at, backup: None, wal })
        })
        .collect())
}

/// What stays of each cluster's WAL when these backups are gone.
pub fn reaches(
    looked: &Looked,
    request: &Request<'_>,
    expiring: &BTreeSet<BackupId>,
) -> BTreeMap<u64, Reach> {
    let clusters: BTreeSet<u64> =
        looked.objects.iter().filter_map(|object| Some(object.wal.as_ref()?.system_id)).collect();
    let writing = looked.survey.claims.iter().find(|claim| {
        // A copy names what it needs.
        claim.writes.is_some() && claim.objects.is_empty()
    });
    let held: BTreeSet<&BackupId> =
        looked.survey.claims.iter().filter_map(|claim| claim.relies_on.as_ref()).collect();
    let bases: Vec<Base> = looked
        .bases
        .iter()
        .filter(|base| !expiring.contains(&base.backup))
        .map(|base| Base { held: held.contains(&base.backup), ..base.clone() })
        .collect();
    let one = |system_id: u64| {
        if let Some(backup) = writing.and_then(|claim| claim.writes.as_ref()) {
            return Reach::All(format!("{backup} is being written, and may need any of it"));
        }
        let own: Vec<&Base> = bases.iter().filter(|base| base.system_id == system_id).collect();
        reach(&own, request.wal_keep, looked.now)
    };
    clusters.into_iter().map(|system_id| (system_id, one(system_id))).collect()
}

/// Files that may go, as far as point-in-time recovery is concerned.
pub fn beyond(looked: &Looked, reaches: &BTreeMap<u64, Reach>) -> BTreeSet<usize> {
    let files = looked.objects.iter().filter_map(|object| object.wal.as_ref());
    let whole: BTreeSet<(u64, &str)> =
        files.filter(|wal| !wal.slice).map(|wal| (wal.system_id, wal.name.as_str())).collect();
    let goes = |object: &Object| {
        let Some(wal) = &object.wal else { return false };
        if wal.slice && whole.contains(&(wal.system_id, wal.name.as_str())) {
            return true;
        }
        let reach = reaches.get(&wal.system_id);
        reach.is_some_and(|reach| !reach.keeps(&wal.name, object.stored_at))
    };
    (0..looked.objects.len()).filter(|number| goes(&looked.objects[*number])).collect()
}

/// What becomes of each timeline.
pub fn timelines(
    looked: &Looked,
    objects: &[ObjectFate],
    reaches: &BTreeMap<u64, Reach>,
) -> Vec<TimelineFate> {
    let mut all: BTreeMap<(u64, u32), TimelineFate> = BTreeMap::new();
    for (object, fated) in looked.objects.iter().zip(objects) {
        let Some(wal) = &object.wal else { continue };
        let fate = all.entry((wal.system_id, wal.timeline())).or_insert_with(|| TimelineFate {
            system_id: wal.system_id.to_string(),
            timeline: wal.timeline(),
            stays: Tally::default(),
            goes: Tally::default(),
            first: None,
            last: None,
            why: reaches.get(&wal.system_id).map(Reach::to_string).unwrap_or_default(),
        });
        // The smallest size has every number in its names.
        let is_segment = WalSegment::parse(&wal.name, 1 << 20).is_some();
        let name = (is_segment && !wal.slice).then(|| wal.name.clone());
        if matches!(fated.fate, Fate::Mark | Fate::Waits { .. } | Fate::Delete) {
            fate.goes.add(object.size);
            fate.last = fate.last.take().max(name);
        } else {
            fate.stays.add(object.size);
            fate.first = match (fate.first.take(), name) {
                (Some(first), Some(name)) => Some(first.min(name)),
                (first, name) => first.or(name),
            };
        }
    }
    all.into_values().collect()
}
