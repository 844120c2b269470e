//! Restoring to a stream: standard output, or a consumer that the policy names.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use super::layers::Layered;
use super::member::SegmentCursor;
use super::request::Request;
use crate::archive::crypt::DecryptReader;
use crate::archive::digest::Digest;
use crate::archive::entry::{Entry, EntryType, Part};
use crate::archive::frame::FrameReader;
use crate::archive::manifest::Segment;
use crate::archive::member::read_error;
use crate::error::{Error, ErrorKind, Result};
use crate::run::{Context, hold};
use crate::source::Source;
use crate::store::ObjectReader;
use crate::telemetry::Event;

/// Writes one stream, or the one file that the request selects, to `out`. Returns its bytes.
pub fn stream_to(request: &Request<'_>, cx: &Context, out: &mut dyn Write) -> Result<u64> {
    let _held = hold::hold(&request.source, request.manifest, "restore", cx)?;
    let mut reader = ContentReader::open(request, cx)?;
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    loop {
        cx.reporter.check()?;
        let read = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) => return Err(Error::io("failed to read the backup", error)),
        };
        out.write_all(&buffer[..read])
            .map_err(|error| Error::io("failed to write the output", error))?;
        bytes += read as u64;
        cx.reporter.progress().add_bytes(read as u64);
    }
    out.flush().map_err(|error| Error::io("failed to write the output", error))?;
    Ok(bytes)
}

/// Feeds a stream to the consumer of `source`. `Ok(false)`: the policy names none.
pub fn stream_to_consumer(
    request: &Request<'_>,
    cx: &Context,
    source: &dyn Source,
) -> Result<bool> {
    let _held = hold::hold(&request.source, request.manifest, "restore", cx)?;
    let mut reader = ContentReader::open(request, cx)?;
    match source.consume(&cx.for_source(), &mut reader) {
        None => Ok(false),
        Some(result) => result.map(|()| true),
    }
}

/// The content of one entry, checked against its digest before its end is told.
pub(super) struct ContentReader<'a> {
    request: &'a Request<'a>,
    cx: &'a Context,
    entry: Entry,
    digest: Option<Digest>,
    content: Content<'a>,
}

enum Content<'a> {
    Layers(Box<Layered<'a>>),
    Slices {
        waiting: VecDeque<Part>,
        open: Option<(Part, Box<Slice>, Digest)>,
    },
    Member {
        segment: Box<SegmentCursor>,
        path: String,
        /// Extents that are still to come, and how much of the first was read.
        extents: VecDeque<(u64, u64)>,
        position: u64,
    },
}

type Slice = FrameReader<DecryptReader<io::BufReader<ObjectReader>>>;

impl<'a> ContentReader<'a> {
    fn open(request: &'a Request<'a>, cx: &'a Context) -> Result<Self> {
        let manifest = request.manifest;
        cx.reporter.emit(Event::Started {
            verb: "restore",
            source: manifest.address().to_string(),
            backup: Some(manifest.backup.to_string()),
            kind: Some(manifest.kind.to_string()),
        });
        let entry = only_entry(request, cx)?;
        cx.reporter.progress().expect(1, entry.size);
        Self::of(request, cx, entry)
    }

    /// The content of this entry.
    pub(super) fn of(request: &'a Request<'a>, cx: &'a Context, entry: Entry) -> Result<Self> {
        let content = if !entry.layers.is_empty() {
            Content::Layers(Box::new(Layered::open(request, cx, &entry)?))
        } else if entry.parts.is_empty() {
            member(request, cx, &entry)?
        } else {
            Content::Slices { waiting: entry.parts.clone().into(), open: None }
        };
        Ok(Self { request, cx, entry, digest: Some(Digest::default()), content })
    }

    pub(super) fn segment(request: &'a Request<'a>, wanted: &str) -> Result<&'a Segment> {
        let segments = request.manifest.segments.iter();
        for segment in segments {
            if segment.reference()?.to_string() == wanted {
                return Ok(segment);
            }
        }
        Err(Error::damaged(format!(
            "the index refers to segment {wanted}, which the manifest does not name"
        )))
    }

    fn next_slice(
        request: &'a Request<'a>,
        cx: &Context,
        waiting: &mut VecDeque<Part>,
    ) -> Result<Option<(Part, Box<Slice>, Digest)>> {
        let Some(part) = waiting.pop_front() else { return Ok(None) };
        let segment = Self::segment(request, &part.segment.to_string())?;
        let (source, keys) = (&request.source, &request.keys);
        let plain = source.open_plain(&segment.path, segment.size, keys, &cx.reporter)?;
        let frames =
            FrameReader::new(plain, 0).map_err(|error| read_error(error, &segment.path))?;
        Ok(Some((part, Box::new(frames), Digest::default())))
    }

    fn step(&mut self, out: &mut [u8]) -> Result<usize> {
        match &mut self.content {
            // Each layer is compared with its own digest.
            Content::Layers(layers) => layers.step(out),
            Content::Slices { waiting, open } => loop {
                if open.is_none() {
                    *open = Self::next_slice(self.request, self.cx, waiting)?;
                }
                let Some((part, slice, digest)) = open else { return Ok(0) };
                let place = part.segment.to_string();
                let read = slice.read(out).map_err(|error| read_error(error, &place))?;
                if read > 0 {
                    digest.update(&out[..read]);
                    return Ok(read);
                }
                let (part, _, digest) = open.take().ok_or_else(|| Error::failed("no slice"))?;
                if digest.bytes() != part.size || digest.finish_hex() != part.sha256 {
                    return Err(Error::damaged(format!("{place} is not what was backed up")));
                }
            },
            Content::Member { segment, path, extents, position } => {
                let size = self.entry.size;
                let (hole, until) = match extents.front() {
                    Some(&(offset, length)) if *position >= offset + length => {
                        extents.pop_front();
                        return self.step(out);
                    }
                    Some(&(offset, length)) if *position >= offset => (false, offset + length),
                    Some(&(offset, _)) => (true, offset),
                    None => (true, size),
                };
                let want = (until - *position).min(out.len() as u64) as usize;
                if want == 0 {
                    return Ok(0);
                }
                let read = if hole {
                    out[..want].fill(0);
                    want
                } else {
                    segment
                        .content()
                        .read(&mut out[..want])
                        .map_err(|error| read_error(error, path))?
                };
                if read == 0 {
                    return Err(Error::damaged(format!("{path} ends too early")));
                }
                *position += read as u64;
                Ok(read)
            }
        }
    }
}

impl Read for ContentReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        let read = self.step(out).map_err(Error::into_io)?;
        if let Some(digest) = &mut self.digest {
            digest.update(&out[..read]);
        }
        if read == 0
            && let Some(digest) = self.digest.take()
            && self.entry.fingerprint.is_none()
            && self.entry.layers.is_empty()
        {
            super::worker::check_content(&self.entry, digest, None).map_err(Error::into_io)?;
        }
        Ok(read)
    }
}

fn member(request: &Request<'_>, cx: &Context, entry: &Entry) -> Result<Content<'static>> {
    let mut stored = entry.clone();
    if entry.kind == EntryType::Hardlink {
        stored.path = entry.hardlink.clone().unwrap_or_default();
        (stored.kind, stored.hardlink, stored.at) = (EntryType::File, None, entry.leader_at);
    }
    let lost = || Error::damaged(format!("the index has no place for `{}`", entry.display_path()));
    let reference = stored.segment.as_ref().ok_or_else(lost)?;
    let at = stored.at.ok_or_else(lost)?;
    let segment = ContentReader::segment(request, &reference.to_string())?;
    let mut cursor = SegmentCursor::open(
        &request.source,
        &segment.path,
        segment.size,
        &request.keys,
        &cx.reporter,
    )?;
    let member = cursor.member(&stored, at)?;
    if entry.kind == EntryType::Hardlink {
        stored.sparse.clone_from(&member.sparse);
    }
    member.expect(&stored, &segment.path)?;
    let extents = member.sparse.unwrap_or_else(|| vec![(0, stored.size)]);
    Ok(Content::Member {
        segment: Box::new(cursor),
        path: segment.path.clone(),
        extents: extents.into(),
        position: 0,
    })
}

/// The one entry with content that the request selects.
fn only_entry(request: &Request<'_>, cx: &Context) -> Result<Entry> {
    let mut found: Option<Entry> = None;
    let reporter = cx.reporter.fresh();
    for entry in request.source.index(request.manifest, &request.keys, &reporter)? {
        let entry = entry?;
        let has_content =
            matches!(entry.kind, EntryType::File | EntryType::Stream | EntryType::Hardlink);
        if !has_content || !request.selection.contains(&entry.path) {
            continue;
        }
        if let Some(first) = &found {
            return Err(Error::usage(format!(
                "more than one file is selected: `{}` and `{}` among others",
                first.display_path(),
                entry.display_path()
            ))
            .hint("a stream is one file: select it with --path, or restore to a directory"));
        }
        found = Some(entry);
    }
    let found = found.map(|entry| large_leader(entry, request, cx)).transpose()?;
    found.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "no file is selected")
            .hint(format!("`backstay ls {}` shows what is in the backup", request.manifest.backup))
    })
}

/// The slices of a link to a large file stand in its first name's entry.
fn large_leader(entry: Entry, request: &Request<'_>, cx: &Context) -> Result<Entry> {
    let Some(leader) = entry.hardlink.as_ref().filter(|_| entry.leader_at.is_none()) else {
        return Ok(entry);
    };
    let reporter = cx.reporter.fresh();
    for found in request.source.index(request.manifest, &request.keys, &reporter)? {
        let found = found?;
        if found.path == *leader {
            return Ok(found);
        }
    }
    Ok(entry)
}
