//! `backstay cancel`

use super::logs::unknown;
use crate::cli::ExitStatus;
use crate::cli::remote::RemoteArgs;
use crate::cli::setup::App;
use crate::error::{Error, ErrorKind, Result};
use crate::state::RunState;

/// End a run of the daemon.
///
/// One that waits does not begin. One that goes on is told to end by the daemon that does it, within
/// seconds; what it stored is never listed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run, or the start of its id: `backstay runs` lists them.
    #[arg(value_name = "RUN")]
    run: String,

    #[command(flatten)]
    remote: RemoteArgs,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    if let Some(remote) = args.remote.open(app)? {
        let row = remote.cancel(&args.run)?;
        told(app, row.state, &row.id);
        return Ok(ExitStatus::Done);
    }
    let state = app.ledger()?;
    let row = state.run(&args.run)?.ok_or_else(|| unknown(&args.run))?;
    if !state.cancel(&row.id, app.cx.clock.now())? {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!("run {} is {} already", row.id, row.state.word()),
        ));
    }
    told(app, row.state, &row.id);
    Ok(ExitStatus::Done)
}

fn told(app: &App, state: RunState, run: &str) {
    app.printer.talk(match state {
        RunState::Running => format!("run {run} is told to end"),
        _ => format!("run {run} will not begin"),
    });
}
