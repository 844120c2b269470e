//! The loop: makes slots of what is due, begins what may begin, and writes down what came of it.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use super::adopt;
use super::service::ServiceManager;
use super::supervise::{self, Ended, Stop, Work};
use super::tick::{Place, Protected, decide, due_slots, following_slots};
use super::timetable::next_due;
use crate::clock::Clock;
use crate::error::Result;
use crate::id;
use crate::policy::{self, Job, Policy};
use crate::state::{RunRow, RunState, State};
use crate::telemetry::{Event, Reporter, WarningCode};

/// How long the loop sleeps when nothing happens.
const TICK: Duration = Duration::from_millis(500);

/// How often the daemon says that it is still there, and looks for others that are not.
const BEAT: Duration = Duration::from_secs(10);

/// How often the policies are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// How long runs may go on when the daemon is told to end, before they are told too.
const GRACE: Duration = Duration::from_secs(30);

/// How long what runs said is kept.
const WORDS: Duration = Duration::from_hours(30 * 24);

/// How often old words are looked for.
const SWEEP: Duration = Duration::from_hours(1);

/// How long what came of runs is remembered.
const MEMORY: SignedDuration = SignedDuration::from_hours(400 * 24);

/// What the daemon works with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The policy file, or the directory of them.
    pub policies: PathBuf,
    /// Where what runs say is kept.
    pub logs: PathBuf,
    /// This program, and the options that each run gets.
    pub program: Vec<OsString>,
    /// This machine.
    pub host: String,
    /// The most runs at once.
    pub most: usize,
    /// How long one that is gone may have been silent before its runs are taken over.
    pub silence: SignedDuration,
}

/// The daemon at work.
pub struct Engine<'a> {
    settings: Settings,
    state: &'a State,
    clock: Arc<dyn Clock>,
    reporter: Reporter,
    /// Who this is, for the state.
    owner: String,
    policies: Vec<Policy>,
    /// What the policies were made of.
    seen: policy::Fingerprint,
    looked: Instant,
    beaten: Option<Instant>,
    swept: Option<Instant>,
    /// When each job is due next: a look into the state for every job on every tick would be many.
    due: HashMap<(String, String), Option<Timestamp>>,
    protected: Protected,
    running: BTreeMap<String, (Stop, RunRow)>,
    ended: Receiver<(String, Ended)>,
    tell: Sender<(String, Ended)>,
    /// The latest time that was seen.
    latest: Timestamp,
}

impl<'a> Engine<'a> {
    /// Loads the policies and what the state knows. A policy that is invalid now is an error; later
    /// it is not.
    pub fn new(
        settings: Settings,
        state: &'a State,
        clock: Arc<dyn Clock>,
        reporter: Reporter,
    ) -> Result<Self> {
        let now = clock.now();
        let seen = policy::fingerprint(&settings.policies);
        let policies = policy::load(&settings.policies)?.policies;
        let (tell, ended) = channel();
        let owner = format!("{}/{}/{}", settings.host, std::process::id(), id::random_suffix(6));
        let protected = state.newest_successes()?;
        Ok(Self {
            settings,
            state,
            clock,
            reporter,
            owner,
            policies,
            seen,
            looked: Instant::now(),
            beaten: None,
            swept: None,
            due: HashMap::new(),
            protected,
            running: BTreeMap::new(),
            ended,
            tell,
            latest: now,
        })
    }

    /// Works until it is told to end: by SIGTERM or Ctrl-C. What goes on then may end within a
    /// while, and is told to end after that; it waits for the next start.
    pub fn run(mut self) -> Result<()> {
        self.note(format!(
            "jobs watched: {}, in policies: {}",
            self.policies.iter().map(|policy| policy.jobs.len()).sum::<usize>(),
            self.policies.len()
        ));
        let mut manager = ServiceManager::from_environment();
        manager.ready();
        while !self.reporter.is_cancelled() {
            manager.alive();
            if let Err(error) = self.tick() {
                // A full disk or a locked file may be well again in a moment.
                self.warn(format!("the state: {}", error.chain()));
                std::thread::sleep(TICK * 10);
            }
            self.wait(TICK);
        }
        manager.stopping();
        self.end()
    }

    /// One round.
    pub fn tick(&mut self) -> Result<()> {
        let now = self.clock.now();
        if now < self.latest - SignedDuration::from_secs(1) {
            self.warn(format!("the clock went back from {} to {now}", self.latest));
        }
        self.latest = now;
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            self.reload();
        }
        if self.beaten.is_none_or(|beaten| beaten.elapsed() >= BEAT) {
            self.beaten = Some(Instant::now());
            self.beat(now)?;
        }
        if self.swept.is_none_or(|swept| swept.elapsed() >= SWEEP) {
            self.swept = Some(Instant::now());
            self.sweep(now);
        }
        self.make_slots(now)?;
        self.decide(now)
    }

    /// Takes what ended, for as long as nothing else is to be done.
    fn wait(&mut self, time: Duration) {
        match self.ended.recv_timeout(time) {
            Ok((run, ended)) => self.take(&run, &ended),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }

    fn reload(&mut self) {
        let now = policy::fingerprint(&self.settings.policies);
        if now == self.seen {
            return;
        }
        self.seen = now;
        match policy::load(&self.settings.policies) {
            Ok(set) => {
                self.policies = set.policies;
                self.due.clear();
                self.note("the policies changed, and are in force".to_owned());
            }
            Err(error) => self.warn(format!(
                "the policies changed and are invalid; the old ones stay in force: {}",
                error.render(false).trim_end()
            )),
        }
    }

    fn beat(&mut self, now: Timestamp) -> Result<()> {
        for run in self.state.beat(&self.owner, now)? {
            if let Some((stop, _)) = self.running.get(&run) {
                stop.now("somebody cancelled it");
            }
        }
        for row in self.state.open_runs()? {
            let gone = row.state == RunState::Running
                && row.owner.as_deref().is_some_and(|owner| owner != self.owner)
                && row
                    .heartbeat
                    .is_none_or(|beat| now.duration_since(beat) > self.settings.silence);
            let from = row.owner.clone().unwrap_or_default();
            if gone && self.state.adopt(&row.id, &from, &self.owner, now)? {
                self.warn(format!(
                    "{}: whoever did it is gone: looking what came of it",
                    name(&row)
                ));
                let mut program = self.settings.program.clone();
                program.extend(["--policy".into(), self.settings.policies.clone().into()]);
                let stop = adopt::start(&program, &row, self.tell.clone());
                self.running.insert(row.id.clone(), (stop, row));
            }
        }
        self.state.forget_runs(now.checked_sub(MEMORY).unwrap_or(now)).map(drop)
    }

    /// Removes what runs said long ago.
    fn sweep(&self, now: Timestamp) {
        let Ok(entries) = std::fs::read_dir(&self.settings.logs) else { return };
        for entry in entries.flatten() {
            let written = entry.metadata().and_then(|metadata| metadata.modified());
            let Ok(written) = written.map(Timestamp::try_from) else { continue };
            let old =
                written.is_ok_and(|written| now.duration_since(written).unsigned_abs() > WORDS);
            let running =
                entry.path().file_stem().and_then(|name| name.to_str().map(str::to_owned));
            if old && running.is_none_or(|run| !self.running.contains_key(&run)) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    fn make_slots(&mut self, now: Timestamp) -> Result<()> {
        let place = Place { host: &self.settings.host, most: self.settings.most };
        for policy in &self.policies {
            let zone = policy.time_zone();
            for (name, job) in &policy.jobs {
                let key = (policy.stack.clone(), name.clone());
                let next = if let Some(next) = self.due.get(&key) {
                    *next
                } else {
                    let since = self.state.cursor(&policy.stack, name, now)?;
                    next_due(job, since, false, &zone).map(|(_, at)| at)
                };
                let mut after = next;
                if next.is_some_and(|next| next <= now) {
                    let since = self.state.cursor(&policy.stack, name, now)?;
                    let mut new_id = || id::run_id(now);
                    let slots = due_slots(policy, (name, job), since, now, &place, &mut new_id);
                    self.state.advance(&policy.stack, name, now, &slots)?;
                    after = next_due(job, now, false, &zone).map(|(_, at)| at);
                }
                self.due.insert(key, after);
            }
        }
        Ok(())
    }

    fn decide(&mut self, now: Timestamp) -> Result<()> {
        let open = self.state.open_runs()?;
        let place = Place { host: &self.settings.host, most: self.settings.most };
        let decisions = decide(&self.policies, &open, &self.protected, now, &place);
        let of = |id: &str| open.iter().find(|row| row.id == id);
        for (id, state, why) in &decisions.settle {
            if let Some(row) = of(id) {
                self.warn(format!("{}: {}: {why}", name(row), state.word()));
            }
        }
        self.state.settle(&decisions.settle, now)?;
        self.state.postpone(&decisions.postpone)?;
        for (id, why) in &decisions.end {
            if let Some((stop, _)) = self.running.get(id) {
                stop.now(why);
            }
        }
        for id in &decisions.begin {
            if let Some(row) = of(id)
                && self.state.claim(id, &self.owner, now)?
            {
                self.begin(row);
            }
        }
        Ok(())
    }

    fn begin(&mut self, row: &RunRow) {
        let Some((policy, job)) = self.job_of(row) else { return };
        let work = Work {
            id: row.id.clone(),
            argv: self.argv(policy, job, row),
            hooks: job.execution.hooks.clone(),
            environment: vec![
                ("BACKSTAY_RUN", row.id.clone()),
                ("BACKSTAY_STACK", row.slot.stack.clone()),
                ("BACKSTAY_JOB", row.slot.job.clone()),
                ("BACKSTAY_SOURCE", row.slot.source.clone()),
            ],
            stop_after: job.execution.stop_after.map(policy::Period::get),
            log: self.settings.logs.join(&row.id),
        };
        self.note(format!("{}: run {} begins", name(row), row.id));
        let mut row = row.clone();
        row.attempts += 1;
        row.started = Some(self.latest);
        let stop = supervise::start(work, self.tell.clone());
        self.running.insert(row.id.clone(), (stop, row));
    }

    fn argv(&self, policy: &Policy, job: &Job, row: &RunRow) -> Vec<OsString> {
        let mut argv = self.settings.program.clone();
        // What is not of one source is of this stack alone.
        let policies =
            if row.slot.source.is_empty() { &policy.file } else { &self.settings.policies };
        argv.extend(["--policy".into(), policies.clone().into()]);
        match &job.work {
            policy::Work::Backup { .. } => {
                argv.extend(["backup", "--job", &row.slot.job, "--run", &row.id].map(Into::into));
                argv.push(format!("{}/{}", row.slot.stack, row.slot.source).into());
            }
            policy::Work::Copy(copy) => {
                argv.extend(["copy", "--to", &copy.to].map(Into::into));
                let sources = policy.sources.keys();
                argv.extend(sources.map(|source| format!("{}/{source}", policy.stack).into()));
            }
            policy::Work::Verify(verify) => {
                argv.extend(["verify", "--depth", verify.depth.word()].map(Into::into));
                if let Some(budget) = verify.budget {
                    argv.extend(["--budget".into(), budget.to_string().into()]);
                }
            }
            policy::Work::Prune(_) => {
                argv.extend(["prune", "--yes"].map(Into::into));
            }
        }
        argv
    }

    fn job_of(&self, row: &RunRow) -> Option<(&Policy, &Job)> {
        let policy = self.policies.iter().find(|policy| policy.stack == row.slot.stack)?;
        Some((policy, policy.jobs.get(&row.slot.job)?))
    }

    /// Writes down what came of a run.
    fn take(&mut self, run: &str, ended: &Ended) {
        let Some((_, row)) = self.running.remove(run) else { return };
        if let Err(error) = self.write_down(&row, ended) {
            // Nobody else knows: it is looked for in the repository when this one is gone.
            self.warn(format!(
                "{}: failed to write down what came of it: {}",
                name(&row),
                error.chain()
            ));
        }
    }

    fn write_down(&mut self, row: &RunRow, ended: &Ended) -> Result<()> {
        let now = self.clock.now();
        match ended {
            Ended::Succeeded(backup) => {
                let done = (RunState::Succeeded, None);
                if !self.state.finish(&row.id, &self.owner, done, backup.as_deref(), now)? {
                    return Ok(());
                }
                let what = backup.as_deref().unwrap_or("done");
                self.note(format!("{}: succeeded: {what}", name(row)));
                let key = (row.slot.stack.clone(), row.slot.source.clone());
                self.protected.insert(key, row.started.unwrap_or(now));
                self.follow(row, now)
            }
            Ended::Failed { why, again } => {
                let retry = self.job_of(row).map(|(_, job)| job.execution.retry);
                let pause =
                    retry.filter(|_| *again).and_then(|retry| retry.pause_after(row.attempts));
                let Some(pause) = pause else {
                    self.warn(format!("{}: FAILED: {why}", name(row)));
                    return self.fail(row, why, now);
                };
                self.warn(format!("{}: failed, and is tried again in {pause}: {why}", name(row)));
                let wait = SignedDuration::try_from(pause.get()).unwrap_or(SignedDuration::ZERO);
                let at = now.checked_add(wait).unwrap_or(now);
                self.state.retry(&row.id, &self.owner, why, at).map(drop)
            }
            Ended::Stopped(why) if self.reporter.is_cancelled() => {
                self.note(format!("{}: waits for the next start", name(row)));
                self.state.retry(&row.id, &self.owner, why, now).map(drop)
            }
            Ended::Stopped(why) => {
                self.warn(format!("{}: ended: {why}", name(row)));
                self.fail(row, why, now)
            }
        }
    }

    fn fail(&self, row: &RunRow, why: &str, now: Timestamp) -> Result<()> {
        let done = (RunState::Failed, Some(why));
        if self.state.finish(&row.id, &self.owner, done, None, now)?
            && self.state.has_succeeded(&row.slot)?
        {
            // One source's failure does not keep others from being copied.
            self.follow(row, now)?;
        }
        Ok(())
    }

    fn follow(&self, row: &RunRow, now: Timestamp) -> Result<()> {
        let Some((policy, _)) = self.job_of(row) else { return Ok(()) };
        let place = Place { host: &self.settings.host, most: self.settings.most };
        let open = self.state.open_runs()?;
        let mut new_id = || id::run_id(now);
        self.state.add_runs(&following_slots(policy, row, &open, now, &place, &mut new_id))
    }

    /// Waits for what goes on, for a while; then it is told to end.
    fn end(mut self) -> Result<()> {
        if !self.running.is_empty() {
            self.note(format!(
                "ending: runs that go on: {}; they are told to end in {} s",
                self.running.len(),
                GRACE.as_secs()
            ));
        }
        let begun = Instant::now();
        while !self.running.is_empty() {
            if begun.elapsed() > GRACE {
                for (stop, _) in self.running.values() {
                    stop.now("the daemon ends");
                }
            }
            self.wait(TICK);
            self.state.beat(&self.owner, self.clock.now())?;
        }
        self.note("ended".to_owned());
        Ok(())
    }

    fn note(&self, message: String) {
        self.reporter.emit(Event::Note { message });
    }

    fn warn(&self, message: String) {
        self.reporter.emit(Event::Warning { code: WarningCode::Other, subject: None, message });
    }
}

/// What people call a run.
fn name(row: &RunRow) -> String {
    let slot = &row.slot;
    if slot.source.is_empty() {
        format!("{} {}", slot.stack, slot.job)
    } else {
        format!("{}/{} {}", slot.stack, slot.source, slot.job)
    }
}
