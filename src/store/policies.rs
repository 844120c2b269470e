//! Policies as they were in force, kept beside the backups.

use std::io::Read as _;

use jiff::Timestamp;

use super::layout;
use super::repository::Repository;
use crate::archive::crypt::{DecryptReader, Keyring};
use crate::archive::digest::sha256_hex;
use crate::error::{Error, Result};
use crate::id;
use crate::policy::MAX_FILE_SIZE;

/// A policy that lies in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPolicy {
    /// The stack.
    pub stack: String,
    /// SHA-256 of its text.
    pub digest: String,
    /// When the store took it, by the store's clock.
    pub stored_at: Timestamp,
    key: String,
}

impl Repository {
    /// Every policy of every stack, or of one, the newest of a stack first.
    pub fn policies(&self, stack: Option<&str>) -> Result<Vec<StoredPolicy>> {
        let stacks = match stack {
            Some(stack) => vec![stack.to_owned()],
            None => self.store().list_directories("")?,
        };
        let mut found = Vec::new();
        for stack in stacks {
            if layout::RESERVED.contains(&stack.as_str()) || !id::is_name(&stack) {
                continue;
            }
            for object in self.store().list(&layout::policies(&stack))? {
                let Some(digest) = layout::policy_digest(&object.key) else { continue };
                found.push(StoredPolicy {
                    stack: stack.clone(),
                    digest: digest.to_owned(),
                    stored_at: object.stored_at,
                    key: object.key,
                });
            }
        }
        found.sort_by(|a, b| {
            (&a.stack, b.stored_at, &a.digest).cmp(&(&b.stack, a.stored_at, &b.digest))
        });
        Ok(found)
    }

    /// The text of a policy, which must have the digest that it is named by.
    pub fn policy_text(&self, policy: &StoredPolicy, keys: &Keyring) -> Result<String> {
        // What encryption adds is far less than that.
        let sealed = self.store().read(&policy.key, 2 * MAX_FILE_SIZE);
        let sealed = sealed.map_err(|error| error.into_error(self.store()))?;
        let encrypted = layout::is_encrypted(&policy.key);
        let plain = DecryptReader::open(&sealed[..], encrypted, keys, &policy.key)?;
        let mut bytes = Vec::new();
        plain.take(MAX_FILE_SIZE + 1).read_to_end(&mut bytes).map_err(|error| {
            Error::damaged(format!("{} is damaged", policy.key)).with_source(error)
        })?;
        let text = String::from_utf8(bytes)
            .map_err(|_| Error::damaged(format!("{} is no text", policy.key)))?;
        if sha256_hex(text.as_bytes()) != policy.digest {
            return Err(Error::damaged(format!("{} is not what it is named after", policy.key)));
        }
        Ok(text)
    }
}
