//! Which partition is in which snapshot: what a restore goes by, and the next incremental.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::content::Database;
use super::sql::Part;
use crate::error::{Error, Result};

/// The file with the list.
pub const LISTING: &str = "partitions.json";

/// The largest that is read back.
pub const LISTING_LIMIT: u64 = 1 << 30;

/// Every partition of a backup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The form of this file.
    pub version: u32,
    /// Databases, by name.
    pub databases: BTreeMap<String, ListedDatabase>,
}

/// A database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedDatabase {
    /// Tables, by name.
    pub tables: BTreeMap<String, ListedTable>,
}

/// A table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedTable {
    /// Its id.
    pub id: i64,
    /// The digest of its definition without partitions.
    pub schema: String,
    /// Its rows, where nothing was loaded between the count and the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// StarRocks makes and drops its partitions by itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dynamic: bool,
    /// Partitions, by name.
    pub partitions: BTreeMap<String, ListedPartition>,
}

/// A partition, and the snapshot that has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedPartition {
    /// Its id.
    pub id: i64,
    /// The version that the snapshot has.
    pub version: i64,
    /// Its replicas at the source.
    pub replicas: u32,
    /// The snapshot.
    pub label: String,
}

/// What becomes of the tables of one database in an incremental backup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// What a new snapshot takes.
    pub take: Vec<Part>,
    /// What stays where it is, by table and partition.
    pub keep: BTreeMap<(String, String), ListedPartition>,
    /// Partitions and tables that are gone, in words.
    pub gone: Vec<String>,
}

impl Listing {
    /// The form that is written, and the newest that is read.
    pub const VERSION: u32 = 1;

    /// Reads it.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let listing: Self = serde_json::from_slice(bytes)
            .map_err(|error| Error::damaged(format!("{LISTING} is damaged")).with_source(error))?;
        if listing.version != Self::VERSION {
            return Err(Error::unsupported(format!(
                "{LISTING} has form {}; this program reads {}",
                listing.version,
                Self::VERSION
            ))
            .hint("use a newer backstay"));
        }
        Ok(listing)
    }
}

/// Everything of a database.
pub fn all_of(now: &Database) -> Changes {
    let take = now.tables.iter().filter(|table| !table.partitions.is_empty());
    Changes {
        take: take
            .map(|table| Part { table: table.name.clone(), partitions: Vec::new() })
            .collect(),
        ..Changes::default()
    }
}

/// Compares a database with what an earlier backup has of it. A partition stays where it is if its
/// name, id and version are the same and the definition of its table is.
pub fn changes(now: &Database, before: Option<&ListedDatabase>) -> Changes {
    let Some(before) = before else { return all_of(now) };
    let mut changes = Changes::default();
    for table in now.tables.iter().filter(|table| !table.partitions.is_empty()) {
        let known = before.tables.get(&table.name).filter(|known| known.schema == table.schema());
        let mut take = Vec::new();
        for partition in &table.partitions {
            let same = known
                .and_then(|known| known.partitions.get(&partition.name))
                .filter(|known| known.id == partition.id && known.version == partition.version);
            match same {
                Some(same) => {
                    let at = (table.name.clone(), partition.name.clone());
                    changes.keep.insert(at, same.clone());
                }
                None => take.push(partition.name.clone()),
            }
        }
        if take.len() == table.partitions.len() {
            // As a whole, so that what is added meanwhile is in it too.
            take.clear();
            changes.take.push(Part { table: table.name.clone(), partitions: take });
        } else if !take.is_empty() {
            changes.take.push(Part { table: table.name.clone(), partitions: take });
        }
    }
    for (name, known) in &before.tables {
        match now.tables.iter().find(|table| table.name == *name) {
            None => changes.gone.push(format!("table `{name}`")),
            Some(table) => {
                let lives = |partition: &String| {
                    table.partitions.iter().any(|living| living.name == *partition)
                };
                let gone = known.partitions.keys().filter(|partition| !lives(partition));
                changes.gone.extend(gone.map(|one| format!("partition `{one}` of `{name}`")));
            }
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::super::content::{Partition, Table};
    use super::*;

    fn table(name: &str, partitions: &[(&str, i64, i64)]) -> Table {
        let one = |(name, id, version): &(&str, i64, i64)| Partition {
            name: (*name).to_owned(),
            id: *id,
            version: *version,
            replicas: 1,
        };
        Table {
            name: name.to_owned(),
            definition: format!("CREATE TABLE `{name}`"),
            partitions: partitions.iter().map(one).collect(),
            rows: None,
        }
    }

    fn listed(tables: &[Table]) -> ListedDatabase {
        let one = |table: &Table| {
            let partitions = table.partitions.iter().map(|partition| {
                let listed = ListedPartition {
                    id: partition.id,
                    version: partition.version,
                    replicas: 1,
                    label: "base".to_owned(),
                };
                (partition.name.clone(), listed)
            });
            let listed = ListedTable {
                schema: table.schema(),
                partitions: partitions.collect(),
                ..ListedTable::default()
            };
            (table.name.clone(), listed)
        };
        ListedDatabase { tables: tables.iter().map(one).collect() }
    }

    #[test]
    fn only_what_has_another_id_or_version_is_taken() {
        let before = listed(&[
            table("orders", &[("p1", 1, 5), ("p2", 2, 5), ("p3", 3, 5), ("p4", 4, 5)]),
            table("gone", &[("gone", 9, 1)]),
            table("same", &[("same", 8, 2)]),
        ]);
        let now = Database {
            tables: vec![
                // p2 was loaded, p3 was truncated (another id), p4 was dropped, p5 is new.
                table("orders", &[("p1", 1, 5), ("p2", 2, 6), ("p3", 30, 5), ("p5", 5, 1)]),
                table("same", &[("same", 8, 2)]),
                table("new", &[("new", 10, 1)]),
            ],
            ..Database::default()
        };
        let changes = changes(&now, Some(&before));
        let taken = |name: &str| {
            changes.take.iter().find(|part| part.table == name).map(|part| part.partitions.clone())
        };
        assert_eq!(taken("orders"), Some(vec!["p2".into(), "p3".into(), "p5".into()]));
        assert_eq!(taken("same"), None);
        assert_eq!(taken("new"), Some(Vec::new()), "the whole table");
        assert_eq!(changes.keep.len(), 2);
        assert_eq!(changes.gone, ["table `gone`", "partition `p4` of `orders`"]);
    }

    #[test]
    fn another_definition_takes_the_whole_table() {
        let before = listed(&[table("orders", &[("p1", 1, 5), ("p2", 2, 5)])]);
        let mut other = table("orders", &[("p1", 1, 5), ("p2", 2, 5)]);
        other.definition.push_str(" (`b` int)");
        let now = Database { tables: vec![other], ..Database::default() };
        let changes = changes(&now, Some(&before));
        assert_eq!(changes.take, [Part { table: "orders".into(), partitions: Vec::new() }]);
        assert!(changes.keep.is_empty());
    }
}
