//! `backstay diff`

use std::ffi::OsString;

use serde::Serialize;

use super::show;
use crate::archive::entry::EntryType;
use crate::cli::ExitStatus;
use crate::cli::format::{count, size};
use crate::cli::setup::App;
use crate::error::{Error, Result};
use crate::run::diff::{Change, Difference, Differences};
use crate::run::restore::Selection;

/// Show what changed between two backups.
///
/// One line for each path that differs: `+` added, `-` removed, `M` other content, `m` other
/// permissions, owner, time or attributes, `T` another type. With --output json one object a line.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The older backup: its id or the start of it, a source (STACK/SOURCE, or just
    /// SOURCE) for the latest, or SOURCE@ID.
    #[arg(value_name = "A")]
    old: String,

    /// The newer backup.
    #[arg(value_name = "B")]
    new: String,

    /// Only these: paths or patterns; a directory means everything in it.
    #[arg(long, value_name = "PATH")]
    path: Vec<OsString>,
}

#[derive(Serialize)]
struct Line {
    change: Change,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<Vec<u8>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    old: Option<Side>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new: Option<Side>,
}

#[derive(Serialize)]
struct Side {
    r#type: EntryType,
    mode: String,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: (i64, u32),
    sha256: Option<String>,
}

/// Numbers and bytes by kind of change.
#[derive(Default)]
struct Sums {
    added: (u64, u64),
    removed: (u64, u64),
    content: (u64, u64),
    other: u64,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let (old_place, old) = show::find(app, &args.old)?;
    let (new_place, new) = show::find(app, &args.new)?;
    if old.address() != new.address() {
        let message = format!("{} and {} are two sources", old.address(), new.address());
        app.printer.warning(&message);
    }
    let selection = Selection::new(&args.path)?;
    let index = |place: &crate::cli::setup::Opened, manifest| {
        let source =
            place.repository.source(&crate::archive::manifest::Manifest::address(manifest));
        source.index(manifest, &place.keys, &app.cx.reporter)
    };
    let mut sums = Sums::default();
    for difference in Differences::new(index(&old_place, &old)?, index(&new_place, &new)?) {
        let difference = difference?;
        if !selection.contains(difference.path()) {
            continue;
        }
        sums.add(&difference);
        if app.printer.is_json() {
            let line = serde_json::to_string(&line(&difference))
                .map_err(|error| Error::failed("failed to write JSON").with_source(error))?;
            app.printer.data(line)?;
        } else {
            app.printer.data(text(&difference))?;
        }
    }
    app.printer.talk(sums.text());
    Ok(ExitStatus::Done)
}

fn text(difference: &Difference) -> String {
    let sign = match difference.change {
        Change::Added => '+',
        Change::Removed => '-',
        Change::Type => 'T',
        Change::Content => 'M',
        Change::Metadata => 'm',
    };
    format!("{sign} {}", crate::archive::entry::display_path(difference.path()))
}

fn line(difference: &Difference) -> Line {
    let path = difference.path();
    let side = |entry: &crate::archive::entry::Entry| Side {
        r#type: entry.kind,
        mode: format!("{:04o}", entry.mode),
        uid: entry.uid,
        gid: entry.gid,
        size: entry.size,
        mtime: entry.mtime,
        sha256: entry.sha256.map(hex::encode),
    };
    Line {
        change: difference.change,
        path: crate::archive::entry::display_path(path),
        path_bytes: std::str::from_utf8(path).is_err().then(|| path.to_vec()),
        old: difference.old.as_ref().map(side),
        new: difference.new.as_ref().map(side),
    }
}

impl Sums {
    fn add(&mut self, difference: &Difference) {
        let entry = difference.new.as_ref().or(difference.old.as_ref());
        let bytes = entry.map_or(0, |entry| entry.size);
        let sum = match difference.change {
            Change::Added => &mut self.added,
            Change::Removed => &mut self.removed,
            Change::Content => &mut self.content,
            Change::Type | Change::Metadata => {
                self.other += 1;
                return;
            }
        };
        sum.0 += 1;
        sum.1 = sum.1.saturating_add(bytes);
    }

    fn text(&self) -> String {
        let part = |(number, bytes): (u64, u64), what: &str| {
            format!("{} {what} ({})", count(number, "entry"), size(bytes))
        };
        format!(
            "{}, {}, {}, {} otherwise",
            part(self.added, "added"),
            part(self.removed, "removed"),
            part(self.content, "with other content"),
            self.other
        )
    }
}
