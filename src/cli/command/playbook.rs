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
use crate::cli::format;
use crate::cli::setup::{App, no_policy};
use crate::error::Result;
use crate::id::is_name;

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

impl Sub {
    /// The playbook that it names, where it names one.
    fn playbook(&self) -> Option<&str> {
        match self {
            Self::Show(args) => Some(args.name()),
            Self::Run(args) => Some(args.name()),
            Self::Check(args) => args.first(),
            _ => None,
        }
    }
}

/// Fails where there is no policy, and says how one is had where a repository is all that is left: playbooks
/// stand in policies.
fn check_policy(app: &App, command: &Sub) -> Result<()> {
    if app.policy_path().is_ok() {
        return Ok(());
    }
    let stack = command.playbook().and_then(|name| name.split_once('/')).map(|(stack, _)| stack);
    let stack = stack.filter(|name| is_name(name)).unwrap_or("STACK");
    let repository = app.repository_url().map_or_else(|| "URL".to_owned(), format::typed);
    let mut identity = String::new();
    for path in &app.global.identity {
        identity.push_str(&format!(" --identity {}", format::typed(&path.display().to_string())));
    }
    if identity.is_empty() {
        identity.push_str(" --identity FILE");
    }
    Err(no_policy()
        .hint("playbooks stand in policies, and every backup left one in its repository:")
        .hint(format!(
            "backstay policy fetch {stack} --repository {repository}{identity} --out policy.yaml"
        ))
        .hint("backstay policy confirm policy.yaml")
        .hint("then this command with --policy policy.yaml, and without a repository by URL"))
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    check_policy(app, &args.command)?;
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
