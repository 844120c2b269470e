//! Makes rows of what is due, and of what comes after other runs.

use jiff::{SignedDuration, Timestamp};

use super::cover::done_by;
use super::engine::Engine;
use super::tick::{due_slots, following_slots};
use super::timetable::{next_due, schedule_of};
use crate::error::{ErrorKind, Result};
use crate::notify::ping::Sign;
use crate::policy::{Job, Policy};
use crate::run::protection::is_ahead;
use crate::state::{Cursor, RunRow};

/// The most slots of the past that become rows in one round. A long time without a daemon has
/// hundreds of thousands: what waits is begun meanwhile.
const MOST: usize = 5000;

impl Engine<'_> {
    /// Writes down the slots of all jobs that are due, and remembers when each is next.
    pub(super) fn make_slots(&mut self, now: Timestamp) -> Result<()> {
        if self.soonest.is_some_and(|soonest| now < soonest) {
            return Ok(());
        }
        self.soonest = None;
        let mut soonest = Timestamp::MAX;
        let mut room = MOST;
        let mut failed = Ok(());
        for policy in &self.policies {
            for (name, job) in &policy.jobs {
                let key = (policy.stack.clone(), name.clone());
                match self.slots_of(policy, (name, job), now, &mut room) {
                    Ok(next) => {
                        soonest = next.map_or(soonest, |next| next.min(soonest));
                        self.returned.remove(&key);
                        self.due.insert(key, next);
                    }
                    Err(error) if error.kind() == ErrorKind::Failed => failed = Err(error),
                    // Nobody answers, for no job.
                    Err(error) => return Err(error),
                }
            }
        }
        if failed.is_ok() {
            self.soonest = Some(soonest);
        }
        failed
    }

    /// Writes down the slots of a job, of those that were missed at most `room`. Gives when it is
    /// due next: in the past, where there are more.
    fn slots_of(
        &self,
        policy: &Policy,
        (name, job): (&str, &Job),
        now: Timestamp,
        room: &mut usize,
    ) -> Result<Option<Timestamp>> {
        let zone = policy.time_zone();
        let after = |instant| next_due(job, instant, false, &zone).map(|(_, at)| at);
        let next = match self.due.get(&(policy.stack.clone(), name.to_owned())) {
            Some(next) => *next,
            None => after(self.take_up(policy, (name, job), now)?),
        };
        let Some(at) = next.filter(|next| *next <= now) else { return Ok(next) };
        let before = at.checked_sub(SignedDuration::from_micros(1)).unwrap_or(at);
        let since = self.cursor((&policy.stack, name), before, now)?.until;
        let due = due_slots(policy, (name, job), (since, now), &self.place(), *room);
        self.state.advance(&policy.stack, name, due.until, &due.slots)?;
        *room = room.saturating_sub(due.slots.len());
        Ok(after(due.until))
    }

    /// How far the slots of a job are rows. A clock that was ahead must not keep it from being done
    /// until that time comes: then it is `back` from here on. What was done is not done again.
    fn cursor(
        &self,
        (stack, job): (&str, &str),
        back: Timestamp,
        now: Timestamp,
    ) -> Result<Cursor> {
        let known = self.state.cursor(stack, job, now)?;
        if !is_ahead(known.until, now) {
            return Ok(known);
        }
        self.warn(format!(
            "{stack} {job}: by the state it was last looked at on {}, and now it is {now}: a clock \
             was wrong; it is due as from now on",
            known.until
        ));
        self.state.put_back(stack, job, back)?;
        Ok(Cursor { until: back, ..known })
    }

    /// Up to when the slots of a job are rows that this daemon sees for the first time, or with
    /// another schedule. By a schedule that is new nothing was ever due, whoever changed it when.
    fn take_up(
        &self,
        policy: &Policy,
        (name, job): (&str, &Job),
        now: Timestamp,
    ) -> Result<Timestamp> {
        let known = self.cursor((&policy.stack, name), now, now)?;
        let schedule = schedule_of(policy, job);
        let is_new = self.returned.contains(&(policy.stack.clone(), name.to_owned()))
            || known.schedule.as_ref().is_some_and(|before| *before != schedule);
        let until = if is_new { known.until.max(now) } else { known.until };
        let cursor = Cursor { until, schedule: Some(schedule) };
        if cursor != known {
            self.state.set_cursor(&policy.stack, name, &cursor)?;
        }
        Ok(until)
    }

    /// Writes down the slots that follow a run that is over.
    pub(super) fn follow(&self, row: &RunRow, now: Timestamp) -> Result<()> {
        let Some((policy, _)) = self.job_of(row) else { return Ok(()) };
        let open = self.state.open_runs()?;
        let follow = following_slots(policy, row, &open, now, &self.place());
        self.state.add_runs(&follow)
    }

    /// Ends those that waited for what came of a run that succeeded: it has done what they are for.
    pub(super) fn cover(
        &mut self,
        done: &RunRow,
        backup: Option<&str>,
        now: Timestamp,
    ) -> Result<()> {
        let open = self.state.open_runs()?;
        let covered = done_by(&self.policies, &open, done);
        if covered.is_empty() {
            return Ok(());
        }
        let why = format!("run {} of `{}` did the same", done.id, done.slot.job);
        let ids: Vec<String> = covered.iter().map(|row| row.id.clone()).collect();
        self.state.stand_in(&ids, &why, backup, now)?;
        for row in covered {
            self.note_of(row, &format!("skipped: {why}"));
            self.ping(row, Sign::Success, &why);
            self.follow(row, now)?;
        }
        Ok(())
    }
}
