//! What a drill is going to do: from a policy and a wish, without looking at anything else.

use jiff::Timestamp;

use super::evidence::{Aim, Choice, Mode, Scenario, Step, StepState};
use crate::error::{Error, Result};
use crate::policy::{self, ActionSpec, Drill, Period, PointChoice, Policy, SourceSpec, SqlAction};

/// The name of a drill that the policy does not name.
pub const UNPLANNED: &str = "unplanned";

/// What somebody wants.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// A drill of the policy.
    pub name: Option<String>,
    /// Sources, where they are not those of the drill.
    pub sources: Vec<String>,
    /// Whether the newest is aimed at, or any by chance.
    pub choice: Option<PointChoice>,
    /// An instant that is aimed at.
    pub at: Option<Timestamp>,
    /// A backup that is used.
    pub backup: Option<String>,
    /// What a choice by chance is made again with.
    pub seed: Option<u64>,
    /// What is supposed to have happened.
    pub scenario: Option<Scenario>,
    /// The repository that is read.
    pub repository: Option<String>,
}

/// A source that is going to be brought back.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Planned {
    /// Its name.
    pub source: String,
    /// Its kind.
    pub kind: String,
    /// The repository that is read.
    pub repository: String,
    /// How much of it may be lost, in seconds.
    pub rpo_target_seconds: u64,
    /// How long it may take, in seconds.
    pub rto_target_seconds: u64,
    /// Why it cannot be brought back in a sandbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub impossible: Option<String>,
}

/// A query of a playbook that is asked of what was recovered.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Rehearsed {
    /// The phase of its step.
    pub phase: String,
    /// The name of its step.
    pub name: String,
    /// The source whose server is asked.
    pub source: String,
    /// The query.
    #[serde(skip)]
    pub sql: SqlAction,
    /// When it has taken too long.
    #[serde(skip)]
    pub timeout: Option<Period>,
}

/// What a drill is going to do.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Plan {
    /// Its name.
    pub name: String,
    /// What is supposed to have happened.
    pub scenario: Scenario,
    /// What is brought back.
    pub mode: Mode,
    /// The playbook that is rehearsed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub playbook: Option<String>,
    /// What is aimed at.
    pub aim: Aim,
    /// A backup that is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// In this order.
    pub sources: Vec<Planned>,
    /// How many sources the stack has.
    pub of_sources: u64,
    /// Names of the checks of the policy that are made.
    pub checks: Vec<String>,
    /// Queries of the playbook that are asked of what was recovered.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rehearsed: Vec<Rehearsed>,
    /// Steps of the playbook that are not executed, by phase, name and why.
    pub not_executed: Vec<LeftOut>,
    /// How long the whole of it may take, in seconds.
    pub rto_target_seconds: u64,
    /// How much of the stack may be lost, in seconds.
    pub rpo_target_seconds: u64,
}

/// Makes the plan.
pub fn plan(policy: &Policy, wanted: &Wanted) -> Result<Plan> {
    let named = wanted.name.as_deref().map(|name| named(policy, name)).transpose()?;
    let drill = named.cloned().unwrap_or_default();
    let playbook = drill.playbook.as_ref().filter(|_| wanted.sources.is_empty());
    let (names, rehearsed, not_executed) =
        match playbook.and_then(|name| policy.playbooks.get(name)) {
            Some(playbook) => of_playbook(policy, playbook),
            None => (Vec::new(), Vec::new(), Vec::new()),
        };
    let (mode, names) = if !wanted.sources.is_empty() {
        (Mode::Sources, wanted.sources.clone())
    } else if !names.is_empty() {
        (Mode::Playbook, names)
    } else if !drill.sources.is_empty() {
        (Mode::Sources, drill.sources.clone())
    } else {
        (Mode::WholeStack, policy.sources.keys().cloned().collect())
    };
    let scenario = match wanted.scenario {
        Some(Scenario::SiteLost) if names.len() < policy.sources.len() => {
            return Err(Error::usage(format!(
                "site_lost is of every source of the stack, and not of {} of {}",
                names.len(),
                policy.sources.len()
            ))
            .hint("leave --scenario out, or --source"));
        }
        Some(scenario) => scenario,
        None if mode == Mode::Sources && is_source_lost(policy, named, &names) => {
            Scenario::SourceLost
        }
        None => drill.scenario,
    };
    let repository = wanted.repository.as_ref().or(drill.repository.as_ref());
    let sources = names
        .iter()
        .map(|name| planned(policy, name, repository.map(String::as_str)))
        .collect::<Result<Vec<_>>>()?;
    let aim = aim(wanted, &drill);
    if wanted.seed.is_some() && aim.choice != Choice::Random {
        return Err(Error::usage("--seed makes a choice by chance again, and none is made here")
            .hint("--recovery-point random"));
    }
    check_scenario(policy, scenario, &aim, &sources)?;
    let checks = drill
        .checks
        .iter()
        .filter(|(_, check)| check.source.as_ref().is_none_or(|source| names.contains(source)));
    let objectives = policy.objectives();
    Ok(Plan {
        name: wanted.name.clone().unwrap_or_else(|| UNPLANNED.to_owned()),
        scenario,
        mode,
        playbook: playbook.cloned().filter(|_| mode == Mode::Playbook),
        aim,
        backup: wanted.backup.clone(),
        checks: checks.map(|(name, _)| name.clone()).collect(),
        sources,
        rehearsed,
        of_sources: policy.sources.len() as u64,
        not_executed,
        rto_target_seconds: objectives.rto.as_secs(),
        rpo_target_seconds: objectives.rpo.as_secs(),
    })
}

/// The drill of a name.
pub fn named<'a>(policy: &'a Policy, name: &str) -> Result<&'a Drill> {
    policy.drills.get(name).ok_or_else(|| {
        let known = policy.drills.keys().map(String::as_str);
        let error = Error::usage(format!("stack {} has no drill `{name}`", policy.stack));
        if policy.drills.is_empty() {
            return error.hint("without a name: `backstay drill run` recovers every source");
        }
        error.hint(policy::hint_at(name, known))
    })
}

fn aim(wanted: &Wanted, drill: &Drill) -> Aim {
    let none = Aim { choice: Choice::Latest, at: None, seed: None, from: None, until: None };
    if wanted.backup.is_some() {
        return Aim { choice: Choice::Backup, ..none };
    }
    if let Some(at) = wanted.at {
        return Aim { choice: Choice::At, at: Some(at), ..none };
    }
    match wanted.choice.unwrap_or(drill.recovery_point) {
        PointChoice::Latest => none,
        PointChoice::Random => Aim { choice: Choice::Random, seed: wanted.seed, ..none },
    }
}

/// A step that is not executed: its phase, its name, and why.
type LeftOut = (String, String, String);
/// One source without the rest is no site that is lost, where nobody says what is.
fn is_source_lost(policy: &Policy, named: Option<&Drill>, names: &[String]) -> bool {
    names.len() == 1
        && match named {
            None => true,
            Some(drill) => drill.scenario == Scenario::SiteLost && policy.sources.len() > 1,
        }
}

/// What a playbook restores, in its order, and what of it is not done in a sandbox.
fn of_playbook(
    policy: &Policy,
    playbook: &policy::Playbook,
) -> (Vec<String>, Vec<Rehearsed>, Vec<LeftOut>) {
    let (mut sources, mut rehearsed, mut not_executed) = (Vec::new(), Vec::new(), Vec::new());
    for placed in playbook.placed() {
        let (phase, name) = (placed.phase.word().to_owned(), placed.name.to_owned());
        let why = match &placed.step.action {
            ActionSpec::Restore(restore) => {
                if !sources.contains(&restore.source) {
                    sources.push(restore.source.clone());
                }
                continue;
            }
            ActionSpec::Sql(sql) if !sources.is_empty() => match server_of(policy, &sources, sql) {
                Ok(source) => {
                    let (sql, timeout) = (sql.clone(), placed.step.timeout);
                    rehearsed.push(Rehearsed { phase, name, source, sql, timeout });
                    continue;
                }
                Err(why) => why,
            },
            ActionSpec::Approval(_) | ActionSpec::Manual(_) => "nobody is waited for in a sandbox",
            action if action.is_read_only() => {
                "it looks at production, which a sandbox does not reach"
            }
            _ => "it acts on production, which a sandbox does not reach",
        };
        not_executed.push((phase, name, why.to_owned()));
    }
    (sources, rehearsed, not_executed)
}

/// The recovered server that stands for the one that a query is asked of: that of the same connection,
/// or the only one of PostgreSQL.
fn server_of(
    policy: &Policy,
    restored: &[String],
    sql: &SqlAction,
) -> std::result::Result<String, &'static str> {
    if sql.query.contains("${") {
        return Err("it asks with what another step leaves, and that is not executed");
    }
    let servers: Vec<(&String, &String)> = restored
        .iter()
        .filter_map(|name| match &policy.sources.get(name)?.spec {
            SourceSpec::PostgresCluster(cluster) => Some((name, &cluster.connection)),
            SourceSpec::PostgresDump(dump) => Some((name, &dump.connection)),
            _ => None,
        })
        .collect();
    match servers.as_slice() {
        [] => Err("no server of PostgreSQL is recovered that could be asked"),
        [(name, _)] => Ok((*name).clone()),
        several => several
            .iter()
            .find(|(_, connection)| **connection == sql.connection)
            .map(|(name, _)| (*name).clone())
            .ok_or("several servers are recovered, and its connection is that of none"),
    }
}

fn planned(policy: &Policy, name: &str, repository: Option<&str>) -> Result<Planned> {
    let source = policy.sources.get(name).ok_or_else(|| {
        let known = policy.sources.keys().map(String::as_str);
        Error::usage(format!("stack {} has no source `{name}`", policy.stack))
            .hint(policy::hint_at(name, known))
    })?;
    if let Some(wanted) = repository.filter(|name| !policy.repositories.contains_key(*name)) {
        let known = policy.repositories.keys().map(String::as_str);
        return Err(Error::usage(format!("stack {} has no repository `{wanted}`", policy.stack))
            .hint(policy::hint_at(wanted, known)));
    }
    let own = policy.repository_of(name).map(|(name, _)| name);
    let repository = repository
        .or(own)
        .ok_or_else(|| Error::usage(format!("source `{name}` has no repository")))?;
    let kind = source.kind();
    let objectives = policy.objectives_of(name);
    let impossible = (kind == policy::SourceKind::StarRocks).then(|| {
        "it needs a StarRocks cluster, and no throwaway one can be started here".to_owned()
    });
    Ok(Planned {
        source: name.to_owned(),
        kind: kind.name().to_owned(),
        repository: repository.to_owned(),
        rpo_target_seconds: objectives.rpo.as_secs(),
        rto_target_seconds: objectives.rto.as_secs(),
        impossible,
    })
}

/// A scenario that is not played is refused: its name in a report would say more than was done.
fn check_scenario(
    policy: &Policy,
    scenario: Scenario,
    aim: &Aim,
    sources: &[Planned],
) -> Result<()> {
    if scenario.needs_instant() && aim.choice == Choice::Latest {
        return Err(Error::usage(format!(
            "{} is about an instant before something happened, and the newest is aimed at",
            scenario.word()
        ))
        .hint("say which: --at TIME, or --recovery-point random"));
    }
    if scenario.chooses() && aim.choice != Choice::Latest {
        return Err(Error::usage(format!(
            "{} says by itself which backup is brought back",
            scenario.word()
        ))
        .hint("leave --at, --backup and --recovery-point out"));
    }
    if scenario.chooses() {
        check_kept(policy, scenario, sources)?;
    }
    if scenario == Scenario::SourceLost && sources.len() != 1 {
        return Err(Error::usage(format!(
            "source_lost is of one source, and not of {}",
            sources.len()
        ))
        .hint("say which: --source SOURCE"));
    }
    if scenario == Scenario::RepositoryLost {
        let home = sources.iter().find(|one| {
            policy.repository_of(&one.source).is_some_and(|(home, _)| home == one.repository)
        });
        if let Some(one) = home {
            return Err(Error::usage(format!(
                "`{}` is backed up to `{}`: that is the repository that is lost",
                one.source, one.repository
            ))
            .hint("name the one with the copy: --repository NAME"));
        }
    }
    Ok(())
}

/// What nothing locks is no more there after an attack, and what is not encrypted has no keys.
fn check_kept(policy: &Policy, scenario: Scenario, sources: &[Planned]) -> Result<()> {
    let ransomware = scenario == Scenario::Ransomware;
    let unfit = |one: &&Planned| {
        policy.repositories.get(&one.repository).is_none_or(|repository| {
            if ransomware {
                repository.object_lock.is_none()
            } else {
                repository.encryption.is_none()
            }
        })
    };
    let Some(one) = sources.iter().find(unfit) else { return Ok(()) };
    let (name, repository) = (&one.source, &one.repository);
    Err(if ransomware {
        Error::usage(format!(
            "nothing is locked in `{repository}`, where `{name}` is: nothing of it is left after an attack"
        ))
        .hint("add `object_lock` to it, or name the one that has it: --repository NAME")
    } else {
        Error::usage(format!("`{repository}`, where `{name}` is, is not encrypted: it has no keys"))
            .hint("say which sources are meant: --source SOURCE")
    })
}

/// The steps of a playbook that are not executed, as evidence has them.
pub fn left_out(plan: &Plan) -> Vec<Step> {
    let steps = plan.not_executed.iter().map(|(phase, name, why)| Step {
        name: name.clone(),
        phase: phase.clone(),
        state: StepState::NotExecuted,
        offset: None,
        seconds: None,
        why: Some(why.clone()),
    });
    steps.collect()
}

/// An instant by chance between two: the same for the same seed.
pub fn by_chance(from: Timestamp, until: Timestamp, seed: u64) -> Option<Timestamp> {
    let span = until.as_second().checked_sub(from.as_second())?.max(0);
    let more = fastrand::Rng::with_seed(seed).i64(0..=span);
    // A point is of a fraction of a second: the second after it has it.
    Timestamp::from_second(from.as_second() + more + 1).ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_same_seed_over_the_same_range_is_the_same_instant() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let (from, until) = (at(1_000), at(90_000));
        let drawn: Vec<Timestamp> =
            (0..100).filter_map(|seed| by_chance(from, until, seed)).collect();
        assert_eq!(drawn[7], by_chance(from, until, 7).unwrap());
        assert!(drawn.iter().all(|one| *one > from && *one <= at(90_001)), "{drawn:?}");
        assert!(
            drawn.iter().any(|one| *one < at(40_000)) && drawn.iter().any(|one| *one > at(50_000))
        );
        // One backup is one point.
        assert_eq!(by_chance(from, from, 7), Some(at(1_001)));
    }
}
