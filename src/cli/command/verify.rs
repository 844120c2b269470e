//! `backstay verify`

use crate::archive::manifest::Manifest;
use crate::cli::ExitStatus;
use crate::cli::format;
use crate::cli::setup::{App, Opened};
use crate::error::{Error, ErrorKind, Result};
use crate::run::list_backups;
use crate::run::verify::{self as runner, Depth, Report};

/// Prove that backups are sound.
///
/// Without ids all backups are verified. Damage is exit code 5, and the files it costs are named.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Backups: ids or starts of them, STACK/SOURCE for the latest, or STACK/SOURCE@ID.
    #[arg(value_name = "ID")]
    backups: Vec<String>,

    /// list: objects and sizes. stored: digests of stored bytes, needs no key. content: decrypt,
    /// decode, digests of every file.
    #[arg(long, value_enum, default_value_t = DepthArg::Stored)]
    depth: DepthArg,
}

/// Depths, as the command line spells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum DepthArg {
    /// Every object is there and has its size.
    List,
    /// Every stored byte is what it was.
    Stored,
    /// Every file is what it was.
    Content,
}

impl From<DepthArg> for Depth {
    fn from(depth: DepthArg) -> Self {
        match depth {
            DepthArg::List => Self::List,
            DepthArg::Stored => Self::Stored,
            DepthArg::Content => Self::Content,
        }
    }
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let mut reports = Vec::new();
    let (mut damaged, mut unopened) = (0u64, 0u64);
    let mut backups: Vec<(usize, Manifest)> = Vec::new();
    let mut opened: Vec<Opened> = Vec::new();
    if args.backups.is_empty() {
        opened = app.repositories()?;
        for (at, repository) in opened.iter().enumerate() {
            let own = |address: &crate::id::SourceAddress| {
                repository.stack.as_ref().is_none_or(|stack| *stack == address.stack)
            };
            for listing in list_backups(&repository.repository, &own)? {
                match listing.manifest {
                    Ok(manifest) => backups.push((at, manifest)),
                    Err(error) => {
                        damaged += 1;
                        app.printer.error(&error);
                    }
                }
            }
        }
    }
    for wanted in &args.backups {
        let (repository, manifest) = super::show::find(app, wanted)?;
        backups.push((opened.len(), manifest));
        opened.push(repository);
    }
    for (at, manifest) in &backups {
        let cx = app.cx.fresh();
        let source = opened[*at].repository.source(&manifest.address());
        let verified = app.display.during(&cx.reporter, || {
            runner::verify(&source, manifest, args.depth.into(), &opened[*at].keys, &cx)
        });
        let mut report = match verified {
            // One that was named is missed; out of all, it is just one fewer.
            Err(error) if error.kind() == ErrorKind::NotFound && args.backups.is_empty() => {
                app.printer.talk(format!("skipped  {}", error.chain()));
                continue;
            }
            // Another backup may be under a key that is here.
            Err(error) if error.kind() == ErrorKind::Denied && backups.len() > 1 => {
                app.printer.error(&error);
                unopened += 1;
                continue;
            }
            verified => verified?,
        };
        report.findings.extend(runner::check_keys(&opened[*at].repository, manifest));
        tell(app, &report)?;
        damaged += u64::from(!report.is_sound());
        reports.push(report);
    }
    if app.printer.is_json() {
        app.printer.json(&reports)?;
    }
    if damaged > 0 {
        return Err(Error::damaged(format!(
            "{damaged} of {} {} damaged",
            format::count(reports.len().max(damaged as usize) as u64, "backup"),
            if damaged == 1 { "is" } else { "are" }
        ))
        .hint("restore what is sound, and take a full backup of the source now")
        .hint("a copy in another repository may have what is missing"));
    }
    if unopened > 0 {
        return Err(Error::new(
            ErrorKind::Denied,
            format!("{} could not be opened", format::count(unopened, "backup")),
        )
        .hint("give the recovery identity with --identity FILE; several may be given"));
    }
    Ok(ExitStatus::Done)
}

fn tell(app: &App, report: &Report) -> Result<()> {
    if app.printer.is_json() {
        return Ok(());
    }
    let what = match report.depth {
        Depth::List => {
            format!("{} there with their sizes", format::count(report.objects, "object"))
        }
        Depth::Stored => format!(
            "{} of {} as they were stored",
            format::size(report.bytes),
            format::count(report.objects, "object")
        ),
        Depth::Content => format!(
            "{} as they were backed up, out of {}",
            format::count(report.entries, "entry"),
            format::size(report.bytes)
        ),
    };
    let name = format!("{}@{}", report.source, report.backup);
    if report.is_sound() {
        return app
            .printer
            .data(format!("sound    {name}: {what}; {}", format::seconds(report.seconds)));
    }
    app.printer.data(format!("DAMAGED  {name}"))?;
    for finding in &report.findings {
        app.printer.data(format!("  {} {}", finding.object, finding.problem))?;
        let Some(costs) = &finding.costs else {
            if finding.object.contains("/index.") {
                app.printer
                    .data("    without its index no file of the backup can be found by name")?;
            }
            continue;
        };
        if costs.count > 0 {
            app.printer.data(format!("    costs {}:", format::count(costs.count, "entry")))?;
        }
        for path in costs.paths.iter().take(20) {
            app.printer.data(format!("      {path}"))?;
        }
        if costs.count > 20 {
            let more = costs.count - 20;
            app.printer.data(format!("      and {more} more (--output json names up to 1000)"))?;
        }
    }
    Ok(())
}
