//! What `check` looks at: whether a dump would work, and what mends what is missing.

use super::client::Client;
use super::look;
use super::source::{MysqlSource, outside_transactions};
use crate::error::{ErrorKind, Result};
use crate::source::{ProbeNote, SourceProbe};

/// Databases looked into; of more the rest is not.
const MOST: usize = 50;

/// Rights that a dump needs on everything it dumps, and what for.
const RIGHTS: [(&str, &str); 6] = [
    ("SELECT", "rows"),
    ("SHOW VIEW", "views"),
    ("TRIGGER", "triggers"),
    ("EVENT", "events"),
    ("RELOAD", "a snapshot with counted rows and a known position; or `lock: false`"),
    ("REPLICATION SLAVE", "binary logs"),
];

/// Looks. Changes nothing.
pub fn probe(source: &MysqlSource) -> Result<SourceProbe> {
    let mut notes = Vec::new();
    let mut client = match source.settings().and_then(|settings| Client::open(&settings)) {
        Ok(client) => client,
        Err(error) => {
            return Ok(SourceProbe { notes: vec![ProbeNote::fault(error.advised())] });
        }
    };
    let (server, settings) = (client.server().clone(), client.settings().clone());
    let mode =
        if super::source::is_encrypted(&mut client)? { "encrypted" } else { "not encrypted" };
    notes.push(ProbeNote::fact(format!(
        "{} at {}, as `{}`, {mode}",
        server.name(),
        server.place,
        settings.user
    )));
    match source.tools(&client) {
        Ok(tools) => {
            notes.push(ProbeNote::fact(format!("{} is {}", tools.dump.display(), tools.text)));
        }
        Err(error) => notes.push(ProbeNote::fault(error.advised())),
    }
    rights(source, &mut client, &mut notes)?;
    let databases = match source.choice(&mut client) {
        Ok(databases) => databases,
        Err(error) => {
            notes.push(ProbeNote::fault(error.advised()));
            return Ok(SourceProbe { notes });
        }
    };
    let mut facts = Vec::new();
    for database in databases.iter().take(MOST) {
        facts.push(look::facts(&mut client, database)?);
    }
    let tables: usize = facts.iter().map(|facts| facts.tables.len()).sum();
    notes.push(ProbeNote::fact(format!(
        "{tables} tables in {} databases: {}",
        facts.len(),
        databases.iter().take(MOST).cloned().collect::<Vec<_>>().join(", ")
    )));
    notes.extend(outside_transactions(&facts).map(ProbeNote::warning));
    match look::position(&mut client) {
        Ok(Some(position)) => notes.push(ProbeNote::fact(format!("its binary log is at {}:{}", position.file, position.position))),
        Ok(None) => notes.push(ProbeNote::warning(
            "it writes no binary log: nothing between two dumps can be recovered (log_bin in its configuration)",
        )),
        Err(error) if source.config.lock => notes.push(ProbeNote::fault(error.advised())),
        Err(_) => {}
    }
    let users = client.rows("SELECT 1 FROM mysql.user LIMIT 1", "failed to look for users");
    if users.is_err_and(|error| error.kind() == ErrorKind::Denied) {
        notes.push(ProbeNote::warning(format!(
            "`{}` may not read mysql.user: users and their rights are not in the backup (GRANT SELECT ON mysql.* TO it)",
            settings.user
        )));
    }
    Ok(SourceProbe { notes })
}

/// Looks for the rights that this user has on the whole server. Those of roles and of single
/// databases are not looked through: what is missing is then a warning.
fn rights(source: &MysqlSource, client: &mut Client, notes: &mut Vec<ProbeNote>) -> Result<()> {
    let rows = client.rows("SHOW GRANTS", "failed to look at the user's rights")?;
    let global: Vec<String> = rows
        .into_iter()
        .filter_map(|row| row.into_iter().next().flatten())
        .filter(|grant| grant.contains(" ON *.* "))
        .collect();
    let has = |right: &str| {
        global.iter().any(|grant| {
            let list = grant.strip_prefix("GRANT ").and_then(|rest| rest.split(" ON *.* ").next());
            list.is_some_and(|list| {
                list.split(", ").any(|has| has == right || has == "ALL PRIVILEGES")
            })
        })
    };
    let missing: Vec<&(&str, &str)> = RIGHTS
        .iter()
        .filter(|(right, _)| *right != "RELOAD" || source.config.lock)
        .filter(|(right, _)| *right != "REPLICATION SLAVE" || source.config.binlog)
        .filter(|(right, _)| !has(right))
        .collect();
    if missing.is_empty() {
        notes.push(ProbeNote::fact("the user has the rights that a dump needs"));
        return Ok(());
    }
    let list = missing.iter().map(|(right, _)| *right).collect::<Vec<_>>().join(", ");
    let why = missing.iter().map(|(right, why)| format!("{right} for {why}")).collect::<Vec<_>>();
    let text = format!(
        "on the whole server the user lacks {}: GRANT {list} ON *.* TO the user, unless it has them in each database",
        why.join(", ")
    );
    let fault = missing.iter().any(|(right, _)| ["RELOAD", "REPLICATION SLAVE"].contains(right));
    notes.push(if fault { ProbeNote::fault(text) } else { ProbeNote::warning(text) });
    Ok(())
}
