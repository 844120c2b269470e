//! `backstay thaw`

use serde::Serialize;

use crate::cli::ExitStatus;
use crate::cli::format;
use crate::cli::setup::App;
use crate::error::Result;
use crate::run::thaw::{self, Standing};
use crate::store::{Archived, Pace, Thaw};

/// Have a backup thawed that lies in an archive of its store.
///
/// Asks the store for every archived segment that the backup needs, those of the backups it builds on
/// too, and does not wait: run it again to see how far that is. It ends with 0 when everything can be
/// read, and with 6 while something is being thawed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A backup: its id or the start of it, a source (STACK/SOURCE, or just
    /// SOURCE) for the latest, or SOURCE@ID.
    #[arg(value_name = "ID")]
    backup: String,

    /// Days for which the store keeps the thawed copies. They cost as much as what is read at once.
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=365))]
    days: u16,

    /// How fast: it has its price, and the deepest archives are not expedited.
    #[arg(long, value_enum, default_value = "standard")]
    tier: Tier,

    /// Say what is archived, and ask for nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Tier {
    /// Within minutes.
    Expedited,
    /// Within hours.
    Standard,
    /// Within half a day or two; cheapest.
    Bulk,
}

#[derive(Serialize)]
struct Report<'a> {
    source: String,
    backup: String,
    repository: &'a str,
    segments: usize,
    /// Asked for just now.
    asked: Vec<&'a str>,
    archived: Vec<&'a str>,
    thawing: Vec<&'a str>,
    ready: bool,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let (opened, manifest) = super::show::find(app, &args.backup)?;
    let source = opened.repository.source(&manifest.address());
    let before = thaw::look(&source, &manifest)?;
    let pace = match args.tier {
        Tier::Expedited => Pace::Expedited,
        Tier::Standard => Pace::Standard,
        Tier::Bulk => Pace::Bulk,
    };
    let terms = Thaw { days: args.days, pace };
    let after =
        if args.dry_run { None } else { Some(thaw::thaw(&source, &manifest, &before, terms)?) };
    let now = after.as_ref().unwrap_or(&before);
    let name = format!("{}@{}", manifest.address(), manifest.backup);
    if app.printer.is_json() {
        app.printer.json(&Report {
            source: manifest.address().to_string(),
            backup: manifest.backup.to_string(),
            repository: &opened.name,
            segments: now.segments,
            asked: if args.dry_run { Vec::new() } else { keys(&before.archived) },
            archived: keys(&now.archived),
            thawing: keys(&now.thawing),
            ready: now.is_ready(),
        })?;
    } else {
        tell(app, &name, &before, after.as_ref())?;
    }
    let waits = !args.dry_run && !now.is_ready();
    Ok(if waits { ExitStatus::Waiting } else { ExitStatus::Done })
}

fn keys(archived: &[Archived]) -> Vec<&str> {
    archived.iter().map(|one| one.key.as_str()).collect()
}

fn tell(app: &App, name: &str, before: &Standing, after: Option<&Standing>) -> Result<()> {
    let segments = |count: usize| format::count(count as u64, "segment");
    for one in before.archived.iter().chain(&before.thawing) {
        app.printer.data(one.to_string())?;
    }
    if before.is_ready() {
        app.printer.talk(format!("{name} can be read now: {}", segments(before.segments)));
        return Ok(());
    }
    let Some(after) = after else {
        app.printer.talk(format!(
            "would have {} of {} thawed for {name}; {} being thawed",
            before.archived.len(),
            segments(before.segments),
            before.thawing.len()
        ));
        return Ok(());
    };
    if !before.archived.is_empty() {
        app.printer.talk(format!("asked the store for {}", segments(before.archived.len())));
    }
    if after.is_ready() {
        app.printer.talk(format!("{name} can be read now"));
        return Ok(());
    }
    app.printer.talk(format!(
        "{} of {} cannot be read yet: run this again to see whether they can",
        after.thawing.len() + after.archived.len(),
        segments(after.segments)
    ));
    Ok(())
}
