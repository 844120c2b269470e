//! What people do to a run: each is one record, written under the lease, so that nobody acts meanwhile.

use super::approval;
use super::compile::PlannedStep;
use super::engine::take_lease;
use super::journal::{Journal, Place};
use super::record::{Event, Outcome, Person};
use super::transition::StepState;
use super::view::{RunView, StepView};
use crate::error::{Error, ErrorKind, Result};
use crate::policy::ActionSpec;
use crate::run::Context;

/// What a person wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// To agree to a step.
    Approve {
        /// The step.
        step: String,
        /// What they were shown and agree to; what is known now if `None`.
        binds: Option<String>,
        /// In their words.
        reason: Option<String>,
    },
    /// To say that a step is done.
    Attest {
        /// The step.
        step: String,
        /// How they know.
        text: String,
    },
    /// That a step is not done.
    Skip {
        /// The step.
        step: String,
        /// Why.
        why: String,
    },
    /// That a step is tried again.
    Retry {
        /// The step.
        step: String,
    },
    /// That what was done is taken back.
    Undo {
        /// Why.
        why: String,
    },
    /// That the run is over, and everything stays as it is.
    Leave {
        /// Why.
        why: String,
    },
}

/// Writes down what a person wants, and gives where the run stands then.
pub fn operate(place: &Place, who: &Person, wish: &Wish, cx: &Context) -> Result<RunView> {
    let (_, records) = Journal::open(place)?;
    let missing = || Error::not_found(format!("there is no run {}", place.run));
    let view = RunView::replay(&records)?.ok_or_else(missing)?;
    let what = format!("change run {}", place.run);
    let _lease = take_lease(place, &view.plan.stack, view.plan.mode, &what, cx)?;
    // Again: somebody may have acted until the lease was ours.
    let (mut journal, records) = Journal::open(place)?;
    let mut view = RunView::replay(&records)?.ok_or_else(missing)?;
    let event = event(&view, who, wish)?;
    let record = journal.append(event)?;
    view.apply(&record)?;
    Ok(view)
}

/// What is written down. Pure.
pub fn event(view: &RunView, who: &Person, wish: &Wish) -> Result<Event> {
    if let Some(outcome) = view.outcome {
        let what = format!("run {} is over: {}", view.run, outcome.words());
        return Err(Error::new(ErrorKind::Conflict, what));
    }
    let who = who.clone();
    match wish {
        Wish::Approve { step, binds, reason } => {
            let (planned, state) = find(view, step)?;
            check_approver(view, planned, state, &who)?;
            let now = approval::binds(view, planned)?;
            if binds.as_ref().is_some_and(|shown| *shown != now) {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("what `{step}` asks for is not what it was when it was shown"),
                )
                .hint(format!("look again: `backstay playbook show {}`", view.run)));
            }
            Ok(Event::Approved { step: step.clone(), who, binds: now, reason: reason.clone() })
        }
        Wish::Attest { step, text } => {
            let (planned, state) = find(view, step)?;
            refuse_approval(planned, "attested")?;
            refuse_role(planned, state, "attested")?;
            let fits = matches!(
                state.state,
                StepState::Waiting | StepState::Failed | StepState::Unknown | StepState::UndoFailed
            );
            let words = "one that waits, failed, or of which nobody knows can be attested";
            check(fits, step, state, words)?;
            Ok(Event::Attested { step: step.clone(), who, text: text.clone() })
        }
        Wish::Skip { step, why } => {
            let (planned, state) = find(view, step)?;
            refuse_approval(planned, "skipped")?;
            refuse_role(planned, state, "skipped")?;
            let fits = matches!(
                state.state,
                StepState::Waiting | StepState::Failed | StepState::Unknown | StepState::UndoFailed
            );
            let words = "one that waits, failed, or of which nobody knows can be skipped";
            check(fits, step, state, words)?;
            Ok(Event::Skipped { step: step.clone(), why: why.clone(), who: Some(who) })
        }
        Wish::Retry { step } => {
            let (_, state) = find(view, step)?;
            let fits = matches!(
                state.state,
                StepState::Failed | StepState::Unknown | StepState::UndoFailed
            );
            check(fits, step, state, "one that failed can be tried again")?;
            Ok(Event::Retried { step: step.clone(), who })
        }
        Wish::Undo { why } => {
            if view.unwinding.is_some() {
                let what = format!("run {} is being taken back already", view.run);
                return Err(Error::new(ErrorKind::Conflict, what)
                    .hint(format!("`backstay playbook resume {}` goes on with that", view.run)));
            }
            if view.is_past_return() {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("run {} is past its point of no return", view.run),
                )
                .hint("forward is the way: `resume`, or another playbook, such as a failback")
                .hint("`abort --leave` ends the run and leaves everything as it is"));
            }
            Ok(Event::Unwinding { why: why.clone(), who: Some(who) })
        }
        Wish::Leave { why } => {
            Ok(Event::Ended { outcome: Outcome::Left, who: Some(who), why: Some(why.clone()) })
        }
    }
}

fn find<'a>(view: &'a RunView, name: &str) -> Result<(&'a PlannedStep, &'a StepView)> {
    view.plan.named(name)?;
    view.step(name).ok_or_else(|| Error::not_found(format!("there is no step `{name}`")))
}

fn check(fits: bool, step: &str, state: &StepView, hint: &str) -> Result<()> {
    if fits {
        return Ok(());
    }
    let what = format!("the step `{step}` is {}", state.state.word());
    Err(Error::new(ErrorKind::Conflict, what).hint(hint))
}

/// An approval is given, and nothing else takes its place.
fn refuse_approval(step: &PlannedStep, what: &str) -> Result<()> {
    if matches!(step.action, ActionSpec::Approval(_)) {
        return Err(Error::usage(format!("`{}` is an approval, which is not {what}", step.name))
            .hint("those it asks for give it with `backstay playbook approve`"));
    }
    Ok(())
}

/// Which site is the active one is written where everybody looks, and nobody's word takes its place.
fn refuse_role(step: &PlannedStep, state: &StepView, what: &str) -> Result<()> {
    if matches!(step.action, ActionSpec::Role(_)) && state.state != StepState::UndoFailed {
        let name = &step.name;
        return Err(Error::usage(format!(
            "`{name}` makes a site the active one, and is not {what}"
        ))
        .hint("`backstay role show` tells which site is; `retry-step` tries again"));
    }
    Ok(())
}

fn check_approver(
    view: &RunView,
    step: &PlannedStep,
    state: &StepView,
    who: &Person,
) -> Result<()> {
    let ActionSpec::Approval(wanted) = &step.action else {
        return Err(Error::usage(format!("`{}` asks for no approval", step.name)));
    };
    check(state.state == StepState::Waiting, &step.name, state, "only one that waits is approved")?;
    if !wanted.from.is_empty() && !wanted.from.contains(&who.name) {
        return Err(Error::new(
            ErrorKind::Denied,
            format!("`{}` is not among those whom `{}` asks", who.name, step.name),
        )
        .hint(format!("it asks {}; say who you are with `--as NAME`", wanted.from.join(", "))));
    }
    if approval::has_agreed(view, step, &who.name)? {
        let what = format!("`{}` has approved `{}` already", who.name, step.name);
        return Err(Error::new(ErrorKind::Conflict, what).hint("somebody else has to"));
    }
    Ok(())
}
