//! Reads an object as a file: forward with read-ahead, or anywhere by ranged requests.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use object_store::ObjectStoreExt as _;
use tokio::task::JoinHandle;

use super::blocking::Store;
use super::error::StoreError;
use crate::error::{Error, Result};
use crate::telemetry::Reporter;

/// Bytes asked for at once when reading forward.
const WINDOW: u64 = 4 << 20;

/// Bytes asked for where nothing is known about what comes next: enough for an age header.
const GLANCE: u64 = 64 << 10;

/// How far reading will go on: up to there objects are fetched in large pieces, one of them ahead.
#[derive(Debug, Clone, Default)]
pub struct ReadAhead(Arc<AtomicU64>);

impl ReadAhead {
    /// Says that reading will go on to stored offset `until`.
    pub fn set(&self, until: u64) {
        self.0.store(until, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct Ahead {
    start: u64,
    task: JoinHandle<Result<Bytes, StoreError>>,
}

/// A stored object of known size.
pub struct ObjectReader {
    store: Store,
    key: String,
    size: u64,
    position: u64,
    window: Bytes,
    window_start: u64,
    /// Where reading forward is expected to go.
    until: ReadAhead,
    ahead: Option<Ahead>,
    reporter: Reporter,
    fetched: u64,
}

impl ObjectReader {
    /// Reads `key` of `store`, which should have `size` bytes. Nothing is requested yet.
    pub fn new(store: &Store, key: &str, size: u64, reporter: &Reporter) -> Self {
        Self {
            store: store.clone(),
            key: key.to_owned(),
            size,
            position: 0,
            window: Bytes::new(),
            window_start: 0,
            until: ReadAhead::default(),
            ahead: None,
            reporter: reporter.clone(),
            fetched: 0,
        }
    }

    /// The handle by which readers around this one say how far they will read.
    pub fn read_ahead(&self) -> ReadAhead {
        self.until.clone()
    }

    /// Says that all of it will be read.
    #[must_use]
    pub fn whole(self) -> Self {
        self.until.set(self.size);
        self
    }

    /// Bytes requested so far.
    pub fn fetched(&self) -> u64 {
        self.fetched
    }

    fn request(&mut self, start: u64, end: u64) -> JoinHandle<Result<Bytes, StoreError>> {
        self.fetched += end - start;
        let read = Store::read_range(self.store.objects().clone(), self.key.clone(), start..end);
        self.store.runtime().spawn(read)
    }

    fn end_of_request(&self, start: u64) -> u64 {
        let until = self.until.get();
        let end = if start < until { until.min(start + WINDOW) } else { start + GLANCE };
        end.min(self.size)
    }

    fn load(&mut self) -> Result<()> {
        self.reporter.check()?;
        let start = self.position;
        let task = match self.ahead.take() {
            Some(ahead) if ahead.start == start => ahead.task,
            other => {
                if let Some(ahead) = other {
                    ahead.task.abort();
                }
                let end = self.end_of_request(start);
                self.request(start, end)
            }
        };
        let bytes = match self.store.runtime().block_on(task) {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => return Err(self.error(error)),
            Err(error) => {
                return Err(
                    Error::failed(format!("failed to read {}", self.key)).with_source(error)
                );
            }
        };
        if bytes.is_empty() {
            return Err(self.truncated());
        }
        self.store.download_limit().take(bytes.len() as u64);
        self.reporter.progress().add_stored(bytes.len() as u64);
        let next = start + bytes.len() as u64;
        (self.window, self.window_start) = (bytes, start);
        if next < self.until.get().min(self.size) {
            let end = self.end_of_request(next);
            let task = self.request(next, end);
            self.ahead = Some(Ahead { start: next, task });
        }
        Ok(())
    }

    fn truncated(&self) -> Error {
        Error::damaged(format!(
            "{} in {} is shorter than the {} bytes it had",
            self.key,
            self.store.name(),
            self.size
        ))
    }

    /// Whether the store has fewer bytes than there should be. If it cannot say, it does not.
    fn is_shorter(&self) -> bool {
        let path = object_store::path::Path::from(self.key.as_str());
        let head = self.store.runtime().block_on(self.store.objects().head(&path));
        head.is_ok_and(|meta| meta.size < self.size)
    }

    fn error(&self, error: StoreError) -> Error {
        match error {
            StoreError::NotFound { .. } => {
                Error::damaged(format!("{} is missing from {}", self.key, self.store.name()))
            }
            // A range that starts beyond the end is how a truncated object shows.
            StoreError::Failed { .. } if self.is_shorter() => self.truncated(),
            other => other.into_error(&format!("read {}", self.key), self.store.name()),
        }
    }
}

impl Read for ObjectReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.position >= self.size || out.is_empty() {
            return Ok(0);
        }
        let in_window = self.window_start..self.window_start + self.window.len() as u64;
        if !in_window.contains(&self.position) {
            self.load().map_err(Error::into_io)?;
        }
        let from = (self.position - self.window_start) as usize;
        let count = out.len().min(self.window.len() - from);
        out[..count].copy_from_slice(&self.window[from..from + count]);
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for ObjectReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
            SeekFrom::End(offset) => self.size.checked_add_signed(offset),
        };
        self.position = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

impl Drop for ObjectReader {
    fn drop(&mut self) {
        if let Some(ahead) = self.ahead.take() {
            ahead.task.abort();
        }
    }
}
