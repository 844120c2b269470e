//! Identities that are no plain keys: files behind a passphrase, passphrases themselves, and age's
//! plugins, which speak to hardware.

use std::collections::HashSet;
use std::io::Read as _;
use std::sync::{Arc, OnceLock};

use age::armor::{ArmoredReader, ArmoredWriter, Format};
use age::plugin;
use age_core::format::{FileKey, Stanza};
use secrecy::{ExposeSecret as _, SecretString};

use crate::error::{Error, ErrorKind, Result};

/// How a plugin speaks to a person.
pub trait Ask: Send + Sync {
    /// Shows a message, such as that a key is to be touched.
    fn tell(&self, message: &str);
    /// Asks for a secret, such as a PIN. `None` if there is nobody to ask.
    fn secret(&self, question: &str) -> Option<SecretString>;
}

static ASK: OnceLock<Box<dyn Ask>> = OnceLock::new();

/// Says who is asked. Once, at the start; without it nobody is.
pub fn ask_with(ask: Box<dyn Ask>) {
    let _ = ASK.set(ask);
}

/// Passes on what plugins want to say.
#[derive(Clone, Copy)]
pub(super) struct Person;

impl age::Callbacks for Person {
    fn display_message(&self, message: &str) {
        if let Some(ask) = ASK.get() {
            ask.tell(message);
        }
    }

    fn confirm(&self, _: &str, _: &str, _: Option<&str>) -> Option<bool> {
        None
    }

    fn request_public_string(&self, _: &str) -> Option<String> {
        None
    }

    fn request_passphrase(&self, question: &str) -> Option<SecretString> {
        ASK.get()?.secret(question)
    }
}

/// An identity of any kind.
pub(super) type Other = Arc<dyn age::Identity + Send + Sync>;

/// The identity in a line of an identity file, if it is a plugin's.
pub(super) fn plugin_identity(line: &str, place: &str) -> Option<Result<Other>> {
    if !line.starts_with("AGE-PLUGIN-") {
        return None;
    }
    let failed = || Error::new(ErrorKind::Denied, format!("failed to use the identity in {place}"));
    let identity: plugin::Identity = match line.parse() {
        Ok(identity) => identity,
        Err(reason) => return Some(Err(failed().with_source(reason))),
    };
    let name = identity.plugin().to_owned();
    let made = plugin::IdentityPluginV1::new(&name, &[identity], Person);
    Some(made.map(|made| Arc::new(made) as Other).map_err(|_| no_plugin(failed(), &name)))
}

/// The recipients of one plugin as a recipient.
pub(super) fn plugin_recipient(
    name: &str,
    recipients: &[plugin::Recipient],
) -> Result<Box<dyn age::Recipient>> {
    let made = plugin::RecipientPluginV1::new(name, recipients, &[], Person);
    let failed = || Error::failed(format!("failed to encrypt to age1{name}…"));
    made.map(|made| Box::new(made) as Box<dyn age::Recipient>)
        .map_err(|_| no_plugin(failed(), name))
}

fn no_plugin(error: Error, name: &str) -> Error {
    error.hint(format!("the program age-plugin-{name} is not in PATH: install it on this machine"))
}

/// The work that is done to try a passphrase, as a power of two: a gigabyte of memory and some seconds.
/// What asks for more was not made by age as it comes, and whoever may write to a repository could ask
/// for anything.
const MOST_WORK: u8 = 20;

/// An identity that a passphrase is. How much work it takes does not depend on how busy the machine is.
fn scrypt(passphrase: SecretString) -> age::scrypt::Identity {
    let mut identity = age::scrypt::Identity::new(passphrase);
    identity.set_max_work_factor(MOST_WORK);
    identity
}

/// What a passphrase opens.
pub(super) fn of_passphrase(passphrase: SecretString) -> Other {
    Arc::new(Guarded(scrypt(passphrase)))
}

/// Nobody means it who asks for that much.
pub(super) fn too_much_work(name: &str, required: u8) -> Error {
    Error::damaged(format!(
        "{name} asks for 2^{required} rounds of scrypt to try a passphrase, and 2^{MOST_WORK} are \
         done at most"
    ))
}

/// Whether something is encrypted to a passphrase.
pub fn takes_passphrase(sealed: &[u8]) -> bool {
    age::Decryptor::new(sealed).is_ok_and(|decryptor| decryptor.is_scrypt())
}

/// A passphrase that is wrong is one that does not open, like any other identity.
struct Guarded(age::scrypt::Identity);

impl age::Identity for Guarded {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, age::DecryptError>> {
        match age::Identity::unwrap_stanza(&self.0, stanza)? {
            Err(age::DecryptError::DecryptionFailed) => {
                Some(Err(age::DecryptError::NoMatchingKeys))
            }
            done => Some(done),
        }
    }
}

/// Whether this is an identity file behind a passphrase.
pub fn is_locked(file: &[u8]) -> bool {
    file.starts_with(b"age-encryption.org/") || file.starts_with(b"-----BEGIN AGE ENCRYPTED FILE")
}

/// The text of an identity file that a passphrase protects.
pub fn unlock(file: &[u8], passphrase: SecretString, place: &str) -> Result<String> {
    let failed = || {
        Error::new(ErrorKind::Denied, format!("failed to open the identity file {place}"))
            .hint("is that its passphrase?")
    };
    let decryptor = age::Decryptor::new(ArmoredReader::new(file))
        .map_err(|error| failed().with_source(error))?;
    if !decryptor.is_scrypt() {
        return Err(Error::new(
            ErrorKind::Denied,
            format!("the identity file {place} is encrypted to a key, and not with a passphrase"),
        )
        .hint("decrypt it with `age -d` first"));
    }
    let identity = scrypt(passphrase);
    let mut reader =
        decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity)).map_err(|error| {
            match error {
                age::DecryptError::ExcessiveWork { required, .. } => too_much_work(place, required),
                // The library's words for a passphrase that is wrong say less.
                age::DecryptError::DecryptionFailed => failed(),
                other => failed().with_source(other),
            }
        })?;
    let mut text = String::new();
    reader.read_to_string(&mut text).map_err(|error| Error::io("failed to read it", error))?;
    Ok(text)
}

/// An identity file behind a passphrase, as text.
pub fn lock(text: &str, passphrase: SecretString) -> std::io::Result<String> {
    use std::io::Write as _;
    let out = ArmoredWriter::wrap_output(Vec::new(), Format::AsciiArmor)?;
    let mut writer = age::Encryptor::with_user_passphrase(passphrase).wrap_output(out)?;
    writer.write_all(text.as_bytes())?;
    let armored = writer.finish()?.finish()?;
    String::from_utf8(armored).map_err(std::io::Error::other)
}

/// Encrypts to a passphrase alone: age mixes it with no other recipient.
pub fn seal_with_passphrase(plain: &str, passphrase: &SecretString) -> std::io::Result<Vec<u8>> {
    use std::io::Write as _;
    let passphrase = SecretString::from(passphrase.expose_secret().to_owned());
    let mut writer = age::Encryptor::with_user_passphrase(passphrase).wrap_output(Vec::new())?;
    writer.write_all(plain.as_bytes())?;
    writer.finish()
}

/// Groups of recipients of one plugin each.
pub(super) fn by_plugin(recipients: &[plugin::Recipient]) -> Result<Vec<Box<dyn age::Recipient>>> {
    let names: HashSet<&str> = recipients.iter().map(plugin::Recipient::plugin).collect();
    names.into_iter().map(|name| plugin_recipient(name, recipients)).collect()
}
