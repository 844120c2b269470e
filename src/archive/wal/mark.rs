//! A WAL file as an object, and the digest of the plain file at its beginning.
//!
//! In an encrypted object the digest is an additional stanza of the age header, which readers of
//! age skip and the header's MAC covers: `-> backstay.sha256 <64 hex digits>`. In one that is not
//! encrypted it is a skippable zstd frame in front of all others. Where the policy has sites, the epoch that
//! it was written under stands beside it in the same way: `-> backstay.epoch
//! <epoch> <microseconds since 1970> [<site>]`.

use std::io::{self, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::Timestamp;

use crate::archive::crypt::Recipients;
use crate::archive::digest::Digest;
use crate::archive::frame::{FRAME_SIZE, FrameEncoder};
use crate::archive::tenure::{Tenure, Written};

/// The kind of the stanza.
pub const STANZA: &str = "backstay.sha256";

/// What the skippable frame begins with, before the 32 bytes of the digest.
const FRAME: &[u8; 16] = b"backstay.sha256\0";

/// The kind of the stanza with the epoch.
pub const EPOCH: &str = "backstay.epoch";

/// What the skippable frame with the epoch begins with, before 8 bytes of it, 8 of the time and the site.
const EPOCH_FRAME: &[u8; 15] = b"backstay.epoch\0";

/// The magic number of skippable frames.
const SKIPPABLE: u32 = 0x184d_2a50;

/// How hard WAL is compressed: the server waits meanwhile.
const LEVEL: i32 = 1;

/// A file that is compressed, for as many stores as take it.
pub struct Packed {
    digest: [u8; 32],
    frames: Vec<Vec<u8>>,
}

impl Packed {
    /// Compresses a file, and hashes it meanwhile unless its digest is known.
    pub fn new(plain: &[u8], digest: Option<[u8; 32]>) -> io::Result<Self> {
        if plain.len() <= FRAME_SIZE {
            let digest = digest.unwrap_or_else(|| digest_of(plain));
            return Ok(Self { digest, frames: compress(plain, 1)? });
        }
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
        std::thread::scope(|scope| {
            let hashing = scope.spawn(|| digest.unwrap_or_else(|| digest_of(plain)));
            let frames = compress(plain, threads)?;
            let digest =
                hashing.join().map_err(|_| io::Error::other("the thread that hashes is gone"))?;
            Ok(Self { digest, frames })
        })
    }

    /// The SHA-256 of the plain file.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// The object: encrypted, the digest and the epoch in front.
    pub fn seal(&self, written: Option<&Written>, recipients: &Recipients) -> io::Result<Vec<u8>> {
        let length: usize = self.frames.iter().map(Vec::len).sum();
        let mut out = Vec::with_capacity(length + 4096);
        if recipients.is_empty() {
            out.extend(SKIPPABLE.to_le_bytes());
            out.extend((FRAME.len() as u32 + 32).to_le_bytes());
            out.extend(FRAME);
            out.extend(self.digest);
            if let Some(Written { tenure: Tenure { epoch, site }, at }) = written {
                out.extend(SKIPPABLE.to_le_bytes());
                out.extend(((EPOCH_FRAME.len() + 16 + site.len()) as u32).to_le_bytes());
                out.extend(EPOCH_FRAME);
                out.extend(epoch.to_le_bytes());
                out.extend(at.as_microsecond().to_le_bytes());
                out.extend(site.as_bytes());
            }
        }
        let mut notes = vec![(STANZA, vec![hex::encode(self.digest)])];
        notes.extend(written.map(|Written { tenure: Tenure { epoch, site }, at }| {
            let site = Some(site.clone()).filter(|site| !site.is_empty());
            let numbers = [epoch.to_string(), at.as_microsecond().to_string()];
            (EPOCH, numbers.into_iter().chain(site).collect())
        }));
        let mut sealing = recipients.encrypt_noting(out, &notes)?;
        for frame in &self.frames {
            sealing.write_all(frame)?;
        }
        sealing.finish()
    }
}

fn digest_of(plain: &[u8]) -> [u8; 32] {
    let mut digest = Digest::default();
    digest.update(plain);
    digest.finish()
}

/// Cuts a file into frames and compresses them where they lie: a copy of each would cost as much as
/// hashing it.
fn compress(plain: &[u8], threads: usize) -> io::Result<Vec<Vec<u8>>> {
    // A file of no bytes is a frame of none.
    let pieces: Vec<&[u8]> =
        if plain.is_empty() { vec![plain] } else { plain.chunks(FRAME_SIZE).collect() };
    let next = AtomicUsize::new(0);
    let work = || -> io::Result<Vec<(usize, Vec<u8>)>> {
        let mut encoder = FrameEncoder::new(LEVEL)?;
        let mut done = Vec::new();
        while let number = next.fetch_add(1, Ordering::Relaxed)
            && let Some(piece) = pieces.get(number)
        {
            let mut frame = Vec::new();
            encoder.encode(piece, &mut frame)?;
            done.push((number, frame));
        }
        Ok(done)
    };
    let mut frames = std::thread::scope(|scope| -> io::Result<_> {
        let others: Vec<_> = (1..threads.min(pieces.len())).map(|_| scope.spawn(work)).collect();
        let mut frames = work()?;
        for other in others {
            let gone = |_| Err(io::Error::other("a thread that compresses is gone"));
            frames.extend(other.join().unwrap_or_else(gone)?);
        }
        Ok(frames)
    })?;
    frames.sort_unstable_by_key(|(number, _)| *number);
    Ok(frames.into_iter().map(|(_, frame)| frame).collect())
}

/// The digest, from the beginning of an object.
pub fn read(head: &[u8], encrypted: bool) -> Option<[u8; 32]> {
    if !encrypted {
        let rest = head.strip_prefix(&SKIPPABLE.to_le_bytes())?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let fits = u32::from_le_bytes(*length) as usize == FRAME.len() + 32;
        return rest.strip_prefix(FRAME)?.first_chunk().filter(|_| fits).copied();
    }
    let mut digest = [0; 32];
    hex::decode_to_slice(stanza(head, STANZA)?, &mut digest).ok()?;
    Some(digest)
}

/// The epoch, from the beginning of an object. `None`: its writer knew of none.
pub fn read_written(head: &[u8], encrypted: bool) -> Option<Written> {
    let written = |epoch: u64, microsecond: i64, site: &str| {
        let tenure = Tenure { epoch, site: site.to_owned() };
        Some(Written { tenure, at: Timestamp::from_microsecond(microsecond).ok()? })
    };
    if encrypted {
        let mut words = std::str::from_utf8(stanza(head, EPOCH)?).ok()?.split(' ');
        let (epoch, second) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        return written(epoch, second, words.next().unwrap_or_default());
    }
    let rest = head.get(8 + FRAME.len() + 32..).filter(|_| read(head, false).is_some())?;
    let rest = rest.strip_prefix(&SKIPPABLE.to_le_bytes())?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let body = rest.get(..u32::from_le_bytes(*length) as usize)?.strip_prefix(EPOCH_FRAME)?;
    let (epoch, body) = body.split_first_chunk::<8>()?;
    let (second, site) = body.split_first_chunk::<8>()?;
    let site = std::str::from_utf8(site).ok()?;
    written(u64::from_le_bytes(*epoch), i64::from_le_bytes(*second), site)
}

/// The arguments of a stanza in the header of an age file.
fn stanza<'a>(head: &'a [u8], kind: &str) -> Option<&'a [u8]> {
    let mut lines = head.split(|&b| b == b'\n');
    if lines.next() != Some(b"age-encryption.org/v1") {
        return None;
    }
    let prefix = format!("-> {kind} ");
    lines
        .take_while(|line| !line.starts_with(b"---"))
        .find_map(|line| line.strip_prefix(prefix.as_bytes()))
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
            let sealed =
                Packed::new(&plain, Some(digest)).unwrap().seal(None, &recipients).unwrap();
            assert_eq!(read(&sealed[..2048.min(sealed.len())], encrypted), Some(digest));
            assert_eq!(read_written(&sealed, encrypted), None);
            assert_eq!(read(&sealed, !encrypted), None);
            let opened = DecryptReader::open(&sealed[..], encrypted, &keys, "x").unwrap();
            let mut found = Vec::new();
            FrameReader::new(opened, 0).unwrap().read_to_end(&mut found).unwrap();
            assert!(found == plain);
            if !encrypted {
                assert!(zstd::stream::decode_all(&sealed[..]).unwrap() == plain);
            }
        }
        let short = Packed::new(&plain, Some(digest)).unwrap();
        let short = short.seal(None, &Recipients::default()).unwrap();
        for length in 0..60 {
            assert_eq!(read(&short[..length.min(55)], false), None);
        }
    }

    #[test]
    fn the_epoch_is_beside_it_and_nobody_else_minds() {
        let plain = vec![7; 5 << 20];
        let (secret, public) = Keyring::generate();
        let keys = Keyring::parse(secrecy::ExposeSecret::expose_secret(&secret), "test").unwrap();
        for recipients in [Recipients::default(), Recipients::parse([public]).unwrap()] {
            let encrypted = !recipients.is_empty();
            for (epoch, site) in [(0, ""), (3, "site-a"), (u64::MAX, "b")] {
                let tenure = Tenure { epoch, site: site.to_owned() };
                let written =
                    Written { tenure, at: Timestamp::from_second(1_800_000_000).unwrap() };
                let sealed = Packed::new(&plain, Some([9; 32]))
                    .unwrap()
                    .seal(Some(&written), &recipients)
                    .unwrap();
                let head = &sealed[..2048.min(sealed.len())];
                assert_eq!(read(head, encrypted), Some([9; 32]));
                assert_eq!(read_written(head, encrypted), Some(written));
                assert_eq!(read_written(&head[..60], encrypted), None);
                let opened = DecryptReader::open(&sealed[..], encrypted, &keys, "x").unwrap();
                let mut found = Vec::new();
                FrameReader::new(opened, 0).unwrap().read_to_end(&mut found).unwrap();
                assert!(found == plain);
            }
        }
    }
}
