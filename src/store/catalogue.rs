//! The backups of one source: commits, intents and marks, and the objects they speak of.

use std::collections::BTreeSet;
use std::io::BufReader;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::blocking::Store;
use super::coordination::Worker;
use super::epochs::Epochs;
use super::error::StoreError;
use super::layout;
use super::locks::Lock;
use super::reader::ObjectReader;
use super::upload::Upload;
use crate::archive::crypt::{DecryptReader, Keyring};
use crate::archive::index::IndexReader;
use crate::archive::manifest::{self, Commit, Manifest};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{BackupId, SourceAddress};
use crate::telemetry::Reporter;

/// A commit as the listing shows it, before it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitRef {
    /// The backup.
    pub backup: BackupId,
    /// When the store took the commit, by the store's clock.
    pub stored_at: Timestamp,
}

/// What a writer says before it writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Format version.
    #[serde(rename = "intent")]
    pub version: u32,
    /// The backup that will be written.
    pub backup: BackupId,
    /// Where it will be committed.
    pub commit: String,
    /// The backup it builds on.
    pub base: Option<BackupId>,
    /// When the writer began.
    pub created: Timestamp,
    /// When the writer should be done. Advisory: only a tombstone ends an intent.
    pub expires: Timestamp,
    /// Host and process.
    pub writer: Worker,
    /// The run that it is part of, so that who takes that over finds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Objects that it needs and that may lie there already: a copy knows them beforehand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<String>,
    /// Tells this intent from another's.
    pub nonce: String,
}

/// The objects of one source. Paths are relative to the source's directory, as in manifests.
#[derive(Debug, Clone)]
pub struct SourceStore {
    store: Store,
    address: SourceAddress,
    directory: String,
    epochs: Arc<Epochs>,
}

impl SourceStore {
    /// The objects of `address` in `store`.
    pub fn new(store: &Store, address: &SourceAddress) -> Self {
        Self {
            store: store.clone(),
            address: address.clone(),
            directory: layout::source(address),
            epochs: Arc::default(),
        }
    }

    /// The same, knowing the epochs of the stack.
    #[must_use]
    pub fn with_epochs(self, epochs: Arc<Epochs>) -> Self {
        Self { epochs, ..self }
    }

    /// The epochs of the stack; none where nobody asked for them.
    pub fn epochs(&self) -> &Epochs {
        &self.epochs
    }

    /// The source.
    pub fn address(&self) -> &SourceAddress {
        &self.address
    }

    /// The store below.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The full key of a relative path.
    pub fn key(&self, path: &str) -> String {
        format!("{}/{path}", self.directory)
    }

    /// Commits, oldest first. Tombstones are among them: only reading tells.
    pub fn commits(&self) -> Result<Vec<CommitRef>> {
        let prefix = self.key(layout::COMMITS);
        let mut commits: Vec<CommitRef> = self
            .store
            .list(&prefix)?
            .into_iter()
            .filter_map(|object| {
                let name = object.key.strip_prefix(&prefix)?.strip_prefix('/')?;
                let backup = BackupId::parse(name.strip_suffix(".json")?).ok()?;
                Some(CommitRef { backup, stored_at: object.stored_at })
            })
            .collect();
        commits.sort_by(|a, b| a.backup.cmp(&b.backup));
        Ok(commits)
    }

    /// Reads manifests, several at once. Tombstones and commits that went meanwhile are left out;
    /// a damaged one is an error in its place.
    pub fn manifests(&self, commits: &[CommitRef]) -> Result<Vec<(CommitRef, Result<Manifest>)>> {
        let keys: Vec<String> =
            commits.iter().map(|commit| self.key(&layout::commit(&commit.backup))).collect();
        let read = self.store.read_many(&keys, manifest::SIZE_LIMIT);
        commits
            .iter()
            .zip(keys)
            .zip(read)
            .filter_map(|((commit, key), bytes)| {
                let parsed = match bytes {
                    // The store did not tell: that is no damage, and no reason to leave one out.
                    Err(error) if error.kind() != ErrorKind::Damaged => return Some(Err(error)),
                    Ok(Some(bytes)) => Commit::parse(&bytes, &self.address, &commit.backup, &key),
                    Ok(None) => return None,
                    Err(error) => Err(error),
                };
                match parsed {
                    Ok(Commit::Backup(manifest)) => Some(Ok((commit.clone(), Ok(*manifest)))),
                    Ok(Commit::Aborted) => None,
                    Err(error) => Some(Ok((commit.clone(), Err(error)))),
                }
            })
            .collect()
    }

    /// The manifest of one backup.
    pub fn manifest(&self, backup: &BackupId) -> Result<Manifest> {
        let key = self.key(&layout::commit(backup));
        let missing = || {
            Error::not_found(format!("there is no backup {backup} of {}", self.address))
                .hint("`backstay list` shows what there is")
        };
        let bytes = self.store.read_if_exists(&key, manifest::SIZE_LIMIT)?.ok_or_else(missing)?;
        match Commit::parse(&bytes, &self.address, backup, &key)? {
            Commit::Backup(manifest) => Ok(*manifest),
            Commit::Aborted => Err(missing()),
        }
    }

    /// Creates an intent.
    pub fn create_intent(&self, intent: &Intent) -> Result<()> {
        let key = self.key(&layout::intent(&intent.backup));
        let body = to_json(intent, &key)?;
        if self.store.create_ours(&key, &body)? {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Conflict, format!("the intent {key} exists already")))
    }

    /// Removes the intent of a backup that is committed or given up.
    pub fn delete_intent(&self, backup: &BackupId) -> Result<()> {
        self.store.delete(&self.key(&layout::intent(backup)))
    }

    /// The intents that lie there, with the store's time of each.
    pub fn intents(&self) -> Result<Vec<(Intent, Timestamp)>> {
        let objects = self.store.list(&self.key(layout::INTENTS))?;
        let keys: Vec<String> = objects.iter().map(|object| object.key.clone()).collect();
        let mut intents = Vec::new();
        for (object, bytes) in objects.iter().zip(self.store.read_many(&keys, manifest::SIZE_LIMIT))
        {
            let Some(bytes) = bytes? else { continue };
            let intent: Intent = serde_json::from_slice(&bytes).map_err(|error| {
                Error::damaged(format!("the intent {} is damaged", object.key)).with_source(error)
            })?;
            if intent.version > 1 {
                return Err(Error::unsupported(format!(
                    "the intent {} has format {}; this program reads 1",
                    object.key, intent.version
                ))
                .hint("use a newer backstay"));
            }
            intents.push((intent, object.stored_at));
        }
        Ok(intents)
    }

    /// Objects that prune marked for deletion. A writer must not refer to any of them.
    pub fn marked(&self) -> Result<BTreeSet<String>> {
        Ok(self.marks()?.into_iter().flat_map(|listed| listed.mark.objects).collect())
    }

    /// Creates the commit, locked if that is asked: the backup exists from here on. An error means
    /// that it does not.
    pub fn commit(&self, manifest: &Manifest, lock: Option<Lock>) -> Result<()> {
        let key = self.key(&layout::commit(&manifest.backup));
        let body = to_json(manifest, &key)?;
        if self.create_commit(&manifest.backup, &body, lock)? {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Conflict,
            format!("failed to commit {}: its commit key is taken", manifest.backup),
        ))
    }

    /// The error of a writer that was taken for dead.
    pub fn given_up(backup: &BackupId) -> Error {
        let message = format!("{backup} was given up because its writer seemed dead");
        Error::new(ErrorKind::Conflict, message).hint("run the backup again")
    }

    /// Whether a tombstone lies at the commit key of a backup.
    pub fn is_given_up(&self, backup: &BackupId) -> bool {
        let key = self.key(&layout::commit(backup));
        let bytes = self.store.read_if_exists(&key, manifest::SIZE_LIMIT);
        let Ok(Some(bytes)) = bytes else { return false };
        matches!(Commit::parse(&bytes, &self.address, backup, &key), Ok(Commit::Aborted))
    }

    /// The manifest of a backup as it lies there, for a copy.
    pub fn commit_bytes(&self, backup: &BackupId) -> Result<Bytes> {
        let key = self.key(&layout::commit(backup));
        self.store
            .read_if_exists(&key, manifest::SIZE_LIMIT)?
            .ok_or_else(|| Error::not_found(format!("there is no backup {backup}")))
    }

    /// Creates the commit of a copy: the same bytes. `Ok(false)` if something else lies there.
    pub fn commit_copy(&self, backup: &BackupId, body: &Bytes, lock: Option<Lock>) -> Result<bool> {
        self.create_commit(backup, body, lock)
    }

    fn create_commit(&self, backup: &BackupId, body: &Bytes, lock: Option<Lock>) -> Result<bool> {
        let key = self.key(&layout::commit(backup));
        match lock {
            Some(lock) => self.store.create_ours_locked(&key, body, lock),
            None => self.store.create_ours(&key, body),
        }
    }

    /// Starts the upload of an object.
    pub fn upload(&self, path: &str, reporter: &Reporter) -> Upload {
        Upload::new(&self.store, self.key(path), reporter)
    }

    /// Creates a small object of this backup.
    pub fn put(&self, path: &str, body: Bytes) -> Result<()> {
        let key = self.key(path);
        self.store.put_unique(&key, body).map(drop).map_err(|error: StoreError| {
            error.into_error(&format!("write {key}"), self.store.name())
        })
    }

    /// Opens an object for reading.
    pub fn open(&self, path: &str, size: u64, reporter: &Reporter) -> ObjectReader {
        ObjectReader::new(&self.store, &self.key(path), size, reporter)
    }

    /// Opens an object for reading all of it, decrypted.
    pub fn open_plain(
        &self,
        path: &str,
        size: u64,
        keys: &Keyring,
        reporter: &Reporter,
    ) -> Result<DecryptReader<BufReader<ObjectReader>>> {
        let object = BufReader::with_capacity(128 << 10, self.open(path, size, reporter).whole());
        DecryptReader::open(object, layout::is_encrypted(path), keys, path)
    }

    /// Opens the index of a backup.
    pub fn index(
        &self,
        manifest: &Manifest,
        keys: &Keyring,
        reporter: &Reporter,
    ) -> Result<IndexReader<DecryptReader<BufReader<ObjectReader>>>> {
        let index = &manifest.index;
        let plain = self.open_plain(&index.path, index.size, keys, reporter)?;
        IndexReader::new(plain, &index.path, Some(index.entries))
    }
}

pub(super) fn to_json<T: Serialize>(value: &T, key: &str) -> Result<Bytes> {
    let mut body = serde_json::to_vec_pretty(value)
        .map_err(|error| Error::failed(format!("failed to write {key}")).with_source(error))?;
    body.push(b'\n');
    Ok(body.into())
}
