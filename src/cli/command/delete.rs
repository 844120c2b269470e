//! `backstay delete`

use std::collections::BTreeSet;

use crate::cli::ExitStatus;
use crate::cli::setup::App;
use crate::cli::{confirm, format};
use crate::error::Result;
use crate::run::prune::{self as runner, Expiry};

/// Delete one backup, whatever its keep rule says.
///
/// It is no longer listed from then on. What only it needed is announced, and deleted by a prune
/// after the grace period. A pinned backup is refused, and so is the newest one of a source that
/// can be restored, unless --last says that the source is gone for good.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A backup: its id or the start of it, a source (STACK/SOURCE, or just
    /// SOURCE) for the latest, or SOURCE@ID.
    #[arg(value_name = "ID")]
    backup: String,

    /// Delete it even if it is the newest of its source that can be restored.
    #[arg(long)]
    last: bool,

    /// Say what would go, and delete nothing.
    #[arg(long)]
    dry_run: bool,

    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let (found, manifest) = super::show::find(app, &args.backup)?;
    let address = manifest.address();
    let (set, opened) = if app.repository_url().is_some() {
        (None, found)
    } else {
        let set = app.policies_to_read()?;
        let opened = app.open_for_pruning(app.policy_of(&set, &address)?, &found.name)?;
        (Some(set), opened)
    };
    let expiry =
        || Expiry::These { backups: BTreeSet::from([manifest.backup.clone()]), last: args.last };
    let with = |work: &dyn Fn(&runner::Request<'_>) -> Result<()>| {
        super::prune::request_with(app, set.as_ref(), &opened, &address, expiry(), work)
    };
    with(&|request| {
        let plan = runner::plan(&opened.repository, request, &app.cx.fresh())?;
        if args.dry_run && app.printer.is_json() {
            return app.printer.json(&plan);
        }
        if args.dry_run {
            return super::prune::tell_plan(app, &opened, &plan);
        }
        let what = format!(
            "{}@{} in {} ({}, {}) is deleted",
            address,
            manifest.backup,
            opened.name,
            format::time(manifest.end),
            format::size(manifest.counts.bytes)
        );
        confirm::type_name(app, &what, manifest.backup.as_str(), args.yes)?;
        let outcome = runner::prune(&opened.repository, request, &app.cx.fresh())?;
        if app.printer.is_json() {
            return app.printer.json(&outcome);
        }
        app.printer.talk(super::prune::summary(&outcome));
        if outcome.locked.contains(&manifest.backup) {
            app.printer.warning(&format!(
                "{} is still there: object lock keeps it; `prune --dry-run` shows how long",
                manifest.backup
            ));
        } else if outcome.expired.is_empty() {
            app.printer.warning(&format!(
                "{} is still there: somebody reads it or builds on it",
                manifest.backup
            ));
        }
        Ok(())
    })?;
    Ok(ExitStatus::Done)
}
