//! Looking at what there is.

use crate::archive::manifest::Manifest;
use crate::error::{Error, Result};
use crate::id::SourceAddress;
use crate::policy::{Keep, Policy};
use crate::store::{CommitRef, Divergence, Repository};

/// One line of a listing: a backup, or a commit that cannot be read.
#[derive(Debug)]
pub struct Listing {
    /// The source.
    pub address: SourceAddress,
    /// The commit.
    pub commit: CommitRef,
    /// The manifest, or why there is none.
    pub manifest: Result<Manifest, Error>,
    /// A site wrote it that was not the active one any more.
    pub divergent: Option<Divergence>,
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
        listings.extend(source.manifests(&commits)?.into_iter().map(|(commit, manifest)| {
            Listing {
                address: address.clone(),
                commit,
                divergent: manifest.as_ref().ok().and_then(|one| source.epochs().of(one)),
                manifest,
            }
        }));
    }
    Ok(listings)
}

/// The keep rule in force for a backup in the repository that the policy calls `repository`: the
/// policy's, else the one that was recorded with it. Backups of jobs that are gone keep theirs.
pub fn retention_rule(
    policy: Option<&Policy>,
    repository: &str,
    manifest: &Manifest,
) -> Option<Keep> {
    let job = manifest.job.as_deref();
    let of_policy = |policy: &Policy| policy.keep_of(repository, &manifest.source, job);
    policy.and_then(of_policy).or_else(|| {
        let recorded = manifest.keep.clone()?;
        // One that this version does not understand keeps the backup.
        serde_json::from_value(recorded).ok()
    })
}
