//! `restore`: a source, of the newest point not after the instant that was asked for.
//!
//! Which backup that is, is decided once, before the step begins, and written down: whoever goes on
//! restores the same one.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use super::itself::{backstay, look};
use crate::error::{Error, ErrorKind, Result};
use crate::id::SourceAddress;
use crate::playbook::action::{Action, Job, Means, Observed, Preview};
use crate::playbook::record::Outputs;
use crate::policy::{RestoreAction, SourceSpec};
use crate::run::{BackupChoice, find_backup};
use crate::store::Repository;

/// Options of `backstay restore` that say how far a cluster recovers.
const GOALS: [&str; 8] =
    ["--immediate", "--latest", "--at", "--lsn", "--xid", "--name", "--standby", "--backup"];

/// Restores a source.
pub struct Restore {
    spec: RestoreAction,
    means: Arc<Means>,
}

impl Restore {
    /// As a step says.
    pub fn new(spec: RestoreAction, means: Arc<Means>) -> Self {
        Self { spec, means }
    }

    fn address(&self) -> SourceAddress {
        SourceAddress::new(&self.means.policy.stack, &self.spec.source)
    }

    /// Whether WAL leads to any instant, and not only to that of a backup.
    fn is_continuous(&self) -> bool {
        let source = self.means.policy.sources.get(&self.spec.source);
        source.is_some_and(|source| matches!(source.spec, SourceSpec::PostgresCluster(_)))
    }

    /// Whether WAL is archived as it is written.
    fn is_archived(&self) -> bool {
        let source = self.means.policy.sources.get(&self.spec.source);
        source.is_some_and(crate::policy::Source::has_wal_archive)
    }

    /// Whether it says what an earlier step is going to find.
    fn waits_for_others(&self) -> bool {
        let identity = self.spec.identity.iter().map(|path| path.to_string_lossy());
        let texts = identity.chain([self.spec.to.as_str().into()]);
        let mut all = texts.chain(self.spec.options.iter().map(|text| text.as_str().into()));
        all.any(|text| text.contains("{{"))
    }

    fn repository(&self) -> Option<&str> {
        self.spec.repository.as_deref()
    }

    /// The backup that is restored, and the point it leads to.
    fn choose(&self, job: &Job<'_>) -> Result<(String, Timestamp)> {
        if let Some(backup) = &self.spec.backup {
            let repository = repository(&self.means, &self.spec.source, self.repository())?;
            let manifest =
                find_backup(&repository, &self.address(), &BackupChoice::Id(backup.clone()))?;
            let reached = manifest.recovery_points.iter().map(|point| point.time).max();
            return Ok((manifest.backup.to_string(), reached.unwrap_or(manifest.start)));
        }
        let (backup, point) = choose(&self.means, &self.spec.source, self.repository(), job)?;
        let point = job.at.filter(|_| self.is_continuous()).unwrap_or(point);
        Ok((backup, point))
    }

    fn arguments(&self, job: &Job<'_>, backup: String) -> Vec<String> {
        let own_goal = self.spec.options.iter().any(|option| {
            GOALS.iter().any(|goal| option == goal || option.starts_with(&format!("{goal}=")))
        });
        let mut arguments: Vec<String> = Vec::new();
        if let Some(repository) = &self.spec.repository {
            arguments.extend(["--repository".to_owned(), repository.clone()]);
        }
        for identity in &self.spec.identity {
            arguments.extend(["--identity".to_owned(), identity.display().to_string()]);
        }
        arguments.extend(["restore".to_owned(), self.address().to_string()]);
        match job.at {
            _ if self.spec.backup.is_some() => arguments.extend(["--backup".to_owned(), backup]),
            Some(at) if self.is_continuous() && !own_goal => {
                arguments.extend(["--at".to_owned(), at.to_string()]);
            }
            _ if own_goal && self.is_continuous() => {}
            // Without an instant all that was archived is wanted, and not only what the backup brings.
            None if self.is_archived() => arguments.push("--latest".to_owned()),
            _ => arguments.extend(["--backup".to_owned(), backup]),
        }
        arguments.extend(["--to".to_owned(), self.spec.to.clone(), "--yes".to_owned()]);
        let begun = job.attempt > 1 && Path::new(&self.spec.to).is_dir();
        // Nobody else's files are replaced: there were none when the step first began.
        let own = job.before.get("was_empty").is_some_and(|empty| empty == "yes");
        let keeps = |option: &String| matches!(option.as_str(), "--overwrite" | "--delta");
        if begun && own && !self.spec.options.iter().any(keeps) {
            // What the attempt before put there is right, or is replaced.
            arguments.push("--delta".to_owned());
        }
        arguments.extend(self.spec.options.iter().cloned());
        arguments
    }
}

impl Action for Restore {
    fn preview(&self, job: &Job<'_>) -> Result<Preview> {
        if self.spec.backup.as_ref().is_some_and(|backup| backup.contains("{{")) {
            let what = format!("restores {} to {}", self.address(), self.spec.to);
            return Ok(Preview::of(format!("{what}, from a backup that an earlier step makes")));
        }
        let (backup, point) = self.choose(job)?;
        let what =
            format!("restores {}@{backup} to {}, as of {point}", self.address(), self.spec.to);
        let until = job.at.unwrap_or(job.started);
        let lost = until.duration_since(point).as_secs().max(0).unsigned_abs();
        // WAL brings more than the backup, and what it brings `recovery_points` tells.
        let preview = Preview::of(what);
        let preview = if self.is_archived() { preview } else { preview.losing(lost) };
        let keeps = ["--overwrite", "--delta"];
        let replaces = self.spec.options.iter().any(|option| keeps.contains(&option.as_str()));
        if Path::new(&self.spec.to).is_absolute() && is_used(Path::new(&self.spec.to)) && !replaces
        {
            return Ok(preview.missing(format!("{} is not empty", self.spec.to)));
        }
        if self.waits_for_others() {
            return Ok(preview);
        }
        // Whether the options make sense, and a key opens it, is best known by whoever is going to do it.
        let mut arguments = self.arguments(job, backup);
        arguments.push("--dry-run".to_owned());
        Ok(match look(&self.means, job, &arguments) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
            Err(error) => preview.missing(error.chain()),
            Ok(_) => preview,
        })
    }

    fn before(&self, job: &Job<'_>) -> Result<Outputs> {
        let (backup, point) = self.choose(job)?;
        Ok(Outputs::from([
            ("backup".to_owned(), backup),
            ("recovery_point".to_owned(), point.to_string()),
            ("target".to_owned(), self.spec.to.clone()),
            (
                "was_empty".to_owned(),
                if is_used(Path::new(&self.spec.to)) { "no" } else { "yes" }.to_owned(),
            ),
        ]))
    }

    fn observe(&self, _job: &Job<'_>) -> Result<Observed> {
        // Done again it keeps what is right already.
        Ok(Observed::Unknown("whether all of it was restored is seen by restoring it".to_owned()))
    }

    fn apply(&self, job: &Job<'_>) -> Result<Outputs> {
        let backup = job.before.get("backup").cloned();
        let backup = backup.ok_or_else(|| Error::failed("no backup was chosen"))?;
        backstay(&self.means, job, &self.arguments(job, backup))
            .map_err(|error| error.context(format!("failed to restore {}", self.address())))?;
        let mut outputs = job.before.clone();
        // How far what was restored is behind now, whoever wrote it.
        if let Some(point) = outputs.get("recovery_point").and_then(|text| text.parse().ok()) {
            let behind = job.cx.clock.now().duration_since(point).as_secs().max(0);
            outputs.insert("lag".to_owned(), behind.to_string());
        }
        Ok(outputs)
    }
}

/// The repository that a source is restored from: the one that is named, or its own.
fn repository(means: &Means, source: &str, named: Option<&str>) -> Result<Repository> {
    let own = means.policy.repository_of(source).map(|(name, _)| name);
    let name = named.or(own).ok_or_else(|| Error::usage("the source has no repository"))?;
    (means.open)(name)
}

/// The newest backup of a source from the run's instant or before, and the point it leads to.
pub(super) fn choose(
    means: &Means,
    source: &str,
    repository: Option<&str>,
    job: &Job<'_>,
) -> Result<(String, Timestamp)> {
    let repository = self::repository(means, source, repository)?;
    // Not "latest": what is made while the run goes on must not change what is restored.
    let at = job.at.unwrap_or(job.started);
    let address = SourceAddress::new(&means.policy.stack, source);
    let manifest = find_backup(&repository, &address, &BackupChoice::At(at))?;
    let reached = manifest.recovery_points.iter().map(|point| point.time).filter(|t| *t <= at);
    let point = reached.max().unwrap_or(manifest.start);
    Ok((manifest.backup.to_string(), point))
}

/// Whether a directory has anything in it.
fn is_used(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut names| names.next().is_some())
}
