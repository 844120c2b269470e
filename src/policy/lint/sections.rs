//! Sections that are not acted on yet, and what they name.

use super::{
    Findings,
    sources::{absolute, check_connection},
};
use crate::policy::{
    cron::Cron,
    model::State,
    redact::{has_secret_within, names_a_secret},
    value::Setting,
    yaml::Node,
};

/// The sections this version reads and checks, but does not act on.
const NOT_ACTED_ON: &[&str] = &["drills"];

pub(super) fn check(findings: &mut Findings<'_>) {
    for section in NOT_ACTED_ON {
        if findings.root.get(section).is_some() {
            findings.warning_at_key(
                &[section],
                format!("this version does not act on `{section}` yet"),
                "it is checked and kept; do not rely on it",
            );
        }
    }
    if let Some(role) = &findings.policy.role {
        findings.reference(&["role", "repository"], &role.repository, "repositories", "repository");
        if let Some(Setting::Plain(site)) = &role.site {
            findings.reference(&["role", "site"], site, "sites", "site");
        }
        if role.self_fence && role.site.is_none() {
            findings.error_at_key(
                &["role", "self_fence"],
                "it is not said which site this host belongs to",
                "add `site: \"${env:BACKSTAY_SITE}\"`",
            );
        }
    }
    for name in findings.names("drills") {
        check_drill(findings, name);
    }
    match &findings.policy.state {
        Some(State::Sqlite { path }) => {
            findings.warning_at_key(
                &["state", "sqlite"],
                "this version does not act on `sqlite` yet",
                "the state of one daemon lies in `--state-dir DIR`",
            );
            absolute(findings, &["state", "sqlite", "path"], path);
        }
        Some(State::Postgres { connection }) => {
            check_connection(findings, &["state", "postgres", "connection"], connection);
        }
        None => {}
    }
    check_free_form(findings);
}

fn check_drill(findings: &mut Findings<'_>, name: &str) {
    let at = |node: &Node, key: &str| node.get(key).and_then(Node::text).map(str::to_owned);
    let Some(drill) = findings.root.find(&["drills", name]) else {
        return;
    };
    match at(drill, "playbook") {
        Some(playbook) => {
            findings.reference(&["drills", name, "playbook"], &playbook, "playbooks", "playbook");
        }
        None => findings.error_at_key(
            &["drills", name],
            format!("drill `{name}` names no playbook"),
            suggest_playbook(findings),
        ),
    }
    let cron = drill.get("schedule").and_then(|schedule| at(schedule, "cron"));
    if let Some(Err(error)) = cron.map(|cron| cron.parse::<Cron>()) {
        findings.error(&["drills", name, "schedule", "cron"], error.message, error.hint);
    }
}

fn suggest_playbook(findings: &Findings<'_>) -> String {
    match findings.names("playbooks").first() {
        Some(name) => format!("add `playbook: {name}`"),
        None => "define one in `playbooks` and add `playbook: NAME`".to_owned(),
    }
}

/// Secrets in bodies that are not interpreted yet.
fn check_free_form(findings: &mut Findings<'_>) {
    let root = findings.root;
    for section in ["sites", "drills"] {
        if let Some(node) = root.get(section) {
            check_body(findings, node, "");
        }
    }
}

fn check_body(findings: &mut Findings<'_>, node: &Node, key: &str) {
    if let Some(text) = node.text() {
        // A bare `key` is more often a name than a secret.
        let named = names_a_secret(key) && !key.ends_with("key")
            || ["secret_key", "private_key", "api_key", "access_key"]
                .iter()
                .any(|end| key.ends_with(end));
        let literal = named && !text.starts_with("${") && !text.is_empty();
        if literal || has_secret_within(text) {
            findings.problems.push(
                crate::policy::diagnostic::Problem::error(node.place, "a secret is written here")
                    .hint("write ${env:NAME} or ${file:PATH}"),
            );
        }
    }
    node.items().iter().for_each(|item| check_body(findings, item, key));
    node.entries().iter().for_each(|(key, value)| check_body(findings, value, &key.name));
}
