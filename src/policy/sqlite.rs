//! `SQLite` databases, as a policy writes them.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One `SQLite` database, read in one transaction while others write to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sqlite {
    /// The database's file, an absolute path.
    pub path: PathBuf,
    /// A directory for a copy from which it is stored: writers of a database that is not in WAL
    /// mode wait only while that copy is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scratch: Option<PathBuf>,
}
