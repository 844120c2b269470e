//! What became of an object that was to be repaired.

use serde::Serialize;

use crate::run::Context;
use crate::store::SourceStore;

/// A source that is repaired, and the same source in the repository that helps.
#[derive(Clone, Copy)]
pub struct Pair<'a> {
    /// Where something is damaged.
    pub here: &'a SourceStore,
    /// Where it may be sound.
    pub there: &'a SourceStore,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
    /// What the work is done with.
    pub cx: &'a Context,
}

/// An object that was damaged, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mended {
    /// `STACK/SOURCE`.
    pub source: String,
    /// Its path, relative to the source; of a key, relative to the repository.
    pub object: String,
    /// Its stored bytes.
    pub bytes: u64,
    /// What became of it.
    pub result: Outcome,
}

/// What became of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was fetched, and is here as it should be.
    Fetched,
    /// It would be fetched: the other repository has it as it should be.
    WouldFetch,
    /// The other repository has none.
    NotThere,
    /// The other repository's is damaged as well.
    AlteredThere,
    /// Both repositories have a manifest of the backup that can be read, and they differ.
    ManifestsDiffer,
    /// It is here as it was stored: what is wrong with it was wrong from the start.
    AsStored,
}

impl Outcome {
    /// Whether the object is whole now, or would be.
    pub fn is_mended(self) -> bool {
        matches!(self, Self::Fetched | Self::WouldFetch)
    }
}
