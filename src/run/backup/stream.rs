//! Byte streams: cut into slices, compressed in parallel, stored in order.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::session::Writing;
use super::tally::Tally;
use crate::archive::digest::Digest;
use crate::archive::entry::{Part, SegmentRef};
use crate::archive::frame::{FRAME_SIZE, FrameEncoder};
use crate::archive::manifest::{Segment, SegmentType};
use crate::archive::segment::{SealedWriter, sealed, unseal};
use crate::error::{Error, Result};
use crate::run::crew::{Queue, crew};
use crate::store::{Upload, layout};

/// A stored stream.
pub struct StoredStream {
    /// SHA-256 of all of it.
    pub sha256: [u8; 32],
    /// Bytes of it.
    pub size: u64,
    /// Its slices.
    pub parts: Vec<Part>,
}

struct Task {
    plain: Vec<u8>,
    done: SyncSender<io::Result<(Vec<u8>, Vec<u8>)>>,
}

type Packed = Receiver<io::Result<(Vec<u8>, Vec<u8>)>>;

/// Stores everything `input` gives, compressed by `workers` threads. An empty stream has one empty
/// slice.
pub fn store(
    writing: &Writing<'_>,
    tally: &Tally,
    input: &mut dyn Read,
    workers: usize,
) -> Result<StoredStream> {
    std::thread::scope(|scope| {
        let send = crew(scope, workers, workers, |tasks| compress(writing.level, tasks));
        Cutter::new(writing, tally).run(input, &send, workers)
    })
}

fn compress(level: i32, tasks: &Queue<Task>) {
    let mut encoder = FrameEncoder::new(level);
    while let Some(Task { plain, done }) = tasks.take() {
        let mut packed = Vec::new();
        let result = match &mut encoder {
            Ok(encoder) => encoder.encode(&plain, &mut packed),
            Err(error) => Err(io::Error::other(error.to_string())),
        };
        let _ = done.send(result.map(|()| (plain, packed)));
    }
}

/// Reads, hands frames out, takes them back in order and writes slices.
struct Cutter<'a> {
    writing: &'a Writing<'a>,
    tally: &'a Tally,
    whole: Digest,
    parts: Vec<Part>,
    slice: Option<Slice>,
    spare: Vec<Vec<u8>>,
}

struct Slice {
    reference: SegmentRef,
    path: String,
    out: SealedWriter<Upload>,
    digest: Digest,
    packed: u64,
}

impl<'a> Cutter<'a> {
    fn new(writing: &'a Writing<'a>, tally: &'a Tally) -> Self {
        Self {
            writing,
            tally,
            whole: Digest::default(),
            parts: Vec::new(),
            slice: None,
            spare: Vec::new(),
        }
    }

    fn run(
        mut self,
        input: &mut dyn Read,
        tasks: &SyncSender<Task>,
        workers: usize,
    ) -> Result<StoredStream> {
        let mut waiting: VecDeque<Packed> = VecDeque::new();
        loop {
            self.writing.cx.reporter.check()?;
            let plain = self.read_frame(input)?;
            if plain.is_empty() && self.whole.bytes() > 0 {
                break;
            }
            let last = plain.is_empty();
            let (done, packed) = sync_channel(1);
            tasks
                .send(Task { plain, done })
                .map_err(|_| Error::failed("the threads that compress are gone"))?;
            waiting.push_back(packed);
            if waiting.len() > workers
                && let Some(packed) = waiting.pop_front()
            {
                self.write(&packed)?;
            }
            if last {
                break;
            }
        }
        for packed in waiting {
            self.write(&packed)?;
        }
        self.end_slice()?;
        let size = self.whole.bytes();
        Ok(StoredStream { sha256: self.whole.finish(), size, parts: self.parts })
    }

    fn read_frame(&mut self, input: &mut dyn Read) -> Result<Vec<u8>> {
        let mut plain = self.spare.pop().unwrap_or_default();
        plain.clear();
        let failed = |error| Error::io("failed to read the stream", error);
        plain.reserve_exact(FRAME_SIZE);
        input.take(FRAME_SIZE as u64).read_to_end(&mut plain).map_err(failed)?;
        self.whole.update(&plain);
        self.writing.cx.reporter.progress().add_bytes(plain.len() as u64);
        Ok(plain)
    }

    fn write(&mut self, packed: &Packed) -> Result<()> {
        let (plain, packed) = packed
            .recv()
            .map_err(|_| Error::failed("a thread that compresses is gone"))?
            .map_err(|error| Error::io("failed to compress", error))?;
        if self.slice.as_ref().is_some_and(|s| s.packed >= self.writing.cx.tuning.segment_size) {
            self.end_slice()?;
        }
        let slice = match &mut self.slice {
            Some(slice) => slice,
            none => none.insert(Slice::start(self.writing, self.tally)?),
        };
        slice.digest.update(&plain);
        slice.packed += packed.len() as u64;
        slice
            .out
            .write_all(&packed)
            .map_err(|error| Error::io("failed to write a segment", error))?;
        self.spare.push(plain);
        Ok(())
    }

    fn end_slice(&mut self) -> Result<()> {
        let Some(slice) = self.slice.take() else { return Ok(()) };
        let (upload, size, sha256) =
            unseal(slice.out).map_err(|error| Error::io("failed to write a segment", error))?;
        let plain = slice.digest.bytes();
        let segment = Segment {
            path: slice.path,
            kind: SegmentType::Stream,
            size,
            sha256,
            version: None,
            plain,
            content: plain,
            live: plain,
            dead: None,
        };
        self.tally.add_segment(segment, upload.finish_later()?)?;
        let sha256 = slice.digest.finish_hex();
        self.parts.push(Part { segment: slice.reference, size: plain, sha256 });
        Ok(())
    }
}

impl Slice {
    fn start(writing: &Writing<'_>, tally: &Tally) -> Result<Self> {
        let reference = SegmentRef { backup: writing.backup.clone(), number: tally.next_segment() };
        let path = layout::segment(&reference, SegmentType::Stream, writing.is_encrypted());
        let upload = writing.source.upload(&path, &writing.cx.reporter);
        let out = sealed(upload, &writing.content)
            .map_err(|error| Error::io("failed to start a segment", error))?;
        Ok(Self { reference, path, out, digest: Digest::default(), packed: 0 })
    }
}

/// A file's logical content: extents with zeros between them, and zeros for what is missing at
/// the end, so that it has the size it was announced with.
pub struct Filled<'a> {
    extents: &'a mut dyn Read,
    ranges: Vec<(u64, u64)>,
    size: u64,
    position: u64,
    range: usize,
    short: bool,
}

impl<'a> Filled<'a> {
    /// `extents` gives the bytes of `sparse` (or all of them) one after another.
    pub fn new(extents: &'a mut dyn Read, sparse: Option<Vec<(u64, u64)>>, size: u64) -> Self {
        let ranges = sparse.unwrap_or_else(|| vec![(0, size)]);
        Self { extents, ranges, size, position: 0, range: 0, short: false }
    }

    /// Whether the input ended early.
    pub fn short(&self) -> bool {
        self.short
    }
}

impl Read for Filled<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.ranges.get(self.range).is_some_and(|&(at, n)| at + n <= self.position) {
            self.range += 1;
        }
        let (data, end) = match self.ranges.get(self.range) {
            Some(&(offset, length)) if offset <= self.position => (true, offset + length),
            Some(&(offset, _)) => (false, offset),
            None => (false, self.size),
        };
        let want = out.len().min((end - self.position) as usize);
        if want == 0 {
            return Ok(0);
        }
        let read = if data && !self.short { self.extents.read(&mut out[..want])? } else { 0 };
        let read = if read > 0 {
            read
        } else {
            self.short |= data;
            out[..want].fill(0);
            want
        };
        self.position += read as u64;
        Ok(read)
    }
}
