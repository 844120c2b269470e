//! Objects that lie in an archive of the store: they are listed, and cannot be read before somebody
//! had them thawed.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_s3::types::{GlacierJobParameters, ObjectStorageClass, RestoreRequest, Tier};
use futures::{StreamExt as _, TryStreamExt as _};

use super::answer::Answer;
use super::blocking::Store;
use super::erase::Place;
use super::error;
use super::versions::Bucket;
use crate::error::{Error, Result};

/// Requests under way at once.
const PARALLEL: usize = 16;

/// An object that cannot be read now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archived {
    /// Its key.
    pub key: String,
    /// The class it is stored in.
    pub class: String,
    /// Somebody asked for it, and it is being thawed.
    pub thawing: bool,
}

/// How fast objects are thawed, which has its price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Within minutes; not of the deepest archives.
    Expedited,
    /// Within hours.
    Standard,
    /// Within half a day or two, and cheapest.
    Bulk,
}

/// What an archive is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thaw {
    /// Days for which thawed copies stay.
    pub days: u16,
    /// How fast.
    pub pace: Pace,
}

impl std::fmt::Display for Archived {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = if self.thawing { ", being thawed" } else { "" };
        write!(f, "{} is in class {}{state}", self.key, self.class)
    }
}

impl Bucket {
    /// Those of the keys that are stored in a class which may be an archive. Full keys.
    async fn in_archives(
        &self,
        wanted: &BTreeSet<String>,
    ) -> Result<Vec<(String, ObjectStorageClass)>, Answer> {
        let directory = |key: &String| key.rsplit_once('/').map_or("", |(of, _)| of).to_owned();
        let directories: BTreeSet<String> = wanted.iter().map(directory).collect();
        let mut found = Vec::new();
        for directory in directories {
            let prefix = if directory.is_empty() { directory } else { format!("{directory}/") };
            let mut next: Option<String> = None;
            loop {
                let page = self
                    .client()?
                    .list_objects_v2()
                    .bucket(self.name())
                    .prefix(&prefix)
                    .set_continuation_token(next.clone())
                    .send()
                    .await
                    .map_err(|error| Answer::of_sdk(&error))?;
                for object in page.contents() {
                    let (Some(key), Some(class)) = (object.key(), object.storage_class()) else {
                        continue;
                    };
                    if may_be_archived(class) && wanted.contains(key) {
                        found.push((key.to_owned(), ObjectStorageClass::from(class.as_str())));
                    }
                }
                let more = page.next_continuation_token().map(str::to_owned);
                if !page.is_truncated().unwrap_or_default() || more.is_none() || more == next {
                    break;
                }
                next = more;
            }
        }
        Ok(found)
    }

    /// Whether an object of such a class must be thawed before it is read, and is.
    async fn thawing(&self, key: &str, class: &ObjectStorageClass) -> Result<Option<bool>, Answer> {
        let head = self.client()?.head_object().bucket(self.name()).key(key);
        let head = head.send().await.map_err(|error| Answer::of_sdk(&error))?;
        // Objects move in and out of the archive of this class by themselves.
        if *class == ObjectStorageClass::IntelligentTiering && head.archive_status().is_none() {
            return Ok(None);
        }
        Ok(match head.restore() {
            Some(said) if said.contains("ongoing-request=\"false\"") => None,
            Some(said) => Some(said.contains("ongoing-request=\"true\"")),
            None => Some(false),
        })
    }

    /// Has one object thawed.
    async fn thaw_one(&self, key: &str, class: &str, thaw: Thaw) -> Result<(), Answer> {
        let pace = match thaw.pace {
            Pace::Expedited => Tier::Expedited,
            Pace::Standard => Tier::Standard,
            Pace::Bulk => Tier::Bulk,
        };
        let how = GlacierJobParameters::builder().tier(pace).build();
        let how = how.map_err(|error| Answer::plain(error.to_string()))?;
        let mut request = RestoreRequest::builder().glacier_job_parameters(how);
        // What comes back from there stays, until it is not used for long again.
        if class != ObjectStorageClass::IntelligentTiering.as_str() {
            request = request.days(i32::from(thaw.days));
        }
        let asked = self
            .client()?
            .restore_object()
            .bucket(self.name())
            .key(self.full(key))
            .restore_request(request.build());
        match asked.send().await.map_err(|error| Answer::of_sdk(&error)) {
            // Somebody else asked between our look and our question.
            Err(answer) if answer.is(&["RestoreAlreadyInProgress"]) => Ok(()),
            asked => asked.map(drop),
        }
    }
}

fn may_be_archived(class: &ObjectStorageClass) -> bool {
    // Stores other than AWS call theirs ARCHIVE or COLD_ARCHIVE.
    matches!(
        class,
        ObjectStorageClass::Glacier
            | ObjectStorageClass::DeepArchive
            | ObjectStorageClass::IntelligentTiering
    ) || class.as_str().contains("ARCHIVE")
}

impl Store {
    /// Those of these objects that must be thawed before they can be read. Empty where the store does
    /// not say: reading them then fails, and says why.
    pub fn archived(&self, keys: &[String]) -> Vec<Archived> {
        self.look_for_archived(keys).unwrap_or_default()
    }

    /// The same for who has to know.
    pub fn check_archived(&self, keys: &[String]) -> Result<Vec<Archived>> {
        self.look_for_archived(keys).map_err(|answer| {
            let message = format!("failed to see what is archived in {}", self.name());
            error::of_any(&answer, message).with_source(answer)
        })
    }

    fn look_for_archived(&self, keys: &[String]) -> Result<Vec<Archived>, Answer> {
        let Place::Bucket(bucket) = self.place() else { return Ok(Vec::new()) };
        let full: BTreeMap<String, &String> =
            keys.iter().map(|key| (bucket.full(key), key)).collect();
        let wanted: BTreeSet<String> = full.keys().cloned().collect();
        self.runtime().block_on(async {
            let found = bucket.in_archives(&wanted).await?;
            let states: Vec<_> = futures::stream::iter(found)
                .map(|(key, class)| async move {
                    let thawing = bucket.thawing(&key, &class).await?;
                    Ok::<_, Answer>(thawing.map(|thawing| (key, class, thawing)))
                })
                .buffered(PARALLEL)
                .try_collect()
                .await?;
            let known = states.into_iter().flatten();
            Ok(known
                .filter_map(|(key, class, thawing)| {
                    let class = class.as_str().to_owned();
                    Some(Archived { key: (*full.get(&key)?).clone(), class, thawing })
                })
                .collect())
        })
    }

    /// Has archived objects thawed: asks, and does not wait. Ends with the first that the store does
    /// not thaw; asking again for the others does no harm.
    pub fn thaw(&self, archived: &[Archived], thaw: Thaw) -> Result<()> {
        let Place::Bucket(bucket) = self.place() else { return Ok(()) };
        let asked = self.runtime().block_on(async {
            futures::stream::iter(archived)
                .map(|one| async move {
                    let asked = bucket.thaw_one(&one.key, &one.class, thaw).await;
                    asked.map_err(|answer| (one, answer))
                })
                .buffered(PARALLEL)
                .try_collect::<()>()
                .await
        });
        asked.map_err(|(one, answer)| {
            let message = format!("failed to have {} thawed in {}", one.key, self.name());
            let refused = answer.is_refusal();
            let error: Error = error::of_any(&answer, message).with_source(answer);
            if refused {
                error.hint("these credentials need the right `s3:RestoreObject`")
            } else {
                error
            }
        })
    }
}
