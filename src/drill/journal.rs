//! What happens in a drill, line by line. Each line has the digest of the one before, so that none can
//! be changed, left out or moved without that being seen.

use std::time::Instant;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::begun::Begun;
use super::evidence::{CheckState, Evidence, JournalEnd, Severity, StepState, Verdict};
use crate::archive::digest::sha256_hex;
use crate::clock::Clock;
use crate::error::{Error, Result};

/// How far the time of day and a clock that nobody sets may drift apart before it counts as a step.
const STEP: f64 = 2.0;

/// A line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Counts from 1.
    pub number: u64,
    /// SHA-256 of the line before; empty for the first.
    pub previous: String,
    /// The drill.
    pub drill: String,
    /// The time of day.
    pub time: Timestamp,
    /// Seconds since the drill began, by a clock that nobody sets.
    pub offset: f64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The drill began: what it is of, and what it may take, is fixed.
    Started {
        /// The stack.
        stack: String,
        /// The name in the policy.
        name: String,
        /// What is supposed to have happened.
        scenario: String,
        /// SHA-256 of the policy.
        policy_sha256: String,
        /// RTO in seconds.
        rto_target: u64,
        /// Who began it.
        user: String,
    },
    /// A phase began.
    PhaseBegan {
        /// Its name.
        phase: String,
    },
    /// A phase ended.
    PhaseEnded {
        /// Its name.
        phase: String,
    },
    /// A step began.
    StepBegan {
        /// Its name.
        step: String,
    },
    /// A step ended, or is not done.
    StepEnded {
        /// Its name.
        step: String,
        /// What became of it.
        state: StepState,
        /// Why it failed or was not done.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// A check was made, or could not be.
    Checked {
        /// Its name.
        check: String,
        /// What became of it.
        state: CheckState,
        /// What was found.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        found: Option<String>,
    },
    /// Something was found.
    Found {
        /// How grave it is.
        severity: Severity,
        /// A short name of it.
        code: String,
        /// What.
        text: String,
    },
    /// The drill was over.
    Ended {
        /// What it came to.
        verdict: Verdict,
    },
}

/// A journal that is written.
#[derive(Debug)]
pub struct Journal<'a> {
    drill: String,
    clock: &'a dyn Clock,
    began: (Instant, Timestamp),
    lines: Vec<Line>,
    text: String,
    last: String,
    begun: Option<Begun>,
}

impl<'a> Journal<'a> {
    /// Begins one; what is written is kept on this machine too, where somebody wants that.
    pub fn begin(drill: &str, clock: &'a dyn Clock, begun: Option<Begun>) -> Self {
        Self {
            begun,
            drill: drill.to_owned(),
            clock,
            began: (Instant::now(), clock.now()),
            lines: Vec::new(),
            text: String::new(),
            last: String::new(),
        }
    }

    /// When it began.
    pub const fn started(&self) -> Timestamp {
        self.began.1
    }

    /// Seconds since it began.
    pub fn offset(&self) -> f64 {
        self.began.0.elapsed().as_secs_f64()
    }

    /// Adds a line.
    pub fn write(&mut self, event: Event) -> Result<()> {
        let line = Line {
            number: self.lines.len() as u64 + 1,
            previous: self.last.clone(),
            drill: self.drill.clone(),
            time: self.clock.now(),
            offset: (self.offset() * 1e6).round() / 1e6,
            event,
        };
        let text = serde_json::to_string(&line)
            .map_err(|error| Error::failed("failed to write the journal").with_source(error))?;
        self.last = sha256_hex(text.as_bytes());
        if let Some(begun) = &mut self.begun {
            begun.write(&text)?;
        }
        self.text.push_str(&text);
        self.text.push('\n');
        self.lines.push(line);
        Ok(())
    }

    /// Keeps what is known of the drill beforehand, where its lines are kept too.
    pub fn keep(&self, draft: &Evidence) -> Result<()> {
        self.begun.as_ref().map_or(Ok(()), |begun| begun.draft(draft))
    }

    /// What is kept on this machine, for who is done with it.
    pub fn take_begun(&mut self) -> Option<Begun> {
        self.begun.take()
    }

    /// Its lines.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// All of it, as it is stored.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// How it ends.
    pub fn end(&self) -> JournalEnd {
        JournalEnd { records: self.lines.len() as u64, sha256: self.last.clone() }
    }
}

/// A journal that was cut short, up to its last whole line, with what is added now. The time since the
/// drill began stands still in what is added: nobody knows it.
pub fn closed(
    cut: &str,
    drill: &str,
    now: Timestamp,
    events: impl IntoIterator<Item = Event>,
) -> Result<(String, JournalEnd)> {
    let whole = cut.rfind('\n').map_or("", |end| &cut[..=end]);
    let (lines, mut end) = read(whole, drill)?;
    let offset = lines.last().map_or(0.0, |line| line.offset);
    let mut text = whole.to_owned();
    for event in events {
        let line = Line {
            number: end.records + 1,
            previous: end.sha256,
            drill: drill.to_owned(),
            time: now,
            offset,
            event,
        };
        let line = serde_json::to_string(&line)
            .map_err(|error| Error::failed("failed to write the journal").with_source(error))?;
        end = JournalEnd { records: end.records + 1, sha256: sha256_hex(line.as_bytes()) };
        text.push_str(&line);
        text.push('\n');
    }
    Ok((text, end))
}

/// Reads a journal, and checks that each line follows from the one before.
pub fn read(text: &str, drill: &str) -> Result<(Vec<Line>, JournalEnd)> {
    let mut previous = String::new();
    let mut lines = Vec::new();
    if !text.is_empty() && !text.ends_with('\n') {
        return Err(Error::damaged("the journal ends in the middle of a line"));
    }
    for (number, text) in (1..).zip(text.split_terminator('\n')) {
        let damaged = |what: &str| Error::damaged(format!("line {number} of the journal {what}"));
        let line: Line = serde_json::from_str(text)
            .map_err(|error| damaged("cannot be read").with_source(error))?;
        if line.number != number || line.previous != previous {
            return Err(damaged("does not follow from the one before it")
                .hint("a line was changed, removed or moved"));
        }
        if line.drill != drill {
            return Err(damaged(&format!("is of drill {}", line.drill)));
        }
        previous = sha256_hex(text.as_bytes());
        lines.push(line);
    }
    let end = JournalEnd { records: lines.len() as u64, sha256: previous };
    Ok((lines, end))
}

/// How far the time of day was set while the drill went on, in seconds, where it was.
pub fn clock_step(lines: &[Line]) -> Option<f64> {
    lines.windows(2).find_map(|pair| {
        let wall = pair[1].time.duration_since(pair[0].time).as_secs_f64();
        let step = wall - (pair[1].offset - pair[0].offset);
        (step.abs() > STEP).then_some(step)
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::clock::ManualClock;

    fn written() -> (String, JournalEnd) {
        let clock = ManualClock::new("2026-11-21T02:00:00Z".parse().unwrap());
        let mut journal = Journal::begin("d", &clock, None);
        for phase in ["assess", "recover", "validate"] {
            journal.write(Event::PhaseBegan { phase: phase.to_owned() }).unwrap();
            journal.write(Event::PhaseEnded { phase: phase.to_owned() }).unwrap();
        }
        (journal.text().to_owned(), journal.end())
    }

    #[test]
    fn what_was_written_is_read() {
        let (text, end) = written();
        let (lines, found) = read(&text, "d").unwrap();
        assert_eq!((lines.len(), found), (6, end));
        read(&text, "e").unwrap_err();
    }

    #[test]
    fn no_line_is_changed_removed_or_moved_unseen() {
        let (text, end) = written();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        for number in 0..lines.len() {
            let mut removed = lines.clone();
            removed.remove(number);
            let seen = read(&removed.concat(), "d").map(|(_, found)| found != end);
            assert!(seen.is_err() || seen.unwrap(), "line {number} removed");
            if number > 0 {
                let mut moved = lines.clone();
                moved.swap(number - 1, number);
                read(&moved.concat(), "d").unwrap_err();
            }
        }
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let Ok(changed) = String::from_utf8(bytes) else { continue };
            let seen = read(&changed, "d").map(|(_, found)| found != end);
            assert!(seen.is_err() || seen.unwrap(), "byte {at}");
        }
    }

    #[test]
    fn a_clock_that_is_set_is_seen() {
        let clock = ManualClock::new("2026-11-21T02:00:00Z".parse().unwrap());
        let mut journal = Journal::begin("d", &clock, None);
        journal.write(Event::PhaseBegan { phase: "assess".to_owned() }).unwrap();
        clock.set("2026-11-21T02:00:01Z".parse().unwrap());
        journal.write(Event::PhaseEnded { phase: "assess".to_owned() }).unwrap();
        assert_eq!(clock_step(journal.lines()), None);
        clock.set("2026-11-21T01:00:01Z".parse().unwrap());
        journal.write(Event::PhaseBegan { phase: "recover".to_owned() }).unwrap();
        assert!(clock_step(journal.lines()).unwrap() < -3599.0);
    }
}
