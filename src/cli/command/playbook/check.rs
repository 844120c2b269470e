//! `backstay playbook check`

use std::path::PathBuf;

use serde::Serialize;

use super::place;
use super::run::ModeArg;
use crate::cli::ExitStatus;
use crate::cli::command::drill::{How, Rehearsal, rehearse};
use crate::cli::format;
use crate::cli::setup::App;
use crate::error::{Error, ErrorKind, Result};
use crate::playbook::compile::{Plan, Wanted, compile};
use crate::playbook::estimate::{Estimate, estimate};
use crate::playbook::history::newest_runs;
use crate::playbook::preflight::{Finding, preflight};
use crate::playbook::ready::row_of;
use crate::policy::{Mode, Period, Policy};
use crate::secret;
use crate::state::ReadinessRow;

/// The most runs that an estimate is made from.
const RUNS: usize = 20;

/// Look whether playbooks could be carried out now, and change nothing.
///
/// The policy is checked, every step says what it would do, and what is missing for it is told:
/// programs, secrets, backups, repositories, addresses. `--level rehearse` does more: what the playbook
/// restores is restored into a sandbox and looked at there, as `backstay drill run` does it, with a
/// verdict and its exit codes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only these: STACK/NAME or NAME.
    #[arg(value_name = "PLAYBOOK")]
    playbooks: Vec<String>,

    /// Only in this mode; all of them if left out.
    #[arg(long, value_enum, value_name = "MODE")]
    mode: Option<ModeArg>,

    /// How far it goes.
    #[arg(long, value_enum, value_name = "LEVEL", default_value = "preflight")]
    level: Level,

    /// The same as --level lint.
    #[arg(long, hide = true, conflicts_with = "level")]
    plan_only: bool,

    /// For rehearse: a directory with room for what is restored. Default: that of the policy's drill, or the one
    /// for temporary files.
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,

    /// For rehearse: the directory of PostgreSQL's programs. Default: that of the policy's drill, or looked for.
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,

    /// For rehearse: leave no evidence in the repository.
    #[arg(long)]
    no_evidence: bool,
}

impl Args {
    /// The first playbook that is looked at, where one is named.
    pub fn first(&self) -> Option<&str> {
        self.playbooks.first().map(String::as_str)
    }
}

/// How far a check goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Level {
    /// The policy is checked and the plan is made: nothing is looked at.
    Lint,
    /// Everything that the plan will need is looked at.
    Preflight,
    /// What the playbook restores is restored into a sandbox.
    Rehearse,
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
    /// How much of what was written would be lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    loss_seconds: Option<u64>,
    steps: Vec<Finding>,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let level = if args.plan_only { Level::Lint } else { args.level };
    let rehearses = level == Level::Rehearse;
    if !rehearses && (args.scratch.is_some() || args.programs.is_some() || args.no_evidence) {
        return Err(Error::usage(
            "--scratch, --programs and --no-evidence are for --level rehearse",
        ));
    }
    if rehearses && args.mode.is_some() {
        return Err(Error::usage(
            "a rehearsal is of no mode: what the playbook restores is restored",
        )
        .hint("leave --mode out"));
    }
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
    if rehearses {
        return rehearse_all(app, args, &chosen);
    }
    let plan_only = level == Level::Lint;
    let mut checked = Vec::new();
    for (policy, name) in chosen {
        for mode in &policy.playbooks[name].modes {
            if args.mode.is_none_or(|wanted| Mode::from(wanted) == *mode) {
                let plan = compile(policy, Wanted { playbook: name, mode: Some(*mode), at: None })?;
                checked.push(look(app, policy, &plan, plan_only)?);
            }
        }
    }
    if let (Some(mode), true, false) = (args.mode, checked.is_empty(), args.playbooks.is_empty()) {
        let word = Mode::from(mode).word();
        return Err(Error::usage(format!(
            "{} is not made for mode `{word}`",
            args.playbooks.join(", ")
        )));
    }
    if !plan_only {
        remember(app, &checked);
    }
    let problems: usize = checked.iter().map(|one| one.problems).sum();
    if app.printer.is_json() {
        app.printer.json(&checked)?;
    } else {
        for one in &checked {
            let policy = set.policies.iter().find(|policy| policy.stack == one.stack);
            let zero = Period::from_secs(0);
            let goals = policy
                .map_or((zero, zero), |policy| (policy.objectives().rto, policy.objectives().rpo));
            tell(app, one, goals)?;
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

/// Restores what the playbooks restore into sandboxes. The worst of what comes of them is how it ends.
fn rehearse_all(app: &App, args: &Args, chosen: &[(&Policy, &str)]) -> Result<ExitStatus> {
    let (scratch, programs) = (args.scratch.as_deref(), args.programs.as_deref());
    let how = How { scratch, programs, evidence: !args.no_evidence };
    let mut done: Vec<Rehearsal> = Vec::new();
    let mut unbegun = None;
    for (policy, name) in chosen {
        match rehearse(app, policy, name, &how) {
            Ok(rehearsal) => {
                if !app.printer.is_json() {
                    rehearsal.tell(app)?;
                }
                done.push(rehearsal);
            }
            // One that cannot begin keeps no other from it.
            Err(error) if chosen.len() == 1 || error.kind() == ErrorKind::Interrupted => {
                return Err(error);
            }
            Err(error) => {
                unbegun.get_or_insert_with(|| error.kind());
                app.printer.error(&error.context(format!("failed to rehearse `{name}`")));
            }
        }
    }
    if app.printer.is_json() {
        app.printer.json(&done)?;
    } else if chosen.is_empty() {
        app.printer.talk("no policy has `playbooks`");
    }
    for one in &done {
        one.tell_bad(app);
    }
    if let Some(kind) = unbegun {
        return Err(Error::new(kind, "not every playbook was rehearsed"));
    }
    // One that restores nothing is no failure where nobody asked for it by its name.
    let nothing = if args.playbooks.is_empty() { ExitStatus::Done } else { ExitStatus::Failed };
    let ended: Vec<ExitStatus> = done.iter().map(|one| one.status().unwrap_or(nothing)).collect();
    if !done.is_empty() && done.iter().all(|one| one.status().is_none()) {
        return Err(Error::failed("nothing was rehearsed: no playbook restores anything")
            .hint("what a switchover does is proven by doing it, on a quiet day"));
    }
    // Who asked for it by its name is told.
    for one in done.iter().filter(|one| one.status().is_none() && !args.playbooks.is_empty()) {
        let what = format!("`{}` was not rehearsed: it restores nothing", one.playbook());
        app.printer.error(&Error::failed(what));
    }
    let worst = [ExitStatus::Failed, ExitStatus::ObjectiveMissed];
    Ok(worst.into_iter().find(|one| ended.contains(one)).unwrap_or(ExitStatus::Done))
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
        loss_seconds: steps.iter().filter_map(|step| step.loss).max(),
        steps,
    })
}

/// Keeps what was found, for `playbook list` and the daemon. Where that cannot be it was looked all the
/// same.
fn remember(app: &App, checked: &[Checked]) {
    let Ok(state) = app.state() else { return };
    for one in checked {
        let problems = one.steps.iter().flat_map(|step| {
            step.problems.iter().map(move |problem| format!("{}: {problem}", step.step))
        });
        let row = ReadinessRow {
            stack: one.stack.clone(),
            playbook: one.playbook.clone(),
            mode: one.mode.to_owned(),
            at: app.cx.clock.now(),
            hash: one.hash.clone(),
            problems: one.problems as u64,
            why: secret::mask(&problems.take(1).collect::<String>()),
            takes: one.estimate.as_ref().map(|estimate| estimate.seconds.ceil() as u64),
            loss: one.loss_seconds,
        };
        if let Err(error) = state.put_readiness(&row) {
            app.printer.warning(&format!("it is not kept what was found: {}", error.chain()));
        }
    }
}

/// Says of a plan that is about to be carried out what is known of whether it can be. That is a word to whoever
/// is in a hurry: nothing is looked at, and nothing is refused.
pub fn tell_readiness(app: &App, policy: &Policy, plan: &Plan) {
    let wanted = Wanted { playbook: &plan.playbook, mode: Some(plan.mode), at: None };
    let Ok(hash) = compile(policy, wanted).and_then(|plan| plan.hash()) else { return };
    let Ok(rows) = app.state().and_then(|state| state.readiness()) else { return };
    let (of, mode) = ((plan.stack.as_str(), plan.playbook.as_str()), plan.mode.word());
    match row_of(&rows, of, (mode, &hash)) {
        None => app.printer.warning(&format!(
            "nobody has looked from here whether this can be carried out: `backstay playbook check {}` does",
            plan.playbook
        )),
        Some(row) if row.problems > 0 => app.printer.warning(&format!(
            "{} when somebody looked last, {}: {}",
            format::count(row.problems, "problem"),
            format::time(row.at),
            row.why
        )),
        Some(_) => {}
    }
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

fn tell(app: &App, one: &Checked, (rto, rpo): (Period, Period)) -> Result<()> {
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
    if let Some(loss) = one.loss_seconds {
        let shown = format::seconds(loss as f64);
        app.printer.data(format!("  {shown} of what was written would be lost; RPO {rpo}"))?;
        if loss > rpo.as_secs() {
            app.printer.warning(&format!("that is beyond the RPO of {rpo}"));
        }
    }
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
