//! Pins: backups that stay until somebody says otherwise.

use std::collections::BTreeSet;

use crate::archive::manifest::Manifest;
use crate::error::{Error, ErrorKind, Result};
use crate::id::BackupId;
use crate::run::context::host_name;
use crate::run::{Context, lock};
use crate::store::{Pin, SourceStore, Worker, layout};

/// What a pin is to say and to do.
#[derive(Debug, Clone, Copy, Default)]
pub struct PinOf<'a> {
    /// Why, for those who find it.
    pub reason: Option<&'a str>,
    /// Put what the backup needs under a legal hold too.
    pub hold: bool,
}

/// Pins a backup. Returns whether it was not pinned before.
///
/// A prune announces what expires before it looks at pins, and we look at what is announced after
/// the pin is there: at least one of both notices the other.
pub fn pin(source: &SourceStore, backup: &BackupId, of: PinOf<'_>, cx: &Context) -> Result<bool> {
    let manifest = source.manifest(backup)?;
    let PinOf { reason, hold } = of;
    if hold {
        source.store().check_locking()?;
        let other = source.pins()?.into_iter().any(|pin| pin.backup == *backup && !pin.hold);
        if other {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("{backup} is pinned already, without a legal hold"),
            )
            .hint(format!("`backstay unpin {backup}`, then pin it again with --hold")));
        }
    }
    let created = source.create_pin(&Pin {
        version: 1,
        backup: backup.clone(),
        created: cx.clock.now(),
        reason: reason.map(str::to_owned),
        hold,
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
    if hold {
        // After the pin, which says that there is something to release.
        source.store().legal_hold(&held_by(source, &manifest)?, true)?;
    }
    Ok(created)
}

/// Everything that a legal hold of a backup is put on.
fn held_by(source: &SourceStore, manifest: &Manifest) -> Result<Vec<String>> {
    let mut keys = lock::needed(source, manifest)?;
    keys.push(source.key(&layout::commit(&manifest.backup)));
    Ok(keys)
}

/// Takes the legal hold off what no other held backup of the source needs. What belongs to the whole
/// repository stays: other sources may hold it.
fn release(source: &SourceStore, backup: &BackupId, others: &[Pin]) -> Result<()> {
    let own = source.key("");
    let mut keys: BTreeSet<String> =
        held_by(source, &source.manifest(backup)?)?.into_iter().collect();
    keys.retain(|key| key.starts_with(&own));
    for other in others.iter().filter(|pin| pin.hold && pin.backup != *backup) {
        for key in held_by(source, &source.manifest(&other.backup)?)? {
            keys.remove(&key);
        }
    }
    let keys: Vec<String> = keys.into_iter().collect();
    source.store().legal_hold(&keys, false).map(drop)
}

/// Removes a pin. Returns whether there was one.
pub fn unpin(source: &SourceStore, backup: &BackupId) -> Result<bool> {
    let pins = source.pins()?;
    let Some(pin) = pins.iter().find(|pin| pin.backup == *backup) else { return Ok(false) };
    if pin.hold {
        release(source, backup, &pins)?;
    }
    source.delete_pin(backup)?;
    Ok(true)
}
