//! One database being dumped: a snapshot, `pg_dump` that works in it, and the counts taken in it.

use std::process::ChildStdout;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::facts::{self, Facts};
use crate::error::{Error, ErrorKind, Result};
use crate::source::command::Running;
use crate::source::postgres::tools::Tool;
use crate::source::postgres::{Connection, Server, Settings, quote_value};
use crate::telemetry::Reporter;

/// What a dump is made with.
#[derive(Debug, Clone)]
pub struct Job {
    /// How the database is reached.
    pub settings: Settings,
    /// The server: a snapshot is known to no other.
    pub server: Server,
    /// `pg_dump`.
    pub tool: Tool,
    /// Count rows.
    pub counts: bool,
    /// And make checksums.
    pub checksums: bool,
    /// How long it may take.
    pub timeout: Option<Duration>,
}

/// A dump on its way. Dropping it ends it.
pub struct Session {
    running: Option<Running>,
    output: Option<ChildStdout>,
    counting: Option<Counting>,
}

/// The thread that holds the snapshot and counts in it.
struct Counting {
    thread: JoinHandle<Result<Facts>>,
    dumped: Sender<()>,
    stop: Arc<AtomicBool>,
}

impl Session {
    /// Takes a snapshot and starts `pg_dump` with these arguments in it.
    pub fn start(job: &Job, arguments: &[String], reporter: &Reporter) -> Result<Self> {
        let database = &job.settings.database;
        let doing = || format!("failed to dump database `{database}`");
        let mut connection = Connection::open_same(&job.settings, &job.server)
            .map_err(|error| error.context(doing()))?;
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", &doing())?;
        let exported = "SELECT pg_catalog.pg_export_snapshot()";
        let snapshot = connection.value(exported, "failed to export a snapshot")?;
        let mut facts = facts::look(&mut connection)?;
        facts.snapshot.clone_from(&snapshot);
        facts.pg_dump.clone_from(&job.tool.version);
        let mut all = vec![
            "--no-password".to_owned(),
            format!("--snapshot={snapshot}"),
            // As a connection string: a name may begin with a dash, or look like one.
            format!("--dbname=dbname={}", quote_value(database)),
        ];
        all.extend_from_slice(arguments);
        let mut pipeline = job.tool.pipeline(&job.settings, &job.server.host, all)?;
        pipeline.timeout = job.timeout;
        let mut running = pipeline.start(false, true, reporter)?;
        let output = running.take_output();
        let (dumped, wait) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (stop, reporter, job) = (stop.clone(), reporter.clone(), job.clone());
            std::thread::spawn(move || {
                let stop = move || stop.load(Ordering::SeqCst) || reporter.is_cancelled();
                count(connection, facts, &job, &stop, &wait)
            })
        };
        let counting = Some(Counting { thread, dumped, stop });
        Ok(Self { running: Some(running), output, counting })
    }

    /// What `pg_dump` writes.
    pub fn output(&mut self) -> Option<&mut ChildStdout> {
        self.output.as_mut()
    }

    /// Whether the snapshot is gone already, so that the dump is in vain.
    pub fn is_lost(&self) -> bool {
        self.counting.as_ref().is_some_and(|counting| counting.thread.is_finished())
    }

    /// Waits for both: an error unless `pg_dump` ended with 0 and everything was counted.
    pub fn finish(mut self) -> Result<Facts> {
        let lost = self.is_lost();
        self.output = None;
        let ran = match self.running.take() {
            // Dropped, it is ended.
            _ if lost => Ok(()),
            Some(running) => running.finish(),
            None => Ok(()),
        };
        let Counting { thread, dumped, stop } =
            self.counting.take().ok_or_else(|| Error::failed("nothing was dumped"))?;
        if ran.is_ok() && !lost {
            let _ = dumped.send(());
        }
        stop.store(ran.is_err(), Ordering::SeqCst);
        drop(dumped);
        let counted =
            thread.join().map_err(|_| Error::failed("the thread that counts rows is gone"))?;
        match (ran, counted) {
            (Ok(()), counted) => counted,
            // Without its snapshot pg_dump only says that there is none.
            (Err(_), Err(error)) if !matches!(error.kind(), ErrorKind::Interrupted) => Err(error),
            (Err(error), _) => Err(error),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.output = None;
        self.running = None;
        if let Some(Counting { thread, dumped, stop }) = self.counting.take() {
            stop.store(true, Ordering::SeqCst);
            drop(dumped);
            let _ = thread.join();
        }
    }
}

/// Counts, and holds the snapshot until `pg_dump` has ended: it might not have taken it yet.
fn count(
    mut connection: Connection,
    mut facts: Facts,
    job: &Job,
    stop: &(dyn Fn() -> bool + Sync),
    dumped: &Receiver<()>,
) -> Result<Facts> {
    if job.counts {
        connection.patiently(stop, |connection| {
            facts::count(connection, &mut facts.tables, job.checksums)
        })?;
    }
    // Given up: whoever did so says why.
    dumped.recv().map_err(|_| Error::new(ErrorKind::Interrupted, "interrupted"))?;
    facts.ended = connection.value(
        "SELECT pg_catalog.to_char(pg_catalog.clock_timestamp(), 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
        "failed to end the snapshot",
    )?;
    connection.execute("COMMIT", "failed to end the snapshot")?;
    Ok(facts)
}
