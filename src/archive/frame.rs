//! Independent zstd frames: any of them decodes alone, all of them together are one `.zst` file.

use std::io::{self, Read, Write};

use zstd::bulk::Compressor;
use zstd::zstd_safe::{self, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective};

use super::pool::FramePool;

/// Plain bytes in a frame.
pub const FRAME_SIZE: usize = 4 << 20;

/// The largest window a reader accepts, as a power of two: 8 MiB.
pub const WINDOW_LOG_MAX: u32 = 23;

/// Compresses one frame at a time, with content size and checksum in each.
pub struct FrameEncoder {
    compressor: Compressor<'static>,
}

impl FrameEncoder {
    /// An encoder at zstd `level` (1..=19).
    pub fn new(level: i32) -> io::Result<Self> {
        let mut compressor = Compressor::new(level)?;
        compressor.set_parameter(zstd_safe::CParameter::ChecksumFlag(true))?;
        compressor.set_parameter(zstd_safe::CParameter::ContentSizeFlag(true))?;
        // Higher levels would choose a window larger than a frame can use.
        if level > 16 {
            compressor.set_parameter(zstd_safe::CParameter::WindowLog(WINDOW_LOG_MAX - 1))?;
        }
        Ok(Self { compressor })
    }

    /// Compresses `plain` (at most [`FRAME_SIZE`] bytes) into `out`, replacing what it holds.
    pub fn encode(&mut self, plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        out.clear();
        out.reserve(zstd_safe::compress_bound(plain.len()));
        self.compressor.compress_to_buffer(plain, out).map(drop)
    }
}

/// Cuts a stream into frames.
pub struct FrameWriter<W> {
    out: W,
    engine: Engine,
    plain: Vec<u8>,
    /// Full frames before the current one.
    frames: u64,
    /// Plain bytes before the current frame.
    plain_before: u64,
    /// Plain and compressed bytes that went out.
    written: (u64, u64),
    closed: Vec<(u64, u64)>,
}

/// What compresses.
enum Engine {
    /// The thread that writes.
    Own(FrameEncoder, Vec<u8>),
    /// Others; frames go out some time after they were closed.
    Pool(FramePool, Vec<Vec<u8>>),
}

impl<W: Write> FrameWriter<W> {
    /// Frames of [`FRAME_SIZE`] at zstd `level` into `out`.
    pub fn new(out: W, level: i32) -> io::Result<Self> {
        Ok(Self::with(out, Engine::Own(FrameEncoder::new(level)?, Vec::new())))
    }

    /// The same, compressed by `threads` threads.
    pub fn parallel(out: W, level: i32, threads: usize) -> io::Result<Self> {
        Ok(Self::with(out, Engine::Pool(FramePool::new(level, threads)?, Vec::new())))
    }

    fn with(out: W, engine: Engine) -> Self {
        Self {
            out,
            engine,
            plain: Vec::with_capacity(FRAME_SIZE),
            frames: 0,
            plain_before: 0,
            written: (0, 0),
            closed: Vec::new(),
        }
    }

    /// The number of the current frame, from 0, and plain bytes in it so far.
    pub fn position(&mut self) -> io::Result<(u64, u64)> {
        // A full frame is closed first, so that what comes next is named by the frame it is in.
        if self.plain.len() == FRAME_SIZE {
            self.close_frame()?;
        }
        Ok((self.frames, self.plain.len() as u64))
    }

    /// Compressed bytes written so far.
    pub fn compressed(&self) -> u64 {
        self.written.1
    }

    /// Plain bytes taken so far.
    pub fn plain(&self) -> u64 {
        self.plain_before + self.plain.len() as u64
    }

    fn close_frame(&mut self) -> io::Result<()> {
        if self.plain.is_empty() {
            return Ok(());
        }
        self.plain_before += self.plain.len() as u64;
        self.frames += 1;
        match &mut self.engine {
            Engine::Own(encoder, packed) => {
                encoder.encode(&self.plain, packed)?;
                self.out.write_all(packed)?;
                self.written.0 += self.plain.len() as u64;
                self.written.1 += packed.len() as u64;
                self.closed.push(self.written);
                self.plain.clear();
            }
            Engine::Pool(pool, spare) => {
                let mut next = spare.pop().unwrap_or_default();
                next.clear();
                next.reserve_exact(FRAME_SIZE);
                pool.send(std::mem::replace(&mut self.plain, next))?;
                while self.is_full() {
                    self.take_packed()?;
                }
            }
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        matches!(&self.engine, Engine::Pool(pool, _) if pool.is_full())
    }

    /// Writes the oldest frame that others compressed; `false` if there is none.
    fn take_packed(&mut self) -> io::Result<bool> {
        let Engine::Pool(pool, spare) = &mut self.engine else { return Ok(false) };
        let Some((plain, packed)) = pool.take()? else { return Ok(false) };
        self.out.write_all(&packed)?;
        self.written.0 += plain.len() as u64;
        self.written.1 += packed.len() as u64;
        self.closed.push(self.written);
        spare.push(plain);
        Ok(true)
    }

    /// Reads from `input` straight into the frame: up to the frame's end or the input's.
    /// Returns how many bytes were read and hands them to `seen`.
    pub fn fill_from(
        &mut self,
        input: &mut dyn Read,
        limit: u64,
        seen: &mut dyn FnMut(&[u8]),
    ) -> io::Result<u64> {
        if self.plain.len() == FRAME_SIZE {
            self.close_frame()?;
        }
        let start = self.plain.len();
        let room = ((FRAME_SIZE - start) as u64).min(limit) as usize;
        // The buffer keeps its length of FRAME_SIZE zeros only as far as it is read into.
        self.plain.resize(start + room.min(256 << 10), 0);
        let read = loop {
            match input.read(&mut self.plain[start..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        let count = *read.as_ref().unwrap_or(&0);
        self.plain.truncate(start + count);
        seen(&self.plain[start..]);
        read.map(|count| count as u64)
    }

    /// The frames closed since the last call: plain and compressed offset of their ends.
    pub fn take_closed(&mut self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.closed)
    }

    /// Closes the last frame: the inner writer and the plain bytes. An empty stream becomes one
    /// empty frame.
    pub fn finish(self) -> io::Result<(W, u64)> {
        self.finish_with_ends().map(|(out, plain, _)| (out, plain))
    }

    /// Closes the last frame: the inner writer, the plain bytes, and the frames closed since
    /// [`FrameWriter::take_closed`] was called last.
    #[expect(clippy::type_complexity, reason = "three values that belong together")]
    pub fn finish_with_ends(mut self) -> io::Result<(W, u64, Vec<(u64, u64)>)> {
        self.close_frame()?;
        while self.take_packed()? {}
        if self.written.0 == 0 {
            // Zero bytes are one frame of size zero.
            let mut packed = Vec::new();
            match &mut self.engine {
                Engine::Own(encoder, _) => encoder.encode(&[], &mut packed)?,
                Engine::Pool(pool, _) => {
                    pool.send(Vec::new())?;
                    packed = pool.take()?.map(|(_, packed)| packed).unwrap_or_default();
                }
            }
            self.out.write_all(&packed)?;
            self.written.1 += packed.len() as u64;
        }
        Ok((self.out, self.written.0, self.closed))
    }
}

impl<W: Write> Write for FrameWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.plain.len() == FRAME_SIZE {
            self.close_frame()?;
        }
        let count = bytes.len().min(FRAME_SIZE - self.plain.len());
        self.plain.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Decodes frames one after another and knows where each began.
pub struct FrameReader<R> {
    input: R,
    context: DCtx<'static>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Compressed bytes handed to the decoder so far.
    consumed: u64,
    frame_start: u64,
    in_frame: u64,
    /// Plain bytes given so far, of all frames.
    plain: u64,
    /// Plain bytes the open frame says it has.
    frame_size: Option<u64>,
    frame_open: bool,
    at_end: bool,
}

/// The first of the sixteen magic numbers of skippable frames.
const SKIPPABLE: u32 = 0x184d_2a50;

/// The longest header of a zstd frame.
const FRAME_HEADER_MAX: usize = 18;

const INPUT_BUFFER: usize = 128 << 10;

impl<R: Read> FrameReader<R> {
    /// Decodes `input`, which stands at compressed offset `offset`, a frame's first byte.
    pub fn new(input: R, offset: u64) -> io::Result<Self> {
        let mut context =
            DCtx::try_create().ok_or_else(|| io::Error::other("no memory for a zstd decoder"))?;
        context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(zstd_error)?;
        Ok(Self {
            input,
            context,
            buffer: vec![0; INPUT_BUFFER],
            start: 0,
            end: 0,
            consumed: offset,
            frame_start: offset,
            in_frame: 0,
            plain: 0,
            frame_size: None,
            frame_open: false,
            at_end: false,
        })
    }

    /// The frame the next byte comes from, and how many of its bytes were read.
    pub fn position(&mut self) -> io::Result<(u64, u64)> {
        self.close_if_complete()?;
        Ok(if self.frame_open { (self.frame_start, self.in_frame) } else { (self.consumed, 0) })
    }

    /// Plain bytes decoded so far, those skipped included.
    pub fn plain(&self) -> u64 {
        self.plain
    }

    /// The input; what it stands at is undefined until [`FrameReader::restart`].
    pub fn input_mut(&mut self) -> &mut R {
        &mut self.input
    }

    /// Goes on at compressed offset `offset`, to which the input was moved.
    pub fn restart(&mut self, offset: u64) -> io::Result<()> {
        self.context.reset(ResetDirective::SessionOnly).map_err(zstd_error)?;
        (self.start, self.end) = (0, 0);
        (self.consumed, self.frame_start, self.in_frame) = (offset, offset, 0);
        (self.frame_open, self.at_end) = (false, false);
        self.frame_size = None;
        Ok(())
    }

    /// Decodes and drops everything before `skip` plain bytes into the frame at `frame`.
    /// Frames in between are decoded, so that their checksums are checked.
    pub fn advance_to(&mut self, frame: u64, skip: u64) -> io::Result<()> {
        let mut waste = vec![0; 64 << 10];
        loop {
            let (at, inside) = self.position()?;
            let want = if at == frame && inside <= skip {
                skip - inside
            } else if at < frame {
                waste.len() as u64
            } else {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the position named lies inside another member or frame",
                ));
            };
            if want == 0 {
                return Ok(());
            }
            let want = want.min(waste.len() as u64) as usize;
            // Reads never cross a frame's end, so the frame's start is never jumped over.
            if self.read(&mut waste[..want])? == 0 && !self.more()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Whether there is more to decode.
    fn more(&mut self) -> io::Result<bool> {
        Ok(self.frame_open || self.fill()?)
    }

    fn fill(&mut self) -> io::Result<bool> {
        self.fill_to(1)
    }

    /// Makes `count` bytes of input ready, fewer at the end. Whether there is any.
    fn fill_to(&mut self, count: usize) -> io::Result<bool> {
        while self.end - self.start < count && !self.at_end {
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.at_end = true,
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.start < self.end)
    }

    fn open_frame(&mut self) -> io::Result<bool> {
        if !self.fill_to(FRAME_HEADER_MAX)? {
            return Ok(false);
        }
        (self.frame_start, self.in_frame, self.frame_open) = (self.consumed, 0, true);
        let header = &self.buffer[self.start..self.end];
        // A skippable frame says its length, has no content, and closes itself.
        let skippable = header
            .first_chunk::<4>()
            .is_some_and(|magic| u32::from_le_bytes(*magic) & 0xffff_fff0 == SKIPPABLE);
        self.frame_size = if skippable {
            None
        } else {
            let size = zstd_safe::get_frame_content_size(header).ok().flatten();
            if size.is_none_or(|size| size > FRAME_SIZE as u64) {
                return Err(invalid("a frame that does not say its size, or is larger than 4 MiB"));
            }
            if zstd_safe::get_dict_id_from_frame(header).is_some() {
                return Err(invalid("a frame that needs a dictionary"));
            }
            size
        };
        Ok(true)
    }

    /// Takes in what follows the last byte of a frame's content, so that the frame is closed and
    /// its checksum checked before anybody asks where the next byte comes from.
    fn close_if_complete(&mut self) -> io::Result<()> {
        while self.frame_open && self.frame_size == Some(self.in_frame) {
            let (given, fed) = self.step(&mut [0])?;
            if given > 0 || (!fed && self.frame_open) {
                return Err(truncated());
            }
        }
        Ok(())
    }

    /// Decodes once. How many bytes came out, and whether there was input.
    fn step(&mut self, out: &mut [u8]) -> io::Result<(usize, bool)> {
        let fed = self.fill()?;
        let mut input = InBuffer::around(&self.buffer[self.start..self.end]);
        let mut output = OutBuffer::around(out);
        let hint = self.context.decompress_stream(&mut output, &mut input).map_err(zstd_error)?;
        let (taken, given) = (input.pos, output.pos());
        self.start += taken;
        self.consumed += taken as u64;
        self.in_frame += given as u64;
        self.plain += given as u64;
        self.frame_open = hint != 0;
        Ok((given, fed))
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn truncated() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the compressed stream is truncated")
}

impl<R: Read> Read for FrameReader<R> {
    /// Reads within one frame. 0 is the end of the stream.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            self.close_if_complete()?;
            if !self.frame_open && !self.open_frame()? {
                return Ok(0);
            }
            let (given, fed) = self.step(out)?;
            if given > 0 {
                return Ok(given);
            }
            if self.frame_open && !fed {
                return Err(truncated());
            }
        }
    }
}

fn zstd_error(code: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, zstd_safe::get_error_name(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_frame_decodes_alone() {
        let plain: Vec<u8> =
            (0..10_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 27) as u8).collect();
        let mut outputs = Vec::new();
        for threads in [0, 1, 3] {
            let writer = match threads {
                0 => FrameWriter::new(Vec::new(), 1),
                _ => FrameWriter::parallel(Vec::new(), 1, threads),
            };
            let mut writer = writer.expect("starts");
            let mut marks = Vec::new();
            for chunk in plain.chunks(777_777) {
                marks.push((writer.position().expect("has a place"), chunk));
                writer.write_all(chunk).expect("writes");
            }
            let mut ends: Vec<u64> = writer.take_closed().iter().map(|(_, end)| *end).collect();
            let (packed, _, closed) = writer.finish_with_ends().expect("ends");
            ends.extend(closed.iter().map(|(_, end)| *end));
            for ((number, skip), chunk) in marks {
                let frame = number.checked_sub(1).map_or(0, |before| ends[before as usize]);
                let mut reader =
                    FrameReader::new(&packed[frame as usize..], frame).expect("starts");
                reader.advance_to(frame, skip).expect("gets there");
                let mut read = vec![0; chunk.len()];
                reader.read_exact(&mut read).expect("reads");
                assert!(read == chunk);
            }
            let whole = zstd::stream::decode_all(&packed[..]).expect("plain zstd reads it");
            assert!(whole == plain);
            outputs.push(packed);
        }
        assert!(outputs.iter().all(|packed| *packed == outputs[0]), "the same, whoever compresses");
    }

    #[test]
    fn nothing_is_one_empty_frame() {
        let own = FrameWriter::new(Vec::new(), 1).expect("starts").finish().expect("ends");
        let pool = FrameWriter::parallel(Vec::new(), 1, 2).expect("starts");
        let pool = pool.finish().expect("ends");
        assert!(own == pool && own.1 == 0 && !own.0.is_empty());
    }

    #[test]
    fn truncation_and_large_windows_are_refused() {
        let mut writer = FrameWriter::new(Vec::new(), 3).expect("starts");
        writer.write_all(&[7; 1000]).expect("writes");
        let (packed, _) = writer.finish().expect("ends");
        for length in 1..packed.len() {
            let mut reader = FrameReader::new(&packed[..length], 0).expect("starts");
            assert!(io::copy(&mut reader, &mut io::sink()).is_err(), "{length} bytes");
        }
        let mut wide = zstd::stream::write::Encoder::new(Vec::new(), 3).expect("starts");
        wide.window_log(27).expect("sets");
        wide.write_all(&[7; 100]).expect("writes");
        let wide = wide.finish().expect("ends");
        let mut reader = FrameReader::new(&wide[..], 0).expect("starts");
        assert!(io::copy(&mut reader, &mut io::sink()).is_err());
    }
}
