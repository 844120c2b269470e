//! `backstay pin`

use serde::Serialize;

use crate::cli::ExitStatus;
use crate::cli::setup::App;
use crate::error::Result;
use crate::run::{PinOf, pin};

/// Keep a backup until it is unpinned, whatever its keep rule says.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A backup: its id or the start of it, a source (STACK/SOURCE, or just
    /// SOURCE) for the latest, or SOURCE@ID.
    #[arg(value_name = "ID")]
    backup: String,

    /// Why, for those who find it pinned. Stored readable: no secrets.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,

    /// Put everything it needs under a legal hold of the store too, which nothing but `unpin` ends. The
    /// bucket must have object lock.
    #[arg(long)]
    hold: bool,

    /// Say which backup would be pinned, and pin nothing.
    #[arg(long)]
    dry_run: bool,
}

/// What became of a pin.
#[derive(Serialize)]
pub struct Report {
    /// `STACK/SOURCE`.
    pub source: String,
    /// The backup.
    pub backup: String,
    /// The repository.
    pub repository: String,
    /// Whether it is pinned now.
    pub pinned: bool,
    /// Whether that is new.
    pub changed: bool,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let (opened, manifest) = super::show::find(app, &args.backup)?;
    let source = opened.repository.source(&manifest.address());
    let changed = if args.dry_run {
        !source.pins()?.iter().any(|pin| pin.backup == manifest.backup)
    } else {
        let of = PinOf { reason: args.reason.as_deref(), hold: args.hold };
        pin(&source, &manifest.backup, of, &app.cx)?
    };
    let report = Report {
        source: manifest.address().to_string(),
        backup: manifest.backup.to_string(),
        repository: opened.name.clone(),
        pinned: !(changed && args.dry_run),
        changed: changed && !args.dry_run,
    };
    if app.printer.is_json() {
        app.printer.json(&report)?;
        return Ok(ExitStatus::Done);
    }
    let name = format!("{}@{} in {}", report.source, report.backup, report.repository);
    app.printer.talk(match (changed, args.dry_run) {
        (true, true) => format!("would pin {name}"),
        (true, false) => {
            format!("pinned {name}: it stays until `backstay unpin {}`", report.backup)
        }
        (false, _) => format!("{name} is pinned already"),
    });
    Ok(ExitStatus::Done)
}
