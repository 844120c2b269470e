//! What changed since an earlier drill.

use serde::Serialize;

use super::document::seconds;
use super::words;
use crate::drill::evidence::Evidence;
use crate::policy::Language;

/// Something that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What.
    pub what: String,
    /// As it was.
    pub before: String,
    /// As it is.
    pub now: String,
}

/// What changed from one drill to a later one.
pub fn compare(before: &Evidence, now: &Evidence, language: Language) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut note = |what: &str, before: String, now: String| {
        if before != now {
            changes.push(Change { what: what.to_owned(), before, now });
        }
    };
    let took = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), seconds);
    let verdict = |evidence: &Evidence| words::verdict(language, evidence.verdict).to_owned();
    note("verdict", verdict(before), verdict(now));
    note("policy", before.policy_sha256.clone(), now.policy_sha256.clone());
    note("program", before.environment.tool.clone(), now.environment.tool.clone());
    note("host", before.environment.host.clone(), now.environment.host.clone());
    let rto = |evidence: &Evidence| took(evidence.rto.from_declaration_seconds);
    note("RTO", rto(before), rto(now));
    note("RPO", took(before.rpo_seconds), took(now.rpo_seconds));
    for source in &now.sources {
        let name = &source.source;
        match before.sources.iter().find(|one| one.source == *name) {
            None => note(&format!("source {name}"), "-".to_owned(), source.kind.clone()),
            Some(old) => {
                let server = |text: &Option<String>| text.clone().unwrap_or_default();
                note(&format!("{name}: server"), server(&old.server), server(&source.server));
                note(&format!("{name}: bytes"), old.bytes.to_string(), source.bytes.to_string());
            }
        }
    }
    for gone in
        before.sources.iter().filter(|old| !now.sources.iter().any(|one| one.source == old.source))
    {
        note(&format!("source {}", gone.source), gone.kind.clone(), "-".to_owned());
    }
    for check in &now.checks {
        let old = before.checks.iter().find(|old| old.name == check.name);
        let state = |state| words::check(language, state).to_owned();
        note(
            &format!("check {}", check.name),
            old.map_or_else(|| "-".to_owned(), |old| state(old.state)),
            state(check.state),
        );
    }
    let codes = |evidence: &Evidence| {
        let mut codes: Vec<String> = evidence
            .findings
            .iter()
            .map(|one| match &one.source {
                Some(source) => format!("{} ({source})", one.code),
                None => one.code.clone(),
            })
            .collect();
        codes.sort();
        codes.dedup();
        codes.join(", ")
    };
    note("findings", codes(before), codes(now));
    changes
}
