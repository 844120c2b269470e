//! `backstay drill`

mod aborted;
mod list;
mod lost;
mod place;
mod plan;
mod rehearse;
mod report;
mod run;
mod verify;

use crate::cli::ExitStatus;
use crate::cli::setup::App;
use crate::error::Result;

pub(super) use rehearse::{How, Rehearsal, rehearse};

/// Recover for practice: into a sandbox, with checks, a verdict, and evidence of it.
///
/// What is measured is how long a recovery takes (RTO) and how much is lost (RPO). What could not be
/// looked at is no success: the verdict is INCONCLUSIVE then.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, clap::Subcommand)]
enum Sub {
    Run(Box<run::Args>),
    List(list::Args),
    Report(report::Args),
    Verify(verify::Args),
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    match &args.command {
        Sub::Run(args) => run::run(app, args),
        Sub::List(args) => list::run(app, args),
        Sub::Report(args) => report::run(app, args),
        Sub::Verify(args) => verify::run(app, args),
    }
}
