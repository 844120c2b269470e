//! Sending one object.

use std::io::{Read as _, Write as _};

use crate::archive::digest::Digest;
use crate::error::{Error, Result};
use crate::store::SourceStore;
use crate::telemetry::{Reporter, failpoint};

const BUFFER: usize = 256 << 10;

/// Sends one object as it is. It comes into being at the target only if its bytes have the digest
/// they were stored with, and counts only if they have it there too.
pub fn send(
    from: &SourceStore,
    to: &SourceStore,
    (path, size, sha256): (&str, u64, &str),
    read_back: bool,
    reporter: &Reporter,
) -> Result<()> {
    let failed = || format!("failed to copy {path}");
    let mut object = from.open(path, size, reporter).whole();
    let mut upload = to.upload(path, reporter);
    let mut digest = Digest::default();
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
    if digest.finish_hex() != sha256 {
        // Dropping the upload leaves nothing at the target.
        return Err(Error::damaged(format!(
            "{path} was altered in {}: it is not copied",
            from.store().name()
        ))
        .hint("`backstay verify` says what that costs"));
    }
    failpoint::reach("copy.proven");
    upload.finish()?;
    if read_back { check(to, (path, size, sha256), reporter) } else { Ok(()) }
}

fn check(
    to: &SourceStore,
    (path, size, sha256): (&str, u64, &str),
    reporter: &Reporter,
) -> Result<()> {
    let mut object = to.open(path, size, &reporter.fresh()).whole();
    let mut digest = Digest::default();
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
    if digest.finish_hex() == sha256 {
        return Ok(());
    }
    Err(Error::damaged(format!("{} did not keep {path} as it was sent", to.store().name()))
        .hint("the target cannot be trusted: `backstay check` probes it"))
}
