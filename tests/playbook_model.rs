//! Random playbooks in a world that fails and is killed, against what must hold of any of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use backstay::clock::SystemClock;
use backstay::error::{Error, ErrorKind, Result};
use backstay::playbook::action::{Action, Job, Observed, Preview};
use backstay::playbook::compile::{Plan, PlannedStep, VERSION};
use backstay::playbook::engine::{Ending, Engine, Tools};
use backstay::playbook::journal::{Journal, Place};
use backstay::playbook::operate::{Wish, operate};
use backstay::playbook::record::{Outcome, Outputs, Person, Record};
use backstay::playbook::transition::StepState;
use backstay::playbook::view::RunView;
use backstay::policy::{ActionSpec, CommandAction, Mode, OnFailure, Phase, Program, Retry};
use backstay::run::{Context, Tuning};
use backstay::store::{JournalStore, Store, Worker};
use backstay::telemetry::Reporter;
use proptest::prelude::*;

/// What becomes of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Works,
    Fails,
    KilledBefore,
    KilledAfter,
}

/// The real thing: which effects are there, and what happens to whoever touches it.
#[derive(Debug, Default)]
struct World {
    there: BTreeSet<String>,
    /// How often each effect was made and taken back.
    made: BTreeMap<String, u32>,
    undone: BTreeMap<String, u32>,
    fates: Vec<Fate>,
    needs: BTreeMap<String, Vec<String>>,
    /// Steps that may be missing when others begin: they failed and are not critical, or a person skipped them.
    excused: BTreeSet<String>,
    /// Steps of which a person said that they are not to be taken back any more, or not to be done.
    left: BTreeSet<String>,
    wrong: Vec<String>,
}

impl World {
    fn fate(&mut self) -> Fate {
        self.fates.pop().unwrap_or(Fate::Works)
    }
}

struct Effect {
    name: String,
    world: Arc<Mutex<World>>,
}

fn killed() -> Error {
    Error::new(ErrorKind::Interrupted, "killed")
}

impl Action for Effect {
    fn preview(&self, _: &Job<'_>) -> Result<Preview> {
        Ok(Preview::of("makes an effect"))
    }

    fn observe(&self, _: &Job<'_>) -> Result<Observed> {
        let there = self.world.lock().unwrap().there.contains(&self.name);
        Ok(if there { Observed::Done(Outputs::new()) } else { Observed::NotDone })
    }

    fn apply(&self, _: &Job<'_>) -> Result<Outputs> {
        let mut world = self.world.lock().unwrap();
        let fate = world.fate();
        match fate {
            Fate::KilledBefore => return Err(killed()),
            Fate::Fails => return Err(Error::failed("it fails")),
            Fate::Works | Fate::KilledAfter => {}
        }
        let missing: Vec<String> = world.needs[&self.name]
            .iter()
            .filter(|need| !world.there.contains(*need) && !world.excused.contains(*need))
            .cloned()
            .collect();
        if !missing.is_empty() {
            world.wrong.push(format!("{} began before {missing:?}", self.name));
        }
        if !world.there.insert(self.name.clone()) {
            world.wrong.push(format!("{} was made twice", self.name));
        }
        *world.made.entry(self.name.clone()).or_default() += 1;
        if fate == Fate::KilledAfter { Err(killed()) } else { Ok(Outputs::new()) }
    }

    fn undo(&self, _: &Job<'_>) -> Result<()> {
        let mut world = self.world.lock().unwrap();
        let fate = world.fate();
        match fate {
            Fate::KilledBefore => return Err(killed()),
            Fate::Fails => return Err(Error::failed("it cannot be taken back")),
            Fate::Works | Fate::KilledAfter => {}
        }
        let later: Vec<String> = world
            .there
            .iter()
            .filter(|other| world.needs[*other].contains(&self.name) && other.starts_with('u'))
            .filter(|other| !world.left.contains(*other))
            .cloned()
            .collect();
        if !later.is_empty() {
            world.wrong.push(format!("{} was taken back before {later:?}", self.name));
        }
        // Harmless where nothing was done.
        if world.there.remove(&self.name) {
            *world.undone.entry(self.name.clone()).or_default() += 1;
        }
        if fate == Fate::KilledAfter { Err(killed()) } else { Ok(()) }
    }
}

/// One step of a random plan: what it needs as bits over the steps above it, and what it is like.
#[derive(Debug, Clone)]
struct Sketch {
    needs: u16,
    undo: bool,
    critical: bool,
    retries: u32,
}

fn sketches() -> impl Strategy<Value = Vec<Sketch>> {
    let one = (any::<u16>(), any::<bool>(), prop::bool::weighted(0.8), 0u32..1)
        .prop_map(|(needs, undo, critical, retries)| Sketch { needs, undo, critical, retries });
    prop::collection::vec(one, 1..9)
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let one = prop_oneof![
        6 => Just(Fate::Works),
        1 => Just(Fate::Fails),
        1 => Just(Fate::KilledBefore),
        1 => Just(Fate::KilledAfter),
    ];
    prop::collection::vec(one, 0..30)
}

fn plan(sketches: &[Sketch], back: Option<usize>, on_failure: OnFailure) -> Plan {
    let word = || Program::Argv(vec!["true".into()]);
    // The name says whether it can be taken back, and which one it is, for the action.
    let name = |at: usize| format!("{}{at}", if sketches[at].undo { "u" } else { "k" });
    let steps = sketches.iter().enumerate().map(|(at, sketch)| PlannedStep {
        name: name(at),
        phase: Phase::Recover,
        needs: (0..at).filter(|other| sketch.needs & (1 << other) != 0).map(name).collect(),
        action: ActionSpec::Command(CommandAction {
            apply: Program::Argv(vec![name(at)]),
            observe: Some(word()),
            undo: sketch.undo.then(word),
            repeatable: false,
            read_only: false,
            outputs: Vec::new(),
            environment: indexmap::IndexMap::new(),
            directory: None,
        }),
        description: None,
        timeout: None,
        retry: Retry { times: sketch.retries, ..Retry::default() },
        critical: sketch.critical,
        when: None,
        point_of_no_return: back == Some(at),
        excluded: false,
        beyond_rpo: None,
    });
    Plan {
        version: VERSION,
        stack: "demo".into(),
        playbook: "random".into(),
        mode: Mode::Graceful,
        at: None,
        parallel: 3,
        on_failure,
        steps: steps.collect(),
    }
}

/// Every step that must be done before another, directly or not.
fn closure(plan: &Plan) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for step in &plan.steps {
        let mut needs: BTreeSet<String> = step.needs.iter().cloned().collect();
        for need in &step.needs {
            needs.extend(all[need].iter().cloned());
        }
        all.insert(step.name.clone(), needs.into_iter().collect());
    }
    all
}

fn person() -> Person {
    Person { name: "ann".into(), user: "ann".into(), host: "here".into() }
}

/// Carries a plan out through everything that happens, as people would.
fn carry_out(
    plan: &Plan,
    fates: Vec<Fate>,
    wishes: &[u8],
    handle: &tokio::runtime::Handle,
) -> (RunView, World) {
    let store =
        Store::new(Arc::new(object_store::memory::InMemory::new()), handle.clone(), "memory");
    let world = Arc::new(Mutex::new(World {
        fates,
        needs: closure(plan),
        excused: plan.steps.iter().filter(|s| !s.critical).map(|s| s.name.clone()).collect(),
        ..World::default()
    }));
    let place = Place {
        at: JournalStore::new(&store, "demo", "20260101T000000Z-random"),
        run: "20260101T000000Z-random".into(),
        local: None,
        by: Worker::here("here".into()),
        clock: Arc::new(SystemClock),
    };
    let make = |spec: &ActionSpec| -> Result<Box<dyn Action>> {
        let ActionSpec::Command(CommandAction { apply: Program::Argv(argv), .. }) = spec else {
            return Err(Error::failed("not one of these"));
        };
        Ok(Box::new(Effect { name: argv[0].clone(), world: world.clone() }))
    };
    let tell = |_: &Record, _: &RunView| {};
    let mut wishes = wishes.iter();
    let mut begun = false;
    for _ in 0..200 {
        // A new process each time.
        let cx = Context {
            reporter: Reporter::silent(),
            clock: Arc::new(SystemClock),
            tuning: Tuning::default(),
        };
        let tools = Tools { cx: &cx, make: &make, tell: &tell };
        let engine = if begun {
            Engine::take_over(&place, "demo", Mode::Graceful, tools, &|_| Ok(())).unwrap()
        } else {
            begun = true;
            Engine::begin(&place, plan.clone(), person(), tools).unwrap()
        };
        match engine.run() {
            Err(error) => assert_eq!(error.kind(), ErrorKind::Interrupted, "{error:?}"),
            Ok(Ending::Over(_)) => break,
            Ok(Ending::Waiting(steps)) => panic!("nobody is asked here: {steps:?}"),
            Ok(Ending::Stuck(steps)) => {
                drop(engine);
                let step = steps[0].clone();
                let wish = match wishes.next().unwrap_or(&0) % 4 {
                    1 => Wish::Skip { step: step.clone(), why: "no".into() },
                    2 => Wish::Undo { why: "no".into() },
                    _ => Wish::Retry { step: step.clone() },
                };
                if operate(&place, &person(), &wish, &cx).is_ok()
                    && matches!(wish, Wish::Skip { .. })
                {
                    let mut world = world.lock().unwrap();
                    world.excused.insert(step.clone());
                    world.left.insert(step);
                }
                continue;
            }
        }
        drop(engine);
    }
    let (_, records) = Journal::open(&place).unwrap();
    let view = RunView::replay(&records).unwrap().unwrap();
    (view, Arc::try_unwrap(world).unwrap().into_inner().unwrap())
}

fn holds(plan: &Plan, view: &RunView, world: &World) {
    assert!(world.wrong.is_empty(), "{:?}", world.wrong);
    let outcome = view.outcome.expect("it is over in the end");
    for step in &plan.steps {
        let there = world.there.contains(&step.name);
        let times = world.made.get(&step.name).copied().unwrap_or(0);
        let back = world.undone.get(&step.name).copied().unwrap_or(0);
        let state = view.state(&step.name);
        assert!(times <= back + 1, "{}: made {times}, taken back {back}", step.name);
        match state {
            StepState::Succeeded => assert!(there, "{} is said to be done", step.name),
            StepState::Undone => assert!(!there, "{} is said to be taken back", step.name),
            StepState::Pending => assert_eq!(times, 0, "{} never began", step.name),
            _ => {}
        }
        let skipped = state == StepState::Skipped;
        match outcome {
            Outcome::Succeeded => assert!(there || skipped, "{} is missing", step.name),
            Outcome::Undone => {
                assert!(!there || !step.action.can_undo() || skipped, "{} is left", step.name);
            }
            Outcome::SucceededWithFailures | Outcome::Left => {}
        }
    }
    if outcome == Outcome::Undone {
        let passed = plan.steps.iter().any(|step| {
            step.point_of_no_return && !matches!(view.state(&step.name), StepState::Pending)
        });
        assert!(!passed, "the point of no return was passed, and it was taken back");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_each_effect_is_there_once_and_in_order(
        sketches in sketches(),
        fates in fates(),
        wishes in prop::collection::vec(any::<u8>(), 8),
        back in prop::option::weighted(0.3, 0usize..8),
        undo in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let on_failure = if undo { OnFailure::Undo } else { OnFailure::Stop };
        let plan = plan(&sketches, back, on_failure);
        let (view, world) = carry_out(&plan, fates, &wishes, runtime.handle());
        holds(&plan, &view, &world);
        runtime.shutdown_background();
    }
}

#[test]
fn of_two_that_act_one_loses_and_writes_nothing() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let store = Store::new(
        Arc::new(object_store::memory::InMemory::new()),
        runtime.handle().clone(),
        "memory",
    );
    let place = Place {
        at: JournalStore::new(&store, "demo", "20260101T000000Z-random"),
        run: "20260101T000000Z-random".into(),
        local: None,
        by: Worker::here("here".into()),
        clock: Arc::new(SystemClock),
    };
    let (mut one, _) = Journal::open(&place).unwrap();
    let plan =
        plan(&[Sketch { needs: 0, undo: true, critical: true, retries: 0 }], None, OnFailure::Stop);
    let started = |plan: &Plan| backstay::playbook::record::Event::Started {
        plan: plan.clone(),
        hash: plan.hash().unwrap(),
        who: person(),
    };
    one.append(started(&plan)).unwrap();
    let (mut two, records) = Journal::open(&place).unwrap();
    assert_eq!(records.len(), 1);
    let event = || backstay::playbook::record::Event::TakenOver { epoch: 2 };
    two.append(event()).unwrap();
    assert_eq!(one.check().unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(one.append(event()).unwrap_err().kind(), ErrorKind::Busy);
    two.check().unwrap();
    assert_eq!(Journal::open(&place).unwrap().1.len(), 2);
}
