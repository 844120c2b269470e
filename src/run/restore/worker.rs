//! Threads that read segments and write files.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::{Mutex, PoisonError};

use super::member::SegmentCursor;
use super::plan::{Batch, Piece, failed};
use super::request::{Failures, Missing, Request};
use crate::archive::digest::Digest;
use crate::archive::entry::{Entry, EntryType};
use crate::archive::frame::FrameReader;
use crate::archive::manifest::Segment;
use crate::archive::member::{Member, read_error};
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::run::Context;
use crate::run::crew::Queue;
use crate::source::directory::extract::{Cursor, Existing, Extractor, NewFile};
use crate::source::secrets;
use crate::telemetry::failpoint;

/// What workers add to.
#[derive(Default)]
pub struct Shared {
    results: Mutex<Results>,
}

/// What came of the files.
#[derive(Default)]
pub struct Results {
    /// Files written.
    pub written: u64,
    /// Files that were right already.
    pub kept: u64,
    /// Bytes of content of these two.
    pub bytes: u64,
    /// Files that were not restored.
    pub failed: Failures,
    /// Their paths.
    pub missing: Missing,
    /// What ended the whole restore.
    pub fatal: Option<Error>,
}

impl Shared {
    pub(super) fn with<T>(&self, change: impl FnOnce(&mut Results) -> T) -> T {
        change(&mut self.results.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the whole restore is to end.
    pub fn is_over(&self) -> bool {
        self.with(|results| results.fatal.is_some())
    }

    /// Ends the whole restore.
    pub fn end(&self, error: Error) {
        self.with(|results| results.fatal.get_or_insert(error).kind());
    }

    /// The results.
    pub fn into_results(self) -> Results {
        self.results.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes batches until there are no more.
pub fn work(
    request: &Request<'_>,
    cx: &Context,
    target: &Extractor,
    shared: &Shared,
    batches: &Queue<Batch>,
) {
    let mut worker = Worker {
        request,
        cx,
        cursor: target.cursor(),
        existing: target.existing(),
        shared,
        open: None,
        buffer: vec![0; 256 << 10],
    };
    while let Some(batch) = batches.take() {
        for piece in batch.pieces {
            if shared.is_over() {
                break;
            }
            worker.take(&batch.segment, &piece);
        }
    }
}

pub(super) struct Worker<'a> {
    pub(super) request: &'a Request<'a>,
    pub(super) cx: &'a Context,
    pub(super) cursor: Cursor<'a>,
    existing: Existing,
    pub(super) shared: &'a Shared,
    open: Option<(String, SegmentCursor)>,
    pub(super) buffer: Vec<u8>,
}

impl Worker<'_> {
    fn take(&mut self, segment: &Segment, piece: &Piece) {
        let result = match piece.part {
            Some(layer) if !piece.entry.layers.is_empty() => {
                self.layer(segment, &piece.entry, layer)
            }
            Some(part) => self.slice(segment, &piece.entry, part),
            None => self.file(segment, &piece.entry),
        };
        let Err(error) = result else { return };
        // After an error nobody knows where the reader stands.
        self.open = None;
        match error.kind() {
            // One file less; the others are restored.
            ErrorKind::Damaged | ErrorKind::Conflict | ErrorKind::Denied => {
                self.shared.with(|results| {
                    results.missing.insert(&piece.entry.path);
                    results.failed.push(failed(&piece.entry, &error));
                });
            }
            _ => self.shared.end(error),
        }
    }

    pub(super) fn segment(&mut self, segment: &Segment) -> Result<&mut SegmentCursor> {
        if self.open.as_ref().is_none_or(|(path, _)| *path != segment.path) {
            let cursor = SegmentCursor::open(
                &self.request.source,
                &segment.path,
                segment.size,
                &self.request.keys,
                &self.cx.reporter,
            )
            .map_err(header_is_damaged)?;
            self.open = Some((segment.path.clone(), cursor));
        }
        match &mut self.open {
            Some((_, cursor)) => Ok(cursor),
            None => Err(Error::failed("no segment is open")),
        }
    }

    fn file(&mut self, segment: &Segment, entry: &Entry) -> Result<()> {
        if self.existing == Existing::Delta && is_right(&mut self.cursor, entry, self.cx)? {
            self.shared.with(|results| {
                (results.kept, results.bytes) =
                    (results.kept + 1, results.bytes.saturating_add(entry.size));
            });
            self.done(entry);
            return Ok(());
        }
        // A link restored in its first name's place: the content is that name's.
        let stored = match (&entry.hardlink, entry.leader_at) {
            (Some(leader), Some(at)) => Entry {
                path: leader.clone(),
                kind: EntryType::File,
                hardlink: None,
                at: Some(at),
                ..entry.clone()
            },
            _ => entry.clone(),
        };
        let at = stored.at.ok_or_else(|| Error::damaged("an entry without a place"))?;
        let adopted = entry.hardlink.is_some();
        let cursor = self.segment(segment)?;
        let member = cursor.member(&stored, at)?;
        let restored = if adopted {
            // The link's own entry does not repeat extents.
            let stored = Entry { sparse: member.sparse.clone(), ..stored };
            member.expect(&stored, &segment.path)?;
            Entry { path: entry.path.clone(), ..stored }
        } else {
            member.expect(&stored, &segment.path)?;
            stored
        };
        let mut new = self.cursor.create(&restored)?;
        if let Err(error) = self.fill(&mut new, &restored, &member, segment) {
            self.cursor.discard(&restored, &new);
            return Err(error);
        }
        if let Err(error) = self.cursor.complete(&restored, &new) {
            self.cursor.discard(&restored, &new);
            return Err(error);
        }
        self.shared.with(|results| {
            (results.written, results.bytes) =
                (results.written + 1, results.bytes.saturating_add(restored.size));
        });
        self.done(&restored);
        failpoint::reach("restore.first_file");
        Ok(())
    }

    fn done(&self, entry: &Entry) {
        let progress = self.cx.reporter.progress();
        progress.add_file();
        progress.add_bytes(entry.size);
    }

    fn fill(
        &mut self,
        new: &mut NewFile,
        entry: &Entry,
        member: &Member,
        segment: &Segment,
    ) -> Result<()> {
        let mut digest = Digest::default();
        let mut value = entry.fingerprint.is_some().then(Vec::new);
        let whole = [(0, entry.size)];
        let extents = member.sparse.as_deref().unwrap_or(&whole);
        let mut logical = 0;
        let mut buffer = std::mem::take(&mut self.buffer);
        let cursor = self.segment(segment)?;
        let result = (|| {
            for &(offset, length) in extents {
                digest.update_zeros(offset.saturating_sub(logical));
                new.skip_to(offset);
                let mut left = length;
                while left > 0 {
                    let want = left.min(buffer.len() as u64) as usize;
                    let read = cursor
                        .content()
                        .read(&mut buffer[..want])
                        .map_err(|error| read_error(error, &segment.path))?;
                    if read == 0 {
                        return Err(Error::damaged(format!("{} ends too early", segment.path)));
                    }
                    digest.update(&buffer[..read]);
                    if let Some(value) = &mut value {
                        value.extend_from_slice(&buffer[..read]);
                    }
                    new.write_all(&buffer[..read]).map_err(|error| write_error(entry, error))?;
                    left -= read as u64;
                }
                logical = offset + length;
            }
            Ok(())
        })();
        self.buffer = buffer;
        result?;
        digest.update_zeros(entry.size.saturating_sub(logical));
        check_content(entry, digest, value.as_deref())
    }

    /// One slice of a large file, into the file that the plan created.
    fn slice(&mut self, segment: &Segment, entry: &Entry, number: usize) -> Result<()> {
        let part = entry.parts.get(number).ok_or_else(|| Error::failed("no such slice"))?;
        let start: u64 =
            entry.parts[..number].iter().fold(0, |sum, part| part.size.saturating_add(sum));
        let mut new = self.cursor.reopen(entry)?;
        new.skip_to(start);
        let (request, reporter) = (self.request, &self.cx.reporter);
        let plain = request.source.open_plain(&segment.path, segment.size, &request.keys, reporter);
        let plain = plain.map_err(header_is_damaged)?;
        let mut frames =
            FrameReader::new(plain, 0).map_err(|error| read_error(error, &segment.path))?;
        let mut digest = Digest::default();
        let mut position = start;
        loop {
            let read =
                frames.read(&mut self.buffer).map_err(|error| read_error(error, &segment.path))?;
            if read == 0 {
                break;
            }
            let bytes = &self.buffer[..read];
            digest.update(bytes);
            if digest.bytes() > part.size {
                // What follows would be written over the next slice, or past the file's end.
                break;
            }
            position += read as u64;
            // Zeros need not be written: the file was created in its full size.
            if bytes.iter().all(|&b| b == 0) {
                new.skip_to(position);
            } else {
                new.write_all(bytes).map_err(|error| write_error(entry, error))?;
            }
            reporter.progress().add_bytes(read as u64);
        }
        if digest.bytes() != part.size || digest.finish_hex() != part.sha256 {
            return Err(Error::damaged(format!(
                "slice {} of `{}` in {} is not what was backed up",
                number + 1,
                entry.display_path(),
                segment.path
            )));
        }
        self.shared.with(|results| results.bytes = results.bytes.saturating_add(part.size));
        if number == 0 {
            self.shared.with(|results| results.written += 1);
            reporter.progress().add_file();
        }
        Ok(())
    }
}

pub(super) fn write_error(entry: &Entry, error: std::io::Error) -> Error {
    let full = error.kind() == std::io::ErrorKind::StorageFull;
    let error = Error::io(format!("failed to restore `{}`", entry.display_path()), error)
        .with_kind(ErrorKind::Failed);
    if full { error.hint("the target's file system is full") } else { error }
}

/// Whether the file that is there has the right content. If so its attributes are set.
pub fn is_right(cursor: &mut Cursor<'_>, entry: &Entry, cx: &Context) -> Result<bool> {
    let Some(file) = right(cursor, entry, cx)? else { return Ok(false) };
    cursor.adopt(entry, &file);
    Ok(true)
}

/// The file that is there, if it has the right content.
pub fn right(cursor: &mut Cursor<'_>, entry: &Entry, cx: &Context) -> Result<Option<File>> {
    let Some(mut file) = cursor.existing(entry) else { return Ok(None) };
    let mut digest = Digest::default();
    let mut buffer = vec![0; (256 << 10).min(entry.size.max(1) as usize)];
    loop {
        cx.reporter.check()?;
        let read = file
            .read(&mut buffer)
            .doing(|| format!("failed to read `{}` in the target", entry.display_path()))?;
        if read == 0 {
            break;
        }
        digest.update(&buffer[..read]);
    }
    Ok((entry.sha256 == Some(digest.finish())).then_some(file))
}

/// Whoever restores was found to hold the keys before anything was read: an object that does not
/// open all the same was altered.
fn header_is_damaged(error: Error) -> Error {
    if error.kind() == ErrorKind::Denied { error.with_kind(ErrorKind::Damaged) } else { error }
}

/// An error unless the content read is what was backed up.
pub fn check_content(entry: &Entry, digest: Digest, value: Option<&[u8]>) -> Result<()> {
    let right = match (&entry.fingerprint, value) {
        (Some(fingerprint), Some(value)) => secrets::has_fingerprint(value, fingerprint)?,
        _ => entry.sha256 == Some(digest.finish()),
    };
    if right {
        return Ok(());
    }
    Err(Error::damaged(format!(
        "the content of `{}` is not what was backed up",
        entry.display_path()
    )))
}
