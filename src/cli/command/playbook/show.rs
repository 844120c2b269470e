//! `backstay playbook show`

use std::collections::BTreeSet;

use serde::Serialize;

use super::live::{Report, instructions, standing, word};
use super::place;
use super::run::ModeArg;
use crate::cli::ExitStatus;
use crate::cli::format::{self, Align, table};
use crate::cli::setup::App;
use crate::error::Result;
use crate::playbook::actions::vantage;
use crate::playbook::approval;
use crate::playbook::compile::{Plan, PlannedStep, Wanted, compile};
use crate::playbook::decide::{Decision, decide};
use crate::playbook::transition::StepState;
use crate::playbook::view::RunView;
use crate::policy::{ActionSpec, Mode, Phase, Program};

/// Show what a playbook does, or where a run of one stands.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A playbook, STACK/NAME or NAME; or a run.
    #[arg(value_name = "PLAYBOOK|RUN")]
    name: String,

    /// As it is done in this mode.
    #[arg(long, value_enum, value_name = "MODE")]
    mode: Option<ModeArg>,
}

impl Args {
    /// What is shown: a playbook, or a run.
    pub fn name(&self) -> &str {
        &self.name
    }
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    plan: &'a Plan,
    hash: String,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let set = app.policies_to_read()?;
    if place::is_run(&args.name) {
        let found = place::find_run(app, &set, &args.name)?;
        if app.printer.is_json() {
            app.printer.json(&Report::with_plan(&found.view))?;
        } else {
            show_run(app, &found.view)?;
            tell_next(app, &found.view)?;
        }
        return Ok(ExitStatus::Done);
    }
    let (policy, name, _) = place::find(&set, &args.name)?;
    let mode = args.mode.map(Mode::from);
    let plan = compile(policy, Wanted { playbook: name, mode, at: None })?;
    if app.printer.is_json() {
        app.printer.json(&Shown { plan: &plan, hash: plan.hash()? })?;
    } else {
        show_plan(app, &plan)?;
    }
    Ok(ExitStatus::Done)
}

/// What a person can do about a run that is not over.
fn tell_next(app: &App, view: &RunView) -> Result<()> {
    match decide(view, &BTreeSet::new())? {
        Decision::Over(_) => {}
        Decision::Wait(steps) | Decision::Stuck(steps) => {
            instructions(&app.printer, view, &steps)?;
        }
        Decision::Go(_) | Decision::Busy => app.printer.hint(&format!(
            "where nobody is at work on it any more: backstay playbook resume {}",
            view.run
        )),
    }
    Ok(())
}

/// Shows a plan: phases, steps, and what each waits for.
pub fn show_plan(app: &App, plan: &Plan) -> Result<()> {
    app.printer.data(format!(
        "{}/{}, mode {}, plan {}",
        plan.stack,
        plan.playbook,
        plan.mode.word(),
        plan.hash()?
    ))?;
    const HEAD: [(&str, Align); 4] =
        [("STEP", Align::Left), ("ACTION", Align::Left), ("AFTER", Align::Left), ("", Align::Left)];
    let mut returns = plan.steps.iter().any(|step| step.point_of_no_return && !step.excluded);
    for phase in Phase::ALL {
        let steps: Vec<&PlannedStep> = plan.steps.iter().filter(|one| one.phase == phase).collect();
        if steps.is_empty() {
            continue;
        }
        app.printer.data(phase.word())?;
        let rows: Vec<Vec<String>> = steps
            .iter()
            .map(|step| {
                if step.point_of_no_return && !step.excluded {
                    returns = false;
                }
                vec![
                    step.name.clone(),
                    step.action.kind().to_owned(),
                    step.needs.join(", "),
                    notes(step, returns).join("; "),
                ]
            })
            .collect();
        for line in table(&HEAD, &rows) {
            app.printer.data(format!("  {line}"))?;
        }
    }
    let commands: Vec<Vec<String>> =
        plan.steps.iter().filter(|step| !step.excluded).flat_map(commands).collect();
    if commands.is_empty() {
        return Ok(());
    }
    app.printer.data("commands")?;
    const LINES: [(&str, Align); 3] =
        [("STEP", Align::Left), ("FOR", Align::Left), ("COMMAND", Align::Left)];
    table(&LINES, &commands).into_iter().try_for_each(|line| app.printer.data(format!("  {line}")))
}

/// What a step runs: to do it, to look whether it is done, and to take it back.
fn commands(step: &PlannedStep) -> Vec<Vec<String>> {
    let ActionSpec::Command(command) = &step.action else { return Vec::new() };
    [
        ("apply", Some(&command.apply)),
        ("observe", command.observe.as_ref()),
        ("undo", command.undo.as_ref()),
    ]
    .into_iter()
    .filter_map(|(what, program)| Some((what, program?)))
    .map(|(what, program)| vec![step.name.clone(), what.to_owned(), words(program)])
    .collect()
}

/// A program as one would type it.
fn words(program: &Program) -> String {
    let typed =
        |argv: &[String]| argv.iter().map(|word| format::typed(word)).collect::<Vec<_>>().join(" ");
    match program {
        Program::Argv(argv) => typed(argv),
        Program::Pipeline(stages) => {
            stages.iter().map(|argv| typed(argv)).collect::<Vec<_>>().join(" | ")
        }
        Program::Shell(line) => line.trim().replace('\n', "; "),
    }
}

fn notes(step: &PlannedStep, returns: bool) -> Vec<String> {
    let mut notes = Vec::new();
    if step.excluded {
        notes.push("not in this mode".to_owned());
        return notes;
    }
    if step.point_of_no_return {
        notes.push("POINT OF NO RETURN".to_owned());
    }
    if let Some(condition) = &step.when {
        notes.push(format!("only where {condition}"));
    }
    if step.beyond_rpo.is_some() {
        notes.push("only where more than the RPO would be lost".to_owned());
    }
    if let ActionSpec::Role(role) = &step.action {
        notes.extend(role.vantage_points.iter().map(|(name, point)| {
            format!(
                "not where {} takes connections from {}",
                point.tcp,
                vantage::place(name, point)
            )
        }));
    }
    if let Some(timeout) = step.timeout {
        notes.push(format!("within {timeout}"));
    }
    if step.retry.times > 0 {
        notes.push(format!("tried again {}", format::count(step.retry.times.into(), "time")));
    }
    if !step.critical {
        notes.push("not critical".to_owned());
    }
    // Only of interest where something is taken back at all.
    if returns && !step.action.can_undo() && !step.action.is_read_only() && !step.is_cleanup() {
        notes.push("cannot be taken back".to_owned());
    }
    notes.extend(step.description.clone());
    notes
}

/// Shows where a run stands.
pub fn show_run(app: &App, view: &RunView) -> Result<()> {
    app.printer.data(format!(
        "run {} of {}/{}, mode {}: {}",
        view.run,
        view.plan.stack,
        view.plan.playbook,
        view.plan.mode.word(),
        standing(view)
    ))?;
    app.printer.data(format!(
        "plan {}, started {} by {}",
        view.hash,
        format::time(view.started),
        view.who
    ))?;
    if let Some(at) = view.plan.at {
        app.printer.data(format!("sources as of {}", format::time(at)))?;
    }
    if let Some(why) = &view.unwinding {
        app.printer.data(format!("taken back: {why}"))?;
    }
    if view.is_past_return() {
        app.printer.data("past the point of no return")?;
    }
    const HEAD: [(&str, Align); 5] = [
        ("PHASE", Align::Left),
        ("STEP", Align::Left),
        ("STATE", Align::Left),
        ("TOOK", Align::Right),
        ("", Align::Left),
    ];
    let mut rows = Vec::new();
    for planned in &view.plan.steps {
        let Some((_, step)) = view.step(&planned.name) else { continue };
        let took = match (step.began, step.changed) {
            (Some(began), Some(changed)) if !step.state.is_taken_back() => {
                format::seconds(changed.duration_since(began).as_secs_f64())
            }
            _ => String::new(),
        };
        let mut more: Vec<String> = step.why.iter().cloned().collect();
        more.extend(step.outputs.iter().map(|(name, value)| format!("{name}={value}")));
        if step.state == StepState::Waiting && matches!(planned.action, ActionSpec::Approval(_)) {
            let (given, of) = approval::count(view, planned)?;
            more.push(format!("{given} of {of} approvals"));
        }
        rows.push(vec![
            planned.phase.word().to_owned(),
            planned.name.clone(),
            word(view, step.state).to_owned(),
            took,
            format::plain(&more.join("; ")),
        ]);
    }
    table(&HEAD, &rows).into_iter().try_for_each(|line| app.printer.data(line))
}
