//! The settings of actions that change what a server is: the files of a PostgreSQL server, who may write
//! to a StarRocks cluster, and whom a playbook tells.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::notify::AlertSeverity;
use super::starrocks::StarRocksTls;
use super::value::Period;
use crate::secret::SecretRef;

/// Those whom the policy's `notify` names hear of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NotifyAction {
    /// What they are told, in a sentence.
    pub text: String,
    /// How bad it is: receivers hear of what is at least as bad as they want to hear of.
    #[serde(default = "critical")]
    pub severity: AlertSeverity,
    /// Only these receivers, by their keys under `notify`; all of them if left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<String>,
}

const fn critical() -> AlertSeverity {
    AlertSeverity::Critical
}

/// The files of a PostgreSQL server, and how it is started and stopped where they lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerFiles {
    /// Its data directory.
    pub data: PathBuf,
    /// The directory of `pg_ctl`, `pg_controldata` and `pg_rewind`; from `PATH` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub programs: Option<PathBuf>,
    /// The host that they are on, as `ssh` takes it; this one if left out. It is never asked for a
    /// password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The user that the server runs as, where commands are run as root: PostgreSQL refuses root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The directory of `postgresql.conf`, where that is another one than the data directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<PathBuf>,
    /// How it is started, as root or as whoever runs this; by `pg_ctl` if left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub start: Vec<String>,
    /// How it is stopped: fast, so that everything is sent to standbys; by `pg_ctl` if left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
}

/// Something that is done to a PostgreSQL server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PostgresAction {
    /// How much would be lost if a standby took over now, as it can tell: outputs `lsn`, `bytes`
    /// (behind the primary, where that answers), `seconds` and `over` (`yes` where that is more
    /// than the limit).
    Loss {
        /// The standby.
        standby: String,
        /// The primary, where it may be asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        primary: Option<String>,
        /// How much may be lost; the RPO of the stack if left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<Period>,
    },
    /// Ends all sessions of clients, and lets later ones only read. Output `lsn`: where its WAL ends.
    StopWriters {
        /// The server, as a superuser.
        connection: String,
    },
    /// Tries to write to a server that must refuse it: a server that does not answer proves nothing.
    ProveFenced {
        /// The server, as somebody who may write where anybody may.
        connection: String,
    },
    /// Waits until a standby has replayed its way to here.
    WaitFor {
        /// The standby.
        connection: String,
        /// The position in WAL.
        lsn: String,
    },
    /// Makes a standby a primary. Outputs `lsn` and `timeline`.
    Promote {
        /// The standby, as a superuser.
        connection: String,
    },
    /// Stops a primary, fast, and marks it as a standby, so that nobody who starts it makes it a primary
    /// again. Outputs `lsn`, where its WAL ends, `timeline`, and `clean`: `yes` where it was shut down in
    /// order, so that a standby which is at `lsn` lacks nothing.
    Demote {
        /// Its files.
        server: ServerFiles,
    },
    /// Makes the files of an old primary those of a standby of the new one: by `pg_rewind`, or, where that
    /// cannot, from the newest backup. What it wrote alone is gone. Outputs `way`: `rewind` or `restore`, and
    /// `kept`: where its files lie then that were replaced.
    Rewind {
        /// Its files. It must have been stopped.
        server: ServerFiles,
        /// The new primary, as a superuser.
        primary: String,
        /// The source that it is restored from where `pg_rewind` cannot; where the step is left to fail
        /// instead if left out. Only for files on this host.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source: Option<String>,
        /// Files that recover what is encrypted: `--identity`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        identity: Vec<PathBuf>,
    },
    /// Starts a server as a standby, and waits until it streams from its primary.
    StartStandby {
        /// Its files.
        server: ServerFiles,
        /// The primary, as the standby reaches it. Passwords belong into the password file of the standby's
        /// user.
        primary: String,
        /// The standby itself, as somebody who may see its state: a superuser or a member of `pg_monitor`.
        connection: String,
        /// The replication slot that it uses there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        slot: Option<String>,
    },
}

impl PostgresAction {
    /// What it is called.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Loss { .. } => "loss",
            Self::StopWriters { .. } => "stop_writers",
            Self::ProveFenced { .. } => "prove_fenced",
            Self::WaitFor { .. } => "wait_for",
            Self::Promote { .. } => "promote",
            Self::Demote { .. } => "demote",
            Self::Rewind { .. } => "rewind",
            Self::StartStandby { .. } => "start_standby",
        }
    }

    /// The files that it changes, if it does.
    pub const fn files(&self) -> Option<&ServerFiles> {
        match self {
            Self::Demote { server }
            | Self::Rewind { server, .. }
            | Self::StartStandby { server, .. } => Some(server),
            _ => None,
        }
    }

    /// The servers that it speaks to, by the key that names each.
    pub fn connections(&self) -> Vec<(&'static str, &str)> {
        match self {
            Self::Loss { standby, primary, .. } => {
                let primary = primary.iter().map(|primary| ("primary", primary.as_str()));
                std::iter::once(("standby", standby.as_str())).chain(primary).collect()
            }
            Self::StopWriters { connection }
            | Self::ProveFenced { connection }
            | Self::WaitFor { connection, .. }
            | Self::Promote { connection } => vec![("connection", connection)],
            Self::Demote { .. } => Vec::new(),
            Self::Rewind { primary, .. } => vec![("primary", primary)],
            Self::StartStandby { primary, connection, .. } => {
                vec![("primary", primary), ("connection", connection)]
            }
        }
    }
}

/// How a StarRocks cluster is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterLogin {
    /// Frontends, `HOST:PORT` of their MySQL protocol (9030 if left out). Any that answers will do.
    pub frontends: Vec<String>,
    /// The user.
    pub user: String,
    /// Its password; none if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
    /// TLS on the way to the frontends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<StarRocksTls>,
}

/// Something that is done to a StarRocks cluster when another one takes its place, or is looked at then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum StarRocksAction {
    /// Takes rights to write away from those who have them: nobody of them writes any more.
    Fence {
        /// The cluster, as somebody who may give rights.
        cluster: ClusterLogin,
        /// Rights, as `REVOKE` takes them: `INSERT, UPDATE, DELETE ON ALL TABLES IN DATABASE dw`.
        rights: Vec<String>,
        /// Who has them: `ROLE etl`, or `USER 'etl'@'%'`.
        of: Vec<String>,
    },
    /// Tries to write as somebody who usually may. The cluster must refuse it: one that does not answer
    /// proves nothing. Nothing is written where it does not.
    ProveFenced {
        /// The cluster, as an application that writes.
        cluster: ClusterLogin,
        /// A table that the application writes to: `DATABASE.TABLE`.
        table: String,
    },
    /// Gives rights to write, so that the cluster is the one that is written to.
    Activate {
        /// The cluster, as somebody who may give rights.
        cluster: ClusterLogin,
        /// Rights, as `GRANT` takes them.
        rights: Vec<String>,
        /// Who gets them.
        of: Vec<String>,
    },
    /// Counts the rows of tables at two clusters: they have to be the same. Outputs `tables` and `rows`.
    Compare {
        /// One cluster.
        cluster: ClusterLogin,
        /// The other one.
        with: ClusterLogin,
        /// `DATABASE.TABLE`.
        tables: Vec<String>,
    },
}

impl StarRocksAction {
    /// What it is called.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Fence { .. } => "fence",
            Self::ProveFenced { .. } => "prove_fenced",
            Self::Activate { .. } => "activate",
            Self::Compare { .. } => "compare",
        }
    }

    /// The clusters that it speaks to, by the key that names each.
    pub fn clusters(&self) -> Vec<(&'static str, &ClusterLogin)> {
        match self {
            Self::Fence { cluster, .. }
            | Self::Activate { cluster, .. }
            | Self::ProveFenced { cluster, .. } => vec![("cluster", cluster)],
            Self::Compare { cluster, with, .. } => vec![("cluster", cluster), ("with", with)],
        }
    }
}
