//! `backstay backup`

use serde::Serialize;

use crate::archive::crypt::Keyring;
use crate::cli::ExitStatus;
use crate::cli::format;
use crate::cli::printer::Printer;
use crate::cli::setup::App;
use crate::daemon::supervise::EPOCH;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{self, BackupId, BackupKind, SourceAddress};
use crate::policy::{self, Policy, PolicySet, SourceSpec, Work};
use crate::run::backup::{self, Outcome, Request, Terms};
use crate::run::lock::LockTerms;
use crate::run::space::Room;
use crate::run::{Context, Tuning, host_name};
use crate::secret;
use crate::source;
use crate::state::Epoch;
use crate::store::{Repository, Worker};

/// Back up now.
///
/// Without sources everything is backed up that the policies describe. A backup is listed only
/// when all of it is stored; one source's failure does not stop the others.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Sources: STACK/SOURCE, a SOURCE, or a STACK with all its sources.
    #[arg(value_name = "SOURCE")]
    sources: Vec<String>,

    /// The kind of backup. Default: that of the job given, else incremental.
    #[arg(long, value_enum)]
    kind: Option<Kind>,

    /// Back up what this job covers, in its kind and under its keep rule.
    #[arg(long, value_name = "JOB")]
    job: Option<String>,

    /// Say what would be stored, and store nothing.
    #[arg(long)]
    dry_run: bool,

    /// The id of the run that the backups belong to.
    #[arg(long, hide = true, value_name = "ID")]
    run: Option<String>,

    /// Begin nothing: see to it that no writer of this run commits any more, and say what one did.
    #[arg(long, hide = true, requires = "run", conflicts_with_all = ["dry_run", "kind", "job"])]
    give_up: bool,

    /// Stored bytes after which a segment ends.
    #[arg(long, hide = true, value_name = "BYTES")]
    segment_size: Option<u64>,

    /// Files larger than this become streams of their own.
    #[arg(long, hide = true, value_name = "BYTES")]
    large_file: Option<u64>,
}

/// The kinds, as the command line spells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// Refers to nothing older.
    Full,
    /// Stores what changed since the last backup.
    Incremental,
    /// A full that nothing is ever based on.
    Snapshot,
}

impl From<Kind> for BackupKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Full => Self::Full,
            Kind::Incremental => Self::Incremental,
            Kind::Snapshot => Self::Snapshot,
        }
    }
}

#[derive(Serialize)]
struct Report {
    run: String,
    dry_run: bool,
    backups: Vec<Outcome>,
    failed: Vec<Failure>,
}

#[derive(Serialize)]
struct Failure {
    source: String,
    message: String,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let set = app.policies_about(&args.sources)?;
    let addresses = of_repository(app, &set, select(app, &set, args)?)?;
    if let (true, Some(run)) = (args.give_up, &args.run) {
        return give_up(app, &set, &addresses, run);
    }
    let claim = args.run.as_deref().and_then(|run| Claim::of(app, &set, run));
    let mut cx = app.cx.clone();
    cx.tuning = Tuning {
        segment_size: args.segment_size.unwrap_or(cx.tuning.segment_size),
        large_file: args.large_file.unwrap_or(cx.tuning.large_file),
        ..cx.tuning
    };
    let mut report = Report {
        run: args.run.clone().unwrap_or_else(|| id::run_id(cx.clock.now())),
        dry_run: args.dry_run,
        backups: Vec::new(),
        failed: Vec::new(),
    };
    let mut first_error: Option<Error> = None;
    for address in &addresses {
        let cx = cx.fresh();
        let policy = app.policy_of(&set, address)?;
        let result = app.display.during(&cx.reporter, || {
            app.while_active(policy, || {
                one(app, args, policy, (address, &report.run), claim.as_ref(), &cx)
            })
        });
        match result {
            Ok(outcome) => {
                app.printer.talk(summary(&outcome, args.dry_run));
                report.backups.push(outcome);
            }
            Err(error) => {
                let interrupted = error.kind() == ErrorKind::Interrupted;
                let message = secret::mask(&error.chain());
                report.failed.push(Failure { source: address.to_string(), message });
                if addresses.len() > 1 {
                    app.printer.error(&error);
                }
                first_error.get_or_insert(error);
                if interrupted {
                    break;
                }
            }
        }
    }
    if app.printer.is_json() {
        app.printer.json(&report)?;
    } else {
        for outcome in &report.backups {
            if let Some(backup) = &outcome.backup {
                app.printer.data(format!("{}@{backup}", outcome.source))?;
            }
        }
    }
    match first_error {
        None => Ok(ExitStatus::Done),
        Some(error) if addresses.len() == 1 || error.kind() == ErrorKind::Interrupted => Err(error),
        Some(_) => Err(Error::failed(format!(
            "{} of {} sources failed",
            report.failed.len(),
            addresses.len()
        ))),
    }
}

fn select(app: &App, set: &PolicySet, args: &Args) -> Result<Vec<SourceAddress>> {
    let mut addresses = Vec::new();
    let given: Vec<&str> = args.sources.iter().map(String::as_str).collect();
    let stack_of = |name: &str| set.policies.iter().find(|policy| policy.stack == name);
    if given.is_empty() {
        for policy in &set.policies {
            addresses.extend(of_stack(&app.printer, policy));
        }
    }
    for name in given {
        match stack_of(name) {
            Some(policy) => addresses.extend(of_stack(&app.printer, policy)),
            None => addresses.push(app.address(set, name)?),
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    addresses.retain(|address| seen.insert(address.clone()));
    if addresses.is_empty() {
        return Err(Error::failed("there is nothing here to back up"));
    }
    if let Some(job) = &args.job {
        let covers = |address: &SourceAddress| {
            set.policies
                .iter()
                .filter(|policy| policy.stack == address.stack)
                .any(|policy| policy.jobs.get(job).is_some_and(|job| job.covers(&address.source)))
        };
        if !set.policies.iter().any(|policy| policy.jobs.contains_key(job)) {
            let jobs = set.policies.iter().flat_map(|policy| policy.jobs.keys());
            return Err(Error::usage(format!("there is no job `{job}`"))
                .hint(crate::policy::hint_at(job, jobs.map(String::as_str))));
        }
        addresses.retain(covers);
        if addresses.is_empty() {
            return Err(Error::usage(format!("job `{job}` covers none of these sources")));
        }
    }
    Ok(addresses)
}

/// With `--repository NAME` only the sources that are backed up there.
fn of_repository(
    app: &App,
    set: &PolicySet,
    mut addresses: Vec<SourceAddress>,
) -> Result<Vec<SourceAddress>> {
    let Some(wanted) = app.global.repository.as_deref() else { return Ok(addresses) };
    let known = || set.policies.iter().flat_map(|policy| policy.repositories.keys());
    if !known().any(|name| name == wanted) {
        let known: Vec<&str> = known().map(String::as_str).collect();
        return Err(Error::usage(format!("there is no repository `{wanted}` in the policies"))
            .hint(crate::policy::hint_at(wanted, known))
            .hint(
                "where a source is backed up to stands in the policy; `copy --to` copies elsewhere",
            ));
    }
    let home = |address: &SourceAddress| {
        let policy = set.policies.iter().find(|policy| policy.stack == address.stack)?;
        policy.repository_of(&address.source).map(|(home, _)| home)
    };
    addresses.retain(|address| home(address) == Some(wanted));
    if addresses.is_empty() {
        return Err(Error::usage(format!("none of these sources is backed up to `{wanted}`"))
            .hint("`backstay copy --to` copies backups into another repository"));
    }
    Ok(addresses)
}

/// All sources of a stack that lie here.
fn of_stack(printer: &Printer, policy: &Policy) -> Vec<SourceAddress> {
    let here = |host: &Option<String>| host.as_ref().is_none_or(|host| *host == host_name());
    policy
        .sources
        .iter()
        .filter(|(name, source)| {
            let why = match &source.host {
                Some(host) if !here(&source.host) => format!("it lies on host {host}"),
                _ => return true,
            };
            // Never in silence: a green cron job must not hide a source that nobody backs up.
            printer.warning(&format!("{}/{name} is not backed up: {why}", policy.stack));
            false
        })
        .map(|(name, _)| SourceAddress::new(&policy.stack, name))
        .collect()
}

fn one(
    app: &App,
    args: &Args,
    policy: &Policy,
    (address, run): (&SourceAddress, &str),
    claim: Option<&Claim<'_>>,
    cx: &Context,
) -> Result<Outcome> {
    let definition = &policy.sources[&address.source];
    if let Some(host) = &definition.host
        && *host != host_name()
    {
        return Err(Error::failed(format!(
            "{address} lies on host {host}, and this is {}",
            host_name()
        ))
        .hint("run backstay on that host"));
    }
    let source = source::build(&address.source, &definition.spec)?;
    let (name, config) = policy
        .repository_of(&address.source)
        .ok_or_else(|| Error::usage(format!("{address} has no repository")))?;
    let job = args.job.as_ref().and_then(|job| Some((job, policy.jobs.get(job)?)));
    let mut limits = config.limits;
    if let Some((_, job)) = job {
        limits.upload = job.limits.upload.or(limits.upload);
        limits.download = job.limits.download.or(limits.download);
    }
    let repository = Repository::open(&app.connect_limited(config, &limits, false)?)
        .map_err(|error| error.context(format!("failed to open repository `{name}`")))?;
    let repository = app.knowing(policy, repository)?;
    if claim.is_some_and(|claim| claim.epoch > 1) {
        let (source, by) = (repository.source(address), Worker::here(host_name()));
        if let Some(manifest) = backup::give_up(&source, run, &by, cx.clock.now())? {
            return Ok(Outcome::of_earlier(manifest));
        }
    }
    let writer = app.writer(config)?.unwrap_or_default();
    let job_kind = job.and_then(|(_, job)| match &job.work {
        Work::Backup { kind, .. } => Some(*kind),
        _ => None,
    });
    let kind = args.kind.map(BackupKind::from).or(job_kind).unwrap_or(BackupKind::Incremental);
    let paranoid =
        matches!(&definition.spec, SourceSpec::Directory(directory) if directory.paranoid);
    let request = Request {
        address: address.clone(),
        source: &*source,
        kind,
        run: run.to_owned(),
        job: job.map(|(name, _)| name.clone()),
        keep: job.and_then(|(_, job)| serde_json::to_value(job.keep).ok()),
        level: policy.compression_of(&address.source).level.into(),
        paranoid,
        writer: if repository.is_encrypted() { writer } else { Keyring::default() },
        encrypted: Some(config.encryption.is_some()),
        pinned_key: config.encryption.as_ref().and_then(|e| e.repository_key.clone()),
        policy: Some(&policy.text),
        dry_run: args.dry_run,
    };
    let permit = || claim.map_or(Ok(()), Claim::check);
    let terms = Terms {
        room: room(config, &definition.spec),
        permit: Some(&permit),
        lock: lock_terms(config, job.map(|(_, job)| job.keep)),
    };
    backup::backup_within(&repository, &request, &terms, cx)
}

/// How long what is made by hand is locked: no rule says when it goes.
const LOCK_BY_HAND: jiff::SignedDuration = jiff::SignedDuration::from_hours(7 * 24);

/// How backups that are kept by this rule are locked in a repository.
pub fn lock_terms(config: &policy::Repository, keep: Option<policy::Keep>) -> Option<LockTerms> {
    let mode = config.object_lock?.mode;
    let period = keep.and_then(|keep| keep.at_least_for()).unwrap_or(LOCK_BY_HAND);
    Some(LockTerms { mode, period })
}

/// A run as one of several daemons claimed it.
struct Claim<'a> {
    app: &'a App,
    set: &'a PolicySet,
    run: &'a str,
    epoch: Epoch,
}

impl<'a> Claim<'a> {
    /// What the daemon says. `None`: it has its state to itself, or there is none.
    fn of(app: &'a App, set: &'a PolicySet, run: &'a str) -> Option<Self> {
        let epoch = std::env::var(EPOCH).ok()?.parse().ok()?;
        Some(Self { app, set, run, epoch })
    }

    /// Whether the run is still this process's, by the state that the daemons share.
    fn check(&self) -> Result<()> {
        if self.app.ledger_of(&self.set.policies)?.holds(self.run, self.epoch)? {
            return Ok(());
        }
        let message = format!("run {} is not this process's any more", self.run);
        Err(Error::new(ErrorKind::Conflict, message).hint("another daemon took it over"))
    }
}

#[derive(Serialize)]
struct GivenUp {
    run: String,
    backups: Vec<Committed>,
}

#[derive(Serialize)]
struct Committed {
    source: String,
    backup: BackupId,
}

fn give_up(
    app: &App,
    set: &PolicySet,
    addresses: &[SourceAddress],
    run: &str,
) -> Result<ExitStatus> {
    let mut found = GivenUp { run: run.to_owned(), backups: Vec::new() };
    for address in addresses {
        let policy = app.policy_of(set, address)?;
        let (name, config) = policy
            .repository_of(&address.source)
            .ok_or_else(|| Error::usage(format!("{address} has no repository")))?;
        let repository = Repository::open(&app.connect(config, false)?)
            .map_err(|error| error.context(format!("failed to open repository `{name}`")))?;
        let (by, now) = (Worker::here(host_name()), app.cx.clock.now());
        let backup = backup::give_up(&repository.source(address), run, &by, now)?;
        let source = address.to_string();
        found.backups.extend(backup.map(|one| Committed { source, backup: one.backup }));
    }
    if app.printer.is_json() {
        app.printer.json(&found)?;
    }
    Ok(ExitStatus::Done)
}

/// Where the backup needs room.
fn room(repository: &policy::Repository, spec: &SourceSpec) -> Room {
    Room {
        directory: repository.local().map(|local| local.path.clone()),
        budget: repository.budget.map(policy::Size::bytes),
        scratch: match spec {
            SourceSpec::PostgresDump(dump) => dump.scratch.clone(),
            SourceSpec::Sqlite(sqlite) => sqlite.scratch.clone(),
            _ => None,
        },
    }
}

fn summary(outcome: &Outcome, dry_run: bool) -> String {
    let counts = &outcome.counts;
    let what = match (outcome.unchanged, dry_run) {
        (true, _) => "nothing changed".to_owned(),
        (false, true) => format!(
            "would store {} in {}",
            format::size(counts.new_bytes),
            format::count(counts.new_files, "new or changed file")
        ),
        (false, false) => format!(
            "{} new in {}, {} stored",
            format::size(counts.new_bytes),
            format::count(counts.new_files, "file"),
            format::size(counts.stored_bytes)
        ),
    };
    let mut text = format!(
        "{}: {} of {} in {}; {what}; {}",
        outcome.source,
        outcome.kind,
        format::size(counts.bytes),
        format::count(counts.files + counts.hardlinks + counts.symlinks + counts.devices, "entry"),
        format::seconds(outcome.seconds)
    );
    let odd = [
        (counts.changed, "changed while read"),
        (counts.vanished, "vanished"),
        (counts.skipped, "left out"),
    ];
    for (number, what) in odd.into_iter().filter(|(number, _)| *number > 0) {
        text.push_str(&format!("; {number} {what}"));
    }
    text
}
