//! From what a person names to a playbook, a run, and where its journal lies.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cli::setup::App;
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::id::BackupId;
use crate::playbook::action::Means;
use crate::playbook::aside::is_end;
use crate::playbook::history;
use crate::playbook::journal::Place;
use crate::playbook::record::Person;
use crate::playbook::view::RunView;
use crate::policy::{self, Playbook, Policy, PolicySet};
use crate::run::host_name;
use crate::run::role::{Asking, look, memory};
use crate::store::{JournalStore, Location, Repository, Web, Worker, runs_with_journals};

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
    let own = playbook.repository.clone().or_else(|| first.clone());
    if let (Some(given), Some(own)) = (&given, &own)
        && given != own
        && place(app, policy, own, "any").and_then(|place| place.at.read()).is_ok()
    {
        return Err(Error::usage(format!(
            "journals of playbooks of this stack lie in `{own}`, which answers"
        ))
        .hint("`--repository` names another one where that one is gone: two would not know of each other"));
    }
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

/// Runs that this machine saw, and that no repository has any more: somebody removed their journals.
/// Every repository has to have answered.
pub fn lost(app: &App, set: &PolicySet) -> Result<Vec<Error>> {
    let mut lost = Vec::new();
    for policy in &set.policies {
        let directory = app.state_directory()?.join("playbooks").join(&policy.stack);
        let Ok(seen) = std::fs::read_dir(&directory) else { continue };
        let mut seen: Vec<String> = seen
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| is_run(name))
            .collect();
        seen.sort_unstable();
        for config in policy.repositories.values() {
            let there = runs_with_journals(&app.connect(config, false)?, &policy.stack)?;
            seen.retain(|run| !there.contains(run));
        }
        lost.extend(seen.iter().map(|run| gone(run, &directory.join(run))));
    }
    Ok(lost)
}

/// The error of a run whose journal is gone.
fn gone(run: &str, kept: &Path) -> Error {
    Error::new(
        ErrorKind::Waiting,
        format!(
            "the journal of run {run} is in no repository any more, and this machine has seen it"
        ),
    )
    .hint(
        "somebody removed it, or the repository went back in time: find out what was done, by hand",
    )
    .hint(format!(
        "what this machine has seen lies in {}; who knows what became of it moves that away",
        kept.display()
    ))
}

/// Refuses to begin a run of a stack beside one that was not over when its journal went away.
pub fn refuse_lost(app: &App, policy: &Policy) -> Result<()> {
    let directory = app.state_directory()?.join("playbooks").join(&policy.stack);
    let Ok(seen) = std::fs::read_dir(&directory) else { return Ok(()) };
    for entry in seen.flatten().filter(|entry| entry.file_name().to_str().is_some_and(is_run)) {
        let run = entry.file_name().to_string_lossy().into_owned();
        if is_over(&entry.path()) {
            continue;
        }
        let mut there = false;
        for name in policy.repositories.keys() {
            // One that does not answer may have it: a site that is gone must not keep another from
            // being recovered.
            there |= place(app, policy, name, &run)
                .and_then(|place| place.at.read())
                .map_or(true, |records| !records.is_empty());
        }
        if !there {
            return Err(gone(&run, &entry.path()));
        }
    }
    Ok(())
}

/// Whether the last record of a journal on this machine says that the run ended.
fn is_over(directory: &Path) -> bool {
    let records = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let last = records.map(|entry| entry.path()).filter(|path| path.extension().is_some()).max();
    let text = last.and_then(|path| std::fs::read(path).ok()).unwrap_or_default();
    is_end(&text)
}

/// A run of a stack that is not over, in whichever repository of its playbooks' journals that answers.
pub fn open_run(app: &App, policy: &Policy) -> Option<String> {
    let first = policy.default_repository().map(|(name, _)| name.to_owned());
    let names: BTreeSet<String> = policy
        .playbooks
        .values()
        .filter_map(|playbook| playbook.repository.clone().or_else(|| first.clone()))
        .collect();
    names.iter().find_map(|name| {
        let place = place(app, policy, name, "any").ok()?;
        history::open_runs(place.at.store(), &policy.stack).ok()?.pop()
    })
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
            Err(error) if error.kind() != ErrorKind::Unreachable => {
                return Err(history::unreadable(error, run));
            }
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() {
        for policy in &set.policies {
            let kept = app.state_directory()?.join("playbooks").join(&policy.stack).join(run);
            if kept.is_dir() {
                return Err(gone(run, &kept));
            }
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
    let known = policy.clone();
    let (memory, clock) = (memory(&app.state_directory()?, &policy.stack), app.cx.clock.clone());
    let open = move |name: &str| {
        let connect = |name: &str| {
            let config = known.repositories.get(name);
            let config =
                config.ok_or_else(|| Error::usage(format!("there is no repository `{name}`")))?;
            Location::from_policy(config)?.connect(&handle, false)
        };
        let repository = Repository::open(&connect(name)?)?;
        if known.role.is_none() {
            return Ok(repository);
        }
        // Asked every time: a step may have begun an epoch.
        let memory = Some(memory.clone());
        let standing =
            look(&Asking { policy: &known, open: &connect, memory, clock: clock.clone() })?;
        Ok(repository.with_epochs(&known.stack, standing.epochs(&clock)))
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

/// Whether a character of a name can be seen, so that two names that look the same are the same.
fn is_seen(c: char) -> bool {
    let unseen = matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
        | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}');
    !c.is_control() && !unseen && (c == ' ' || !c.is_whitespace())
}

/// Who gives this command: what they call themselves, and whom the system takes them for.
///
/// # Errors
/// A name that shows nothing, or more than it should, is none: approvals are counted by names.
pub fn person(given: Option<&str>) -> Result<Person> {
    let given = given.map(str::trim);
    if given.is_some_and(|name| name.is_empty() || !name.chars().all(is_seen)) {
        return Err(Error::usage("this is no name of a person").hint("write --as NAME"));
    }
    let uid = nix::unistd::Uid::effective();
    let user = nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.name);
    let user = user.unwrap_or_else(|| format!("uid {uid}"));
    let name = given.map_or_else(|| user.clone(), str::to_owned);
    Ok(Person { name, user, host: host_name() })
}
