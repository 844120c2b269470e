//! `backstay ls`

use std::ffi::OsString;

use serde::Serialize;

use super::show;
use crate::archive::entry::{Entry, EntryType, display_path};
use crate::cli::ExitStatus;
use crate::cli::setup::App;
use crate::error::{Error, Result};
use crate::run::restore::Selection;

/// List the files in a backup.
///
/// Names are escaped where they hold control characters or are not UTF-8; paths and patterns may be
/// given as they are shown. With --output json one object a line.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A backup: its id or the start of it, a source (STACK/SOURCE, or just
    /// SOURCE) for the latest, or SOURCE@ID.
    #[arg(value_name = "ID")]
    backup: String,

    /// Only these: paths or patterns; a directory means everything in it.
    paths: Vec<OsString>,

    /// Show type, permissions, owner, size and time too.
    #[arg(long, short)]
    long: bool,

    /// Only files that changed while they were read: what is stored of them may be torn.
    #[arg(long)]
    changed: bool,
}

/// Follows the name of a file that changed while it was read.
const TORN: &str = "  (changed while it was read)";

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
    #[serde(skip_serializing_if = "Option::is_none")]
    target_bytes: Option<&'a [u8]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<(u32, u32)>,
    /// It changed while it was read.
    changed: bool,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let (opened, manifest) = show::find(app, &args.backup)?;
    let selection = Selection::new(&args.paths)?;
    let source = opened.repository.source(&manifest.address());
    let mut found = false;
    for entry in source.index(&manifest, &opened.keys, &app.cx.reporter)? {
        let entry = entry?;
        if !selection.contains(&entry.path) || args.changed && !entry.changed {
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
            let torn = if entry.changed { TORN } else { "" };
            app.printer.data(format!("{}{torn}", entry.display_path()))?;
        }
    }
    if !found && !selection.is_all() {
        let error = Error::not_found(format!(
            "nothing in {} matches {}",
            manifest.backup,
            selection.patterns().join(", ")
        ));
        return Err(selection.hints().fold(error, Error::hint));
    }
    Ok(ExitStatus::Done)
}

fn line(entry: &Entry) -> Line<'_> {
    let target = entry.target.as_deref().or(entry.hardlink.as_deref());
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
        target: target.map(display_path),
        target_bytes: target.filter(|target| std::str::from_utf8(target).is_err()),
        device: entry.rdev,
        changed: entry.changed,
        bad_pages: &entry.bad_pages,
    }
}

fn long(entry: &Entry) -> String {
    let letter = match entry.kind {
        // The content of a stream is a file's, wherever it is restored to.
        EntryType::File | EntryType::Hardlink | EntryType::Stream => '-',
        EntryType::Dir => 'd',
        EntryType::Symlink => 'l',
        EntryType::Char => 'c',
        EntryType::Block => 'b',
    };
    let owner =
        |name: &Option<String>, number: u32| name.clone().unwrap_or_else(|| number.to_string());
    let at = jiff::Timestamp::from_second(entry.mtime.0)
        .map_or_else(|_| entry.mtime.0.to_string(), crate::cli::format::time);
    let size = match entry.rdev {
        Some((major, minor)) => format!("{major}, {minor}"),
        None => entry.size.to_string(),
    };
    let mut text = format!(
        "{letter}{} {:<8} {:<8} {size:>12} {at} {}",
        permissions(entry.mode),
        owner(&entry.user, entry.uid),
        owner(&entry.group, entry.gid),
        entry.display_path()
    );
    if let Some(target) = &entry.target {
        text.push_str(&format!(" -> {}", display_path(target)));
    }
    if let Some(leader) = &entry.hardlink {
        text.push_str(&format!(" = {}", display_path(leader)));
    }
    if entry.changed {
        text.push_str(TORN);
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
