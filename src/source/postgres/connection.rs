//! SQL over a connection, and errors that say what to do.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postgres::config::{ChannelBinding, SslMode as Negotiate, SslNegotiation, TargetSessionAttrs};
use postgres::error::SqlState;
use postgres::types::ToSql;
use postgres::{Client, Config, Row, SimpleQueryMessage};
use secrecy::ExposeSecret as _;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::conninfo::{Host, Place, Settings, Wanted};
use super::tls::SslMode;
use crate::error::{Error, ErrorKind, Result};

/// The oldest server, as `server_version_num`.
pub const OLDEST: u32 = 100_000;

/// How often a running query looks whether the work was given up.
const WATCH: Duration = Duration::from_millis(50);

/// Notices kept for messages; of more only the newest.
const NOTICES: usize = 20;

/// What every session begins with: nothing that a role or a database has set may end a backup
/// half way, hide rows from it, or change how values look.
const SESSION: &str = "\
    SELECT pg_catalog.set_config(name, value, false) FROM (VALUES \
        ('search_path', ''), ('statement_timeout', '0'), ('lock_timeout', '0'), \
        ('idle_in_transaction_session_timeout', '0'), ('transaction_timeout', '0'), \
        ('idle_session_timeout', '0'), ('row_security', 'off'), ('datestyle', 'ISO'), \
        ('intervalstyle', 'postgres'), ('extra_float_digits', '3'), ('timezone', 'UTC'), \
        ('bytea_output', 'hex'), ('default_transaction_read_only', 'off'), \
        ('standard_conforming_strings', 'on'), ('quote_all_identifiers', 'off')) AS s (name, value) \
    WHERE pg_catalog.current_setting(name, true) IS NOT NULL";

/// How often lifting the timeout of statements is tried.
const LIFTS: usize = 100;

/// What answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// `server_version_num`: 150018.
    pub version: u32,
    /// `server_version`: `15.18 (Debian 15.18-0+deb12u1)`.
    pub version_text: String,
    /// It replays another server's WAL.
    pub standby: bool,
    /// The role is a superuser.
    pub superuser: bool,
    /// The host it was reached at.
    pub host: Host,
}

impl Server {
    /// The major version: 15.
    pub fn major(&self) -> u32 {
        self.version / 10_000
    }
}

/// A session with one database.
pub struct Connection {
    client: Client,
    tls: MakeRustlsConnect,
    server: Server,
    settings: Settings,
    notices: Arc<Mutex<Vec<String>>>,
}

impl Connection {
    /// Connects to the first server that will do.
    pub fn open(settings: &Settings) -> Result<Self> {
        let passes: &[TargetSessionAttrs] = match settings.wanted {
            Wanted::Any => &[TargetSessionAttrs::Any],
            Wanted::ReadWrite => &[TargetSessionAttrs::ReadWrite],
            Wanted::ReadOnly => &[TargetSessionAttrs::ReadOnly],
            Wanted::PreferReadOnly => &[TargetSessionAttrs::ReadOnly, TargetSessionAttrs::Any],
        };
        let mut last = None;
        for attributes in passes {
            for host in &settings.hosts {
                match Self::open_at(settings, host, *attributes) {
                    Ok(connection) => return Ok(connection),
                    // What the server said no to, another one would say no to as well.
                    Err(error) if error.kind() != ErrorKind::Unreachable => return Err(error),
                    Err(error) => last = Some(error),
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::usage("the connection names no server")))
    }

    /// Connects to this server, whatever others the settings name: a snapshot exported by one is
    /// known to no other.
    pub fn open_same(settings: &Settings, server: &Server) -> Result<Self> {
        Self::open_at(settings, &server.host, TargetSessionAttrs::Any)
    }

    fn open_at(settings: &Settings, host: &Host, wanted: TargetSessionAttrs) -> Result<Self> {
        let modes: &[Negotiate] = match (&host.place, settings.tls.mode) {
            (Place::Socket(_), _) | (_, SslMode::Disable) => &[Negotiate::Disable],
            (_, SslMode::Allow) => &[Negotiate::Disable, Negotiate::Require],
            (_, SslMode::Prefer) => &[Negotiate::Prefer],
            _ => &[Negotiate::Require],
        };
        let mut result = Err(Error::failed("no way to connect"));
        for mode in modes {
            result = Self::try_at(settings, host, wanted, *mode);
            if result.is_ok() {
                break;
            }
        }
        result
    }

    fn try_at(
        settings: &Settings,
        host: &Host,
        wanted: TargetSessionAttrs,
        mode: Negotiate,
    ) -> Result<Self> {
        let mut config = Config::new();
        match &host.place {
            Place::Name(name) => config.host(name),
            Place::Socket(directory) => config.host_path(directory),
        };
        if let Some(address) = host.address {
            config.hostaddr(address);
        }
        config
            .port(host.port)
            .user(&settings.user)
            .dbname(&settings.database)
            .application_name(&settings.application)
            .connect_timeout(settings.connect_timeout)
            .keepalives_idle(Duration::from_mins(1))
            .ssl_mode(mode)
            .channel_binding(match settings.channel_binding {
                None => ChannelBinding::Prefer,
                Some(true) => ChannelBinding::Require,
                Some(false) => ChannelBinding::Disable,
            })
            .target_session_attrs(wanted);
        if settings.tls.direct && mode != Negotiate::Disable {
            config.ssl_negotiation(SslNegotiation::Direct);
        }
        if let Some(options) = &settings.options {
            config.options(options);
        }
        if let Some(unanswered) = settings.unanswered {
            config.tcp_user_timeout(unanswered);
        }
        if let Some(password) = settings.password(host)? {
            config.password(password.expose_secret());
        }
        let notices: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = notices.clone();
        config.notice_callback(move |notice| {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() >= NOTICES {
                kept.remove(0);
            }
            kept.push(format!("{}: {}", notice.severity(), notice.message()));
        });
        let tls = MakeRustlsConnect::new(settings.tls.config()?);
        let mut client =
            config.connect(tls.clone()).map_err(|error| explain(error, settings, host))?;
        lift_timeout(&mut client).map_err(|error| explain(error, settings, host))?;
        let server = look(&mut client, host).map_err(|error| explain(error, settings, host))?;
        check_version(&server)?;
        client.batch_execute(SESSION).map_err(|error| explain(error, settings, host))?;
        Ok(Self { client, tls, server, settings: settings.clone(), notices })
    }

    /// The session itself, for those that speak SQL of their own.
    pub fn into_client(self) -> Client {
        self.client
    }

    /// What answered.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// How it was reached.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Runs statements, one after another.
    pub fn execute(&mut self, statements: &str, doing: &str) -> Result<()> {
        self.client.batch_execute(statements).map_err(|error| said(error, doing))
    }

    /// Runs a query with parameters.
    pub fn query(
        &mut self,
        query: &str,
        parameters: &[&(dyn ToSql + Sync)],
        doing: &str,
    ) -> Result<Vec<Row>> {
        self.client.query(query, parameters).map_err(|error| said(error, doing))
    }

    /// The rows of a query as text: `NULL` is `None`.
    pub fn text(&mut self, query: &str, doing: &str) -> Result<Vec<Vec<Option<String>>>> {
        let messages = self.client.simple_query(query).map_err(|error| said(error, doing))?;
        Ok(messages
            .into_iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => {
                    Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect())
                }
                _ => None,
            })
            .collect())
    }

    /// The one value of a query, as text.
    pub fn value(&mut self, query: &str, doing: &str) -> Result<String> {
        let rows = self.text(query, doing)?;
        let first = rows.into_iter().next().and_then(|row| row.into_iter().next());
        first.flatten().ok_or_else(|| Error::failed(format!("{doing}: the server gave no value")))
    }

    /// Runs what may take long: the query at work is cancelled once `stop` says so.
    pub fn patiently<T>(
        &mut self,
        stop: &(dyn Fn() -> bool + Sync),
        work: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let (token, tls) = (self.client.cancel_token(), self.tls.clone());
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    if stop() {
                        let _ = token.cancel_query(tls.clone());
                    }
                    std::thread::park_timeout(WATCH);
                }
            });
            let result = work(self);
            over.store(true, Ordering::SeqCst);
            watcher.thread().unpark();
            if stop() { Err(Error::new(ErrorKind::Interrupted, "interrupted")) } else { result }
        })
    }

    /// What the server remarked since this was asked last.
    pub fn notices(&self) -> Vec<String> {
        std::mem::take(&mut *self.notices.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("server", &self.server).finish_non_exhaustive()
    }
}

/// A role's `statement_timeout` may be shorter than any statement takes on a busy server: the
/// shortest there is lifts it, again and again until it was fast enough.
fn lift_timeout(client: &mut Client) -> Result<(), postgres::Error> {
    let mut tries = 0..LIFTS;
    loop {
        match client.batch_execute("SET statement_timeout = 0") {
            Err(error)
                if error.code() == Some(&SqlState::QUERY_CANCELED) && tries.next().is_some() => {}
            other => return other,
        }
    }
}

fn look(client: &mut Client, host: &Host) -> Result<Server, postgres::Error> {
    // Understood by every version ever supported, so that old ones are told by name.
    let row = client.query_one(
        "SELECT current_setting('server_version_num'), current_setting('server_version'), \
         pg_is_in_recovery(), current_setting('is_superuser')",
        &[],
    )?;
    let number: String = row.try_get(0)?;
    let superuser: String = row.try_get(3)?;
    Ok(Server {
        version: number.parse().unwrap_or(0),
        version_text: row.try_get(1)?,
        standby: row.try_get(2)?,
        superuser: superuser == "on",
        host: host.clone(),
    })
}

fn check_version(server: &Server) -> Result<()> {
    if server.version >= OLDEST {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "PostgreSQL {} at {} is not supported: 10 is the oldest that is",
        server.version_text, server.host
    ))
    .hint("upgrade it, or back it up with a `command` source that runs its own pg_dump"))
}

/// An error of a statement.
fn said(error: postgres::Error, doing: &str) -> Error {
    let Some(db) = error.as_db_error() else {
        let lost = error.is_closed() || cause::<io::Error>(&error).is_some();
        let kind = if lost { ErrorKind::Unreachable } else { ErrorKind::Failed };
        let message = if lost {
            format!("{doing}: the connection to the server was lost")
        } else {
            doing.to_owned()
        };
        return Error::new(kind, message).with_source(error);
    };
    let code = db.code();
    let kind = if *code == SqlState::INSUFFICIENT_PRIVILEGE {
        ErrorKind::Denied
    } else if [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN].contains(code) {
        ErrorKind::Unreachable
    } else {
        ErrorKind::Failed
    };
    let mut text = format!("{} ({})", db.message(), code.code());
    if let Some(detail) = db.detail() {
        text.push_str(": ");
        text.push_str(detail);
    }
    let found = Error::new(kind, doing).with_source(text);
    match db.hint() {
        Some(hint) => found.hint(format!("the server says: {hint}")),
        None => found,
    }
}

/// An error of connecting.
fn explain(error: postgres::Error, settings: &Settings, host: &Host) -> Error {
    let Settings { user, database, .. } = settings;
    if let Some(db) = error.as_db_error() {
        let said = format!("{} ({})", db.message(), db.code().code());
        return refused(db.code(), said, settings, host);
    }
    let failed = |kind, message| Error::new(kind, message);
    if let Some(tls) = cause::<rustls::Error>(&error) {
        let text = tls.to_string();
        let message = format!("the server at {host} does not prove who it is");
        return failed(ErrorKind::Denied, message).with_source(text).hint(
            "`sslrootcert` must have signed its certificate; for `verify-full` the certificate must name this host in subjectAltName",
        );
    }
    let text = format!("{error}: {}", cause_text(&error));
    if text.contains("database is not read only") || text.contains("does not allow writes") {
        let wanted = if text.contains("read only") { "a standby" } else { "a primary" };
        return failed(ErrorKind::Unreachable, format!("PostgreSQL at {host} is not {wanted}"))
            .hint("`target_session_attrs` of the connection asks for one");
    }
    if let Some(io) = cause::<io::Error>(&error) {
        let message = format!("failed to reach PostgreSQL at {host}");
        let found = failed(ErrorKind::Unreachable, message);
        let found = match (io.kind(), &host.place) {
            (io::ErrorKind::ConnectionRefused, _) => {
                found.hint("is it running, and does it listen there (`listen_addresses`, `port`)?")
            }
            (io::ErrorKind::NotFound, Place::Socket(directory)) => found.hint(format!(
                "there is no socket in {}: is it running, and is this its `unix_socket_directories`?",
                directory.display()
            )),
            (io::ErrorKind::PermissionDenied, _) => found
                .with_kind(ErrorKind::Denied)
                .hint("this user may not use the server's socket"),
            (io::ErrorKind::TimedOut, _) => {
                found.hint("nothing answered: look for a firewall, or set `connect_timeout`")
            }
            _ => found,
        };
        return found.with_source(error);
    }
    if text.contains("password missing") {
        return failed(
            ErrorKind::Denied,
            format!("PostgreSQL at {host} asks for a password of `{user}`, and there is none"),
        )
        .hint(format!(
            "write `password=${{file:PATH}}` in the connection, or a line `HOST:PORT:{database}:{user}:…` into ~/.pgpass"
        ));
    }
    if text.contains("does not support TLS") {
        return failed(ErrorKind::Denied, format!("PostgreSQL at {host} has no TLS"))
            .hint("turn it on there (`ssl = on`); or `sslmode=prefer`, if the way there is safe");
    }
    let kind = if text.contains("timeout") || text.contains("timed out") {
        ErrorKind::Unreachable
    } else {
        ErrorKind::Failed
    };
    failed(kind, format!("failed to connect to PostgreSQL at {host}")).with_source(error)
}

/// What the server itself said no to.
pub(super) fn refused(code: &SqlState, said: String, settings: &Settings, host: &Host) -> Error {
    let Settings { user, database, .. } = settings;
    let (kind, message, hint) = if *code == SqlState::INVALID_PASSWORD {
        (
            ErrorKind::Denied,
            format!("PostgreSQL at {host} does not take the password of `{user}`"),
            "compare it with the server's: `ALTER ROLE … PASSWORD`, or `\\password` in psql".into(),
        )
    } else if *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION {
        (
            ErrorKind::Denied,
            format!("PostgreSQL at {host} does not let `{user}` in"),
            "does the role exist, may it log in, and is there a line for it in pg_hba.conf?".into(),
        )
    } else if *code == SqlState::INVALID_CATALOG_NAME {
        (
            ErrorKind::NotFound,
            format!("PostgreSQL at {host} has no database `{database}`"),
            "`psql --list` shows what it has".to_owned(),
        )
    } else if *code == SqlState::INSUFFICIENT_PRIVILEGE {
        (
            ErrorKind::Denied,
            format!("`{user}` may not connect to database `{database}`"),
            format!("GRANT CONNECT ON DATABASE {} TO {}", ident(database), ident(user)),
        )
    } else if *code == SqlState::TOO_MANY_CONNECTIONS {
        (
            ErrorKind::Unreachable,
            format!("PostgreSQL at {host} takes no more connections"),
            "raise max_connections, or the limit of the role or database".to_owned(),
        )
    } else if *code == SqlState::CANNOT_CONNECT_NOW {
        (
            ErrorKind::Unreachable,
            format!("PostgreSQL at {host} is starting, stopping or recovering"),
            "its log says how far it is".to_owned(),
        )
    } else if *code == SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE {
        (
            ErrorKind::Conflict,
            format!("database `{database}` at {host} takes no connections"),
            format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", ident(database)),
        )
    } else {
        (
            ErrorKind::Failed,
            format!("failed to connect to PostgreSQL at {host}"),
            "the server's log says more".to_owned(),
        )
    };
    Error::new(kind, message).with_source(said).hint(hint)
}

/// An identifier, quoted for SQL.
pub(super) fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text, quoted for SQL.
pub(super) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        format!(" E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

fn cause_text(error: &postgres::Error) -> String {
    std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
}

/// The cause of type `T`, however deep.
fn cause<T: std::error::Error + 'static>(error: &postgres::Error) -> Option<&T> {
    let mut next = std::error::Error::source(error);
    while let Some(current) = next {
        if let Some(found) = current.downcast_ref::<T>() {
            return Some(found);
        }
        // `io::Error` hides what it wraps one step further.
        if let Some(inner) = current.downcast_ref::<io::Error>().and_then(io::Error::get_ref)
            && let Some(found) = inner.downcast_ref::<T>()
        {
            return Some(found);
        }
        next = current.source();
    }
    None
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn servers_before_10_are_refused_by_name() {
        let mut server = Server {
            version: 90_624,
            version_text: "9.6.24".into(),
            standby: false,
            superuser: true,
            host: Host { place: Place::Name("db".into()), address: None, port: 5432 },
        };
        let error = check_version(&server).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("9.6.24"), "{error}");
        server.version = 100_023;
        check_version(&server).unwrap();
        assert_eq!(server.major(), 10);
    }

    #[test]
    fn names_are_quoted() {
        assert_eq!(ident("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\b'"), " E'a\\\\b'''");
    }
}
