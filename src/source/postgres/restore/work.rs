//! The restore itself.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::create;
use super::globals::plan_roles;
use super::plan::{self, DatabasePlan, Options, Plan, Target};
use super::swap::swap;
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::source::postgres::connection::{ident, literal};
use crate::source::postgres::dump::{
    CONTENT, CUSTOM, DIRECTORY, DUMPS, FACTS, Facts, GLOBALS, Table, decode_name, encode_name,
    facts_path, measure,
};
use crate::source::postgres::tools::{Needed, Tool};
use crate::source::postgres::{Connection, Settings};
use crate::source::{Difference, Restored, StoredFiles};
use crate::telemetry::Reporter;

/// Most bytes of a file that is read into memory.
const MOST: u64 = 256 << 20;

/// What came of all.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Done {
    /// The server: `PostgreSQL 17.11 at db:5432`.
    pub server: String,
    /// Roles that were made.
    pub roles_made: Vec<String>,
    /// Roles that were there and were kept as they are.
    pub roles_kept: Vec<String>,
    /// The databases.
    pub databases: Vec<Restored>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// A restore that has looked at everything and changed nothing.
pub struct Restoring<'a> {
    files: &'a dyn StoredFiles,
    options: Options,
    settings: Settings,
    connection: Connection,
    facts: BTreeMap<String, Facts>,
    tablespaces: Vec<String>,
    programs: Option<PathBuf>,
    /// A directory to write dumps to, and jobs that read them there.
    scratch: Option<(PathBuf, usize)>,
    plan: Plan,
}

impl<'a> Restoring<'a> {
    /// Connects, looks, and decides.
    pub fn prepare(
        files: &'a dyn StoredFiles,
        options: Options,
        settings: &Settings,
        (programs, scratch): (Option<PathBuf>, Option<(PathBuf, usize)>),
        stamp: &str,
    ) -> Result<Self> {
        let mut connection = Connection::open(settings)?;
        create::check_writable(&connection)?;
        let facts = read_facts(files)?;
        let server = connection.server().clone();
        let rows = connection
            .text("SELECT datname FROM pg_catalog.pg_database", "failed to list the databases")?;
        let existing: BTreeSet<String> = rows.into_iter().flatten().flatten().collect();
        let mut look = |name: &str| {
            if !existing.contains(name) {
                return Ok(Target::Absent);
            }
            // Whoever cannot look into it must not write into it either.
            let Ok(mut other) = Connection::open_same(&settings.with_database(name), &server)
            else {
                return Ok(Target::Full);
            };
            let full = other.value(CONTENT, "failed to look into the target")? == "t";
            Ok(if full { Target::Full } else { Target::Empty })
        };
        let own = &settings.database;
        if options.swap
            && options
                .databases
                .iter()
                .any(|name| name == own || name.starts_with(&format!("{own}=")))
        {
            return Err(Error::usage(format!(
                "`{own}` cannot be renamed by who is connected to it"
            ))
            .hint("connect to another database of the server: dbname=postgres"));
        }
        let mut plan = plan::plan(&options, &facts, server.major(), &mut look, stamp)?;
        let tablespaces = create::tablespaces(&mut connection)?;
        if !options.no_owner {
            let sql = read_text(files, GLOBALS)?;
            let rows = connection
                .text("SELECT rolname FROM pg_catalog.pg_roles", "failed to list the roles")?;
            plan.roles = plan_roles(&sql, &rows.into_iter().flatten().flatten().collect());
            if !plan.roles.made.is_empty() && !sql.contains("PASSWORD") {
                plan.notes.push(
                    "roles were dumped without passwords: set them before they log in".into(),
                );
            }
            let lost: Vec<&str> = plan
                .roles
                .tablespaces
                .iter()
                .map(String::as_str)
                .filter(|name| !tablespaces.iter().any(|there| there == name))
                .collect();
            if !lost.is_empty() {
                plan.notes.push(format!(
                    "tablespaces that are not here ({}): what was in them goes to the default one",
                    lost.join(", ")
                ));
            }
        }
        let restoring = Self {
            files,
            options,
            settings: settings.clone(),
            connection,
            facts,
            tablespaces,
            programs,
            scratch,
            plan,
        };
        for database in &restoring.plan.databases {
            restoring.tool(&restoring.facts[&database.from])?;
            restoring.dump_of(&database.from)?;
        }
        Ok(restoring)
    }

    /// What will be done.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where to: `PostgreSQL 17.11 at db:5432`.
    pub fn server(&self) -> String {
        let server = self.connection.server();
        format!("PostgreSQL {} at {}", server.version_text, server.host)
    }

    /// What will be done, in lines.
    pub fn describe(&self) -> Vec<String> {
        let mut lines = vec![format!("to {}", self.server())];
        for role in &self.plan.roles.made {
            lines.push(format!("create role `{role}`"));
        }
        for DatabasePlan { from, to, create, swap } in &self.plan.databases {
            let how = if *create { "create" } else { "fill the empty" };
            lines.push(format!("{how} database `{to}` from the dump of `{from}`"));
            if let Some((live, aside)) = swap {
                lines.push(format!("rename `{live}` to `{aside}`, and `{to}` to `{live}`"));
            }
        }
        lines.extend(self.plan.notes.iter().cloned());
        lines
    }

    /// Does it.
    pub fn run(mut self, reporter: &Reporter) -> Result<Done> {
        let mut done = Done {
            server: self.server(),
            roles_made: self.plan.roles.made.clone(),
            roles_kept: self.plan.roles.kept.clone(),
            notes: self.plan.notes.clone(),
            ..Done::default()
        };
        reporter.phase("creating roles");
        for step in &self.plan.roles.steps.clone() {
            // The statement has the password's verifier: it is not shown.
            let doing = format!("failed to set up role `{}`", step.role);
            self.connection.execute(&step.sql, &doing).map_err(|error| {
                error.hint(
                    "as a role that may not create roles: --no-owner, and everything belongs to it",
                )
            })?;
        }
        for database in self.plan.databases.clone() {
            reporter.phase("restoring");
            let started = std::time::Instant::now();
            let mut restored = self.one(&database, reporter)?;
            if let Some((live, aside)) = &database.swap
                && restored.differ.is_empty()
            {
                reporter.phase("swapping");
                swap(&mut self.connection, live, &database.to, aside)?;
                restored.to.clone_from(live);
                restored.aside = Some(aside.clone());
            }
            restored.seconds = started.elapsed().as_secs_f64();
            done.databases.push(restored);
        }
        Ok(done)
    }

    fn one(&mut self, database: &DatabasePlan, reporter: &Reporter) -> Result<Restored> {
        let facts = self.facts[&database.from].clone();
        if database.create {
            let owner = !self.options.no_owner;
            let spaces = &self.tablespaces;
            create::create(&mut self.connection, &facts, &database.to, owner, spaces)?;
        }
        let result = self.fill(database, &facts, reporter);
        if result.is_err() && database.create {
            // Made by this restore, and nobody else's: what is left of it helps nobody.
            if let Err(error) = create::remove(&mut self.connection, &database.to) {
                reporter.note(error.chain());
            }
        }
        result.map_err(|error| {
            error.context(format!("failed to restore database `{}`", database.from))
        })
    }

    fn fill(
        &self,
        database: &DatabasePlan,
        facts: &Facts,
        reporter: &Reporter,
    ) -> Result<Restored> {
        let settings = self.settings.with_database(&database.to);
        let server = self.connection.server();
        let mut connection = Connection::open_same(&settings, server)?;
        self.make_schemas(&mut connection, facts)?;
        self.load(database, facts, reporter)?;
        let mut restored = Restored {
            from: database.from.clone(),
            to: database.to.clone(),
            ..Restored::default()
        };
        reporter.phase("comparing");
        let stop = || reporter.is_cancelled();
        connection.patiently(&stop, |connection| {
            self.compare(connection, facts, &mut restored)?;
            connection.execute("ANALYZE", "failed to gather statistics")
        })?;
        if self.options.is_partial() {
            if database.create {
                let clear = format!("COMMENT ON DATABASE {} IS NULL", ident(&database.to));
                connection.execute(&clear, "failed to mark the database as finished")?;
            }
        } else {
            let rights = !self.options.no_owner;
            restored.notes =
                create::finish(&mut connection, facts, &database.to, database.create, rights)?;
        }
        Ok(restored)
    }

    /// Schemas that a part of a database needs: `pg_restore` leaves them out of it.
    fn make_schemas(&self, connection: &mut Connection, facts: &Facts) -> Result<()> {
        if !self.options.is_partial() {
            return Ok(());
        }
        let tables =
            facts.tables.iter().filter(|table| self.options.wants(&table.schema, &table.name));
        let mut schemas: BTreeSet<&str> = tables.map(|table| table.schema.as_str()).collect();
        schemas.extend(self.options.schemas.iter().map(String::as_str));
        if schemas.is_empty() {
            return Err(Error::not_found("nothing in the backup is called so")
                .hint("`--table NAME` or `--table SCHEMA.NAME`; facts/*.json in the backup lists the tables"));
        }
        for schema in schemas {
            let sql = format!("CREATE SCHEMA IF NOT EXISTS {}", ident(schema));
            connection.execute(&sql, &format!("failed to create schema `{schema}`"))?;
        }
        Ok(())
    }

    fn tool(&self, facts: &Facts) -> Result<Tool> {
        let made_by = facts.pg_dump.split(['.', ' ']).next().and_then(|major| major.parse().ok());
        let major = self.connection.server().major();
        let needed = Needed { least: made_by.unwrap_or(10), best: major };
        let tool = Tool::find("pg_restore", self.programs.as_deref(), needed)?;
        // From 17 on it sets what older servers do not know, and then stops.
        if tool.major >= 17 && major < 17 {
            return Err(Error::unsupported(format!(
                "pg_restore {} cannot restore into PostgreSQL {major}",
                tool.version
            ))
            .hint(format!(
                "install postgresql-client-{major}, or name its directory with --programs"
            )));
        }
        Ok(tool)
    }

    /// The dump of a database, and whether it is in directory format.
    fn dump_of(&self, database: &str) -> Result<(String, bool)> {
        let stem = format!("{DUMPS}/{}", encode_name(database));
        let custom = format!("{stem}.{CUSTOM}");
        let inside = format!("{stem}.{DIRECTORY}/");
        let paths = self.files.paths();
        if paths.contains(&custom) {
            return Ok((custom, false));
        }
        if !paths.iter().any(|path| path.starts_with(&inside)) {
            return Err(Error::damaged(format!("the backup has no dump of `{database}`")));
        }
        if self.scratch.is_none() {
            return Err(Error::usage(format!("the dump of `{database}` is in directory format"))
                .hint("pg_restore needs it on disk: --scratch DIR"));
        }
        Ok((inside, true))
    }

    fn load(&self, database: &DatabasePlan, facts: &Facts, reporter: &Reporter) -> Result<()> {
        let (path, directory) = self.dump_of(&database.from)?;
        let mut arguments = self.arguments(database, facts);
        let scratch = match &self.scratch {
            None => None,
            Some((place, jobs)) => {
                let doing = || format!("failed to write to {}", place.display());
                let held =
                    tempfile::Builder::new().prefix(".backstay-").tempdir_in(place).doing(doing)?;
                let format = if directory { "directory" } else { "custom" };
                arguments.push(format!("--format={format}"));
                // Jobs have connections of their own, and no transaction together.
                if database.create {
                    arguments.push(format!("--jobs={jobs}"));
                }
                let target = held.path().join("dump");
                self.write_to(&path, directory, &target, reporter)
                    .map_err(|error| error.context(doing()))?;
                arguments.push(target.display().to_string());
                Some(held)
            }
        };
        let settings = self.settings.with_database(&database.to);
        let server = self.connection.server();
        let pipeline = self.tool(facts)?.pipeline(&settings, &server.host, arguments)?;
        let mut running = pipeline.start(scratch.is_none(), false, reporter)?;
        let fed = if scratch.is_none() {
            let mut reader = self.files.open(&path)?;
            running.feed(&mut reader)
        } else {
            Ok(())
        };
        match fed {
            Ok(()) => running.finish(),
            Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
            Err(error) if error.kind() == ErrorKind::Damaged => Err(error),
            // What it said of it tells more than the broken pipe.
            Err(error) => match running.finish() {
                Err(said) => Err(said),
                Ok(()) => Err(error),
            },
        }
    }

    fn arguments(&self, database: &DatabasePlan, facts: &Facts) -> Vec<String> {
        let options = &self.options;
        let mut arguments = vec![
            "--exit-on-error".to_owned(),
            "--no-password".to_owned(),
            format!("--dbname=dbname={}", crate::source::postgres::quote_value(&database.to)),
        ];
        if !database.create {
            // What was there before is not removed on failure, so nothing may be left in it.
            arguments.push("--single-transaction".to_owned());
        }
        if options.no_owner {
            arguments.extend(["--no-owner".to_owned(), "--no-privileges".to_owned()]);
        }
        let missing = |name: &String| !self.tablespaces.contains(name);
        if options.no_owner
            || self.plan.roles.tablespaces.iter().any(missing)
            || missing(&facts.tablespace)
        {
            arguments.push("--no-tablespaces".to_owned());
        }
        if let Some(role) = &options.role {
            arguments.push(format!("--role={role}"));
        }
        arguments.extend(options.schemas.iter().map(|schema| format!("--schema={schema}")));
        for table in &options.tables {
            let found = facts
                .tables
                .iter()
                .find(|known| *table == format!("{}.{}", known.schema, known.name));
            if let Some(Table { schema, name, .. }) = found {
                arguments.push(format!("--schema={schema}"));
                arguments.push(format!("--table={name}"));
            } else {
                arguments.push(format!("--table={table}"));
            }
        }
        arguments
    }

    fn write_to(
        &self,
        path: &str,
        directory: bool,
        target: &Path,
        reporter: &Reporter,
    ) -> Result<()> {
        let mut files = vec![(path.to_owned(), target.to_path_buf())];
        if directory {
            std::fs::create_dir(target)
                .doing(|| format!("failed to create {}", target.display()))?;
            files = self
                .files
                .paths()
                .iter()
                .filter_map(|found| Some((found.clone(), found.strip_prefix(path)?)))
                .filter(|(_, name)| !name.contains('/') && *name != "..")
                .map(|(found, name)| (found.clone(), target.join(name)))
                .collect();
        }
        let mut buffer = vec![0; 256 << 10];
        for (from, to) in files {
            let doing = || format!("failed to write {}", to.display());
            let mut reader = self.files.open(&from)?;
            let mut file = std::fs::File::create(&to).doing(doing)?;
            loop {
                reporter.check()?;
                let read = reader.read(&mut buffer).doing(|| format!("failed to read {from}"))?;
                if read == 0 {
                    break;
                }
                std::io::Write::write_all(&mut file, &buffer[..read]).doing(doing)?;
                reporter.progress().add_bytes(read as u64);
            }
        }
        Ok(())
    }

    /// Compares rows, and checksums where there are some, with what was recorded.
    fn compare(
        &self,
        connection: &mut Connection,
        facts: &Facts,
        restored: &mut Restored,
    ) -> Result<()> {
        let tables =
            facts.tables.iter().filter(|table| self.options.wants(&table.schema, &table.name));
        for table in tables {
            let Some(expected) = table.rows else { continue };
            let there = connection.value(
                &format!(
                    "SELECT pg_catalog.to_regclass({}) IS NOT NULL",
                    literal(&format!("{}.{}", ident(&table.schema), ident(&table.name)))
                ),
                "failed to look for a table",
            )? == "t";
            let differs = |recorded: String, found: String| Difference {
                table: table.display(),
                recorded,
                found,
            };
            if !there {
                restored.differ.push(differs(format!("{expected} rows"), "no such table".into()));
                continue;
            }
            let (rows, checksum) = measure(connection, table, table.checksum.is_some())?;
            if rows != expected {
                restored.differ.push(differs(format!("{expected} rows"), format!("{rows} rows")));
            } else if checksum != table.checksum {
                restored.differ.push(differs("its rows".into(), "other rows, as many".into()));
            } else {
                restored.tables_equal += 1;
                restored.checksums_equal += u64::from(checksum.is_some());
                restored.rows += rows;
            }
        }
        Ok(())
    }
}

fn read_text(files: &dyn StoredFiles, path: &str) -> Result<String> {
    let mut text = String::new();
    let mut reader = files.open(path)?.take(MOST + 1);
    reader.read_to_string(&mut text).doing(|| format!("failed to read {path}"))?;
    if text.len() as u64 > MOST {
        return Err(Error::damaged(format!("{path} is longer than {MOST} bytes")));
    }
    Ok(text)
}

fn read_facts(files: &dyn StoredFiles) -> Result<BTreeMap<String, Facts>> {
    let mut all = BTreeMap::new();
    for path in files.paths() {
        let name = path.strip_prefix(FACTS).and_then(|rest| rest.strip_prefix('/'));
        let Some(name) = name.and_then(|name| name.strip_suffix(".json")) else { continue };
        let bad = || Error::damaged(format!("{path} describes no database"));
        let facts: Facts = serde_json::from_str(&read_text(files, path)?)
            .map_err(|error| bad().with_source(error))?;
        if decode_name(name).as_deref() != Some(&facts.database)
            || facts_path(&facts.database) != *path
        {
            return Err(bad());
        }
        if facts.version != 1 {
            return Err(Error::unsupported(format!("{path} has a newer form"))
                .hint("restore with a newer version of backstay"));
        }
        all.insert(facts.database.clone(), facts);
    }
    if all.is_empty() {
        return Err(Error::damaged("the backup describes no database"));
    }
    Ok(all)
}
