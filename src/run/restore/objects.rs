//! The objects of a bucket, back into a bucket.

use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::output::ContentReader;
use super::request::{Failures, Finding, Request};
use crate::archive::entry::{Entry, EntryType};
use crate::error::{Error, ErrorKind, Result};
use crate::run::{Context, hold};
use crate::source::bucket::{Put, key_of, put};
use crate::store::Objects;

/// Objects on their way at once.
const WORKERS: usize = 8;

/// What came of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Restored {
    /// Objects that were stored; in a dry run those that would be tried.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Keys at which another object lay, which stayed.
    pub existing: u64,
    /// The first of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub existing_example: Option<String>,
    /// Objects that were not stored.
    #[serde(flatten)]
    pub failed: Failures,
}

/// Stores every selected object of a backup under its own key. One that is there is replaced only
/// with `replace`.
pub fn restore_objects(
    request: &Request<'_>,
    objects: &Objects,
    replace: bool,
    cx: &Context,
) -> Result<Restored> {
    let _held = if request.dry_run {
        None
    } else {
        hold::hold(&request.source, request.manifest, "restore", cx)?
    };
    let restored = Mutex::new(Restored::default());
    let (send, entries) = sync_channel::<Entry>(WORKERS);
    let entries = Mutex::new(entries);
    let work = || {
        while let Some(entry) = next(&entries) {
            let Some(key) = key_of(&String::from_utf8_lossy(&entry.path)) else { continue };
            let done = ContentReader::of(request, cx, entry.clone()).and_then(|mut content| {
                put(objects, &key, &entry, &mut content, replace, &cx.reporter)
            });
            let mut restored = restored.lock().unwrap_or_else(PoisonError::into_inner);
            match done {
                Ok(Put::Stored) => {
                    restored.objects += 1;
                    restored.bytes += entry.size;
                }
                Ok(Put::Exists) => {
                    restored.existing += 1;
                    restored.existing_example.get_or_insert(key);
                }
                Err(error) => restored.failed.push(Finding {
                    path: key,
                    damage: error.kind() == ErrorKind::Damaged,
                    message: error.chain(),
                }),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(work);
        }
        // Moved in, so that the workers end with it.
        let send = send;
        for entry in request.source.index(request.manifest, &request.keys, &cx.reporter.fresh())? {
            cx.reporter.check()?;
            let entry = entry?;
            let wanted = entry.kind == EntryType::File
                && request.selection.contains(&entry.path)
                && key_of(&String::from_utf8_lossy(&entry.path)).is_some();
            if !wanted {
                continue;
            }
            if request.dry_run {
                let mut restored = restored.lock().unwrap_or_else(PoisonError::into_inner);
                restored.objects += 1;
                restored.bytes += entry.size;
            } else if send.send(entry).is_err() {
                return Err(Error::failed("the threads that store are gone"));
            }
        }
        Ok(())
    })?;
    cx.reporter.check()?;
    let restored = restored.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(pattern) = request.selection.unmatched().next() {
        return Err(Error::not_found(format!("nothing in the backup is `{pattern}`"))
            .hint("`backstay ls` shows what is there"));
    }
    Ok(restored)
}

fn next(entries: &Mutex<Receiver<Entry>>) -> Option<Entry> {
    entries.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}
