//! `notify`: those whom the policy names hear what a step says.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::notify::text::Style;
use crate::notify::{Alert, Message, Notice, Receiver, What};
use crate::playbook::action::{Action, Job, Means, Observed, Preview};
use crate::playbook::record::Outputs;
use crate::policy::{Notify as Receivers, NotifyAction};
use crate::run::host_name;

/// Tells people and programs.
pub struct Notify {
    spec: NotifyAction,
    means: Arc<Means>,
}

impl Notify {
    /// As a step says.
    pub fn new(spec: NotifyAction, means: Arc<Means>) -> Self {
        Self { spec, means }
    }

    fn named(&self) -> Result<&Receivers> {
        let named = self.means.policy.notify.as_ref();
        named.ok_or_else(|| Error::usage("the policy has no `notify`"))
    }

    /// Those who hear of it.
    fn receivers(&self) -> Result<Vec<Receiver>> {
        let wanted = |receiver: &Receiver| {
            let named = self.spec.to.is_empty();
            let named = named || self.spec.to.iter().any(|name| name == receiver.name());
            named && self.spec.severity >= receiver.severity()
        };
        let receivers: Vec<Receiver> =
            Receiver::all(self.named()?).into_iter().filter(wanted).collect();
        if receivers.is_empty() {
            let what = "no receiver wants to hear of what is `warning` only";
            return Err(Error::usage(what).hint("write `severity: critical`"));
        }
        Ok(receivers)
    }

    /// The same message for every attempt: whoever gets it twice knows that by its id.
    fn message(&self, job: &Job<'_>) -> Result<Message> {
        let notify = self.named()?;
        let what = What::PlaybookSays {
            run: job.run.to_owned(),
            step: job.step.to_owned(),
            text: self.spec.text.clone(),
            severity: self.spec.severity,
        };
        let alert = Alert::of(&self.means.policy.stack, what).playbook(job.step);
        Ok(Message {
            notices: vec![Notice { alert, started: job.began, resolved: None }],
            style: Style { language: notify.language, zone: self.means.policy.time_zone() },
            runbooks: notify.runbooks.clone(),
            host: host_name(),
        })
    }
}

impl Action for Notify {
    fn preview(&self, _job: &Job<'_>) -> Result<Preview> {
        let names: Vec<&str> = self.receivers()?.iter().map(Receiver::name).collect();
        Ok(Preview::of(format!("tells {}: {}", names.join(", "), self.spec.text)))
    }

    fn observe(&self, _job: &Job<'_>) -> Result<Observed> {
        // Who hears it twice knows that it is the same; who does not hear it knows nothing.
        Ok(Observed::Unknown("whether they were told is not known".to_owned()))
    }

    fn apply(&self, job: &Job<'_>) -> Result<Outputs> {
        let message = self.message(job)?;
        let (mut told, mut refused) = (Vec::new(), Vec::new());
        for receiver in self.receivers()? {
            job.cx.reporter.check()?;
            match receiver.deliver(&message, &self.means.web, job.cx.clock.now()) {
                Ok(_) => told.push(receiver.name()),
                Err(no) => refused.push(format!("{}: {}", receiver.name(), no.error.chain())),
            }
        }
        if refused.is_empty() {
            return Ok(Outputs::from([("told".to_owned(), told.join(", "))]));
        }
        let told = if told.is_empty() { "nobody".to_owned() } else { told.join(", ") };
        Err(Error::failed(format!("failed to tell everybody; told: {told}"))
            .with_source(refused.join("; "))
            .hint("`critical: false` lets the run go on where somebody cannot be told"))
    }
}
