//! The source itself: what is brought, in which order.

use std::path::PathBuf;
use std::time::Duration;

use super::choose::{Which, choose};
use super::client::Client;
use super::conninfo::{Settings, SslMode};
use super::files::{DUMPS, FACTS, Facts, OVERVIEW, Overview, USERS, dump_path, facts_path};
use super::snapshot::{Snapshot, Wanted};
use super::tools::{Credentials, Tools};
use super::{incremental, look};
use crate::archive::entry::{Entry, EntryType};
use crate::archive::manifest::{Form, RecoveryPoint};
use crate::error::{Error, Result};
use crate::id::BackupKind;
use crate::source::command::Pipeline;
use crate::source::{Captured, EntrySink, Item, Order, Source, SourceContext, SourceProbe};
use crate::telemetry::WarningCode;

/// The word in policies and manifests.
pub const KIND: &str = "mysql_dump";

/// Tables named in a warning.
const NAMED: usize = 10;

/// What a policy says of the source.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// A connection string.
    pub connection: String,
    /// Which databases.
    pub which: Which,
    /// Writers may be stopped for a moment.
    pub lock: bool,
    /// Incremental backups are binary logs.
    pub binlog: bool,
    /// Count rows.
    pub counts: bool,
    /// And make checksums.
    pub checksums: bool,
    /// Where the server's programs are.
    pub programs: Option<PathBuf>,
    /// How long the dump may take.
    pub timeout: Option<Duration>,
}

/// Dumps of databases.
#[derive(Debug)]
pub struct MysqlSource {
    pub(super) config: Config,
}

impl MysqlSource {
    /// A source as `config` says.
    pub fn new(config: Config) -> Self {
        Self { config }
    }

    pub(super) fn settings(&self) -> Result<Settings> {
        Settings::parse(&self.config.connection)
    }

    pub(super) fn choice(&self, client: &mut Client) -> Result<Vec<String>> {
        choose(&look::databases(client)?, &self.config.which)
    }

    pub(super) fn tools(&self, client: &Client) -> Result<Tools> {
        Tools::find(self.config.programs.as_deref(), client.server())
    }

    fn pipeline(
        &self,
        client: &Client,
        tools: &Tools,
        credentials: &Credentials,
        databases: &[String],
    ) -> Pipeline {
        let mut arguments: Vec<String> = [
            "--single-transaction",
            "--quick",
            "--routines",
            "--events",
            "--triggers",
            "--hex-blob",
            "--comments",
            "--tz-utc",
            "--default-character-set=utf8mb4",
            "--max-allowed-packet=1G",
            // Tablespaces are the server's, and to look at them takes a right that nothing else does.
            "--no-tablespaces",
        ]
        .map(str::to_owned)
        .into();
        if !tools.mariadb {
            // A restore beside what is in use must not tell the server which transactions it has.
            arguments.push("--set-gtid-purged=OFF".to_owned());
            if tools.version >= (8, 0) && client.server().version < (8, 0, 0) {
                arguments.push("--column-statistics=0".to_owned());
            }
        }
        arguments.extend(["--databases".to_owned(), "--".to_owned()]);
        arguments.extend(databases.iter().cloned());
        let pipeline = credentials.pipeline(&tools.dump, arguments);
        Pipeline { timeout: self.config.timeout, ..pipeline }
    }
}

/// A directory of the backup.
pub(super) fn directory(path: &str, now: i64) -> Item {
    let mut entry = Entry::new(path, EntryType::Dir);
    (entry.mode, entry.mtime, entry.ctime) = (0o700, (now, 0), (now, 0));
    Item { entry, link_group: None, content: None }
}

/// A file of the backup.
pub(super) fn file(path: &str, now: i64) -> Entry {
    let mut entry = Entry::new(path, EntryType::File);
    (entry.mode, entry.mtime, entry.ctime) = (0o600, (now, 0), (now, 0));
    entry
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|error| Error::failed("failed to write JSON").with_source(error))?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn bring(sink: &mut dyn EntrySink, path: &str, now: i64, content: &[u8]) -> Result<()> {
    sink.file(file(path, now), Some(content.len() as u64), &mut &*content)
}

/// Tables that are dumped as they are when their turn comes, for people.
pub(super) fn outside_transactions(all: &[Facts]) -> Option<String> {
    let names: Vec<String> = all
        .iter()
        .flat_map(|facts| facts.tables.iter().map(move |table| (facts, table)))
        .filter(|(_, table)| !table.transactional)
        .map(|(facts, table)| format!("{}.{} ({})", facts.database, table.name, table.engine))
        .collect();
    let more = names.len().saturating_sub(NAMED);
    let named = names.get(..NAMED).unwrap_or(&names).join(", ");
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!names.is_empty()).then(|| {
        format!("not in the snapshot, but as they are when their turn comes: {named}{more}; ALTER TABLE … ENGINE=InnoDB makes them part of it")
    })
}

/// Whether the session that was opened is encrypted, for programs that take it as it is told.
pub(super) fn is_encrypted(client: &mut Client) -> Result<bool> {
    if client.settings().ssl_mode == SslMode::Disabled {
        return Ok(false);
    }
    let query = "SHOW SESSION STATUS LIKE 'Ssl_cipher'";
    let rows = client.rows(query, "failed to ask how the session is encrypted")?;
    let cipher = rows.into_iter().next().and_then(|row| row.into_iter().nth(1).flatten());
    Ok(cipher.is_some_and(|cipher| !cipher.is_empty()))
}

impl Source for MysqlSource {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn form(&self) -> Form {
        Form::Tree
    }

    fn kind_for(&self, asked: BackupKind) -> BackupKind {
        match asked {
            BackupKind::Incremental if !self.config.binlog => BackupKind::Full,
            other => other,
        }
    }

    fn order(&self) -> Order {
        Order::Arrival
    }

    fn may_be_empty(&self) -> bool {
        false
    }

    fn probe(&self, _cx: &SourceContext) -> Result<SourceProbe> {
        super::probe::probe(self)
    }

    fn backup(&self, cx: &SourceContext, sink: &mut dyn EntrySink) -> Result<Captured> {
        if let Some(earlier) = cx.earlier.as_ref().filter(|_| self.config.binlog) {
            return incremental::archive(self, cx, sink, earlier);
        }
        let mut client = Client::open(&self.settings()?)?;
        let tools = self.tools(&client)?;
        let databases = self.choice(&mut client)?;
        let encrypted = is_encrypted(&mut client)?;
        let credentials = Credentials::write(client.settings(), &tools, encrypted)?;
        let facts: Vec<Facts> = databases
            .iter()
            .map(|database| look::facts(&mut client, database))
            .collect::<Result<_>>()?;
        if let Some(message) = outside_transactions(&facts) {
            cx.reporter.warn(WarningCode::Other, "tables".to_owned(), message);
        }
        if cx.dry_run {
            let tables: usize = facts.iter().map(|facts| facts.tables.len()).sum();
            cx.reporter.note(format!("{} databases with {tables} tables", databases.len()));
            return Ok(Captured::default());
        }
        let pipeline = self.pipeline(&client, &tools, &credentials, &databases);
        let wanted = Wanted {
            pipeline: &pipeline,
            facts: facts.clone(),
            lock: self.config.lock,
            flush: self.config.binlog,
            counts: self.config.counts,
            checksums: self.config.checksums,
        };
        let now = cx.clock.now().as_second();
        let mut snapshot = Snapshot::take(&mut client, wanted, &cx.reporter)?;
        for path in [".", DUMPS, FACTS] {
            sink.entry(directory(path, now))?;
        }
        cx.reporter.phase("dumping");
        while let Some(part) = snapshot.dump.next_part()? {
            cx.reporter.check()?;
            sink.file(file(&dump_path(&part), now), None, &mut snapshot.dump)?;
        }
        let (taken, position) = (snapshot.taken.clone(), snapshot.position.clone());
        if self.config.binlog && position.is_none() {
            return Err(Error::failed("the server writes no binary log")
                .hint("set log_bin in its configuration, or `binlog: false`"));
        }
        cx.reporter.phase("counting rows");
        let facts = snapshot.finish(facts)?;
        for facts in &facts {
            bring(sink, &facts_path(&facts.database), now, &json(facts)?)?;
        }
        // What was dumped before belongs to no user who came later.
        let users = look::users(&mut client)?;
        match &users {
            Some(users) => bring(sink, USERS, now, users.as_bytes())?,
            None => cx.reporter.warn(
                WarningCode::Other,
                USERS.to_owned(),
                "this user may not read mysql.user: users and their rights are not in the backup (GRANT SELECT ON mysql.* TO it)",
            ),
        }
        let server = client.server().clone();
        let overview = Overview {
            version: 1,
            product: server.product().to_owned(),
            server: server.text.clone(),
            program: tools.text.clone(),
            taken: taken.clone(),
            position: position.clone(),
            databases,
            users: users.is_some(),
        };
        bring(sink, OVERVIEW, now, &json(&overview)?)?;
        let recovery = taken
            .parse()
            .ok()
            .map(|time| RecoveryPoint { binlog: position, ..RecoveryPoint::at(time) });
        Ok(Captured { server: Some(server.name()), recovery, ..Captured::default() })
    }
}
