//! Standbys: what they follow, and that it is not the source itself.

use super::{Findings, starrocks};
use crate::policy::source::SourceSpec;
use crate::policy::starrocks::StarRocks;
use crate::policy::sync::Sync;

pub(super) fn check(findings: &mut Findings<'_>, job: &str, sync: &Sync) {
    let policy = findings.policy;
    let at = ["jobs", job, "sync"];
    findings.reference(&[at[0], at[1], at[2], "source"], &sync.source, "sources", "source");
    if let Some(repository) = &sync.repository {
        let path = [at[0], at[1], at[2], "repository"];
        findings.reference(&path, repository, "repositories", "repository");
        if policy.repositories.get(repository).is_some_and(|one| one.s3().is_none()) {
            findings.error(
                &path,
                format!(
                    "a standby reads snapshots from a bucket, and `{repository}` is a directory"
                ),
                "name a repository with `s3`",
            );
        }
    }
    if let Some(site) = &sync.site {
        findings.reference(&[at[0], at[1], at[2], "site"], site, "sites", "site");
    }
    let to = [at[0], at[1], at[2], "to"];
    starrocks::check_cluster(findings, &to, &sync.to.as_source());
    let Some(source) = policy.sources.get(&sync.source) else { return };
    let SourceSpec::StarRocks(own) = &source.spec else {
        findings.error(
            &[at[0], at[1], at[2], "source"],
            format!("`{}` is no StarRocks: only databases of StarRocks are synced", sync.source),
            "PostgreSQL has standbys of its own; other sources are restored by a playbook",
        );
        return;
    };
    let same = sync.to.frontends.iter().find(|one| {
        let one = StarRocks::address(one);
        one.is_some() && own.frontends.iter().any(|other| StarRocks::address(other) == one)
    });
    if let Some(frontend) = same {
        findings.error_at_key(
            &[to[0], to[1], to[2], to[3], "frontends"],
            format!("`{frontend}` is a frontend of the source itself"),
            "name those of the standby: a cluster is not restored onto itself",
        );
    }
}
