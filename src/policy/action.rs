//! The settings of each kind of action.

use std::path::PathBuf;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    job::BackupKind,
    playbook::ActionSpec,
    source::Program,
    value::{Period, Setting},
};

/// A program of yours.
///
/// It is told in its environment what it is run for: `BACKSTAY_RUN`, `BACKSTAY_STEP`,
/// `BACKSTAY_STEP_KEY` (the same whenever the same step is tried again) and `BACKSTAY_MODE`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandAction {
    /// Does it. It must end with 0.
    pub apply: Program,
    /// Looks whether it is done, and changes nothing: ends with 0 if it is, with 1 if it is not,
    /// and with anything else if that cannot be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observe: Option<Program>,
    /// Takes it back. It must end with 0 also where nothing was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undo: Option<Program>,
    /// Twice does no more than once: it may be done again where nobody knows whether it was.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repeatable: bool,
    /// It changes nothing, so that there is nothing to take back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// Lines `NAME=VALUE` that `apply` (or `observe`) writes to its standard output, and that later
    /// steps use as `{{STEP.NAME}}`. Not for secrets: they are recorded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<String>,
    /// Variables; secrets as references.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub environment: IndexMap<String, Setting>,
    /// The working directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
}

/// A while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WaitAction {
    /// How long, from when the step first began.
    #[serde(rename = "for")]
    pub period: Period,
}

/// Something that a person does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ManualAction {
    /// What is to be done, and how one sees that it is.
    pub text: String,
}

/// People who have to agree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ApprovalAction {
    /// How many.
    #[schemars(range(min = 1, max = 20))]
    pub of: u32,
    /// Who of; anybody if left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
    /// What they agree to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl Default for ApprovalAction {
    fn default() -> Self {
        Self { of: 1, from: Vec::new(), text: None }
    }
}

/// A port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TcpAction {
    /// `HOST:PORT`.
    pub address: String,
    /// Whether it has to take connections, or has to refuse them.
    #[serde(default)]
    pub expect: Port,
    /// The pause between two tries.
    #[serde(default = "two_seconds")]
    pub every: Period,
}

/// What a port does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Port {
    /// It takes connections.
    #[default]
    Open,
    /// It takes none.
    Closed,
}

/// A source that is restored, as `backstay restore` does it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreAction {
    /// A source of this policy.
    pub source: String,
    /// Where to: a directory, or what else `--to` takes.
    pub to: String,
    /// The repository that is read; the source's own if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// More of the options of `backstay restore`, such as `--latest` and `--start` of a cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// Files that recover what is encrypted: `--identity`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identity: Vec<PathBuf>,
}

/// Sources that are backed up, as `backstay backup` does it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupAction {
    /// Sources of this policy.
    pub sources: Vec<String>,
    /// The kind of backup.
    #[serde(default = "full")]
    pub kind: BackupKind,
}

const fn two_seconds() -> Period {
    Period::from_secs(2)
}

const fn full() -> BackupKind {
    BackupKind::Full
}

impl ActionSpec {
    /// Whether a person is waited for.
    pub const fn is_gate(&self) -> bool {
        matches!(self, Self::Manual(_) | Self::Approval(_))
    }

    /// Whether it only looks or waits.
    pub const fn is_read_only(&self) -> bool {
        match self {
            Self::Command(command) => command.read_only,
            Self::Wait(_) | Self::Tcp(_) | Self::Approval(_) => true,
            Self::Manual(_) | Self::Restore(_) | Self::Backup(_) => false,
        }
    }

    /// Whether it can be taken back.
    pub const fn can_undo(&self) -> bool {
        matches!(self, Self::Command(command) if command.undo.is_some())
    }

    /// Whether it may be done again where nobody knows whether it was.
    pub const fn is_repeatable(&self) -> bool {
        match self {
            Self::Command(command) => command.repeatable || command.read_only,
            _ => true,
        }
    }

    /// Names of what later steps may use.
    pub fn outputs(&self) -> Vec<String> {
        let names: &[&str] = match self {
            Self::Command(command) => return command.outputs.clone(),
            Self::Restore(_) => &["backup", "recovery_point", "target"],
            Self::Backup(_) => &["backups"],
            Self::Wait(_) | Self::Manual(_) | Self::Approval(_) | Self::Tcp(_) => &[],
        };
        names.iter().map(|name| (*name).to_owned()).collect()
    }
}
