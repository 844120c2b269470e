//! A bucket as it was at some time: of every key the version that was the newest then. What was
//! deleted or overwritten since is there, and nothing can be written.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::answer::Answer;
use super::blocking::Store;
use super::versions::{Bucket, Version, Versioning};
use crate::error;

/// What is said to who writes.
pub(super) const READ_ONLY: &str = "the repository is looked at as it was, and nothing is written";

/// Keys whose version is remembered.
const REMEMBERED: usize = 10_000;

/// Fails where the bucket keeps no versions: then it is only what it is now.
pub(super) fn check(store: &Store) -> error::Result<()> {
    match store.versioning()? {
        Versioning::On | Versioning::Suspended => Ok(()),
        Versioning::Off => Err(error::Error::unsupported(format!(
            "{}: the bucket keeps no versions",
            store.name()
        ))
        .hint("what was deleted or overwritten there is gone; leave `--repository-at` out")),
        Versioning::Unknown(answer) => Err(error::Error::unsupported(format!(
            "{}: the bucket does not say whether it keeps versions",
            store.name()
        ))
        .with_source(answer)
        .hint("that needs s3:GetBucketVersioning and s3:ListBucketVersions")),
    }
}

/// The store under its prefix, as it was.
pub(super) struct Past {
    objects: Arc<dyn ObjectStore>,
    bucket: Arc<Bucket>,
    at: Timestamp,
    known: Mutex<HashMap<String, Option<String>>>,
}

impl Past {
    pub(super) fn new(objects: Arc<dyn ObjectStore>, bucket: Arc<Bucket>, at: Timestamp) -> Self {
        Self { objects, bucket, at, known: Mutex::default() }
    }

    /// The newest version of each key at the time, of those that there were.
    fn then(&self, versions: Vec<Version>) -> BTreeMap<String, Version> {
        then(versions, self.at)
    }

    async fn version_of(&self, path: &Path) -> Result<String> {
        let key = path.to_string();
        let missing = || Error::NotFound { path: key.clone(), source: "not there then".into() };
        let known = self.lock().get(&key).cloned();
        if let Some(known) = known {
            return known.ok_or_else(missing);
        }
        let versions = self.bucket.versions_of(&key).await.map_err(failed)?;
        let found = self.then(versions).remove(&key);
        let version = found.map(|found| found.version.unwrap_or_else(|| "null".to_owned()));
        let mut known = self.lock();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(key.clone(), version.clone());
        drop(known);
        version.ok_or_else(missing)
    }

    async fn listed(&self, prefix: Option<&Path>) -> Result<Vec<ObjectMeta>> {
        let directory = prefix.map(Path::to_string).unwrap_or_default();
        let versions = self.bucket.list(&directory).await.map_err(failed)?;
        let meta = |version: Version| ObjectMeta {
            location: Path::from(version.key),
            last_modified: SystemTime::from(version.stored_at).into(),
            size: version.size,
            e_tag: None,
            version: version.version,
        };
        Ok(self.then(versions).into_values().map(meta).collect())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Option<String>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The newest version of each key at an instant, of those that there were.
pub(super) fn then(versions: Vec<Version>, at: Timestamp) -> BTreeMap<String, Version> {
    let mut newest: BTreeMap<String, Version> = BTreeMap::new();
    for version in versions.into_iter().filter(|version| version.stored_at <= at) {
        // Of two with one time the one with bytes: better to see too much.
        let rank = |one: &Version| (one.stored_at, one.is_latest, !one.is_delete_marker);
        let newer = newest.get(&version.key).is_none_or(|other| rank(other) < rank(&version));
        if newer {
            newest.insert(version.key.clone(), version);
        }
    }
    newest.retain(|_, version| !version.is_delete_marker);
    newest
}

fn failed(answer: Answer) -> Error {
    Error::Generic { store: "versions", source: Box::new(answer) }
}

fn refused<T>(path: &Path) -> Result<T> {
    Err(Error::PermissionDenied { path: path.to_string(), source: READ_ONLY.into() })
}

impl fmt::Debug for Past {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Past({})", self.at)
    }
}

impl fmt::Display for Past {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as of {}", self.objects, self.at)
    }
}

#[async_trait]
impl ObjectStore for Past {
    async fn put_opts(&self, path: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        refused(path)
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        refused(path)
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let version = Some(self.version_of(path).await?);
        self.objects.get_opts(path, GetOptions { version, ..options }).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        paths.map(|path| refused(&path?)).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (prefix, past) = (prefix.cloned(), self.again());
        futures::stream::once(async move { past.listed(prefix.as_ref()).await })
            .map_ok(|listed| futures::stream::iter(listed.into_iter().map(Ok)))
            .try_flatten()
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let (mut objects, mut directories) = (Vec::new(), BTreeSet::new());
        let own = prefix.cloned().unwrap_or_default();
        for meta in self.listed(prefix).await? {
            let mut parts = meta.location.prefix_match(&own).into_iter().flatten();
            if let (Some(first), Some(_)) = (parts.next(), parts.next()) {
                directories.insert(own.clone().join(first));
            } else {
                drop(parts);
                objects.push(meta);
            }
        }
        Ok(ListResult {
            common_prefixes: directories.into_iter().collect(),
            objects,
            extensions: object_store::Extensions::default(),
        })
    }

    async fn copy_opts(&self, _: &Path, to: &Path, _: CopyOptions) -> Result<()> {
        refused(to)
    }
}

impl Past {
    fn again(&self) -> Self {
        Self::new(self.objects.clone(), self.bucket.clone(), self.at)
    }
}
