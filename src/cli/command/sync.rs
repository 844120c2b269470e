//! `backstay sync`

use jiff::Timestamp;
use serde::Serialize;

use crate::cli::setup::App;
use crate::cli::{ExitStatus, confirm, format};
use crate::error::{Error, ErrorKind, Result};
use crate::id::SourceAddress;
use crate::policy::{self, Policy, PolicySet, Sync, Work};
use crate::run::role::check_passive;
use crate::run::sync::{self as runner, Outcome, Request};
use crate::source::starrocks::restore::Change;

/// Bring standbys to the newest backup.
///
/// What jobs with `sync:` say: databases of StarRocks are restored beside what the standby has, compared,
/// and put in its place. What no sync put there is never replaced unless --replace says so.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Jobs: STACK/JOB, or a JOB. Default: all that sync.
    #[arg(value_name = "JOB")]
    jobs: Vec<String>,

    /// Put the backup also in the place of what somebody else wrote to the standby, which is kept
    /// under another name.
    #[arg(long)]
    replace: bool,

    /// Answer the question that --replace asks.
    #[arg(long)]
    yes: bool,

    /// Say what would be done and how old what the standby has is, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Report {
    dry_run: bool,
    syncs: Vec<Outcome>,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let set = app.policies_to_read()?;
    let jobs = jobs(&set, &args.jobs)?;
    if args.replace && !args.dry_run {
        for (policy, name, sync) in &jobs {
            let what = format!(
                "databases at the standby {} are replaced by those of {}/{}",
                sync.to.frontends.join(", "),
                policy.stack,
                sync.source
            );
            confirm::type_name(app, &what, name, args.yes)?;
        }
    }
    let mut report = Report { dry_run: args.dry_run, syncs: Vec::new() };
    let (mut late, mut first_error) = (None, None);
    let alone = jobs.len() == 1;
    for (policy, name, sync) in jobs {
        match one(app, args, policy, name, sync) {
            Ok(outcome) => {
                tell(app, &outcome);
                late = late.or_else(|| lateness(sync, &outcome));
                report.syncs.push(outcome);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                if !alone {
                    app.printer.error(&error);
                }
                first_error.get_or_insert(error);
            }
        }
    }
    if app.printer.is_json() {
        app.printer.json(&report)?;
    }
    match first_error.or(late) {
        Some(error) => Err(error),
        None => Ok(ExitStatus::Done),
    }
}

/// Jobs by their names, each with its policy.
fn jobs<'a>(set: &'a PolicySet, given: &[String]) -> Result<Vec<(&'a Policy, &'a str, &'a Sync)>> {
    let all: Vec<(&Policy, &str, &Sync)> = set
        .policies
        .iter()
        .flat_map(|policy| policy.jobs.iter().map(move |(name, job)| (policy, name, job)))
        .filter_map(|(policy, name, job)| match &job.work {
            Work::Sync(sync) => Some((policy, name.as_str(), &**sync)),
            _ => None,
        })
        .collect();
    if all.is_empty() {
        return Err(Error::usage("no job of the policies syncs a standby")
            .hint("a job with `sync: { source: NAME, to: { frontends: [..], user: .. } }` does"));
    }
    if given.is_empty() {
        return Ok(all);
    }
    let mut jobs = Vec::new();
    for text in given {
        let named = |(policy, name, _): &&(&Policy, &str, &Sync)| match text.split_once('/') {
            Some((stack, job)) => policy.stack == stack && *name == job,
            None => name == text,
        };
        let mut found = all.iter().filter(named);
        let Some(first) = found.next() else {
            let names = all.iter().map(|(_, name, _)| *name);
            let bare = text.rsplit('/').next().unwrap_or(text);
            return Err(Error::usage(format!("no job `{text}` syncs a standby"))
                .hint(policy::hint_at(bare, names)));
        };
        if found.next().is_some() {
            return Err(Error::usage(format!("several stacks have a job `{text}`"))
                .hint(format!("say which: {}/{text} …", first.0.stack)));
        }
        jobs.push(*first);
    }
    Ok(jobs)
}

fn one(app: &App, args: &Args, policy: &Policy, job: &str, sync: &Sync) -> Result<Outcome> {
    let address = SourceAddress::new(&policy.stack, &sync.source);
    let own = policy.repository_of(&sync.source).map(|(name, _)| name.to_owned());
    let name = sync
        .repository
        .clone()
        .or(own)
        .ok_or_else(|| Error::usage(format!("{address} has no repository")))?;
    if let Some(site) = &sync.site {
        let open = |name: &str| {
            let config = policy.repositories.get(name).ok_or_else(|| {
                Error::usage(format!("stack {} has no repository `{name}`", policy.stack))
            })?;
            app.connect(config, false)
        };
        check_passive(policy, site, open)?;
    }
    let opened = app.open(policy, &name)?;
    let request = Request {
        repository: &opened.repository,
        keys: &opened.keys,
        address: &address,
        job,
        standby: &sync.to,
        replace: args.replace,
        dry_run: args.dry_run,
    };
    let cx = app.cx.fresh();
    app.display.during(&cx.reporter, || runner::sync(&request, &cx))
}

/// Whether what the standby has is older than it may be.
fn lateness(sync: &Sync, outcome: &Outcome) -> Option<Error> {
    let (allowed, lag) = (sync.max_lag?, outcome.lag_seconds?);
    let late = u64::try_from(lag).unwrap_or(0) > allowed.as_secs();
    late.then(|| {
        Error::new(
            ErrorKind::Objective,
            format!(
                "the standby of {} is {} behind, and {allowed} are allowed",
                outcome.source,
                behind(lag)
            ),
        )
        .hint("back up more often, or have the sync come right `after` the backup")
    })
}

fn behind(lag: i64) -> String {
    format::span(u64::try_from(lag).unwrap_or(0))
}

fn tell(app: &App, outcome: &Outcome) {
    let as_of = |point: Timestamp| format::time(point);
    let state = match (outcome.point, outcome.lag_seconds) {
        (Some(point), Some(lag)) => format!("as of {}, {} ago", as_of(point), behind(lag)),
        _ => "never synced".to_owned(),
    };
    let printer = &app.printer;
    if outcome.dry_run {
        printer.talk(format!("the standby of {} is {state}", outcome.source));
    }
    for one in &outcome.databases {
        let name = &one.database;
        let text = match (one.change, outcome.dry_run) {
            (Change::Unchanged, _) => format!("`{name}` has not changed"),
            (Change::New, true) => format!("would make `{name}`"),
            (Change::Renewed, true) => format!("would bring `{name}` to {}", outcome.backup),
            (Change::Replaced, true) => {
                format!(
                    "would put `{name}` in the place of what somebody else wrote there, which is kept"
                )
            }
            (_, false) => format!(
                "`{name}` has {}{}",
                format::count(one.rows.unwrap_or_default(), "row"),
                one.aside
                    .as_ref()
                    .map(|kept| format!("; what was there is `{kept}`"))
                    .unwrap_or_default()
            ),
        };
        printer.talk(format!("  {text}"));
    }
    for refused in &outcome.refused {
        printer.warning(&format!("the standby refused {refused}"));
    }
    if outcome.dry_run {
        return;
    }
    let restored = outcome.restored().count() as u64;
    printer.talk(format!(
        "the standby of {} has {}: {} restored in {}; {state}",
        outcome.source,
        outcome.backup,
        format::count(restored, "database"),
        format::seconds(outcome.seconds)
    ));
}
