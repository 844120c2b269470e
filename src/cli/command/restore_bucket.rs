//! The part of `backstay restore` that puts objects back into a bucket.

use std::ffi::OsString;

use serde::Serialize;

use crate::archive::manifest::Manifest;
use crate::cli::setup::App;
use crate::cli::{ExitStatus, confirm, format};
use crate::error::{Error, ErrorKind, Result};
use crate::policy::SourceSpec;
use crate::run::restore::{Request, RestoredObjects, Ways, restore_objects};
use crate::source::bucket::{KIND, OBJECTS, VERSIONS};
use crate::source::directory::extract::Existing;
use crate::store::{Location, Objects};

/// The target that means the policy's own bucket.
const OWN_BUCKET: &str = "bucket";

/// Whether a bucket is meant, and can be.
pub fn is_meant(to: &str, manifest: &Manifest) -> bool {
    manifest.source_kind == KIND && (to == OWN_BUCKET || to.starts_with("s3://"))
}

/// Patterns are those of keys.
pub fn paths(given: Vec<OsString>, manifest: &Manifest) -> Vec<OsString> {
    if manifest.source_kind != KIND {
        return given;
    }
    let below = |pattern: OsString| {
        let text = pattern.to_string_lossy();
        let own = [OBJECTS, VERSIONS].iter().any(|top| {
            text.strip_prefix(*top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        if text == "bucket.json" || own {
            return pattern;
        }
        let mut path = OsString::from(format!("{OBJECTS}/"));
        path.push(&pattern);
        path
    };
    given.into_iter().map(below).collect()
}

#[derive(Serialize)]
struct Report<'a> {
    source: String,
    backup: &'a str,
    target: &'a str,
    dry_run: bool,
    bucket: &'a RestoredObjects,
    fetched: u64,
}

/// Options for buckets.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Buckets, into a bucket")]
pub struct BucketArgs {
    /// Also what lies behind the objects: older versions, and marks that something was deleted, into a
    /// bucket that keeps versions. They get new ids and times.
    #[arg(long)]
    versions: bool,
}

impl BucketArgs {
    /// Refuses options that mean nothing for anything else.
    pub fn check_unused(&self) -> Result<()> {
        if self.versions {
            return Err(Error::usage("--versions goes with --to bucket or s3://…, of a bucket"));
        }
        Ok(())
    }
}

/// Asks where something may be replaced, restores.
pub fn run(
    app: &App,
    args: &BucketArgs,
    to: &str,
    yes: bool,
    request: &Request<'_>,
) -> Result<ExitStatus> {
    let replace = match request.existing {
        Existing::Refuse => false,
        Existing::Overwrite => true,
        Existing::Delta => return Err(Error::usage("--delta is for directories")),
    };
    let location = if to == OWN_BUCKET { own(app, request)? } else { Location::parse(to)? };
    let objects = Objects::open(&location)?;
    if replace && !request.dry_run {
        let name = objects.name().to_owned();
        confirm::type_name(app, &format!("objects in {name} are replaced"), &name, yes)?;
    }
    let ways = Ways { replace, versions: args.versions };
    let restored = app
        .display
        .during(&app.cx.reporter, || restore_objects(request, &objects, ways, &app.cx))?;
    if app.printer.is_json() {
        app.printer.json(&Report {
            source: request.manifest.address().to_string(),
            backup: request.manifest.backup.as_str(),
            target: objects.name(),
            dry_run: request.dry_run,
            bucket: &restored,
            fetched: app.cx.reporter.progress().snapshot().stored_bytes,
        })?;
    }
    let what = if request.dry_run { "would restore" } else { "restored" };
    app.printer.talk(format!(
        "{what} {} in {}{} to {}",
        format::size(restored.bytes),
        format::count(restored.objects, "object"),
        if restored.versions > 0 {
            format!(" and {} behind them", format::count(restored.versions, "version"))
        } else {
            String::new()
        },
        objects.name()
    ));
    conclude(app, &restored)
}

fn conclude(app: &App, restored: &RestoredObjects) -> Result<ExitStatus> {
    for finding in restored.failed.first.iter().take(20) {
        app.printer.warning(&format!("not restored: `{}`: {}", finding.path, finding.message));
    }
    if restored.failed.count > 0 {
        let message = format!(
            "{} not restored; everything else was",
            format::count(restored.failed.count, "object")
        );
        return Err(if restored.failed.damage {
            Error::damaged(message)
                .hint("`backstay verify --depth content` tells what is damaged; look for a copy or an older backup")
        } else {
            Error::failed(message)
        });
    }
    if let Some(example) = &restored.existing_example {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "{} exist and were left as they are, such as `{example}`",
                format::count(restored.existing, "object")
            ),
        )
        .hint("everything else was restored; to replace them: --overwrite, or restore to another prefix"));
    }
    Ok(ExitStatus::Done)
}

/// The bucket that the policy names.
fn own(app: &App, request: &Request<'_>) -> Result<Location> {
    let address = request.manifest.address();
    let missing = || {
        Error::usage(format!("there is no policy that names the bucket of {address}")).hint(
            "give it: --to 's3://BUCKET/PREFIX?endpoint=URL', with credentials in the environment",
        )
    };
    if app.repository_url().is_some() {
        return Err(missing());
    }
    let set = app.policies_to_read()?;
    let policy = set.policies.iter().find(|policy| policy.stack == address.stack);
    let definition = policy.and_then(|policy| policy.sources.get(&address.source));
    match definition.map(|definition| &definition.spec) {
        Some(SourceSpec::Bucket(bucket)) => Location::of_s3(&bucket.s3),
        _ => Err(missing()),
    }
}
