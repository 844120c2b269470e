//! How long backups are kept: the rule as written in a policy.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::value::Period;

/// A keep rule. A backup is kept as long as any part of the rule wants it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Keep {
    /// Every backup younger than this, by its end.
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    pub period: Option<Period>,
    /// The newest so many, whatever their age: the floor that outlives a week of failures.
    pub at_least: u32,
    /// The newest of each of the last so many hours that have one.
    pub hourly: u32,
    /// The newest of each of the last so many days that have one.
    pub daily: u32,
    /// The newest of each of the last so many ISO weeks that have one.
    pub weekly: u32,
    /// The newest of each of the last so many months that have one.
    pub monthly: u32,
    /// The newest of each of the last so many years that have one.
    pub yearly: u32,
}

impl Keep {
    /// Whether the rule keeps nothing at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether some backups stay however old they become.
    pub const fn has_floor(&self) -> bool {
        self.at_least > 0
            || self.hourly > 0
            || self.daily > 0
            || self.weekly > 0
            || self.monthly > 0
            || self.yearly > 0
    }
}
