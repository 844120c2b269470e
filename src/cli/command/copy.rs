//! `backstay copy`

use serde::Serialize;

use super::init;
use crate::archive::manifest::Manifest;
use crate::cli::ExitStatus;
use crate::cli::format::{self, Align, count, table};
use crate::cli::names::Names;
use crate::cli::setup::{App, Opened};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{self, SourceAddress};
use crate::policy::{Policy, PolicySet};
use crate::run::copy::{self as runner, Outcome, Plan, Request};
use crate::run::retention_rule;
use crate::store::{InitOptions, Repository, Store};

/// Copy backups into another repository, unchanged.
///
/// Backups that the other repository lacks and would keep are sent, oldest first; what it lost
/// since is sent again. Then the WAL follows that recovery from them may need. Nothing is decrypted: no identity is needed, and the copy has the same
/// ids, keys and digests. A target that holds no repository yet is probed and made one.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Sources: STACK/SOURCE, a SOURCE, or a STACK. Default: all.
    #[arg(value_name = "SOURCE")]
    sources: Vec<String>,

    /// Where to: the name of a repository in the policy, or a URL. --repository says where from.
    #[arg(long, value_name = "REPOSITORY")]
    to: String,

    /// Say what would be copied, and copy nothing.
    #[arg(long)]
    dry_run: bool,

    /// Trust the target to keep what it took: do not read it back.
    #[arg(long)]
    no_read_back: bool,
}

#[derive(Serialize)]
struct Report {
    dry_run: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    plans: Vec<Plan>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    copies: Vec<Outcome>,
}

/// A way from one repository to another.
struct Way<'a> {
    from: Opened,
    to: Repository,
    to_name: String,
    policy: Option<&'a Policy>,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let set = match app.repository_url() {
        Some(_) => None,
        None => Some(app.policies_about(&args.sources)?),
    };
    let ways = ways(app, args, set.as_ref())?;
    let mut names = Names::new(app, &args.sources);
    ways.iter().try_for_each(|way| names.add(&way.from.repository))?;
    names.check()?;
    let mut report = Report { dry_run: args.dry_run, plans: Vec::new(), copies: Vec::new() };
    let (mut sources, mut not_copied) = (0u64, 0);
    for way in &ways {
        for address in way.from.repository.sources()? {
            let own = way.policy.is_none_or(|policy| policy.stack == address.stack);
            if !own || !address.is_named_by(&args.sources) || !is_from_here(way, &address) {
                continue;
            }
            sources += 1;
            not_copied += one(app, args, way, &address, &mut report)?;
        }
    }
    if sources == 0 {
        return Err(Error::not_found("there is nothing to copy")
            .hint("`backstay list` shows what there is"));
    }
    if app.printer.is_json() {
        app.printer.json(&report)?;
    }
    if not_copied > 0 {
        return Err(Error::failed(format!("{} not copied", count(not_copied, "backup"))));
    }
    Ok(ExitStatus::Done)
}

/// Whether backups of the source are made in this repository, and not just copied there.
fn is_from_here(way: &Way<'_>, address: &SourceAddress) -> bool {
    let Some(policy) = way.policy else { return true };
    let home = policy.repository_of(&address.source).or_else(|| policy.default_repository());
    home.is_none_or(|(home, _)| home == way.from.name)
}

fn one(
    app: &App,
    args: &Args,
    way: &Way<'_>,
    address: &SourceAddress,
    report: &mut Report,
) -> Result<u64> {
    let rule = |manifest: &Manifest| retention_rule(way.policy, &way.to_name, manifest);
    let request = Request {
        address: address.clone(),
        rule: &rule,
        zone: way.policy.map_or(jiff::tz::TimeZone::UTC, Policy::time_zone),
        wal_keep: way.policy.and_then(|policy| policy.wal_keep(&address.source)),
        read_back: !args.no_read_back,
        lock: way.policy.and_then(|policy| {
            let config = policy.repositories.get(&way.to_name)?;
            super::backup::lock_terms(config, policy.keep_of(&way.to_name, &address.source, None))
        }),
    };
    if args.dry_run {
        let (from, to) = (way.from.repository.source(address), way.to.source(address));
        let plan = runner::plan(&from, &to, &request, app.cx.clock.now())?;
        tell(app, way, &plan)?;
        report.plans.push(plan);
        return Ok(0);
    }
    let cx = app.cx.fresh();
    let copy = || {
        let work = || runner::copy(&way.from.repository, &way.to, &request, &cx);
        app.display.during(&cx.reporter, work)
    };
    let outcome = match way.policy {
        Some(policy) => app.while_active(policy, copy)?,
        None => copy()?,
    };
    app.printer.talk(summary(way, &outcome));
    let failed = outcome.failed.len() as u64;
    report.copies.push(outcome);
    Ok(failed)
}

/// Repositories to copy from, each with the one to copy to.
fn ways<'a>(app: &App, args: &Args, set: Option<&'a PolicySet>) -> Result<Vec<Way<'a>>> {
    let mut ways = Vec::new();
    let Some(set) = set else {
        let from = app.repositories()?.pop().ok_or_else(|| Error::usage("no repository"))?;
        let store = app.connect_url(&args.to, !args.dry_run)?;
        let to = target(app, args, &from.repository, &store)?;
        return Ok(vec![Way { from, to, to_name: args.to.clone(), policy: None }]);
    };
    let by_name = id::is_name(&args.to);
    let mut known = Vec::new();
    for policy in &set.policies {
        known.extend(policy.repositories.keys().map(String::as_str));
        let config = policy.repositories.get(&args.to);
        if by_name && config.is_none() {
            continue;
        }
        for name in policy.repositories.keys() {
            let is_home = policy
                .sources
                .keys()
                .any(|source| policy.repository_of(source).is_some_and(|(home, _)| home == name));
            let meant = app.global.repository.as_ref().is_none_or(|wanted| wanted == name);
            if *name == args.to || !meant || !(is_home || app.global.repository.is_some()) {
                continue;
            }
            let from = app.open(policy, name)?;
            let store = match config {
                Some(config) => app.connect(config, !args.dry_run)?,
                None => app.connect_url(&args.to, !args.dry_run)?,
            };
            let to = target(app, args, &from.repository, &store)?;
            ways.push(Way { from, to, to_name: args.to.clone(), policy: Some(policy) });
        }
    }
    if ways.is_empty() && by_name && !known.contains(&args.to.as_str()) {
        return Err(Error::usage(format!("there is no repository `{}` in the policies", args.to))
            .hint(crate::policy::hint_at(&args.to, known))
            .hint("a directory is written with a slash: ./copy"));
    }
    if ways.is_empty() {
        return Err(Error::usage("there is nothing to copy from")
            .hint("--repository says where from, --to where to"));
    }
    Ok(ways)
}

/// Opens the target; makes it a repository if it is none.
fn target(app: &App, args: &Args, from: &Repository, store: &Store) -> Result<Repository> {
    let to = match Repository::open(store) {
        Err(error) if error.kind() == ErrorKind::NotFound && !args.dry_run => {
            let options = InitOptions { copies_of: Some(from.clone()), ..InitOptions::default() };
            init::create_with(app, (false, false), &args.to, store, options)?;
            Repository::open(store)?
        }
        opened => opened?,
    };
    let fits = if args.dry_run { runner::check_fit } else { runner::prepare };
    fits(from, &to).map(|()| to)
}

fn tell(app: &App, way: &Way<'_>, plan: &Plan) -> Result<()> {
    if app.printer.is_json() {
        return Ok(());
    }
    app.printer.data(format!("{} from {} to {}", plan.source, way.from.name, way.to_name))?;
    let head = [("BACKUP", Align::Left), ("", Align::Left)];
    let copies = plan.copies.iter().map(|copy| {
        let what = if copy.mends { "is mended" } else { "is copied" };
        let objects = count(copy.objects, "object");
        (copy.backup.clone(), format!("{what}: {objects}, {}", format::size(copy.bytes)))
    });
    let left_out =
        plan.left_out.iter().map(|(backup, why)| (backup.clone(), format!("is not copied: {why}")));
    let mut rows: Vec<_> = copies.chain(left_out).collect();
    rows.sort();
    let rows: Vec<Vec<String>> =
        rows.into_iter().map(|(backup, what)| vec![backup.to_string(), what]).collect();
    if !rows.is_empty() {
        for line in table(&head, &rows) {
            app.printer.data(format!("  {line}"))?;
        }
    }
    if plan.wal.files > 0 {
        let files = count(plan.wal.files, "file");
        app.printer.data(format!("  WAL: {files}, {}", format::size(plan.wal.bytes)))?;
    }
    app.printer.data(format!("  {} there already", count(plan.present as u64, "backup")))
}

fn summary(way: &Way<'_>, outcome: &Outcome) -> String {
    let objects: u64 = outcome.copied.iter().map(|copied| copied.objects).sum();
    let bytes: u64 = outcome.copied.iter().map(|copied| copied.bytes).sum();
    let wal = match outcome.wal.files {
        0 => String::new(),
        files => {
            format!("; {} of WAL, {}", count(files, "file"), format::size(outcome.wal.bytes))
        }
    };
    format!(
        "{}: {} copied to {}, {} in {}{wal}; {} there already; {}",
        outcome.source,
        count(outcome.copied.len() as u64, "backup"),
        way.to_name,
        format::size(bytes),
        count(objects, "object"),
        outcome.present,
        format::seconds(outcome.seconds)
    )
}
