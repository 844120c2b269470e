//! The values of metrics: from the state, so that they survive restarts, and from the board.
//!
//! Only what the policies in force name is shown: a series ends with its job.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::metrics::Page;
use crate::daemon::board::Sheet;
use crate::daemon::look::Look;
use crate::daemon::tell;
use crate::daemon::watch::PING;
use crate::error::Result;
use crate::notify::Receiver;
use crate::policy::{Job, Policy};
use crate::state::{OUTCOMES, RunRow, RunState, State};

/// The text of all metrics.
pub(super) fn collect(state: &State, sheet: &Sheet, now: Timestamp) -> Result<String> {
    let mut page = Page::default();
    page.add("backstay_build_info", &[env!("CARGO_PKG_VERSION")], 1.0);
    page.add("backstay_policies_valid", &[], flag(sheet.invalid.is_none()));
    if let Some(loaded) = sheet.loaded {
        page.add("backstay_policies_loaded_timestamp_seconds", &[], seconds(loaded));
    }
    page.add("backstay_daemon_failed_rounds_total", &[], sheet.failed_rounds as f64);
    jobs(&mut page, state, sheet)?;
    totals(&mut page, state, sheet)?;
    sources(&mut page, state, sheet, now)?;
    alerts(&mut page, state, sheet)?;
    Ok(page.text())
}

fn jobs(page: &mut Page, state: &State, sheet: &Sheet) -> Result<()> {
    let open = state.open_runs()?;
    for policy in &*sheet.policies {
        for (name, job) in &policy.jobs {
            let key = (policy.stack.clone(), name.clone());
            let alone = [policy.stack.as_str(), name];
            if let Some(interval) = sheet.intervals.get(&key) {
                let interval = interval.as_secs() as f64;
                page.add("backstay_job_expected_interval_seconds", &alone, interval);
            }
            if let Some(Some(due)) = sheet.due.get(&key) {
                page.add("backstay_job_next_run_timestamp_seconds", &alone, seconds(*due));
            }
            // What several daemons share lies elsewhere: nothing is better than a number that is not.
            for source in sources_of(policy, job).into_iter().filter(|_| !sheet.is_shared) {
                one_job(page, state, (&policy.stack, name, source), &open)?;
            }
        }
    }
    Ok(())
}

fn sources_of<'a>(policy: &'a Policy, job: &'a Job) -> Vec<&'a str> {
    if job.kind().is_none() {
        return vec![""];
    }
    policy.sources.keys().filter(|source| job.covers(source)).map(String::as_str).collect()
}

fn one_job(
    page: &mut Page,
    state: &State,
    slot: (&str, &str, &str),
    open: &[RunRow],
) -> Result<()> {
    let labels = [slot.0, slot.1, slot.2];
    let mine: Vec<&RunRow> = open
        .iter()
        .filter(|row| {
            (row.slot.stack.as_str(), row.slot.job.as_str(), row.slot.source.as_str()) == slot
        })
        .collect();
    let count = |state| mine.iter().filter(|row| row.state == state).count() as f64;
    page.add("backstay_job_running", &labels, count(RunState::Running));
    page.add("backstay_job_waiting", &labels, count(RunState::Waiting));
    let success = state.last_in(slot, RunState::Succeeded)?;
    let last = state.last_outcome(slot.0, slot.1, slot.2)?;
    page.add("backstay_job_never_succeeded", &labels, flag(success.is_none()));
    if let Some(ended) = success.as_ref().and_then(|row| row.ended) {
        page.add("backstay_job_last_success_timestamp_seconds", &labels, seconds(ended));
    }
    let began = mine.iter().copied().chain(&last).chain(&success);
    let began = began.filter_map(|row| Some((row.started?, row.due))).max();
    if let Some((started, due)) = began {
        page.add("backstay_job_last_start_timestamp_seconds", &labels, seconds(started));
        let delay = started.duration_since(due).as_secs_f64().max(0.0);
        page.add("backstay_job_last_start_delay_seconds", &labels, delay);
    }
    for outcome in OUTCOMES {
        let is = last.as_ref().is_some_and(|row| row.state == outcome);
        let labels = [slot.0, slot.1, slot.2, outcome.word()];
        page.add("backstay_job_last_outcome", &labels, flag(is));
    }
    Ok(())
}

fn totals(page: &mut Page, state: &State, sheet: &Sheet) -> Result<()> {
    for total in state.run_totals()? {
        let policy = sheet.policies.iter().find(|policy| policy.stack == total.stack);
        let Some(policy) = policy else { continue };
        let Some(job) = policy.jobs.get(&total.job) else { continue };
        if !sources_of(policy, job).contains(&total.source.as_str()) {
            continue;
        }
        let labels = [&*total.stack, &*total.job, &*total.source, &*total.state];
        page.add("backstay_job_runs_total", &labels, total.total as f64);
    }
    for ((stack, job), durations) in state.run_durations()? {
        let policy = sheet.policies.iter().find(|policy| policy.stack == stack);
        if policy.is_some_and(|policy| policy.jobs.contains_key(&job)) {
            page.add_histogram(
                "backstay_job_run_duration_seconds",
                &[&stack, &job],
                &durations.at_most,
                durations.micros as f64 / 1e6,
                durations.count,
            );
        }
    }
    Ok(())
}

fn sources(page: &mut Page, state: &State, sheet: &Sheet, now: Timestamp) -> Result<()> {
    let rows = state.looks()?;
    for policy in &*sheet.policies {
        let mut reachable: BTreeMap<&str, bool> = BTreeMap::new();
        for name in policy.sources.keys() {
            let objectives = policy.objectives_of(name);
            let labels = [policy.stack.as_str(), name];
            page.add("backstay_rpo_target_seconds", &labels, objectives.rpo.as_secs() as f64);
            page.add("backstay_rto_target_seconds", &labels, objectives.rto.as_secs() as f64);
            let row = rows.iter().find(|row| row.stack == policy.stack && row.source == *name);
            let Some((row, look)) = row.and_then(|row| Some((row, Look::read(row)?))) else {
                continue;
            };
            page.add("backstay_source_looked_timestamp_seconds", &labels, seconds(row.at));
            page.add("backstay_source_known", &labels, flag(look.is_known()));
            one_source(page, labels, &look, objectives.rpo.as_secs(), now);
            for repository in policy.repositories.keys() {
                let answers = !look.unreachable.contains_key(repository);
                let all = reachable.entry(repository).or_insert(true);
                *all &= answers;
            }
        }
        for (repository, answers) in reachable {
            let labels = [policy.stack.as_str(), repository];
            page.add("backstay_repository_reachable", &labels, flag(answers));
        }
    }
    Ok(())
}

fn one_source(page: &mut Page, labels: [&str; 2], look: &Look, rpo: u64, now: Timestamp) {
    let [stack, source] = labels;
    for (level, at) in &look.verified {
        page.add("backstay_verify_last_timestamp_seconds", &[stack, source, level], seconds(*at));
    }
    let recovery = [
        ("backstay_rto_last_measured_seconds", look.measured_rto_seconds),
        ("backstay_rto_estimate_seconds", look.estimated_rto_seconds),
    ];
    for (name, seconds) in recovery {
        if let Some(seconds) = seconds {
            page.add(name, &labels, seconds as f64);
        }
    }
    let newest = look.elsewhere.values().max();
    if let Some(at) = newest {
        let labels = [stack, source, "replicated"];
        page.add("backstay_recovery_point_newest_timestamp_seconds", &labels, seconds(*at));
    }
    if !look.is_known() {
        return;
    }
    page.add("backstay_source_unprotected", &labels, flag(look.time.is_none()));
    let exposure = look.time.map(|time| now.duration_since(time).as_secs_f64().max(0.0));
    let breach = exposure.is_none_or(|exposure| exposure > rpo as f64);
    page.add("backstay_rpo_breach", &labels, flag(breach));
    if let (Some(time), Some(exposure)) = (look.time, exposure) {
        page.add("backstay_rpo_exposure_seconds", &labels, exposure);
        let labels = [stack, source, "taken"];
        page.add("backstay_recovery_point_newest_timestamp_seconds", &labels, seconds(time));
    }
    if let Some(oldest) = look.oldest {
        page.add("backstay_recovery_point_oldest_timestamp_seconds", &labels, seconds(oldest));
    }
    page.add("backstay_recovery_points", &labels, look.backups as f64);
    page.add("backstay_damaged_objects", &labels, look.damaged as f64);
    for size in &look.sizes {
        let labels = [stack, source, size.kind.as_str()];
        page.add("backstay_backup_size_bytes", &labels, size.bytes as f64);
        if let Some(median) = size.median {
            page.add("backstay_backup_size_median_bytes", &labels, median as f64);
        }
    }
}

fn alerts(page: &mut Page, state: &State, sheet: &Sheet) -> Result<()> {
    let mut firing: BTreeMap<(String, &str, &str), u32> = BTreeMap::new();
    for row in state.alerts()?.iter().filter(|row| row.resolved.is_none()) {
        let Some(notice) = tell::read(row) else { continue };
        let what = &notice.alert.what;
        let key = (notice.alert.stack.clone(), what.name(), what.severity().word());
        *firing.entry(key).or_default() += 1;
    }
    for ((stack, name, severity), count) in firing {
        page.add("backstay_alerts_firing", &[&stack, name, severity], f64::from(count));
    }
    for total in state.notification_totals()? {
        let policy = sheet.policies.iter().find(|policy| policy.stack == total.stack);
        let notify = policy.and_then(|policy| policy.notify.as_ref());
        let is_named = notify.is_some_and(|notify| {
            let pings = total.receiver == PING && notify.ping.is_some();
            pings || Receiver::all(notify).iter().any(|one| one.name() == total.receiver)
        });
        if is_named {
            let labels = [&*total.stack, &*total.receiver, total.result.word()];
            page.add("backstay_notifications_total", &labels, total.total as f64);
            let last = seconds(total.last);
            page.add("backstay_notification_last_timestamp_seconds", &labels, last);
        }
    }
    Ok(())
}

fn flag(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

fn seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}
