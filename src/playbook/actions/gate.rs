//! `manual` and `approval`: nothing is done, people are waited for. The engine asks; what they say is
//! written down by `operate`.

use crate::error::{Error, ErrorKind, Result};
use crate::playbook::action::{Action, Job, Observed, Preview};
use crate::playbook::record::Outputs;
use crate::policy::ActionSpec;

/// A step that waits for people.
pub struct Gate(pub ActionSpec);

impl Action for Gate {
    fn preview(&self, _job: &Job<'_>) -> Result<Preview> {
        Ok(Preview::of(match &self.0 {
            ActionSpec::Manual(manual) => format!("waits for a person: {}", manual.text),
            ActionSpec::Approval(approval) => {
                let from = approval.from.join(", ");
                let of = if from.is_empty() { String::new() } else { format!(" of {from}") };
                format!("waits for {} to approve{of}", people(approval.of))
            }
            _ => String::new(),
        }))
    }

    fn observe(&self, _job: &Job<'_>) -> Result<Observed> {
        Ok(Observed::NotDone)
    }

    fn apply(&self, job: &Job<'_>) -> Result<Outputs> {
        Err(Error::new(ErrorKind::Waiting, format!("`{}` is for a person", job.step)))
    }
}

fn people(number: u32) -> String {
    if number == 1 { "1 person".to_owned() } else { format!("{number} people") }
}
