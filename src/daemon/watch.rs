//! Looks at how well everything is protected, and has people told.
//!
//! Everything that may take long is done by threads of its own, one look and one message to each
//! receiver at a time. Whatever becomes of them, no run is held up or fails: it is a row, a line of
//! the log and a metric.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver as Inbox, Sender, channel};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::alerts::{Facts, evaluate, is_undecided};
use super::asking::Asking;
use super::look::{Look, look};
use super::tell::{Line, compare, done, due, read};
use super::timetable::slots_of;
use super::{drills, preflights};
use crate::error::Result;
use crate::notify::ping::Ping;
use crate::notify::text::Style;
use crate::notify::{Message, Notice, Receiver, Refused};
use crate::policy::{Notify, Period, Policy, rhythms, worst_gap};
use crate::state::{Ledger, LookRow, NotifyResult, RunRow, State};
use crate::store::Web;
use crate::telemetry::{Reporter, WarningCode};

/// How often alerts are looked at.
const ROUND: Duration = Duration::from_secs(10);

/// A round waits so many times as long as the last one took: it takes no more than 1 % of a core.
const SHARE: u32 = 100;

/// How soon after a run the repositories are looked at again, however many runs there are.
const SOON: Duration = Duration::from_secs(30);

/// How often it is looked for drills that were held elsewhere.
const DRILLS: Duration = Duration::from_hours(1);

/// How long that may take, and the most that it may print.
const PATIENCE: Duration = Duration::from_mins(10);
const MOST: u64 = 16 << 20;

/// How often a ping is tried before it is given up: whoever waits for it raises the alarm.
const PING_TRIES: u32 = 3;

/// The most pings of a stack that wait.
const MOST_PINGS: usize = 1000;

/// How long the daemon waits at its end for messages that are on their way.
const FAREWELL: Duration = Duration::from_secs(5);

/// How the receiver of pings is called.
pub const PING: &str = "ping";

/// What was done in a thread of its own.
enum News {
    Looked(Result<Vec<LookRow>>),
    Measured(BTreeMap<(String, String), Period>),
    Told { stack: String, receiver: &'static str, what: Vec<(String, bool)>, outcome: Outcome },
    Pinged { stack: String, outcome: Outcome },
}

type Outcome = std::result::Result<String, Refused>;

/// What the watch works with.
#[derive(Debug, Clone)]
pub struct Means {
    /// Sends messages.
    pub web: Web,
    /// How often the repositories are looked at, at least.
    pub every: Duration,
    /// Somebody reads metrics: looks are wanted even where nobody is to be told.
    pub is_read: bool,
}

/// What of the daemon it has to know each time.
pub struct Scene<'a> {
    /// What is in force.
    pub policies: &'a [Policy],
    /// The runs.
    pub ledger: &'a dyn Ledger,
    /// What is wrong with the policies as they are in their files now.
    pub invalid: Option<&'a str>,
    /// This machine.
    pub host: &'a str,
    /// This daemon is the one that tells people.
    pub speaks: bool,
    /// The time.
    pub now: Timestamp,
}

/// The watch.
pub struct Watch {
    means: Means,
    program: Vec<OsString>,
    /// The policies that it is to read.
    policies: PathBuf,
    reporter: Reporter,
    looks: Vec<Look>,
    looked: Option<Instant>,
    looking: bool,
    drills_looked: Option<Instant>,
    /// A run ended since the last look.
    dirty: bool,
    evaluated: Option<Instant>,
    /// Something happened since.
    urgent: bool,
    /// How long that took.
    cost: Duration,
    intervals: BTreeMap<(String, String), Period>,
    lines: BTreeMap<(String, &'static str), Line>,
    pings: BTreeMap<String, VecDeque<(Ping, u32)>>,
    news: Inbox<News>,
    tell: Sender<News>,
}

impl Watch {
    /// A watch that looks by running `program`.
    pub fn new(means: Means, program: Vec<OsString>, reporter: Reporter) -> Self {
        let (tell, news) = channel();
        Self {
            means,
            program,
            policies: PathBuf::new(),
            reporter,
            // What somebody found before this daemon was there is old: nothing fires for it, and
            // nothing is over, until somebody looks again.
            looks: Vec::new(),
            looked: None,
            looking: false,
            drills_looked: None,
            dirty: false,
            evaluated: None,
            urgent: false,
            cost: Duration::ZERO,
            intervals: BTreeMap::new(),
            lines: BTreeMap::new(),
            pings: BTreeMap::new(),
            news,
            tell,
        }
    }

    /// Other policies are in force.
    pub fn policies_changed(&mut self, policies: &[Policy], path: &Path) {
        path.clone_into(&mut self.policies);
        self.looked = None;
        self.urgent = true;
        // A schedule of many jobs takes seconds to measure.
        let (policies, tell) = (policies.to_vec(), self.tell.clone());
        std::thread::spawn(move || {
            let mut found = BTreeMap::new();
            for policy in &policies {
                let zone = policy.time_zone();
                for job in policy.jobs.keys() {
                    if let Some(gap) = worst_gap(&rhythms(&policy.jobs, job), &zone) {
                        found.insert((policy.stack.clone(), job.clone()), gap.length);
                    }
                }
            }
            let _ = tell.send(News::Measured(found));
        });
    }

    /// The files of the policies are invalid, or are not any more.
    pub fn files_changed(&mut self) {
        self.urgent = true;
    }

    /// The longest interval between two runs, by stack and job.
    pub fn intervals(&self) -> &BTreeMap<(String, String), Period> {
        &self.intervals
    }

    /// Something of a run is to be heard by those who wait for it.
    pub fn run_changed(&mut self, policies: &[Policy], ping: Ping, over: bool) {
        self.dirty |= over;
        self.urgent |= over;
        let notify = policies.iter().find(|policy| policy.stack == ping.stack);
        let switch = notify.and_then(|policy| policy.notify.as_ref()?.ping.as_ref());
        if switch.is_some_and(|switch| switch.of(&ping.job).is_some()) {
            let waiting = self.pings.entry(ping.stack.clone()).or_default();
            waiting.push_back((ping, 0));
        }
    }

    /// One round. What cannot be done now is done in the next.
    pub fn round(&mut self, state: &State, scene: &Scene<'_>) -> Result<()> {
        self.take_news(state, scene)?;
        let is_told = scene.policies.iter().any(|policy| policy.notify.is_some());
        self.send_pings(state, scene)?;
        if !is_told && !self.means.is_read {
            return Ok(());
        }
        self.look(scene.now, scene.policies.iter().any(|policy| !policy.drills.is_empty()));
        let pause = (if self.urgent { Duration::ZERO } else { ROUND }).max(self.cost * SHARE);
        if self.evaluated.is_some_and(|instant| instant.elapsed() < pause) {
            let now = Instant::now();
            let again = |((_, who), line): (&(String, &str), &Line)| {
                *who != PING && line.is_to_be_tried(now)
            };
            let again = scene.speaks && self.lines.iter().any(again);
            return if again { self.notify(state, scene) } else { Ok(()) };
        }
        let begun = Instant::now();
        (self.evaluated, self.urgent) = (Some(begun), false);
        self.evaluate(state, scene)?;
        if scene.speaks {
            self.notify(state, scene)?;
        }
        self.cost = begun.elapsed();
        Ok(())
    }

    /// Waits a little for what is on its way.
    pub fn end(&mut self, state: &State, scene: &Scene<'_>) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < FAREWELL {
            self.take_news(state, scene)?;
            self.send_pings(state, scene)?;
            let waits = self.pings.values().any(|waiting| !waiting.is_empty());
            if !waits && !self.lines.values().any(|line| line.busy) {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn look(&mut self, now: Timestamp, has_drills: bool) {
        let patience = if self.dirty { self.means.every.min(SOON) } else { self.means.every };
        if self.looking || self.looked.is_some_and(|instant| instant.elapsed() < patience) {
            return;
        }
        (self.looking, self.dirty, self.looked) = (true, false, Some(Instant::now()));
        let (mut program, tell) = (self.program.clone(), self.tell.clone());
        program.extend(["--policy".into(), self.policies.clone().into()]);
        let with_drills =
            has_drills && self.drills_looked.is_none_or(|instant| instant.elapsed() >= DRILLS);
        if with_drills {
            self.drills_looked = Some(Instant::now());
        }
        std::thread::spawn(move || {
            let _ = tell.send(News::Looked(look(&program, now)));
            if with_drills {
                // The other process writes down what it finds; a repository that is away is told already.
                let doing = "failed to look for drills";
                let asking = Asking { doing, program: &program, patience: PATIENCE, most: MOST };
                let _ = asking.json(&["drill", "list"]);
            }
        });
    }

    fn take_news(&mut self, state: &State, scene: &Scene<'_>) -> Result<()> {
        while let Ok(news) = self.news.try_recv() {
            match news {
                News::Measured(intervals) => self.intervals = intervals,
                News::Looked(Ok(rows)) => {
                    self.looking = false;
                    self.urgent = true;
                    self.looks = rows.iter().filter_map(Look::read).collect();
                    state.put_looks(&rows)?;
                }
                News::Looked(Err(error)) => {
                    self.looking = false;
                    self.warn(format!("how well everything is protected: {}", error.chain()));
                }
                News::Told { stack, receiver, what, outcome } => {
                    let who = (stack.as_str(), receiver);
                    let taken = self.count(state, who, outcome, scene.now)?;
                    if taken {
                        state.tell(who, &what, scene.now)?;
                        self.urgent = true;
                    }
                }
                News::Pinged { stack, outcome } => {
                    let taken = self.count(state, (&stack, PING), outcome, scene.now)?;
                    let Some(waiting) = self.pings.get_mut(&stack) else { continue };
                    let tried = waiting.front_mut().map(|(_, tries)| {
                        *tries += 1;
                        *tries
                    });
                    if taken || tried.is_some_and(|tries| tries >= PING_TRIES) {
                        waiting.pop_front();
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes down what came of telling somebody something; whether it was taken.
    fn count(
        &mut self,
        state: &State,
        (stack, receiver): (&str, &'static str),
        outcome: Outcome,
        now: Timestamp,
    ) -> Result<bool> {
        let line = self.lines.entry((stack.to_owned(), receiver)).or_default();
        match outcome {
            Ok(said) => {
                let again = line.failures > 0;
                line.succeed();
                if again {
                    self.reporter.note(format!("{stack} {receiver}: takes messages again"));
                }
                state.count_notification((stack, receiver), NotifyResult::Delivered, &said, now)?;
                Ok(true)
            }
            Err(refused) => {
                line.fail(refused.retry_after, Instant::now());
                let why = refused.error.chain();
                self.warn(format!("{stack} {receiver}: failed to notify: {why}"));
                state.count_notification((stack, receiver), NotifyResult::Failed, &why, now)?;
                Ok(false)
            }
        }
    }

    /// Writes down what fires now, and what does not any more.
    fn evaluate(&mut self, state: &State, scene: &Scene<'_>) -> Result<()> {
        let (outcomes, open) = (outcomes(scene)?, scene.ledger.open_runs()?);
        let facts = Facts {
            policies: scene.policies,
            outcomes: &outcomes,
            open: &open,
            looks: &self.looks,
            intervals: &self.intervals,
            invalid: scene.invalid,
            now: scene.now,
        };
        let rows = state.alerts()?;
        let mut firing = evaluate(&facts);
        firing.extend(preflights::alerts(scene.policies, &state.readiness()?, scene.now));
        let drills = drills::alerts(&drills::Facts {
            policies: scene.policies,
            rows: &state.drills()?,
            intervals: &self.intervals,
            oldest: &oldest_points(&self.looks),
            open: &open,
            firing: &firing,
            now: scene.now,
        });
        firing.extend(drills);
        let undecided = |alert: &_| is_undecided(alert, &facts);
        let changed = compare(&rows, &firing, undecided, scene.now);
        let english =
            Style { language: crate::policy::Language::En, zone: jiff::tz::TimeZone::UTC };
        for row in &changed {
            let fired =
                rows.iter().any(|old| old.fingerprint == row.fingerprint && old.resolved.is_none());
            let Some(notice) = read(row) else { continue };
            let summary = english.summary(&notice.alert);
            if row.resolved.is_some() {
                self.reporter.note(format!("resolved: {summary}"));
            } else if !fired {
                self.warn(format!("ALERT: {summary}. {}", english.description(&notice.alert)));
            }
        }
        if !changed.is_empty() {
            state.put_alerts(&changed)?;
        }
        Ok(())
    }

    /// Has everybody told what they are to be told now.
    fn notify(&mut self, state: &State, scene: &Scene<'_>) -> Result<()> {
        let rows = state.alerts()?;
        let told = state.told()?;
        let over = done(&rows, &told, scene.now);
        if !over.is_empty() {
            state.forget_alerts(&over)?;
        }
        let notices: Vec<Notice> = rows.iter().filter_map(read).collect();
        let nothing = BTreeMap::new();
        for policy in scene.policies {
            let Some(notify) = &policy.notify else { continue };
            for receiver in Receiver::all(notify) {
                let key = (policy.stack.clone(), receiver.name().to_owned());
                let of = told.get(&key).unwrap_or(&nothing);
                let due = due(&notices, of, policy, &receiver, scene.now);
                let line = self.lines.entry((policy.stack.clone(), receiver.name())).or_default();
                let now = Instant::now();
                if due.is_empty() {
                    line.rest();
                } else if line.is_free(receiver.manner().per_minute, now) {
                    line.begin(now);
                    self.send(
                        receiver,
                        message(due, policy, notify, scene),
                        scene.now,
                        &policy.stack,
                    );
                }
            }
        }
        // A policy that names nobody any more leaves nobody to be waited for.
        self.lines.retain(|(stack, _), line| {
            line.busy || scene.policies.iter().any(|policy| policy.stack == *stack)
        });
        Ok(())
    }

    fn send(&self, receiver: Receiver, message: Message, now: Timestamp, stack: &str) {
        let (web, tell, stack) = (self.means.web.clone(), self.tell.clone(), stack.to_owned());
        std::thread::spawn(move || {
            let outcome = receiver.deliver(&message, &web, now);
            let of = |notice: &Notice| (notice.alert.fingerprint(), notice.resolved.is_some());
            let what = message.notices.iter().map(of).collect();
            let _ = tell.send(News::Told { stack, receiver: receiver.name(), what, outcome });
        });
    }

    fn send_pings(&mut self, state: &State, scene: &Scene<'_>) -> Result<()> {
        let mut dropped = Vec::new();
        for (stack, waiting) in &mut self.pings {
            let policy = scene.policies.iter().find(|policy| policy.stack == *stack);
            let switch = policy.and_then(|policy| policy.notify.as_ref()?.ping.as_ref());
            let line = self.lines.entry((stack.clone(), PING)).or_default();
            let Some(switch) = switch.filter(|_| !line.busy) else { continue };
            // The oldest say least of how things are now.
            while waiting.len() > MOST_PINGS {
                waiting.pop_front();
                dropped.push(stack.clone());
            }
            let now = Instant::now();
            let Some((ping, _)) = waiting.front().filter(|_| line.is_free(None, now)) else {
                continue;
            };
            let Some(address) = switch.of(&ping.job).cloned() else {
                waiting.pop_front();
                continue;
            };
            line.begin(now);
            let (ping, web, tell) = (ping.clone(), self.means.web.clone(), self.tell.clone());
            std::thread::spawn(move || {
                let outcome = ping.send(&address, &web);
                let _ = tell.send(News::Pinged { stack: ping.stack, outcome });
            });
        }
        for stack in dropped {
            let why = "too many waited";
            state.count_notification((&stack, PING), NotifyResult::Dropped, why, scene.now)?;
        }
        Ok(())
    }

    fn warn(&self, message: String) {
        self.reporter.warn(WarningCode::Other, None, message);
    }
}

fn message(notices: Vec<Notice>, policy: &Policy, notify: &Notify, scene: &Scene<'_>) -> Message {
    Message {
        notices,
        style: Style { language: notify.language, zone: policy.time_zone() },
        runbooks: notify.runbooks.clone(),
        host: scene.host.to_owned(),
    }
}

/// The oldest point of each stack that can be restored.
pub fn oldest_points(looks: &[Look]) -> BTreeMap<String, Timestamp> {
    let mut found: BTreeMap<String, Timestamp> = BTreeMap::new();
    for look in looks {
        let Some(oldest) = look.oldest else { continue };
        let one = found.entry(look.names().0.to_owned()).or_insert(oldest);
        *one = oldest.min(*one);
    }
    found
}

/// The newest run of each job and source of the policies that is over and was not skipped.
fn outcomes(scene: &Scene<'_>) -> Result<Vec<RunRow>> {
    let ends = scene.ledger.last_ends(&slots_of(scene.policies))?;
    Ok(ends.into_iter().filter_map(|ends| ends.outcome).collect())
}
