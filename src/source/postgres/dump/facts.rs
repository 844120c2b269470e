//! What is known of a database besides its dump: enough to create it anew, and to tell whether a
//! restore has all of it.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::source::postgres::Connection;
use crate::source::postgres::connection::ident;

/// The content of `facts/NAME.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The version of this form: 1.
    pub version: u32,
    /// The database.
    pub database: String,
    /// `server_version_num`.
    pub server_version: u32,
    /// `server_version`.
    pub server: String,
    /// Whether it was a standby.
    pub standby: bool,
    /// The program that made the dump.
    pub pg_dump: String,
    /// The snapshot that the dump and the counts were taken in.
    pub snapshot: String,
    /// The WAL position when the snapshot was taken; on a standby what was replayed.
    pub lsn: Option<String>,
    /// When the snapshot was taken, by the server's clock.
    pub taken: String,
    /// When dump and counts were done, by the server's clock.
    pub ended: String,
    /// Its owner.
    pub owner: String,
    /// Its encoding.
    pub encoding: String,
    /// `LC_COLLATE`.
    pub collate: String,
    /// `LC_CTYPE`.
    pub ctype: String,
    /// `c` libc, `i` ICU, `b` builtin.
    pub provider: String,
    /// The ICU or builtin locale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
    /// Rules added to an ICU locale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icu_rules: Option<String>,
    /// The version of the collation that indexes were built with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collation_version: Option<String>,
    /// Its default tablespace.
    pub tablespace: String,
    /// -1: none.
    pub connection_limit: i32,
    /// Whether anybody may copy it.
    pub template: bool,
    /// Its comment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Bytes on the server's disk.
    pub bytes: u64,
    /// Rights, if they differ from the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grants: Option<Vec<Grant>>,
    /// `ALTER DATABASE SET` and `ALTER ROLE IN DATABASE SET`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<Setting>,
    /// Extensions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<Extension>,
    /// Large objects.
    pub large_objects: u64,
    /// Tables with rows of their own, by schema and name.
    pub tables: Vec<Table>,
}

/// A right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Who has it; everybody if `None`.
    pub role: Option<String>,
    /// `CONNECT`, `CREATE`, `TEMPORARY`.
    pub right: String,
    /// And may pass it on.
    pub grantable: bool,
}

/// A setting of the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// For this role only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Its name.
    pub name: String,
    /// Its value as the server keeps it.
    pub value: String,
}

/// An extension.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extension {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The schema it is in.
    pub schema: String,
}

/// A table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Whether a crash empties it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unlogged: bool,
    /// Rows, without those of its children; `None` if not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// A checksum over all rows, whatever their order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
}

impl Table {
    /// Its name for people.
    pub fn display(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    fn sql(&self) -> String {
        format!("{}.{}", ident(&self.schema), ident(&self.name))
    }
}

/// A row of text with a position that moves on.
struct Cells(std::vec::IntoIter<Option<String>>);

impl Cells {
    fn of(row: Vec<Option<String>>) -> Self {
        Self(row.into_iter())
    }

    fn maybe(&mut self) -> Option<String> {
        self.0.next().flatten()
    }

    fn text(&mut self) -> String {
        self.maybe().unwrap_or_default()
    }

    fn yes(&mut self) -> bool {
        self.maybe().is_some_and(|text| text == "t" || text == "true")
    }

    fn number<T: std::str::FromStr + Default>(&mut self) -> T {
        self.maybe().and_then(|text| text.parse().ok()).unwrap_or_default()
    }
}

/// What is known of the database that `connection` is with, but for rows. Columns that came with
/// some version are read through JSON, which has them or not.
pub fn look(connection: &mut Connection) -> Result<Facts> {
    const DOING: &str = "failed to read the properties of the database";
    let rows = connection.text(
        "SELECT d.datname, pg_catalog.pg_get_userbyid(d.datdba), \
         pg_catalog.pg_encoding_to_char(d.encoding), d.datcollate, d.datctype, \
         COALESCE(j.row ->> 'datlocprovider', 'c'), \
         COALESCE(j.row ->> 'datlocale', j.row ->> 'daticulocale'), \
         j.row ->> 'daticurules', j.row ->> 'datcollversion', t.spcname, d.datconnlimit, \
         d.datistemplate, pg_catalog.shobj_description(d.oid, 'pg_database'), \
         pg_catalog.pg_database_size(d.oid), d.datacl IS NOT NULL, \
         pg_catalog.to_char(pg_catalog.now(), 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
         (SELECT pg_catalog.count(*) FROM pg_catalog.pg_largeobject_metadata), \
         CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
         ELSE pg_catalog.pg_current_wal_lsn() END \
         FROM pg_catalog.pg_database d \
         JOIN pg_catalog.pg_tablespace t ON t.oid = d.dattablespace, \
         LATERAL (SELECT pg_catalog.to_jsonb(d) AS row) j \
         WHERE d.datname = pg_catalog.current_database()",
        DOING,
    )?;
    let row = rows.into_iter().next().ok_or_else(|| Error::failed(DOING))?;
    let mut cells = Cells::of(row);
    let server = connection.server().clone();
    let mut facts = Facts {
        version: 1,
        server_version: server.version,
        server: server.version_text,
        standby: server.standby,
        database: cells.text(),
        owner: cells.text(),
        encoding: cells.text(),
        collate: cells.text(),
        ctype: cells.text(),
        provider: cells.text(),
        locale: cells.maybe(),
        icu_rules: cells.maybe(),
        collation_version: cells.maybe(),
        tablespace: cells.text(),
        connection_limit: cells.number(),
        template: cells.yes(),
        comment: cells.maybe(),
        bytes: cells.number(),
        ..Facts::default()
    };
    let has_grants = cells.yes();
    facts.taken = cells.text();
    facts.large_objects = cells.number();
    facts.lsn = cells.maybe();
    if has_grants {
        facts.grants = Some(grants(connection)?);
    }
    facts.settings = settings(connection)?;
    facts.extensions = extensions(connection)?;
    facts.tables = tables(connection)?;
    Ok(facts)
}

fn grants(connection: &mut Connection) -> Result<Vec<Grant>> {
    let rows = connection.text(
        "SELECT CASE WHEN a.grantee <> 0 THEN pg_catalog.pg_get_userbyid(a.grantee) END, \
         a.privilege_type, a.is_grantable FROM pg_catalog.pg_database d, \
         pg_catalog.aclexplode(d.datacl) a WHERE d.datname = pg_catalog.current_database()",
        "failed to read the rights on the database",
    )?;
    let grant = |row| {
        let mut cells = Cells::of(row);
        Grant { role: cells.maybe(), right: cells.text(), grantable: cells.yes() }
    };
    Ok(rows.into_iter().map(grant).collect())
}

fn settings(connection: &mut Connection) -> Result<Vec<Setting>> {
    let rows = connection.text(
        "SELECT CASE WHEN s.setrole <> 0 THEN pg_catalog.pg_get_userbyid(s.setrole) END, c.setting \
         FROM pg_catalog.pg_db_role_setting s \
         JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase, \
         ROWS FROM (pg_catalog.unnest(s.setconfig)) WITH ORDINALITY c (setting, at) \
         WHERE d.datname = pg_catalog.current_database() ORDER BY 1 NULLS FIRST, c.at",
        "failed to read the settings of the database",
    )?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            let mut cells = Cells::of(row);
            let role = cells.maybe();
            let setting = cells.text();
            let (name, value) = setting.split_once('=')?;
            Some(Setting { role, name: name.to_owned(), value: value.to_owned() })
        })
        .collect())
}

fn extensions(connection: &mut Connection) -> Result<Vec<Extension>> {
    let rows = connection.text(
        "SELECT e.extname, e.extversion, n.nspname FROM pg_catalog.pg_extension e \
         JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace ORDER BY 1",
        "failed to list the extensions",
    )?;
    let extension = |row| {
        let mut cells = Cells::of(row);
        Extension { name: cells.text(), version: cells.text(), schema: cells.text() }
    };
    Ok(rows.into_iter().map(extension).collect())
}

/// Tables whose rows a dump has: those that are part of an extension are made by it.
fn tables(connection: &mut Connection) -> Result<Vec<Table>> {
    let rows = connection.text(
        "SELECT n.nspname, c.relname, c.relpersistence = 'u' FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'r' AND c.relpersistence <> 't' \
         AND n.nspname OPERATOR(pg_catalog.!~) '^pg_' AND n.nspname <> 'information_schema' \
         AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend x \
             WHERE x.classid = 'pg_catalog.pg_class'::pg_catalog.regclass \
             AND x.objid = c.oid AND x.deptype = 'e') \
         ORDER BY n.nspname::text COLLATE \"C\", c.relname::text COLLATE \"C\"",
        "failed to list the tables",
    )?;
    let table = |row| {
        let mut cells = Cells::of(row);
        Table {
            schema: cells.text(),
            name: cells.text(),
            unlogged: cells.yes(),
            ..Table::default()
        }
    };
    Ok(rows.into_iter().map(table).collect())
}

/// Counts the rows of `tables` where there are tables to count, and makes checksums if asked to.
pub fn count(connection: &mut Connection, tables: &mut [Table], checksums: bool) -> Result<()> {
    let standby = connection.server().standby;
    // A standby has no rows of unlogged tables.
    for table in tables.iter_mut().filter(|table| !(standby && table.unlogged)) {
        let (rows, checksum) = measure(connection, table, checksums)?;
        (table.rows, table.checksum) = (Some(rows), checksum);
    }
    Ok(())
}

/// Rows of one table, and their checksum if asked for: the sum of 64 bits of each row's MD5, which
/// depends neither on the order of rows nor on the server's version.
pub fn measure(
    connection: &mut Connection,
    table: &Table,
    checksum: bool,
) -> Result<(u64, Option<String>)> {
    let doing = format!("failed to count the rows of {}", table.display());
    let sum = if checksum {
        "COALESCE(pg_catalog.sum(('x' || pg_catalog.substr(pg_catalog.md5((backstay_row)::text), 1, 16))::bit(64)::bigint::numeric), 0)::text"
    } else {
        "NULL::text"
    };
    let query =
        format!("SELECT pg_catalog.count(*), {sum} FROM ONLY {} AS backstay_row", table.sql());
    let rows = connection.text(&query, &doing)?;
    let mut cells = Cells::of(rows.into_iter().next().unwrap_or_default());
    let count = cells.maybe().and_then(|text| text.parse().ok());
    Ok((count.ok_or_else(|| Error::failed(doing))?, cells.maybe()))
}
