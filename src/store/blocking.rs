//! Requests to a store, from threads that may block.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, PutMode,
    PutOptions,
};
use tokio::runtime::Handle;

use super::erase::Place;
use super::error::StoreError;
use super::layout;
use super::limit::RateLimit;
use crate::error::{Error, Result};
use crate::policy;

/// A store under one prefix. Cheap to clone; every call blocks the calling thread, which must not
/// be one of the runtime's.
#[derive(Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    runtime: Handle,
    name: Arc<str>,
    upload: Arc<RateLimit>,
    download: Arc<RateLimit>,
    parts: Arc<tokio::sync::Semaphore>,
    place: Place,
    bucket: Option<Arc<BucketAddress>>,
    class: Option<&'static str>,
}

/// Parts in memory on their way to the store, over all uploads of this store.
const PARTS_IN_FLIGHT: usize = 4;

/// Requests under way at once where many small objects are read.
const SMALL_READS: usize = 16;

/// An object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Key relative to the store's prefix.
    pub key: String,
    /// Stored bytes.
    pub size: u64,
    /// When the store took it, by the store's clock.
    pub stored_at: Timestamp,
}

/// Where a bucket is: all that somebody else needs to reach it, but for a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BucketAddress {
    /// The bucket.
    pub bucket: String,
    /// Prefix within it, without slashes at the ends.
    pub prefix: String,
    /// The server's URL; `None` is AWS.
    pub endpoint: Option<String>,
    /// The region, if one is given.
    pub region: Option<String>,
    /// `bucket.endpoint` instead of `endpoint/bucket`.
    pub virtual_hosted: bool,
}

/// What the store said of an object it took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// Version id, on versioned buckets.
    pub version: Option<String>,
}

impl Store {
    /// Wraps `objects`; `name` names the store in messages. Requests run on `runtime`.
    pub fn new(objects: Arc<dyn ObjectStore>, runtime: Handle, name: &str) -> Self {
        Self {
            objects,
            runtime,
            name: name.into(),
            upload: Arc::default(),
            download: Arc::default(),
            parts: Arc::new(tokio::sync::Semaphore::new(PARTS_IN_FLIGHT)),
            place: Place::Other,
            bucket: None,
            class: None,
        }
    }

    /// Says what the store is, so that it can do more than `object_store` knows of.
    #[must_use]
    pub(super) fn at(mut self, place: Place) -> Self {
        self.place = place;
        self
    }

    /// Says where the bucket is, for programs that reach it by themselves.
    #[must_use]
    pub(super) fn in_bucket(mut self, address: BucketAddress) -> Self {
        self.bucket = Some(Arc::new(address));
        self
    }

    /// Where the bucket is, if it is one.
    pub fn bucket(&self) -> Option<&BucketAddress> {
        self.bucket.as_deref()
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Stores segments in this storage class.
    #[must_use]
    pub fn classed(mut self, class: Option<policy::StorageClass>) -> Self {
        self.class = class.map(policy::StorageClass::name);
        self
    }

    /// What is said of an object when it is stored.
    pub(super) fn attributes(&self, key: &str) -> Attributes {
        let class = self.class.filter(|_| layout::is_segment(key));
        class.map(|class| (Attribute::StorageClass, class)).into_iter().collect()
    }

    /// Limits the rates, in bytes a second.
    #[must_use]
    pub fn limited(mut self, upload: Option<u64>, download: Option<u64>) -> Self {
        self.upload = Arc::new(RateLimit::new(upload));
        self.download = Arc::new(RateLimit::new(download));
        self
    }

    /// The store's name in messages: a URL or a path.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn objects(&self) -> &Arc<dyn ObjectStore> {
        &self.objects
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(super) fn part_permits(&self) -> &Arc<tokio::sync::Semaphore> {
        &self.parts
    }

    pub(super) fn upload_limit(&self) -> &RateLimit {
        &self.upload
    }

    pub(super) fn download_limit(&self) -> &RateLimit {
        &self.download
    }

    /// Reads a whole object of at most `limit` bytes; a larger one is damage.
    pub fn read(&self, key: &str, limit: u64) -> Result<Bytes, ReadError> {
        let read = async {
            let found = self.objects.get(&Path::from(key)).await?;
            if found.meta.size > limit {
                return Ok(Err(found.meta.size));
            }
            found.bytes().await.map(Ok)
        };
        match self.runtime.block_on(read) {
            Ok(Ok(bytes)) => {
                self.download.take(bytes.len() as u64);
                Ok(bytes)
            }
            Ok(Err(size)) => Err(ReadError::TooLarge { key: key.to_owned(), size, limit }),
            Err(error) => Err(ReadError::Store(StoreError::new(key, error))),
        }
    }

    /// Like [`Store::read`], with `None` where there is no such object.
    pub fn read_if_exists(&self, key: &str, limit: u64) -> Result<Option<Bytes>> {
        match self.read(key, limit) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(ReadError::Store(StoreError::NotFound { .. })) => Ok(None),
            Err(error) => Err(error.into_error(self)),
        }
    }

    /// Reads the beginning of an object: `bytes`, or all of a shorter one.
    pub fn read_head(&self, key: &str, bytes: u64) -> Result<Bytes, StoreError> {
        let read = Self::read_range(self.objects.clone(), key.to_owned(), 0..bytes);
        self.runtime.block_on(read)
    }

    /// The stored size of an object.
    pub fn size_of(&self, key: &str) -> Result<u64> {
        let found = self.runtime.block_on(self.objects.head(&Path::from(key)));
        found.map(|meta| meta.size).map_err(|error| {
            StoreError::new(key, error).into_error(&format!("look at {key}"), &self.name)
        })
    }

    /// Reads many small objects, several at once, in the order given. `None` where one is gone.
    pub fn read_many(&self, keys: &[String], limit: u64) -> Vec<Result<Option<Bytes>>> {
        let reads = futures::stream::iter(keys.iter().map(|key| async move {
            let found = self.objects.get(&Path::from(key.as_str())).await?;
            if found.meta.size > limit {
                return Ok(Err(found.meta.size));
            }
            found.bytes().await.map(Ok)
        }))
        .buffered(SMALL_READS)
        .collect::<Vec<Result<Result<Bytes, u64>, object_store::Error>>>();
        let results = self.runtime.block_on(reads);
        results
            .into_iter()
            .zip(keys)
            .map(|(result, key)| match result {
                Ok(Ok(bytes)) => Ok(Some(bytes)),
                Ok(Err(size)) => {
                    Err(ReadError::TooLarge { key: key.clone(), size, limit }.into_error(self))
                }
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(ReadError::Store(StoreError::new(key, error)).into_error(self)),
            })
            .collect()
    }

    /// Reads `range` of an object.
    pub(super) async fn read_range(
        objects: Arc<dyn ObjectStore>,
        key: String,
        range: std::ops::Range<u64>,
    ) -> Result<Bytes, StoreError> {
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let read =
            async { objects.get_opts(&Path::from(key.as_str()), options).await?.bytes().await };
        read.await.map_err(|error| StoreError::new(&key, error))
    }

    /// Creates an object; fails with [`StoreError::Exists`] where one is.
    pub fn create(&self, key: &str, body: impl Into<Bytes>) -> Result<Written, StoreError> {
        self.put(key, body.into(), PutMode::Create)
    }

    /// Writes an object under a key that is unique by construction.
    pub fn put_unique(&self, key: &str, body: impl Into<Bytes>) -> Result<Written, StoreError> {
        self.put(key, body.into(), PutMode::Overwrite)
    }

    fn put(&self, key: &str, body: Bytes, mode: PutMode) -> Result<Written, StoreError> {
        self.upload.take(body.len() as u64);
        let options = PutOptions { mode, ..PutOptions::default() };
        let path = Path::from(key);
        let put = self.objects.put_opts(&path, body.into(), options);
        let result = self.runtime.block_on(put).map_err(|error| StoreError::new(key, error))?;
        Ok(Written { version: result.version })
    }

    /// Creates an object whose content tells it apart from anybody else's, so that a lost reply
    /// or a retried request that meets its own write is recognised. `Ok(false)` means that
    /// somebody else's object is there.
    pub fn create_ours(&self, key: &str, body: &Bytes) -> Result<bool> {
        self.create_ours_by(key, body, &|| self.create(key, body.clone()).map(drop))
    }

    /// The same, with another way to ask for the create.
    pub(super) fn create_ours_by(
        &self,
        key: &str,
        body: &Bytes,
        create: &dyn Fn() -> Result<(), StoreError>,
    ) -> Result<bool> {
        const TRIES: u32 = 5;
        let mut last = None;
        for attempt in 0..TRIES {
            if attempt > 0 {
                let pause = 50 * (1 << attempt) + fastrand::u64(..50);
                std::thread::sleep(std::time::Duration::from_millis(pause));
            }
            last = match create() {
                Ok(()) => return Ok(true),
                Err(error @ StoreError::Denied { .. }) => {
                    return Err(error.into_error(&format!("create {key}"), &self.name));
                }
                Err(error) => Some(error),
            };
            // 412, 409, a timeout or a reset: what counts is what lies there now.
            match self.read(key, body.len() as u64 + 1) {
                Ok(found) => return Ok(found == *body),
                Err(ReadError::TooLarge { .. }) => return Ok(false),
                Err(ReadError::Store(_)) => {}
            }
        }
        let last = last.unwrap_or(StoreError::Exists { key: key.to_owned() });
        Err(last.into_error(&format!("create {key}"), &self.name))
    }

    /// Removes an object; one that is gone already is fine. A versioned bucket only hides it: right
    /// for objects that coordinate, and for anything that takes room there is [`Store::erase`].
    pub fn delete(&self, key: &str) -> Result<()> {
        match self.runtime.block_on(self.objects.delete(&Path::from(key))) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => {
                Err(StoreError::new(key, error).into_error(&format!("delete {key}"), &self.name))
            }
        }
    }

    /// Lists everything under `prefix`, which is a directory, sorted by key.
    pub fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        let path = Path::from(prefix);
        let list = async {
            let stream = self.objects.list((!prefix.is_empty()).then_some(&path));
            stream.try_collect::<Vec<_>>().await
        };
        let found = self.runtime.block_on(list).map_err(|error| {
            StoreError::new(prefix, error).into_error(&listing(prefix), &self.name)
        })?;
        let mut listed: Vec<Listed> = found
            .into_iter()
            .map(|meta| Listed {
                key: meta.location.to_string(),
                size: meta.size,
                stored_at: Timestamp::new(
                    meta.last_modified.timestamp(),
                    meta.last_modified.timestamp_subsec_nanos() as i32,
                )
                .unwrap_or(Timestamp::UNIX_EPOCH),
            })
            .collect();
        listed.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(listed)
    }

    /// Names of the directories right under `prefix`, sorted.
    pub fn list_directories(&self, prefix: &str) -> Result<Vec<String>> {
        let path = Path::from(prefix);
        let list = self.objects.list_with_delimiter((!prefix.is_empty()).then_some(&path));
        let found = self.runtime.block_on(list).map_err(|error| {
            StoreError::new(prefix, error).into_error(&listing(prefix), &self.name)
        })?;
        let mut names: Vec<String> = found
            .common_prefixes
            .iter()
            .filter_map(|path| path.filename().map(str::to_owned))
            .collect();
        names.sort();
        Ok(names)
    }
}

fn listing(prefix: &str) -> String {
    if prefix.is_empty() { "list what there is".to_owned() } else { format!("list {prefix}/") }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.name)
    }
}

/// Why an object could not be read whole.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The request failed.
    #[error(transparent)]
    Store(StoreError),
    /// It is larger than anything a writer would have made.
    #[error("{key} has {size} bytes; at most {limit} are expected")]
    TooLarge {
        /// The key.
        key: String,
        /// Its size.
        size: u64,
        /// The largest accepted.
        limit: u64,
    },
}

impl ReadError {
    /// As the crate's error.
    pub fn into_error(self, store: &Store) -> Error {
        match self {
            Self::Store(error) => {
                let (StoreError::NotFound { key }
                | StoreError::Exists { key }
                | StoreError::Denied { key, .. }
                | StoreError::Failed { key, .. }) = &error;
                let doing = format!("read {key}");
                error.into_error(&doing, store.name())
            }
            Self::TooLarge { .. } => Error::damaged(format!("{self} (in {})", store.name())),
        }
    }
}
