//! `postgres`: what is done to a PostgreSQL server when another one takes its place.

use std::sync::Arc;
use std::time::Duration;

use super::sql::connect;
use crate::archive::wal::Lsn;
use crate::error::{Error, ErrorKind, Result};
use crate::playbook::action::{Action, Job, Means, Observed, Preview};
use crate::playbook::loss::OUTPUT;
use crate::playbook::record::Outputs;
use crate::policy::{Period, PostgresAction};
use crate::source::postgres::Connection;

/// How often a server is asked how far it is.
const LOOK: Duration = Duration::from_millis(500);

/// How long a standby may take to open, in seconds, where the step sets no limit.
const PROMOTION: u64 = 300;

/// Does something to a PostgreSQL server.
pub struct Postgres {
    spec: PostgresAction,
    means: Arc<Means>,
}

impl Postgres {
    /// As a step says.
    pub fn new(spec: PostgresAction, means: Arc<Means>) -> Self {
        Self { spec, means }
    }

    /// What is missing at a server.
    fn look(&self, server: &mut Connection, preview: Preview) -> Result<Preview> {
        let (promote, stop) = (
            matches!(self.spec, PostgresAction::Promote { .. }),
            matches!(self.spec, PostgresAction::StopWriters { .. }),
        );
        if promote && !is_standby(server)? {
            return Ok(preview.missing("this server is no standby: it takes writes already"));
        }
        if (promote || stop) && !is_superuser(server)? {
            return Ok(preview.missing("the user of the connection is no superuser"));
        }
        Ok(preview)
    }
}

impl Action for Postgres {
    fn preview(&self, job: &Job<'_>) -> Result<Preview> {
        let mut preview = Preview::of(match &self.spec {
            PostgresAction::Loss { .. } => "tells how much would be lost",
            PostgresAction::StopWriters { .. } => "ends all sessions, and lets nobody write",
            PostgresAction::ProveFenced { .. } => "proves that the server refuses to write",
            PostgresAction::WaitFor { .. } => "waits until the standby has replayed everything",
            PostgresAction::Promote { .. } => "promotes the standby",
            other => return Err(no_connection(other)),
        });
        // A primary may be gone: that is what failover is for.
        for (key, connection) in self.spec.connections() {
            if key == "primary" || matches!(self.spec, PostgresAction::WaitFor { .. }) {
                continue;
            }
            preview = match connect(connection) {
                Err(error) => preview.missing(error.chain()),
                Ok(mut server) => self.look(&mut server, preview)?,
            };
        }
        if let PostgresAction::Loss { .. } = &self.spec
            && preview.problems.is_empty()
            && let Ok(found) = self.apply(job)
            && let Some(seconds) = found.get("seconds").and_then(|text| text.parse().ok())
        {
            preview = preview.losing(seconds);
        }
        Ok(preview)
    }

    fn before(&self, _job: &Job<'_>) -> Result<Outputs> {
        match &self.spec {
            PostgresAction::Promote { connection } => {
                let mut standby = connect(connection)?;
                Ok(Outputs::from([("timeline".to_owned(), timeline(&mut standby)?.to_string())]))
            }
            PostgresAction::StopWriters { connection } => {
                let mut server = connect(connection)?;
                let was = read_only(&mut server)?;
                Ok(Outputs::from([("read_only".to_owned(), was)]))
            }
            _ => Ok(Outputs::new()),
        }
    }

    fn observe(&self, job: &Job<'_>) -> Result<Observed> {
        match &self.spec {
            PostgresAction::Promote { connection } => {
                let mut server = connect(connection)?;
                if is_standby(&mut server)? || read_only(&mut server)? == "on" {
                    return Ok(Observed::NotDone);
                }
                Ok(Observed::Done(opened(&mut server)?))
            }
            PostgresAction::StopWriters { connection } => {
                let mut server = connect(connection)?;
                // Once more does no harm, and tells where the WAL ends.
                let set = read_only(&mut server)? == "on";
                Ok(if set {
                    Observed::Unknown("sessions may be left".to_owned())
                } else {
                    Observed::NotDone
                })
            }
            _ => Ok(match self.apply(job) {
                Ok(outputs) => Observed::Done(outputs),
                Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
                Err(_) => Observed::NotDone,
            }),
        }
    }

    fn apply(&self, job: &Job<'_>) -> Result<Outputs> {
        match &self.spec {
            PostgresAction::Loss { standby, primary, limit } => {
                let rpo = self.means.policy.objectives().rpo;
                loss(standby, primary.as_deref(), limit.unwrap_or(rpo), rpo)
            }
            PostgresAction::StopWriters { connection } => stop_writers(connection, job),
            PostgresAction::ProveFenced { connection } => prove_fenced(connection),
            PostgresAction::WaitFor { connection, lsn } => wait_for(connection, lsn, job),
            PostgresAction::Promote { connection } => promote(connection, job),
            other => Err(no_connection(other)),
        }
    }

    fn undo(&self, job: &Job<'_>) -> Result<()> {
        let PostgresAction::StopWriters { connection } = &self.spec else {
            return Err(Error::unsupported("this cannot be taken back"));
        };
        let mut server = connect(connection)?;
        // What it was set to before is what it goes back to.
        let statement = match job.before.get("read_only").map(String::as_str) {
            Some("on") => return Ok(()),
            _ => "ALTER SYSTEM RESET default_transaction_read_only",
        };
        let doing = "failed to let clients write again";
        writable(&mut server, doing)?;
        server.execute(statement, doing)?;
        reload(&mut server, doing)
    }
}

/// What is done to files is not done here.
fn no_connection(spec: &PostgresAction) -> Error {
    Error::unsupported(format!("`{}` is done to files", spec.name()))
}

fn is_standby(server: &mut Connection) -> Result<bool> {
    let said =
        server.value("SELECT pg_is_in_recovery()", "failed to ask whether it is a standby")?;
    Ok(said == "t")
}

fn is_superuser(server: &mut Connection) -> Result<bool> {
    let query = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user";
    Ok(server.value(query, "failed to ask who this is")? == "t")
}

fn read_only(server: &mut Connection) -> Result<String> {
    let query = "SELECT reset_val FROM pg_settings WHERE name = 'default_transaction_read_only'";
    server.value(query, "failed to ask whether clients may write")
}

fn timeline(server: &mut Connection) -> Result<u32> {
    let query = "SELECT timeline_id FROM pg_control_checkpoint()";
    let said = server.value(query, "failed to ask for the timeline")?;
    said.parse().map_err(|_| Error::failed(format!("`{said}` is no timeline")))
}

/// This session may write, whatever the others may.
fn writable(server: &mut Connection, doing: &str) -> Result<()> {
    server.execute("SET default_transaction_read_only = off", doing)
}

fn reload(server: &mut Connection, doing: &str) -> Result<()> {
    server.value("SELECT pg_reload_conf()", doing).map(drop)
}

/// How much would be lost.
fn loss(standby: &str, primary: Option<&str>, limit: Period, rpo: Period) -> Result<Outputs> {
    let mut here = connect(standby)?;
    let doing = "failed to ask the standby how far it is";
    let lsn = here.value(
        "SELECT coalesce(greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()), '0/0')",
        doing,
    )?;
    let mut outputs = Outputs::from([("lsn".to_owned(), lsn.clone())]);
    let ahead = primary.map(|primary| {
        let mut there = connect(primary)?;
        let query = format!("SELECT greatest(pg_current_wal_lsn() - '{lsn}'::pg_lsn, 0)::bigint");
        there.value(&query, "failed to ask the primary how far it is")
    });
    // Without the primary nobody knows what it wrote since; at worst it wrote until now.
    let since = "SELECT coalesce(ceil(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())), -1)::bigint";
    let (bytes, seconds) = match ahead {
        Some(Ok(bytes)) if bytes == "0" => (bytes, "0".to_owned()),
        Some(Ok(bytes)) => (bytes, here.value(since, doing)?),
        _ => ("unknown".to_owned(), here.value(since, doing)?),
    };
    let more_than = |limit: Period| match seconds.parse::<i64>() {
        Ok(seconds) if seconds >= 0 && seconds as u64 <= limit.as_secs() => "no".to_owned(),
        // Where it never replayed a transaction nothing can be promised.
        _ => "yes".to_owned(),
    };
    let (over, beyond) = (more_than(limit), more_than(rpo));
    outputs.extend([
        ("bytes".to_owned(), bytes),
        ("seconds".to_owned(), if seconds == "-1" { "unknown".to_owned() } else { seconds }),
        ("over".to_owned(), over),
        (OUTPUT.to_owned(), beyond),
    ]);
    Ok(outputs)
}

fn stop_writers(connection: &str, job: &Job<'_>) -> Result<Outputs> {
    let mut server = connect(connection)?;
    let doing = "failed to stop clients from writing";
    writable(&mut server, doing)?;
    server.execute("ALTER SYSTEM SET default_transaction_read_only = on", doing)?;
    reload(&mut server, doing)?;
    // Once a new session only reads, so does every later one.
    while read_only(&mut connect(connection)?)? != "on" {
        job.pause(LOOK)?;
    }
    // Transactions that began before keep what they were told: their sessions have to go. Replication
    // stays, for what was written has to reach the standby.
    let since = server.value("SELECT clock_timestamp()", doing)?;
    let sessions = format!(
        "FROM pg_stat_activity WHERE backend_type = 'client backend' \
         AND pid <> pg_backend_pid() AND backend_start <= '{since}'"
    );
    loop {
        server.text(&format!("SELECT pg_terminate_backend(pid) {sessions}"), doing)?;
        if server.value(&format!("SELECT count(*) {sessions}"), doing)? == "0" {
            break;
        }
        job.pause(LOOK)?;
    }
    // Everything is on its disk, and on its way.
    server.execute("CHECKPOINT", doing)?;
    let lsn = server.value("SELECT pg_current_wal_lsn()", doing)?;
    Ok(Outputs::from([("lsn".to_owned(), lsn)]))
}

/// A write that the server refuses because nobody may write. Anything else is no proof.
fn prove_fenced(connection: &str) -> Result<Outputs> {
    let mut server = connect(connection).map_err(|error| {
        error.hint("a server that does not answer may still take writes from others: a person has to attest that it is off")
    })?;
    let doing = "failed to try to write";
    // As a client that knows nothing of it.
    server.execute("RESET default_transaction_read_only", doing)?;
    let state = server.value("SELECT current_setting('transaction_read_only')", doing)?;
    server.execute("BEGIN", doing)?;
    let written = server.execute("CREATE TABLE public.backstay_fence_probe (x int)", doing);
    server.execute("ROLLBACK", doing)?;
    match written {
        Ok(()) => Err(Error::new(ErrorKind::Conflict, "the server still takes writes")),
        Err(error) if state != "on" => {
            Err(error.context("the server refused a write, but not because it is fenced"))
        }
        Err(_) => {
            let what = if is_standby(&mut server)? { "it is a standby" } else { "it only reads" };
            Ok(Outputs::from([("proof".to_owned(), what.to_owned())]))
        }
    }
}

fn wait_for(connection: &str, lsn: &str, job: &Job<'_>) -> Result<Outputs> {
    let wanted: Lsn =
        lsn.parse().map_err(|_| Error::failed(format!("`{lsn}` is no position in WAL")))?;
    let mut standby = connect(connection)?;
    loop {
        let query = "SELECT coalesce(pg_last_wal_replay_lsn(), '0/0')";
        let said = standby.value(query, "failed to ask the standby how far it is")?;
        if said.parse::<Lsn>().is_ok_and(|reached| reached >= wanted) {
            return Ok(Outputs::new());
        }
        if !is_standby(&mut standby)? {
            return Err(Error::new(ErrorKind::Conflict, "this server is no standby any more"));
        }
        job.pause(LOOK).map_err(|error| match error.kind() {
            ErrorKind::Interrupted => error,
            _ => error.context(format!("the standby is at {said}, and was to get to {lsn}")),
        })?;
    }
}

fn promote(connection: &str, job: &Job<'_>) -> Result<Outputs> {
    let mut server = connect(connection)?;
    if is_standby(&mut server)? {
        let seconds = job.left().map_or(PROMOTION, |left| left.as_secs().max(1));
        let query = format!("SELECT pg_promote(true, {seconds})");
        if server.value(&query, "failed to promote the standby")? != "t" {
            return Err(Error::failed(format!("the standby did not open within {seconds} s")));
        }
    }
    // It may have been the one that was stopped when the other was promoted.
    if read_only(&mut server)? == "on" {
        let doing = "failed to let clients write";
        writable(&mut server, doing)?;
        server.execute("ALTER SYSTEM RESET default_transaction_read_only", doing)?;
        reload(&mut server, doing)?;
        while read_only(&mut connect(connection)?)? == "on" {
            job.pause(LOOK)?;
        }
    }
    opened(&mut server)
}

fn opened(server: &mut Connection) -> Result<Outputs> {
    let lsn = server.value("SELECT pg_current_wal_lsn()", "failed to ask how far it is")?;
    // From the name of the segment: the control file may not have it yet.
    let name = server
        .value("SELECT pg_walfile_name(pg_current_wal_lsn())", "failed to ask for the timeline")?;
    let timeline = name.get(..8).and_then(|hex| u32::from_str_radix(hex, 16).ok()).unwrap_or(0);
    Ok(Outputs::from([("lsn".to_owned(), lsn), ("timeline".to_owned(), timeline.to_string())]))
}
