//! The server's own list of what it sent, `backup_manifest`: read as it goes by, and compared.

use std::io::{self, Read};

use serde::Deserialize;

use crate::archive::digest::Digest;
use crate::archive::entry::display_path;
use crate::archive::sort::Sorter;
use crate::archive::wal::{Lsn, WalRange};
use crate::error::{Error, Result};
use crate::source::Arriving;

/// The longest line that is taken: a path, and a few words.
const LINE: usize = 64 << 10;

const BUDGET: usize = 8 << 20;

/// Files that came, and files that are listed.
pub(super) struct Comparison {
    sorter: Sorter,
}

const CAME: u8 = 0;
const LISTED: u8 = 1;

impl Comparison {
    pub(super) fn new() -> Self {
        Self { sorter: Sorter::new(BUDGET) }
    }

    /// A file came.
    pub(super) fn came(&mut self, path: &[u8], size: u64, crc: u32) -> Result<()> {
        self.push(CAME, path, size, crc)
    }

    fn push(&mut self, side: u8, path: &[u8], size: u64, crc: u32) -> Result<()> {
        let mut value = vec![side];
        value.extend(size.to_be_bytes());
        value.extend(crc.to_be_bytes());
        self.sorter.push(path.to_vec(), value)
    }

    /// An error unless what came is what is listed.
    pub(super) fn check(self) -> Result<()> {
        let mut open: Option<(Vec<u8>, Vec<u8>)> = None;
        for record in self.sorter.finish()? {
            let (path, value) = record?;
            let Some((other, first)) = open.take() else {
                open = Some((path, value));
                continue;
            };
            if other != path {
                return Err(alone(&other, first[0]));
            }
            if first[0] == value[0] {
                return Err(wrong(&path, "is there twice"));
            }
            if first[1..] != value[1..] {
                return Err(wrong(&path, "is not what the server read"));
            }
        }
        open.map_or(Ok(()), |(path, value)| Err(alone(&path, value[0])))
    }
}

fn alone(path: &[u8], side: u8) -> Error {
    let what = if side == CAME {
        "is not on the server's list"
    } else {
        "is on the server's list and did not come"
    };
    wrong(path, what)
}

fn wrong(path: &[u8], what: &str) -> Error {
    Error::damaged(format!("the base backup is not whole: `{}` {what}", display_path(path)))
        .hint("run the backup again; if it happens again, look at the network and the memory of both machines")
}

/// Passes the list on, and takes its lines in.
pub(super) struct Listing<'a, R> {
    input: R,
    comparison: &'a mut Comparison,
    line: Vec<u8>,
    /// Everything but the files: a list without any.
    frame: Vec<u8>,
    digest: Digest,
    /// The lines before the one that has their digest.
    sha256: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct File {
    path: Option<String>,
    #[serde(rename = "Encoded-Path")]
    encoded_path: Option<String>,
    size: u64,
    checksum: String,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: String,
}

#[derive(Deserialize)]
struct Frame {
    #[serde(rename = "WAL-Ranges")]
    ranges: Vec<Range>,
    #[serde(rename = "Manifest-Checksum")]
    checksum: String,
    #[serde(rename = "System-Identifier")]
    system_id: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Range {
    timeline: u32,
    #[serde(rename = "Start-LSN")]
    start: Lsn,
    #[serde(rename = "End-LSN")]
    stop: Lsn,
}

impl<'a, R: Read> Listing<'a, R> {
    pub(super) fn new(input: R, comparison: &'a mut Comparison) -> Self {
        Self {
            input,
            comparison,
            line: Vec::new(),
            frame: Vec::new(),
            digest: Digest::default(),
            sha256: None,
        }
    }

    /// After the end: the WAL that the list says is needed.
    pub(super) fn finish(mut self, system_id: u64) -> Result<Vec<WalRange>> {
        self.end_line()?;
        let frame: Frame = serde_json::from_slice(&self.frame).map_err(|error| {
            Error::damaged("the server's list of files is damaged").with_source(error)
        })?;
        if self.sha256.as_ref() != Some(&frame.checksum) {
            return Err(Error::damaged("the server's list of files has a wrong checksum"));
        }
        if frame.system_id.is_some_and(|id| id != system_id) {
            return Err(Error::damaged("the server's list of files is of another cluster"));
        }
        Ok(frame
            .ranges
            .into_iter()
            .map(|range| WalRange {
                timeline: range.timeline,
                start: range.start,
                stop: range.stop,
            })
            .collect())
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        for piece in bytes.split_inclusive(|&b| b == b'\n') {
            if self.line.len() + piece.len() > LINE {
                return Err(Error::damaged("the server's list of files has a line without an end"));
            }
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                self.end_line()?;
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> Result<()> {
        let line = std::mem::take(&mut self.line);
        if line.starts_with(b"\"Manifest-Checksum\"") {
            self.sha256 = Some(std::mem::take(&mut self.digest).finish_hex());
        }
        self.digest.update(&line);
        let text = line.trim_ascii_end();
        let text = text.strip_suffix(b",").unwrap_or(text);
        if !text.starts_with(b"{ \"Path\"") && !text.starts_with(b"{ \"Encoded-Path\"") {
            self.frame.extend_from_slice(&line);
            return Ok(());
        }
        let bad = || Error::damaged("the server's list of files has a damaged line");
        let file: File = serde_json::from_slice(text).map_err(|e| bad().with_source(e))?;
        let path = match (file.path, file.encoded_path) {
            (Some(path), None) => path.into_bytes(),
            (None, Some(hex)) => hex::decode(hex).map_err(|error| bad().with_source(error))?,
            _ => return Err(bad()),
        };
        let mut crc = [0; 4];
        if file.algorithm != "CRC32C" || hex::decode_to_slice(&file.checksum, &mut crc).is_err() {
            return Err(bad());
        }
        self.comparison.push(LISTED, &path, file.size, u32::from_le_bytes(crc))
    }
}

impl<R: Read> Read for Listing<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(out)?;
        self.take(&out[..read]).map_err(Error::into_io)?;
        Ok(read)
    }
}

impl<R: Read> Arriving for Listing<'_, R> {}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::archive::digest::sha256_hex;

    fn list(files: &[(&str, u64, u32)]) -> String {
        let mut text = String::from("{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [");
        for (at, (path, size, crc)) in files.iter().enumerate() {
            text.push_str(if at == 0 { "\n" } else { ",\n" });
            text.push_str(&format!(
                "{{ \"Path\": \"{path}\", \"Size\": {size}, \"Last-Modified\": \"2026-11-21 00:00:00 GMT\", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"{}\" }}",
                hex::encode(crc.to_le_bytes())
            ));
        }
        text.push_str("\n],\n\"WAL-Ranges\": [\n{ \"Timeline\": 1, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/2000100\" }\n],\n");
        let sum = sha256_hex(text.as_bytes());
        text.push_str(&format!("\"Manifest-Checksum\": \"{sum}\"}}\n"));
        text
    }

    fn read(text: &str, came: &[(&str, u64, u32)]) -> Result<Vec<WalRange>> {
        let mut comparison = Comparison::new();
        for (path, size, crc) in came {
            comparison.came(path.as_bytes(), *size, *crc)?;
        }
        let mut listing = Listing::new(text.as_bytes(), &mut comparison);
        io::copy(&mut listing, &mut io::sink()).map_err(|error| Error::io("read", error))?;
        let ranges = listing.finish(1)?;
        comparison.check()?;
        Ok(ranges)
    }

    #[test]
    fn what_came_is_compared_with_what_is_listed() {
        let files = [("base/1/2", 8192, 7), ("PG_VERSION", 3, 9)];
        let ranges = read(&list(&files), &files).unwrap();
        assert_eq!(ranges.len(), 1);
        assert_eq!(ranges[0].stop.to_string(), "0/2000100");
        let wrong = |text: &str, came: &[(&str, u64, u32)]| read(text, came).unwrap_err().chain();
        assert!(wrong(&list(&files), &files[..1]).contains("`PG_VERSION` is on the server's list"));
        assert!(wrong(&list(&files[..1]), &files).contains("`PG_VERSION` is not on"));
        let other = [("base/1/2", 8192, 8), ("PG_VERSION", 3, 9)];
        assert!(wrong(&list(&files), &other).contains("`base/1/2` is not what the server read"));
        let text = list(&files).replace("8192", "8193");
        assert!(wrong(&text, &files).contains("wrong checksum"));
        let text = list(&files);
        assert!(wrong(&text[..text.len() - 40], &files).contains("damaged"));
    }
}
