//! The runs of all daemons that share a state.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use postgres::{Client, Row};

use super::session::SharedState;
use crate::error::{Error, Result};
use crate::state::ledger::{Cursor, Epoch, Fence, Held, LastEnds, Ledger};
use crate::state::runs::{NewRun, RunFilter, RunRow, RunState, Slot, micros};
use crate::state::totals::{Durations, OUTCOMES, RunTotal};

const COLUMNS: &str = "id, stack, job, source, nominal, due, not_before, state, why, attempts, \
                       owner, heartbeat, started, ended, backup, cancelled, epoch";

/// The server's time. Leases know no other.
const CLOCK: &str = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// For how long nothing is taken over after the server was started: those that are there come back
/// before those that are gone are missed.
const AFTER_START: &str = "interval '20 seconds'";

/// After how many times the silence a daemon that is gone is forgotten.
const FORGET_DAEMONS: &str = "interval '1 day'";

impl Ledger for SharedState {
    fn place(&self) -> String {
        self.name().to_owned()
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn together(&self, wait: bool, work: &mut dyn FnMut() -> Result<()>) -> Result<bool> {
        self.alone(wait, work)
    }

    fn cursor(&self, stack: &str, job: &str, now: Timestamp) -> Result<Cursor> {
        let (until, schedule) = self.change("read when jobs are due", |client| {
            client.execute(
                "INSERT INTO backstay.cursors (stack, job, until) VALUES ($1, $2, $3)
                 ON CONFLICT DO NOTHING",
                &[&stack, &job, &now.as_microsecond()],
            )?;
            let sql = "SELECT until, schedule FROM backstay.cursors WHERE stack = $1 AND job = $2";
            let row = client.query_one(sql, &[&stack, &job])?;
            Ok((row.try_get(0)?, row.try_get(1)?))
        })?;
        Ok(Cursor { until: micros(until)?, schedule })
    }

    fn set_cursor(&self, stack: &str, job: &str, cursor: &Cursor) -> Result<()> {
        let sql = "INSERT INTO backstay.cursors (stack, job, until, schedule)
                   VALUES ($1, $2, $3, $4) ON CONFLICT (stack, job)
                   DO UPDATE SET until = excluded.until, schedule = excluded.schedule";
        let until = cursor.until.as_microsecond();
        let write =
            |client: &mut Client| client.execute(sql, &[&stack, &job, &until, &cursor.schedule]);
        self.change("write when jobs are due", write).map(drop)
    }

    fn put_back(&self, stack: &str, job: &str, until: Timestamp) -> Result<()> {
        self.change("write when jobs are due", |client| {
            let until = until.as_microsecond();
            client.execute(
                "UPDATE backstay.cursors SET until = least(until, $3)
                 WHERE stack = $1 AND job = $2",
                &[&stack, &job, &until],
            )?;
            client.execute(
                "UPDATE backstay.runs SET due = $3 WHERE stack = $1 AND job = $2 AND due > $3
                 AND state NOT IN ('waiting', 'running')",
                &[&stack, &job, &until],
            )?;
            Ok(())
        })
    }

    fn advance(&self, stack: &str, job: &str, until: Timestamp, runs: &[NewRun]) -> Result<()> {
        self.change("write when jobs are due", |client| {
            insert(client, runs)?;
            client.execute(
                "INSERT INTO backstay.cursors AS old (stack, job, until) VALUES ($1, $2, $3)
                 ON CONFLICT (stack, job)
                 DO UPDATE SET until = greatest(old.until, excluded.until)",
                &[&stack, &job, &until.as_microsecond()],
            )?;
            Ok(())
        })
    }

    fn add_runs(&self, runs: &[NewRun]) -> Result<()> {
        self.change("add runs", |client| insert(client, runs))
    }

    fn open_runs(&self) -> Result<Vec<RunRow>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM backstay.runs WHERE state IN ('waiting', 'running')
             ORDER BY due, stack, job, source"
        );
        self.rows("read runs", |client| client.query(&sql, &[]), row).and_then(complete)
    }

    fn run(&self, id: &str) -> Result<Option<RunRow>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM backstay.runs WHERE starts_with(id, $1) ORDER BY id LIMIT 2"
        );
        let found = self.rows("read runs", |client| client.query(&sql, &[&id]), row)?;
        let found = complete(found)?;
        match found.as_slice() {
            [first, _] if first.id != id => {
                Err(Error::usage(format!("several runs begin with `{id}`"))
                    .hint("give more of the id"))
            }
            _ => Ok(found.into_iter().next()),
        }
    }

    fn runs(&self, filter: &RunFilter) -> Result<Vec<RunRow>> {
        let states: Vec<&str> = filter.states.iter().map(|state| state.word()).collect();
        let limit = i64::try_from(filter.limit).unwrap_or(i64::MAX);
        let sql = format!(
            "SELECT {COLUMNS} FROM backstay.runs
             WHERE ($1::text IS NULL OR stack = $1) AND ($2::text IS NULL OR source = $2)
               AND ($3::text IS NULL OR job = $3)
               AND (cardinality($4::text[]) = 0 OR state = ANY ($4))
               AND ($6::bigint IS NULL OR due >= $6) AND ($7::bigint IS NULL OR due < $7)
             ORDER BY due DESC, id DESC LIMIT $5 OFFSET $8"
        );
        let since = filter.since.map(Timestamp::as_microsecond);
        let until = filter.until.map(Timestamp::as_microsecond);
        let skip = i64::try_from(filter.skip).unwrap_or(i64::MAX);
        let ask = |client: &mut Client| {
            client.query(
                &sql,
                &[
                    &filter.stack,
                    &filter.source,
                    &filter.job,
                    &states,
                    &limit,
                    &since,
                    &until,
                    &skip,
                ],
            )
        };
        let mut found = self.rows("read runs", ask, row).and_then(complete)?;
        found.reverse();
        Ok(found)
    }

    fn claim(&self, id: &str, owner: &str, now: Timestamp) -> Result<Option<Epoch>> {
        let sql = format!(
            "UPDATE backstay.runs SET state = 'running', owner = $2, started = $3,
                    heartbeat = {CLOCK}, attempts = attempts + 1, epoch = epoch + 1, why = NULL
             WHERE id = (SELECT id FROM backstay.runs AS wanted
                         WHERE id = $1 AND state = 'waiting' AND NOT cancelled
                           AND NOT EXISTS (SELECT 1 FROM backstay.runs AS other
                                           WHERE other.state = 'running'
                                             AND other.stack = wanted.stack
                                             AND other.source = wanted.source)
                         FOR UPDATE SKIP LOCKED)
             RETURNING epoch"
        );
        self.change("claim a run", |client| {
            let row = client.query_opt(&sql, &[&id, &owner, &now.as_microsecond()])?;
            row.map(|row| row.try_get(0)).transpose()
        })
    }

    fn beat(&self, owner: &str, host: &str, _now: Timestamp) -> Result<Vec<Held>> {
        let here = format!(
            "INSERT INTO backstay.daemons AS old (owner, host, tool, heartbeat)
             VALUES ($1, $2, $3, {CLOCK})
             ON CONFLICT (owner) DO UPDATE SET heartbeat = excluded.heartbeat"
        );
        let runs = format!(
            "UPDATE backstay.runs SET heartbeat = {CLOCK}
             WHERE state = 'running' AND owner = $1 RETURNING id, epoch, cancelled"
        );
        self.change("say that runs go on", |client| {
            client.execute(&here, &[&owner, &host, &crate::TOOL])?;
            let held = client.query(&runs, &[&owner])?;
            held.iter()
                .map(|row| {
                    Ok(Held {
                        id: row.try_get(0)?,
                        epoch: row.try_get(1)?,
                        cancelled: row.try_get(2)?,
                    })
                })
                .collect()
        })
    }

    fn holds(&self, id: &str, epoch: Epoch) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM backstay.runs
                                  WHERE id = $1 AND epoch = $2 AND state = 'running')";
        self.change("ask whose a run is", |client| {
            client.query_one(sql, &[&id, &epoch])?.try_get(0)
        })
    }

    fn take_over(
        &self,
        owner: &str,
        silence: SignedDuration,
        _now: Timestamp,
    ) -> Result<Vec<(RunRow, Epoch)>> {
        let sql = format!(
            "UPDATE backstay.runs SET owner = $1, epoch = epoch + 1, heartbeat = {CLOCK}
             WHERE id IN (SELECT id FROM backstay.runs
                          WHERE state = 'running' AND owner <> $1
                            AND coalesce(heartbeat, 0) < {CLOCK} - $2
                            AND pg_postmaster_start_time() < clock_timestamp() - {AFTER_START}
                          FOR UPDATE SKIP LOCKED)
             RETURNING {COLUMNS}"
        );
        let silence = silence.as_micros() as i64;
        let taken = self.rows(
            "take over runs",
            |client| client.query(&sql, &[&owner, &silence]),
            |found| Ok((row(found)?, found.try_get::<_, Epoch>(16)?)),
        )?;
        taken.into_iter().map(|(row, epoch)| Ok((row?, epoch))).collect()
    }

    fn hosts(&self, silence: SignedDuration) -> Result<BTreeSet<String>> {
        let sql = format!(
            "SELECT DISTINCT host FROM backstay.daemons
             WHERE heartbeat >= {CLOCK} - $1
                OR pg_postmaster_start_time() > clock_timestamp() - {AFTER_START}"
        );
        let silence = silence.as_micros() as i64;
        let ask = |client: &mut Client| client.query(&sql, &[&silence]);
        Ok(self.rows("read who is there", ask, |row| row.try_get(0))?.into_iter().collect())
    }

    fn leave(&self, owner: &str) -> Result<()> {
        let old = format!(
            "DELETE FROM backstay.daemons WHERE owner = $1 OR heartbeat <
             (extract(epoch FROM clock_timestamp() - {FORGET_DAEMONS}) * 1000000)::bigint"
        );
        self.change("say that a daemon ends", |client| client.execute(&old, &[&owner])).map(drop)
    }

    fn finish(
        &self,
        id: &str,
        fence: Fence<'_>,
        (state, why): (RunState, Option<&str>),
        backup: Option<&str>,
        now: Timestamp,
    ) -> Result<bool> {
        let sql = "UPDATE backstay.runs SET state = $4, why = $5, backup = $6, ended = $7
                   WHERE id = $1 AND state = 'running' AND owner = $2 AND epoch = $3";
        self.change("end a run", |client| {
            let (state, now) = (state.word(), now.as_microsecond());
            let Fence { owner, epoch } = fence;
            Ok(client.execute(sql, &[&id, &owner, &epoch, &state, &why, &backup, &now])? == 1)
        })
    }

    fn retry(&self, id: &str, fence: Fence<'_>, why: &str, not_before: Timestamp) -> Result<bool> {
        let sql = "UPDATE backstay.runs SET state = 'waiting', why = $4, not_before = $5
                   WHERE id = $1 AND state = 'running' AND owner = $2 AND epoch = $3";
        self.change("put a run back", |client| {
            let Fence { owner, epoch } = fence;
            let at = not_before.as_microsecond();
            Ok(client.execute(sql, &[&id, &owner, &epoch, &why, &at])? == 1)
        })
    }

    fn settle(&self, runs: &[(String, RunState, String)], now: Timestamp) -> Result<()> {
        if runs.is_empty() {
            return Ok(());
        }
        self.change("end runs", |client| {
            let ids: Vec<&str> = runs.iter().map(|(id, _, _)| id.as_str()).collect();
            let states: Vec<&str> = runs.iter().map(|(_, state, _)| state.word()).collect();
            let whys: Vec<&str> = runs.iter().map(|(_, _, why)| why.as_str()).collect();
            // One statement: what is counted is counted in one order.
            client.execute(
                "UPDATE backstay.runs SET state = wanted.state, why = wanted.why, ended = $4
                 FROM unnest($1::text[], $2::text[], $3::text[]) AS wanted (id, state, why)
                 WHERE runs.id = wanted.id AND runs.state = 'waiting'",
                &[&ids, &states, &whys, &now.as_microsecond()],
            )?;
            Ok(())
        })
    }

    fn stand_in(
        &self,
        runs: &[String],
        why: &str,
        backup: Option<&str>,
        now: Timestamp,
    ) -> Result<()> {
        let sql = "UPDATE backstay.runs SET state = 'skipped', why = $2, backup = $3, ended = $4
                   WHERE id = ANY($1) AND state = 'waiting'";
        let ended = now.as_microsecond();
        self.change("end runs", |client| client.execute(sql, &[&runs, &why, &backup, &ended]))
            .map(drop)
    }

    fn postpone(&self, runs: &[(String, Timestamp, String)]) -> Result<()> {
        if runs.is_empty() {
            return Ok(());
        }
        self.change("move runs", |client| {
            let update = client.prepare(
                "UPDATE backstay.runs SET not_before = $2, why = $3
                 WHERE id = $1 AND state = 'waiting'",
            )?;
            for (id, not_before, why) in runs {
                client.execute(&update, &[&id, &not_before.as_microsecond(), &why])?;
            }
            Ok(())
        })
    }

    fn cancel(&self, id: &str, now: Timestamp) -> Result<bool> {
        let sql = "UPDATE backstay.runs SET cancelled = true,
                          why = CASE state WHEN 'waiting' THEN 'cancelled' ELSE why END,
                          ended = CASE state WHEN 'waiting' THEN $2 ELSE ended END,
                          state = CASE state WHEN 'waiting' THEN 'skipped' ELSE state END
                   WHERE id = $1 AND state IN ('waiting', 'running')";
        self.change("cancel a run", |client| {
            Ok(client.execute(sql, &[&id, &now.as_microsecond()])? == 1)
        })
    }

    fn forget_runs(&self, instant: Timestamp) -> Result<usize> {
        let sql = "DELETE FROM backstay.runs
                   WHERE due < $1 AND state NOT IN ('waiting', 'running')
                     AND EXISTS (SELECT 1 FROM backstay.runs AS newer
                                 WHERE newer.stack = runs.stack AND newer.job = runs.job
                                   AND newer.source = runs.source AND newer.state = runs.state
                                   AND newer.due > runs.due)";
        let count = self.change("forget old runs", |client| {
            client.execute(sql, &[&instant.as_microsecond()])
        })?;
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    }

    fn has_succeeded(&self, slot: &Slot) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM backstay.runs WHERE stack = $1 AND job = $2
                                  AND nominal = $3 AND (state = 'succeeded'
                                       OR (state = 'skipped' AND backup IS NOT NULL)))";
        self.change("read runs", |client| {
            client.query_one(sql, &[&slot.stack, &slot.job, &slot.nominal])?.try_get(0)
        })
    }

    fn newest_successes(&self) -> Result<BTreeMap<(String, String), Timestamp>> {
        let sql = "SELECT stack, source, max(started) FROM backstay.runs
                   WHERE state = 'succeeded' AND started IS NOT NULL GROUP BY stack, source";
        let read = |row: &Row| Ok(((row.try_get(0)?, row.try_get(1)?), row.try_get(2)?));
        let found: Vec<((String, String), i64)> =
            self.rows("read what succeeded", |client| client.query(sql, &[]), read)?;
        found.into_iter().map(|(key, at)| Ok((key, micros(at)?))).collect()
    }

    fn restore_runs(&self, runs: &[RunRow]) -> Result<usize> {
        let sql = "INSERT INTO backstay.runs
                       (id, stack, job, source, nominal, due, not_before, state, why, attempts,
                        owner, started, ended, backup)
                   SELECT $1::text, $2::text, $3::text, $4::text, $5::text, $6::bigint, $7::bigint,
                          $8::text, $9::text, $10::integer, $11::text, $12::bigint, $13::bigint,
                          $14::text
                   WHERE NOT EXISTS (SELECT 1 FROM backstay.runs WHERE stack = $2 AND source = $4
                                     AND (id = $1 OR backup = $14))
                   ON CONFLICT DO NOTHING";
        self.change("write runs that repositories tell of", |client| {
            let insert = client.prepare(sql)?;
            let mut added = 0;
            for run in runs {
                let at = |at: Option<Timestamp>| at.map(Timestamp::as_microsecond);
                added += client.execute(
                    &insert,
                    &[
                        &run.id,
                        &run.slot.stack,
                        &run.slot.job,
                        &run.slot.source,
                        &run.slot.nominal,
                        &run.due.as_microsecond(),
                        &run.not_before.as_microsecond(),
                        &run.state.word(),
                        &run.why,
                        &(run.attempts as i32),
                        &run.owner,
                        &at(run.started),
                        &at(run.ended),
                        &run.backup,
                    ],
                )?;
            }
            Ok(usize::try_from(added).unwrap_or(usize::MAX))
        })
    }

    fn last_ends(&self, of: &[(&str, &str, &str)]) -> Result<Vec<LastEnds>> {
        let sql = format!(
            "SELECT {COLUMNS}, number FROM (
                 SELECT newest.*, wanted.number
                 FROM unnest($1::text[], $2::text[], $3::text[])
                      WITH ORDINALITY AS wanted (stack, job, source, number)
                 CROSS JOIN unnest($4::text[]) AS outcome (state)
                 CROSS JOIN LATERAL (
                     SELECT * FROM backstay.runs
                     WHERE runs.stack = wanted.stack AND runs.job = wanted.job
                       AND runs.source = wanted.source AND runs.state = outcome.state
                     ORDER BY due DESC LIMIT 1) AS newest) AS ends"
        );
        let stacks: Vec<&str> = of.iter().map(|(stack, _, _)| *stack).collect();
        let jobs: Vec<&str> = of.iter().map(|(_, job, _)| *job).collect();
        let sources: Vec<&str> = of.iter().map(|(_, _, source)| *source).collect();
        let states = OUTCOMES.map(RunState::word).to_vec();
        let found = self.rows(
            "read what runs came to",
            |client| client.query(&sql, &[&stacks, &jobs, &sources, &states]),
            |found| Ok((row(found)?, found.try_get::<_, i64>(17)?)),
        )?;
        let mut ends = vec![LastEnds::default(); of.len()];
        for (row, number) in found {
            let place = usize::try_from(number - 1).ok().and_then(|place| ends.get_mut(place));
            if let Some(ends) = place {
                ends.take(row?);
            }
        }
        Ok(ends)
    }

    fn run_totals(&self) -> Result<Vec<RunTotal>> {
        let sql = "SELECT stack, job, source, state, total FROM backstay.run_totals";
        let read = |row: &Row| {
            Ok(RunTotal {
                stack: row.try_get(0)?,
                job: row.try_get(1)?,
                source: row.try_get(2)?,
                state: row.try_get(3)?,
                total: u64::try_from(row.try_get::<_, i64>(4)?).unwrap_or(0),
            })
        };
        self.rows("count runs", |client| client.query(sql, &[]), read)
    }

    fn run_durations(&self) -> Result<BTreeMap<(String, String), Durations>> {
        let sql = "SELECT stack, job, le, total FROM backstay.run_durations";
        let read = |row: &Row| {
            let of: (String, String) = (row.try_get(0)?, row.try_get(1)?);
            Ok((of, row.try_get::<_, i64>(2)?, row.try_get::<_, i64>(3)?))
        };
        let mut found: BTreeMap<_, Durations> = BTreeMap::new();
        for (of, le, total) in
            self.rows("read how long runs took", |client| client.query(sql, &[]), read)?
        {
            found.entry(of).or_insert_with(Durations::none).take(le, total);
        }
        Ok(found)
    }

    fn keep_words(&self, id: &str, words: &str) -> Result<()> {
        // PostgreSQL's text knows no NUL.
        let words = words.replace('\0', "");
        let sql = "INSERT INTO backstay.words (run, said)
                   SELECT id, $2 FROM backstay.runs WHERE id = $1
                   ON CONFLICT (run) DO UPDATE SET said = excluded.said";
        self.change("keep what a run said", |client| client.execute(sql, &[&id, &words])).map(drop)
    }

    fn words(&self, id: &str) -> Result<Option<String>> {
        let sql = "SELECT said FROM backstay.words WHERE run = $1";
        let found = self.rows(
            "read what a run said",
            |client| client.query(sql, &[&id]),
            |row| row.try_get(0),
        )?;
        Ok(found.into_iter().next())
    }
}

fn insert(client: &mut Client, runs: &[NewRun]) -> Result<(), postgres::Error> {
    if runs.is_empty() {
        return Ok(());
    }
    let text = |of: fn(&NewRun) -> &str| runs.iter().map(of).collect::<Vec<&str>>();
    let time = |of: fn(&NewRun) -> Timestamp| -> Vec<i64> {
        runs.iter().map(|run| of(run).as_microsecond()).collect()
    };
    let ended: Vec<Option<i64>> = runs
        .iter()
        .map(|run| run.state.is_final().then(|| run.not_before.as_microsecond()))
        .collect();
    let whys: Vec<Option<&str>> = runs.iter().map(|run| run.why.as_deref()).collect();
    // One statement: what is counted is counted in one order. Whoever makes a slot gives it the same
    // name and the same id: of two that do it at once either may be the first to be taken.
    client.execute(
        "INSERT INTO backstay.runs
             (id, stack, job, source, nominal, due, not_before, state, why, ended)
         SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[],
                              $6::bigint[], $7::bigint[], $8::text[], $9::text[], $10::bigint[])
         ON CONFLICT DO NOTHING",
        &[
            &text(|run| &run.id),
            &text(|run| &run.slot.stack),
            &text(|run| &run.slot.job),
            &text(|run| &run.slot.source),
            &text(|run| &run.slot.nominal),
            &time(|run| run.due),
            &time(|run| run.not_before),
            &text(|run| run.state.word()),
            &whys,
            &ended,
        ],
    )?;
    Ok(())
}

/// A row; the inner error is that of a value that makes no sense.
fn row(row: &Row) -> Result<Result<RunRow>, postgres::Error> {
    let word: String = row.try_get(7)?;
    let at = |column: usize| row.try_get::<_, Option<i64>>(column);
    let (due, not_before): (i64, i64) = (row.try_get(5)?, row.try_get(6)?);
    let (heartbeat, started, ended) = (at(11)?, at(12)?, at(13)?);
    let slot = Slot {
        stack: row.try_get(1)?,
        job: row.try_get(2)?,
        source: row.try_get(3)?,
        nominal: row.try_get(4)?,
    };
    let (id, why, attempts): (String, _, i32) = (row.try_get(0)?, row.try_get(8)?, row.try_get(9)?);
    let (owner, backup, cancelled) = (row.try_get(10)?, row.try_get(14)?, row.try_get(15)?);
    let sensible = move || {
        let state = RunState::from_word(&word).ok_or_else(|| {
            Error::damaged(format!("run {id} is `{word}` in the state, which means nothing"))
        })?;
        Ok(RunRow {
            id,
            slot,
            due: micros(due)?,
            not_before: micros(not_before)?,
            state,
            why,
            attempts: u32::try_from(attempts).unwrap_or(0),
            owner,
            heartbeat: heartbeat.map(micros).transpose()?,
            started: started.map(micros).transpose()?,
            ended: ended.map(micros).transpose()?,
            backup,
            cancelled,
        })
    };
    Ok(sensible())
}

fn complete(rows: Vec<Result<RunRow>>) -> Result<Vec<RunRow>> {
    rows.into_iter().collect()
}
