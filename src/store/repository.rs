//! A repository: its descriptor, its keys, and the way in for those who hold one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};

use super::blocking::Store;
use super::catalogue::SourceStore;
use super::epochs::Epochs;
use super::keys::{self, KeyInfo};
use super::layout;
use super::pages::PAGES;
use crate::archive::crypt::{Keyring, Recipients};
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::id::{self, SourceAddress};

const DESCRIPTOR_LIMIT: u64 = 64 << 10;

const POLICY_LIMIT: u64 = 16 << 20;

/// The version written into descriptors, and the newest one read.
pub const VERSION: u32 = 1;

/// What makes a prefix a repository: `backstay.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// Format version.
    #[serde(rename = "backstay_repository")]
    pub version: u32,
    /// 128 random bits, hex.
    pub id: String,
    /// When it was created.
    pub created: Timestamp,
    /// Whether content is encrypted.
    pub encrypted: bool,
    /// Taken although its store failed a probe.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub weak_store: bool,
    /// The program that created it.
    pub tool: String,
}

/// How to create a repository.
#[derive(Debug, Clone, Default)]
pub struct InitOptions {
    /// A repository whose copies it will hold: it gets the same keys, and no recipients count.
    pub copies_of: Option<Repository>,
    /// Who can open the repository key. Empty: content is not encrypted.
    pub recipients: Recipients,
    /// The store failed a probe and was taken all the same.
    pub weak_store: bool,
}

/// An open repository.
#[derive(Debug, Clone)]
pub struct Repository {
    store: Store,
    descriptor: Descriptor,
    keys: Vec<KeyInfo>,
    /// By stack.
    epochs: BTreeMap<String, Arc<Epochs>>,
    /// What is divergent is wanted too.
    ignoring: bool,
}

impl Repository {
    /// Creates a repository. The descriptor is created last, so that a half-made one is none.
    pub fn init(store: &Store, options: &InitOptions, now: Timestamp) -> Result<Self> {
        if let Some(found) = read_descriptor(store)? {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("there is a repository in {} already", store.name()),
            )
            .hint(format!("it was created at {} and is left as it is", found.created)));
        }
        Self::check_place(store)?;
        let encrypted = match &options.copies_of {
            Some(origin) => {
                keys::copy_keys(origin, store)?;
                origin.is_encrypted()
            }
            None => !options.recipients.is_empty(),
        };
        let own = if encrypted && options.copies_of.is_none() {
            Some(keys::generate_repository_key(store, &options.recipients, now)?)
        } else {
            None
        };
        for (name, text) in PAGES {
            // One left by an `init` that was cut short is fine, whatever version wrote it.
            store.create_ours(name, &text.into())?;
        }
        let descriptor = Descriptor {
            version: VERSION,
            id: id::nonce(),
            created: now,
            encrypted,
            weak_store: options.weak_store,
            tool: crate::TOOL.to_owned(),
        };
        let mut body = serde_json::to_vec_pretty(&descriptor)
            .map_err(|error| Error::failed("failed to write the descriptor").with_source(error))?;
        body.push(b'\n');
        if !store.create_ours(layout::DESCRIPTOR, &body.into())? {
            if let Some(own) = &own {
                keys::remove_unused_key(store, own)?;
            }
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("somebody else created a repository in {} meanwhile", store.name()),
            ));
        }
        let Some(own) = own else { return Self::open(store) };
        let mut keys = keys::list(store)?;
        // A listing may lag behind what was just created.
        if keys.iter().all(|key| key.id != own.id) {
            keys.push(own.clone());
            keys.sort_by(|a, b| a.id.cmp(&b.id));
        }
        if keys.last().is_some_and(|newest| newest.id != own.id) {
            // Left by somebody who lost the race, or by an `init` that was cut short. Writers take
            // the newest key, and that one must be of those who were asked for here.
            keys.push(keys::generate_repository_key(store, &options.recipients, now)?);
        }
        Ok(Self::with(store, descriptor, keys))
    }

    /// One that knows nothing of any stack's epochs yet.
    fn with(store: &Store, descriptor: Descriptor, keys: Vec<KeyInfo>) -> Self {
        Self { store: store.clone(), descriptor, keys, epochs: BTreeMap::new(), ignoring: false }
    }

    /// Backups without a descriptor are a repository that lost it, not a place for a new one.
    fn check_nothing_lost(store: &Store) -> Result<()> {
        for stack in store.list_directories("")? {
            if id::is_name(&stack)
                && !layout::RESERVED.contains(&stack.as_str())
                && !store.list_directories(&layout::sources(&stack))?.is_empty()
            {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!(
                        "there are backups of {stack} in {} and no {}",
                        store.name(),
                        layout::DESCRIPTOR
                    ),
                )
                .hint("bring it back from a copy or an older version of the bucket"));
            }
        }
        Ok(())
    }

    /// Refuses a directory with somebody's files: one wrong character in a path must not put a
    /// repository among them; and what once was a repository. What an aborted `init` leaves is fine.
    pub fn check_place(store: &Store) -> Result<()> {
        Self::check_nothing_lost(store)?;
        let Some(directory) = store.directory() else { return Ok(()) };
        let failed = || format!("failed to read {}", directory.display());
        for entry in std::fs::read_dir(directory).doing(failed)? {
            let name = entry.doing(failed)?.file_name();
            let name = name.to_string_lossy();
            let name = name.split('#').next().unwrap_or_default();
            let ours = layout::RESERVED.contains(&name) || name == layout::RESTORE_PAGE;
            if !ours && name != "lost+found" {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("{} is not empty and is no repository", directory.display()),
                )
                .hint(format!("it has `{}`: give a directory of its own", name.escape_debug())));
            }
        }
        Ok(())
    }

    /// Opens a repository.
    pub fn open(store: &Store) -> Result<Self> {
        let descriptor = read_descriptor(store)?.ok_or_else(|| {
            Error::not_found(format!("there is no repository in {}", store.name()))
                .hint("`backstay init` creates one; check bucket and prefix if there should be one")
        })?;
        let keys = if descriptor.encrypted { keys::list(store)? } else { Vec::new() };
        if descriptor.encrypted && keys.is_empty() {
            return Err(Error::damaged(format!(
                "the repository in {} is encrypted and its keys are gone",
                store.name()
            ))
            .hint("restore the objects under keys/ from a copy or an older version"));
        }
        Ok(Self::with(store, descriptor, keys))
    }

    /// The same, knowing the epochs of a stack: what is divergent is told from what is not, and what is
    /// written carries the writer's epoch.
    #[must_use]
    pub fn with_epochs(mut self, stack: &str, epochs: Epochs) -> Self {
        self.epochs.insert(stack.to_owned(), Arc::new(epochs));
        self
    }

    /// The same, for somebody who said that they want what is divergent too.
    #[must_use]
    pub fn without_epochs(self) -> Self {
        Self { ignoring: true, ..self }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What the descriptor says.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Whether content is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.descriptor.encrypted
    }

    /// All repository keys, oldest first.
    pub fn keys(&self) -> &[KeyInfo] {
        &self.keys
    }

    /// The key to write with: the newest. `None` where content is not encrypted.
    pub fn write_key(&self) -> Option<&KeyInfo> {
        self.keys.last()
    }

    /// Unwraps every repository key that `identities` open, and adds them to those. A wrap that is
    /// damaged is told to `damaged`.
    pub fn unlock(&self, identities: &Keyring, damaged: &mut dyn FnMut(Error)) -> Result<Keyring> {
        let mut ring = identities.clone();
        if identities.is_empty() {
            return Ok(ring);
        }
        for key in &self.keys {
            if let Some(secret) = keys::unwrap(&self.store, key, identities, damaged)? {
                ring.extend(Keyring::parse(secret.expose_secret(), &key.id)?);
            }
        }
        // Content is encrypted to the repository's keys alone: nobody need be asked again.
        Ok(ring.without_others())
    }

    /// The secret half of `key`, if `identities` open it.
    pub fn secret_of(
        &self,
        key: &KeyInfo,
        identities: &Keyring,
    ) -> Result<Option<secrecy::SecretString>> {
        let mut first = None;
        let secret = keys::unwrap(&self.store, key, identities, &mut |error| {
            first.get_or_insert(error);
        })?;
        match (secret, first) {
            (None, Some(damaged)) => Err(damaged),
            (secret, _) => Ok(secret),
        }
    }

    /// Whether `ring` reads content: it has the secret half of every repository key.
    pub fn opens_content(&self, ring: &Keyring) -> bool {
        let have = ring.public();
        self.keys.iter().all(|key| have.contains(&key.recipient))
    }

    /// The objects of a source.
    pub fn source(&self, address: &SourceAddress) -> SourceStore {
        let source = SourceStore::new(&self.store, address);
        if self.ignoring {
            return source.with_epochs(Arc::new(Epochs::ignored()));
        }
        match self.epochs.get(&address.stack) {
            Some(epochs) => source.with_epochs(epochs.clone()),
            None => source,
        }
    }

    /// Every source that has anything in the repository.
    pub fn sources(&self) -> Result<Vec<SourceAddress>> {
        let mut found = Vec::new();
        for stack in self.store.list_directories("")? {
            if layout::RESERVED.contains(&stack.as_str()) || !id::is_name(&stack) {
                continue;
            }
            for source in self.store.list_directories(&layout::sources(&stack))? {
                if id::is_name(&source) {
                    found.push(SourceAddress::new(&stack, source));
                }
            }
        }
        Ok(found)
    }

    /// Keeps the policy as it is in force, under its digest.
    pub fn keep_policy(&self, stack: &str, text: &str, recipients: &Recipients) -> Result<()> {
        let digest = crate::archive::digest::sha256_hex(text.as_bytes());
        let key = layout::policy(stack, &digest, self.is_encrypted());
        // Named by its digest: whatever lies there is this policy.
        let present = self.store.list(&layout::policies(stack))?;
        if present.iter().any(|object| object.key == key) {
            return Ok(());
        }
        let body = recipients
            .encrypt_all(text.as_bytes())
            .map_err(|error| Error::io("failed to encrypt the policy", error))?;
        self.store.create_ours(&key, &body.into()).map(drop)
    }
}

/// Brings the policies that were in force for `stack` to another repository.
pub fn copy_policies(from: &Repository, to: &Repository, stack: &str) -> Result<()> {
    let directory = layout::policies(stack);
    let present: BTreeSet<String> =
        to.store.list(&directory)?.into_iter().map(|object| object.key).collect();
    for object in from.store.list(&directory)? {
        if present.contains(&object.key) {
            continue;
        }
        let Some(body) = from.store.read_if_exists(&object.key, POLICY_LIMIT)? else { continue };
        // Named by its digest: whatever lies there already is this policy.
        to.store.create_ours(&object.key, &body)?;
    }
    Ok(())
}

/// An error if no repository lies there any more: a directory that is not mounted takes files too.
pub fn check_presence(store: &Store) -> Result<()> {
    let gone = || {
        Error::new(ErrorKind::Unreachable, format!("the repository in {} is gone", store.name()))
            .hint("was it unmounted, or moved? what was written meanwhile is no backup")
    };
    read_descriptor(store)?.map(drop).ok_or_else(gone)
}

fn read_descriptor(store: &Store) -> Result<Option<Descriptor>> {
    let Some(bytes) = store.read_if_exists(layout::DESCRIPTOR, DESCRIPTOR_LIMIT)? else {
        return Ok(None);
    };
    let place = format!("{} in {}", layout::DESCRIPTOR, store.name());
    let value: serde_json::Value = serde_json::from_slice(&bytes)
        .map_err(|error| Error::damaged(format!("{place} is not JSON")).with_source(error))?;
    match value.get("backstay_repository").and_then(serde_json::Value::as_u64) {
        Some(version) if version == u64::from(VERSION) => {}
        Some(version) => {
            return Err(Error::unsupported(format!(
                "{place} has format {version}; this program reads {VERSION}"
            ))
            .hint("use a newer backstay"));
        }
        None => return Err(Error::damaged(format!("{place} describes no repository"))),
    }
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| Error::damaged(format!("{place} is damaged")).with_source(error))
}
