//! Outputs of steps, put into the settings of later ones. Pure.

use serde_json::{Map, Value};

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
    let mut variables = Map::new();
    fill(&mut value, view, &mut variables)?;
    if !variables.is_empty() {
        let Some(command) = value.get_mut("command").and_then(Value::as_object_mut) else {
            return Err(Error::usage(
                "what a step left goes into no shell line but that of a `command`",
            ));
        };
        let environment = command.entry("environment").or_insert_with(|| Value::Object(Map::new()));
        if let Some(environment) = environment.as_object_mut() {
            environment.extend(variables);
        }
    }
    serde_json::from_value(value).map_err(broken)
}

fn fill(value: &mut Value, view: &RunView, variables: &mut Map<String, Value>) -> Result<()> {
    match value {
        Value::String(text) => {
            if text.contains("{{") {
                *text = filled(text, view)?;
            }
            Ok(())
        }
        Value::Array(items) => items.iter_mut().try_for_each(|item| fill(item, view, variables)),
        Value::Object(entries) => entries.iter_mut().try_for_each(|(key, item)| match item {
            Value::String(line) if key == "shell" && line.contains("{{") => {
                *line = in_shell(line, view, variables)?;
                Ok(())
            }
            item => fill(item, view, variables),
        }),
        _ => Ok(()),
    }
}

/// A line for the shell, in which every `{{STEP.OUTPUT}}` is a variable: whatever it holds is a
/// value there, and never a command.
fn in_shell(text: &str, view: &RunView, variables: &mut Map<String, Value>) -> Result<String> {
    let mut rest = text;
    let mut made = String::new();
    for name in uses(text).into_iter().flatten() {
        let Some((before, after)) = rest.split_once("{{") else { break };
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        let variable = format!("BACKSTAY_VALUE_{}", name.chars().map(plain).collect::<String>());
        made.push_str(&format!("{before}${{{variable}}}"));
        variables.insert(variable, Value::String(value_of(name, view)?));
        rest = after.split_once("}}").map_or("", |(_, rest)| rest);
    }
    made.push_str(rest);
    Ok(made)
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

/// A text for people, with what is known by now. What is not stays as it is written.
pub fn told(text: &str, view: &RunView) -> String {
    let mut rest = text;
    let mut made = String::new();
    for name in uses(text).into_iter().flatten() {
        let Some((before, after)) = rest.split_once("{{") else { break };
        let (written, after) = after.split_once("}}").unwrap_or((after, ""));
        made.push_str(before);
        made.push_str(&match known(name, view) {
            // As it was printed, but on one line: a terminal shows it.
            Some(value) => value.chars().filter(|c| !c.is_control()).collect(),
            None => format!("{{{{{written}}}}}"),
        });
        rest = after;
    }
    made.push_str(rest);
    made
}

fn known(name: &str, view: &RunView) -> Option<String> {
    let (step, output) = name.split_once('.').unwrap_or((name, ""));
    match step {
        "run" => of_run(view, output),
        _ => view.steps.get(step).and_then(|step| step.outputs.get(output).cloned()),
    }
}

fn value_of(name: &str, view: &RunView) -> Result<String> {
    let step = name.split_once('.').map_or(name, |(step, _)| step);
    let found = known(name, view).ok_or_else(|| {
        Error::failed(format!("`{name}` is not known: the step `{step}` did not leave it"))
            .hint("it was skipped, failed, was attested, or did not print it")
    })?;
    // What a program printed is no place to read secrets from, or to run programs by.
    if found.contains("${") {
        return Err(Error::failed(format!(
            "`{name}` holds `${{`, which would be read as a reference"
        )));
    }
    Ok(found)
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
