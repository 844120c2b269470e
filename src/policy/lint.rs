//! The rules that no single value can break.
//!
//! Every rule looks at the whole policy and adds all it finds. Errors are for what cannot hold,
//! warnings for what may hurt. A rule that needs the schedules of all jobs keeps quiet while some
//! part of the file could not be read: what is missing would only mislead.

mod coverage;
mod drills;
mod dumps;
mod execution;
mod heartbeats;
mod jobs;
mod names;
mod notify;
mod playbooks;
mod programs;
mod repositories;
mod sections;
mod sources;
mod sql;
mod starrocks;
mod syncs;

use super::{
    diagnostic::{Problem, Severity},
    model::Policy,
    yaml::Node,
};

/// Checks a policy against its own text. `complete` says that every part of it could be read.
pub(super) fn lint(policy: &Policy, root: &Node, complete: bool) -> Vec<Problem> {
    let mut findings = Findings { policy, root, problems: Vec::new() };
    if !names::are_few(&mut findings) || !lists_are_short(&mut findings) {
        return findings.problems;
    }
    names::check(&mut findings);
    repositories::check(&mut findings);
    sources::check(&mut findings);
    heartbeats::check(&mut findings);
    jobs::check(&mut findings);
    execution::check_windows(&mut findings);
    sections::check(&mut findings);
    notify::check(&mut findings);
    playbooks::check(&mut findings);
    drills::check(&mut findings);
    let broken = findings.problems.iter().any(|problem| problem.severity == Severity::Error);
    if complete && !broken {
        coverage::check(&mut findings);
    }
    findings.problems
}

/// The longest list of names or paths that is taken.
const MAX_LIST: usize = 500;

/// Whether no list is longer than the rules that compare its items with each other are made for.
fn lists_are_short(findings: &mut Findings<'_>) -> bool {
    let mut open = vec![findings.root];
    let mut short = true;
    while let Some(node) = open.pop() {
        if node.items().len() > MAX_LIST {
            short = false;
            let problem =
                Problem::error(node.place, format!("a list of {} items", node.items().len()));
            findings.problems.push(problem.hint(format!("at most {MAX_LIST} are taken")));
        }
        open.extend(node.items());
        open.extend(node.entries().iter().map(|(_, value)| value));
    }
    short
}

/// A policy, its text, and what was found.
struct Findings<'a> {
    policy: &'a Policy,
    root: &'a Node,
    problems: Vec<Problem>,
}

impl<'a> Findings<'a> {
    /// An error at the value of `path`.
    fn error(&mut self, path: &[&str], message: impl Into<String>, hint: impl Into<String>) {
        let place = self.root.place_of(path);
        self.problems.push(Problem::error(place, message).hint(hint));
    }

    /// An error at the key at the end of `path`.
    fn error_at_key(&mut self, path: &[&str], message: impl Into<String>, hint: impl Into<String>) {
        let place = self.root.key_place_of(path);
        self.problems.push(Problem::error(place, message).hint(hint));
    }

    /// A warning at the value of `path`.
    fn warning(&mut self, path: &[&str], message: impl Into<String>, hint: impl Into<String>) {
        let place = self.root.place_of(path);
        self.problems.push(Problem::warning(place, message).hint(hint));
    }

    /// A warning at the key at the end of `path`.
    fn warning_at_key(
        &mut self,
        path: &[&str],
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let place = self.root.key_place_of(path);
        self.problems.push(Problem::warning(place, message).hint(hint));
    }

    /// All names of a section, those of items that could not be read included.
    fn names(&self, section: &str) -> Vec<&'a str> {
        let root: &'a Node = self.root;
        let section = root.get(section).map(Node::entries).unwrap_or_default();
        section.iter().map(|(key, _)| key.name.as_str()).collect()
    }

    /// Checks that `name`, written at `path`, is in `section`; `what` is one item of it.
    fn reference(&mut self, path: &[&str], name: &str, section: &str, what: &str) {
        let known = self.names(section);
        if !known.contains(&name) {
            let hint = super::suggest::hint(name, known.iter().copied());
            self.error(path, format!("unknown {what} `{name}`"), hint);
        }
    }
}
