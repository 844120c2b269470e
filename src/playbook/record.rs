//! What is written down of a run.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::compile::Plan;
use super::transition::Happened;
use crate::store::Worker;

/// What a step leaves for later ones, by name. Not secret: it is written down.
pub type Outputs = BTreeMap<String, String>;

/// The version of records that this program writes and reads.
pub const VERSION: u32 = 1;

/// One record of a journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Format version.
    #[serde(rename = "journal")]
    pub version: u32,
    /// The run.
    pub run: String,
    /// Counts from 1.
    pub number: u64,
    /// SHA-256 of the record before, as it is stored; empty for the first.
    pub previous: String,
    /// When it was written.
    pub time: Timestamp,
    /// Who wrote it.
    pub by: Worker,
    /// Tells this write from another's.
    pub nonce: String,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// Somebody who decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// What they call themselves.
    pub name: String,
    /// Whom the operating system takes them for.
    pub user: String,
    /// Where.
    pub host: String,
}

impl std::fmt::Display for Person {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.name == self.user {
            write!(f, "{} on {}", self.name, self.host)
        } else {
            write!(f, "{} ({} on {})", self.name, self.user, self.host)
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every step is done.
    Succeeded,
    /// It got to its end, but steps that are not critical failed, or a person skipped some.
    SucceededWithFailures,
    /// What was done was taken back.
    Undone,
    /// A person left it as it was.
    Left,
}

impl Outcome {
    /// The words, for people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::SucceededWithFailures => "succeeded with failures",
            Self::Undone => "undone",
            Self::Left => "left as it was",
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A run began. Its plan does not change any more.
    Started {
        /// What it does.
        plan: Plan,
        /// The plan's hash.
        hash: String,
        /// Who started it.
        who: Person,
    },
    /// Somebody goes on with it. Counts up: the one with the highest number acts.
    TakenOver {
        /// The number.
        epoch: u64,
    },
    /// A person is waited for.
    Asked {
        /// The step.
        step: String,
    },
    /// A person agrees.
    Approved {
        /// The step.
        step: String,
        /// Who.
        who: Person,
        /// What exactly they agree to: see [`super::approval::binds`].
        binds: String,
        /// In their words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A step begins.
    Intended {
        /// The step.
        step: String,
        /// Counts from 1.
        attempt: u32,
        /// What the action wants to know afterwards of how things were.
        #[serde(default, skip_serializing_if = "Outputs::is_empty")]
        before: Outputs,
    },
    /// An attempt failed, and another one follows.
    Tried {
        /// The step.
        step: String,
        /// Why.
        why: String,
    },
    /// A step is done.
    Succeeded {
        /// The step.
        step: String,
        /// What it leaves for later ones.
        #[serde(default, skip_serializing_if = "Outputs::is_empty")]
        outputs: Outputs,
        /// It was found done: whoever did it could not write that down.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        found: bool,
    },
    /// A step failed.
    Failed {
        /// The step.
        step: String,
        /// Why.
        why: String,
    },
    /// A step began, and nobody can tell whether it is done.
    Lost {
        /// The step.
        step: String,
        /// Why not.
        why: String,
    },
    /// A step is not to be done.
    Skipped {
        /// The step.
        step: String,
        /// Why.
        why: String,
        /// Who says so; `None` where the plan does.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        who: Option<Person>,
    },
    /// A person says that a step is done.
    Attested {
        /// The step.
        step: String,
        /// Who.
        who: Person,
        /// How they know.
        text: String,
    },
    /// A person wants a step tried again.
    Retried {
        /// The step.
        step: String,
        /// Who.
        who: Person,
    },
    /// From here on what was done is taken back.
    Unwinding {
        /// Why.
        why: String,
        /// Who says so; `None` where the plan does.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        who: Option<Person>,
    },
    /// A step is being taken back.
    UndoIntended {
        /// The step.
        step: String,
    },
    /// A step was taken back.
    Undone {
        /// The step.
        step: String,
        /// It was found taken back.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        found: bool,
    },
    /// A step could not be taken back.
    UndoFailed {
        /// The step.
        step: String,
        /// Why.
        why: String,
    },
    /// The run is over.
    Ended {
        /// How.
        outcome: Outcome,
        /// Who says so, where a person left it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        who: Option<Person>,
        /// Why, where a person left it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
}

impl Event {
    /// The step it is about and what happened to it, if it is about one.
    pub fn of_step(&self) -> Option<(&str, Happened)> {
        Some(match self {
            Self::Asked { step } => (step, Happened::Asked),
            Self::Approved { step, .. } => (step, Happened::Approved),
            Self::Intended { step, .. } => (step, Happened::Intended),
            Self::Tried { step, .. } => (step, Happened::Tried),
            Self::Succeeded { step, .. } => (step, Happened::Succeeded),
            Self::Failed { step, .. } => (step, Happened::Failed),
            Self::Lost { step, .. } => (step, Happened::Lost),
            Self::Skipped { step, .. } => (step, Happened::Skipped),
            Self::Attested { step, .. } => (step, Happened::Attested),
            Self::Retried { step, .. } => (step, Happened::Retried),
            Self::UndoIntended { step } => (step, Happened::UndoIntended),
            Self::Undone { step, .. } => (step, Happened::Undone),
            Self::UndoFailed { step, .. } => (step, Happened::UndoFailed),
            Self::Started { .. }
            | Self::TakenOver { .. }
            | Self::Unwinding { .. }
            | Self::Ended { .. } => return None,
        })
    }
}
