//! The connection to the shared state.

use std::sync::{Mutex, MutexGuard, PoisonError};

use postgres::error::SqlState;
use postgres::{Client, Row};

use super::schema::STEPS;
use crate::error::{Error, ErrorKind, Result};

/// What connects to the database. How that is done is the business of whoever opens the state: this
/// module only speaks SQL.
pub type Connect = Box<dyn Fn() -> Result<Client> + Send>;

/// What every session begins with. A daemon that stands still must not hold others up, and one that
/// waits for a lock is to say so.
const SESSION: &str = "SET statement_timeout = '15s'; SET lock_timeout = '10s'; \
                       SET idle_in_transaction_session_timeout = '15s'; \
                       SET default_transaction_isolation = 'read committed'; \
                       SET synchronous_commit = on";

/// The lock of those that decide, and of those that change the schema: `backstay` in ASCII.
const LOCK: i64 = 0x6261_636b_7374_6179;

/// The state that any number of daemons share.
///
/// It is meant for one thread: what [`Ledger::together`](crate::state::Ledger::together) is given
/// shares its transaction.
pub struct SharedState {
    connect: Connect,
    place: String,
    session: Mutex<Session>,
}

struct Session {
    client: Option<Client>,
    /// What is asked now is part of one transaction.
    together: bool,
}

impl std::fmt::Debug for SharedState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedState").field("place", &self.place).finish_non_exhaustive()
    }
}

impl SharedState {
    /// Connects, and brings the schema `backstay` of the database to the newest version. `place`
    /// names the database for people.
    pub fn open(place: String, connect: Connect) -> Result<Self> {
        let session = Mutex::new(Session { client: None, together: false });
        let state = Self { connect, place, session };
        state.client(&mut state.lock())?;
        Ok(state)
    }

    /// The database, for people.
    pub(super) fn name(&self) -> &str {
        &self.place
    }

    fn lock(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client; a new one where the last was lost.
    fn client<'a>(&self, session: &'a mut Session) -> Result<&'a mut Client> {
        if session.together {
            // What was begun is lost with its connection: nothing of it may go on elsewhere.
            return session
                .client
                .as_mut()
                .filter(|client| !client.is_closed())
                .ok_or_else(|| self.lost());
        }
        if session.client.as_ref().is_none_or(Client::is_closed) {
            session.client = None;
            let opened = self.opened();
            session.client = Some(opened.map_err(|error| {
                error.context(format!("failed to open the state in {}", self.place))
            })?);
        }
        session.client.as_mut().ok_or_else(|| self.lost())
    }

    fn lost(&self) -> Error {
        Error::new(
            ErrorKind::Unreachable,
            format!("the connection to the state in {} was lost", self.place),
        )
    }

    fn opened(&self) -> Result<Client> {
        let mut client = (self.connect)()?;
        let said = |error| explain(error, "failed to prepare the database");
        client.batch_execute(SESSION).map_err(said)?;
        let version = version(&mut client).map_err(said)?;
        let known = STEPS.len() as i32;
        if version < Some(known) {
            self.migrate(&mut client).map_err(said)?;
        } else if let Some(version) = version.filter(|version| *version > known) {
            return Err(Error::unsupported(format!(
                "{} has schema {version}; this program knows {known}",
                self.place
            ))
            .hint("use a newer backstay: one that runs elsewhere brought the database there"));
        }
        Ok(client)
    }

    /// Takes the steps that are missing, as one.
    fn migrate(&self, client: &mut Client) -> Result<(), postgres::Error> {
        let mut transaction = client.transaction()?;
        transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK])?;
        let there = "SELECT to_regnamespace('backstay') IS NOT NULL";
        if !transaction.query_one(there, &[])?.try_get::<_, bool>(0)? {
            transaction.batch_execute("CREATE SCHEMA backstay")?;
        }
        transaction.batch_execute(
            "CREATE TABLE IF NOT EXISTS backstay.schema_version (version integer NOT NULL)",
        )?;
        let row = transaction.query_opt("SELECT version FROM backstay.schema_version", &[])?;
        let version = if let Some(row) = row {
            row.try_get(0)?
        } else {
            transaction.batch_execute("INSERT INTO backstay.schema_version VALUES (0)")?;
            0
        };
        // Somebody else may have been faster; what is newer is found when it is asked for.
        for step in STEPS.iter().skip(usize::try_from(version).unwrap_or(0)) {
            transaction.batch_execute(step)?;
        }
        let known = STEPS.len() as i32;
        transaction.execute(
            "UPDATE backstay.schema_version SET version = $1 WHERE version < $1",
            &[&known],
        )?;
        transaction.commit()
    }

    /// Does some work as one transaction, or as part of the one that goes on.
    pub(super) fn change<T>(
        &self,
        doing: &str,
        work: impl FnOnce(&mut Client) -> Result<T, postgres::Error>,
    ) -> Result<T> {
        let session = &mut *self.lock();
        let together = session.together;
        let client = self.client(session)?;
        let done = (|| {
            if together {
                return work(client);
            }
            client.batch_execute("BEGIN")?;
            match work(client) {
                Ok(value) => client.batch_execute("COMMIT").map(|()| value),
                Err(error) => {
                    let _ = client.batch_execute("ROLLBACK");
                    Err(error)
                }
            }
        })();
        done.map_err(|error| {
            // Whatever it is in: it is left, and the next one is as new.
            session.client = None;
            explain(error, &format!("failed to {doing} in {}", self.place))
        })
    }

    /// Asks for rows.
    pub(super) fn rows<T>(
        &self,
        doing: &str,
        ask: impl FnOnce(&mut Client) -> Result<Vec<Row>, postgres::Error>,
        read: impl Fn(&Row) -> Result<T, postgres::Error>,
    ) -> Result<Vec<T>> {
        self.change(doing, |client| ask(client)?.iter().map(read).collect())
    }

    /// Runs `work` as one transaction while nobody else does such work.
    pub(super) fn alone(&self, wait: bool, work: &mut dyn FnMut() -> Result<()>) -> Result<bool> {
        let sql = if wait {
            "SELECT true FROM (SELECT pg_advisory_xact_lock($1)) AS locked"
        } else {
            "SELECT pg_try_advisory_xact_lock($1)"
        };
        {
            let session = &mut *self.lock();
            let client = self.client(session)?;
            let locked = (|| {
                client.batch_execute("BEGIN")?;
                client.query_one(sql, &[&LOCK])?.try_get::<_, bool>(0)
            })();
            match locked {
                Ok(true) => {}
                Ok(false) => {
                    if client.batch_execute("ROLLBACK").is_err() {
                        session.client = None;
                    }
                    return Ok(false);
                }
                Err(error) => {
                    session.client = None;
                    let doing = format!("failed to lock the queue in {}", self.place);
                    return Err(explain(error, &doing));
                }
            }
            session.together = true;
        }
        let done = work();
        let session = &mut *self.lock();
        session.together = false;
        let Some(client) = session.client.as_mut() else {
            return Err(done.err().unwrap_or_else(|| self.lost()));
        };
        let ended = match done {
            Ok(()) => client
                .batch_execute("COMMIT")
                .map_err(|error| explain(error, &format!("failed to commit in {}", self.place))),
            Err(error) => {
                let _ = client.batch_execute("ROLLBACK");
                Err(error)
            }
        };
        if ended.is_err() {
            session.client = None;
        }
        ended.map(|()| true)
    }
}

/// The number of steps that were taken. `None`: none ever was.
fn version(client: &mut Client) -> Result<Option<i32>, postgres::Error> {
    let there = "SELECT to_regclass('backstay.schema_version') IS NOT NULL";
    if !client.query_one(there, &[])?.try_get::<_, bool>(0)? {
        return Ok(None);
    }
    let row = client.query_opt("SELECT max(version) FROM backstay.schema_version", &[])?;
    row.map_or(Ok(None), |row| row.try_get(0))
}

/// An error of a statement.
fn explain(error: postgres::Error, doing: &str) -> Error {
    let Some(db) = error.as_db_error() else {
        return Error::new(ErrorKind::Unreachable, doing).with_source(error);
    };
    let code = db.code();
    let text = format!("{} ({})", db.message(), code.code());
    let kind = if *code == SqlState::INSUFFICIENT_PRIVILEGE {
        ErrorKind::Denied
    } else if [SqlState::LOCK_NOT_AVAILABLE, SqlState::QUERY_CANCELED].contains(code) {
        ErrorKind::Busy
    } else if code.code().starts_with("57") {
        ErrorKind::Unreachable
    } else {
        ErrorKind::Failed
    };
    let found = Error::new(kind, doing).with_source(text);
    match kind {
        ErrorKind::Denied => found.hint(
            "the role needs CREATE on the database once, and owns the schema `backstay` then",
        ),
        ErrorKind::Busy => found.hint("another daemon holds the queue for long: try again"),
        _ if *code == SqlState::READ_ONLY_SQL_TRANSACTION => {
            found.hint("the state needs the primary: name all hosts, and it is found")
        }
        _ => found,
    }
}
