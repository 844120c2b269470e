//! The part of `backstay restore` that puts a PostgreSQL cluster back.

use std::ffi::OsString;
use std::path::PathBuf;

use serde::Serialize;

use crate::archive::manifest::Manifest;
use crate::cli::setup::App;
use crate::cli::{ExitStatus, format};
use crate::error::{Error, IoContext as _, Result};
use crate::run::restore::{
    CLUSTER_KIND, ClusterPlan, Outcome, Request, TablespaceChoice, restore_cluster,
};

/// Options for base backups.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Base backups of PostgreSQL, to a data directory")]
pub struct ClusterArgs {
    /// Where a tablespace goes: OLD is where it lay, or its number. May be given several times.
    #[arg(long, value_name = "OLD=NEW")]
    tablespace: Vec<String>,

    /// Where all other tablespaces go: each to a directory below this one.
    #[arg(long, value_name = "DIR")]
    tablespaces: Option<PathBuf>,

    /// To the first moment at which the backup is consistent, with the WAL it brings.
    #[arg(long)]
    immediate: bool,
}

impl ClusterArgs {
    /// Whether this is a whole cluster, to be made ready for a server.
    pub fn is_meant(&self, manifest: &Manifest, to: &str, paths: &[OsString]) -> Result<bool> {
        if manifest.source_kind == CLUSTER_KIND && to != "-" && paths.is_empty() {
            return Ok(true);
        }
        if !self.tablespace.is_empty() || self.tablespaces.is_some() || self.immediate {
            return Err(Error::usage(
                "--tablespace, --tablespaces and --immediate are for whole clusters",
            )
            .hint(format!("{} is of a source of kind {}", manifest.backup, manifest.source_kind)));
        }
        Ok(false)
    }

    fn choice(&self) -> Result<TablespaceChoice> {
        let mapped = self.tablespace.iter().map(|given| {
            let parts =
                given.split_once('=').filter(|(old, new)| !old.is_empty() && !new.is_empty());
            let (old, new) = parts.ok_or_else(|| {
                Error::usage(format!("--tablespace takes OLD=NEW, not `{given}`"))
            })?;
            Ok((old.to_owned(), PathBuf::from(new)))
        });
        Ok(TablespaceChoice {
            mapped: mapped.collect::<Result<_>>()?,
            rest: self.tablespaces.clone(),
        })
    }
}

#[derive(Serialize)]
struct Report<'a> {
    source: String,
    backup: &'a str,
    target: String,
    dry_run: bool,
    tree: &'a Outcome,
    cluster: &'a ClusterPlan,
    fetched: u64,
}

/// Restores the cluster.
pub fn run(app: &App, args: &ClusterArgs, mut request: Request<'_>) -> Result<ExitStatus> {
    let choice = args.choice()?;
    let manifest = request.manifest;
    let (dry_run, given) = (request.dry_run, request.target.display().to_string());
    request.target =
        std::path::absolute(&request.target).doing(|| format!("failed to find {given}"))?;
    let target = request.target.display().to_string();
    let (outcome, plan) = restore_cluster(request, &choice, &app.cx)?;
    if app.printer.is_json() {
        app.printer.json(&Report {
            source: manifest.address().to_string(),
            backup: manifest.backup.as_str(),
            target: target.clone(),
            dry_run,
            tree: &outcome,
            cluster: &plan,
            fetched: app.cx.reporter.progress().snapshot().stored_bytes,
        })?;
    }
    let server = manifest.server.as_deref().unwrap_or("PostgreSQL");
    let what = format!(
        "{} in {} and {} of WAL",
        format::size(outcome.bytes),
        format::count(outcome.files, "file"),
        format::count(plan.wal_segments, "segment"),
    );
    let verb = if dry_run { "would restore" } else { "restored" };
    app.printer.talk(format!("{verb} {what} to {target}"));
    for (oid, old, new) in &plan.tablespaces {
        app.printer.talk(format!("  tablespace {oid} from {old} to {new}"));
    }
    if let Some(tainted) = &manifest.tainted {
        app.printer.warning(&format!(
            "{} of the server were damaged when the backup was made, and are so in the copy",
            format::count(tainted.pages, "page")
        ));
    }
    for (what, count, example) in &outcome.not_set {
        app.printer.warning(&format!(
            "{what} of {} could not be set, for example `{example}`",
            format::count(*count, "entry")
        ));
    }
    if !dry_run {
        app.printer.talk(format!(
            "{server} starts from it, replays WAL to {} of timeline {} and opens; it archives nothing",
            plan.lsn, plan.timeline
        ));
        app.printer.hint(&format!("as the owner of its files: pg_ctl -D {target} start"));
    }
    Ok(ExitStatus::Done)
}
