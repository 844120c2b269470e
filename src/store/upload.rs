//! Streams an object of unknown size to the store.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{
    MultipartUpload, ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutResult,
};
use tokio::task::JoinHandle;

use super::blocking::{Store, Written};
use super::error::StoreError;
use crate::error::{Error, Result};
use crate::telemetry::{Reporter, failpoint};

/// Bytes in a part. 10 000 parts, S3's limit, are 78 GiB; segments end far before.
pub const PART_SIZE: usize = 8 << 20;

/// A writer whose bytes become one object when it is finished, and nothing when it is dropped.
///
/// Memory is bounded by the store's permits: with all of them out, writing waits.
pub struct Upload {
    store: Store,
    key: String,
    buffer: Vec<u8>,
    parts: Option<Box<dyn MultipartUpload>>,
    running: Vec<JoinHandle<Result<(), object_store::Error>>>,
    reporter: Reporter,
    bytes: u64,
}

impl Upload {
    /// Starts an upload to `key`, which must be unique by construction.
    pub fn new(store: &Store, key: impl Into<String>, reporter: &Reporter) -> Self {
        Self {
            store: store.clone(),
            key: key.into(),
            buffer: Vec::new(),
            parts: None,
            running: Vec::new(),
            reporter: reporter.clone(),
            bytes: 0,
        }
    }

    /// The key.
    pub fn key(&self) -> &str {
        &self.key
    }

    fn send_part(&mut self) -> Result<()> {
        self.reporter.check()?;
        let body = Bytes::from(std::mem::take(&mut self.buffer));
        self.store.upload_limit().take(body.len() as u64);
        let runtime = self.store.runtime().clone();
        if self.parts.is_none() {
            let path = Path::from(self.key.as_str());
            let attributes = self.store.attributes(&self.key);
            let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
            let objects = self.store.objects();
            let started = runtime.block_on(objects.put_multipart_opts(&path, options));
            self.parts = Some(started.map_err(|error| self.error(error))?);
        }
        let permit = runtime
            .block_on(Arc::clone(self.store.part_permits()).acquire_owned())
            .map_err(|error| Error::failed("the upload was closed").with_source(error))?;
        let Some(parts) = &mut self.parts else { return Ok(()) };
        let (sent, progress) = (body.len() as u64, self.reporter.progress().clone());
        let part = parts.put_part(body.into());
        self.running.push(runtime.spawn(async move {
            let result = part.await;
            drop(permit);
            if result.is_ok() {
                progress.add_stored(sent);
            }
            result
        }));
        if self.running.len() == 1 {
            failpoint::reach("backup.first_part");
        }
        self.reap()
    }

    /// Notices parts that failed, without waiting.
    fn reap(&mut self) -> Result<()> {
        while let Some(at) = self.running.iter().position(JoinHandle::is_finished) {
            let task = self.running.swap_remove(at);
            self.join(task)?;
        }
        Ok(())
    }

    fn join(&self, task: JoinHandle<Result<(), object_store::Error>>) -> Result<()> {
        match self.store.runtime().block_on(task) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.error(error)),
            Err(error) => {
                Err(Error::failed(format!("failed to upload {}", self.key)).with_source(error))
            }
        }
    }

    fn error(&self, error: object_store::Error) -> Error {
        StoreError::new(&self.key, error)
            .into_error(&format!("write {}", self.key), self.store.name())
    }

    /// Sends what is left and completes the object.
    pub fn finish(self) -> Result<Written> {
        self.finish_later()?.wait()
    }

    /// Sends what is left and lets the store complete the object in the background: making 256 MiB
    /// durable takes a while in which the next segment can be compressed.
    pub fn finish_later(mut self) -> Result<Completing> {
        self.reporter.check()?;
        let runtime = self.store.runtime().clone();
        let key = self.key.clone();
        if self.parts.is_some() && !self.buffer.is_empty() {
            self.send_part()?;
        }
        let running = std::mem::take(&mut self.running);
        let progress = self.reporter.progress().clone();
        let (objects, path) = (self.store.objects().clone(), Path::from(key.as_str()));
        let task = if let Some(mut parts) = self.parts.take() {
            let size = self.bytes;
            runtime.spawn(async move {
                for part in running {
                    let sent = match part.await {
                        Ok(result) => result,
                        Err(error) => Err(lost(error)),
                    };
                    if let Err(error) = sent {
                        let _ = parts.abort().await;
                        return Err(error);
                    }
                }
                match parts.complete().await {
                    // The reply was lost and the upload is gone: it has become the object. Nobody
                    // else writes this key, so its size tells.
                    Err(error) => match objects.head(&path).await {
                        Ok(found) if found.size == size => Ok(PutResult {
                            e_tag: found.e_tag,
                            version: found.version,
                            extensions: object_store::Extensions::default(),
                        }),
                        _ => {
                            let _ = parts.abort().await;
                            Err(error)
                        }
                    },
                    done => done,
                }
            })
        } else {
            let body = std::mem::take(&mut self.buffer);
            let sent = body.len() as u64;
            self.store.upload_limit().take(sent);
            let attributes = self.store.attributes(&key);
            let options = PutOptions { attributes, ..PutOptions::default() };
            runtime.spawn(async move {
                let result = objects.put_opts(&path, body.into(), options).await;
                progress.add_stored(sent);
                result
            })
        };
        Ok(Completing { store: self.store.clone(), key, task })
    }
}

fn lost(error: tokio::task::JoinError) -> object_store::Error {
    object_store::Error::Generic { store: "upload", source: Box::new(error) }
}

/// An object that the store is completing.
pub struct Completing {
    store: Store,
    key: String,
    task: JoinHandle<Result<PutResult, object_store::Error>>,
}

impl Completing {
    /// Waits until the object is there, or is known not to be.
    pub fn wait(self) -> Result<Written> {
        let result = self.store.runtime().block_on(self.task).unwrap_or_else(|e| Err(lost(e)));
        match result {
            Ok(result) => Ok(Written { version: result.version }),
            Err(error) => Err(StoreError::new(&self.key, error)
                .into_error(&format!("write {}", self.key), self.store.name())),
        }
    }
}

impl Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.capacity() == 0 && (self.bytes > 0 || bytes.len() >= PART_SIZE) {
            self.buffer.reserve_exact(PART_SIZE);
        }
        let count = bytes.len().min(PART_SIZE - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        self.bytes += count as u64;
        if self.buffer.len() == PART_SIZE {
            self.send_part().map_err(Error::into_io)?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(mut parts) = self.parts.take() else { return };
        let running = std::mem::take(&mut self.running);
        // Best effort: an aborted multipart upload that stays is for the bucket's lifecycle rule.
        self.store.runtime().block_on(async move {
            for task in running {
                let _ = task.await;
            }
            let _ = parts.abort().await;
        });
    }
}
