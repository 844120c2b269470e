//! Putting a restored database in the place of the one in use.
//!
//! MySQL renames no database. It moves tables from one to another, many at once and as one step; but
//! no views, routines or events, and no table that has triggers.

use super::client::{Client, ident, literal};
use super::files::Facts;
use super::look;
use crate::error::{Error, Result};

/// What goes where.
pub struct Swap<'a> {
    /// The database in use.
    pub live: &'a str,
    /// The one that was restored.
    pub restored: &'a str,
    /// A database that is made for the tables that were in use.
    pub aside: &'a str,
}

/// Refuses where tables are not all there is.
pub fn check(client: &mut Client, live: &str, restored: &Facts) -> Result<()> {
    let there = look::facts(client, live)?;
    for facts in [&there, restored] {
        let more = [
            ("views", facts.views),
            ("routines", facts.routines),
            ("triggers", facts.triggers),
            ("events", facts.events),
        ];
        let more: Vec<String> = more
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(what, count)| format!("{count} {what}"))
            .collect();
        if !more.is_empty() {
            return Err(Error::unsupported(format!(
                "`{live}` cannot be swapped: it has {}, which MySQL does not move to another database",
                more.join(", ")
            ))
            .hint(format!(
                "restore beside it, --database {live}={live}_restored, and point the application there"
            )));
        }
    }
    Ok(())
}

impl Swap<'_> {
    /// Moves the tables, all of them in one step.
    pub fn run(&self, client: &mut Client) -> Result<()> {
        let Self { live, restored, aside } = self;
        let doing = format!("failed to put `{restored}` in the place of `{live}`");
        let old = look::facts(client, live)?;
        let new = look::facts(client, restored)?;
        let make = format!(
            "CREATE DATABASE {} CHARACTER SET {} COLLATE {}",
            ident(aside),
            ident(&old.charset),
            ident(&old.collation)
        );
        client.execute(&make, &doing)?;
        let moved = |from: &str, to: &str, facts: &Facts| -> Vec<String> {
            let table = |name: &str| {
                format!("{}.{name} TO {}.{name}", ident(from), ident(to), name = ident(name))
            };
            facts.tables.iter().map(|found| table(&found.name)).collect()
        };
        let all = [moved(live, aside, &old), moved(restored, live, &new)].concat();
        if !all.is_empty() {
            client.execute(&format!("RENAME TABLE {}", all.join(", ")), &doing)?;
        }
        let charset = format!(
            "ALTER DATABASE {} CHARACTER SET {} COLLATE {}",
            ident(live),
            ident(&new.charset),
            ident(&new.collation)
        );
        client.execute(&charset, &doing)?;
        // Only what is empty now is dropped.
        let query = format!(
            "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = {}",
            literal(restored)
        );
        if client.value(&query, &doing)? == "0" {
            client.execute(&format!("DROP DATABASE {}", ident(restored)), &doing)?;
        }
        Ok(())
    }
}
