//! What repositories tell of runs: enough to go on where the state is lost.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::archive::manifest::Manifest;
use crate::id::SourceAddress;
use crate::state::{RunRow, RunState, Slot};

/// The runs that made these backups: those that jobs asked for. Each once, whatever repositories
/// have copies of it; by their time.
pub fn runs_of<'a>(manifests: impl IntoIterator<Item = &'a Manifest>) -> Vec<RunRow> {
    let mut found: BTreeMap<(Timestamp, SourceAddress), &Manifest> = BTreeMap::new();
    for manifest in manifests {
        if manifest.job.is_some() {
            found.entry((manifest.start, manifest.address())).or_insert(manifest);
        }
    }
    let mut ids = BTreeSet::new();
    let runs = found.into_values().filter_map(|manifest| {
        let job = manifest.job.clone()?;
        // One that a person began has one id for all sources.
        let id = if ids.insert(manifest.run.clone()) {
            manifest.run.clone()
        } else {
            format!("{}-{}", manifest.run, manifest.source)
        };
        Some(RunRow {
            id,
            slot: Slot {
                stack: manifest.stack.clone(),
                job,
                source: manifest.source.clone(),
                nominal: format!("as backup {}", manifest.backup),
            },
            due: manifest.start,
            not_before: manifest.start,
            state: RunState::Succeeded,
            why: None,
            attempts: 1,
            owner: Some(manifest.writer.host.clone()),
            heartbeat: None,
            started: Some(manifest.start),
            ended: Some(manifest.end),
            backup: Some(manifest.backup.to_string()),
            cancelled: false,
        })
    });
    runs.collect()
}

/// When the newest run of each job (stack and job) began.
pub fn newest_of_jobs(runs: &[RunRow]) -> BTreeMap<(String, String), Timestamp> {
    let mut newest = BTreeMap::new();
    for run in runs {
        let key = (run.slot.stack.clone(), run.slot.job.clone());
        let at = newest.entry(key).or_insert(run.due);
        *at = run.due.max(*at);
    }
    newest
}
