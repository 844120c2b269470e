//! `backstay ls`

use serde::Serialize;

use super::show;
use crate::archive::entry::{Entry, EntryType, display_path};
use crate::cli::ExitStatus;
use crate::cli::setup::App;
use crate::error::{Error, Result};
use crate::run::restore::Selection;

/// List the files in a backup.
///
/// Names are escaped where they hold control characters or are not UTF-8.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A backup: its id or the start of it, STACK/SOURCE for the latest, or STACK/SOURCE@ID.
    #[arg(value_name = "ID")]
    backup: String,

    /// Only these: paths or patterns; a directory means everything in it.
    paths: Vec<String>,

    /// Show type, permissions, owner, size and time too.
    #[arg(long, short)]
    long: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<&'a [u8]>,
    r#type: EntryType,
    mode: String,
    uid: u32,
    gid: u32,
    user: Option<&'a str>,
    group: Option<&'a str>,
    size: u64,
    mtime: (i64, u32),
    sha256: Option<String>,
    target: Option<String>,
    #[serde(skip_serializing_if = "<[u32]>::is_empty")]
    bad_pages: &'a [u32],
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let (opened, manifest) = show::find(app, &args.backup)?;
    let selection = Selection::new(&args.paths)?;
    let source = opened.repository.source(&manifest.address());
    let mut found = false;
    for entry in source.index(&manifest, &opened.keys, &app.cx.reporter)? {
        let entry = entry?;
        if !selection.contains(&entry.path) {
            continue;
        }
        found = true;
        if app.printer.is_json() {
            // One object a line: a listing may be longer than memory.
            let line = serde_json::to_string(&line(&entry))
                .map_err(|error| Error::failed("failed to write JSON").with_source(error))?;
            app.printer.data(line)?;
        } else if args.long {
            app.printer.data(long(&entry))?;
        } else {
            app.printer.data(entry.display_path())?;
        }
    }
    if !found && !selection.is_all() {
        return Err(Error::not_found(format!(
            "nothing in {} matches {}",
            manifest.backup,
            args.paths.join(", ")
        )));
    }
    Ok(ExitStatus::Done)
}

fn line(entry: &Entry) -> Line<'_> {
    Line {
        path: entry.display_path(),
        path_bytes: std::str::from_utf8(&entry.path).is_err().then_some(&entry.path),
        r#type: entry.kind,
        mode: format!("{:04o}", entry.mode),
        uid: entry.uid,
        gid: entry.gid,
        user: entry.user.as_deref(),
        group: entry.group.as_deref(),
        size: entry.size,
        mtime: entry.mtime,
        sha256: entry.sha256.map(hex::encode),
        target: entry.target.as_deref().or(entry.hardlink.as_deref()).map(display_path),
        bad_pages: &entry.bad_pages,
    }
}

fn long(entry: &Entry) -> String {
    let letter = match entry.kind {
        EntryType::File | EntryType::Hardlink => '-',
        EntryType::Dir => 'd',
        EntryType::Symlink => 'l',
        EntryType::Char => 'c',
        EntryType::Block => 'b',
        EntryType::Stream => 's',
    };
    let owner =
        |name: &Option<String>, number: u32| name.clone().unwrap_or_else(|| number.to_string());
    let at = jiff::Timestamp::from_second(entry.mtime.0)
        .map_or_else(|_| entry.mtime.0.to_string(), crate::cli::format::time);
    let mut text = format!(
        "{letter}{} {:<8} {:<8} {:>12} {at} {}",
        permissions(entry.mode),
        owner(&entry.user, entry.uid),
        owner(&entry.group, entry.gid),
        entry.size,
        entry.display_path()
    );
    if let Some(target) = &entry.target {
        text.push_str(&format!(" -> {}", display_path(target)));
    }
    if let Some(leader) = &entry.hardlink {
        text.push_str(&format!(" = {}", display_path(leader)));
    }
    text
}

fn permissions(mode: u32) -> String {
    let mut text = String::with_capacity(9);
    for (shift, special, set) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => set,
            (false, true) => set.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}
