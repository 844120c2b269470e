//! Tree to model, section by section and item by item, so that one bad item does not hide the
//! others.

use std::path::PathBuf;

use indexmap::IndexMap;
use serde::de::DeserializeOwned;

use super::{
    decode::decode,
    diagnostic::Problem,
    drill::DrillCheck,
    job::Job,
    model::Policy,
    playbook::Playbook,
    repository::Repository,
    source::{Program, Source, SourceKind},
    structure, suggest,
    yaml::{Key, Node, Place, Value},
};

/// Reads all of a policy that can be read; what cannot is left out and among the problems.
pub(super) fn assemble(root: &Node, file: &str, text: &str) -> (Option<Policy>, Vec<Problem>) {
    let mut sections = Sections { root, problems: Vec::new() };
    let policy = sections.policy(file, text);
    (policy, sections.problems)
}

struct Sections<'a> {
    root: &'a Node,
    problems: Vec<Problem>,
}

impl Sections<'_> {
    fn policy(&mut self, file: &str, text: &str) -> Option<Policy> {
        if self.root.entries().is_empty() {
            self.problems.push(
                Problem::error(self.root.place, "a policy is a mapping of keys to values")
                    .hint("start with `version: 1` and `stack: NAME`"),
            );
            return None;
        }
        self.unknown_keys();
        Some(Policy {
            version: self.required("version", "1").unwrap_or(1),
            stack: self.required("stack", "NAME").unwrap_or_default(),
            unconfirmed: self.optional("unconfirmed"),
            description: self.optional("description"),
            tier: self.optional("tier"),
            objectives: self.optional("objectives").unwrap_or_default(),
            timezone: self.optional("timezone").unwrap_or_else(|| "UTC".to_owned()),
            repositories: self.repositories(),
            sources: self.sources(),
            jobs: self.items::<Job>("jobs", |_, _| None),
            windows: self.items("windows", |_, _| None),
            pools: self.items("pools", |_, _| None),
            compression: self.optional("compression").unwrap_or_default(),
            role: self.optional("role"),
            sites: self.items("sites", |_, _| None),
            playbooks: self.playbooks(),
            drills: self.items("drills", |_, node| unread_check(node)),
            notify: self.optional("notify"),
            state: self.optional("state"),
            file: PathBuf::from(file),
            text: text.to_owned(),
        })
    }

    fn unknown_keys(&mut self) {
        for (key, _) in self.root.entries() {
            if !Policy::KEYS.contains(&key.name.as_str()) {
                self.problems.push(
                    Problem::error(key.place, format!("unknown key `{}`", key.name))
                        .hint(suggest::hint(&key.name, Policy::KEYS)),
                );
            }
        }
    }

    fn repositories(&mut self) -> IndexMap<String, Repository> {
        self.items("repositories", |name, node| {
            one_kind(name, node, &Repository::KINDS, "repository")
        })
    }

    fn sources(&mut self) -> IndexMap<String, Source> {
        let kinds = SourceKind::ALL.map(SourceKind::name);
        self.items("sources", |name, node| {
            one_kind(name, node, &kinds, "source").or_else(|| {
                let program = &Program::KINDS;
                node.entry("command").filter(|(_, node)| !node.entries().is_empty()).and_then(
                    |(key, node)| {
                        one_kind(
                            &Node { place: key.place, ..node.clone() },
                            node,
                            program,
                            "command",
                        )
                    },
                )
            })
        })
    }

    /// Each is read as a whole where that can be done, and in parts to tell all that is wrong where not.
    fn playbooks(&mut self) -> IndexMap<String, Playbook> {
        let mut problems = Vec::new();
        let read = self.items_by("playbooks", |key, node| {
            decode(node, key.place).map_err(|first| {
                let found = structure::playbook(node, key.place);
                problems.extend(if found.is_empty() { vec![first] } else { found });
            })
        });
        self.problems.extend(problems);
        read
    }

    fn required<T: DeserializeOwned>(&mut self, name: &str, example: &str) -> Option<T> {
        if self.root.get(name).is_none() {
            let place = self
                .root
                .entry(name)
                .map_or(Place { end: 1, ..Place::START }, |(key, _)| key.place);
            self.problems.push(
                Problem::error(place, format!("`{name}` is missing"))
                    .hint(format!("add `{name}: {example}` at the top")),
            );
            return None;
        }
        self.optional(name)
    }

    fn optional<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        let (key, node) = self.root.entry(name).filter(|(_, node)| !node.is_null())?;
        match decode(node, key.place) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.problems.push(problem);
                None
            }
        }
    }

    /// The items of a section that can be read. `check` looks at an item first.
    fn items<T: DeserializeOwned>(
        &mut self,
        section: &str,
        check: impl Fn(&Node, &Node) -> Option<Problem>,
    ) -> IndexMap<String, T> {
        let mut problems = Vec::new();
        let read = self.items_by(section, |key, item| {
            let at_key = Node { place: key.place, ..Node::clone(item) };
            let decoded = match check(&at_key, item) {
                Some(problem) => Err(problem),
                None => decode(item, key.place),
            };
            decoded.map_err(|problem| problems.push(problem))
        });
        self.problems.extend(problems);
        read
    }

    /// The same; `read` keeps what is wrong.
    fn items_by<T>(
        &mut self,
        section: &str,
        mut read: impl FnMut(&Key, &Node) -> Result<T, ()>,
    ) -> IndexMap<String, T> {
        let mut items = IndexMap::new();
        let Some((key, node)) = self.root.entry(section).filter(|(_, node)| !node.is_null()) else {
            return items;
        };
        if !matches!(node.value, Value::Map(_)) {
            self.problems.push(
                Problem::error(key.place, format!("`{section}` is a mapping of names to settings"))
                    .hint(format!("write `{section}: {{ NAME: {{ … }} }}`")),
            );
        }
        for (key, item) in node.entries() {
            if let Ok(value) = read(key, item) {
                items.insert(key.name.clone(), value);
            }
        }
        items
    }
}

/// Finds a check of a drill without exactly one kind: its error is to be at the key, which `serde` does
/// not know.
fn unread_check(drill: &Node) -> Option<Problem> {
    drill.get("checks").map(Node::entries)?.iter().find_map(|(key, check)| {
        let at_key = Node { place: key.place, ..check.clone() };
        one_kind(&at_key, check, &DrillCheck::KINDS, "check")
    })
}

/// Finds a mapping without exactly one of `kinds`.
pub(super) fn one_kind(at_key: &Node, node: &Node, kinds: &[&str], what: &str) -> Option<Problem> {
    let all = kinds.iter().map(|kind| format!("`{kind}`")).collect::<Vec<_>>().join(", ");
    let mut found = node.entries().iter().filter(|(key, _)| kinds.contains(&key.name.as_str()));
    match (found.next(), found.next()) {
        (Some(_), None) => None,
        (Some((first, _)), Some((second, _))) => Some(
            Problem::error(
                second.place,
                format!("this {what} has both `{}` and `{}`", first.name, second.name),
            )
            .hint(format!("exactly one of {all} is needed: remove one, or make two")),
        ),
        (None, _) => {
            let near = node.entries().iter().find_map(|(key, _)| {
                suggest::nearest(&key.name, kinds.iter().copied()).map(|kind| (key, kind))
            });
            Some(match near {
                Some((key, kind)) => {
                    Problem::error(key.place, format!("unknown key `{}`", key.name))
                        .hint(format!("did you mean `{kind}`?"))
                }
                None => Problem::error(at_key.place, format!("this {what} has no kind"))
                    .hint(format!("exactly one of {all} is needed")),
            })
        }
    }
}
