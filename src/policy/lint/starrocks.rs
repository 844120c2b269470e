//! StarRocks: frontends, the bucket, the timeout.

use globset::Glob;

use super::Findings;
use crate::policy::postgres_dump::Databases;
use crate::policy::starrocks::StarRocks;

pub(super) fn check(findings: &mut Findings<'_>, name: &str, starrocks: &StarRocks) {
    let at = ["sources", name, "starrocks"];
    check_cluster(findings, &at, starrocks);
    for (index, pattern) in starrocks.exclude.iter().enumerate() {
        if Glob::new(pattern).is_err() {
            let number = index.to_string();
            findings.error(
                &[at[0], at[1], at[2], "exclude", &number],
                format!("`{pattern}` is no pattern"),
                "write a name, or one with `*` and `?`",
            );
        }
    }
    if let Some(Databases::Names(names)) = &starrocks.databases {
        if names.is_empty() {
            findings.error_at_key(
                &[at[0], at[1], at[2], "databases"],
                "no database",
                "name some, or write `databases: all`",
            );
        }
        if !starrocks.exclude.is_empty() {
            findings.error_at_key(
                &[at[0], at[1], at[2], "exclude"],
                "`exclude` beside a list of databases",
                "leave the ones out of the list that are not wanted",
            );
        }
    }
    let policy = findings.policy;
    if let Some((repository, config)) = policy.repository_of(name)
        && config.s3().is_none()
    {
        findings.error_at_key(
            &at,
            format!("StarRocks writes its snapshots into a bucket, and repository `{repository}` is a directory"),
            "give the source a repository with `s3`: `repository: NAME`",
        );
    }
}

/// How a cluster is reached, and how it reaches the bucket; `at` is where that is written.
pub(super) fn check_cluster(findings: &mut Findings<'_>, at: &[&str], starrocks: &StarRocks) {
    let below = |key: &'static str| -> Vec<&str> { at.iter().copied().chain([key]).collect() };
    if starrocks.frontends.is_empty() {
        findings.error_at_key(
            &below("frontends"),
            "no frontend",
            "name at least one: `frontends: [fe1.example:9030]`",
        );
    }
    for (index, frontend) in starrocks.frontends.iter().enumerate() {
        if StarRocks::address(frontend).is_none() {
            let number = index.to_string();
            findings.error(
                &[&below("frontends")[..], &[&number]].concat(),
                format!("`{frontend}` is no frontend"),
                "write HOST or HOST:PORT, with the port of the MySQL protocol (9030)",
            );
        }
    }
    if starrocks.timeout.is_some_and(|timeout| timeout < StarRocks::SHORTEST_TIMEOUT) {
        findings.error(
            &below("timeout"),
            "StarRocks takes no timeout below 10 minutes",
            "write `timeout: 10m` or more; it is what ends a snapshot that hangs",
        );
    }
    let storage = &starrocks.storage;
    if storage.access_key_id.is_some() != storage.secret_access_key.is_some() {
        findings.error_at_key(
            &below("storage"),
            "half a key for the bucket",
            "give both `access_key_id` and `secret_access_key`, or neither for the cluster's instance profile",
        );
    }
}
