//! Object lock: what a bucket is told to keep until a time, or until somebody says otherwise; and what
//! its objects say of themselves that a listing does not.

use std::collections::BTreeMap;

use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{
    ObjectLockEnabled, ObjectLockLegalHold, ObjectLockLegalHoldStatus, ObjectLockMode,
    ObjectLockRetention, ObjectLockRetentionMode,
};
use bytes::Bytes;
use futures::StreamExt as _;
use jiff::Timestamp;

use super::answer::Answer;
use super::blocking::Store;
use super::erase::Place;
use super::error::{self, StoreError};
use super::past;
use super::versions::{Bucket, add_md5, timestamp};
use crate::clock::{Clock as _, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::policy::LockMode;

/// Requests under way at once.
const PARALLEL: usize = 16;

/// How an object is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// Who may lift it.
    pub mode: LockMode,
    /// Its end.
    pub until: Timestamp,
}

/// What came of locking objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Locked {
    /// Objects that were looked at.
    pub objects: u64,
    /// Those of them whose lock was made or prolonged.
    pub changed: u64,
}

/// What keeps an object from being deleted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptBy {
    /// Its lock, to this time.
    Lock(Timestamp),
    /// A legal hold, which has no end of its own.
    LegalHold,
}

impl std::fmt::Display for KeptBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lock(until) => write!(f, "locked until {until}"),
            Self::LegalHold => f.write_str("under a legal hold"),
        }
    }
}

/// What an object says of its own protection.
struct Standing {
    version: Option<String>,
    lock: Option<Lock>,
    held: bool,
}

impl Bucket {
    async fn standing(&self, key: &str) -> Result<Standing, Answer> {
        self.standing_of(key, None).await
    }

    async fn standing_of(&self, key: &str, version: Option<String>) -> Result<Standing, Answer> {
        let head = self.client()?.head_object().bucket(self.name()).key(self.full(key));
        let head =
            head.set_version_id(version).send().await.map_err(|error| Answer::of_sdk(&error))?;
        let mode = match head.object_lock_mode() {
            Some(ObjectLockMode::Compliance) => Some(LockMode::Compliance),
            Some(_) => Some(LockMode::Governance),
            None => None,
        };
        let until = head.object_lock_retain_until_date().map(|until| timestamp(Some(until)));
        Ok(Standing {
            version: head.version_id().map(str::to_owned),
            lock: mode.zip(until).map(|(mode, until)| Lock { mode, until }),
            held: head.object_lock_legal_hold_status() == Some(&ObjectLockLegalHoldStatus::On),
        })
    }

    /// What keeps the version that a key had at an instant; `None` where there was none.
    async fn standing_then(&self, key: &str, at: Timestamp) -> Result<Option<Standing>, Answer> {
        let versions = self.versions_of(key).await?;
        match past::then(versions, at).remove(key) {
            Some(version) => self.standing_of(key, version.version).await.map(Some),
            None => Ok(None),
        }
    }

    /// Locks the version that is there now, unless it is locked that long already. A lock is never
    /// made shorter, and never weaker.
    async fn lock_one(&self, key: &str, lock: Lock) -> Result<bool, Answer> {
        let standing = self.standing(key).await?;
        let present = standing.lock;
        let strong =
            |present: Lock| present.mode == LockMode::Compliance || lock.mode == present.mode;
        if present.is_some_and(|present| present.until >= lock.until && strong(present)) {
            return Ok(false);
        }
        let until = present.map_or(lock.until, |present| present.until.max(lock.until));
        let compliance = lock.mode == LockMode::Compliance
            || present.is_some_and(|present| present.mode == LockMode::Compliance);
        let mode = if compliance {
            ObjectLockRetentionMode::Compliance
        } else {
            ObjectLockRetentionMode::Governance
        };
        let retention = ObjectLockRetention::builder()
            .mode(mode)
            .retain_until_date(DateTime::from_secs(until.as_second()))
            .build();
        let put = self
            .client()?
            .put_object_retention()
            .bucket(self.name())
            .key(self.full(key))
            .set_version_id(standing.version)
            .retention(retention)
            .customize()
            .mutate_request(add_md5);
        put.send().await.map_err(|error| Answer::of_sdk(&error))?;
        Ok(true)
    }

    async fn hold_one(&self, key: &str, on: bool) -> Result<bool, Answer> {
        let standing = self.standing(key).await?;
        if standing.held == on {
            return Ok(false);
        }
        let status =
            if on { ObjectLockLegalHoldStatus::On } else { ObjectLockLegalHoldStatus::Off };
        let put = self
            .client()?
            .put_object_legal_hold()
            .bucket(self.name())
            .key(self.full(key))
            .set_version_id(standing.version)
            .legal_hold(ObjectLockLegalHold::builder().status(status).build())
            .customize()
            .mutate_request(add_md5);
        put.send().await.map_err(|error| Answer::of_sdk(&error))?;
        Ok(true)
    }

    async fn create_locked(&self, key: &str, body: &Bytes, lock: Lock) -> Result<(), Answer> {
        let mode = match lock.mode {
            LockMode::Governance => ObjectLockMode::Governance,
            LockMode::Compliance => ObjectLockMode::Compliance,
        };
        let put = self
            .client()?
            .put_object()
            .bucket(self.name())
            .key(self.full(key))
            .if_none_match("*")
            .object_lock_mode(mode)
            .object_lock_retain_until_date(DateTime::from_secs(lock.until.as_second()))
            .body(ByteStream::from(body.to_vec()))
            .customize()
            .mutate_request(add_md5);
        put.send().await.map(drop).map_err(|error| Answer::of_sdk(&error))
    }

    /// `None`: the store does not say.
    async fn can_lock(&self) -> Result<Option<bool>, Answer> {
        let asked = self.client()?.get_object_lock_configuration().bucket(self.name()).send();
        match asked.await {
            Ok(answer) => {
                let found = answer.object_lock_configuration();
                let enabled = found.and_then(|found| found.object_lock_enabled());
                Ok(Some(enabled == Some(&ObjectLockEnabled::Enabled)))
            }
            Err(error) => {
                let answer = Answer::of_sdk(&error);
                if answer.is(&["ObjectLockConfigurationNotFoundError", "NotImplemented"])
                    || matches!(answer.status, Some(404 | 405 | 501))
                {
                    Ok(Some(false))
                } else if answer.is_refusal() && answer.is(&["AccessDenied"]) {
                    Ok(None)
                } else {
                    Err(answer)
                }
            }
        }
    }
}

impl Store {
    fn lockable(&self) -> Result<&Bucket> {
        match self.place() {
            Place::Bucket(bucket) => Ok(bucket),
            _ => Err(Error::unsupported(format!("{} has no object lock", self.name()))
                .hint("only buckets of S3-compatible stores have: remove `object_lock`")),
        }
    }

    /// Fails where nothing can be locked, before anything is stored for nothing.
    pub fn check_locking(&self) -> Result<()> {
        let bucket = self.lockable()?;
        match self.runtime().block_on(bucket.can_lock()) {
            Ok(Some(false)) => Err(no_lock(self.name())),
            Ok(_) => Ok(()),
            Err(answer) => {
                let message = format!("failed to ask whether {} locks objects", self.name());
                Err(error::of_any(&answer, message).with_source(answer))
            }
        }
    }

    /// Locks these objects. Those that are locked that long already are left alone.
    pub fn lock(&self, keys: &[String], lock: Lock) -> Result<Locked> {
        let bucket = self.lockable()?;
        let done = self.each(keys, |key| bucket.lock_one(key, lock));
        let mut locked = Locked::default();
        for (key, done) in keys.iter().zip(done) {
            locked.objects += 1;
            locked.changed +=
                u64::from(done.map_err(|answer| {
                    self.not_locked(key, "lock", "s3:PutObjectRetention", answer)
                })?);
        }
        Ok(locked)
    }

    /// Puts these objects under a legal hold, or takes it off. Returns how many it was new for.
    pub fn legal_hold(&self, keys: &[String], on: bool) -> Result<u64> {
        let bucket = self.lockable()?;
        let doing = if on { "hold" } else { "release" };
        let done = self.each(keys, |key| bucket.hold_one(key, on));
        let mut changed = 0;
        for (key, done) in keys.iter().zip(done) {
            changed +=
                u64::from(done.map_err(|answer| {
                    self.not_locked(key, doing, "s3:PutObjectLegalHold", answer)
                })?);
        }
        Ok(changed)
    }

    /// Those of these objects that cannot be deleted now, as far as the store tells.
    pub fn kept(&self, keys: &[String]) -> Result<BTreeMap<String, KeptBy>> {
        let Place::Bucket(bucket) = self.place() else { return Ok(BTreeMap::new()) };
        // No versions, no locks.
        if !self.versioning()?.keeps() {
            return Ok(BTreeMap::new());
        }
        let now = SystemClock.now();
        let found = self.each(keys, |key| bucket.standing(key));
        let kept = keys.iter().zip(found).filter_map(|(key, standing)| {
            let standing = standing.ok()?;
            let locked = standing.lock.map(|lock| lock.until).filter(|until| *until > now);
            let by = match (standing.held, locked) {
                (true, _) => KeptBy::LegalHold,
                (false, Some(until)) => KeptBy::Lock(until),
                (false, None) => return None,
            };
            Some((key.clone(), by))
        });
        Ok(kept.collect())
    }

    /// Those of these objects that whoever may delete could have deleted: of the versions that they
    /// had at an instant, those that nothing keeps now. An object that was not there is one of them.
    pub fn unkept(&self, keys: &[String], at: Timestamp) -> Result<Vec<String>> {
        let bucket = self.lockable()?;
        let now = SystemClock.now();
        let found = self.each(keys, |key| bucket.standing_then(key, at));
        let mut unkept = Vec::new();
        for (key, standing) in keys.iter().zip(found) {
            let standing = standing.map_err(|answer| {
                self.not_locked(key, "look at the lock of", "s3:GetObjectVersion", answer)
            })?;
            let kept = standing.is_some_and(|standing| {
                standing.held || standing.lock.is_some_and(|lock| lock.until > now)
            });
            if !kept {
                unkept.push(key.clone());
            }
        }
        Ok(unkept)
    }

    /// Creates an object that is locked from its first moment on. `Ok(false)` means that somebody
    /// else's object is there.
    pub fn create_ours_locked(&self, key: &str, body: &Bytes, lock: Lock) -> Result<bool> {
        let bucket = self.lockable()?;
        self.create_ours_by(key, body, &|| {
            self.upload_limit().take(body.len() as u64);
            let created = self.runtime().block_on(bucket.create_locked(key, body, lock));
            created.map_err(|source| {
                let key = key.to_owned();
                match source.status {
                    Some(412) => StoreError::Exists { key },
                    _ if source.is_refusal() => StoreError::Denied { key, source },
                    _ => StoreError::Failed { key, source },
                }
            })
        })
    }

    fn each<'a, T, F>(&self, keys: &'a [String], work: impl Fn(&'a str) -> F) -> Vec<T>
    where
        F: Future<Output = T>,
    {
        let work = futures::stream::iter(keys.iter().map(|key| work(key))).buffered(PARALLEL);
        self.runtime().block_on(work.collect())
    }

    fn not_locked(&self, key: &str, doing: &str, right: &str, answer: Answer) -> Error {
        // "Bucket is missing Object Lock Configuration"
        if answer.is(&["InvalidRequest"]) && answer.message.contains("Object Lock") {
            return no_lock(self.name()).with_source(answer);
        }
        let error = error::of_any(&answer, format!("failed to {doing} {key} in {}", self.name()));
        let error = if error.kind() == ErrorKind::Denied {
            error.hint(format!("that needs {right} and s3:GetObjectRetention"))
        } else {
            error
        };
        error.with_source(answer)
    }
}

fn no_lock(name: &str) -> Error {
    Error::new(ErrorKind::Policy, format!("{name} has no object lock"))
        .hint("create the bucket with object lock; most stores cannot turn it on later")
        .hint("or remove `object_lock` from the policy: without it whoever may delete, can")
}
