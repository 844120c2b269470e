//! Where things lie in a backup of this source, and what is written down in it.

use serde::{Deserialize, Serialize};

use super::split::Part;
pub use crate::archive::manifest::BinlogPosition as Position;
use crate::source::postgres::dump::{decode_name, encode_name};

/// The users of the server, and what they may do.
pub const USERS: &str = "users.sql";
/// The server, its position, and what was left out.
pub const OVERVIEW: &str = "server.json";
/// The directory of the dumps.
pub const DUMPS: &str = "dumps";
/// The directory of what is known of each database.
pub const FACTS: &str = "facts";

/// Where a part of a dump lies. Letters other than plain ones are written as `%XX`.
pub fn dump_path(part: &Part) -> String {
    let views = if part.views { ".views" } else { "" };
    format!("{DUMPS}/{}{views}.sql", encode_name(&part.database))
}

/// Where what is known of a database lies.
pub fn facts_path(database: &str) -> String {
    format!("{FACTS}/{}.json", encode_name(database))
}

/// The database that a path of [`facts_path`] is of.
pub fn database_of(path: &str) -> Option<String> {
    let name = path.strip_prefix(FACTS)?.strip_prefix('/')?.strip_suffix(".json")?;
    decode_name(name)
}

/// What is known of a database besides its dump.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The version of this form: 1.
    pub version: u32,
    /// The database.
    pub database: String,
    /// Its default character set.
    pub charset: String,
    /// Its default collation.
    pub collation: String,
    /// Its tables, by name.
    pub tables: Vec<Table>,
    /// Views.
    pub views: u64,
    /// Procedures and functions.
    pub routines: u64,
    /// Triggers.
    pub triggers: u64,
    /// Events.
    pub events: u64,
    /// On whose behalf views, routines, triggers and events run: `user@host`.
    pub definers: Vec<String>,
}

/// A table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// `InnoDB`, `MyISAM`, …
    pub engine: String,
    /// Whether the dump has it as it was in the snapshot, whatever was written meanwhile.
    pub transactional: bool,
    /// Rows in the snapshot; `None` if not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// What `CHECKSUM TABLE` said of the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
}

/// What `server.json` says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overview {
    /// The version of this form: 1.
    pub version: u32,
    /// `MariaDB` or `MySQL`.
    pub product: String,
    /// The server's version.
    pub server: String,
    /// The program that dumped.
    pub program: String,
    /// When the snapshot was taken, by the server's clock.
    pub taken: String,
    /// Where in the binary log that was: what comes after it is not in the dump. `None`: the server
    /// writes none, or nobody could stop it for the moment that it takes to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// The databases that were dumped.
    pub databases: Vec<String>,
    /// Whether `users.sql` is there.
    pub users: bool,
}
