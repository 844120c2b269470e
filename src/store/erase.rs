//! Removing objects for good, wherever they lie.

use std::path::Path as FsPath;
use std::sync::Arc;

use futures::StreamExt as _;
use jiff::Timestamp;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;

use super::answer::Answer;
use super::blocking::Store;
use super::error::{self, StoreError};
use super::local;
use super::versions::{Bucket, Version, Versioning};
use crate::error::Result;

/// Deletions under way at once where each is a request.
const PARALLEL: usize = 16;

/// What became of an object that was to be removed for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Erased {
    /// No byte of it is left.
    Gone,
    /// There was nothing. A bucket that keeps no versions cannot tell and says [`Erased::Gone`].
    Absent,
    /// Object lock keeps it.
    Retained {
        /// When the lock ends, if the store tells; a legal hold has no end.
        until: Option<Timestamp>,
    },
}

/// What a store is, beyond what `object_store` shows of it.
#[derive(Clone, Default)]
pub(super) enum Place {
    /// Nothing more is known.
    #[default]
    Other,
    /// A directory of this machine.
    Directory(Arc<FsPath>),
    /// A bucket.
    Bucket(Arc<Bucket>),
}

impl Store {
    /// Removes objects for good: in a versioned bucket every version and every delete marker of
    /// exactly these keys. The results are in the order of the keys, and when this returns a local
    /// directory has them on disk: what is deleted afterwards cannot be gone before.
    pub fn erase(&self, keys: &[String]) -> Vec<(String, Result<Erased>)> {
        let results = match self.place() {
            Place::Bucket(bucket) => self.runtime().block_on(bucket.erase(keys)),
            Place::Directory(_) | Place::Other => {
                return self.erase_each(keys);
            }
        };
        keys.iter()
            .zip(results)
            .map(|(key, result)| (key.clone(), result.map_err(|answer| self.refused(key, &answer))))
            .collect()
    }

    /// Every version below a directory. Where no versions are kept, those are the objects.
    pub fn versions(&self, prefix: &str) -> Result<Vec<Version>> {
        if let Place::Bucket(bucket) = self.place()
            && self.versioning()?.keeps()
        {
            let listed = self.runtime().block_on(bucket.list(prefix));
            return listed.map_err(|answer| {
                let message =
                    format!("failed to list the versions of {prefix}/ in {}", self.name());
                error::of_any(&answer, message)
                    .hint("that needs s3:ListBucketVersions")
                    .with_source(answer)
            });
        }
        let objects = self.list(prefix)?;
        let version = |object: super::Listed| Version {
            key: object.key,
            version: None,
            is_latest: true,
            is_delete_marker: false,
            size: object.size,
            stored_at: object.stored_at,
        };
        Ok(objects.into_iter().map(version).collect())
    }

    /// Whether the store keeps versions. It is asked once.
    pub fn versioning(&self) -> Result<Versioning> {
        let Place::Bucket(bucket) = self.place() else { return Ok(Versioning::Off) };
        self.runtime().block_on(bucket.versioning()).cloned().map_err(|answer| {
            let message = format!("failed to ask whether {} keeps versions", self.name());
            error::of_any(&answer, message).with_source(answer)
        })
    }

    /// What a person should know before objects are removed: the store would not say whether it
    /// keeps versions. `None` if it did, and from the second time on.
    pub fn versioning_doubt(&self) -> Option<String> {
        let Place::Bucket(bucket) = self.place() else { return None };
        let Ok(Versioning::Unknown(answer)) = self.versioning() else { return None };
        bucket.first_doubt().then(|| {
            format!(
                "{} does not say whether it keeps versions ({answer}): it is taken for one that \
                 does not",
                self.name()
            )
        })
    }

    fn erase_each(&self, keys: &[String]) -> Vec<(String, Result<Erased>)> {
        let deletes = futures::stream::iter(keys)
            .map(|key| async move {
                let result = self.objects().delete(&Path::from(key.as_str())).await;
                let result = match result.map_err(|error| StoreError::new(key, error)) {
                    Ok(()) => Ok(Erased::Gone),
                    Err(StoreError::NotFound { .. }) => Ok(Erased::Absent),
                    Err(error) => Err(error.into_error(&format!("delete {key}"), self.name())),
                };
                (key.clone(), result)
            })
            .buffered(PARALLEL)
            .collect::<Vec<_>>();
        let mut results = self.runtime().block_on(deletes);
        if let Place::Directory(root) = self.place() {
            local::sync_directories(root, &mut results);
        }
        results
    }

    fn refused(&self, key: &str, answer: &Answer) -> crate::error::Error {
        let message = format!("failed to delete {key} in {}", self.name());
        let mut error = error::of_any(answer, message);
        if error.kind() == crate::error::ErrorKind::Denied {
            error = error.hint(
                "deleting needs s3:DeleteObject, and in a versioned bucket \
                 s3:ListBucketVersions and s3:DeleteObjectVersion",
            );
        }
        error.with_source(answer.clone())
    }
}
