//! Who is told about failures, misses and recoveries.

use std::path::PathBuf;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::value::{Period, Setting};
use crate::secret::SecretRef;

/// Who is told about failures, misses and recoveries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Notify {
    /// The language of what people read.
    pub language: Language,
    /// How often people are told again of what still fires; 4h if left out.
    pub repeat: Period,
    /// The address of your copy of `docs/runbooks.md`, which has a section for each alert.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runbooks: Option<String>,
    /// A Prometheus Alertmanager.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alertmanager: Option<Alertmanager>,
    /// A web hook.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
    /// A robot of a DingTalk group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dingtalk: Option<Robot>,
    /// A robot of a WeCom group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wecom: Option<Wecom>,
    /// A robot of a Feishu (Lark) group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feishu: Option<Robot>,
    /// A program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<NotifyCommand>,
    /// A dead man's switch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ping: Option<Ping>,
}

impl Default for Notify {
    fn default() -> Self {
        Self {
            language: Language::default(),
            repeat: Period::from_secs(4 * 3600),
            runbooks: None,
            alertmanager: None,
            webhook: None,
            dingtalk: None,
            wecom: None,
            feishu: None,
            command: None,
            ping: None,
        }
    }
}

impl Notify {
    /// The keys of the receivers that it names. A dead man's switch is told of runs, and not among them.
    pub fn receivers(&self) -> Vec<&'static str> {
        let named = [
            ("alertmanager", self.alertmanager.is_some()),
            ("webhook", self.webhook.is_some()),
            ("dingtalk", self.dingtalk.is_some()),
            ("wecom", self.wecom.is_some()),
            ("feishu", self.feishu.is_some()),
            ("command", self.command.is_some()),
        ];
        named.into_iter().filter_map(|(name, is)| is.then_some(name)).collect()
    }
}

/// The language of what people read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    /// English.
    #[default]
    En,
    /// Chinese.
    Zh,
}

/// How bad it is.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum AlertSeverity {
    /// Somebody has to look at it in the next days.
    #[default]
    Warning,
    /// Somebody has to look at it now.
    Critical,
}

impl AlertSeverity {
    /// The word, as in policies and labels.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// A Prometheus Alertmanager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Alertmanager {
    /// Its address, without `/api/…`.
    pub url: Setting,
    /// Headers; secrets as references.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub headers: IndexMap<String, Setting>,
    /// Only what is at least so bad.
    #[serde(default)]
    pub severity: AlertSeverity,
}

/// A web hook that gets alerts as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Its address; a reference where the address is the secret.
    pub url: Setting,
    /// Headers; secrets as references.
    #[serde(default)]
    pub headers: IndexMap<String, Setting>,
    /// What requests are signed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretRef>,
    /// Only what is at least so bad.
    #[serde(default)]
    pub severity: AlertSeverity,
}

/// A robot of a DingTalk or Feishu group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Robot {
    /// Its address, which is a secret: whoever has it writes to the group.
    pub url: SecretRef,
    /// What messages are signed with, where the group asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretRef>,
    /// Only what is at least so bad.
    #[serde(default)]
    pub severity: AlertSeverity,
}

/// A robot of a WeCom group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Wecom {
    /// Its address, which is a secret: whoever has it writes to the group.
    pub url: SecretRef,
    /// Only what is at least so bad.
    #[serde(default)]
    pub severity: AlertSeverity,
}

/// A program that gets alerts as JSON on its standard input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NotifyCommand {
    /// The program and its arguments; no shell.
    pub argv: Vec<String>,
    /// Its environment beside the daemon's; secrets as references.
    #[serde(default)]
    pub environment: IndexMap<String, Setting>,
    /// Where it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// When it is ended, and failed; 30 seconds if left out.
    #[serde(default = "command_timeout")]
    pub timeout: Period,
    /// Only what is at least so bad.
    #[serde(default)]
    pub severity: AlertSeverity,
}

const fn command_timeout() -> Period {
    Period::from_secs(30)
}

/// A dead man's switch that hears of the begin and the end of every run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ping {
    /// Its address; a reference where the address is the secret. `{stack}`, `{job}` and `{source}`
    /// are replaced. Jobs that are not under `jobs` use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<Setting>,
    /// Addresses of single jobs.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub jobs: IndexMap<String, Setting>,
}

impl Ping {
    /// The address that hears of a job, if one does.
    pub fn of(&self, job: &str) -> Option<&Setting> {
        self.jobs.get(job).or(self.url.as_ref())
    }
}
