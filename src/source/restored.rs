//! What came of dumps that were put back into a server, of whatever kind.

use serde::Serialize;

/// What came of one database.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Restored {
    /// Its name in the backup.
    pub from: String,
    /// Its name now.
    pub to: String,
    /// The name under which what was in use before is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aside: Option<String>,
    /// Tables whose rows were counted and are as many as they were.
    pub tables_equal: u64,
    /// Of these, with an equal checksum.
    pub checksums_equal: u64,
    /// Rows of them.
    pub rows: u64,
    /// Tables that are not as they were.
    pub differ: Vec<Difference>,
    /// What a person should know.
    pub notes: Vec<String>,
    /// Seconds it took.
    pub seconds: f64,
}

/// A table that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The table.
    pub table: String,
    /// In the backup's snapshot.
    pub recorded: String,
    /// Now.
    pub found: String,
}
