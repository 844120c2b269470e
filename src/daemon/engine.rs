//! The loop: makes slots of what is due, begins what may begin, and writes down what came of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use super::argv::argv;
use super::board::Board;
use super::force::{InForce, told};
use super::heartbeats::Heartbeats;
use super::preflights::Preflights;
use super::service::ServiceManager;
use super::supervise::{self, Ended, Reason, Stop, Work};
use super::tick::{Fleet, Place, Protected, decide};
use super::timetable::{is_due_as_before, jobs_not_in};
use super::watch::{Means, Watch};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::id;
use crate::notify::ping::Sign;
use crate::policy::{self, Job, Policy};
use crate::run::HOST_LABEL;
use crate::run::protection::is_ahead;
use crate::state::{Epoch, Fence, Ledger, RunRow, RunState, State};
use crate::telemetry::{Event, Reporter, WarningCode};

/// How long the loop sleeps when nothing happens.
const TICK: Duration = Duration::from_millis(500);

/// How often the policies are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// How often is it tried to write down what came of runs before the daemon ends without.
const LAST_TRIES: u32 = 5;

/// How long what runs said is kept.
const WORDS: Duration = Duration::from_hours(30 * 24);

/// How often old words are looked for.
const SWEEP: Duration = Duration::from_hours(1);

/// A state that was never in trouble.
const WELL_SINCE: Duration = Duration::from_mins(10);

/// How long what came of runs is remembered.
pub(super) const MEMORY: SignedDuration = SignedDuration::from_hours(400 * 24);

/// What the daemon works with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The policy file, or the directory of them.
    pub policies: PathBuf,
    /// Where copies of those in force are kept, for runs to read.
    pub kept: PathBuf,
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
    /// How long runs may go on when the daemon is told to end, before they are told too.
    pub grace: Duration,
    /// How people are told, and repositories looked at.
    pub means: Means,
    /// Where others see what the daemon does.
    pub board: Board,
}

/// A run that this daemon does.
pub(super) struct Going {
    pub(super) stop: Stop,
    pub(super) row: RunRow,
    /// The number it was claimed under.
    pub(super) epoch: Epoch,
    /// Somebody else began it: here it is only looked what came of it.
    pub(super) adopted: bool,
    /// Somebody else has it now: what comes of it here does not count.
    pub(super) lost: bool,
    /// How much of what it said was kept.
    pub(super) said: u64,
}

/// The daemon at work.
pub struct Engine<'a> {
    pub(super) settings: Settings,
    pub(super) state: &'a dyn Ledger,
    /// What only this machine remembers.
    pub(super) local: &'a State,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) reporter: Reporter,
    /// Who this is, for the state.
    pub(super) owner: String,
    /// Who shares the state.
    pub(super) fleet: Option<Fleet>,
    pub(super) policies: Vec<Policy>,
    pub(super) force: InForce,
    looked: Instant,
    beaten: Option<Instant>,
    /// Since when the state answers again, if it did not for a while; `None` within the trouble.
    pub(super) well: Option<Instant>,
    swept: Option<Instant>,
    /// When each job is due next: a look into the state for every job on every tick would be many.
    pub(super) due: HashMap<(String, String), Option<Timestamp>>,
    /// Jobs that the policies have now and did not have a moment ago.
    pub(super) returned: BTreeSet<(String, String)>,
    /// When the first of them is: before that there is nothing to look at.
    pub(super) soonest: Option<Timestamp>,
    pub(super) protected: Protected,
    pub(super) running: BTreeMap<String, Going>,
    /// What came of runs that could not be written down yet.
    pub(super) unwritten: Vec<(Going, Ended)>,
    ended: Receiver<(String, Ended)>,
    pub(super) tell: Sender<(String, Ended)>,
    /// The latest time that was seen.
    latest: Timestamp,
    pub(super) watch: Watch,
    pub(super) preflights: Preflights,
    pub(super) heartbeats: Heartbeats,
    /// What is wrong with the policies as they are in their files now.
    pub(super) invalid: Option<String>,
}

impl<'a> Engine<'a> {
    /// Loads the policies and what the state knows. A policy that is invalid now is an error; later
    /// it is not.
    pub fn new(
        settings: Settings,
        (state, local): (&'a dyn Ledger, &'a State),
        clock: Arc<dyn Clock>,
        reporter: Reporter,
    ) -> Result<Self> {
        let now = clock.now();
        let (force, policies) = InForce::begin(&settings.policies, &settings.kept)?;
        let (tell, ended) = channel();
        let owner = format!("{}/{}/{}", settings.host, std::process::id(), id::random_suffix(6));
        let mut protected = state.newest_successes()?;
        protected.retain(|_, newest| !is_ahead(*newest, now));
        let fleet = state.is_shared().then(|| Fleet { owner: owner.clone(), ..Fleet::default() });
        let long_ago = Instant::now().checked_sub(WELL_SINCE);
        let program = settings.program.clone();
        let preflights = Preflights::new(program.clone(), &policies);
        let mut watch = Watch::new(settings.means.clone(), program, reporter.clone());
        watch.policies_changed(&policies, force.path());
        settings.board.loaded(&policies, force.path(), now);
        let mut heartbeats =
            Heartbeats::new(settings.host.clone(), clock.clone(), reporter.clone());
        heartbeats.policies_changed(&policies);
        Ok(Self {
            settings,
            state,
            local,
            clock,
            reporter,
            owner,
            fleet,
            policies,
            force,
            looked: Instant::now(),
            beaten: None,
            well: long_ago.or_else(|| Some(Instant::now())),
            swept: None,
            due: HashMap::new(),
            returned: BTreeSet::new(),
            soonest: None,
            protected,
            running: BTreeMap::new(),
            unwritten: Vec::new(),
            ended,
            tell,
            latest: now,
            watch,
            preflights,
            heartbeats,
            invalid: None,
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
            let ticked = self.tick();
            self.settings.board.ticked(ticked.as_ref().err().map(Error::chain));
            match ticked {
                Ok(()) if self.well.is_none() => {
                    self.well = Some(Instant::now());
                    self.note("the state answers again".to_owned());
                }
                Ok(()) => {}
                Err(error) => {
                    // A full disk, a locked file or a server that starts may be well again in a
                    // moment. Until then what goes on goes on, and nothing begins.
                    self.well = None;
                    self.warn(format!("the state: {}", error.chain()));
                    self.wait(TICK * 4);
                }
            }
            self.wait(TICK);
        }
        manager.stopping();
        self.end();
        Ok(())
    }

    /// One round.
    pub fn tick(&mut self) -> Result<()> {
        let now = self.clock.now();
        if now < self.latest - SignedDuration::from_secs(1) {
            self.warn(format!("the clock went back from {} to {now}", self.latest));
        }
        if is_ahead(self.latest, now) {
            // What was known was true of a time that is not.
            self.due.clear();
            self.soonest = None;
            self.protected.retain(|_, newest| !is_ahead(*newest, now));
        }
        self.latest = now;
        let asked = self.reporter.take_hangup();
        if asked || self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            self.reload(asked);
        }
        self.write_late()?;
        if self.beaten.is_none_or(|beaten| beaten.elapsed() >= self.pulse()) {
            // Only what was written down counts.
            self.beat(now)?;
            self.beaten = Some(Instant::now());
            self.settings.board.beaten(now);
        }
        if self.swept.is_none_or(|swept| swept.elapsed() >= SWEEP) {
            self.swept = Some(Instant::now());
            self.sweep(now);
        }
        let made = self.make_slots(now);
        if made.as_ref().is_err_and(|error| error.kind() != ErrorKind::Failed) {
            return made;
        }
        // A job whose slots cannot be rows keeps no other from being done.
        self.decide(now)?;
        self.attend(now)?;
        made
    }

    /// Takes what ended, for as long as nothing else is to be done.
    fn wait(&mut self, time: Duration) {
        match self.ended.recv_timeout(time) {
            Ok((run, ended)) => self.take(&run, ended),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }

    /// Takes over policies that changed; all of them where somebody asks for that.
    fn reload(&mut self, asked: bool) {
        let policies = match self.force.renew(asked) {
            None => return,
            Some(Ok(policies)) => policies,
            Some(Err(error)) => return self.refuse(&error),
        };
        let states = |policies: &[Policy]| -> Vec<_> {
            policies.iter().filter_map(|policy| policy.state.clone()).collect()
        };
        if states(&policies).first() != states(&self.policies).first() {
            self.warn("the policies name another state: it is used from the next start on".into());
        }
        self.due.retain(|(stack, job), _| is_due_as_before(&self.policies, &policies, stack, job));
        self.returned.extend(jobs_not_in(&self.policies, &policies));
        self.soonest = None;
        self.policies = policies;
        self.invalid = None;
        self.are_in_force();
        let what = if asked { "were read again" } else { "changed" };
        self.reporter.note(format!("the policies {what}, and are in force"));
    }

    fn refuse(&mut self, error: &Error) {
        let why = told(error);
        self.warn(format!(
            "the policies changed and are invalid; the old ones stay in force: {why}"
        ));
        self.settings.board.refused(&why);
        self.invalid = Some(why);
        self.watch.files_changed();
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

    fn decide(&mut self, now: Timestamp) -> Result<()> {
        let state = self.state;
        let mut claimed = Vec::new();
        state.together(false, &mut || {
            claimed = self.round(now)?;
            Ok(())
        })?;
        // Only now: what was not committed is nobody's.
        for (row, epoch) in claimed {
            self.begin(&row, epoch);
        }
        Ok(())
    }

    /// Decides about all that waits, and claims what begins.
    fn round(&self, now: Timestamp) -> Result<Vec<(RunRow, Epoch)>> {
        let open = self.state.open_runs()?;
        let decisions = decide(&self.policies, &open, &self.protected, now, &self.place());
        let of = |id: &str| open.iter().find(|row| row.id == id);
        for (id, state, why) in &decisions.settle {
            if let Some(row) = of(id) {
                self.warn_of(row, &format!("{}: {why}", state.word()));
            }
        }
        self.state.settle(&decisions.settle, now)?;
        let held = decisions.hold.iter();
        let held = held.filter_map(|(id, why)| Some((id.clone(), of(id)?.not_before, why.clone())));
        let moved: Vec<_> = decisions.postpone.iter().cloned().chain(held).collect();
        self.state.postpone(&moved)?;
        for id in &decisions.end {
            match self.running.get(id) {
                Some(going) => going.stop.now(Reason::Replaced),
                None if self.fleet.is_some() => drop(self.state.cancel(id, now)?),
                None => {}
            }
        }
        let mut claimed = Vec::new();
        for id in &decisions.begin {
            if let Some(row) = of(id)
                && let Some(epoch) = self.state.claim(id, &self.owner, now)?
            {
                claimed.push((row.clone(), epoch));
            }
        }
        Ok(claimed)
    }

    pub(super) fn place(&self) -> Place<'_> {
        let Settings { host, most, .. } = &self.settings;
        Place { host, most: *most, fleet: self.fleet.as_ref() }
    }

    fn begin(&mut self, row: &RunRow, epoch: Epoch) {
        let Some((policy, job)) = self.job_of(row) else { return };
        let work = Work {
            id: row.id.clone(),
            argv: argv(&self.settings.program, self.force.path(), policy, job, row),
            hooks: job.execution.hooks.clone(),
            environment: [
                ("BACKSTAY_RUN", row.id.clone()),
                ("BACKSTAY_STACK", row.slot.stack.clone()),
                ("BACKSTAY_JOB", row.slot.job.clone()),
                ("BACKSTAY_SOURCE", row.slot.source.clone()),
                (HOST_LABEL, self.settings.host.clone()),
            ]
            .into_iter()
            .chain(self.lease(epoch))
            .collect(),
            stop_after: job.execution.stop_after.map(policy::Period::get),
            log: self.settings.logs.join(&row.id),
        };
        self.note_of(row, &format!("run {} begins", row.id));
        let mut row = row.clone();
        row.attempts += 1;
        row.started = Some(self.latest);
        let stop = supervise::start(work, self.tell.clone());
        self.ping(&row, Sign::Start, "");
        let going = Going { stop, row, epoch, adopted: false, lost: false, said: 0 };
        self.running.insert(going.row.id.clone(), going);
    }

    pub(super) fn job_of(&self, row: &RunRow) -> Option<(&Policy, &Job)> {
        let policy = self.policies.iter().find(|policy| policy.stack == row.slot.stack)?;
        Some((policy, policy.jobs.get(&row.slot.job)?))
    }

    /// Writes down what came of a run.
    fn take(&mut self, run: &str, ended: Ended) {
        let Some(going) = self.running.remove(run) else { return };
        if going.lost {
            self.disown(&going.row);
            return;
        }
        if let Err(error) = self.write_down(&going, &ended) {
            let what = "failed to write down what came of it, which is tried again";
            self.warn_of(&going.row, &format!("{what}: {}", error.chain()));
            self.unwritten.push((going, ended));
        }
    }

    /// As one: what a run came to, and what follows it.
    pub(super) fn write_down(&mut self, going: &Going, ended: &Ended) -> Result<()> {
        let state = self.state;
        self.keep_words(going)?;
        state.together(true, &mut || self.conclude(going, ended)).map(drop)
    }

    fn conclude(&mut self, going: &Going, ended: &Ended) -> Result<()> {
        let now = self.clock.now();
        let row = &going.row;
        let fence = Fence { owner: &self.owner, epoch: going.epoch };
        let ours = match ended {
            Ended::Succeeded(backup) => {
                let done = (RunState::Succeeded, None);
                let ours = self.state.finish(&row.id, fence, done, backup.as_deref(), now)?;
                if ours {
                    let what = backup.as_deref().unwrap_or("done");
                    self.note_of(row, &format!("succeeded: {what}"));
                    let key = (row.slot.stack.clone(), row.slot.source.clone());
                    self.protected.insert(key, row.started.unwrap_or(now));
                    self.ping(row, Sign::Success, what);
                    self.follow(row, now)?;
                    self.cover(row, backup.as_deref(), now)?;
                }
                ours
            }
            Ended::Failed { why, again } => {
                let retry = self.job_of(row).map(|(_, job)| job.execution.retry);
                let pause =
                    retry.filter(|_| *again).and_then(|retry| retry.pause_after(row.attempts));
                if let Some(pause) = pause {
                    let wait = SignedDuration::try_from(pause.get()).unwrap_or_default();
                    let at = now.checked_add(wait).unwrap_or(now);
                    let ours = self.state.retry(&row.id, fence, why, at)?;
                    if ours {
                        let what = format!("failed, and is tried again in {pause}: {why}");
                        self.warn_of(row, &what);
                    }
                    ours
                } else {
                    self.fail(going, ("FAILED", why), now)?
                }
            }
            // As the policy wants it: nobody is to be told.
            Ended::Stopped(Reason::Replaced) => {
                let why = Reason::Replaced.why();
                self.note_of(row, &format!("ended: {why}"));
                self.close(going, (RunState::Skipped, why), now)?
            }
            Ended::Stopped(reason) if self.is_ending() => {
                self.note_of(row, "waits for the next start");
                self.state.retry(&row.id, fence, reason.why(), now)?
            }
            Ended::Stopped(reason) => self.fail(going, ("ended", reason.why()), now)?,
        };
        if !ours {
            self.disown(row);
        }
        Ok(())
    }

    /// What came of a run is written down by others.
    fn disown(&self, row: &RunRow) {
        self.warn_of(row, "ended, and does not count: another daemon took it over");
    }

    fn fail(&mut self, going: &Going, (what, why): (&str, &str), now: Timestamp) -> Result<bool> {
        let row = &going.row;
        let state = if going.adopted { RunState::Abandoned } else { RunState::Failed };
        let ours = self.close(going, (state, why), now)?;
        if ours {
            self.warn_of(row, &format!("{what}: {why}"));
            self.ping(row, Sign::Fail, why);
        }
        Ok(ours)
    }

    /// Ends a run that left no backup.
    fn close(&self, going: &Going, (state, why): (RunState, &str), now: Timestamp) -> Result<bool> {
        let row = &going.row;
        let fence = Fence { owner: &self.owner, epoch: going.epoch };
        let ours = self.state.finish(&row.id, fence, (state, Some(why)), None, now)?;
        if ours && self.state.has_succeeded(&row.slot)? {
            // One source's failure does not keep others from being copied.
            self.follow(row, now)?;
        }
        Ok(ours)
    }

    /// Waits for what goes on, for a while; then it is told to end.
    fn end(mut self) {
        if !self.running.is_empty() {
            self.note(format!(
                "ending: runs that go on: {}; they are told to end in {} s",
                self.running.len(),
                self.settings.grace.as_secs()
            ));
        }
        let begun = Instant::now();
        while !self.running.is_empty() {
            if begun.elapsed() > self.settings.grace {
                for going in self.running.values() {
                    going.stop.now(Reason::Leaving);
                }
            }
            self.wait(TICK);
            // What is told to end ends, whatever the state says to that.
            if let Err(error) = self.beat(self.clock.now()) {
                self.warn(format!("the state: {}", error.chain()));
            }
        }
        let mut tries = 0;
        while let Err(error) = self.write_late() {
            tries += 1;
            self.warn(format!("the state: {}", error.chain()));
            if tries == LAST_TRIES {
                self.warn(format!(
                    "what came of {} runs is not written down: it is looked for in the repository",
                    self.unwritten.len()
                ));
                break;
            }
            std::thread::sleep(TICK * 4);
        }
        if let Err(error) = self.state.leave(&self.owner) {
            self.warn(format!("the state: {}", error.chain()));
        }
        self.say_farewell();
        self.note("ended".to_owned());
    }

    /// Whether it was told to end.
    pub(super) fn is_ending(&self) -> bool {
        self.reporter.is_cancelled()
    }

    pub(super) fn note(&self, message: String) {
        self.reporter.emit(Event::Note { message });
    }

    pub(super) fn warn(&self, message: String) {
        self.reporter.emit(Event::Warning { code: WarningCode::Other, subject: None, message });
    }
}

/// What people call a run.
pub(super) fn name(row: &RunRow) -> String {
    let slot = &row.slot;
    if slot.source.is_empty() {
        format!("{} {}", slot.stack, slot.job)
    } else {
        format!("{}/{} {}", slot.stack, slot.source, slot.job)
    }
}
