//! The commit of a backup. It is written last, and the backup exists from then on.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::entry::SegmentRef;
use super::snapshot::Snapshots;
use super::wal::{Lsn, WalRange, is_segment_size};
use crate::error::{Error, Result};
use crate::id::{BackupId, BackupKind, SourceAddress};

/// The version written into manifests, and the newest one read.
pub const VERSION: u32 = 1;

/// The largest manifest a reader accepts.
pub const SIZE_LIMIT: u64 = 64 << 20;

/// Whether a backup is a tree of files or one stream of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Files, directories, links.
    Tree,
    /// The output of a command.
    Stream,
}

/// How a segment's plain bytes are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SegmentType {
    /// A tar archive.
    Tar,
    /// A slice of a large file or a stream.
    Stream,
}

/// A stored object with its size and the SHA-256 of its stored bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredObject {
    /// Path relative to the source's directory.
    pub path: String,
    /// Stored bytes.
    pub size: u64,
    /// SHA-256 of the stored bytes, hex.
    pub sha256: String,
}

/// One segment the backup needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Path relative to the source's directory.
    pub path: String,
    /// Tar or stream.
    #[serde(rename = "type")]
    pub kind: SegmentType,
    /// Stored bytes.
    pub size: u64,
    /// SHA-256 of the stored bytes, hex.
    pub sha256: String,
    /// Version id the store gave the object, on versioned buckets.
    #[serde(default)]
    pub version: Option<String>,
    /// Bytes after decryption and decompression.
    pub plain: u64,
    /// Bytes of file content in it.
    pub content: u64,
    /// Of these, the bytes this backup wants.
    pub live: u64,
    /// Names in it that this backup does not want.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead: Option<StoredObject>,
}

impl Segment {
    /// The segment's name in index entries, from its path.
    pub fn reference(&self) -> Result<SegmentRef> {
        parse_data_path(&self.path)
            .and_then(|(backup, name)| {
                let number = name.split('.').next()?;
                SegmentRef::try_from(format!("{backup}/{number}")).ok()
            })
            .ok_or_else(|| {
                Error::damaged(format!(
                    "the manifest names `{}`, which is no segment",
                    self.path.escape_default()
                ))
            })
    }

    /// Whether less than half of the content is wanted: such segments are stored again.
    pub fn is_mostly_dead(&self) -> bool {
        self.live * 2 < self.content
    }
}

/// The index object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexObject {
    /// Path relative to the source's directory.
    pub path: String,
    /// Stored bytes.
    pub size: u64,
    /// SHA-256 of the stored bytes, hex.
    pub sha256: String,
    /// Number of entries.
    pub entries: u64,
}

/// Which repository keys the content is encrypted to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encryption {
    /// The key of the backup's own objects.
    pub key: String,
    /// The keys of all objects it needs, `key` among them.
    #[serde(default)]
    pub keys: Vec<String>,
}

/// An instant the source can be restored to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryPoint {
    /// The instant.
    pub time: Timestamp,
    /// The same as a position in a cluster's WAL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<Lsn>,
    /// Its timeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
    /// The cluster.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "as_text")]
    pub system_id: Option<u64>,
    /// The first transaction of a cluster that was not begun then, counted over all epochs.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "as_text")]
    pub next_xid: Option<u64>,
    /// The same as a position in a MySQL server's binary log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binlog: Option<BinlogPosition>,
}

/// A position in a server's binary log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BinlogPosition {
    /// The log's name.
    pub file: String,
    /// Bytes into it.
    pub position: u64,
    /// The transactions up to there, as the server writes them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub gtid: String,
}

impl RecoveryPoint {
    /// Whether a transaction began after it; `None` if that is not known. The server counts with
    /// 32 bits: a smaller number is meant as the nearest that it can be.
    pub fn is_before_xid(&self, xid: u64) -> Option<bool> {
        let next = self.next_xid?;
        if u32::try_from(xid).is_err() {
            return Some(xid >= next);
        }
        Some((xid as u32).wrapping_sub(next as u32) < 1 << 31)
    }

    /// An instant, without any position in a log.
    pub fn at(time: Timestamp) -> Self {
        Self { time, lsn: None, timeline: None, system_id: None, next_xid: None, binlog: None }
    }
}

/// WAL without which a backup cannot be used. It lies beside the backups of its source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeededWal {
    /// The cluster.
    #[serde(with = "as_text_always")]
    pub system_id: u64,
    /// Bytes in a segment.
    pub segment_size: u64,
    /// From where replay begins to where the backup is consistent.
    pub ranges: Vec<WalRange>,
    /// The last segment, if it was not complete yet: as far as it is needed it is in the backup
    /// itself, below `pg_wal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<String>,
}

impl NeededWal {
    /// Names of the segments of a range that must lie beside the backups.
    pub fn segments_of(&self, range: WalRange) -> impl Iterator<Item = String> {
        let (size, tail) = (self.segment_size, self.tail.clone());
        range
            .segments(size)
            .map(move |segment| segment.name(size))
            .filter(move |name| tail.as_ref() != Some(name))
    }

    /// Names of all segments that must lie beside the backups.
    pub fn segments(&self) -> impl Iterator<Item = String> {
        self.ranges.iter().flat_map(|range| self.segments_of(*range))
    }
}

/// What was found damaged at the source itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tainted {
    /// Files with damage.
    pub files: u64,
    /// Damaged pages in them.
    pub pages: u64,
}

/// What the next incremental backup of a PostgreSQL cluster needs to know of this one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFacts {
    /// Whether pages have checksums.
    pub checksums: bool,
    /// Files that are made of layers.
    #[serde(default)]
    pub layered: u64,
    /// The server's own list of files, for a server that makes increments itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listing: Option<StoredObject>,
    /// Digests of pages, for one that does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages: Option<StoredObject>,
}

impl ClusterFacts {
    /// Its objects.
    pub fn objects(&self) -> impl Iterator<Item = &StoredObject> {
        self.listing.iter().chain(&self.pages)
    }
}

/// Numbers that other programs' JSON would round.
mod as_text_always {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    pub(super) fn serialize<S: Serializer>(value: &u64, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(value)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<u64, D::Error> {
        String::deserialize(input)?.parse().map_err(D::Error::custom)
    }
}

/// The same, where there may be none.
mod as_text {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    #[expect(clippy::ref_option, reason = "serde passes a reference")]
    pub(super) fn serialize<S: Serializer>(value: &Option<u64>, out: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => out.collect_str(value),
            None => out.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        input: D,
    ) -> Result<Option<u64>, D::Error> {
        let text = Option::<String>::deserialize(input)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// What was counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Regular files and streams.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Further names of files.
    pub hardlinks: u64,
    /// Devices.
    pub devices: u64,
    /// Bytes of content of the whole backup.
    pub bytes: u64,
    /// Files whose content this backup stored.
    pub new_files: u64,
    /// Bytes of content this backup stored.
    pub new_bytes: u64,
    /// Bytes this backup added to the repository.
    pub stored_bytes: u64,
    /// Sockets and FIFOs left out.
    pub skipped: u64,
    /// Files that changed while they were read.
    pub changed: u64,
    /// Files that were listed and then gone.
    pub vanished: u64,
    /// Files that could not be read. Always 0 in what this program commits: it gives up instead.
    pub unreadable: u64,
}

/// Which program wrote the backup, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// `backstay 0.1.0`.
    pub tool: String,
    /// Host name.
    pub host: String,
    /// `linux x86_64`.
    pub system: String,
}

/// The manifest of a backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format version.
    #[serde(rename = "backstay_manifest")]
    pub version: u32,
    /// The backup.
    pub backup: BackupId,
    /// The stack.
    pub stack: String,
    /// The source.
    pub source: String,
    /// What kind of source it was: `directory`, `command`, `secrets`.
    pub source_kind: String,
    /// Tree or stream.
    pub form: Form,
    /// Full, incremental or snapshot.
    pub kind: BackupKind,
    /// The backup it was based on.
    #[serde(default)]
    pub base: Option<BackupId>,
    /// The run it was made in.
    pub run: String,
    /// The job it was made for.
    #[serde(default)]
    pub job: Option<String>,
    /// The keep rule in force.
    #[serde(default)]
    pub keep: Option<serde_json::Value>,
    /// The role epoch it was written under.
    #[serde(default)]
    pub epoch: u64,
    /// The site that wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// When reading began.
    pub start: Timestamp,
    /// When everything was stored.
    pub end: Timestamp,
    /// What it can be restored to.
    pub recovery_points: Vec<RecoveryPoint>,
    /// The server it was taken of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// WAL that it needs, for PostgreSQL clusters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal: Option<NeededWal>,
    /// What was damaged at the source already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tainted: Option<Tainted>,
    /// What the next incremental backup of a PostgreSQL cluster needs to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterFacts>,
    /// What StarRocks wrote beside the backup by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<Snapshots>,
    /// The key, if encrypted.
    #[serde(default)]
    pub encryption: Option<Encryption>,
    /// Every segment needed, own and older, in the order they are to be extracted.
    pub segments: Vec<Segment>,
    /// The index.
    pub index: IndexObject,
    /// How slices of large files go together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub large: Option<StoredObject>,
    /// The SHA256SUMS object.
    pub sums: StoredObject,
    /// What was counted.
    #[serde(default)]
    pub counts: Counts,
    /// Who wrote it.
    pub writer: Writer,
    /// Tells the writer's own create from another's.
    pub nonce: String,
}

/// What lies at a commit key.
#[derive(Debug, Clone, PartialEq)]
pub enum Commit {
    /// A backup.
    Backup(Box<Manifest>),
    /// A tombstone: the backup was given up before it was committed, and stays so.
    Aborted,
}

impl Commit {
    /// Parses what lies at `commits/<expected>.json` of `address`, and checks that it is what it
    /// stands for. `name` names the object in errors.
    pub fn parse(
        bytes: &[u8],
        address: &SourceAddress,
        expected: &BackupId,
        name: &str,
    ) -> Result<Self> {
        let damaged = |what: &str| Error::damaged(format!("manifest {name} {what}"));
        let value: serde_json::Value = serde_json::from_slice(bytes)
            .map_err(|error| damaged("is not JSON").with_source(error))?;
        if value.get("aborted").is_some() {
            return Ok(Self::Aborted);
        }
        match value.get("backstay_manifest").and_then(serde_json::Value::as_u64) {
            Some(version) if version == u64::from(VERSION) => {}
            Some(version) => {
                return Err(Error::unsupported(format!(
                    "manifest {name} has format {version}; this program reads {VERSION}"
                ))
                .hint("use a newer backstay"));
            }
            None => return Err(damaged("is not a backup manifest")),
        }
        // From the bytes and not from the value: positions in errors, and no second copy.
        let manifest: Manifest = serde_json::from_slice(bytes)
            .map_err(|error| damaged("is damaged").with_source(error))?;
        if manifest.backup != *expected
            || manifest.stack != address.stack
            || manifest.source != address.source
        {
            return Err(damaged(&format!(
                "belongs to {}/{} {}",
                manifest.stack, manifest.source, manifest.backup
            )));
        }
        manifest.check(name)?;
        Ok(Self::Backup(Box::new(manifest)))
    }
}

impl Manifest {
    /// The source.
    pub fn address(&self) -> SourceAddress {
        SourceAddress::new(&self.stack, &self.source)
    }

    /// Whether objects are encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.encryption.is_some()
    }

    /// Bytes stored for this backup alone and together with what it shares.
    pub fn stored_total(&self) -> u64 {
        self.objects().fold(0, |sum, object| sum.saturating_add(object.1))
    }

    /// Every object the backup needs: path, size and SHA-256; each once.
    pub fn objects(&self) -> impl Iterator<Item = (&str, u64, &str)> {
        std::iter::once((self.index.path.as_str(), self.index.size, self.index.sha256.as_str()))
            .chain(self.large.iter().map(StoredObject::triple))
            .chain(self.segments.iter().filter_map(|s| s.dead.as_ref()).map(StoredObject::triple))
            .chain(self.segments.iter().map(|s| (s.path.as_str(), s.size, s.sha256.as_str())))
            .chain(self.beside().map(StoredObject::triple))
            .chain(std::iter::once(self.sums.triple()))
    }

    /// Objects that only the next incremental needs.
    pub fn beside(&self) -> impl Iterator<Item = &StoredObject> {
        let listing = self.snapshots.iter().filter_map(|snapshots| snapshots.listing.as_ref());
        self.cluster.iter().flat_map(ClusterFacts::objects).chain(listing)
    }

    /// What SHA256SUMS lists, in its order. What only the next incremental needs stands there if
    /// this backup has files made of layers: it keeps who does not know of them from restoring it.
    pub fn summed(&self) -> impl Iterator<Item = (&str, &str)> {
        let layered = self.cluster.as_ref().is_some_and(|cluster| cluster.layered > 0);
        self.objects()
            .map(|(path, _, sha256)| (path, sha256))
            .filter(|(path, _)| *path != self.sums.path)
            .filter(move |(path, _)| layered || self.beside().all(|object| object.path != *path))
    }

    /// The last tree segment: directories, and names no list can hold. Never referred to by a
    /// later backup, unless that one shares everything.
    pub fn last_tree_segment(&self) -> Option<&Segment> {
        self.segments.iter().rev().find(|segment| segment.kind == SegmentType::Tar)
    }

    /// Segments by the name that index entries use.
    pub fn segments_by_reference(&self) -> Result<BTreeMap<SegmentRef, &Segment>> {
        self.segments.iter().map(|segment| Ok((segment.reference()?, segment))).collect()
    }

    fn check(&self, name: &str) -> Result<()> {
        let damaged = |what: String| Error::damaged(format!("manifest {name} {what}"));
        for (path, _, sha256) in self.objects() {
            if parse_data_path(path).is_none() {
                return Err(damaged(format!("names the object `{}`", path.escape_default())));
            }
            if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(damaged(format!("has no SHA-256 for {path}")));
            }
        }
        if self.backup.kind() != self.kind {
            return Err(damaged(format!("says it is {}", self.kind)));
        }
        if self.segments_by_reference()?.len() != self.segments.len() {
            return Err(damaged("names a segment twice".into()));
        }
        if self.wal.as_ref().is_some_and(|wal| {
            !is_segment_size(wal.segment_size) || wal.ranges.iter().any(|r| r.stop < r.start)
        }) {
            return Err(damaged("needs WAL that cannot be".into()));
        }
        if self.snapshots.as_ref().is_some_and(|snapshots| !snapshots.is_sane()) {
            return Err(damaged("needs snapshots that cannot be".into()));
        }
        if let Some(path) = self.misplaced() {
            return Err(damaged(format!("names {path} where it cannot be")));
        }
        let encrypted = self.objects().any(|(path, _, _)| path.strip_suffix(".age").is_some());
        let known = self.encryption.as_ref().map(|e| e.keys.contains(&e.key));
        if known == Some(false) || encrypted != known.is_some() {
            return Err(damaged("does not say which keys it needs".into()));
        }
        Ok(())
    }

    /// A path that is not of its field's type, or belongs to a backup that this one cannot refer
    /// to: a later one, or any other for a full.
    fn misplaced(&self) -> Option<&str> {
        let is = |path: &str, right: &dyn Fn(&str) -> bool| {
            parse_data_path(path).is_some_and(|(backup, name)| {
                let older = backup < self.backup && self.kind == BackupKind::Incremental;
                (older || backup == self.backup) && right(name)
            })
        };
        let segment_is = |segment: &Segment| {
            let tar = segment.kind == SegmentType::Tar;
            is(&segment.path, &|name| {
                name.as_bytes()[0].is_ascii_digit() && name.contains(".tar.") == tar
            })
        };
        let dead_is = |segment: &Segment, dead: &StoredObject| {
            let of = segment.reference().map(|reference| reference.to_string().replace('/', "-"));
            of.is_ok_and(|of| is(&dead.path, &|name| name.starts_with(&format!("dead-{of}."))))
        };
        if !is(&self.index.path, &|name| name.starts_with("index.")) {
            return Some(&self.index.path);
        }
        let beside_is = |object: &StoredObject| {
            object.path.strip_prefix(&format!("data/{}/", self.backup)).is_some_and(|name| {
                name.starts_with("backup_manifest.") || name.starts_with("pages.")
            })
        };
        if let Some(object) = self.beside().find(|object| !beside_is(object)) {
            return Some(&object.path);
        }
        let large =
            self.large.as_ref().filter(|l| !is(&l.path, &|name| name.starts_with("large.")));
        if let Some(large) = large {
            return Some(&large.path);
        }
        if self.sums.path != format!("data/{}/SHA256SUMS", self.backup) {
            return Some(&self.sums.path);
        }
        self.segments.iter().find_map(|segment| match &segment.dead {
            _ if !segment_is(segment) => Some(segment.path.as_str()),
            Some(dead) if !dead_is(segment, dead) => Some(dead.path.as_str()),
            _ => None,
        })
    }
}

impl StoredObject {
    fn triple(&self) -> (&str, u64, &str) {
        (&self.path, self.size, &self.sha256)
    }
}

/// The backup and the file name of `data/<backup>/<name>`; `None` for anything else.
pub fn parse_data_path(path: &str) -> Option<(BackupId, &str)> {
    let (backup, name) = path.strip_prefix("data/")?.split_once('/')?;
    let backup = BackupId::parse(backup).ok()?;
    let known = name == "SHA256SUMS"
        || name.strip_suffix(".age").unwrap_or(name).strip_suffix(".zst").is_some_and(|stem| {
            let number = |text: &str| text.len() == 6 && text.bytes().all(|b| b.is_ascii_digit());
            matches!(stem, "index" | "large" | "backup_manifest" | "pages")
                || number(stem.strip_suffix(".tar").unwrap_or(stem))
                || stem.strip_prefix("dead-").is_some_and(|rest| {
                    rest.rsplit_once('-')
                        .is_some_and(|(b, n)| BackupId::parse(b).is_ok() && number(n))
                })
        });
    known.then_some((backup, name))
}
