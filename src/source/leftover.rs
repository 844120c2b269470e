//! Processes of throwaway servers, and how they end.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Ends a server, and waits for that; kills it when it takes longer than `patience`.
pub(super) fn end(child: &mut Child, mut signal: Signal, patience: Duration, pause: Duration) {
    let pid = Pid::from_child(child);
    let deadline = Instant::now() + patience;
    while let Ok(None) = child.try_wait() {
        if Instant::now() > deadline {
            signal = Signal::KILL;
        }
        let _ = kill_process(pid, signal);
        std::thread::sleep(pause);
    }
}

/// Ends a server that a killed process left on a data directory.
pub(super) fn end_at_home(
    pid: Pid,
    data: &Path,
    signal: Signal,
    patience: Duration,
    pause: Duration,
) {
    // Numbers are used again: the process must be at home there.
    let at_home = || {
        let home = fs::read_link(format!("/proc/{}/cwd", pid.as_raw_nonzero()));
        home.is_ok_and(|home| home == data)
    };
    let deadline = Instant::now() + patience;
    while at_home() && Instant::now() < deadline {
        let _ = kill_process(pid, signal);
        std::thread::sleep(pause);
    }
}
