//! Dumps of MySQL and MariaDB databases, as a policy writes them.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::postgres_dump::Databases;
use super::value::Period;

/// Databases of a MySQL or MariaDB server in one snapshot, with users and what is needed to check a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MysqlDump {
    /// `host=HOST user=USER password=${file:PATH}` or `mysql://USER@HOST/`; `password=` only as a reference.
    pub connection: String,
    /// `all`, or a list of names; all but the server's own if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub databases: Option<Databases>,
    /// Globs of databases that `all` leaves out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Whether writers are stopped for the moment that it takes to begin the snapshot: rows can be
    /// counted in it then, and its position in the binary log is known.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub lock: bool,
    /// Whether incremental backups archive the server's binary logs since the last dump, for recovery
    /// to any moment. Every backup begins a new log then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub binlog: bool,
    /// Whether rows are counted, in the snapshot of the dump, to check a restore by.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub counts: bool,
    /// Whether a checksum is made over each table's rows too. It reads everything once more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub checksums: bool,
    /// The directory of mysqldump and mysql, or mariadb-dump and mariadb; looked for if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub programs: Option<PathBuf>,
    /// How long the dump may take before it is ended and the backup fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Period>,
}

fn yes() -> bool {
    true
}
