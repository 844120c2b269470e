//! `backstay unpin`

use super::pin::Report;
use crate::cli::ExitStatus;
use crate::cli::setup::App;
use crate::error::Result;
use crate::run::unpin;

/// Let a pinned backup go by its keep rule again.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A backup: its id or the start of it, a source (STACK/SOURCE, or just
    /// SOURCE) for the latest, or SOURCE@ID.
    #[arg(value_name = "ID")]
    backup: String,

    /// Say which pin would be removed, and remove nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let (opened, manifest) = super::show::find(app, &args.backup)?;
    let source = opened.repository.source(&manifest.address());
    let was_pinned = if args.dry_run {
        source.pins()?.iter().any(|pin| pin.backup == manifest.backup)
    } else {
        unpin(&source, &manifest.backup)?
    };
    let report = Report {
        source: manifest.address().to_string(),
        backup: manifest.backup.to_string(),
        repository: opened.name.clone(),
        pinned: args.dry_run && was_pinned,
        changed: was_pinned && !args.dry_run,
    };
    if app.printer.is_json() {
        app.printer.json(&report)?;
        return Ok(ExitStatus::Done);
    }
    let name = format!("{}@{} in {}", report.source, report.backup, report.repository);
    app.printer.talk(match (was_pinned, args.dry_run) {
        (true, true) => format!("would unpin {name}"),
        (true, false) => format!("unpinned {name}: its keep rule decides from now on"),
        (false, _) => format!("{name} is not pinned"),
    });
    Ok(ExitStatus::Done)
}
