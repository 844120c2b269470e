//! Finding the backup a person means.

use crate::archive::manifest::Manifest;
use crate::archive::wal::Lsn;
use crate::error::{Error, Result};
use crate::id::{BackupId, SourceAddress};
use crate::store::Repository;

/// Which backup of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum BackupChoice {
    /// The newest.
    #[default]
    Latest,
    /// The one with this id, or the only one whose id starts with it.
    Id(String),
    /// The one made in this run.
    Run(String),
    /// The newest whose recovery point is not after this instant.
    At(jiff::Timestamp),
    /// The newest whose recovery point is not after this position in its WAL.
    Position(Lsn),
    /// The newest that was complete before this transaction began.
    Xid(u64),
}

/// Finds a backup of one source.
pub fn find_backup(
    repository: &Repository,
    address: &SourceAddress,
    choice: &BackupChoice,
) -> Result<Manifest> {
    let source = repository.source(address);
    let commits = source.commits()?;
    if commits.is_empty() {
        return Err(Error::not_found(format!(
            "there is no backup of {address} in {}",
            repository.store().name()
        ))
        .hint("`backstay list` shows what there is"));
    }
    if let BackupChoice::Id(id) = choice
        && let Ok(id) = BackupId::parse(id)
    {
        return source.manifest(&id);
    }
    let mut found = Vec::new();
    let (mut damaged, mut divergent) = (None, 0);
    for commit in commits.iter().rev() {
        if let BackupChoice::Id(prefix) = choice
            && !commit.backup.as_str().starts_with(prefix.as_str())
        {
            continue;
        }
        let Some((_, manifest)) = source.manifests(std::slice::from_ref(commit))?.pop() else {
            continue;
        };
        match (choice, manifest) {
            // The newest is what was asked for: an older one in its place must be asked for too.
            (BackupChoice::Latest, Err(error)) => {
                return Err(error.hint(
                    "the newest backup is damaged; `backstay list` shows older ones for --backup",
                ));
            }
            // By its name it is what was asked for.
            (BackupChoice::At(at), Err(error)) if commit.backup.time() <= *at => {
                return Err(error.hint(
                    "the newest backup from then is damaged; `backstay list` shows older ones",
                ));
            }
            (_, Err(error)) => {
                damaged.get_or_insert(error);
            }
            // By its name it was asked for; whoever restores it is asked again.
            (
                BackupChoice::Latest | BackupChoice::At(_) | BackupChoice::Position(_),
                Ok(manifest),
            ) if source.epochs().of(&manifest).is_some() => {
                divergent += 1;
            }
            (BackupChoice::Latest, Ok(manifest)) => return Ok(manifest),
            (BackupChoice::Run(run), Ok(manifest)) if manifest.run == *run => {
                return Ok(manifest);
            }
            (BackupChoice::At(at), Ok(manifest))
                if manifest.recovery_points.iter().any(|point| point.time <= *at) =>
            {
                return Ok(manifest);
            }
            (BackupChoice::Position(at), Ok(manifest))
                if manifest.recovery_points.iter().any(|p| p.lsn.is_some_and(|lsn| lsn <= *at)) =>
            {
                return Ok(manifest);
            }
            (BackupChoice::Xid(xid), Ok(manifest))
                if manifest.recovery_points.iter().any(|p| p.is_before_xid(*xid) == Some(true)) =>
            {
                return Ok(manifest);
            }
            (BackupChoice::Id(_), Ok(manifest)) => found.push(manifest),
            _ => {}
        }
    }
    only(found, choice, &address.to_string(), damaged).map_err(|error| match divergent {
        0 => error,
        _ => error
            .hint(format!("left out: {divergent} that a site wrote after another one took over"))
            .hint("`backstay list` tells which; `--allow-divergent` takes them too"),
    })
}

/// Finds a backup by what a person calls it: its id or the start of it, the address or name of a
/// source for its latest, or either with `@ID`.
pub fn find_by_name(repository: &Repository, name: &str) -> Result<Manifest> {
    let (source, choice) = match name.split_once('@') {
        Some((source, "latest")) => (source, BackupChoice::Latest),
        Some((source, id)) => (source, BackupChoice::Id(id.to_owned())),
        None => (name, BackupChoice::Latest),
    };
    if source.is_empty() || name.ends_with('@') {
        return Err(Error::usage(format!("`{name}` names no backup"))
            .hint("give STACK/SOURCE, STACK/SOURCE@ID or an id; `backstay list` shows them"));
    }
    if let Some(address) = find_source(repository, source)? {
        return find_backup(repository, &address, &choice);
    }
    if source != name {
        return Err(Error::not_found(format!(
            "there is no backup of a source `{source}` in {}",
            repository.store().name()
        ))
        .hint("`backstay list` shows what there is"));
    }
    let mut found = Vec::new();
    let mut damaged = None;
    for address in repository.sources()? {
        let source = repository.source(&address);
        let mut commits = source.commits()?;
        commits.retain(|commit| commit.backup.as_str().starts_with(name));
        for (_, manifest) in source.manifests(&commits)? {
            match manifest {
                Ok(manifest) => found.push(manifest),
                Err(error) => damaged = Some(error),
            }
        }
    }
    only(found, &BackupChoice::Id(name.to_owned()), "this repository", damaged)
}

/// The source that a person calls `name`: its address, or its own name or that of its stack where
/// nothing else in the repository has that name. `None` if nothing there is called so.
pub fn find_source(repository: &Repository, name: &str) -> Result<Option<SourceAddress>> {
    if name.contains('/') {
        return SourceAddress::parse(name).map(Some);
    }
    let mut named = repository.sources()?;
    named.retain(|address| address.stack == name || address.source == name);
    if named.len() > 1 {
        let all: Vec<String> = named.iter().map(ToString::to_string).collect();
        return Err(Error::usage(format!("`{name}` means several sources"))
            .hint(format!("say which: {}", all.join(", "))));
    }
    Ok(named.pop())
}

fn only(
    mut found: Vec<Manifest>,
    choice: &BackupChoice,
    place: &str,
    damaged: Option<Error>,
) -> Result<Manifest> {
    if found.len() > 1 {
        let ids: Vec<String> = found
            .iter()
            .take(5)
            .map(|manifest| format!("{}@{}", manifest.address(), manifest.backup))
            .collect();
        return Err(Error::usage(format!("{} backups of {place} fit", found.len()))
            .hint(format!("give more of the id; among them are {}", ids.join(", "))));
    }
    match (found.pop(), damaged) {
        (Some(manifest), _) => Ok(manifest),
        (None, Some(error)) => Err(error),
        (None, None) => {
            let what = match choice {
                BackupChoice::Latest => "backup".to_owned(),
                BackupChoice::Id(id) => format!("backup {id}"),
                BackupChoice::Run(run) => format!("backup of run {run}"),
                BackupChoice::At(at) => {
                    format!("backup from {} or before", at.strftime("%Y-%m-%dT%H:%M:%SZ"))
                }
                BackupChoice::Position(lsn) => format!("backup from {lsn} or before"),
                BackupChoice::Xid(xid) => {
                    format!("backup that is known to be from before transaction {xid}")
                }
            };
            Err(Error::not_found(format!("there is no {what} in {place}"))
                .hint("`backstay list` shows what there is"))
        }
    }
}
