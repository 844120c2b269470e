//! Smaller sections, and what they name.

use super::{
    Findings,
    sources::{absolute, check_connection},
};
use crate::policy::{
    model::State,
    redact::{has_secret_within, names_a_secret},
    value::Setting,
    yaml::Node,
};

pub(super) fn check(findings: &mut Findings<'_>) {
    if findings.root.get("unconfirmed").is_some() {
        findings.error_at_key(
            &["unconfirmed"],
            "nobody has confirmed this policy, which was read back from a repository",
            "`backstay policy confirm FILE` shows what it would run, and asks",
        );
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
