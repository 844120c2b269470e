//! The programs that are run around a run.
//!
//! Between the daemon and each of them is a process that ends it when the daemon is gone, however that
//! ended: the next daemon runs it again, and not beside it.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use secrecy::ExposeSecret as _;

use super::supervise::{Ended, Limit, Stop, Why, Work, signal, wait};
use crate::error::{Error, IoContext as _, Result};
use crate::policy::{Hook, Setting};
use crate::source::command::PATIENT_GUARD;

/// How long a hook may take to end when it is told to, before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long hooks after a run may take once the daemon is told to end.
const LAST: Duration = Duration::from_secs(10);

/// The status of the process in between where the program could not be started; shells use it too.
const NOT_STARTED: i32 = 127;

/// The hook before a run. What came of the run, if it is not to begin.
pub(super) fn before(work: &Work, stop: &Stop, limit: Limit, log: &mut File) -> Option<Ended> {
    let hook = work.hooks.before.as_ref()?;
    match around(hook, ("before", ""), work, log, || Why::to_end(stop, limit)) {
        Ok(why) => why.map(Why::ended),
        Err(error) => {
            let why = format!("the hook `before` failed: {}", error.chain());
            Some(Ended::Failed { why, again: true })
        }
    }
}

/// The hooks after a run. Whatever becomes of them, the run stays what it is.
pub(super) fn after(work: &Work, stop: &Stop, ended: &Ended, log: &mut File) {
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
        // What ended the run does not keep a hook from putting back what the one before it changed.
        let (begun, known) = (Instant::now(), stop.reason().is_some());
        let to_end = || {
            let hurries = stop.hurry().is_some_and(|since| since.max(begun).elapsed() > LAST);
            stop.reason().filter(|_| hurries || !known).map(Why::Told)
        };
        let why = match around(hook, (name, outcome), work, log, to_end) {
            Ok(None) => continue,
            Ok(Some(Why::Told(reason))) => format!("it was ended: {}", reason.why()),
            Ok(Some(Why::Late | Why::TimedOut)) => late(hook),
            Err(error) => error.chain(),
        };
        let _ = writeln!(log, "warning: the hook `{name}` failed: {why}");
    }
}

/// Runs a hook. Why it was ended, if the run is the reason; an error if it failed by itself.
fn around(
    hook: &Hook,
    (name, outcome): (&str, &str),
    work: &Work,
    log: &mut File,
    to_end: impl Fn() -> Option<Why>,
) -> Result<Option<Why>> {
    let failed = || format!("failed to run the hook `{name}`");
    let program = hook.argv.first().ok_or_else(|| Error::usage("a hook without a program"))?;
    let mut command = Command::new("/proc/self/exe");
    command.arg(PATIENT_GUARD).arg(std::process::id().to_string()).args(&hook.argv);
    command.stdin(Stdio::null()).process_group(0);
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
    let own = Limit { begun: Instant::now(), most: Some(hook.timeout.get()) };
    let to_end = || to_end().or_else(|| own.is_over().then_some(Why::TimedOut));
    let (status, why) = wait(&mut child, PATIENCE, to_end)?;
    if why.is_some() {
        // What it started may not have listened.
        signal(&child, Signal::KILL);
    }
    match why {
        Some(Why::TimedOut) => Err(Error::failed(late(hook))),
        Some(why) => Ok(Some(why)),
        None if status.success() => Ok(None),
        None if status.code() == Some(NOT_STARTED) => Err(Error::failed(format!(
            "`{program}` could not be started, or ended with {status}: the run's log has what was said"
        ))),
        None => Err(Error::failed(format!("`{program}` ended with {status}"))),
    }
}

fn late(hook: &Hook) -> String {
    format!("it took longer than {}", hook.timeout)
}
