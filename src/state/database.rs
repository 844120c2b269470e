//! The database file: opened, brought to the newest schema, or set aside.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use rustix::fs::FlockOperation;

use super::schema::STEPS;
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::id;

const FILE: &str = "state.db";
const LOCK: &str = "state.lock";
const DAEMON_LOCK: &str = "daemon.lock";

/// How long to wait for another process that opens or writes.
const PATIENCE: Duration = Duration::from_secs(10);

/// The open state. Several processes may have it open; each write is one transaction.
#[derive(Debug)]
pub struct State {
    pub(super) connection: Connection,
    path: PathBuf,
    set_aside: Option<PathBuf>,
}

/// Why a file could not be used.
enum Unusable {
    /// Its content is no database, or contradicts itself.
    Damaged,
    /// Anything else; trying again later may help.
    Other(Error),
}

impl State {
    /// Opens the state in `directory`, which is created if need be. A file that is damaged is
    /// renamed and an empty one takes its place: see [`State::set_aside`].
    pub fn open(directory: &Path, now: Timestamp) -> Result<Self> {
        let failed = || format!("failed to open the state in {}", directory.display());
        open(directory, now).map_err(|error| {
            error.context(failed()).hint("another directory: --state-dir DIR or BACKSTAY_STATE_DIR")
        })
    }

    /// Where the damaged file lies that was found instead of a state.
    pub fn set_aside(&self) -> Option<&Path> {
        self.set_aside.as_deref()
    }

    /// Makes sure that no other daemon uses this state, for as long as the value lives: two would
    /// do the same work side by side.
    pub fn only_daemon(&self) -> Result<File> {
        let path = self.path.with_file_name(DAEMON_LOCK);
        let failed = || format!("failed to lock {}", path.display());
        let file = open_lock(&path).doing(failed)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| {
            if errno == rustix::io::Errno::WOULDBLOCK {
                Error::new(ErrorKind::Busy, "another daemon uses this state")
                    .hint(format!("it holds {}; another state: --state-dir DIR", path.display()))
            } else {
                Error::io(failed(), errno.into())
            }
        })?;
        Ok(file)
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The error of a statement that did `doing`.
    pub(super) fn error(&self, doing: &str, source: rusqlite::Error) -> Error {
        let message = format!("failed to {doing} in {}", self.path.display());
        match code_of(&source) {
            Some(ErrorCode::DatabaseBusy) => Error::new(ErrorKind::Busy, message)
                .hint("another process has been writing to it for long: try again"),
            Some(ErrorCode::DiskFull) => Error::failed(message).hint("its file system is full"),
            _ => Error::failed(message),
        }
        .with_source(source)
    }
}

fn open(directory: &Path, now: Timestamp) -> Result<State> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .doing(|| format!("failed to create {}", directory.display()))?;
    // Whoever finds a damaged file must not rename the good one that somebody else just made.
    let _alone = lock(&directory.join(LOCK))?;
    let path = directory.join(FILE);
    match connect(&path) {
        Ok(connection) => Ok(State { connection, path, set_aside: None }),
        Err(Unusable::Other(error)) => Err(error),
        Err(Unusable::Damaged) => {
            let aside = set_aside(&path, now)?;
            match connect(&path) {
                Ok(connection) => Ok(State { connection, path, set_aside: Some(aside) }),
                Err(Unusable::Other(error)) => Err(error),
                Err(Unusable::Damaged) => {
                    Err(Error::damaged(format!("{} is damaged as soon as written", path.display())))
                }
            }
        }
    }
}

fn open_lock(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
}

fn lock(path: &Path) -> Result<File> {
    let failed = || format!("failed to lock {}", path.display());
    let file = open_lock(path).doing(failed)?;
    let begun = Instant::now();
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Error::new(ErrorKind::Busy, failed())
                    .hint("another process has held it for long"));
            }
            Err(errno) => return Err(Error::io(failed(), errno.into())),
        }
    }
}

fn connect(path: &Path) -> Result<Connection, Unusable> {
    create(path).map_err(Unusable::Other)?;
    let failed = |source: rusqlite::Error| match code_of(&source) {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Unusable::Damaged,
        _ => Unusable::Other(
            Error::failed(format!("failed to open {}", path.display())).with_source(source),
        ),
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(PATIENCE).map_err(failed)?;
    let version: i64 =
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    let known = STEPS.len() as i64;
    if version > known {
        return Err(Unusable::Other(
            Error::unsupported(format!(
                "{} has schema {version}; this program knows {known}",
                path.display()
            ))
            .hint("use a newer backstay"),
        ));
    }
    let verdict: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
    if verdict != "ok" || version < 0 {
        return Err(Unusable::Damaged);
    }
    let settings = "PRAGMA trusted_schema = OFF; PRAGMA foreign_keys = ON;
                    PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;";
    connection.execute_batch(settings).map_err(failed)?;
    migrate(&mut connection, version as usize).map_err(failed)?;
    Ok(connection)
}

/// Creates the file where there is none, so that nobody else can read it from the beginning.
fn create(path: &Path) -> Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(Error::io(format!("failed to create {}", path.display()), error)),
    }
}

/// Takes the steps that are missing, each with its number in one transaction.
fn migrate(connection: &mut Connection, version: usize) -> rusqlite::Result<()> {
    for (at, step) in STEPS.iter().enumerate().skip(version) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", at as i64 + 1)?;
        transaction.commit()?;
    }
    Ok(())
}

/// Renames a file and what belongs to it, and says what it is called now.
fn set_aside(path: &Path, now: Timestamp) -> Result<PathBuf> {
    let mark = format!(".damaged-{}-{}", id::compact_time(now), id::random_suffix(4));
    let named = |ending: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    let aside = named(&mark);
    for ending in ["-wal", "-shm", ""] {
        let (from, to) = (named(ending), named(&format!("{mark}{ending}")));
        match std::fs::rename(&from, &to) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            renamed => renamed.doing(|| format!("failed to set {} aside", from.display()))?,
        }
    }
    Ok(aside)
}

fn code_of(error: &rusqlite::Error) -> Option<ErrorCode> {
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => Some(failure.code),
        _ => None,
    }
}
