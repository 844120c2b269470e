//! What there is to back up: databases, tables, partitions with their versions.

use globset::{Glob, GlobSet, GlobSetBuilder};
use sha2::{Digest as _, Sha256};

use super::cluster::Cluster;
use super::said::Failure;
use super::source::Which;
use super::sql;
use super::version::Version;
use crate::error::{Error, Result};

/// Databases of StarRocks itself.
const OWN: &[&str] = &["information_schema", "_statistics_", "sys"];

/// A database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Database {
    /// Its name.
    pub name: String,
    /// Tables that a snapshot takes.
    pub tables: Vec<Table>,
    /// Views, with the statements that make them.
    pub views: Vec<(String, String)>,
    /// Materialized views, with the statements that make them.
    pub materialized: Vec<(String, String)>,
    /// What no snapshot takes, and why.
    pub left_out: Vec<(String, String)>,
}

/// A table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// The statement that makes it.
    pub definition: String,
    /// Its partitions.
    pub partitions: Vec<Partition>,
    /// Rows, if they were counted.
    pub rows: Option<u64>,
}

/// A partition as it was when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its name.
    pub name: String,
    /// Its id, which no other partition of the cluster ever has.
    pub id: i64,
    /// Its version, which every load raises.
    pub version: i64,
    /// Its replicas.
    pub replicas: u32,
}

impl Table {
    /// A digest of everything that a chain of snapshots must agree on: the definition without the
    /// list of partitions.
    pub fn schema(&self) -> String {
        let is_partition = |line: &str| {
            let line = line.trim_start().trim_start_matches('(');
            line.starts_with("PARTITION ") && !line.starts_with("PARTITION BY")
        };
        let mut digest = Sha256::new();
        for line in self.definition.lines().filter(|line| !is_partition(line)) {
            digest.update(line.trim().as_bytes());
            digest.update(b"\n");
        }
        hex::encode(digest.finalize())
    }

    /// Whether StarRocks makes and drops partitions by itself.
    pub fn is_dynamic(&self) -> bool {
        is_dynamic(&self.definition)
    }
}

/// Whether the definition of a table has StarRocks make and drop partitions by itself.
pub fn is_dynamic(definition: &str) -> bool {
    definition.contains("\"dynamic_partition.enable\" = \"true\"")
}

/// Databases that are meant, by name. One that is named and not there is an error.
pub fn databases(cluster: &mut Cluster, which: &Which) -> Result<Vec<String>> {
    let rows = cluster
        .ask(sql::DATABASES)
        .map_err(|failure| failure.into_error("look at the databases"))?;
    let mut there: Vec<String> = rows
        .iter()
        .map(|row| row.at(0).to_owned())
        .filter(|name| !OWN.contains(&name.as_str()))
        .collect();
    there.sort();
    match which {
        Which::Names(names) => {
            if let Some(missing) = names.iter().find(|name| !there.contains(name)) {
                return Err(Error::not_found(format!("there is no database `{missing}`"))
                    .hint(crate::policy::hint_at(missing, there.iter().map(String::as_str)))
                    .hint("a database without any right of the user is not shown either"));
            }
            let mut names = names.clone();
            names.sort();
            names.dedup();
            Ok(names)
        }
        Which::All { except } => {
            let except = globs(except)?;
            there.retain(|name| !except.is_match(name));
            Ok(there)
        }
    }
}

fn globs(patterns: &[String]) -> Result<GlobSet> {
    let bad = |error: globset::Error| Error::usage("`exclude` has no pattern").with_source(error);
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(Glob::new(pattern).map_err(bad)?);
    }
    set.build().map_err(bad)
}

/// Everything in a database. With `counts`, rows too.
pub fn look(
    cluster: &mut Cluster,
    version: Version,
    database: &str,
    counts: bool,
) -> Result<Database> {
    let doing = format!("look at database `{database}`");
    let failed = |failure: Failure| failure.into_error(&doing);
    let materialized: Vec<String> = match cluster.ask(&sql::materialized_views(database)) {
        Ok(rows) => rows.iter().map(|row| row.at(0).to_owned()).collect(),
        // Not every 2.5 has this view, and its materialized views are named as such in the other.
        Err(Failure::Said(_)) if !version.has_roles() => Vec::new(),
        Err(failure) => return Err(failed(failure)),
    };
    let listed = cluster.ask(&sql::tables(database)).map_err(failed)?;
    let mut found = Database { name: database.to_owned(), ..Database::default() };
    for row in listed.iter() {
        let (name, engine) = (row.text("TABLE_NAME").to_owned(), row.text("ENGINE"));
        if materialized.contains(&name) || row.text("TABLE_TYPE") == "MATERIALIZED VIEW" {
            let made =
                definition(cluster, &sql::create_materialized_view(database, &name), &doing)?;
            found.materialized.push((name, made));
        } else if row.text("TABLE_TYPE") == "VIEW" {
            let made = definition(cluster, &sql::create_view(database, &name), &doing)?;
            found.views.push((name, made));
        } else if ["STARROCKS", "OLAP", ""].contains(&engine.to_ascii_uppercase().as_str()) {
            look_at_table(cluster, version, &mut found, name, counts)?;
        } else {
            found.left_out.push((name, format!("its engine is {engine}")));
        }
    }
    found.tables.sort_by(|a, b| a.name.cmp(&b.name));
    found.views.sort();
    found.materialized.sort();
    Ok(found)
}

fn look_at_table(
    cluster: &mut Cluster,
    version: Version,
    found: &mut Database,
    name: String,
    counts: bool,
) -> Result<()> {
    let database = found.name.clone();
    let doing = format!("look at table `{database}`.`{name}`");
    let failed = |failure: Failure| failure.into_error(&doing);
    let listed = cluster.ask(&sql::partitions(&database, &name)).map_err(failed)?;
    let by_list = listed.columns.iter().any(|column| column.eq_ignore_ascii_case("List"));
    if by_list && !version.takes_lists() {
        let why = "it is partitioned by lists, of which StarRocks makes snapshots from 3.4 on";
        found.left_out.push((name, why.to_owned()));
        return Ok(());
    }
    let mut partitions = Vec::new();
    for row in listed.iter() {
        let (Some(id), Some(version)) = (row.number("PartitionId"), row.number("VisibleVersion"))
        else {
            return Err(Error::unsupported(format!("failed to {doing}"))
                .hint("`SHOW PARTITIONS` shows neither ids nor versions"));
        };
        partitions.push(Partition {
            name: row.text("PartitionName").to_owned(),
            id,
            version,
            replicas: row
                .number("ReplicationNum")
                .and_then(|number| u32::try_from(number).ok())
                .unwrap_or(1),
        });
    }
    let definition = definition(cluster, &sql::create_table(&database, &name), &doing)?;
    let rows = if counts { Some(count(cluster, &database, &name)?) } else { None };
    if partitions.is_empty() {
        // Its definition is all there is of it; a snapshot of no partition is none.
        found.left_out.push((name.clone(), "it has no partition; its definition is kept".into()));
    }
    found.tables.push(Table { name, definition, partitions, rows });
    Ok(())
}

/// Rows of a table, as of now.
pub fn count(cluster: &mut Cluster, database: &str, table: &str) -> Result<u64> {
    let doing = format!("count the rows of `{database}`.`{table}`");
    let rows =
        cluster.ask(&sql::count(database, table)).map_err(|failure| failure.into_error(&doing))?;
    rows.first()
        .and_then(|row| row.at(0).parse().ok())
        .ok_or_else(|| Error::failed(format!("failed to {doing}: no number came")))
}

fn definition(cluster: &mut Cluster, statement: &str, doing: &str) -> Result<String> {
    let rows = cluster.ask(statement).map_err(|failure| failure.into_error(doing))?;
    Ok(rows.first().map(|row| row.at(1).to_owned()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(definition: &str) -> Table {
        Table { definition: definition.to_owned(), ..Table::default() }
    }

    #[test]
    fn a_new_partition_is_no_new_definition() {
        let one = "CREATE TABLE `t` (\n  `a` int(11) NULL\n) ENGINE=OLAP\nPARTITION BY RANGE(`a`)\n\
                   (PARTITION p1 VALUES [(\"1\"), (\"2\")))\nDISTRIBUTED BY HASH(`a`) BUCKETS 3";
        let two = one.replace(")))", ")),\nPARTITION p2 VALUES [(\"2\"), (\"3\")))");
        assert_ne!(one, two);
        assert_eq!(table(one).schema(), table(&two).schema());
        assert_ne!(table(one).schema(), table(&one.replace("int", "bigint")).schema());
        assert_ne!(table(one).schema(), table(&one.replace("BUCKETS 3", "BUCKETS 4")).schema());
    }
}
