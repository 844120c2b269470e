//! The part of `backstay restore` that puts snapshots back into a StarRocks cluster.

use serde::Serialize;

use crate::cli::setup::App;
use crate::cli::{ExitStatus, confirm, format};
use crate::error::{Error, Result};
use crate::id::SourceAddress;
use crate::policy::{SourceSpec, StarRocks};
use crate::run::restore::{BackupFiles, Request, kept_grants, kept_listing, kept_views};
use crate::source::SnapshotPlace;
use crate::source::starrocks::restore::{Done, Names, Options, Restored, Restoring};
use crate::store::SnapshotStore;

/// The kind of source this is for.
pub const KIND: &str = "starrocks";
/// The target that means the policy's own cluster.
const OWN_SERVER: &str = "server";

/// Options for snapshots of StarRocks.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Snapshots of StarRocks, into its cluster")]
pub struct StarRocksArgs {
    /// Make views and materialized views anew, once everything has its own name.
    #[arg(long)]
    views: bool,

    /// Make roles and give rights as they were. Users are not made: nobody knows their passwords.
    #[arg(long)]
    grants: bool,

    /// Into the cluster of this other source of the stack, such as that of the standby; into the
    /// source's own if left out.
    #[arg(long, value_name = "SOURCE")]
    into: Option<String>,
}

impl StarRocksArgs {
    /// Refuses options that mean nothing for anything else.
    pub fn check_unused(&self) -> Result<()> {
        let used =
            [("--views", self.views), ("--grants", self.grants), ("--into", self.into.is_some())];
        match used.iter().find(|(_, used)| *used) {
            None => Ok(()),
            Some((option, _)) => {
                Err(Error::usage(format!("{option} goes with --to server, of a StarRocks source")))
            }
        }
    }
}

/// Whether the cluster is meant, and no directory.
pub fn is_meant(to: &str, kind: &str) -> bool {
    kind == KIND && to == OWN_SERVER
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
    starrocks: Option<&'a Done>,
}

/// Plans, asks where something is replaced, restores, compares.
pub fn run(
    app: &App,
    args: &StarRocksArgs,
    mut options: Options,
    yes: bool,
    address: &SourceAddress,
    request: &Request<'_>,
) -> Result<ExitStatus> {
    let config = of_policy(app, address, args.into.as_deref())?;
    let files = BackupFiles::open(request, &app.cx)?;
    let listing = kept_listing(&files)?;
    if args.views {
        options.views = kept_views(&files, &listing)?;
    }
    if args.grants {
        options.grants = kept_grants(&files)?;
    }
    let mut cx = app.cx.for_source();
    cx.snapshots = Some(SnapshotPlace {
        store: SnapshotStore::of(&request.source),
        address: address.clone(),
        backup: None,
    });
    let stamp = app.cx.clock.now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let taken = (request.manifest, &listing);
    let restoring = Restoring::prepare(&config, &cx, taken, &options, &Names::at(&stamp))?;
    let lines = restoring.describe();
    if request.dry_run {
        report(app, address, request, lines.clone(), None)?;
        for line in lines {
            app.printer.talk(format!("would: {line}"));
        }
        return Ok(ExitStatus::Done);
    }
    for line in &lines {
        app.printer.talk(format!("  {line}"));
    }
    for (live, aside) in restoring.replaced() {
        let what =
            format!("`{live}` is renamed to `{aside}`, and what was restored takes its name");
        confirm::type_name(app, &what, live, yes)?;
    }
    let done = app.display.during(&app.cx.reporter, || restoring.run())?;
    report(app, address, request, Vec::new(), Some(&done))?;
    conclude(app, &done)
}

fn of_policy(app: &App, address: &SourceAddress, into: Option<&str>) -> Result<StarRocks> {
    let none = || {
        Error::usage(format!("there is no policy that names the cluster of {address}"))
            .hint("restore with the policy of the site that is restored to")
            .hint("a directory of this name: ./server")
    };
    if app.repository_url().is_some() {
        return Err(none());
    }
    let set = app.policies_to_read()?;
    let policy = set.policies.iter().find(|policy| policy.stack == address.stack);
    let of = |name: &str| policy.and_then(|policy| policy.sources.get(name)).map(|one| &one.spec);
    match (of(into.unwrap_or(&address.source)), into) {
        (Some(SourceSpec::StarRocks(config)), _) => Ok(config.clone()),
        (_, Some(into)) => {
            let known =
                policy.iter().flat_map(|policy| &policy.sources).filter_map(|(name, one)| {
                    matches!(one.spec, SourceSpec::StarRocks(_)).then_some(name.as_str())
                });
            Err(Error::usage(format!(
                "`{into}` is no source of StarRocks in stack {}",
                address.stack
            ))
            .hint(crate::policy::hint_at(into, known)))
        }
        _ => Err(none()),
    }
}

fn report(
    app: &App,
    address: &SourceAddress,
    request: &Request<'_>,
    plan: Vec<String>,
    done: Option<&Done>,
) -> Result<()> {
    if !app.printer.is_json() {
        return Ok(());
    }
    app.printer.json(&Report {
        source: address.to_string(),
        backup: request.manifest.backup.as_str(),
        target: OWN_SERVER,
        dry_run: request.dry_run,
        plan,
        starrocks: done,
    })
}

fn conclude(app: &App, done: &Done) -> Result<ExitStatus> {
    let printer = &app.printer;
    for restored in &done.databases {
        printer.talk(summary(restored));
        for dropped in &restored.dropped {
            printer.talk(format!("  dropped {dropped}, which the backup does not have"));
        }
        if !restored.dynamic.is_empty() {
            printer.warning(&format!(
                "StarRocks no longer makes and drops partitions of {} by itself: {}",
                format::count(restored.dynamic.len() as u64, "table"),
                restored.dynamic.join(", ")
            ));
            printer.hint(
                "turn `dynamic_partition.enable` on again where old partitions may be dropped",
            );
        }
        if let Some(aside) = &restored.aside {
            printer.talk(format!(
                "  `{aside}` is what was in use before; when nobody misses it: DROP DATABASE `{aside}`"
            ));
        }
        for table in restored.differing() {
            printer.warning(&format!(
                "{}: {} rows in the backup, {} here",
                table.table,
                table.recorded.unwrap_or_default(),
                table.found
            ));
        }
    }
    if !done.views.is_empty() {
        printer.talk(format!("made {} anew", format::count(done.views.len() as u64, "view")));
    }
    if done.grants > 0 {
        printer.talk(format!("gave rights by {}", format::count(done.grants as u64, "statement")));
    }
    for refused in &done.refused {
        printer.warning(&format!("StarRocks refused {refused}"));
    }
    let differ: usize = done.databases.iter().map(|one| one.differing().count()).sum();
    if differ == 0 {
        return Ok(ExitStatus::Done);
    }
    Err(Error::damaged(format!(
        "{} not as recorded in the backup",
        if differ == 1 { "1 table is".to_owned() } else { format!("{differ} tables are") }
    ))
    .hint("what was restored is left there; nothing was swapped"))
}

fn summary(restored: &Restored) -> String {
    let known = restored.tables.iter().filter(|table| table.recorded.is_some());
    let equal = known.filter(|table| !table.differs());
    let (tables, rows) = equal.fold((0, 0), |(tables, rows), one| (tables + 1, rows + one.found));
    let mut text = format!("restored `{}`", restored.from);
    if restored.from != restored.to {
        text.push_str(&format!(" as `{}`", restored.to));
    }
    text.push_str(&format!(
        " in {}: {}; {} in {} as in the backup",
        format::seconds(restored.seconds),
        format::count(restored.tables.len() as u64, "table"),
        format::count(rows, "row"),
        format::count(tables, "table"),
    ));
    text
}
