//! Making a database as it was, and giving it its settings and rights.

use crate::error::{Error, Result};
use crate::source::postgres::Connection;
use crate::source::postgres::connection::{ident, literal};
use crate::source::postgres::dump::{Facts, Setting};

/// What an unfinished restore is told by, should it be killed.
pub const UNFINISHED: &str = "backstay: this restore is not finished";

/// The statement that makes a database as `facts` describe it, for a server of this version.
pub fn statement(
    facts: &Facts,
    name: &str,
    major: u32,
    owner: bool,
    tablespaces: &[String],
) -> String {
    let mut sql = format!(
        "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}",
        ident(name),
        literal(&facts.encoding),
        literal(&facts.collate),
        literal(&facts.ctype)
    );
    let locale = facts.locale.as_deref().unwrap_or_default();
    match facts.provider.as_str() {
        "i" => {
            sql.push_str(&format!(" LOCALE_PROVIDER icu ICU_LOCALE {}", literal(locale)));
            if let Some(rules) = &facts.icu_rules {
                sql.push_str(&format!(" ICU_RULES {}", literal(rules)));
            }
        }
        "b" => {
            sql.push_str(&format!(" LOCALE_PROVIDER builtin BUILTIN_LOCALE {}", literal(locale)));
        }
        _ if major >= 15 => sql.push_str(" LOCALE_PROVIDER libc"),
        _ => {}
    }
    if owner {
        sql.push_str(&format!(" OWNER {}", ident(&facts.owner)));
    }
    if facts.tablespace != "pg_default" && tablespaces.contains(&facts.tablespace) {
        sql.push_str(&format!(" TABLESPACE {}", ident(&facts.tablespace)));
    }
    sql
}

/// Makes the database, marked as unfinished.
pub fn create(
    connection: &mut Connection,
    facts: &Facts,
    name: &str,
    owner: bool,
    tablespaces: &[String],
) -> Result<()> {
    let major = connection.server().major();
    let sql = statement(facts, name, major, owner, tablespaces);
    connection.execute(&sql, &format!("failed to create database `{name}`")).map_err(|error| {
        error.hint(format!(
            "if this machine lacks the locale or encoding, create an empty database as you want it and give its name: --database {}=NAME",
            facts.database
        ))
    })?;
    let mark = format!("COMMENT ON DATABASE {} IS {}", ident(name), literal(UNFINISHED));
    connection.execute(&mark, "failed to mark the database as unfinished")
}

/// Gives a database what `pg_restore` leaves out: its comment, limit, settings and rights.
/// `connection` is with that database. Returns what could not be done.
pub fn finish(
    connection: &mut Connection,
    facts: &Facts,
    name: &str,
    created: bool,
    rights: bool,
) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    let database = ident(name);
    if created {
        let comment = facts.comment.as_deref().map_or("NULL".to_owned(), literal);
        connection.execute(
            &format!("COMMENT ON DATABASE {database} IS {comment}"),
            "failed to set the comment of the database",
        )?;
    }
    for setting in facts.settings.iter().filter(|setting| rights || setting.role.is_none()) {
        if let Err(error) = set(connection, setting, &database) {
            notes.push(format!("{} of `{name}` was not set: {}", setting.name, error.chain()));
        }
    }
    if let (true, Some(grants)) = (rights, &facts.grants) {
        let mut sql = format!("REVOKE ALL ON DATABASE {database} FROM PUBLIC;");
        for grant in grants {
            let role = grant.role.as_deref().map_or("PUBLIC".to_owned(), ident);
            let option = if grant.grantable { " WITH GRANT OPTION" } else { "" };
            // The server's own words, and not free text.
            let right: String = grant.right.chars().filter(char::is_ascii_alphabetic).collect();
            sql.push_str(&format!("GRANT {right} ON DATABASE {database} TO {role}{option};"));
        }
        if let Err(error) = connection.execute(&sql, "failed to grant rights on the database") {
            notes.push(error.chain());
        }
    }
    // Last: from here on the limit holds for this restore as well.
    if created && facts.connection_limit != -1 {
        let limit =
            format!("ALTER DATABASE {database} CONNECTION LIMIT {}", facts.connection_limit);
        connection.execute(&limit, "failed to set the connection limit")?;
    }
    Ok(notes)
}

/// Sets a setting to exactly the value that the server kept. Lists such as `search_path` are not
/// quoted as one text: the session takes the value, and the database takes it from the session.
fn set(connection: &mut Connection, setting: &Setting, database: &str) -> Result<()> {
    let name = ident_path(&setting.name);
    let whose = match &setting.role {
        Some(role) => format!("ALTER ROLE {} IN DATABASE {database}", ident(role)),
        None => format!("ALTER DATABASE {database}"),
    };
    let doing = format!("failed to set {}", setting.name);
    let value = literal(&setting.value);
    let from_session = format!(
        "SELECT pg_catalog.set_config({}, {value}, false); {whose} SET {name} FROM CURRENT; RESET {name}",
        literal(&setting.name)
    );
    match connection.execute(&from_session, &doing) {
        Ok(()) => Ok(()),
        // Some can be set for a session to come only.
        Err(first) => {
            connection.execute(&format!("{whose} SET {name} TO {value}"), &doing).map_err(|_| first)
        }
    }
}

/// `a.b` as `"a"."b"`.
fn ident_path(name: &str) -> String {
    name.split('.').map(ident).collect::<Vec<_>>().join(".")
}

/// Removes a database that could not be restored.
pub fn remove(connection: &mut Connection, name: &str) -> Result<()> {
    let force = if connection.server().major() >= 13 { " WITH (FORCE)" } else { "" };
    let sql = format!("DROP DATABASE IF EXISTS {}{force}", ident(name));
    connection.execute(&sql, &format!("failed to remove the unfinished database `{name}`"))
}

/// The tablespaces of the server.
pub fn tablespaces(connection: &mut Connection) -> Result<Vec<String>> {
    let rows = connection
        .text("SELECT spcname FROM pg_catalog.pg_tablespace", "failed to list the tablespaces")?;
    Ok(rows.into_iter().flatten().flatten().collect())
}

/// Refuses a server that cannot be written to.
pub fn check_writable(connection: &Connection) -> Result<()> {
    if connection.server().standby {
        return Err(Error::failed(format!(
            "the server at {} is a standby: nothing can be restored into it",
            connection.server().host
        ))
        .hint("restore to its primary"));
    }
    Ok(())
}
