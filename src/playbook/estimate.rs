//! How long a plan will take, from how long its steps took before. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use super::compile::Plan;
use super::transition::StepState;
use super::view::RunView;

/// How long a plan will take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    /// Seconds, without the time that people take to decide.
    pub seconds: f64,
    /// From so many runs.
    pub runs: usize,
    /// Steps of which nobody knows how long they take: they were never done.
    pub unknown: Vec<String>,
}

/// Estimates from earlier runs of the same playbook. `None` where no step was ever done.
pub fn estimate(plan: &Plan, runs: &[RunView]) -> Option<Estimate> {
    let of = |view: &&RunView| {
        view.plan.playbook == plan.playbook
            && view.plan.stack == plan.stack
            && view.plan.mode == plan.mode
    };
    let runs: Vec<&RunView> = runs.iter().filter(of).collect();
    let mut ends: BTreeMap<&str, f64> = BTreeMap::new();
    let mut unknown = Vec::new();
    let mut known = false;
    for step in &plan.steps {
        let begins = step.needs.iter().filter_map(|need| ends.get(need.as_str())).copied();
        let begins = begins.fold(0.0, f64::max);
        let took = if step.excluded || step.action.is_gate() {
            0.0
        } else {
            let mut times: Vec<f64> =
                runs.iter().filter_map(|view| took(view, &step.name)).collect();
            times.sort_by(f64::total_cmp);
            known |= !times.is_empty();
            times.get(times.len() / 2).copied().unwrap_or_else(|| {
                // One with a condition is often not done.
                if step.when.is_none() {
                    unknown.push(step.name.clone());
                }
                0.0
            })
        };
        ends.insert(&step.name, begins + took);
    }
    let seconds = ends.values().copied().fold(0.0, f64::max);
    known.then_some(Estimate { seconds, runs: runs.len(), unknown })
}

/// How long a step took in a run in which it was done.
fn took(view: &RunView, name: &str) -> Option<f64> {
    let step = view.steps.get(name).filter(|step| step.state == StepState::Succeeded)?;
    Some(step.changed?.duration_since(step.began?).as_secs_f64())
}
