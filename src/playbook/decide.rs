//! What is to be done now. Pure: where a run stands and what is under way go in, moves come out.

use std::collections::BTreeSet;

use super::approval;
use super::compile::PlannedStep;
use super::loss;
use super::record::Outcome;
use super::transition::StepState;
use super::view::{RunView, StepView};
use crate::error::Result;
use crate::policy::{ActionSpec, Mode, OnFailure};

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// These begin now.
    Go(Vec<Move>),
    /// Something is under way, and what comes of it is waited for.
    Busy,
    /// Nothing can be done before these people decided.
    Wait(Vec<String>),
    /// These keep the run from going on, until a person does something about them.
    Stuck(Vec<String>),
    /// It is over.
    Over(Outcome),
}

/// One thing that is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Move {
    /// A step is not to be done.
    Skip {
        /// The step.
        step: String,
        /// Why.
        why: String,
    },
    /// A person is to be asked.
    Ask(String),
    /// Enough people agreed.
    Grant(String),
    /// A step begins.
    Apply(String),
    /// A step is under way, as far as is written down, and nobody does it: somebody has to look.
    Settle(String),
    /// What was done is taken back from here on.
    Unwind(String),
    /// A step is taken back.
    Undo(String),
    /// A step is being taken back, as far as is written down: somebody has to look.
    SettleUndo(String),
    /// The run ends.
    End(Outcome),
}

impl Move {
    /// The step that it is about.
    pub fn step(&self) -> Option<&str> {
        match self {
            Self::Skip { step, .. }
            | Self::Ask(step)
            | Self::Grant(step)
            | Self::Apply(step)
            | Self::Settle(step)
            | Self::Undo(step)
            | Self::SettleUndo(step) => Some(step),
            Self::Unwind(_) | Self::End(_) => None,
        }
    }
}

/// Decides. `running` are the steps that this process is at work on.
pub fn decide(view: &RunView, running: &BTreeSet<String>) -> Result<Decision> {
    if let Some(outcome) = view.outcome {
        return Ok(Decision::Over(outcome));
    }
    // What was under way when somebody else stopped comes first: nothing else is known before.
    let left: Vec<Move> = view
        .plan
        .steps
        .iter()
        .filter(|step| !running.contains(&step.name))
        .filter_map(|step| match view.state(&step.name) {
            StepState::Intended => Some(Move::Settle(step.name.clone())),
            StepState::Undoing => Some(Move::SettleUndo(step.name.clone())),
            _ => None,
        })
        .collect();
    if !left.is_empty() {
        return Ok(limited(view, running, left));
    }
    if view.unwinding.is_some() {
        return unwind(view, running);
    }
    let main: Vec<&PlannedStep> = view.plan.steps.iter().filter(|one| !one.is_cleanup()).collect();
    if let Some(stuck) = stopped(view, &main) {
        if !running.is_empty() {
            return Ok(Decision::Busy);
        }
        let may_undo = view.plan.on_failure == OnFailure::Undo || view.plan.mode == Mode::Drill;
        // What nobody knows to have happened, and nothing takes back, is for a person to look at.
        let unknown = main
            .iter()
            .any(|step| view.state(&step.name) == StepState::Unknown && !step.action.can_undo());
        if may_undo && !unknown && !view.is_past_return() {
            let why = format!("`{}` failed", stuck.join("`, `"));
            return Ok(Decision::Go(vec![Move::Unwind(why)]));
        }
        return Ok(Decision::Stuck(stuck));
    }
    if !main.iter().all(|step| view.is_settled(step)) {
        return forward(view, running, &main);
    }
    clean_up(view, running, outcome_of(view))
}

/// The critical steps that failed, or of which nobody knows.
fn stopped(view: &RunView, steps: &[&PlannedStep]) -> Option<Vec<String>> {
    let stuck: Vec<String> = steps
        .iter()
        .filter(|step| match view.state(&step.name) {
            StepState::Failed => step.critical,
            StepState::Unknown | StepState::UndoFailed => true,
            _ => false,
        })
        .map(|step| step.name.clone())
        .collect();
    (!stuck.is_empty()).then_some(stuck)
}

fn forward(view: &RunView, running: &BTreeSet<String>, steps: &[&PlannedStep]) -> Result<Decision> {
    let mut moves = Vec::new();
    let mut waiting = Vec::new();
    for step in steps {
        let settled = |name: &String| view.plan.step(name).is_none_or(|one| view.is_settled(one));
        if running.contains(&step.name) || !step.needs.iter().all(settled) {
            continue;
        }
        match view.state(&step.name) {
            StepState::Pending => moves.push(begin(view, step)),
            StepState::Waiting => {
                if approval::is_granted(view, step)? {
                    moves.push(Move::Grant(step.name.clone()));
                } else {
                    waiting.push(step.name.clone());
                }
            }
            _ => {}
        }
    }
    if !moves.is_empty() {
        return Ok(limited(view, running, moves));
    }
    if !running.is_empty() {
        return Ok(Decision::Busy);
    }
    Ok(Decision::Wait(waiting))
}

/// How a step that may begin does.
fn begin(view: &RunView, step: &PlannedStep) -> Move {
    let name = step.name.clone();
    if step.excluded {
        let why = format!("not in mode {}", view.plan.mode.word());
        return Move::Skip { step: name, why };
    }
    if let Some(condition) = &step.when {
        let (of, output) = condition.output.split_once('.').unwrap_or_default();
        let found = match of {
            "run" => super::template::of_run(view, output),
            _ => view.steps.get(of).and_then(|step| step.outputs.get(output).cloned()),
        };
        match found {
            Some(found) if condition.holds(&found) => {}
            Some(_) => return Move::Skip { step: name, why: format!("only where {condition}") },
            // Who would be asked at times is asked where nobody knows.
            None if step.action.is_gate() && !was_left_out(view, of) => {}
            None => {
                let why =
                    format!("only where {condition}, and `{}` is not known", condition.output);
                return Move::Skip { step: name, why };
            }
        }
    }
    if let Some(why) = loss::answered(view, step) {
        return Move::Skip { step: name, why: why.to_owned() };
    }
    match step.action {
        ActionSpec::Approval(_) | ActionSpec::Manual(_) => Move::Ask(name),
        _ => Move::Apply(name),
    }
}

/// Whether the plan itself did without a step, by its own condition: what depends on it is not done either.
fn was_left_out(view: &RunView, name: &str) -> bool {
    let left_out = view.steps.get(name).is_some_and(StepView::is_left_out);
    left_out && view.plan.step(name).is_some_and(|step| !step.excluded)
}

/// As many of the moves as may go on at once. What is only written down takes no place.
fn limited(view: &RunView, running: &BTreeSet<String>, moves: Vec<Move>) -> Decision {
    let mut room = (view.plan.parallel.max(1) as usize).saturating_sub(running.len());
    let mut chosen = Vec::new();
    for one in moves {
        let quick = matches!(one, Move::Skip { .. } | Move::Ask(_) | Move::Grant(_));
        if quick {
            chosen.push(one);
        } else if room > 0 {
            room -= 1;
            chosen.push(one);
        }
    }
    if chosen.is_empty() { Decision::Busy } else { Decision::Go(chosen) }
}

/// What is taken back next: steps after which nothing is left to be taken back.
fn unwind(view: &RunView, running: &BTreeSet<String>) -> Result<Decision> {
    let main: Vec<&PlannedStep> = view.plan.steps.iter().filter(|one| !one.is_cleanup()).collect();
    let to_undo = |step: &PlannedStep| {
        step.action.can_undo()
            && matches!(
                view.state(&step.name),
                StepState::Succeeded
                    | StepState::Attested
                    // Nobody knows what one that was begun, and then done without, left behind.
                    | StepState::Skipped
                    | StepState::Failed
                    | StepState::Unknown
            )
            // One that could not even begin has nothing to take back.
            && view.steps.get(&step.name).is_some_and(|step| step.attempts > 0 && !step.left)
    };
    let open = |step: &PlannedStep| {
        // One that was under way may turn out to be done.
        to_undo(step)
            || matches!(
                view.state(&step.name),
                StepState::Intended | StepState::Undoing | StepState::UndoFailed
            )
    };
    let moves: Vec<Move> = main
        .iter()
        .filter(|step| to_undo(step) && !running.contains(&step.name))
        .filter(|step| {
            let after = |other: &&PlannedStep| {
                open(other) && view.earlier(other).iter().any(|one| one.name == step.name)
            };
            !main.iter().any(after)
        })
        .map(|step| Move::Undo(step.name.clone()))
        .collect();
    if !moves.is_empty() {
        return Ok(limited(view, running, moves));
    }
    if !running.is_empty() {
        return Ok(Decision::Busy);
    }
    let stuck: Vec<String> = main
        .iter()
        .filter(|step| view.state(&step.name) == StepState::UndoFailed)
        .map(|step| step.name.clone())
        .collect();
    if !stuck.is_empty() {
        return Ok(Decision::Stuck(stuck));
    }
    clean_up(view, running, Outcome::Undone)
}

/// The steps at the end, and the end.
fn clean_up(view: &RunView, running: &BTreeSet<String>, outcome: Outcome) -> Result<Decision> {
    let steps: Vec<&PlannedStep> = view.plan.steps.iter().filter(|one| one.is_cleanup()).collect();
    if let Some(stuck) = stopped(view, &steps) {
        let busy = !running.is_empty();
        return Ok(if busy { Decision::Busy } else { Decision::Stuck(stuck) });
    }
    if steps.iter().all(|step| view.is_settled(step)) {
        return Ok(Decision::Go(vec![Move::End(outcome)]));
    }
    // What they need of the rest may never have been done: only their own order counts.
    let own: Vec<PlannedStep> = steps
        .iter()
        .map(|step| PlannedStep {
            needs: step
                .needs
                .iter()
                .filter(|name| view.plan.step(name).is_some_and(PlannedStep::is_cleanup))
                .cloned()
                .collect(),
            ..(*step).clone()
        })
        .collect();
    forward(view, running, &own.iter().collect::<Vec<_>>())
}

fn outcome_of(view: &RunView) -> Outcome {
    let spoiled = view.steps.values().any(|step| {
        step.state == StepState::Failed || (step.state == StepState::Skipped && step.by_person)
    });
    if spoiled { Outcome::SucceededWithFailures } else { Outcome::Succeeded }
}
