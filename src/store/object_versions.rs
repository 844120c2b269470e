//! What lies behind the objects of somebody's bucket: versions, marks that something was deleted, and what a
//! replication made of them.

use aws_sdk_s3::Client;
use aws_sdk_s3::types::EncodingType;

use super::answer::Answer;
use super::objects::{ListedObject, Objects, decoded, timestamp};
use crate::error::Result;

/// A version as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedVersion {
    /// The object as it was.
    pub object: ListedObject,
    /// What the store calls it.
    pub version: String,
    /// It is what one gets who asks for the key.
    pub latest: bool,
    /// It only says that the object was deleted.
    pub deleted: bool,
}

/// Where the next page of versions begins.
#[derive(Debug, Clone)]
pub struct VersionsFrom {
    key: Option<String>,
    version: Option<String>,
}

/// What is known of the other side of a replication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherSide {
    /// Whether it keeps versions; `None`: it does not tell us.
    pub versions: Option<bool>,
    /// Whether it can lock them; `None`: it does not tell us.
    pub locks: Option<bool>,
}

impl Objects {
    /// A thousand versions and marks, in the order of their keys and the newest of a key first.
    pub fn list_versions(
        &self,
        from: Option<&VersionsFrom>,
    ) -> Result<(Vec<ListedVersion>, Option<VersionsFrom>)> {
        let request = self
            .client
            .list_object_versions()
            .bucket(&self.bucket)
            .prefix(&self.prefix)
            .encoding_type(EncodingType::Url)
            .set_key_marker(from.and_then(|from| from.key.clone()))
            .set_version_id_marker(from.and_then(|from| from.version.clone()));
        let page = self
            .runtime
            .block_on(request.send())
            .map_err(|error| self.failed(&Answer::of_sdk(&error), "list versions"))?;
        let encoded = page.encoding_type().is_some();
        let text = |text: &str| if encoded { decoded(text) } else { text.to_owned() };
        let mut found = Vec::new();
        for one in page.versions() {
            let key = text(one.key().unwrap_or_default());
            let Some(key) = key.strip_prefix(&self.prefix) else { continue };
            found.push(ListedVersion {
                object: ListedObject {
                    key: key.to_owned(),
                    size: one.size().unwrap_or_default().try_into().unwrap_or_default(),
                    etag: one.e_tag().unwrap_or_default().to_owned(),
                    modified: timestamp(one.last_modified()).unwrap_or_default(),
                },
                version: one.version_id().unwrap_or("null").to_owned(),
                latest: one.is_latest().unwrap_or_default(),
                deleted: false,
            });
        }
        for one in page.delete_markers() {
            let key = text(one.key().unwrap_or_default());
            let Some(key) = key.strip_prefix(&self.prefix) else { continue };
            found.push(ListedVersion {
                object: ListedObject {
                    key: key.to_owned(),
                    size: 0,
                    etag: String::new(),
                    modified: timestamp(one.last_modified()).unwrap_or_default(),
                },
                version: one.version_id().unwrap_or("null").to_owned(),
                latest: one.is_latest().unwrap_or_default(),
                deleted: true,
            });
        }
        // The two come in lists of their own. Of one key the order of each stays what it was.
        found.sort_by(|a, b| {
            let (one, other) = (&a.object, &b.object);
            let key = one.key.as_bytes().cmp(other.key.as_bytes());
            key.then(b.latest.cmp(&a.latest)).then(other.modified.cmp(&one.modified))
        });
        // The marker comes back as it was sent: encoded.
        let marker = page.next_key_marker().map(text);
        let next = page.is_truncated().unwrap_or_default().then(|| VersionsFrom {
            key: marker,
            version: page.next_version_id_marker().map(str::to_owned),
        });
        Ok((found, next))
    }

    /// Hides an object behind a mark that it was deleted.
    pub fn hide(&self, key: &str) -> Result<()> {
        let request = self.client.delete_object().bucket(&self.bucket).key(self.full(key));
        self.runtime
            .block_on(request.send())
            .map(drop)
            .map_err(|error| self.failed(&Answer::of_sdk(&error), &format!("delete `{key}`")))
    }

    /// What the replication says of an object: `COMPLETED`, `PENDING`, `FAILED`, `REPLICA`. `None`: it
    /// never met it.
    pub fn replication_of(&self, key: &str) -> Result<Option<String>> {
        let request = self.client.head_object().bucket(&self.bucket).key(self.full(key));
        let answer = self
            .runtime
            .block_on(request.send())
            .map_err(|error| self.failed(&Answer::of_sdk(&error), &format!("look at `{key}`")))?;
        Ok(answer.replication_status().map(|status| status.as_str().to_owned()))
    }

    /// What another bucket, which this store knows under the same address, says of itself. `to` is its
    /// name, or an ARN that ends in it.
    pub fn other_side(&self, to: &str) -> OtherSide {
        let name = to.rsplit(':').next().unwrap_or(to);
        let Some(client) = self.client_of(name) else {
            return OtherSide { versions: None, locks: None };
        };
        let versions = self.versioning(&client, name).map(|status| status == "on");
        let request = client.get_object_lock_configuration().bucket(name);
        let locks = match self.runtime.block_on(request.send()) {
            Ok(answer) => Some(answer.object_lock_configuration().is_some()),
            Err(error) => {
                let answer = Answer::of_sdk(&error);
                answer.is(&["ObjectLockConfigurationNotFoundError"]).then_some(false)
            }
        };
        OtherSide { versions, locks }
    }

    fn client_of(&self, bucket: &str) -> Option<Client> {
        let mut reach = self.reach.clone();
        let by_path = reach.url.strip_suffix(&format!("/{}", self.bucket));
        let url = match by_path {
            Some(server) => format!("{server}/{bucket}"),
            None => {
                reach.url.replacen(&format!("://{}.", self.bucket), &format!("://{bucket}."), 1)
            }
        };
        (reach.url, reach.bucket) = (url, bucket.to_owned());
        reach.client().ok()
    }
}
