//! What those who work on a source tell each other: marks, holds and pins. Intents are in
//! `catalogue`; what follows from all of these is decided in `protocol`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::catalogue::{SourceStore, to_json};
use super::erase::Erased;
use super::layout;
use super::locks::KeptBy;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{self, BackupId};

/// The largest control object a reader accepts.
pub const CONTROL_LIMIT: u64 = 1 << 20;

/// Objects that one mark names at most, so that it stays below 1 MiB, the most a reader accepts.
pub const OBJECTS_PER_MARK: usize = 5000;

/// What is about to go: a prune's announcement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Format version.
    #[serde(rename = "mark")]
    pub version: u32,
    /// When it was made.
    pub created: Timestamp,
    /// Backups that expire with it.
    #[serde(default)]
    pub backups: Vec<BackupId>,
    /// Objects that nobody needs any more.
    #[serde(default)]
    pub objects: Vec<String>,
    /// Who made it.
    #[serde(default)]
    pub by: Option<Worker>,
}

/// A mark as it lies there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedMark {
    /// Its id.
    pub id: String,
    /// When the store took it, by the store's clock: the grace period counts from here.
    pub stored_at: Timestamp,
    /// What it says.
    pub mark: Mark,
    /// When the store took the note that everything in it is gone.
    pub done_at: Option<Timestamp>,
}

/// Somebody reads a backup: what it needs must stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Format version.
    #[serde(rename = "hold")]
    pub version: u32,
    /// The backup.
    pub backup: BackupId,
    /// When it was made.
    pub created: Timestamp,
    /// When it no longer counts. A long restore makes a new one in time.
    pub expires: Timestamp,
    /// `restore`, `verify` or `copy`.
    pub purpose: String,
    /// Who reads.
    pub by: Worker,
}

/// A backup that stays until somebody says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Format version.
    #[serde(rename = "pin")]
    pub version: u32,
    /// The backup.
    pub backup: BackupId,
    /// Since when.
    pub created: Timestamp,
    /// Why, in somebody's words.
    #[serde(default)]
    pub reason: Option<String>,
    /// Its objects are under a legal hold as well.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hold: bool,
    /// Who pinned it.
    pub by: Worker,
}

/// A process somewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Host name.
    pub host: String,
    /// Process id.
    pub pid: u32,
}

impl Worker {
    /// This process on `host`.
    pub fn here(host: String) -> Self {
        Self { host, pid: std::process::id() }
    }
}

impl std::fmt::Display for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} on {}", self.pid, self.host)
    }
}

impl SourceStore {
    /// Every mark, oldest first.
    pub fn marks(&self) -> Result<Vec<ListedMark>> {
        let prefix = self.key(layout::MARKS);
        let (mut listed, mut done) = (Vec::new(), BTreeMap::new());
        for object in self.store().list(&prefix)? {
            let Some(name) = name_in(&object.key, &prefix) else { continue };
            match name.strip_suffix(".done") {
                Some(id) => drop(done.insert(id.to_owned(), object.stored_at)),
                None => listed.push((name.to_owned(), object)),
            }
        }
        let keys: Vec<String> = listed.iter().map(|(_, object)| object.key.clone()).collect();
        let mut marks = Vec::new();
        for ((id, object), bytes) in listed.into_iter().zip(self.read_control(&keys)) {
            // One that is gone meanwhile was finished by another prune.
            let Some(mark) = parse::<Mark>(bytes?, "prune mark", &object.key)? else { continue };
            if mark.version > 1 {
                return Err(Error::unsupported(format!(
                    "the prune mark {} has format {}; this program reads 1",
                    object.key, mark.version
                ))
                .hint("use a newer backstay"));
            }
            let done_at = done.get(&id).copied();
            marks.push(ListedMark { id, stored_at: object.stored_at, mark, done_at });
        }
        marks.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(marks)
    }

    /// Creates a mark and returns its id.
    pub fn create_mark(&self, mark: &Mark) -> Result<String> {
        let id = format!("{}-{}", id::compact_time(mark.created), id::random_suffix(8));
        self.create_control(&layout::mark(&id), mark)?;
        Ok(id)
    }

    /// Notes that nothing in a mark is left.
    pub fn finish_mark(&self, id: &str, at: Timestamp) -> Result<()> {
        let key = self.key(&layout::mark_done(id));
        let body = to_json(&serde_json::json!({ "done": 1, "time": at }), &key)?;
        // Another prune may have said so first.
        self.store().create_ours(&key, &body).map(drop)
    }

    /// Removes a finished mark.
    pub fn delete_mark(&self, id: &str) -> Result<()> {
        self.store().delete(&self.key(&layout::mark(id)))?;
        self.store().delete(&self.key(&layout::mark_done(id)))
    }

    /// Every hold, with its id.
    pub fn holds(&self) -> Result<Vec<(String, Hold)>> {
        self.read_all(layout::HOLDS, "hold")
    }

    /// Creates a hold and returns its id.
    pub fn create_hold(&self, hold: &Hold) -> Result<String> {
        let id = format!("{}-{}", id::compact_time(hold.created), id::random_suffix(8));
        self.create_control(&layout::hold(&id), hold)?;
        Ok(id)
    }

    /// Removes a hold.
    pub fn delete_hold(&self, id: &str) -> Result<()> {
        self.store().delete(&self.key(&layout::hold(id)))
    }

    /// Every pin.
    pub fn pins(&self) -> Result<Vec<Pin>> {
        Ok(self.read_all(layout::PINS, "pin")?.into_iter().map(|(_, pin)| pin).collect())
    }

    /// Pins a backup. `Ok(false)` if it is pinned already.
    pub fn create_pin(&self, pin: &Pin) -> Result<bool> {
        let key = self.key(&layout::pin(&pin.backup));
        let body = to_json(pin, &key)?;
        self.store().create_ours(&key, &body)
    }

    /// Removes a pin.
    pub fn delete_pin(&self, backup: &BackupId) -> Result<()> {
        self.store().delete(&self.key(&layout::pin(backup)))
    }

    /// Creates a tombstone at a commit key. `Ok(false)` if the key is taken: the writer was faster.
    pub fn bury(
        &self,
        backup: &BackupId,
        reason: &str,
        by: &Worker,
        at: Timestamp,
    ) -> Result<bool> {
        let key = self.key(&layout::commit(backup));
        let tombstone = serde_json::json!({
            "aborted": { "by": by.to_string(), "time": at, "reason": reason, "nonce": id::nonce() }
        });
        self.store().create_ours(&key, &to_json(&tombstone, &key)?)
    }

    /// Removes the manifest of a backup for good: from here on it does not exist. Unless object lock
    /// keeps it: then nothing was done.
    pub fn erase_commit(&self, backup: &BackupId) -> Result<Erased> {
        let key = self.key(&layout::commit(backup));
        let erased = self.store().erase(&[key]).pop();
        erased.map_or(Ok(Erased::Absent), |(_, erased)| erased)
    }

    /// Those of these backups whose manifest cannot be removed now, and why.
    pub fn kept<'a>(
        &self,
        backups: impl IntoIterator<Item = &'a BackupId>,
    ) -> Result<BTreeMap<BackupId, KeptBy>> {
        let backups: Vec<&BackupId> = backups.into_iter().collect();
        let keys: Vec<String> =
            backups.iter().map(|backup| self.key(&layout::commit(backup))).collect();
        let kept = self.store().kept(&keys)?;
        let of = |(backup, key): (&&BackupId, &String)| Some(((*backup).clone(), *kept.get(key)?));
        Ok(backups.iter().zip(&keys).filter_map(of).collect())
    }

    /// Removes what writers that were killed left in a local directory and what no listing shows:
    /// staged files that nobody wrote to since `before`, and empty directories of backups that
    /// `is_over` says nobody writes.
    pub fn remove_leftovers(
        &self,
        before: Timestamp,
        is_over: &dyn Fn(&BackupId) -> bool,
    ) -> Result<u64> {
        let removed = self.store().erase_staged(&self.key(""), before)?.len() as u64;
        for name in self.store().list_directories(&self.key(layout::DATA))? {
            if BackupId::parse(&name).is_ok_and(|backup| is_over(&backup)) {
                self.store()
                    .remove_empty_directory(&self.key(&format!("{}/{name}", layout::DATA)))?;
            }
        }
        Ok(removed)
    }

    fn create_control<T: Serialize>(&self, path: &str, value: &T) -> Result<()> {
        let key = self.key(path);
        if self.store().create_ours(&key, &to_json(value, &key)?)? {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Conflict, format!("{key} exists already")))
    }

    fn read_all<T: for<'a> Deserialize<'a>>(
        &self,
        directory: &str,
        what: &str,
    ) -> Result<Vec<(String, T)>> {
        let prefix = self.key(directory);
        let keys: Vec<String> =
            self.store().list(&prefix)?.into_iter().map(|object| object.key).collect();
        let mut found = Vec::new();
        for (key, bytes) in keys.iter().zip(self.read_control(&keys)) {
            let Some(id) = name_in(key, &prefix) else { continue };
            if let Some(value) = parse(bytes?, what, key)? {
                found.push((id.to_owned(), value));
            }
        }
        Ok(found)
    }

    fn read_control(&self, keys: &[String]) -> Vec<Result<Option<bytes::Bytes>>> {
        self.store().read_many(keys, CONTROL_LIMIT)
    }
}

fn name_in<'a>(key: &'a str, prefix: &str) -> Option<&'a str> {
    key.strip_prefix(prefix)?.strip_prefix('/')?.strip_suffix(".json")
}

fn parse<T: for<'a> Deserialize<'a>>(
    bytes: Option<bytes::Bytes>,
    what: &str,
    key: &str,
) -> Result<Option<T>> {
    let Some(bytes) = bytes else { return Ok(None) };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| Error::damaged(format!("the {what} {key} is damaged")).with_source(error))
}

/// A hold that is renewed while somebody reads, and removed when this is dropped.
#[derive(Debug)]
pub struct Held {
    stop: Option<Sender<()>>,
    renewing: Option<JoinHandle<()>>,
}

impl SourceStore {
    /// Holds `backup` for as long as the result lives; each hold counts for `period` and is renewed
    /// before. `None` where the store lets nobody write:
    /// there the grace period is what covers a reader.
    pub fn hold(
        &self,
        backup: &BackupId,
        purpose: &str,
        by: &Worker,
        period: SignedDuration,
        clock: &Arc<dyn Clock>,
    ) -> Option<Held> {
        let make = {
            let (source, clock) = (self.clone(), clock.clone());
            let (backup, purpose, by) = (backup.clone(), purpose.to_owned(), by.clone());
            move || {
                let created = clock.now();
                let expires = created.checked_add(period).unwrap_or(Timestamp::MAX);
                source.create_hold(&Hold {
                    version: 1,
                    backup: backup.clone(),
                    created,
                    expires,
                    purpose: purpose.clone(),
                    by: by.clone(),
                })
            }
        };
        let mut current = make().ok()?;
        let source = self.clone();
        let (stop, stopped) = channel();
        let pause = period.unsigned_abs() / 3;
        let renewing = std::thread::spawn(move || {
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                // Without a new one the old one still counts for a while.
                let Ok(next) = make() else { continue };
                let _ = source.delete_hold(&std::mem::replace(&mut current, next));
            }
            // One that stays ends by itself.
            let _ = source.delete_hold(&current);
        });
        Some(Held { stop: Some(stop), renewing: Some(renewing) })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(renewing) = self.renewing.take() {
            let _ = renewing.join();
        }
    }
}
