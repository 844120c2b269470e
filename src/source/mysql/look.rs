//! Questions to a server: databases, tables, users, its position.

use std::collections::BTreeSet;

use super::client::{Cells, Client, ident, literal};
use super::files::{Facts, Position, Table};
use crate::error::{Error, ErrorKind, Result};

/// Databases that every server has, and makes itself.
const OWN: [&str; 4] = ["information_schema", "mysql", "performance_schema", "sys"];

/// Users that every server has, and makes itself.
const OWN_USERS: [&str; 5] =
    ["mariadb.sys", "mysql.sys", "mysql.session", "mysql.infoschema", "PUBLIC"];

fn text(cells: &mut std::vec::IntoIter<Option<String>>) -> String {
    cells.next().flatten().unwrap_or_default()
}

fn first(rows: Vec<Cells>) -> Vec<String> {
    rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect()
}

/// All databases but the server's own, by name.
pub fn databases(client: &mut Client) -> Result<Vec<String>> {
    let query = "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA ORDER BY BINARY SCHEMA_NAME";
    let all = first(client.rows(query, "failed to list the databases")?);
    Ok(all.into_iter().filter(|name| !OWN.contains(&name.to_ascii_lowercase().as_str())).collect())
}

/// What is known of a database, but for rows.
pub fn facts(client: &mut Client, database: &str) -> Result<Facts> {
    let doing = format!("failed to look at database `{database}`");
    let name = literal(database);
    let query = format!(
        "SELECT DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME \
         FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = {name}"
    );
    let row = client.rows(&query, &doing)?.into_iter().next();
    let mut cells = row
        .ok_or_else(|| Error::not_found(format!("there is no database `{database}`")))?
        .into_iter();
    let mut facts = Facts {
        version: 1,
        database: database.to_owned(),
        charset: text(&mut cells),
        collation: text(&mut cells),
        ..Facts::default()
    };
    let query = "SELECT ENGINE FROM information_schema.ENGINES WHERE TRANSACTIONS = 'YES'";
    let transactional: BTreeSet<String> = first(client.rows(query, &doing)?).into_iter().collect();
    let query = format!(
        "SELECT TABLE_NAME, ENGINE, TABLE_TYPE FROM information_schema.TABLES \
         WHERE TABLE_SCHEMA = {name} ORDER BY BINARY TABLE_NAME"
    );
    for row in client.rows(&query, &doing)? {
        let mut cells = row.into_iter();
        let (name, engine, kind) = (text(&mut cells), text(&mut cells), text(&mut cells));
        match kind.as_str() {
            "VIEW" => facts.views += 1,
            "BASE TABLE" | "SYSTEM VERSIONED" => facts.tables.push(Table {
                transactional: transactional.contains(&engine),
                name,
                engine,
                ..Table::default()
            }),
            _ => {}
        }
    }
    let mut definers = BTreeSet::new();
    let mut of = |table: &str, column: &str| -> Result<u64> {
        let query =
            format!("SELECT DEFINER FROM information_schema.{table} WHERE {column} = {name}");
        let found = first(client.rows(&query, &doing)?);
        let count = found.len() as u64;
        definers.extend(found);
        Ok(count)
    };
    of("VIEWS", "TABLE_SCHEMA")?;
    facts.routines = of("ROUTINES", "ROUTINE_SCHEMA")?;
    facts.triggers = of("TRIGGERS", "TRIGGER_SCHEMA")?;
    facts.events = of("EVENTS", "EVENT_SCHEMA")?;
    facts.definers = definers.into_iter().filter(|definer| !definer.is_empty()).collect();
    Ok(facts)
}

/// Rows of a table, and its checksum if asked for.
pub fn measure(
    client: &mut Client,
    stop: &dyn Fn() -> bool,
    database: &str,
    table: &str,
    checksum: bool,
) -> Result<(u64, Option<String>)> {
    let doing = format!("failed to count the rows of {database}.{table}");
    let name = format!("{}.{}", ident(database), ident(table));
    let rows = client.rows_unless(stop, &format!("SELECT COUNT(*) FROM {name}"), &doing)?;
    let count = first(rows).pop().and_then(|text| text.parse().ok());
    let count = count.ok_or_else(|| Error::failed(doing.clone()))?;
    if !checksum {
        return Ok((count, None));
    }
    let rows = client.rows_unless(stop, &format!("CHECKSUM TABLE {name} EXTENDED"), &doing)?;
    let sum = rows.into_iter().next().and_then(|row| row.into_iter().nth(1).flatten());
    Ok((count, sum))
}

/// The server's time, in UTC.
pub fn now(client: &mut Client) -> Result<String> {
    let query = "SELECT DATE_FORMAT(UTC_TIMESTAMP(6), '%Y-%m-%dT%H:%i:%s.%fZ')";
    client.value(query, "failed to ask for the time")
}

/// Whether the server writes a binary log.
pub fn writes_log(client: &mut Client) -> Result<bool> {
    Ok(client.value("SELECT @@GLOBAL.log_bin", "failed to ask for the binary log")? == "1")
}

/// Where the server's binary log ends. `None` if it writes none.
pub fn position(client: &mut Client) -> Result<Option<Position>> {
    const DOING: &str = "failed to ask for the position in the binary log";
    if !writes_log(client)? {
        return Ok(None);
    }
    let server = client.server().clone();
    // MySQL 8.4 knows the old name no more, and MariaDB not the new one.
    let statement = if !server.mariadb && server.version >= (8, 2, 0) {
        "SHOW BINARY LOG STATUS"
    } else {
        "SHOW MASTER STATUS"
    };
    let rows = client.rows(statement, DOING).map_err(|error| {
        if error.kind() != ErrorKind::Denied {
            return error;
        }
        error.hint(if server.mariadb {
            "GRANT BINLOG MONITOR ON *.* TO the user"
        } else {
            "GRANT REPLICATION CLIENT ON *.* TO the user"
        })
    })?;
    let Some(row) = rows.into_iter().next() else { return Ok(None) };
    let mut cells = row.into_iter();
    let file = text(&mut cells);
    let position: u64 = text(&mut cells).parse().map_err(|_| Error::failed(DOING))?;
    let gtid = if server.mariadb {
        let query = format!("SELECT BINLOG_GTID_POS({}, {position})", literal(&file));
        first(client.rows(&query, DOING)?).pop().unwrap_or_default()
    } else {
        client.value("SELECT @@GLOBAL.gtid_executed", DOING).unwrap_or_default()
    };
    Ok(Some(Position { file, position, gtid: gtid.replace('\n', "") }))
}

/// The users of the server and what they may do, as statements. `None`: this user may not see them.
pub fn users(client: &mut Client) -> Result<Option<String>> {
    const DOING: &str = "failed to list the users";
    let mariadb = client.server().mariadb;
    let column = if mariadb { "is_role" } else { "'N'" };
    let query = format!("SELECT User, Host, {column} FROM mysql.user ORDER BY User, Host");
    let rows = match client.rows(&query, DOING) {
        Ok(rows) => rows,
        Err(error) if error.kind() == ErrorKind::Denied => return Ok(None),
        Err(error) => return Err(error),
    };
    if !mariadb {
        // The hash of a password has any bytes.
        let _ = client.execute("SET SESSION print_identified_with_as_hex = ON", DOING);
    }
    let (mut roles, mut made, mut grants) = (String::new(), String::new(), String::new());
    for row in rows {
        let mut cells = row.into_iter();
        let (user, host, role) = (text(&mut cells), text(&mut cells), text(&mut cells) == "Y");
        if OWN_USERS.contains(&user.as_str()) {
            continue;
        }
        let name =
            if role { ident(&user) } else { format!("{}@{}", literal(&user), literal(&host)) };
        if role {
            roles.push_str(&format!("CREATE ROLE IF NOT EXISTS {name};\n"));
        } else {
            let statement = match client.value(&format!("SHOW CREATE USER {name}"), DOING) {
                Ok(statement) => statement,
                // Of host names, where the server looks none up.
                Err(error) if error.chain().contains("ERROR 1133") => {
                    made.push_str(&format!("-- {name}: no user to the server as it runs\n"));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let rest = statement.strip_prefix("CREATE USER ").unwrap_or(&statement).to_owned();
            made.push_str(&format!("CREATE USER IF NOT EXISTS {rest};\n"));
        }
        for grant in first(client.rows(&format!("SHOW GRANTS FOR {name}"), DOING)?) {
            grants.push_str(&format!("{};\n", without_password(&grant)));
        }
    }
    Ok(Some(format!(
        "-- Users and roles: those that are there already stay as they are, and get these rights.\n{roles}{made}{grants}"
    )))
}

/// A `GRANT` without the password that MariaDB repeats in it: a user who is there keeps theirs.
fn without_password(grant: &str) -> String {
    let Some(from) = outside(grant, " IDENTIFIED ") else { return grant.to_owned() };
    let (head, rest) = grant.split_at(from);
    let until = [" REQUIRE ", " WITH "].iter().filter_map(|word| outside(rest, word)).min();
    format!("{head}{}", &rest[until.unwrap_or(rest.len())..])
}

/// Where `word` stands outside of quotes.
fn outside(text: &str, word: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if quote.is_some() && c == '\\' {
            escaped = true;
        } else if quote == Some(c) {
            quote = None;
        } else if quote.is_none() && matches!(c, '\'' | '`' | '"') {
            quote = Some(c);
        } else if quote.is_none() && text[at..].starts_with(word) {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_left_out_of_grants() {
        for (grant, expected) in [
            ("GRANT SELECT ON *.* TO `a`@`%`", "GRANT SELECT ON *.* TO `a`@`%`"),
            (
                "GRANT USAGE ON *.* TO `a`@`%` IDENTIFIED BY PASSWORD '*AB'",
                "GRANT USAGE ON *.* TO `a`@`%`",
            ),
            (
                "GRANT ALL PRIVILEGES ON *.* TO `x IDENTIFIED y`@`%` IDENTIFIED VIA p USING 'a WITH b' OR s WITH GRANT OPTION",
                "GRANT ALL PRIVILEGES ON *.* TO `x IDENTIFIED y`@`%` WITH GRANT OPTION",
            ),
        ] {
            assert_eq!(without_password(grant), expected);
        }
    }
}
