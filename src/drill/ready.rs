//! Whether a drill could be held: what `--dry-run` looks at, and what is refused before there is any
//! evidence. Nothing is written.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;

use super::assess::drawn;
use super::evidence::{Aim, Choice};
use super::hold::Open;
use super::plan::Plan;
use crate::archive::crypt::Keyring;
use crate::error::{Error, ErrorKind, Result};
use crate::id::SourceAddress;
use crate::policy::{Drill, Policy};
use crate::run::prove::can_start;
use crate::run::space::free_bytes;
use crate::run::{BackupChoice, find_backup};
use crate::source::command::{Pipeline, find_program};
use crate::store::Repository;

/// What is looked at.
pub struct Looking<'a> {
    /// The policy.
    pub policy: &'a Policy,
    /// The drill as the policy has it.
    pub drill: &'a Drill,
    /// Opens repositories.
    pub open: &'a Open<'a>,
    /// A directory with room for what is recovered.
    pub scratch: &'a Path,
    /// The directory of the servers' programs, where they are not to be looked for.
    pub programs: Option<&'a Path>,
    /// Whether commands of the policy may be run.
    pub commands: bool,
}

/// A source, and the backup that would be used.
#[derive(Debug, Default, Serialize)]
pub struct Ready {
    /// The source.
    pub source: String,
    /// The backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// Its newest recovery point that may be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub point: Option<Timestamp>,
    /// Bytes of content that are brought back.
    pub bytes: u64,
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Found {
    /// What would be aimed at.
    pub aim: Aim,
    /// What would be brought back.
    pub sources: Vec<Ready>,
    /// Bytes that are free where the sandbox would be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<u64>,
    /// What is missing, each with what is to be done about it.
    pub missing: Vec<String>,
}

/// Looks at the repositories, the recovery points, the programs and the place.
pub fn look(plan: &Plan, looking: &Looking<'_>) -> Result<Found> {
    let mut missing = Vec::new();
    let mut opened: BTreeMap<&str, Option<(Repository, Keyring)>> = BTreeMap::new();
    for planned in plan.sources.iter().filter(|one| one.impossible.is_none()) {
        let name = planned.repository.as_str();
        if opened.contains_key(name) {
            continue;
        }
        let found = match (looking.open)(name) {
            Ok((repository, keys)) => {
                if repository.is_encrypted() && !repository.opens_content(&keys) {
                    missing.push(format!(
                        "no identity opens what lies in `{name}`: give --identity FILE"
                    ));
                }
                Some((repository, keys))
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                missing.push(format!("repository `{name}`: {}", error.advised()));
                None
            }
        };
        opened.insert(name, found);
    }
    let of = |name: &str| opened.get(name).and_then(Option::as_ref).map(|(found, _)| found);
    let stack = &looking.policy.stack;
    let mut aim = plan.aim.clone();
    if aim.choice == Choice::Random {
        let stores = plan.sources.iter().filter_map(|planned| {
            Some(of(&planned.repository)?.source(&SourceAddress::new(stack, &planned.source)))
        });
        aim = drawn(&aim, stores)?;
    }
    let choice = match (&plan.backup, aim.at) {
        (Some(id), _) => BackupChoice::Id(id.clone()),
        (None, Some(at)) => BackupChoice::At(at),
        (None, None) => BackupChoice::Latest,
    };
    let mut sources = Vec::new();
    for planned in &plan.sources {
        let mut ready = Ready { source: planned.source.clone(), ..Ready::default() };
        if let Some(repository) = of(&planned.repository).filter(|_| planned.impossible.is_none()) {
            let address = SourceAddress::new(stack, &planned.source);
            match find_backup(repository, &address, &choice) {
                Ok(manifest) => {
                    let points = manifest.recovery_points.iter().map(|point| point.time);
                    ready.point = points.filter(|time| aim.at.is_none_or(|at| *time <= at)).max();
                    ready.backup = Some(manifest.backup.to_string());
                    ready.bytes = manifest.counts.bytes;
                    if let Err(error) = can_start(&manifest, looking.programs) {
                        missing.push(format!("`{}`: {}", planned.source, error.advised()));
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
                Err(error) => missing.push(format!("`{}`: {}", planned.source, error.advised())),
            }
        }
        sources.push(ready);
    }
    if let Err(error) = check_place(looking.scratch, looking.programs) {
        missing.push(error.advised());
    }
    let needed: u64 = sources.iter().map(|one| one.bytes).sum();
    let free = free_bytes(looking.scratch).ok();
    if let Some(free) = free.filter(|free| *free < needed) {
        missing.push(format!(
            "{} has {free} bytes free, and {needed} are brought back: --scratch DIR elsewhere",
            looking.scratch.display()
        ));
    }
    missing.extend(unready_checks(plan, looking));
    Ok(Found { aim, sources, free_bytes: free, missing })
}

/// Refuses what somebody got wrong: it is nothing that a drill found.
pub fn refuse(plan: &Plan, looking: &Looking<'_>) -> Result<()> {
    check_place(looking.scratch, looking.programs)?;
    let (Some(id), [planned]) = (&plan.backup, plan.sources.as_slice()) else { return Ok(()) };
    // What else is wrong with the repository or the backup is for the drill to find.
    let Ok((repository, _)) = (looking.open)(&planned.repository) else { return Ok(()) };
    let address = SourceAddress::new(&looking.policy.stack, &planned.source);
    match find_backup(&repository, &address, &BackupChoice::Id(id.clone())) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Usage) => Err(error),
        _ => Ok(()),
    }
}

/// Directories that are not there, or that nothing can be written to.
fn check_place(scratch: &Path, programs: Option<&Path>) -> Result<()> {
    const HINT: &str = "--scratch DIR, with room for what is recovered";
    if !scratch.is_dir() {
        let what = format!("there is no directory {}", scratch.display());
        return Err(Error::usage(what).hint(HINT));
    }
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    if rustix::fs::access(scratch, access).is_err() {
        let what = format!("nothing can be written to {}", scratch.display());
        return Err(Error::usage(what).hint(HINT));
    }
    match programs.filter(|directory| !directory.is_dir()) {
        None => Ok(()),
        Some(directory) => {
            Err(Error::usage(format!("there is no directory {}", directory.display()))
                .hint("--programs DIR, the one with the server's programs"))
        }
    }
}

/// Checks that could not be made.
fn unready_checks(plan: &Plan, looking: &Looking<'_>) -> Vec<String> {
    let mut missing = Vec::new();
    for name in &plan.checks {
        let Some(check) = looking.drill.checks.get(name) else { continue };
        if !looking.commands && check.files.is_none() {
            missing.push(format!("check `{name}` is made only with --trust-policy"));
            continue;
        }
        let Some(program) = &check.command else { continue };
        let stages = Pipeline::of(program).stages;
        let programs = stages.iter().filter_map(|stage| stage.argv.first());
        missing.extend(
            programs
                .filter(|program| find_program(program).is_none())
                .map(|program| format!("check `{name}`: there is no program `{program}`")),
        );
    }
    missing
}
