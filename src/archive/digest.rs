//! SHA-256 on the way through.

use std::io::{self, Read, Write};

use sha2::{Digest as _, Sha256};

/// A running SHA-256 with a byte count.
#[derive(Clone, Default)]
pub struct Digest {
    sha: Sha256,
    bytes: u64,
}

impl Digest {
    /// Takes in more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.sha.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// Takes in `count` zero bytes: a hole in a file.
    pub fn update_zeros(&mut self, mut count: u64) {
        static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
        while count > 0 {
            let step = count.min(ZEROS.len() as u64);
            self.update(&ZEROS[..step as usize]);
            count -= step;
        }
    }

    /// Bytes taken in so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The digest.
    pub fn finish(self) -> [u8; 32] {
        self.sha.finalize().into()
    }

    /// The digest as hex.
    pub fn finish_hex(self) -> String {
        hex::encode(self.finish())
    }
}

/// SHA-256 of a byte string, as hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    let mut digest = Digest::default();
    digest.update(bytes);
    digest.finish_hex()
}

/// Passes bytes on and takes their digest.
pub struct DigestWriter<W> {
    inner: W,
    digest: Digest,
}

impl<W: Write> DigestWriter<W> {
    /// Wraps `inner`.
    pub fn new(inner: W) -> Self {
        Self { inner, digest: Digest::default() }
    }

    /// Bytes passed on so far.
    pub fn bytes(&self) -> u64 {
        self.digest.bytes()
    }

    /// The inner writer and the digest of what it was given.
    pub fn into_parts(self) -> (W, Digest) {
        (self.inner, self.digest)
    }
}

impl<W: Write> Write for DigestWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.digest.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Passes bytes on and takes their digest.
pub struct DigestReader<R> {
    inner: R,
    digest: Digest,
}

impl<R: Read> DigestReader<R> {
    /// Wraps `inner`.
    pub fn new(inner: R) -> Self {
        Self { inner, digest: Digest::default() }
    }

    /// Reads to the end and gives the inner reader and the digest of everything.
    pub fn finish(mut self) -> io::Result<(R, Digest)> {
        let mut rest = vec![0; 64 * 1024];
        while self.read(&mut rest)? > 0 {}
        Ok((self.inner, self.digest))
    }
}

impl<R: Read> Read for DigestReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.digest.update(&buffer[..read]);
        Ok(read)
    }
}
