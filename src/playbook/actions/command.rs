//! `command`: programs of one's own, with their own look and their own way back.

use super::program::{MOST, Ran, Surroundings, run};
use crate::error::{Error, ErrorKind, Result};
use crate::playbook::action::{Action, Job, Observed, Preview};
use crate::playbook::record::Outputs;
use crate::policy::{CommandAction, Program};
use crate::source::command::{Pipeline, find_program};
use crate::telemetry::failpoint;

/// Runs programs.
pub struct Command(pub CommandAction);

impl Command {
    fn around(&self) -> Surroundings<'_> {
        Surroundings { environment: Some(&self.0.environment), directory: self.0.directory.clone() }
    }

    /// The outputs among what a program wrote.
    fn outputs(&self, ran: &Ran) -> Outputs {
        ran.output
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
            .filter(|(name, _)| self.0.outputs.contains(name))
            .collect()
    }

    /// Whether an output may be, or go on, where nobody read any more.
    fn is_cut_off(&self, ran: &Ran) -> bool {
        ran.more && !self.0.outputs.is_empty()
    }

    /// The outputs, all of them: one that is missing is a failure here, not in the step that uses it.
    fn all_outputs(&self, ran: &Ran) -> Result<Outputs> {
        if self.is_cut_off(ran) {
            return Err(Error::failed(too_much())
                .hint("what it says at length goes to its standard error, or to a file: `>&2`"));
        }
        let outputs = self.outputs(ran);
        match self.0.outputs.iter().find(|name| !outputs.contains_key(*name)) {
            None => Ok(outputs),
            Some(name) => Err(Error::failed(format!("the command did not print `{name}=…`"))
                .hint("each name in `outputs` is a line NAME=VALUE on its standard output")),
        }
    }
}

/// Said of a command of which not all is known that it printed.
fn too_much() -> String {
    format!("the command has `outputs`, and printed more than {} KiB", MOST >> 10)
}

impl Action for Command {
    fn preview(&self, _job: &Job<'_>) -> Result<Preview> {
        let name = Pipeline::of(&self.0.apply).name();
        let mut preview = Preview::of(match self.0.apply {
            Program::Shell(ref line) => format!("runs `{line}`"),
            _ => format!("runs {name}"),
        });
        let programs = [Some(&self.0.apply), self.0.observe.as_ref(), self.0.undo.as_ref()];
        for stage in programs.into_iter().flatten().flat_map(|program| Pipeline::of(program).stages)
        {
            if let Some(program) = stage.argv.first()
                && find_program(program).is_none()
            {
                preview = preview.missing(format!("there is no program `{program}`"));
            }
        }
        for value in self.0.environment.values() {
            if let crate::policy::Setting::Secret(reference) = value
                && let Err(error) = reference.resolve()
            {
                preview = preview.missing(error.chain());
            }
        }
        Ok(preview)
    }

    fn observe(&self, job: &Job<'_>) -> Result<Observed> {
        let Some(observe) = &self.0.observe else {
            return Ok(Observed::Unknown("the step has no `observe`".to_owned()));
        };
        let ran = run(observe, &self.around(), job, &[0, 1], || {})?;
        if ran.code == 1 {
            return Ok(Observed::NotDone);
        }
        if self.is_cut_off(&ran) {
            return Ok(Observed::Unknown(too_much()));
        }
        let outputs = self.outputs(&ran);
        // What later steps use cannot be made up: the step is done again if that is allowed.
        match self.0.outputs.iter().find(|name| !outputs.contains_key(*name)) {
            None => Ok(Observed::Done(outputs)),
            Some(name) => Ok(Observed::Unknown(format!("`observe` did not print `{name}=…`"))),
        }
    }

    fn apply(&self, job: &Job<'_>) -> Result<Outputs> {
        let mid = || failpoint::reach("playbook.mid_apply");
        let ran = run(&self.0.apply, &self.around(), job, &[0], mid)?;
        self.all_outputs(&ran)
    }

    fn undo(&self, job: &Job<'_>) -> Result<()> {
        let Some(undo) = &self.0.undo else {
            return Err(Error::new(ErrorKind::Unsupported, "the step has no `undo`"));
        };
        run(undo, &self.around(), job, &[0], || failpoint::reach("playbook.mid_undo")).map(drop)
    }
}
