//! The `secrets` source: named values by reference, kept as files only the owner may read.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;

use super::{
    Captured, Content, EntrySink, Item, OpenError, ProbeNote, Source, SourceContext, SourceProbe,
};
use crate::archive::entry::{Entry, EntryType};
use crate::archive::manifest::Form;
use crate::error::{Error, Result};
use crate::id::BackupKind;
use crate::secret::SecretRef;

/// Named secrets.
#[derive(Debug)]
pub struct SecretsSource {
    values: BTreeMap<String, SecretRef>,
}

impl SecretsSource {
    /// A source of these names and references.
    pub fn new(values: BTreeMap<String, SecretRef>) -> Self {
        Self { values }
    }
}

impl Source for SecretsSource {
    fn kind(&self) -> &'static str {
        "secrets"
    }

    fn form(&self) -> Form {
        Form::Tree
    }

    fn kind_for(&self, asked: BackupKind) -> BackupKind {
        match asked {
            BackupKind::Incremental => BackupKind::Full,
            other => other,
        }
    }

    fn needs_encryption(&self) -> bool {
        true
    }

    fn probe(&self, _cx: &SourceContext) -> Result<SourceProbe> {
        let notes = self
            .values
            .iter()
            .map(|(name, reference)| match reference.resolve() {
                Ok(_) => ProbeNote::fact(format!("{name} is set by {reference}")),
                Err(error) => ProbeNote::fault(format!("{name}: {}", error.chain())),
            })
            .collect();
        Ok(SourceProbe { notes })
    }

    fn backup(&self, cx: &SourceContext, sink: &mut dyn EntrySink) -> Result<Captured> {
        let now = (cx.clock.now().as_second(), 0);
        let mut root = Entry::new(".", EntryType::Dir);
        (root.mode, root.mtime, root.ctime) = (0o700, now, now);
        sink.entry(Item { entry: root, link_group: None, content: None })?;
        for (name, reference) in &self.values {
            let value = reference.resolve()?;
            let mut entry = Entry::new(name.as_str(), EntryType::File);
            (entry.mode, entry.mtime, entry.ctime) = (0o600, now, now);
            entry.size = value.expose_secret().len() as u64;
            entry.fingerprint = Some(fingerprint(value.expose_secret().as_bytes()));
            let content: Box<dyn Content> = Box::new(Value(value));
            sink.entry(Item { entry, link_group: None, content: Some(content) })?;
        }
        Ok(Captured::default())
    }

    fn compare(&self, target: &Path) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for (name, reference) in &self.values {
            let Ok(restored) = std::fs::read(target.join(name)) else { continue };
            lines.push(match reference.resolve() {
                Ok(now) if now.expose_secret().as_bytes() == restored => {
                    format!("{name}: {reference} holds the value that was backed up")
                }
                Ok(_) => format!("{name}: {reference} holds ANOTHER value than was backed up"),
                Err(_) => format!("{name}: {reference} is not set here"),
            });
        }
        Ok(lines)
    }
}

struct Value(SecretString);

impl Content for Value {
    fn open(&mut self, _entry: &mut Entry) -> Result<Box<dyn Read + Send + '_>, OpenError> {
        Ok(Box::new(Cursor::new(self.0.expose_secret().as_bytes())))
    }

    fn changed(&mut self) -> bool {
        false
    }
}

/// A fingerprint that tells whether a value is the same and not what it is: HMAC-SHA-256 under a
/// random key that is kept beside it, in the encrypted index.
pub fn fingerprint(value: &[u8]) -> String {
    let mut rng = fastrand::Rng::new();
    let key: [u8; 32] = std::array::from_fn(|_| rng.u8(..));
    keyed(&key, value)
}

fn keyed(key: &[u8], value: &[u8]) -> String {
    // A key of any length is fine for HMAC.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return String::new() };
    mac.update(value);
    let code = mac.finalize().into_bytes();
    format!("hmac-sha256:{}:{}", BASE64.encode(key), hex::encode(code))
}

/// Whether `value` has this fingerprint. A fingerprint of a form not known here is an error.
pub fn has_fingerprint(value: &[u8], fingerprint: &str) -> Result<bool> {
    let key = fingerprint
        .strip_prefix("hmac-sha256:")
        .and_then(|rest| BASE64.decode(rest.split(':').next()?).ok())
        .ok_or_else(|| Error::unsupported("a secret's fingerprint has a form not known here"))?;
    Ok(keyed(&key, value) == fingerprint)
}

/// Reads a whole small value, for its fingerprint.
pub fn read_value(input: &mut dyn Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut value = Vec::new();
    input.take(limit).read_to_end(&mut value)?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_tell_the_same_from_another() {
        let print = fingerprint(b"top secret");
        assert!(!print.contains("secret"));
        assert!(has_fingerprint(b"top secret", &print).expect("a known form"));
        assert!(!has_fingerprint(b"top secre7", &print).expect("a known form"));
        assert_ne!(print, fingerprint(b"top secret"), "every fingerprint has its own key");
    }
}
