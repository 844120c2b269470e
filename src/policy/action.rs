//! The settings of each kind of action.

use std::path::PathBuf;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    job::BackupKind,
    playbook::ActionSpec,
    server_action::{PostgresAction, StarRocksAction},
    source::Program,
    value::{Period, Setting},
};
use crate::secret::SecretRef;

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
    /// steps use as `{{STEP.NAME}}`. Not for secrets: they are recorded. A program that has some prints
    /// 64 KiB at the most; more is a failure.
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
    /// This backup, such as `{{STEP.backups}}` of a `backup` above; the newest from before the run began
    /// if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// More of the options of `backstay restore`, such as `--latest` and `--start` of a cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// Files that recover what is encrypted: `--identity`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identity: Vec<PathBuf>,
}

/// Where sources would be restored to: of each the newest point not after the instant that was asked for.
///
/// Outputs: `points`, `oldest`, `newest`, `skew` and `loss` in seconds, and `over`: `yes` where either is more
/// than it may be, for an approval that is asked only then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecoveryPointsAction {
    /// Sources of this policy that have to fit together.
    pub sources: Vec<String>,
    /// The repository that is read; each source's own if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// How far the points may lie apart; any distance if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_skew: Option<Period>,
    /// How much may be lost; the RPO of the stack if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_loss: Option<Period>,
}

/// A site that becomes the active one: an epoch begins, of which there is only one with its number.
///
/// Why the site before takes no writes has to be known: `proof`, what a server of it refused, or
/// `attested`, the people who say so, together with `vantage_points` or `unreachable`. What is an output
/// of a step before cannot be skipped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleAction {
    /// One of `sites`.
    pub to: String,
    /// `{{STEP.proof}}` of a `postgres: { prove_fenced: … }`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    /// `{{STEP.approved_by}}` of an approval of two people or more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attested: Option<String>,
    /// `{{STEP.state}}` of `tcp` checks that expect `closed`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreachable: Vec<String>,
    /// Places, each by a name, from which it is looked whether the site before takes connections, when
    /// people attest that it takes no writes. Each has to answer, and none may reach it.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub vantage_points: IndexMap<String, VantagePoint>,
    /// `{{STEP.approved_by}}` of an approval: the people who agree that it happens although the last
    /// epoch began less than `role.settle` ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsettled: Option<String>,
}

/// A place from which it is looked whether a site can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VantagePoint {
    /// The host that it is looked from, as `ssh` takes it; the one that carries the playbook out if left
    /// out. It is never asked for a password, and needs `bash`, `getent` and `timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// `HOST:PORT` of the site before, as that host knows it.
    pub tcp: String,
}

/// Secrets that have to be those that were backed up. They are read into the state directory, for its
/// owner alone, and removed at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretCheckAction {
    /// A source of this policy that is `secrets`.
    pub source: String,
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

/// A page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpAction {
    /// `http://…` or `https://…`.
    pub url: String,
    /// Headers; secrets as references.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub headers: IndexMap<String, Setting>,
    /// The statuses that are well; 200 to 299 if left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub status: Vec<u16>,
    /// A text that the answer has to have in it: a status alone often says little.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    /// The pause between two tries.
    #[serde(default = "two_seconds")]
    pub every: Period,
}

/// A query of PostgreSQL, in a transaction that can only read. Its first value is the output `value`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlAction {
    /// A libpq connection string or URI; `password=` only as a reference.
    pub connection: String,
    /// One query.
    pub query: String,
    /// What its first value has to be.
    #[serde(default)]
    pub expect: Expectation,
    /// The pause between two tries.
    #[serde(default = "two_seconds")]
    pub every: Period,
}

/// What a value has to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Expectation {
    /// This.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is: Option<String>,
    /// Anything but this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_not: Option<String>,
    /// A number, and not less than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_least: Option<i64>,
    /// A number, and not more than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_most: Option<i64>,
}

impl Expectation {
    /// Why a value is not what is expected; `None` if it is.
    pub fn missed(&self, found: &str) -> Option<String> {
        let number = || found.trim().parse::<f64>().ok();
        if self.is.as_deref().is_some_and(|wanted| wanted != found) {
            return Some(format!("it is `{found}`, and not `{}`", self.is.as_deref()?));
        }
        if self.is_not.as_deref() == Some(found) {
            return Some(format!("it is `{found}`"));
        }
        for (bound, less) in [(self.at_least, true), (self.at_most, false)] {
            let Some(bound) = bound else { continue };
            let Some(found) = number() else { return Some(format!("`{found}` is no number")) };
            if (less && found < bound as f64) || (!less && found > bound as f64) {
                let what = if less { "less" } else { "more" };
                return Some(format!("it is {found}, {what} than {bound}"));
            }
        }
        None
    }
}

/// Services, of one manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceAction {
    /// What is done with them.
    #[serde(rename = "do")]
    pub verb: ServiceVerb,
    /// Who manages them.
    pub manager: Manager,
    /// They start in this order, and stop in the reverse one.
    pub names: Vec<String>,
    /// The host that they are on, as `ssh` takes it; this one if left out. It is never asked for a
    /// password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// For `start` with `kubectl`: how many of each, as a `stop` before left them in its output
    /// `replicas`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<String>,
}

/// What is done with services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServiceVerb {
    /// They are started.
    Start,
    /// They are stopped.
    Stop,
    /// They have to run.
    Check,
}

/// Who manages services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Manager {
    /// Units of systemd.
    Systemd {},
    /// Services of Docker Compose.
    Compose {
        /// Its file.
        file: PathBuf,
    },
    /// What Kubernetes can scale: `deployment/web`.
    Kubectl {
        /// The namespace.
        namespace: String,
    },
}

/// Servers behind an HAProxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HaproxyAction {
    /// Its runtime API with level `admin`: the path of a socket, or `HOST:PORT`.
    pub socket: String,
    /// `BACKEND/SERVER`, and what it has to do.
    pub servers: IndexMap<String, ServerState>,
    /// Sessions with servers that are sent to rest are ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub end_sessions: bool,
}

/// What a server behind an HAProxy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServerState {
    /// It works.
    Ready,
    /// It finishes what it has.
    Drain,
    /// It rests.
    Maint,
}

impl ServerState {
    /// The word, as in a policy and in HAProxy.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maint => "maint",
        }
    }
}

/// Databases of a Redis that are emptied: caches and queues know more than what was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedisFlushAction {
    /// `HOST:PORT`.
    pub address: String,
    /// Their numbers.
    pub databases: Vec<u32>,
    /// What it asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
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
            Self::Wait(_)
            | Self::Tcp(_)
            | Self::Http(_)
            | Self::Sql(_)
            | Self::SecretCheck(_)
            | Self::RecoveryPoints(_)
            | Self::Divergence(_)
            | Self::Approval(_) => true,
            Self::Service(service) => matches!(service.verb, ServiceVerb::Check),
            Self::Postgres(postgres) => matches!(
                postgres,
                PostgresAction::Loss { .. }
                    | PostgresAction::ProveFenced { .. }
                    | PostgresAction::WaitFor { .. }
            ),
            Self::Starrocks(starrocks) => matches!(
                starrocks,
                StarRocksAction::ProveFenced { .. } | StarRocksAction::Compare { .. }
            ),
            Self::Manual(_)
            | Self::Notify(_)
            | Self::Restore(_)
            | Self::Backup(_)
            | Self::Haproxy(_)
            | Self::Dns(_)
            | Self::Role(_)
            | Self::RedisFlush(_) => false,
        }
    }

    /// Whether it can be taken back.
    pub const fn can_undo(&self) -> bool {
        match self {
            Self::Command(command) => command.undo.is_some(),
            Self::Service(service) => !matches!(service.verb, ServiceVerb::Check),
            Self::Postgres(postgres) => matches!(
                postgres,
                PostgresAction::StopWriters { .. }
                    | PostgresAction::Demote { .. }
                    | PostgresAction::StartStandby { .. }
            ),
            Self::Starrocks(starrocks) => matches!(
                starrocks,
                StarRocksAction::Fence { .. } | StarRocksAction::Activate { .. }
            ),
            Self::Haproxy(_) | Self::Dns(_) | Self::Role(_) => true,
            _ => false,
        }
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
            Self::Restore(_) => &["backup", "recovery_point", "target", "lag"],
            Self::Backup(_) => &["backups"],
            Self::Sql(_) => &["value"],
            Self::SecretCheck(_) => &["checked"],
            Self::Service(service) if matches!(service.verb, ServiceVerb::Stop) => &["replicas"],
            Self::Postgres(postgres) => match postgres {
                PostgresAction::Loss { .. } => &["lsn", "bytes", "seconds", "over", "beyond_rpo"],
                PostgresAction::StopWriters { .. } => &["lsn"],
                PostgresAction::ProveFenced { .. } => &["proof"],
                PostgresAction::Promote { .. } => &["lsn", "timeline"],
                PostgresAction::Demote { .. } => &["lsn", "timeline", "clean"],
                PostgresAction::Rewind { .. } => &["way", "kept"],
                PostgresAction::WaitFor { .. } | PostgresAction::StartStandby { .. } => &[],
            },
            Self::Starrocks(starrocks) => match starrocks {
                StarRocksAction::ProveFenced { .. } => &["proof"],
                StarRocksAction::Compare { .. } => &["tables", "rows"],
                StarRocksAction::Fence { .. } | StarRocksAction::Activate { .. } => &[],
            },
            Self::Notify(_) => &["told"],
            Self::Approval(_) => &["approved_by"],
            Self::Tcp(_) => &["state"],
            Self::Role(_) => &["epoch", "fence"],
            Self::Dns(_) => &["values", "ttl"],
            Self::Divergence(_) => {
                &["timeline", "lsn", "fork", "bytes", "diverged", "only_old", "examples"]
            }
            Self::RecoveryPoints(_) => {
                &["points", "oldest", "newest", "skew", "loss", "over", "beyond_rpo"]
            }
            Self::Wait(_)
            | Self::Manual(_)
            | Self::Http(_)
            | Self::Service(_)
            | Self::Haproxy(_)
            | Self::RedisFlush(_) => &[],
        };
        names.iter().map(|name| (*name).to_owned()).collect()
    }
}
