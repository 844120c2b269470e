//! The files of a backup, made when their turn comes.

use std::io::{self, Cursor, Read};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::archive::Walk;
use super::facts::Facts;
use super::session::{Job, Session};
use crate::archive::entry::Entry;
use crate::error::{Error, IoContext as _, Result};
use crate::source::command::Pipeline;
use crate::source::postgres::tools::output_of;
use crate::source::{Content, OpenError};
use crate::telemetry::Reporter;

/// Most bytes of roles and tablespaces.
const MOST_GLOBALS: u64 = 256 << 20;

/// What is known of a database once its dump has ended.
#[derive(Default)]
pub struct Outcome {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
enum State {
    #[default]
    Waiting,
    Known(Box<Facts>),
    Lost,
}

impl Outcome {
    /// Sets what is known.
    pub fn set(&self, facts: Facts) {
        self.change(State::Known(Box::new(facts)));
    }

    fn change(&self, to: State) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::Waiting) {
            *state = to;
        }
        self.changed.notify_all();
    }

    fn wait(&self) -> Result<Facts> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &*state {
                State::Waiting => {}
                State::Known(facts) => return Ok(Facts::clone(facts)),
                // Whoever lost it says why.
                State::Lost => return Err(Error::failed("the dump of the database failed")),
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A dump in custom format, as it comes out of `pg_dump`.
pub struct Dump {
    job: Job,
    outcome: Arc<Outcome>,
    reporter: Reporter,
}

impl Dump {
    /// A dump that is not started yet. What is known afterwards goes to `outcome`.
    pub fn new(job: Job, outcome: Arc<Outcome>, reporter: Reporter) -> Self {
        Self { job, outcome, reporter }
    }
}

impl Content for Dump {
    fn open(&mut self, _entry: &mut Entry) -> Result<Box<dyn Read + Send + '_>, OpenError> {
        let arguments = ["--format=custom".to_owned(), "--compress=0".to_owned()];
        let session = Session::start(&self.job, &arguments, &self.reporter);
        Ok(Box::new(DumpReader {
            session: Some(session.map_err(OpenError::Failed)?),
            walk: Walk::default(),
            dump: self,
        }))
    }

    fn changed(&mut self) -> bool {
        false
    }

    fn is_open_ended(&self) -> bool {
        true
    }
}

impl Drop for Dump {
    fn drop(&mut self) {
        // Nobody waits for what will not come.
        self.outcome.change(State::Lost);
    }
}

struct DumpReader<'a> {
    session: Option<Session>,
    walk: Walk,
    dump: &'a Dump,
}

impl Read for DumpReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let Some(session) = &mut self.session else { return Ok(0) };
        self.dump.reporter.check().map_err(Error::into_io)?;
        let read = if session.is_lost() {
            0
        } else {
            session.output().map_or(Ok(0), |output| output.read(out))?
        };
        if read > 0 || out.is_empty() {
            self.walk.feed(&out[..read]);
            return Ok(read);
        }
        let doing = || format!("failed to dump database `{}`", self.dump.job.settings.database);
        if let Some(session) = self.session.take() {
            let facts = session.finish().and_then(|facts| self.walk.finish().map(|()| facts));
            let facts = facts.map_err(|error| error.context(doing()).into_io())?;
            self.dump.outcome.set(facts);
        }
        Ok(0)
    }
}

/// Bytes that are known when they are asked for.
pub struct Made<F> {
    make: F,
    bytes: Vec<u8>,
}

impl<F: FnMut() -> Result<Vec<u8>> + Send> Made<F> {
    /// Content that `make` makes.
    pub fn new(make: F) -> Self {
        Self { make, bytes: Vec::new() }
    }
}

impl<F: FnMut() -> Result<Vec<u8>> + Send> Content for Made<F> {
    fn open(&mut self, entry: &mut Entry) -> Result<Box<dyn Read + Send + '_>, OpenError> {
        self.bytes = (self.make)().map_err(OpenError::Failed)?;
        entry.size = self.bytes.len() as u64;
        Ok(Box::new(Cursor::new(&self.bytes[..])))
    }

    fn changed(&mut self) -> bool {
        false
    }
}

/// `facts/NAME.json`, once the dump has ended.
pub fn facts_of(outcome: Arc<Outcome>) -> impl FnMut() -> Result<Vec<u8>> + Send {
    move || json(&outcome.wait()?)
}

/// `globals.sql`, as `pg_dumpall` writes it now: what was dumped before refers to no role that
/// came later.
pub fn globals_of(
    pipeline: Pipeline,
    reporter: Reporter,
) -> impl FnMut() -> Result<Vec<u8>> + Send {
    move || {
        let bytes = output_of(&pipeline, &reporter, MOST_GLOBALS);
        let bytes = bytes.map_err(|error| error.context("failed to dump roles and tablespaces"))?;
        // Its last line but for what `psql` alone understands.
        let end = &bytes[bytes.len().saturating_sub(1024)..];
        if !String::from_utf8_lossy(end).contains("-- PostgreSQL database cluster dump complete") {
            return Err(Error::failed("the dump of roles and tablespaces has no end"));
        }
        Ok(bytes)
    }
}

/// JSON for people to read, with a line break at its end.
pub fn json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|error| Error::failed("failed to write JSON").with_source(error))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// A file of a dump in directory format. The directory goes when nobody needs it any more.
pub struct Scratch {
    /// Where it is.
    pub path: PathBuf,
    /// What holds it.
    #[expect(dead_code, reason = "it is removed with the last that has it")]
    pub directory: Arc<tempfile::TempDir>,
}

impl Content for Scratch {
    fn open(&mut self, entry: &mut Entry) -> Result<Box<dyn Read + Send + '_>, OpenError> {
        let doing = || format!("failed to read {}", self.path.display());
        let file = std::fs::File::open(&self.path).doing(doing).map_err(OpenError::Failed)?;
        let size = file.metadata().doing(doing).map_err(OpenError::Failed)?.len();
        entry.size = size;
        Ok(Box::new(file))
    }

    fn changed(&mut self) -> bool {
        false
    }
}
