//! `backstay playbook approve`, `attest`, `retry-step` and `skip-step`

use super::live::{self, Report};
use super::place;
use super::run::is_of_policy;
use crate::cli::format;
use crate::cli::setup::App;
use crate::cli::{ExitStatus, confirm};
use crate::error::Result;
use crate::playbook::approval;
use crate::playbook::operate::{Wish, event, operate};
use crate::playbook::template::told;
use crate::policy::{ActionSpec, ApprovalAction};

/// Agree to a step that waits for approval.
///
/// What is agreed to is the plan and everything that the steps before found, such as recovery points
/// and the loss that is to be expected: when any of it changes, the approval no longer counts.
#[derive(Debug, clap::Args)]
pub struct ApproveArgs {
    /// The run.
    #[arg(value_name = "RUN")]
    run: String,

    /// The step.
    #[arg(value_name = "STEP")]
    step: String,

    /// Who agrees. Default: the user of this process, who is recorded as well.
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,

    /// Why, for those who read it later.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,

    /// What exactly is agreed to, as `playbook show RUN --output json` has it in `approval.binds`:
    /// if that is not what is known now, nothing is approved.
    #[arg(long, value_name = "DIGEST")]
    binds: Option<String>,

    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

/// What is recorded for those who read it later: something.
pub(super) fn said(text: &str) -> std::result::Result<String, &'static str> {
    match text.trim() {
        "" => Err("nothing is said: it is what those will read who ask later why"),
        text => Ok(text.to_owned()),
    }
}

/// Say that a step is done: one that is for people, or that failed and was done by hand.
#[derive(Debug, clap::Args)]
pub struct AttestArgs {
    /// The run.
    #[arg(value_name = "RUN")]
    run: String,

    /// The step.
    #[arg(value_name = "STEP")]
    step: String,

    /// How you know. Recorded.
    #[arg(long, value_name = "TEXT", value_parser = said)]
    text: String,

    /// Who says so. Default: the user of this process, who is recorded as well.
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
}

/// Have a step that failed tried again.
#[derive(Debug, clap::Args)]
pub struct RetryArgs {
    /// The run.
    #[arg(value_name = "RUN")]
    run: String,

    /// The step.
    #[arg(value_name = "STEP")]
    step: String,

    /// Who says so. Default: the user of this process, who is recorded as well.
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
}

/// Do without a step that failed, or that waits for a person.
#[derive(Debug, clap::Args)]
pub struct SkipArgs {
    /// The run.
    #[arg(value_name = "RUN")]
    run: String,

    /// The step.
    #[arg(value_name = "STEP")]
    step: String,

    /// Why. Recorded.
    #[arg(long, value_name = "TEXT", value_parser = said)]
    reason: String,

    /// Who says so. Default: the user of this process, who is recorded as well.
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
}

/// Runs `approve`.
pub fn approve(app: &App, args: &ApproveArgs) -> Result<ExitStatus> {
    let set = app.policies_to_read()?;
    let found = place::find_run(app, &set, &args.run)?;
    let who = place::person(args.name.as_deref())?;
    let planned = found.view.plan.named(&args.step)?;
    let binds = match &args.binds {
        Some(shown) => shown.clone(),
        None => approval::binds(&found.view, planned)?,
    };
    let wish =
        Wish::Approve { step: args.step.clone(), binds: Some(binds), reason: args.reason.clone() };
    // What cannot be approved is not asked for.
    event(&found.view, &who, &wish)?;
    if !is_of_policy(&found) {
        app.printer.warning(&format!(
            "the policy was changed since run {} began: this is about what it was then",
            args.run
        ));
    }
    if !app.printer.is_json() {
        app.printer.talk(format!("plan {}", found.view.hash));
        if let ActionSpec::Approval(ApprovalAction { text: Some(text), .. }) = &planned.action {
            app.printer.talk(told(text, &found.view));
        }
        for (step, outputs) in approval::known(&found.view, planned) {
            for (name, value) in outputs {
                app.printer.talk(format!("  {step}.{name} = {}", format::plain(value)));
            }
        }
    }
    let what = format!("{who} approves `{}` of run {}", args.step, args.run);
    confirm::type_name(app, &what, &args.step, args.yes)?;
    change(app, &found, &who, &wish)
}

/// Runs `attest`.
pub fn attest(app: &App, args: &AttestArgs) -> Result<ExitStatus> {
    let wish = Wish::Attest { step: args.step.clone(), text: args.text.clone() };
    by_name(app, &args.run, args.name.as_deref(), &wish)
}

/// Runs `retry-step`.
pub fn retry(app: &App, args: &RetryArgs) -> Result<ExitStatus> {
    by_name(app, &args.run, args.name.as_deref(), &Wish::Retry { step: args.step.clone() })
}

/// Runs `skip-step`.
pub fn skip(app: &App, args: &SkipArgs) -> Result<ExitStatus> {
    let wish = Wish::Skip { step: args.step.clone(), why: args.reason.clone() };
    by_name(app, &args.run, args.name.as_deref(), &wish)
}

fn by_name(app: &App, run: &str, name: Option<&str>, wish: &Wish) -> Result<ExitStatus> {
    let set = app.policies_to_read()?;
    let found = place::find_run(app, &set, run)?;
    change(app, &found, &place::person(name)?, wish)
}

fn change(
    app: &App,
    found: &place::Found<'_>,
    who: &crate::playbook::record::Person,
    wish: &Wish,
) -> Result<ExitStatus> {
    let view = operate(&found.place, who, wish, &app.cx)?;
    if app.printer.is_json() {
        app.printer.json(&Report::of(&view))?;
        return Ok(ExitStatus::Done);
    }
    app.printer.talk(format!("run {}: {}", view.run, live::standing(&view)));
    app.printer.hint(&format!("backstay playbook resume {}", view.run));
    Ok(ExitStatus::Done)
}
