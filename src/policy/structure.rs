//! All that is missing or too much in a playbook, at once: what reads values into the model stops at the
//! first. What there may be is taken from the schema of the model.

use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::{
    assemble::one_kind,
    decode::decode,
    diagnostic::Problem,
    playbook::{ActionSpec, Phase, Playbook, Step},
    suggest,
    yaml::{Node, Place, Value},
};

/// Everything that keeps a playbook from being read.
pub(super) fn playbook(node: &Node, around: Place) -> Vec<Problem> {
    let schema = Schema(schemars::schema_for!(Playbook).to_value());
    let mut problems = Vec::new();
    let mut rest = Vec::new();
    for (key, value) in node.entries() {
        let phase = Phase::ALL.iter().any(|phase| phase.word() == key.name);
        if phase && matches!(value.value, Value::Map(_)) {
            for (key, written) in value.entries() {
                let at_key = Node { place: key.place, ..written.clone() };
                problems.extend(step(&at_key, written, &schema));
            }
        } else {
            rest.push((key.clone(), value.clone()));
        }
    }
    let rest = match node.value {
        Value::Map(_) => Node { place: node.place, value: Value::Map(rest) },
        _ => node.clone(),
    };
    problems.extend(read::<Playbook>(&rest, around, &schema, &schema.0));
    problems
}

/// Everything that keeps a step from being read.
fn step(at_key: &Node, node: &Node, schema: &Schema) -> Vec<Problem> {
    let of_step = schema.definition("Step");
    if matches!(node.value, Value::Map(_))
        && let Some(wrong) = one_kind(at_key, node, ActionSpec::KINDS, "step")
    {
        let mut problems = schema.check(node, at_key.place, of_step);
        // A key that is unknown is what was meant to be the action, more often than not.
        let named = problems.iter().any(|one| one.message.starts_with("unknown key"));
        let known = problems.iter().position(|one| one.message == wrong.message);
        match known {
            Some(index) => problems[index] = wrong,
            None if named => {
                for one in problems.iter_mut().filter(|one| one.message.starts_with("unknown")) {
                    one.hints.clone_from(&wrong.hints);
                }
            }
            None => problems.insert(0, wrong),
        }
        return problems;
    }
    read::<Step>(node, at_key.place, schema, of_step)
}

/// What keeps a node from being read as `T`, with everything else that is missing or too much in it.
fn read<T: DeserializeOwned>(
    node: &Node,
    around: Place,
    schema: &Schema,
    of: &Json,
) -> Vec<Problem> {
    let Err(first) = decode::<T>(node, around) else { return Vec::new() };
    let mut problems = schema.check(node, around, of);
    let same = |one: &Problem| {
        let missing = |problem: &Problem| problem.message.ends_with("missing");
        one.place == first.place
            && (one.message == first.message || (missing(one) && missing(&first)))
    };
    if !problems.iter().any(same) {
        problems.insert(0, first);
    }
    problems
}

/// A JSON Schema, as it is made from the model.
struct Schema(Json);

impl Schema {
    fn definition(&self, name: &str) -> &Json {
        &self.0["$defs"][name]
    }

    /// What a schema stands for: through references, and through what may be left out.
    fn resolve<'a>(&'a self, mut schema: &'a Json) -> &'a Json {
        loop {
            let named = schema["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/"));
            let choices = schema["anyOf"].as_array();
            schema = match (named, choices.and_then(|choices| choices.first())) {
                (Some(name), _) => self.definition(name),
                (None, Some(first)) => first,
                (None, None) => return schema,
            };
        }
    }

    /// Keys that are unknown or missing, in a node and all that is below it.
    fn check(&self, node: &Node, around: Place, schema: &Json) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.walk(node, around, schema, &mut problems);
        problems
    }

    fn walk(&self, node: &Node, around: Place, schema: &Json, problems: &mut Vec<Problem>) {
        let schema = self.resolve(schema);
        if let Some(choices) = schema["oneOf"].as_array() {
            self.choice(node, choices, problems);
            return;
        }
        if let Value::List(items) = &node.value {
            for item in items {
                self.walk(item, item.place, &schema["items"], problems);
            }
        }
        let Value::Map(entries) = &node.value else { return };
        let properties = schema["properties"].as_object();
        for (key, value) in entries {
            match properties.and_then(|known| known.get(&key.name)) {
                Some(known) if !value.is_null() => self.walk(value, key.place, known, problems),
                Some(_) => {}
                None if schema["additionalProperties"] == false => {
                    let known = properties.into_iter().flatten().map(|(name, _)| name.as_str());
                    problems.push(unknown("key", &key.name, key.place, known));
                }
                None => self.walk(value, key.place, &schema["additionalProperties"], problems),
            }
        }
        let missing: Vec<&str> = schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Json::as_str)
            .filter(|name| node.entry(name).is_none())
            .collect();
        problems.extend(are_missing(&missing, around));
    }

    /// One of several, each a word or a key.
    fn choice(&self, node: &Node, choices: &[Json], problems: &mut Vec<Problem>) {
        let Value::Map(entries) = &node.value else { return };
        let [(key, value)] = entries.as_slice() else { return };
        let named = |choice: &'_ Json| {
            choice["properties"].as_object().and_then(|one| one.keys().next().cloned())
        };
        let Some(chosen) = choices.iter().find(|choice| named(choice).as_ref() == Some(&key.name))
        else {
            let names: Vec<String> = choices.iter().filter_map(named).collect();
            if names.len() == choices.len() {
                let known = names.iter().map(String::as_str);
                problems.push(unknown("choice", &key.name, key.place, known));
            }
            return;
        };
        self.walk(value, key.place, &chosen["properties"][&key.name], problems);
    }
}

fn unknown<'a>(
    what: &str,
    name: &str,
    place: Place,
    known: impl Iterator<Item = &'a str> + Clone,
) -> Problem {
    Problem::error(place, format!("unknown {what} `{name}`")).hint(suggest::hint(name, known))
}

fn are_missing(names: &[&str], place: Place) -> Option<Problem> {
    let listed = |each: &dyn Fn(&str) -> String| match names {
        [] => String::new(),
        [one] => each(one),
        [first @ .., last] => {
            let first: Vec<String> = first.iter().map(|name| each(name)).collect();
            format!("{} and {}", first.join(", "), each(last))
        }
    };
    let verb = match names {
        [] => return None,
        [_] => "is",
        _ => "are",
    };
    let what = format!("{} {verb} missing", listed(&|name| format!("`{name}`")));
    Some(
        Problem::error(place, what)
            .hint(format!("add {} here", listed(&|name| format!("`{name}: …`")))),
    )
}
