//! `backstay verify`

mod budget;
mod memory;

use std::collections::{BTreeMap, BTreeSet};

use memory::Memory;

use crate::archive::manifest::Manifest;
use crate::cli::ExitStatus;
use crate::cli::format;
use crate::cli::setup::{App, Opened};
use crate::error::{Error, ErrorKind, Result};
use crate::id::SourceAddress;
use crate::policy::Size;
use crate::run::list_backups;
use crate::run::verify::{self as runner, Depth, Report, Scope};

/// Prove that backups are sound.
///
/// Without ids all backups are verified. Damage is exit code 5, and the files it costs are named.
/// What was proven when is remembered in the state directory.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Backups: ids or starts of them, sources (STACK/SOURCE, or just SOURCE) for their
    /// latest, or SOURCE@ID.
    #[arg(value_name = "ID")]
    backups: Vec<String>,

    /// list: objects and sizes. stored: digests of stored bytes, needs no key. content: decrypt,
    /// decode, digests of every file.
    #[arg(long, value_enum, default_value_t = DepthArg::Stored)]
    depth: DepthArg,

    /// Read about this much and no more, such as 10GiB: what was never proven, then what was proven
    /// longest ago.
    ///
    /// Each run goes on where the last one ended. One object is read in any case, however large.
    /// Says how much of each repository is proven, and since when.
    #[arg(long, value_name = "SIZE")]
    budget: Option<Size>,

    /// Say what --budget would read, and how much is proven; read nothing.
    #[arg(long, requires = "budget")]
    dry_run: bool,
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
    if let Some(budget) = args.budget {
        return budget::run(app, args, budget.bytes());
    }
    let found = Found::new(app, &args.backups)?;
    let alone = found.backups.len() == 1;
    let mut tally = Tally { damaged: found.unreadable, alone, ..Tally::default() };
    let mut memory = Memory::new(app, args.depth.into());
    let mut read: BTreeMap<(String, SourceAddress), BTreeSet<String>> = BTreeMap::new();
    for (at, manifest) in &found.backups {
        let opened = &found.opened[*at];
        let place = (opened.repository.store().name().to_owned(), manifest.address());
        let sound = read.entry(place).or_default();
        // Content is held against each backup's own index; bytes are the same for all.
        let scope = match args.depth {
            DepthArg::Stored => Scope::Except(sound),
            DepthArg::List | DepthArg::Content => Scope::All,
        };
        let Some(report) = one(app, opened, manifest, scope, args, &mut tally)? else { continue };
        memory.keep(opened, manifest, &report);
        let examined = report.examined.iter().filter(|object| !report.names(object));
        sound.extend(examined.cloned());
        tally.add(report);
    }
    if app.printer.is_json() {
        app.printer.json(&tally.reports)?;
    }
    tally.verdict()
}

/// The backups meant.
struct Found {
    opened: Vec<Opened>,
    /// Which repository, and what.
    backups: Vec<(usize, Manifest)>,
    /// Manifests that cannot be read.
    unreadable: u64,
}

impl Found {
    /// Finds backups by what was given, or all there are.
    fn new(app: &App, wanted: &[String]) -> Result<Self> {
        let mut found = Self { opened: Vec::new(), backups: Vec::new(), unreadable: 0 };
        for wanted in wanted {
            let (repository, manifest) = super::show::find(app, wanted)?;
            found.backups.push((found.opened.len(), manifest));
            found.opened.push(repository);
        }
        if !wanted.is_empty() {
            return Ok(found);
        }
        found.opened = app.repositories()?;
        app.miss_broken();
        for (at, repository) in found.opened.iter().enumerate() {
            for listing in list_backups(&repository.repository, &|address| repository.has(address))?
            {
                match listing.manifest {
                    Ok(manifest) => found.backups.push((at, manifest)),
                    Err(error) => {
                        found.unreadable += 1;
                        app.printer.error(&error);
                    }
                }
            }
        }
        Ok(found)
    }
}

/// What came of all.
#[derive(Default)]
struct Tally {
    reports: Vec<Report>,
    damaged: u64,
    unopened: u64,
    /// There is just one backup to verify.
    alone: bool,
}

impl Tally {
    fn add(&mut self, report: Report) {
        self.damaged += u64::from(!report.is_sound());
        self.reports.push(report);
    }

    fn verdict(&self) -> Result<ExitStatus> {
        if self.damaged > 0 {
            let backups = self.reports.len().max(self.damaged as usize) as u64;
            return Err(Error::damaged(format!(
                "{} of {} {} damaged",
                self.damaged,
                format::count(backups, "backup"),
                if self.damaged == 1 { "is" } else { "are" }
            ))
            .hint("restore what is sound, and take a full backup of the source now")
            .hint("a copy in another repository may have what is missing"));
        }
        if self.unopened > 0 {
            return Err(Error::new(
                ErrorKind::Denied,
                format!("{} could not be opened", format::count(self.unopened, "backup")),
            )
            .hint("give the recovery identity with --identity FILE; several may be given"));
        }
        Ok(ExitStatus::Done)
    }
}

/// Verifies one backup, or some of its objects, and says what came of it. `None` if it cannot be
/// opened, or went meanwhile, and there are others.
fn one(
    app: &App,
    opened: &Opened,
    manifest: &Manifest,
    scope: Scope<'_>,
    args: &Args,
    tally: &mut Tally,
) -> Result<Option<Report>> {
    let cx = app.cx.fresh();
    let source = opened.repository.source(&manifest.address());
    let verified = app.display.during(&cx.reporter, || {
        runner::verify_part(&source, manifest, scope, args.depth.into(), &opened.keys, &cx)
    });
    let mut report = match verified {
        // One that was named is missed; out of all, it is just one fewer.
        Err(error) if error.kind() == ErrorKind::NotFound && args.backups.is_empty() => {
            app.printer.talk(format!("skipped  {}", error.chain()));
            return Ok(None);
        }
        // Another backup may be under a key that is here.
        Err(error) if error.kind() == ErrorKind::Denied && !tally.alone => {
            app.printer.error(&error);
            tally.unopened += 1;
            return Ok(None);
        }
        verified => verified?,
    };
    report.findings.extend(runner::check_keys(&opened.repository, manifest));
    tell(app, &report)?;
    Ok(Some(report))
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
