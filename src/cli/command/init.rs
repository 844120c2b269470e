//! `backstay init`

use serde::Serialize;

use crate::archive::crypt::Recipients;
use crate::cli::ExitStatus;
use crate::cli::setup::App;
use crate::error::{Error, ErrorKind, Result};
use crate::policy::{self, Policy};
use crate::store::{InitOptions, Probe, Repository, Store, Verdict};

/// Create and probe repositories.
///
/// Without names all repositories of all policies are created; those that exist are left as they
/// are. The store is probed first: one that accepts two creates of the same key, or does not list
/// what it took, is refused.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Repositories, by their name in the policy.
    names: Vec<String>,

    /// Take a store that failed a probe. The repository is marked as such.
    #[arg(long)]
    accept_weak_store: bool,

    /// With --repository URL: who can open the repository (age1…). May be given several times.
    #[arg(long, value_name = "AGE-KEY")]
    recipient: Vec<String>,

    /// With --repository URL: do not encrypt.
    #[arg(long, conflicts_with = "recipient")]
    no_encryption: bool,

    /// Probe, and create nothing.
    #[arg(long)]
    dry_run: bool,
}

/// What became of one repository.
#[derive(Serialize)]
pub struct Line {
    repository: String,
    place: String,
    created: bool,
    encrypted: bool,
    weak_store: bool,
    probe: Probe,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let mut lines = Vec::new();
    if let Some(url) = app.repository_url() {
        if args.recipient.is_empty() && !args.no_encryption {
            return Err(Error::usage("who shall be able to open the repository?").hint(
                "give --recipient age1… (`backstay key generate` makes a key), or --no-encryption",
            ));
        }
        let recipients = Recipients::parse(&args.recipient)
            .map_err(|error| error.with_kind(ErrorKind::Usage))?;
        if let Some(store) = connected(app, args, url, app.connect_url(url, !args.dry_run))? {
            lines.push(create(app, args, url, &store, recipients)?);
        }
    } else {
        let set = app.policies(true)?;
        let mut named_any = false;
        for policy in &set.policies {
            for (name, config) in &policy.repositories {
                let named = args.names.is_empty() || args.names.contains(name);
                if !named || !app.wants_repository(name) {
                    continue;
                }
                let recipients = match &config.encryption {
                    Some(encryption) => Recipients::parse(&encryption.recipients)?,
                    None => Recipients::default(),
                };
                named_any = true;
                if config.encryption.is_none() && policy.holds_copies_only(name) {
                    // Copies stay as they are: it gets the keys of what is copied there.
                    lines.extend(create_for_copies(app, args, policy, name, config)?);
                    continue;
                }
                let label = format!("{}: {name}", policy.stack);
                let store = app.connect(config, !args.dry_run);
                if let Some(store) = connected(app, args, &label, store)? {
                    check_pin(&label, config, &store)?;
                    lines.push(create(app, args, &label, &store, recipients)?);
                }
            }
        }
        if !named_any {
            let known = set.policies.iter().flat_map(|policy| policy.repositories.keys());
            let wanted = args.names.first().or(app.global.repository.as_ref());
            let wanted = wanted.map(String::as_str).unwrap_or_default();
            return Err(Error::usage(format!("there is no repository `{wanted}` in the policies"))
                .hint(crate::policy::hint_at(wanted, known.map(String::as_str))));
        }
    }
    if app.printer.is_json() {
        app.printer.json(&lines)?;
    }
    Ok(ExitStatus::Done)
}

/// A key that is pinned before it exists cannot be that of a new repository.
fn check_pin(label: &str, config: &policy::Repository, store: &Store) -> Result<()> {
    let pinned = config.encryption.as_ref().and_then(|e| e.repository_key.as_ref());
    let Some(pinned) = pinned else { return Ok(()) };
    match Repository::open(store) {
        Ok(repository) if repository.keys().iter().any(|key| key.recipient == *pinned) => Ok(()),
        Ok(_) => Err(Error::new(
            ErrorKind::Denied,
            format!("{label}: the repository in {} has not the key {pinned}", store.name()),
        )
        .hint("somebody may have replaced it, or this is another repository")),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::new(
            ErrorKind::Conflict,
            format!("{label}: there is no repository in {} with the key {pinned}", store.name()),
        )
        .hint(
            "a new repository gets a new key: remove `repository_key` first, and pin the new one",
        )),
        Err(error) => Err(error),
    }
}

/// Creates a repository that holds copies of the policy's first one.
fn create_for_copies(
    app: &App,
    args: &Args,
    policy: &Policy,
    name: &str,
    config: &policy::Repository,
) -> Result<Option<Line>> {
    let label = format!("{}: {name}", policy.stack);
    let Some(store) = connected(app, args, &label, app.connect(config, !args.dry_run))? else {
        return Ok(None);
    };
    let (origin, origin_config) = policy
        .default_repository()
        .ok_or_else(|| Error::usage(format!("stack {} has no repository", policy.stack)))?;
    let origin = match Repository::open(&app.connect(origin_config, false)?) {
        Err(error) if args.dry_run && error.kind() == ErrorKind::NotFound => {
            app.printer.talk(format!("{label}: would create a repository for copies of {origin}"));
            return Ok(None);
        }
        opened => opened.map_err(|error| {
            error.context(format!("{name} is to hold copies of `{origin}`, which cannot be opened"))
        })?,
    };
    let options = InitOptions { copies_of: Some(origin), ..InitOptions::default() };
    create_with(app, (args.accept_weak_store, args.dry_run), &label, &store, options).map(Some)
}

/// The store; `None` where a dry run finds that even its directory would have to be created.
fn connected(app: &App, args: &Args, label: &str, store: Result<Store>) -> Result<Option<Store>> {
    match store {
        Err(error) if args.dry_run && error.kind() == ErrorKind::NotFound => {
            app.printer.talk(format!("{label}: would create the directory and a repository in it"));
            Ok(None)
        }
        other => other.map(Some),
    }
}

fn create(
    app: &App,
    args: &Args,
    label: &str,
    store: &Store,
    recipients: Recipients,
) -> Result<Line> {
    let options = InitOptions { recipients, ..InitOptions::default() };
    create_with(app, (args.accept_weak_store, args.dry_run), label, store, options)
}

/// Probes a store and creates a repository in it, unless there is one.
pub fn create_with(
    app: &App,
    (accept_weak_store, dry_run): (bool, bool),
    label: &str,
    store: &Store,
    options: InitOptions,
) -> Result<Line> {
    let existing = match Repository::open(store) {
        Ok(repository) => Some(repository),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if existing.is_none() {
        Repository::check_place(store)?;
    }
    let probe = Probe::run(store)
        .map_err(|error| error.context(format!("the store of {label} cannot be used")))?;
    for finding in &probe.findings {
        let mark = if finding.verdict == Verdict::Ok { "ok  " } else { "WEAK" };
        app.printer.talk(format!("  {mark}  {}: {}", finding.what, finding.detail));
    }
    let weak: Vec<&str> = probe.weak().map(|finding| finding.detail.as_str()).collect();
    if !weak.is_empty() && !accept_weak_store {
        return Err(Error::failed(format!(
            "the store of {label} cannot be trusted: {}",
            weak.join("; ")
        ))
        .hint("backups there can be lost or overwritten; use another store")
        .hint("--accept-weak-store takes it all the same, and marks the repository"));
    }
    if let Some(existing) = &existing
        && options.copies_of.is_none()
        && existing.is_encrypted() == options.recipients.is_empty()
    {
        let word = |encrypted| if encrypted { "encrypted" } else { "not encrypted" };
        return Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "{label}: there is a repository in {} already, and it is {}",
                store.name(),
                word(existing.is_encrypted())
            ),
        )
        .hint(format!("what was asked for is {}", word(!existing.is_encrypted())))
        .hint("a repository stays as it was created: choose another place, or mend the policy"));
    }
    let weak_store = !weak.is_empty();
    let encrypted = match (&existing, &options.copies_of) {
        (Some(existing), _) => existing.is_encrypted(),
        (None, Some(origin)) => origin.is_encrypted(),
        (None, None) => !options.recipients.is_empty(),
    };
    let create = existing.is_none() && !dry_run;
    if create {
        let options = InitOptions { weak_store, ..options };
        let repository = Repository::init(store, &options, app.cx.clock.now())?;
        if let Some(key) = repository.write_key() {
            app.printer.talk(format!("  key   {}", key.recipient));
            app.printer.hint(&format!(
                "with `repository_key: {}` below `encryption:` nobody can replace it unnoticed",
                key.recipient
            ));
        }
    }
    let how = if encrypted { "encrypted" } else { "NOT encrypted" };
    let place = store.name();
    app.printer.talk(match (existing.is_some(), create) {
        (true, _) => format!("{label}: there is a repository in {place} already ({how})"),
        (false, true) => format!("{label}: created a repository in {place} ({how})"),
        (false, false) => format!("{label}: would create a repository in {place} ({how})"),
    });
    Ok(Line {
        repository: label.to_owned(),
        place: place.to_owned(),
        created: create,
        encrypted,
        weak_store,
        probe,
    })
}
