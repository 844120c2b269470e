//! The server's tar archives, member by member.

use std::io::{self, Read};

use crate::archive::entry::{Entry, EntryType, is_safe};
use crate::archive::member::{self, BLOCK};
use crate::error::{Error, Result};

/// An archive that is read forwards, once.
pub(super) struct Archive<R> {
    input: R,
    /// Bytes of content and padding that belong to the member at hand.
    left: u64,
    padding: u64,
    prefix: Vec<u8>,
}

impl<R: Read> Archive<R> {
    /// An archive whose members lie below `prefix` in the data directory.
    pub(super) fn new(input: R, prefix: &str) -> Self {
        Self { input, left: 0, padding: 0, prefix: prefix.as_bytes().to_vec() }
    }

    /// The next member, after what was left of the one before; `None` at the end.
    pub(super) fn next_entry(&mut self) -> Result<Option<Entry>> {
        self.skip(self.left + self.padding)?;
        (self.left, self.padding) = (0, 0);
        let mut block = [0; BLOCK];
        let read = self.fill(&mut block)?;
        // Until 14 an archive just ends; from 15 on two blocks of zeros say so.
        if read == 0 {
            return Ok(None);
        }
        if read == BLOCK && block.iter().all(|&b| b == 0) {
            io::copy(&mut self.input, &mut io::sink()).map_err(failed)?;
            return Ok(None);
        }
        let mut rest = block[..read].chain(&mut self.input);
        let place = "the base backup";
        let member = member::decode(&mut rest, place)?
            .ok_or_else(|| Error::damaged("the base backup has an archive without a member"))?;
        (self.left, self.padding) = (member.data, member::padding(member.data));
        let mut path = self.prefix.clone();
        // Links to directories are named like directories, and some names begin where they are.
        let name = member.path.strip_suffix(b"/").unwrap_or(&member.path);
        path.extend(name.strip_prefix(b"./").unwrap_or(name));
        let mut entry = Entry::new(path, member.kind);
        let known = matches!(member.kind, EntryType::File | EntryType::Dir | EntryType::Symlink);
        if !known || !is_safe(&entry.path) || member.sparse.is_some() {
            return Err(Error::damaged(format!(
                "the base backup has a member `{}` that cannot be",
                entry.display_path()
            )));
        }
        let attributes = member.attributes;
        let name = |bytes: Vec<u8>| String::from_utf8(bytes).ok().filter(|name| !name.is_empty());
        entry.mode = attributes.mode & 0o7777;
        (entry.uid, entry.gid) = (attributes.uid as u32, attributes.gid as u32);
        entry.user = name(attributes.user);
        entry.group = name(attributes.group);
        entry.mtime = attributes.mtime;
        entry.size = member.size;
        entry.target = member.link;
        Ok(Some(entry))
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < out.len() {
            match self.input.read(&mut out[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(filled)
    }

    fn skip(&mut self, bytes: u64) -> Result<()> {
        let skipped = io::copy(&mut (&mut self.input).take(bytes), &mut io::sink());
        if skipped.map_err(failed)? == bytes {
            Ok(())
        } else {
            Err(Error::damaged("the base backup ends within a file"))
        }
    }
}

fn failed(error: io::Error) -> Error {
    Error::io("failed to read the base backup", error)
}

impl<R: Read> Read for Archive<R> {
    /// The content of the member at hand.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let want = self.left.min(out.len() as u64) as usize;
        if want == 0 {
            return Ok(0);
        }
        let read = self.input.read(&mut out[..want])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        Ok(read)
    }
}
