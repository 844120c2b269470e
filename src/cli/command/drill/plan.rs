//! `backstay drill run --dry-run`: the plan, and whether it could be carried out.

use super::run::{Given, evidence_store};
use crate::cli::ExitStatus;
use crate::cli::format::span;
use crate::cli::setup::App;
use crate::drill::plan::Plan;
use crate::drill::ready::{Found, Looking, Ready, look};
use crate::error::Result;
use crate::telemetry::human::size;

/// Looks, and says what was found.
pub(super) fn look_only(
    app: &App,
    given: &Given<'_>,
    plan: &Plan,
    looking: &Looking<'_>,
) -> Result<ExitStatus> {
    let mut found = look(plan, looking)?;
    if let Err(error) = evidence_store(given, looking.drill, app.cx.clock.now()) {
        found.missing.push(error.chain());
    }
    let status = if found.missing.is_empty() { ExitStatus::Done } else { ExitStatus::Failed };
    if app.printer.is_json() {
        let stack = &looking.policy.stack;
        let told = serde_json::json!({
            "dry_run": true, "stack": stack, "plan": plan, "found": found,
        });
        app.printer.json(&told)?;
        return Ok(status);
    }
    tell(app, looking, plan, &found)?;
    Ok(status)
}

fn tell(app: &App, looking: &Looking<'_>, plan: &Plan, found: &Found) -> Result<()> {
    app.printer.data(format!(
        "{}/{}: {}, RTO {}, RPO {}",
        looking.policy.stack,
        plan.name,
        plan.scenario.word(),
        span(plan.rto_target_seconds),
        span(plan.rpo_target_seconds)
    ))?;
    if plan.sources.len() as u64 != plan.of_sources {
        app.printer.data(format!(
            "  {} of the {} sources of the stack: it proves nothing of the others",
            plan.sources.len(),
            plan.of_sources
        ))?;
    }
    if let (Some(at), Some(seed)) = (found.aim.at, found.aim.seed) {
        app.printer.data(format!("  as of {at}, by chance: --seed {seed} is the same again"))?;
    }
    for (source, ready) in plan.sources.iter().zip(&found.sources) {
        let what = match &source.impossible {
            None => would(ready, &source.repository),
            Some(why) => format!("not possible: {why}"),
        };
        app.printer.data(format!("  {} ({}): {what}", source.source, source.kind))?;
    }
    for check in &plan.checks {
        app.printer.data(format!("  check {check}"))?;
    }
    for one in &plan.rehearsed {
        app.printer.data(format!("  {}/{} is asked of {}", one.phase, one.name, one.source))?;
    }
    for (phase, step, why) in &plan.not_executed {
        app.printer.data(format!("  not executed: {phase}/{step}: {why}"))?;
    }
    let free = found.free_bytes.map(|free| format!(", {} free", size(free)));
    app.printer.data(format!(
        "  sandbox in {}{}",
        looking.scratch.display(),
        free.unwrap_or_default()
    ))?;
    for text in &found.missing {
        app.printer.data(format!("  MISSING: {text}"))?;
    }
    Ok(())
}

fn would(ready: &Ready, repository: &str) -> String {
    let Some(backup) = &ready.backup else {
        return format!("would bring back from `{repository}`: nothing was found");
    };
    let point = ready.point.map(|at| format!(", of {at}")).unwrap_or_default();
    format!("would bring back {backup} from `{repository}`{point}, {}", size(ready.bytes))
}
