//! `backstay trigger`

use crate::cli::ExitStatus;
use crate::cli::remote::RemoteArgs;
use crate::cli::setup::App;
use crate::daemon::trigger::{Wish, wished};
use crate::error::Result;
use crate::id;
use crate::run::{HOST_LABEL, host_name};
use crate::state::RunRow;

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
    let runs = wished(&policies, &wish, host, now, &mut || id::run_id(now))?;
    if args.dry_run {
        for run in &runs {
            app.printer.data(format!("{} {}", run.slot.job, place(&run.slot)))?;
        }
        app.printer.talk("nothing was begun");
        return Ok(ExitStatus::Done);
    }
    ledger.add_runs(&runs)?;
    let rows: Result<Vec<Option<RunRow>>> = runs.iter().map(|run| ledger.run(&run.id)).collect();
    begun(app, &rows?.into_iter().flatten().collect::<Vec<_>>())
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
