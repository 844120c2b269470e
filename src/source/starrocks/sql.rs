//! Every statement that is sent to a frontend.
//!
//! Only forms that all versions from 2.5 to 4.2 take: the grammar of 3.4 still has them. A repository
//! is named and never a path; `type` is never sent, because StarRocks takes `incremental` for a full.

use std::fmt::Write as _;

/// A name in backticks.
pub fn name(text: &str) -> String {
    format!("`{}`", text.replace('`', "``"))
}

/// A text in quotes.
pub fn text(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// A table with the partitions that are meant; none: all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The table.
    pub table: String,
    /// Its partitions.
    pub partitions: Vec<String>,
}

fn parts(list: &[Part]) -> String {
    let one = |part: &Part| {
        let mut text = name(&part.table);
        if !part.partitions.is_empty() {
            let names: Vec<String> = part.partitions.iter().map(|one| name(one)).collect();
            let _ = write!(text, " PARTITION ({})", names.join(", "));
        }
        text
    };
    list.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn properties(list: &[(&str, String)]) -> String {
    let one = |(key, value): &(&str, String)| format!("{} = {}", quoted(key), quoted(value));
    list.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Properties are quoted with `"` everywhere in StarRocks' own texts.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Frontends with their roles and versions.
pub const FRONTENDS: &str = "SHOW FRONTENDS";
/// Backends.
pub const BACKENDS: &str = "SHOW BACKENDS";
/// Repositories.
pub const REPOSITORIES: &str = "SHOW REPOSITORIES";
/// Databases.
pub const DATABASES: &str = "SHOW DATABASES";
/// Whether storage is shared.
pub const RUN_MODE: &str = "ADMIN SHOW FRONTEND CONFIG LIKE 'run_mode'";

/// Tables and views of a database.
pub fn tables(database: &str) -> String {
    format!(
        "SELECT TABLE_NAME, TABLE_TYPE, ENGINE FROM information_schema.tables WHERE TABLE_SCHEMA = {}",
        text(database)
    )
}

/// Materialized views of a database.
pub fn materialized_views(database: &str) -> String {
    format!(
        "SELECT TABLE_NAME FROM information_schema.materialized_views WHERE TABLE_SCHEMA = {}",
        text(database)
    )
}

/// Partitions of a table with their versions.
pub fn partitions(database: &str, table: &str) -> String {
    format!("SHOW PARTITIONS FROM {}.{}", name(database), name(table))
}

/// The statement that makes a table.
pub fn create_table(database: &str, table: &str) -> String {
    format!("SHOW CREATE TABLE {}.{}", name(database), name(table))
}

/// The statement that makes a view.
pub fn create_view(database: &str, view: &str) -> String {
    format!("SHOW CREATE VIEW {}.{}", name(database), name(view))
}

/// The statement that makes a materialized view.
pub fn create_materialized_view(database: &str, view: &str) -> String {
    format!("SHOW CREATE MATERIALIZED VIEW {}.{}", name(database), name(view))
}

/// The rows of a table.
pub fn count(database: &str, table: &str) -> String {
    format!("SELECT COUNT(*) FROM {}.{}", name(database), name(table))
}

/// Makes a repository, or attaches one that lies there. What `properties` hold is secret.
pub fn create_repository(
    repository: &str,
    location: &str,
    read_only: bool,
    list: &[(&str, String)],
) -> String {
    format!(
        "CREATE {}REPOSITORY {} WITH BROKER ON LOCATION {} PROPERTIES ({})",
        if read_only { "READ ONLY " } else { "" },
        name(repository),
        quoted(location),
        properties(list)
    )
}

/// Makes StarRocks forget a repository; what lies in the bucket stays.
pub fn drop_repository(repository: &str) -> String {
    format!("DROP REPOSITORY {}", name(repository))
}

/// Begins a snapshot. `seconds` is when StarRocks gives up by itself.
pub fn backup(
    database: &str,
    label: &str,
    repository: &str,
    list: &[Part],
    seconds: u64,
) -> String {
    format!(
        "BACKUP SNAPSHOT {}.{} TO {} ON ({}) PROPERTIES ({})",
        name(database),
        name(label),
        name(repository),
        parts(list),
        properties(&[("timeout", seconds.to_string())])
    )
}

/// The last job of a database, if it is a backup.
pub fn show_backup(database: &str) -> String {
    format!("SHOW BACKUP FROM {}", name(database))
}

/// Ends a backup.
pub fn cancel_backup(database: &str) -> String {
    format!("CANCEL BACKUP FROM {}", name(database))
}

/// What a repository says of a snapshot. There is a row whether it exists or not.
pub fn show_snapshot(repository: &str, label: &str) -> String {
    format!("SHOW SNAPSHOT ON {} WHERE SNAPSHOT = {}", name(repository), text(label))
}

/// Begins a restore into `database`.
pub fn restore(
    database: &str,
    label: &str,
    repository: &str,
    list: &[Part],
    timestamp: &str,
    replicas: u32,
    seconds: u64,
) -> String {
    format!(
        "RESTORE SNAPSHOT {}.{} FROM {} ON ({}) PROPERTIES ({})",
        name(database),
        name(label),
        name(repository),
        parts(list),
        properties(&[
            ("backup_timestamp", timestamp.to_owned()),
            ("replication_num", replicas.to_string()),
            ("timeout", seconds.to_string()),
        ])
    )
}

/// The last job of a database, if it is a restore.
pub fn show_restore(database: &str) -> String {
    format!("SHOW RESTORE FROM {}", name(database))
}

/// Ends a restore.
pub fn cancel_restore(database: &str) -> String {
    format!("CANCEL RESTORE FROM {}", name(database))
}

/// Makes a database, which must not exist.
pub fn create_database(database: &str) -> String {
    format!("CREATE DATABASE {}", name(database))
}

/// Drops a partition for good.
pub fn drop_partition(database: &str, table: &str, partition: &str) -> String {
    format!(
        "ALTER TABLE {}.{} DROP PARTITION {} FORCE",
        name(database),
        name(table),
        name(partition)
    )
}

/// Makes a database the one that names without one are of.
pub fn use_database(database: &str) -> String {
    format!("USE {}", name(database))
}

/// Gives a database another name.
pub fn rename_database(database: &str, to: &str) -> String {
    format!("ALTER DATABASE {} RENAME {}", name(database), name(to))
}

/// Drops a database for good.
pub fn drop_database(database: &str) -> String {
    format!("DROP DATABASE {} FORCE", name(database))
}

/// Keeps partitions from being made and dropped by their age.
pub fn stop_dynamic_partitions(database: &str, table: &str) -> String {
    format!(
        "ALTER TABLE {}.{} SET ({})",
        name(database),
        name(table),
        properties(&[("dynamic_partition.enable", "false".to_owned())])
    )
}

/// Rights of a user; `user` is as `SHOW USERS` writes it.
pub fn grants_of_user(user: &str) -> String {
    format!("SHOW GRANTS FOR {user}")
}

/// Rights of a role.
pub fn grants_of_role(role: &str) -> String {
    format!("SHOW GRANTS FOR ROLE {}", name(role))
}

/// The statement that makes a catalog.
pub fn create_catalog(catalog: &str) -> String {
    format!("SHOW CREATE CATALOG {}", name(catalog))
}

/// Jobs that load by themselves.
pub fn routine_loads(database: &str) -> String {
    format!("SHOW ALL ROUTINE LOAD FROM {}", name(database))
}

/// Functions of a database.
pub fn functions(database: &str) -> String {
    format!("SHOW FULL FUNCTIONS FROM {}", name(database))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_stay_what_they_are() {
        assert_eq!(name("a`b"), "`a``b`");
        assert_eq!(text("it's \\ here"), "'it\\'s \\\\ here'");
        assert_eq!(quoted("say \"x\""), "\"say \\\"x\\\"\"");
    }

    #[test]
    fn a_snapshot_names_a_repository_tables_and_partitions() {
        let list = [
            Part { table: "orders".into(), partitions: vec!["p1".into(), "p2".into()] },
            Part { table: "items".into(), partitions: Vec::new() },
        ];
        assert_eq!(
            backup("dw", "l", "r", &list, 600),
            "BACKUP SNAPSHOT `dw`.`l` TO `r` ON (`orders` PARTITION (`p1`, `p2`), `items`) \
             PROPERTIES (\"timeout\" = \"600\")"
        );
    }
}
