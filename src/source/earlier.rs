//! The backup that an incremental one builds on, for sources that bring what they have in an order
//! of their own: its files are looked up and not walked along.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::archive::crypt::{DecryptReader, Keyring};
use crate::archive::digest::DigestReader;
use crate::archive::entry::{Entry, sort_key};
use crate::archive::frame::FrameReader;
use crate::archive::manifest::{Manifest, StoredObject};
use crate::archive::member::read_error;
use crate::archive::table::{Table, TableWriter};
use crate::error::{Error, IoContext as _, Result};
use crate::store::{SourceStore, layout};
use crate::telemetry::Reporter;

/// Why a source cannot build on a backup: it says so, and a full is taken.
#[derive(Debug, Clone, Default)]
pub struct Refusal(Arc<Mutex<Option<String>>>);

impl Refusal {
    /// Says why. The error is what ends the attempt, and nobody else is to see it.
    pub fn refuse(&self, why: impl Into<String>) -> Error {
        let why = why.into();
        let error = Error::failed(format!("the earlier backup cannot be built on: {why}"));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        error
    }

    /// Whether it was said.
    pub fn is_said(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// What was said, once.
    pub fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Bytes of a digest of a page.
pub const PAGE_DIGEST: usize = 16;

/// An earlier backup.
#[derive(Debug)]
pub struct Earlier {
    /// Its manifest.
    pub manifest: Manifest,
    /// Where to say that it cannot be built on.
    pub refusal: Refusal,
    store: SourceStore,
    keys: Keyring,
    reporter: Reporter,
    files: Table,
    digests: OnceLock<File>,
}

impl Earlier {
    /// Reads its index into a temporary file.
    pub fn open(
        manifest: Manifest,
        store: &SourceStore,
        keys: &Keyring,
        reporter: &Reporter,
        refusal: Refusal,
    ) -> Result<Self> {
        // What is read of it is no progress of the new one.
        let reporter = reporter.fresh();
        let mut files = TableWriter::new()?;
        let mut index = store.index(&manifest, keys, &reporter)?;
        while let Some(entry) = index.next_entry()? {
            reporter.check()?;
            if entry.has_content() {
                files.push(&sort_key(&entry.path), index.last_line())?;
            }
        }
        Ok(Self {
            manifest,
            refusal,
            store: store.clone(),
            keys: keys.clone(),
            reporter,
            files: files.finish()?,
            digests: OnceLock::new(),
        })
    }

    /// Its file of this path.
    pub fn file(&self, path: &[u8]) -> Result<Option<Entry>> {
        let Some(line) = self.files.find(&sort_key(path))? else { return Ok(None) };
        let entry = serde_json::from_slice(&line)
            .map_err(|error| Error::failed("failed to read back an entry").with_source(error))?;
        Ok(Some(entry))
    }

    /// Gives every entry of it to `take`.
    pub fn each(&self, take: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()> {
        let mut index = self.store.index(&self.manifest, &self.keys, &self.reporter)?;
        while let Some(entry) = index.next_entry()? {
            take(entry)?;
        }
        Ok(())
    }

    /// Gives the plain bytes of one of its objects to `take`; an error if they are not those that
    /// were stored, which `take` may have had by then.
    pub fn read(
        &self,
        object: &StoredObject,
        take: &mut dyn FnMut(&mut dyn Read) -> Result<()>,
    ) -> Result<()> {
        read_stored(&self.store, object, &self.keys, &self.reporter, take)
    }

    /// Fetches the digests of its pages into a temporary file, to be asked for.
    pub fn fetch_digests(&self, object: &StoredObject) -> Result<()> {
        let failed = || "failed to keep digests of pages in a temporary file".to_owned();
        let mut file = tempfile::tempfile().doing(failed)?;
        self.read(object, &mut |plain| {
            io::copy(plain, &mut file)
                .map(drop)
                .map_err(|error| Error::io(format!("failed to read {}", object.path), error))
        })?;
        // Whoever came first brought the same.
        let _ = self.digests.set(file);
        Ok(())
    }

    /// The digests of so many pages, from number `first` on.
    pub fn digests(&self, first: u64, count: u64) -> Result<Vec<u8>> {
        let mut digests = vec![0; count as usize * PAGE_DIGEST];
        if let Some(file) = self.digests.get() {
            file.read_exact_at(&mut digests, first * PAGE_DIGEST as u64)
                .doing(|| "failed to look up digests of pages".to_owned())?;
        }
        Ok(digests)
    }
}

/// Gives the plain bytes of an object of a backup to `take`; an error if they are not those that were
/// stored, which `take` may have had by then.
pub fn read_stored(
    store: &SourceStore,
    object: &StoredObject,
    keys: &Keyring,
    reporter: &Reporter,
    take: &mut dyn FnMut(&mut dyn Read) -> Result<()>,
) -> Result<()> {
    let path = &object.path;
    let stored = store.open(path, object.size, reporter).whole();
    let mut hashing = DigestReader::new(BufReader::with_capacity(128 << 10, stored));
    let encrypted = layout::is_encrypted(path);
    {
        let plain = DecryptReader::open(&mut hashing, encrypted, keys, path)?;
        let mut frames = FrameReader::new(plain, 0).map_err(|error| read_error(error, path))?;
        take(&mut frames)?;
    }
    let (_, digest) = hashing.finish().map_err(|error| read_error(error, path))?;
    if digest.finish_hex() == object.sha256 {
        return Ok(());
    }
    Err(Error::damaged(format!("{path} was altered")))
}
