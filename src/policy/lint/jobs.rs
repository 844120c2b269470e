//! Jobs: what they name, chains of `after`, keep rules.

use indexmap::IndexMap;

use super::{Findings, execution, repositories::share_fate, syncs};
use crate::policy::{
    job::{BackupKind, Copy, Job, Selection, Verify, VerifyDepth, Work},
    schedule::Schedule,
};

pub(super) fn check(findings: &mut Findings<'_>) {
    let policy = findings.policy;
    for (name, job) in &policy.jobs {
        match &job.work {
            Work::Backup { sources, kind } => {
                check_selection(findings, name, sources);
                check_base(findings, name, job, *kind);
            }
            Work::Copy(copy) => check_copy(findings, name, job, copy),
            Work::Sync(sync) => syncs::check(findings, name, sync),
            Work::Verify(verify) => check_verify(findings, name, verify),
            Work::Prune(_) => check_prune(findings, name, job),
            // They are no jobs of the policy yet.
            Work::Drill(_) => {}
        }
        check_schedule(findings, name, job);
        execution::check(findings, name, job);
        if job.work.is_kept() {
            check_keep(findings, name, job);
        }
        if job.limits.connections == Some(0) {
            findings.error(
                &["jobs", name, "limits", "connections"],
                "no connections are allowed",
                "write 1 or more",
            );
        }
    }
    check_cycles(findings);
}

fn check_selection(findings: &mut Findings<'_>, job: &str, sources: &Selection) {
    let Selection::Names(names) = sources else {
        return;
    };
    if names.is_empty() {
        findings.error_at_key(
            &["jobs", job, "sources"],
            "the job has no sources",
            "write `sources: all`, or name some",
        );
    }
    for (index, source) in names.iter().enumerate() {
        let number = index.to_string();
        let path = ["jobs", job, "sources", &number];
        findings.reference(&path, source, "sources", "source");
        if names[..index].contains(source) {
            findings.warning(&path, format!("source `{source}` is named twice"), "remove one");
        }
    }
}

/// Without the writer's identity an incremental cannot read what it builds on.
fn check_base(findings: &mut Findings<'_>, name: &str, job: &Job, kind: BackupKind) {
    if kind != BackupKind::Incremental {
        return;
    }
    let policy = findings.policy;
    let blind = policy.sources.keys().filter(|source| job.covers(source)).find_map(|source| {
        let (repository, one) = policy.repository_of(source)?;
        let encryption = one.encryption.as_ref()?;
        encryption.writer_identity.is_none().then_some(repository)
    });
    if let Some(repository) = blind {
        findings.warning(
            &["jobs", name, "kind"],
            format!("every run will be a full: repository `{repository}` has no `writer_identity`"),
            format!("make one with `backstay key generate` and add `writer_identity: \"${{file:PATH}}\"` to the encryption of `{repository}`"),
        );
    }
}

fn check_copy(findings: &mut Findings<'_>, name: &str, job: &Job, copy: &Copy) {
    let policy = findings.policy;
    let path = ["jobs", name, "copy", "to"];
    findings.reference(&path, &copy.to, "repositories", "repository");
    let Some(target) = policy.repositories.get(&copy.to) else {
        return;
    };
    let mut origins: Vec<&str> = policy
        .sources
        .keys()
        .filter(|source| is_copied(&policy.jobs, job, source))
        .filter_map(|source| policy.repository_of(source).map(|(origin, _)| origin))
        .collect();
    origins.sort_unstable();
    origins.dedup();
    if !origins.is_empty() && origins.iter().all(|origin| *origin == copy.to) {
        findings.error(
            &path,
            format!(
                "the backups are in `{}` already: this would copy them onto themselves",
                copy.to
            ),
            "copy to another repository",
        );
        return;
    }
    let near = origins
        .into_iter()
        .filter(|origin| *origin != copy.to)
        .find(|origin| policy.repositories.get(*origin).is_some_and(|one| share_fate(one, target)));
    if let Some(origin) = near {
        findings.warning(
            &path,
            format!(
                "`{}` shares its fate with `{origin}`: both are in one bucket or on one machine",
                copy.to
            ),
            "a copy helps when it is elsewhere: other credentials, another site",
        );
    }
}

/// Content is for those who hold the keys.
fn check_verify(findings: &mut Findings<'_>, name: &str, verify: &Verify) {
    let policy = findings.policy;
    let blind = policy.repositories.iter().find(|(_, one)| {
        one.encryption.as_ref().is_some_and(|encryption| encryption.identity.is_none())
    });
    for (index, source) in verify.sources.iter().flatten().enumerate() {
        let number = index.to_string();
        let path = ["jobs", name, "verify", "sources", &number];
        findings.reference(&path, source, "sources", "source");
    }
    let reads = matches!(verify.depth, VerifyDepth::Content | VerifyDepth::Restore);
    if let (true, Some((repository, _))) = (reads, blind) {
        findings.warning(
            &["jobs", name, "verify", "depth"],
            format!("content cannot be verified here: repository `{repository}` has no `identity`"),
            "run it where a recovery identity is, or take `depth: stored`",
        );
    }
}

/// What expires should be known to have good successors.
fn check_prune(findings: &mut Findings<'_>, name: &str, job: &Job) {
    let jobs = &findings.policy.jobs;
    let after_verify = match &job.schedule {
        Schedule::After(names) => names
            .iter()
            .all(|name| jobs.get(name).is_none_or(|job| matches!(job.work, Work::Verify(_)))),
        _ => false,
    };
    if !after_verify && !jobs.values().any(|job| matches!(job.work, Work::Verify(_))) {
        findings.warning(
            &["jobs", name, "prune"],
            "old backups go, and nobody looks whether the new ones are sound",
            "add a job with `verify: {}`, and prune `after` it",
        );
    }
}

/// Whether a copy job takes backups of `source`: of the jobs it comes after, or of all.
fn is_copied(jobs: &IndexMap<String, Job>, copy: &Job, source: &str) -> bool {
    match &copy.schedule {
        Schedule::After(names) => {
            names.iter().filter_map(|name| jobs.get(name)).any(|job| job.covers(source))
        }
        _ => true,
    }
}

fn check_schedule(findings: &mut Findings<'_>, name: &str, job: &Job) {
    let at = ["jobs", name, "schedule"];
    match &job.schedule {
        Schedule::Every(period) if period.as_secs() < 60 => findings.error(
            &[at[0], at[1], at[2], "every"],
            format!("every {period} is too often"),
            "at least a minute; for less loss archive WAL",
        ),
        Schedule::Cron(_) | Schedule::Every(_) => {}
        Schedule::After(names) => {
            if names.is_empty() {
                findings.error_at_key(
                    &[at[0], at[1], at[2], "after"],
                    "after nothing: the job would never run",
                    "name a job, or use `cron` or `every`",
                );
            }
            for (index, other) in names.iter().enumerate() {
                let number = index.to_string();
                findings.reference(&[at[0], at[1], at[2], "after", &number], other, "jobs", "job");
            }
        }
    }
}

fn check_keep(findings: &mut Findings<'_>, name: &str, job: &Job) {
    let path = ["jobs", name, "keep"];
    if job.keep.is_empty() {
        findings.error_at_key(
            &path,
            "the keep rule keeps nothing",
            "write `keep: { for: 7d, at_least: 3 }`",
        );
        return;
    }
    if !job.keep.has_floor() {
        findings.warning_at_key(
            &path,
            "the keep rule has no floor: if runs fail for long enough, nothing is left",
            "leave `at_least` out for 3, or write `at_least: 1`",
        );
    }
    let only_count = job.keep.period.is_none()
        && [job.keep.hourly, job.keep.daily, job.keep.weekly, job.keep.monthly, job.keep.yearly]
            == [0; 5];
    let locked = findings.policy.sources.keys().filter(|source| job.covers(source)).any(|source| {
        findings.policy.repository_of(source).is_some_and(|(_, one)| one.object_lock.is_some())
    });
    let copies_locked = matches!(&job.work, Work::Copy(copy)
        if findings.policy.repositories.get(&copy.to).is_some_and(|one| one.object_lock.is_some()));
    if only_count && (locked || copies_locked) {
        findings.error_at_key(
            &path,
            "an object lock needs to know its end, and this keep rule has none",
            "add `for: 7d`: objects are locked that long, and `at_least` stays the floor",
        );
    }
}

/// Finds jobs that wait for themselves.
fn check_cycles(findings: &mut Findings<'_>) {
    let jobs = &findings.policy.jobs;
    let mut done: std::collections::HashSet<&str> = std::collections::HashSet::new();
    for name in jobs.keys() {
        let mut trail: Vec<&str> = vec![name];
        let Some(cycle) = cycle_from(jobs, &mut trail, &mut done) else {
            continue;
        };
        let path = cycle.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" after ");
        let last = cycle[cycle.len() - 2];
        findings.error_at_key(
            &["jobs", last, "schedule", "after"],
            format!("jobs wait for each other: {path}"),
            "give one of them a `cron` or `every`",
        );
    }
}

/// The first cycle on a way from the end of `trail`, its first job repeated at the end.
fn cycle_from<'a>(
    jobs: &'a IndexMap<String, Job>,
    trail: &mut Vec<&'a str>,
    done: &mut std::collections::HashSet<&'a str>,
) -> Option<Vec<&'a str>> {
    let name = *trail.last()?;
    if !done.insert(name) {
        return None;
    }
    let Some(Job { schedule: Schedule::After(names), .. }) = jobs.get(name) else {
        return None;
    };
    for next in names {
        if let Some(start) = trail.iter().position(|seen| seen == next) {
            let mut cycle = trail[start..].to_vec();
            cycle.push(next);
            return Some(cycle);
        }
        trail.push(next);
        if let Some(cycle) = cycle_from(jobs, trail, done) {
            return Some(cycle);
        }
        trail.pop();
    }
    None
}
