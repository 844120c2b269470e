//! What is read from repositories for pages: by commands of this program, one of a kind at a time,
//! kept for a while. A page never waits for a repository longer than a moment, and many readers ask
//! it no more often than one.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;

use crate::clock::Clock;
use crate::daemon::asking::Asking;
use crate::error::{Error, ErrorKind, Result};

/// How long a page waits for what was never read.
const MOMENT: Duration = Duration::from_secs(3);

/// How long a command may take.
const PATIENCE: Duration = Duration::from_mins(10);

/// The most that a command may answer.
const MOST: u64 = 16 << 20;

/// What is kept at once beside the few that every page shares.
const KEPT: usize = 32;

/// What is kept of each command, by its arguments.
type ByArguments = BTreeMap<Vec<String>, Kept>;

/// Asks, and keeps.
#[derive(Debug, Clone)]
pub struct Finder {
    program: Vec<OsString>,
    clock: Arc<dyn Clock>,
    kept: Arc<(Mutex<ByArguments>, Condvar)>,
}

#[derive(Debug, Clone, Default)]
struct Kept {
    busy: bool,
    /// What was found, and when it was asked for.
    found: Option<Found>,
    /// Why the last try failed, as its kind, message and hints.
    failed: Option<(ErrorKind, String, Vec<String>)>,
    tried: Option<Instant>,
}

/// What a command answered.
#[derive(Debug, Clone)]
pub struct Found {
    /// When it was asked.
    pub at: Timestamp,
    /// What it answered.
    pub value: Arc<Value>,
}

/// What is known now.
#[derive(Debug)]
pub enum Known {
    /// This, and why it is not newer where it should be.
    Found(Found, Option<Error>),
    /// Nothing yet: it is being read.
    Reading,
    /// Nothing, and why.
    Failed(Error),
}

impl Finder {
    /// One that runs `program`.
    pub fn new(program: Vec<OsString>, clock: Arc<dyn Clock>) -> Self {
        Self { program, clock, kept: Arc::default() }
    }

    /// What a command says, not older than `age` where that is to be had; older ones are given while
    /// a newer one is read. `since`: what was read before does not count as new.
    pub fn find(
        &self,
        policies: &std::path::Path,
        args: &[&str],
        age: Duration,
        since: Option<Timestamp>,
    ) -> Known {
        let key: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut kept = self.lock();
        bound(&mut kept, &key);
        let one = kept.entry(key.clone()).or_default();
        let outdated = since.is_some_and(|since| {
            one.found.as_ref().is_none_or(|found| found.at < since)
                && one.tried.is_none_or(|tried| tried.elapsed() > Duration::from_secs(2))
        });
        if !one.busy && (outdated || one.tried.is_none_or(|tried| tried.elapsed() >= age)) {
            one.busy = true;
            one.tried = Some(Instant::now());
            self.begin(key.clone(), policies.to_owned());
        }
        let is_new = |kept: &mut ByArguments| {
            kept.get(&key).is_some_and(|one| one.busy && (one.found.is_none() || outdated))
        };
        let waited = self.kept.1.wait_timeout_while(kept, MOMENT, is_new);
        let (kept, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match kept.get(&key).cloned().unwrap_or_default() {
            Kept { found: Some(found), failed, .. } => Known::Found(found, failed.map(error)),
            Kept { failed: Some(failed), busy: false, .. } => Known::Failed(error(failed)),
            _ => Known::Reading,
        }
    }

    /// Does something, and gives what it says. What was kept of `stale` is read again next time.
    pub fn act(&self, policies: &std::path::Path, args: &[&str], stale: &[&str]) -> Result<Value> {
        let done = self.asking(policies, "failed to do it", |asking| asking.done(args));
        let mut kept = self.lock();
        kept.retain(|key, one| one.busy || !stale.contains(&key[0].as_str()));
        for one in kept.iter_mut().filter(|(key, _)| stale.contains(&key[0].as_str())) {
            one.1.tried = None;
            one.1.found = None;
        }
        done
    }

    fn begin(&self, key: Vec<String>, policies: PathBuf) {
        let this = self.clone();
        std::thread::spawn(move || {
            let at = this.clock.now();
            let answer = this
                .asking(&policies, "failed to read the repositories", |asking| asking.json(&key));
            let mut kept = this.lock();
            if let Some(one) = kept.get_mut(&key) {
                one.busy = false;
                match answer {
                    Ok(value) => {
                        one.found = Some(Found { at, value: Arc::new(value) });
                        one.failed = None;
                    }
                    Err(error) => {
                        one.failed = Some((error.kind(), error.chain(), error.hints().to_vec()));
                    }
                }
            }
            drop(kept);
            this.kept.1.notify_all();
        });
    }

    fn asking<T>(
        &self,
        policies: &std::path::Path,
        doing: &str,
        ask: impl FnOnce(&Asking<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut program = self.program.clone();
        program.extend(["--policy".into(), policies.as_os_str().to_owned()]);
        ask(&Asking { doing, program: &program, patience: PATIENCE, most: MOST })
    }

    fn lock(&self) -> MutexGuard<'_, ByArguments> {
        self.kept.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes room for one more: what was asked for longest ago goes.
fn bound(kept: &mut ByArguments, key: &[String]) {
    while kept.len() >= KEPT && !kept.contains_key(key) {
        let idle = kept.iter().filter(|(_, one)| !one.busy);
        let Some(oldest) = idle.min_by_key(|(_, one)| one.tried).map(|(key, _)| key.clone()) else {
            return;
        };
        kept.remove(&oldest);
    }
}

fn error((kind, message, hints): (ErrorKind, String, Vec<String>)) -> Error {
    hints.into_iter().fold(Error::new(kind, message), Error::hint)
}
