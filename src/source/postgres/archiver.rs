//! What a server says of its WAL and of archiving it.

use jiff::Timestamp;
use serde::Serialize;

use super::connection::Connection;
use super::conninfo::{Settings, Surroundings};
use crate::archive::wal::{Lsn, is_segment_size};
use crate::error::{Error, Result};

/// A server's WAL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerWal {
    /// `server_version`.
    pub version: String,
    /// Where it was reached.
    pub host: String,
    /// The cluster, as text: it is too large for most programs' numbers.
    pub system_id: String,
    /// The timeline it writes, or replays.
    pub timeline: u32,
    /// Up to where it has written, or received and replayed.
    pub lsn: Lsn,
    /// It replays another server's WAL.
    pub standby: bool,
    /// Bytes in a segment.
    pub segment_size: u64,
    /// The server's time.
    pub now: Timestamp,
    /// `archive_mode`: `off`, `on`, `always`.
    pub archive_mode: String,
    /// `archive_command`; `None` if this role may not see it.
    pub archive_command: Option<String>,
    /// `archive_library`, which takes the command's place.
    pub archive_library: Option<String>,
    /// Seconds after which a segment is archived although it is not full; 0: never.
    pub archive_timeout: u64,
    /// Files archived since the statistics began.
    pub archived: u64,
    /// The last of them, and when.
    pub last_archived: Option<Archived>,
    /// Attempts that failed.
    pub failed: u64,
    /// The last of them, and when.
    pub last_failed: Option<Archived>,
}

/// A file, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Archived {
    /// The file's name.
    pub name: String,
    /// When.
    pub time: Timestamp,
}

impl ServerWal {
    /// Whether the last attempt to archive a file failed.
    pub fn fails(&self) -> bool {
        let last = self.last_archived.as_ref().map(|archived| archived.time);
        self.last_failed.as_ref().is_some_and(|failed| last.is_none_or(|last| failed.time > last))
    }

    /// Why nothing is archived, as it is configured.
    pub fn unconfigured(&self) -> Option<&'static str> {
        let empty =
            |text: &Option<String>| text.as_deref().is_some_and(|text| text.trim().is_empty());
        match self.archive_mode.as_str() {
            "off" => Some("`archive_mode` is off"),
            "on" if self.standby => None,
            _ if empty(&self.archive_command)
                && self.archive_library.as_deref().unwrap_or_default().is_empty() =>
            {
                Some("`archive_command` is empty")
            }
            _ => None,
        }
    }
}

const TIME: &str = "'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'";

/// Asks a server.
pub fn server_wal(connection: &str) -> Result<ServerWal> {
    let settings = Settings::resolve(connection, &Surroundings::here())?;
    let mut sql = Connection::open(&settings)?;
    let server = sql.server().clone();
    let doing = "failed to ask how far WAL is written";
    let position = if server.standby {
        "SELECT GREATEST(pg_catalog.pg_last_wal_receive_lsn(), \
         pg_catalog.pg_last_wal_replay_lsn())::text"
    } else {
        "SELECT pg_catalog.pg_current_wal_lsn()::text"
    };
    let lsn: Lsn = sql.value(position, doing)?.parse()?;
    let timeline = if server.standby {
        sql.value("SELECT timeline_id::text FROM pg_catalog.pg_control_checkpoint()", doing)?
            .parse()
            .ok()
    } else {
        let name =
            sql.value("SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn())", doing)?;
        name.get(..8).and_then(|text| u32::from_str_radix(text, 16).ok())
    };
    let timeline = timeline.ok_or_else(|| Error::failed(format!("{doing}: no timeline")))?;
    let system_id =
        sql.value("SELECT system_identifier::text FROM pg_catalog.pg_control_system()", doing)?;
    let row = one(&mut sql, &settings_query(), "failed to ask how WAL is archived")?;
    let text = |at: usize| row.get(at).cloned().flatten();
    let number = |at: usize| text(at).and_then(|text| text.parse::<u64>().ok());
    let segment_size = number(0).filter(|size| is_segment_size(*size));
    let archived = |name: usize, time: usize| {
        Some(Archived { name: text(name)?, time: text(time)?.parse().ok()? })
    };
    Ok(ServerWal {
        version: server.version_text,
        host: server.host.to_string(),
        system_id,
        timeline,
        lsn,
        standby: server.standby,
        segment_size: segment_size
            .ok_or_else(|| Error::failed("the server does not say how large WAL segments are"))?,
        now: text(5)
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| Error::failed("the server does not say what time it is"))?,
        archive_mode: text(1).unwrap_or_default(),
        archive_command: text(2),
        archive_library: text(3),
        archive_timeout: number(4).unwrap_or(0),
        archived: number(6).unwrap_or(0),
        last_archived: archived(7, 8),
        failed: number(9).unwrap_or(0),
        last_failed: archived(10, 11),
    })
}

fn settings_query() -> String {
    let time = |column: &str| format!("pg_catalog.to_char({column} AT TIME ZONE 'UTC', {TIME})");
    format!(
        "SELECT pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size'))::text, \
         pg_catalog.current_setting('archive_mode'), \
         pg_catalog.current_setting('archive_command', true), \
         pg_catalog.current_setting('archive_library', true), \
         (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'archive_timeout'), \
         {now}, archived_count::text, last_archived_wal, {archived}, failed_count::text, \
         last_failed_wal, {failed} FROM pg_catalog.pg_stat_archiver",
        now = time("pg_catalog.clock_timestamp()"),
        archived = time("last_archived_time"),
        failed = time("last_failed_time"),
    )
}

fn one(sql: &mut Connection, query: &str, doing: &str) -> Result<Vec<Option<String>>> {
    let first = sql.text(query, doing)?.into_iter().next();
    first.ok_or_else(|| Error::failed(format!("{doing}: the server gave no answer")))
}

/// Ends the segment that is being written, so that it is archived, and returns its name.
pub fn switch_segment(connection: &str) -> Result<String> {
    let settings = Settings::resolve(connection, &Surroundings::here())?;
    let mut sql = Connection::open(&settings)?;
    let doing = "failed to end a WAL segment";
    if sql.server().standby {
        return Err(Error::unsupported("a standby ends no WAL segments")
            .hint("ask the primary: its connection belongs into the policy of this check"));
    }
    // Something must be in it: an empty segment is not ended.
    let granted = |error: Error| {
        error.hint(
            "GRANT EXECUTE ON FUNCTION pg_create_restore_point(text), pg_switch_wal() TO the role",
        )
    };
    let name =
        "SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_create_restore_point('backstay check'))";
    let name = sql.value(name, doing).map_err(granted)?;
    sql.value("SELECT pg_catalog.pg_switch_wal()::text", doing).map_err(granted)?;
    Ok(name)
}

#[cfg(test)]
impl ServerWal {
    /// A server at which all is well, for tests.
    pub(super) fn sample() -> Self {
        Self {
            version: "17.2".into(),
            host: "db:5432".into(),
            system_id: "7".into(),
            timeline: 1,
            lsn: Lsn(0),
            standby: false,
            segment_size: 16 << 20,
            now: Timestamp::UNIX_EPOCH,
            archive_mode: "on".into(),
            archive_command: Some("backstay wal push %p".into()),
            archive_library: Some(String::new()),
            archive_timeout: 60,
            archived: 1,
            last_archived: None,
            failed: 0,
            last_failed: None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn server() -> ServerWal {
        ServerWal::sample()
    }

    #[test]
    fn an_archiver_fails_if_its_last_attempt_did() {
        let at = |second| {
            let time = Timestamp::from_second(second).unwrap();
            Some(Archived { name: "000000010000000000000001".into(), time })
        };
        assert!(!server().fails());
        assert!(ServerWal { last_failed: at(5), ..server() }.fails());
        let both =
            |ok, failed| ServerWal { last_archived: at(ok), last_failed: at(failed), ..server() };
        assert!(both(5, 6).fails());
        assert!(!both(6, 5).fails());
    }

    #[test]
    fn what_archives_nothing_is_told() {
        assert_eq!(server().unconfigured(), None);
        assert!(ServerWal { archive_mode: "off".into(), ..server() }.unconfigured().is_some());
        let empty = ServerWal { archive_command: Some(String::new()), ..server() };
        assert!(empty.unconfigured().is_some());
        let library = ServerWal { archive_library: Some("basic_archive".into()), ..empty.clone() };
        assert_eq!(library.unconfigured(), None);
        assert_eq!(ServerWal { standby: true, ..empty }.unconfigured(), None);
        assert_eq!(ServerWal { archive_command: None, ..server() }.unconfigured(), None);
    }
}
