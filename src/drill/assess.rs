//! Which backups are brought back.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::evidence::{Aim, Choice, Severity};
use super::hold::{Chosen, Holding};
use super::plan::{Planned, by_chance};
use crate::archive::crypt::Keyring;
use crate::error::Result;
use crate::id::SourceAddress;
use crate::run::prove;
use crate::run::{BackupChoice, find_backup};
use crate::store::{CommitRef, Repository, SourceStore};

impl<'a> Holding<'a> {
    /// Opens repositories and chooses backups.
    pub(super) fn assess(&mut self) -> Result<(Aim, Vec<Chosen<'a>>)> {
        let plan = self.plan;
        let mut opened: BTreeMap<&str, (Repository, Keyring)> = BTreeMap::new();
        let mut sources = Vec::new();
        for planned in &plan.sources {
            let step = format!("choose {}", planned.source);
            if let Some(why) = &planned.impossible {
                self.not_executed(&step, "assess", why)?;
                self.found(Severity::Unproven, "not_possible", Some(&planned.source), why)?;
                continue;
            }
            let name = planned.repository.as_str();
            if !opened.contains_key(name) {
                let open = self.tools.open;
                match self.step(&format!("open {name}"), "assess", |_| open(name))? {
                    Ok(found) => {
                        opened.insert(name, found);
                    }
                    Err(error) => {
                        let text = format!("repository `{name}`: {}", error.chain());
                        self.found(
                            Severity::Failure,
                            "repository_lost",
                            Some(&planned.source),
                            text,
                        )?;
                        continue;
                    }
                }
            }
            let Some((repository, keys)) = opened.get(name) else { continue };
            if repository.is_encrypted() && !repository.opens_content(keys) {
                let why = format!("no identity opens what lies in `{name}`: give --identity FILE");
                self.not_executed(&step, "assess", &why)?;
                self.found(Severity::Unproven, "no_identity", Some(&planned.source), why)?;
                continue;
            }
            sources.push((planned, repository.clone(), keys.clone()));
        }
        let aim = self.aim(&sources)?;
        let mut chosen = Vec::new();
        for (planned, repository, keys) in sources {
            if plan.scenario.chooses() && plan.backup.is_none() {
                if let Some(manifest) = self.choose_by_scenario(planned, &repository)? {
                    let aim = prove::Aim::Backup;
                    chosen.push(Chosen { planned, repository, keys, manifest, aim });
                }
                continue;
            }
            let address = SourceAddress::new(&self.tools.policy.stack, &planned.source);
            let choice = match (&plan.backup, aim.at) {
                (Some(id), _) => BackupChoice::Id(id.clone()),
                (None, Some(at)) => BackupChoice::At(at),
                (None, None) => BackupChoice::Latest,
            };
            let step = format!("choose {}", planned.source);
            let found =
                self.step(&step, "assess", |_| find_backup(&repository, &address, &choice))?;
            match found {
                Ok(manifest) => {
                    let aim = match (&plan.backup, aim.at) {
                        (Some(_), _) => prove::Aim::Backup,
                        (None, Some(at)) => prove::Aim::At(at),
                        (None, None) => prove::Aim::Latest,
                    };
                    chosen.push(Chosen { planned, repository, keys, manifest, aim });
                }
                Err(error) => {
                    let text = error.chain();
                    self.found(Severity::Failure, "no_backup", Some(&planned.source), text)?;
                }
            }
        }
        Ok((aim, chosen))
    }

    /// What is aimed at, once it is known what there is.
    fn aim(&mut self, sources: &[(&Planned, Repository, Keyring)]) -> Result<Aim> {
        let aim = self.plan.aim.clone();
        if aim.choice != Choice::Random {
            return Ok(aim);
        }
        let stack = &self.tools.policy.stack;
        let stores = sources.iter().map(|(planned, repository, _)| {
            repository.source(&SourceAddress::new(stack, &planned.source))
        });
        drawn(&aim, stores)
    }
}

/// The aim with an instant by chance: from the oldest point that all sources have to that of the newest
/// backup. Nothing that changes without a backup is in it, so that a seed can be used again.
pub fn drawn(aim: &Aim, sources: impl Iterator<Item = SourceStore>) -> Result<Aim> {
    let (mut from, mut until) = (None, None);
    for source in sources {
        let mut commits = source.commits()?;
        from = from.max(first_point(&source, &commits)?.map(|(oldest, _)| oldest));
        commits.reverse();
        until = until.max(first_point(&source, &commits)?.map(|(_, newest)| newest));
    }
    let (Some(from), Some(until)) = (from, until) else { return Ok(aim.clone()) };
    let until = until.max(from);
    let seed = aim.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let at = by_chance(from, until, seed);
    Ok(Aim { at, seed: Some(seed), from: Some(from), until: Some(until), ..aim.clone() })
}

/// The oldest and the newest point of the first of these backups that has any.
fn first_point(
    source: &SourceStore,
    commits: &[CommitRef],
) -> Result<Option<(Timestamp, Timestamp)>> {
    for commit in commits {
        let read = source.manifests(std::slice::from_ref(commit))?.pop();
        let Some((_, Ok(manifest))) = read else { continue };
        let points = manifest.recovery_points.iter().map(|point| point.time);
        if let (Some(oldest), Some(newest)) = (points.clone().min(), points.max()) {
            return Ok(Some((oldest, newest)));
        }
    }
    Ok(None)
}
