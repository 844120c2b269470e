//! `backup`: sources, as they are now.

use std::sync::Arc;

use super::itself::backstay;
use crate::error::Result;
use crate::id::SourceAddress;
use crate::playbook::action::{Action, Job, Means, Observed, Preview};
use crate::playbook::record::Outputs;
use crate::policy::BackupAction;

/// Backs sources up.
pub struct Backup {
    spec: BackupAction,
    means: Arc<Means>,
}

impl Backup {
    /// As a step says.
    pub fn new(spec: BackupAction, means: Arc<Means>) -> Self {
        Self { spec, means }
    }

    fn addresses(&self) -> Vec<String> {
        let stack = &self.means.policy.stack;
        self.spec.sources.iter().map(|one| SourceAddress::new(stack, one).to_string()).collect()
    }
}

impl Action for Backup {
    fn preview(&self, _job: &Job<'_>) -> Result<Preview> {
        let mut preview =
            Preview::of(format!("backs up {} ({})", self.addresses().join(", "), self.spec.kind));
        for source in &self.spec.sources {
            let Some((name, _)) = self.means.policy.repository_of(source) else { continue };
            if let Err(error) = (self.means.open)(name) {
                preview = preview.missing(error.chain());
            }
        }
        Ok(preview)
    }

    fn observe(&self, _job: &Job<'_>) -> Result<Observed> {
        // One backup more does no harm.
        Ok(Observed::Unknown("whether it was committed is not known".to_owned()))
    }

    fn apply(&self, job: &Job<'_>) -> Result<Outputs> {
        let mut arguments = vec!["backup".to_owned()];
        arguments.extend(self.addresses());
        arguments.extend(["--kind".to_owned(), self.spec.kind.word().to_owned()]);
        let report = backstay(&self.means, job, &arguments)
            .map_err(|error| error.context("failed to back up"))?;
        let made: Vec<String> = report["backups"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|backup| backup["backup"].as_str().map(str::to_owned))
            .collect();
        Ok(Outputs::from([("backups".to_owned(), made.join(" "))]))
    }
}
