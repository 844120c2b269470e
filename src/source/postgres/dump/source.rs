//! The source itself: what is brought, in which order.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::choose::{self, Choice, Which};
use super::content::{Dump, Made, Outcome, Scratch, facts_of, globals_of, json};
use super::files::{
    CUSTOM, DIRECTORY, DUMPS, FACTS, GLOBALS, OVERVIEW, Overview, dump_path, facts_path,
};
use super::session::{Job, Session};
use crate::archive::entry::{Entry, EntryType, compare};
use crate::archive::manifest::Form;
use crate::error::{Error, IoContext as _, Result};
use crate::id::BackupKind;
use crate::source::command::Pipeline;
use crate::source::postgres::tools::{Needed, Tool};
use crate::source::postgres::{Connection, Settings, Surroundings};
use crate::source::{Captured, Content, EntrySink, Item, Source, SourceContext, SourceProbe};
use crate::telemetry::WarningCode;

/// Databases dumped at once where the policy does not say. Each holds some 50 MiB on its way.
const JOBS: usize = 2;

/// What a policy says of the source.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// A connection string.
    pub connection: String,
    /// Which databases.
    pub which: Which,
    /// Count rows.
    pub counts: bool,
    /// And make checksums.
    pub checksums: bool,
    /// Databases at once; with scratch tables of one database.
    pub jobs: Option<usize>,
    /// Where dumps in directory format are written.
    pub scratch: Option<PathBuf>,
    /// Where PostgreSQL's programs are.
    pub programs: Option<PathBuf>,
    /// How long one database may take.
    pub timeout: Option<Duration>,
}

/// Dumps of databases.
#[derive(Debug)]
pub struct DumpSource {
    pub(super) config: Config,
}

/// Everything that was found out before anything is brought.
struct Plan {
    settings: Settings,
    connection: Connection,
    choice: Choice,
    pg_dump: Tool,
    pg_dumpall: Tool,
    /// The role may read the passwords of others.
    passwords: bool,
}

/// What is known of each database, once it is.
type Outcomes = Vec<(String, Arc<Outcome>)>;

impl DumpSource {
    /// A source as `config` says.
    pub fn new(config: Config) -> Self {
        Self { config }
    }

    /// How the server is reached.
    pub(super) fn settings(&self) -> Result<Settings> {
        Settings::resolve(&self.config.connection, &Surroundings::here())
    }

    pub(super) fn tool(&self, name: &str, major: u32) -> Result<Tool> {
        Tool::find(name, self.config.programs.as_deref(), Needed { least: major, best: major })
    }

    pub(super) fn choice(&self, connection: &mut Connection) -> Result<Choice> {
        let listed = choose::list(connection)?;
        let settings = connection.settings().clone();
        let server = connection.server().clone();
        choose::choose(
            &listed,
            &self.config.which,
            &settings.database,
            server.superuser,
            &mut |name| {
                let mut other = Connection::open_same(&settings.with_database(name), &server)?;
                Ok(other.value(CONTENT, "failed to look for content in a template")? == "t")
            },
        )
    }

    fn plan(&self) -> Result<Plan> {
        let settings = self.settings()?;
        let mut connection = Connection::open(&settings)?;
        let major = connection.server().major();
        let passwords = connection.value(
            "SELECT pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT')",
            "failed to look at the role's rights",
        )? == "t";
        Ok(Plan {
            choice: self.choice(&mut connection)?,
            pg_dump: self.tool("pg_dump", major)?,
            pg_dumpall: self.tool("pg_dumpall", major)?,
            settings,
            connection,
            passwords,
        })
    }

    fn job(&self, plan: &Plan, database: &str) -> Job {
        Job {
            settings: plan.settings.with_database(database),
            server: plan.connection.server().clone(),
            tool: plan.pg_dump.clone(),
            counts: self.config.counts,
            checksums: self.config.checksums,
            timeout: self.config.timeout,
        }
    }

    fn globals(&self, plan: &Plan) -> Result<Pipeline> {
        let mut arguments = vec!["--globals-only".to_owned(), "--no-password".to_owned()];
        if !plan.passwords {
            arguments.push("--no-role-passwords".to_owned());
        }
        // A name that looks like a connection string would be taken for one.
        let database = &plan.settings.database;
        if !database.contains('=') && !database.contains("://") && !database.starts_with('-') {
            arguments.push(format!("--database={database}"));
        }
        let host = &plan.connection.server().host;
        let pipeline = plan.pg_dumpall.pipeline(&plan.settings, host, arguments)?;
        Ok(Pipeline { timeout: self.config.timeout, ..pipeline })
    }

    /// Dumps into the scratch directory, one database after another, and lists what lies there.
    fn dump_to_scratch(
        &self,
        cx: &SourceContext,
        plan: &Plan,
        scratch: &Path,
        now: i64,
    ) -> Result<(Vec<Item>, Outcomes)> {
        let (mut items, mut outcomes) = (Vec::new(), Vec::new());
        let jobs = self.config.jobs.unwrap_or(JOBS);
        for database in &plan.choice.take {
            let outcome = Arc::new(Outcome::default());
            outcomes.push((database.clone(), outcome.clone()));
            let top = dump_path(database, DIRECTORY);
            items.push(directory(&top, now));
            if cx.dry_run {
                continue;
            }
            let failed =
                || format!("failed to dump database `{database}` into {}", scratch.display());
            let made = tempfile::Builder::new().prefix(".backstay-").tempdir_in(scratch);
            let made = Arc::new(made.doing(failed)?);
            let target = made.path().join("dump");
            let arguments = [
                "--format=directory".to_owned(),
                "--compress=0".to_owned(),
                // What is stored is read back from here; it need not outlive a crash.
                "--no-sync".to_owned(),
                format!("--jobs={jobs}"),
                format!("--file={}", target.display()),
            ];
            let session = Session::start(&self.job(plan, database), &arguments, &cx.reporter);
            let facts = session.and_then(Session::finish);
            outcome.set(facts.map_err(|error| error.context(failed()))?);
            for entry in std::fs::read_dir(&target).doing(failed)? {
                let entry = entry.doing(failed)?;
                let name = entry.file_name().into_string().map_err(|_| Error::failed(failed()))?;
                let mut item = file(&format!("{top}/{name}"), now);
                item.entry.size = entry.metadata().doing(failed)?.len();
                item.content =
                    Some(Box::new(Scratch { path: entry.path(), directory: made.clone() }));
                items.push(item);
            }
        }
        Ok((items, outcomes))
    }
}

/// Asks whether a database has anything of its own.
pub const CONTENT: &str = "\
    SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_class WHERE oid >= 16384) \
        OR EXISTS (SELECT 1 FROM pg_catalog.pg_proc WHERE oid >= 16384) \
        OR EXISTS (SELECT 1 FROM pg_catalog.pg_type WHERE oid >= 16384) \
        OR EXISTS (SELECT 1 FROM pg_catalog.pg_namespace WHERE oid >= 16384) \
        OR EXISTS (SELECT 1 FROM pg_catalog.pg_extension WHERE extname <> 'plpgsql') \
        OR EXISTS (SELECT 1 FROM pg_catalog.pg_largeobject_metadata)";

fn directory(path: &str, now: i64) -> Item {
    let mut entry = Entry::new(path, EntryType::Dir);
    (entry.mode, entry.mtime, entry.ctime) = (0o700, (now, 0), (now, 0));
    Item { entry, link_group: None, content: None }
}

fn file(path: &str, now: i64) -> Item {
    let mut entry = Entry::new(path, EntryType::File);
    (entry.mode, entry.mtime, entry.ctime) = (0o600, (now, 0), (now, 0));
    Item { entry, link_group: None, content: None }
}

fn with(mut item: Item, content: impl Content + 'static) -> Item {
    item.content = Some(Box::new(content));
    item
}

impl Source for DumpSource {
    fn kind(&self) -> &'static str {
        "postgres_dump"
    }

    fn form(&self) -> Form {
        Form::Tree
    }

    fn kind_for(&self, asked: BackupKind) -> BackupKind {
        match asked {
            BackupKind::Incremental => BackupKind::Full,
            other => other,
        }
    }

    fn readers(&self) -> Option<usize> {
        let own = if self.config.scratch.is_some() { None } else { self.config.jobs };
        Some(own.unwrap_or(JOBS))
    }

    fn probe(&self, _cx: &SourceContext) -> Result<SourceProbe> {
        super::probe::probe(self)
    }

    fn backup(&self, cx: &SourceContext, sink: &mut dyn EntrySink) -> Result<Captured> {
        let plan = self.plan()?;
        let now = cx.clock.now().as_second();
        for left in &plan.choice.left_out {
            let message = format!("database `{}` is not dumped: {}", left.database, left.why);
            cx.reporter.warn(WarningCode::Other, left.database.clone(), message);
        }
        if !plan.passwords {
            let message =
                "the role may not read pg_authid: roles are dumped without their passwords";
            cx.reporter.warn(WarningCode::Other, GLOBALS.to_owned(), message);
        }
        let mut items = vec![directory(".", now), directory(DUMPS, now), directory(FACTS, now)];
        let outcomes = if let Some(scratch) = &self.config.scratch {
            let (dumped, outcomes) = self.dump_to_scratch(cx, &plan, scratch, now)?;
            items.extend(dumped);
            outcomes
        } else {
            let mut outcomes = Vec::new();
            for database in &plan.choice.take {
                let outcome = Arc::new(Outcome::default());
                outcomes.push((database.clone(), outcome.clone()));
                let job = self.job(&plan, database);
                let dump = Dump::new(job, outcome, cx.reporter.clone());
                items.push(with(file(&dump_path(database, CUSTOM), now), dump));
            }
            outcomes
        };
        for (database, outcome) in outcomes {
            // All dumps come before all of these, so that none of them waits for one behind it.
            items.push(with(file(&facts_path(&database), now), Made::new(facts_of(outcome))));
        }
        let globals = globals_of(self.globals(&plan)?, cx.reporter.clone());
        items.push(with(file(GLOBALS, now), Made::new(globals)));
        let server = plan.connection.server();
        let version = server.version_text.clone();
        let overview = Overview {
            version: 1,
            server_version: server.version,
            server: server.version_text.clone(),
            standby: server.standby,
            pg_dumpall: plan.pg_dumpall.version.clone(),
            role_passwords: plan.passwords,
            databases: plan.choice.take.clone(),
            left_out: plan.choice.left_out.clone(),
        };
        items.push(with(file(OVERVIEW, now), Made::new(move || json(&overview))));
        items.sort_by(|a, b| compare(&a.entry.path, &b.entry.path));
        for item in items {
            sink.entry(item)?;
        }
        Ok(Captured {
            skipped: plan.choice.left_out.len() as u64,
            server: Some(format!("PostgreSQL {version}")),
            ..Captured::default()
        })
    }
}
