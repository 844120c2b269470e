//! `recovery_points`: where each source would be restored to, how far these instants lie apart, and how
//! much would be lost.

use std::sync::Arc;

use jiff::Timestamp;

use crate::error::{Error, Result};
use crate::id::SourceAddress;
use crate::playbook::action::{Action, Job, Means, Observed, Preview};
use crate::playbook::loss::OUTPUT;
use crate::playbook::record::Outputs;
use crate::policy::RecoveryPointsAction;
use crate::run::protection::newest;

/// Looks for recovery points.
pub struct RecoveryPoints {
    spec: RecoveryPointsAction,
    means: Arc<Means>,
}

impl RecoveryPoints {
    /// As a step says.
    pub fn new(spec: RecoveryPointsAction, means: Arc<Means>) -> Self {
        Self { spec, means }
    }

    /// The newest point of a source that is not after an instant.
    fn point(&self, source: &str, at: Timestamp) -> Result<Timestamp> {
        let policy = &self.means.policy;
        let own = policy.repository_of(source).map(|(name, _)| name);
        let name = self.spec.repository.as_deref().or(own);
        let name = name.ok_or_else(|| Error::usage(format!("`{source}` has no repository")))?;
        let repository = (self.means.open)(name)?;
        let address = SourceAddress::new(&policy.stack, source);
        let store = repository.source(&address);
        let mut manifests = Vec::new();
        for (_, manifest) in store.manifests(&store.commits()?)? {
            // What cannot be read is nothing to restore from.
            let Ok(mut manifest) = manifest else { continue };
            manifest.recovery_points.retain(|point| point.time <= at);
            if !manifest.recovery_points.is_empty() {
                manifests.push(manifest);
            }
        }
        let found = newest(&store, &manifests)?;
        // WAL leads to any instant up to its end.
        found.map(|found| found.time.min(at)).ok_or_else(|| {
            Error::not_found(format!(
                "there is no backup of {address} from {at} or before in {name}"
            ))
        })
    }

    fn look(&self, job: &Job<'_>) -> Result<Outputs> {
        let at = job.at.unwrap_or(job.started);
        let mut points: Vec<(&String, Timestamp)> = Vec::new();
        for source in &self.spec.sources {
            job.cx.reporter.check()?;
            points.push((source, self.point(source, at)?));
        }
        let times = || points.iter().map(|(_, time)| *time);
        let (Some(oldest), Some(newest)) = (times().min(), times().max()) else {
            return Err(Error::usage("no source is named"));
        };
        let seconds =
            |from: Timestamp, until: Timestamp| until.duration_since(from).as_secs().max(0) as u64;
        let (skew, loss) = (seconds(oldest, newest), seconds(oldest, at));
        // What the policy promises of each source, whatever the step takes, and however far back somebody
        // wants to go: what was written since then is lost.
        let now = at.max(job.started);
        let beyond = points.iter().any(|(source, time)| {
            seconds(*time, now) > self.means.policy.objectives_of(source).rpo.as_secs()
        });
        let apart = self.spec.max_skew.is_some_and(|limit| skew > limit.as_secs());
        let over = apart || self.spec.max_loss.map_or(beyond, |most| loss > most.as_secs());
        let all: Vec<String> =
            points.iter().map(|(source, time)| format!("{source}={time}")).collect();
        Ok(Outputs::from([
            ("points".to_owned(), all.join(" ")),
            ("oldest".to_owned(), oldest.to_string()),
            ("newest".to_owned(), newest.to_string()),
            ("skew".to_owned(), skew.to_string()),
            ("loss".to_owned(), loss.to_string()),
            ("over".to_owned(), if over { "yes" } else { "no" }.to_owned()),
            (OUTPUT.to_owned(), if beyond { "yes" } else { "no" }.to_owned()),
        ]))
    }
}

impl Action for RecoveryPoints {
    fn preview(&self, job: &Job<'_>) -> Result<Preview> {
        let found = self.look(job)?;
        let of = |name: &str| found.get(name).cloned().unwrap_or_default();
        let preview = Preview::of(format!(
            "{}; {} s apart, {} s would be lost",
            of("points"),
            of("skew"),
            of("loss")
        ));
        Ok(match of("loss").parse() {
            Ok(seconds) => preview.losing(seconds),
            Err(_) => preview,
        })
    }

    fn observe(&self, job: &Job<'_>) -> Result<Observed> {
        self.look(job).map(Observed::Done)
    }

    fn apply(&self, job: &Job<'_>) -> Result<Outputs> {
        self.look(job)
    }
}
