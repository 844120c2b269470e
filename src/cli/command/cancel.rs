//! `backstay cancel`

use super::logs::unknown;
use crate::cli::ExitStatus;
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
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let state = app.ledger()?;
    let row = state.run(&args.run)?.ok_or_else(|| unknown(&args.run))?;
    if !state.cancel(&row.id, app.cx.clock.now())? {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!("run {} is {} already", row.id, row.state.word()),
        ));
    }
    app.printer.talk(match row.state {
        RunState::Running => format!("run {} is told to end", row.id),
        _ => format!("run {} will not begin", row.id),
    });
    Ok(ExitStatus::Done)
}
