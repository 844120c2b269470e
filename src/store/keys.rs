//! The repository's content key: public half in the open, secret half wrapped to people.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};

use super::blocking::Store;
use super::layout;
use super::repository::Repository;
use crate::archive::crypt::{Keyring, Recipients};
use crate::archive::person;
use crate::error::{Error, ErrorKind, Result};
use crate::id;

const KEY_LIMIT: u64 = 64 << 10;

/// One repository key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// Its id; ids sort by time and the newest is the one to write with.
    pub id: String,
    /// The public half.
    pub recipient: String,
    /// The objects that hold the secret half, each wrapped to one set of people.
    pub wraps: Vec<String>,
}

impl KeyInfo {
    /// The public half as recipients.
    pub fn recipients(&self) -> Result<Recipients> {
        Recipients::parse([&self.recipient]).map_err(|error| {
            Error::damaged(format!("the repository key {} is damaged", self.id)).with_source(error)
        })
    }
}

/// Makes a repository key, stores the secret half wrapped to `people`, then the public half. It is
/// newer than every key that is there, whatever this machine's clock says: writers take the newest.
pub fn generate_repository_key(
    store: &Store,
    people: &Recipients,
    now: Timestamp,
) -> Result<KeyInfo> {
    let (secret, recipient) = Keyring::generate();
    let id = id::key_id(newer_than(&list(store)?, now));
    let wrap = wrap_key(store, &id, 1, &secret, people)?;
    // The public half comes last: a key that writers can see is one that people can open.
    let public = format!("{recipient}\n");
    if !store.create_ours(&layout::public_key(&id), &public.into())? {
        return Err(Error::new(ErrorKind::Conflict, format!("the key {id} exists already")));
    }
    Ok(KeyInfo { id, recipient, wraps: vec![wrap] })
}

fn newer_than(keys: &[KeyInfo], now: Timestamp) -> Timestamp {
    let after = |key: &KeyInfo| {
        let at = id::time_of_key(&key.id)?;
        at.checked_add(jiff::SignedDuration::from_secs(1)).ok()
    };
    keys.iter().filter_map(after).fold(now, Timestamp::max)
}

/// Removes a key that nothing was encrypted to: public half first, so that nobody takes it.
pub fn remove_unused_key(store: &Store, key: &KeyInfo) -> Result<()> {
    store.delete(&layout::public_key(&key.id))?;
    key.wraps.iter().try_for_each(|wrap| store.delete(wrap))
}

/// Stores the secret half of key `id` once more, wrapped to `people`. Returns the object's key.
pub fn wrap_key(
    store: &Store,
    id: &str,
    number: u32,
    secret: &SecretString,
    people: &Recipients,
) -> Result<String> {
    if people.is_empty() {
        return Err(Error::usage("no recipients to wrap the repository key to"));
    }
    let text = format!("{}\n", secret.expose_secret());
    let sealed = people.encrypt_all(text.as_bytes());
    keep_wrap(store, id, number, sealed)
}

/// The same, wrapped to a passphrase.
pub fn wrap_key_with_passphrase(
    store: &Store,
    id: &str,
    number: u32,
    secret: &SecretString,
    passphrase: &SecretString,
) -> Result<String> {
    let text = format!("{}\n", secret.expose_secret());
    keep_wrap(store, id, number, person::seal_with_passphrase(&text, passphrase))
}

fn keep_wrap(store: &Store, id: &str, number: u32, sealed: io::Result<Vec<u8>>) -> Result<String> {
    let sealed = sealed.map_err(|error| Error::io("failed to wrap the repository key", error))?;
    let object = layout::wrapped_key(id, number);
    if !store.create_ours(&object, &sealed.into())? {
        return Err(Error::new(ErrorKind::Conflict, format!("{object} exists already"))
            .hint("somebody else added a recipient at the same time: try again"));
    }
    Ok(object)
}

/// Whether a wrap is opened by a passphrase. Of the others nothing tells whose they are.
pub fn is_passphrase_wrap(store: &Store, wrap: &str) -> Result<bool> {
    let sealed = store.read_if_exists(wrap, KEY_LIMIT)?;
    Ok(sealed.is_some_and(|sealed| person::takes_passphrase(&sealed)))
}

/// The keys of a repository, oldest first.
pub(super) fn list(store: &Store) -> Result<Vec<KeyInfo>> {
    let mut public = Vec::new();
    let mut wraps: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for object in store.list(layout::KEYS)? {
        let Some(name) = object.key.strip_prefix("keys/") else { continue };
        if let Some(id) = name.strip_suffix(".pub") {
            public.push((id.to_owned(), object.key));
        } else if let Some(stem) = name.strip_suffix(".age") {
            let id = stem.split('.').next().unwrap_or(stem);
            wraps.entry(id.to_owned()).or_default().push(object.key);
        }
    }
    let names: Vec<String> = public.iter().map(|(_, key)| key.clone()).collect();
    let texts = store.read_many(&names, KEY_LIMIT);
    let mut keys = Vec::new();
    for ((id, name), text) in public.into_iter().zip(texts) {
        let Some(text) = text? else { continue };
        let recipient = std::str::from_utf8(&text)
            .ok()
            .map(|text| text.trim().to_owned())
            .filter(|text| Recipients::parse([text]).is_ok())
            .ok_or_else(|| Error::damaged(format!("{name} is not a public key")))?;
        keys.push(KeyInfo { wraps: wraps.remove(&id).unwrap_or_default(), id, recipient });
    }
    keys.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(keys)
}

/// Brings the keys of one repository to another, as they are: secret halves first.
pub fn copy_keys(from: &Repository, to: &Store) -> Result<()> {
    from.keys().iter().try_for_each(|key| bring_key(from, key, to))
}

/// Brings what another store lacks of one key.
pub fn bring_key(from: &Repository, key: &KeyInfo, to: &Store) -> Result<()> {
    let present: BTreeSet<String> =
        to.list(layout::KEYS)?.into_iter().map(|object| object.key).collect();
    let public = layout::public_key(&key.id);
    for object in key.wraps.iter().chain([&public]).filter(|key| !present.contains(*key)) {
        let Some(body) = from.store().read_if_exists(object, KEY_LIMIT)? else { continue };
        if !to.create_ours(object, &body)? {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("{object} is another key in {} than in {}", to.name(), from.store().name()),
            ));
        }
    }
    Ok(())
}

/// Unwraps the secret half of `key` with any of `identities`. `None` if none opens it. A damaged
/// wrap is told to `damaged`: another one may be opened all the same.
pub(super) fn unwrap(
    store: &Store,
    key: &KeyInfo,
    identities: &Keyring,
    damaged: &mut dyn FnMut(Error),
) -> Result<Option<SecretString>> {
    for wrap in &key.wraps {
        let Some(sealed) = store.read_if_exists(wrap, KEY_LIMIT)? else { continue };
        let opened = identities.decrypt(&sealed[..], wrap).and_then(|mut reader| {
            let mut text = String::new();
            std::io::Read::read_to_string(&mut reader, &mut text)
                .map_err(|error| Error::damaged(format!("{wrap} is damaged")).with_source(error))?;
            Ok(text)
        });
        match opened {
            Ok(text) => {
                let secret = text.trim().to_owned();
                let ring = match Keyring::parse(&secret, wrap) {
                    Ok(ring) => ring,
                    Err(error) => {
                        damaged(Error::damaged(format!("{wrap} is damaged")).with_source(error));
                        continue;
                    }
                };
                if ring.public() != [key.recipient.clone()] {
                    damaged(Error::damaged(format!(
                        "{wrap} holds another secret than {} belongs to",
                        layout::public_key(&key.id)
                    )));
                    continue;
                }
                return Ok(Some(SecretString::from(secret)));
            }
            Err(error) if error.kind() == ErrorKind::Denied => {}
            Err(error) if error.kind() == ErrorKind::Damaged => damaged(error),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
