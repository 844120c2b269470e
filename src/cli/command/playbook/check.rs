//! `backstay playbook check`

use serde::Serialize;

use super::place;
use super::run::ModeArg;
use crate::cli::ExitStatus;
use crate::cli::format;
use crate::cli::setup::App;
use crate::error::{Error, Result};
use crate::playbook::compile::{Plan, Wanted, compile};
use crate::playbook::preflight::{Finding, preflight};
use crate::policy::{Mode, Policy};

/// Look whether playbooks could be carried out now, and change nothing.
///
/// The policy is checked, every step says what it would do, and what is missing for it is told:
/// programs, secrets, backups, repositories, addresses.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only these: STACK/NAME or NAME.
    #[arg(value_name = "PLAYBOOK")]
    playbooks: Vec<String>,

    /// Only in this mode; all of them if left out.
    #[arg(long, value_enum, value_name = "MODE")]
    mode: Option<ModeArg>,

    /// Only check the policy and make the plan: nothing is looked at.
    #[arg(long)]
    plan_only: bool,
}

#[derive(Serialize)]
struct Checked {
    stack: String,
    playbook: String,
    mode: &'static str,
    hash: String,
    problems: usize,
    steps: Vec<Finding>,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let set = app.policies(true)?;
    let mut chosen: Vec<(&Policy, &str)> = Vec::new();
    if args.playbooks.is_empty() {
        for policy in &set.policies {
            chosen.extend(policy.playbooks.keys().map(|name| (policy, name.as_str())));
        }
    }
    for name in &args.playbooks {
        let (policy, name, _) = place::find(&set, name)?;
        chosen.push((policy, name));
    }
    let mut checked = Vec::new();
    for (policy, name) in chosen {
        for mode in &policy.playbooks[name].modes {
            if args.mode.is_none_or(|wanted| Mode::from(wanted) == *mode) {
                let plan = compile(policy, Wanted { playbook: name, mode: Some(*mode), at: None })?;
                checked.push(look(app, policy, &plan, args.plan_only)?);
            }
        }
    }
    let problems: usize = checked.iter().map(|one| one.problems).sum();
    if app.printer.is_json() {
        app.printer.json(&checked)?;
    } else {
        checked.iter().try_for_each(|one| tell(app, one))?;
        if checked.is_empty() {
            app.printer.talk("no policy has `playbooks`");
        }
    }
    if problems > 0 {
        return Err(Error::failed(format!("{} found", format::count(problems as u64, "problem"))));
    }
    Ok(ExitStatus::Done)
}

fn look(app: &App, policy: &Policy, plan: &Plan, plan_only: bool) -> Result<Checked> {
    let steps = if plan_only { Vec::new() } else { findings(app, policy, plan)? };
    Ok(Checked {
        stack: plan.stack.clone(),
        playbook: plan.playbook.clone(),
        mode: plan.mode.word(),
        hash: plan.hash()?,
        problems: steps.iter().map(|step| step.problems.len()).sum(),
        steps,
    })
}

/// What every step says that it would do.
pub fn findings(app: &App, policy: &Policy, plan: &Plan) -> Result<Vec<Finding>> {
    let means = place::means(app, policy)?;
    let make = |spec: &crate::policy::ActionSpec| crate::playbook::actions::build(spec, &means);
    preflight(plan, &make, place::person(None), &app.cx)
}

fn tell(app: &App, one: &Checked) -> Result<()> {
    app.printer.data(format!(
        "{}/{}, mode {}, plan {}: {}",
        one.stack,
        one.playbook,
        one.mode,
        &one.hash[..12],
        if one.problems == 0 {
            "nothing is missing".to_owned()
        } else {
            format::count(one.problems as u64, "problem")
        }
    ))?;
    tell_steps(app, &one.steps)
}

/// A line for each step, and one for everything that is missing.
pub fn tell_steps(app: &App, steps: &[Finding]) -> Result<()> {
    let width = steps.iter().map(|step| step.step.chars().count()).max().unwrap_or(0);
    for step in steps {
        app.printer.data(format!("  {:<9} {:<width$}  {}", step.phase, step.step, step.what))?;
        for problem in &step.problems {
            app.printer.data(format!("  {:<9} {:<width$}  MISSING: {problem}", "", ""))?;
        }
    }
    Ok(())
}
