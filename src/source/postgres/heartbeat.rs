//! Heartbeats in a database: one row of each machine and source, in a schema of their own.

use jiff::Timestamp;

use super::connection::ident;
use super::{Connection, Settings, Surroundings, Wanted};
use crate::error::{Error, Result};
use crate::source::heartbeat::{Beat, Writer};

/// The schema.
pub const SCHEMA: &str = "backstay_heartbeat";

/// How long a statement may take: an old time is worth nothing.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

const DOING: &str = "failed to write the heartbeat";

/// A session that heartbeats are written in.
#[derive(Debug)]
pub struct Pulse {
    connection: Connection,
}

impl Pulse {
    /// Connects, and makes schema and table where they are not there. `None`: it replays another
    /// server's WAL and takes no writes; what is written there comes along.
    pub fn begin(connection: &str, database: Option<&str>) -> Result<Option<Self>> {
        let mut settings = Settings::resolve(connection, &Surroundings::here())?;
        settings.connect_timeout = settings.connect_timeout.min(PATIENCE);
        settings.unanswered = settings.unanswered.or(Some(PATIENCE));
        if settings.hosts.len() > 1 {
            settings.wanted = Wanted::ReadWrite;
        }
        let settings = match database {
            Some(database) => settings.with_database(database),
            None => settings,
        };
        let mut connection = Connection::open(&settings)?;
        if connection.server().standby {
            return Ok(None);
        }
        // Of a site that was fenced nothing is changed, and nobody is waited for.
        let millis = PATIENCE.as_millis();
        connection.execute(
            &format!(
                "RESET default_transaction_read_only; SET synchronous_commit = off; \
                 SET statement_timeout = {millis}; SET lock_timeout = {millis}"
            ),
            DOING,
        )?;
        if !is_there(&mut connection)? {
            make(&mut connection).map_err(|error| {
                error.hint(format!(
                    "as the owner of the database: CREATE SCHEMA {SCHEMA} AUTHORIZATION {}",
                    ident(&settings.user)
                ))
            })?;
        }
        Ok(Some(Self { connection }))
    }

    /// Writes one; how many that were.
    pub fn beat(&mut self, writer: &Writer, at: Timestamp) -> Result<u64> {
        let query = "INSERT INTO backstay_heartbeat.beat AS old (host, source, beats, at, server_at) \
                     VALUES ($1, $2, 1, $3::text::timestamptz, pg_catalog.clock_timestamp()) \
                     ON CONFLICT (host, source) DO UPDATE \
                     SET beats = old.beats + 1, at = excluded.at, server_at = excluded.server_at \
                     RETURNING beats";
        let rows = self.connection.query(
            query,
            &[&writer.host, &writer.source, &at.to_string()],
            DOING,
        )?;
        let beats: Option<i64> = rows.first().and_then(|row| row.try_get(0).ok());
        beats
            .and_then(|beats| u64::try_from(beats).ok())
            .ok_or_else(|| Error::failed(format!("{DOING}: the server gave no value")))
    }
}

fn is_there(connection: &mut Connection) -> Result<bool> {
    let query = "SELECT pg_catalog.to_regclass('backstay_heartbeat.beat') IS NOT NULL";
    Ok(connection.value(query, "failed to look for heartbeats")? == "t")
}

fn make(connection: &mut Connection) -> Result<()> {
    let schema = "SELECT pg_catalog.to_regnamespace('backstay_heartbeat') IS NULL";
    if connection.value(schema, DOING)? == "t" {
        connection.execute("CREATE SCHEMA IF NOT EXISTS backstay_heartbeat", DOING)?;
    }
    connection.execute(
        "CREATE TABLE IF NOT EXISTS backstay_heartbeat.beat (\
             host text NOT NULL, source text NOT NULL, beats bigint NOT NULL, \
             at timestamptz NOT NULL, server_at timestamptz NOT NULL, \
             PRIMARY KEY (host, source)) WITH (fillfactor = 20)",
        DOING,
    )
}

/// The heartbeats of a database.
pub fn find(connection: &mut Connection) -> Result<Vec<Beat>> {
    if !is_there(connection)? {
        return Ok(Vec::new());
    }
    let query = "SELECT host, source, beats, (extract(epoch FROM at) * 1000000)::bigint, \
                 (extract(epoch FROM server_at) * 1000000)::bigint FROM backstay_heartbeat.beat";
    let rows = connection.text(query, "failed to read the heartbeats")?;
    let beat = |row: Vec<Option<String>>| {
        let [host, source, beats, at, server_at] = <[_; 5]>::try_from(row).ok()?;
        let time = |text: Option<String>| Timestamp::from_microsecond(text?.parse().ok()?).ok();
        Some(Beat {
            host: host?,
            source: source?,
            beats: beats?.parse().ok()?,
            at: time(at)?,
            server_at: time(server_at),
        })
    };
    Ok(rows.into_iter().filter_map(beat).collect())
}
