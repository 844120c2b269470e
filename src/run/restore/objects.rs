//! The objects of a bucket, back into a bucket.

use std::cmp::Reverse;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::output::ContentReader;
use super::request::{Failures, Finding, Missing, Request};
use crate::archive::entry::{Entry, EntryType};
use crate::error::{Error, ErrorKind, Result};
use crate::run::{Context, hold};
use crate::source::bucket::{DELETED, NTH, OBJECTS, Put, VERSIONS, key_of, put, version_of};
use crate::store::Objects;

/// Objects on their way at once.
const WORKERS: usize = 8;

/// How objects are put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ways {
    /// One that is there is replaced.
    pub replace: bool,
    /// What lies behind the objects comes back first, the oldest version of each first.
    pub versions: bool,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Restored {
    /// Objects that were stored; in a dry run those that would be tried.
    pub objects: u64,
    /// Versions behind them, and marks that something was deleted.
    #[serde(skip_serializing_if = "is_zero")]
    pub versions: u64,
    /// Bytes of all of them.
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

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Stores every selected object of a backup under its own key.
///
/// # Errors
/// [`ErrorKind::Unsupported`] where versions are to come back into a bucket that keeps none.
pub fn restore_objects(
    request: &Request<'_>,
    objects: &Objects,
    ways: Ways,
    cx: &Context,
) -> Result<Restored> {
    let _held = if request.dry_run {
        None
    } else {
        hold::hold(&request.source, request.manifest, "restore", cx)?
    };
    if ways.versions && objects.settings()?.get("versioning").is_none_or(|found| found != "on") {
        return Err(Error::unsupported(format!("{} keeps no versions", objects.name()))
            .hint("turn versioning on there, or leave --versions out"));
    }
    let work =
        Work { request, objects, ways, cx, restored: Mutex::default(), begun: Mutex::default() };
    if ways.versions {
        work.all_of(&mut |send| work.histories(send))?;
    }
    work.all_of(&mut |send| work.current(send))?;
    cx.reporter.check()?;
    if let Some(pattern) = request.selection.unmatched().next() {
        return Err(Error::not_found(format!("nothing in the backup is `{pattern}`"))
            .hint("`backstay ls` shows what is there"));
    }
    Ok(work.restored.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// What is to come under one key, one after another.
struct Turn {
    key: String,
    entries: Vec<Entry>,
    /// Of the versions behind an object, and not the object.
    history: bool,
}

struct Work<'a> {
    request: &'a Request<'a>,
    objects: &'a Objects,
    ways: Ways,
    cx: &'a Context,
    restored: Mutex<Restored>,
    /// Keys whose older versions were stored by this restore: what is there now is ours.
    begun: Mutex<Missing>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Work<'_> {
    /// Does every turn that `bring` sends, several at once.
    fn all_of(&self, bring: &mut dyn FnMut(&SyncSender<Turn>) -> Result<()>) -> Result<()> {
        let (send, turns) = sync_channel::<Turn>(WORKERS);
        let turns = Mutex::new(turns);
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| {
                    while let Some(turn) = next(&turns) {
                        self.take(&turn);
                    }
                });
            }
            // Moved in, so that the workers end with it.
            let send = send;
            bring(&send)
        })
    }

    fn entries(&self, take: &mut dyn FnMut(Entry, &str) -> Result<()>) -> Result<()> {
        let request = self.request;
        let reporter = &self.cx.reporter;
        for entry in request.source.index(request.manifest, &request.keys, &reporter.fresh())? {
            reporter.check()?;
            let entry = entry?;
            if entry.kind == EntryType::File {
                let path = String::from_utf8_lossy(&entry.path).into_owned();
                take(entry, &path)?;
            }
        }
        Ok(())
    }

    fn send(&self, send: &SyncSender<Turn>, turn: Turn) -> Result<()> {
        if !self.request.dry_run {
            let gone = |_| Error::failed("the threads that store are gone");
            return send.send(turn).map_err(gone);
        }
        let mut restored = lock(&self.restored);
        let count = turn.entries.len() as u64;
        *(if turn.history { &mut restored.versions } else { &mut restored.objects }) += count;
        restored.bytes += turn.entries.iter().map(|entry| entry.size).sum::<u64>();
        Ok(())
    }

    fn current(&self, send: &SyncSender<Turn>) -> Result<()> {
        self.entries(&mut |entry, path| {
            let Some(key) = key_of(path) else { return Ok(()) };
            if !self.request.selection.contains(&entry.path) {
                return Ok(());
            }
            self.send(send, Turn { key, entries: vec![entry], history: false })
        })
    }

    /// Versions come by their paths: those of a key lie beside each other but for what lies below it.
    fn histories(&self, send: &SyncSender<Turn>) -> Result<()> {
        let mut open: Vec<(String, Turn)> = Vec::new();
        self.entries(&mut |entry, path| {
            let Some((key, _)) = version_of(path) else { return Ok(()) };
            let object = format!("{OBJECTS}/{key}");
            let selection = &self.request.selection;
            if !selection.contains(&entry.path) && !selection.contains(object.as_bytes()) {
                return Ok(());
            }
            let directory = path.rsplit_once('/').map_or(VERSIONS, |(directory, _)| directory);
            while let Some((above, turn)) = open.pop_if(|(above, _)| !within(directory, above)) {
                drop(above);
                self.send(send, in_order(turn))?;
            }
            if let Some((_, turn)) = open.last_mut().filter(|(last, _)| last == directory) {
                turn.entries.push(entry);
            } else {
                let turn = Turn { key, entries: vec![entry], history: true };
                open.push((directory.to_owned(), turn));
            }
            Ok(())
        })?;
        open.into_iter().try_for_each(|(_, turn)| self.send(send, in_order(turn)))
    }

    fn take(&self, turn: &Turn) {
        let own = self.ways.replace || lock(&self.begun).contains(turn.key.as_bytes());
        let mut first = !own;
        // A mark before anything else hides nothing.
        let entries = turn.entries.iter().skip_while(|entry| turn.history && is_mark(entry));
        for entry in entries {
            match self.store(turn, entry, !first) {
                Ok(Put::Stored) => {
                    let mut restored = lock(&self.restored);
                    if turn.history {
                        restored.versions += 1;
                    } else {
                        restored.objects += 1;
                    }
                    restored.bytes += entry.size;
                }
                Ok(Put::Exists) => {
                    // Once for the object and all that lies behind it.
                    if !turn.history {
                        let mut restored = lock(&self.restored);
                        restored.existing += 1;
                        restored.existing_example.get_or_insert(turn.key.clone());
                    }
                    return;
                }
                Err(error) => {
                    let damage = error.kind() == ErrorKind::Damaged;
                    let (path, message) = (turn.key.clone(), error.chain());
                    lock(&self.restored).failed.push(Finding { path, message, damage });
                    if turn.history && first {
                        return;
                    }
                }
            }
            if first && turn.history {
                lock(&self.begun).insert(turn.key.as_bytes());
            }
            first = false;
        }
    }

    fn store(&self, turn: &Turn, entry: &Entry, replace: bool) -> Result<Put> {
        if is_mark(entry) {
            return self.objects.hide(&turn.key).map(|()| Put::Stored);
        }
        let mut content = ContentReader::of(self.request, self.cx, entry.clone())?;
        put(self.objects, &turn.key, entry, &mut content, replace, &self.cx.reporter)
    }
}

fn is_mark(entry: &Entry) -> bool {
    entry.xattrs.contains_key(DELETED)
}

/// The oldest first. Of the same second a mark comes last: what it hides was there before. Of others
/// the listing had the newest first.
fn in_order(mut turn: Turn) -> Turn {
    let nth = |entry: &Entry| -> u32 {
        let text = entry.xattrs.get(NTH).and_then(|text| std::str::from_utf8(text).ok());
        text.and_then(|text| text.parse().ok()).unwrap_or_default()
    };
    turn.entries.sort_by_key(|entry| (entry.mtime, is_mark(entry), Reverse(nth(entry))));
    turn
}

fn within(directory: &str, above: &str) -> bool {
    directory.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn next(turns: &Mutex<Receiver<Turn>>) -> Option<Turn> {
    lock(turns).recv().ok()
}
