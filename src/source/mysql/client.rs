//! A session with a server, for threads that block.

use std::future::Future;
use std::time::Duration;

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, DriverError, OptsBuilder, Row, SslOpts, Value};
use secrecy::ExposeSecret as _;
use tokio::runtime::{Builder, Runtime};

use super::conninfo::{Settings, SslMode};
use crate::error::{Error, ErrorKind, Result};

/// How long a server may take to answer at all.
const CONNECT: Duration = Duration::from_secs(30);

/// How often a long question is asked whether it is still wanted.
const LOOK: Duration = Duration::from_millis(100);

/// What a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// `MariaDB`, and not MySQL.
    pub mariadb: bool,
    /// Its version: (10, 11, 19).
    pub version: (u32, u32, u32),
    /// The same as it says it: `10.11.19-MariaDB-0+deb12u1`.
    pub text: String,
    /// Where it is.
    pub place: String,
}

impl Server {
    fn parse(text: &str, place: String) -> Self {
        let mut numbers =
            text.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        let version = (next(), next(), next());
        Self {
            mariadb: text.to_ascii_lowercase().contains("mariadb"),
            version,
            text: text.to_owned(),
            place,
        }
    }

    /// `MariaDB` or `MySQL`.
    pub fn product(&self) -> &'static str {
        if self.mariadb { "MariaDB" } else { "MySQL" }
    }

    /// `MariaDB 10.11.19-…`.
    pub fn name(&self) -> String {
        format!("{} {}", self.product(), self.text)
    }
}

/// A row: its values as text, bytes that are no UTF-8 replaced.
pub type Cells = Vec<Option<String>>;

/// A session.
pub struct Client {
    // Before the runtime: its end is a message that somebody must send.
    conn: Option<Conn>,
    runtime: Runtime,
    settings: Settings,
    server: Server,
}

impl Client {
    /// Connects and logs in.
    pub fn open(settings: &Settings) -> Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::io("failed to start a runtime", error))?;
        let doing = || format!("failed to connect to {} as `{}`", settings.place(), settings.user);
        let connect = |encrypted: bool| {
            let options = options(settings, encrypted);
            runtime.block_on(async move { tokio::time::timeout(CONNECT, Conn::new(options)).await })
        };
        let mut found = connect(settings.ssl_mode != SslMode::Disabled);
        let refused = matches!(
            &found,
            Ok(Err(mysql_async::Error::Driver(DriverError::NoClientSslFlagFromServer)))
        );
        if refused && settings.ssl_mode == SslMode::Preferred {
            found = connect(false);
        }
        let conn = match found {
            Ok(Ok(conn)) => conn,
            Ok(Err(error)) => return Err(translate(&error, doing())),
            Err(_) => {
                return Err(Error::new(ErrorKind::Unreachable, doing())
                    .with_source(format!("no answer within {} seconds", CONNECT.as_secs())));
            }
        };
        let server = Server::parse("", settings.place());
        let mut client = Self { conn: Some(conn), runtime, settings: settings.clone(), server };
        let version = client.value("SELECT VERSION()", "failed to ask for the version")?;
        client.server = Server::parse(&version, settings.place());
        // Names come as they are, whatever the server's defaults.
        client.execute("SET NAMES utf8mb4", "failed to set the character set")?;
        client.execute("SET SESSION sql_mode = ''", "failed to set the SQL mode")?;
        Ok(client)
    }

    /// The server.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// How it is reached.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    fn run<T, F>(
        &mut self,
        doing: &str,
        stop: &dyn Fn() -> bool,
        work: impl FnOnce(Conn) -> F,
    ) -> Result<T>
    where
        F: Future<Output = (Conn, mysql_async::Result<T>)>,
    {
        let lost = || Error::new(ErrorKind::Unreachable, format!("{doing}: the session is gone"));
        let conn = self.conn.take().ok_or_else(lost)?;
        let id = conn.id();
        let done = self.runtime.block_on(async {
            let work = work(conn);
            tokio::pin!(work);
            loop {
                match tokio::time::timeout(LOOK, &mut work).await {
                    Ok(done) => return Some(done),
                    Err(_) if stop() => return None,
                    Err(_) => {}
                }
            }
        });
        let Some((conn, result)) = done else {
            // What nobody waits for any more is not left to run there.
            if let Ok(mut other) = Self::open(&self.settings) {
                let _ = other.execute(&format!("KILL {id}"), "failed to end a session");
            }
            return Err(Error::new(ErrorKind::Interrupted, "interrupted"));
        };
        self.conn = Some(conn);
        result.map_err(|error| translate(&error, doing.to_owned()))
    }

    /// The rows that a query gives, unless `stop` says that nobody wants them any more.
    pub fn rows_unless(
        &mut self,
        stop: &dyn Fn() -> bool,
        query: &str,
        doing: &str,
    ) -> Result<Vec<Cells>> {
        let text = query.to_owned();
        let rows = self.run(doing, stop, |mut conn| async move {
            let rows = conn.query::<Row, _>(text).await;
            (conn, rows)
        })?;
        let cell = |value: Value| match value {
            Value::NULL => None,
            Value::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            other => Some(other.as_sql(true).trim_matches('\'').to_owned()),
        };
        Ok(rows
            .into_iter()
            .map(|row| {
                row.unwrap_raw()
                    .into_iter()
                    .map(|value| cell(value.unwrap_or(Value::NULL)))
                    .collect()
            })
            .collect())
    }

    /// The rows that a query gives.
    pub fn rows(&mut self, query: &str, doing: &str) -> Result<Vec<Cells>> {
        self.rows_unless(&|| false, query, doing)
    }

    /// The first value of the first row.
    pub fn value(&mut self, query: &str, doing: &str) -> Result<String> {
        let row = self.rows(query, doing)?.into_iter().next();
        row.and_then(|row| row.into_iter().next().flatten())
            .ok_or_else(|| Error::failed(format!("{doing}: the server gave nothing")))
    }

    /// Runs a statement.
    pub fn execute(&mut self, statement: &str, doing: &str) -> Result<()> {
        let text = statement.to_owned();
        self.run(doing, &|| false, |mut conn| async move {
            let done = conn.query_drop(text).await;
            (conn, done)
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            let _ = self.runtime.block_on(async {
                tokio::time::timeout(Duration::from_secs(1), conn.disconnect()).await
            });
        }
    }
}

fn options(settings: &Settings, encrypted: bool) -> OptsBuilder {
    let mut options = OptsBuilder::default()
        .user(Some(settings.user.clone()))
        .pass(settings.password.as_ref().map(|password| password.expose_secret().to_owned()))
        // The way that was asked for, and no other that the server proposes.
        .prefer_socket(Some(false))
        .stmt_cache_size(Some(0))
        .tcp_keepalive(Some(Duration::from_secs(30)));
    options = match &settings.socket {
        Some(socket) => options.socket(Some(socket.display().to_string())),
        None => options.ip_or_hostname(settings.host.clone()).tcp_port(settings.port),
    };
    if encrypted {
        let proven = settings.ssl_mode == SslMode::VerifyIdentity;
        let mut ssl = SslOpts::default().with_danger_accept_invalid_certs(!proven);
        if let Some(trusted) = settings.trusted() {
            ssl = ssl.with_root_certs(vec![trusted.into()]).with_disable_built_in_roots(true);
        }
        options = options.ssl_opts(Some(ssl));
    }
    options
}

/// A server's refusal with what to do about it.
fn translate(error: &mysql_async::Error, doing: String) -> Error {
    use mysql_async::Error as E;
    let (kind, hint) = match error {
        E::Server(refusal) => match refusal.code {
            1045 | 1698 => (
                ErrorKind::Denied,
                Some(
                    "is the password right, and may this user come from this host? `${file:…}` must hold the password alone",
                ),
            ),
            1044 | 1142 | 1143 | 1227 | 1370 => {
                (ErrorKind::Denied, Some("`backstay check` names the rights that are missing"))
            }
            1049 | 1146 => (ErrorKind::NotFound, None),
            1205 | 3572 => (
                ErrorKind::Busy,
                Some("a long transaction or statement is in the way: SHOW PROCESSLIST tells which"),
            ),
            1040 | 1053 | 1203 => (ErrorKind::Unreachable, None),
            _ => (ErrorKind::Failed, None),
        },
        E::Io(_) => (
            ErrorKind::Unreachable,
            Some(
                "is the server up, and `host`, `port` or `socket` right? with `ssl_mode=verify_identity` the certificate must name the host",
            ),
        ),
        E::Driver(DriverError::NoClientSslFlagFromServer) => (
            ErrorKind::Unsupported,
            Some(
                "the server has no TLS: set it up there, or write `ssl_mode=disabled` on a network that you trust",
            ),
        ),
        _ => (ErrorKind::Failed, None),
    };
    let failed = Error::new(kind, doing).with_source(crate::secret::mask(&error.to_string()));
    match hint {
        Some(hint) => failed.hint(hint),
        None => failed,
    }
}

/// A name as SQL writes it.
pub fn ident(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A text as SQL writes it, with the session's empty `sql_mode`.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}
