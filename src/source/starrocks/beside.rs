//! What a snapshot leaves out: definitions, users and rights, settings.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::cluster::{Cluster, Facts};
use super::content::Database;
use super::rows::Rows;
use super::sql;
use crate::error::{Error, Result};

/// Where what belongs to the whole cluster lies.
pub const CLUSTER: &str = "cluster";
/// Where definitions lie.
pub const DATABASES: &str = "databases";
/// Statements that give users and roles their rights.
pub const GRANTS: &str = "cluster/grants.sql";

/// A file of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Its path.
    pub path: String,
    /// Its content.
    pub content: Vec<u8>,
}

/// Something that could not be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lacking {
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
}

/// A view, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Its name.
    pub name: String,
    /// It has rows of its own, which are not kept.
    pub materialized: bool,
    /// The statement that makes it.
    pub definition: String,
}

/// Where the views of a database are kept; no such file if there are none.
pub fn views_path(database: &str) -> String {
    format!("{DATABASES}/{}.views.json", file_name(database))
}

/// Its views.
pub fn views_of(database: &Database) -> Vec<View> {
    let of = |materialized: bool| {
        move |(name, definition): &(String, String)| View {
            name: name.clone(),
            materialized,
            definition: definition.clone(),
        }
    };
    let views = database.views.iter().map(of(false));
    views.chain(database.materialized.iter().map(of(true))).collect()
}

/// Asks for everything; what is refused is told, and the rest is taken.
pub struct Beside<'a> {
    cluster: &'a mut Cluster,
    /// What was taken.
    pub made: Vec<Made>,
    /// What was not.
    pub lacking: Vec<Lacking>,
}

impl<'a> Beside<'a> {
    /// Nothing yet.
    pub fn new(cluster: &'a mut Cluster) -> Self {
        Self { cluster, made: Vec::new(), lacking: Vec::new() }
    }

    /// What belongs to the whole cluster.
    pub fn cluster(&mut self, facts: &Facts) -> Result<()> {
        self.rows("frontends", sql::FRONTENDS)?;
        self.rows("backends", sql::BACKENDS)?;
        self.rows("frontend_config", "ADMIN SHOW FRONTEND CONFIG")?;
        self.rows("variables", "SHOW GLOBAL VARIABLES")?;
        self.rows("resource_groups", "SHOW RESOURCE GROUPS ALL")?;
        self.rows("colocation", "SHOW PROC '/colocation_group'")?;
        if facts.version.has_roles() {
            self.rows("backend_config", "SELECT * FROM information_schema.be_configs")?;
            self.rows("storage_volumes", "SHOW STORAGE VOLUMES")?;
            self.grants()?;
        } else {
            self.rows("grants", "SHOW ALL GRANTS")?;
        }
        self.catalogs()
    }

    /// What belongs to one database.
    pub fn database(&mut self, database: &Database) -> Result<()> {
        let place = format!("{DATABASES}/{}", file_name(&database.name));
        self.made.push(Made {
            path: format!("{place}.sql"),
            content: definitions(database).into_bytes(),
        });
        let views = views_of(database);
        if !views.is_empty() {
            let content = serde_json::to_vec_pretty(&views).map_err(|error| {
                Error::failed("failed to write definitions of views").with_source(error)
            })?;
            self.made.push(Made { path: views_path(&database.name), content });
        }
        self.rows_at(&format!("{place}.functions"), &sql::functions(&database.name))?;
        self.rows_at(&format!("{place}.routine_loads"), &sql::routine_loads(&database.name))
    }

    fn grants(&mut self) -> Result<()> {
        let mut script = String::new();
        let users = self.ask("users", "SHOW USERS")?;
        let roles = self.ask("roles", "SHOW ROLES")?;
        let roles = roles.iter().flat_map(Rows::iter).map(|row| row.at(0).to_owned());
        for role in roles.filter(|role| !is_own_role(role)).collect::<Vec<_>>() {
            let _ = writeln!(script, "CREATE ROLE IF NOT EXISTS {};", sql::name(&role));
            self.rights(&mut script, &format!("role {role}"), &sql::grants_of_role(&role))?;
        }
        let users = users.iter().flat_map(Rows::iter).map(|row| row.at(0).to_owned());
        for user in users.filter(|user| user != "'root'@'%'").collect::<Vec<_>>() {
            // Made without its password it would have none, and let everybody in.
            let _ = writeln!(script, "-- CREATE USER {user} IDENTIFIED BY '…';");
            self.rights(&mut script, &format!("user {user}"), &sql::grants_of_user(&user))?;
        }
        self.made.push(Made { path: GRANTS.to_owned(), content: script.into_bytes() });
        Ok(())
    }

    fn rights(&mut self, script: &mut String, whose: &str, statement: &str) -> Result<()> {
        let rows = self.ask(whose, statement)?;
        for row in rows.iter().flat_map(Rows::iter) {
            let grant = row.text("Grants");
            if !grant.is_empty() {
                let _ = writeln!(script, "{};", grant.trim_end_matches(';'));
            }
        }
        Ok(())
    }

    fn catalogs(&mut self) -> Result<()> {
        let Some(catalogs) = self.ask("catalogs", "SHOW CATALOGS")? else { return Ok(()) };
        let mut script = String::new();
        for row in catalogs.iter().filter(|row| row.text("Type") != "Internal") {
            let name = row.text("Catalog");
            let made = self.ask(&format!("catalog {name}"), &sql::create_catalog(name))?;
            if let Some(row) = made.as_ref().and_then(Rows::first) {
                let _ = writeln!(script, "{};", row.at(1).trim_end_matches(';'));
            }
        }
        self.made
            .push(Made { path: format!("{CLUSTER}/catalogs.sql"), content: script.into_bytes() });
        Ok(())
    }

    fn rows(&mut self, name: &str, statement: &str) -> Result<()> {
        self.rows_at(&format!("{CLUSTER}/{name}"), statement)
    }

    fn rows_at(&mut self, place: &str, statement: &str) -> Result<()> {
        let Some(rows) = self.ask(place, statement)? else { return Ok(()) };
        let mut content = as_json(&rows);
        content.push(b'\n');
        self.made.push(Made { path: format!("{place}.json"), content });
        Ok(())
    }

    /// `None`: it was refused.
    fn ask(&mut self, what: &str, statement: &str) -> Result<Option<Rows>> {
        match self.cluster.ask(statement) {
            Ok(rows) => Ok(Some(rows)),
            Err(super::Failure::Said(why)) => {
                self.lacking.push(Lacking { what: what.to_owned(), why });
                Ok(None)
            }
            Err(lost) => Err(lost.into_error(&format!("ask for {what}"))),
        }
    }
}

/// Roles that every cluster has.
fn is_own_role(role: &str) -> bool {
    ["root", "db_admin", "cluster_admin", "user_admin", "public", "security_admin"].contains(&role)
}

fn definitions(database: &Database) -> String {
    let mut script = format!("CREATE DATABASE IF NOT EXISTS {};\n", sql::name(&database.name));
    let _ = writeln!(script, "USE {};\n", sql::name(&database.name));
    let tables = database.tables.iter().map(|table| &table.definition);
    let views = database.views.iter().chain(&database.materialized).map(|(_, made)| made);
    for definition in tables.chain(views).filter(|definition| !definition.is_empty()) {
        let _ = writeln!(script, "{};\n", definition.trim_end().trim_end_matches(';'));
    }
    script
}

fn as_json(rows: &Rows) -> Vec<u8> {
    let one = |row: super::rows::Row<'_>| {
        let pairs = row.pairs().map(|(column, value)| {
            (column.to_owned(), value.map_or(Value::Null, |text| Value::String(text.to_owned())))
        });
        Value::Object(pairs.collect::<Map<String, Value>>())
    };
    let all = Value::Array(rows.iter().map(one).collect());
    serde_json::to_vec_pretty(&all).unwrap_or_default()
}

/// A name of a database as the name of a file.
pub fn file_name(name: &str) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_of_any_name_has_a_file() {
        assert_eq!(file_name("data_warehouse"), "data_warehouse");
        assert_eq!(file_name("a/../b"), "a%2F%2E%2E%2Fb");
    }
}
