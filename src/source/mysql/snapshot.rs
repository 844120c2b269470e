//! One moment of a server: a dump that has begun in it, a session that sees the same, and where the
//! binary log was.

use std::process::ChildStdout;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::client::Client;
use super::files::{Facts, Position};
use super::look;
use super::split::Splitter;
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::source::command::{Pipeline, Running};
use crate::telemetry::Reporter;

/// Seconds that writers are waited for.
const LOCK: u32 = 60;

/// A dump on its way. Dropping it ends it.
pub struct Snapshot {
    /// What the program writes.
    pub dump: Splitter<ChildStdout>,
    /// When it was taken, by the server's clock.
    pub taken: String,
    /// Where the binary log was.
    pub position: Option<Position>,
    running: Running,
    counting: Option<Counting>,
}

struct Counting {
    thread: JoinHandle<Result<Vec<Facts>>>,
    stop: Stop,
}

/// Tells the thread that nobody waits for it any more.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// What is wanted of a snapshot.
pub struct Wanted<'a> {
    /// The program that dumps.
    pub pipeline: &'a Pipeline,
    /// What is dumped.
    pub facts: Vec<Facts>,
    /// Writers may be stopped for the moment that it takes.
    pub lock: bool,
    /// Begin a new binary log.
    pub flush: bool,
    /// Count rows.
    pub counts: bool,
    /// And make checksums.
    pub checksums: bool,
}

impl Snapshot {
    /// Stops all writers, begins the dump and a session in the same snapshot, and lets them go on.
    pub fn take(client: &mut Client, wanted: Wanted<'_>, reporter: &Reporter) -> Result<Self> {
        let Wanted { pipeline, facts, lock, flush, counts, checksums } = wanted;
        reporter.phase("taking a snapshot");
        let mut counter =
            if counts && lock { Some(Client::open(client.settings())?) } else { None };
        let mut position = None;
        if lock {
            stop_writers(client)?;
            if flush {
                client.execute("FLUSH BINARY LOGS", "failed to begin a new binary log")?;
            }
            position = look::position(client)?;
            if let Some(counter) = &mut counter {
                begin(counter)?;
            }
        }
        let taken = look::now(client)?;
        let mut running = pipeline.start(false, true, reporter)?;
        let output = running
            .take_output()
            .ok_or_else(|| Error::failed("the program has no standard output"))?;
        let databases = facts.iter().map(|facts| facts.database.clone()).collect();
        let mut dump = Splitter::new(output, databases);
        // What it writes first it writes within its transaction.
        dump.prime().doing(|| "failed to read the dump".to_owned())?;
        if lock {
            client.execute("UNLOCK TABLES", "failed to let writers go on")?;
        }
        let counting = counter.map(|counter| {
            let stop = Stop(Arc::default());
            let (seen, reporter) = (stop.0.clone(), reporter.clone());
            let thread = std::thread::spawn(move || {
                let stop = move || seen.load(Ordering::SeqCst) || reporter.is_cancelled();
                count(counter, facts, checksums, &stop)
            });
            Counting { thread, stop }
        });
        Ok(Self { dump, taken, position, running, counting })
    }

    /// Waits for both. `uncounted` is what is known where nothing was counted.
    pub fn finish(mut self, uncounted: Vec<Facts>) -> Result<Vec<Facts>> {
        let complete = self.dump.is_complete();
        // The pipe is closed before anybody is waited for.
        drop(self.dump);
        let ran = self.running.finish();
        let counted = self.counting.take().map(|Counting { thread, stop }| {
            if ran.is_err() {
                stop.0.store(true, Ordering::SeqCst);
            }
            thread.join().map_err(|_| Error::failed("the thread that counts rows is gone"))?
        });
        ran.map_err(explained)?;
        if !complete {
            return Err(Error::failed(
                "the dump has no end: its last line is not `-- Dump completed`",
            )
            .hint(
                "is something else writing to its standard output, or `skip-comments` in force?",
            ));
        }
        counted.unwrap_or(Ok(uncounted))
    }
}

fn explained(error: Error) -> Error {
    let text = error.chain();
    let hint = if text.contains("1412") || text.contains("definition has changed") {
        "a table was altered while it was dumped: back up when nothing is migrated"
    } else if text.contains("1044") || text.contains("1142") || text.contains("1227") {
        "`backstay check` names the rights that are missing"
    } else if text.contains("2013") || text.contains("2006") {
        "the server ended the session: was it restarted, or is net_write_timeout short and the store slow?"
    } else {
        return error;
    };
    error.hint(hint)
}

fn stop_writers(client: &mut Client) -> Result<()> {
    const DOING: &str = "failed to stop writers for a moment";
    client.execute(&format!("SET SESSION lock_wait_timeout = {LOCK}"), DOING)?;
    client.execute("FLUSH TABLES WITH READ LOCK", DOING).map_err(|error| match error.kind() {
        ErrorKind::Denied => error
            .hint("GRANT RELOAD ON *.* TO the user")
            .hint("or `lock: false`: rows are not counted then, and the position in the binary log is not known"),
        _ => error.hint("`lock: false` does without: rows are not counted then, and the position in the binary log is not known"),
    })
}

fn begin(client: &mut Client) -> Result<()> {
    const DOING: &str = "failed to begin a snapshot";
    client.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ", DOING)?;
    client.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT", DOING)
}

fn count(
    mut client: Client,
    mut all: Vec<Facts>,
    checksums: bool,
    stop: &dyn Fn() -> bool,
) -> Result<Vec<Facts>> {
    for facts in &mut all {
        for table in facts.tables.iter_mut().filter(|table| table.transactional) {
            let (rows, checksum) =
                look::measure(&mut client, stop, &facts.database, &table.name, checksums)?;
            (table.rows, table.checksum) = (Some(rows), checksum);
        }
    }
    Ok(all)
}
