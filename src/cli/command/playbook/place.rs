//! From what a person names to a playbook, a run, and where its journal lies.

use std::path::PathBuf;
use std::sync::Arc;

use crate::cli::setup::App;
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::id::BackupId;
use crate::playbook::action::Means;
use crate::playbook::history;
use crate::playbook::journal::Place;
use crate::playbook::record::Person;
use crate::playbook::view::RunView;
use crate::policy::{self, Playbook, Policy, PolicySet};
use crate::run::host_name;
use crate::store::{JournalStore, Location, Repository, Web, Worker};

/// Whether a person names a run, and not a playbook.
pub fn is_run(name: &str) -> bool {
    BackupId::looks_like(name)
}

/// The playbook that a person names: `STACK/NAME`, or `NAME` where only one stack has it.
pub fn find<'a>(set: &'a PolicySet, name: &str) -> Result<(&'a Policy, &'a str, &'a Playbook)> {
    let (stack, own) = name.split_once('/').map_or((None, name), |(stack, own)| (Some(stack), own));
    let mut found = Vec::new();
    for policy in set.policies.iter().filter(|one| stack.is_none_or(|stack| one.stack == stack)) {
        if let Some((name, playbook)) = policy.playbooks.get_key_value(own) {
            found.push((policy, name.as_str(), playbook));
        }
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => {
            let all: Vec<String> = set.policies.iter().flat_map(names).collect();
            let short = set.policies.iter().flat_map(|one| one.playbooks.keys());
            let error = Error::usage(format!("there is no playbook `{name}`"));
            if all.is_empty() {
                return Err(error.hint("no policy has `playbooks`"));
            }
            let known = all.iter().map(String::as_str).chain(short.map(String::as_str));
            Err(error.hint(policy::hint_at(name, known)))
        }
        _ => Err(Error::usage(format!("several stacks have a playbook `{own}`"))
            .hint(format!("say which: {}/{own} …", found[0].0.stack))),
    }
}

fn names(policy: &Policy) -> impl Iterator<Item = String> {
    policy.playbooks.keys().map(move |name| format!("{}/{name}", policy.stack))
}

/// The repository that a playbook's journal lies in: the one that was given, the playbook's, or the
/// first of the policy.
pub fn repository_of(app: &App, policy: &Policy, playbook: &Playbook) -> Result<String> {
    let first = policy.default_repository().map(|(name, _)| name.to_owned());
    let given = app.global.repository.clone().filter(|_| app.repository_url().is_none());
    given
        .or_else(|| playbook.repository.clone())
        .or(first)
        .ok_or_else(|| Error::usage(format!("stack {} has no repository", policy.stack)))
}

/// The journal of a run in a repository of the policy.
pub fn place(app: &App, policy: &Policy, repository: &str, run: &str) -> Result<Place> {
    let config = policy.repositories.get(repository).ok_or_else(|| {
        let known = policy.repositories.keys().map(String::as_str);
        Error::usage(format!("stack {} has no repository `{repository}`", policy.stack))
            .hint(policy::hint_at(repository, known))
    })?;
    let opened = Repository::open(&app.connect(config, false)?)
        .map_err(|error| error.context(format!("failed to open repository `{repository}`")))?;
    let local = app.state_directory()?.join("playbooks").join(&policy.stack).join(run);
    Ok(Place {
        at: JournalStore::new(opened.store(), &policy.stack, run),
        run: run.to_owned(),
        local: Some(local),
        by: Worker::here(host_name()),
        clock: app.cx.clock.clone(),
    })
}

/// Every repository of the policies that can be opened, with its stack; what kept the others from it.
pub fn places(app: &App, set: &PolicySet, run: &str) -> (Vec<(String, String, Place)>, Vec<Error>) {
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for policy in &set.policies {
        for name in policy.repositories.keys().filter(|name| app.wants_repository(name)) {
            match place(app, policy, name, run) {
                Ok(place) => found.push((policy.stack.clone(), name.clone(), place)),
                Err(error) => errors.push(error),
            }
        }
    }
    (found, errors)
}

/// A run that a person names.
pub struct Found<'a> {
    /// Its policy.
    pub policy: &'a Policy,
    /// Its journal.
    pub place: Place,
    /// Where it stands.
    pub view: RunView,
}

/// Finds a run by its id, in whichever repository of the policies its journal lies.
pub fn find_run<'a>(app: &App, set: &'a PolicySet, run: &str) -> Result<Found<'a>> {
    if !is_run(run) {
        return Err(Error::usage(format!("`{}` is not a run", run.escape_default()))
            .hint("`backstay playbook history` lists them"));
    }
    let (places, mut errors) = places(app, set, run);
    for (stack, _, place) in places {
        match history::read(&place, &stack, run) {
            Ok(None) => {}
            Ok(Some(view)) => {
                let policy = set.policies.iter().find(|policy| policy.stack == stack);
                let policy = policy.ok_or_else(|| Error::usage("the stack has no policy"))?;
                return Ok(Found { policy, place, view });
            }
            // What is damaged there is what was asked for.
            Err(error) if error.kind() != ErrorKind::Unreachable => return Err(error),
            Err(error) => errors.push(error),
        }
    }
    let error = Error::not_found(format!("there is no run {run}"));
    match errors.pop() {
        None => Err(error.hint("`backstay playbook history` lists them")),
        Some(cause) => {
            let kind = cause.kind();
            Err(error
                .with_kind(kind)
                .with_source(cause)
                .hint("a repository that may have it does not answer"))
        }
    }
}

/// What actions work with.
pub fn means(app: &App, policy: &Policy) -> Result<Arc<Means>> {
    let absolute = |path: &PathBuf| {
        std::path::absolute(path).doing(|| format!("failed to find {}", path.display()))
    };
    let handle = app.runtime.handle().clone();
    let repositories = policy.repositories.clone();
    let open = move |name: &str| {
        let config = repositories
            .get(name)
            .ok_or_else(|| Error::usage(format!("there is no repository `{name}`")))?;
        Repository::open(&Location::from_policy(config)?.connect(&handle, false)?)
    };
    Ok(Arc::new(Means {
        policy: policy.clone(),
        policy_path: absolute(&policy.file)?,
        identity: app.global.identity.iter().map(absolute).collect::<Result<_>>()?,
        state_directory: app.state_directory()?,
        open: Box::new(open),
        web: Web::new(app.runtime.handle().clone()),
    }))
}

/// Who gives this command: what they call themselves, and whom the system takes them for.
///
/// # Errors
/// A name that shows nothing, or more than it should, is none: approvals are counted by names.
pub fn person(given: Option<&str>) -> Result<Person> {
    let given = given.map(str::trim);
    if given.is_some_and(|name| name.is_empty() || name.chars().any(char::is_control)) {
        return Err(Error::usage("this is no name of a person").hint("write --as NAME"));
    }
    let uid = nix::unistd::Uid::effective();
    let user = nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.name);
    let user = user.unwrap_or_else(|| format!("uid {uid}"));
    let name = given.map_or_else(|| user.clone(), str::to_owned);
    Ok(Person { name, user, host: host_name() })
}
