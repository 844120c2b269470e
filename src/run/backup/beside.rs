//! Objects of a cluster's backup that only the next incremental needs, written as they come.

use std::io::{self, Read, Write as _};

use super::session::Writing;
use crate::archive::entry::Entry;
use crate::archive::frame::FrameWriter;
use crate::archive::manifest::StoredObject;
use crate::archive::segment::{SealedWriter, sealed, unseal};
use crate::error::{Error, Result};
use crate::source::Arriving;
use crate::store::Upload;

/// zstd level: names compress well, digests not at all.
const LEVEL: i32 = 3;

/// An object that is being written. Whoever can read indexes can read it.
pub struct Beside {
    path: String,
    out: FrameWriter<SealedWriter<Upload>>,
}

impl Beside {
    /// The object `path` of the backup.
    pub fn create(writing: &Writing<'_>, path: String) -> Result<Self> {
        let upload = writing.source.upload(&path, &writing.cx.reporter);
        let out = sealed(upload, &writing.index).and_then(|out| FrameWriter::new(out, LEVEL));
        let out = out.map_err(|error| Error::io(format!("failed to write {path}"), error))?;
        Ok(Self { path, out })
    }

    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) -> Result<()> {
        let added = self.out.write_all(bytes);
        added.map_err(|error| Error::io(format!("failed to write {}", self.path), error))
    }

    /// Ends it.
    pub fn finish(self) -> Result<StoredObject> {
        let Self { path, out } = self;
        let closed = out.finish().and_then(|(out, _)| unseal(out));
        let (upload, size, sha256) =
            closed.map_err(|error| Error::io(format!("failed to write {path}"), error))?;
        upload.finish()?;
        Ok(StoredObject { path, size, sha256 })
    }
}

/// Passes bytes on, and adds them to an object as well.
pub struct Noted<'a> {
    /// What is read.
    pub input: &'a mut dyn Arriving,
    /// What takes a copy.
    pub beside: &'a mut Beside,
}

impl Read for Noted<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(out)?;
        self.beside.add(&out[..read]).map_err(Error::into_io)?;
        Ok(read)
    }
}

impl Arriving for Noted<'_> {
    fn ended(&mut self, entry: &mut Entry) -> Result<()> {
        self.input.ended(entry)
    }
}
