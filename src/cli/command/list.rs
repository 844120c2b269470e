//! `backstay list`

use serde::Serialize;

use crate::archive::snapshot::Snapshot;
use crate::cli::ExitStatus;
use crate::cli::format::{self, Align, table};
use crate::cli::names::Names;
use crate::cli::setup::App;
use crate::error::Result;
use crate::run::{Listing, list_backups};
use crate::store::layout;

/// List backups.
///
/// Oldest first. What a site wrote after another one became the active one is `DIVERGENT`: it is never
/// restored unless that is asked for. A name that no source has is exit code 1. A commit that cannot be read is listed as
/// damaged, and the exit code is 5.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Sources: STACK/SOURCE, a SOURCE, or a STACK.
    #[arg(value_name = "SOURCE")]
    sources: Vec<String>,
}

#[derive(Serialize)]
struct Line {
    repository: String,
    source: String,
    backup: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery_point: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stored_bytes: Option<u64>,
    /// What an engine wrote by itself for it and for older backups that it needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot_bytes: Option<u64>,
    /// Of that, what it wrote for this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot_stored_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    site: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    divergent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    damaged: Option<String>,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let mut lines = Vec::new();
    let repositories = app.repositories()?;
    let mut names = Names::new(app, &args.sources);
    repositories.iter().try_for_each(|opened| names.add(&opened.repository))?;
    names.check()?;
    if args.sources.is_empty() {
        app.miss_broken();
    }
    for opened in repositories {
        let wanted = |address: &crate::id::SourceAddress| {
            let own = opened.stack.as_ref().is_none_or(|stack| *stack == address.stack);
            own && address.is_named_by(&args.sources)
        };
        let listings = list_backups(&opened.repository, &wanted)?;
        lines.extend(listings.into_iter().map(|listing| line(&opened.name, listing)));
    }
    let damaged = lines.iter().any(|line| line.damaged.is_some());
    if app.printer.is_json() {
        app.printer.json(&lines)?;
    } else if lines.is_empty() {
        let which = args.sources.join(", ");
        app.printer.talk(if which.is_empty() {
            "there are no backups".to_owned()
        } else {
            format!("there are no backups of {which} yet")
        });
    } else {
        for row in table(&HEAD, &lines.iter().map(cells).collect::<Vec<_>>()) {
            app.printer.data(row)?;
        }
        // A reason is too long for a column.
        for line in &lines {
            if let Some(damaged) = &line.damaged {
                app.printer.data(format!("  {}@{}: {damaged}", line.source, line.backup))?;
            }
            if let Some(divergent) = &line.divergent {
                app.printer.data(format!("  {}@{}: {divergent}", line.source, line.backup))?;
            }
        }
    }
    Ok(if damaged { ExitStatus::DamageFound } else { ExitStatus::Done })
}

const HEAD: [(&str, Align); 8] = [
    ("SOURCE", Align::Left),
    ("BACKUP", Align::Left),
    ("KIND", Align::Left),
    ("RECOVERY POINT", Align::Left),
    ("FILES", Align::Right),
    ("SIZE", Align::Right),
    ("STORED", Align::Right),
    ("REPOSITORY", Align::Left),
];

fn line(repository: &str, listing: Listing) -> Line {
    let mut line = Line {
        repository: repository.to_owned(),
        source: listing.address.to_string(),
        backup: listing.commit.backup.to_string(),
        kind: None,
        recovery_point: None,
        end: None,
        run: None,
        job: None,
        files: None,
        bytes: None,
        stored_bytes: None,
        snapshot_bytes: None,
        snapshot_stored_bytes: None,
        epoch: None,
        site: None,
        divergent: listing.divergent.map(|divergence| divergence.to_string()),
        damaged: None,
    };
    match listing.manifest {
        Ok(manifest) => {
            line.kind = Some(manifest.kind.to_string());
            line.recovery_point = manifest
                .recovery_points
                .iter()
                .map(|point| point.time)
                .max()
                .map(|at| at.to_string());
            line.epoch = Some(manifest.epoch).filter(|epoch| *epoch > 0);
            line.site = manifest.site;
            line.end = Some(manifest.end.to_string());
            line.run = Some(manifest.run);
            line.job = manifest.job;
            line.files = Some(manifest.counts.files);
            line.bytes = Some(manifest.counts.bytes);
            line.stored_bytes = Some(manifest.counts.stored_bytes);
            if let Some(snapshots) = &manifest.snapshots {
                let own = |one: &&Snapshot| {
                    layout::backup_of_label(&one.label).as_ref() == Some(&manifest.backup)
                };
                line.snapshot_bytes = Some(snapshots.list.iter().map(|one| one.bytes).sum());
                line.snapshot_stored_bytes =
                    Some(snapshots.list.iter().filter(own).map(|one| one.bytes).sum());
            }
        }
        Err(error) => line.damaged = Some(error.chain()),
    }
    line
}

fn cells(line: &Line) -> Vec<String> {
    if line.damaged.is_some() {
        return vec![line.source.clone(), line.backup.clone(), "DAMAGED".into()];
    }
    let point = line.recovery_point.as_ref().and_then(|at| at.parse().ok()).map(format::time);
    vec![
        line.source.clone(),
        line.backup.clone(),
        match (&line.kind, &line.divergent) {
            (Some(kind), Some(_)) => format!("{kind} DIVERGENT"),
            (kind, _) => kind.clone().unwrap_or_default(),
        },
        point.unwrap_or_default(),
        format::number(line.files.unwrap_or_default()),
        format::size(line.bytes.unwrap_or_default() + line.snapshot_bytes.unwrap_or_default()),
        format::size(
            line.stored_bytes.unwrap_or_default() + line.snapshot_stored_bytes.unwrap_or_default(),
        ),
        line.repository.clone(),
    ]
}
