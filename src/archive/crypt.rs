//! age encryption: to recipients we need no secret for, from identities only a restore has.

use std::collections::HashSet;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::str::FromStr as _;

use age::secrecy::ExposeSecret as _;
use age::stream::{StreamReader, StreamWriter};
use age::{plugin, x25519};
use age_core::format::{FileKey, Stanza};
use secrecy::SecretString;

use super::person::{self, Other};
use crate::error::{Error, ErrorKind, Result};

/// Who can read: a set of age X25519 public keys, and keys that plugins of age know. Empty means not
/// encrypted.
#[derive(Clone, Default)]
pub struct Recipients {
    keys: Vec<x25519::Recipient>,
    plugins: Vec<plugin::Recipient>,
}

impl std::fmt::Debug for Recipients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Recipients({} keys, {} of plugins)", self.keys.len(), self.plugins.len())
    }
}

impl Recipients {
    /// Parses `age1…` keys.
    pub fn parse<S: AsRef<str>>(keys: impl IntoIterator<Item = S>) -> Result<Self> {
        let mut all = Self::default();
        for key in keys {
            let key = key.as_ref().trim();
            let reason = match x25519::Recipient::from_str(key) {
                Ok(key) => {
                    all.keys.push(key);
                    continue;
                }
                Err(reason) => reason,
            };
            let Ok(plugin) = plugin::Recipient::from_str(key) else {
                return Err(Error::new(
                    ErrorKind::Policy,
                    format!("`{key}` is not an age recipient"),
                )
                .with_source(reason)
                .hint("recipients start with age1; `backstay key generate` makes one"));
            };
            all.plugins.push(plugin);
        }
        Ok(all)
    }

    /// These and `more`.
    #[must_use]
    pub fn with(&self, more: &Self) -> Self {
        Self {
            keys: self.keys.iter().chain(&more.keys).cloned().collect(),
            plugins: self.plugins.iter().chain(&more.plugins).cloned().collect(),
        }
    }

    /// Whether nobody is named, so that nothing is encrypted.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.plugins.is_empty()
    }

    /// Starts an encrypted (or, with no recipients, plain) stream into `out`.
    pub fn encrypt<W: Write>(&self, out: W) -> io::Result<EncryptWriter<W>> {
        if self.is_empty() {
            return Ok(EncryptWriter::Plain(out));
        }
        let plugins = person::by_plugin(&self.plugins).map_err(Error::into_io)?;
        let keys = self.keys.iter().map(|recipient| recipient as &dyn age::Recipient);
        let all = keys.chain(plugins.iter().map(|plugin| &**plugin));
        let encryptor = age::Encryptor::with_recipients(all).map_err(io::Error::other)?;
        Ok(EncryptWriter::Age(Box::new(encryptor.wrap_output(out)?)))
    }

    /// The same with a note in the header, which anybody can read and nobody can change: an
    /// additional stanza, its kind and its one argument. Without recipients there is no header.
    pub fn encrypt_noting<W: Write>(
        &self,
        out: W,
        notes: &[(&'static str, Vec<String>)],
    ) -> io::Result<EncryptWriter<W>> {
        if self.is_empty() {
            return Ok(EncryptWriter::Plain(out));
        }
        let plugins = person::by_plugin(&self.plugins).map_err(Error::into_io)?;
        let notes: Vec<Note> =
            notes.iter().map(|(kind, arguments)| Note { kind, arguments }).collect();
        let keys = self.keys.iter().map(|recipient| recipient as &dyn age::Recipient);
        let all = keys.chain(plugins.iter().map(|plugin| &**plugin));
        let all = all.chain(notes.iter().map(|note| note as &dyn age::Recipient));
        let encryptor = age::Encryptor::with_recipients(all).map_err(io::Error::other)?;
        Ok(EncryptWriter::Age(Box::new(encryptor.wrap_output(out)?)))
    }

    /// Encrypts a small byte string whole.
    pub fn encrypt_all(&self, plain: &[u8]) -> io::Result<Vec<u8>> {
        let mut writer = self.encrypt(Vec::new())?;
        writer.write_all(plain)?;
        writer.finish()
    }
}

/// A stanza that wraps no key: readers skip what they do not know.
struct Note<'a> {
    kind: &'static str,
    arguments: &'a [String],
}

impl age::Recipient for Note<'_> {
    fn wrap_file_key(
        &self,
        _: &FileKey,
    ) -> Result<(Vec<Stanza>, HashSet<String>), age::EncryptError> {
        let stanza =
            Stanza { tag: self.kind.to_owned(), args: self.arguments.to_vec(), body: Vec::new() };
        Ok((vec![stanza], HashSet::new()))
    }
}

/// A writer that encrypts, or passes on where there are no recipients.
pub enum EncryptWriter<W: Write> {
    /// Passes on.
    Plain(W),
    /// Encrypts.
    Age(Box<StreamWriter<W>>),
}

impl<W: Write> EncryptWriter<W> {
    /// Ends the stream. Without this an age file is truncated and will not decrypt.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Self::Plain(out) => Ok(out),
            Self::Age(writer) => writer.finish(),
        }
    }
}

impl<W: Write> Write for EncryptWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(out) => out.write(bytes),
            Self::Age(writer) => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(out) => out.flush(),
            Self::Age(writer) => writer.flush(),
        }
    }
}

/// Secret keys at hand.
#[derive(Clone, Default)]
pub struct Keyring {
    keys: Vec<x25519::Identity>,
    /// Of plugins, and passphrases. They only ever open wraps.
    others: Vec<Other>,
    passphrase: bool,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keyring({} keys)", self.len())
    }
}

impl Keyring {
    /// Parses an age identity file: one `AGE-SECRET-KEY-1…` a line, `#` starts a comment.
    /// `name` names the place in errors; the content is never shown.
    pub fn parse(text: &str, name: &str) -> Result<Self> {
        let mut ring = Self::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(other) = person::plugin_identity(line, name) {
                ring.others.push(other?);
                continue;
            }
            let identity = x25519::Identity::from_str(line).map_err(|reason| {
                let error = Error::new(
                    ErrorKind::Denied,
                    format!("failed to read an age identity from {name}, line {}", number + 1),
                )
                .with_source(reason);
                if line.starts_with("age1") {
                    error.hint("this is a public key; the secret one starts with AGE-SECRET-KEY-1")
                } else {
                    error.hint("an identity file has lines that start with AGE-SECRET-KEY-1")
                }
            })?;
            ring.keys.push(identity);
        }
        if ring.is_empty() {
            return Err(Error::new(ErrorKind::Denied, format!("{name} holds no age identity"))
                .hint("`backstay key generate` makes one"));
        }
        Ok(ring)
    }

    /// What a passphrase opens.
    pub fn of_passphrase(passphrase: SecretString) -> Self {
        let others = vec![person::of_passphrase(passphrase)];
        Self { keys: Vec::new(), others, passphrase: true }
    }

    /// Whether a passphrase is one of them.
    pub fn has_passphrase(&self) -> bool {
        self.passphrase
    }

    /// The keys alone, without what asks a person or a device.
    #[must_use]
    pub fn without_others(self) -> Self {
        Self { others: Vec::new(), passphrase: false, ..self }
    }

    fn len(&self) -> usize {
        self.keys.len() + self.others.len()
    }

    /// A new key pair: the secret and its public recipient.
    pub fn generate() -> (SecretString, String) {
        let identity = x25519::Identity::generate();
        let secret = identity.to_string().expose_secret().to_owned();
        (SecretString::from(secret), identity.to_public().to_string())
    }

    /// Adds another ring's keys.
    pub fn extend(&mut self, other: Self) {
        self.keys.extend(other.keys);
        self.others.extend(other.others);
        self.passphrase |= other.passphrase;
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The public keys.
    pub fn public(&self) -> Vec<String> {
        self.keys.iter().map(|identity| identity.to_public().to_string()).collect()
    }

    /// The public keys as recipients.
    pub fn recipients(&self) -> Recipients {
        let keys = self.keys.iter().map(x25519::Identity::to_public).collect();
        Recipients { keys, plugins: Vec::new() }
    }

    /// Opens an encrypted stream. `name` names the object in errors.
    pub fn decrypt<R: Read>(&self, input: R, name: &str) -> Result<StreamReader<R>> {
        let failed = |error: age::DecryptError| {
            use age::DecryptError as D;
            match error {
                D::Io(error) => match error.kind() {
                    io::ErrorKind::UnexpectedEof => {
                        Error::damaged(format!("{name} is truncated")).with_source(error)
                    }
                    _ => Error::io(format!("failed to read {name}"), error),
                },
                D::NoMatchingKeys | D::KeyDecryptionFailed | D::DecryptionFailed => {
                    let count = self.len();
                    Error::new(
                        ErrorKind::Denied,
                        match count {
                            0 => format!("{name} is encrypted and no identity was given"),
                            1 => format!("{name} does not open with the identity given"),
                            _ => format!("{name} opens with none of the {count} identities given"),
                        },
                    )
                    .hint("give the recovery identity with --identity FILE")
                }
                D::ExcessiveWork { required, .. } => person::too_much_work(name, required),
                other => {
                    Error::damaged(format!("{name} has a damaged age header")).with_source(other)
                }
            }
        };
        let decryptor = age::Decryptor::new(input).map_err(failed)?;
        let keys = self.keys.iter().map(|identity| identity as &dyn age::Identity);
        let others = self.others.iter().map(|other| &**other as &dyn age::Identity);
        decryptor.decrypt(keys.chain(others)).map_err(failed)
    }
}

/// A reader of decrypted bytes that can move to any plain offset.
pub enum DecryptReader<R> {
    /// Passes through.
    Plain(R),
    /// Decrypts.
    Age(Box<StreamReader<R>>),
}

impl<R: Read> DecryptReader<R> {
    /// Opens `input`, decrypting it if `encrypted`.
    pub fn open(input: R, encrypted: bool, keys: &Keyring, name: &str) -> Result<Self> {
        if encrypted {
            Ok(Self::Age(Box::new(keys.decrypt(input, name)?)))
        } else {
            Ok(Self::Plain(input))
        }
    }
}

impl<R: Read> Read for DecryptReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(input) => input.read(buffer),
            Self::Age(reader) => reader.read(buffer),
        }
    }
}

impl<R: Read + Seek> DecryptReader<R> {
    /// Moves to plain offset `to`.
    pub fn move_to(&mut self, to: u64) -> io::Result<()> {
        match self {
            Self::Plain(input) => input.seek(SeekFrom::Start(to)).map(drop),
            Self::Age(reader) if to > 0 => {
                // One byte early: at an exact chunk boundary the library would fetch the last
                // chunk of the file to learn its length.
                reader.seek(SeekFrom::Start(to - 1))?;
                reader.read_exact(&mut [0])
            }
            Self::Age(reader) => reader.seek(SeekFrom::Start(0)).map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeks_to_every_kind_of_boundary() {
        let (secret, public) = Keyring::generate();
        let keys =
            Keyring::parse(secrecy::ExposeSecret::expose_secret(&secret), "test").expect("a key");
        let plain: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        let sealed =
            Recipients::parse([public]).expect("parses").encrypt_all(&plain).expect("encrypts");
        for to in [0u64, 1, 65_535, 65_536, 65_537, 131_072, 199_999, 200_000] {
            let mut reader =
                DecryptReader::open(io::Cursor::new(&sealed), true, &keys, "x").expect("opens");
            reader.move_to(to).expect("moves");
            let mut rest = Vec::new();
            reader.read_to_end(&mut rest).expect("reads");
            assert!(rest == plain[to as usize..], "offset {to}");
        }
    }

    #[test]
    fn every_truncation_is_noticed() {
        let (secret, public) = Keyring::generate();
        let keys =
            Keyring::parse(secrecy::ExposeSecret::expose_secret(&secret), "test").expect("a key");
        let sealed =
            Recipients::parse([public]).expect("parses").encrypt_all(b"content").expect("seals");
        for length in 0..sealed.len() {
            let read = DecryptReader::open(&sealed[..length], true, &keys, "x")
                .and_then(|mut r| io::read_to_string(&mut r).map_err(|e| Error::io("read", e)));
            assert!(read.is_err(), "{length} of {} bytes", sealed.len());
        }
    }
}
