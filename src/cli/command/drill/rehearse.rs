//! A drill of one playbook, whether or not the policy has one: what `playbook check --level rehearse` does.

use std::path::Path;

use serde::Serialize;

use super::run::{Given, When, bad, carry_out, refuse_inside, status_of, tell_outcome};
use crate::cli::ExitStatus;
use crate::cli::setup::App;
use crate::drill::evidence::{Evidence, Mode};
use crate::drill::plan::{Plan, Rehearsed, Wanted, plan};
use crate::drill::ready::Looking;
use crate::error::{Error, Result};
use crate::policy::{Drill, Playbook, Policy};

/// How a playbook is rehearsed.
pub struct How<'a> {
    /// A directory with room for what is recovered, where it is not the policy's or the system's.
    pub scratch: Option<&'a Path>,
    /// The directory of PostgreSQL's programs, where it is not the policy's and not to be looked for.
    pub programs: Option<&'a Path>,
    /// Evidence is left in a repository.
    pub evidence: bool,
}

/// A playbook that was rehearsed.
#[derive(Serialize)]
pub struct Rehearsal {
    stack: String,
    playbook: String,
    level: &'static str,
    /// Steps that were done in the sandbox.
    rehearsed: Vec<Part>,
    /// Steps that were not, each with the reason.
    not_rehearsed: Vec<Part>,
    /// What came of it; none where it restores nothing, so that there is nothing to rehearse.
    #[serde(skip_serializing_if = "Option::is_none")]
    evidence: Option<Evidence>,
    /// Where the evidence lies.
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<String>,
    /// Why it does not lie there.
    #[serde(skip)]
    not_kept: Option<Error>,
}

/// A step of a playbook.
#[derive(Debug, Serialize)]
struct Part {
    phase: String,
    step: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// Restores what the playbook restores into a sandbox, and looks at it there. Nothing of production is touched.
///
/// # Errors
/// Where it cannot begin.
pub fn rehearse(app: &App, policy: &Policy, playbook: &str, how: &How<'_>) -> Result<Rehearsal> {
    let (policy, name, planned) = with_drill(policy, playbook);
    let repository = app.global.repository.clone().filter(|_| app.repository_url().is_none());
    let wanted = Wanted { name: Some(name.clone()), repository, ..Wanted::default() };
    let plan = plan(&policy, &wanted)?;
    let mut rehearsal = Rehearsal {
        stack: policy.stack.clone(),
        playbook: playbook.to_owned(),
        level: "rehearse",
        rehearsed: steps_done(&policy, playbook, &plan),
        not_rehearsed: left_out(&plan),
        evidence: None,
        place: None,
        not_kept: None,
    };
    // A plan without a restore would be of the whole stack.
    if plan.mode != Mode::Playbook {
        let all = policy.playbooks.get(playbook).map(Playbook::placed).unwrap_or_default();
        rehearsal.not_rehearsed = all
            .iter()
            .map(|one| Part {
                phase: one.phase.word().to_owned(),
                step: one.name.to_owned(),
                why: Some("the playbook restores nothing".to_owned()),
            })
            .collect();
        return Ok(rehearsal);
    }
    let open_now = |name: &str| app.open_as_of(&policy, name, None);
    let read = |name: &str, at| app.open_as_of(&policy, name, at);
    let named = planned.then_some(name);
    let drill = policy.drills.get(&plan.name).cloned().unwrap_or_default();
    let given =
        Given { policy: &policy, name: named, open: &open_now, read: &read, commands: true };
    let temporary = std::env::temp_dir();
    let scratch = how.scratch.or(drill.scratch.as_deref()).unwrap_or(&temporary);
    refuse_inside(&policy, scratch)?;
    let when = When::of(app, &plan, None)?;
    let open = |name: &str| {
        let opened = read(name, when.repository_at)?;
        Ok((opened.repository, opened.keys))
    };
    let programs = how.programs.or(drill.programs.as_deref());
    let looking =
        Looking { policy: &policy, drill: &drill, open: &open, scratch, programs, commands: true };
    let (evidence, kept) = carry_out(app, &given, &plan, &looking, &when, how.evidence)?;
    rehearsal.evidence = Some(evidence);
    match kept {
        Ok(place) => rehearsal.place = place,
        Err(error) => rehearsal.not_kept = Some(error),
    }
    Ok(rehearsal)
}

/// The policy with a drill of the playbook, its name, and whether the policy had it: one that it has says
/// what is looked at and where the evidence goes.
fn with_drill(policy: &Policy, playbook: &str) -> (Policy, String, bool) {
    let fits = |drill: &&Drill| drill.playbook.as_deref() == Some(playbook);
    let found = policy.drills.iter().find(|(_, drill)| fits(drill)).map(|(name, _)| name.clone());
    if let Some(name) = found {
        return (policy.clone(), name, true);
    }
    let name = format!("rehearse-{playbook}");
    let mut policy = policy.clone();
    let drill = Drill { playbook: Some(playbook.to_owned()), ..Drill::default() };
    policy.drills.insert(name.clone(), drill);
    (policy, name, false)
}

/// The steps that restore, and the queries that are asked of what they brought back.
fn steps_done(policy: &Policy, playbook: &str, plan: &Plan) -> Vec<Part> {
    let all = policy.playbooks.get(playbook).map(Playbook::placed).unwrap_or_default();
    let is_done = |phase: &str, name: &str| {
        !plan.not_executed.iter().any(|(at, step, _)| at == phase && step == name)
    };
    let asked = |phase: &str, name: &str| {
        let asked = |one: &&Rehearsed| one.phase == phase && one.name == name;
        plan.rehearsed.iter().find(asked).map(|one| format!("asked of {}", one.source))
    };
    all.iter()
        .map(|one| (one.phase.word(), one.name))
        .filter(|(phase, name)| is_done(phase, name))
        .map(|(phase, name)| Part {
            phase: phase.to_owned(),
            step: name.to_owned(),
            why: asked(phase, name),
        })
        .collect()
}

fn left_out(plan: &Plan) -> Vec<Part> {
    let step = |(phase, step, why): &(String, String, String)| Part {
        phase: phase.clone(),
        step: step.clone(),
        why: Some(why.clone()),
    };
    plan.not_executed.iter().map(step).collect()
}

impl Rehearsal {
    /// Tells people what came of it.
    pub fn tell(&self, app: &App) -> Result<()> {
        match &self.evidence {
            Some(evidence) => tell_outcome(app, evidence, self.place.as_ref())?,
            None => app.printer.data(format!(
                "NOT REHEARSED  {}/{}: it restores nothing",
                self.stack, self.playbook
            ))?,
        }
        for one in &self.rehearsed {
            let how = one.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            app.printer.data(format!("  rehearsed: {}/{}{how}", one.phase, one.step))?;
        }
        for one in &self.not_rehearsed {
            let why = one.why.as_deref().unwrap_or_default();
            app.printer.data(format!("  not rehearsed: {}/{}: {why}", one.phase, one.step))?;
        }
        if self.evidence.is_some() && self.place.is_none() && self.not_kept.is_none() {
            app.printer.talk("no evidence is left of it");
        }
        Ok(())
    }

    /// How the command ends; `None` where there was nothing to rehearse.
    pub fn status(&self) -> Option<ExitStatus> {
        match self.not_kept {
            Some(_) => Some(ExitStatus::Failed),
            None => self.evidence.as_ref().map(status_of),
        }
    }

    /// What it is of.
    pub fn playbook(&self) -> &str {
        &self.playbook
    }

    /// Tells why evidence is not where it should be, and programs why it did not end well.
    pub fn tell_bad(&self, app: &App) {
        if let Some(error) = &self.not_kept {
            app.printer.error(error);
        }
        if !app.printer.is_json() {
            return;
        }
        if let Some(evidence) = self.evidence.as_ref().filter(|one| !one.verdict.is_good()) {
            app.printer.error(&bad(evidence));
        }
    }
}
