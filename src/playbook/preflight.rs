//! A look at everything that a plan will need, before it is carried out. Reads only.

use serde::Serialize;

use super::action::{Job, Make, Preview};
use super::compile::{Plan, PlannedStep};
use super::record::{Event, Outputs, Person, Record, VERSION};
use super::template;
use super::view::RunView;
use crate::error::{Error, ErrorKind, Result};
use crate::policy::uses;
use crate::run::{Context, host_name};
use crate::store::Worker;

/// What was found of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The step.
    pub step: String,
    /// Its phase.
    pub phase: &'static str,
    /// Its action.
    pub action: &'static str,
    /// What would be done.
    pub what: String,
    /// What keeps it from being done now.
    pub problems: Vec<String>,
    /// How much of what was written would be lost, in seconds.
    #[serde(rename = "loss_seconds", skip_serializing_if = "Option::is_none")]
    pub loss: Option<u64>,
}

/// Asks every step what it would do. One that uses outputs of others can only say so: they are not
/// known before these are done.
pub fn preflight(plan: &Plan, make: &Make<'_>, who: Person, cx: &Context) -> Result<Vec<Finding>> {
    let record = Record {
        version: VERSION,
        run: "RUN".to_owned(),
        number: 1,
        previous: String::new(),
        time: cx.clock.now(),
        by: Worker::here(host_name()),
        nonce: String::new(),
        event: Event::Started { plan: plan.clone(), hash: plan.hash()?, who },
    };
    let view = RunView::replay(&[record])?.ok_or_else(|| Error::failed("the plan is empty"))?;
    let mut findings = Vec::new();
    for step in &plan.steps {
        cx.reporter.check()?;
        let preview = look(&view, step, make, cx)?;
        findings.push(Finding {
            step: step.name.clone(),
            phase: step.phase.word(),
            action: step.action.kind(),
            what: match &step.when {
                Some(condition) if !step.excluded => {
                    format!("only where {condition}: {}", preview.what)
                }
                _ => preview.what,
            },
            problems: preview.problems,
            loss: preview.loss,
        });
    }
    Ok(findings)
}

fn look(view: &RunView, step: &PlannedStep, make: &Make<'_>, cx: &Context) -> Result<Preview> {
    if step.excluded {
        return Ok(Preview::of(format!("not in mode {}", view.plan.mode.word())));
    }
    let spec = match template::resolve(&step.action, view) {
        Ok(spec) => spec,
        // What is not known yet is shown as it is written.
        Err(_) if has_uses(step) => step.action.clone(),
        Err(error) => return Ok(Preview::of("cannot be told").missing(error.chain())),
    };
    let before = Outputs::new();
    let job = Job {
        run: &view.run,
        stack: &view.plan.stack,
        step: &step.name,
        mode: view.plan.mode,
        attempt: 1,
        epoch: 1,
        started: view.started,
        began: view.started,
        at: view.plan.at,
        before: &before,
        deadline: None,
        cx,
    };
    match make(&spec).and_then(|action| action.preview(&job)) {
        Ok(preview) => Ok(preview),
        Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
        Err(error) => Ok(Preview::of("cannot be told").missing(error.chain())),
    }
}

fn has_uses(step: &PlannedStep) -> bool {
    serde_json::to_string(&step.action).is_ok_and(|text| !uses(&text).is_empty())
}
