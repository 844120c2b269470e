//! Which objects of a backup a verification reads.

use std::collections::BTreeSet;

/// Objects by their path.
#[derive(Debug, Clone, Copy, Default)]
pub enum Scope<'a> {
    /// All that the backup needs.
    #[default]
    All,
    /// Just these.
    Only(&'a BTreeSet<String>),
    /// All but these, which were found sound a moment ago.
    Except(&'a BTreeSet<String>),
}

impl Scope<'_> {
    /// Whether the object is read.
    pub fn has(&self, path: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(these) => these.contains(path),
            Self::Except(these) => !these.contains(path),
        }
    }

    /// Whether the report speaks of the object.
    pub(super) fn tells_of(&self, path: &str) -> bool {
        matches!(self, Self::Except(_)) || self.has(path)
    }
}
