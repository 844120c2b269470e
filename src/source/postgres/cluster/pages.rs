//! Data pages and their checksums, as `src/include/storage/checksum_impl.h` of PostgreSQL makes them.

use crate::archive::digest::Digest;
use crate::archive::increment::PAGE;
use crate::archive::wal::Lsn;
use crate::source::PAGE_DIGEST;

const SUMS: usize = 32;
const PRIME: u32 = 16_777_619;

const OFFSETS: [u32; SUMS] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// The checksum of a page at this block of its relation.
pub(super) fn checksum(page: &[u8; PAGE], block: u32) -> u16 {
    let mix = |sum: u32, value: u32| {
        let mixed = sum ^ value;
        mixed.wrapping_mul(PRIME) ^ (mixed >> 17)
    };
    let mut sums = OFFSETS;
    for (row, bytes) in page.chunks_exact(4 * SUMS).enumerate() {
        for (at, (sum, word)) in sums.iter_mut().zip(bytes.chunks_exact(4)).enumerate() {
            let mut value = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            // The checksum itself is taken as zero: two bytes at offset 8.
            if row == 0 && at == 2 {
                value &= 0xffff_0000;
            }
            *sum = mix(*sum, value);
        }
    }
    let folded = sums.iter().fold(0, |all, &sum| all ^ mix(mix(sum, 0), 0));
    ((folded ^ block) % 65535 + 1) as u16
}

/// Whether nothing speaks against a page that was read while the server went on writing.
pub(super) fn is_sound(page: &[u8; PAGE], block: u32, start: Lsn) -> bool {
    let half = |at: usize| u16::from_le_bytes([page[at], page[at + 1]]);
    let word = |at: usize| u64::from(half(at)) | u64::from(half(at + 2)) << 16;
    // Never written to.
    if half(14) == 0 {
        return true;
    }
    // Changed since the backup began: replay writes it anew, however it was read.
    if Lsn(word(0) << 32 | word(4)) >= start {
        return true;
    }
    checksum(page, block) == half(8)
}

/// Where the file stands in its relation: the number of its segment. `None` for files that are
/// no relation's, which have no pages.
pub(super) fn relation_segment(path: &[u8]) -> Option<u32> {
    let path = std::str::from_utf8(path).ok()?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = path.split('/').collect();
    let name = match parts[..] {
        ["global", name] => name,
        ["base", database, name] if digits(database) => name,
        ["pg_tblspc", space, version, database, name]
            if digits(space) && version.starts_with("PG_") && digits(database) =>
        {
            name
        }
        _ => return None,
    };
    let (stem, segment) = match name.split_once('.') {
        Some((stem, segment)) if digits(segment) => (stem, segment.parse().ok()?),
        Some(_) => return None,
        None => (name, 0),
    };
    let number = match stem.split_once('_') {
        Some((number, "fsm" | "vm" | "init")) => number,
        Some(_) => return None,
        None => stem,
    };
    digits(number).then_some(segment)
}

/// Judges the pages of one file as its bytes go by.
pub(super) struct Judge {
    first: u32,
    start: Lsn,
    page: Box<[u8; PAGE]>,
    filled: usize,
    block: u32,
    /// Where not every page comes: the numbers of those that do.
    blocks: Option<Vec<u32>>,
    /// Pages that something speaks against: numbers within the relation.
    pub(super) suspects: Vec<u32>,
}

impl Judge {
    /// For a file whose first page has this number, in a backup that began at `start`.
    pub(super) fn new(first: u32, start: Lsn) -> Self {
        let page = Box::new([0; PAGE]);
        Self { first, start, page, filled: 0, block: 0, blocks: None, suspects: Vec::new() }
    }

    /// Only these pages of the file come.
    pub(super) fn of_blocks(self, blocks: Vec<u32>) -> Self {
        Self { blocks: Some(blocks), ..self }
    }

    /// Takes the next bytes.
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.filled == 0
                && let Some((page, rest)) = bytes.split_first_chunk::<PAGE>()
            {
                self.judge(page);
                bytes = rest;
                continue;
            }
            let count = bytes.len().min(PAGE - self.filled);
            self.page[self.filled..self.filled + count].copy_from_slice(&bytes[..count]);
            self.filled += count;
            bytes = &bytes[count..];
            if self.filled == PAGE {
                let page = std::mem::replace(&mut self.page, Box::new([0; PAGE]));
                self.judge(&page);
                self.page = page;
                self.filled = 0;
            }
        }
    }

    fn judge(&mut self, page: &[u8; PAGE]) {
        let block = match &self.blocks {
            Some(blocks) => blocks.get(self.block as usize).copied().unwrap_or(self.block),
            None => self.block,
        };
        let number = self.first.wrapping_add(block);
        if !is_sound(page, number, self.start) {
            self.suspects.push(number);
        }
        self.block += 1;
    }
}

/// Whether the file is the main fork of a relation: what changes by pages.
pub(super) fn is_main_fork(path: &[u8]) -> bool {
    let name = path.rsplit(|&b| b == b'/').next().unwrap_or(path);
    relation_segment(path).is_some() && !name.contains(&b'_')
}

/// Makes a digest of each page of a file as its bytes go by.
#[derive(Default)]
pub(super) struct Digester {
    page: Digest,
    digests: Vec<u8>,
}

impl Digester {
    /// Takes the next bytes.
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let left = PAGE - self.page.bytes() as usize;
            let (now, later) = bytes.split_at(left.min(bytes.len()));
            self.page.update(now);
            if self.page.bytes() == PAGE as u64 {
                let digest = std::mem::take(&mut self.page).finish();
                self.digests.extend_from_slice(&digest[..PAGE_DIGEST]);
            }
            bytes = later;
        }
    }

    /// The digest of the page that ended last.
    pub(super) fn last(&self) -> Option<&[u8]> {
        self.digests.last_chunk::<PAGE_DIGEST>().map(<[u8; PAGE_DIGEST]>::as_slice)
    }

    /// All of them.
    pub(super) fn finish(self) -> Vec<u8> {
        self.digests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relations_are_told_by_their_paths() {
        for (path, segment) in [
            ("base/5/16384", Some(0)),
            ("base/5/16384.3", Some(3)),
            ("base/5/16384_fsm", Some(0)),
            ("base/5/16384_vm.1", Some(1)),
            ("global/1262", Some(0)),
            ("pg_tblspc/16385/PG_15_202209061/5/16390.1", Some(1)),
            ("global/pg_control", None),
            ("global/pg_filenode.map", None),
            ("base/5/PG_VERSION", None),
            ("base/5/pg_internal.init", None),
            ("base/5/t3_16384", None),
            ("base/pgsql_tmp/1", None),
            ("pg_xact/0000", None),
            ("PG_VERSION", None),
        ] {
            assert_eq!(relation_segment(path.as_bytes()), segment, "{path}");
        }
    }

    #[test]
    fn every_page_gets_a_digest() {
        let pages: Vec<u8> = (0..3 * PAGE).map(|at| (at / 100) as u8).collect();
        let mut digester = Digester::default();
        pages.chunks(1000).for_each(|piece| digester.update(piece));
        let mut last = Digest::default();
        last.update(&pages[2 * PAGE..]);
        assert_eq!(digester.last().map(<[u8]>::to_vec), Some(last.finish()[..16].to_vec()));
        assert_eq!(digester.finish().len(), 3 * PAGE_DIGEST);
        assert!(is_main_fork(b"base/5/16384.1") && !is_main_fork(b"base/5/16384_fsm"));
        assert!(!is_main_fork(b"global/pg_control"));
    }

    #[test]
    fn new_and_changed_pages_are_not_judged() {
        let mut page = [0; PAGE];
        assert!(is_sound(&page, 0, Lsn(100)));
        page[14] = 1;
        assert!(!is_sound(&page, 0, Lsn(100)));
        page[4] = 100;
        assert!(is_sound(&page, 0, Lsn(100)));
        page[4] = 99;
        assert!(!is_sound(&page, 0, Lsn(100)));
        let sum = checksum(&page, 7);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        assert!(is_sound(&page, 7, Lsn(100)));
        assert!(!is_sound(&page, 8, Lsn(100)), "a page of another place");
        let mut judge = Judge::new(6, Lsn(100));
        for piece in [vec![0; PAGE], page.to_vec(), page.to_vec()].concat().chunks(1000) {
            judge.update(piece);
        }
        assert_eq!(judge.suspects, [8]);
    }
}
