//! The versions of a bucket's objects: listing them, and removing them for good.
//!
//! On a versioned bucket a plain DELETE puts a marker before the bytes and frees nothing. Here
//! every version of a key is removed by its id, and then every marker; never a marker before the
//! last version is gone, because whatever is left below would be back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{
    BucketVersioningStatus, Delete, ObjectIdentifier, ObjectLockLegalHoldStatus,
};
use futures::StreamExt as _;
use jiff::Timestamp;
use object_store::path::Path;
use tokio::sync::OnceCell;

use super::answer::{self, Answer};
use super::erase::Erased;
use super::sdk::Reach;
use crate::clock::{Clock as _, SystemClock};

/// Objects that one request may delete.
const BULK: usize = 1000;
/// Requests under way at once.
const PARALLEL: usize = 16;
/// So few keys of one directory are looked up one by one; for more it is listed.
const FEW: usize = 4;

/// Whether a bucket keeps the versions of its objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Versioning {
    /// There is one of each, and what is deleted is gone.
    Off,
    /// It keeps them.
    On,
    /// It keeps those from before it was told to stop.
    Suspended,
    /// It would not say. It is taken for one that does not; whoever deletes should say so.
    Unknown(Answer),
}

impl Versioning {
    /// Whether there may be versions behind those that a listing shows.
    pub fn keeps(&self) -> bool {
        matches!(self, Self::On | Self::Suspended)
    }
}

/// One version of an object, or a marker that hides those before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Key relative to the store's prefix.
    pub key: String,
    /// Its id; `None` where the store keeps no versions.
    pub version: Option<String>,
    /// Whether it is what a plain read finds.
    pub is_latest: bool,
    /// Whether it is a marker, which has no bytes.
    pub is_delete_marker: bool,
    /// Stored bytes.
    pub size: u64,
    /// When the store took it, by the store's clock.
    pub stored_at: Timestamp,
}

/// A bucket under a prefix, as the SDK reaches it.
pub(super) struct Bucket {
    reach: Reach,
    prefix: Path,
    client: OnceLock<Result<Client, Answer>>,
    versioning: OnceCell<Versioning>,
    bulk: AtomicBool,
    doubted: AtomicBool,
}

/// What is to be deleted: a key in the bucket, and a version of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    key: String,
    version: Option<String>,
}

impl Bucket {
    pub(super) fn new(reach: Reach, prefix: &str) -> Self {
        Self {
            reach,
            prefix: Path::from(prefix),
            client: OnceLock::new(),
            versioning: OnceCell::new(),
            bulk: AtomicBool::new(true),
            doubted: AtomicBool::new(false),
        }
    }

    /// Made when it is first needed: most commands never do.
    pub(super) fn client(&self) -> Result<&Client, Answer> {
        self.client.get_or_init(|| self.reach.client()).as_ref().map_err(Clone::clone)
    }

    /// The bucket's name.
    pub(super) fn name(&self) -> &str {
        &self.reach.bucket
    }

    /// The key in the bucket, the same that `object_store` makes of it.
    pub(super) fn full(&self, key: &str) -> String {
        self.prefix.parts().chain(Path::from(key).parts()).collect::<Path>().to_string()
    }

    fn relative<'a>(&self, full: &'a str) -> Option<&'a str> {
        let prefix = self.prefix.as_ref();
        if prefix.is_empty() { Some(full) } else { full.strip_prefix(prefix)?.strip_prefix('/') }
    }

    /// Whether the bucket keeps versions. Asked once; a store that does not know the question, or
    /// credentials that may not ask it, are remembered too.
    pub(super) async fn versioning(&self) -> Result<&Versioning, Answer> {
        let ask = || async {
            let asked = self.client()?.get_bucket_versioning().bucket(&self.reach.bucket).send();
            match asked.await {
                Ok(found) => Ok(match found.status() {
                    Some(BucketVersioningStatus::Enabled) => Versioning::On,
                    Some(BucketVersioningStatus::Suspended) => Versioning::Suspended,
                    _ => Versioning::Off,
                }),
                Err(error) => {
                    let answer = Answer::of_sdk(&error);
                    // Some servers give the element another name, and the SDK wants just one.
                    let body = error.raw_response().and_then(|raw| raw.body().bytes());
                    if answer.status == Some(200)
                        && let Some(versioning) = body.and_then(read_leniently)
                    {
                        return Ok(versioning);
                    }
                    let unknown = answer.status == Some(501)
                        || answer.is(&["NotImplemented", "MethodNotAllowed"])
                        || (answer.is_refusal() && answer.is(&["AccessDenied"]));
                    if unknown { Ok(Versioning::Unknown(answer)) } else { Err(answer) }
                }
            }
        };
        self.versioning.get_or_try_init(ask).await
    }

    /// Whether nobody has said yet that the bucket would not tell.
    pub(super) fn first_doubt(&self) -> bool {
        !self.doubted.swap(true, Ordering::Relaxed)
    }

    /// Every version below a directory, newest first within a key.
    pub(super) async fn list(&self, directory: &str) -> Result<Vec<Version>, Answer> {
        let full = self.full(directory);
        let prefix = if full.is_empty() { full } else { format!("{full}/") };
        let mut found = Vec::new();
        self.each(&prefix, |version| found.push(version)).await?;
        found.sort_by(|a, b| {
            (&a.key, !a.is_latest, b.stored_at).cmp(&(&b.key, !b.is_latest, a.stored_at))
        });
        Ok(found)
    }

    /// Every version of one key.
    pub(super) async fn versions_of(&self, key: &str) -> Result<Vec<Version>, Answer> {
        let mut found = Vec::new();
        let own = |version: &Version| version.key == key;
        self.each(&self.full(key), |version| found.extend(Some(version).filter(own))).await?;
        Ok(found)
    }

    /// Lists the versions of all keys that begin with `prefix`, which is a full key's start.
    async fn each(&self, prefix: &str, mut take: impl FnMut(Version)) -> Result<(), Answer> {
        let (mut key, mut version): (Option<String>, Option<String>) = (None, None);
        loop {
            let page = self
                .client()?
                .list_object_versions()
                .bucket(&self.reach.bucket)
                .prefix(prefix)
                .set_key_marker(key.clone())
                .set_version_id_marker(version.clone())
                .send()
                .await
                .map_err(|error| Answer::of_sdk(&error))?;
            for found in page.versions() {
                let Some(key) = found.key().and_then(|key| self.relative(key)) else { continue };
                take(Version {
                    key: key.to_owned(),
                    version: found.version_id().map(str::to_owned),
                    is_latest: found.is_latest().unwrap_or_default(),
                    is_delete_marker: false,
                    size: found.size().and_then(|size| size.try_into().ok()).unwrap_or_default(),
                    stored_at: timestamp(found.last_modified()),
                });
            }
            for marker in page.delete_markers() {
                let Some(key) = marker.key().and_then(|key| self.relative(key)) else { continue };
                take(Version {
                    key: key.to_owned(),
                    version: marker.version_id().map(str::to_owned),
                    is_latest: marker.is_latest().unwrap_or_default(),
                    is_delete_marker: true,
                    size: 0,
                    stored_at: timestamp(marker.last_modified()),
                });
            }
            if !page.is_truncated().unwrap_or_default() {
                return Ok(());
            }
            let next = (
                page.next_key_marker().map(str::to_owned),
                page.next_version_id_marker().map(str::to_owned),
            );
            if next.0.is_none() || next == (key, version) {
                return Err(Answer::plain("the list of versions does not say where it goes on"));
            }
            (key, version) = next;
        }
    }

    /// Removes objects for good, in the order given. Keys are relative.
    pub(super) async fn erase(&self, keys: &[String]) -> Vec<Result<Erased, Answer>> {
        match self.versioning().await {
            Ok(versioning) if versioning.keeps() => self.erase_versions(keys).await,
            Ok(_) => self.erase_plain(keys).await,
            Err(answer) => keys.iter().map(|_| Err(answer.clone())).collect(),
        }
    }

    /// Where no versions are kept, what is deleted is gone.
    async fn erase_plain(&self, keys: &[String]) -> Vec<Result<Erased, Answer>> {
        let targets: Vec<Target> =
            keys.iter().map(|key| Target { key: self.full(key), version: None }).collect();
        let done = self.delete(&targets).await;
        let gone = |target: &Target| match done.get(target) {
            None => Ok(Erased::Gone),
            Some(answer) if answer.is(&["NoSuchKey"]) => Ok(Erased::Absent),
            Some(answer) => Err(answer.clone()),
        };
        targets.iter().map(gone).collect()
    }

    async fn erase_versions(&self, keys: &[String]) -> Vec<Result<Erased, Answer>> {
        let mut found: BTreeMap<String, Result<Vec<Version>, Answer>> = BTreeMap::new();
        let mut looks = futures::stream::iter(searches(keys))
            .map(|(prefix, wanted)| async move { self.look(&prefix, wanted).await })
            .buffer_unordered(PARALLEL);
        while let Some(part) = looks.next().await {
            found.extend(part);
        }
        drop(looks);

        // The oldest first, so that none of them is ever the latest.
        let mut targets = Vec::new();
        for versions in found.values_mut().flatten() {
            versions.sort_by_key(|version| (version.is_latest, version.stored_at));
            targets.extend(versions.iter().filter(|v| !v.is_delete_marker).map(|v| self.target(v)));
        }
        let mut failed = self.delete(&targets).await;
        let stays: BTreeSet<&String> = failed.keys().map(|target| &target.key).collect();
        let mut markers = Vec::new();
        for versions in found.values().flatten() {
            let markers_of = versions.iter().filter(|v| v.is_delete_marker).map(|v| self.target(v));
            markers.extend(markers_of.filter(|target| !stays.contains(&target.key)));
        }
        failed.extend(self.delete(&markers).await);

        let locked = self.locks(&failed).await;
        keys.iter()
            .map(|key| {
                let versions = match found.get(key) {
                    Some(Ok(versions)) => versions,
                    Some(Err(answer)) => return Err(answer.clone()),
                    None => return Ok(Erased::Absent),
                };
                let mut result = if versions.is_empty() { Erased::Absent } else { Erased::Gone };
                for version in versions {
                    let target = self.target(version);
                    let Some(answer) = failed.get(&target) else { continue };
                    let Some(until) = locked.get(&target) else { return Err(answer.clone()) };
                    let so_far = if let Erased::Retained { until } = result { until } else { None };
                    result = Erased::Retained { until: so_far.max(*until) };
                }
                Ok(result)
            })
            .collect()
    }

    fn target(&self, version: &Version) -> Target {
        Target { key: self.full(&version.key), version: version.version.clone() }
    }

    /// The versions of the keys wanted, among all that begin with `prefix`.
    async fn look(
        &self,
        prefix: &str,
        wanted: Vec<String>,
    ) -> BTreeMap<String, Result<Vec<Version>, Answer>> {
        let mut found: BTreeMap<String, Vec<Version>> =
            wanted.into_iter().map(|key| (key, Vec::new())).collect();
        let take = |version: Version| {
            if let Some(versions) = found.get_mut(&version.key) {
                versions.push(version);
            }
        };
        let listed = self.each(&self.full(prefix), take).await;
        found.into_iter().map(|(key, versions)| (key, listed.clone().map(|()| versions))).collect()
    }

    /// Deletes, several at once where the store can. Returns what could not be deleted, and why.
    async fn delete(&self, targets: &[Target]) -> BTreeMap<Target, Answer> {
        let mut failed = BTreeMap::new();
        for batch in targets.chunks(BULK) {
            if self.bulk.load(Ordering::Relaxed) {
                match self.delete_bulk(batch).await {
                    Ok(trouble) => {
                        failed.extend(trouble);
                        continue;
                    }
                    Err(answer) if cannot_bulk(&answer) => {
                        self.bulk.store(false, Ordering::Relaxed);
                    }
                    Err(answer) => {
                        failed.extend(batch.iter().map(|target| (target.clone(), answer.clone())));
                        continue;
                    }
                }
            }
            let mut deletes = futures::stream::iter(batch)
                .map(|target| async move { (target, self.delete_one(target).await) })
                .buffered(PARALLEL);
            while let Some((target, result)) = deletes.next().await {
                if let Err(answer) = result {
                    failed.insert(target.clone(), answer);
                }
            }
        }
        failed
    }

    async fn delete_bulk(&self, batch: &[Target]) -> Result<BTreeMap<Target, Answer>, Answer> {
        let mut objects = Vec::with_capacity(batch.len());
        for target in batch {
            let object = ObjectIdentifier::builder()
                .key(&target.key)
                .set_version_id(target.version.clone())
                .build()
                .map_err(|error| Answer::plain(error.to_string()))?;
            objects.push(object);
        }
        // Not quiet: a store that says nothing of an object has not deleted it.
        let delete = Delete::builder()
            .set_objects(Some(objects))
            .quiet(false)
            .build()
            .map_err(|error| Answer::plain(error.to_string()))?;
        let done = self
            .client()?
            .delete_objects()
            .bucket(&self.reach.bucket)
            .delete(delete)
            .customize()
            .mutate_request(add_md5)
            .send()
            .await
            .map_err(|error| Answer::of_sdk(&error))?;

        let mut left: BTreeSet<&Target> = batch.iter().collect();
        let mut failed = BTreeMap::new();
        for deleted in done.deleted() {
            let target = Target {
                key: deleted.key().unwrap_or_default().to_owned(),
                version: deleted.version_id().map(str::to_owned),
            };
            // A plain delete on a bucket that keeps versions after all.
            if target.version.is_none() && deleted.delete_marker() == Some(true) {
                failed.insert(target.clone(), hidden());
            }
            left.remove(&target);
        }
        for error in done.errors() {
            let answer = Answer {
                status: None,
                code: error.code().map(str::to_owned),
                message: error.message().unwrap_or_default().to_owned(),
                io: None,
                silent: false,
            };
            let key = error.key().unwrap_or_default();
            // Some stores leave out the version they speak of.
            let about = |target: &&Target| {
                let version = error.version_id().filter(|version| !version.is_empty());
                target.key == key && version.is_none_or(|v| target.version.as_deref() == Some(v))
            };
            let about: Vec<&Target> = left.iter().copied().filter(about).collect();
            for target in about {
                left.remove(target);
                failed.insert(target.clone(), answer.clone());
            }
        }
        let silent = Answer::plain("the store did not say what became of it");
        failed.extend(left.into_iter().map(|target| (target.clone(), silent.clone())));
        Ok(failed)
    }

    async fn delete_one(&self, target: &Target) -> Result<(), Answer> {
        let done = self
            .client()?
            .delete_object()
            .bucket(&self.reach.bucket)
            .key(&target.key)
            .set_version_id(target.version.clone())
            .send()
            .await
            .map_err(|error| Answer::of_sdk(&error))?;
        if target.version.is_none() && done.delete_marker() == Some(true) {
            return Err(hidden());
        }
        Ok(())
    }

    /// Those of the targets that object lock protects, with its end where the store tells it.
    async fn locks(
        &self,
        failed: &BTreeMap<Target, Answer>,
    ) -> BTreeMap<Target, Option<Timestamp>> {
        let refused = failed.iter().filter(|(_, answer)| {
            answer.is_refusal()
                || answer.is(&["ObjectLocked", "InvalidRequest", "MethodNotAllowed"])
        });
        futures::stream::iter(refused)
            .map(|(target, answer)| async move {
                let until = self.lock(target, answer).await?;
                Some((target.clone(), until))
            })
            .buffered(PARALLEL)
            .filter_map(futures::future::ready)
            .collect()
            .await
    }

    /// `None`: it is not locked, so the refusal has another reason.
    async fn lock(&self, target: &Target, answer: &Answer) -> Option<Option<Timestamp>> {
        let said = answer.message.to_lowercase();
        let said = answer.is(&["ObjectLocked"])
            || ["object lock", "worm", "legal hold", "retention"].iter().any(|w| said.contains(w));
        let head = self
            .client()
            .ok()?
            .head_object()
            .bucket(&self.reach.bucket)
            .key(&target.key)
            .set_version_id(target.version.clone())
            .send()
            .await;
        let Ok(head) = head else { return said.then_some(None) };
        let until = head.object_lock_retain_until_date().map(|until| timestamp(Some(until)));
        let held = head.object_lock_legal_hold_status() == Some(&ObjectLockLegalHoldStatus::On);
        // A lock that has ended explains nothing: then a right is missing.
        let until = until.filter(|until| *until > SystemClock.now());
        if held {
            Some(None)
        } else if until.is_some() {
            Some(until)
        } else {
            said.then_some(None)
        }
    }
}

/// A versioning configuration whose outer element has any name.
/// What a body says that the SDK does not understand.
pub(super) fn read_leniently(body: &[u8]) -> Option<Versioning> {
    let text = std::str::from_utf8(body).ok()?;
    match answer::element(text, "Status").as_deref() {
        Some("Enabled") => Some(Versioning::On),
        Some("Suspended") => Some(Versioning::Suspended),
        None if text.contains("Versioning") => Some(Versioning::Off),
        _ => None,
    }
}

/// What to list to see all versions of these keys: the start of a full key, and those wanted of it.
fn searches(keys: &[String]) -> Vec<(String, Vec<String>)> {
    let mut directories: BTreeMap<&str, BTreeSet<&String>> = BTreeMap::new();
    for key in keys {
        let directory = key.rsplit_once('/').map_or("", |(directory, _)| directory);
        directories.entry(directory).or_default().insert(key);
    }
    let mut searches = Vec::new();
    for wanted in directories.into_values() {
        if wanted.len() <= FEW {
            searches.extend(wanted.into_iter().map(|key| (key.clone(), vec![key.clone()])));
            continue;
        }
        // Sorted, so that what the first and the last share is what all of them share.
        let (Some(first), Some(last)) = (wanted.first(), wanted.last()) else { continue };
        let shared = first.bytes().zip(last.bytes()).take_while(|(a, b)| a == b).count();
        let shared = (0..=shared).rev().find(|at| first.is_char_boundary(*at)).unwrap_or(0);
        searches.push((first[..shared].to_owned(), wanted.into_iter().cloned().collect()));
    }
    searches
}

/// A store that cannot delete several at once, or not the way it was asked.
fn cannot_bulk(answer: &Answer) -> bool {
    matches!(answer.status, Some(400 | 404 | 405 | 411 | 501))
        || answer.is(&["NotImplemented", "MethodNotAllowed", "MissingContentMD5"])
}

fn hidden() -> Answer {
    Answer {
        status: None,
        code: Some("AccessDenied".to_owned()),
        message: "the bucket keeps versions and only hid the object: removing it for good needs \
                  s3:GetBucketVersioning, s3:ListBucketVersions and s3:DeleteObjectVersion"
            .to_owned(),
        io: None,
        silent: false,
    }
}

/// Older servers want an MD5 with this request and know no other checksum.
pub(super) fn add_md5(request: &mut aws_sdk_s3::config::http::HttpRequest) {
    use base64::Engine as _;
    use md5::Digest as _;
    let Some(digest) = request.body().bytes().map(md5::Md5::digest) else { return };
    let text = base64::engine::general_purpose::STANDARD.encode(digest);
    request.headers_mut().insert("content-md5", text);
}

pub(super) fn timestamp(time: Option<&DateTime>) -> Timestamp {
    time.and_then(|time| Timestamp::new(time.secs(), time.subsec_nanos() as i32).ok())
        .unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_keys_are_looked_up_and_many_are_listed_together() {
        let few: Vec<String> = ["a/x.zst", "a/y.zst", "b/z"].map(str::to_owned).into();
        let found = searches(&few);
        assert_eq!(found.len(), 3);
        assert_eq!(found[0], ("a/x.zst".to_owned(), vec!["a/x.zst".to_owned()]));

        let many: Vec<String> = (10..20).map(|n| format!("a/00{n}.tar.zst")).collect();
        let found = searches(&many);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, "a/001");
        assert_eq!(found[0].1, many);
    }
}
