//! `backstay prune`

use serde::Serialize;

use crate::archive::manifest::Manifest;
use crate::cli::ExitStatus;
use crate::cli::command::playbook;
use crate::cli::format::{self, Align, table};
use crate::cli::names::Names;
use crate::cli::setup::{App, Opened};
use crate::cli::{confirm, format::count};
use crate::error::{Error, ErrorKind, Result};
use crate::id::SourceAddress;
use crate::policy::{Policy, PolicySet};
use crate::run::prune::{
    self as runner, Expiry, Fate, Outcome, Plan, Request, Tally, TimelineFate, Times,
};
use crate::run::retention_rule;

/// Let backups expire by their keep rules, and remove what nobody needs any more.
///
/// Removal has two phases: what nobody needs is announced first, and deleted by a prune that runs
/// after the grace period (24 hours, or the repository's `prune: { grace: … }`). The newest backup
/// that can be restored never goes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Sources: STACK/SOURCE, a SOURCE, or a STACK. Default: all.
    #[arg(value_name = "SOURCE")]
    sources: Vec<String>,

    /// Say what would go and stay, and why; with --verbose for every object. Nothing is written.
    #[arg(long)]
    dry_run: bool,

    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

#[derive(Serialize)]
struct Report {
    dry_run: bool,
    plans: Vec<InRepository<Plan>>,
    done: Vec<InRepository<Outcome>>,
    failed: Vec<Failure>,
    /// Stacks of which nothing goes, because a playbook is being carried out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    paused: Vec<Paused>,
}

#[derive(Serialize)]
struct Paused {
    stack: String,
    run: String,
}

#[derive(Serialize)]
struct InRepository<T> {
    repository: String,
    #[serde(flatten)]
    inner: T,
}

#[derive(Serialize)]
struct Failure {
    repository: String,
    source: String,
    message: String,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let (set, opened) = open(app, args)?;
    let targets = targets(app, &opened, args)?;
    let mut report = Report {
        dry_run: args.dry_run,
        plans: Vec::new(),
        done: Vec::new(),
        failed: Vec::new(),
        paused: Vec::new(),
    };
    let mut errors = Vec::new();
    for (repository, address) in &targets {
        let planned = with_request(app, set.as_ref(), repository, address, |request| {
            runner::plan(&repository.repository, request, &app.cx.fresh())
        });
        match planned {
            Ok(plan) => {
                tell_plan(app, repository, &plan)?;
                report
                    .plans
                    .push(InRepository { repository: repository.name.clone(), inner: plan });
            }
            Err(error) => errors.push(failed(app, &mut report, repository, address, error)),
        }
    }
    if !args.dry_run {
        set.iter()
            .flat_map(|set| &set.policies)
            .try_for_each(|policy| app.check_active(policy).map(drop))?;
        ask(app, &report, args.yes)?;
        // After the question: what was begun meanwhile counts.
        pause(app, set.as_ref(), &mut report);
        for (repository, address) in &targets {
            if report.paused.iter().any(|paused| paused.stack == address.stack) {
                continue;
            }
            if report.failed.iter().any(|failed| failed.source == address.to_string()) {
                continue;
            }
            let cx = app.cx.fresh();
            let prune = || {
                with_request(app, set.as_ref(), repository, address, |request| {
                    let work = || runner::prune(&repository.repository, request, &cx);
                    app.display.during(&cx.reporter, work)
                })
            };
            let policy = set.as_ref().map(|set| app.policy_of(set, address)).transpose();
            let done = policy.and_then(|policy| match policy {
                Some(policy) => app.while_active(policy, prune),
                None => prune(),
            });
            match done {
                Ok(outcome) => {
                    app.printer.talk(summary(&outcome));
                    let name = repository.name.clone();
                    report.done.push(InRepository { repository: name, inner: outcome });
                }
                Err(error) => errors.push(failed(app, &mut report, repository, address, error)),
            }
        }
    }
    if app.printer.is_json() {
        app.printer.json(&report)?;
    }
    finish(&report, errors, targets.len())
}

/// Nothing goes of a stack while a playbook of it is carried out: it may be what is restored, or what is
/// fallen back on.
fn pause(app: &App, set: Option<&PolicySet>, report: &mut Report) {
    for policy in set.iter().flat_map(|set| &set.policies) {
        let Some(run) = playbook::open_run(app, policy) else { continue };
        app.printer.warning(&format!(
            "nothing goes of {}: run {run} of a playbook is not over",
            policy.stack
        ));
        app.printer.hint(&format!(
            "`backstay playbook show {run}` tells where it stands; `abort --leave` ends it as it is"
        ));
        report.paused.push(Paused { stack: policy.stack.clone(), run });
    }
}

fn finish(report: &Report, mut errors: Vec<Error>, sources: usize) -> Result<ExitStatus> {
    if sources == 1
        && let Some(error) = errors.pop()
    {
        return Err(error);
    }
    if let Some(error) = errors.first() {
        // Who looks at the exit code alone should see a lease, not a failure.
        let busy = errors.iter().all(|error| error.kind() == ErrorKind::Busy);
        let kind = if busy { ErrorKind::Busy } else { ErrorKind::Failed };
        let kind = if error.kind() == ErrorKind::Interrupted { error.kind() } else { kind };
        return Err(Error::new(
            kind,
            format!("{} of {sources} sources were not pruned", errors.len()),
        ));
    }
    let is_damage = |plan: &Plan| plan.blocked.as_ref().is_some_and(|blocked| blocked.damage);
    let blocked = report.plans.iter().filter(|plan| is_damage(&plan.inner)).count();
    if blocked > 0 {
        return Err(Error::damaged(format!(
            "nothing may go from {}",
            count(blocked as u64, "source")
        ))
        .hint(
            "`backstay verify` says what is damaged; `verify --repair-from` mends it from a copy",
        ));
    }
    Ok(ExitStatus::Done)
}

fn failed(
    app: &App,
    report: &mut Report,
    repository: &Opened,
    address: &SourceAddress,
    error: Error,
) -> Error {
    let error = error.context(format!("failed to prune {address} in {}", repository.name));
    if !app.printer.is_json() {
        app.printer.error(&error);
    }
    report.failed.push(Failure {
        repository: repository.name.clone(),
        source: address.to_string(),
        message: error.chain(),
    });
    error
}

/// Repositories with the credentials that may delete.
fn open(app: &App, args: &Args) -> Result<(Option<PolicySet>, Vec<Opened>)> {
    if app.repository_url().is_some() {
        return Ok((None, app.repositories()?));
    }
    Ok((Some(app.policies_about(&args.sources)?), app.repositories_for_pruning()?))
}

fn targets<'a>(
    app: &App,
    opened: &'a [Opened],
    args: &Args,
) -> Result<Vec<(&'a Opened, SourceAddress)>> {
    let mut names = Names::new(app, &args.sources);
    opened.iter().try_for_each(|opened| names.add(&opened.repository))?;
    names.check()?;
    let mut targets = Vec::new();
    for repository in opened {
        for address in repository.repository.sources()? {
            let own = repository.stack.as_ref().is_none_or(|stack| *stack == address.stack);
            if own && address.is_named_by(&args.sources) {
                targets.push((repository, address));
            }
        }
    }
    if targets.is_empty() && !args.sources.is_empty() {
        return Err(Error::not_found("no such source has anything in these repositories")
            .hint("`backstay list` shows what there is"));
    }
    Ok(targets)
}

/// Calls `work` with what is asked for a source.
pub fn with_request<T>(
    app: &App,
    set: Option<&PolicySet>,
    opened: &Opened,
    address: &SourceAddress,
    work: impl FnOnce(&Request<'_>) -> Result<T>,
) -> Result<T> {
    request_with(app, set, opened, address, Expiry::ByRule, work)
}

/// Calls `work` with what is asked for a source.
pub fn request_with<T>(
    app: &App,
    set: Option<&PolicySet>,
    opened: &Opened,
    address: &SourceAddress,
    expiry: Expiry,
    work: impl FnOnce(&Request<'_>) -> Result<T>,
) -> Result<T> {
    let policy: Option<&Policy> =
        set.and_then(|set| set.policies.iter().find(|policy| policy.stack == address.stack));
    let grace = policy
        .and_then(|policy| policy.repositories.get(&opened.name)?.prune.grace)
        .and_then(|grace| jiff::SignedDuration::try_from(grace.get()).ok());
    let zone = policy.map_or(jiff::tz::TimeZone::UTC, Policy::time_zone);
    let wal_keep = policy.and_then(|policy| policy.wal_keep(&address.source));
    let times = app.cx.tuning.prune;
    let rule = |manifest: &Manifest| retention_rule(policy, &opened.name, manifest);
    work(&Request {
        address: address.clone(),
        expiry,
        rule: &rule,
        zone,
        wal_keep,
        times: Times { grace: grace.unwrap_or(times.grace), ..times },
    })
}

/// Shows a plan.
pub fn tell_plan(app: &App, repository: &Opened, plan: &Plan) -> Result<()> {
    if app.printer.is_json() {
        return Ok(());
    }
    app.printer.data(format!("{} in {}", plan.source, repository.name))?;
    let head = [("BACKUP", Align::Left), ("JOB", Align::Left), ("", Align::Left)];
    let rows: Vec<Vec<String>> = plan
        .backups
        .iter()
        .map(|backup| {
            let mut what = if backup.expires {
                "expires".to_owned()
            } else {
                format!("stays: {}", backup.stays_because.join(", "))
            };
            if backup.lost_objects > 0 {
                let lost = count(backup.lost_objects, "object");
                what.push_str(&format!(" (DAMAGED: {lost} missing or of another size)"));
            }
            let job = backup.job.clone().unwrap_or_else(|| "by hand".to_owned());
            vec![backup.backup.to_string(), job, what]
        })
        .chain(plan.given_up.iter().map(|backup| {
            let what = "given up: its writer gave no sign of life for too long";
            vec![backup.to_string(), String::new(), what.to_owned()]
        }))
        .collect();
    for line in table(&head, &rows) {
        app.printer.data(format!("  {line}"))?;
    }
    if app.printer.is_verbose() {
        for object in &plan.objects {
            let size = format::size(object.size);
            app.printer.data(format!("  {:<70} {size:>9}  {}", object.path, why(&object.fate)))?;
        }
    }
    for timeline in &plan.wal {
        app.printer.data(format!("  {}", tell_wal(timeline)))?;
    }
    app.printer.data(format!("  {}", sums(plan)))?;
    if let Some(blocked) = &plan.blocked {
        let when = if blocked.damage { "" } else { " now" };
        app.printer.data(format!("  nothing may go{when}: {blocked}"))?;
    }
    Ok(())
}

fn tell_wal(wal: &TimelineFate) -> String {
    let files =
        |tally: &Tally| format!("{} ({})", count(tally.objects, "file"), format::size(tally.bytes));
    let mut text = format!("WAL of cluster {}, timeline {}: ", wal.system_id, wal.timeline);
    if wal.goes.objects > 0 {
        text.push_str(&format!("{} go", files(&wal.goes)));
        if let Some(last) = &wal.last {
            text.push_str(&format!(", up to {last}"));
        }
        text.push_str("; ");
    }
    text.push_str(&format!("{} stay", files(&wal.stays)));
    if let Some(first) = &wal.first {
        text.push_str(&format!(", from {first} on"));
    }
    if wal.why.is_empty() { text } else { format!("{text}: {}", wal.why) }
}

fn why(fate: &Fate) -> String {
    match fate {
        Fate::Needed { backups, newest } => {
            format!("stays: {} need it, the newest is {newest}", count(*backups as u64, "backup"))
        }
        Fate::Recovery => "stays: recovery to a point in time may need it".to_owned(),
        Fate::Claimed => "stays: somebody writes or reads it".to_owned(),
        Fate::Mark => "nobody needs it: goes after the grace period".to_owned(),
        Fate::Waits { until } => format!("goes after {}", format::time(*until)),
        Fate::Delete => "goes now".to_owned(),
    }
}

fn sums(plan: &Plan) -> String {
    let deleted: Vec<&Tally> = plan.deletions.iter().map(|deletion| &deletion.objects).collect();
    let deleted = Tally {
        objects: deleted.iter().map(|tally| tally.objects).sum(),
        bytes: deleted.iter().map(|tally| tally.bytes).sum(),
    };
    let mut parts = vec![format!("objects: {} in all", plan.objects.len())];
    for (tally, what) in [
        (&deleted, "go now"),
        (&plan.marking, "are announced"),
        (&plan.waiting, "wait for the end of their grace period"),
    ] {
        if tally.objects > 0 {
            parts.push(format!("{} ({}) {what}", tally.objects, format::size(tally.bytes)));
        }
    }
    if parts.len() == 1 {
        parts.push("all stay".to_owned());
    }
    parts.join("; ")
}

fn ask(app: &App, report: &Report, yes: bool) -> Result<()> {
    let plans = || report.plans.iter().map(|plan| &plan.inner);
    let expiring: usize =
        plans().map(|plan| plan.backups.iter().filter(|backup| backup.expires).count()).sum();
    let deleted: u64 =
        plans().flat_map(|plan| &plan.deletions).map(|deletion| deletion.objects.objects).sum();
    if expiring == 0 && deleted == 0 {
        return Ok(());
    }
    let what = format!(
        "{} expire and {} are deleted for good",
        count(expiring as u64, "backup"),
        count(deleted, "object")
    );
    confirm::type_name(app, &what, "prune", yes)
}

/// One line about what was done.
pub fn summary(outcome: &Outcome) -> String {
    let mut parts = vec![format!(
        "{}: {} expired, {} stay",
        outcome.source,
        count(outcome.expired.len() as u64, "backup"),
        outcome.kept
    )];
    if !outcome.given_up.is_empty() {
        parts.push(format!("{} given up", count(outcome.given_up.len() as u64, "unfinished one")));
    }
    if !outcome.locked.is_empty() {
        parts.push(format!("{} kept by object lock", count(outcome.locked.len() as u64, "backup")));
    }
    for (tally, what) in [
        (&outcome.deleted, "deleted"),
        (&outcome.retained, "kept by object lock"),
        (&outcome.waiting, "announced"),
    ] {
        if tally.objects > 0 {
            let objects = count(tally.objects, "object");
            parts.push(format!("{objects} ({}) {what}", format::size(tally.bytes)));
        }
    }
    let mut text = parts.join("; ");
    if let Some(at) = outcome.next_deletion {
        text.push_str(&format!(", to be deleted after {}", format::time(at)));
    }
    text
}
