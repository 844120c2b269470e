//! The part of `backstay restore` that puts dumps back into a MySQL or MariaDB server.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;

use super::restore_database::DatabaseArgs;
use super::restored;
use crate::archive::manifest::Manifest;
use crate::cli::setup::App;
use crate::cli::{ExitStatus, confirm, format};
use crate::error::{Error, Result};
use crate::id::SourceAddress;
use crate::policy::SourceSpec;
use crate::run::restore::{BackupFiles, Means, Request, has_logs, replayed};
use crate::source::StoredFiles;
use crate::source::mysql::{Done, Goal, KIND, Options, Restoring, Settings};

/// The target that means the policy's own server.
const OWN_SERVER: &str = "server";

/// Whether a server is meant, and can be.
pub fn is_meant(to: &str, manifest: &Manifest) -> bool {
    manifest.source_kind == KIND && (to == OWN_SERVER || Settings::is_connection(to))
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
    /// The instant that is asked for.
    pub at: Option<Timestamp>,
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
    mysql: Option<&'a Done>,
    fetched: u64,
}

impl Restore<'_> {
    /// Replays binary logs where there are some, and restores.
    pub fn run(&self) -> Result<ExitStatus> {
        let Self { app, args, request, .. } = self;
        args.check_mysql()?;
        let files = BackupFiles::open(request, &app.cx)?;
        let (settings, programs) = self.target()?;
        let programs = args.programs.clone().or(programs);
        let goal = self.goal()?;
        if !has_logs(&files) {
            if goal != Goal::End && self.at.is_none() {
                return Err(Error::not_found(format!(
                    "{} has no binary logs",
                    request.manifest.backup
                ))
                .hint("incremental backups have them, with `binlog: true` in the policy"));
            }
            return self.restore_from(&files, &settings, programs.as_deref());
        }
        let Some(scratch) = args.scratch.as_deref() else {
            return Err(Error::usage(format!(
                "{} has binary logs, which a server of its own replays",
                request.manifest.backup
            ))
            .hint("--scratch DIR, with room for all databases; it is empty afterwards"));
        };
        if request.dry_run {
            app.printer.talk(format!(
                "would: restore all databases in {}, replay binary logs, and dump from there",
                scratch.display()
            ));
            self.report(Vec::new(), None)?;
            return Ok(ExitStatus::Done);
        }
        let (replayed, dumps) = app.display.during(&app.cx.reporter, || {
            let bytes = request.manifest.counts.bytes;
            let programs = programs.as_deref();
            let means = Means { scratch, programs, roles: &[], isolated: false };
            let replayed = replayed(&files, means, bytes, &goal, &app.cx)?;
            if let Some(found) =
                replayed.done.databases.iter().flat_map(|database| &database.differ).next()
            {
                return Err(Error::damaged(format!(
                    "{} has {} and had {} in the snapshot: nothing was replayed over that",
                    found.table, found.found, found.recorded
                )));
            }
            let dumps = replayed.dumped(programs, &app.cx)?;
            Ok::<_, Error>((replayed, dumps))
        })?;
        app.printer
            .talk(format!("replayed {}", format::count(replayed.logs.0 as u64, "binary log")));
        let status = self.restore_from(&dumps, &settings, programs.as_deref());
        replayed.stop();
        status
    }

    /// Up to where binary logs are replayed.
    fn goal(&self) -> Result<Goal> {
        Ok(match (&self.args.binlog, &self.args.gtid, self.at) {
            (Some(position), _, _) => Goal::position(position)?,
            (_, Some(gtid), _) => Goal::Gtid(gtid.clone()),
            (_, _, Some(at)) => Goal::Time(at),
            _ => Goal::End,
        })
    }

    /// Plans, asks where something is replaced, restores, compares.
    fn restore_from(
        &self,
        files: &dyn StoredFiles,
        settings: &Settings,
        programs: Option<&Path>,
    ) -> Result<ExitStatus> {
        let Self { app, args, request, .. } = self;
        let options =
            Options { databases: args.database.clone(), no_owner: args.no_owner, swap: args.swap };
        let stamp = app.cx.clock.now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let restoring = Restoring::prepare(files, options, settings, programs, &stamp)?;
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
        for database in restoring.plan() {
            if let Some((live, aside)) = &database.swap {
                let what = format!("the tables of `{live}` are moved to `{aside}`");
                confirm::type_name(app, &what, live, self.yes)?;
            }
        }
        let done = app.display.during(&app.cx.reporter, || restoring.run(&app.cx.reporter))?;
        self.report(Vec::new(), Some(&done))?;
        self.conclude(&done)
    }

    /// How the server is reached, and where the policy says that its programs are.
    fn target(&self) -> Result<(Settings, Option<PathBuf>)> {
        let own = self.of_policy();
        let programs = own.as_ref().and_then(|(_, programs)| programs.clone());
        if self.to != OWN_SERVER {
            return Ok((Settings::parse(self.to)?, programs));
        }
        let (connection, _) = own.ok_or_else(|| {
            Error::usage(format!("there is no policy that names the server of {}", self.address))
                .hint("give it: --to mysql://USER@HOST/")
                .hint("a directory of this name: ./server")
        })?;
        Ok((Settings::parse(&connection)?, programs))
    }

    fn of_policy(&self) -> Option<(String, Option<PathBuf>)> {
        if self.app.repository_url().is_some() {
            return None;
        }
        let set = self.app.policies_to_read().ok()?;
        let policy = set.policies.iter().find(|policy| policy.stack == self.address.stack)?;
        match &policy.sources.get(&self.address.source)?.spec {
            SourceSpec::MysqlDump(dump) => Some((dump.connection.clone(), dump.programs.clone())),
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
            mysql: done,
            fetched: self.app.cx.reporter.progress().snapshot().stored_bytes,
        })
    }

    fn conclude(&self, done: &Done) -> Result<ExitStatus> {
        let drop = |aside: &str| {
            let name = aside.replace('`', "``");
            format!(
                "`{aside}` has what was in use before; when nobody misses it: DROP DATABASE `{name}`"
            )
        };
        let who = "an event or somebody else";
        restored::conclude(&self.app.printer, &done.databases, &drop, who)
    }
}
