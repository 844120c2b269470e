//! Heartbeats: whether a source takes one, and whether it tells anything.

use globset::Glob;

use super::Findings;
use crate::policy::{
    heartbeat::Heartbeat,
    source::{DirectorySource, SourceSpec},
};

pub(super) fn check(findings: &mut Findings<'_>) {
    let policy = findings.policy;
    for (name, source) in &policy.sources {
        let Some(heartbeat) = source.heartbeat else { continue };
        let at = ["sources", name, "heartbeat"];
        if !Heartbeat::KINDS.contains(&source.kind()) {
            findings.error_at_key(
                &at,
                format!("a source `{}` takes no heartbeat", source.kind().name()),
                "remove it: `directory`, `postgres_cluster` and `postgres_dump` take one",
            );
            continue;
        }
        let rpo = policy.objectives_of(name).rpo;
        if heartbeat.every > rpo {
            findings.error(
                &[at[0], at[1], at[2], "every"],
                format!("a heartbeat every {} measures no RPO of {rpo}", heartbeat.every),
                "beat more often: `every: 30s`",
            );
        }
        if let SourceSpec::Directory(directory) = &source.spec {
            check_excludes(findings, name, directory);
        }
    }
}

/// A heartbeat that is left out of every backup is never found.
fn check_excludes(findings: &mut Findings<'_>, name: &str, directory: &DirectorySource) {
    for (index, pattern) in directory.exclude.iter().enumerate() {
        let Ok(glob) = Glob::new(pattern.trim_start_matches('/')) else { continue };
        if glob.compile_matcher().is_match(Heartbeat::MARKER) {
            let number = index.to_string();
            findings.error(
                &["sources", name, "directory", "exclude", &number],
                format!("`{pattern}` leaves out the heartbeat `{}`, too", Heartbeat::MARKER),
                "write what is meant more narrowly, or remove `heartbeat`",
            );
        }
    }
}
