//! Heartbeats: what the daemon writes at a source, and a drill finds in its copy.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::source::SourceKind;
use super::value::Period;

/// The daemon writes the time at the source, and a drill finds in the copy how new it is: a row in a
/// schema of its own, or a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// How often.
    pub every: Period,
}

impl Heartbeat {
    /// The file of a directory.
    pub const MARKER: &'static str = ".backstay-heartbeat";

    /// The file it is written as, before it takes its place.
    pub const NEW: &'static str = ".backstay-heartbeat.new";

    /// The kinds of sources that take one.
    pub const KINDS: [SourceKind; 3] =
        [SourceKind::Directory, SourceKind::PostgresCluster, SourceKind::PostgresDump];
}
