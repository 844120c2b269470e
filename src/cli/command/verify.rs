//! `backstay verify`

mod budget;
mod memory;
mod proof;
mod repair;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use memory::Memory;
use repair::Medic;

use crate::archive::manifest::Manifest;
use crate::cli::ExitStatus;
use crate::cli::format;
use crate::cli::setup::{App, Opened};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{BackupId, SourceAddress};
use crate::policy::Size;
use crate::run::verify::{self as runner, Depth, Report, Scope};
use crate::run::{find_source, list_backups};

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
    /// decode, digests of every file. restore: restore it, start it, look at it, throw it away.
    #[arg(long, value_enum, default_value_t = DepthArg::Stored)]
    depth: DepthArg,

    /// Read about this much and no more, such as 10GiB: what was never proven, then what was proven
    /// longest ago.
    ///
    /// Each run goes on where the last one ended. One object is read in any case, however large.
    /// Says how much of each repository is proven, and since when.
    #[arg(long, value_name = "SIZE", group = "planned")]
    budget: Option<Size>,

    /// Fetch what is missing or altered from a copy: a name in the policy, a directory, or
    /// s3://BUCKET/PREFIX?endpoint=URL&region=R.
    ///
    /// Bytes take their place only once they were read to their end and have the digest that the
    /// manifest says; what is damaged in the copy as well stays as it is. Then what was damaged is
    /// verified again. Nothing is deleted.
    #[arg(long, value_name = "REPOSITORY", group = "planned")]
    repair_from: Option<String>,

    /// For --depth restore: a directory with room for the largest backup. Empty afterwards.
    ///
    /// A PostgreSQL cluster is recovered by a server that listens on a private socket only; then
    /// pg_amcheck reads every table and index. Dumps go into a new server, and rows are compared
    /// with what was counted. Of files every digest is compared. Without ids the newest backup of
    /// each source is proven.
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,

    /// For --depth restore: the directory of PostgreSQL's programs. Looked for if left out.
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,

    /// Say what --budget would read and how much is proven, and read nothing; or what --repair-from
    /// would fetch, and repair nothing.
    #[arg(long, requires = "planned")]
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
    /// It comes back, and starts.
    Restore,
}

impl From<DepthArg> for Depth {
    fn from(depth: DepthArg) -> Self {
        match depth {
            DepthArg::List => Self::List,
            DepthArg::Stored => Self::Stored,
            // What is proven that way is the backup and not its objects.
            DepthArg::Content | DepthArg::Restore => Self::Content,
        }
    }
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    if args.depth == DepthArg::Restore {
        return proof::run(app, args);
    }
    if let Some((option, _)) = [("--scratch", &args.scratch), ("--programs", &args.programs)]
        .into_iter()
        .find(|(_, given)| given.is_some())
    {
        return Err(Error::usage(format!("{option} goes with --depth restore")));
    }
    if let Some(budget) = args.budget {
        return budget::run(app, args, budget.bytes());
    }
    let mut medic = Medic::new(app, args)?;
    let mut found = Found::new(app, &args.backups, medic.as_ref())?;
    if let Some(medic) = &mut medic {
        medic.meet(&found.opened)?;
        medic.mend_manifests(&mut found)?;
    }
    let Found { mut opened, backups, unreadable } = found;
    for unreadable in &unreadable {
        app.printer.error(&unreadable.error);
    }
    let alone = backups.len() == 1;
    let mut tally = Tally { unreadable: unreadable.len() as u64, alone, ..Tally::default() };
    if args.backups.is_empty() {
        beside(app, &opened, &mut tally)?;
    }
    let mut memory = Memory::new(app, args.depth.into());
    let mut read: BTreeMap<(String, SourceAddress), Sound> = BTreeMap::new();
    for (at, manifest) in &backups {
        let opened = &mut opened[*at];
        let place = (opened.repository.store().name().to_owned(), manifest.address());
        let sound = read.entry(place).or_default();
        if let Some(medic) = &mut medic {
            // Without them nothing else can be looked into.
            medic.mend_keys(*at, opened, manifest)?;
        }
        let mut last = None;
        loop {
            // Content is held against each backup's own index; bytes are the same for all.
            let known = match args.depth {
                DepthArg::Stored => known(sound, manifest),
                _ => BTreeSet::new(),
            };
            let scope = Scope::Except(&known);
            let Some(report) = one(app, opened, manifest, scope, args, &mut tally)? else { break };
            memory.keep(opened, manifest, &report);
            note(sound, manifest, &report);
            let is_sound = report.is_sound();
            let report = &*last.insert(report);
            // What was behind damage shows once that is repaired.
            let again = match &mut medic {
                Some(medic) if !is_sound => medic.mend(*at, opened, manifest, report)?,
                _ => false,
            };
            if !again {
                break;
            }
        }
        if let Some(report) = last {
            tally.add(report);
        }
    }
    if let Some(medic) = &medic {
        return medic.end(&tally);
    }
    if app.printer.is_json() {
        app.printer.json(&tally.reports)?;
    }
    tally.verdict()
}

/// Digests of objects that were found sound, by path.
type Sound = BTreeMap<String, String>;

/// What needs not be read again. Of an object that has another digest in this manifest nothing is
/// known: one of the manifests was altered.
fn known(sound: &Sound, manifest: &Manifest) -> BTreeSet<String> {
    let objects = manifest.objects();
    objects
        .filter(|(path, _, sha256)| sound.get(*path).is_some_and(|known| known == sha256))
        .map(|(path, _, _)| path.to_owned())
        .collect()
}

fn note(sound: &mut Sound, manifest: &Manifest, report: &Report) {
    let examined: BTreeSet<&str> = report.examined.iter().map(String::as_str).collect();
    for (path, _, sha256) in manifest.objects() {
        if examined.contains(path) && !report.names(path) {
            sound.insert(path.to_owned(), sha256.to_owned());
        }
    }
}

/// Looks at what else lies in the repositories.
fn beside(app: &App, opened: &[Opened], tally: &mut Tally) -> Result<()> {
    let mut seen = BTreeSet::new();
    for opened in opened {
        let place = opened.repository.store().name();
        if !seen.insert(place) {
            continue;
        }
        let found = runner::check_beside(&opened.repository, &opened.keys)?;
        for finding in found.doubtful {
            app.printer.warning(&format!("{place}: {} {}", finding.object, finding.problem));
        }
        for finding in found.damaged {
            tally.beside += 1;
            let message = format!("{place}: {} {}", finding.object, finding.problem);
            app.printer.error(&Error::damaged(message));
        }
    }
    Ok(())
}

/// The backups meant.
struct Found {
    opened: Vec<Opened>,
    /// Which repository, and what.
    backups: Vec<(usize, Manifest)>,
    unreadable: Vec<Unreadable>,
}

/// A manifest that cannot be read.
struct Unreadable {
    /// Which repository.
    at: usize,
    address: SourceAddress,
    backup: BackupId,
    error: Error,
}

impl Found {
    /// Finds backups by what was given, or all there are. With a medic, manifests that cannot be
    /// read are no reason to give up.
    fn new(app: &App, wanted: &[String], medic: Option<&Medic<'_>>) -> Result<Self> {
        let mut found = Self { opened: Vec::new(), backups: Vec::new(), unreadable: Vec::new() };
        let is_meant = |opened: &Opened| medic.is_none_or(|medic| !medic.is_helper(opened));
        for wanted in wanted {
            match super::show::find_in(app, wanted, &is_meant) {
                Ok((repository, manifest)) => {
                    found.backups.push((found.opened.len(), manifest));
                    found.opened.push(repository);
                }
                Err(error) if error.kind() == ErrorKind::Damaged && medic.is_some() => {
                    let before = found.unreadable.len();
                    for opened in app.repositories()?.into_iter().filter(&is_meant) {
                        let meant = is_named(&opened, wanted)?;
                        found.add(opened, &meant, false)?;
                    }
                    if found.unreadable.len() == before {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        if wanted.is_empty() {
            for opened in app.repositories()?.into_iter().filter(&is_meant) {
                found.add(opened, &|_, _| true, true)?;
            }
            app.miss_broken();
        }
        Ok(found)
    }

    /// Adds the backups of a repository: all, or just those that cannot be read.
    fn add(
        &mut self,
        opened: Opened,
        meant: &dyn Fn(&SourceAddress, &BackupId) -> bool,
        all: bool,
    ) -> Result<()> {
        let at = self.opened.len();
        for listing in list_backups(&opened.repository, &|address| opened.has(address))? {
            let (address, backup) = (listing.address, listing.commit.backup);
            match listing.manifest {
                Ok(manifest) if all => self.backups.push((at, manifest)),
                Err(error) if meant(&address, &backup) => {
                    self.unreadable.push(Unreadable { at, address, backup, error });
                }
                _ => {}
            }
        }
        self.opened.push(opened);
        Ok(())
    }
}

/// Whether what was given on the command line may mean a backup of the repository.
fn is_named(
    opened: &Opened,
    wanted: &str,
) -> Result<impl Fn(&SourceAddress, &BackupId) -> bool + use<>> {
    let (name, id) = wanted.split_once('@').map_or((wanted, None), |(name, id)| (name, Some(id)));
    let source = find_source(&opened.repository, name)?;
    let id = match (&source, id) {
        (Some(_), None | Some("latest")) => String::new(),
        (_, Some(id)) => id.to_owned(),
        (None, None) => wanted.to_owned(),
    };
    Ok(move |address: &SourceAddress, backup: &BackupId| {
        source.as_ref().is_none_or(|source| source == address) && backup.as_str().starts_with(&id)
    })
}

/// What came of all.
#[derive(Default)]
struct Tally {
    reports: Vec<Report>,
    damaged: u64,
    /// Manifests that cannot be read: damaged too, and without a report.
    unreadable: u64,
    unopened: u64,
    /// Backups whose segments lie in an archive of the store.
    archived: u64,
    /// Damaged objects that belong to no backup.
    beside: u64,
    /// There is just one backup to verify.
    alone: bool,
}

impl Tally {
    fn add(&mut self, report: Report) {
        self.damaged += u64::from(!report.is_sound());
        self.reports.push(report);
    }

    fn verdict(&self) -> Result<ExitStatus> {
        let repair = "`backstay verify --repair-from REPOSITORY` fetches what a copy has of it";
        self.verdict_with(&[repair.to_owned()])
    }

    /// The same, with other hints for what is damaged.
    fn verdict_with(&self, hints: &[String]) -> Result<ExitStatus> {
        let damaged = self.damaged + self.unreadable;
        if damaged > 0 {
            let backups = self.reports.len() as u64 + self.unreadable + self.unopened;
            let error = Error::damaged(format!(
                "{damaged} of {} {} damaged",
                format::count(backups, "backup"),
                if damaged == 1 { "is" } else { "are" }
            ))
            .hint("restore what is sound, and take a full backup of the source now");
            return Err(hints.iter().fold(error, Error::hint));
        }
        if self.beside > 0 {
            return Err(Error::damaged(format!(
                "every backup is sound, and {} beside them is not",
                format::count(self.beside, "policy")
            ))
            .hint("the next backup stores the policy in force under a name of its own"));
        }
        if self.unopened > 0 {
            return Err(Error::new(
                ErrorKind::Denied,
                format!("{} could not be opened", format::count(self.unopened, "backup")),
            )
            .hint("give the recovery identity with --identity FILE; several may be given"));
        }
        if self.archived > 0 {
            return Err(Error::new(
                ErrorKind::Waiting,
                format!("{} must be thawed first", format::count(self.archived, "backup")),
            )
            .hint("have the objects named above restored by the store, and run this again"));
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
        // So may one that does not lie in an archive.
        Err(error) if error.kind() == ErrorKind::Waiting && !tally.alone => {
            app.printer.error(&error);
            tally.archived += 1;
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
