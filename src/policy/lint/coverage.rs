//! Whether the schedules keep what the objectives promise.

use std::collections::HashMap;

use indexmap::IndexMap;
use jiff::tz::TimeZone;

use super::{Findings, execution};
use crate::policy::{
    job::{Job, Work},
    schedule::{Rhythm, Schedule, WorstGap, rhythms, worst_gap},
    source::SourceSpec,
    value::Period,
};

pub(super) fn check(findings: &mut Findings<'_>) {
    let policy = findings.policy;
    let zone = policy.time_zone();
    let mut gaps: HashMap<Vec<&str>, Option<WorstGap>> = HashMap::new();
    for name in policy.sources.keys() {
        let jobs: Vec<(&str, &Job)> = policy.jobs_of(name).collect();
        if jobs.is_empty() {
            findings.warning_at_key(
                &["sources", name],
                format!("no job backs up `{name}`"),
                "name it in the `sources` of a job, or use `sources: all`",
            );
            continue;
        }
        let names: Vec<&str> = jobs.iter().map(|(name, _)| *name).collect();
        let gap =
            gaps.entry(names.clone()).or_insert_with(|| gap_of(findings.policy, &names, &zone));
        if let Some(gap) = gap.clone() {
            check_source(findings, name, &jobs, &gap);
        }
    }
    for (name, job) in &policy.jobs {
        check_job(findings, name, job, &zone);
    }
    check_overlap(findings);
}

fn gap_of(policy: &crate::policy::Policy, jobs: &[&str], zone: &TimeZone) -> Option<WorstGap> {
    let all: Vec<Rhythm> = jobs.iter().flat_map(|job| rhythms(&policy.jobs, job)).collect();
    worst_gap(&all, zone)
}

fn check_source(findings: &mut Findings<'_>, name: &str, jobs: &[(&str, &Job)], gap: &WorstGap) {
    let Some(source) = findings.policy.sources.get(name) else {
        return;
    };
    if let SourceSpec::PostgresCluster(cluster) = &source.spec {
        check_wal_window(findings, name, cluster.wal.as_ref().and_then(|wal| wal.keep), gap);
    }
    if source.has_wal_archive() {
        return;
    }
    let rpo = findings.policy.objectives_of(name).rpo;
    // One job is the culprit; of several none is alone.
    let path: &[&str] = match jobs {
        [(job, one)] => &["jobs", job, "schedule", key_of(&one.schedule)],
        _ => &["sources", name],
    };
    if gap.length > rpo {
        let message = format!(
            "the longest interval between backups of `{name}` is {gap}, over its RPO of {rpo}"
        );
        let clocks = gap.from.as_ref().zip(gap.until.as_ref());
        let clocks = clocks.is_some_and(|(from, until)| from.offset() != until.offset());
        let hint = if clocks && gap.length.as_secs() <= rpo.as_secs() + 3600 {
            format!(
                "where the clocks go back a time of the calendar comes once: `every: {rpo}` counts elapsed time"
            )
        } else {
            format!(
                "run a job for it at least every {rpo}, or, if that much may be lost, add `objectives: {{ rpo: {} }}` to `{name}`",
                gap.length
            )
        };
        findings.error(path, message, hint);
        return;
    }
    check_hard_windows(findings, name, jobs, gap, rpo);
    let expected = jobs.iter().filter_map(|(_, job)| job.expected).max();
    let Some(expected) = expected else { return };
    if gap.length.as_secs() + expected.as_secs() > rpo.as_secs() {
        findings.warning(
            path,
            format!(
                "backups of `{name}` start up to {} apart and take {expected}: together over its RPO of {rpo}",
                gap.length
            ),
            "what changes while a backup runs is in the next one only: run it more often",
        );
    }
}

/// A window that does not give way may keep all jobs of a source waiting past its RPO.
fn check_hard_windows(
    findings: &mut Findings<'_>,
    name: &str,
    jobs: &[(&str, &Job)],
    gap: &WorstGap,
    rpo: Period,
) {
    let policy = findings.policy;
    let zone = policy.time_zone();
    for (window, one) in &policy.windows {
        let Some(length) = execution::holds_up(one, &zone) else { continue };
        if jobs.iter().all(|(_, job)| job.execution.avoid.contains(window))
            && gap.length.as_secs() + length.as_secs() > rpo.as_secs()
        {
            findings.warning(
                &["windows", window, "hard"],
                format!("for `{window}` backups of `{name}` wait up to {length}: over its RPO of {rpo}"),
                "without `hard` the window gives way before that; or alerts will tell when it begins",
            );
        }
    }
}

const fn key_of(schedule: &Schedule) -> &'static str {
    match schedule {
        Schedule::Cron(_) => "cron",
        Schedule::Every(_) => "every",
        Schedule::After(_) => "after",
    }
}

fn check_wal_window(findings: &mut Findings<'_>, name: &str, keep: Option<Period>, gap: &WorstGap) {
    if let Some(keep) = keep.filter(|keep| *keep < gap.length) {
        findings.error(
            &["sources", name, "postgres_cluster", "wal", "keep"],
            format!(
                "WAL is kept for {keep}, but base backups are up to {} apart: most instants could not be restored",
                gap.length
            ),
            format!("keep it for more than {}, or make base backups more often", gap.length),
        );
    }
}

fn check_job(findings: &mut Findings<'_>, name: &str, job: &Job, zone: &TimeZone) {
    let Some(gap) = worst_gap(&rhythms(&findings.policy.jobs, name), zone) else {
        return;
    };
    if let Some(period) = job
        .keep
        .period
        .filter(|_| job.work.is_kept())
        .filter(|period| *period < gap.length && !job.keep.has_floor())
    {
        findings.error(
            &["jobs", name, "keep", "for"],
            format!(
                "backups are kept for {period}, but runs are up to {} apart: there would be none left",
                gap.length
            ),
            format!("add `at_least: 1`, or keep them for longer than {}", gap.length),
        );
    }
    if let Some(expected) = job.expected.filter(|expected| *expected > gap.length) {
        findings.warning(
            &["jobs", name, "expected"],
            format!("a run takes {expected}, but the next starts after {} at most", gap.length),
            "runs will wait for each other: run the job less often",
        );
    }
}

/// Jobs that want the same source at the same minute: of each job the others, by the source.
fn check_overlap(findings: &mut Findings<'_>) {
    let policy = findings.policy;
    let jobs: Vec<(&String, &Job)> = policy.jobs.iter().collect();
    for (index, (name, job)) in jobs.iter().enumerate() {
        let clashes = jobs[..index].iter().filter_map(|(other_name, other)| {
            let (Schedule::Cron(one), Schedule::Cron(two)) = (&job.schedule, &other.schedule)
            else {
                return None;
            };
            if !matches!((&job.work, &other.work), (Work::Backup { .. }, Work::Backup { .. }))
                || !one.meets(two)
            {
                return None;
            }
            let source =
                policy.sources.keys().find(|name| job.covers(name) && other.covers(name))?;
            Some((source, *other_name))
        });
        let mut others: IndexMap<&String, Vec<&String>> = IndexMap::new();
        for (source, other) in clashes {
            others.entry(source).or_default().push(other);
        }
        for (source, others) in others {
            let shown: Vec<String> =
                others.iter().take(MOST_SHOWN).map(|other| format!("`{other}`")).collect();
            let more = match others.len().saturating_sub(MOST_SHOWN) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            findings.warning(
                &["jobs", name, "schedule", "cron"],
                format!(
                    "jobs `{name}` and {}{more} want `{source}` at the same minute",
                    shown.join(", ")
                ),
                "one waits, or they become one run of the strongest kind: move some of them",
            );
        }
    }
}

/// The most jobs that a finding names.
const MOST_SHOWN: usize = 5;
