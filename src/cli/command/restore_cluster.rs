//! The part of `backstay restore` that puts a PostgreSQL cluster back.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;

use crate::archive::manifest::Manifest;
use crate::archive::wal::Lsn;
use crate::cli::setup::App;
use crate::cli::time::whole_second;
use crate::cli::{ExitStatus, format};
use crate::error::{Error, IoContext as _, Result};
use crate::run::restore::{
    CLUSTER_KIND, ClusterPlan, Goal, Outcome, Recovery, Request, TablespaceChoice, restore_cluster,
};
use crate::source::postgres::{Settings, Started, Surroundings, start_restored};

/// Options for base backups.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Base backups of PostgreSQL, to a data directory")]
pub struct ClusterArgs {
    /// Where a tablespace goes: OLD is where it lay, or its number. May be given several times.
    #[arg(long, value_name = "OLD=NEW")]
    tablespace: Vec<String>,

    /// Where all other tablespaces go: each to a directory below this one.
    #[arg(long, value_name = "DIR")]
    tablespaces: Option<PathBuf>,

    /// To the first moment at which the backup is consistent, with the WAL it brings. This is what
    /// is done if nothing else is asked for.
    #[arg(long, group = "goal")]
    immediate: bool,

    /// To the end of what was archived.
    #[arg(long, group = "goal")]
    latest: bool,

    /// To a position in WAL: 16/B374D848.
    #[arg(long, value_name = "LSN", group = "goal")]
    lsn: Option<String>,

    /// To the end of a transaction: what pg_current_xact_id() told it.
    #[arg(long, value_name = "XID", group = "goal")]
    xid: Option<u64>,

    /// To a restore point: pg_create_restore_point('NAME'). Where it is older than the newest backup,
    /// say with --backup which one is from before it.
    #[arg(long, value_name = "NAME", group = "goal")]
    name: Option<String>,

    /// As a standby: it follows what is archived, and opens when somebody promotes it.
    #[arg(long, group = "goal")]
    standby: bool,

    /// For --standby: a server to stream from as well, 'host=HOST user=USER'. Passwords belong into
    /// the password file of the standby's user.
    #[arg(long, value_name = "CONNECTION", requires = "standby")]
    primary: Option<String>,

    /// Start the server when everything is there, and wait until it takes writes; with --standby or
    /// --action pause, until it answers. It runs as the owner of its files, and goes on running.
    #[arg(long, conflicts_with = "dry_run")]
    start: bool,

    /// Archive as the server did that was backed up: this one takes its place. Otherwise it
    /// archives nothing.
    #[arg(long)]
    as_primary: bool,

    /// Replay this timeline. Default: the newest that the backup leads to.
    #[arg(long, value_name = "NUMBER")]
    timeline: Option<u32>,

    /// What the server does when it is there.
    #[arg(long, value_enum, value_name = "ACTION")]
    action: Option<Action>,
}

/// What a server does when recovery is where it was to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Action {
    /// Opens, on a new timeline.
    Promote,
    /// Waits, readable: pg_wal_replay_resume() opens it.
    Pause,
    /// Ends; it goes on when it is started with another target.
    Shutdown,
}

impl ClusterArgs {
    /// Whether this is a whole cluster, to be made ready for a server.
    pub fn is_meant(&self, manifest: &Manifest, to: &str, paths: &[OsString]) -> Result<bool> {
        if manifest.source_kind == CLUSTER_KIND && to != "-" && paths.is_empty() {
            return Ok(true);
        }
        let goal = self.immediate || self.latest || self.lsn.is_some();
        let goal = goal || self.xid.is_some() || self.name.is_some();
        let goal = goal || self.standby;
        let more =
            self.timeline.is_some() || self.action.is_some() || self.as_primary || self.start;
        if goal || more || !self.tablespace.is_empty() || self.tablespaces.is_some() {
            return Err(Error::usage(
                "tablespaces and targets of recovery are for whole clusters of PostgreSQL",
            )
            .hint(format!("{} is of a source of kind {}", manifest.backup, manifest.source_kind)));
        }
        Ok(false)
    }

    /// What would be done to a target directory, and there is none.
    pub fn check_no_directory(&self) -> Result<()> {
        let used = [
            ("--tablespace", !self.tablespace.is_empty()),
            ("--tablespaces", self.tablespaces.is_some()),
            ("--standby", self.standby),
            ("--as-primary", self.as_primary),
            ("--action", self.action.is_some()),
            ("--start", self.start),
        ];
        match used.iter().find(|(_, used)| *used) {
            None => Ok(()),
            Some((option, _)) => Err(Error::usage(format!(
                "{option} goes with a directory in --to, and this is a server"
            ))),
        }
    }

    /// The timeline that was asked for.
    pub fn timeline(&self) -> Option<u32> {
        self.timeline
    }

    /// The transaction that was asked for.
    pub fn xid(&self) -> Option<u64> {
        self.xid
    }

    /// The position that was asked for.
    pub fn position(&self) -> Result<Option<Lsn>> {
        self.lsn.as_deref().map(str::parse).transpose()
    }

    pub(super) fn goal(&self, at: Option<Timestamp>, manifest: &Manifest) -> Result<Goal> {
        let complete = manifest.recovery_points.first().map(|point| point.time);
        Ok(match (at, self.position()?, &self.name, self.xid) {
            // The second in which the backup was complete, as listings show it.
            (Some(time), ..) if complete.is_some_and(|c| time < c && c <= whole_second(time)) => {
                Goal::Immediate
            }
            (Some(time), ..) => Goal::Time(time),
            (_, Some(position), ..) => Goal::Lsn(position),
            (_, _, Some(name), _) => Goal::Name(name.clone()),
            (_, _, _, Some(xid)) => Goal::Xid(xid as u32),
            _ if self.latest => Goal::Latest,
            _ if self.standby => Goal::Standby,
            _ => Goal::Immediate,
        })
    }

    fn choice(&self) -> Result<TablespaceChoice> {
        let mapped = self.tablespace.iter().map(|given| {
            let parts =
                given.split_once('=').filter(|(old, new)| !old.is_empty() && !new.is_empty());
            let (old, new) = parts.ok_or_else(|| {
                Error::usage(format!("--tablespace takes OLD=NEW, not `{given}`"))
            })?;
            Ok((old.to_owned(), PathBuf::from(new)))
        });
        Ok(TablespaceChoice {
            mapped: mapped.collect::<Result<_>>()?,
            rest: self.tablespaces.clone(),
        })
    }
}

#[derive(Serialize)]
struct Report<'a> {
    source: String,
    backup: &'a str,
    target: String,
    dry_run: bool,
    tree: &'a Outcome,
    cluster: &'a ClusterPlan,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<&'a Started>,
    fetched: u64,
}

/// Restores the cluster.
pub fn run(
    app: &App,
    args: &ClusterArgs,
    at: Option<Timestamp>,
    programs: Option<&Path>,
    mut request: Request<'_>,
) -> Result<ExitStatus> {
    let manifest = request.manifest;
    if args.standby && (at.is_some() || args.timeline.is_some() || args.action.is_some()) {
        return Err(Error::usage("--standby follows the newest timeline, and has no target"));
    }
    if let Some(primary) = &args.primary {
        Settings::resolve_typed(primary, &Surroundings::here())?;
    }
    let divergent = request.source.epochs().are_ignored();
    let recovery = Recovery {
        goal: args.goal(at, manifest)?,
        timeline: args.timeline,
        action: match args.action {
            None | Some(Action::Promote) => "promote",
            Some(Action::Pause) => "pause",
            Some(Action::Shutdown) => "shutdown",
        }
        .to_owned(),
        command: restore_command(app, manifest, args.standby, divergent)?,
        primary: args.primary.clone(),
        brings_wal: false,
        archives: args.as_primary,
    };
    let choice = args.choice()?;
    let (dry_run, given) = (request.dry_run, request.target.display().to_string());
    request.target =
        std::path::absolute(&request.target).doing(|| format!("failed to find {given}"))?;
    let target = request.target.display().to_string();
    let (outcome, plan) = restore_cluster(request, &choice, &recovery, &app.cx)?;
    let started = if args.start {
        let data = std::path::Path::new(&target);
        let stays = args.standby || matches!(args.action, Some(Action::Pause));
        Some(start_restored(data, programs, stays, &app.cx.reporter)?)
    } else {
        None
    };
    if app.printer.is_json() {
        app.printer.json(&Report {
            source: manifest.address().to_string(),
            backup: manifest.backup.as_str(),
            target: target.clone(),
            dry_run,
            tree: &outcome,
            cluster: &plan,
            started: started.as_ref(),
            fetched: app.cx.reporter.progress().snapshot().stored_bytes,
        })?;
    }
    let server = manifest.server.as_deref().unwrap_or("PostgreSQL");
    let what = format!(
        "{} in {} and {} of WAL",
        format::size(outcome.bytes),
        format::count(outcome.files, "file"),
        format::count(plan.wal_segments, "segment"),
    );
    let verb = if dry_run { "would restore" } else { "restored" };
    app.printer.talk(format!("{verb} {what} to {target}"));
    for (oid, old, new) in &plan.tablespaces {
        app.printer.talk(format!("  tablespace {oid} from {old} to {new}"));
    }
    if let Some(tainted) = &manifest.tainted {
        app.printer.warning(&format!(
            "{} of the server were damaged when the backup was made, and are so in the copy",
            format::count(tainted.pages, "page")
        ));
    }
    for (what, count, example) in &outcome.not_set {
        app.printer.warning(&format!(
            "{what} of {} could not be set, for example `{example}`",
            format::count(*count, "entry")
        ));
    }
    if let Some(way) = &plan.recovery {
        app.printer.talk(format!(
            "  then {} of WAL from {} to {} on timeline {}, as far as asked for",
            format::count(way.segments, "segment"),
            way.start,
            way.end,
            way.timeline
        ));
    }
    if let Some(started) = &started {
        let what = if started.writes { "it is open" } else { "it answers, and stays in recovery" };
        app.printer.talk(format!("  started: {what} after {}", format::seconds(started.seconds)));
        app.printer.hint(&format!("its log is {}", started.log.display()));
    } else if !dry_run {
        let archives = if args.as_primary { "archives as before" } else { "archives nothing" };
        if args.standby {
            app.printer.talk(format!(
                "{server} starts from it as a standby, and follows what is archived with this, which its user must be able to run:"
            ));
            app.printer.talk(format!("  {}", recovery.command));
            app.printer.hint(&format!("to open it: pg_ctl -D {target} promote; it {archives}"));
        } else if plan.recovery.is_some() {
            app.printer.talk(format!(
                "{server} starts from it and fetches WAL with this, which its user must be able to run:"
            ));
            app.printer.talk(format!("  {}", recovery.command));
        } else {
            app.printer.talk(format!(
                "{server} starts from it, replays WAL to {} of timeline {} and opens; it {archives}",
                plan.lsn, plan.timeline
            ));
        }
        app.printer.hint(&format!("as the owner of its files: pg_ctl -D {target} start"));
    }
    Ok(ExitStatus::Done)
}

/// Segments that the restored server has fetched with each that it asks for.
const AHEAD: &str = "8";

/// What the restored server fetches WAL with: this program, with what it was told itself.
fn restore_command(
    app: &App,
    manifest: &Manifest,
    standby: bool,
    divergent: bool,
) -> Result<String> {
    let program = std::env::current_exe().doing(|| "failed to find this program".to_owned())?;
    let absolute = |path: &Path| {
        std::path::absolute(path).doing(|| format!("failed to find {}", path.display()))
    };
    let mut words = vec![program.display().to_string()];
    let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
    match app.repository_url() {
        // A directory is named as seen from the server's own.
        Some(url) if !url.contains("://") => {
            option("--repository", absolute(Path::new(url))?.display().to_string());
        }
        Some(url) => option("--repository", url.to_owned()),
        None => {
            option("--policy", absolute(&app.policy_path()?)?.display().to_string());
            if let Some(name) = &app.global.repository {
                option("--repository", name.clone());
            }
        }
    }
    for identity in &app.global.identity {
        option("--identity", absolute(identity)?.display().to_string());
    }
    let system_id = manifest.wal.as_ref().map(|wal| wal.system_id.to_string());
    words.extend(["wal".to_owned(), "get".to_owned()]);
    words.extend(standby.then(|| "--standby".to_owned()));
    words.extend(divergent.then(|| "--allow-divergent".to_owned()));
    words.extend(["--ahead".to_owned(), AHEAD.to_owned()]);
    words.extend(["--source".to_owned(), manifest.address().to_string()]);
    words.extend(["--system-id".to_owned(), system_id.unwrap_or_default()]);
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    Ok(format!("{} %f %p", words.join(" ")))
}

/// A word for the shell, in which the server replaces `%` and a letter.
fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-:=@+,".contains(&b);
    let word = word.replace('%', "%%");
    if !word.is_empty() && word.bytes().all(plain) {
        return word;
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_reach_the_shell_whole() {
        assert_eq!(quoted("/usr/bin/backstay"), "/usr/bin/backstay");
        assert_eq!(quoted("it's 5%"), r"'it'\''s 5%%'");
        assert_eq!(quoted("s3://b/p?region=x"), "'s3://b/p?region=x'");
    }
}
