//! Signatures as `ssh-keygen -Y sign` writes them and `ssh-keygen -Y verify` reads them
//! (PROTOCOL.sshsig of OpenSSH), with Ed25519 keys.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use sha2::{Digest as _, Sha256, Sha512};

use crate::error::{Error, Result};

/// What signatures of drills are for: those of something else do not count.
pub const NAMESPACE: &str = "backstay-drill";

const MAGIC: &[u8] = b"SSHSIG";
const KIND: &[u8] = b"ssh-ed25519";
const HASH: &[u8] = b"sha512";
const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
const END: &str = "-----END SSH SIGNATURE-----";
const BEGIN_KEY: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END_KEY: &str = "-----END OPENSSH PRIVATE KEY-----";

/// A key that signs.
pub struct Signer {
    pair: Ed25519KeyPair,
    public: [u8; 32],
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("public", &fingerprint(&self.public)).finish_non_exhaustive()
    }
}

impl Signer {
    /// Reads a private key as `ssh-keygen -t ed25519 -N ""` writes it.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |what: &str| {
            Error::usage(format!("the key that signs evidence {what}"))
                .hint("make one: ssh-keygen -t ed25519 -N '' -f drill.key")
        };
        let body = between(text, BEGIN_KEY, END_KEY)
            .ok_or_else(|| wrong("is no private key of OpenSSH"))?;
        let bytes = STANDARD.decode(body).map_err(|_| wrong("is damaged"))?;
        let rest = bytes
            .strip_prefix(b"openssh-key-v1\0")
            .ok_or_else(|| wrong("is no private key of OpenSSH"))?;
        let mut outer = Reader(rest);
        let read =
            |field: Option<&[u8]>| field.map(<[u8]>::to_vec).ok_or_else(|| wrong("is damaged"));
        let cipher = read(outer.field())?;
        let (_, _) = (read(outer.field())?, read(outer.field())?);
        if cipher != b"none" {
            return Err(wrong("has a passphrase, which nobody is there to type"));
        }
        if outer.number() != Some(1) {
            return Err(wrong("is not one key"));
        }
        read(outer.field())?;
        let private = read(outer.field())?;
        let mut inner = Reader(&private);
        let same = inner.number().zip(inner.number()).is_some_and(|(one, other)| one == other);
        if !same {
            return Err(wrong("is damaged"));
        }
        if read(inner.field())? != KIND {
            return Err(wrong("is no Ed25519 key"));
        }
        let public: [u8; 32] = read(inner.field())?.try_into().map_err(|_| wrong("is damaged"))?;
        let secret = read(inner.field())?;
        let seed = secret.get(..32).ok_or_else(|| wrong("is damaged"))?;
        let pair = Ed25519KeyPair::from_seed_and_public_key(seed, &public)
            .map_err(|_| wrong("is damaged"))?;
        Ok(Self { pair, public })
    }

    /// Its public half, as `ssh-keygen` shows it: `SHA256:…`.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.public)
    }

    /// Its public half, as a line of an `authorized_keys` file.
    pub fn public_line(&self) -> String {
        format!("ssh-ed25519 {}", STANDARD.encode(public_blob(&self.public)))
    }

    /// Signs.
    pub fn sign(&self, message: &[u8]) -> String {
        let mut signature = Vec::new();
        put(&mut signature, KIND);
        put(&mut signature, self.pair.sign(&signed(message)).as_ref());
        let mut blob = MAGIC.to_vec();
        blob.extend(1_u32.to_be_bytes());
        put(&mut blob, &public_blob(&self.public));
        for field in [NAMESPACE.as_bytes(), b"", HASH, &signature] {
            put(&mut blob, field);
        }
        armored(&blob)
    }
}

/// Checks a signature, and says whose it is: the fingerprint of the key.
pub fn verify(signature: &str, message: &[u8]) -> Result<String> {
    let damaged = |what: &str| Error::damaged(format!("the signature {what}"));
    let body = between(signature, BEGIN, END).ok_or_else(|| damaged("is none"))?;
    let blob = STANDARD.decode(&body).map_err(|_| damaged("is no base64"))?;
    // Written any other way it says the same, and is not what was written.
    if armored(&blob) != signature {
        return Err(damaged("is not as it was written"));
    }
    let rest = blob.strip_prefix(MAGIC).ok_or_else(|| damaged("is none of OpenSSH"))?;
    let mut outer = Reader(rest);
    if outer.number() != Some(1) {
        return Err(damaged("has a version that is not known"));
    }
    let mut field = || outer.field().ok_or_else(|| damaged("is cut short"));
    let (key, namespace, reserved, hash, inner) =
        (field()?, field()?, field()?, field()?, field()?);
    if !outer.0.is_empty() || !reserved.is_empty() {
        return Err(damaged("has more in it than it should"));
    }
    if namespace != NAMESPACE.as_bytes() {
        return Err(damaged("is for something else"));
    }
    if hash != HASH {
        return Err(damaged("uses another hash"));
    }
    let mut key = Reader(key);
    let mut inner = Reader(inner);
    let (kind, public) = (key.field(), key.field());
    let (kind_of, bytes) = (inner.field(), inner.field());
    let (Some(public), Some(bytes)) = (public, bytes) else {
        return Err(damaged("is cut short"));
    };
    if kind != Some(KIND) || kind_of != Some(KIND) || !key.0.is_empty() || !inner.0.is_empty() {
        return Err(damaged("is not made with an Ed25519 key"));
    }
    UnparsedPublicKey::new(&ED25519, public)
        .verify(&signed(message), bytes)
        .map_err(|_| damaged("is not that of these digests"))?;
    Ok(fingerprint(public))
}

/// The fingerprint of a public key in a file as `ssh-keygen` writes it.
pub fn fingerprint_of_line(line: &str) -> Result<String> {
    let wrong = || {
        Error::usage("this is no public Ed25519 key of OpenSSH")
            .hint("give a file such as drill.key.pub")
    };
    let mut words = line.split_whitespace();
    let body = words.find(|word| *word == "ssh-ed25519").and_then(|_| words.next());
    let blob = body.and_then(|body| STANDARD.decode(body).ok()).ok_or_else(wrong)?;
    let mut reader = Reader(&blob);
    match (reader.field(), reader.field()) {
        (Some(KIND), Some(public)) if public.len() == 32 => Ok(fingerprint(public)),
        _ => Err(wrong()),
    }
}

/// A signature as text, in the one way that it is written.
fn armored(blob: &[u8]) -> String {
    let text = STANDARD.encode(blob);
    let mut armored = format!("{BEGIN}\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(70));
        armored.push_str(line);
        armored.push('\n');
        rest = more;
    }
    armored.push_str(END);
    armored.push('\n');
    armored
}

/// What is signed.
fn signed(message: &[u8]) -> Vec<u8> {
    let mut blob = MAGIC.to_vec();
    for field in [NAMESPACE.as_bytes(), b"", HASH, Sha512::digest(message).as_slice()] {
        put(&mut blob, field);
    }
    blob
}

fn public_blob(public: &[u8]) -> Vec<u8> {
    let mut blob = Vec::new();
    put(&mut blob, KIND);
    put(&mut blob, public);
    blob
}

fn fingerprint(public: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(public_blob(public))))
}

fn put(blob: &mut Vec<u8>, field: &[u8]) {
    blob.extend((field.len() as u32).to_be_bytes());
    blob.extend(field);
}

/// What stands between two lines, without line breaks; nothing may stand around them.
fn between(text: &str, begin: &str, end: &str) -> Option<String> {
    let body = text.trim().strip_prefix(begin)?.strip_suffix(end)?;
    Some(body.lines().map(str::trim).collect())
}

/// Fields with their lengths before them.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn number(&mut self) -> Option<u32> {
        let (bytes, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*bytes))
    }

    fn field(&mut self) -> Option<&'a [u8]> {
        let length = self.number()? as usize;
        let (field, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(field)
    }
}
