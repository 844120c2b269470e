//! The part of `backstay restore` that gets databases out of a base backup.

use jiff::Timestamp;

use super::restore::Args;
use super::restore_database::{Restore, names_server};
use crate::archive::manifest::Manifest;
use crate::cli::ExitStatus;
use crate::cli::setup::App;
use crate::error::{Error, Result};
use crate::id::SourceAddress;
use crate::policy::SourceSpec;
use crate::run::restore::{
    CLUSTER_KIND, Means, Part, Recovery, Request, Selection, TablespaceChoice, dump_part,
    restore_cluster,
};
use crate::source::postgres::restore::Rename;
use crate::source::postgres::{Settings, Surroundings};

/// Whether databases of a cluster are to go to a server.
pub fn is_meant(to: &str, manifest: &Manifest) -> bool {
    manifest.source_kind == CLUSTER_KIND && names_server(to)
}

/// Recovers the cluster to a place of its own, dumps the databases there, and restores them.
pub fn run(
    app: &App,
    args: &Args,
    at: Option<Timestamp>,
    request: &Request<'_>,
) -> Result<ExitStatus> {
    let manifest = request.manifest;
    let address = manifest.address();
    args.cluster.check_no_directory()?;
    if !args.path.is_empty() {
        return Err(Error::usage("--path picks files, and a server takes databases")
            .hint("--database NAME, and with it --schema or --table"));
    }
    if args.database.database.is_empty() {
        return Err(Error::usage(
            "a cluster goes to a directory, and only databases of it to a server",
        )
        .hint("say which: --database NAME, or OLD=NEW")
        .hint("the whole cluster: --to DIR"));
    }
    let scratch = args.database.scratch.as_deref().ok_or_else(|| {
        Error::usage("the cluster is recovered at a place of its own first, and nothing says where")
            .hint("--scratch DIR, with room for all of it; it is empty afterwards")
    })?;
    let recovery = Recovery {
        goal: args.cluster.goal(at, manifest)?,
        timeline: args.cluster.timeline(),
        ..Recovery::default()
    };
    if request.dry_run {
        return dry_run(app, args, request, scratch, &recovery);
    }
    let roles = roles(app, &address);
    let choose = |there: &[String]| {
        let chosen = args.database.database.iter().map(|text| Rename::parse(text, there));
        chosen.map(|renamed| renamed.map(|renamed| renamed.from)).collect()
    };
    let part = Part {
        choose: &choose,
        means: Means {
            scratch,
            programs: args.database.programs.as_deref(),
            roles: &roles,
            isolated: false,
        },
    };
    let dumped = app
        .display
        .during(&app.cx.reporter, || dump_part(whole(request), &recovery, &part, &app.cx))?;
    app.printer.talk("  recovered, and dumped from there");
    let restore = Restore {
        app,
        args: &args.database,
        request,
        address: &address,
        to: &args.to,
        yes: args.yes,
    };
    restore.run_with(&dumped.dumps)
}

/// The same restore, of everything.
fn whole<'a>(request: &Request<'a>) -> Request<'a> {
    Request {
        source: request.source.clone(),
        keys: request.keys.clone(),
        selection: Selection::default(),
        target: request.target.clone(),
        placement: request.placement.clone(),
        ..*request
    }
}

/// Looks at the way there, and says what would be done.
fn dry_run(
    app: &App,
    args: &Args,
    request: &Request<'_>,
    scratch: &std::path::Path,
    recovery: &Recovery,
) -> Result<ExitStatus> {
    let choice = TablespaceChoice { mapped: Vec::new(), rest: Some(scratch.join("tablespaces")) };
    let looked = Request { target: scratch.join("data"), ..whole(request) };
    let (outcome, plan) = restore_cluster(looked, &choice, recovery, &app.cx)?;
    if app.printer.is_json() {
        app.printer.json(&(&outcome, &plan))?;
    }
    let names = args.database.database.join(", ");
    let size = crate::cli::format::size(outcome.bytes);
    app.printer.talk(format!("would: recover the cluster below {} ({size})", scratch.display()));
    app.printer.talk(format!("would: dump {names} from there, and restore it to {}", args.to));
    Ok(ExitStatus::Done)
}

/// The role that the policy connects as, which the server in the backup knows too.
pub fn roles(app: &App, address: &SourceAddress) -> Vec<String> {
    let user = || {
        if app.repository_url().is_some() {
            return None;
        }
        let set = app.policies_to_read().ok()?;
        let policy = set.policies.iter().find(|policy| policy.stack == address.stack)?;
        let SourceSpec::PostgresCluster(cluster) = &policy.sources.get(&address.source)?.spec
        else {
            return None;
        };
        Some(Settings::resolve(&cluster.connection, &Surroundings::here()).ok()?.user)
    };
    user().into_iter().collect()
}
