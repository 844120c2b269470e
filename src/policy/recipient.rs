//! Checks age X25519 recipients (`age1…`): bech32 of 32 bytes, as in the age specification
//! (C2SP `age.md`, "The X25519 recipient type") and BIP 173.

/// Why a text is not an age recipient. Never holds the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecipientError {
    /// It is the secret half.
    #[error("this is a secret key, not a recipient")]
    Identity,
    /// An SSH key, which age itself would take.
    #[error("this is an SSH key, not an age recipient")]
    Ssh,
    /// A recipient of an age plugin or of another type, such as `age1yubikey1…`.
    #[error("this is a recipient of an age plugin, and a key of its own is needed here")]
    Plugin,
    /// It does not start with `age1`.
    #[error("an age recipient starts with `age1`")]
    Prefix,
    /// It has characters that bech32 has not, or mixed case.
    #[error("this age recipient has a character that cannot be in one")]
    Character,
    /// It is too short or too long.
    #[error("this age recipient has the wrong length: 62 characters are needed")]
    Length,
    /// The checksum does not fit: a typing or copying mistake.
    #[error("the checksum of this age recipient is wrong: a character is missing or mistyped")]
    Checksum,
}

const CHARSET: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
const PREFIX: &str = "age";
/// `age1`, 52 characters of data (32 bytes) and 6 of checksum.
const LENGTH: usize = 62;

/// Checks that `text` is an age X25519 recipient.
pub fn check_recipient(text: &str) -> Result<(), RecipientError> {
    if text.to_ascii_uppercase().contains("AGE-SECRET-KEY-") {
        return Err(RecipientError::Identity);
    }
    if text.starts_with("ssh-") {
        return Err(RecipientError::Ssh);
    }
    let data = text.strip_prefix("age1").ok_or(RecipientError::Prefix)?;
    // The last `1` ends the prefix in bech32, so one more means another, longer prefix.
    if data.contains('1') {
        return Err(RecipientError::Plugin);
    }
    let values = data
        .bytes()
        .map(|byte| CHARSET.iter().position(|known| *known == byte).map(|value| value as u8))
        .collect::<Option<Vec<u8>>>()
        .ok_or(RecipientError::Character)?;
    if text.len() != LENGTH {
        return Err(RecipientError::Length);
    }
    let high = PREFIX.bytes().map(|byte| byte >> 5);
    let low = PREFIX.bytes().map(|byte| byte & 31);
    let sum = polymod(high.chain([0]).chain(low).chain(values.iter().copied()));
    // 52 × 5 bits are 4 more than 32 bytes: they must be zero.
    if sum != 1 || values[51] & 0b1111 != 0 {
        return Err(RecipientError::Checksum);
    }
    Ok(())
}

/// Checks that `text` is an age X25519 recipient, or one that a plugin of age knows.
pub fn check_person(text: &str) -> Result<(), RecipientError> {
    match check_recipient(text) {
        Err(RecipientError::Plugin) => {}
        other => return other,
    }
    let (prefix, data) = text.rsplit_once('1').ok_or(RecipientError::Prefix)?;
    let values = data
        .bytes()
        .map(|byte| CHARSET.iter().position(|known| *known == byte).map(|value| value as u8))
        .collect::<Option<Vec<u8>>>()
        .ok_or(RecipientError::Character)?;
    let name = prefix.strip_prefix("age1").unwrap_or_default();
    let known =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.+".contains(&byte);
    if name.is_empty() || !name.bytes().all(known) {
        return Err(RecipientError::Character);
    }
    let high = prefix.bytes().map(|byte| byte >> 5);
    let low = prefix.bytes().map(|byte| byte & 31);
    if polymod(high.chain([0]).chain(low).chain(values)) != 1 {
        return Err(RecipientError::Checksum);
    }
    Ok(())
}

/// The checksum polynomial of BIP 173.
fn polymod(values: impl Iterator<Item = u8>) -> u32 {
    const GENERATOR: [u32; 5] = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
    values.fold(1_u32, |sum, value| {
        let top = sum >> 25;
        let mut next = ((sum & 0x01ff_ffff) << 5) ^ u32::from(value);
        for (bit, generator) in GENERATOR.iter().enumerate() {
            if (top >> bit) & 1 == 1 {
                next ^= generator;
            }
        }
        next
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const GOOD: &str = "age12h96n5sha0j76p3sfk44epcwujkqmmp5ql8p0vjdsrhg729k8qfq6upatm";

    #[test]
    fn a_generated_recipient_passes() {
        assert_eq!(check_recipient(GOOD), Ok(()));
    }

    #[test]
    fn every_mistyped_character_is_found() {
        for index in 4..GOOD.len() {
            let mut bad = GOOD.as_bytes().to_vec();
            bad[index] = if bad[index] == b'q' { b'p' } else { b'q' };
            let bad = String::from_utf8(bad).unwrap();
            assert_eq!(check_recipient(&bad), Err(RecipientError::Checksum), "{bad}");
        }
    }

    #[test]
    fn other_keys_are_told_apart() {
        for (text, error) in [
            ("AGE-SECRET-KEY-1QQQ", RecipientError::Identity),
            ("ssh-ed25519 AAAA", RecipientError::Ssh),
            ("age1yubikey1qqq", RecipientError::Plugin),
            ("pgp", RecipientError::Prefix),
            ("age1b", RecipientError::Character),
            ("age1qqq", RecipientError::Length),
        ] {
            assert_eq!(check_recipient(text), Err(error));
        }
    }
}
