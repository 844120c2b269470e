//! Looking at what there is.

use crate::archive::manifest::Manifest;
use crate::error::{Error, Result};
use crate::id::SourceAddress;
use crate::store::{CommitRef, Repository};

/// One line of a listing: a backup, or a commit that cannot be read.
#[derive(Debug)]
pub struct Listing {
    /// The source.
    pub address: SourceAddress,
    /// The commit.
    pub commit: CommitRef,
    /// The manifest, or why there is none.
    pub manifest: Result<Manifest, Error>,
}

/// Backups of the sources that `wanted` takes, by source and then oldest first.
pub fn list_backups(
    repository: &Repository,
    wanted: &dyn Fn(&SourceAddress) -> bool,
) -> Result<Vec<Listing>> {
    let mut listings = Vec::new();
    for address in repository.sources()? {
        if !wanted(&address) {
            continue;
        }
        let source = repository.source(&address);
        let commits = source.commits()?;
        listings.extend(source.manifests(&commits).into_iter().map(|(commit, manifest)| Listing {
            address: address.clone(),
            commit,
            manifest,
        }));
    }
    Ok(listings)
}
