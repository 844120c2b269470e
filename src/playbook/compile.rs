//! From a playbook to a plan: what a run does, all of it, with a hash that approvals are bound to.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::loss;
use crate::archive::digest::sha256_hex;
use crate::error::{Error, ErrorKind, Result};
use crate::policy::{
    ActionSpec, Condition, Mode, OnFailure, Period, Phase, Policy, Retry, hint_at,
};

/// The version of plans that this program makes and carries out.
pub const VERSION: u32 = 1;

/// What a run does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Format version.
    #[serde(rename = "plan")]
    pub version: u32,
    /// The stack.
    pub stack: String,
    /// The playbook.
    pub playbook: String,
    /// How it is run.
    pub mode: Mode,
    /// The instant that sources are restored to; the newest if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// How many steps may go on at once.
    pub parallel: u32,
    /// What happens when a critical step fails before the point of no return.
    pub on_failure: OnFailure,
    /// In an order in which they could be done one after the other.
    pub steps: Vec<PlannedStep>,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedStep {
    /// Its name.
    pub name: String,
    /// Its phase.
    pub phase: Phase,
    /// The steps that must be done before; what these need is left out.
    pub needs: Vec<String>,
    /// What is done.
    pub action: ActionSpec,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// When it has taken too long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Period>,
    /// How often it is tried again.
    pub retry: Retry,
    /// Whether the run stops where it fails.
    pub critical: bool,
    /// It is only done where this holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Condition>,
    /// Once it begins, nothing is undone any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub point_of_no_return: bool,
    /// It is not done in this mode.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub excluded: bool,
    /// Of an approval that no playbook asks for: it is only asked where not all of these steps found that
    /// what would be lost is within the RPO.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beyond_rpo: Option<Vec<String>>,
}

/// What somebody asks for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted<'a> {
    /// The playbook.
    pub playbook: &'a str,
    /// How; the first of the playbook's modes if `None`.
    pub mode: Option<Mode>,
    /// The instant that sources are restored to.
    pub at: Option<Timestamp>,
}

/// Compiles a playbook of a policy that passed the linter. Pure.
///
/// # Errors
/// [`ErrorKind::NotFound`] for an unknown playbook, [`ErrorKind::Usage`] for a mode it is not made for.
pub fn compile(policy: &Policy, wanted: Wanted<'_>) -> Result<Plan> {
    let name = wanted.playbook;
    let playbook = policy.playbooks.get(name).ok_or_else(|| {
        let known = policy.playbooks.keys().map(String::as_str);
        Error::not_found(format!("stack {} has no playbook `{name}`", policy.stack))
            .hint(hint_at(name, known))
    })?;
    let first = playbook.modes.first().copied().unwrap_or(Mode::Graceful);
    let mode = wanted.mode.unwrap_or(first);
    if !playbook.modes.contains(&mode) {
        let modes: Vec<&str> = playbook.modes.iter().map(|mode| mode.word()).collect();
        return Err(Error::usage(format!("`{name}` is not made for mode `{}`", mode.word()))
            .hint(format!("its `modes` are {}", modes.join(", "))));
    }
    let mut steps: Vec<PlannedStep> = playbook
        .placed()
        .into_iter()
        .map(|one| PlannedStep {
            name: one.name.to_owned(),
            phase: one.phase,
            needs: one.needs.iter().map(|name| (*name).to_owned()).collect(),
            action: one.step.action.clone(),
            description: one.step.description.clone(),
            timeout: one.step.timeout,
            retry: one.step.retry.unwrap_or(Retry { times: 0, ..Retry::default() }),
            critical: one.step.critical,
            when: one.step.when.clone(),
            point_of_no_return: one.step.point_of_no_return,
            excluded: !one.step.modes.is_empty() && !one.step.modes.contains(&mode),
            beyond_rpo: None,
        })
        .collect();
    loss::guard(&mut steps, mode, policy.objectives().rpo);
    Ok(Plan {
        version: VERSION,
        stack: policy.stack.clone(),
        playbook: name.to_owned(),
        mode,
        at: wanted.at,
        parallel: playbook.parallel,
        on_failure: playbook.on_failure,
        steps,
    })
}

impl Plan {
    /// The hash of everything in it, as hex. Secrets are in it as references only.
    pub fn hash(&self) -> Result<String> {
        let text = serde_json::to_vec(self)
            .map_err(|error| Error::failed("failed to write the plan").with_source(error))?;
        Ok(sha256_hex(&text))
    }

    /// A step by its name.
    pub fn step(&self, name: &str) -> Option<&PlannedStep> {
        self.steps.iter().find(|step| step.name == name)
    }

    /// A step that a person names.
    pub fn named(&self, name: &str) -> Result<&PlannedStep> {
        self.step(name).ok_or_else(|| {
            let known = self.steps.iter().map(|step| step.name.as_str());
            Error::usage(format!("`{}` has no step `{name}`", self.playbook))
                .hint(hint_at(name, known))
        })
    }

    /// Refuses a plan that a newer program made.
    pub fn check_version(&self) -> Result<()> {
        if self.version <= VERSION {
            return Ok(());
        }
        let what = format!("the plan has version {}; this program carries out 1", self.version);
        Err(Error::new(ErrorKind::Unsupported, what).hint("use a newer backstay"))
    }
}

impl PlannedStep {
    /// Whether it is one of the steps that are done at the end in any case.
    pub fn is_cleanup(&self) -> bool {
        self.phase == Phase::Cleanup
    }
}
