//! `backstay find`

use std::ffi::OsString;

use serde::Serialize;

use crate::cli::ExitStatus;
use crate::cli::format;
use crate::cli::names::Names;
use crate::cli::setup::{App, Opened};
use crate::error::{Error, Result};
use crate::id::SourceAddress;
use crate::run::find::{self as runner, Found, Version};
use crate::run::list_backups;
use crate::run::restore::Selection;

/// Find which backups have a path.
///
/// Each path that matches is shown with its versions, oldest first. With --output json one object
/// a line. Where nothing matches, the exit code is 1.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Paths or patterns; a directory means everything in it.
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<OsString>,

    /// Only these sources: STACK/SOURCE, a SOURCE, or a STACK. May be given several times.
    #[arg(long, value_name = "SOURCE")]
    source: Vec<String>,
}

#[derive(Serialize)]
struct Line<'a> {
    repository: &'a str,
    source: String,
    #[serde(flatten)]
    found: &'a Found,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let selection = Selection::new(&args.paths)?;
    let mut found = 0u64;
    let repositories = app.repositories()?;
    let mut names = Names::new(app, &args.source);
    repositories.iter().try_for_each(|opened| names.add(&opened.repository))?;
    names.check()?;
    if args.source.is_empty() {
        app.miss_broken();
    }
    for opened in repositories {
        for address in opened.repository.sources()? {
            let own = opened.stack.as_ref().is_none_or(|stack| *stack == address.stack);
            if own && address.is_named_by(&args.source) {
                found += one(app, &opened, &address, &selection)?;
            }
        }
    }
    if found == 0 {
        let error = Error::not_found(format!("no backup has {}", selection.patterns().join(", ")));
        let error = selection.hints().fold(error, Error::hint);
        return Err(error.hint("patterns match whole paths: `**/NAME` looks in every directory"));
    }
    Ok(ExitStatus::Done)
}

fn one(app: &App, opened: &Opened, address: &SourceAddress, selection: &Selection) -> Result<u64> {
    let mut backups = Vec::new();
    for listing in list_backups(&opened.repository, &|other| other == address)? {
        match listing.manifest {
            Ok(manifest) => backups.push(manifest),
            Err(error) => {
                app.printer.warning(&format!(
                    "{} is left out: {}",
                    listing.commit.backup,
                    error.chain()
                ));
            }
        }
    }
    let source = opened.repository.source(address);
    let cx = app.cx.fresh();
    let mut found = 0;
    let mut tell = |one: &Found| {
        found += 1;
        app.display.clear();
        if app.printer.is_json() {
            let line = Line { repository: &opened.name, source: address.to_string(), found: one };
            let text = serde_json::to_string(&line)
                .map_err(|error| Error::failed("failed to write JSON").with_source(error))?;
            return app.printer.data(text);
        }
        app.printer.data(format!("{address}: {}", one.path))?;
        one.versions.iter().try_for_each(|version| app.printer.data(text(version)))
    };
    app.display.during(&cx.reporter, || {
        runner::find(&source, &backups, selection, &opened.keys, &cx, &mut tell)
    })?;
    Ok(found)
}

fn text(version: &Version) -> String {
    let state = &version.state;
    let at = jiff::Timestamp::from_second(state.mtime.0)
        .map_or_else(|_| state.mtime.0.to_string(), format::time);
    let backups = if version.backups == 1 {
        version.first.to_string()
    } else {
        format!("{} … {} ({} backups)", version.first, version.last, version.backups)
    };
    let target = state.target.as_ref().map(|target| format!(" -> {target}")).unwrap_or_default();
    format!("  {:>9}  changed {at}  {backups}{target}", format::size(state.size))
}
