//! Somebody's bucket: its objects as they are, by their own keys, with everything that is kept beside
//! their bytes. Repositories choose their keys; here any key may come.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{
    self, BucketVersioningStatus, CompletedMultipartUpload, CompletedPart, EncodingType,
};
use bytes::Bytes;
use jiff::Timestamp;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use super::answer::Answer;
use super::connect::Location;
use super::error::of_any;
use super::sdk::Reach;
use super::versions::{Versioning, read_leniently};
use crate::error::{Error, ErrorKind, Result};

/// A bucket, or a prefix in one.
pub struct Objects {
    pub(super) client: Client,
    pub(super) bucket: String,
    pub(super) prefix: String,
    name: String,
    pub(super) reach: Reach,
    // After the client, whose connections live in it.
    pub(super) runtime: Arc<Runtime>,
}

/// An object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    /// Its key, without the prefix.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// What the store calls its content.
    pub etag: String,
    /// When the store took it.
    pub modified: Timestamp,
}

/// What is kept beside an object's bytes: `content-type`, `meta.NAME`, `tag.NAME` and so on.
pub type Attributes = BTreeMap<String, String>;

/// A part of an object, and what is kept beside it.
#[derive(Debug, Clone, Default)]
pub struct Fetched {
    /// The bytes that were asked for.
    pub bytes: Bytes,
    /// Bytes of all of the object.
    pub size: u64,
    /// What the store calls its content.
    pub etag: String,
    /// When the store took it.
    pub modified: Option<Timestamp>,
    /// The rest.
    pub attributes: Attributes,
}

/// Bytes on their way.
pub type Fetching = JoinHandle<std::result::Result<Option<Fetched>, Answer>>;

impl Objects {
    /// A bucket. Nothing is asked of it yet.
    pub fn open(location: &Location) -> Result<Self> {
        let Location::S3(s3) = location else {
            return Err(Error::usage(format!("{} is no bucket", location.name())));
        };
        let doing = || format!("failed to set up {}", location.name());
        let (_, reach): (_, Reach) = s3.build().map_err(|error| error.context(doing()))?;
        let client = reach.client().map_err(|answer| of_any(&answer, doing()))?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|error| Error::io("failed to start a runtime", error))?;
        let prefix = if s3.prefix.is_empty() { String::new() } else { format!("{}/", s3.prefix) };
        Ok(Self {
            client,
            bucket: reach.bucket.clone(),
            reach,
            prefix,
            name: location.name(),
            runtime: Arc::new(runtime),
        })
    }

    /// The bucket, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    pub(super) fn failed(&self, answer: &Answer, what: &str) -> Error {
        let error = of_any(answer, format!("failed to {what} in {}", self.name));
        let error = error.with_source(answer.clone());
        if answer.is(&["NoSuchBucket"]) {
            return error.with_kind(ErrorKind::NotFound);
        }
        error
    }

    /// A thousand objects after those that `token` stands for, in the order of their keys, and the
    /// token for the next. `None`: there are no more.
    pub fn list(&self, token: Option<&str>) -> Result<(Vec<ListedObject>, Option<String>)> {
        let request = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(&self.prefix)
            // Keys may have characters that no XML has.
            .encoding_type(EncodingType::Url)
            .set_continuation_token(token.map(str::to_owned));
        let page = self
            .runtime
            .block_on(request.send())
            .map_err(|error| self.failed(&Answer::of_sdk(&error), "list objects"))?;
        let encoded = page.encoding_type().is_some();
        let mut found = Vec::new();
        for object in page.contents() {
            let key = object.key().unwrap_or_default();
            let key = if encoded { decoded(key) } else { key.to_owned() };
            let Some(key) = key.strip_prefix(&self.prefix) else { continue };
            found.push(ListedObject {
                key: key.to_owned(),
                size: object.size().unwrap_or_default().try_into().unwrap_or_default(),
                etag: object.e_tag().unwrap_or_default().to_owned(),
                modified: timestamp(object.last_modified()).unwrap_or_default(),
            });
        }
        let next = page.next_continuation_token().map(str::to_owned);
        Ok((found, next.filter(|_| page.is_truncated().unwrap_or_default())))
    }

    /// Begins to fetch a range of an object, or of a `version` of it; only of the content `etag`, if
    /// one is given. The answer is `None` where there is no such object any more.
    pub fn fetch(
        &self,
        key: &str,
        version: Option<&str>,
        range: Option<Range<u64>>,
        etag: Option<&str>,
    ) -> Fetching {
        let version = version.map(str::to_owned);
        let (client, bucket, key) = (self.client.clone(), self.bucket.clone(), self.full(key));
        let (etag, first) = (etag.map(str::to_owned), range.as_ref().is_none_or(|r| r.start == 0));
        self.runtime.spawn(async move {
            let range = range.map(|range| format!("bytes={}-{}", range.start, range.end - 1));
            let request = client.get_object().bucket(&bucket).key(&key);
            let request = request.set_version_id(version.clone());
            let sent = request.set_range(range).set_if_match(etag).send().await;
            let answer = match sent {
                Ok(answer) => answer,
                Err(error) => {
                    let answer = Answer::of_sdk(&error);
                    let gone = answer.is(&["NoSuchKey", "NoSuchVersion", "NotFound"]);
                    return if gone { Ok(None) } else { Err(answer) };
                }
            };
            let attributes = attributes(&answer);
            let length = answer.content_length().unwrap_or_default();
            let total =
                answer.content_range().and_then(|range| range.rsplit('/').next()?.parse().ok());
            let mut fetched = Fetched {
                size: total.unwrap_or(length.try_into().unwrap_or_default()),
                etag: answer.e_tag().unwrap_or_default().to_owned(),
                modified: timestamp(answer.last_modified()),
                attributes,
                bytes: Bytes::new(),
            };
            let tagged = answer.tag_count().unwrap_or_default() > 0;
            let broken = |error: &dyn std::fmt::Display| Answer::plain(error.to_string());
            let body = answer.body.collect().await.map_err(|error| broken(&error))?;
            fetched.bytes = body.into_bytes();
            if tagged && first {
                let asked = client.get_object_tagging().bucket(&bucket).key(&key);
                let asked = asked.set_version_id(version).send().await;
                let tags = asked.map_err(|error| Answer::of_sdk(&error))?;
                for tag in tags.tag_set() {
                    fetched.attributes.insert(format!("tag.{}", tag.key()), tag.value().to_owned());
                }
            }
            Ok(Some(fetched))
        })
    }

    /// Waits for what [`Objects::fetch`] began.
    pub fn wait(&self, key: &str, fetching: Fetching) -> Result<Option<Fetched>> {
        let done = self.runtime.block_on(fetching);
        let done =
            done.map_err(|error| Error::failed("a request was given up").with_source(error))?;
        done.map_err(|answer| {
            let replaced = answer.status == Some(412) || answer.is(&["PreconditionFailed"]);
            let error = self.failed(&answer, &format!("read `{key}`"));
            if replaced {
                return error
                    .with_kind(ErrorKind::Conflict)
                    .hint("it was replaced while it was read: run this again");
            }
            error
        })
    }

    /// Stores an object of one piece. With `create_only` nothing that is there is replaced: false.
    pub fn put(
        &self,
        key: &str,
        attributes: &Attributes,
        bytes: Bytes,
        create_only: bool,
    ) -> Result<bool> {
        let of = |name: &str| attributes.get(name).cloned();
        let mut request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(self.full(key))
            .body(ByteStream::from(bytes))
            .set_content_type(of("content-type"))
            .set_content_encoding(of("content-encoding"))
            .set_content_language(of("content-language"))
            .set_content_disposition(of("content-disposition"))
            .set_cache_control(of("cache-control"))
            .set_tagging(tagging(attributes));
        for (name, value) in named(attributes, "meta.") {
            request = request.metadata(name, value);
        }
        if create_only {
            request = request.if_none_match("*");
        }
        match self.runtime.block_on(request.send()) {
            Ok(_) => Ok(true),
            Err(error) => self.exists_or(&Answer::of_sdk(&error), key, create_only),
        }
    }

    fn exists_or(&self, answer: &Answer, key: &str, create_only: bool) -> Result<bool> {
        if create_only && (answer.status == Some(412) || answer.is(&["PreconditionFailed"])) {
            return Ok(false);
        }
        Err(self.failed(answer, &format!("write `{key}`")))
    }

    /// Begins to store an object of many pieces.
    pub fn begin(&self, key: &str, attributes: &Attributes) -> Result<Pieces<'_>> {
        let of = |name: &str| attributes.get(name).cloned();
        let mut request = self
            .client
            .create_multipart_upload()
            .bucket(&self.bucket)
            .key(self.full(key))
            .set_content_type(of("content-type"))
            .set_content_encoding(of("content-encoding"))
            .set_content_language(of("content-language"))
            .set_content_disposition(of("content-disposition"))
            .set_cache_control(of("cache-control"))
            .set_tagging(tagging(attributes));
        for (name, value) in named(attributes, "meta.") {
            request = request.metadata(name, value);
        }
        let begun = self.runtime.block_on(request.send());
        let begun = begun
            .map_err(|error| self.failed(&Answer::of_sdk(&error), &format!("write `{key}`")))?;
        let upload = begun.upload_id().unwrap_or_default().to_owned();
        Ok(Pieces { objects: self, key: key.to_owned(), upload, parts: Vec::new(), done: false })
    }

    /// Whether a bucket keeps versions: `on`, `suspended` or `off`. `None`: it does not say.
    pub(super) fn versioning(&self, client: &Client, bucket: &str) -> Option<&'static str> {
        match self.runtime.block_on(client.get_bucket_versioning().bucket(bucket).send()) {
            Ok(answer) => match answer.status() {
                Some(BucketVersioningStatus::Enabled) => Some("on"),
                Some(BucketVersioningStatus::Suspended) => Some("suspended"),
                _ => Some("off"),
            },
            // Some servers give the element another name, and the SDK wants just one.
            Err(error) => error
                .raw_response()
                .filter(|raw| raw.status().as_u16() == 200)
                .and_then(|raw| read_leniently(raw.body().bytes()?))
                .map(|versioning| match versioning {
                    Versioning::On => "on",
                    Versioning::Suspended => "suspended",
                    _ => "off",
                }),
        }
    }

    /// What the bucket is set to do, as far as this store says: `versioning`, `policy`, `object_lock`,
    /// `lifecycle`, `replication`.
    pub fn settings(&self) -> Result<BTreeMap<String, serde_json::Value>> {
        use serde_json::json;
        let mut found = BTreeMap::new();
        let (client, bucket) = (&self.client, &self.bucket);
        let status = self.versioning(client, bucket);
        if let Some(status) = status {
            found.insert("versioning".to_owned(), json!(status));
        }
        let asked = self.runtime.block_on(client.get_bucket_policy().bucket(bucket).send());
        if let Some(policy) = asked.ok().and_then(|answer| answer.policy().map(str::to_owned)) {
            let text = json!(policy);
            found.insert("policy".to_owned(), serde_json::from_str(&policy).unwrap_or(text));
        }
        let request = client.get_object_lock_configuration().bucket(bucket);
        let asked = self.runtime.block_on(request.send()).ok();
        if let Some(lock) = asked.as_ref().and_then(|answer| answer.object_lock_configuration()) {
            let rule = lock.rule().and_then(|rule| rule.default_retention());
            found.insert(
                "object_lock".to_owned(),
                json!({
                    "mode": rule.and_then(|rule| rule.mode()).map(types::ObjectLockRetentionMode::as_str),
                    "days": rule.and_then(types::DefaultRetention::days),
                    "years": rule.and_then(types::DefaultRetention::years),
                }),
            );
        }
        let request = client.get_bucket_lifecycle_configuration().bucket(bucket);
        if let Ok(answer) = self.runtime.block_on(request.send()) {
            let rules: Vec<_> = answer
                .rules()
                .iter()
                .map(|rule| {
                    json!({
                        "id": rule.id(),
                        "status": rule.status().as_str(),
                        "prefix": rule.filter().and_then(|filter| filter.prefix()),
                        "expire_days": rule.expiration().and_then(types::LifecycleExpiration::days),
                        "expire_noncurrent_days":
                            rule.noncurrent_version_expiration().and_then(types::NoncurrentVersionExpiration::noncurrent_days),
                    })
                })
                .collect();
            found.insert("lifecycle".to_owned(), json!(rules));
        }
        let asked =
            self.runtime.block_on(client.get_bucket_replication().bucket(bucket).send()).ok();
        if let Some(replication) =
            asked.as_ref().and_then(|found| found.replication_configuration())
        {
            let rules: Vec<_> = replication
                .rules()
                .iter()
                .map(|rule| {
                    json!({
                        "id": rule.id(),
                        "status": rule.status().as_str(),
                        "to": rule.destination().map(types::Destination::bucket),
                        "deletes": rule
                            .delete_marker_replication()
                            .and_then(|found| found.status())
                            .map(types::DeleteMarkerReplicationStatus::as_str),
                    })
                })
                .collect();
            found.insert("replication".to_owned(), json!(rules));
        }
        Ok(found)
    }
}

/// An object on its way to a bucket. Dropped before its end it is given up.
pub struct Pieces<'a> {
    objects: &'a Objects,
    key: String,
    upload: String,
    parts: Vec<CompletedPart>,
    done: bool,
}

impl Pieces<'_> {
    /// Stores the next piece; all but the last have at least 5 MiB.
    pub fn push(&mut self, bytes: Bytes) -> Result<()> {
        let objects = self.objects;
        let number = self.parts.len() as i32 + 1;
        let request = objects
            .client
            .upload_part()
            .bucket(&objects.bucket)
            .key(objects.full(&self.key))
            .upload_id(&self.upload)
            .part_number(number)
            .body(ByteStream::from(bytes));
        let done = objects.runtime.block_on(request.send()).map_err(|error| {
            objects.failed(&Answer::of_sdk(&error), &format!("write `{}`", self.key))
        })?;
        let part = CompletedPart::builder().part_number(number).set_e_tag(done.e_tag);
        self.parts.push(part.build());
        Ok(())
    }

    /// Makes the object of its pieces. With `create_only` nothing that is there is replaced: false.
    pub fn finish(mut self, create_only: bool) -> Result<bool> {
        let objects = self.objects;
        let parts = std::mem::take(&mut self.parts);
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let mut request = objects
            .client
            .complete_multipart_upload()
            .bucket(&objects.bucket)
            .key(objects.full(&self.key))
            .upload_id(&self.upload)
            .multipart_upload(parts);
        if create_only {
            request = request.if_none_match("*");
        }
        match objects.runtime.block_on(request.send()) {
            Ok(_) => {
                self.done = true;
                Ok(true)
            }
            Err(error) => objects.exists_or(&Answer::of_sdk(&error), &self.key, create_only),
        }
    }
}

impl Drop for Pieces<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let objects = self.objects;
        let request = objects
            .client
            .abort_multipart_upload()
            .bucket(&objects.bucket)
            .key(objects.full(&self.key))
            .upload_id(&self.upload);
        let _ = objects.runtime.block_on(request.send());
    }
}

fn attributes(answer: &aws_sdk_s3::operation::get_object::GetObjectOutput) -> Attributes {
    let mut found = Attributes::new();
    let mut add = |name: &str, value: Option<&str>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            found.insert(name.to_owned(), value.to_owned());
        }
    };
    add("content-type", answer.content_type());
    add("content-encoding", answer.content_encoding());
    add("content-language", answer.content_language());
    add("content-disposition", answer.content_disposition());
    add("cache-control", answer.cache_control());
    add("storage-class", answer.storage_class().map(types::StorageClass::as_str));
    add("version", answer.version_id());
    for (name, value) in answer.metadata().into_iter().flatten() {
        found.insert(format!("meta.{name}"), value.clone());
    }
    found
}

fn named<'a>(
    attributes: &'a Attributes,
    kind: &'a str,
) -> impl Iterator<Item = (&'a str, &'a String)> {
    attributes.iter().filter_map(move |(name, value)| Some((name.strip_prefix(kind)?, value)))
}

fn tagging(attributes: &Attributes) -> Option<String> {
    let mut text = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in named(attributes, "tag.") {
        text.append_pair(name, value);
    }
    Some(text.finish()).filter(|text| !text.is_empty())
}

pub(super) fn timestamp(time: Option<&DateTime>) -> Option<Timestamp> {
    let time = time?;
    Timestamp::new(time.secs(), time.subsec_nanos() as i32).ok()
}

/// A key as a listing writes it with `encoding-type=url`.
pub(super) fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let code = tail.get(..2).filter(|_| byte == b'%').and_then(|code| hex::decode(code).ok());
        rest = if code.is_some() { &tail[2..] } else { tail };
        match (code, byte) {
            (Some(code), _) => bytes.extend(code),
            (None, b'+') => bytes.push(b' '),
            (None, byte) => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
