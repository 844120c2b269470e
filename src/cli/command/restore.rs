//! `backstay restore`

use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;

use super::{
    restore_bucket, restore_cluster, restore_database, restore_divergent, restore_mysql,
    restore_part, restore_sqlite, restore_starrocks, show,
};
use crate::archive::manifest::{Form, Manifest};
use crate::cli::setup::{App, Opened};
use crate::cli::time::{instant, whole_second};
use crate::cli::{ExitStatus, confirm, format};
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::id::{BackupId, SourceAddress};
use crate::run::restore::{
    FINDINGS_KEPT, Outcome, Request, Selection, restore_tree, stream_to, stream_to_consumer,
};
use crate::run::{BackupChoice, find_backup, find_source};
use crate::source::directory::extract::{Existing, Placement};
use crate::source::{self, Source};

/// Restore a backup, or part of one.
///
/// Into an empty directory by default, so that nothing is overwritten: look at it, then move it.
/// With --run or --at and no backup the newest that fits is taken.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The source: STACK/SOURCE. With @ID one of its backups; an id alone will do.
    #[arg(value_name = "SOURCE")]
    source: String,

    /// A directory; for a stream and a SQLite database also a file; `-` is standard output, `consumer` the command
    /// that the policy names in `restore:`. For dumps of databases, and for databases out of a
    /// base backup, also a server: a connection string, `postgresql://…`, `mysql://…`, or `server`,
    /// the one that the policy names. For snapshots of StarRocks `server`, the cluster that the
    /// policy names. For a bucket also a bucket: `s3://…`, or `bucket`, the policy's.
    #[arg(long, value_name = "TARGET")]
    pub(super) to: String,

    /// The backup: its id, the start of it, or `latest`.
    #[arg(long, value_name = "ID", default_value = "latest", conflicts_with_all = ["run", "at"])]
    backup: String,

    /// The backup of this run.
    #[arg(long, value_name = "RUN", conflicts_with = "at")]
    run: Option<String>,

    /// The newest backup from this instant or before: 2026-11-21T02:00:00Z, or with a zone. A
    /// second means all of it, so that a time from `backstay list` finds its backup. Of a
    /// PostgreSQL cluster the instant itself, by replaying WAL.
    #[arg(long, value_name = "TIME", group = "goal")]
    at: Option<String>,

    /// Only these: a path, or a pattern (`**/*.conf`); a directory means everything in it.
    #[arg(long, value_name = "GLOB")]
    pub(super) path: Vec<OsString>,

    /// Replace files that are in the target already.
    #[arg(long, conflicts_with = "delta")]
    overwrite: bool,

    /// Keep files in the target whose content is right already, replace those that differ.
    #[arg(long)]
    delta: bool,

    /// Owners by number, whatever their names are here.
    #[arg(long)]
    numeric_owner: bool,

    /// Take also what a site wrote after another one had become the active one: it is not what users saw.
    #[arg(long)]
    allow_divergent: bool,

    /// Say what would be restored, and do nothing.
    #[arg(long)]
    dry_run: bool,

    /// Do not ask before replacing anything.
    #[arg(long)]
    pub(super) yes: bool,

    /// For dumps of databases.
    #[command(flatten)]
    pub(super) database: restore_database::DatabaseArgs,

    /// For snapshots of StarRocks.
    #[command(flatten)]
    pub(super) starrocks: restore_starrocks::StarRocksArgs,

    /// For buckets.
    #[command(flatten)]
    pub(super) bucket: restore_bucket::BucketArgs,

    /// For base backups.
    #[command(flatten)]
    pub(super) cluster: restore_cluster::ClusterArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    source: String,
    backup: &'a str,
    target: &'a str,
    dry_run: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    tree: Option<&'a Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_bytes: Option<u64>,
    fetched: u64,
    notes: Vec<String>,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    if args.to.is_empty() {
        return Err(Error::usage("--to is empty").hint("give a directory, a file or `-`"));
    }
    let at = args.at.as_deref().map(|text| instant(app, text)).transpose()?;
    let (opened, manifest) = find(app, args, at)?;
    let divergent = (args.allow_divergent, args.dry_run);
    let opened = restore_divergent::confirm(app, divergent, opened, &manifest)?;
    let address = manifest.address();
    check_keys(&opened, &manifest)?;
    let existing = match (args.overwrite, args.delta) {
        (true, _) => Existing::Overwrite,
        (_, true) => Existing::Delta,
        _ => Existing::Refuse,
    };
    let paths = restore_database::paths(&args.path, &args.database, &manifest);
    let paths = restore_bucket::paths(paths, &manifest);
    let request = Request {
        source: opened.repository.source(&address),
        manifest: &manifest,
        keys: opened.keys.clone(),
        selection: Selection::new(&paths)?,
        target: PathBuf::from(&args.to),
        placement: Placement::default(),
        existing,
        numeric_owner: args.numeric_owner,
        dry_run: args.dry_run,
    };
    app.printer.talk(format!(
        "restoring {address} as of {} (backup {}, {})",
        format::time(manifest.start),
        manifest.backup,
        manifest.kind
    ));
    if restore_bucket::is_meant(&args.to, &manifest) {
        args.database.check_unused(false)?;
        return restore_bucket::run(app, &args.bucket, &args.to, args.yes, &request);
    }
    args.bucket.check_unused()?;
    if restore_mysql::is_meant(&args.to, &manifest) {
        let (to, yes) = (args.to.as_str(), args.yes);
        let (args, request, address) = (&args.database, &request, &address);
        return restore_mysql::Restore { app, args, request, address, to, yes, at }.run();
    }
    if restore_starrocks::is_meant(&args.to, &manifest.source_kind) {
        let options = args.database.of_starrocks()?;
        return restore_starrocks::run(app, &args.starrocks, options, args.yes, &address, &request);
    }
    args.starrocks.check_unused()?;
    if args.dry_run {
        for archived in crate::run::hold::archived(&request.source, &manifest) {
            app.printer.warning(&format!("{archived}, and must be thawed first"));
        }
    }
    if restore_database::is_meant(&args.to, &manifest)? {
        let restore = restore_database::Restore {
            app,
            args: &args.database,
            request: &request,
            address: &address,
            to: &args.to,
            yes: args.yes,
        };
        return restore.run();
    }
    if restore_part::is_meant(&args.to, &manifest) {
        return restore_part::run(app, args, at, &request);
    }
    restore_sqlite::refuse_pieces(&manifest, &request, args.path.is_empty())?;
    if restore_sqlite::is_meant(&args.to, &manifest, !args.path.is_empty() || args.delta) {
        args.database.check_unused(false)?;
        return restore_sqlite::run(app, &args.to, args.yes, &request);
    }
    let whole = args.cluster.is_meant(&manifest, &args.to, &args.path)?;
    args.database.check_unused(whole)?;
    let programs = args.database.programs.as_deref();
    if whole {
        return app.display.during(&app.cx.reporter, || {
            restore_cluster::run(app, &args.cluster, at, programs, request)
        });
    }
    app.display.during(&app.cx.reporter, || match (args.to.as_str(), manifest.form) {
        ("-", _) => to_stdout(app, args, &request),
        ("consumer", Form::Stream) => to_consumer(app, args, &request, &address),
        ("consumer", Form::Tree) => Err(Error::usage(format!(
            "{address} is a tree of files, which no `restore:` command takes"
        ))
        .hint("give a directory; one that is called so is ./consumer")),
        (_, Form::Stream) => to_file(app, args, &request),
        (_, Form::Tree) => to_directory(app, args, request, &address),
    })
}

/// The backup that is meant, and where it lies.
fn find(app: &App, args: &Args, at: Option<Timestamp>) -> Result<(Opened, Manifest)> {
    let choice = choice(args, at)?;
    let (source, id) = match args.source.split_once('@') {
        Some((source, id)) => (source, Some(id)),
        None => (args.source.as_str(), None),
    };
    // No name of a source has capital letters.
    let is_id = id.is_none() && BackupId::looks_like(source);
    if (id.is_some() || is_id) && choice != BackupChoice::Latest {
        return Err(Error::usage(format!(
            "`{}` names a backup, and so does an option",
            args.source
        ))
        .hint("give the backup once: SOURCE@ID, or SOURCE and --backup, --run or --at"));
    }
    if is_id {
        return show::find(app, source);
    }
    let choice = match id {
        Some("") => return Err(Error::usage(format!("`{}` names no backup", args.source))),
        None | Some("latest") => choice,
        Some(id) => BackupChoice::Id(id.to_owned()),
    };
    let (opened, address) = if app.repository_url().is_some() {
        let opened = app.repositories()?.pop().ok_or_else(|| Error::usage("no repository"))?;
        let address = find_source(&opened.repository, source)?.ok_or_else(|| {
            Error::not_found(format!("there is no backup of a source `{source}`"))
                .hint("`backstay list` shows what there is")
        })?;
        (opened, address)
    } else {
        // A source that is gone from the policy can still be restored.
        let address = if source.contains('/') {
            SourceAddress::parse(source)?
        } else {
            app.address(&app.policies_to_read()?, source)?
        };
        (app.repository_of(&address)?, address)
    };
    let opened = if args.allow_divergent { opened.ignoring_epochs() } else { opened };
    let manifest = find_backup(&opened.repository, &address, &choice)?;
    Ok((opened, manifest))
}

fn choice(args: &Args, at: Option<Timestamp>) -> Result<BackupChoice> {
    if let Some(run) = &args.run {
        return Ok(BackupChoice::Run(run.clone()));
    }
    if let Some(at) = at {
        return Ok(BackupChoice::At(whole_second(at)));
    }
    if let Some(position) = args.cluster.position()?
        && args.backup == "latest"
    {
        return Ok(BackupChoice::Position(position));
    }
    if let Some(xid) = args.cluster.xid()
        && args.backup == "latest"
    {
        return Ok(BackupChoice::Xid(xid));
    }
    Ok(match args.backup.as_str() {
        "latest" => BackupChoice::Latest,
        id => BackupChoice::Id(id.to_owned()),
    })
}

/// Says early, and in plain words, that a key is missing.
fn check_keys(opened: &Opened, manifest: &Manifest) -> Result<()> {
    let Some(encryption) = &manifest.encryption else { return Ok(()) };
    let have = opened.keys.public();
    let missing = |id: &&String| {
        let key = opened.repository.keys().iter().find(|key| key.id == **id);
        key.is_none_or(|key| !have.contains(&key.recipient))
    };
    let mut all = encryption.keys.iter().chain(std::iter::once(&encryption.key));
    let Some(id) = all.find(missing) else { return Ok(()) };
    let key = opened.repository.keys().iter().find(|key| key.id == *id);
    if key.is_none_or(|key| key.wraps.is_empty()) {
        return Err(Error::damaged(format!(
            "{} is encrypted to key {id}, whose secret half is gone from the repository",
            manifest.backup
        ))
        .hint(format!("bring keys/{id}.age back from a copy or an older version of the bucket")));
    }
    Err(Error::new(
        ErrorKind::Denied,
        if have.is_empty() {
            format!("{} is encrypted, and no identity was given", manifest.backup)
        } else {
            format!("{} is encrypted to key {id}, which no identity given opens", manifest.backup)
        },
    )
    .hint("give the recovery identity with --identity FILE, or in BACKSTAY_IDENTITY")
    .hint("the writer identity of a backup host reads indexes, and no content"))
}

fn to_directory(
    app: &App,
    args: &Args,
    mut request: Request<'_>,
    address: &SourceAddress,
) -> Result<ExitStatus> {
    if request.existing != Existing::Refuse && !args.dry_run && request.target.exists() {
        let name = request.target.display().to_string();
        confirm::type_name(app, &format!("files in {name} will be replaced"), &name, args.yes)?;
    }
    request.target =
        std::path::absolute(&request.target).doing(|| format!("failed to find {}", args.to))?;
    if request.target.metadata().is_ok_and(|there| !there.is_dir()) {
        let what = format!("{} is no directory", request.target.display());
        return Err(Error::new(ErrorKind::Conflict, what)
            .hint(format!("{address} is a tree of files: give a directory")));
    }
    check_target(&request)?;
    let outcome = restore_tree(&request, &app.cx).map_err(|error| unfinished(error, &request))?;
    app.display.clear();
    let mut notes = Vec::new();
    if !args.dry_run
        && let Some(source) = built(app, address)
    {
        notes = source.compare(&request.target)?;
    }
    report(app, args, &request, Some(&outcome), None, notes.clone())?;
    app.printer.talk(summary(&outcome, args));
    for note in notes {
        app.printer.talk(format!("  {note}"));
    }
    if outcome.changed > 0 {
        app.printer.warning(&format!(
            "{} changed while it was backed up, and may be torn",
            format::count(outcome.changed, "file")
        ));
        app.printer.hint(&format!(
            "`backstay ls --changed {}` lists them; look for a backup in which they held still",
            request.manifest.backup
        ));
    }
    for (what, count, example) in &outcome.not_set {
        app.printer.warning(&format!(
            "{what} of {} could not be set, for example `{example}`",
            format::count(*count, "entry")
        ));
    }
    if outcome.not_set.iter().any(|(what, _, _)| what.starts_with("owner")) {
        app.printer.hint("only root may give files to others: restore as root to get owners back");
    }
    if outcome.is_complete() {
        return Ok(ExitStatus::Done);
    }
    for finding in outcome.failed.first.iter().take(20) {
        app.printer.warning(&format!("not restored: `{}`: {}", finding.path, finding.message));
    }
    let more = outcome.failed.count.saturating_sub(20);
    if more > 0 {
        app.printer
            .warning(&format!("and {more} more; --output json names the first {FINDINGS_KEPT}"));
    }
    let damage = outcome.failed.damage;
    let message = format!(
        "{} not restored; everything else was",
        format::count(outcome.failed.count, "entry")
    );
    let error = if damage { Error::damaged(message) } else { Error::failed(message) };
    Err(if damage {
        error.hint("`backstay verify --depth content` tells what is damaged; look for a copy or an older backup")
    } else {
        error
    })
}

/// Refuses to write into the repository that is read.
fn check_target(request: &Request<'_>) -> Result<()> {
    let Some(repository) = request.source.store().directory() else { return Ok(()) };
    let exists = request.target.ancestors().find_map(|path| path.canonicalize().ok());
    if let (Some(target), Ok(repository)) = (exists, repository.canonicalize())
        && target.starts_with(&repository)
    {
        return Err(Error::usage(format!(
            "{} lies in the repository that is restored from",
            request.target.display()
        )));
    }
    Ok(())
}

/// Says what an ended restore leaves, and how to go on.
fn unfinished(error: Error, request: &Request<'_>) -> Error {
    let ended =
        matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::Unreachable | ErrorKind::Failed);
    let begun = std::fs::read_dir(&request.target).is_ok_and(|mut names| names.next().is_some());
    if request.dry_run || !ended || !begun {
        return error;
    }
    error.hint(format!(
        "{} is incomplete: the same command with `--delta --yes` goes on with it",
        request.target.display()
    ))
}

/// The source as the policy describes it, where there is a policy and it still does.
fn built(app: &App, address: &SourceAddress) -> Option<Box<dyn Source>> {
    if app.repository_url().is_some() {
        return None;
    }
    let set = app.policies_to_read().ok()?;
    let policy = set.policies.iter().find(|policy| policy.stack == address.stack)?;
    let definition = policy.sources.get(&address.source)?;
    source::build(&address.source, &definition.spec).ok()
}

fn summary(outcome: &Outcome, args: &Args) -> String {
    let what = format!(
        "{} in {}, {}, {}",
        format::size(outcome.bytes),
        format::count(outcome.files + outcome.kept, "file"),
        format::count(outcome.directories, "directory"),
        format::count(outcome.others, "link or device")
            .replace("link or devices", "links and devices"),
    );
    if args.dry_run {
        let mut text = format!("would restore {what} to {}", args.to);
        if args.delta || args.overwrite {
            let there = format!(
                "; {} right already, {} replaced",
                format::count(outcome.kept, "file"),
                outcome.replaced
            );
            text.push_str(&there);
        }
        return text;
    }
    let kept = if outcome.kept > 0 {
        format!("; {} right already", format::count(outcome.kept, "file"))
    } else {
        String::new()
    };
    format!(
        "restored {what} to {}{kept}; on disk after {}",
        args.to,
        format::seconds(outcome.seconds)
    )
}

fn report(
    app: &App,
    args: &Args,
    request: &Request<'_>,
    tree: Option<&Outcome>,
    stream_bytes: Option<u64>,
    notes: Vec<String>,
) -> Result<()> {
    if !app.printer.is_json() {
        return Ok(());
    }
    app.printer.json(&Report {
        source: request.manifest.address().to_string(),
        backup: request.manifest.backup.as_str(),
        target: &args.to,
        dry_run: args.dry_run,
        tree,
        stream_bytes,
        fetched: app.cx.reporter.progress().snapshot().stored_bytes,
        notes,
    })
}

fn to_stdout(app: &App, args: &Args, request: &Request<'_>) -> Result<ExitStatus> {
    if app.printer.is_json() {
        return Err(Error::usage("--to - and --output json both want standard output"));
    }
    if args.dry_run {
        return Err(Error::usage("--to - has no dry run").hint("`backstay ls` shows what is there"));
    }
    let stdout = std::io::stdout();
    if stdout.is_terminal() && request.manifest.form == Form::Stream {
        return Err(Error::usage("standard output is a terminal")
            .hint("pipe it into a command, or restore to a file"));
    }
    let bytes = stream_to(request, &app.cx, &mut stdout.lock())?;
    app.printer.talk(format!("wrote {}", format::size(bytes)));
    Ok(ExitStatus::Done)
}

fn to_consumer(
    app: &App,
    args: &Args,
    request: &Request<'_>,
    address: &SourceAddress,
) -> Result<ExitStatus> {
    let source = built(app, address).ok_or_else(|| {
        Error::usage(format!("there is no policy that says what restores {address}"))
            .hint("restore to a file, or pipe `--to -` into a command")
    })?;
    if !source.has_consumer() {
        return Err(Error::usage(format!("{address} has no `restore:` in its policy"))
            .hint("restore to a file, or pipe `--to -` into a command"));
    }
    if args.dry_run {
        app.printer.talk("would feed the stream to the consumer that the policy names");
        return Ok(ExitStatus::Done);
    }
    confirm::type_name(
        app,
        &format!("{address} will be fed to the command in its `restore:`"),
        &address.to_string(),
        args.yes,
    )?;
    if !stream_to_consumer(request, &app.cx, &*source)? {
        return Err(Error::usage(format!("{address} has no `restore:` in its policy"))
            .hint("restore to a file, or pipe `--to -` into a command"));
    }
    report(
        app,
        args,
        request,
        None,
        Some(app.cx.reporter.progress().snapshot().bytes),
        Vec::new(),
    )?;
    app.printer.talk("the consumer took all of it and ended with status 0");
    Ok(ExitStatus::Done)
}

/// A stream becomes a file: complete under its name, or not there.
fn to_file(app: &App, args: &Args, request: &Request<'_>) -> Result<ExitStatus> {
    let target = Path::new(&args.to);
    let path = if target.is_dir() || args.to.ends_with('/') {
        target.join(&request.manifest.source)
    } else {
        target.to_path_buf()
    };
    if args.delta {
        return Err(Error::usage("--delta is for directories"));
    }
    match path.symlink_metadata() {
        Ok(there) if !there.is_file() => {
            let what = format!("{} is no regular file, and is not replaced", path.display());
            return Err(Error::new(ErrorKind::Conflict, what)
                .hint("for a device or a pipe: `--to - > NAME`"));
        }
        Ok(_) if request.existing == Existing::Refuse => {
            return Err(Error::new(ErrorKind::Conflict, format!("{} exists", path.display()))
                .hint("restore to another name, or give --overwrite"));
        }
        _ => {}
    }
    if args.dry_run {
        app.printer.talk(format!(
            "would write {} to {}",
            format::size(request.manifest.counts.bytes),
            path.display()
        ));
        return report(app, args, request, None, Some(0), Vec::new()).map(|()| ExitStatus::Done);
    }
    if path.exists() {
        let name = path.display().to_string();
        confirm::type_name(app, &format!("{name} will be replaced"), &name, args.yes)?;
    }
    let failed = || format!("failed to write {}", path.display());
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).doing(failed)?;
    let mut file =
        tempfile::Builder::new().prefix(".backstay-").tempfile_in(parent).doing(failed)?;
    let bytes = stream_to(request, &app.cx, &mut file)?;
    file.flush().doing(failed)?;
    file.as_file().sync_all().doing(failed)?;
    if request.existing == Existing::Refuse {
        file.persist_noclobber(&path).map_err(|error| Error::io(failed(), error.error))?;
    } else {
        file.persist(&path).map_err(|error| Error::io(failed(), error.error))?;
    }
    std::fs::File::open(parent).and_then(|directory| directory.sync_all()).doing(failed)?;
    report(app, args, request, None, Some(bytes), Vec::new())?;
    app.printer.talk(format!("wrote {} to {}", format::size(bytes), path.display()));
    Ok(ExitStatus::Done)
}
