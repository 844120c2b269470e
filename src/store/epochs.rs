//! What the epochs of a stack say of an object: written under one after a newer one began, it is *divergent*.
//!
//! A site that was fenced and did not notice goes on to write. Nothing of that is what users see: it is
//! listed, and never restored unless somebody says so.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use super::role::ActiveSite;
use crate::archive::manifest::Manifest;
use crate::archive::tenure::{Tenure, Written};
use crate::clock::Clock;

/// The epochs of a stack, and who is asking.
#[derive(Debug, Clone, Default)]
pub struct Epochs {
    /// Oldest first.
    began: Vec<Began>,
    writer: Option<Writer>,
    ignored: bool,
}

/// Who writes.
#[derive(Debug, Clone)]
struct Writer {
    tenure: Tenure,
    clock: Arc<dyn Clock>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Began {
    epoch: u64,
    site: String,
    time: Timestamp,
}

/// Why an object is divergent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Divergence {
    /// The epoch that it was written under.
    pub epoch: u64,
    /// The site that wrote it; empty where nobody said.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub site: String,
    /// The first epoch of another site that had begun before.
    pub newer: u64,
    /// Its site.
    pub active: String,
    /// When it began.
    pub since: Timestamp,
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenure = Tenure { epoch: self.epoch, site: self.site.clone() };
        let Self { newer, active, since, .. } = self;
        write!(f, "written under {tenure} after epoch {newer} of site {active} began at {since}")
    }
}

impl Epochs {
    /// From the records of them.
    pub fn new(records: &[ActiveSite]) -> Self {
        let mut began: Vec<Began> = records
            .iter()
            .map(|one| Began { epoch: one.epoch, site: one.site.clone(), time: one.time })
            .collect();
        began.sort_by_key(|one| one.epoch);
        Self { began, writer: None, ignored: false }
    }

    /// For somebody who said that they want what is divergent too.
    pub fn ignored() -> Self {
        Self { ignored: true, ..Self::default() }
    }

    /// Whether what is divergent is wanted too.
    pub fn are_ignored(&self) -> bool {
        self.ignored
    }

    /// The same, for one who writes.
    #[must_use]
    pub fn written_by(self, tenure: Tenure, clock: Arc<dyn Clock>) -> Self {
        Self { writer: Some(Writer { tenure, clock }), ..self }
    }

    /// Under what a manifest is written. `None`: nobody asked which epoch it is.
    pub fn tenure(&self) -> Option<&Tenure> {
        self.writer.as_ref().map(|writer| &writer.tenure)
    }

    /// What is noted in an object that is written now.
    pub fn written(&self) -> Option<Written> {
        let known = self.writer.as_ref().filter(|writer| writer.tenure.is_known())?;
        Some(Written { tenure: known.tenure.clone(), at: known.clock.now() })
    }

    /// Whether no epoch ever began.
    pub fn is_empty(&self) -> bool {
        self.began.is_empty()
    }

    /// When the first epoch began.
    pub fn first(&self) -> Option<Timestamp> {
        self.began.iter().map(|one| one.time).min()
    }

    /// Why something that was written at an instant is divergent. `None`: it is not.
    ///
    /// An epoch without a site, or of the writer's own, takes nothing away from it. Of what says nothing
    /// of its epoch nothing can be told.
    pub fn divergence(&self, tenure: &Tenure, at: Timestamp) -> Option<Divergence> {
        if !tenure.is_known() {
            return None;
        }
        let newer = self.began.iter().find(|one| {
            let other = !one.site.is_empty() && one.site != tenure.site;
            one.epoch > tenure.epoch && one.time <= at && other
        })?;
        Some(Divergence {
            epoch: tenure.epoch,
            site: tenure.site.clone(),
            newer: newer.epoch,
            active: newer.site.clone(),
            since: newer.time,
        })
    }

    /// Why a backup is divergent.
    pub fn of(&self, manifest: &Manifest) -> Option<Divergence> {
        self.divergence(&manifest.tenure(), manifest.end)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::super::coordination::Worker;
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn epochs(all: &[(&str, i64)]) -> Epochs {
        let by = || Worker::here("here".into());
        let records: Vec<ActiveSite> = (1..)
            .zip(all)
            .map(|(epoch, (site, second))| {
                ActiveSite::new(epoch, site, "run/step", "proven", by(), at(*second))
            })
            .collect();
        Epochs::new(&records)
    }

    #[test]
    fn what_is_written_after_another_site_took_over_is_divergent() {
        let epochs = epochs(&[("a", 100), ("b", 200), ("a", 300)]);
        let newer = |epoch: u64, site: &str, second: i64| {
            let tenure = Tenure { epoch, site: site.to_owned() };
            epochs.divergence(&tenure, at(second)).map(|found| found.newer)
        };
        assert_eq!(newer(1, "a", 199), None);
        assert_eq!(newer(1, "a", 200), Some(2));
        assert_eq!(newer(1, "a", 999), Some(2), "that it became active again changes nothing");
        assert_eq!(newer(2, "b", 299), None);
        assert_eq!(newer(2, "b", 300), Some(3));
        assert_eq!(newer(3, "a", 999), None);
        // Before the first epoch, and by nobody's site.
        assert_eq!(newer(0, "", 999), None, "written for a policy without sites");
        assert_eq!(newer(0, "a", 150), None, "the first epoch is its own");
        assert_eq!(newer(0, "b", 150), Some(1));
    }

    #[test]
    fn an_epoch_that_was_taken_back_makes_nothing_divergent_by_itself() {
        let epochs = epochs(&[("a", 100), ("", 200)]);
        let tenure = Tenure { epoch: 1, site: "a".to_owned() };
        assert_eq!(epochs.divergence(&tenure, at(500)), None);
        assert_eq!(Epochs::default().divergence(&Tenure::default(), at(500)), None);
    }
}
