//! Who is to be told what now: pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::notify::{Alert, Notice, Receiver};
use crate::policy::Policy;
use crate::state::{AlertRow, Told, ToldBy};

/// How long what is over is remembered for those who cannot be told.
const MEMORY: SignedDuration = SignedDuration::from_hours(24);

/// The pause after the first message that was not taken; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(2);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// What rates are counted over.
const MINUTE: Duration = Duration::from_mins(1);

/// An alert of the state, read.
pub fn read(row: &AlertRow) -> Option<Notice> {
    let alert: Alert = serde_json::from_str(&row.alert).ok()?;
    Some(Notice { alert, started: row.started, resolved: row.resolved })
}

/// What the rows become when `firing` fires now, and which of them are new or over. `undecided`
/// ones stay as they are.
pub fn compare(
    rows: &[AlertRow],
    firing: &[Alert],
    undecided: impl Fn(&Alert) -> bool,
    now: Timestamp,
) -> Vec<AlertRow> {
    let known: BTreeMap<&str, &AlertRow> =
        rows.iter().map(|row| (row.fingerprint.as_str(), row)).collect();
    let mut changed = Vec::new();
    let mut fire = BTreeSet::new();
    for alert in firing {
        let fingerprint = alert.fingerprint();
        let Ok(text) = serde_json::to_string(alert) else { continue };
        let row = known.get(fingerprint.as_str());
        let started = row.filter(|row| row.resolved.is_none()).map_or(now, |row| row.started);
        let new =
            AlertRow { fingerprint: fingerprint.clone(), alert: text, started, resolved: None };
        if fire.insert(fingerprint) && row.is_none_or(|row| **row != new) {
            changed.push(new);
        }
    }
    for row in rows.iter().filter(|row| row.resolved.is_none()) {
        let stays = fire.contains(&row.fingerprint)
            || read(row).is_some_and(|notice| undecided(&notice.alert));
        if !stays {
            changed.push(AlertRow { resolved: Some(now), ..row.clone() });
        }
    }
    changed
}

/// What a receiver of a stack is to be told now.
pub fn due(
    notices: &[Notice],
    told: &BTreeMap<String, Told>,
    policy: &Policy,
    receiver: &Receiver,
    now: Timestamp,
) -> Vec<Notice> {
    let manner = receiver.manner();
    let policies = policy.notify.as_ref().map(|notify| notify.repeat.get());
    let repeat = manner.repeat.or(policies).unwrap_or(Duration::MAX);
    let is_due = |notice: &&Notice| {
        let alert = &notice.alert;
        let of_stack = alert.stack.is_empty() || alert.stack == policy.stack;
        if !of_stack || alert.what.severity() < receiver.severity() {
            return false;
        }
        match (told.get(&alert.fingerprint()), notice.resolved) {
            (None, resolved) => resolved.is_none(),
            (Some(told), Some(over)) => {
                let lingers = is_within(over, manner.linger, now);
                !told.resolved || (lingers && !is_within(told.at, repeat, now))
            }
            (Some(told), None) => {
                told.resolved || told.at < notice.started || !is_within(told.at, repeat, now)
            }
        }
    };
    notices.iter().filter(is_due).cloned().collect()
}

/// Whether `now` is less than `time` after `then`.
fn is_within(then: Timestamp, time: Duration, now: Timestamp) -> bool {
    SignedDuration::try_from(time).map_or(true, |time| now.duration_since(then) < time)
}

/// What is over and need not be remembered: everybody who heard of it was told, as often as they want
/// to be, or it is long ago.
pub fn done(rows: &[AlertRow], told: &ToldBy, now: Timestamp) -> BTreeSet<String> {
    let over = rows.iter().filter_map(|row| Some((row, row.resolved?)));
    over.filter(|(row, resolved)| {
        let waits = told.iter().any(|((_, receiver), of)| {
            let lingers = is_within(*resolved, Receiver::linger_of(receiver), now);
            of.get(&row.fingerprint).is_some_and(|told| !told.resolved || lingers)
        });
        !waits || now.duration_since(*resolved) > MEMORY
    })
    .map(|(row, _)| row.fingerprint.clone())
    .collect()
}

/// How a receiver was told lately.
#[derive(Debug, Default)]
pub struct Line {
    /// It is being told.
    pub busy: bool,
    /// How often it did not take a message, one after the other.
    pub failures: u32,
    not_before: Option<Instant>,
    sent: VecDeque<Instant>,
}

impl Line {
    /// Whether it may be told now.
    pub fn is_free(&mut self, per_minute: Option<usize>, now: Instant) -> bool {
        while self.sent.front().is_some_and(|sent| now.duration_since(*sent) >= MINUTE) {
            self.sent.pop_front();
        }
        !self.busy
            && self.not_before.is_none_or(|instant| now >= instant)
            && per_minute.is_none_or(|most| self.sent.len() < most)
    }

    /// Whether it did not take a message, and the pause after that is over.
    pub fn is_to_be_tried(&self, now: Instant) -> bool {
        !self.busy && self.not_before.is_some_and(|instant| now >= instant)
    }

    /// There is nothing to tell it any more.
    pub fn rest(&mut self) {
        if !self.busy {
            self.not_before = None;
        }
    }

    /// It is being told from now on.
    pub fn begin(&mut self, now: Instant) {
        self.busy = true;
        self.sent.push_back(now);
    }

    /// It took the message.
    pub fn succeed(&mut self) {
        (self.busy, self.failures, self.not_before) = (false, 0, None);
    }

    /// It did not, and wants to be left alone for a while.
    pub fn fail(&mut self, retry_after: Option<Duration>, now: Instant) {
        let doubled = FIRST_PAUSE * 2u32.saturating_pow(self.failures.min(16));
        let pause = doubled.min(LONGEST_PAUSE).max(retry_after.unwrap_or_default());
        self.busy = false;
        self.failures += 1;
        self.not_before = now.checked_add(pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_keeps_to_its_rate_and_pauses_longer_each_time() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut line = Line::default();
        for second in 0..20 {
            assert!(line.is_free(Some(20), at(second)));
            line.begin(at(second));
            assert!(!line.is_free(Some(20), at(second)), "it is being told");
            line.succeed();
        }
        assert!(!line.is_free(Some(20), at(59)));
        assert!(line.is_free(Some(20), at(60)));
        assert!(line.is_free(None, at(59)));
        line.fail(None, at(60));
        assert!(!line.is_free(None, at(61)) && line.is_free(None, at(62)));
        line.fail(None, at(62));
        assert!(!line.is_free(None, at(65)) && line.is_free(None, at(66)));
        line.fail(Some(Duration::from_mins(10)), at(70));
        assert!(!line.is_free(None, at(669)) && line.is_free(None, at(670)));
    }
}
