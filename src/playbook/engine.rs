//! Does what was decided, and writes down each effect before and after it.
//!
//! One process acts for a run: it holds the lease, and its records are the last ones of the journal.
//! Both are looked at before every effect. The lease saves work; the journal decides: whoever lost a
//! number, or finds a record that is not its own, does nothing more.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::Scope;
use std::time::{Duration, Instant};

use super::action::{Action, Job, Make, Observed};
use super::approval;
use super::compile::{Plan, PlannedStep};
use super::decide::{Decision, Move, decide};
use super::journal::{Journal, Place};
use super::loss;
use super::record::{Event, Outcome, Outputs, Person, Record};
use super::template;
use super::transition::StepState;
use super::view::{RunView, StepView};
use crate::error::{Error, ErrorKind, Result};
use crate::policy::{ActionSpec, Mode};
use crate::run::Context;
use crate::secret;
use crate::store::{Lease, Terms};
use crate::telemetry::failpoint;

/// How often it is looked whether somebody wants the work stopped.
const LOOK: Duration = Duration::from_millis(100);

/// Told of every record when it is written.
pub type Tell<'a> = dyn Fn(&Record, &RunView) + Sync + 'a;

/// How far a run got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It is over.
    Over(Outcome),
    /// These wait for people.
    Waiting(Vec<String>),
    /// These keep it from going on.
    Stuck(Vec<String>),
}

/// One process that acts for a run.
pub struct Engine<'a> {
    shared: Mutex<Shared>,
    lease: Lease,
    cx: &'a Context,
    make: &'a Make<'a>,
    tell: &'a Tell<'a>,
}

struct Shared {
    journal: Journal,
    view: RunView,
    /// Why nothing more is done.
    broken: Option<Error>,
}

/// What an engine works with.
#[derive(Clone, Copy)]
pub struct Tools<'a> {
    /// Reporter, clock and sizes.
    pub cx: &'a Context,
    /// Makes the actions of steps.
    pub make: &'a Make<'a>,
    /// Told of every record.
    pub tell: &'a Tell<'a>,
}

/// Takes the lease under which runs of this kind are carried out and changed: at one time one run of
/// a stack acts on the real thing.
pub fn take_lease(
    place: &Place,
    stack: &str,
    mode: Mode,
    what: &str,
    cx: &Context,
) -> Result<Lease> {
    let terms = Terms {
        stack,
        name: if mode == Mode::Drill { "drill" } else { "playbook" },
        purpose: what,
        period: cx.tuning.prune.lease,
        by: place.by.clone(),
    };
    Lease::take(place.at.store(), &terms, &cx.clock)
}

impl<'a> Engine<'a> {
    /// Begins a run: its first record is its plan.
    pub fn begin(place: &Place, plan: Plan, who: Person, tools: Tools<'a>) -> Result<Self> {
        let purpose = format!("run playbook {}", plan.playbook);
        let lease = take_lease(place, &plan.stack, plan.mode, &purpose, tools.cx)?;
        super::history::refuse_open(place, &plan)?;
        let (mut journal, records) = Journal::open(place)?;
        if !records.is_empty() {
            return Err(Error::new(ErrorKind::Conflict, format!("run {} exists", place.run)));
        }
        let hash = plan.hash()?;
        let record = journal.append(Event::Started { plan, hash, who })?;
        let view = RunView::replay(std::slice::from_ref(&record))?
            .ok_or_else(|| Error::failed("the run has no plan"))?;
        (tools.tell)(&record, &view);
        failpoint::reach("playbook.started");
        Ok(Self::new(journal, view, lease, tools))
    }

    /// Goes on with a run. `check` looks at where it stands before anything is written.
    pub fn take_over(
        place: &Place,
        stack: &str,
        mode: Mode,
        tools: Tools<'a>,
        check: &dyn Fn(&RunView) -> Result<()>,
    ) -> Result<Self> {
        let lease = take_lease(place, stack, mode, &format!("go on with {}", place.run), tools.cx)?;
        let (mut journal, records) = Journal::open(place)?;
        let mut view = RunView::replay(&records)?
            .ok_or_else(|| Error::not_found(format!("there is no run {}", place.run)))?;
        check(&view)?;
        if view.outcome.is_none() {
            let record = journal.append(Event::TakenOver { epoch: view.epoch + 1 })?;
            view.apply(&record)?;
            (tools.tell)(&record, &view);
        }
        Ok(Self::new(journal, view, lease, tools))
    }

    fn new(journal: Journal, view: RunView, lease: Lease, tools: Tools<'a>) -> Self {
        let Tools { cx, make, tell } = tools;
        Self { shared: Mutex::new(Shared { journal, view, broken: None }), lease, cx, make, tell }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the run stands.
    pub fn view(&self) -> RunView {
        self.lock().view.clone()
    }

    /// Writes an event down. After an error nothing more is.
    pub fn append(&self, event: Event) -> Result<()> {
        let mut shared = self.lock();
        if let Some(error) = &shared.broken {
            return Err(Error::new(error.kind(), error.chain()));
        }
        let written = shared.journal.append(event).and_then(|record| {
            shared.view.apply(&record)?;
            Ok(record)
        });
        match written {
            Ok(record) => {
                (self.tell)(&record, &shared.view);
                Ok(())
            }
            Err(error) => {
                shared.broken = Some(Error::new(error.kind(), error.chain()));
                Err(error)
            }
        }
    }

    /// Goes on until the run is over, or nothing can be done without a person.
    pub fn run(&self) -> Result<Ending> {
        let (send, done) = channel();
        std::thread::scope(|scope| self.drive(scope, &send, &done))
    }

    fn drive<'scope, 'env>(
        &'env self,
        scope: &'scope Scope<'scope, 'env>,
        send: &Sender<(String, Result<()>)>,
        done: &Receiver<(String, Result<()>)>,
    ) -> Result<Ending> {
        let mut running: BTreeSet<String> = BTreeSet::new();
        let mut failed: Option<Error> = None;
        loop {
            if failed.is_none()
                && let Err(error) = self.lease.check().and_then(|()| self.cx.reporter.check())
            {
                // What is under way ends as it does when somebody interrupts.
                self.cx.reporter.cancel();
                failed = Some(error);
            }
            let decision = match &failed {
                Some(_) if running.is_empty() => break,
                Some(_) => Decision::Busy,
                None => decide(&self.lock().view, &running)?,
            };
            match decision {
                Decision::Go(moves) => {
                    for one in moves {
                        if let Err(error) = self.start(one, scope, send, &mut running) {
                            failed = Some(error);
                            break;
                        }
                    }
                }
                Decision::Busy => match done.recv_timeout(LOOK) {
                    Ok((step, result)) => {
                        running.remove(&step);
                        if let Err(error) = result {
                            failed.get_or_insert(error);
                        }
                    }
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
                },
                Decision::Wait(steps) => return Ok(Ending::Waiting(steps)),
                Decision::Stuck(steps) => return Ok(Ending::Stuck(steps)),
                Decision::Over(outcome) => return Ok(Ending::Over(outcome)),
            }
        }
        Err(failed.unwrap_or_else(|| Error::new(ErrorKind::Interrupted, "interrupted")))
    }

    /// Writes down what only has to be written down, and has a thread do the rest.
    fn start<'scope, 'env>(
        &'env self,
        one: Move,
        scope: &'scope Scope<'scope, 'env>,
        send: &Sender<(String, Result<()>)>,
        running: &mut BTreeSet<String>,
    ) -> Result<()> {
        match one {
            Move::Skip { step, why } => self.append(Event::Skipped { step, why, who: None }),
            Move::Ask(step) => self.append(Event::Asked { step }),
            Move::Grant(step) => {
                let people = {
                    let shared = self.lock();
                    let planned = shared.view.plan.step(&step);
                    planned.map(|planned| approval::people(&shared.view, planned)).transpose()?
                };
                let people = people.unwrap_or_default().into_iter().collect::<Vec<_>>().join(", ");
                let outputs = Outputs::from([("approved_by".to_owned(), people)]);
                self.append(Event::Succeeded { step, outputs, found: false })
            }
            Move::Unwind(why) => {
                self.append(Event::Unwinding { why, who: None })?;
                failpoint::reach("playbook.unwinding");
                Ok(())
            }
            Move::End(outcome) => {
                failpoint::reach("playbook.before_end");
                self.append(Event::Ended { outcome, who: None, why: None })
            }
            Move::Apply(_) | Move::Settle(_) | Move::Undo(_) | Move::SettleUndo(_) => {
                let Some(step) = one.step().map(str::to_owned) else { return Ok(()) };
                running.insert(step.clone());
                let send = send.clone();
                scope.spawn(move || {
                    let result = self.perform(&one);
                    let _ = send.send((step, result));
                });
                Ok(())
            }
        }
    }

    fn perform(&self, one: &Move) -> Result<()> {
        let Some(name) = one.step() else { return Ok(()) };
        let (view, planned) = {
            let shared = self.lock();
            let Some(step) = shared.view.plan.step(name).cloned() else { return Ok(()) };
            (shared.view.clone(), step)
        };
        let action = template::resolve(&planned.action, &view).and_then(|spec| (self.make)(&spec));
        let action = match action {
            Ok(action) => action,
            Err(error) => return self.give_up(&planned, &error),
        };
        let work = Work { engine: self, view: &view, step: &planned, action: &*action };
        match one {
            Move::Apply(_) => work.apply(),
            Move::Settle(_) => work.settle(),
            Move::Undo(_) => work.undo(),
            _ => work.settle_undo(),
        }
    }

    /// Writes down that a step whose action cannot even be made does not go on.
    fn give_up(&self, step: &PlannedStep, error: &Error) -> Result<()> {
        let (step, why) = (step.name.clone(), said(error));
        let state = self.lock().view.state(&step);
        self.append(match state {
            StepState::Undoing => Event::UndoFailed { step, why },
            StepState::Pending | StepState::Intended => Event::Failed { step, why },
            _ => {
                return self
                    .append(Event::UndoIntended { step: step.clone() })
                    .and_then(|()| self.append(Event::UndoFailed { step, why }));
            }
        })
    }

    /// Fails where this process must not act any more.
    fn check_still_ours(&self) -> Result<()> {
        self.lease.check()?;
        let mut shared = self.lock();
        if let Some(error) = &shared.broken {
            return Err(Error::new(error.kind(), error.chain()));
        }
        shared.journal.check().inspect_err(|error| {
            shared.broken = Some(Error::new(error.kind(), error.chain()));
        })
    }
}

/// An error as it is written down: no secrets.
fn said(error: &Error) -> String {
    let mut text = error.chain();
    for hint in error.hints() {
        text.push_str("; ");
        text.push_str(hint);
    }
    secret::mask(&text)
}

/// One step at work.
struct Work<'a> {
    engine: &'a Engine<'a>,
    view: &'a RunView,
    step: &'a PlannedStep,
    action: &'a dyn Action,
}

impl Work<'_> {
    fn job<'b>(&'b self, attempt: u32, before: &'b Outputs) -> Job<'b> {
        let (view, cx) = (self.view, self.engine.cx);
        let began = self.view.steps.get(&self.step.name).and_then(|step| step.began);
        Job {
            run: &view.run,
            stack: &view.plan.stack,
            step: &self.step.name,
            mode: view.plan.mode,
            attempt,
            epoch: view.epoch,
            started: view.started,
            began: began.unwrap_or_else(|| cx.clock.now()),
            at: view.plan.at,
            before,
            deadline: self.step.timeout.map(|timeout| Instant::now() + timeout.get()),
            cx,
        }
    }

    fn name(&self) -> String {
        self.step.name.clone()
    }

    /// Does the step, as often as it may be tried.
    fn apply(&self) -> Result<()> {
        let known = self.view.steps.get(&self.step.name);
        let mut before = known.map(|step| step.before.clone()).unwrap_or_default();
        let begun = known.map_or(0, |step| step.attempts);
        let mut failed = 0;
        loop {
            let attempt = begun + failed + 1;
            failpoint::reach("playbook.before_intent");
            let error = match self.attempt(attempt, &mut before) {
                Ok(()) => return Ok(()),
                Err(Tried::Stop(error)) => return Err(error),
                Err(Tried::Failed(error)) => error,
            };
            failed += 1;
            let why = said(&error);
            let Some(pause) = self.step.retry.pause_after(failed) else {
                return self.engine.append(Event::Failed { step: self.name(), why });
            };
            if self.engine.lock().view.state(&self.step.name) == StepState::Intended {
                self.engine.append(Event::Tried { step: self.name(), why })?;
            }
            let empty = Outputs::new();
            Job { deadline: None, ..self.job(attempt, &empty) }.pause(pause.get())?;
        }
    }

    fn attempt(&self, attempt: u32, before: &mut Outputs) -> Result<(), Tried> {
        self.check_active().map_err(Tried::of)?;
        if before.is_empty() {
            let empty = Outputs::new();
            *before = self.action.before(&self.job(attempt, &empty)).map_err(Tried::of)?;
        }
        let stop = Tried::Stop;
        let intent = Event::Intended { step: self.name(), attempt, before: before.clone() };
        self.engine.append(intent).map_err(stop)?;
        failpoint::reach("playbook.after_intent");
        self.engine.check_still_ours().map_err(stop)?;
        let outputs = self.action.apply(&self.job(attempt, before)).map_err(Tried::of)?;
        failpoint::reach("playbook.after_apply");
        let done = Event::Succeeded { step: self.name(), outputs, found: false };
        self.engine.append(done).map_err(stop)?;
        failpoint::reach("playbook.after_result");
        Ok(())
    }

    /// Before what makes a copy the real thing, or leads back no more: fails where the site that an earlier step
    /// made the active one is not, be it that somebody else made another one the active one meanwhile.
    fn check_active(&self) -> Result<()> {
        if !loss::is_barrier(self.step) {
            return Ok(());
        }
        for role in self.view.earlier(self.step) {
            let ActionSpec::Role(wanted) = &role.action else { continue };
            let known = self.view.steps.get(&role.name);
            if known.is_some_and(StepView::is_left_out) {
                continue;
            }
            let spec = template::resolve(&role.action, self.view)?;
            let action = (self.engine.make)(&spec)?;
            let empty = Outputs::new();
            if !matches!(action.observe(&self.job(1, &empty))?, Observed::Done(_)) {
                let what = format!("site {} is not the active one, or not any more", wanted.to);
                return Err(Error::new(ErrorKind::Conflict, what).hint(format!(
                    "`{}` was to make it that; `backstay role show` tells which site is",
                    role.name
                )));
            }
        }
        Ok(())
    }

    /// Looks what became of a step that was under way, and goes on from there: not where what was done is being
    /// taken back.
    fn settle(&self) -> Result<()> {
        let back = self.view.unwinding.is_some() && !self.step.is_cleanup();
        match self.look()? {
            Observed::Done(outputs) => {
                self.engine.append(Event::Succeeded { step: self.name(), outputs, found: true })
            }
            Observed::NotDone if back => {
                self.engine.append(Event::UndoIntended { step: self.name() })?;
                self.engine.append(Event::Undone { step: self.name(), found: true })
            }
            Observed::Unknown(why) if back => {
                self.engine.append(Event::Lost { step: self.name(), why })
            }
            Observed::NotDone => self.apply(),
            Observed::Unknown(_) if self.step.action.is_repeatable() => self.apply(),
            Observed::Unknown(why) => self.engine.append(Event::Lost { step: self.name(), why }),
        }
    }

    fn look(&self) -> Result<Observed> {
        let known = self.view.steps.get(&self.step.name);
        let before = known.map(|step| step.before.clone()).unwrap_or_default();
        let attempt = known.map_or(1, |step| step.attempts);
        match self.action.observe(&self.job(attempt, &before)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
            Err(error) => Ok(Observed::Unknown(said(&error))),
            found => found,
        }
    }

    /// Takes the step back, as often as it may be tried.
    fn undo(&self) -> Result<()> {
        let known = self.view.steps.get(&self.step.name);
        let before = known.map(|step| step.before.clone()).unwrap_or_default();
        let attempt = known.map_or(1, |step| step.attempts);
        let mut failed = 0;
        loop {
            self.engine.append(Event::UndoIntended { step: self.name() })?;
            failpoint::reach("playbook.undo_intent");
            self.engine.check_still_ours()?;
            let error = match self.action.undo(&self.job(attempt, &before)) {
                Ok(()) => {
                    failpoint::reach("playbook.after_undo");
                    self.engine.append(Event::Undone { step: self.name(), found: false })?;
                    failpoint::reach("playbook.after_undo_result");
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
                Err(error) => error,
            };
            failed += 1;
            let Some(pause) = self.step.retry.pause_after(failed) else {
                let why = said(&error);
                return self.engine.append(Event::UndoFailed { step: self.name(), why });
            };
            Job { deadline: None, ..self.job(attempt, &before) }.pause(pause.get())?;
        }
    }

    /// Looks what became of a step that was being taken back. Where that cannot be told it is taken
    /// back again, which is as good as once.
    fn settle_undo(&self) -> Result<()> {
        match self.look()? {
            Observed::NotDone => {
                self.engine.append(Event::Undone { step: self.name(), found: true })
            }
            Observed::Done(_) | Observed::Unknown(_) => self.undo(),
        }
    }
}

/// What came of an attempt that did not succeed.
enum Tried {
    /// The step failed.
    Failed(Error),
    /// Nothing more may be done.
    Stop(Error),
}

impl Tried {
    fn of(error: Error) -> Self {
        if error.kind() == ErrorKind::Interrupted { Self::Stop(error) } else { Self::Failed(error) }
    }
}
