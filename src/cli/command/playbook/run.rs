//! `backstay playbook run`, `resume` and `abort`

use std::time::Duration;

use super::live::{self, Report};
use super::place::{self, Found};
use super::{check, operate, show};
use crate::cli::setup::App;
use crate::cli::time::{instant, whole_second};
use crate::cli::{ExitStatus, confirm, format};
use crate::error::{Error, ErrorKind, Result};
use crate::id;
use crate::playbook::actions::build;
use crate::playbook::aside::{self, is_for_good, why_unreadable};
use crate::playbook::compile::{Plan, Wanted, compile};
use crate::playbook::engine::{Ending, Engine, Tools};
use crate::playbook::history;
use crate::playbook::journal::Place;
use crate::playbook::operate::{Wish, operate};
use crate::playbook::record::{Outcome, Person, Record};
use crate::playbook::view::RunView;
use crate::policy::{ActionSpec, Mode, Policy, PolicySet};

/// How often a run that waits for people is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Carry a playbook out.
///
/// Each step is written down before it begins and after it ended. A run that was killed, or that
/// waits for a person, is gone on with by `resume`. Exit codes: 0 it came to its end, though steps that are not
/// critical may have failed or a person did without some, 1 a step failed or the run was taken back,
/// 6 it waits for a person, 75 somebody else acts for this stack.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// The playbook: STACK/NAME, or NAME.
    #[arg(value_name = "PLAYBOOK")]
    playbook: String,

    /// How. Default: the first of the playbook's `modes`.
    #[arg(long, value_enum, value_name = "MODE")]
    mode: Option<RunModeArg>,

    /// Restore each source as of the newest point not after this instant: 2026-11-21T02:00:00Z, or
    /// with a zone. Default: the newest when the run begins.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,

    /// Carry out this plan and no other: its hash, or the start of it.
    #[arg(long, value_name = "HASH")]
    plan: Option<String>,

    /// Say what would be done and what is missing for it, and do nothing: as --mode dry-run.
    #[arg(long)]
    dry_run: bool,

    /// Stay while people are waited for.
    #[arg(long)]
    wait: bool,

    /// Do not ask before it begins.
    #[arg(long)]
    yes: bool,

    /// Who starts it. Default: the user of this process.
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
}

impl RunArgs {
    /// The playbook.
    pub fn name(&self) -> &str {
        &self.playbook
    }
}

/// Ways to run a playbook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RunModeArg {
    /// Do nothing: say what would be done, and what is missing for it.
    DryRun,
    /// What is left is there and helps.
    Graceful,
    /// What is left is gone, or does not answer.
    Ungraceful,
    /// In a sandbox, for practice.
    Drill,
}

/// Modes that a policy knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ModeArg {
    /// What is left is there and helps.
    Graceful,
    /// What is left is gone, or does not answer.
    Ungraceful,
    /// In a sandbox, for practice.
    Drill,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Graceful => Self::Graceful,
            ModeArg::Ungraceful => Self::Ungraceful,
            ModeArg::Drill => Self::Drill,
        }
    }
}

/// Go on with a run, from any machine.
///
/// What was under way is looked at first: what is done stays done, what is not is done, and where
/// nobody can tell a person is asked.
#[derive(Debug, clap::Args)]
pub struct ResumeArgs {
    /// The run.
    #[arg(value_name = "RUN")]
    run: String,

    /// Carry out the plan that the run began with, although the policy says something else now: its
    /// hash. What it runs comes from the repository: read it first, with `show --output json`.
    #[arg(long, value_name = "HASH")]
    plan: Option<String>,

    /// Stay while people are waited for.
    #[arg(long)]
    wait: bool,

    /// Taken as `run` takes it: nothing is asked here.
    #[arg(long, hide = true)]
    yes: bool,
}

/// Take back what a run did, in reverse order.
///
/// Only before its point of no return. `--leave` ends the run and leaves everything as it is: also one
/// whose journal is damaged, and which keeps others from beginning.
#[derive(Debug, clap::Args)]
pub struct AbortArgs {
    /// The run.
    #[arg(value_name = "RUN")]
    run: String,

    /// Why. Recorded.
    #[arg(long, value_name = "TEXT", value_parser = operate::said)]
    reason: String,

    /// Take nothing back.
    #[arg(long)]
    leave: bool,

    /// Who says so. Default: the user of this process.
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,

    /// Take back by the plan that the run began with, although the policy says something else now:
    /// its hash.
    #[arg(long, value_name = "HASH")]
    plan: Option<String>,

    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

/// Runs `run`.
pub fn run(app: &App, args: &RunArgs) -> Result<ExitStatus> {
    let set = app.policies_to_read()?;
    let (policy, name, playbook) = place::find(&set, &args.playbook)?;
    let at = args.at.as_deref().map(|text| instant(app, text)).transpose()?;
    if let Some(at) = at.filter(|at| *at > app.cx.clock.now()) {
        return Err(Error::usage(format!("--at {} is in the future", format::time(at)))
            .hint("leave it out for the newest there is; a time without an offset is taken as one of this zone"));
    }
    let mode = match args.mode {
        None | Some(RunModeArg::DryRun) => None,
        Some(RunModeArg::Graceful) => Some(Mode::Graceful),
        Some(RunModeArg::Ungraceful) => Some(Mode::Ungraceful),
        Some(RunModeArg::Drill) => Some(Mode::Drill),
    };
    let plan = compile(policy, Wanted { playbook: name, mode, at: at.map(whole_second) })?;
    check_hash(&plan.hash()?, args.plan.as_deref())?;
    if args.dry_run || args.mode == Some(RunModeArg::DryRun) {
        return dry_run(app, policy, &plan);
    }
    let what = format!("`{name}` is about to be carried out, mode {}", plan.mode.word());
    if !args.yes && !app.printer.is_json() {
        show::show_plan(app, &plan)?;
    }
    check::tell_readiness(app, policy, &plan);
    confirm::type_name(app, &what, name, args.yes)?;
    place::refuse_lost(app, policy)?;
    let id = id::run_id(app.cx.clock.now());
    let repository = place::repository_of(app, policy, playbook)?;
    let place = place::place(app, policy, &repository, &id)?;
    let who = place::person(args.name.as_deref())?;
    act(app, policy, &place, (args.wait, Way::Forward), |tools| {
        Engine::begin(&place, plan.clone(), who.clone(), tools)
    })
}

fn dry_run(app: &App, policy: &Policy, plan: &Plan) -> Result<ExitStatus> {
    let findings = check::findings(app, policy, plan)?;
    let problems: usize = findings.iter().map(|one| one.problems.len()).sum();
    if app.printer.is_json() {
        app.printer.json(&serde_json::json!({
            "dry_run": true, "plan": plan, "hash": plan.hash()?, "steps": findings, "problems": problems,
            "estimate": check::estimated(app, policy, plan), "rto": policy.objectives().rto,
        }))?;
    } else {
        show::show_plan(app, plan)?;
        app.printer.data("what each step would do")?;
        check::tell_steps(app, &findings)?;
        if let Some(estimate) = check::estimated(app, policy, plan) {
            check::tell_estimate(app, &estimate, policy.objectives().rto)?;
        }
    }
    if problems > 0 {
        return Err(Error::failed(format!(
            "the playbook cannot be carried out now: {problems} missing"
        )));
    }
    Ok(ExitStatus::Done)
}

/// Runs `resume`.
pub fn resume(app: &App, args: &ResumeArgs) -> Result<ExitStatus> {
    let set = app.policies_to_read()?;
    let found = place::find_run(app, &set, &args.run)?;
    if args.yes {
        app.printer.talk("`resume` asks nothing: --yes changes nothing");
    }
    go_on(app, &found, args.plan.as_deref(), (args.wait, Way::Forward))
}

/// Runs `abort`.
pub fn abort(app: &App, args: &AbortArgs) -> Result<ExitStatus> {
    let set = app.policies_to_read()?;
    let who = place::person(args.name.as_deref())?;
    let found = match place::find_run(app, &set, &args.run) {
        Err(error) if args.leave && is_for_good(&error) => {
            return set_aside(app, &set, args, &who, error);
        }
        found => found?,
    };
    if args.leave {
        // The repository may know less of it than this machine.
        if let Some(error) = why_unreadable(&found.place)? {
            return set_aside(app, &set, args, &who, error);
        }
    } else {
        check_plan(&found, args.plan.as_deref())?;
    }
    let why = args.reason.clone();
    let (wish, what) = if args.leave {
        (Wish::Leave { why }, "ends, and everything stays as it is")
    } else {
        (Wish::Undo { why }, "is taken back")
    };
    // What cannot be done is not asked for.
    crate::playbook::operate::event(&found.view, &who, &wish)?;
    confirm::type_name(app, &format!("run {} {what}", args.run), &args.run, args.yes)?;
    let view = operate(&found.place, &who, &wish, &app.cx)?;
    if args.leave {
        report(app, &view)?;
        return Ok(ExitStatus::Done);
    }
    go_on(app, &found, Some(&found.view.hash), (false, Way::Back))
}

/// Ends a run of which nobody can read where it stands.
fn set_aside(
    app: &App,
    set: &PolicySet,
    args: &AbortArgs,
    who: &Person,
    damage: Error,
) -> Result<ExitStatus> {
    let (places, _) = place::places(app, set, &args.run);
    for (stack, _, place) in places {
        if place.at.last()?.is_none() || why_unreadable(&place)?.is_none() {
            continue;
        }
        app.printer.error(&damage);
        app.printer.talk("what its steps did is not known from here: look at what they work on");
        let what = format!("run {} is set aside, and everything stays as it is", args.run);
        confirm::type_name(app, &what, &args.run, args.yes)?;
        aside::set_aside(&place, &stack, who, &args.reason, &app.cx)?;
        app.printer.talk(format!("run {} is set aside", args.run));
        return Ok(ExitStatus::Done);
    }
    // Its journal is gone altogether.
    Err(damage)
}

/// What whoever gives the command is after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// That the run comes to its end.
    Forward,
    /// That what it did is taken back.
    Back,
}

fn go_on(
    app: &App,
    found: &Found<'_>,
    plan: Option<&str>,
    (wait, way): (bool, Way),
) -> Result<ExitStatus> {
    if let Some(outcome) = found.view.outcome {
        app.printer.talk(format!("run {} is over: {}", found.view.run, outcome.words()));
        report(app, &found.view)?;
        return Ok(status_of(outcome, way));
    }
    check_plan(found, plan)?;
    let (place, view) = (&found.place, &found.view);
    let same = |now: &RunView| {
        if now.hash == view.hash { Ok(()) } else { Err(Error::damaged("the plan changed")) }
    };
    act(app, found.policy, place, (wait, way), |tools| {
        Engine::take_over(place, &view.plan.stack, view.plan.mode, tools, &same)
    })
}

/// A plan that lies in a repository is carried out only where the policy says the same, or where a
/// person names it: whoever can write there must not decide what is run here.
fn check_plan(found: &Found<'_>, given: Option<&str>) -> Result<()> {
    let view = &found.view;
    if let Some(given) = given {
        return check_hash(&view.hash, Some(given));
    }
    if is_of_policy(found) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Waiting,
        format!("the policy is not what it was when run {} began", view.run),
    )
    .hint(format!("look what it does: `backstay playbook show {} --output json`", view.run))
    .hint(format!("to go on with that: --plan {}", &view.hash[..12])))
}

/// Whether the policy still makes the plan that a run began with.
pub(super) fn is_of_policy(found: &Found<'_>) -> bool {
    let plan = &found.view.plan;
    let wanted = Wanted { playbook: &plan.playbook, mode: Some(plan.mode), at: plan.at };
    let now = compile(found.policy, wanted).and_then(|plan| plan.hash());
    now.is_ok_and(|hash| hash == found.view.hash)
}

fn check_hash(hash: &str, given: Option<&str>) -> Result<()> {
    match given {
        Some(given) if given.len() < 8 || !hash.starts_with(given) => Err(Error::new(
            ErrorKind::Conflict,
            format!("the plan is {}, and not {given}", &hash[..12]),
        )
        .hint("give 8 characters of its hash at least; `backstay playbook show` tells it")),
        _ => Ok(()),
    }
}

/// Acts for a run until it is over, or until nothing can be done without a person.
fn act<'a>(
    app: &App,
    policy: &Policy,
    place: &Place,
    (wait, way): (bool, Way),
    start: impl FnOnce(Tools<'_>) -> Result<Engine<'_>> + 'a,
) -> Result<ExitStatus> {
    let means = place::means(app, policy)?;
    let make = |spec: &ActionSpec| build(spec, &means);
    // What threads share: the rest of `app` is this one's alone.
    let (printer, display, clock) = (app.printer.clone(), &app.display, app.cx.clock.clone());
    let tell = |record: &Record, view: &RunView| {
        display.quietly(|| live::tell(&printer, record, view));
    };
    let tools = Tools { cx: &app.cx, make: &make, tell: &tell };
    let mut engine = start(tools)?;
    loop {
        let (run, stack, mode) = {
            let view = engine.view();
            (view.run.clone(), view.plan.stack.clone(), view.plan.mode)
        };
        let board = || live::board(&printer, &engine.view(), clock.now());
        let ending = display.watching(board, || engine.run());
        let ending = ending.map_err(|error| unfinished(error, &run))?;
        let view = engine.view();
        // Others must be able to decide while nothing is done.
        drop(engine);
        match ending {
            Ending::Over(outcome) => {
                report(app, &view)?;
                if outcome == Outcome::SucceededWithFailures {
                    app.printer.warning("steps failed or were skipped");
                }
                let status = status_of(outcome, way);
                live::end(&app.printer, &view, &[], status);
                return Ok(status);
            }
            Ending::Waiting(steps) if wait => {
                live::instructions(&app.printer, &view, &steps)?;
                wait_for_news(app, place, &view)?;
                engine = Engine::take_over(place, &stack, mode, tools, &|_| Ok(()))?;
            }
            Ending::Waiting(steps) => {
                report(app, &view)?;
                live::instructions(&app.printer, &view, &steps)?;
                live::end(&app.printer, &view, &steps, ExitStatus::Waiting);
                return Ok(ExitStatus::Waiting);
            }
            Ending::Stuck(steps) => {
                report(app, &view)?;
                live::instructions(&app.printer, &view, &steps)?;
                let unknown = steps.iter().any(|step| {
                    view.state(step) == crate::playbook::transition::StepState::Unknown
                });
                let status = if unknown { ExitStatus::Waiting } else { ExitStatus::Failed };
                live::end(&app.printer, &view, &steps, status);
                return Ok(status);
            }
        }
    }
}

/// Waits until somebody else wrote something down.
fn wait_for_news(app: &App, place: &Place, view: &RunView) -> Result<()> {
    loop {
        for _ in 0..LOOK.as_millis() / 100 {
            app.cx.reporter.check().map_err(|error| unfinished(error, &view.run))?;
            std::thread::sleep(Duration::from_millis(100));
        }
        let now = history::read(place, &view.plan.stack, &view.run)?;
        let moved = now.is_some_and(|now| {
            let approvals = |view: &RunView| -> usize {
                view.steps.values().map(|step| step.approvals.len()).sum()
            };
            let states =
                |view: &RunView| -> Vec<_> { view.steps.values().map(|step| step.state).collect() };
            now.outcome.is_some()
                || now.unwinding.is_some()
                || approvals(&now) != approvals(view)
                || states(&now) != states(view)
        });
        if moved {
            return Ok(());
        }
    }
}

fn unfinished(error: Error, run: &str) -> Error {
    match error.kind() {
        ErrorKind::Busy => error,
        _ => error.hint(format!("`backstay playbook resume {run}` goes on with it")),
    }
}

fn report(app: &App, view: &RunView) -> Result<()> {
    if app.printer.is_json() {
        app.printer.json(&Report::of(view))
    } else {
        show::show_run(app, view)
    }
}

const fn status_of(outcome: Outcome, way: Way) -> ExitStatus {
    match (outcome, way) {
        (Outcome::Succeeded | Outcome::SucceededWithFailures, _)
        // Taken back is what was asked for.
        | (Outcome::Undone, Way::Back) => ExitStatus::Done,
        (Outcome::Undone | Outcome::Left, _) => ExitStatus::Failed,
    }
}
