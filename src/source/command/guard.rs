//! The process between this program and one that it runs for a step: when whoever asked for it is gone, it
//! goes, and everything that it started goes with it. What was left would go on beside what the next
//! one does.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, getpgrp, getpid, getppid, kill_process, kill_process_group, pidfd_open,
};

use crate::error::{Error, ErrorKind, Result};

/// The first argument with which this program is started as the one in between for a program that may be
/// told to end: SIGTERM is meant for the program, and its end is waited for.
pub const PATIENT_GUARD: &str = "--become-patient-guard";

/// How often it is looked whether somebody is there whom the kernel does not watch.
const LOOK: Duration = Duration::from_millis(20);

/// Runs `PID PROGRAM ARGUMENTS…` for the process with that number, which leads to the status that this
/// process is to end with: 128 and its number for a signal.
///
/// This process leads the group that the program is in. Whatever left that group, as servers do that are
/// started to stay, is not touched.
///
/// # Errors
/// Without a program, for a process that is gone, and where the program cannot be started.
pub fn run_guarded(arguments: &[OsString]) -> Result<u8> {
    let (Some(parent), Some(program)) = (arguments.first(), arguments.get(1)) else {
        return Err(Error::usage("no program is named"));
    };
    let parent = parent.to_str().and_then(|text| text.parse().ok()).and_then(Pid::from_raw);
    let parent = parent.ok_or_else(|| Error::usage("no process is named"))?;
    let watched = pidfd_open(parent, PidfdFlags::empty());
    // It may have been gone before it was watched: then nobody is going to tell.
    if getppid() != Some(parent) {
        return Err(Error::new(ErrorKind::Interrupted, "whoever started this is gone"));
    }
    let mut child = Command::new(program).args(&arguments[2..]).spawn().map_err(|error| {
        Error::failed(format!("failed to start `{}`", program.display())).with_source(error)
    })?;
    std::thread::spawn(move || {
        match &watched {
            Ok(watched) => wait_for_end(PollFd::new(watched, PollFlags::IN)),
            // An old kernel.
            Err(_) => {
                while getppid() == Some(parent) {
                    std::thread::sleep(LOOK);
                }
            }
        }
        // This process too.
        let _ = kill_process_group(getpgrp(), Signal::KILL);
    });
    status_of(&mut child)
}

fn wait_for_end(watched: PollFd<'_>) {
    let mut watched = [watched];
    while poll(&mut watched, None).is_err() {}
}

fn status_of(child: &mut Child) -> Result<u8> {
    let status =
        child.wait().map_err(|error| Error::io("failed to wait for the program", error))?;
    if let Some(signal) = status.signal().and_then(Signal::from_named_raw) {
        // Whoever waits sees what became of the program. It goes on where that is ignored here.
        let _ = kill_process(getpid(), signal);
    }
    let number = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    Ok(number.and_then(|number| u8::try_from(number).ok()).unwrap_or(u8::MAX))
}
