//! The daemon looks from time to time whether each playbook could be carried out, and keeps what it finds.
//!
//! Each look is a process of its own, `backstay playbook check`, as a person would start it: what does
//! not answer for minutes holds nobody up.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::supervise::SUPERVISOR;
use crate::error::{Error, IoContext as _, Result};
use crate::notify::{Alert, What};
use crate::playbook::ready::{plans, row_of};
use crate::policy::Policy;
use crate::state::{ReadinessRow, State};
use crate::telemetry::{Reporter, WarningCode};

/// How often it is looked what is due.
const ROUND: Duration = Duration::from_secs(5);

/// How long a look may take.
const PATIENCE: Duration = Duration::from_mins(10);

/// A playbook that is looked at.
struct Watched {
    stack: String,
    name: String,
    every: Duration,
    plans: Vec<(&'static str, String)>,
    /// When it was last begun to be looked at as it is now.
    begun: Option<Instant>,
}

/// The looks of a daemon, one at a time.
pub struct Preflights {
    program: Vec<OsString>,
    watched: Vec<Watched>,
    rounded: Option<Instant>,
    busy: bool,
    done: Receiver<(usize, Vec<ReadinessRow>)>,
    tell: Sender<(usize, Vec<ReadinessRow>)>,
    /// Counts up with the policies: what was found of older ones does not count.
    version: usize,
}

impl Preflights {
    /// Looks at the playbooks of these policies by running `program`.
    pub fn new(program: Vec<OsString>, policies: &[Policy]) -> Self {
        let (tell, done) = channel();
        let watched = Vec::new();
        let mut new = Self { program, watched, rounded: None, busy: false, done, tell, version: 0 };
        new.policies_changed(policies);
        new
    }

    /// Other policies are in force. What is the same as before keeps its time.
    pub fn policies_changed(&mut self, policies: &[Policy]) {
        self.version += 1;
        self.rounded = None;
        let mut old: HashMap<(String, String), Watched> = self
            .watched
            .drain(..)
            .map(|one| ((one.stack.clone(), one.name.clone()), one))
            .collect();
        for policy in policies {
            for (name, playbook) in &policy.playbooks {
                let Ok(plans) = plans(policy, name) else { continue };
                let before = old.remove(&(policy.stack.clone(), name.clone()));
                let begun = before.filter(|one| one.plans == plans).and_then(|one| one.begun);
                self.watched.push(Watched {
                    stack: policy.stack.clone(),
                    name: name.clone(),
                    every: playbook.preflight.every.get(),
                    plans,
                    begun,
                });
            }
        }
    }

    /// Begins the look that is due, if one is.
    pub fn round(
        &mut self,
        state: &State,
        policies: &Path,
        reporter: &Reporter,
        now: Timestamp,
    ) -> Result<()> {
        while let Ok((version, rows)) = self.done.try_recv() {
            self.busy = false;
            for row in rows.iter().filter(|_| version == self.version) {
                let what = format!("playbook {}/{}: {}", row.stack, row.playbook, row.why);
                reporter.warn(WarningCode::Other, None, what);
                state.put_readiness(row)?;
            }
        }
        if self.busy || self.rounded.is_some_and(|instant| instant.elapsed() < ROUND) {
            return Ok(());
        }
        self.rounded = Some(Instant::now());
        let rows = state.readiness()?;
        let due = |one: &&mut Watched| {
            let fresh = one.plans.iter().all(|(mode, hash)| {
                let row = row_of(&rows, (&one.stack, &one.name), (mode, hash));
                row.is_some_and(|row| now.duration_since(row.at).unsigned_abs() < one.every)
            });
            !fresh && one.begun.is_none_or(|begun| begun.elapsed() >= one.every)
        };
        // Whoever was looked at longest ago.
        let due = self.watched.iter_mut().filter(due).min_by_key(|one| one.begun);
        let Some(due) = due else { return Ok(()) };
        due.begun = Some(Instant::now());
        self.busy = true;
        let mut program = self.program.clone();
        let name = format!("{}/{}", due.stack, due.name);
        program.extend(["--policy".into(), policies.into()]);
        program.extend(["playbook", "check", &name].map(Into::into));
        let rows: Vec<ReadinessRow> = due
            .plans
            .iter()
            .map(|(mode, hash)| ReadinessRow {
                stack: due.stack.clone(),
                playbook: due.name.clone(),
                mode: (*mode).to_owned(),
                at: now,
                hash: hash.clone(),
                problems: 1,
                why: String::new(),
                takes: None,
                loss: None,
            })
            .collect();
        let (tell, version) = (self.tell.clone(), self.version);
        std::thread::spawn(move || {
            // What the other process found it wrote down itself; here only that it found nothing out.
            let rows = match look(&program) {
                Ok(()) => Vec::new(),
                Err(error) => {
                    let why = error.chain();
                    rows.into_iter().map(|row| ReadinessRow { why: why.clone(), ..row }).collect()
                }
            };
            let _ = tell.send((version, rows));
        });
        Ok(())
    }
}

fn look(program: &[OsString]) -> Result<()> {
    let (first, rest) = program.split_first().ok_or_else(|| Error::usage("no program"))?;
    let failed = || "failed to look whether it could be carried out".to_owned();
    let mut child = Command::new(first)
        .args(rest)
        .env(SUPERVISOR, std::process::id().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .doing(failed)?;
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().doing(failed)? {
            // 1: something is missing, and was written down.
            return match status.code() {
                Some(0 | 1) => Ok(()),
                _ => Err(Error::failed(format!("{}: it ended with {status}", failed()))),
            };
        }
        if begun.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::failed(format!("{}: it took too long", failed())));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What is wrong with playbooks: what could not be carried out, and what nobody looked at since it was
/// changed although somebody should have.
pub fn alerts(policies: &[Policy], rows: &[ReadinessRow], now: Timestamp) -> Vec<Alert> {
    let mut alerts = Vec::new();
    for policy in policies {
        for (name, playbook) in &policy.playbooks {
            let Ok(plans) = plans(policy, name) else { continue };
            let of = (policy.stack.as_str(), name.as_str());
            let found = plans.iter().find_map(|(mode, hash)| {
                let row = row_of(rows, of, (mode, hash));
                let (problems, why) = match row {
                    Some(row) if row.problems > 0 => (row.problems, row.why.clone()),
                    Some(_) => return None,
                    None => {
                        let older = |row: &&ReadinessRow| {
                            (row.stack.as_str(), row.playbook.as_str()) == of && row.mode == *mode
                        };
                        let at = rows.iter().find(older)?.at;
                        let late = now.duration_since(at).unsigned_abs();
                        (late > playbook.preflight.every.get() * 2).then_some((0, String::new()))?
                    }
                };
                Some(What::PlaybookNotReady { mode: (*mode).to_owned(), problems, why })
            });
            alerts.extend(found.map(|what| Alert::of(&policy.stack, what).playbook(name)));
        }
    }
    alerts
}
