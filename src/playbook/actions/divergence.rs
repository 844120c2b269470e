//! `divergence`: what an old primary wrote that the new one has not.

use std::collections::BTreeSet;

use super::sql::connect;
use crate::archive::wal::{History, Lsn};
use crate::error::{Error, Result};
use crate::playbook::action::{Action, Job, Observed, Preview};
use crate::playbook::record::Outputs;
use crate::policy::DivergenceAction;
use crate::source::postgres::Connection;

/// Keys that are compared at the most.
const ROWS: usize = 100_000;

/// Keys that are named.
const EXAMPLES: usize = 20;

/// The longest list of them.
const LONGEST: usize = 1000;

/// Compares two servers.
pub struct Divergence(pub DivergenceAction);

impl Divergence {
    fn look(&self) -> Result<Outputs> {
        let mut old = connect(&self.0.old).map_err(|error| {
            error.hint("what it wrote is seen when it runs: start it where nobody is led to it")
        })?;
        let mut new = connect(&self.0.new)?;
        let (ours, theirs) = (system_id(&mut old)?, system_id(&mut new)?);
        if ours != theirs {
            return Err(Error::failed(format!(
                "these are two clusters, {ours} and {theirs}: one was never the standby of the other"
            )));
        }
        let (timeline, lsn) = position(&mut old)?;
        let (newest, reached) = position(&mut new)?;
        let fork = fork(&mut new, timeline, newest, reached)?;
        let bytes = lsn.0.saturating_sub(fork.0);
        let mut outputs = Outputs::from([
            ("timeline".to_owned(), timeline.to_string()),
            ("lsn".to_owned(), lsn.to_string()),
            ("fork".to_owned(), fork.to_string()),
            ("bytes".to_owned(), bytes.to_string()),
            ("diverged".to_owned(), if bytes > 0 { "yes" } else { "no" }.to_owned()),
        ]);
        if let Some(query) = &self.0.rows {
            let (there, here) = (keys(&mut old, query)?, keys(&mut new, query)?);
            let only: Vec<&String> = there.difference(&here).collect();
            let examples: Vec<&str> = only.iter().take(EXAMPLES).map(|key| key.as_str()).collect();
            outputs.insert("only_old".to_owned(), only.len().to_string());
            let examples = examples.join(" ").chars().take(LONGEST).collect();
            outputs.insert("examples".to_owned(), examples);
        }
        Ok(outputs)
    }
}

fn system_id(server: &mut Connection) -> Result<String> {
    let query = "SELECT system_identifier::text FROM pg_catalog.pg_control_system()";
    server.value(query, "failed to ask which cluster it is")
}

/// The timeline that a server is on, and how far it is.
fn position(server: &mut Connection) -> Result<(u32, Lsn)> {
    let doing = "failed to ask the server how far it is";
    let standby = server.value("SELECT pg_catalog.pg_is_in_recovery()", doing)? == "t";
    let (timeline, lsn) = if standby {
        // What it has received counts, whether it was replayed or not.
        let lsn = "SELECT coalesce(greatest(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn()), '0/0')";
        let timeline = "SELECT timeline_id::text FROM pg_catalog.pg_control_checkpoint()";
        (server.value(timeline, doing)?, server.value(lsn, doing)?)
    } else {
        // From the name of the segment: the control file may not have it yet.
        let name = server.value(
            "SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn())",
            doing,
        )?;
        let number = name.get(..8).and_then(|hex| u32::from_str_radix(hex, 16).ok()).unwrap_or(0);
        (number.to_string(), server.value("SELECT pg_catalog.pg_current_wal_lsn()", doing)?)
    };
    let wrong = || Error::failed(format!("the server is at `{lsn}` of timeline `{timeline}`"));
    let position = timeline.parse().ok().zip(lsn.parse().ok());
    position.ok_or_else(wrong)
}

/// Where the way of the new server left the timeline of the old one.
fn fork(server: &mut Connection, timeline: u32, newest: u32, reached: Lsn) -> Result<Lsn> {
    if timeline == newest {
        // It was never promoted since: what it has is what both have.
        return Ok(reached);
    }
    if timeline > newest {
        return Err(Error::failed(format!(
            "the old primary is on timeline {timeline}, the new one on {newest}: they are the wrong way round"
        )));
    }
    let query = format!("SELECT pg_catalog.pg_read_file('pg_wal/{newest:08X}.history')");
    let text = server.value(&query, "failed to read the history of the new timeline")?;
    let history = History::parse(newest, &text)?;
    let left = history.0.iter().find(|ancestor| ancestor.timeline == timeline);
    left.map(|ancestor| ancestor.end).ok_or_else(|| {
        Error::failed(format!("timeline {newest} does not come from timeline {timeline}"))
    })
}

fn keys(server: &mut Connection, query: &str) -> Result<BTreeSet<String>> {
    let query = query.trim().trim_end_matches(';');
    let most = ROWS + 1;
    let bounded = format!("SELECT one.key::text FROM ({query}) AS one (key) LIMIT {most}");
    let doing = "failed to ask for rows";
    // Where a session of `psql` would look, and nothing is written.
    server.execute("RESET search_path", doing)?;
    server.execute("BEGIN TRANSACTION READ ONLY", doing)?;
    let rows = server.text(&bounded, doing)?;
    server.execute("ROLLBACK", doing)?;
    if rows.len() > ROWS {
        return Err(Error::failed(format!("there are more than {ROWS} rows to compare")).hint(
            "ask only for those that may differ: `… WHERE written > now() - interval '1 day'`",
        ));
    }
    Ok(rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect())
}

impl Action for Divergence {
    fn preview(&self, _job: &Job<'_>) -> Result<Preview> {
        let preview = Preview::of("tells what the old primary has that the new one has not");
        // The old one is off until its turn comes.
        Ok(match connect(&self.0.new) {
            Ok(_) => preview,
            Err(error) => preview.missing(error.chain()),
        })
    }

    fn observe(&self, _job: &Job<'_>) -> Result<Observed> {
        self.look().map(Observed::Done)
    }

    fn apply(&self, _job: &Job<'_>) -> Result<Outputs> {
        self.look()
    }
}
