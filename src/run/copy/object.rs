//! Sending one object.

use std::io::{Read as _, Write as _};

use md5::{Digest as _, Md5};

use crate::archive::digest::Digest;
use crate::archive::snapshot::split_digest;
use crate::error::{Error, Result};
use crate::store::SourceStore;
use crate::telemetry::{Reporter, failpoint};

const BUFFER: usize = 256 << 10;

/// What an object is known by.
#[derive(Debug, Clone, Copy)]
pub enum Proof<'a> {
    /// The SHA-256 in a manifest.
    Sha256(&'a str),
    /// The MD5 that its name ends in, as StarRocks has it.
    Name,
}

enum Hashing {
    Sha256(Digest),
    Md5(Md5),
}

impl Hashing {
    fn new(proof: Proof<'_>) -> Self {
        match proof {
            Proof::Sha256(_) => Self::Sha256(Digest::default()),
            Proof::Name => Self::Md5(Md5::new()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(digest) => digest.update(bytes),
            Self::Md5(digest) => digest.update(bytes),
        }
    }

    /// Whether it is the object that it should be.
    fn proves(self, path: &str, proof: Proof<'_>) -> bool {
        let expected = match proof {
            Proof::Sha256(digest) => Some(digest),
            Proof::Name => split_digest(path).map(|(_, digest)| digest),
        };
        let found = match self {
            Self::Sha256(digest) => digest.finish_hex(),
            Self::Md5(digest) => hex::encode(digest.finalize()),
        };
        expected == Some(found.as_str())
    }
}

/// Sends one object as it is. It comes into being at the target only if its bytes have the digest
/// they were stored with, and counts only if they have it there too.
pub fn send(
    from: &SourceStore,
    to: &SourceStore,
    (path, size, proof): (&str, u64, Proof<'_>),
    read_back: bool,
    reporter: &Reporter,
) -> Result<()> {
    let failed = || format!("failed to copy {path}");
    let mut object = from.open(path, size, reporter).whole();
    let mut upload = to.upload(path, reporter);
    let mut digest = Hashing::new(proof);
    let mut buffer = vec![0; BUFFER];
    loop {
        reporter.check()?;
        let read = object.read(&mut buffer).map_err(|error| Error::io(failed(), error))?;
        if read == 0 {
            break;
        }
        digest.update(&buffer[..read]);
        upload.write_all(&buffer[..read]).map_err(|error| Error::io(failed(), error))?;
        reporter.progress().add_bytes(read as u64);
    }
    if !digest.proves(path, proof) {
        // Dropping the upload leaves nothing at the target.
        return Err(Error::damaged(format!(
            "{path} was altered in {}: it is not copied",
            from.store().name()
        ))
        .hint("`backstay verify` says what that costs"));
    }
    failpoint::reach("copy.proven");
    upload.finish()?;
    if read_back { check(to, (path, size, proof), reporter) } else { Ok(()) }
}

fn check(
    to: &SourceStore,
    (path, size, proof): (&str, u64, Proof<'_>),
    reporter: &Reporter,
) -> Result<()> {
    let mut object = to.open(path, size, &reporter.fresh()).whole();
    let mut digest = Hashing::new(proof);
    let mut buffer = vec![0; BUFFER];
    loop {
        reporter.check()?;
        let read = object
            .read(&mut buffer)
            .map_err(|error| Error::io(format!("failed to read {path} back"), error))?;
        if read == 0 {
            break;
        }
        digest.update(&buffer[..read]);
    }
    if digest.proves(path, proof) {
        return Ok(());
    }
    Err(Error::damaged(format!("{} did not keep {path} as it was sent", to.store().name()))
        .hint("the target cannot be trusted: `backstay check` probes it"))
}
