//! What the loop does for those who watch: it has them told, and shows what it does.

use jiff::Timestamp;

use super::engine::{Engine, name};
use super::watch::Scene;
use crate::error::Result;
use crate::notify::ping::{Ping, Sign};
use crate::state::{RunRow, Slot};
use crate::telemetry::{Event, OfRun, WarningCode};

impl Engine<'_> {
    /// One round of the watch.
    pub(super) fn attend(&mut self, now: Timestamp) -> Result<()> {
        self.settings.board.publish(&self.due, self.watch.intervals());
        self.preflights.round(self.local, self.force.path(), &self.reporter, now)?;
        let speaks = self.speaks();
        let scene = Scene {
            policies: &self.policies,
            ledger: self.state,
            invalid: self.invalid.as_deref(),
            host: &self.settings.host,
            speaks,
            now,
        };
        self.watch.round(self.local, &scene)
    }

    /// Other policies are in force: those who look and those who show are told.
    pub(super) fn are_in_force(&mut self) {
        self.watch.policies_changed(&self.policies, self.force.path());
        self.preflights.policies_changed(&self.policies);
        self.heartbeats.policies_changed(&self.policies);
        self.settings.board.loaded(&self.policies, self.force.path(), self.clock.now());
    }

    /// Of several daemons one tells people: that of the first host that is there. What others were
    /// told is known to each alone, so the next one repeats what fires.
    fn speaks(&self) -> bool {
        let first = self.fleet.as_ref().and_then(|fleet| fleet.hosts.first());
        first.is_none_or(|first| *first == self.settings.host)
    }

    /// Has those hear of a run who wait for it.
    pub(super) fn ping(&mut self, row: &RunRow, sign: Sign, said: &str) {
        let slot = &row.slot;
        let ping = Ping {
            stack: slot.stack.clone(),
            job: slot.job.clone(),
            source: slot.source.clone(),
            run: row.id.clone(),
            sign,
            said: said.to_owned(),
            at: self.clock.now(),
        };
        self.watch.run_changed(&self.policies, ping, sign != Sign::Start);
    }

    /// Says something of a run.
    pub(super) fn note_of(&self, row: &RunRow, what: &str) {
        self.reporter.emit(of_run(row, "note", None, what));
    }

    /// Warns of something about a run.
    pub(super) fn warn_of(&self, row: &RunRow, what: &str) {
        self.reporter.emit(of_run(row, "warning", Some(WarningCode::Other), what));
    }

    /// Waits a little for messages that are on their way.
    pub(super) fn say_farewell(&mut self) {
        let scene = Scene {
            policies: &self.policies,
            ledger: self.state,
            invalid: self.invalid.as_deref(),
            host: &self.settings.host,
            speaks: self.speaks(),
            now: self.clock.now(),
        };
        if let Err(error) = self.watch.end(self.local, &scene) {
            self.warn(format!("the state: {}", error.chain()));
        }
    }
}

/// What is said of a run; its name is in the line for people too.
fn of_run(row: &RunRow, event: &'static str, code: Option<WarningCode>, what: &str) -> Event {
    let Slot { stack, job, source, .. } = row.slot.clone();
    let message = format!("{}: {what}", name(row));
    Event::OfRun(OfRun { event, code, message, stack, source, job, run: row.id.clone() })
}
