//! Every playbook of the policies that come with the program, killed at every boundary of every step and gone on
//! with by another process that has only the repository: the same end, each effect once.
//!
//! The plan is theirs: phases, needs, groups, conditions, gates, the point of no return. What each step does
//! is replaced by a command that counts, since the servers that they name are not there.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use backstay::policy::{
    ActionSpec, CommandAction, Mode, OnFailure, Phase, Playbook, Policy, Program, Step,
};

use crate::common::Ran;
use crate::common::playbook::Stage;

/// The policies with playbooks.
fn policies() -> Vec<Policy> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("policies");
    let set = backstay::policy::load(&directory).expect("the policies are valid");
    set.policies.into_iter().filter(|policy| !policy.playbooks.is_empty()).collect()
}

/// A command that counts what an action does, and leaves what the action leaves.
fn counting(name: &str, action: &ActionSpec) -> ActionSpec {
    if action.is_gate() {
        return action.clone();
    }
    let outputs = action.outputs();
    // None of the conditions on them holds.
    let said: String = outputs.iter().map(|output| format!("echo {output}=no; ")).collect();
    let effects = !action.is_read_only();
    let shell = |line: String| Program::Shell(line);
    let count = |sign: &str| format!("$(grep -cxF -- {sign}{name} $LEDGER || true)");
    ActionSpec::Command(CommandAction {
        apply: shell(if effects {
            format!("echo +{name} >> $LEDGER; {said}true")
        } else {
            format!("{said}true")
        }),
        observe: effects
            .then(|| shell(format!("touch $LEDGER; {said}test {} -gt {}", count("+"), count("-")))),
        undo: (effects && action.can_undo()).then(|| shell(format!("echo -{name} >> $LEDGER"))),
        repeatable: false,
        read_only: !effects,
        outputs,
        environment: Default::default(),
        directory: None,
    })
}

/// The same plan, with effects that count. With `failing` a step fails before the point of no return.
/// All have something to clean up, and one step at a time, so that each has its boundaries.
fn counted(playbook: &Playbook, failing: bool) -> Playbook {
    let mut counted = Playbook { repository: None, parallel: 1, ..playbook.clone() };
    let phases = [
        &mut counted.assess,
        &mut counted.fence,
        &mut counted.recover,
        &mut counted.quiesce,
        &mut counted.validate,
        &mut counted.cutover,
        &mut counted.commit,
        &mut counted.reprotect,
        &mut counted.cleanup,
    ];
    for steps in phases {
        for (name, step) in steps.iter_mut() {
            step.action = counting(name, &step.action);
            step.timeout = None;
        }
    }
    let tidy = Step { action: counting("tidies", &restored()), ..any_step() };
    counted.cleanup.insert("tidies".to_owned(), tidy);
    if failing {
        let wrong = serde_json::json!({ "command": { "apply": { "argv": ["false"] }, "observe": { "argv": ["false"] } } });
        let step: Step = serde_json::from_value(wrong).unwrap();
        counted.on_failure = OnFailure::Undo;
        counted.validate.insert("fails".to_owned(), step);
    }
    counted
}

/// A step with nothing but an action.
fn any_step() -> Step {
    serde_json::from_value(serde_json::json!({ "wait": { "for": "1s" } })).unwrap()
}

/// An action that has an effect.
fn restored() -> ActionSpec {
    let written =
        serde_json::json!({ "redis_flush": { "address": "cache:6379", "databases": [0] } });
    serde_json::from_value::<Step>(written).unwrap().action
}

struct Case {
    stage: Stage,
    name: String,
    mode: &'static str,
}

impl Case {
    fn write(&self, playbook: &Playbook) {
        let text = serde_json::to_string(playbook).unwrap();
        self.stage.write(&format!("  {}: {text}\n", self.name));
    }

    /// Killed when all is done but for saying so: nothing is done again.
    fn ends_once(&self) {
        assert!(self.carry_out("end", Some("playbook.before_end"), 0) > 0, "{}", self.name);
        let ledger = self.stage.ledger("end");
        let once: BTreeSet<&String> = ledger.iter().collect();
        assert_eq!(once.len(), ledger.len(), "{}: {ledger:?}", self.name);
    }

    fn command(&self, ledger: &str, run: Option<&str>) -> std::process::Command {
        match run {
            None => self.stage.command(ledger, &["run", &self.name, "--mode", self.mode, "--yes"]),
            Some(run) => self.stage.elsewhere(ledger, &["resume", run]),
        }
    }

    /// Lets people do what the run waits for.
    fn people(&self, ledger: &str, run: &str) {
        let shown = self.stage.run(ledger, &["show", run, "--output", "json"]).expect(0).json();
        for step in shown["steps"].as_array().unwrap() {
            let name = step["name"].as_str().unwrap();
            match (step["state"].as_str().unwrap(), step["action"].as_str().unwrap()) {
                ("waiting", "manual") => {
                    let args = ["attest", run, name, "--text", "seen", "--as", "ann"];
                    self.stage.run(ledger, &args).expect(0);
                }
                ("waiting", "approval") => {
                    for who in ["dba", "it-manager", "ann"] {
                        self.stage.run(ledger, &["approve", run, name, "--as", who, "--yes"]);
                    }
                }
                _ => {}
            }
        }
    }

    /// What the journal says: how many records there are that are no takeovers, how many of them say that something
    /// ended or that a person was asked, and how many steps are under way.
    fn under_way(&self, run: &str) -> (usize, usize, usize) {
        let mut names: Vec<_> = fs::read_dir(self.stage.journal(run))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            // What another step of the group was about to write when it was killed is no record.
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .collect();
        names.sort();
        let (mut records, mut ended, mut begun) = (0, 0, BTreeSet::new());
        for path in names {
            let record: serde_json::Value =
                serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
            let step = record["step"].as_str().unwrap_or_default().to_owned();
            records += 1;
            match record["event"].as_str().unwrap() {
                "taken_over" => records -= 1,
                "tried" => {}
                "intended" | "undo_intended" => _ = begun.insert(step),
                _ => {
                    ended += 1;
                    begun.remove(&step);
                }
            }
        }
        (records, ended, begun.len())
    }

    /// How many steps of the newest run began.
    fn begun(&self) -> usize {
        let journal = self.stage.journal(&self.stage.newest());
        let records = fs::read_dir(journal).unwrap().map(|entry| entry.unwrap().path());
        let begun = records.filter_map(|path| {
            let record: serde_json::Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
            (record["event"] == "intended").then(|| record["step"].as_str().unwrap().to_owned())
        });
        begun.collect::<BTreeSet<String>>().len()
    }

    /// Carries it out, killed at a failpoint in every process: at that of the step that begins next, or at a later
    /// one where it did not get on. How often it was killed.
    fn carry_out(&self, ledger: &str, point: Option<&str>, code: i32) -> u32 {
        let (mut run, mut killed) = (None::<String>, 0);
        let (mut last, mut stalled) = (None, 0);
        for number in 0.. {
            assert!(number < 300, "{} does not get on: {:?}", self.name, self.stage.ledger(ledger));
            let mut command = self.command(ledger, run.as_deref());
            if let Some(point) = point {
                let found = run.as_ref().map(|run| self.under_way(run));
                // What was under way is gone on with first, and its intent is written again. Later it may have been
                // done, and then it does not get there: the first counts, and only what ended is getting on.
                let (now, again) = match found {
                    Some((records, _, begun)) if point.contains("intent") => (Some(records), begun),
                    Some((_, ended, _)) => (Some(ended), 0),
                    None => (None, 0),
                };
                stalled = if now.is_none() || now != last { 0 } else { stalled + 1 };
                last = now;
                command.env("BACKSTAY_FAILPOINT", format!("{point}@{}", 1 + again + stalled));
            }
            let ran = Ran::from(&command.output().unwrap());
            let id = run.get_or_insert_with(|| self.stage.newest()).clone();
            match ran.code {
                137 => killed += 1,
                6 => self.people(ledger, &id),
                ended => {
                    assert_eq!(ended, code, "{} {point:?}\n{}", self.name, ran.stderr);
                    break;
                }
            }
        }
        killed
    }
}

fn cases(failing: bool) -> Vec<(Case, Playbook)> {
    let mut cases = Vec::new();
    for policy in policies() {
        for (name, playbook) in &policy.playbooks {
            let goes_back = playbook.on_failure == OnFailure::Undo;
            let returns = |phase| {
                playbook
                    .placed()
                    .iter()
                    .all(|one| !one.step.point_of_no_return || one.phase > phase)
            };
            if failing && !(goes_back && returns(Phase::Validate)) {
                continue;
            }
            let counted = counted(playbook, failing);
            let mode = playbook.modes.first().copied().unwrap_or(Mode::Graceful).word();
            let stage = Stage::new("  none: { cleanup: { a: { wait: { for: 1s } } } }\n");
            let case = Case { stage, name: name.clone(), mode };
            case.write(&counted);
            cases.push((case, counted));
        }
    }
    assert!(!cases.is_empty(), "no playbook is shipped");
    cases
}

fn sorted(mut ledger: Vec<String>) -> Vec<String> {
    ledger.sort();
    ledger
}

impl Case {
    /// What it does when nobody kills it.
    fn whole(&self, counted: &Playbook) -> Vec<String> {
        self.carry_out("whole", None, 0);
        let whole = self.stage.ledger("whole");
        let once: BTreeSet<&String> = whole.iter().collect();
        assert_eq!(once.len(), whole.len(), "{}: {whole:?}", self.name);
        assert!(whole.last().is_some_and(|line| line == "+tidies"), "{}: {whole:?}", self.name);
        let does = |name: &str| whole.contains(&format!("+{name}"));
        let effects = counted.placed().iter().filter(|one| does(one.name)).count();
        assert_eq!(effects, whole.len(), "{}: {whole:?}", self.name);
        whole
    }
}

/// Every step of every playbook, killed at this boundary: those that clean up, too.
fn killed_at(point: &str) {
    for (case, counted) in cases(false) {
        let whole = case.whole(&counted);
        let steps = case.begun();
        let killed = case.carry_out("killed", Some(point), 0);
        let told = format!("{}: killed {killed} times of {steps} steps", case.name);
        assert!(killed as usize >= steps, "{told}");
        // Steps that do not need each other have no order among each other.
        assert_eq!(sorted(case.stage.ledger("killed")), sorted(whole), "{told}");
    }
}

#[test]
fn every_shipped_playbook_ends_the_same_killed_before_an_intent() {
    killed_at("playbook.before_intent");
}

#[test]
fn every_shipped_playbook_ends_the_same_killed_after_an_intent() {
    killed_at("playbook.after_intent");
}

#[test]
fn every_shipped_playbook_ends_the_same_killed_in_the_middle_of_a_step() {
    killed_at("playbook.mid_apply");
}

#[test]
fn every_shipped_playbook_ends_the_same_killed_after_a_step() {
    killed_at("playbook.after_apply");
}

#[test]
fn every_shipped_playbook_ends_the_same_killed_with_several_steps_under_way_or_at_its_end() {
    for (case, counted) in cases(false) {
        let whole = case.whole(&counted);
        case.ends_once();
        if counted.placed().iter().any(|one| one.step.group.is_some()) {
            case.write(&Playbook { parallel: 4, ..counted });
            let killed = case.carry_out("together", Some("playbook.mid_apply"), 0);
            assert!(killed > 0, "{}", case.name);
            assert_eq!(sorted(case.stage.ledger("together")), sorted(whole), "{}", case.name);
        }
    }
}

#[test]
fn every_shipped_playbook_that_goes_back_does_so_wherever_it_is_killed() {
    for (case, _) in cases(true) {
        case.carry_out("whole", None, 1);
        let whole = case.stage.ledger("whole");
        assert!(whole.iter().any(|line| line.starts_with('-')), "{}: {whole:?}", case.name);
        let all = ["unwinding", "undo_intent", "mid_undo", "after_undo", "after_undo_result"];
        for point in all.map(|name| format!("playbook.{name}")) {
            let (point, killed) = (point.as_str(), case.carry_out(&point, Some(&point), 1));
            assert!(killed > 0, "{}: {point} was never reached", case.name);
            assert_eq!(
                sorted(case.stage.ledger(point)),
                sorted(whole.clone()),
                "{}: {point}",
                case.name
            );
        }
    }
}
