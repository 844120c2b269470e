//! A database in one transaction: its pages, and what is known of it.

use std::fmt::Write as _;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::source::Arriving;
use crate::telemetry::Reporter;

/// How long somebody else's lock is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Findings of `integrity_check` that are asked for.
const FINDINGS: usize = 100;

/// What is known of a database: the content of `NAME.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The version of this form: 1.
    pub version: u32,
    /// Where it lay.
    pub path: String,
    /// The library that read it.
    pub sqlite: String,
    /// `wal`, `delete`, `truncate`, `persist`, `memory` or `off`.
    pub journal_mode: String,
    /// Bytes of a page.
    pub page_size: u64,
    /// Pages.
    pub pages: u64,
    /// `UTF-8`, `UTF-16le` or `UTF-16be`.
    pub encoding: String,
    /// What the application calls the version of its schema.
    pub user_version: i64,
    /// What the application calls itself.
    pub application_id: i64,
    /// Tables.
    pub tables: u64,
    /// What `PRAGMA integrity_check` found in the same transaction; nothing if all is well.
    pub integrity: Vec<String>,
}

/// A read transaction. It ends when this is dropped.
pub struct Snapshot {
    connection: Connection,
    facts: Facts,
}

impl Snapshot {
    /// Begins a transaction and looks at the database.
    pub fn begin(path: &Path) -> Result<Self> {
        let doing = || format!("failed to read {}", path.display());
        match path.metadata() {
            Err(error) => {
                return Err(Error::io(doing(), error)
                    .hint("`path` names the database's file; a relative SQLAlchemy URI is relative to the application's directory"));
            }
            Ok(metadata) if !metadata.is_file() => {
                return Err(Error::usage(format!("{} is no file", path.display()))
                    .hint("`path` names the database's file"));
            }
            Ok(_) => {}
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection =
            Connection::open_with_flags(path, flags).map_err(|error| failed(doing(), error))?;
        let facts = look(&connection, path).map_err(|error| failed(doing(), error))?;
        if facts.pages == 0 {
            return Err(Error::failed(format!("{} is an empty database", path.display()))
                .hint("is it the one that the application uses?"));
        }
        Ok(Self { connection, facts })
    }

    /// What is known of it.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Bytes of the database as a file.
    pub fn bytes(&self) -> u64 {
        self.facts.pages * self.facts.page_size
    }

    /// All of it, page after page.
    pub fn pages<'a>(&'a self, reporter: &'a Reporter) -> Pages<'a> {
        Pages { snapshot: self, reporter, next: 1, some: Vec::new(), given: 0 }
    }

    /// Lets `SQLite` look at everything in the same transaction. Gives what is wrong.
    pub fn integrity(&self) -> Result<Vec<String>> {
        let doing = || format!("failed to check {}", self.facts.path);
        match integrity(&self.connection) {
            // Too much for the check itself.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) => {
                Ok(vec![error.to_string()])
            }
            found => found.map_err(|error| failed(doing(), error)),
        }
    }

    /// So many pages from number `first` on, one after another.
    fn some_pages(&self, first: u64, count: u64) -> Result<Vec<u8>> {
        let doing = || format!("failed to read page {first} of {}", self.facts.path);
        let mut bytes = Vec::with_capacity((count * self.facts.page_size) as usize);
        let mut read = || -> rusqlite::Result<()> {
            let mut statement = self.connection.prepare(PAGES)?;
            let mut rows = statement.query([first as i64, (first + count - 1) as i64])?;
            while let Some(row) = rows.next()? {
                bytes.extend_from_slice(row.get_ref(0)?.as_blob()?);
            }
            Ok(())
        };
        read().map_err(|error| failed(doing(), error))?;
        if bytes.len() as u64 == count * self.facts.page_size {
            return Ok(bytes);
        }
        Err(Error::damaged(doing()).with_source("pages are missing"))
    }
}

/// Page by page by its number: a range would be looked for among all pages.
const PAGES: &str = "WITH RECURSIVE n (i) AS (VALUES (?1) UNION ALL SELECT i + 1 FROM n WHERE i < ?2) \
    SELECT data FROM n CROSS JOIN sqlite_dbpage ON pgno = i";

/// Bytes that are read at once.
const STEP: u64 = 256 << 10;

fn look(connection: &Connection, path: &Path) -> rusqlite::Result<Facts> {
    connection.busy_timeout(PATIENCE)?;
    connection.execute_batch("BEGIN")?;
    // The first look at the content is what the transaction begins with.
    let tables: i64 = connection.query_row(
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table'",
        [],
        |row| row.get(0),
    )?;
    let number = |name: &str| -> rusqlite::Result<i64> {
        connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))
    };
    let text = |name: &str| -> rusqlite::Result<String> {
        connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))
    };
    Ok(Facts {
        version: 1,
        path: path.display().to_string(),
        sqlite: rusqlite::version().to_owned(),
        journal_mode: text("journal_mode")?,
        page_size: number("page_size")? as u64,
        pages: number("page_count")? as u64,
        encoding: text("encoding")?,
        user_version: number("user_version")?,
        application_id: number("application_id")?,
        tables: tables as u64,
        integrity: Vec::new(),
    })
}

fn integrity(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(&format!("PRAGMA integrity_check({FINDINGS})"))?;
    let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
    let found = rows.collect::<rusqlite::Result<Vec<String>>>()?;
    Ok(found.into_iter().filter(|line| line != "ok").collect())
}

/// Lets `SQLite` look at everything in a file that nobody writes to. Gives what is wrong, be it that
/// the file cannot be opened at all. Leaves nothing beside the file.
pub fn check_file(path: &Path) -> Vec<String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.~".contains(byte) {
            uri.push(char::from(*byte));
        } else {
            let _ = write!(uri, "%{byte:02X}");
        }
    }
    uri.push_str("?immutable=1");
    let found = Connection::open_with_flags(uri, flags).and_then(|found| integrity(&found));
    found.unwrap_or_else(|error| vec![error.to_string()])
}

/// The pages of a database, as the bytes of a file.
pub struct Pages<'a> {
    snapshot: &'a Snapshot,
    reporter: &'a Reporter,
    next: u64,
    some: Vec<u8>,
    given: usize,
}

impl Read for Pages<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.given == self.some.len() {
            if self.next > self.snapshot.facts.pages {
                return Ok(0);
            }
            self.reporter.check().map_err(Error::into_io)?;
            let left = self.snapshot.facts.pages - self.next + 1;
            let count = left.min(STEP / self.snapshot.facts.page_size.max(1)).max(1);
            self.some = self.snapshot.some_pages(self.next, count).map_err(Error::into_io)?;
            (self.next, self.given) = (self.next + count, 0);
        }
        let length = out.len().min(self.some.len() - self.given);
        out[..length].copy_from_slice(&self.some[self.given..][..length]);
        self.given += length;
        Ok(length)
    }
}

impl Arriving for Pages<'_> {}

/// An error of `SQLite` with what to do about it.
pub fn failed(doing: String, error: rusqlite::Error) -> Error {
    let code = error.sqlite_error_code();
    let extended = error.sqlite_error().map(|error| error.extended_code);
    let text = error.to_string();
    let failed = Error::failed(doing).with_source(error);
    match code {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => failed.hint(format!(
            "somebody holds it locked for longer than {} seconds: an application in WAL mode never does (PRAGMA journal_mode=WAL)",
            PATIENCE.as_secs()
        )),
        Some(ErrorCode::NotADatabase) => failed
            .with_kind(ErrorKind::Damaged)
            .hint("it is another kind of file, or encrypted by an extension of SQLite"),
        Some(ErrorCode::DatabaseCorrupt) => failed
            .with_kind(ErrorKind::Damaged)
            .hint("restore an older backup beside it, and compare: `sqlite3 FILE .recover`"),
        Some(ErrorCode::ReadOnly) if extended == Some(ffi::SQLITE_READONLY_ROLLBACK) => {
            failed.hint("a process died within a transaction: let the application open it, which rolls that back")
        }
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => failed
            .hint("whoever reads a database in WAL mode needs to write to its directory: run as the application's user, or as root"),
        _ if text.contains("no such module: sqlite_dbpage") => failed
            .with_kind(ErrorKind::Unsupported)
            .hint("this backstay was built without .cargo/config.toml: build it in its own directory"),
        _ => failed,
    }
}
