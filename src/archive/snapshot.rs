//! Snapshots that StarRocks writes into a bucket by itself: names of objects, and `__info_`.
//!
//! Follows `BackupJobInfo.toJson` and `Repository` of StarRocks 2.5 to 4.2. What is not known here is
//! passed over.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::manifest::StoredObject;
use crate::error::{Error, Result};

/// The largest `__info_` that is read: some two million tablet files.
pub const INFO_LIMIT: u64 = 512 << 20;

/// The commit of a snapshot is called so, with its timestamp behind.
pub const INFO: &str = "__info_";
/// The definitions of a snapshot's tables.
pub const META: &str = "__meta";
/// What StarRocks knows a repository by.
pub const REPOSITORY_INFO: &str = "__repo_info";

/// What a backup has beside its own objects.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshots {
    /// What StarRocks calls the repository.
    pub repository: String,
    /// The snapshots it needs, own and older, by database and age.
    pub list: Vec<Snapshot>,
    /// Which partition is in which of them, for the next incremental.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listing: Option<StoredObject>,
}

/// One snapshot of a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The database.
    pub database: String,
    /// Its name in the repository.
    pub label: String,
    /// What a restore has to name beside the label.
    pub timestamp: String,
    /// Objects below its directory.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many of its partitions the backup wants.
    pub partitions: u64,
}

impl Snapshots {
    /// The directory of the repository, relative to the source.
    pub fn directory(&self) -> String {
        repository_directory(&self.repository)
    }

    /// The directories of the snapshots, relative to the source; each ends in a slash.
    pub fn directories(&self) -> impl Iterator<Item = (&Snapshot, String)> {
        self.list.iter().map(|one| (one, format!("{}/", self.directory_of(&one.label))))
    }

    /// The directory of a snapshot, relative to the source.
    pub fn directory_of(&self, label: &str) -> String {
        snapshot_directory(&self.repository, label)
    }

    /// Whether names are such that keys can be made of them.
    pub fn is_sane(&self) -> bool {
        is_name(&self.repository)
            && self.list.iter().all(|one| {
                is_name(&one.label)
                    && !one.timestamp.is_empty()
                    && one.timestamp.bytes().all(|b| b.is_ascii_digit() || b == b'-')
            })
    }
}

/// Where StarRocks writes, relative to the source.
pub const DIRECTORY: &str = "starrocks";

/// The directory of a repository, relative to the source.
pub fn repository_directory(repository: &str) -> String {
    format!("{DIRECTORY}/__starrocks_repository_{repository}")
}

/// The directory of a snapshot, relative to the source.
pub fn snapshot_directory(repository: &str, label: &str) -> String {
    format!("{}/__ss_{label}", repository_directory(repository))
}

/// Whether it may be the name of a repository or a snapshot of ours.
pub fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 128
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// A name in a bucket, apart from the MD5 of the content that it ends in.
pub fn split_digest(name: &str) -> Option<(&str, &str)> {
    let (name, digest) = name.rsplit_once('.')?;
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (digest.len() == 32 && digest.bytes().all(hex) && !name.is_empty()).then_some((name, digest))
}

/// What `__info_` says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Info {
    /// The label.
    pub name: String,
    /// The database.
    pub database: String,
    /// The database's id.
    #[serde(default)]
    pub id: i64,
    /// When the job was made, in milliseconds.
    #[serde(default)]
    pub backup_time: i64,
    /// `succeed`.
    pub backup_result: String,
    /// Tables by name.
    #[serde(default)]
    pub backup_objects: BTreeMap<String, InfoTable>,
}

/// A table in `__info_`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct InfoTable {
    /// Its id.
    #[serde(default)]
    pub id: i64,
    /// Partitions by name.
    #[serde(default)]
    pub partitions: BTreeMap<String, InfoPartition>,
}

/// A partition in `__info_`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InfoPartition {
    /// Its id.
    #[serde(default)]
    pub id: i64,
    /// The version that was taken.
    #[serde(default)]
    pub version: i64,
    /// Rollups, the table's own index among them.
    #[serde(default)]
    pub indexes: BTreeMap<String, InfoIndex>,
    /// Physical partitions, where there are several.
    #[serde(default)]
    pub sub_partitions: BTreeMap<String, Self>,
}

/// An index in `__info_`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct InfoIndex {
    /// Its id.
    #[serde(default)]
    pub id: i64,
    /// Files of each tablet, with their digests.
    #[serde(default)]
    pub tablets: BTreeMap<String, Vec<String>>,
}

impl Info {
    /// Reads it; `name` names the object in errors.
    pub fn parse(bytes: &[u8], name: &str) -> Result<Self> {
        serde_json::from_slice(bytes)
            .map_err(|error| Error::damaged(format!("{name} is damaged")).with_source(error))
    }

    /// Every tablet: its id, and where its files should be below the snapshot's directory, with
    /// their names.
    pub fn tablets(&self) -> Vec<(&str, String, &[String])> {
        let mut found = Vec::new();
        for table in self.backup_objects.values() {
            for partition in table.partitions.values() {
                tablets_of(self.id, table.id, partition, &mut found);
            }
        }
        found
    }

    /// How many partitions it has.
    pub fn partitions(&self) -> u64 {
        self.backup_objects.values().map(|table| table.partitions.len() as u64).sum()
    }
}

fn tablets_of<'a>(
    database: i64,
    table: i64,
    partition: &'a InfoPartition,
    found: &mut Vec<(&'a str, String, &'a [String])>,
) {
    for index in partition.indexes.values() {
        for (tablet, files) in &index.tablets {
            let place = format!(
                "__ss_content/__db_{database}/__tbl_{table}/__part_{}/__idx_{}/__{tablet}",
                partition.id, index.id
            );
            found.push((tablet, place, files));
        }
    }
    for physical in partition.sub_partitions.values() {
        // One level: what lies deeper was written by nobody.
        if physical.sub_partitions.is_empty() {
            tablets_of(database, table, physical, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = r#"{"name":"l","database":"d","id":10,"backup_time":1,"meta_version":1,
        "starrocks_meta_version":4,"backup_result":"succeed","later":{"x":1},
        "backup_objects":{"t":{"id":20,"partitions":{
          "p":{"id":30,"version":7,"version_hash":0,"indexes":{"t":{"id":40,"schema_hash":1,
            "tablets":{"50":["50.hdr.0123456789abcdef0123456789abcdef"]},"tablets_order":["50"]}},
            "subPartitions":{}},
          "q":{"id":31,"version":2,"indexes":{},"subPartitions":{
            "32":{"id":32,"version":2,"indexes":{"t":{"id":41,"tablets":{"51":[]}}}}}}}}}}"#;

    #[test]
    fn info_tells_versions_and_tablets() {
        let info = Info::parse(INFO.as_bytes(), "x").expect("well formed");
        assert_eq!(info.backup_objects["t"].partitions["p"].version, 7);
        let tablets = info.tablets();
        assert_eq!(tablets[0].1, "__ss_content/__db_10/__tbl_20/__part_30/__idx_40/__50");
        assert_eq!(tablets[1].1, "__ss_content/__db_10/__tbl_20/__part_32/__idx_41/__51");
        assert_eq!(info.partitions(), 2);
        assert!(Info::parse(b"{\"name\":1}", "x").is_err());
    }

    #[test]
    fn names_end_in_a_digest() {
        let digest = "0123456789abcdef0123456789abcdef";
        let name = format!("0200_0.dat.{digest}");
        assert_eq!(split_digest(&name), Some(("0200_0.dat", digest)));
        assert_eq!(split_digest("0200_0.dat.part"), None);
        assert_eq!(split_digest(&format!(".{digest}")), None);
        assert!(is_name("bs_1") && !is_name("a/b") && !is_name(""));
    }
}
