//! Dumps of databases.

use super::Findings;
use super::sources::{absolute, check_connection, check_glob};
use crate::policy::mysql_dump::MysqlDump;
use crate::policy::postgres_dump::{Databases, PostgresDump};

/// What dumps of all servers have in common.
struct Common<'a> {
    connection: &'a str,
    databases: Option<&'a Databases>,
    exclude: &'a [String],
    /// What `databases` means if it is left out.
    default: &'a str,
    /// `exclude` means nothing where `databases` is left out.
    exclude_needs_all: bool,
    counts: bool,
    checksums: bool,
}

pub(super) fn check_postgres(findings: &mut Findings<'_>, name: &str, dump: &PostgresDump) {
    let at = ["sources", name, "postgres_dump"];
    let common = Common {
        connection: &dump.connection,
        databases: dump.databases.as_ref(),
        exclude: &dump.exclude,
        default: "the one of the connection",
        exclude_needs_all: true,
        counts: dump.counts,
        checksums: dump.checksums,
    };
    check(findings, at, &common);
    if dump.jobs == Some(0) {
        findings.error(&[at[0], at[1], at[2], "jobs"], "no jobs are allowed", "write 1 or more");
    }
    for (key, path) in [("scratch", &dump.scratch), ("programs", &dump.programs)] {
        if let Some(path) = path {
            absolute(findings, &[at[0], at[1], at[2], key], path);
        }
    }
}

pub(super) fn check_mysql(findings: &mut Findings<'_>, name: &str, dump: &MysqlDump) {
    let at = ["sources", name, "mysql_dump"];
    let common = Common {
        connection: &dump.connection,
        databases: dump.databases.as_ref(),
        exclude: &dump.exclude,
        default: "all",
        exclude_needs_all: false,
        counts: dump.counts,
        checksums: dump.checksums,
    };
    check(findings, at, &common);
    if dump.checksums && !dump.lock {
        findings.error(
            &[at[0], at[1], at[2], "lock"],
            "`checksums` needs the snapshot that `lock` makes",
            "remove one of both",
        );
    }
    if dump.binlog && !dump.lock {
        findings.error(
            &[at[0], at[1], at[2], "lock"],
            "binary logs go on from the position that `lock` finds out",
            "remove `lock: false`, or `binlog`",
        );
    }
    if let Some(path) = &dump.programs {
        absolute(findings, &[at[0], at[1], at[2], "programs"], path);
    }
}

fn check(findings: &mut Findings<'_>, at: [&str; 3], dump: &Common<'_>) {
    check_connection(findings, &[at[0], at[1], at[2], "connection"], dump.connection);
    if let Some(Databases::Names(names)) = dump.databases {
        if names.is_empty() {
            findings.error_at_key(
                &[at[0], at[1], at[2], "databases"],
                "no database",
                format!("name one, or leave `databases` out to dump {}", dump.default),
            );
        }
        for (index, database) in names.iter().enumerate() {
            let number = index.to_string();
            if names[..index].contains(database) {
                findings.error(
                    &[at[0], at[1], at[2], "databases", &number],
                    format!("`{database}` is named twice"),
                    "remove one",
                );
            }
        }
    }
    let all = match dump.databases {
        Some(Databases::All) => true,
        None => !dump.exclude_needs_all,
        Some(Databases::Names(_)) => false,
    };
    if !dump.exclude.is_empty() && !all {
        findings.error_at_key(
            &[at[0], at[1], at[2], "exclude"],
            "`exclude` goes with `databases: all`",
            "leave out of `databases` what is not wanted, or write `databases: all`",
        );
    }
    for (index, pattern) in dump.exclude.iter().enumerate() {
        let number = index.to_string();
        check_glob(findings, &[at[0], at[1], at[2], "exclude", &number], pattern);
    }
    if dump.checksums && !dump.counts {
        findings.error(
            &[at[0], at[1], at[2], "counts"],
            "`checksums` reads every row and `counts` is off",
            "remove one of both",
        );
    }
}
