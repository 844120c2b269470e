//! How the runs of a job behave: when they may begin, what they wait for, how often they are tried.

use std::path::PathBuf;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::value::{Period, Setting};

/// How the runs of a job behave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Execution {
    /// Runs begin up to so much later, each job always by the same share of it.
    pub jitter: Option<Period>,
    /// A run that could not begin within this time is missed.
    pub start_within: Option<Period>,
    /// A run that takes longer than this is ended, and failed.
    pub stop_after: Option<Period>,
    /// What happens when a run is due and the last has not ended.
    pub overlap: Overlap,
    /// What happens with runs that were due while nobody was there to do them.
    pub catch_up: CatchUp,
    /// Of two that wait, the one with the higher number goes first.
    pub priority: i32,
    /// Pools that a run takes a place in each of.
    pub pools: Vec<String>,
    /// Windows in which no run begins.
    pub avoid: Vec<String>,
    /// Windows in one of which runs begin.
    pub within: Vec<String>,
    /// How often a run is tried again.
    pub retry: Retry,
    /// What is run before and after it.
    pub hooks: Hooks,
}

/// What happens when a run is due and the last has not ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// It is skipped, and counted.
    #[default]
    Skip,
    /// It waits; at most one does.
    Wait,
    /// The last is ended, and fails.
    Replace,
}

/// What happens with runs that were due while nobody was there to do them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// The latest is done, the others are missed.
    #[default]
    Latest,
    /// All are missed.
    None,
}

/// How often a run that failed is tried again. What cannot succeed is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// How often after the first time.
    pub times: u32,
    /// The pause before the first time; it doubles.
    pub pause: Period,
    /// The longest pause.
    pub longest_pause: Period,
}

impl Default for Retry {
    fn default() -> Self {
        Self { times: 2, pause: Period::from_secs(60), longest_pause: Period::from_secs(15 * 60) }
    }
}

impl Retry {
    /// The pause after the `failed`th failure, counted from 1; `None` if that was the last try.
    pub fn pause_after(&self, failed: u32) -> Option<Period> {
        if failed == 0 || failed > self.times {
            return None;
        }
        let doubled = 1u64.checked_shl(failed - 1).unwrap_or(u64::MAX);
        let pause = self.pause.as_secs().saturating_mul(doubled);
        Some(Period::from_secs(pause.min(self.longest_pause.as_secs())))
    }
}

/// Programs that are run around a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Hooks {
    /// Before the run. If it fails there is no run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Hook>,
    /// After the run, whatever came of it: `BACKSTAY_OUTCOME` tells. If it fails the run stays as
    /// it is, with a warning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Hook>,
    /// After a run that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<Hook>,
}

impl Hooks {
    /// The hooks, with their names in a policy.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &Hook)> {
        [("before", &self.before), ("after", &self.after), ("on_failure", &self.on_failure)]
            .into_iter()
            .filter_map(|(name, hook)| hook.as_ref().map(|hook| (name, hook)))
    }
}

/// A program that is run before or after a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// The program and its arguments; no shell.
    pub argv: Vec<String>,
    /// Its environment beside the daemon's; secrets as references.
    #[serde(default)]
    pub environment: IndexMap<String, Setting>,
    /// Where it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// When it is ended, and failed; 10 minutes if left out.
    #[serde(default = "hook_timeout")]
    pub timeout: Period,
}

const fn hook_timeout() -> Period {
    Period::from_secs(600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_end() {
        let retry = Retry { times: 4, ..Retry::default() };
        let pauses: Vec<Option<u64>> =
            (0..7).map(|failed| retry.pause_after(failed).map(Period::as_secs)).collect();
        assert_eq!(pauses, [None, Some(60), Some(120), Some(240), Some(480), None, None]);
        let often = Retry { times: 100, ..Retry::default() };
        assert_eq!(often.pause_after(90).map(Period::as_secs), Some(900));
    }
}
