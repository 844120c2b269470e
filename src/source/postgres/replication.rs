//! The commands of a walsender: who are you, give me a base backup, give me WAL.
//!
//! Follows "55.4. Streaming Replication Protocol" of PostgreSQL's documentation, in the form of
//! the server's own version: options of commands stand in parentheses from 15 on.

use std::io::Read;

use bytes::BufMut as _;
use postgres_protocol::message::frontend;

use super::conninfo::{Host, Settings};
use super::login;
use super::wire::{Row, Wire};
use crate::archive::wal::Lsn;
use crate::error::{Error, Result};
use crate::telemetry::Reporter;

/// The oldest server that base backups are taken of, as a major version.
pub const OLDEST_CLUSTER: u32 = 13;

/// Who a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// What tells this cluster and its copies from every other.
    pub system_id: u64,
    /// Its timeline.
    pub timeline: u32,
    /// How far its WAL is on disk.
    pub position: Lsn,
}

/// A session with a walsender.
pub struct Replication {
    pub(super) wire: Wire,
    pub(super) reporter: Reporter,
    settings: Settings,
    host: Host,
    major: u32,
    /// Something is under way, and would go on for a while without us.
    pub(super) busy: bool,
}

/// How a base backup is to be made.
#[derive(Debug, Clone, Default)]
pub struct BackupOptions {
    /// What the server's log and the backup's label say.
    pub label: String,
    /// Start at once with a checkpoint as fast as the disks allow, and not with the next one.
    pub fast: bool,
    /// KiB in a second.
    pub max_rate: Option<u32>,
    /// Only what changed since the backup whose manifest was uploaded (17 and later).
    pub incremental: bool,
}

impl Replication {
    /// Opens a session at this host.
    pub fn open(settings: &Settings, host: &Host, reporter: &Reporter) -> Result<Self> {
        let wire = login::open(settings, host)?;
        let major = major(&wire.version);
        if major < OLDEST_CLUSTER {
            return Err(Error::unsupported(format!(
                "base backups of PostgreSQL {} at {host} are not supported: {OLDEST_CLUSTER} is the oldest that is",
                wire.version
            ))
            .hint("use `postgres_dump` for it: that works from 10 on"));
        }
        Ok(Self {
            wire,
            reporter: reporter.clone(),
            settings: settings.clone(),
            host: host.clone(),
            major,
            busy: false,
        })
    }

    /// The major version of the server: 15.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The server's version as it says it: `15.18 (Debian 15.18-0+deb12u1)`.
    pub fn version(&self) -> &str {
        &self.wire.version
    }

    /// Whether options of commands stand in parentheses.
    pub(super) fn is_modern(&self) -> bool {
        self.major >= 15
    }

    fn query(&mut self, command: &str, doing: &str) -> Result<Vec<Row>> {
        let reporter = self.reporter.clone();
        self.wire.query(command, &reporter, doing)
    }

    /// Who answers.
    pub fn identify(&mut self) -> Result<Identity> {
        let doing = "failed to ask the server who it is";
        let rows = self.query("IDENTIFY_SYSTEM", doing)?;
        let row = rows.first().ok_or_else(|| self.wire.nonsense("no identity"))?;
        let column = |at: usize| row.get(at).and_then(Option::as_deref).unwrap_or_default();
        let read =
            || Some((column(0).parse().ok()?, column(1).parse().ok()?, column(2).parse().ok()?));
        let (system_id, timeline, position) =
            read().ok_or_else(|| self.wire.nonsense("a broken identity"))?;
        Ok(Identity { system_id, timeline, position })
    }

    /// The value of a setting; with its unit, as people write it.
    pub fn show(&mut self, name: &str) -> Result<String> {
        let rows = self.query(&format!("SHOW {name}"), &format!("failed to ask for `{name}`"))?;
        let value = rows.into_iter().next().and_then(|row| row.into_iter().next());
        value.flatten().ok_or_else(|| self.wire.nonsense(&format!("no value of `{name}`")))
    }

    /// A setting that is a number of bytes.
    pub fn show_bytes(&mut self, name: &str) -> Result<u64> {
        let text = self.show(name)?;
        bytes_of(&text).ok_or_else(|| self.wire.nonsense(&format!("`{text}` for `{name}`")))
    }

    /// The name and content of a timeline's history file.
    pub fn timeline_history(&mut self, timeline: u32) -> Result<(String, String)> {
        let doing = format!("failed to fetch the history of timeline {timeline}");
        let mut rows = self.query(&format!("TIMELINE_HISTORY {timeline}"), &doing)?;
        let mut row = rows.pop().unwrap_or_default().into_iter();
        match (row.next().flatten(), row.next().flatten()) {
            (Some(name), Some(content)) => Ok((name, content)),
            _ => Err(self.wire.nonsense("a broken history")),
        }
    }

    /// Makes a slot that keeps WAL from now on, as long as this session lives if `temporary`.
    pub fn create_slot(&mut self, name: &str, temporary: bool) -> Result<()> {
        let temporary = if temporary { "TEMPORARY " } else { "" };
        let reserve = if self.is_modern() { "(RESERVE_WAL)" } else { "RESERVE_WAL" };
        let command = format!("CREATE_REPLICATION_SLOT \"{name}\" {temporary}PHYSICAL {reserve}");
        self.query(&command, "failed to create a replication slot").map(drop).map_err(|error| {
            error
                .hint("`max_replication_slots` must leave one free: a backup needs it for its time")
        })
    }

    /// Where a physical slot is to go on from: position and timeline. `None` if there is no such
    /// slot, or it keeps nothing yet. From 15 on.
    pub fn read_slot(&mut self, name: &str) -> Result<Option<(Lsn, u32)>> {
        let doing = format!("failed to look at replication slot `{name}`");
        let rows = self.query(&format!("READ_REPLICATION_SLOT \"{name}\""), &doing)?;
        let Some(row) = rows.first() else { return Ok(None) };
        let column = |at: usize| row.get(at).and_then(Option::as_deref);
        let (Some(at), Some(timeline)) = (column(1), column(2)) else { return Ok(None) };
        let timeline = timeline.parse().map_err(|_| self.wire.nonsense("a broken slot"))?;
        Ok(Some((at.parse()?, timeline)))
    }

    /// Drops a slot.
    pub fn drop_slot(&mut self, name: &str) -> Result<()> {
        let doing = format!("failed to drop replication slot `{name}`");
        self.query(&format!("DROP_REPLICATION_SLOT \"{name}\""), &doing).map(drop)
    }

    /// Gives the server the manifest of an earlier backup, for an incremental one. From 17 on.
    pub fn upload_manifest(&mut self, manifest: &mut dyn Read) -> Result<()> {
        let doing = "failed to give the server the manifest of the earlier backup";
        let reporter = self.reporter.clone();
        self.wire.command("UPLOAD_MANIFEST")?;
        match self.wire.receive(&reporter, doing)? {
            b'G' => {}
            tag => return Err(self.wire.unexpected(tag, doing)),
        }
        let mut buffer = vec![0; 64 << 10];
        loop {
            reporter.check()?;
            let read = manifest.read(&mut buffer).map_err(|error| Error::io(doing, error))?;
            if read == 0 {
                break;
            }
            self.wire.send_copy(&buffer[..read])?;
        }
        self.wire.send(|out| {
            frontend::copy_done(out);
            Ok(())
        })?;
        self.wire.end(&reporter, doing)
    }

    /// The command that starts a base backup.
    pub(super) fn backup_command(&self, options: &BackupOptions) -> String {
        let label = format!("'{}'", options.label.replace('\'', "''"));
        if !self.is_modern() {
            let mut command = format!("BASE_BACKUP LABEL {label} PROGRESS");
            if options.fast {
                command.push_str(" FAST");
            }
            command.push_str(" NOWAIT");
            if let Some(rate) = options.max_rate {
                command.push_str(&format!(" MAX_RATE {rate}"));
            }
            command.push_str(
                " TABLESPACE_MAP NOVERIFY_CHECKSUMS MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C'",
            );
            return command;
        }
        let mut list = vec![format!("LABEL {label}"), "PROGRESS".to_owned()];
        if options.incremental {
            list.push("INCREMENTAL".to_owned());
        }
        list.push(format!("CHECKPOINT '{}'", if options.fast { "fast" } else { "spread" }));
        list.push("WAIT false".to_owned());
        if let Some(rate) = options.max_rate {
            list.push(format!("MAX_RATE {rate}"));
        }
        list.push("TABLESPACE_MAP".to_owned());
        list.push("VERIFY_CHECKSUMS false".to_owned());
        list.push("MANIFEST 'yes'".to_owned());
        list.push("MANIFEST_CHECKSUMS 'CRC32C'".to_owned());
        format!("BASE_BACKUP ({})", list.join(", "))
    }

    /// Begins to stream WAL from `from` of a timeline.
    pub fn start_wal(mut self, slot: Option<&str>, from: Lsn, timeline: u32) -> Result<WalStream> {
        let doing = format!("failed to stream WAL from {from} of timeline {timeline}");
        let slot = slot.map_or_else(String::new, |name| format!("SLOT \"{name}\" "));
        let reporter = self.reporter.clone();
        self.wire
            .command(&format!("START_REPLICATION {slot}PHYSICAL {from} TIMELINE {timeline}"))?;
        match self.wire.receive(&reporter, &doing)? {
            b'W' => Ok(WalStream { session: self, doing: "failed to stream WAL", start: from }),
            tag => Err(self.wire.unexpected(tag, &doing)),
        }
    }
}

impl Drop for Replication {
    /// A server that waits for a checkpoint does not look whether anybody still listens.
    fn drop(&mut self) {
        if self.busy
            && let Some(key) = self.wire.key
        {
            let _ = login::cancel(&self.settings, &self.host, key);
        }
    }
}

/// WAL as it comes.
pub struct WalStream {
    session: Replication,
    doing: &'static str,
    start: Lsn,
}

/// What a stream of WAL brings.
#[derive(Debug, PartialEq, Eq)]
pub enum WalNews {
    /// Bytes, which [`WalStream::data`] gives.
    Data {
        /// Where they stand.
        at: Lsn,
    },
    /// The server says how far it is.
    Alive {
        /// The end of its WAL.
        end: Lsn,
        /// It wants to be told how far we are.
        asks: bool,
    },
    /// The timeline ended: the server follows another one now.
    TimelineEnd,
    /// Nothing for a moment.
    Silence,
}

/// Bytes before the data of a message: `w`, start, end of WAL, time.
const WAL_HEADER: usize = 25;

impl WalStream {
    /// Waits a moment for something new.
    pub fn news(&mut self) -> Result<WalNews> {
        let wire = &mut self.session.wire;
        let Some(tag) = wire.poll(self.doing)? else { return Ok(WalNews::Silence) };
        let body = wire.body();
        match (tag, body.first()) {
            (b'd', Some(b'w')) if body.len() >= WAL_HEADER => {
                let at = Lsn(number(body, 1));
                if at != self.start {
                    return Err(wire.nonsense(&format!("WAL of {at} after {}", self.start)));
                }
                self.start = Lsn(at.0 + (body.len() - WAL_HEADER) as u64);
                Ok(WalNews::Data { at })
            }
            (b'd', Some(b'k')) if body.len() >= 18 => {
                Ok(WalNews::Alive { end: Lsn(number(body, 1)), asks: body[17] != 0 })
            }
            (b'c', _) => Ok(WalNews::TimelineEnd),
            (tag, _) => Err(wire.unexpected(tag, self.doing)),
        }
    }

    /// The bytes that came last.
    pub fn data(&self) -> &[u8] {
        self.session.wire.body().get(WAL_HEADER..).unwrap_or_default()
    }

    /// Tells the server how far we are. `durable` must be no promise that is not kept: a server may
    /// have commits wait for it. Zero promises nothing. `time` is in microseconds since 1970.
    pub fn report(&mut self, written: Lsn, durable: Lsn, time: i64) -> Result<()> {
        // PostgreSQL counts from 2000.
        const EPOCH: i64 = 946_684_800_000_000;
        let mut body = Vec::with_capacity(34);
        body.put_u8(b'r');
        body.put_u64(written.0);
        body.put_u64(durable.0);
        body.put_u64(0);
        body.put_i64(time - EPOCH);
        body.put_u8(0);
        self.session.wire.send_copy(&body)
    }

    /// After [`WalNews::TimelineEnd`]: the timeline that follows, and where it begins. The session
    /// can be used again.
    pub fn next_timeline(mut self) -> Result<(Replication, Option<(u32, Lsn)>)> {
        let reporter = self.session.reporter.clone();
        let wire = &mut self.session.wire;
        wire.send(|out| {
            frontend::copy_done(out);
            Ok(())
        })?;
        let rows = wire.rows(&reporter, self.doing)?;
        wire.end(&reporter, self.doing)?;
        let next = rows.first().and_then(|row| {
            let timeline = row.first()?.as_deref()?.parse().ok()?;
            Some((timeline, row.get(1)?.as_deref()?.parse().ok()?))
        });
        Ok((self.session, next))
    }
}

fn number(body: &[u8], at: usize) -> u64 {
    body.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// `15.18 (Debian …)` is 15, `19beta3` is 19.
fn major(version: &str) -> u32 {
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version[..digits].parse().unwrap_or(0)
}

/// `16MB` in bytes; a number without a unit is bytes already.
fn bytes_of(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let shift = match &text[digits..] {
        "" | "B" => 0,
        "kB" => 10,
        "MB" => 20,
        "GB" => 30,
        "TB" => 40,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn versions_and_sizes_are_read() {
        assert_eq!(major("15.18 (Debian 15.18-0+deb12u1)"), 15);
        assert_eq!(major("19beta3"), 19);
        assert_eq!(major("9.6.24"), 9);
        assert_eq!(major(""), 0);
        assert_eq!(bytes_of("16MB").unwrap(), 16 << 20);
        assert_eq!(bytes_of("1GB").unwrap(), 1 << 30);
        assert_eq!(bytes_of("8192").unwrap(), 8192);
        assert!(bytes_of("many").is_none());
    }
}
