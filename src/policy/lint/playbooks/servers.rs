//! The settings of actions that change what a server is.

use super::actions::{error, refs};
use super::{Findings, is_host};
use crate::policy::{
    lint::sources::absolute,
    server_action::{ClusterLogin, NotifyAction, PostgresAction, ServerFiles, StarRocksAction},
    source::SourceKind,
    starrocks::StarRocks,
};

pub(super) fn check_postgres(
    findings: &mut Findings<'_>,
    at: &[String],
    postgres: &PostgresAction,
) {
    let path = |more: &[&str]| of(at, &[&[postgres.name()], more].concat());
    if let Some(server) = postgres.files() {
        check_files(findings, &path(&["server"]), server);
    }
    match postgres {
        PostgresAction::Rewind { server, source: Some(source), .. } => {
            let path = path(&["source"]);
            let known = findings.policy.sources.get(source);
            if known.is_some_and(|source| source.kind() != SourceKind::PostgresCluster) {
                let what = format!("`{source}` is no cluster of PostgreSQL");
                error(findings, &path, &what, "name a source that is `postgres_cluster`");
            } else {
                findings.reference(&refs(&path), source, "sources", "source");
            }
            if server.host.is_some() {
                error(
                    findings,
                    &path,
                    "a backup is restored on this host, and the files are on another one",
                    "remove `source`, or carry the playbook out where the files are",
                );
            }
        }
        PostgresAction::StartStandby { primary, .. } if primary.contains("${") => error(
            findings,
            &path(&["primary"]),
            "this is written into the standby's configuration",
            "put the password into the password file of the user that the standby runs as",
        ),
        _ => {}
    }
}

fn check_files(findings: &mut Findings<'_>, at: &[String], server: &ServerFiles) {
    absolute(findings, &refs(&of(at, &["data"])), &server.data);
    for (key, path) in [("programs", &server.programs), ("config", &server.config)] {
        if let Some(path) = path {
            absolute(findings, &refs(&of(at, &[key])), path);
        }
    }
    if server.host.as_ref().is_some_and(|host| !is_host(host)) {
        error(findings, &of(at, &["host"]), "this is no host", "write HOST or USER@HOST");
    }
    if server.user.as_ref().is_some_and(|user| user.starts_with('-') || user.contains(' ')) {
        error(findings, &of(at, &["user"]), "this is no user", "write its name");
    }
}

pub(super) fn check_starrocks(
    findings: &mut Findings<'_>,
    at: &[String],
    starrocks: &StarRocksAction,
) {
    let path = |more: &[&str]| of(at, &[&[starrocks.name()], more].concat());
    for (key, cluster) in starrocks.clusters() {
        check_login(findings, &path(&[key]), cluster);
    }
    match starrocks {
        StarRocksAction::Fence { rights, of: whom, .. }
        | StarRocksAction::Activate { rights, of: whom, .. } => {
            for (index, right) in rights.iter().enumerate() {
                let fits = right.to_ascii_uppercase().contains(" ON ") && !right.contains(';');
                if !fits {
                    error(
                        findings,
                        &path(&["rights", &index.to_string()]),
                        "this is no right",
                        "write it as GRANT takes it: `INSERT, UPDATE, DELETE ON ALL TABLES IN DATABASE dw`",
                    );
                }
            }
            for (index, one) in whom.iter().enumerate() {
                let upper = one.to_ascii_uppercase();
                let fits = ["ROLE ", "USER "].iter().any(|word| upper.starts_with(word));
                if !fits || one.contains(';') {
                    error(
                        findings,
                        &path(&["of", &index.to_string()]),
                        "this is nobody who has rights",
                        "write `ROLE NAME`, or `USER 'NAME'@'%'`",
                    );
                }
            }
            for (key, empty) in [("rights", rights.is_empty()), ("of", whom.is_empty())] {
                if empty {
                    error(findings, &path(&[key]), "nothing is named", "name one at least");
                }
            }
        }
        StarRocksAction::ProveFenced { table, .. } => {
            check_table(findings, &path(&["table"]), table);
        }
        StarRocksAction::Compare { tables, .. } => {
            if tables.is_empty() {
                error(
                    findings,
                    &path(&["tables"]),
                    "no table is named",
                    "write `tables: [DATABASE.TABLE]`",
                );
            }
            for (index, table) in tables.iter().enumerate() {
                check_table(findings, &path(&["tables", &index.to_string()]), table);
            }
        }
    }
}

fn check_login(findings: &mut Findings<'_>, at: &[String], cluster: &ClusterLogin) {
    if cluster.frontends.is_empty() {
        error(
            findings,
            &of(at, &["frontends"]),
            "no frontend",
            "name at least one: `frontends: [fe1.example:9030]`",
        );
    }
    for (index, frontend) in cluster.frontends.iter().enumerate() {
        if StarRocks::address(frontend).is_none() {
            let what = format!("`{frontend}` is no frontend");
            let hint = "write HOST or HOST:PORT, with the port of the MySQL protocol (9030)";
            error(findings, &of(at, &["frontends", &index.to_string()]), &what, hint);
        }
    }
}

fn check_table(findings: &mut Findings<'_>, at: &[String], table: &str) {
    let fits = table.split_once('.').is_some_and(|(database, table)| {
        !database.is_empty() && !table.is_empty() && !table.contains('.')
    });
    if !fits {
        error(findings, at, "this is no table", "write DATABASE.TABLE");
    }
}

pub(super) fn check_notify(findings: &mut Findings<'_>, at: &[String], notify: &NotifyAction) {
    if notify.text.trim().is_empty() {
        error(findings, &of(at, &["text"]), "nobody is told anything", "write it in a sentence");
    }
    let Some(receivers) = &findings.policy.notify else {
        error(
            findings,
            at,
            "the policy names nobody who is to be told",
            "add `notify:` at the top, with a receiver",
        );
        return;
    };
    let named = receivers.receivers();
    for (index, name) in notify.to.iter().enumerate() {
        if !named.contains(&name.as_str()) {
            let what = format!("there is no receiver `{name}`");
            let hint = format!("the policy's `notify` has {}", named.join(", "));
            error(findings, &of(at, &["to", &index.to_string()]), &what, &hint);
        }
    }
}

fn of(at: &[String], more: &[&str]) -> Vec<String> {
    at.iter().cloned().chain(more.iter().map(|part| (*part).to_owned())).collect()
}
