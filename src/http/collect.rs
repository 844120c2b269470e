//! The values of metrics: from the state, so that they survive restarts, and from the board.
//!
//! Only what the policies in force name is shown: a series ends with its job.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::metrics::Page;
use crate::daemon::board::Sheet;
use crate::daemon::drills::{overdue, row_of};
use crate::daemon::look::Look;
use crate::daemon::tell;
use crate::daemon::timetable::slots_of;
use crate::daemon::watch::{PING, oldest_points};
use crate::drill::evidence::Verdict;
use crate::error::Result;
use crate::notify::Receiver;
use crate::playbook::ready::{Readiness, plans, readiness};
use crate::run::protection::Stored;
use crate::state::{Durations, LastEnds, Ledger, OUTCOMES, RunRow, RunState, RunTotal, State};

/// The text of all metrics.
pub(super) fn collect(
    state: &State,
    ledger: Result<Box<dyn Ledger>>,
    sheet: &Sheet,
    now: Timestamp,
) -> Result<String> {
    let mut page = Page::default();
    page.add("backstay_build_info", &[env!("CARGO_PKG_VERSION")], 1.0);
    page.add("backstay_policies_valid", &[], flag(sheet.invalid.is_none()));
    if let Some(loaded) = sheet.loaded {
        page.add("backstay_policies_loaded_timestamp_seconds", &[], seconds(loaded));
    }
    if let Some(digest) = sheet.digest {
        page.add("backstay_policies_digest", &[], digest as f64);
    }
    if let Some(beaten) = sheet.beaten {
        page.add("backstay_daemon_heartbeat_timestamp_seconds", &[], seconds(beaten));
    }
    page.add("backstay_daemon_failed_rounds_total", &[], sheet.failed_rounds as f64);
    schedules(&mut page, sheet);
    // All of the runs or nothing of them: half of a page looks like jobs that are gone.
    let runs = ledger.and_then(|ledger| Runs::read(&*ledger, sheet));
    page.add("backstay_state_up", &[], flag(runs.is_ok()));
    if let Ok(runs) = runs {
        runs.show(&mut page, sheet);
    }
    sources(&mut page, state, sheet, now)?;
    playbooks(&mut page, state, sheet)?;
    drills(&mut page, state, sheet, now)?;
    alerts(&mut page, state, sheet)?;
    Ok(page.text())
}

fn schedules(page: &mut Page, sheet: &Sheet) {
    for policy in &*sheet.policies {
        for name in policy.jobs.keys() {
            let key = (policy.stack.clone(), name.clone());
            let alone = [policy.stack.as_str(), name];
            if let Some(interval) = sheet.intervals.get(&key) {
                let interval = interval.as_secs() as f64;
                page.add("backstay_job_expected_interval_seconds", &alone, interval);
            }
            if let Some(Some(due)) = sheet.due.get(&key) {
                page.add("backstay_job_next_run_timestamp_seconds", &alone, seconds(*due));
            }
        }
    }
}

/// What is known of the runs, wherever they are kept.
struct Runs<'a> {
    slots: Vec<(&'a str, &'a str, &'a str)>,
    ends: Vec<LastEnds>,
    open: Vec<RunRow>,
    totals: Vec<RunTotal>,
    durations: BTreeMap<(String, String), Durations>,
}

impl<'a> Runs<'a> {
    fn read(ledger: &dyn Ledger, sheet: &'a Sheet) -> Result<Self> {
        let slots = slots_of(&sheet.policies);
        Ok(Self {
            ends: ledger.last_ends(&slots)?,
            slots,
            open: ledger.open_runs()?,
            totals: ledger.run_totals()?,
            durations: ledger.run_durations()?,
        })
    }

    fn show(&self, page: &mut Page, sheet: &Sheet) {
        for (slot, ends) in self.slots.iter().zip(&self.ends) {
            self.slot(page, *slot, ends);
        }
        let known: BTreeSet<_> = self.slots.iter().copied().collect();
        for total in &self.totals {
            if known.contains(&(&*total.stack, &*total.job, &*total.source)) {
                let labels = [&*total.stack, &*total.job, &*total.source, &*total.state];
                page.add("backstay_job_runs_total", &labels, total.total as f64);
            }
        }
        for ((stack, job), durations) in &self.durations {
            let policy = sheet.policies.iter().find(|policy| policy.stack == *stack);
            if policy.is_some_and(|policy| policy.jobs.contains_key(job)) {
                page.add_histogram(
                    "backstay_job_run_duration_seconds",
                    &[stack, job],
                    &durations.at_most,
                    durations.micros as f64 / 1e6,
                    durations.count,
                );
            }
        }
    }

    fn slot(&self, page: &mut Page, slot: (&str, &str, &str), ends: &LastEnds) {
        let labels = [slot.0, slot.1, slot.2];
        let of = |row: &RunRow| [&*row.slot.stack, &row.slot.job, &row.slot.source] == labels;
        let mine: Vec<&RunRow> = self.open.iter().filter(|row| of(row)).collect();
        let count = |state| mine.iter().filter(|row| row.state == state).count() as f64;
        page.add("backstay_job_running", &labels, count(RunState::Running));
        page.add("backstay_job_waiting", &labels, count(RunState::Waiting));
        let LastEnds { outcome, success } = ends;
        page.add("backstay_job_never_succeeded", &labels, flag(success.is_none()));
        if let Some(ended) = success.as_ref().and_then(|row| row.ended) {
            page.add("backstay_job_last_success_timestamp_seconds", &labels, seconds(ended));
        }
        let began = mine.iter().copied().chain(outcome).chain(success);
        let began = began.filter_map(|row| Some((row.started?, row.due))).max();
        if let Some((started, due)) = began {
            page.add("backstay_job_last_start_timestamp_seconds", &labels, seconds(started));
            let delay = started.duration_since(due).as_secs_f64().max(0.0);
            page.add("backstay_job_last_start_delay_seconds", &labels, delay);
        }
        for state in OUTCOMES {
            let is = outcome.as_ref().is_some_and(|row| row.state == state);
            let labels = [slot.0, slot.1, slot.2, state.word()];
            page.add("backstay_job_last_outcome", &labels, flag(is));
        }
    }
}

fn sources(page: &mut Page, state: &State, sheet: &Sheet, now: Timestamp) -> Result<()> {
    let rows = state.looks()?;
    for policy in &*sheet.policies {
        let mut reachable: BTreeMap<&str, bool> = BTreeMap::new();
        let mut stored: BTreeMap<&str, Stored> = BTreeMap::new();
        let mut free: BTreeMap<&str, u64> = BTreeMap::new();
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
                if let Some(here) = look.stored.get(repository) {
                    let all = stored.entry(repository).or_default();
                    all.bytes += here.bytes;
                    all.objects += here.objects;
                }
                if let Some(bytes) = look.free_bytes.get(repository) {
                    free.insert(repository, *bytes);
                }
            }
        }
        for (repository, answers) in reachable {
            let labels = [policy.stack.as_str(), repository];
            page.add("backstay_repository_reachable", &labels, flag(answers));
        }
        for (repository, all) in stored {
            let labels = [policy.stack.as_str(), repository];
            page.add("backstay_repository_bytes", &labels, all.bytes as f64);
            page.add("backstay_repository_objects", &labels, all.objects as f64);
        }
        for (repository, bytes) in free {
            let labels = [policy.stack.as_str(), repository];
            page.add("backstay_repository_free_bytes", &labels, bytes as f64);
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
    if let Some(at) = look.measured_rto_at {
        page.add("backstay_restore_test_last_timestamp_seconds", &labels, seconds(at));
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
    let exposure = exposure.filter(|_| !look.ahead);
    let breach = exposure.is_none_or(|exposure| exposure > rpo as f64);
    page.add("backstay_rpo_breach", &labels, flag(breach));
    if let Some(exposure) = exposure {
        page.add("backstay_rpo_exposure_seconds", &labels, exposure);
    }
    if let Some(time) = look.time {
        let labels = [stack, source, "taken"];
        page.add("backstay_recovery_point_newest_timestamp_seconds", &labels, seconds(time));
    }
    if let Some(oldest) = look.oldest {
        page.add("backstay_recovery_point_oldest_timestamp_seconds", &labels, seconds(oldest));
    }
    page.add("backstay_recovery_points", &labels, look.backups as f64);
    page.add("backstay_damaged_objects", &labels, look.damaged as f64);
    if let Some(length) = look.chain_length {
        page.add("backstay_chain_length", &labels, length as f64);
    }
    for size in &look.sizes {
        let labels = [stack, source, size.kind.as_str()];
        page.add("backstay_backup_size_bytes", &labels, size.bytes as f64);
        if let Some(bytes) = size.stored_bytes {
            page.add("backstay_backup_stored_bytes", &labels, bytes as f64);
        }
        if let Some(median) = size.median {
            page.add("backstay_backup_size_median_bytes", &labels, median as f64);
        }
    }
}

fn playbooks(page: &mut Page, state: &State, sheet: &Sheet) -> Result<()> {
    let rows = state.readiness()?;
    for policy in &*sheet.policies {
        for name in policy.playbooks.keys() {
            let labels = [policy.stack.as_str(), name];
            let is = readiness(&rows, (labels[0], labels[1]), &plans(policy, name)?);
            page.add("backstay_playbook_ready", &labels, flag(is == Readiness::Ready));
            let of = || rows.iter().filter(|row| [row.stack.as_str(), &row.playbook] == labels);
            if let Some(at) = of().map(|row| row.at).min() {
                page.add("backstay_playbook_preflight_timestamp_seconds", &labels, seconds(at));
            }
            if let Some(takes) = of().filter_map(|row| row.takes).max() {
                page.add("backstay_playbook_estimate_seconds", &labels, takes as f64);
            }
            if let Some(loss) = of().filter_map(|row| row.loss).max() {
                page.add("backstay_playbook_loss_seconds", &labels, loss as f64);
            }
        }
    }
    Ok(())
}

fn drills(page: &mut Page, state: &State, sheet: &Sheet, now: Timestamp) -> Result<()> {
    let rows = state.drills()?;
    let looks: Vec<Look> = state.looks()?.iter().filter_map(Look::read).collect();
    let oldest = oldest_points(&looks);
    for policy in &*sheet.policies {
        for name in policy.drills.keys() {
            let labels = [policy.stack.as_str(), name];
            let row = row_of(&rows, labels[0], labels[1]);
            let (passed, since) = (row.and_then(|row| row.passed), oldest.get(&policy.stack));
            let late = overdue(policy, name, &sheet.intervals, passed, since.copied(), now);
            if let Some((late, _)) = late {
                page.add("backstay_drill_overdue", &labels, flag(late));
            }
            let Some(row) = row else { continue };
            for verdict in Verdict::ALL {
                let labels = [labels[0], labels[1], verdict.word()];
                page.add(
                    "backstay_drill_last_verdict",
                    &labels,
                    flag(verdict.word() == row.verdict),
                );
            }
            page.add("backstay_drill_last_timestamp_seconds", &labels, seconds(row.at));
            if let Some(passed) = passed {
                page.add("backstay_drill_last_pass_timestamp_seconds", &labels, seconds(passed));
            }
            let measured =
                [("backstay_drill_rto_seconds", row.rto), ("backstay_drill_rpo_seconds", row.rpo)];
            for (metric, value) in measured {
                if let Some(value) = value {
                    page.add(metric, &labels, value);
                }
            }
        }
    }
    Ok(())
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
