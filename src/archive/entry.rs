//! One file, directory, link, device or stream, as the index names it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::layer::{Layer, check_layers};
use crate::error::{Error, Result};
use crate::id::BackupId;

/// Seconds since 1970 (floor, may be negative) and nanoseconds (0..10⁹).
pub type Time = (i64, u32);

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryType {
    /// A regular file; the first of its hard-link group if it has one.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A further name of a file in the same segment.
    Hardlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A byte stream that is no file: the output of a command.
    Stream,
}

/// A segment, by the backup that wrote it and its number: `<backup>/000001`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SegmentRef {
    /// The backup that wrote the segment.
    pub backup: BackupId,
    /// Its number within that backup, from 1.
    pub number: u32,
}

impl TryFrom<String> for SegmentRef {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        let bad = || Error::damaged(format!("`{}` names no segment", text.escape_default()));
        let (backup, number) = text.split_once('/').ok_or_else(bad)?;
        if number.len() != 6 || !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        Ok(Self {
            backup: BackupId::parse(backup).map_err(|_| bad())?,
            number: number.parse().map_err(|_| bad())?,
        })
    }
}

impl From<SegmentRef> for String {
    fn from(segment: SegmentRef) -> Self {
        segment.to_string()
    }
}

impl std::fmt::Display for SegmentRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{:06}", self.backup, self.number)
    }
}

/// Where a tar member begins: `[frame, skip, span]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position(
    /// Offset of the frame in the compressed stream (after decryption).
    pub u64,
    /// Plain bytes from the start of that frame to the member's first header block.
    pub u64,
    /// Compressed bytes from the frame's start to the end of the last frame of the member.
    pub u64,
);

/// One slice of a large file or stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The stream segment that holds it.
    #[serde(rename = "in")]
    pub segment: SegmentRef,
    /// Plain bytes.
    pub size: u64,
    /// SHA-256 of the plain bytes, hex.
    pub sha256: String,
}

/// One line of an index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "EntryLine", into = "EntryLine")]
pub struct Entry {
    /// Relative path, bytes, no leading slash; `.` is the root directory.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryType,
    /// The 12 permission bits.
    pub mode: u32,
    /// Owner, by number.
    pub uid: u32,
    /// Group, by number.
    pub gid: u32,
    /// Owner, by name, where the number has one.
    pub user: Option<String>,
    /// Group, by name, where the number has one.
    pub group: Option<String>,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Inode number.
    pub ino: u64,
    /// Bytes of content.
    pub size: u64,
    /// SHA-256 of the whole logical content.
    pub sha256: Option<[u8; 32]>,
    /// The segment that holds it, for tar members.
    pub segment: Option<SegmentRef>,
    /// Where in the segment.
    pub at: Option<Position>,
    /// The slices, for large files and streams.
    pub parts: Vec<Part>,
    /// What makes it, where that is a whole file and increments over it. Oldest first.
    pub layers: Vec<Layer>,
    /// Where the digests of its pages begin among those of the backup, as a number of digests.
    pub pages: Option<u64>,
    /// A single layer of a file, on its own. Not in any index: only while one is worked through.
    pub is_layer: bool,
    /// What a symbolic link points to.
    pub target: Option<Vec<u8>>,
    /// For a hard link: the first name of the group.
    pub hardlink: Option<Vec<u8>>,
    /// For a hard link: where the first name's member, with the content, lies.
    pub leader_at: Option<Position>,
    /// Major and minor number of a device.
    pub rdev: Option<(u32, u32)>,
    /// Extended attributes, ACLs among them, as the kernel gives them.
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// Extents that hold data, if the file has holes.
    pub sparse: Option<Vec<(u64, u64)>>,
    /// The file changed while it was read.
    pub changed: bool,
    /// Changed so shortly before it was read that its times prove nothing.
    pub racy: bool,
    /// Keyed fingerprint of a secret value, in place of `sha256`.
    pub fingerprint: Option<String>,
    /// Pages of a relation that were damaged at the source: their numbers.
    pub bad_pages: Vec<u32>,
}

impl Entry {
    /// An entry with nothing but a path and a type.
    pub fn new(path: impl Into<Vec<u8>>, kind: EntryType) -> Self {
        Self {
            path: path.into(),
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            user: None,
            group: None,
            mtime: (0, 0),
            ctime: (0, 0),
            ino: 0,
            size: 0,
            sha256: None,
            segment: None,
            at: None,
            parts: Vec::new(),
            layers: Vec::new(),
            pages: None,
            is_layer: false,
            target: None,
            hardlink: None,
            leader_at: None,
            rdev: None,
            xattrs: BTreeMap::new(),
            sparse: None,
            changed: false,
            racy: false,
            fingerprint: None,
            bad_pages: Vec::new(),
        }
    }

    /// The path for people: control characters and bytes that are not UTF-8 are escaped.
    pub fn display_path(&self) -> String {
        display_path(&self.path)
    }

    /// Whether the entry brings content of its own into a segment.
    pub fn has_content(&self) -> bool {
        matches!(self.kind, EntryType::File | EntryType::Stream)
    }

    /// Whether it is a file in slices of its own.
    pub fn is_large(&self) -> bool {
        !self.parts.is_empty()
    }

    /// Whether no line-based list can hold the path: it has a line break, or ends in white space,
    /// which GNU tar drops from the lines of a list.
    pub fn is_awkward(&self) -> bool {
        self.path.contains(&b'\n')
            || self.path.last().is_some_and(|&b| matches!(b, 0x09..=0x0d | 0x20))
    }

    /// Whether owner, permissions and attributes are the same. Times are not compared.
    pub fn same_metadata(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.mode == other.mode
            && self.uid == other.uid
            && self.gid == other.gid
            && self.user == other.user
            && self.group == other.group
            && self.xattrs == other.xattrs
            && self.rdev == other.rdev
            && self.target == other.target
    }
}

/// Shows a path on one line: control characters and bytes that are not UTF-8 become `\xNN`.
pub fn display_path(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || c == '\\' {
                text.extend(c.escape_default());
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            use std::fmt::Write as _;
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// The key whose byte order is the order of an index: component by component.
pub fn sort_key(path: &[u8]) -> Vec<u8> {
    if path == b"." {
        return Vec::new();
    }
    path.iter().map(|&b| if b == b'/' { 0 } else { b }).collect()
}

/// Compares two paths in index order.
pub fn compare(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    let flat = |path: &[u8]| -> Option<()> { (path == b".").then_some(()) };
    match (flat(a), flat(b)) {
        (Some(()), Some(())) => std::cmp::Ordering::Equal,
        (Some(()), None) => std::cmp::Ordering::Less,
        (None, Some(())) => std::cmp::Ordering::Greater,
        (None, None) => {
            let order = |&byte: &u8| if byte == b'/' { 0 } else { byte };
            a.iter().map(order).cmp(b.iter().map(order))
        }
    }
}

/// Whether a path may be restored: relative, no empty, `.` or `..` component, no NUL.
pub fn is_safe(path: &[u8]) -> bool {
    path == b"."
        || (!path.contains(&0)
            && path.split(|&b| b == b'/').all(|part| !matches!(part, b"" | b"." | b"..")))
}

/// What a line says an entry is: a file that is made of layers is none to who does not know of
/// them, and must not be restored from one of them.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LineType {
    File,
    Layered,
    Dir,
    Symlink,
    Hardlink,
    Char,
    Block,
    Stream,
}

impl LineType {
    fn of(entry: &Entry) -> Self {
        match entry.kind {
            EntryType::File if entry.layers.is_empty() => Self::File,
            EntryType::File => Self::Layered,
            EntryType::Dir => Self::Dir,
            EntryType::Symlink => Self::Symlink,
            EntryType::Hardlink => Self::Hardlink,
            EntryType::Char => Self::Char,
            EntryType::Block => Self::Block,
            EntryType::Stream => Self::Stream,
        }
    }

    fn entry_type(self) -> EntryType {
        match self {
            Self::File | Self::Layered => EntryType::File,
            Self::Dir => EntryType::Dir,
            Self::Symlink => EntryType::Symlink,
            Self::Hardlink => EntryType::Hardlink,
            Self::Char => EntryType::Char,
            Self::Block => EntryType::Block,
            Self::Stream => EntryType::Stream,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct EntryLine {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    #[serde(rename = "type")]
    kind: LineType,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    mode: String,
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(default)]
    mtime: Time,
    #[serde(default)]
    ctime: Time,
    #[serde(default, skip_serializing_if = "is_zero")]
    ino: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(rename = "in", skip_serializing_if = "Option::is_none")]
    segment: Option<SegmentRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<Position>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    parts: Vec<Part>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    layers: Vec<Layer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pages: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_layer: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_b64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hardlink: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hardlink_b64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leader_at: Option<Position>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rdev: Option<(u32, u32)>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sparse: Option<Vec<(u64, u64)>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    changed: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    racy: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    bad_pages: Vec<u32>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

fn split(bytes: Vec<u8>) -> (Option<String>, Option<String>) {
    match String::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(error) => (None, Some(BASE64.encode(error.as_bytes()))),
    }
}

fn join(text: Option<String>, b64: Option<String>) -> Result<Option<Vec<u8>>> {
    match (text, b64) {
        (Some(text), None) => Ok(Some(text.into_bytes())),
        (None, Some(b64)) => decode(&b64).map(Some),
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(Error::damaged("a name is given twice")),
    }
}

fn decode(b64: &str) -> Result<Vec<u8>> {
    BASE64.decode(b64).map_err(|error| Error::damaged("bad base64").with_source(error))
}

impl From<Entry> for EntryLine {
    fn from(entry: Entry) -> Self {
        let kind = LineType::of(&entry);
        let (path, path_b64) = split(entry.path);
        let (target, target_b64) = entry.target.map_or((None, None), split);
        let (hardlink, hardlink_b64) = entry.hardlink.map_or((None, None), split);
        Self {
            path,
            path_b64,
            kind,
            mode: format!("{:04o}", entry.mode),
            uid: entry.uid,
            gid: entry.gid,
            user: entry.user,
            group: entry.group,
            mtime: entry.mtime,
            ctime: entry.ctime,
            ino: entry.ino,
            size: entry.size,
            sha256: entry.sha256.map(hex::encode),
            segment: entry.segment,
            at: entry.at,
            parts: entry.parts,
            layers: entry.layers,
            pages: entry.pages,
            is_layer: entry.is_layer,
            target,
            target_b64,
            hardlink,
            hardlink_b64,
            leader_at: entry.leader_at,
            rdev: entry.rdev,
            xattrs: entry.xattrs.into_iter().map(|(k, v)| (k, BASE64.encode(v))).collect(),
            sparse: entry.sparse,
            changed: entry.changed,
            racy: entry.racy,
            fingerprint: entry.fingerprint,
            bad_pages: entry.bad_pages,
        }
    }
}

impl TryFrom<EntryLine> for Entry {
    type Error = Error;
    fn try_from(line: EntryLine) -> Result<Self> {
        let path = join(line.path, line.path_b64)?
            .ok_or_else(|| Error::damaged("an entry without a path"))?;
        let mode = u32::from_str_radix(&line.mode, 8)
            .ok()
            .filter(|mode| *mode <= 0o7777)
            .ok_or_else(|| Error::damaged("an entry with a bad mode"))?;
        let sha256 = line
            .sha256
            .map(|text| {
                let mut digest = [0; 32];
                hex::decode_to_slice(text, &mut digest)
                    .map_err(|_| Error::damaged("an entry with a bad SHA-256"))?;
                Ok::<_, Error>(digest)
            })
            .transpose()?;
        if line.mtime.1 > 999_999_999 || line.ctime.1 > 999_999_999 {
            return Err(Error::damaged("an entry with a bad time"));
        }
        check_layers(matches!(line.kind, LineType::Layered), &line.layers)?;
        let xattrs = line
            .xattrs
            .into_iter()
            .map(|(name, value)| Ok((name, decode(&value)?)))
            .collect::<Result<_>>()?;
        Ok(Self {
            path,
            kind: line.kind.entry_type(),
            mode,
            uid: line.uid,
            gid: line.gid,
            user: line.user,
            group: line.group,
            mtime: line.mtime,
            ctime: line.ctime,
            ino: line.ino,
            size: line.size,
            sha256,
            segment: line.segment,
            at: line.at,
            parts: line.parts,
            layers: line.layers,
            pages: line.pages,
            is_layer: line.is_layer,
            target: join(line.target, line.target_b64)?,
            hardlink: join(line.hardlink, line.hardlink_b64)?,
            leader_at: line.leader_at,
            rdev: line.rdev,
            xattrs,
            sparse: line.sparse,
            changed: line.changed,
            racy: line.racy,
            fingerprint: line.fingerprint,
            bad_pages: line.bad_pages,
        })
    }
}
