//! The source: from a connection to a base backup that can be used.

use std::io::{self, Read};

use jiff::Timestamp;

use super::archive::Archive;
use super::listing::{Comparison, Listing};
use super::pages::{Judge, PAGE, is_sound, relation_segment};
use super::probe::probe;
use super::receive::{Receiver, Wanted};
use crate::archive::entry::{Entry, EntryType};
use crate::archive::manifest::{Form, NeededWal, RecoveryPoint, Tainted};
use crate::archive::wal::{Lsn, WalRange, is_segment_size};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{self, BackupKind};
use crate::source::postgres::Connection;
use crate::source::postgres::basebackup::{BaseBackup, Part, Tablespace};
use crate::source::postgres::conninfo::{Host, Settings, Surroundings};
use crate::source::postgres::replication::{BackupOptions, Identity, Replication};
use crate::source::{
    Arriving, Captured, EntrySink, Item, Order, Source, SourceContext, SourceProbe,
};
use crate::telemetry::{WarningCode, failpoint};

/// How a cluster is backed up.
#[derive(Debug, Clone)]
pub struct Config {
    /// A libpq connection string.
    pub connection: String,
    /// Begin at once, with a checkpoint as fast as the disks allow.
    pub fast_checkpoint: bool,
    /// Bytes in a second.
    pub max_rate: Option<u64>,
    /// The policy says where its WAL goes.
    pub archives: bool,
}

/// A PostgreSQL cluster.
#[derive(Debug)]
pub struct ClusterSource {
    config: Config,
}

impl ClusterSource {
    /// A cluster behind this connection.
    pub fn new(config: Config) -> Self {
        Self { config }
    }

    fn settings(&self) -> Result<Settings> {
        Settings::resolve(&self.config.connection, &Surroundings::here())
    }
}

/// What is known of a server before anything is read.
pub(super) struct Server {
    settings: Settings,
    pub(super) host: Host,
    /// For questions in SQL, where that is allowed.
    pub(super) sql: Option<Connection>,
    pub(super) session: Replication,
    pub(super) identity: Identity,
    segment_size: u64,
    /// Pages have checksums that can be judged.
    pub(super) judged: bool,
    pages_in_segment: u64,
    data_mode: u32,
    pub(super) standby: bool,
    /// Commits wait for standbys.
    synchronous: bool,
}

impl Server {
    fn open(settings: Settings, cx: &SourceContext) -> Result<Self> {
        // SQL finds the server that was asked for where several are named, and reads pages again.
        // A role that may only replicate has no database to go to, and can be backed up with.
        let sql = match Connection::open(&settings) {
            Ok(sql) => Some(sql),
            Err(error) if matches!(error.kind(), ErrorKind::Denied | ErrorKind::NotFound) => None,
            Err(error) => return Err(error),
        };
        let hosts = match &sql {
            Some(sql) => vec![sql.server().host.clone()],
            None => settings.hosts.clone(),
        };
        let mut last = None;
        for host in hosts {
            match Replication::open(&settings, &host, &cx.reporter) {
                Ok(session) => return Self::look(settings, host, sql, session),
                Err(error) if error.kind() == ErrorKind::Unreachable => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::usage("the connection names no server")))
    }

    fn look(
        settings: Settings,
        host: Host,
        sql: Option<Connection>,
        mut session: Replication,
    ) -> Result<Self> {
        let identity = session.identify()?;
        let segment_size = session.show_bytes("wal_segment_size")?;
        if !is_segment_size(segment_size) {
            return Err(Error::unsupported(format!("WAL segments of {segment_size} bytes")));
        }
        let page = session.show_bytes("block_size")?;
        let judged = session.show("data_checksums")? == "on" && page == PAGE as u64;
        let pages_in_segment = session.show_bytes("segment_size")? / page.max(1);
        let mode = session.show("data_directory_mode")?;
        // Without SQL it is told by what a standby alone can be.
        let standby = match &sql {
            Some(sql) => sql.server().standby,
            None => session.major() >= 14 && session.show("in_hot_standby")? == "on",
        };
        let synchronous = !session.show("synchronous_standby_names")?.trim().is_empty();
        Ok(Self {
            settings,
            host,
            sql,
            identity,
            segment_size,
            judged,
            pages_in_segment,
            data_mode: u32::from_str_radix(&mode, 8).unwrap_or(0o700),
            standby,
            synchronous,
            session,
        })
    }
}

impl Source for ClusterSource {
    fn kind(&self) -> &'static str {
        "postgres_cluster"
    }

    fn form(&self) -> Form {
        Form::Tree
    }

    fn kind_for(&self, asked: BackupKind) -> BackupKind {
        match asked {
            BackupKind::Snapshot => BackupKind::Snapshot,
            BackupKind::Full | BackupKind::Incremental => BackupKind::Full,
        }
    }

    fn order(&self) -> Order {
        Order::Arrival
    }

    fn may_be_empty(&self) -> bool {
        false
    }

    fn probe(&self, cx: &SourceContext) -> Result<SourceProbe> {
        let mut server = Server::open(self.settings()?, cx)?;
        probe(&mut server, &self.config.connection, self.config.archives, cx)
    }

    fn backup(&self, cx: &SourceContext, sink: &mut dyn EntrySink) -> Result<Captured> {
        let server = Server::open(self.settings()?, cx)?;
        if cx.dry_run {
            return Ok(estimate(server, cx));
        }
        let store = cx.wal.clone().ok_or_else(|| Error::failed("there is nowhere to put WAL"))?;
        // Kept by the server from before the backup begins until its session ends.
        let mut wal = Replication::open(&server.settings, &server.host, &cx.reporter)?;
        if wal.identify()?.system_id != server.identity.system_id {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("two sessions with {} came to two clusters", server.host),
            )
            .hint("name one server: a balancer between two of them cannot be backed up"));
        }
        let slot = format!("backstay_{}", id::random_suffix(10));
        wal.create_slot(&slot, true)?;

        let options = BackupOptions {
            label: "backstay".to_owned(),
            fast: self.config.fast_checkpoint,
            max_rate: self.config.max_rate.map(|rate| (rate / 1024).clamp(32, 1 << 20) as u32),
            incremental: false,
        };
        let Server { session, sql, identity, segment_size, .. } = server;
        let version = session.version().to_owned();
        cx.reporter.phase("waiting for a checkpoint");
        let backup = session.base_backup(&options)?;
        let (start, timeline) = (backup.start, backup.timeline);
        cx.reporter.progress().expect(0, backup.estimate);
        cx.reporter.phase("reading");
        if timeline > 1 {
            // Who recovers on this timeline is asked for the way to it.
            let mut other = Replication::open(&server.settings, &server.host, &cx.reporter)?;
            let (name, content) = other.timeline_history(timeline)?;
            store.put(identity.system_id, &name, content.as_bytes())?;
        }
        let wanted = Wanted {
            slot,
            from: start,
            timeline,
            system_id: identity.system_id,
            segment_size,
            acknowledge: !server.synchronous,
        };
        let receiver = Receiver::start(wal, wanted, store, cx.clock.clone())?;
        let mut taking = Taking {
            cx,
            sink,
            receiver,
            sql,
            start,
            pages: server.judged.then_some(server.pages_in_segment),
            comparison: Comparison::new(),
            tainted: Tainted::default(),
            owner: None,
            system_id: identity.system_id,
        };
        let (backup, ranges) = taking.parts(backup)?;
        failpoint::reach("cluster.read");
        let (_, stop, end_timeline) = backup.finish()?;
        // By the server's clock, which commits are dated by.
        let time = taking.sql.as_mut().and_then(now_at).unwrap_or_else(|| cx.clock.now());
        if end_timeline != timeline {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("the backup began on timeline {timeline} and ended on {end_timeline}"),
            )
            .hint("run it again"));
        }
        let Taking { comparison, sink, receiver, owner, tainted, .. } = taking;
        comparison.check()?;
        cx.reporter.phase("waiting for WAL");
        let received = receiver.finish(stop, !server.standby)?;
        failpoint::reach("cluster.received");
        let like = owner.unwrap_or_else(|| Entry::new("PG_VERSION", EntryType::File));
        let tail = received.tail.map(|(name, content)| {
            let entry = Entry { mode: 0o600, ..renamed(&like, format!("pg_wal/{name}")) };
            let size = content.len() as u64;
            sink.file(entry, Some(size), &mut &content[..]).map(|()| name)
        });
        let tail = tail.transpose()?;
        let mut root = renamed(&like, ".".to_owned());
        (root.kind, root.mode) = (EntryType::Dir, server.data_mode);
        sink.entry(bare(root))?;
        let range = WalRange { timeline, start, stop };
        let ranges = if ranges.is_empty() { vec![range] } else { ranges };
        Ok(Captured {
            recovery: Some(RecoveryPoint {
                time,
                lsn: Some(stop),
                timeline: Some(timeline),
                system_id: Some(identity.system_id),
            }),
            wal: Some(NeededWal { system_id: identity.system_id, segment_size, ranges, tail }),
            server: Some(format!("PostgreSQL {version}")),
            tainted: (tainted.pages > 0).then_some(tainted),
            ..Captured::default()
        })
    }
}

/// The server's time.
fn now_at(sql: &mut Connection) -> Option<Timestamp> {
    let query = "SELECT pg_catalog.to_char(pg_catalog.clock_timestamp() AT TIME ZONE 'UTC', \
                 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    sql.value(query, "failed to ask for the time").ok()?.parse().ok()
}

/// What a dry run can say: how much there is.
fn estimate(mut server: Server, cx: &SourceContext) -> Captured {
    let Some(sql) = &mut server.sql else { return Captured::default() };
    let query = "SELECT sum(pg_catalog.pg_tablespace_size(oid)) FROM pg_catalog.pg_tablespace";
    let bytes = sql.value(query, "failed to ask how large the cluster is");
    if let Some(bytes) = bytes.ok().and_then(|text| text.parse::<u64>().ok()) {
        cx.reporter.progress().expect(0, bytes);
        cx.reporter.note(format!("the cluster has about {} MiB", bytes >> 20));
    }
    Captured::default()
}

fn bare(entry: Entry) -> Item {
    Item { entry, link_group: None, content: None }
}

/// An entry of another name with the owner and time of this one.
fn renamed(like: &Entry, path: String) -> Entry {
    let mut entry = Entry::new(path, EntryType::File);
    (entry.uid, entry.gid, entry.mtime) = (like.uid, like.gid, like.mtime);
    entry.user.clone_from(&like.user);
    entry.group.clone_from(&like.group);
    entry
}

struct Taking<'a> {
    cx: &'a SourceContext,
    sink: &'a mut dyn EntrySink,
    receiver: Receiver,
    sql: Option<Connection>,
    start: Lsn,
    /// Pages in a segment of a relation, where they are judged.
    pages: Option<u64>,
    comparison: Comparison,
    tainted: Tainted,
    /// A file of the cluster, for its owner.
    owner: Option<Entry>,
    system_id: u64,
}

impl Taking<'_> {
    fn parts(&mut self, mut backup: BaseBackup) -> Result<(BaseBackup, Vec<WalRange>)> {
        let mut ranges = Vec::new();
        while let Some(part) = backup.next_part()? {
            match part {
                Part::Base => self.archive(&mut backup, "")?,
                Part::Tablespace(Tablespace { oid, .. }) => {
                    self.archive(&mut backup, &format!("pg_tblspc/{oid}/"))?;
                }
                Part::Manifest => {
                    let like = self.owner.clone();
                    let like = like.unwrap_or_else(|| Entry::new("PG_VERSION", EntryType::File));
                    let entry =
                        Entry { mode: 0o600, ..renamed(&like, "backup_manifest".to_owned()) };
                    let mut listing = Listing::new(&mut backup, &mut self.comparison);
                    self.sink.file(entry, None, &mut listing)?;
                    ranges = listing.finish(self.system_id)?;
                }
            }
        }
        Ok((backup, ranges))
    }

    fn archive(&mut self, backup: &mut BaseBackup, prefix: &str) -> Result<()> {
        let mut archive = Archive::new(backup, prefix);
        while let Some(mut entry) = archive.next_entry()? {
            self.cx.reporter.check()?;
            self.receiver.check()?;
            match entry.kind {
                EntryType::File => self.file(entry, &mut archive)?,
                // A tablespace: its content comes below this path, so that a backup is one tree.
                // Where it lay is in `tablespace_map`.
                EntryType::Symlink if is_tablespace(&entry.path) => {
                    (entry.kind, entry.mode, entry.target) = (EntryType::Dir, 0o700, None);
                    self.sink.entry(bare(entry))?;
                }
                _ => self.sink.entry(bare(entry))?,
            }
        }
        Ok(())
    }

    fn file(&mut self, entry: Entry, input: &mut dyn Read) -> Result<()> {
        if self.owner.is_none() {
            self.owner = Some(entry.clone());
        }
        let size = entry.size;
        let path = entry.path.clone();
        let judge = self.pages.and_then(|pages| {
            let first = u64::from(relation_segment(&path)?) * pages;
            Some(Judge::new(u32::try_from(first).ok()?, self.start))
        });
        let mut examined = Examined {
            input,
            crc: 0,
            judge,
            start: self.start,
            pages: self.pages.unwrap_or(1),
            sql: &mut self.sql,
            cx: self.cx,
            tainted: &mut self.tainted,
        };
        self.sink.file(entry, Some(size), &mut examined)?;
        let crc = examined.crc;
        self.comparison.came(&path, size, crc)
    }
}

/// Whether the path is the link of a tablespace.
fn is_tablespace(path: &[u8]) -> bool {
    path.strip_prefix(b"pg_tblspc/")
        .is_some_and(|oid| !oid.is_empty() && oid.iter().all(u8::is_ascii_digit))
}

/// Looks at bytes as they go by.
struct Examined<'a> {
    input: &'a mut dyn Read,
    crc: u32,
    judge: Option<Judge>,
    start: Lsn,
    pages: u64,
    sql: &'a mut Option<Connection>,
    cx: &'a SourceContext,
    tainted: &'a mut Tainted,
}

impl Read for Examined<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(out)?;
        self.crc = crc32c::crc32c_append(self.crc, &out[..read]);
        if let Some(judge) = &mut self.judge {
            judge.update(&out[..read]);
        }
        Ok(read)
    }
}

impl Arriving for Examined<'_> {
    /// Pages that something spoke against are read again: one that was torn while the server wrote
    /// it is whole by now, or newer than the beginning of the backup. What still is wrong is
    /// damage, which the backup has like the server.
    fn ended(&mut self, entry: &mut Entry) -> Result<()> {
        let suspects = self.judge.take().map(|judge| judge.suspects).unwrap_or_default();
        let path = entry.display_path();
        let mut bad = Vec::new();
        for page in suspects {
            self.cx.reporter.check()?;
            if !self.is_sound_now(&path, page) {
                bad.push(page);
            }
        }
        if bad.is_empty() {
            return Ok(());
        }
        self.tainted.files += 1;
        self.tainted.pages += bad.len() as u64;
        let first: Vec<String> = bad.iter().take(5).map(ToString::to_string).collect();
        let more = if bad.len() > 5 { ", …" } else { "" };
        self.cx.reporter.warn(
            WarningCode::Damage,
            path.clone(),
            format!(
                "`{path}` has pages with a wrong checksum ({} of them: {}{more}); the server's disk or memory damaged them, and the backup has them as they are",
                bad.len(),
                first.join(", ")
            ),
        );
        entry.bad_pages = bad;
        Ok(())
    }
}

impl Examined<'_> {
    fn is_sound_now(&mut self, path: &str, page: u32) -> bool {
        let Some(sql) = self.sql else { return false };
        let offset = i64::from(page) % self.pages as i64 * PAGE as i64;
        let size = PAGE as i64;
        let query = "SELECT pg_catalog.pg_read_binary_file($1, $2, $3, true)";
        let doing = "failed to read a page again";
        let Ok(rows) = sql.query(query, &[&path, &offset, &size], doing) else { return false };
        match rows.first().and_then(|row| row.try_get::<_, Option<Vec<u8>>>(0).ok()) {
            // The file is gone, or ends before: replay knows.
            Some(None) => true,
            Some(Some(bytes)) => match bytes.first_chunk::<PAGE>() {
                Some(bytes) => is_sound(bytes, page, self.start),
                None => true,
            },
            None => false,
        }
    }
}
