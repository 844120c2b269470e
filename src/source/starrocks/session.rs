//! A connection to one frontend, for threads that may block.
//!
//! StarRocks speaks a part of the MySQL protocol only: text queries, no question at the beginning
//! (`@@socket` is none of its variables), no reset of a connection, native passwords.

use std::path::PathBuf;
use std::time::Duration;

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, OptsBuilder, PoolOpts, SslOpts};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::cluster::Target;
use super::rows::Rows;
use super::said::Failure;

/// How long a frontend may take to let somebody in.
const GREETING: Duration = Duration::from_secs(10);

/// How long one statement may take. `CREATE REPOSITORY` goes to the bucket, and counting reads.
const ANSWER: Duration = Duration::from_mins(30);

/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// The largest packet that is taken: a row with the definition of a table.
const PACKET: usize = 64 << 20;

/// How somebody logs in.
#[derive(Debug, Clone)]
pub struct Access {
    /// The user.
    pub user: String,
    /// Its password.
    pub password: Option<SecretString>,
    /// Encryption on the way.
    pub tls: Tls,
}

/// Encryption on the way to a frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// None.
    Off,
    /// With the certificates that are usually trusted.
    Usual,
    /// With these instead.
    Trusting(PathBuf),
}

/// A connection.
pub struct Session {
    runtime: Runtime,
    connection: Option<Conn>,
}

impl Session {
    /// Connects.
    pub fn open(target: &Target, access: &Access) -> Result<Self, Failure> {
        let lost = |error: std::io::Error| Failure::Lost(error.to_string());
        let runtime = Builder::new_current_thread().enable_all().build().map_err(lost)?;
        let mut options = OptsBuilder::default()
            .ip_or_hostname(target.host.clone())
            .tcp_port(target.port)
            .user(Some(access.user.clone()))
            .pass(access.password.as_ref().map(|password| password.expose_secret().to_owned()))
            .prefer_socket(false)
            .max_allowed_packet(Some(PACKET))
            .wait_timeout(Some(28_800))
            .stmt_cache_size(0)
            .tcp_keepalive(Some(Duration::from_secs(30)))
            .pool_opts(PoolOpts::new().with_reset_connection(false));
        if access.tls != Tls::Off {
            let mut tls = SslOpts::default();
            if let Tls::Trusting(path) = &access.tls {
                tls = tls
                    .with_root_certs(vec![path.clone().into()])
                    .with_disable_built_in_roots(true);
            }
            options = options.ssl_opts(tls);
        }
        let connecting = async { timeout(GREETING, Conn::new(options)).await };
        let connection = runtime
            .block_on(connecting)
            .map_err(|_| Failure::Lost(format!("{target} did not answer in time")))?
            .map_err(|error| failure(error, target))?;
        Ok(Self { runtime, connection: Some(connection) })
    }

    /// Sends a statement and takes everything that it gives.
    pub fn query(&mut self, statement: &str, target: &Target) -> Result<Rows, Failure> {
        let Some(connection) = &mut self.connection else {
            return Err(Failure::Lost(format!("the connection to {target} ended")));
        };
        let asking = async {
            let mut result = connection.query_iter(statement).await?;
            let columns = result.columns_ref().iter().map(|c| c.name_str().into_owned()).collect();
            let rows: Vec<mysql_async::Row> = result.collect().await?;
            result.drop_result().await?;
            Ok::<_, mysql_async::Error>((columns, rows))
        };
        let asked = self.runtime.block_on(async { timeout(ANSWER, asking).await });
        let (columns, rows) = asked
            .map_err(|_| Failure::Lost(format!("{target} did not answer in time")))?
            .map_err(|error| failure(error, target))?;
        let rows = rows.into_iter().map(|row| row.unwrap_raw().into_iter().map(value).collect());
        Ok(Rows { columns, rows: rows.collect() })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            let goodbye = async { timeout(GOODBYE, connection.disconnect()).await };
            let _ = self.runtime.block_on(goodbye);
        }
    }
}

fn value(value: Option<mysql_async::Value>) -> Option<String> {
    match value? {
        mysql_async::Value::NULL => None,
        mysql_async::Value::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        // The text protocol gives nothing else.
        other => Some(other.as_sql(true)),
    }
}

fn failure(error: mysql_async::Error, target: &Target) -> Failure {
    match error {
        mysql_async::Error::Server(said) => Failure::Said(said.message),
        other => Failure::Lost(format!("{target}: {other}")),
    }
}
