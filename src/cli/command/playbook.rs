//! `backstay playbook`

mod check;
mod history;
mod list;
mod live;
mod operate;
mod place;
mod run;
mod show;

use crate::cli::ExitStatus;
use crate::cli::setup::App;
use crate::error::Result;

pub use place::open_run;
pub(super) use place::person;

/// Recover or move, step by step, as the policy says.
///
/// What is about to be done is written to the repository first: a run that was killed is gone on with
/// from any machine that has the policy and reaches the repository.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, clap::Subcommand)]
enum Sub {
    List(list::Args),
    Show(show::Args),
    Check(check::Args),
    Run(run::RunArgs),
    Resume(run::ResumeArgs),
    Approve(operate::ApproveArgs),
    Attest(operate::AttestArgs),
    RetryStep(operate::RetryArgs),
    SkipStep(operate::SkipArgs),
    Abort(run::AbortArgs),
    History(history::Args),
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    match &args.command {
        Sub::List(args) => list::run(app, args),
        Sub::Show(args) => show::run(app, args),
        Sub::Check(args) => check::run(app, args),
        Sub::Run(args) => run::run(app, args),
        Sub::Resume(args) => run::resume(app, args),
        Sub::Approve(args) => operate::approve(app, args),
        Sub::Attest(args) => operate::attest(app, args),
        Sub::RetryStep(args) => operate::retry(app, args),
        Sub::SkipStep(args) => operate::skip(app, args),
        Sub::Abort(args) => run::abort(app, args),
        Sub::History(args) => history::run(app, args),
    }
}
