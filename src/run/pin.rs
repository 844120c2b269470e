//! Pins: backups that stay until somebody says otherwise.

use crate::error::{Error, ErrorKind, Result};
use crate::id::BackupId;
use crate::run::Context;
use crate::run::context::host_name;
use crate::store::{Pin, SourceStore, Worker};

/// Pins a backup. Returns whether it was not pinned before.
///
/// A prune announces what expires before it looks at pins, and we look at what is announced after
/// the pin is there: at least one of both notices the other.
pub fn pin(
    source: &SourceStore,
    backup: &BackupId,
    reason: Option<&str>,
    cx: &Context,
) -> Result<bool> {
    source.manifest(backup)?;
    let created = source.create_pin(&Pin {
        version: 1,
        backup: backup.clone(),
        created: cx.clock.now(),
        reason: reason.map(str::to_owned),
        by: Worker::here(host_name()),
    })?;
    let now = cx.clock.now();
    let announced = source.marks()?.into_iter().any(|listed| {
        listed.mark.backups.contains(backup)
            && now.duration_since(listed.stored_at) <= cx.tuning.prune.window
    });
    if let Err(error) = source.manifest(backup) {
        source.delete_pin(backup)?;
        return Err(error.context(format!("{backup} expired just now")));
    }
    if announced {
        return Err(Error::new(
            ErrorKind::Busy,
            format!("a prune announced just now that {backup} expires: the pin may be too late"),
        )
        .hint("pin it again in ten minutes: if it is still listed then, it stays"));
    }
    Ok(created)
}

/// Removes a pin. Returns whether there was one.
pub fn unpin(source: &SourceStore, backup: &BackupId) -> Result<bool> {
    let pinned = source.pins()?.iter().any(|pin| pin.backup == *backup);
    if pinned {
        source.delete_pin(backup)?;
    }
    Ok(pinned)
}
