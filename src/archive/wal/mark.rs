//! A WAL file as an object, and the digest of the plain file at its beginning.
//!
//! In an encrypted object the digest is an additional stanza of the age header, which readers of
//! age skip and the header's MAC covers: `-> backstay.sha256 <64 hex digits>`. In one that is not
//! encrypted it is a skippable zstd frame in front of all others.

use std::io::{self, Write as _};

use crate::archive::crypt::Recipients;
use crate::archive::frame::{FRAME_SIZE, FrameWriter};

/// The kind of the stanza.
pub const STANZA: &str = "backstay.sha256";

/// What the skippable frame begins with, before the 32 bytes of the digest.
const FRAME: &[u8; 16] = b"backstay.sha256\0";

/// The magic number of skippable frames.
const SKIPPABLE: u32 = 0x184d_2a50;

/// Compresses and encrypts a file, its digest in front.
pub fn seal(
    plain: &[u8],
    digest: &[u8; 32],
    recipients: &Recipients,
    level: i32,
) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(plain.len() / 4 + 1024);
    if recipients.is_empty() {
        out.extend(SKIPPABLE.to_le_bytes());
        out.extend((FRAME.len() as u32 + 32).to_le_bytes());
        out.extend(FRAME);
        out.extend(digest);
    }
    let note = (STANZA, hex::encode(digest));
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let threads = threads.min(plain.len().div_ceil(FRAME_SIZE));
    let sealing = recipients.encrypt_noting(out, note)?;
    let mut frames = if threads > 1 {
        FrameWriter::parallel(sealing, level, threads)?
    } else {
        FrameWriter::new(sealing, level)?
    };
    frames.write_all(plain)?;
    let (sealed, _) = frames.finish()?;
    sealed.finish()
}

/// The digest, from the beginning of an object.
pub fn read(head: &[u8], encrypted: bool) -> Option<[u8; 32]> {
    if !encrypted {
        let rest = head.strip_prefix(&SKIPPABLE.to_le_bytes())?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let fits = u32::from_le_bytes(*length) as usize == FRAME.len() + 32;
        return rest.strip_prefix(FRAME)?.first_chunk().filter(|_| fits).copied();
    }
    let mut lines = head.split(|&b| b == b'\n');
    if lines.next() != Some(b"age-encryption.org/v1") {
        return None;
    }
    let prefix = format!("-> {STANZA} ");
    let line = lines
        .take_while(|line| !line.starts_with(b"---"))
        .find_map(|line| line.strip_prefix(prefix.as_bytes()))?;
    let mut digest = [0; 32];
    hex::decode_to_slice(line, &mut digest).ok()?;
    Some(digest)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::io::Read as _;

    use super::*;
    use crate::archive::crypt::{DecryptReader, Keyring};
    use crate::archive::frame::FrameReader;

    #[test]
    fn the_digest_is_in_front_and_nobody_else_minds() {
        let plain = vec![7; 5 << 20];
        let digest = [9; 32];
        let (secret, public) = Keyring::generate();
        let keys = Keyring::parse(secrecy::ExposeSecret::expose_secret(&secret), "test").unwrap();
        for recipients in [Recipients::default(), Recipients::parse([public]).unwrap()] {
            let encrypted = !recipients.is_empty();
            let sealed = seal(&plain, &digest, &recipients, 1).unwrap();
            assert_eq!(read(&sealed[..2048.min(sealed.len())], encrypted), Some(digest));
            assert_eq!(read(&sealed, !encrypted), None);
            let opened = DecryptReader::open(&sealed[..], encrypted, &keys, "x").unwrap();
            let mut found = Vec::new();
            FrameReader::new(opened, 0).unwrap().read_to_end(&mut found).unwrap();
            assert!(found == plain);
            if !encrypted {
                assert!(zstd::stream::decode_all(&sealed[..]).unwrap() == plain);
            }
        }
        for length in 0..60 {
            assert_eq!(
                read(
                    &seal(&plain, &digest, &Recipients::default(), 1).unwrap()[..length.min(55)],
                    false
                ),
                None
            );
        }
    }
}
