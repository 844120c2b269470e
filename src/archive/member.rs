//! Tar members: ustar headers with pax records, as GNU tar reads and writes them.

use std::collections::BTreeMap;
use std::io::{self, Read};

use tar::{EntryType as TarType, Header};

use super::attributes::{Attributes, Records};
use super::entry::{Entry, EntryType, Time, display_path};
use crate::error::{Error, Result};

/// A tar block.
pub const BLOCK: usize = 512;

/// The longest pax header a reader accepts.
const PAX_LIMIT: u64 = 32 << 20;

/// The largest number of extents a sparse member may have.
const EXTENT_LIMIT: usize = 1 << 20;

/// The two zero blocks at the end of an archive.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// Zero bytes after `size` bytes of content up to a full block.
pub fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size
}

/// The header blocks of `entry`, and how many bytes of data the member has after them.
///
/// A sparse file's data begins with its extent map, which is part of the returned bytes; the
/// extents follow, then padding.
pub fn encode(entry: &Entry) -> Result<(Vec<u8>, u64)> {
    let mut pax = Vec::new();
    let mut header = Header::new_ustar();
    let (kind, data) = match entry.kind {
        EntryType::File => (TarType::Regular, entry.size),
        EntryType::Dir => (TarType::Directory, 0),
        EntryType::Symlink => (TarType::Symlink, 0),
        EntryType::Hardlink => (TarType::Link, 0),
        EntryType::Char => (TarType::Char, 0),
        EntryType::Block => (TarType::Block, 0),
        EntryType::Stream => {
            return Err(Error::failed("a stream cannot be a tar member"));
        }
    };
    header.set_entry_type(kind);
    header.set_mode(entry.mode);

    let mut name = entry.path.clone();
    if entry.kind == EntryType::Dir {
        name.push(b'/');
    }
    let mut map = Vec::new();
    let mut data = data;
    if let (EntryType::File, Some(extents)) = (entry.kind, &entry.sparse) {
        map = sparse_map(extents);
        data = map.len() as u64 + extents.iter().map(|&(_, length)| length).sum::<u64>();
        record(&mut pax, "GNU.sparse.major", b"1");
        record(&mut pax, "GNU.sparse.minor", b"0");
        record(&mut pax, "GNU.sparse.name", &name);
        record(&mut pax, "GNU.sparse.realsize", entry.size.to_string().as_bytes());
        name = sparse_name(&name);
    }
    if name.len() > 100 && map.is_empty() {
        record(&mut pax, "path", &name);
    }
    set_field(&mut header.as_old_mut().name, &name);
    if let Some(link) = entry.target.as_ref().or(entry.hardlink.as_ref()) {
        if link.len() > 100 {
            record(&mut pax, "linkpath", link);
        }
        set_field(&mut header.as_old_mut().linkname, link);
    }
    encode_owner(entry, &mut header, &mut pax);
    encode_times_and_attributes(entry, &mut header, &mut pax);
    if let Some((major, minor)) = entry.rdev {
        let failed = |error| Error::io("failed to write a device header", error);
        header.set_device_major(major).map_err(failed)?;
        header.set_device_minor(minor).map_err(failed)?;
    }
    header.set_size(data);
    header.set_cksum();

    let mut blocks = Vec::with_capacity(BLOCK * 3 + pax.len() + map.len());
    if !pax.is_empty() {
        let mut extension = Header::new_ustar();
        extension.set_entry_type(TarType::XHeader);
        extension.set_mode(0o644);
        extension.set_mtime(0);
        extension.set_size(pax.len() as u64);
        let mut pax_name = b"PaxHeaders/".to_vec();
        pax_name.extend(entry.path.iter().rev().take(80).rev());
        set_field(&mut extension.as_old_mut().name, &pax_name);
        extension.set_cksum();
        blocks.extend_from_slice(extension.as_bytes());
        blocks.extend_from_slice(&pax);
        blocks.resize(blocks.len() + padding(pax.len() as u64) as usize, 0);
    }
    blocks.extend_from_slice(header.as_bytes());
    blocks.extend_from_slice(&map);
    Ok((blocks, data - map.len() as u64))
}

fn encode_owner(entry: &Entry, header: &mut Header, pax: &mut Vec<u8>) {
    const FIELD_MAX: u32 = 0o7_777_777;
    for (id, key) in [(entry.uid, "uid"), (entry.gid, "gid")] {
        if id > FIELD_MAX {
            record(pax, key, id.to_string().as_bytes());
        }
    }
    header.set_uid(entry.uid.min(FIELD_MAX).into());
    header.set_gid(entry.gid.min(FIELD_MAX).into());
    if let Some(ustar) = header.as_ustar_mut() {
        let names =
            [(&entry.user, &mut ustar.uname, "uname"), (&entry.group, &mut ustar.gname, "gname")];
        for (name, field, key) in names {
            let Some(name) = name else { continue };
            if name.len() >= field.len() {
                record(pax, key, name.as_bytes());
            }
            set_field(field, name.as_bytes());
        }
    }
}

fn encode_times_and_attributes(entry: &Entry, header: &mut Header, pax: &mut Vec<u8>) {
    let (seconds, nanos) = entry.mtime;
    if nanos != 0 || !(0..=0o77_777_777_777).contains(&seconds) {
        record(pax, "mtime", pax_time(entry.mtime).as_bytes());
    }
    header.set_mtime(seconds.clamp(0, 0o77_777_777_777) as u64);
    if entry.kind == EntryType::Hardlink {
        return;
    }
    for (name, value) in &entry.xattrs {
        match name.as_str() {
            "system.posix_acl_access" => acl_record(pax, "SCHILY.acl.access", value),
            "system.posix_acl_default" => acl_record(pax, "SCHILY.acl.default", value),
            // A key ends at its `=`; GNU tar escapes it the same way.
            _ => {
                let name = name.replace('%', "%25").replace('=', "%3D");
                record(pax, &format!("SCHILY.xattr.{name}"), value);
            }
        }
    }
}

fn set_field(field: &mut [u8], value: &[u8]) {
    field.fill(0);
    let count = value.len().min(field.len());
    field[..count].copy_from_slice(&value[..count]);
}

/// Decimal seconds with nine digits: `-1.5` s is kept as (-2, 500000000) and written as itself.
pub fn pax_time((seconds, nanos): Time) -> String {
    if seconds < 0 && nanos > 0 {
        let (whole, rest) = (-(seconds + 1), 1_000_000_000 - nanos);
        format!("-{whole}.{rest:09}")
    } else {
        format!("{seconds}.{nanos:09}")
    }
}

/// `LENGTH KEY=VALUE\n`, where LENGTH counts itself.
fn record(pax: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    pax.extend_from_slice(format!("{length} {key}=").as_bytes());
    pax.extend_from_slice(value);
    pax.push(b'\n');
}

/// The text form of a POSIX ACL, from the kernel's: a 4-byte version, then 8 bytes an entry.
fn acl_record(pax: &mut Vec<u8>, key: &str, raw: &[u8]) {
    let Some(entries) = raw.strip_prefix(&2u32.to_le_bytes()) else { return };
    let mut text = Vec::new();
    for entry in entries.chunks_exact(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let permissions = u16::from_le_bytes([entry[2], entry[3]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let who = match tag {
            0x01 => "user:".to_owned(),
            0x02 => format!("user:{id}"),
            0x04 => "group:".to_owned(),
            0x08 => format!("group:{id}"),
            0x10 => "mask:".to_owned(),
            0x20 => "other:".to_owned(),
            _ => continue,
        };
        let bit = |mask: u16, letter: char| if permissions & mask != 0 { letter } else { '-' };
        let line = format!("{who}:{}{}{}\n", bit(4, 'r'), bit(2, 'w'), bit(1, 'x'));
        text.extend_from_slice(line.as_bytes());
    }
    record(pax, key, &text);
}

fn sparse_map(extents: &[(u64, u64)]) -> Vec<u8> {
    use std::fmt::Write as _;
    let mut map = format!("{}\n", extents.len());
    for (offset, length) in extents {
        let _ = write!(map, "{offset}\n{length}\n");
    }
    let mut map = map.into_bytes();
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

/// What a tar that knows no sparse members would call the file.
fn sparse_name(path: &[u8]) -> Vec<u8> {
    let last = path.rsplit(|&b| b == b'/').next().unwrap_or(path);
    let mut name = [b"GNUSparseFile.0/", last].concat();
    name.truncate(100);
    name
}

/// A member as its header tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Path, without the trailing slash of a directory.
    pub path: Vec<u8>,
    /// Type.
    pub kind: EntryType,
    /// Logical size.
    pub size: u64,
    /// Bytes of data that follow the header (and the extent map), without padding.
    pub data: u64,
    /// Link target.
    pub link: Option<Vec<u8>>,
    /// Extents, for a sparse member.
    pub sparse: Option<Vec<(u64, u64)>>,
    /// Owner, permissions, times, attributes.
    pub attributes: Attributes,
}

impl Member {
    /// An error if this member is not what `entry` of the index says it is.
    pub fn expect(&self, entry: &Entry, place: &str) -> Result<()> {
        let differs = |what: &str| {
            Err(Error::damaged(format!(
                "index and archive disagree on the {what} of `{}` in {place}",
                entry.display_path()
            )))
        };
        if self.path != entry.path {
            return Err(Error::damaged(format!(
                "the index says `{}` where {place} has `{}`",
                entry.display_path(),
                display_path(&self.path)
            )));
        }
        if self.kind != entry.kind {
            return differs("type");
        }
        if entry.kind == EntryType::File && self.size != entry.size {
            return differs("size");
        }
        let link = entry.target.as_ref().or(entry.hardlink.as_ref());
        if link != self.link.as_ref() {
            return differs("link");
        }
        if self.sparse != entry.sparse {
            return differs("extents");
        }
        Ok(())
    }

    /// Like [`Member::expect`], and owner, permissions and attributes must be the same too: who
    /// restores with tar and who restores by the index must get the same tree. The time of a file
    /// in an older segment may be another, because files that were only touched stay there.
    pub fn expect_all(&self, entry: &Entry, older: bool, place: &str) -> Result<()> {
        self.expect(entry, place)?;
        // A hard link has no attributes of its own.
        if entry.kind == EntryType::Hardlink {
            return Ok(());
        }
        let (blocks, _) = encode(entry)?;
        let Some(written) = decode(&mut &blocks[..], place)? else { return Ok(()) };
        let same_time = self.attributes.mtime == written.attributes.mtime;
        let time = (!same_time && (!older || entry.kind != EntryType::File)).then_some("time");
        match self.attributes.differs(&written.attributes).or(time) {
            None => Ok(()),
            Some(what) => Err(Error::damaged(format!(
                "index and archive disagree on the {what} of `{}` in {place}",
                entry.display_path()
            ))),
        }
    }
}

/// Reads the next member's header from `input`. `None` is the end of the archive.
pub fn decode(input: &mut dyn Read, place: &str) -> Result<Option<Member>> {
    let mut pax = BTreeMap::new();
    loop {
        let mut block = [0; BLOCK];
        read_exact(input, &mut block, place)?;
        if block.iter().all(|&b| b == 0) {
            return Ok(None);
        }
        let header = checked_header(&block, place)?;
        let size = header
            .entry_size()
            .map_err(|error| Error::damaged(bad(place, "size")).with_source(error))?;
        if header.entry_type() == TarType::XHeader {
            pax = read_pax(input, size, place)?;
            continue;
        }
        return member(input, &header, size, &pax, place).map(Some);
    }
}

fn bad(place: &str, what: &str) -> String {
    format!("{place} has a tar header with a bad {what}")
}

fn read_exact(input: &mut dyn Read, buffer: &mut [u8], place: &str) -> Result<()> {
    input.read_exact(buffer).map_err(|error| read_error(error, place))
}

/// An error while reading stored data: damage if it is what the data says, else what it was.
pub fn read_error(error: io::Error, place: &str) -> Error {
    let message = format!("failed to read {place}");
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
            Error::damaged(message).with_source(error)
        }
        _ => Error::io(message, error),
    }
}

fn checked_header(block: &[u8; BLOCK], place: &str) -> Result<Header> {
    let mut header = Header::new_old();
    header.as_mut_bytes().copy_from_slice(block);
    let sum: u32 = block
        .iter()
        .enumerate()
        .map(|(i, &b)| if (148..156).contains(&i) { 32 } else { u32::from(b) })
        .sum();
    match header.cksum() {
        Ok(stored) if stored == sum => Ok(header),
        _ => Err(Error::damaged(bad(place, "checksum"))),
    }
}

fn read_pax(input: &mut dyn Read, size: u64, place: &str) -> Result<Records> {
    if size > PAX_LIMIT {
        return Err(Error::damaged(bad(place, "pax size")));
    }
    let mut data = vec![0; (size + padding(size)) as usize];
    read_exact(input, &mut data, place)?;
    let mut records = BTreeMap::new();
    let mut rest = &data[..size as usize];
    while !rest.is_empty() {
        let (key, value, after) =
            split_record(rest).ok_or_else(|| Error::damaged(bad(place, "pax record")))?;
        if records.insert(key.to_vec(), value.to_vec()).is_some() {
            return Err(Error::damaged(bad(place, "pax record: it is there twice")));
        }
        rest = after;
    }
    Ok(records)
}

fn split_record(rest: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = rest.iter().position(|&b| b == b' ')?;
    let length: usize = std::str::from_utf8(&rest[..space]).ok()?.parse().ok()?;
    let record = rest.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|&b| b == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &rest[length..]))
}

fn member(
    input: &mut dyn Read,
    header: &Header,
    size: u64,
    pax: &Records,
    place: &str,
) -> Result<Member> {
    let kind = match header.entry_type() {
        TarType::Regular => EntryType::File,
        TarType::Directory => EntryType::Dir,
        TarType::Symlink => EntryType::Symlink,
        TarType::Link => EntryType::Hardlink,
        TarType::Char => EntryType::Char,
        TarType::Block => EntryType::Block,
        _ => return Err(Error::damaged(bad(place, "type"))),
    };
    let mut path = pax
        .get(&b"GNU.sparse.name"[..])
        .or_else(|| pax.get(&b"path"[..]))
        .cloned()
        .unwrap_or_else(|| field(&header.as_old().name));
    if kind == EntryType::Dir && path.last() == Some(&b'/') {
        path.pop();
    }
    let link = matches!(kind, EntryType::Symlink | EntryType::Hardlink).then(|| {
        pax.get(&b"linkpath"[..]).cloned().unwrap_or_else(|| field(&header.as_old().linkname))
    });
    let attributes = Attributes::read(header, pax, place)?;
    let mut member = Member { path, kind, size, data: size, link, sparse: None, attributes };
    if let Some(real) = pax.get(&b"GNU.sparse.realsize"[..]) {
        member.size = std::str::from_utf8(real)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| Error::damaged(bad(place, "sparse size")))?;
        let (extents, map_size) = read_sparse_map(input, place)?;
        let stored: u64 = extents.iter().map(|&(_, length)| length).fold(0, u64::saturating_add);
        let mut end = Some(0);
        let fits = extents.iter().all(|&(offset, length)| {
            let after = end.is_some_and(|end| offset >= end);
            end = offset.checked_add(length);
            after && end.is_some_and(|end| end <= member.size)
        });
        if !fits || size.checked_sub(map_size) != Some(stored) {
            return Err(Error::damaged(bad(place, "sparse map")));
        }
        (member.sparse, member.data) = (Some(extents), stored);
    }
    Ok(member)
}

fn field(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().take_while(|&b| b != 0).collect()
}

fn read_sparse_map(input: &mut dyn Read, place: &str) -> Result<(Vec<(u64, u64)>, u64)> {
    let mut numbers = SparseNumbers { input, block: [0; BLOCK], used: BLOCK, read: 0, place };
    let count = numbers.next()?;
    if count > EXTENT_LIMIT as u64 {
        return Err(Error::damaged(bad(place, "sparse map")));
    }
    let mut extents = Vec::new();
    for _ in 0..count {
        extents.push((numbers.next()?, numbers.next()?));
    }
    Ok((extents, numbers.read))
}

struct SparseNumbers<'a> {
    input: &'a mut dyn Read,
    block: [u8; BLOCK],
    used: usize,
    read: u64,
    place: &'a str,
}

impl SparseNumbers<'_> {
    fn next(&mut self) -> Result<u64> {
        let mut number: u64 = 0;
        for digits in 0..=20 {
            if self.used == BLOCK {
                read_exact(self.input, &mut self.block, self.place)?;
                self.read += BLOCK as u64;
                self.used = 0;
            }
            let byte = self.block[self.used];
            self.used += 1;
            match byte {
                b'\n' if digits > 0 => return Ok(number),
                b'0'..=b'9' => {
                    number = number
                        .checked_mul(10)
                        .and_then(|n| n.checked_add(u64::from(byte - b'0')))
                        .ok_or_else(|| Error::damaged(bad(self.place, "sparse map")))?;
                }
                _ => break,
            }
        }
        Err(Error::damaged(bad(self.place, "sparse map")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip() {
        let mut entries = Vec::new();
        for path in ["a", "dir/file name", &"x/".repeat(2000), "new\nline", "%=\\*"] {
            let mut entry = Entry::new(path.trim_end_matches('/'), EntryType::File);
            entry.size = 1234;
            entry.mtime = (1_700_000_000, 123_456_789);
            entry.xattrs.insert("user.a=b".into(), vec![0, 255, b'\n']);
            entry.user = Some("n".repeat(40));
            entries.push(entry);
        }
        let mut link = Entry::new(&b"\xff\xfe"[..], EntryType::Symlink);
        link.target = Some(b"../".repeat(60));
        link.uid = u32::MAX - 1;
        link.mtime = (-2, 500_000_000);
        entries.push(link);
        entries.push(Entry::new(".", EntryType::Dir));
        let mut sparse = Entry::new("deep/er/sparse", EntryType::File);
        sparse.size = 1 << 40;
        sparse.sparse = Some((0..100).map(|i| (i << 30, 4096)).collect());
        entries.push(sparse);
        for entry in entries {
            let (blocks, data) = encode(&entry).expect("encodes");
            assert_eq!(blocks.len() % BLOCK, 0);
            let member = decode(&mut &blocks[..], "test").expect("decodes").expect("a member");
            member.expect(&entry, "test").expect("the same");
            assert_eq!(member.data, data);
        }
    }

    #[test]
    fn times_before_1970_are_written_as_pax_reads_them() {
        assert_eq!(pax_time((-2, 500_000_000)), "-1.500000000");
        assert_eq!(pax_time((-2, 0)), "-2.000000000");
        assert_eq!(pax_time((3, 5)), "3.000000005");
    }
}
