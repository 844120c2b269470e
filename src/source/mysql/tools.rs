//! The server's own programs: found in the right make and version, and run with nothing secret on
//! their command line.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use secrecy::ExposeSecret as _;
use tempfile::TempDir;

use super::client::Server;
use super::conninfo::{Settings, SslMode};
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::source::command::{Pipeline, Stage};

/// What would be taken from the environment.
const VARIABLES: [&str; 6] = [
    "MYSQL_PWD",
    "MYSQL_HOST",
    "MYSQL_TCP_PORT",
    "MYSQL_UNIX_PORT",
    "MYSQL_HOME",
    "MYSQL_GROUP_SUFFIX",
];

/// The programs of one installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tools {
    /// `mariadb-dump` or `mysqldump`.
    pub dump: PathBuf,
    /// Whether they are MariaDB's.
    pub mariadb: bool,
    /// Their version: (10, 11).
    pub version: (u32, u32),
    /// The same in full.
    pub text: String,
}

impl Tools {
    /// Finds the programs that go with a server: in `given` if that is given, otherwise in the PATH.
    pub fn find(given: Option<&Path>, server: &Server) -> Result<Self> {
        let places: Vec<PathBuf> = if let Some(directory) = given {
            vec![directory.to_path_buf()]
        } else {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let more = ["/usr/bin", "/usr/local/bin", "/usr/local/mysql/bin", "/opt/mysql/bin"];
            std::env::split_paths(&path).chain(more.map(PathBuf::from)).collect()
        };
        let all: Vec<Self> = places
            .iter()
            .flat_map(|place| ["mariadb-dump", "mysqldump"].map(|name| place.join(name)))
            .filter(|path| is_program(path))
            .filter_map(Self::ask)
            .collect();
        // Each make knows what its own servers have, and only newer programs know newer servers.
        let fits = all
            .iter()
            .filter(|tools| tools.mariadb == server.mariadb && tools.version.0 >= server.version.0);
        fits.max_by_key(|tools| tools.version).cloned().ok_or_else(|| {
            let what = if server.mariadb { "mariadb-dump" } else { "mysqldump of MySQL" };
            let needed = format!("{} {}", server.product(), server.version.0);
            let error = match (all.first(), given) {
                (Some(other), _) => Error::unsupported(format!(
                    "{} is {}, and the server is {}",
                    other.dump.display(),
                    other.text,
                    server.name()
                )),
                (None, Some(directory)) => Error::not_found(format!("there is no {what} in {}", directory.display())),
                (None, None) => Error::not_found(format!("there is no {what} here")),
            };
            error.hint(format!(
                "install the client programs of {needed} or newer, or name their directory: `programs: /usr/bin`"
            ))
        })
    }

    fn ask(path: PathBuf) -> Option<Self> {
        let output = Command::new(&path).arg("--version").stdin(Stdio::null()).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let (mariadb, version, words) = read_version(&text)?;
        Some(Self { dump: path, mariadb, version, text: words })
    }

    /// A program of the same installation, by its two names.
    pub fn sibling(&self, names: [&str; 2]) -> Result<PathBuf> {
        let directory = self.dump.parent().unwrap_or(Path::new("/"));
        names.iter().map(|name| directory.join(name)).find(|path| is_program(path)).ok_or_else(
            || Error::not_found(format!("there is no {} beside {}", names[0], self.dump.display())),
        )
    }

    /// The program that reads binary logs.
    pub fn binlog(&self) -> Result<PathBuf> {
        self.sibling(["mariadb-binlog", "mysqlbinlog"])
    }

    /// The client that takes SQL.
    pub fn client(&self) -> Result<PathBuf> {
        self.sibling(["mariadb", "mysql"])
    }
}

/// Make, version and version in words of what `--version` says:
/// `mariadb-dump  Ver 10.19 Distrib 10.11.19-MariaDB, …`, `mariadb-dump from 11.4.2-MariaDB, …`,
/// `mysqldump  Ver 8.0.36 for Linux …`, `mysqldump  Ver 10.13 Distrib 5.7.44, …`.
fn read_version(text: &str) -> Option<(bool, (u32, u32), String)> {
    let mariadb = text.contains("MariaDB");
    let words: Vec<&str> = text.split_whitespace().collect();
    let after =
        |word: &str| words.iter().position(|found| *found == word).and_then(|at| words.get(at + 1));
    let version = after("Distrib").or_else(|| after("from")).or_else(|| after("Ver"))?;
    let version = version.trim_end_matches(',');
    let mut numbers = version.split(['.', '-']);
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?.parse().ok()?;
    let product = if mariadb { "MariaDB" } else { "MySQL" };
    Some((mariadb, (major, minor), format!("{product} {version}")))
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// A file of options that only its owner may read, for as long as this lives.
#[derive(Debug)]
pub struct Credentials {
    directory: TempDir,
}

impl Credentials {
    /// Writes how `settings` reach a server, for programs of the make of `tools`. `encrypted` says
    /// whether a session that was opened before is.
    pub fn write(settings: &Settings, tools: &Tools, encrypted: bool) -> Result<Self> {
        let failed = || "failed to write a file of credentials".to_owned();
        let directory = tempfile::Builder::new().prefix("backstay-").tempdir().doing(failed)?;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).doing(failed)?;
        let credentials = Self { directory };
        let text = options(settings, tools.mariadb, encrypted)?;
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(credentials.path())
            .doing(failed)?;
        file.write_all(text.as_bytes()).doing(failed)?;
        Ok(credentials)
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("my.cnf")
    }

    /// A run of `program` with these credentials. Alive for as long as they are.
    pub fn pipeline(&self, program: &Path, arguments: Vec<String>) -> Pipeline {
        let mut argv = vec![
            program.display().to_string(),
            // The first argument, or it is not taken. No other file is read.
            format!("--defaults-file={}", self.path().display()),
        ];
        argv.extend(arguments);
        let nowhere = self.directory.path().join("none").display().to_string();
        Pipeline {
            stages: vec![Stage { argv }],
            environment: vec![
                ("MYSQL_TEST_LOGIN_FILE".to_owned(), nowhere.into()),
                ("TZ".to_owned(), "UTC".to_owned().into()),
                ("LC_ALL".to_owned(), "C".to_owned().into()),
            ],
            without: VARIABLES.map(str::to_owned).into(),
            ..Pipeline::default()
        }
    }
}

fn options(settings: &Settings, mariadb: bool, encrypted: bool) -> Result<String> {
    let mut lines = vec!["[client]".to_owned(), format!("user={}", quoted(&settings.user)?)];
    if let Some(password) = &settings.password {
        lines.push(format!("password={}", quoted(password.expose_secret())?));
    }
    if let Some(socket) = &settings.socket {
        lines.push(format!("socket={}", quoted(&socket.display().to_string())?));
        lines.push("protocol=socket".to_owned());
    } else {
        lines.push(format!("host={}", quoted(&settings.host)?));
        lines.push(format!("port={}", settings.port));
        lines.push("protocol=tcp".to_owned());
    }
    let proven = settings.ssl_mode == SslMode::VerifyIdentity;
    let ca = settings.trusted();
    match (mariadb, encrypted) {
        (true, false) => lines.push("skip-ssl".to_owned()),
        (false, false) => lines.push("ssl-mode=DISABLED".to_owned()),
        (true, true) => {
            lines.push("ssl".to_owned());
            lines.push(format!("ssl-verify-server-cert={}", u8::from(proven)));
        }
        (false, true) => {
            let mode = if proven { settings.ssl_mode.name() } else { "required" };
            lines.push(format!("ssl-mode={}", mode.to_uppercase()));
        }
    }
    if let Some(ca) = ca.filter(|_| encrypted) {
        lines.push(format!("ssl-ca={}", quoted(&ca.display().to_string())?));
    }
    lines.push(String::new());
    Ok(lines.join("\n"))
}

/// A value as a file of options has it.
fn quoted(value: &str) -> Result<String> {
    let quote = if value.contains('"') { '\'' } else { '"' };
    if value.contains(quote) || value.chars().any(char::is_control) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "a password or name with both kinds of quotes, or with control characters, cannot be given to MySQL's programs",
        ));
    }
    Ok(format!("{quote}{}{quote}", value.replace('\\', "\\\\")))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn versions_are_read_as_each_make_writes_them() {
        for (text, mariadb, version) in [
            (
                "mariadb-dump  Ver 10.19 Distrib 10.11.19-MariaDB, for debian-linux-gnu (x86_64)",
                true,
                (10, 11),
            ),
            (
                "mariadb-dump from 11.4.2-MariaDB, client 10.19 for linux-systemd (x86_64)",
                true,
                (11, 4),
            ),
            (
                "mysqldump  Ver 8.0.36 for Linux on x86_64 (MySQL Community Server - GPL)",
                false,
                (8, 0),
            ),
            ("mysqldump  Ver 10.13 Distrib 5.7.44, for Linux (x86_64)", false, (5, 7)),
        ] {
            let found = read_version(text).unwrap();
            assert_eq!((found.0, found.1), (mariadb, version), "{text}");
        }
    }

    #[test]
    fn values_are_quoted_so_that_nothing_ends_them() {
        assert_eq!(quoted("a#b;c \\d").unwrap(), "\"a#b;c \\\\d\"");
        assert_eq!(quoted("say \"x\"").unwrap(), "'say \"x\"'");
        assert!(quoted("\"'").is_err() && quoted("a\nb").is_err());
    }
}
