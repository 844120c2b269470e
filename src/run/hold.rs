//! Holding what is read, so that no prune takes it away meanwhile.

use crate::archive::manifest::Manifest;
use crate::error::{Error, ErrorKind, Result};
use crate::run::Context;
use crate::run::context::host_name;
use crate::store::{Held, SourceStore, Worker};

/// Holds a backup as long as the result lives. Where nothing may be written there is no hold, and
/// the grace period of prunes is what covers the reader.
///
/// The manifest was read before; it is asked for again now, because only a hold that was there
/// before its manifest went is one that a prune respects.
pub fn hold(
    source: &SourceStore,
    manifest: &Manifest,
    purpose: &str,
    cx: &Context,
) -> Result<Option<Held>> {
    let (by, period) = (Worker::here(host_name()), cx.tuning.prune.hold);
    let held = source.hold(&manifest.backup, purpose, &by, period, &cx.clock);
    check_listed(source, manifest)?;
    Ok(held)
}

/// Fails with [`ErrorKind::NotFound`] if the backup expired since its manifest was read.
pub fn check_listed(source: &SourceStore, manifest: &Manifest) -> Result<()> {
    match source.manifest(&manifest.backup) {
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::not_found(format!(
            "{}@{} expired just now",
            manifest.address(),
            manifest.backup
        ))
        .hint("`backstay list` shows what there is")),
        _ => Ok(()),
    }
}
