//! Playbooks: names, order, and what steps use of each other.

mod actions;
mod roles;
mod servers;

use std::collections::{BTreeMap, BTreeSet};

use super::{Findings, programs};
use crate::policy::{
    diagnostic::Problem,
    playbook::{
        ActionSpec, Condition, Mode, OF_RUN, OnFailure, Phase, Placed, Playbook, Step, uses,
    },
    server_action::PostgresAction,
    suggest,
    value::{Period, is_valid_name},
    yaml::Node,
};

/// More than this is not something that a person can follow at night.
const MAX_STEPS: usize = 200;

pub(super) fn check(findings: &mut Findings<'_>) {
    let policy = findings.policy;
    for (name, playbook) in &policy.playbooks {
        check_playbook(findings, name, playbook);
    }
    check_one_place(findings);
}

/// Of two playbooks that keep their journals in different repositories neither would know of the other, and both would
/// act on the same stack at once.
fn check_one_place(findings: &mut Findings<'_>) {
    let policy = findings.policy;
    let first = policy.default_repository().map(|(name, _)| name);
    let place = |playbook: &'_ Playbook| playbook.repository.clone().or(first.map(str::to_owned));
    let mut all = policy.playbooks.iter();
    let Some((one, kept)) = all.next().map(|(name, playbook)| (name, place(playbook))) else {
        return;
    };
    for (name, playbook) in all {
        let found = place(playbook);
        if found != kept {
            let named = |place: &Option<String>| place.clone().unwrap_or_default();
            findings.error_at_key(
                &["playbooks", name],
                format!(
                    "its journal lies in `{}`, and that of `{one}` in `{}`: neither would know when the other one is carried out",
                    named(&found),
                    named(&kept)
                ),
                "give all playbooks of a stack the same `repository`: one that is there when a site is gone",
            );
        }
    }
}

fn check_playbook(findings: &mut Findings<'_>, name: &str, playbook: &Playbook) {
    let at = ["playbooks", name];
    let placed = playbook.placed();
    if placed.is_empty() {
        findings.error_at_key(
            &at,
            format!("the playbook `{name}` has no steps"),
            "add a phase with a step: `recover: { NAME: { command: { apply: { argv: [PROGRAM] } } } }`",
        );
        return;
    }
    if placed.len() > MAX_STEPS {
        findings.error_at_key(
            &at,
            format!("{} steps in one playbook", placed.len()),
            format!("at most {MAX_STEPS} are taken: make two of it"),
        );
        return;
    }
    if playbook.modes.is_empty() {
        findings.error_at_key(
            &[at[0], at[1], "modes"],
            "no mode is named, so that it can never be run",
            "write `modes: [graceful]`, or leave it out",
        );
    }
    if !(1..=64).contains(&playbook.parallel) {
        findings.error(
            &[at[0], at[1], "parallel"],
            format!("{} steps at once", playbook.parallel),
            "write 1 to 64",
        );
    }
    if playbook.preflight.every < Period::from_secs(60) {
        findings.error(
            &[at[0], at[1], "preflight", "every"],
            "a look at everything that a playbook needs is not for every second",
            "write `1m` or more; 30m if left out",
        );
    }
    if let Some(repository) = &playbook.repository {
        let path = [at[0], at[1], "repository"];
        findings.reference(&path, repository, "repositories", "repository");
    }
    let mut above: BTreeMap<&str, &Placed<'_>> = BTreeMap::new();
    for one in &placed {
        if above.insert(one.name, one).is_some() {
            let path = [at[0], at[1], one.phase.word(), one.name];
            findings.error_at_key(
                &path,
                format!("a second step `{}`", one.name),
                "names of steps are unique in a playbook: they name it in the journal",
            );
            continue;
        }
        let step = StepOf { playbook: name, definition: playbook, one, above: &above };
        step.check(findings);
    }
    check_return(findings, name, playbook, &placed);
}

/// What is said of undoing must be able to happen.
fn check_return(
    findings: &mut Findings<'_>,
    name: &str,
    playbook: &Playbook,
    placed: &[Placed<'_>],
) {
    for one in placed.iter().filter(|one| one.step.point_of_no_return) {
        if one.phase == Phase::Cleanup {
            findings.error_at_key(
                &["playbooks", name, one.phase.word(), one.name, "point_of_no_return"],
                "what is cleaned up is done whether or not there was a way back",
                "remove it",
            );
        }
    }
    if playbook.on_failure == OnFailure::Undo
        && placed.first().is_some_and(|one| one.step.point_of_no_return)
    {
        findings.error(
            &["playbooks", name, "on_failure"],
            "nothing can be undone: the first step is the point of no return",
            "leave it out",
        );
    }
}

struct StepOf<'a> {
    playbook: &'a str,
    definition: &'a Playbook,
    one: &'a Placed<'a>,
    above: &'a BTreeMap<&'a str, &'a Placed<'a>>,
}

impl<'a> StepOf<'a> {
    fn path<'b>(&'b self, more: &[&'b str]) -> Vec<&'b str> {
        [&["playbooks", self.playbook, self.one.phase.word(), self.one.name], more].concat()
    }

    fn check(&self, findings: &mut Findings<'_>) {
        let step = self.one.step;
        if !is_valid_name(self.one.name) || self.one.name.contains('.') || self.one.name == "run" {
            findings.error_at_key(
                &self.path(&[]),
                format!("bad name `{}`", self.one.name.chars().take(70).collect::<String>()),
                "1 to 64 of a-z, 0-9, `_` and `-`, the first a letter or digit; not `run`",
            );
        }
        self.check_needs(findings, step);
        for (index, mode) in step.modes.iter().enumerate() {
            if !self.definition.modes.contains(mode) {
                findings.error(
                    &self.path(&["modes", &index.to_string()]),
                    format!("the playbook is never run in mode `{}`", mode.word()),
                    format!("add it to `modes` of `{}`, or remove it here", self.playbook),
                );
            }
        }
        if let Some(condition) = &step.when {
            self.check_condition(findings, condition);
        }
        if step.timeout.is_some() && step.action.is_gate() {
            findings.error_at_key(
                &self.path(&["timeout"]),
                "a person is waited for as long as it takes",
                "remove `timeout`",
            );
        }
        if step.retry.is_some() && step.action.is_gate() {
            findings.error_at_key(
                &self.path(&["retry"]),
                "a person is not tried again",
                "remove `retry`",
            );
        }
        self.check_action(findings, &step.action);
        let spec = self.path(&[step.action.kind()]);
        if let Some(node) = findings.root.find(&spec) {
            self.check_uses(findings, node);
        }
    }

    fn check_needs(&self, findings: &mut Findings<'_>, step: &Step) {
        let Some(needs) = &step.needs else { return };
        if step.group.is_some() {
            findings.error_at_key(
                &self.path(&["group"]),
                "`needs` says already when the step begins",
                "remove `group` or `needs`",
            );
        }
        for (index, named) in needs.iter().enumerate() {
            if named != self.one.name && self.above.contains_key(named.as_str()) {
                continue;
            }
            let below = self.definition.placed().iter().any(|other| other.name == named);
            let message = match (named == self.one.name, below) {
                (true, _) => format!("the step `{named}` needs itself"),
                (false, true) => format!("the step `{named}` comes later"),
                (false, false) => format!("unknown step `{named}`"),
            };
            let hint = if below {
                "a step needs what is written above it: change their order".to_owned()
            } else {
                suggest::hint(named, self.above.keys().copied().filter(|n| *n != self.one.name))
            };
            findings.error(&self.path(&["needs", &index.to_string()]), message, hint);
        }
    }

    fn check_condition(&self, findings: &mut Findings<'_>, condition: &Condition) {
        if condition.is.is_some() == condition.is_not.is_some() {
            findings.error_at_key(
                &self.path(&["when"]),
                "exactly one of `is` and `is_not` is needed",
                "write `when: { output: STEP.OUTPUT, is: VALUE }`",
            );
        }
        if let Err((message, hint)) = self.output(&condition.output) {
            findings.error(&self.path(&["when", "output"]), message, hint);
        }
    }

    /// Every `{{STEP.OUTPUT}}` below a node.
    fn check_uses(&self, findings: &mut Findings<'_>, node: &Node) {
        if let Some(text) = node.text() {
            for used in uses(text) {
                let wrong = match used {
                    Some(name) => self.output(name).and_then(|()| self.in_its_modes(name)).err(),
                    None => Some((
                        "`{{` without `}}`".to_owned(),
                        "write {{STEP.OUTPUT}} or {{run.id}}".to_owned(),
                    )),
                };
                if let Some((message, hint)) = wrong {
                    findings.problems.push(Problem::error(node.place, message).hint(hint));
                }
            }
        }
        node.items().iter().for_each(|item| self.check_uses(findings, item));
        node.entries().iter().for_each(|(_, value)| self.check_uses(findings, value));
    }

    /// Why an output cannot be used here.
    fn output(&self, name: &str) -> Result<(), (String, String)> {
        let Some((step, output)) = name.split_once('.') else {
            return Err((
                format!("`{name}` names no output"),
                "write STEP.OUTPUT: a step above, and one of its outputs".to_owned(),
            ));
        };
        if step == "run" {
            if OF_RUN.contains(&output) {
                return Ok(());
            }
            return Err((
                format!("nothing of the run is called `{output}`"),
                suggest::hint(output, OF_RUN.iter().copied()),
            ));
        }
        let earlier = self.earlier();
        let Some(found) = self.above.get(step).filter(|_| earlier.contains(step)) else {
            let message = if self.above.contains_key(step) {
                format!("the step `{step}` need not be done when this one begins")
            } else {
                format!("unknown step `{step}`")
            };
            return Err((message, suggest::hint(step, earlier.iter().copied())));
        };
        let outputs = found.step.action.outputs();
        if outputs.iter().any(|known| known == output) {
            return Ok(());
        }
        let hint = if outputs.is_empty() {
            format!(
                "`{}` has none; a `command` names its own in `outputs`",
                found.step.action.kind()
            )
        } else {
            suggest::hint(output, outputs.iter().map(String::as_str))
        };
        Err((format!("the step `{step}` has no output `{output}`"), hint))
    }

    /// Whether the step with an output is done in every mode that this one is. A text for people stays as it is
    /// written where something is not known.
    fn in_its_modes(&self, name: &str) -> Result<(), (String, String)> {
        let step = name.split_once('.').map_or(name, |(step, _)| step);
        let Some(found) = self.above.get(step).filter(|_| !self.one.step.action.is_gate()) else {
            return Ok(());
        };
        let all = &self.definition.modes;
        let has = |of: &Step, mode: &Mode| of.modes.is_empty() || of.modes.contains(mode);
        let lacks = all.iter().find(|mode| has(self.one.step, mode) && !has(found.step, mode));
        lacks.map_or(Ok(()), |mode| {
            let (name, word) = (self.one.name, mode.word());
            Err((
                format!("the step `{step}` is not done in mode `{word}`, and `{name}` is"),
                format!("give `{name}` the `modes` of `{step}`, or do without its output"),
            ))
        })
    }

    /// The steps that are done whenever this one begins.
    fn earlier(&self) -> BTreeSet<&'a str> {
        let mut earlier = BTreeSet::new();
        let mut open: Vec<&str> = self.one.needs.clone();
        while let Some(name) = open.pop() {
            if earlier.insert(name)
                && let Some(one) = self.above.get(name)
            {
                open.extend(&one.needs);
            }
        }
        earlier
    }

    fn check_action(&self, findings: &mut Findings<'_>, action: &ActionSpec) {
        match action {
            ActionSpec::Command(command) => {
                for (key, program) in [
                    ("apply", Some(&command.apply)),
                    ("observe", command.observe.as_ref()),
                    ("undo", command.undo.as_ref()),
                ] {
                    if let Some(program) = program {
                        let path = self.path(&["command", key]);
                        programs::check_program(findings, &path, program);
                        programs::check_outputs(findings, &path, program);
                    }
                }
                for (variable, value) in &command.environment {
                    let path = self.path(&["command", "environment", variable]);
                    programs::check_variable(findings, &path, variable, value);
                }
                if let Some(directory) = &command.directory {
                    let path = self.path(&["command", "directory"]);
                    super::sources::absolute(findings, &path, directory);
                }
                if command.read_only && command.undo.is_some() {
                    findings.error_at_key(
                        &self.path(&["command", "undo"]),
                        "what changes nothing cannot be taken back",
                        "remove `undo` or `read_only`",
                    );
                }
            }
            ActionSpec::Approval(approval) => {
                let people = approval
                    .from
                    .iter()
                    .map(|name| name.to_lowercase())
                    .collect::<BTreeSet<_>>()
                    .len();
                let enough = approval.from.is_empty() || people >= approval.of as usize;
                if !(1..=20).contains(&approval.of) || !enough {
                    findings.error_at_key(
                        &self.path(&["approval"]),
                        format!("{} people have to agree, of {people}", approval.of),
                        "write 1 to 20, and at least as many names in `from`",
                    );
                }
                if approval.from.iter().any(|name| name.trim().is_empty() || name.trim() != name) {
                    findings.error(
                        &self.path(&["approval", "from"]),
                        "one of these is no name of a person",
                        "write them as they are given with `--as`, or leave `from` out: then anybody is asked",
                    );
                }
            }
            ActionSpec::Manual(manual) => {
                if manual.text.trim().is_empty() {
                    findings.error_at_key(
                        &self.path(&["manual", "text"]),
                        "nobody is told what to do",
                        "write it in a sentence, and how one sees that it is done",
                    );
                }
            }
            ActionSpec::Tcp(tcp) => {
                if !is_address(&tcp.address) {
                    findings.error(
                        &self.path(&["tcp", "address"]),
                        "this is no address of a port",
                        "write HOST:PORT, such as db.site-b:5432",
                    );
                }
            }
            ActionSpec::Restore(restore) => {
                let path = self.path(&["restore", "source"]);
                findings.reference(&path, &restore.source, "sources", "source");
                if let Some(repository) = &restore.repository {
                    let path = self.path(&["restore", "repository"]);
                    findings.reference(&path, repository, "repositories", "repository");
                }
                if restore.to.is_empty() || matches!(restore.to.as_str(), "-") {
                    findings.error(
                        &self.path(&["restore", "to"]),
                        "a playbook restores to a place that stays",
                        "write a directory, `server` or `consumer`",
                    );
                }
                for (index, option) in restore.options.iter().enumerate() {
                    let index = index.to_string();
                    let path = self.path(&["restore", "options", &index]);
                    let own = ["--to", "--yes", "--dry-run", "--identity", "--policy"];
                    if own.iter().any(|own| option == own || option.starts_with(&format!("{own}=")))
                    {
                        findings.error(
                            &path,
                            format!("`{option}` is given by the playbook"),
                            "remove it",
                        );
                    }
                    programs::check_text(findings, &path, option);
                }
            }
            ActionSpec::Backup(backup) => {
                if backup.sources.is_empty() {
                    findings.error_at_key(
                        &self.path(&["backup", "sources"]),
                        "no source is named",
                        "write `sources: [NAME]`",
                    );
                }
                for (index, source) in backup.sources.iter().enumerate() {
                    let index = index.to_string();
                    let path = self.path(&["backup", "sources", &index]);
                    findings.reference(&path, source, "sources", "source");
                }
            }
            ActionSpec::Wait(wait) => {
                // Another attempt finds that it has waited.
                let once = self.one.step.retry.is_none();
                let short = self.one.step.timeout.filter(|most| once && *most < wait.period);
                if let Some(timeout) = short {
                    findings.warning(
                        &self.path(&["timeout"]),
                        format!("the step waits for {}, and fails after {timeout}", wait.period),
                        "leave `timeout` out: it waits as long as it says, and no longer",
                    );
                }
            }
            ActionSpec::Role(role) => self.check_role(findings, role),
            ActionSpec::Postgres(PostgresAction::Promote { .. })
                if findings.policy.role.is_some() && !self.follows_role() =>
            {
                findings.error_at_key(
                    &self.path(&["postgres", "promote"]),
                    "the standby is promoted before its site is the active one",
                    "put a step `role: { to: SITE, … }` above it, or remove `role` of the policy",
                );
            }
            more => actions::check(findings, &self.path(&[more.kind()]), more),
        }
    }
}

impl StepOf<'_> {
    /// Whether a site is made the active one before this step, in every mode that it is done in.
    fn follows_role(&self) -> bool {
        let earlier = self.earlier();
        let modes = |step: &Step| {
            if step.modes.is_empty() { self.definition.modes.clone() } else { step.modes.clone() }
        };
        let own = modes(self.one.step);
        own.iter().all(|mode| {
            *mode == Mode::Drill
                || self.above.values().any(|one| {
                    matches!(one.step.action, ActionSpec::Role(_))
                        && earlier.contains(one.name)
                        && modes(one.step).contains(mode)
                })
        })
    }

    /// The step that `{{STEP.OUTPUT}}` names, if that is all there is.
    fn source_of(&self, text: &str, output: &str) -> Option<&Step> {
        let inner = text.trim().strip_prefix("{{")?.strip_suffix("}}")?;
        let (step, found) = inner.trim().split_once('.')?;
        (found == output).then(|| self.above.get(step).map(|one| one.step))?
    }
}

/// What `ssh` takes for a host, and not for an option or for more than one word.
pub(super) fn is_host(text: &str) -> bool {
    !text.starts_with('-') && !text.contains(' ')
}

/// `HOST:PORT`, where either may still be an output.
pub(super) fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return text.contains("{{") };
    let port_ok = port.contains("}}") || port.parse::<u16>().is_ok_and(|port| port > 0);
    !host.is_empty() && !host.contains('/') && port_ok
}
