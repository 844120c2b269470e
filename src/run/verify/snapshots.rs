//! Snapshots that StarRocks wrote by itself, looked at without StarRocks.

use super::report::{Depth, Finding, Report};
use crate::archive::manifest::Manifest;
use crate::error::Result;
use crate::run::Context;
use crate::store::{SnapshotStore, SourceStore};

/// Looks whether each is whole. Below the listing everything is read, and has the MD5 in its name.
pub fn check(
    source: &SourceStore,
    manifest: &Manifest,
    depth: Depth,
    cx: &Context,
    report: &mut Report,
) -> Result<()> {
    let Some(snapshots) = &manifest.snapshots else { return Ok(()) };
    let store = SnapshotStore::of(source);
    let deep = depth != Depth::List;
    let finding = |object: String, problem: String| Finding { object, problem, costs: None };
    for (snapshot, directory) in snapshots.directories() {
        cx.reporter.check()?;
        let examined = store.examine(
            &snapshots.repository,
            &snapshot.label,
            Some(&snapshot.timestamp),
            deep,
            &cx.reporter,
        )?;
        report.objects += snapshot.objects;
        report.bytes = report.bytes.saturating_add(snapshot.bytes);
        let sound = examined.flaws.is_empty();
        report
            .findings
            .extend(examined.flaws.into_iter().map(|flaw| finding(flaw.object, flaw.problem)));
        if sound && (examined.objects, examined.bytes) != (snapshot.objects, snapshot.bytes) {
            let problem = format!(
                "has {} objects with {} bytes instead of {} with {}",
                examined.objects, examined.bytes, snapshot.objects, snapshot.bytes
            );
            report.findings.push(finding(directory, problem));
        }
    }
    if store.repository_info(&snapshots.repository)?.is_none() {
        let object = format!("{}/__repo_info", snapshots.directory());
        let problem = "is missing: StarRocks knows the repository by no name without it";
        report.findings.push(finding(object, problem.to_owned()));
    }
    Ok(())
}
