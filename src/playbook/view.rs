//! Where a run stands, from its records. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::compile::{Plan, PlannedStep};
use super::record::{Event, Outcome, Outputs, Person, Record};
use super::transition::{self, StepState};
use crate::error::{Error, Result};
use crate::policy::ActionSpec;

/// Where a run stands.
#[derive(Debug, Clone, Serialize)]
pub struct RunView {
    /// The run.
    pub run: String,
    /// What it does.
    #[serde(skip)]
    pub plan: Plan,
    /// The plan's hash.
    pub hash: String,
    /// Who started it.
    pub who: Person,
    /// When.
    pub started: Timestamp,
    /// When the last record was written.
    pub last: Timestamp,
    /// How often somebody went on with it.
    pub epoch: u64,
    /// Where each step stands.
    pub steps: BTreeMap<String, StepView>,
    /// Why what was done is taken back, if it is.
    pub unwinding: Option<String>,
    /// How it ended, if it did.
    pub outcome: Option<Outcome>,
}

/// Where a step stands.
#[derive(Debug, Clone, Serialize)]
pub struct StepView {
    /// Its state.
    pub state: StepState,
    /// How often it began.
    pub attempts: u32,
    /// When it began first.
    pub began: Option<Timestamp>,
    /// When it was last written of.
    pub changed: Option<Timestamp>,
    /// How things were before.
    pub before: Outputs,
    /// What it left.
    pub outputs: Outputs,
    /// Why it is not done, or what was attested.
    pub why: Option<String>,
    /// Who agreed.
    pub approvals: Vec<Approval>,
    /// A person skipped it.
    pub by_person: bool,
    /// It was begun, and is not to be taken back any more: a person said so.
    pub left: bool,
}

/// A person's approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Approval {
    /// Who.
    pub who: Person,
    /// What exactly they agreed to.
    pub binds: String,
    /// When.
    pub time: Timestamp,
}

impl StepView {
    /// Whether the plan itself did without it: by its condition, or in this mode.
    pub fn is_left_out(&self) -> bool {
        self.state == StepState::Skipped && !self.by_person
    }

    const fn new() -> Self {
        Self {
            state: StepState::Pending,
            attempts: 0,
            began: None,
            changed: None,
            before: Outputs::new(),
            outputs: Outputs::new(),
            why: None,
            approvals: Vec::new(),
            by_person: false,
            left: false,
        }
    }
}

impl RunView {
    /// Reads all records of a run. `None` where there are none.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Damaged`] where they say what cannot have happened.
    pub fn replay(records: &[Record]) -> Result<Option<Self>> {
        let Some((first, rest)) = records.split_first() else { return Ok(None) };
        let Event::Started { plan, hash, who } = &first.event else {
            return Err(Error::damaged(format!("run {} does not begin with a plan", first.run)));
        };
        plan.check_version()?;
        if plan.hash()? != *hash {
            let what = format!("the plan of run {} is not what its hash says", first.run);
            return Err(Error::damaged(what));
        }
        let steps = plan.steps.iter().map(|step| (step.name.clone(), StepView::new())).collect();
        let mut view = Self {
            run: first.run.clone(),
            plan: plan.clone(),
            hash: hash.clone(),
            who: who.clone(),
            started: first.time,
            last: first.time,
            epoch: 1,
            steps,
            unwinding: None,
            outcome: None,
        };
        rest.iter().try_for_each(|record| view.apply(record))?;
        Ok(Some(view))
    }

    /// Takes in one more record: the same way live and in replay.
    pub fn apply(&mut self, record: &Record) -> Result<()> {
        let impossible = |why: String| {
            Error::damaged(format!("record {} of run {}: {why}", record.number, record.run))
        };
        if self.outcome.is_some() {
            return Err(impossible("the run was over".to_owned()));
        }
        self.last = record.time;
        match &record.event {
            Event::Started { .. } => return Err(impossible("it began before".to_owned())),
            Event::TakenOver { epoch } if *epoch == self.epoch + 1 => self.epoch = *epoch,
            Event::TakenOver { epoch } => {
                return Err(impossible(format!("epoch {epoch} after {}", self.epoch)));
            }
            Event::Unwinding { why, .. } => {
                if self.is_past_return() {
                    return Err(impossible("the point of no return was passed".to_owned()));
                }
                self.unwinding = Some(why.clone());
            }
            Event::Ended { outcome, .. } => self.outcome = Some(*outcome),
            event => {
                let Some((name, happened)) = event.of_step() else { return Ok(()) };
                let Some(step) = self.steps.get_mut(name) else {
                    return Err(impossible(format!("there is no step `{name}`")));
                };
                let before = step.state;
                step.state = transition::next(step.state, happened).ok_or_else(|| {
                    impossible(format!("{happened:?} of `{name}`, which was {}", step.state.word()))
                })?;
                step.left |= before == StepState::UndoFailed && step.state == StepState::Skipped;
                step.changed = Some(record.time);
                step.take(event, record.time);
            }
        }
        Ok(())
    }

    /// A step of the plan, and where it stands.
    pub fn step(&self, name: &str) -> Option<(&PlannedStep, &StepView)> {
        Some((self.plan.step(name)?, self.steps.get(name)?))
    }

    /// The state of a step.
    pub fn state(&self, name: &str) -> StepState {
        self.steps.get(name).map_or(StepState::Pending, |step| step.state)
    }

    /// Whether a step began after which nothing is undone.
    pub fn is_past_return(&self) -> bool {
        self.plan.steps.iter().filter(|step| step.point_of_no_return).any(|step| {
            // Who does without one that was begun does not know what it left behind.
            let begun = self.steps.get(&step.name).is_some_and(|step| step.attempts > 0);
            match self.state(&step.name) {
                // Who was asked to do it by hand may be at it, or have done it.
                StepState::Waiting => matches!(step.action, ActionSpec::Manual(_)),
                StepState::Pending => false,
                StepState::Skipped => begun,
                _ => true,
            }
        })
    }

    /// Whether what comes after a step may begin: it is done, or it failed and the run goes on all
    /// the same.
    pub fn is_settled(&self, step: &PlannedStep) -> bool {
        let state = self.state(&step.name);
        state.is_done() || (state == StepState::Failed && !step.critical)
    }

    /// Every step that is done whenever `step` begins.
    pub fn earlier<'a>(&'a self, step: &'a PlannedStep) -> Vec<&'a PlannedStep> {
        let mut names: Vec<&str> = step.needs.iter().map(String::as_str).collect();
        let mut at = 0;
        while at < names.len() {
            if let Some(step) = self.plan.step(names[at]) {
                for name in &step.needs {
                    if !names.contains(&name.as_str()) {
                        names.push(name);
                    }
                }
            }
            at += 1;
        }
        self.plan.steps.iter().filter(|one| names.contains(&one.name.as_str())).collect()
    }
}

impl StepView {
    fn take(&mut self, event: &Event, time: Timestamp) {
        match event {
            Event::Approved { who, binds, .. } => {
                self.approvals.retain(|approval| approval.who.name != who.name);
                self.approvals.push(Approval { who: who.clone(), binds: binds.clone(), time });
            }
            Event::Intended { attempt, before, .. } => {
                self.attempts = *attempt;
                self.began.get_or_insert(time);
                // How things were before the first attempt is what undoing goes back to.
                if self.before.is_empty() {
                    self.before.clone_from(before);
                }
            }
            Event::Succeeded { outputs, .. } => {
                self.outputs.clone_from(outputs);
                self.why = None;
            }
            Event::Tried { why, .. }
            | Event::Failed { why, .. }
            | Event::Lost { why, .. }
            | Event::UndoFailed { why, .. } => self.why = Some(why.clone()),
            Event::Skipped { why, who, .. } => {
                self.why = Some(why.clone());
                self.by_person = who.is_some();
            }
            Event::Attested { text, .. } => self.why = Some(text.clone()),
            Event::Retried { .. } => self.why = None,
            _ => {}
        }
    }
}
