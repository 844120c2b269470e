//! Whether another repository may be a copy of this one.

use std::collections::BTreeSet;

use crate::error::{Error, ErrorKind, Result};
use crate::id::BackupId;
use crate::store::{Repository, SourceStore};

/// Fails where nothing in `there` can take the place of anything in `here`: it is the same one, or
/// what lies there comes from somewhere else. A copy has the same keys; one that is not encrypted
/// has some of the same backups.
pub fn check_origin(here: &Repository, there: &Repository) -> Result<()> {
    if here.store().name() == there.store().name() {
        let name = here.store().name();
        return Err(Error::usage(format!("{name} cannot be repaired from itself")));
    }
    if here.is_encrypted() != there.is_encrypted() {
        let which =
            if here.is_encrypted() { "not encrypted, and this one is" } else { "encrypted" };
        return Err(stranger(here, there, &format!("it is {which}")));
    }
    if here.is_encrypted() {
        let mut common = false;
        for key in here.keys() {
            let Some(other) = there.keys().iter().find(|other| other.id == key.id) else {
                continue;
            };
            if other.recipient != key.recipient {
                return Err(stranger(here, there, &format!("its key {} is another", key.id)));
            }
            common = true;
        }
        return if common { Ok(()) } else { Err(stranger(here, there, "it has other keys")) };
    }
    let mut any = false;
    for address in here.sources()? {
        let mine = backups(&here.source(&address))?;
        any |= !mine.is_empty();
        if !mine.is_disjoint(&backups(&there.source(&address))?) {
            return Ok(());
        }
    }
    if any { Err(stranger(here, there, "they have no backup in common")) } else { Ok(()) }
}

fn backups(source: &SourceStore) -> Result<BTreeSet<BackupId>> {
    Ok(source.commits()?.into_iter().map(|commit| commit.backup).collect())
}

fn stranger(here: &Repository, there: &Repository, why: &str) -> Error {
    let (here, there) = (here.store().name(), there.store().name());
    Error::new(ErrorKind::Conflict, format!("{there} holds no copy of {here}: {why}"))
        .hint("give the repository that `backstay copy` filled from this one")
}
