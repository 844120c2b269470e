//! What lies in a repository beside backups: how to restore by hand, and policies.

use std::collections::BTreeSet;
use std::io::Read as _;

use super::report::Finding;
use crate::archive::crypt::Keyring;
use crate::archive::digest::sha256_hex;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Repository, is_known_page, layout, page_names};

/// The largest page or policy that is read.
const LIMIT: u64 = 16 << 20;

/// What is wrong beside the backups.
#[derive(Debug, Default)]
pub struct Beside {
    /// Pages that somebody wrote, or removed. No backup is worse for it.
    pub doubtful: Vec<Finding>,
    /// Policies that are not what was stored.
    pub damaged: Vec<Finding>,
}

/// Compares the pages with what this program writes, and policies with the digests in their names.
/// What none of `keys` opens is passed over.
pub fn check_beside(repository: &Repository, keys: &Keyring) -> Result<Beside> {
    let mut found = Beside::default();
    let store = repository.store();
    let finding = |object: &str, problem: &str| Finding {
        object: object.to_owned(),
        problem: problem.to_owned(),
        costs: None,
    };
    for name in page_names() {
        let problem = match store.read_if_exists(name, LIMIT)? {
            None => "is missing: without it nobody restores by hand",
            Some(text) if is_known_page(name, &text) => continue,
            Some(_) => "is not what this or an earlier version wrote: do not trust it",
        };
        found.doubtful.push(finding(name, problem));
    }
    let stacks: BTreeSet<String> =
        repository.sources()?.into_iter().map(|address| address.stack).collect();
    for stack in stacks {
        for object in store.list(&layout::policies(&stack))? {
            let Some(bytes) = store.read_if_exists(&object.key, LIMIT)? else { continue };
            match plain(&bytes, &object.key, keys) {
                Ok(text)
                    if layout::policy_digest(&object.key) == Some(sha256_hex(&text).as_str()) => {}
                Ok(_) => {
                    let problem = "is not the policy that was stored";
                    found.damaged.push(finding(&object.key, problem));
                }
                // Nobody here can tell.
                Err(error) if error.kind() == ErrorKind::Denied => {}
                Err(error) => found.damaged.push(finding(&object.key, &error.chain())),
            }
        }
    }
    Ok(found)
}

fn plain(bytes: &[u8], key: &str, keys: &Keyring) -> Result<Vec<u8>> {
    if !layout::is_encrypted(key) {
        return Ok(bytes.to_vec());
    }
    let mut text = Vec::new();
    keys.decrypt(bytes, key)?
        .take(LIMIT)
        .read_to_end(&mut text)
        .map_err(|error| Error::damaged("does not decrypt").with_source(error))?;
    Ok(text)
}
