//! `backstay playbook list`

use jiff::Timestamp;
use serde::Serialize;

use crate::cli::ExitStatus;
use crate::cli::format::{Align, table};
use crate::cli::setup::App;
use crate::error::Result;
use crate::playbook::compile::{Wanted, compile};
use crate::playbook::ready;
use crate::state::ReadinessRow;

/// List the playbooks of the policies.
#[derive(Debug, clap::Args)]
pub struct Args {}

#[derive(Serialize)]
struct Row {
    stack: String,
    playbook: String,
    modes: Vec<&'static str>,
    steps: usize,
    hash: String,
    /// `ready`, `not ready`, or `needs verify`: nobody looked since it is what it is now.
    readiness: &'static str,
    /// When somebody looked.
    #[serde(skip_serializing_if = "Option::is_none")]
    checked: Option<Timestamp>,
    /// What is missing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<String>,
    /// How long it would take, by earlier runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    estimate_seconds: Option<u64>,
    /// How much of what was written would be lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    loss_seconds: Option<u64>,
    description: Option<String>,
}

const HEAD: [(&str, Align); 6] = [
    ("PLAYBOOK", Align::Left),
    ("MODES", Align::Left),
    ("STEPS", Align::Right),
    ("PLAN", Align::Left),
    ("READY", Align::Left),
    ("", Align::Left),
];

/// Runs the command.
pub fn run(app: &App, _args: &Args) -> Result<ExitStatus> {
    let set = app.policies_to_read()?;
    let found = app.state().and_then(|state| state.readiness()).unwrap_or_default();
    let mut rows = Vec::new();
    for policy in &set.policies {
        for (name, playbook) in &policy.playbooks {
            let plan = compile(policy, Wanted { playbook: name, ..Wanted::default() })?;
            let plans = ready::plans(policy, name)?;
            let of = (policy.stack.as_str(), name.as_str());
            let now: Vec<&ReadinessRow> = plans
                .iter()
                .filter_map(|(mode, hash)| ready::row_of(&found, of, (mode, hash)))
                .collect();
            let missing = now.iter().filter(|row| row.problems > 0);
            rows.push(Row {
                readiness: ready::readiness(&found, of, &plans).word(),
                checked: now.iter().map(|row| row.at).min(),
                missing: missing.map(|row| format!("{}: {}", row.mode, row.why)).collect(),
                estimate_seconds: now.iter().filter_map(|row| row.takes).max(),
                loss_seconds: now.iter().filter_map(|row| row.loss).max(),
                stack: policy.stack.clone(),
                playbook: name.clone(),
                modes: playbook.modes.iter().map(|mode| mode.word()).collect(),
                steps: plan.steps.len(),
                hash: plan.hash()?,
                description: playbook.description.clone(),
            });
        }
    }
    if app.printer.is_json() {
        app.printer.json(&rows)?;
        return Ok(ExitStatus::Done);
    }
    if rows.is_empty() {
        app.printer.talk("no policy has `playbooks`");
        return Ok(ExitStatus::Done);
    }
    let lines: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            vec![
                format!("{}/{}", row.stack, row.playbook),
                row.modes.join(", "),
                row.steps.to_string(),
                row.hash[..12].to_owned(),
                row.readiness.to_owned(),
                row.description.clone().unwrap_or_default(),
            ]
        })
        .collect();
    table(&HEAD, &lines).into_iter().try_for_each(|line| app.printer.data(line))?;
    for row in &rows {
        for missing in &row.missing {
            app.printer.warning(&format!("{}/{}, {missing}", row.stack, row.playbook));
        }
    }
    if rows.iter().any(|row| row.readiness == ready::Readiness::NeedsVerify.word()) {
        app.printer.hint("`backstay playbook check` looks whether they could be carried out");
    }
    Ok(ExitStatus::Done)
}
