//! `secret_check`: the secrets of this host are those that were backed up. With another key what was
//! encrypted by it cannot be read, and the application that finds out writes over it.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use indexmap::IndexMap;
use secrecy::ExposeSecret as _;

use super::itself::backstay;
use super::restore::choose;
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::id::SourceAddress;
use crate::playbook::action::{Action, Job, Means, Observed, Preview};
use crate::playbook::record::Outputs;
use crate::policy::{SecretCheckAction, SourceSpec};
use crate::secret::SecretRef;

/// Compares secrets with a backup of them.
pub struct SecretCheck {
    spec: SecretCheckAction,
    means: Arc<Means>,
}

impl SecretCheck {
    /// As a step says.
    pub fn new(spec: SecretCheckAction, means: Arc<Means>) -> Self {
        Self { spec, means }
    }

    fn secrets(&self) -> Result<&IndexMap<String, SecretRef>> {
        match self.means.policy.sources.get(&self.spec.source).map(|source| &source.spec) {
            Some(SourceSpec::Secrets(secrets)) => Ok(secrets),
            _ => Err(Error::usage(format!("`{}` is no source of secrets", self.spec.source))),
        }
    }

    /// Where they are restored to, for a moment. The same for whoever goes on: nothing is left.
    fn place(&self, job: &Job<'_>) -> PathBuf {
        let name = format!(".{}-{}", job.run, job.step);
        self.means.state_directory.join("playbooks").join(name)
    }

    fn compare(&self, job: &Job<'_>) -> Result<Vec<String>> {
        let place = self.place(job);
        let failed = || format!("failed to make {}", place.display());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&place).doing(failed)?;
        let (backup, _) = choose(&self.means, &self.spec.source, None, job)?;
        let address = SourceAddress::new(&self.means.policy.stack, &self.spec.source).to_string();
        let mut arguments: Vec<String> = Vec::new();
        for identity in &self.spec.identity {
            arguments.extend(["--identity".to_owned(), identity.display().to_string()]);
        }
        arguments.extend(["restore".to_owned(), address, "--backup".to_owned(), backup]);
        let target = place.join("values");
        arguments.extend(["--to".to_owned(), target.display().to_string()]);
        backstay(&self.means, job, &arguments)
            .map_err(|error| error.context("failed to read the secrets that were backed up"))?;
        let mut wrong = Vec::new();
        for (name, reference) in self.secrets()? {
            let stored = match fs::read(target.join(name)) {
                Ok(stored) => stored,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    wrong.push(format!("{name} was not backed up"));
                    continue;
                }
                Err(error) => return Err(Error::io("failed to read what was restored", error)),
            };
            match reference.resolve() {
                Ok(value) if value.expose_secret().as_bytes() == stored => {}
                Ok(_) => wrong.push(format!("{reference} is not the {name} that was backed up")),
                Err(_) => wrong.push(format!("{reference} is not set here")),
            }
        }
        Ok(wrong)
    }
}

impl Action for SecretCheck {
    fn preview(&self, job: &Job<'_>) -> Result<Preview> {
        let (backup, point) = choose(&self.means, &self.spec.source, None, job)?;
        let mut preview =
            Preview::of(format!("compares the secrets of this host with {backup}, of {point}"));
        for reference in self.secrets()?.values() {
            if let Err(error) = reference.resolve() {
                preview = preview.missing(error.chain());
            }
        }
        Ok(preview)
    }

    fn observe(&self, _job: &Job<'_>) -> Result<Observed> {
        Ok(Observed::NotDone)
    }

    fn apply(&self, job: &Job<'_>) -> Result<Outputs> {
        let place = self.place(job);
        let clean = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(Error::io(format!("failed to remove {}", place.display()), error)),
        };
        // Of a process that was killed here.
        fs::remove_dir_all(&place).or_else(clean)?;
        let compared = self.compare(job);
        fs::remove_dir_all(&place).or_else(clean)?;
        match compared?.as_slice() {
            [] => Ok(Outputs::from([("checked".to_owned(), self.secrets()?.len().to_string())])),
            wrong => Err(Error::new(ErrorKind::Conflict, wrong.join("; "))
                .hint("bring the right secrets to this host before anything is started")),
        }
    }
}
