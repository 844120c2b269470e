//! `backstay runs`

use std::num::NonZeroUsize;

use jiff::Timestamp;

use crate::cli::ExitStatus;
use crate::cli::format::{self, Align, table};
use crate::cli::remote::RemoteArgs;
use crate::cli::setup::App;
use crate::error::Result;
use crate::state::{RunFilter, RunRow, RunState};

/// List what the daemon did, does and will do next.
///
/// Every time that a job was due is a line, also those that were skipped or missed. The newest last.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only of this stack.
    #[arg(long, value_name = "STACK")]
    stack: Option<String>,

    /// Only of this source.
    #[arg(long, value_name = "SOURCE")]
    source: Option<String>,

    /// Only of this job.
    #[arg(long, value_name = "JOB")]
    job: Option<String>,

    /// Only in this state. May be given several times.
    #[arg(long, value_enum, value_name = "STATE")]
    state: Vec<StateArg>,

    /// At most so many.
    #[arg(long, value_name = "NUMBER", default_value = "50")]
    limit: NonZeroUsize,

    #[command(flatten)]
    remote: RemoteArgs,
}

/// States, as the command line spells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum StateArg {
    /// To be done.
    Waiting,
    /// Being done.
    Running,
    /// Done.
    Succeeded,
    /// Tried as often as it may be.
    Failed,
    /// Not done on purpose.
    Skipped,
    /// Due, and nobody could do it in time.
    Missed,
    /// Whoever did it is gone.
    Abandoned,
}

impl From<StateArg> for RunState {
    fn from(state: StateArg) -> Self {
        match state {
            StateArg::Waiting => Self::Waiting,
            StateArg::Running => Self::Running,
            StateArg::Succeeded => Self::Succeeded,
            StateArg::Failed => Self::Failed,
            StateArg::Skipped => Self::Skipped,
            StateArg::Missed => Self::Missed,
            StateArg::Abandoned => Self::Abandoned,
        }
    }
}

const HEAD: [(&str, Align); 6] = [
    ("DUE", Align::Left),
    ("RUN", Align::Left),
    ("JOB", Align::Left),
    ("SOURCE", Align::Left),
    ("STATE", Align::Left),
    ("WHAT", Align::Left),
];

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let filter = RunFilter {
        stack: args.stack.clone(),
        source: args.source.clone(),
        job: args.job.clone(),
        states: args.state.iter().copied().map(RunState::from).collect(),
        limit: args.limit.get(),
        ..RunFilter::default()
    };
    let rows = match args.remote.open(app)? {
        Some(remote) => remote.runs(&filter)?,
        None => app.ledger()?.runs(&filter)?,
    };
    if app.printer.is_json() {
        app.printer.json(&rows)?;
        return Ok(ExitStatus::Done);
    }
    if rows.is_empty() {
        app.printer.talk("there are no runs; `backstay daemon` makes them");
    }
    let now = app.cx.clock.now();
    let lines: Vec<Vec<String>> = rows.iter().map(|row| cells(row, now)).collect();
    if !lines.is_empty() {
        for line in table(&HEAD, &lines) {
            app.printer.data(line)?;
        }
    }
    Ok(ExitStatus::Done)
}

fn cells(row: &RunRow, now: Timestamp) -> Vec<String> {
    let took = |until: Timestamp| {
        let begun = row.started.unwrap_or(until);
        format::seconds(until.duration_since(begun).as_secs_f64().max(0.0))
    };
    let mut what = match (row.state, &row.backup, &row.why) {
        (RunState::Succeeded, Some(backup), _) => backup.clone(),
        (_, _, Some(why)) => why.lines().next().unwrap_or_default().to_owned(),
        _ => String::new(),
    };
    if row.state == RunState::Running {
        what = format!("for {}", took(now));
    } else if let (Some(ended), true) = (row.ended, row.started.is_some()) {
        let space = if what.is_empty() { "" } else { "; " };
        what.push_str(&format!("{space}{}", took(ended)));
    }
    if row.attempts > 1 {
        what.push_str(&format!("; {} attempts", row.attempts));
    }
    vec![
        format::time(row.due),
        row.id.clone(),
        row.slot.job.clone(),
        if row.slot.source.is_empty() {
            row.slot.stack.clone()
        } else {
            format!("{}/{}", row.slot.stack, row.slot.source)
        },
        row.state.word().to_owned(),
        what,
    ]
}
