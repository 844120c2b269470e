//! One suite for every action of playbooks: what each promises in `playbook/action.rs`, looked at from
//! outside, through the program, with a real part behind it.

use std::fs;

use super::Ran;
use super::playbook::Stage;

/// An action, and the part of the world that it acts on.
pub struct Case<'a> {
    /// The step: `KIND: { … }`.
    pub step: String,
    /// The same where it cannot succeed.
    pub broken: String,
    /// Steps that come before it, each a line of YAML with six spaces before it.
    pub above: String,
    /// What the policy has at its end.
    pub policy: String,
    /// Variables.
    pub environment: Vec<(String, String)>,
    /// What the world looks like: what the action changes, and nothing else.
    pub state: Box<dyn Fn() -> String + 'a>,
    /// Makes it what it was at the beginning.
    pub reset: Box<dyn Fn() + 'a>,
    /// It changes something.
    pub acts: bool,
    /// It can be taken back.
    pub undo: bool,
    /// It may be done twice on purpose, each time with a new effect: only once for every run then.
    pub counts: bool,
}

impl<'a> Case<'a> {
    /// One that only looks.
    pub fn look(step: &str, broken: &str) -> Self {
        Self {
            step: step.to_owned(),
            broken: broken.to_owned(),
            above: String::new(),
            policy: String::new(),
            environment: Vec::new(),
            state: Box::new(String::new),
            reset: Box::new(|| {}),
            acts: false,
            undo: false,
            counts: false,
        }
    }

    /// One that changes something.
    pub fn act(
        step: &str,
        broken: &str,
        state: impl Fn() -> String + 'a,
        reset: impl Fn() + 'a,
    ) -> Self {
        Self {
            acts: true,
            state: Box::new(state),
            reset: Box::new(reset),
            ..Self::look(step, broken)
        }
    }

    /// And can be taken back.
    pub fn with_undo(mut self) -> Self {
        self.undo = true;
        self
    }

    fn playbooks(&self) -> String {
        let above = &self.above;
        let (step, broken) = (&self.step, &self.broken);
        format!(
            "  once:\n    recover:\n{above}      it: {{ {step} }}\n  \
             back:\n    on_failure: undo\n    recover:\n{above}      it: {{ {step} }}\n      no: {{ command: {{ apply: {{ argv: [false] }}, read_only: true }} }}\n  \
             broken:\n    recover:\n      it: {{ {broken}, timeout: 3s }}\n{}",
            self.policy
        )
    }

    fn run(&self, stage: &Stage, args: &[&str], failpoint: Option<&str>) -> Ran {
        let mut command = stage.command("l", args);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.env("BACKSTAY_TUNING", "lease=0.2");
        if let Some(point) = failpoint {
            command.env("BACKSTAY_FAILPOINT", point);
        }
        Ran::from(&command.output().unwrap())
    }

    /// Goes on with the newest run, as another process.
    fn resume(&self, stage: &Stage, code: i32) -> Ran {
        let run = stage.newest();
        self.run(stage, &["resume", &run], None).expect(code)
    }

    /// Everything that the contract says.
    pub fn conforms(&self, name: &str, stage: &Stage) {
        stage.write(&self.playbooks());
        let state = || (self.state)();
        (self.reset)();
        let untouched = state();
        // A preview changes nothing.
        let ran = self.run(stage, &["check", "once"], None);
        assert!(
            ran.code == 0,
            "{name}: a preview finds nothing missing:\n{}{}",
            ran.stdout,
            ran.stderr
        );
        assert_eq!(state(), untouched, "{name}: a preview changes nothing");
        // Once.
        self.run(stage, &["run", "once", "--yes"], None).expect(0);
        let done = state();
        assert_eq!(done != untouched, self.acts, "{name}: {untouched} became {done}");
        // Twice is as good as once.
        if !self.counts {
            self.run(stage, &["run", "once", "--yes"], None).expect(0);
            assert_eq!(state(), done, "{name}: twice is not once");
        }
        // Killed at any point, and gone on with: looked at, and the same end.
        let mut reached = Vec::new();
        for point in ["after_intent", "mid_apply", "after_apply"] {
            (self.reset)();
            // The last step is the one that is looked at.
            let last = 1 + self.above.lines().count();
            let point = format!("playbook.{point}@{}", if point == "mid_apply" { 1 } else { last });
            let ran = self.run(stage, &["run", "once", "--yes"], Some(&point));
            assert!([0, 128 + 9].contains(&ran.code), "{name} {point}: {}", ran.stderr);
            if ran.code == 0 {
                continue;
            }
            reached.push(point.clone());
            // What it had started ends with it, in a moment.
            std::thread::sleep(std::time::Duration::from_millis(300));
            let before = state();
            let run = stage.newest();
            assert_eq!(stage.state(&run, "it"), "running", "{name} {point}");
            self.resume(stage, 0);
            let found = self.was_found(stage, &run);
            // What was found done was: nothing was left to do.
            assert!(!found || before == done, "{name} {point}: {before} was taken for {done}");
            assert_eq!(state(), done, "{name} {point}");
        }
        assert!(reached.len() >= 2, "{name}: {reached:?}");
        if self.undo {
            self.goes_back(name, stage, &untouched);
        }
        self.fails_with_a_name(name, stage);
    }

    /// Whether the step was found done.
    fn was_found(&self, stage: &Stage, run: &str) -> bool {
        let mut found = false;
        for entry in fs::read_dir(stage.journal(run)).unwrap() {
            let text = fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
            found |= text.contains("\"found\":true") && text.contains("\"step\":\"it\"");
        }
        found
    }

    fn goes_back(&self, name: &str, stage: &Stage, untouched: &str) {
        let state = || (self.state)();
        (self.reset)();
        self.run(stage, &["run", "back", "--yes"], None).expect(1);
        assert_eq!(state(), untouched, "{name}: it is not taken back");
        for point in ["playbook.undo_intent", "playbook.after_undo"] {
            (self.reset)();
            self.run(stage, &["run", "back", "--yes"], Some(point)).expect(128 + 9);
            self.resume(stage, 1);
            assert_eq!(state(), untouched, "{name} {point}: taken back twice");
            assert_eq!(stage.state(&stage.newest(), "it"), "undone");
        }
        // Where nothing was done yet there is nothing to take back, and nothing is.
        (self.reset)();
        let last = 1 + self.above.lines().count();
        let point = format!("playbook.after_intent@{last}");
        self.run(stage, &["run", "back", "--yes"], Some(&point)).expect(128 + 9);
        let run = stage.newest();
        self.run(stage, &["abort", &run, "--reason", "x", "--yes"], None).expect(0);
        assert_eq!(state(), untouched, "{name}: something was taken back that was not done");
    }

    fn fails_with_a_name(&self, name: &str, stage: &Stage) {
        let ran = self.run(stage, &["run", "broken", "--yes", "--output", "json"], None).expect(1);
        let run = stage.newest();
        assert_eq!(stage.state(&run, "it"), "failed", "{name}");
        let error = ran.stderr.lines().last().unwrap_or_default();
        let error: serde_json::Value = serde_json::from_str(error).unwrap();
        assert_eq!(error["event"], "error", "{name}: {}", ran.stderr);
        let chain = error["chain"].as_str().unwrap();
        assert!(chain.contains("`it`: "), "{name}: {chain}");
        assert!(!chain.contains("{\"event\""), "{name}: {chain}");
        self.run(stage, &["abort", &run, "--leave", "--reason", "x", "--yes"], None).expect(0);
    }
}
