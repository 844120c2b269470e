//! One run: the process that does it, between its hooks.
//!
//! A run is a process of its own, the same program with the arguments that a person would give. So
//! memory goes back when it ends, one that breaks takes nothing with it, and what a run does can be
//! tried by hand. It is told to end when whoever started it is gone.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::hook;
use crate::error::{Error, IoContext as _, Result};
use crate::policy::Hooks;

/// The environment variable that names the process that has to be there for a run to go on.
pub const SUPERVISOR: &str = "BACKSTAY_SUPERVISOR";

/// The environment variable with the number under which a run of several daemons was claimed.
pub const EPOCH: &str = "BACKSTAY_EPOCH";

/// The environment variable with the seconds after which others take over what a daemon that stands
/// still does. Its processes end well before.
pub const LEASE: &str = "BACKSTAY_LEASE";

/// How long a process may take to end when it is told to, before it is killed.
const PATIENCE: Duration = Duration::from_mins(1);

/// How often a process is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// The end of what a process said that is kept as the reason of a failure.
const TAIL: u64 = 16 << 10;

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Work {
    /// The run.
    pub id: String,
    /// The program and its arguments.
    pub argv: Vec<OsString>,
    /// What is run around it.
    pub hooks: Hooks,
    /// What the process and hooks learn of the run.
    pub environment: Vec<(&'static str, String)>,
    /// When it has taken too long, from the beginning of the hook before it.
    pub stop_after: Option<Duration>,
    /// Where what it says goes: events to `.log`, its result to `.json`.
    pub log: PathBuf,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It is done; the backup it made.
    Succeeded(Option<String>),
    /// It failed. Whether trying again may help.
    Failed {
        /// One line.
        why: String,
        /// Trying again may help.
        again: bool,
    },
    /// It was told to end, and did.
    Stopped(Reason),
}

/// Why a run is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Somebody wants that.
    Cancelled,
    /// A later run of the job is to begin.
    Replaced,
    /// Another daemon has it now.
    Lost,
    /// The daemon ends.
    Leaving,
}

impl Reason {
    /// One line for people.
    pub const fn why(self) -> &'static str {
        match self {
            Self::Cancelled => "somebody cancelled it",
            Self::Replaced => "a later run takes its place",
            Self::Lost => "another daemon took it over",
            Self::Leaving => "the daemon ends",
        }
    }
}

/// Ends a run from outside.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<Mutex<Told>>);

/// What a run was told.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    /// The first reason.
    reason: Option<Reason>,
    /// Since when nobody has time for what may come after it.
    hurry: Option<Instant>,
}

impl Stop {
    /// Tells the run to end. The first reason counts.
    pub fn now(&self, reason: Reason) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.reason.get_or_insert(reason);
        if matches!(reason, Reason::Lost | Reason::Leaving) {
            told.hurry.get_or_insert_with(Instant::now);
        }
    }

    pub(super) fn reason(&self) -> Option<Reason> {
        self.told().reason
    }

    /// Since when hooks after the run are to hurry.
    pub(super) fn hurry(&self) -> Option<Instant> {
        self.told().hurry
    }

    fn told(&self) -> Told {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does the work in a thread of its own, and tells `done` what came of it.
pub fn start(work: Work, done: Sender<(String, Ended)>) -> Stop {
    let stop = Stop::default();
    let told = stop.clone();
    std::thread::spawn(move || {
        let ended = run(&work, &told)
            .unwrap_or_else(|error| Ended::Failed { why: error.chain(), again: true });
        let _ = done.send((work.id, ended));
    });
    stop
}

fn run(work: &Work, stop: &Stop) -> Result<Ended> {
    let limit = Limit { begun: Instant::now(), most: work.stop_after };
    let mut log = open(&work.log.with_extension("log"), true)?;
    let ended = match hook::before(work, stop, limit, &mut log) {
        Some(ended) => ended,
        None => process(work, stop, limit, &log)?,
    };
    hook::after(work, stop, &ended, &mut log);
    Ok(ended)
}

/// How long something may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    pub(super) begun: Instant,
    pub(super) most: Option<Duration>,
}

impl Limit {
    pub(super) fn is_over(&self) -> bool {
        self.most.is_some_and(|most| self.begun.elapsed() > most)
    }
}

/// Why a process was told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// The run was.
    Told(Reason),
    /// The run took longer than it may.
    Late,
    /// The process itself did.
    TimedOut,
}

impl Why {
    /// What is to end a run now, if anything is.
    pub(super) fn to_end(stop: &Stop, limit: Limit) -> Option<Self> {
        stop.reason().map(Self::Told).or_else(|| limit.is_over().then_some(Self::Late))
    }

    /// What a run came to that was ended for this.
    pub(super) fn ended(self) -> Ended {
        match self {
            Self::Told(reason) => Ended::Stopped(reason),
            Self::Late | Self::TimedOut => {
                Ended::Failed { why: "it took longer than it may".to_owned(), again: false }
            }
        }
    }
}

fn process(work: &Work, stop: &Stop, limit: Limit, log: &File) -> Result<Ended> {
    if let Some(why) = Why::to_end(stop, limit) {
        return Ok(why.ended());
    }
    let failed = || format!("failed to start run {}", work.id);
    let (program, arguments) =
        work.argv.split_first().ok_or_else(|| Error::usage("nothing to run"))?;
    let result = work.log.with_extension("json");
    let mut child = Command::new(program)
        .args(arguments)
        .envs(work.environment.iter().map(|(name, value)| (*name, value)))
        .env(SUPERVISOR, std::process::id().to_string())
        .stdin(Stdio::null())
        .stdout(open(&result, false)?)
        .stderr(log.try_clone().doing(failed)?)
        .process_group(0)
        .spawn()
        .doing(failed)?;
    let (status, why) = wait(&mut child, PATIENCE, || Why::to_end(stop, limit))?;
    if status.success() {
        return Ok(Ended::Succeeded(backup_in(&result)));
    }
    if let Some(why) = why {
        return Ok(why.ended());
    }
    let why = last_words(&work.log.with_extension("log"))
        .unwrap_or_else(|| format!("the process ended with {status}"));
    Ok(Ended::Failed { why, again: may_help(status) })
}

/// Whether the same may succeed later. A policy that is wrong, damage, and what was asked in vain
/// stay as they are.
fn may_help(status: ExitStatus) -> bool {
    !matches!(status.code(), Some(2 | 3 | 5 | 6))
}

/// Waits for the end of a process. Once `to_end` says why, it is told to end, and killed if it takes
/// longer than `patience` to do so.
pub(super) fn wait(
    child: &mut Child,
    patience: Duration,
    to_end: impl Fn() -> Option<Why>,
) -> Result<(ExitStatus, Option<Why>)> {
    let mut told: Option<(Instant, Why)> = None;
    loop {
        if let Some(status) = child.try_wait().doing(|| "failed to wait for a process".into())? {
            return Ok((status, told.map(|(_, why)| why)));
        }
        match told {
            None => {
                if let Some(why) = to_end() {
                    signal(child, Signal::TERM);
                    told = Some((Instant::now(), why));
                }
            }
            Some((since, _)) if since.elapsed() > patience => signal(child, Signal::KILL),
            Some(_) => {}
        }
        std::thread::sleep(LOOK);
    }
}

/// Sends a signal to a process and all that is in its group.
pub(super) fn signal(child: &Child, signal: Signal) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, signal);
    }
}

fn open(path: &Path, append: bool) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(append)
        .write(true)
        .truncate(!append)
        .mode(0o600)
        .open(path)
        .doing(|| format!("failed to write {}", path.display()))
}

/// The backup that a result names.
fn backup_in(path: &Path) -> Option<String> {
    let result: serde_json::Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    result["backups"][0]["backup"].as_str().map(str::to_owned)
}

/// What the process said last, if that was an error.
fn last_words(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).ok()?;
    let text = String::from_utf8_lossy(&tail);
    let said = |line: &str| {
        let event: serde_json::Value = serde_json::from_str(line).ok()?;
        (event["event"] == "error").then(|| event["chain"].as_str().map(str::to_owned))?
    };
    text.lines().rev().find_map(said)
}
