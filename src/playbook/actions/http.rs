//! `http`: a page answers as expected.

use std::sync::Arc;

use secrecy::ExposeSecret as _;

use crate::error::{Error, ErrorKind, Result};
use crate::playbook::action::{Action, Job, Means, Observed, Preview};
use crate::playbook::record::Outputs;
use crate::policy::{HttpAction, Setting};
use crate::store::Reply;

/// How much of an unexpected answer is shown.
const SHOWN: usize = 200;

/// Looks at a page.
pub struct Http {
    spec: HttpAction,
    means: Arc<Means>,
}

impl Http {
    /// As a step says.
    pub fn new(spec: HttpAction, means: Arc<Means>) -> Self {
        Self { spec, means }
    }

    fn ask(&self) -> Result<Reply> {
        let mut headers = Vec::new();
        for (name, value) in &self.spec.headers {
            let value = match value {
                Setting::Plain(text) => text.clone(),
                Setting::Secret(reference) => reference.resolve()?.expose_secret().to_owned(),
            };
            headers.push((name.clone(), value));
        }
        self.means.web.get(&self.spec.url, &headers)
    }

    fn look(&self) -> Result<()> {
        let reply = self.ask()?;
        let body: String = reply.body.split_whitespace().collect::<Vec<_>>().join(" ");
        let shown: String = body.chars().take(SHOWN).collect();
        let well = match self.spec.status.as_slice() {
            [] => reply.is_success(),
            wanted => wanted.contains(&reply.status),
        };
        if !well {
            return Err(Error::failed(format!(
                "{} answers {} {shown}",
                self.spec.url, reply.status
            )));
        }
        match &self.spec.contains {
            Some(text) if !reply.body.contains(text.as_str()) => Err(Error::failed(format!(
                "the answer of {} has no `{text}` in it: {shown}",
                self.spec.url
            ))),
            _ => Ok(()),
        }
    }
}

impl Action for Http {
    fn preview(&self, _job: &Job<'_>) -> Result<Preview> {
        let preview = Preview::of(format!("waits until {} answers as expected", self.spec.url));
        // It may well not be up yet; that it can be asked at all is what can be known.
        Ok(match self.ask() {
            Err(error) if error.kind() != ErrorKind::Unreachable => preview.missing(error.chain()),
            _ => preview,
        })
    }

    fn observe(&self, _job: &Job<'_>) -> Result<Observed> {
        let done = self.look().is_ok();
        Ok(if done { Observed::Done(Outputs::new()) } else { Observed::NotDone })
    }

    fn apply(&self, job: &Job<'_>) -> Result<Outputs> {
        job.until(self.spec.every.get(), || self.look()).map(|()| Outputs::new())
    }
}
