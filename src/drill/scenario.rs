//! Scenarios that say by themselves which backup is brought back.

use jiff::Timestamp;

use super::evidence::{Scenario, Severity};
use super::hold::Holding;
use super::plan::Planned;
use crate::archive::manifest::Manifest;
use crate::error::{Error, Result};
use crate::id::SourceAddress;
use crate::run::lock::needed;
use crate::store::{Repository, SourceStore, layout};

/// How many backups are looked at before it is said that none will do.
const LOOKED_AT: usize = 50;

/// What a scenario chose, and what is to be said of it.
struct Found {
    manifest: Manifest,
    finding: Option<(&'static str, String)>,
    proven: Option<String>,
}

impl Holding<'_> {
    /// The backup that a scenario is about. `None`: there is none, which is said.
    pub(super) fn choose_by_scenario(
        &mut self,
        planned: &Planned,
        repository: &Repository,
    ) -> Result<Option<Manifest>> {
        let address = SourceAddress::new(&self.tools.policy.stack, &planned.source);
        let source = repository.source(&address);
        let ransomware = self.plan.scenario == Scenario::Ransomware;
        let past = self.tools.repository_at.unwrap_or_else(|| self.journal.started());
        let step = format!("choose {}", planned.source);
        let found = self.step(&step, "assess", |_| {
            if ransomware {
                newest_kept(&source, past)
            } else {
                oldest_of_old_keys(repository, &source)
            }
        })?;
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                let (severity, code) = if ransomware {
                    (Severity::Failure, "no_locked_backup")
                } else {
                    (Severity::Unproven, "no_old_key")
                };
                self.found(severity, code, Some(&planned.source), error.chain())?;
                return Ok(None);
            }
        };
        if let Some((code, text)) = found.finding {
            self.found(Severity::Finding, code, Some(&planned.source), text)?;
        }
        if let Some(text) = found.proven {
            self.found(Severity::Note, "chosen", Some(&planned.source), text)?;
        }
        Ok(Some(found.manifest))
    }
}

/// The newest backup of which object lock keeps everything that a restore needs.
fn newest_kept(source: &SourceStore, past: Timestamp) -> Result<Found> {
    let commits = source.commits()?;
    let mut finding = None;
    for commit in commits.iter().rev().take(LOOKED_AT) {
        let read = source.manifests(std::slice::from_ref(commit))?.pop();
        let lacks = match read {
            Some((_, Ok(manifest))) => {
                let mut keys = needed(source, &manifest)?;
                keys.push(source.key(&layout::commit(&manifest.backup)));
                let unkept = source.store().unkept(&keys, past)?;
                let Some(first) = unkept.first() else {
                    let proven = Some(format!(
                        "{} is the newest backup that is locked as a whole: {} objects",
                        manifest.backup,
                        keys.len()
                    ));
                    return Ok(Found { manifest, finding, proven });
                };
                format!(
                    "{} of {} objects are not locked, such as {first}",
                    unkept.len(),
                    keys.len()
                )
            }
            Some((_, Err(error))) => error.chain(),
            None => continue,
        };
        finding
            .get_or_insert(("not_locked", format!("{} would not be left: {lacks}", commit.backup)));
    }
    let why = finding.map_or_else(|| "there is no backup".to_owned(), |(_, text)| text);
    Err(Error::not_found(format!("no backup is locked as a whole: {why}")))
}

/// The oldest backup that is encrypted to a key that writers do not take any more.
fn oldest_of_old_keys(repository: &Repository, source: &SourceStore) -> Result<Found> {
    let newest = repository.keys().last().map(|key| key.id.as_str());
    for commit in source.commits()? {
        let read = source.manifests(std::slice::from_ref(&commit))?.pop();
        let Some((_, Ok(manifest))) = read else { continue };
        let key = manifest.encryption.as_ref().map(|encryption| encryption.key.clone());
        let Some(key) = key.filter(|key| Some(key.as_str()) != newest) else { continue };
        let proven =
            Some(format!("{} is the oldest backup of a former key, {key}", manifest.backup));
        return Ok(Found { manifest, finding: None, proven });
    }
    Err(Error::not_found("no backup is encrypted to a former key"))
}
