//! `backstay trigger`

use crate::cli::ExitStatus;
use crate::cli::remote::RemoteArgs;
use crate::cli::setup::App;
use crate::daemon::trigger::{Wish, wished};
use crate::error::Result;
use crate::policy::Overlap;
use crate::run::{HOST_LABEL, host_name};
use crate::state::{NewRun, RunRow, RunState};

/// Have the daemon do a job now.
///
/// Its runs begin when there is room for them, with the job's hooks, retries and retention; its
/// schedule stays as it is. `backstay runs` shows what becomes of them. Without a daemon they wait
/// for one.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job: JOB, or STACK/JOB where several stacks have one of the name.
    #[arg(value_name = "JOB")]
    job: String,

    /// Only these of its sources.
    #[arg(value_name = "SOURCE")]
    sources: Vec<String>,

    /// Show what would be begun, and begin nothing.
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    remote: RemoteArgs,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let (stack, job) = match args.job.split_once('/') {
        Some((stack, job)) => (Some(stack.to_owned()), job.to_owned()),
        None => (None, args.job.clone()),
    };
    let wish = Wish { stack, job, sources: args.sources.clone() };
    let remote = args.remote.open(app)?;
    if let (Some(remote), false) = (&remote, args.dry_run) {
        return begun(app, &remote.trigger(&wish)?);
    }
    if remote.is_some() {
        return Err(crate::error::Error::usage(
            "a daemon elsewhere cannot be asked what it would do",
        )
        .hint("leave --dry-run away, or --remote"));
    }
    let policies = app.policies(false)?.policies;
    let ledger = app.ledger_of(&policies)?;
    let now = app.cx.clock.now();
    let label = std::env::var(HOST_LABEL).ok().filter(|label| !label.is_empty());
    let host = label.unwrap_or_else(host_name);
    let host = (!ledger.is_shared()).then_some(host.as_str());
    let runs = wished(&policies, &wish, host, now)?;
    if args.dry_run {
        for run in &runs {
            app.printer.data(format!("{} {}", run.slot.job, place(&run.slot)))?;
        }
        app.printer.talk("nothing was begun");
        return Ok(ExitStatus::Done);
    }
    ledger.add_runs(&runs)?;
    let rows: Result<Vec<Option<RunRow>>> = runs.iter().map(|run| ledger.run(&run.id)).collect();
    let status = begun(app, &rows?.into_iter().flatten().collect::<Vec<_>>())?;
    for run in &runs {
        let policy = policies.iter().find(|policy| policy.stack == run.slot.stack);
        let job = policy.and_then(|policy| policy.jobs.get(&run.slot.job));
        let overlap = job.map_or_else(Overlap::default, |job| job.execution.overlap);
        tell_overlap(app, &ledger.open_runs()?, run, overlap);
    }
    Ok(status)
}

/// Says what becomes of a run of which another one goes on.
fn tell_overlap(app: &App, open: &[RunRow], run: &NewRun, overlap: Overlap) {
    let same = |row: &&RunRow| {
        let (one, other) = (&row.slot, &run.slot);
        row.state == RunState::Running
            && (&one.stack, &one.job, &one.source) == (&other.stack, &other.job, &other.source)
    };
    let Some(row) = open.iter().find(same) else { return };
    let becomes = match overlap {
        Overlap::Skip => "this one is skipped unless that ends first",
        Overlap::Wait => "this one begins when that is over",
        Overlap::Replace => "it is ended, and this one takes its place",
    };
    let (job, place) = (&run.slot.job, place(&run.slot));
    app.printer.warning(&format!("{job} {place} goes on already, run {}: {becomes}", row.id));
}

fn begun(app: &App, rows: &[RunRow]) -> Result<ExitStatus> {
    if app.printer.is_json() {
        app.printer.json(&rows)?;
        return Ok(ExitStatus::Done);
    }
    for row in rows {
        app.printer.data(format!("{}  {} {}", row.id, row.slot.job, place(&row.slot)))?;
    }
    app.printer.talk("they begin when there is room: `backstay runs` shows them");
    Ok(ExitStatus::Done)
}

fn place(slot: &crate::state::Slot) -> String {
    if slot.source.is_empty() {
        slot.stack.clone()
    } else {
        format!("{}/{}", slot.stack, slot.source)
    }
}
