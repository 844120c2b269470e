//! How far an old primary went its own way, as a step of a playbook asks for it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What an old primary has that the new one has not: looked at before it is rebuilt, which removes it.
///
/// Outputs: `timeline` and `lsn` of the old one, `fork` (where the new one's timeline left it), `bytes` of WAL
/// behind that, `diverged` (`yes` or `no`); with `rows` also `only_old`, how many rows there are only at the old one, and
/// `examples` of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DivergenceAction {
    /// The old primary, which has to run; best with nobody led to it.
    pub old: String,
    /// The new primary, as a superuser.
    pub new: String,
    /// A query that gives the key of each row that counts, in one column; best only of those that may differ. At
    /// most 100000 of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<String>,
}
