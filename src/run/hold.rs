//! Holding what is read, so that no prune takes it away meanwhile.

use crate::archive::manifest::Manifest;
use crate::error::{Error, ErrorKind, Result};
use crate::run::Context;
use crate::run::context::host_name;
use crate::store::{Archived, Held, SourceStore, Worker};

/// Objects that an error names.
const NAMED: usize = 20;

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
    let held = hold_only(source, manifest, purpose, cx)?;
    check_thawed(source, manifest)?;
    Ok(held)
}

/// The same for who does not read what lies there.
pub fn hold_only(
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

/// Segments of a backup that lie in an archive of the store and cannot be read now.
pub fn archived(source: &SourceStore, manifest: &Manifest) -> Vec<Archived> {
    let keys: Vec<String> =
        manifest.segments.iter().map(|segment| source.key(&segment.path)).collect();
    source.store().archived(&keys)
}

/// Fails where objects must be thawed first, and names them: none is left out of what is read.
fn check_thawed(source: &SourceStore, manifest: &Manifest) -> Result<()> {
    let archived = archived(source, manifest);
    if archived.is_empty() {
        return Ok(());
    }
    let message = format!(
        "{}@{} cannot be read now: {} of its {} segments are archived",
        manifest.address(),
        manifest.backup,
        archived.len(),
        manifest.segments.len()
    );
    let mut error = Error::new(ErrorKind::Waiting, message);
    for one in archived.iter().take(NAMED) {
        error = error.hint(one.to_string());
    }
    if archived.len() > NAMED {
        error = error
            .hint(format!("and {} more: `restore --dry-run` names all", archived.len() - NAMED));
    }
    Err(error.hint(format!(
        "`backstay thaw {}@{}` has them thawed; run this again when that is done",
        manifest.address(),
        manifest.backup
    )))
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
