//! Playbooks for tests: a policy with one, and a ledger that counts what its steps do.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::{Ran, Sandbox};

/// A sandbox whose policy has playbooks, and a file that steps write to.
pub struct Stage {
    pub sandbox: Sandbox,
}

/// A step that writes `+NAME` to the ledger, `-NAME` when it is taken back, and knows which it is.
pub fn effect(name: &str) -> String {
    format!(
        "command: {{ apply: {{ shell: \"echo +{name} >> $LEDGER\" }}, \
         observe: {{ shell: \"touch $LEDGER; test $(grep -cxF -- +{name} $LEDGER || true) -gt $(grep -cxF -- -{name} $LEDGER || true)\" }}, \
         undo: {{ shell: \"echo -{name} >> $LEDGER\" }} }}"
    )
}

impl Stage {
    /// A repository that is ready, and these playbooks: YAML below `playbooks:`, indented by two.
    pub fn new(playbooks: &str) -> Self {
        let stage = Self { sandbox: Sandbox::ready(false) };
        stage.write(playbooks);
        stage
    }

    /// Writes the policy with other playbooks.
    pub fn write(&self, playbooks: &str) {
        self.sandbox.write_policy(false, "");
        let path = self.sandbox.path("policy.yaml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{text}playbooks:\n{playbooks}")).unwrap();
    }

    /// `backstay playbook …` with a ledger of this name.
    pub fn command(&self, ledger: &str, args: &[&str]) -> Command {
        let mut command = self.sandbox.command(&[&["playbook"], args].concat());
        command.env("LEDGER", self.sandbox.path(ledger));
        command
    }

    /// The same from another machine: another directory, nothing remembered, only the policy and
    /// the repository.
    pub fn elsewhere(&self, ledger: &str, args: &[&str]) -> Command {
        let mut command = self.command(ledger, args);
        let other = tempfile::tempdir().unwrap().keep();
        let policy = other.join("other.yaml");
        fs::copy(self.sandbox.path("policy.yaml"), &policy).unwrap();
        command.env("BACKSTAY_POLICY", policy).env("BACKSTAY_STATE_DIR", other.join("state"));
        command.current_dir(&other);
        command
    }

    pub fn run(&self, ledger: &str, args: &[&str]) -> Ran {
        Ran::from(&self.command(ledger, args).output().unwrap())
    }

    pub fn run_elsewhere(&self, ledger: &str, args: &[&str]) -> Ran {
        Ran::from(&self.elsewhere(ledger, args).output().unwrap())
    }

    /// What the steps did, in order.
    pub fn ledger(&self, ledger: &str) -> Vec<String> {
        let text = fs::read_to_string(self.sandbox.path(ledger)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The newest run.
    pub fn newest(&self) -> String {
        let ran = self.run("none", &["history", "--output", "json"]).expect(0);
        ran.json().as_array().unwrap().last().unwrap()["run"].as_str().unwrap().to_owned()
    }

    /// The state of a step of a run.
    pub fn state(&self, run: &str, step: &str) -> String {
        let shown = self.run("none", &["show", run, "--output", "json"]).expect(0).json();
        let steps = shown["steps"].as_array().unwrap();
        let found = steps.iter().find(|one| one["name"] == step).unwrap();
        found["state"].as_str().unwrap().to_owned()
    }

    /// The journal of a run in the repository.
    pub fn journal(&self, run: &str) -> PathBuf {
        self.sandbox.path("repo/demo/journal").join(run)
    }
}
