//! Sources: paths, globs, secrets, connections.

use std::path::Path;

use globset::Glob;

use super::{
    Findings, dumps, programs,
    repositories::{check_key_material, check_s3},
    starrocks,
};
use crate::policy::{
    bucket::BucketSource,
    redact::has_secret_within,
    repository::S3Repository,
    source::{DirectorySource, PostgresCluster, Source, SourceSpec},
};

pub(super) fn check(findings: &mut Findings<'_>) {
    let policy = findings.policy;
    if findings.names("sources").is_empty() {
        findings.error_at_key(
            &["sources"],
            "no source: there is nothing to back up",
            "add one: `sources: { config: { directory: { path: /etc/app } } }`",
        );
    }
    for (name, source) in &policy.sources {
        if let Some(repository) = &source.repository {
            let path = ["sources", name, "repository"];
            findings.reference(&path, repository, "repositories", "repository");
        }
        if source.host.as_deref().is_some_and(|host| host.trim().is_empty()) {
            findings.error(
                &["sources", name, "host"],
                "the host has no name",
                "write its host name, or leave `host` out",
            );
        }
        match &source.spec {
            SourceSpec::Directory(directory) => check_directory(findings, name, directory),
            SourceSpec::Command(command) => programs::check(findings, name, command),
            SourceSpec::Secrets(secrets) => check_secrets(findings, name, source, secrets.len()),
            SourceSpec::PostgresCluster(cluster) => check_cluster(findings, name, cluster),
            SourceSpec::PostgresDump(dump) => dumps::check_postgres(findings, name, dump),
            SourceSpec::Bucket(bucket) => check_bucket(findings, name, bucket),
            SourceSpec::MysqlDump(dump) => dumps::check_mysql(findings, name, dump),
            SourceSpec::Sqlite(sqlite) => {
                let at = ["sources", name, "sqlite"];
                absolute(findings, &[at[0], at[1], at[2], "path"], &sqlite.path);
                if let Some(scratch) = &sqlite.scratch {
                    absolute(findings, &[at[0], at[1], at[2], "scratch"], scratch);
                }
            }
            SourceSpec::StarRocks(starrocks) => starrocks::check(findings, name, starrocks),
        }
    }
}

pub(super) fn absolute(findings: &mut Findings<'_>, path: &[&str], written: &Path) {
    let text = written.display().to_string();
    let hint = if text.starts_with('~') || text.contains('$') {
        "`~` and variables are not replaced: write the whole path, starting with `/`"
    } else {
        "write the whole path, starting with `/`: a daemon has no directory it is started in"
    };
    if !written.is_absolute() {
        findings.error(path, format!("the path `{text}` is not absolute"), hint);
    } else if written.components().any(|part| part == std::path::Component::ParentDir) {
        findings.error(
            path,
            format!("the path `{text}` has `..` in it"),
            "write where it really leads",
        );
    }
}

fn check_directory(findings: &mut Findings<'_>, name: &str, directory: &DirectorySource) {
    let at = ["sources", name, "directory"];
    match (&directory.path, &directory.paths) {
        (Some(_), Some(_)) => findings.error_at_key(
            &[at[0], at[1], at[2], "paths"],
            "both `path` and `paths` are given",
            "put all paths into `paths`",
        ),
        (None, None) => findings.error_at_key(&at, "no path", "add `path: /absolute/path`"),
        (Some(path), None) => check_path(findings, &[at[0], at[1], at[2], "path"], directory, path),
        (None, Some(paths)) => {
            if paths.is_empty() {
                findings.error_at_key(
                    &[at[0], at[1], at[2], "paths"],
                    "no path",
                    "add one, or remove the source",
                );
            }
            for (index, path) in paths.iter().enumerate() {
                let number = index.to_string();
                let at = [at[0], at[1], at[2], "paths", &number];
                check_path(findings, &at, directory, path);
                let twice = paths[..index]
                    .iter()
                    .find(|other| path.starts_with(other) || other.starts_with(path));
                if let Some(other) = twice
                    && other == path
                {
                    let message = format!("`{}` is given twice", path.display());
                    findings.error(&at, message, "remove one of them");
                } else if let Some(other) = twice {
                    findings.error(
                        &at,
                        format!(
                            "`{}` and `{}` contain one another",
                            path.display(),
                            other.display()
                        ),
                        "keep the outer one, with `exclude` for what is not wanted",
                    );
                }
            }
        }
    }
    for (index, pattern) in directory.exclude.iter().enumerate() {
        let number = index.to_string();
        check_glob(findings, &[at[0], at[1], at[2], "exclude", &number], pattern);
    }
}

fn check_path(findings: &mut Findings<'_>, at: &[&str], directory: &DirectorySource, path: &Path) {
    absolute(findings, at, path);
    if ["/proc", "/sys", "/dev", "/run"].iter().any(|pseudo| path.starts_with(pseudo))
        && !path.starts_with("/run/secrets")
    {
        findings.error(
            at,
            format!("`{}` holds no files that could be restored", path.display()),
            "the kernel makes them up at every start: remove the source",
        );
    }
    if path == Path::new("/") && !directory.one_file_system {
        findings.error(
            at,
            "the whole machine is backed up, other file systems and /proc included",
            "add `one_file_system: true`, or name the directories",
        );
    }
    let databases = [
        "/var/lib/postgresql",
        "/var/lib/mysql",
        "/var/lib/pgsql",
        "/var/lib/elasticsearch",
        "/var/lib/mongodb",
    ];
    if databases.iter().any(|database| path.starts_with(database)) && !directory.allow_live {
        findings.warning(
            at,
            format!("`{}` looks like the data directory of a database: copied files of a running one are not a backup", path.display()),
            "dump it with `command`, or add `allow_live: true` if the server is stopped meanwhile",
        );
    }
    for (name, repository) in &findings.policy.repositories {
        let inside = repository.local().is_some_and(|local| local.path.starts_with(path));
        if inside {
            findings.error(
                at,
                format!("repository `{name}` lies inside this source: it would back itself up"),
                "exclude it by choosing narrower paths, or move the repository",
            );
        }
    }
}

pub(super) fn check_glob(findings: &mut Findings<'_>, at: &[&str], pattern: &str) {
    if let Err(error) = Glob::new(pattern) {
        findings.error(
            at,
            format!("bad glob `{pattern}`: {}", error.kind()),
            "`*`, `**`, `?`, `[a-z]` and `{a,b}` are special: put a `\\` before one that is meant itself",
        );
    } else if pattern.starts_with('!') {
        findings.warning(
            at,
            format!("`{pattern}` is taken as a name that begins with `!`"),
            "nothing that is excluded comes back; write `\\!` at the start to say that it is meant",
        );
    } else if matches!(pattern, "*" | "**" | "/" | "**/*" | "") {
        findings.error(
            at,
            format!("`{pattern}` excludes everything"),
            "remove it, or write what is not wanted",
        );
    }
}

fn check_bucket(findings: &mut Findings<'_>, name: &str, bucket: &BucketSource) {
    let at = ["sources", name, "bucket"];
    check_s3(findings, &[at[0], at[1], at[2], "s3"], &bucket.s3);
    for (index, pattern) in bucket.exclude.iter().enumerate() {
        let number = index.to_string();
        check_glob(findings, &[at[0], at[1], at[2], "exclude", &number], pattern);
    }
    let same = |other: &S3Repository| {
        let one = &bucket.s3;
        let within = |one: &str, other: &str| {
            one.is_empty() || one == other || other.starts_with(&format!("{one}/"))
        };
        one.bucket == other.bucket
            && one.endpoint == other.endpoint
            && (within(&one.prefix, &other.prefix) || within(&other.prefix, &one.prefix))
    };
    for (repository, one) in &findings.policy.repositories {
        if one.s3().is_some_and(same) {
            findings.error_at_key(
                &at,
                format!("repository `{repository}` lies in this bucket: it would back itself up"),
                "name the prefix that is meant, or move the repository",
            );
        }
    }
}

fn check_secrets(findings: &mut Findings<'_>, name: &str, source: &Source, count: usize) {
    if count == 0 {
        findings.error_at_key(
            &["sources", name, "secrets"],
            "no secret",
            "add `NAME: \"${env:NAME}\"`, or remove the source",
        );
    }
    let policy = findings.policy;
    // A repository that could not be read has its own error, and may well be encrypted.
    let readable = policy.repository_of(name).filter(|(repository, one)| {
        let default = findings.names("repositories").first() == Some(repository);
        one.encryption.is_none() && (source.repository.is_some() || default)
    });
    if let Some((repository, _)) = readable {
        findings.error_at_key(
            &["sources", name, "secrets"],
            format!("secrets would be stored readable: repository `{repository}` is not encrypted"),
            format!("add `encryption: {{ recipients: [\"age1…\"] }}` to `{repository}`, or name another with `repository:`"),
        );
    }
}

fn check_cluster(findings: &mut Findings<'_>, name: &str, cluster: &PostgresCluster) {
    let at = ["sources", name, "postgres_cluster"];
    check_connection(findings, &[at[0], at[1], at[2], "connection"], &cluster.connection);
    // What the server takes as MAX_RATE.
    if cluster.max_rate.is_some_and(|rate| !(32 << 10..=1 << 30).contains(&rate.bytes())) {
        findings.error(
            &[at[0], at[1], at[2], "max_rate"],
            "the server takes rates from 32KiB to 1GiB a second",
            "write one between, such as `50MiB`",
        );
    }
    let Some(archive) = cluster.wal.as_ref().and_then(|wal| wal.archive.as_ref()) else {
        return;
    };
    let base = [at[0], at[1], at[2], "wal", "archive"];
    if archive.to.is_empty() {
        findings.error(
            &[base[0], base[1], base[2], base[3], base[4], "to"],
            "WAL goes nowhere",
            "name a repository, or remove `archive`",
        );
    }
    for (key, names) in [("to", Some(&archive.to)), ("require", archive.require.as_ref())] {
        for (index, repository) in names.into_iter().flatten().enumerate() {
            let number = index.to_string();
            let path = [base[0], base[1], base[2], base[3], base[4], key, &number];
            findings.reference(&path, repository, "repositories", "repository");
            if key == "require" && !archive.to.contains(repository) {
                findings.error(
                    &path,
                    format!("`{repository}` is required but WAL is not sent there"),
                    format!("add `{repository}` to `to`, or remove it here"),
                );
            }
        }
    }
}

pub(super) fn check_connection(findings: &mut Findings<'_>, path: &[&str], connection: &str) {
    check_key_material(findings, path, connection);
    if connection.trim().is_empty() {
        findings.error(
            path,
            "the connection is empty",
            "write `host=HOST user=USER dbname=DATABASE`",
        );
    } else if has_secret_within(connection) {
        findings.error(
            path,
            "a password is written in the connection",
            "take it out, treat it as leaked if the file was shared, and write `password=${env:NAME}` or use a .pgpass file",
        );
    }
}
