//! Having the segments of a backup thawed that lie in an archive of the store.

use crate::archive::manifest::Manifest;
use crate::error::Result;
use crate::store::{Archived, SourceStore, Thaw};

/// Where the segments of a backup stand.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Segments that it needs.
    pub segments: usize,
    /// Archived ones that nobody asked for yet.
    pub archived: Vec<Archived>,
    /// Archived ones that are being thawed.
    pub thawing: Vec<Archived>,
}

impl Standing {
    /// Whether all of it can be read now.
    pub fn is_ready(&self) -> bool {
        self.archived.is_empty() && self.thawing.is_empty()
    }
}

/// Looks what of a backup is archived. Fails where the store does not tell.
pub fn look(source: &SourceStore, manifest: &Manifest) -> Result<Standing> {
    let keys: Vec<String> =
        manifest.segments.iter().map(|segment| source.key(&segment.path)).collect();
    let (thawing, archived) =
        source.store().check_archived(&keys)?.into_iter().partition(|one| one.thawing);
    Ok(Standing { segments: keys.len(), archived, thawing })
}

/// Asks for what nobody asked for yet, and looks again: some stores thaw at once.
pub fn thaw(
    source: &SourceStore,
    manifest: &Manifest,
    before: &Standing,
    terms: Thaw,
) -> Result<Standing> {
    if before.archived.is_empty() {
        return look(source, manifest);
    }
    source.store().thaw(&before.archived, terms)?;
    look(source, manifest)
}
