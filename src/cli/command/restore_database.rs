//! The part of `backstay restore` that puts dumps back into a PostgreSQL server.

use std::ffi::OsString;
use std::path::PathBuf;

use serde::Serialize;

use super::restore_starrocks::KIND as STARROCKS_KIND;
use super::restored;
use crate::archive::manifest::Manifest;
use crate::cli::setup::App;
use crate::cli::{ExitStatus, confirm};
use crate::error::{Error, Result};
use crate::id::SourceAddress;
use crate::policy::SourceSpec;
use crate::run::restore::{BackupFiles, CLUSTER_KIND, Request};
use crate::source::StoredFiles;
use crate::source::mysql;
use crate::source::postgres::dump::{CUSTOM, dump_path};
use crate::source::postgres::restore::{Done, Options, Restoring};
use crate::source::postgres::{Settings, Surroundings};
use crate::source::starrocks;

/// The kind of source these options are for.
const KIND: &str = "postgres_dump";
/// The target that means the policy's own server.
const OWN_SERVER: &str = "server";

/// Options for dumps of databases.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Dumps of databases, into a server")]
pub struct DatabaseArgs {
    /// Only this database, under another name if given. A database that exists and has content is
    /// never written to. May be given several times.
    #[arg(long, value_name = "OLD[=NEW]")]
    pub(super) database: Vec<String>,

    /// Restore beside the database in use, compare, then change their names. The old one stays,
    /// under another name and closed.
    #[arg(long)]
    pub(super) swap: bool,

    /// Only this schema (PostgreSQL). May be given several times.
    #[arg(long, value_name = "SCHEMA")]
    schema: Vec<String>,

    /// Only this table, its definition and rows (PostgreSQL): NAME or SCHEMA.NAME. May be given several times.
    #[arg(long, value_name = "TABLE")]
    table: Vec<String>,

    /// Everything belongs to the role that restores: no roles are made, no rights granted. Of MySQL:
    /// views, routines, triggers and events run on behalf of who restores.
    #[arg(long)]
    pub(super) no_owner: bool,

    /// Become this role before restoring.
    #[arg(long, value_name = "ROLE")]
    role: Option<String>,

    /// Write each dump to this directory first, for --jobs and for dumps in directory format. For
    /// a database out of a base backup, and to replay binary logs: where a server is recovered, with
    /// room for all of it.
    #[arg(long, value_name = "DIR")]
    pub(super) scratch: Option<PathBuf>,

    /// Tables restored at once; needs --scratch.
    #[arg(long, value_name = "N", requires = "scratch")]
    jobs: Option<usize>,

    /// Of MySQL: replay binary logs up to this position, FILE:POSITION. Needs --scratch.
    #[arg(long, value_name = "FILE:POS", group = "goal")]
    pub(super) binlog: Option<String>,

    /// Of MariaDB: replay binary logs up to this set of transactions. Needs --scratch.
    #[arg(long, value_name = "GTID", group = "goal")]
    pub(super) gtid: Option<String>,

    /// The directory of the server's programs; looked for if left out.
    #[arg(long, value_name = "DIR")]
    pub(super) programs: Option<PathBuf>,
}

impl DatabaseArgs {
    /// The options as those of a restore into a StarRocks cluster.
    pub fn of_starrocks(&self) -> Result<starrocks::restore::Options> {
        let used = [
            ("--schema", !self.schema.is_empty()),
            ("--no-owner", self.no_owner),
            ("--role", self.role.is_some()),
            ("--scratch", self.scratch.is_some()),
            ("--programs", self.programs.is_some()),
        ];
        match used.iter().find(|(_, used)| *used) {
            Some((option, _)) => Err(Error::usage(format!("{option} is for dumps of PostgreSQL"))),
            None => Ok(starrocks::restore::Options {
                databases: self.database.clone(),
                tables: self.table.clone(),
                swap: self.swap,
                ..starrocks::restore::Options::default()
            }),
        }
    }

    /// Refuses options that mean nothing where the target is no server.
    pub fn check_unused(&self, whole_cluster: bool) -> Result<()> {
        let used = [
            ("--swap", self.swap),
            ("--schema", !self.schema.is_empty()),
            ("--table", !self.table.is_empty()),
            ("--no-owner", self.no_owner),
            ("--role", self.role.is_some()),
            ("--binlog", self.binlog.is_some()),
            ("--gtid", self.gtid.is_some()),
            ("--scratch", self.scratch.is_some()),
            ("--programs", self.programs.is_some() && !whole_cluster),
        ];
        match used.iter().find(|(_, used)| *used) {
            None => Ok(()),
            Some((option, _)) => Err(Error::usage(format!("{option} goes with a server in --to"))
                .hint("--to server, --to postgresql://USER@HOST, or --to 'host=HOST user=USER'")),
        }
    }
}

impl DatabaseArgs {
    /// Refuses options that mean nothing for a MySQL server.
    pub fn check_mysql(&self) -> Result<()> {
        let used = [
            ("--schema", !self.schema.is_empty()),
            ("--table", !self.table.is_empty()),
            ("--role", self.role.is_some()),
            ("--jobs", self.jobs.is_some()),
        ];
        match used.iter().find(|(_, used)| *used) {
            None => Ok(()),
            Some((option, _)) => Err(Error::usage(format!("{option} is for PostgreSQL"))
                .hint("--database OLD=NEW restores one database of a MySQL or MariaDB server")),
        }
    }
}

/// The `--path` patterns: databases given by name stand for their dumps.
pub fn paths(given: &[OsString], args: &DatabaseArgs, manifest: &Manifest) -> Vec<OsString> {
    if [CLUSTER_KIND, STARROCKS_KIND].contains(&manifest.source_kind.as_str()) {
        return given.to_vec();
    }
    if manifest.source_kind == mysql::KIND {
        let parts = args.database.iter().flat_map(|name| {
            [false, true].map(|views| mysql::Part { database: name.clone(), views })
        });
        return given.iter().cloned().chain(parts.map(|part| part.path().into())).collect();
    }
    let dumps = args.database.iter().map(|name| dump_path(name, CUSTOM).into());
    given.iter().cloned().chain(dumps).collect()
}

/// Whether a server is meant, and can be.
pub fn is_meant(to: &str, manifest: &Manifest) -> Result<bool> {
    let dump = manifest.source_kind == KIND;
    if Settings::is_connection(to) && !dump && manifest.source_kind != CLUSTER_KIND {
        return Err(Error::usage(format!(
            "{} is a {} source: it cannot be restored into a server",
            manifest.address(),
            manifest.source_kind
        ))
        .hint("a directory of such a name: ./NAME"));
    }
    Ok(dump && names_server(to))
}

/// Whether a target is a server and no directory.
pub fn names_server(to: &str) -> bool {
    to == OWN_SERVER || Settings::is_connection(to)
}

/// A restore into a server.
pub struct Restore<'a> {
    /// Policies, keys, output.
    pub app: &'a App,
    /// Its own options.
    pub args: &'a DatabaseArgs,
    /// The backup.
    pub request: &'a Request<'a>,
    /// Its source.
    pub address: &'a SourceAddress,
    /// The server.
    pub to: &'a str,
    /// Do not ask.
    pub yes: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    source: String,
    backup: &'a str,
    target: &'a str,
    dry_run: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    plan: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    postgres: Option<&'a Done>,
    fetched: u64,
}

impl Restore<'_> {
    /// Plans, asks where something is replaced, restores, compares.
    pub fn run(&self) -> Result<ExitStatus> {
        let files = BackupFiles::open(self.request, &self.app.cx)?;
        self.run_with(&files)
    }

    /// The same with dumps that lie somewhere else.
    pub fn run_with(&self, files: &dyn StoredFiles) -> Result<ExitStatus> {
        let Self { app, args, request, .. } = self;
        let (settings, programs) = self.target()?;
        let options = Options {
            databases: args.database.clone(),
            schemas: args.schema.clone(),
            tables: args.table.clone(),
            no_owner: args.no_owner,
            role: args.role.clone(),
            swap: args.swap,
        };
        if options.swap && options.is_partial() {
            return Err(Error::usage("--swap takes whole databases: a part cannot take its place"));
        }
        let scratch = args.scratch.clone().map(|place| (place, args.jobs.unwrap_or(2).max(1)));
        let programs = args.programs.clone().or(programs);
        let stamp = app.cx.clock.now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let restoring = Restoring::prepare(files, options, &settings, (programs, scratch), &stamp)?;
        let lines = restoring.describe();
        if request.dry_run {
            self.report(lines.clone(), None)?;
            for line in lines {
                app.printer.talk(format!("would: {line}"));
            }
            return Ok(ExitStatus::Done);
        }
        for line in &lines {
            app.printer.talk(format!("  {line}"));
        }
        for database in &restoring.plan().databases {
            if let Some((live, aside)) = &database.swap {
                let what = format!(
                    "everybody is disconnected from `{live}`, and it is renamed to `{aside}`"
                );
                confirm::type_name(app, &what, live, self.yes)?;
            }
        }
        let done = app.display.during(&app.cx.reporter, || restoring.run(&app.cx.reporter))?;
        self.report(Vec::new(), Some(&done))?;
        self.conclude(&done)
    }

    /// How the server is reached, and where the policy says that its programs are.
    fn target(&self) -> Result<(Settings, Option<PathBuf>)> {
        let here = Surroundings::here();
        let own = self.of_policy();
        let programs = own.as_ref().and_then(|(_, programs)| programs.clone());
        if self.to != OWN_SERVER {
            return Ok((Settings::resolve_typed(self.to, &here)?, programs));
        }
        let (connection, _) = own.ok_or_else(|| {
            Error::usage(format!("there is no policy that names the server of {}", self.address))
                .hint("give it: --to postgresql://USER@HOST")
                .hint("a directory of this name: ./server")
        })?;
        // Not the database that is dumped: who is in it cannot rename it.
        Ok((Settings::resolve(&connection, &here)?.with_database("postgres"), programs))
    }

    fn of_policy(&self) -> Option<(String, Option<PathBuf>)> {
        if self.app.repository_url().is_some() {
            return None;
        }
        let set = self.app.policies_to_read().ok()?;
        let policy = set.policies.iter().find(|policy| policy.stack == self.address.stack)?;
        match &policy.sources.get(&self.address.source)?.spec {
            SourceSpec::PostgresDump(dump) => {
                Some((dump.connection.clone(), dump.programs.clone()))
            }
            SourceSpec::PostgresCluster(cluster) => Some((cluster.connection.clone(), None)),
            _ => None,
        }
    }

    fn report(&self, plan: Vec<String>, done: Option<&Done>) -> Result<()> {
        if !self.app.printer.is_json() {
            return Ok(());
        }
        self.app.printer.json(&Report {
            source: self.address.to_string(),
            backup: self.request.manifest.backup.as_str(),
            target: self.to,
            dry_run: self.request.dry_run,
            plan,
            postgres: done,
            fetched: self.app.cx.reporter.progress().snapshot().stored_bytes,
        })
    }

    fn conclude(&self, done: &Done) -> Result<ExitStatus> {
        let drop = |aside: &str| {
            let name = aside.replace('"', "\"\"");
            format!(
                "`{aside}` is what was in use before; when nobody misses it: DROP DATABASE \"{name}\""
            )
        };
        let who = "a trigger, a rule or somebody else";
        restored::conclude(&self.app.printer, &done.databases, &drop, who)
    }
}
