//! How runs behave: windows, pools, deadlines and hooks.

use jiff::tz::TimeZone;

use super::{Findings, programs};
use crate::policy::{
    job::Job,
    schedule::{Rhythm, rhythms, worst_gap},
    value::Period,
    window::{LONGEST, When, Window},
};

/// What a job says of its runs.
pub(super) fn check(findings: &mut Findings<'_>, name: &str, job: &Job) {
    let execution = &job.execution;
    for (key, names) in [("avoid", &execution.avoid), ("within", &execution.within)] {
        for (index, window) in names.iter().enumerate() {
            let number = index.to_string();
            findings.reference(&["jobs", name, key, &number], window, "windows", "window");
        }
    }
    for (index, pool) in execution.pools.iter().enumerate() {
        let number = index.to_string();
        findings.reference(&["jobs", name, "pools", &number], pool, "pools", "pool");
    }
    for window in &execution.avoid {
        if execution.within.contains(window) {
            findings.error_at_key(
                &["jobs", name, "avoid"],
                format!("the job begins only within `{window}`, and never in it"),
                "take it out of `avoid` or of `within`",
            );
        }
    }
    if let (Some(stop), Some(expected)) = (execution.stop_after, job.expected)
        && stop < expected
    {
        findings.error(
            &["jobs", name, "stop_after"],
            format!("a run takes {expected}, and is ended after {stop}"),
            "give it more time than it usually takes",
        );
    }
    let zone = findings.policy.time_zone();
    let gap = worst_gap(&rhythms(&findings.policy.jobs, name), &zone).map(|gap| gap.length);
    if let (Some(jitter), Some(gap)) = (execution.jitter, gap)
        && jitter >= gap
    {
        findings.error(
            &["jobs", name, "jitter"],
            format!("a jitter of {jitter} moves a run past the next: they are up to {gap} apart"),
            "a few minutes spread the load",
        );
    }
    for (hook, program) in execution.hooks.all() {
        programs::check_hook(findings, &["jobs", name, "hooks", hook], program);
    }
}

/// Windows and pools by themselves.
pub(super) fn check_windows(findings: &mut Findings<'_>) {
    let policy = findings.policy;
    for (name, places) in &policy.pools {
        if *places == 0 {
            findings.error(
                &["pools", name],
                "a pool without places: no run could ever begin",
                "write how many runs may go on at once: 1 or more",
            );
        }
    }
    for (name, window) in &policy.windows {
        check_window(findings, name, window);
        if !policy
            .jobs
            .values()
            .any(|job| job.execution.avoid.contains(name) || job.execution.within.contains(name))
        {
            findings.warning_at_key(
                &["windows", name],
                format!("no job knows of the window `{name}`"),
                format!("add `avoid: [{name}]` or `within: [{name}]` to a job"),
            );
        }
    }
}

fn check_window(findings: &mut Findings<'_>, name: &str, window: &Window) {
    let When::Again { opens, length } = &window.when else { return };
    let at = ["windows", name, "for"];
    if length.as_secs() == 0 || *length > LONGEST {
        findings.error(
            &at,
            format!("a window of {length}"),
            format!("between a second and {LONGEST}; for longer ones write `from` and `until`"),
        );
        return;
    }
    let zone = findings.policy.time_zone();
    let gap = worst_gap(&[Rhythm::Cron(opens.clone())], &zone);
    if gap.is_some_and(|gap| *length >= gap.length) {
        findings.error(
            &at,
            format!("the window never closes: it opens again within {length}"),
            "make it shorter than the time between its openings",
        );
    }
}

/// How long a window keeps jobs from beginning at the worst; nothing if it gives way.
pub(super) fn holds_up(window: &Window, zone: &TimeZone) -> Option<Period> {
    if !window.hard {
        return None;
    }
    match &window.when {
        When::Again { length, .. } => Some(*length),
        When::Once { from, .. } => {
            let opens = from.0.to_zoned(zone.clone()).ok()?.timestamp();
            let length = window.closes_after(opens, zone)?.duration_since(opens);
            Some(Period::new(length.unsigned_abs()))
        }
    }
}
