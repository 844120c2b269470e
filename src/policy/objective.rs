//! Objectives: how long a recovery may take (RTO) and how much may be lost (RPO).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::value::Period;

/// A class of service with objectives of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// RTO 24 h, RPO 24 h.
    Development,
    /// RTO 4 h, RPO 4 h.
    Staging,
    /// RTO 1 h, RPO 15 min.
    Production,
}

impl Tier {
    /// What the tier promises.
    pub const fn objectives(self) -> Objectives {
        let (rto, rpo) = match self {
            Self::Development => (24 * 3600, 24 * 3600),
            Self::Staging => (4 * 3600, 4 * 3600),
            Self::Production => (3600, 15 * 60),
        };
        Objectives { rto: Period::from_secs(rto), rpo: Period::from_secs(rpo) }
    }
}

/// Objectives as written: what is left out follows from what stands around it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Targets {
    /// The longest time a recovery may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rto: Option<Period>,
    /// The longest stretch of changes that may be lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpo: Option<Period>,
}

/// Objectives in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Objectives {
    /// The longest time a recovery may take.
    pub rto: Period,
    /// The longest stretch of changes that may be lost.
    pub rpo: Period,
}

impl Objectives {
    /// These objectives with what `targets` says instead.
    #[must_use]
    pub fn with(self, targets: Targets) -> Self {
        Self { rto: targets.rto.unwrap_or(self.rto), rpo: targets.rpo.unwrap_or(self.rpo) }
    }
}
