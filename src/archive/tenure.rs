//! Under which epoch something was written, and by which site.

use std::fmt;

use jiff::Timestamp;

use super::manifest::Manifest;

/// What a writer knew of its right to write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tenure {
    /// The epoch it counted on. 0: none had begun.
    pub epoch: u64,
    /// The site it belongs to. Empty: to none.
    pub site: String,
}

impl Tenure {
    /// Whether it says anything: who writes for a policy without sites knows of no epochs.
    pub fn is_known(&self) -> bool {
        self.epoch > 0 || !self.site.is_empty()
    }
}

impl Manifest {
    /// What its writer knew of its right to write.
    pub fn tenure(&self) -> Tenure {
        Tenure { epoch: self.epoch, site: self.site.clone().unwrap_or_default() }
    }
}

/// What is noted in an object that has no manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Under which epoch.
    pub tenure: Tenure,
    /// When, by the writer's clock, to the microsecond.
    pub at: Timestamp,
}

impl fmt::Display for Tenure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.site.as_str() {
            "" => write!(f, "epoch {}", self.epoch),
            site => write!(f, "epoch {} of site {site}", self.epoch),
        }
    }
}
