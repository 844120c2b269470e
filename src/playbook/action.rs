//! What a step does: the seam between the engine and the world.
//!
//! The contract, which one suite of tests holds every action to:
//!
//! - `preview`, `before` and `observe` change nothing.
//! - `apply` twice is as good as once, unless the action says that it is not repeatable.
//! - `undo` is harmless where nothing was done, and twice as good as once.
//! - `observe` tells the truth at any time, also after a crash in the middle; where it cannot know it says so.
//! - An error of kind [`ErrorKind::Interrupted`] says that somebody stopped the work, and nothing of what
//!   came of it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::record::Outputs;
use crate::error::{Error, ErrorKind, Result};
use crate::policy::{ActionSpec, Mode, Policy};
use crate::run::Context;
use crate::store::{Repository, Web};

/// One kind of thing that steps do.
pub trait Action: Send + Sync {
    /// What would be done, in a sentence, and what is missing for it. Reads only.
    fn preview(&self, job: &Job<'_>) -> Result<Preview>;

    /// How things are before it is done, as far as `undo` or a later look need to know. Reads only.
    fn before(&self, _job: &Job<'_>) -> Result<Outputs> {
        Ok(Outputs::new())
    }

    /// Whether it is done. Reads only.
    fn observe(&self, job: &Job<'_>) -> Result<Observed>;

    /// Does it, and says what later steps may want to know.
    fn apply(&self, job: &Job<'_>) -> Result<Outputs>;

    /// Takes it back.
    fn undo(&self, _job: &Job<'_>) -> Result<()> {
        Err(Error::unsupported("this cannot be taken back"))
    }
}

/// Makes the action of a step.
pub type Make<'a> = dyn Fn(&ActionSpec) -> Result<Box<dyn Action>> + Sync + 'a;

/// What a look found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// It is done.
    Done(Outputs),
    /// It is not done.
    NotDone,
    /// That cannot be told.
    Unknown(String),
}

/// What would be done.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Preview {
    /// In a sentence.
    pub what: String,
    /// What keeps it from being done now.
    pub problems: Vec<String>,
    /// How much of what was written would be lost, in seconds, where the step can tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<u64>,
}

impl Preview {
    /// Nothing is missing.
    pub fn of(what: impl Into<String>) -> Self {
        Self { what: what.into(), problems: Vec::new(), loss: None }
    }

    /// So much would be lost.
    #[must_use]
    pub fn losing(mut self, seconds: u64) -> Self {
        self.loss = Some(seconds);
        self
    }

    /// Something is missing.
    #[must_use]
    pub fn missing(mut self, problem: impl Into<String>) -> Self {
        self.problems.push(problem.into());
        self
    }
}

/// A step, as its action sees it.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    /// The run.
    pub run: &'a str,
    /// The stack.
    pub stack: &'a str,
    /// The step.
    pub step: &'a str,
    /// How the playbook is run.
    pub mode: Mode,
    /// Which attempt this is.
    pub attempt: u32,
    /// How often somebody went on with the run.
    pub epoch: u64,
    /// When the run began.
    pub started: Timestamp,
    /// When the step began first.
    pub began: Timestamp,
    /// The instant that sources are restored to, if somebody asked for one.
    pub at: Option<Timestamp>,
    /// How things were before.
    pub before: &'a Outputs,
    /// When it has taken too long.
    pub deadline: Option<Instant>,
    /// Reporter, clock and sizes.
    pub cx: &'a Context,
}

impl Job<'_> {
    /// The same whenever the same step is tried again.
    pub fn key(&self) -> String {
        format!("{}/{}", self.run, self.step)
    }

    /// How long it may still take.
    pub fn left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Waits for a while; fails where somebody stops the work, or where it took too long.
    pub fn pause(&self, period: Duration) -> Result<()> {
        let until = Instant::now() + period;
        loop {
            self.cx.reporter.check()?;
            let now = Instant::now();
            if self.deadline.is_some_and(|deadline| now >= deadline) {
                return Err(Error::failed("it took longer than it may")
                    .hint("give the step a longer `timeout`"));
            }
            if now >= until {
                return Ok(());
            }
            std::thread::sleep((until - now).min(Duration::from_millis(100)));
        }
    }

    /// Tries until it works, with a pause between two tries: as long as the step may take, or once
    /// where nobody set a limit.
    pub fn until<T>(&self, every: Duration, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        loop {
            let error = match work() {
                Ok(done) => return Ok(done),
                Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
                Err(error) => error,
            };
            match self.left() {
                // The last try is made when the time is up, however short it is.
                Some(left) if !left.is_zero() => {
                    Job { deadline: None, ..*self }.pause(every.min(left))?;
                }
                _ => return Err(error),
            }
        }
    }
}

/// Opens a repository of the policy by its name.
pub type Open = dyn Fn(&str) -> Result<Repository> + Send + Sync;

/// What actions work with beside what their step says.
pub struct Means {
    /// The policy.
    pub policy: Policy,
    /// Where it lies, for the commands that actions run.
    pub policy_path: PathBuf,
    /// Files that open what is encrypted.
    pub identity: Vec<PathBuf>,
    /// Where this machine keeps what it remembers.
    pub state_directory: PathBuf,
    /// Opens a repository of the policy.
    pub open: Box<Open>,
    /// Sends requests.
    pub web: Web,
}

impl std::fmt::Debug for Means {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Means").field("policy", &self.policy_path).finish_non_exhaustive()
    }
}
