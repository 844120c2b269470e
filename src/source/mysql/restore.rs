//! Putting dumps back into a server: new databases, their content, a check of what arrived, and on
//! request the swap with the ones that are in use.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use super::binlog::{Goal, replay};
use super::client::{Client, ident, literal};
use super::conninfo::Settings;
use super::definers::WithoutDefiners;
use super::files::{Facts, OVERVIEW, Overview, database_of, dump_path};
use super::look;
use super::source::is_encrypted;
use super::split::Part;
use super::swap::{self, Swap};
use super::tools::{Credentials, Tools};
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::source::{Difference, Restored, StoredFiles};
use crate::telemetry::Reporter;

/// Most bytes of a file that is read into memory.
const MOST: u64 = 256 << 20;

/// What a person asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Which databases, `OLD` or `OLD=NEW`; all if empty.
    pub databases: Vec<String>,
    /// Views, routines, triggers and events belong to who restores.
    pub no_owner: bool,
    /// Put the new database in the place of the old one.
    pub swap: bool,
}

/// One database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabasePlan {
    /// Its name in the backup.
    pub from: String,
    /// Its name while it is restored, and afterwards unless it is swapped.
    pub to: String,
    /// It is made; otherwise it is there and empty.
    pub create: bool,
    /// The database whose tables it takes the place of, and the name under which those are kept.
    pub swap: Option<(String, String)>,
}

/// What came of all.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Done {
    /// The server: `MariaDB 10.11.19 at db:3306`.
    pub server: String,
    /// The databases.
    pub databases: Vec<Restored>,
}

/// A restore that has looked at everything and changed nothing.
pub struct Restoring<'a> {
    files: &'a dyn StoredFiles,
    options: Options,
    client: Client,
    tools: Tools,
    encrypted: bool,
    overview: Overview,
    facts: BTreeMap<String, Facts>,
    plan: Vec<DatabasePlan>,
}

impl<'a> Restoring<'a> {
    /// Connects, looks, and decides. `stamp` becomes part of names.
    pub fn prepare(
        files: &'a dyn StoredFiles,
        options: Options,
        settings: &Settings,
        programs: Option<&Path>,
        stamp: &str,
    ) -> Result<Self> {
        let mut client = Client::open(settings)?;
        let overview: Overview = read_json(files, OVERVIEW)?;
        let server = client.server().clone();
        if overview.product != server.product() {
            return Err(Error::unsupported(format!(
                "the dump is of {}, and this server is {}",
                overview.product,
                server.name()
            ))
            .hint("the files can be restored to a directory and fed to the server by hand: what each make writes the other reads in part"));
        }
        let mut facts = BTreeMap::new();
        for path in files.paths() {
            if let Some(database) = database_of(path) {
                let found: Facts = read_json(files, path)?;
                if found.database != database {
                    return Err(Error::damaged(format!("{path} describes another database")));
                }
                facts.insert(database, found);
            }
        }
        if facts.is_empty() {
            return Err(Error::damaged("the backup describes no database"));
        }
        let tools = Tools::find(programs, &server)?;
        tools.client()?;
        let encrypted = is_encrypted(&mut client)?;
        let plan = plan(&options, &facts, &mut client, stamp)?;
        for database in &plan {
            let part = Part { database: database.from.clone(), views: false };
            if !files.paths().contains(&dump_path(&part)) {
                return Err(Error::damaged(format!(
                    "the backup has no dump of `{}`",
                    database.from
                )));
            }
            if let Some((live, _)) = &database.swap {
                swap::check(&mut client, live, &facts[&database.from])?;
            }
        }
        Ok(Self { files, options, client, tools, encrypted, overview, facts, plan })
    }

    /// What will be done.
    pub fn plan(&self) -> &[DatabasePlan] {
        &self.plan
    }

    /// Where to: `MariaDB 10.11.19 at db:3306`.
    pub fn server(&self) -> String {
        format!("{} at {}", self.client.server().name(), self.client.server().place)
    }

    /// What will be done, in lines.
    pub fn describe(&self) -> Vec<String> {
        let mut lines = vec![format!("to {}", self.server())];
        for DatabasePlan { from, to, create, swap } in &self.plan {
            let how = if *create { "create" } else { "fill the empty" };
            lines.push(format!("{how} database `{to}` from the dump of `{from}`"));
            if let Some((live, aside)) = swap {
                lines.push(format!(
                    "move the tables of `{live}` to `{aside}`, and those of `{to}` to `{live}`"
                ));
            }
        }
        lines
    }

    /// Does it.
    pub fn run(mut self, reporter: &Reporter) -> Result<Done> {
        let mut done = Done { server: self.server(), databases: Vec::new() };
        for database in self.plan.clone() {
            let started = Instant::now();
            let mut restored = self.one(&database, reporter)?;
            if let Some((live, aside)) = &database.swap
                && restored.differ.is_empty()
            {
                reporter.phase("swapping");
                let swap = Swap { live, restored: &database.to, aside };
                swap.run(&mut self.client)?;
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
        let to = ident(&database.to);
        if database.create {
            let statement = format!(
                "CREATE DATABASE {to} CHARACTER SET {} COLLATE {}",
                ident(&facts.charset),
                ident(&facts.collation)
            );
            let doing = format!("failed to create database `{}`", database.to);
            self.client.execute(&statement, &doing)?;
        }
        reporter.phase("restoring");
        let result = self
            .load(database, reporter)
            .and_then(|()| self.compare(database, &facts, reporter))
            .map_err(|error| {
                error.context(format!("failed to restore database `{}`", database.from))
            });
        if result.is_err() && database.create {
            // Made by this restore, and nobody else's: what is left of it helps nobody. The session
            // may be the one that was interrupted.
            let removed = Client::open(self.client.settings()).and_then(|mut client| {
                client.execute(&format!("DROP DATABASE {to}"), "failed to remove what was begun")
            });
            if let Err(error) = removed {
                reporter.note(error.chain());
            }
        }
        result
    }

    fn load(&self, database: &DatabasePlan, reporter: &Reporter) -> Result<()> {
        let credentials = Credentials::write(self.client.settings(), &self.tools, self.encrypted)?;
        let mut arguments = vec!["--max-allowed-packet=1G".to_owned(), "--binary-mode".to_owned()];
        arguments.push("--default-character-set=utf8mb4".to_owned());
        arguments.push(format!("--database={}", database.to));
        let pipeline = credentials.pipeline(&self.tools.client()?, arguments);
        for views in [false, true] {
            let path = dump_path(&Part { database: database.from.clone(), views });
            if !self.files.paths().contains(&path) {
                continue;
            }
            let mut running = pipeline.start(true, false, reporter)?;
            let mut reader = self.files.open(&path)?;
            let fed = if self.options.no_owner {
                running.feed(&mut WithoutDefiners::new(reader))
            } else {
                running.feed(&mut reader)
            };
            match fed {
                Ok(()) => running.finish()?,
                // What the client said of it tells more than the broken pipe.
                Err(error)
                    if error.kind() == ErrorKind::Interrupted
                        || error.kind() == ErrorKind::Damaged =>
                {
                    return Err(error);
                }
                Err(error) => {
                    running.finish()?;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Compares what is there with what was recorded.
    fn compare(
        &mut self,
        database: &DatabasePlan,
        facts: &Facts,
        reporter: &Reporter,
    ) -> Result<Restored> {
        reporter.phase("comparing");
        let mut restored = Restored {
            from: database.from.clone(),
            to: database.to.clone(),
            ..Restored::default()
        };
        let now = look::facts(&mut self.client, &database.to)?;
        let names: BTreeSet<&str> = now.tables.iter().map(|table| table.name.as_str()).collect();
        // Another version may lay rows out otherwise, and then has another checksum of the same.
        let server = self.client.server().clone();
        let family = |text: &str| text.split('.').take(2).map(str::to_owned).collect::<Vec<_>>();
        let comparable = family(&self.overview.server) == family(&server.text);
        let stop = || reporter.is_cancelled();
        for table in &facts.tables {
            let differs = |recorded: String, found: String| Difference {
                table: format!("{}.{}", database.from, table.name),
                recorded,
                found,
            };
            let rows = |rows: u64| format!("{rows} rows");
            if !names.contains(table.name.as_str()) {
                let recorded = table.rows.map_or_else(|| "a table".to_owned(), rows);
                restored.differ.push(differs(recorded, "no such table".to_owned()));
                continue;
            }
            let Some(expected) = table.rows else { continue };
            let checksum = table.checksum.is_some() && comparable;
            let (found, sum) =
                look::measure(&mut self.client, &stop, &database.to, &table.name, checksum)?;
            if found != expected {
                restored.differ.push(differs(rows(expected), rows(found)));
            } else if checksum && sum != table.checksum {
                restored.differ.push(differs("its rows".into(), "other rows, as many".into()));
            } else {
                restored.tables_equal += 1;
                restored.checksums_equal += u64::from(checksum);
                restored.rows += found;
            }
        }
        let things = [
            ("views", facts.views, now.views),
            ("routines", facts.routines, now.routines),
            ("triggers", facts.triggers, now.triggers),
            ("events", facts.events, now.events),
        ];
        for (what, was, is) in things.into_iter().filter(|(_, was, is)| was != is) {
            restored.differ.push(Difference {
                table: format!("{} of {}", what, database.from),
                recorded: was.to_string(),
                found: is.to_string(),
            });
        }
        if !comparable && facts.tables.iter().any(|table| table.checksum.is_some()) {
            restored
                .notes
                .push(format!("checksums were not compared: they are of {}", self.overview.server));
        }
        self.notes(database, facts, &mut restored)?;
        Ok(restored)
    }

    fn notes(
        &mut self,
        database: &DatabasePlan,
        facts: &Facts,
        restored: &mut Restored,
    ) -> Result<()> {
        if facts.events > 0 {
            restored.notes.push(format!(
                "{} events came with `{}`: they run wherever event_scheduler is on",
                facts.events, database.to
            ));
        }
        if !self.options.no_owner {
            let query = "SELECT CONCAT(User, '@', Host) FROM mysql.user";
            let known = self.client.rows(query, "failed to list the users").unwrap_or_default();
            let known: BTreeSet<String> = known.into_iter().flatten().flatten().collect();
            let missing: Vec<&str> = facts
                .definers
                .iter()
                .filter(|name| !known.contains(*name))
                .map(String::as_str)
                .collect();
            if !known.is_empty() && !missing.is_empty() {
                restored.notes.push(format!(
                    "views, routines, triggers or events run on behalf of users who are not here: {} (users.sql in the backup makes them; --no-owner gives them to who restores)",
                    missing.join(", ")
                ));
            }
        }
        if database.from == database.to {
            return Ok(());
        }
        let (to, old) = (literal(&database.to), literal(&naming(&database.from)));
        let query = format!(
            "SELECT CONCAT('routine ', ROUTINE_NAME) FROM information_schema.ROUTINES \
             WHERE ROUTINE_SCHEMA = {to} AND ROUTINE_DEFINITION REGEXP {old} \
             UNION ALL SELECT CONCAT('view ', TABLE_NAME) FROM information_schema.VIEWS \
             WHERE TABLE_SCHEMA = {to} AND VIEW_DEFINITION REGEXP {old} \
             UNION ALL SELECT CONCAT('trigger ', TRIGGER_NAME) FROM information_schema.TRIGGERS \
             WHERE TRIGGER_SCHEMA = {to} AND ACTION_STATEMENT REGEXP {old}"
        );
        let found = self.client.rows(&query, "failed to look for the old name")?;
        let found: Vec<String> = found.into_iter().flatten().flatten().collect();
        if !found.is_empty() {
            restored.notes.push(format!(
                "these name `{}` and still mean that database: {}",
                database.from,
                found.join(", ")
            ));
        }
        Ok(())
    }
}

/// Replays binary logs that lie in `directory` into a server.
pub fn replay_into(
    settings: &Settings,
    programs: Option<&Path>,
    directory: &Path,
    logs: (&[String], u64),
    goal: &Goal,
    reporter: &Reporter,
) -> Result<()> {
    let mut client = Client::open(settings)?;
    let tools = Tools::find(programs, client.server())?;
    let encrypted = is_encrypted(&mut client)?;
    let credentials = Credentials::write(settings, &tools, encrypted)?;
    replay(&tools, &credentials, directory, logs, goal, reporter)
}

/// A regular expression for text that names something in a database.
fn naming(database: &str) -> String {
    let mut name = String::new();
    for c in database.chars() {
        if c.is_ascii() && !c.is_ascii_alphanumeric() {
            name.push('\\');
        }
        name.push(c);
    }
    format!("(^|[^a-zA-Z0-9_`])`?{name}`?[.]")
}

/// Decides which database becomes which.
fn plan(
    options: &Options,
    facts: &BTreeMap<String, Facts>,
    client: &mut Client,
    stamp: &str,
) -> Result<Vec<DatabasePlan>> {
    let existing: BTreeSet<String> = look::databases(client)?.into_iter().collect();
    let known: Vec<&str> = facts.keys().map(String::as_str).collect();
    let mut wanted = Vec::new();
    for text in &options.databases {
        let split = text.match_indices('=').map(|(at, _)| (&text[..at], Some(&text[at + 1..])));
        let found = std::iter::once((text.as_str(), None))
            .chain(split)
            .find(|(from, _)| known.contains(from));
        let (from, to) = found.ok_or_else(|| {
            let from = text.split('=').next().unwrap_or(text);
            Error::not_found(format!("the backup has no database `{from}`"))
                .hint(format!("it has {}", known.join(", ")))
        })?;
        if to.is_some_and(|to| to.is_empty() || to.chars().count() > 64 || to.ends_with(' ')) {
            return Err(Error::usage(format!(
                "`{}` is no name for a database",
                to.unwrap_or_default()
            )));
        }
        wanted.push((from.to_owned(), to.map(str::to_owned)));
    }
    if options.databases.is_empty() {
        wanted = known.iter().map(|name| ((*name).to_owned(), None)).collect();
    }
    let mut plan: Vec<DatabasePlan> = Vec::new();
    for (from, to) in wanted {
        let swap = if options.swap {
            if !existing.contains(&from) {
                return Err(Error::not_found(format!(
                    "there is no database `{from}` to swap with"
                ))
                .hint("leave --swap out: it is restored under its own name"));
            }
            Some((from.clone(), suffixed(&from, &format!("before_{stamp}"))))
        } else {
            None
        };
        let to = to.unwrap_or_else(|| match &swap {
            Some(_) => suffixed(&from, &format!("restored_{stamp}")),
            None => from.clone(),
        });
        if plan.iter().any(|other| other.to == to) {
            return Err(Error::usage(format!("`{to}` is meant twice")));
        }
        let create = !existing.contains(&to);
        if !create {
            let there = look::facts(client, &to)?;
            if !there.tables.is_empty() || there.views + there.routines + there.events > 0 {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!(
                        "database `{to}` exists and is not empty: nothing is ever merged into it"
                    ),
                )
                .hint(format!("restore beside it: --database {from}={to}_restored"))
                .hint("--swap restores beside it and then moves its tables into place"));
            }
        }
        plan.push(DatabasePlan { from, to, create, swap });
    }
    Ok(plan)
}

/// A name with a suffix that is not longer than a name may be: 64 characters.
fn suffixed(name: &str, suffix: &str) -> String {
    let kept: String = name.chars().take(63 - suffix.len()).collect();
    format!("{kept}_{suffix}")
}

fn read_json<T: serde::de::DeserializeOwned>(files: &dyn StoredFiles, path: &str) -> Result<T> {
    let mut text = String::new();
    let mut reader = files.open(path)?.take(MOST + 1);
    reader.read_to_string(&mut text).doing(|| format!("failed to read {path}"))?;
    let bad = |error| Error::damaged(format!("{path} is not what was written")).with_source(error);
    serde_json::from_str(&text).map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_within_their_length() {
        assert_eq!(suffixed("app", "before_x"), "app_before_x");
        assert_eq!(suffixed(&"é".repeat(64), "before_20261121T020000Z").chars().count(), 63 + 1);
    }
}
