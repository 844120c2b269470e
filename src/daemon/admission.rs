//! When a run that is due may begin.

use indexmap::IndexMap;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde::Serialize;

use crate::archive::digest::sha256_hex;
use crate::policy::{Execution, Window};

/// How often a start is moved before it is given up: windows that close into each other.
const MOVES: usize = 1000;

/// When a run may begin, and what it waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Admission {
    /// When it may begin.
    pub start: Timestamp,
    /// The windows it waits for, each once.
    pub waits_for: Vec<String>,
    /// Soft windows that it begins in, because waiting would break the RPO.
    pub despite: Vec<String>,
}

/// The share of its jitter that a job's runs begin later by: always the same one.
pub fn jitter_of(stack: &str, job: &str, execution: &Execution) -> SignedDuration {
    let Some(most) = execution.jitter else { return SignedDuration::ZERO };
    let digest = sha256_hex(format!("{stack}/{job}").as_bytes());
    let share = u64::from_str_radix(&digest[..8], 16).unwrap_or(0);
    let seconds = most.as_secs().saturating_mul(share) >> 32;
    SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(0))
}

/// When a run may begin that wants to begin at `wanted`. Soft windows are waited for up to `latest`
/// only. `None`: never, because no window that it keeps to opens again.
pub fn admit(
    execution: &Execution,
    windows: &IndexMap<String, Window>,
    zone: &TimeZone,
    wanted: Timestamp,
    latest: Option<Timestamp>,
) -> Option<Admission> {
    let mut admission = Admission { start: wanted, waits_for: Vec::new(), despite: Vec::new() };
    for _ in 0..MOVES {
        let at = admission.start;
        if let Some((name, closes)) = closed_by(execution, windows, zone, &admission) {
            let hard = windows.get(name).is_some_and(|window| window.hard);
            if !hard && latest.is_some_and(|latest| closes > latest) {
                admission.despite.push(name.to_owned());
                continue;
            }
            note(&mut admission.waits_for, name);
            admission.start = closes;
            continue;
        }
        let Some((name, opens)) = opened_by(execution, windows, zone, at)? else {
            return Some(admission);
        };
        note(&mut admission.waits_for, name);
        admission.start = opens;
    }
    None
}

/// A window that is open at the start and is to be avoided, and when it closes.
fn closed_by<'a>(
    execution: &'a Execution,
    windows: &IndexMap<String, Window>,
    zone: &TimeZone,
    admission: &Admission,
) -> Option<(&'a str, Timestamp)> {
    execution
        .avoid
        .iter()
        .filter(|name| !admission.despite.contains(name))
        .find_map(|name| Some((&**name, windows.get(name)?.closes_after(admission.start, zone)?)))
}

/// The window that opens next, if the job keeps to windows and none of them is open. `None` if none
/// ever opens again.
#[expect(clippy::option_option, reason = "never, at once, or then")]
fn opened_by<'a>(
    execution: &'a Execution,
    windows: &IndexMap<String, Window>,
    zone: &TimeZone,
    at: Timestamp,
) -> Option<Option<(&'a str, Timestamp)>> {
    if execution.within.is_empty() {
        return Some(None);
    }
    let next = execution
        .within
        .iter()
        .filter_map(|name| Some((&**name, windows.get(name)?.opens_from(at, zone)?)))
        .min_by_key(|(_, opens)| *opens)?;
    Some((next.1 > at).then_some(next))
}

fn note(names: &mut Vec<String>, name: &str) {
    if !names.iter().any(|known| known == name) {
        names.push(name.to_owned());
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::policy::{CivilTime, When};

    fn windows(hard: bool) -> IndexMap<String, Window> {
        let again = |cron: &str, length: &str| Window {
            when: When::Again { opens: cron.parse().unwrap(), length: length.parse().unwrap() },
            hard,
            reason: None,
        };
        let civil = |text: &str| CivilTime(text.parse().unwrap());
        IndexMap::from([
            ("logs".to_owned(), again("0 2 * * *", "1h")),
            ("stats".to_owned(), again("0 3 * * *", "30m")),
            ("night".to_owned(), again("0 22 * * *", "8h")),
            (
                "freeze".to_owned(),
                Window {
                    when: When::Once {
                        from: civil("2026-12-24T00:00"),
                        until: civil("2026-12-27T00:00"),
                    },
                    hard: true,
                    reason: None,
                },
            ),
        ])
    }

    fn start(
        avoid: &[&str],
        within: &[&str],
        hard: bool,
        wanted: &str,
        latest: Option<&str>,
    ) -> Option<Found> {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let execution =
            Execution { avoid: names(avoid), within: names(within), ..Execution::default() };
        let at = |text: &str| text.parse().unwrap();
        let found = admit(&execution, &windows(hard), &TimeZone::UTC, at(wanted), latest.map(at))?;
        Some((found.start.to_string(), found.waits_for, found.despite))
    }

    type Found = (String, Vec<String>, Vec<String>);

    fn at(start: &str, waits_for: &[&str], despite: &[&str]) -> Found {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        (start.to_owned(), names(waits_for), names(despite))
    }

    #[test]
    fn windows_that_follow_each_other_are_one_wait() {
        assert_eq!(
            start(&["logs", "stats"], &[], false, "2026-11-21T02:10:00Z", None),
            Some(at("2026-11-21T03:30:00Z", &["logs", "stats"], &[]))
        );
        assert_eq!(
            start(&["logs"], &[], false, "2026-11-21T03:00:00Z", None),
            Some(at("2026-11-21T03:00:00Z", &[], &[]))
        );
    }

    #[test]
    fn soft_windows_give_way_and_hard_ones_do_not() {
        let latest = Some("2026-11-21T02:30:00Z");
        assert_eq!(
            start(&["logs"], &[], false, "2026-11-21T02:10:00Z", latest),
            Some(at("2026-11-21T02:10:00Z", &[], &["logs"]))
        );
        assert_eq!(
            start(&["logs"], &[], true, "2026-11-21T02:10:00Z", latest),
            Some(at("2026-11-21T03:00:00Z", &["logs"], &[]))
        );
    }

    #[test]
    fn within_waits_for_the_opening_and_both_hold() {
        assert_eq!(
            start(&[], &["night"], false, "2026-11-21T12:00:00Z", None),
            Some(at("2026-11-21T22:00:00Z", &["night"], &[]))
        );
        assert_eq!(
            start(&["logs"], &["night"], false, "2026-11-22T02:30:00Z", None),
            Some(at("2026-11-22T03:00:00Z", &["logs"], &[]))
        );
        assert_eq!(start(&[], &["freeze"], false, "2026-12-28T00:00:00Z", None), None);
        // The only opening is inside of what is avoided.
        assert_eq!(start(&["logs"], &["logs"], true, "2026-11-21T02:10:00Z", None), None);
    }

    #[test]
    fn jitter_is_stable_and_no_longer_than_it_may_be() {
        let execution = Execution { jitter: Some("10m".parse().unwrap()), ..Execution::default() };
        let jitter = jitter_of("shop", "daily", &execution);
        assert_eq!(jitter, jitter_of("shop", "daily", &execution));
        assert_ne!(jitter, jitter_of("shop", "hourly", &execution));
        assert!(jitter < SignedDuration::from_mins(10));
    }
}
