//! Outputs of steps, put into the settings of later ones. Pure.

use serde_json::Value;

use super::view::RunView;
use crate::error::{Error, Result};
use crate::policy::{ActionSpec, uses};

/// The settings of an action with every `{{STEP.OUTPUT}}` replaced.
pub fn resolve(spec: &ActionSpec, view: &RunView) -> Result<ActionSpec> {
    let broken = |error: serde_json::Error| {
        Error::failed("the settings of the step make no sense with what steps before it left")
            .with_source(error)
    };
    let mut value = serde_json::to_value(spec).map_err(broken)?;
    fill(&mut value, view)?;
    serde_json::from_value(value).map_err(broken)
}

fn fill(value: &mut Value, view: &RunView) -> Result<()> {
    match value {
        Value::String(text) => {
            if text.contains("{{") {
                *text = filled(text, view)?;
            }
            Ok(())
        }
        Value::Array(items) => items.iter_mut().try_for_each(|item| fill(item, view)),
        Value::Object(entries) => entries.values_mut().try_for_each(|item| fill(item, view)),
        _ => Ok(()),
    }
}

fn filled(text: &str, view: &RunView) -> Result<String> {
    let mut rest = text;
    let mut made = String::new();
    for name in uses(text).into_iter().flatten() {
        let Some((before, after)) = rest.split_once("{{") else { break };
        made.push_str(before);
        made.push_str(&value_of(name, view)?);
        rest = after.split_once("}}").map_or("", |(_, rest)| rest);
    }
    made.push_str(rest);
    Ok(made)
}

fn value_of(name: &str, view: &RunView) -> Result<String> {
    let (step, output) = name.split_once('.').unwrap_or((name, ""));
    let found = match step {
        "run" => of_run(view, output),
        _ => view.steps.get(step).and_then(|step| step.outputs.get(output).cloned()),
    };
    found.ok_or_else(|| {
        Error::failed(format!("`{name}` is not known: the step `{step}` did not leave it"))
            .hint("it was skipped, failed, was attested, or did not print it")
    })
}

/// What is known of the run itself.
pub fn of_run(view: &RunView, name: &str) -> Option<String> {
    match name {
        "id" => Some(view.run.clone()),
        "mode" => Some(view.plan.mode.word().to_owned()),
        "stack" => Some(view.plan.stack.clone()),
        // Empty where nobody asked for an instant.
        "at" => Some(view.plan.at.map(|at| at.to_string()).unwrap_or_default()),
        _ => None,
    }
}
