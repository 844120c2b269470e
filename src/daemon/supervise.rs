//! One run: its hooks, and the process that does it.
//!
//! A run is a process of its own, the same program with the arguments that a person would give. So
//! memory goes back when it ends, one that breaks takes nothing with it, and what a run does can be
//! tried by hand. It is told to end when whoever started it is gone.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use secrecy::ExposeSecret as _;

use crate::error::{Error, IoContext as _, Result};
use crate::policy::{Hook, Hooks, Setting};

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
    /// When it has taken too long.
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
    Stopped(String),
}

/// Ends a run from outside.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<Mutex<Option<String>>>);

impl Stop {
    /// Tells the run to end. The first reason counts.
    pub fn now(&self, why: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| why.to_owned());
    }

    fn why(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
    let mut log = open(&work.log.with_extension("log"), true)?;
    if let Some(hook) = &work.hooks.before
        && let Err(error) = around(hook, "before", work, "", &mut log)
    {
        let why = format!("the hook `before` failed: {}", error.chain());
        after(work, &Ended::Failed { why: why.clone(), again: true }, &mut log);
        return Ok(Ended::Failed { why, again: true });
    }
    let ended = process(work, stop, &log)?;
    after(work, &ended, &mut log);
    Ok(ended)
}

/// The hooks after a run. Whatever becomes of them, the run stays what it is.
fn after(work: &Work, ended: &Ended, log: &mut File) {
    let outcome = match ended {
        Ended::Succeeded(_) => "succeeded",
        Ended::Failed { .. } => "failed",
        Ended::Stopped(_) => "stopped",
    };
    let failed = matches!(ended, Ended::Failed { .. });
    let hooks = [
        ("on_failure", work.hooks.on_failure.as_ref().filter(|_| failed)),
        ("after", work.hooks.after.as_ref()),
    ];
    for (name, hook) in hooks {
        let Some(hook) = hook else { continue };
        if let Err(error) = around(hook, name, work, outcome, log) {
            let _ = writeln!(log, "warning: the hook `{name}` failed: {}", error.chain());
        }
    }
}

fn around(hook: &Hook, name: &str, work: &Work, outcome: &str, log: &mut File) -> Result<()> {
    let failed = || format!("failed to run the hook `{name}`");
    let program = hook.argv.first().ok_or_else(|| Error::usage("a hook without a program"))?;
    let mut command = Command::new(program);
    command.args(&hook.argv[1..]).stdin(Stdio::null()).process_group(0);
    command.stdout(log.try_clone().doing(failed)?).stderr(log.try_clone().doing(failed)?);
    command.envs(work.environment.iter().map(|(name, value)| (*name, value)));
    command.env("BACKSTAY_OUTCOME", outcome);
    for (name, value) in &hook.environment {
        match value {
            Setting::Plain(text) => command.env(name, text),
            Setting::Secret(reference) => command.env(name, reference.resolve()?.expose_secret()),
        };
    }
    if let Some(directory) = &hook.directory {
        command.current_dir(directory);
    }
    let _ = writeln!(log, "hook `{name}`: {program}");
    let mut child = command.spawn().doing(|| format!("failed to start `{program}`"))?;
    let late = format!("it took longer than {}", hook.timeout);
    let limit = (hook.timeout.get(), late.as_str());
    match wait(&mut child, &Stop::default(), Some(limit))? {
        (_, Some(why)) => Err(Error::failed(why)),
        (status, None) if status.success() => Ok(()),
        (status, None) => Err(Error::failed(format!("`{program}` ended with {status}"))),
    }
}

fn process(work: &Work, stop: &Stop, log: &File) -> Result<Ended> {
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
    let late = work.stop_after.map(|limit| (limit, "it took longer than it may"));
    let (status, stopped) = wait(&mut child, stop, late)?;
    if status.success() {
        return Ok(Ended::Succeeded(backup_in(&result)));
    }
    if let Some(why) = stopped {
        let late = late.is_some_and(|(_, late)| late == why);
        return Ok(if late { Ended::Failed { why, again: false } } else { Ended::Stopped(why) });
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

/// Waits for the end of a process. If it is told to end, or takes too long, that is why.
fn wait(
    child: &mut Child,
    stop: &Stop,
    limit: Option<(Duration, &str)>,
) -> Result<(ExitStatus, Option<String>)> {
    let begun = Instant::now();
    let mut told: Option<(Instant, String)> = None;
    loop {
        if let Some(status) = child.try_wait().doing(|| "failed to wait for a process".into())? {
            return Ok((status, told.map(|(_, why)| why)));
        }
        match &told {
            None => {
                let late = limit.filter(|(limit, _)| begun.elapsed() > *limit);
                let why = stop.why().or_else(|| late.map(|(_, why)| why.to_owned()));
                if let Some(why) = why {
                    signal(child, Signal::TERM);
                    told = Some((Instant::now(), why));
                }
            }
            Some((since, _)) if since.elapsed() > PATIENCE => signal(child, Signal::KILL),
            Some(_) => {}
        }
        std::thread::sleep(LOOK);
    }
}

fn signal(child: &Child, signal: Signal) {
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
