//! The page of actions, which is made from the schema of policies.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use backstay::policy::ActionSpec;
use serde_json::Value as Json;

use crate::docs::{escaped, generated, sentence};

struct Page<'a> {
    schema: &'a Json,
    /// What several actions have: definitions with a section of their own.
    shared: BTreeSet<&'a str>,
}

fn named(schema: &Json) -> Option<&str> {
    schema["$ref"].as_str()?.strip_prefix("#/$defs/")
}

/// What is below a schema, through what may be left out.
fn choice(schema: &Json) -> &Json {
    schema["anyOf"].as_array().and_then(|choices| choices.first()).unwrap_or(schema)
}

/// Whether a definition has keys of its own.
fn has_keys(schema: &Json) -> bool {
    let mapping = |one: &Json| one["properties"].is_object();
    mapping(schema) || schema["oneOf"].as_array().is_some_and(|all| all.iter().any(mapping))
}

impl<'a> Page<'a> {
    fn definition(&self, name: &str) -> &'a Json {
        &self.schema["$defs"][name]
    }

    /// How often each definition with keys is used below another one.
    fn count(&self, schema: &'a Json, counts: &mut BTreeMap<&'a str, u32>) {
        if let Some(name) = named(schema) {
            if has_keys(self.definition(name)) {
                let count = counts.entry(name).or_default();
                *count += 1;
                if *count == 1 {
                    self.count(self.definition(name), counts);
                }
            }
            return;
        }
        match schema {
            Json::Array(items) => items.iter().for_each(|item| self.count(item, counts)),
            Json::Object(items) => items.values().for_each(|item| self.count(item, counts)),
            _ => {}
        }
    }

    /// A row for each key, and for those below it; `way` is how to get there.
    fn rows(&self, way: &str, schema: &'a Json, rows: &mut String) {
        let schema = named(schema).map_or(schema, |name| self.definition(name));
        for one in schema["oneOf"].as_array().into_iter().flatten() {
            for (key, below) in one["properties"].as_object().into_iter().flatten() {
                let about = one["description"].as_str().unwrap_or_default();
                let path = join(way, key);
                writeln!(rows, "| `{path}` | | {} |", text(about)).unwrap();
                self.below(&path, below, rows);
            }
        }
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
        for (key, one) in schema["properties"].as_object().into_iter().flatten() {
            let path = join(way, key);
            let default = match &one["default"] {
                _ if required.contains(&key.as_str()) => "needed".to_owned(),
                Json::Null => String::new(),
                Json::String(text) if text.is_empty() => String::new(),
                Json::Object(_) | Json::Array(_) => String::new(),
                Json::String(text) => format!("`{text}`"),
                other => format!("`{other}`"),
            };
            let about = text(one["description"].as_str().unwrap_or_default());
            writeln!(rows, "| `{path}` | {default} | {about}{} |", self.words(one)).unwrap();
            self.below(&path, one, rows);
        }
    }

    /// What stands below a key, unless it has a section of its own.
    fn below(&self, path: &str, schema: &'a Json, rows: &mut String) {
        let schema = choice(schema);
        match named(schema) {
            Some(name) if self.shared.contains(name) => {}
            Some(name) => self.rows(path, self.definition(name), rows),
            None if schema["properties"].is_object() => self.rows(path, schema, rows),
            // A mapping of names that are one's own.
            None => match named(&schema["additionalProperties"]) {
                Some(name) if has_keys(self.definition(name)) => {
                    self.rows(&join(path, "NAME"), self.definition(name), rows);
                }
                _ => {}
            },
        }
    }

    /// The words that a key takes, or where its keys are.
    fn words(&self, schema: &Json) -> String {
        let Some(name) = named(choice(schema)) else { return String::new() };
        if self.shared.contains(name) {
            return format!(" See [{name}](#{}).", name.to_lowercase());
        }
        let definition = self.definition(name);
        let one_of = |all: &Vec<Json>| -> Vec<String> {
            let word = |one: &Json| one["const"].as_str().or(one.as_str()).map(str::to_owned);
            all.iter().filter_map(word).map(|word| format!("`{word}`")).collect()
        };
        let listed = definition["oneOf"].as_array().or(definition["enum"].as_array());
        let words = listed.map(one_of).unwrap_or_default();
        if words.is_empty() { String::new() } else { format!(" One of {}.", words.join(", ")) }
    }
}

fn join(way: &str, key: &str) -> String {
    if way.is_empty() { key.to_owned() } else { format!("{way}.{key}") }
}

fn text(about: &str) -> String {
    let about = escaped(&sentence(about));
    if about == "." { String::new() } else { about }
}

#[test]
fn the_page_of_actions_is_what_the_schema_has() {
    let schema = backstay::policy::json_schema();
    let mut page = Page { schema: &schema, shared: BTreeSet::new() };
    let step = page.definition("Step");
    let mut counts = BTreeMap::new();
    page.count(step, &mut counts);
    // How a step is taken is told with playbooks; what is used once is told where it is used.
    let several = counts.iter().filter(|(_, count)| **count > 1).map(|(name, _)| *name);
    page.shared = several.collect();
    let mut out = String::from(
        "# Actions of playbooks\n\n<!-- generated by tests/docs_actions.rs; `make docs` writes it again -->\n\n\
         A step of a [playbook](playbooks.md) has exactly one of these keys, beside those that every step may have. A dot leads into a mapping: \
         `loss.standby` is written `loss: { standby: … }`.\n\n",
    );
    const HEAD: &str = "| key | default | |\n|---|---|---|\n";
    for kind in ActionSpec::KINDS {
        let written = &step["properties"][*kind];
        let about = written["description"].as_str().unwrap_or_default();
        let about = about.split("\n\n").next().unwrap_or_default();
        let spec = named(choice(written)).unwrap_or_else(|| panic!("{kind} has no settings"));
        let mut rows = String::new();
        page.rows("", page.definition(spec), &mut rows);
        write!(out, "## `{kind}`\n\n{}\n\n{HEAD}{rows}\n", text(about)).unwrap();
    }
    out.push_str("## What several have\n\n");
    let shared: Vec<&str> = page.shared.iter().copied().collect();
    for name in shared {
        let definition = page.definition(name);
        let mut rows = String::new();
        page.rows("", definition, &mut rows);
        let about = text(definition["description"].as_str().unwrap_or_default());
        write!(out, "### {name}\n\n{about}\n\n{HEAD}{rows}\n").unwrap();
    }
    generated("actions.md", &format!("{}\n", out.trim_end()));
    // Every key of every action is there: none is told of by hand alone.
    for kind in ActionSpec::KINDS {
        assert!(out.contains(&format!("## `{kind}`")), "{kind}");
    }
    for key in [
        "start_standby.connection",
        "rewind.identity",
        "key.secret",
        "address",
        "vantage_points.NAME.tcp",
    ] {
        assert!(out.contains(&format!("| `{key}`")), "{key}");
    }
}
