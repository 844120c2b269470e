//! The source: from a connection to a base backup that can be used.

use jiff::Timestamp;

use super::listing::Comparison;
use super::managed;
use super::probe::probe;
use super::receive::{Receiver, Wanted};
use super::taking::Taking;
use super::way::Way;
use crate::archive::entry::{Entry, EntryType};
use crate::archive::increment::PAGE;
use crate::archive::manifest::{Form, NeededWal, RecoveryPoint, Tainted};
use crate::archive::wal::{WalRange, is_segment_size};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{self, BackupKind};
use crate::source::postgres::Connection;
use crate::source::postgres::conninfo::{Host, Settings, Surroundings};
use crate::source::postgres::replication::{BackupOptions, Identity, Replication};
use crate::source::{Captured, EntrySink, Item, Order, Source, SourceContext, SourceProbe};
use crate::telemetry::failpoint;

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
    pub(super) settings: Settings,
    pub(super) host: Host,
    /// For questions in SQL, where that is allowed.
    pub(super) sql: Option<Connection>,
    pub(super) session: Replication,
    pub(super) identity: Identity,
    pub(super) segment_size: u64,
    /// Pages have checksums that can be judged.
    pub(super) judged: bool,
    /// Bytes in a page.
    pub(super) page: u64,
    pub(super) pages_in_segment: u64,
    pub(super) data_mode: u32,
    pub(super) standby: bool,
    /// Commits wait for standbys.
    pub(super) synchronous: bool,
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
                Err(error) => return Err(managed::explain(error, sql)),
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
            page,
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
        asked
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
        let way = Way::of(&server, cx)?;
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
            incremental: matches!(way, Way::Server(_)),
        };
        let Server { session, sql, identity, segment_size, .. } = server;
        let version = session.version().to_owned();
        let backup = way.begin(session, &options, cx)?;
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
            way,
            next_page: 0,
        };
        let (backup, ranges) = taking.parts(backup)?;
        failpoint::reach("cluster.read");
        let (_, stop, end_timeline) = backup.finish()?;
        // By the server's clock, which commits are dated by.
        let time = taking.sql.as_mut().and_then(now_at).unwrap_or_else(|| cx.clock.now());
        let next_xid = taking.sql.as_mut().and_then(next_xid);
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
                next_xid,
                binlog: None,
            }),
            wal: Some(NeededWal { system_id: identity.system_id, segment_size, ranges, tail }),
            server: Some(format!("PostgreSQL {version}")),
            tainted: (tainted.pages > 0).then_some(tainted),
            checksums: Some(server.judged),
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

/// The first transaction that has not begun.
fn next_xid(sql: &mut Connection) -> Option<u64> {
    let query = "SELECT pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot())";
    sql.value(query, "failed to ask for the next transaction").ok()?.parse().ok()
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

pub(super) fn bare(entry: Entry) -> Item {
    Item { entry, link_group: None, content: None }
}

/// An entry of another name with the owner and time of this one.
pub(super) fn renamed(like: &Entry, path: String) -> Entry {
    let mut entry = Entry::new(path, EntryType::File);
    (entry.uid, entry.gid, entry.mtime) = (like.uid, like.gid, like.mtime);
    entry.user.clone_from(&like.user);
    entry.group.clone_from(&like.group);
    entry
}
