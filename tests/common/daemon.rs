//! A daemon of a test: ended, or killed, with the test.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::Sandbox;

/// Has a first daemon see when its jobs are due, by a clock that stands still: what is due before the next one
/// is up, however slow this machine is, is then caught up with. Nothing, where there is a state already.
pub fn introduce(mut daemon: Command, sandbox: &Sandbox, clock: &str) {
    let state = sandbox.path("state/state.db");
    let policy = fs::read_to_string(sandbox.path("policy.yaml")).unwrap();
    let scheduled = policy.contains("cron:") || policy.contains("every:");
    if state.exists() || !scheduled {
        return;
    }
    let (standing, _) = clock.rsplit_once(' ').unwrap();
    let log = sandbox.path("introduced.log");
    daemon.env("BACKSTAY_CLOCK", format!("{standing} 0")).stdin(Stdio::null());
    let child = daemon.stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
    let daemon = Daemon::new(child, log);
    let cursors = || {
        let state = rusqlite::Connection::open(&state).ok()?;
        state.query_row("SELECT count(*) FROM cursors", [], |row| row.get::<_, i64>(0)).ok()
    };
    let begun = Instant::now();
    while !state.exists() || cursors().is_none_or(|found| found == 0) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", daemon.said());
        std::thread::sleep(Duration::from_millis(20));
    }
    daemon.end();
}

/// A daemon that goes on.
pub struct Daemon {
    child: Option<Child>,
    log: PathBuf,
}

impl Daemon {
    /// This process, which writes what it says to `log`.
    pub fn new(child: Child, log: PathBuf) -> Self {
        Self { child: Some(child), log }
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }

    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Tells it to end, and waits for that.
    pub fn end(mut self) {
        self.signal(Signal::TERM);
        let status = self.child.take().unwrap().wait().unwrap();
        assert!(status.success(), "{status}: {}", self.said());
    }

    pub fn kill(mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
