//! Lists for restoring by hand: names an older segment has too many, and slices of large files.

use std::io::{self, BufRead, BufReader, Read, Write};

use super::entry::Entry;
use super::frame::{FrameReader, FrameWriter};
use super::member::pax_time;
use crate::error::{Error, Result};

/// The longest name a reader of a dead list accepts.
const NAME_LIMIT: u64 = 64 << 10;

/// Writes a dead list: one name a line, for `tar -X`.
pub struct DeadListWriter<W: Write> {
    frames: FrameWriter<W>,
    names: u64,
}

impl<W: Write> DeadListWriter<W> {
    /// Starts a list in `out`.
    pub fn new(out: W, level: i32) -> io::Result<Self> {
        Ok(Self { frames: FrameWriter::new(out, level)?, names: 0 })
    }

    /// Adds a name. Names with line breaks never get here: they are in no shared segment.
    pub fn push(&mut self, name: &[u8]) -> io::Result<()> {
        debug_assert!(!name.contains(&b'\n'));
        self.names += 1;
        self.frames.write_all(name)?;
        self.frames.write_all(b"\n")
    }

    /// Ends the list: the inner writer and the number of names.
    pub fn finish(self) -> io::Result<(W, u64)> {
        let (out, _) = self.frames.finish()?;
        Ok((out, self.names))
    }
}

/// The names of a dead list, in the order they were written.
pub struct DeadListReader<R> {
    lines: BufReader<FrameReader<R>>,
    name: String,
}

impl<R: Read> DeadListReader<R> {
    /// Reads the decrypted object `input`; `name` names it in errors.
    pub fn new(input: R, name: &str) -> Result<Self> {
        let frames = FrameReader::new(input, 0)
            .map_err(|error| Error::io(format!("failed to read {name}"), error))?;
        Ok(Self { lines: BufReader::new(frames), name: name.to_owned() })
    }
}

impl<R: Read> Iterator for DeadListReader<R> {
    type Item = Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = Vec::new();
        match (&mut self.lines).take(NAME_LIMIT).read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(_) if line.pop() == Some(b'\n') => Some(Ok(line)),
            Ok(_) => Some(Err(Error::damaged(format!("{} is truncated", self.name)))),
            Err(error) => Some(Err(super::member::read_error(error, &self.name))),
        }
    }
}

/// The lines of a large file in the `large` list, one a slice.
pub fn large_lines(entry: &Entry) -> Vec<u8> {
    let mut lines = Vec::new();
    let path = escape(&entry.path);
    for (number, part) in entry.parts.iter().enumerate() {
        let line = format!(
            "{:04o}\t{}\t{}\t{}\t{}\t{}\t{path}\n",
            entry.mode,
            entry.uid,
            entry.gid,
            pax_time(entry.mtime),
            number + 1,
            part.segment,
        );
        lines.extend_from_slice(line.as_bytes());
    }
    lines
}

/// Backslashes, spaces, control characters and bytes over 126 as `\ooo`.
fn escape(path: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for &byte in path {
        if (0x21..0x7f).contains(&byte) && byte != b'\\' {
            text.push(byte as char);
        } else {
            let _ = write!(text, "\\{byte:03o}");
        }
    }
    text
}
