//! PostgreSQL's WAL beside the backups of a cluster: one object a file, written once.
//!
//! Several hosts may bring the same file: a server that archives, its standby, a backup that streams.
//! Whoever is first creates the object; who brings the same content later succeeds, and other
//! content is refused. Compressed and encrypted bytes of one content differ every time, so the
//! digest of the plain file stands at the beginning of the object, where it can be read without
//! any key.

use std::io::{self, Read, Write};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use super::blocking::Store;
use super::catalogue::SourceStore;
use super::epochs::{Divergence, Epochs};
use super::error::StoreError;
use super::layout;
use crate::archive::crypt::{Keyring, Recipients};
use crate::archive::digest::Digest;
use crate::archive::frame::FrameReader;
use crate::archive::manifest::NeededWal;
use crate::archive::wal::is_archived_name;
use crate::archive::wal::mark::{self, Packed};
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::Reporter;

/// Bytes at the beginning of an object within which its digest stands: an age header has about
/// 200 for each recipient.
const HEAD: u64 = 16 << 10;

/// So many files are asked for one by one before all of a timeline are listed.
const FEW: usize = 64;

/// The largest object: the largest segment, and what compressing may add.
const OBJECT_LIMIT: u64 = (1 << 30) + (64 << 20);

/// The WAL of one source.
#[derive(Debug, Clone)]
pub struct WalStore {
    source: SourceStore,
    recipients: Recipients,
    encrypted: bool,
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalPut {
    /// It was stored.
    Stored,
    /// It was there already, with the same content.
    Present,
}

/// A stored file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredWal {
    /// Its name, as PostgreSQL calls it.
    pub name: String,
    /// Stored bytes.
    pub size: u64,
    /// When the store took it, by the store's clock.
    pub stored_at: Timestamp,
    /// It is the end of what a site wrote that was not the active one any more.
    pub divergent: bool,
}

impl WalStore {
    /// To write, encrypted to `recipients`, or not at all where there are none.
    pub fn new(source: &SourceStore, recipients: &Recipients) -> Self {
        Self {
            source: source.clone(),
            recipients: recipients.clone(),
            encrypted: !recipients.is_empty(),
        }
    }

    /// To read only.
    pub fn reader(source: &SourceStore, encrypted: bool) -> Self {
        Self { encrypted, ..Self::new(source, &Recipients::default()) }
    }

    /// The epochs of the stack.
    pub fn epochs(&self) -> &Epochs {
        self.source.epochs()
    }

    pub(super) fn source(&self) -> &SourceStore {
        &self.source
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    fn store(&self) -> &Store {
        self.source.store()
    }

    pub(super) fn key(&self, system_id: u64, name: &str) -> Result<String> {
        Ok(self.source.key(&self.checked_path(system_id, name)?))
    }

    fn checked_path(&self, system_id: u64, name: &str) -> Result<String> {
        if is_archived_name(name) {
            Ok(self.path(system_id, name))
        } else {
            let name = name.escape_default();
            Err(Error::usage(format!("`{name}` is no name of a WAL file")))
        }
    }

    /// Where a file lies, relative to its source.
    pub fn path(&self, system_id: u64, name: &str) -> String {
        layout::wal_file(system_id, name, self.encrypted)
    }

    /// Stores a file, and returns when it is durable. One that is there already stays: the same is
    /// fine, another is an error of kind [`ErrorKind::Conflict`].
    pub fn put(&self, system_id: u64, name: &str, plain: &[u8]) -> Result<WalPut> {
        self.put_at(&self.checked_path(system_id, name)?, plain)
    }

    /// The same of a file that is compressed already.
    pub fn put_packed(&self, system_id: u64, name: &str, packed: &Packed) -> Result<WalPut> {
        self.seal_at(&self.checked_path(system_id, name)?, packed)
    }

    /// Stores content at a path, relative to the source.
    pub(super) fn put_at(&self, path: &str, plain: &[u8]) -> Result<WalPut> {
        let packed = Packed::new(plain, None)
            .map_err(|error| Error::io(format!("failed to compress {path}"), error))?;
        self.seal_at(path, &packed)
    }

    fn seal_at(&self, path: &str, packed: &Packed) -> Result<WalPut> {
        let written = self.source.epochs().written();
        let object = packed
            .seal(written.as_ref(), &self.recipients)
            .map_err(|error| Error::io(format!("failed to encrypt {path}"), error))?;
        self.create(&self.source.key(path), *packed.digest(), &object.into())
    }

    /// Brings a file of another repository here as it is stored there. Its content is compared
    /// with what lies here already, like that of [`WalStore::put`].
    pub fn copy_from(&self, other: &Self, system_id: u64, name: &str) -> Result<WalPut> {
        let key = other.key(system_id, name)?;
        let gone = || Error::damaged(format!("{key} is missing in {}", other.store().name()));
        let digest = other.digest(system_id, name)?.ok_or_else(gone)?;
        if self.digest(system_id, name)? == Some(digest) {
            return Ok(WalPut::Present);
        }
        let object = other.store().read_if_exists(&key, OBJECT_LIMIT)?.ok_or_else(gone)?;
        self.create(&self.key(system_id, name)?, digest, &object)
    }

    fn create(&self, key: &str, digest: [u8; 32], object: &Bytes) -> Result<WalPut> {
        const TRIES: u32 = 5;
        let mut last = None;
        for attempt in 0..TRIES {
            if attempt > 0 {
                let pause = 50 * (1 << attempt) + fastrand::u64(..50);
                std::thread::sleep(Duration::from_millis(pause));
            }
            match self.store().create(key, object.clone()) {
                Ok(_) => return Ok(WalPut::Stored),
                Err(error @ StoreError::Denied { .. }) => {
                    return Err(error.into_error(&format!("create {key}"), self.store().name()));
                }
                // 412, 409, a timeout or a reset: what counts is what lies there now.
                Err(error) => last = Some(error),
            }
            match self.digest_at(key) {
                Ok(Some(found)) if found == digest => return Ok(WalPut::Present),
                Ok(Some(_)) => return Err(self.conflict(key)),
                Err(error) if error.kind() == ErrorKind::Damaged => return Err(error),
                Ok(None) | Err(_) => {}
            }
        }
        let last = last.unwrap_or(StoreError::Exists { key: key.to_owned() });
        Err(last.into_error(&format!("create {key}"), self.store().name()))
    }

    fn conflict(&self, key: &str) -> Error {
        Error::new(
            ErrorKind::Conflict,
            format!("{key} in {} has other content, and is left as it is", self.store().name()),
        )
        .hint("two servers write WAL of one name: a restored copy that archives, or one that was promoted twice")
        .hint("find out which one is right, and give the other a source of its own")
    }

    /// The SHA-256 of a stored file's plain content. `None`: there is no such file.
    pub fn digest(&self, system_id: u64, name: &str) -> Result<Option<[u8; 32]>> {
        self.digest_at(&self.key(system_id, name)?)
    }

    fn head(&self, key: &str) -> Result<Option<Bytes>> {
        match self.store().read_head(key, HEAD) {
            Ok(head) => Ok(Some(head)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into_error(&format!("read {key}"), self.store().name())),
        }
    }

    /// Why an object that was stored at an instant is divergent.
    pub(super) fn divergence_at(&self, key: &str, at: Timestamp) -> Result<Option<Divergence>> {
        let epochs = self.source.epochs();
        if epochs.first().is_none_or(|first| at < first) {
            return Ok(None);
        }
        let Some(head) = self.head(key)? else { return Ok(None) };
        let Some(written) = mark::read_written(&head, self.encrypted) else { return Ok(None) };
        // A copy was stored later than it was written; a clock may be ahead.
        Ok(epochs.divergence(&written.tenure, written.at.min(at)))
    }

    fn digest_at(&self, key: &str) -> Result<Option<[u8; 32]>> {
        let Some(head) = self.head(key)? else { return Ok(None) };
        mark::read(&head, self.encrypted).map(Some).ok_or_else(|| {
            Error::damaged(format!("{key} in {} is no WAL object", self.store().name()))
        })
    }

    /// Clusters of which anything was archived.
    pub fn clusters(&self) -> Result<Vec<u64>> {
        let names = self.store().list_directories(&self.source.key(layout::WAL))?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Timelines of which anything was archived, ascending.
    pub fn timelines(&self, system_id: u64) -> Result<Vec<u32>> {
        let names =
            self.store().list_directories(&self.source.key(&layout::wal_cluster(system_id)))?;
        Ok(names.iter().filter_map(|name| u32::from_str_radix(name, 16).ok()).collect())
    }

    /// The files of one timeline, by name.
    pub fn list(&self, system_id: u64, timeline: u32) -> Result<Vec<StoredWal>> {
        let directory = self.source.key(&layout::wal_timeline(system_id, timeline));
        let suffix = layout::wal_suffix(self.encrypted);
        let listed = self.store().list(&directory)?;
        let mut files: Vec<StoredWal> = listed
            .into_iter()
            .filter_map(|object| {
                let name = object.key.strip_prefix(&directory)?.strip_prefix('/')?;
                let name = name.strip_suffix(suffix).filter(|name| is_archived_name(name))?;
                Some(StoredWal {
                    name: name.to_owned(),
                    size: object.size,
                    stored_at: object.stored_at,
                    divergent: false,
                })
            })
            .collect();
        // Keys have another order: `….backup.zst` stands before `….zst`.
        files.sort_by(|a, b| a.name.cmp(&b.name));
        self.mark_divergent(system_id, &mut files)?;
        Ok(files)
    }

    /// The segments that a backup needs and that are not there.
    pub fn missing(&self, needed: &NeededWal) -> Result<Vec<String>> {
        let mut missing = Vec::new();
        for range in &needed.ranges {
            // A timeline may have a million files, and most backups need a few of them.
            if range.segments(needed.segment_size).count() <= FEW {
                for segment in needed.segments_of(*range) {
                    if !self.has(needed.system_id, &segment)? {
                        missing.push(segment);
                    }
                }
                continue;
            }
            let stored = self.list(needed.system_id, range.timeline)?;
            for segment in needed.segments_of(*range) {
                if stored.binary_search_by(|found| found.name.as_str().cmp(&segment)).is_err() {
                    missing.push(segment);
                }
            }
        }
        Ok(missing)
    }

    fn has(&self, system_id: u64, name: &str) -> Result<bool> {
        match self.store().size_of(&self.key(system_id, name)?) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes a file's content to `out`, after which it is known to be what was stored. `false`:
    /// there is no such file, and nothing was written.
    pub fn get(
        &self,
        system_id: u64,
        name: &str,
        keys: &Keyring,
        reporter: &Reporter,
        out: &mut dyn Write,
    ) -> Result<bool> {
        self.get_at(&self.checked_path(system_id, name)?, keys, reporter, out)
    }

    /// Writes the content at a path, relative to the source.
    pub(super) fn get_at(
        &self,
        path: &str,
        keys: &Keyring,
        reporter: &Reporter,
        out: &mut dyn Write,
    ) -> Result<bool> {
        let key = self.source.key(path);
        let Some(expected) = self.digest_at(&key)? else { return Ok(false) };
        let size = self.store().size_of(&key)?;
        let plain = self.source.open_plain(path, size, keys, reporter)?;
        let failed = |error: io::Error| crate::archive::member::read_error(error, &key);
        let mut frames = FrameReader::new(plain, 0).map_err(failed)?;
        let mut digest = Digest::default();
        let mut buffer = vec![0; 256 << 10];
        loop {
            let read = frames.read(&mut buffer).map_err(failed)?;
            if read == 0 {
                break;
            }
            digest.update(&buffer[..read]);
            out.write_all(&buffer[..read])
                .map_err(|error| Error::io(format!("failed to write {path}"), error))?;
        }
        if digest.finish() != expected {
            return Err(Error::damaged(format!("the content of {key} is not what was stored")));
        }
        Ok(true)
    }
}
