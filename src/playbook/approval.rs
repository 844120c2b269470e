//! What people agree to: the plan, and what is known when they do. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::compile::PlannedStep;
use super::record::Outputs;
use super::view::RunView;
use crate::archive::digest::sha256_hex;
use crate::error::{Error, Result};
use crate::policy::ActionSpec;

/// What an approval is bound to, as hex: the hash of the plan, the step, and everything that the
/// steps before it found, such as recovery points and the loss that is to be expected. When any of
/// it changes, an approval no longer counts.
pub fn binds(view: &RunView, step: &PlannedStep) -> Result<String> {
    let text = serde_json::to_vec(&(&view.hash, &step.name, known(view, step)))
        .map_err(|error| Error::failed("failed to write what is approved").with_source(error))?;
    Ok(sha256_hex(&text))
}

/// What the steps before `step` left, by step.
pub fn known<'a>(view: &'a RunView, step: &'a PlannedStep) -> BTreeMap<&'a str, &'a Outputs> {
    view.earlier(step)
        .into_iter()
        .filter_map(|one| Some((one.name.as_str(), &view.steps.get(&one.name)?.outputs)))
        .filter(|(_, outputs)| !outputs.is_empty())
        .collect()
}

/// Whether two names are of one person: who writes a name in another case is nobody else.
fn one_person(name: &str, other: &str) -> bool {
    folded(name) == folded(other)
}

fn folded(name: &str) -> String {
    name.to_lowercase()
}

/// Whether a person agreed to what is known now, asked for or not.
pub fn has_agreed(view: &RunView, step: &PlannedStep, name: &str) -> Result<bool> {
    let binds = binds(view, step)?;
    let given = view.steps.get(&step.name).map(|step| step.approvals.as_slice());
    Ok(given
        .unwrap_or_default()
        .iter()
        .any(|one| one.binds == binds && one_person(&one.who.name, name)))
}

/// Those who agreed to what is known now.
pub fn people(view: &RunView, step: &PlannedStep) -> Result<BTreeSet<String>> {
    let ActionSpec::Approval(wanted) = &step.action else { return Ok(BTreeSet::new()) };
    let binds = binds(view, step)?;
    let given = view.steps.get(&step.name).map(|step| step.approvals.as_slice());
    Ok(given
        .unwrap_or_default()
        .iter()
        .filter(|approval| approval.binds == binds)
        .map(|approval| approval.who.name.clone())
        .filter(|name| wanted.from.is_empty() || wanted.from.contains(name))
        .map(|name| (folded(&name), name))
        .collect::<BTreeMap<_, _>>()
        .into_values()
        .collect())
}

/// How many people agreed to what is known now, and how many have to.
pub fn count(view: &RunView, step: &PlannedStep) -> Result<(u32, u32)> {
    let ActionSpec::Approval(wanted) = &step.action else { return Ok((0, 1)) };
    Ok((people(view, step)?.len() as u32, wanted.of))
}

/// Whether enough people agreed.
pub fn is_granted(view: &RunView, step: &PlannedStep) -> Result<bool> {
    let (given, wanted) = count(view, step)?;
    Ok(given >= wanted)
}
