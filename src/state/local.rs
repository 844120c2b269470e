//! The state of one machine as a [`Ledger`].

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use rusqlite::params;

use super::database::State;
use super::ledger::{Cursor, Epoch, Fence, Held, LastEnds, Ledger};
use super::runs::{NewRun, RunFilter, RunRow, RunState, Slot};
use super::totals::{Durations, RunTotal};
use crate::error::Result;

/// Only one daemon works with it, under a name of its own: its name fences as a number would.
const EPOCH: Epoch = 0;

impl Ledger for State {
    fn place(&self) -> String {
        self.path().display().to_string()
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn together(&self, _wait: bool, work: &mut dyn FnMut() -> Result<()>) -> Result<bool> {
        work().map(|()| true)
    }

    fn cursor(&self, stack: &str, job: &str, now: Timestamp) -> Result<Cursor> {
        Self::cursor(self, stack, job, now)
    }

    fn set_cursor(&self, stack: &str, job: &str, cursor: &Cursor) -> Result<()> {
        Self::set_cursor(self, stack, job, cursor)
    }

    fn put_back(&self, stack: &str, job: &str, until: Timestamp) -> Result<()> {
        Self::put_back(self, stack, job, until)
    }

    fn advance(&self, stack: &str, job: &str, until: Timestamp, runs: &[NewRun]) -> Result<()> {
        Self::advance(self, stack, job, until, runs)
    }

    fn add_runs(&self, runs: &[NewRun]) -> Result<()> {
        Self::add_runs(self, runs)
    }

    fn open_runs(&self) -> Result<Vec<RunRow>> {
        Self::open_runs(self)
    }

    fn run(&self, id: &str) -> Result<Option<RunRow>> {
        Self::run(self, id)
    }

    fn runs(&self, filter: &RunFilter) -> Result<Vec<RunRow>> {
        Self::runs(self, filter)
    }

    fn claim(&self, id: &str, owner: &str, now: Timestamp) -> Result<Option<Epoch>> {
        Ok(Self::claim(self, id, owner, now)?.then_some(EPOCH))
    }

    fn beat(&self, owner: &str, _host: &str, now: Timestamp) -> Result<Vec<Held>> {
        let cancelled = Self::beat(self, owner, now)?;
        let held = self
            .open_runs()?
            .into_iter()
            .filter(|row| row.state == RunState::Running && row.owner.as_deref() == Some(owner));
        Ok(held
            .map(|row| Held { cancelled: cancelled.contains(&row.id), id: row.id, epoch: EPOCH })
            .collect())
    }

    fn holds(&self, id: &str, epoch: Epoch) -> Result<bool> {
        let running = self.run(id)?.is_some_and(|row| row.state == RunState::Running);
        Ok(running && epoch == EPOCH)
    }

    fn take_over(
        &self,
        owner: &str,
        silence: SignedDuration,
        now: Timestamp,
    ) -> Result<Vec<(RunRow, Epoch)>> {
        let mut taken = Vec::new();
        for row in self.open_runs()? {
            let gone = row.state == RunState::Running
                && row.owner.as_deref().is_some_and(|other| other != owner)
                // A beat that lies ahead is of a clock that was wrong.
                && row.heartbeat.is_none_or(|beat| now.duration_since(beat).abs() > silence);
            let from = row.owner.clone().unwrap_or_default();
            if gone && self.adopt(&row.id, &from, owner, now)? {
                taken.push((row, EPOCH));
            }
        }
        Ok(taken)
    }

    fn hosts(&self, _silence: SignedDuration) -> Result<BTreeSet<String>> {
        Ok(BTreeSet::new())
    }

    fn leave(&self, _owner: &str) -> Result<()> {
        Ok(())
    }

    fn finish(
        &self,
        id: &str,
        fence: Fence<'_>,
        outcome: (RunState, Option<&str>),
        backup: Option<&str>,
        now: Timestamp,
    ) -> Result<bool> {
        Self::finish(self, id, fence.owner, outcome, backup, now)
    }

    fn retry(&self, id: &str, fence: Fence<'_>, why: &str, not_before: Timestamp) -> Result<bool> {
        Self::retry(self, id, fence.owner, why, not_before)
    }

    fn settle(&self, runs: &[(String, RunState, String)], now: Timestamp) -> Result<()> {
        Self::settle(self, runs, now)
    }

    fn stand_in(
        &self,
        runs: &[String],
        why: &str,
        backup: Option<&str>,
        now: Timestamp,
    ) -> Result<()> {
        Self::stand_in(self, runs, why, backup, now)
    }

    fn postpone(&self, runs: &[(String, Timestamp, String)]) -> Result<()> {
        Self::postpone(self, runs)
    }

    fn cancel(&self, id: &str, now: Timestamp) -> Result<bool> {
        Self::cancel(self, id, now)
    }

    fn forget_runs(&self, instant: Timestamp) -> Result<usize> {
        Self::forget_runs(self, instant)
    }

    fn has_succeeded(&self, slot: &Slot) -> Result<bool> {
        Self::has_succeeded(self, slot)
    }

    fn newest_successes(&self) -> Result<BTreeMap<(String, String), Timestamp>> {
        Self::newest_successes(self)
    }

    fn restore_runs(&self, runs: &[RunRow]) -> Result<usize> {
        self.change("write runs that repositories tell of", |transaction| {
            let mut insert = transaction.prepare(
                "INSERT INTO runs (id, stack, job, source, nominal, due, not_before, state, why,
                                   attempts, owner, started, ended, backup)
                 SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14
                 WHERE NOT EXISTS (SELECT 1 FROM runs WHERE stack = ?2 AND source = ?4
                                   AND (id = ?1 OR backup = ?14))
                 ON CONFLICT DO NOTHING",
            )?;
            let mut added = 0;
            for run in runs {
                let micros = |at: Option<Timestamp>| at.map(Timestamp::as_microsecond);
                added += insert.execute(params![
                    run.id,
                    run.slot.stack,
                    run.slot.job,
                    run.slot.source,
                    run.slot.nominal,
                    run.due.as_microsecond(),
                    run.not_before.as_microsecond(),
                    run.state.word(),
                    run.why,
                    run.attempts,
                    run.owner,
                    micros(run.started),
                    micros(run.ended),
                    run.backup,
                ])?;
            }
            Ok(added)
        })
    }

    fn last_ends(&self, of: &[(&str, &str, &str)]) -> Result<Vec<LastEnds>> {
        Self::last_ends(self, of)
    }

    fn run_totals(&self) -> Result<Vec<RunTotal>> {
        Self::run_totals(self)
    }

    fn run_durations(&self) -> Result<BTreeMap<(String, String), Durations>> {
        Self::run_durations(self)
    }

    fn keep_words(&self, _id: &str, _words: &str) -> Result<()> {
        // They lie beside the database.
        Ok(())
    }

    fn words(&self, _id: &str) -> Result<Option<String>> {
        Ok(None)
    }
}
