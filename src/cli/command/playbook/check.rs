//! `backstay playbook check`

use serde::Serialize;

use super::place;
use super::run::ModeArg;
use crate::cli::ExitStatus;
use crate::cli::format;
use crate::cli::setup::App;
use crate::error::{Error, Result};
use crate::playbook::compile::{Plan, Wanted, compile};
use crate::playbook::estimate::{Estimate, estimate};
use crate::playbook::history::newest_runs;
use crate::playbook::preflight::{Finding, preflight};
use crate::policy::{Mode, Period, Policy};

/// The most runs that an estimate is made from.
const RUNS: usize = 20;

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
    #[serde(skip_serializing_if = "Option::is_none")]
    estimate: Option<Estimate>,
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
        for one in &checked {
            let policy = set.policies.iter().find(|policy| policy.stack == one.stack);
            let rto = policy.map_or(Period::from_secs(0), |policy| policy.objectives().rto);
            tell(app, one, rto)?;
        }
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
        estimate: if plan_only { None } else { estimated(app, policy, plan) },
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
    preflight(plan, &make, place::person(None)?, &app.cx)
}

/// How long it will take, from the runs there were. Where these cannot be read nothing is said: that is
/// for the steps to find.
pub fn estimated(app: &App, policy: &Policy, plan: &Plan) -> Option<Estimate> {
    let playbook = policy.playbooks.get(&plan.playbook)?;
    let repository = place::repository_of(app, policy, playbook).ok()?;
    let place = place::place(app, policy, &repository, "any").ok()?;
    estimate(plan, &newest_runs(&place, &plan.stack, RUNS).ok()?)
}

/// A line about how long it will take.
pub fn tell_estimate(app: &App, estimate: &Estimate, rto: Period) -> Result<()> {
    let unknown = match estimate.unknown.as_slice() {
        [] => String::new(),
        names => format!(", without {}, which were never done", names.join(", ")),
    };
    app.printer.data(format!(
        "  it takes {} by {}{unknown}, and the time that people take; RTO {rto}",
        format::seconds(estimate.seconds),
        format::count(estimate.runs as u64, "run"),
    ))?;
    if estimate.seconds > rto.as_secs() as f64 {
        app.printer.warning(&format!("that is beyond the RTO of {rto}"));
    }
    Ok(())
}

fn tell(app: &App, one: &Checked, rto: Period) -> Result<()> {
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
    tell_steps(app, &one.steps)?;
    one.estimate.iter().try_for_each(|estimate| tell_estimate(app, estimate, rto))
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
