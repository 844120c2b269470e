//! `backstay check`

mod archive;

use std::collections::BTreeSet;

use serde::Serialize;

use crate::cli::format::{self, Align, table};
use crate::cli::setup::App;
use crate::cli::{ExitStatus, printer::Printer};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{BackupKind, SourceAddress};
use crate::policy::{self, Diagnostic, Policy, SourceSpec, Storage, Work};
use crate::source::{self, SnapshotPlace, SourceContext, Weight};
use crate::store::{Repository, SnapshotStore, SourceStore, layout};

/// Lint policies, and look whether their sources and repositories would work.
///
/// Changes nothing, unless --archive asks for more. Prints which source takes which kind of backup, where it goes and how often.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Lint only: look at no source and no repository.
    #[arg(long)]
    offline: bool,

    /// Let each PostgreSQL cluster end a WAL segment, and wait until it is in every repository that
    /// must have it: the proof that WAL is archived, and here.
    ///
    /// The one thing that changes something: the server writes a restore point of a few bytes.
    #[arg(long, conflicts_with = "offline")]
    archive: bool,
}

#[derive(Serialize)]
struct SourceLine {
    source: String,
    kind: &'static str,
    repository: String,
    host: Option<String>,
    rto_seconds: u64,
    rpo_seconds: u64,
    jobs: Vec<String>,
    ready: bool,
    /// It lies on another host, and was not looked at.
    elsewhere: bool,
    notes: Vec<String>,
    /// Backups work, and somebody should know.
    warnings: Vec<String>,
    /// What `--archive` saw.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    seen: Vec<String>,
}

#[derive(Serialize)]
struct RepositoryLine {
    repository: String,
    place: String,
    ready: bool,
    note: String,
    hints: Vec<String>,
    /// Backups that were begun and are not committed: under way, or cut short.
    unfinished: Unfinished,
}

/// What unfinished backups have stored.
#[derive(Default, Serialize)]
struct Unfinished {
    backups: u64,
    objects: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct Report {
    warnings: Vec<Diagnostic>,
    sources: Vec<SourceLine>,
    repositories: Vec<RepositoryLine>,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let set = app.policies(true)?;
    let mut report = Report { warnings: Vec::new(), sources: Vec::new(), repositories: Vec::new() };
    for policy in &set.policies {
        for name in policy.sources.keys() {
            report.sources.push(look_at_source(app, args, policy, name));
        }
        if args.offline {
            continue;
        }
        for name in policy.repositories.keys() {
            report.repositories.push(look_at_repository(app, policy, name));
        }
    }
    report.warnings = set.warnings;
    let bad = report.sources.iter().filter(|line| !line.ready).count()
        + report.repositories.iter().filter(|line| !line.ready).count();
    if app.printer.is_json() {
        app.printer.json(&report)?;
    } else {
        print(&app.printer, &report)?;
    }
    if bad > 0 {
        let what =
            if bad == 1 { "1 source or repository is" } else { "sources or repositories are" };
        let count = if bad == 1 { String::new() } else { format!("{bad} ") };
        return Err(Error::failed(format!("{count}{what} not ready")));
    }
    Ok(ExitStatus::Done)
}

fn look_at_source(app: &App, args: &Args, policy: &Policy, name: &str) -> SourceLine {
    let definition = &policy.sources[name];
    let objectives = policy.objectives_of(name);
    let built = source::build(name, &definition.spec);
    // Nothing here can read what an incremental would be based on.
    let is_blind = policy.repository_of(name).is_some_and(|(_, repository)| {
        repository.encryption.as_ref().is_some_and(|e| e.writer_identity.is_none())
    });
    let jobs = policy
        .jobs_of(name)
        .filter_map(|(job, definition)| {
            let Work::Backup { kind, .. } = &definition.work else { return None };
            let taken = built.as_ref().map_or(*kind, |source| source.kind_for(*kind));
            Some(if taken == BackupKind::Incremental && is_blind {
                format!("{job}: {} (no writer_identity)", BackupKind::Full)
            } else if taken == *kind {
                format!("{job}: {kind}")
            } else {
                format!("{job}: {taken} (has no {kind})")
            })
        })
        .collect();
    let mut line = SourceLine {
        source: SourceAddress::new(&policy.stack, name).to_string(),
        kind: definition.kind().name(),
        repository: policy
            .repository_of(name)
            .map_or_else(String::new, |(name, _)| name.to_owned()),
        host: definition.host.clone(),
        rto_seconds: objectives.rto.as_secs(),
        rpo_seconds: objectives.rpo.as_secs(),
        jobs,
        ready: true,
        elsewhere: definition.host.as_ref().is_some_and(|host| *host != crate::run::host_name()),
        notes: Vec::new(),
        warnings: Vec::new(),
        seen: Vec::new(),
    };
    if line.elsewhere {
        line.notes.push(format!(
            "lies on host {}: not looked at",
            definition.host.as_deref().unwrap_or("")
        ));
        return line;
    }
    if let SourceSpec::PostgresCluster(cluster) = &definition.spec
        && args.archive
        && cluster.wal.is_some()
    {
        let address = SourceAddress::new(&policy.stack, name);
        // Before the rest is looked at: what kept the archiver from its work may be over by now.
        match archive::goes_round(app, policy, &address, &cluster.connection) {
            Ok(seen) => line.seen = seen,
            Err(error) => {
                line.ready = false;
                line.tell(&error);
            }
        }
    }
    match built {
        Err(error) => {
            line.ready &= error.kind() == ErrorKind::Unsupported;
            line.tell(&error);
        }
        Ok(source) if !args.offline => match source.probe(&context(app, policy, name)) {
            Ok(probe) => {
                line.ready &= probe.notes.iter().all(|note| note.weight != Weight::Fault);
                let (warnings, notes): (Vec<_>, Vec<_>) =
                    probe.notes.into_iter().partition(|note| note.weight == Weight::Warning);
                line.notes.extend(notes.into_iter().map(|note| note.text));
                line.warnings = warnings.into_iter().map(|note| note.text).collect();
            }
            Err(error) => {
                line.ready = false;
                line.tell(&error);
            }
        },
        Ok(_) => {}
    }
    line
}

impl SourceLine {
    /// What is wrong, and what mends it.
    fn tell(&mut self, error: &Error) {
        self.notes.push(error.chain());
        self.notes.extend(error.hints().iter().map(|hint| format!("hint: {hint}")));
    }
}

/// What the source is looked at with: one that writes into the bucket by itself is told where.
fn context(app: &App, policy: &Policy, name: &str) -> SourceContext {
    let mut cx = app.cx.for_source();
    if matches!(policy.sources[name].spec, SourceSpec::StarRocks(_))
        && let Some((_, config)) = policy.repository_of(name)
        // A bucket that does not answer is told of where repositories are looked at.
        && let Ok(store) = app.connect(config, false)
    {
        let address = SourceAddress::new(&policy.stack, name);
        let store = SnapshotStore::of(&SourceStore::new(&store, &address));
        cx.snapshots = Some(SnapshotPlace { store, address, backup: None });
    }
    cx
}

fn look_at_repository(app: &App, policy: &Policy, name: &str) -> RepositoryLine {
    let config = &policy.repositories[name];
    let mut line = RepositoryLine {
        repository: format!("{}: {name}", policy.stack),
        place: String::new(),
        ready: false,
        note: String::new(),
        hints: Vec::new(),
        unfinished: Unfinished::default(),
    };
    let looked = app.connect(config, false).and_then(|store| {
        store.name().clone_into(&mut line.place);
        let repository = Repository::open(&store)?;
        let mut note = check_keys(app, policy, name, &repository)?;
        check_writable(config)?;
        line.unfinished = unfinished(policy, &repository)?;
        if repository.descriptor().weak_store {
            note.push_str("; its store failed a probe and was taken all the same");
        }
        Ok(note)
    });
    match looked {
        Ok(note) => (line.ready, line.note) = (true, note),
        Err(error) => (line.note, line.hints) = (error.chain(), error.hints().to_vec()),
    }
    line
}

/// Whether backups can be put there, as far as that can be told without writing.
fn check_writable(config: &policy::Repository) -> Result<()> {
    let Storage::Local(local) = &config.storage else { return Ok(()) };
    rustix::fs::access(&local.path, rustix::fs::Access::WRITE_OK).map_err(|errno| {
        Error::io(format!("{} cannot be written to", local.path.display()), errno.into())
            .hint("it can be restored from, and no backup goes there")
    })
}

/// What lies there of backups that nobody committed.
fn unfinished(policy: &Policy, repository: &Repository) -> Result<Unfinished> {
    let mut found = Unfinished::default();
    for address in repository.sources()?.into_iter().filter(|a| a.stack == policy.stack) {
        let source = repository.source(&address);
        let intents = source.intents()?;
        if intents.is_empty() {
            continue;
        }
        let done: BTreeSet<_> = source.commits()?.into_iter().map(|commit| commit.backup).collect();
        for (intent, _) in intents.into_iter().filter(|(intent, _)| !done.contains(&intent.backup))
        {
            let directory = source.key(&layout::data(&intent.backup));
            let objects = repository.store().list(&directory)?;
            found.backups += 1;
            found.objects += objects.len() as u64;
            found.bytes += objects.iter().map(|object| object.size).sum::<u64>();
        }
    }
    Ok(found)
}

/// Whether the repository's encryption is what the policy asks for, and its keys can be opened.
fn check_keys(app: &App, policy: &Policy, name: &str, repository: &Repository) -> Result<String> {
    let config = &policy.repositories[name];
    let Some(encryption) = &config.encryption else {
        if !repository.is_encrypted() {
            return Ok("not encrypted".to_owned());
        }
        if policy.holds_copies_only(name) {
            check_wraps(repository)?;
            return Ok("encrypted copies".to_owned());
        }
        return Err(Error::failed(
            "the repository is encrypted and the policy names no recipients",
        ));
    };
    if !repository.is_encrypted() {
        return Err(Error::failed(
            "the policy asks for encryption and the repository was created without",
        ));
    }
    check_wraps(repository)?;
    let mut note = "encrypted".to_owned();
    if app.writer(config)?.is_none() {
        note.push_str("; no writer identity, so every backup is a full");
    }
    let Some(key) = repository.write_key() else { return Ok(note) };
    match &encryption.repository_key {
        None => note.push_str(&format!(
            "; who can write to it could replace its key: pin `repository_key: {}`",
            key.recipient
        )),
        Some(pinned) if *pinned != key.recipient => {
            return Err(Error::new(
                ErrorKind::Denied,
                format!("its key is {}, and the policy insists on {pinned}", key.recipient),
            )
            .hint("somebody may have replaced the key; after `key rotate`, update the policy"));
        }
        Some(_) => {}
    }
    Ok(note)
}

fn check_wraps(repository: &Repository) -> Result<()> {
    match repository.keys().iter().find(|key| key.wraps.is_empty()) {
        None => Ok(()),
        Some(key) => Err(Error::damaged(format!(
            "the secret half of the repository key {} is gone: nobody can open what is under it",
            key.id
        ))
        .hint(format!("bring keys/{}.age back from a copy or an older version", key.id))),
    }
}

fn print(printer: &Printer, report: &Report) -> Result<()> {
    let rows: Vec<Vec<String>> = report
        .sources
        .iter()
        .map(|line| {
            vec![
                match (line.ready, line.elsewhere) {
                    (true, true) => "elsewhere".into(),
                    (true, false) => "ok".into(),
                    (false, _) => "NOT READY".into(),
                },
                line.source.clone(),
                line.kind.to_owned(),
                line.repository.clone(),
                format::span(line.rpo_seconds),
                format::span(line.rto_seconds),
                line.jobs.join(", "),
            ]
        })
        .collect();
    let left = Align::Left;
    let head = [
        ("", left),
        ("SOURCE", left),
        ("KIND", left),
        ("TO", left),
        ("RPO", Align::Right),
        ("RTO", Align::Right),
        ("JOBS", left),
    ];
    for line in table(&head, &rows) {
        printer.data(line)?;
    }
    for line in
        report.sources.iter().filter(|line| !line.ready || line.elsewhere || printer.is_verbose())
    {
        for note in &line.notes {
            printer.data(format!("  {}: {note}", line.source))?;
        }
    }
    for line in &report.sources {
        for seen in &line.seen {
            printer.data(format!("  {}: {seen}", line.source))?;
        }
        for warning in &line.warnings {
            printer.data(format!("  {}: warning: {warning}", line.source))?;
        }
    }
    if !report.repositories.is_empty() {
        printer.data("")?;
        let rows: Vec<Vec<String>> = report
            .repositories
            .iter()
            .map(|line| {
                vec![
                    if line.ready { "ok".into() } else { "NOT READY".into() },
                    line.repository.clone(),
                    line.place.clone(),
                    if line.ready { line.note.clone() } else { String::new() },
                ]
            })
            .collect();
        let head = [("", left), ("REPOSITORY", left), ("PLACE", left), ("", left)];
        for line in table(&head, &rows) {
            printer.data(line)?;
        }
        for line in report.repositories.iter().filter(|line| line.unfinished.backups > 0) {
            let Unfinished { backups, objects, bytes } = line.unfinished;
            printer.data(format!(
                "  {}: {} unfinished, {} with {}: under way, or for prune to collect",
                line.repository,
                format::count(backups, "backup"),
                format::count(objects, "object"),
                format::size(bytes)
            ))?;
        }
        // An error is too long for a column.
        for line in report.repositories.iter().filter(|line| !line.ready) {
            printer.data(format!("  {}: {}", line.repository, line.note))?;
            for hint in &line.hints {
                printer.data(format!("    hint: {hint}"))?;
            }
        }
    }
    Ok(())
}
