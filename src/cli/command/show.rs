//! `backstay show`

use serde::Serialize;

use crate::archive::manifest::Manifest;
use crate::cli::ExitStatus;
use crate::cli::format;
use crate::cli::setup::{App, Opened};
use crate::error::{ErrorKind, Result};
use crate::run::find_by_name;
use crate::store::Pin;

/// Show one backup.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A backup: its id or the start of it, a source (STACK/SOURCE, or just
    /// SOURCE) for the latest, or SOURCE@ID.
    #[arg(value_name = "ID")]
    backup: String,
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    manifest: &'a Manifest,
    #[serde(skip_serializing_if = "Option::is_none")]
    pin: Option<Pin>,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let (opened, manifest) = find(app, &args.backup)?;
    let pins = opened.repository.source(&manifest.address()).pins()?;
    let pin = pins.into_iter().find(|pin| pin.backup == manifest.backup);
    if app.printer.is_json() {
        app.printer.json(&Shown { manifest: &manifest, pin })?;
        return Ok(ExitStatus::Done);
    }
    let pinned = pin.map(|pin| {
        let reason = pin.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        let text = format!("since {} from {}{reason}", format::time(pin.created), pin.by.host);
        ("pinned", text)
    });
    for (name, value) in lines(&opened, &manifest).into_iter().chain(pinned) {
        app.printer.data(format!("{name:<16} {value}"))?;
    }
    Ok(ExitStatus::Done)
}

/// Finds a backup in any of the repositories meant.
pub fn find(app: &App, wanted: &str) -> Result<(Opened, Manifest)> {
    find_in(app, wanted, &|_| true)
}

/// The same, in those of them that `meant` takes.
pub fn find_in(
    app: &App,
    wanted: &str,
    meant: &dyn Fn(&Opened) -> bool,
) -> Result<(Opened, Manifest)> {
    let mut missing = None;
    for opened in app.repositories()?.into_iter().filter(|opened| meant(opened)) {
        match find_by_name(&opened.repository, wanted) {
            Ok(manifest) => return Ok((opened, manifest)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                missing.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(missing.unwrap_or_else(|| crate::error::Error::not_found("there is no such backup")))
}

fn lines(opened: &Opened, manifest: &Manifest) -> Vec<(&'static str, String)> {
    let counts = &manifest.counts;
    let own = format!("data/{}/", manifest.backup);
    let older = manifest.segments.iter().filter(|segment| !segment.path.starts_with(&own)).count();
    let stored = manifest
        .objects()
        .filter(|(path, _, _)| path.starts_with(&own))
        .fold(0u64, |sum, (_, size, _)| sum.saturating_add(size));
    let mut lines = vec![
        ("backup", manifest.backup.to_string()),
        ("source", format!("{} ({})", manifest.address(), manifest.source_kind)),
        ("repository", format!("{} ({})", opened.name, opened.repository.store().name())),
        ("kind", manifest.kind.to_string()),
        ("based on", manifest.base.as_ref().map_or_else(|| "nothing".into(), ToString::to_string)),
        ("run", manifest.run.clone()),
        ("job", manifest.job.clone().unwrap_or_else(|| "by hand".into())),
        ("started", format::time(manifest.start)),
        ("ended", format::time(manifest.end)),
    ];
    if manifest.tenure().is_known() {
        lines.push(("written", format!("under {}", manifest.tenure())));
    }
    if let Some(found) = opened.repository.source(&manifest.address()).epochs().of(manifest) {
        lines.push(("divergent", found.to_string()));
    }
    if let Some(server) = &manifest.server {
        lines.push(("server", server.clone()));
    }
    for point in &manifest.recovery_points {
        let position = point
            .lsn
            .zip(point.timeline)
            .map_or_else(String::new, |(lsn, timeline)| format!(" ({lsn} of timeline {timeline})"));
        lines.push(("recovery point", format::time(point.time) + &position));
    }
    if let Some(wal) = &manifest.wal {
        let count = wal.segments().count() as u64;
        lines.push((
            "WAL",
            format!("needs {} of cluster {}", format::count(count, "segment"), wal.system_id),
        ));
    }
    for one in manifest.snapshots.iter().flat_map(|snapshots| &snapshots.list) {
        lines.push((
            "snapshot",
            format!(
                "{} of {}, timestamp {}: {} in {}, {}",
                one.label,
                one.database,
                one.timestamp,
                format::size(one.bytes),
                format::count(one.objects, "object"),
                format::count(one.partitions, "partition")
            ),
        ));
    }
    if manifest.snapshots.is_some() {
        lines.push(("", "StarRocks wrote these by itself: not encrypted by backstay".to_owned()));
    }
    if let Some(tainted) = &manifest.tainted {
        lines.push((
            "damage",
            format!(
                "{} in {}: the server's own, `backstay ls --output json` names them",
                format::count(tainted.pages, "damaged page"),
                format::count(tainted.files, "file")
            ),
        ));
    }
    lines.extend([
        (
            "content",
            format!(
                "{} in {}, {}, {}, {}, {}",
                format::size(counts.bytes),
                format::count(counts.files, "file"),
                format::count(counts.directories, "directory"),
                format::count(counts.symlinks, "symlink"),
                format::count(counts.hardlinks, "hard link"),
                format::count(counts.devices, "device")
            ),
        ),
        (
            "new",
            format!(
                "{} in {}",
                format::size(counts.new_bytes),
                format::count(counts.new_files, "file")
            ),
        ),
        (
            "stored",
            format!(
                "{} by this backup; {} needed to restore it, in {} ({older} older)",
                format::size(stored),
                format::size(manifest.stored_total()),
                format::count(manifest.segments.len() as u64, "segment")
            ),
        ),
        (
            "remarks",
            format!(
                "{} changed while read, {} vanished, {} left out",
                counts.changed, counts.vanished, counts.skipped
            ),
        ),
    ]);
    if counts.changed > 0 {
        lines.push(("", format!("`backstay ls --changed {}` lists them", manifest.backup)));
    }
    lines.extend([
        (
            "encryption",
            manifest
                .encryption
                .as_ref()
                .map_or_else(|| "none".into(), |e| format!("key {}", e.key)),
        ),
        (
            "written by",
            format!(
                "{} on {} ({})",
                manifest.writer.tool, manifest.writer.host, manifest.writer.system
            ),
        ),
    ]);
    lines
}
