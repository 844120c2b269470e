//! Whether somebody could open what is encrypted.

use super::report::Finding;
use crate::archive::manifest::Manifest;
use crate::store::{Repository, layout};

/// Keys the backup needs whose secret half is gone. Without them everything else is worth nothing.
pub fn check_keys(repository: &Repository, manifest: &Manifest) -> Vec<Finding> {
    let Some(encryption) = &manifest.encryption else { return Vec::new() };
    let mut needed: Vec<&String> = encryption.keys.iter().collect();
    if !needed.contains(&&encryption.key) {
        needed.push(&encryption.key);
    }
    let lost = |id: &&String| {
        let key = repository.keys().iter().find(|key| key.id == **id);
        key.is_none_or(|key| key.wraps.is_empty())
    };
    needed
        .into_iter()
        .filter(lost)
        .map(|id| Finding {
            object: layout::wrapped_key(id, 1),
            problem: "is missing: nobody can open what is encrypted to this key".to_owned(),
            costs: None,
        })
        .collect()
}
