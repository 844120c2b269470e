//! Runs as people see them: a line for everything that happens, and where each step stands.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;

use crate::cli::ExitStatus;
use crate::cli::format;
use crate::cli::printer::Printer;
use crate::error::{Error, ErrorKind, Result};
use crate::playbook::approval;
use crate::playbook::compile::{Plan, PlannedStep};
use crate::playbook::decide::{Decision, decide};
use crate::playbook::record::{Event, Outcome, Outputs, Record};
use crate::playbook::template::told;
use crate::playbook::transition::StepState;
use crate::playbook::view::RunView;
use crate::policy::ActionSpec;

/// What a run is doing, in a few words.
pub fn standing(view: &RunView) -> String {
    if let Some(outcome) = view.outcome {
        let stays = left_standing(view);
        return if outcome == Outcome::Undone && !stays.is_empty() {
            format!("undone; `{}` cannot be taken back, and stays", stays.join("`, `"))
        } else {
            outcome.words().to_owned()
        };
    }
    match decide(view, &BTreeSet::new()) {
        Ok(Decision::Wait(steps)) => format!("waits for a person: {}", steps.join(", ")),
        Ok(Decision::Stuck(steps)) => format!("stuck: {}", steps.join(", ")),
        _ if view.unwinding.is_some() => "not over: being taken back".to_owned(),
        _ => "not over".to_owned(),
    }
}

/// The steps that did something which nothing takes back: what they did stays when the others are undone.
fn left_standing(view: &RunView) -> Vec<&str> {
    let acts = |step: &&PlannedStep| {
        let action = &step.action;
        !step.is_cleanup() && !action.is_read_only() && !action.can_undo()
    };
    let done = |step: &&PlannedStep| {
        let begun = view.steps.get(&step.name).is_some_and(|step| step.attempts > 0);
        let may_have = [StepState::Succeeded, StepState::Attested, StepState::Unknown];
        begun && may_have.contains(&view.state(&step.name))
    };
    let steps = view.plan.steps.iter().filter(acts).filter(done);
    steps.map(|step| step.name.as_str()).collect()
}

/// Shows a record when it is written.
pub fn tell(printer: &Printer, record: &Record, view: &RunView) {
    if printer.is_json() {
        printer.event(&event(record));
        return;
    }
    let time = record.time.strftime("%H:%M:%SZ").to_string();
    let width = view.plan.steps.iter().map(|step| step.name.chars().count()).max().unwrap_or(0);
    let about = record.event.of_step().map(|(step, _)| step);
    let (mark, color, what) = words(record, view);
    // Lines of what a program said stay lines.
    let what = what.lines().map(format::plain).collect::<Vec<_>>().join("\n");
    let mark = printer.paint(mark, color);
    let text = match about {
        Some(step) => format!("{time}  {mark} {step:<width$}  {what}"),
        None => format!("{time}  {mark} {what}"),
    };
    printer.talk(text.trim_end());
}

/// The most steps that are shown which have not begun.
const AHEAD: usize = 3;

/// Where a run stands now, for a screen that is drawn again and again: what is under way and since when,
/// what failed or waits, and what comes next.
pub fn board(printer: &Printer, view: &RunView, now: Timestamp) -> Vec<String> {
    let since =
        |from: Timestamp| format::seconds(now.duration_since(from).as_secs_f64().max(0.0).floor());
    let steps = || view.plan.steps.iter().filter(|step| !step.excluded);
    let done = steps().filter(|step| view.state(&step.name).is_done()).count();
    let way = if view.unwinding.is_some() { "taken back" } else { view.plan.mode.word() };
    let mut lines = vec![printer.paint(
        &format!(
            "{} ({way}): {done} of {} steps, {}",
            view.plan.playbook,
            steps().count(),
            since(view.started)
        ),
        "1",
    )];
    let width = steps().map(|step| step.name.chars().count()).max().unwrap_or(0);
    let mut ahead = 0;
    for step in steps() {
        let Some((_, at)) = view.step(&step.name) else { continue };
        let color = match at.state {
            StepState::Intended | StepState::Undoing => "36",
            StepState::Waiting => "33;1",
            StepState::Failed | StepState::Unknown | StepState::UndoFailed => "31;1",
            StepState::Pending if ahead < AHEAD => {
                ahead += 1;
                "2"
            }
            _ => continue,
        };
        let took = match (at.state, at.began) {
            (StepState::Intended | StepState::Undoing, Some(began)) => since(began),
            _ => String::new(),
        };
        let (phase, word) = (step.phase.word(), word(view, at.state));
        let text = format!("  {phase:<9} {:<width$}  {word} {took}", step.name);
        lines.push(printer.paint(text.trim_end(), color));
    }
    lines
}

/// What is told to programs: a record without the plan, which `show` has.
fn event(record: &Record) -> serde_json::Value {
    let mut value = serde_json::to_value(record).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        for name in ["plan", "nonce", "previous", "journal"] {
            object.remove(name);
        }
    }
    value
}

/// A mark, its colour, and what happened.
fn words(record: &Record, view: &RunView) -> (&'static str, &'static str, String) {
    let took = |name: &str| {
        let began = view.steps.get(name).and_then(|step| step.began);
        began.map_or_else(String::new, |began| {
            format!(" in {}", format::seconds(record.time.duration_since(began).as_secs_f64()))
        })
    };
    match &record.event {
        Event::Started { plan, hash, .. } => (
            "*",
            "1",
            format!(
                "run {} of {}, mode {}, plan {}",
                record.run,
                plan.playbook,
                plan.mode.word(),
                &hash[..12]
            ),
        ),
        Event::TakenOver { epoch } => ("*", "1", format!("goes on, for the {}", times(*epoch))),
        Event::Asked { step } => (
            "?",
            "33;1",
            match view.plan.step(step).map(|one| &one.action) {
                Some(ActionSpec::Manual(manual)) => {
                    format!("waits for a person: {}", told(&manual.text, view))
                }
                _ => "waits for approval".to_owned(),
            },
        ),
        Event::Approved { who, .. } => ("+", "32", format!("approved by {who}")),
        Event::Intended { attempt: 1, .. } => (">", "36", "begins".to_owned()),
        Event::Intended { attempt, .. } => (">", "36", format!("begins, attempt {attempt}")),
        Event::Tried { why, .. } => ("!", "33", format!("failed, and is tried again: {why}")),
        Event::Succeeded { step, found: false, .. } => ("+", "32", format!("done{}", took(step))),
        Event::Succeeded { .. } => ("+", "32", "found done".to_owned()),
        Event::Failed { why, .. } => ("x", "31;1", format!("failed: {why}")),
        Event::Lost { why, .. } => ("x", "31;1", format!("nobody knows whether it is done: {why}")),
        Event::Skipped { why, who, .. } => {
            let by = who.as_ref().map(|who| format!(" by {who}")).unwrap_or_default();
            ("-", "2", format!("skipped{by}: {why}"))
        }
        Event::Attested { who, text, .. } => ("+", "32", format!("attested by {who}: {text}")),
        Event::Retried { who, .. } => (">", "36", format!("to be tried again, says {who}")),
        Event::Unwinding { why, .. } => {
            ("*", "33;1", format!("what was done is taken back: {why}"))
        }
        Event::UndoIntended { .. } => ("<", "36", "is taken back".to_owned()),
        Event::Undone { found: false, .. } => ("<", "32", "taken back".to_owned()),
        Event::Undone { .. } => ("<", "32", "found taken back".to_owned()),
        Event::UndoFailed { why, .. } => ("x", "31;1", format!("could not be taken back: {why}")),
        Event::Ended { outcome, .. } => {
            let color = match outcome {
                Outcome::Succeeded => "32;1",
                _ => "33;1",
            };
            ("*", color, format!("run {} {}", record.run, outcome.words()))
        }
    }
}

fn times(number: u64) -> String {
    match number % 10 {
        1 if number % 100 != 11 => format!("{number}st time"),
        2 if number % 100 != 12 => format!("{number}nd time"),
        3 if number % 100 != 13 => format!("{number}rd time"),
        _ => format!("{number}th time"),
    }
}

/// A run, for programs.
#[derive(Serialize)]
pub struct Report<'a> {
    /// The run.
    pub run: &'a str,
    /// The stack.
    pub stack: &'a str,
    /// The playbook.
    pub playbook: &'a str,
    /// How it is run.
    pub mode: &'static str,
    /// The plan's hash.
    pub hash: &'a str,
    /// When it began.
    pub started: Timestamp,
    /// When the last record was written.
    pub last: Timestamp,
    /// How it ended; `None` if it is not over.
    pub outcome: Option<Outcome>,
    /// The same in words, and what it waits for.
    pub state: String,
    /// Nothing is undone any more.
    pub past_return: bool,
    /// The steps, in order.
    pub steps: Vec<StepReport<'a>>,
    /// What it does, all of it, where that was asked for: for whoever goes on with it by its hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<&'a Plan>,
}

/// A step, for programs.
#[derive(Serialize)]
pub struct StepReport<'a> {
    name: &'a str,
    phase: &'static str,
    action: &'static str,
    state: &'static str,
    critical: bool,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    began: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a str>,
    #[serde(skip_serializing_if = "Outputs::is_empty")]
    outputs: Outputs,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    approved_by: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    approval: Option<Asked<'a>>,
    /// What a person is to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    by_hand: Option<String>,
}

/// What people are asked to agree to.
#[derive(Serialize)]
struct Asked<'a> {
    /// What it means, in the words of the policy, with what is known by now.
    text: Option<String>,
    /// Who is asked; anybody if empty.
    from: &'a [String],
    /// How many have to agree.
    of: u32,
    /// How many agreed to what is known now.
    given: u32,
    /// What exactly is agreed to: see [`approval::binds`].
    binds: String,
    /// What the steps before found.
    known: BTreeMap<&'a str, &'a Outputs>,
}

impl<'a> Asked<'a> {
    fn of(view: &'a RunView, step: &'a PlannedStep) -> Option<Self> {
        let ActionSpec::Approval(wanted) = &step.action else { return None };
        let (given, of) = approval::count(view, step).ok()?;
        Some(Self {
            text: wanted.text.as_deref().map(|text| told(text, view)),
            from: &wanted.from,
            of,
            given,
            binds: approval::binds(view, step).ok()?,
            known: approval::known(view, step),
        })
    }
}

impl<'a> Report<'a> {
    /// Of a run, with its plan.
    pub fn with_plan(view: &'a RunView) -> Self {
        Self { plan: Some(&view.plan), ..Self::of(view) }
    }

    /// Of a run.
    pub fn of(view: &'a RunView) -> Self {
        let steps = view.plan.steps.iter().filter_map(|step| view.step(&step.name));
        Self {
            run: &view.run,
            stack: &view.plan.stack,
            playbook: &view.plan.playbook,
            mode: view.plan.mode.word(),
            hash: &view.hash,
            started: view.started,
            last: view.last,
            outcome: view.outcome,
            state: standing(view),
            past_return: view.is_past_return(),
            plan: None,
            steps: steps
                .map(|(planned, step)| StepReport {
                    name: &planned.name,
                    phase: planned.phase.word(),
                    action: planned.action.kind(),
                    state: word(view, step.state),
                    critical: planned.critical,
                    attempts: step.attempts,
                    began: step.began,
                    changed: step.changed,
                    why: step.why.as_deref(),
                    outputs: step.outputs.clone(),
                    approved_by: step.approvals.iter().map(|one| one.who.to_string()).collect(),
                    approval: Asked::of(view, planned),
                    by_hand: match &planned.action {
                        ActionSpec::Manual(manual) => Some(told(&manual.text, view)),
                        _ => None,
                    },
                })
                .collect(),
        }
    }
}

/// The word for a state: what was pending at the end was not executed.
pub fn word(view: &RunView, state: StepState) -> &'static str {
    match (view.outcome, state) {
        (Some(_), StepState::Pending | StepState::Waiting) => "not executed",
        _ => state.word(),
    }
}

/// The error event that a run ends with which did not succeed, for programs; people were told.
pub fn end(printer: &Printer, view: &RunView, steps: &[String], status: ExitStatus) {
    if !printer.is_json() || status == ExitStatus::Done {
        return;
    }
    let kind = match status {
        ExitStatus::Waiting => ErrorKind::Waiting,
        _ => ErrorKind::Failed,
    };
    let mut error = Error::new(kind, format!("run {}: {}", view.run, standing(view)));
    let of = |name: &String| view.step(name).and_then(|(_, step)| step.why.clone());
    let failed =
        |state| matches!(state, StepState::Failed | StepState::Unknown | StepState::UndoFailed);
    let all: Vec<String> = match steps {
        [] => view.plan.steps.iter().map(|step| step.name.clone()).collect(),
        steps => steps.to_vec(),
    };
    let whys: Vec<String> = all
        .iter()
        .filter(|name| failed(view.state(name)))
        .filter_map(|name| Some(format!("`{name}`: {}", of(name)?)))
        .collect();
    if !whys.is_empty() {
        error = error.with_source(whys.join("; "));
    }
    if view.outcome.is_none() {
        error = error.hint(format!("`backstay playbook show {}` tells what can be done", view.run));
    }
    printer.last_error(&error, status);
}

/// What a person has to do about a run that does not go on by itself.
pub fn instructions(printer: &Printer, view: &RunView, steps: &[String]) -> Result<()> {
    let run = &view.run;
    for name in steps {
        let Some((planned, step)) = view.step(name) else { continue };
        match (&planned.action, step.state) {
            (ActionSpec::Approval(wanted), StepState::Waiting) => {
                let (given, of) = approval::count(view, planned)?;
                let text = wanted
                    .text
                    .as_deref()
                    .map(|text| format!(": {}", told(text, view)))
                    .unwrap_or_default();
                printer.talk(format!("`{name}` waits for approval, {given} of {of} given{text}"));
                printer.hint(&format!("backstay playbook approve {run} {name} --as NAME"));
            }
            (ActionSpec::Manual(manual), StepState::Waiting) => {
                printer
                    .talk(format!("`{name}` is to be done by hand: {}", told(&manual.text, view)));
                printer
                    .hint(&format!("backstay playbook attest {run} {name} --text 'HOW YOU KNOW'"));
            }
            (_, state) => {
                let why = step.why.as_deref().unwrap_or_default();
                let what = match state {
                    StepState::Unknown => "may or may not be done",
                    StepState::UndoFailed => "could not be taken back",
                    _ => "failed",
                };
                printer.talk(format!("`{name}` {what}: {why}"));
                printer.hint(&format!("try it again: backstay playbook retry-step {run} {name}"));
                if matches!(planned.action, ActionSpec::Role(_)) && state != StepState::UndoFailed {
                    continue;
                }
                printer.hint(&format!(
                    "it is done: backstay playbook attest {run} {name} --text 'HOW YOU KNOW'"
                ));
                printer.hint(&format!(
                    "do without it: backstay playbook skip-step {run} {name} --reason WHY"
                ));
            }
        }
    }
    printer.hint(&format!("then: backstay playbook resume {run}"));
    if view.unwinding.is_none() {
        printer.hint(&if view.is_past_return() {
            format!("or leave it as it is: backstay playbook abort {run} --leave --reason WHY")
        } else {
            format!("or take back what was done: backstay playbook abort {run} --reason WHY")
        });
    }
    Ok(())
}
