//! The part of `backstay restore` that puts a `SQLite` database where it belongs.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::archive::manifest::Manifest;
use crate::cli::setup::App;
use crate::cli::{ExitStatus, confirm, format};
use crate::error::{Error, Result};
use crate::run::restore::{BackupFiles, Request};
use crate::source::StoredFiles as _;
use crate::source::directory::extract::Existing;
use crate::source::sqlite::{KIND, Placed, Placing, facts_path};

#[derive(Serialize)]
struct Report<'a> {
    source: String,
    backup: &'a str,
    target: &'a Path,
    dry_run: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    sqlite: Option<&'a Placed>,
    fetched: u64,
}

/// Whether a database is meant, and not the files of its backup.
pub fn is_meant(to: &str, manifest: &Manifest, as_files: bool) -> bool {
    manifest.source_kind == KIND && to != "-" && !as_files
}

/// As files a database may be looked at, and never put in the place of one: nobody would look
/// whether that is open.
pub fn refuse_pieces(manifest: &Manifest, request: &Request<'_>, whole: bool) -> Result<()> {
    if manifest.source_kind == KIND && request.existing != Existing::Refuse && !whole {
        return Err(Error::usage("--path does not replace a SQLite database")
            .hint("leave --path away: the database is checked, and the old one kept"));
    }
    Ok(())
}

/// Looks, asks where something is replaced, restores, checks.
pub fn run(app: &App, to: &str, yes: bool, request: &Request<'_>) -> Result<ExitStatus> {
    let files = BackupFiles::open(request, &app.cx)?;
    let described = |path: &&String| {
        let facts = facts_path(path.as_bytes());
        files.paths().iter().any(|other| other.as_bytes() == facts)
    };
    let path =
        files.paths().iter().find(described).ok_or_else(|| {
            Error::damaged(format!("{} has no database", request.manifest.backup))
        })?;
    let target = Path::new(to);
    let target =
        if target.is_dir() || to.ends_with('/') { target.join(path) } else { PathBuf::from(to) };
    let stamp = app.cx.clock.now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let replace = request.existing != Existing::Refuse;
    let placing = Placing::prepare(&target, replace, &stamp)?;
    let size = files.entry(path).map_or(0, |entry| entry.size);
    if request.dry_run {
        app.printer.talk(format!(
            "would write {} to {}",
            format::size(size),
            placing.target().display()
        ));
        for old in placing.existing() {
            app.printer.talk(format!("would: give {} another name", old.display()));
        }
        report(app, request, &target, None)?;
        return Ok(ExitStatus::Done);
    }
    if !placing.existing().is_empty() {
        let name = placing.target().display().to_string();
        let what = format!("{name} gets another name, and the restored database takes its place");
        confirm::type_name(app, &what, &name, yes)?;
    }
    let entry = files.entry(path).cloned();
    let entry = entry.ok_or_else(|| Error::damaged(format!("the backup has no `{path}`")))?;
    let placed = app.display.during(&app.cx.reporter, || {
        let mut content = files.open(path)?;
        placing.put(&mut content, &entry, request.numeric_owner, &app.cx.reporter)
    })?;
    report(app, request, &target, Some(&placed))?;
    app.printer.talk(format!(
        "restored {} to {}",
        format::size(placed.bytes),
        placed.path.display()
    ));
    for (old, new) in &placed.aside {
        app.printer.talk(format!("  {} is now {}", old.display(), new.display()));
    }
    if placed.integrity.is_empty() {
        app.printer.talk("  integrity_check found nothing wrong");
        return Ok(ExitStatus::Done);
    }
    for line in placed.integrity.iter().take(20) {
        app.printer.warning(line);
    }
    Err(Error::damaged(format!(
        "{} was restored as it was backed up, and integrity_check finds {} things wrong in it",
        placed.path.display(),
        placed.integrity.len()
    ))
    .hint("look for an older backup; `sqlite3 FILE .recover` saves what can be read"))
}

fn report(app: &App, request: &Request<'_>, target: &Path, placed: Option<&Placed>) -> Result<()> {
    if !app.printer.is_json() {
        return Ok(());
    }
    app.printer.json(&Report {
        source: request.manifest.address().to_string(),
        backup: request.manifest.backup.as_str(),
        target,
        dry_run: request.dry_run,
        sqlite: placed,
        fetched: app.cx.reporter.progress().snapshot().stored_bytes,
    })
}
