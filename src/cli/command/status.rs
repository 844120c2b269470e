//! `backstay status`

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::archive::manifest::Manifest;
use crate::cli::ExitStatus;
use crate::cli::format::{self, Align, table};
use crate::cli::remote::RemoteArgs;
use crate::cli::setup::{App, Opened};
use crate::daemon::timetable;
use crate::error::{Error, Result};
use crate::id::SourceAddress;
use crate::playbook::ready;
use crate::policy::{Policy, Schedule, Tier};
use crate::run::protection::{self, Holding, Newest, Stored, is_ahead};
use crate::run::space::free_bytes;
use crate::run::{host_name, list_backups};
use crate::state::{
    Ledger, ProofDepth, ProofResult, ReadinessRow, Recovery, RunFilter, RunRow, RunState, State,
};

/// Show how well everything is protected.
///
/// For each source how much would be lost now, from what lies in the repository and not from what
/// jobs say of themselves, against its RPO. Where an objective is missed, the exit code is 4; where
/// that cannot be told, because a repository does not answer, it is 1.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Sources: STACK/SOURCE, a SOURCE, or a STACK.
    #[arg(value_name = "SOURCE")]
    sources: Vec<String>,

    #[command(flatten)]
    remote: RemoteArgs,
}

/// How a source stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// Less would be lost than its RPO.
    Holds,
    /// More would be lost.
    Missed,
    /// Nothing of it can be restored.
    Unprotected,
    /// The repository could not be asked.
    Unknown,
}

#[derive(Serialize, Deserialize)]
struct Line {
    source: String,
    tier: Option<Tier>,
    rpo_seconds: u64,
    rto_seconds: u64,
    #[serde(flatten)]
    newest: Option<Newest>,
    /// That instant lies ahead: a clock was wrong, or is, and it proves nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    ahead: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    exposure_seconds: Option<u64>,
    /// The newest instant in another repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    replicated: Option<Timestamp>,
    /// The newest instant in each other repository that holds something of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    elsewhere: BTreeMap<String, Timestamp>,
    /// The repository that it is backed up to.
    #[serde(skip_serializing_if = "Option::is_none")]
    repository: Option<String>,
    /// Repositories that could not be asked, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    unreachable: BTreeMap<String, String>,
    #[serde(flatten)]
    holding: Holding,
    /// What each repository holds of it, but for WAL.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    stored: BTreeMap<String, Stored>,
    /// What is free where repositories are directories of this host, in bytes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    free_bytes: BTreeMap<String, u64>,
    /// The depth at which every object of the backup was found sound that the newest point is
    /// restored from; missing where one was not looked at, or is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    newest_verified: Option<String>,
    /// When an object of it was last found sound, by depth of the verification.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    verified: BTreeMap<String, Timestamp>,
    /// Objects that the last verification found missing or altered.
    damaged: usize,
    /// How long the last recovery that was proven took, on this machine.
    measured_rto_seconds: Option<u64>,
    /// When that was.
    #[serde(skip_serializing_if = "Option::is_none")]
    measured_rto_at: Option<Timestamp>,
    /// How long it would take now, at the speed that was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    estimated_rto_seconds: Option<u64>,
    /// The objectives that are missed: `rpo`, `rto`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    missed: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_run: Option<RunRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_run: Option<Timestamp>,
    verdict: Verdict,
    /// Another site is the active one, and this host writes nothing: which, and since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fenced: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// The playbooks of its stack, and whether each could be carried out when somebody looked last.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    playbooks: BTreeMap<String, String>,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    if app.repository_url().is_some() {
        return Err(Error::usage(
            "objectives stand in policies: status takes no repository by URL",
        ));
    }
    let now = app.cx.clock.now();
    let remote = args.remote.open(app)?;
    let lines = match remote {
        Some(remote) => {
            let mut lines: Vec<Line> = remote.status()?;
            lines.retain(|line| line.is_named_by(&args.sources));
            lines
        }
        None => look(app, args, now)?,
    };
    if lines.is_empty() {
        return Err(Error::not_found("no source of the policies is meant")
            .hint("`backstay check` lists them"));
    }
    if app.printer.is_json() {
        app.printer.json(&lines)?;
    } else {
        let rows: Vec<Vec<String>> = lines.iter().map(|line| cells(line, now)).collect();
        for row in table(&HEAD, &rows) {
            app.printer.data(row)?;
        }
        let fenced: BTreeSet<&String> =
            lines.iter().filter_map(|line| line.fenced.as_ref()).collect();
        for fence in fenced {
            app.printer.warning(fence);
        }
        for line in &lines {
            if let Some(problem) = &line.problem {
                app.printer.warning(&format!("{}: {problem}", line.source));
            }
        }
        tell_playbooks(app, &lines);
    }
    verdict(&lines)
}

/// A line for each playbook that could not be carried out when somebody looked last.
fn tell_playbooks(app: &App, lines: &[Line]) {
    let stacks: BTreeMap<&str, &BTreeMap<String, String>> = lines
        .iter()
        .filter_map(|line| Some((line.source.split_once('/')?.0, &line.playbooks)))
        .collect();
    for (stack, playbooks) in stacks {
        for (name, is) in playbooks {
            if is != ready::Readiness::Ready.word() {
                app.printer.talk(format!("playbook {stack}/{name}: {is}"));
            }
        }
    }
}

/// Whether each playbook of a stack could be carried out, as far as this machine knows.
fn playbooks(rows: Option<&[ReadinessRow]>, policy: &Policy) -> BTreeMap<String, String> {
    let Some(rows) = rows else { return BTreeMap::new() };
    let names = policy.playbooks.keys();
    names
        .filter_map(|name| {
            let plans = ready::plans(policy, name).ok()?;
            let is = ready::readiness(rows, (&policy.stack, name), &plans);
            Some((name.clone(), is.word().to_owned()))
        })
        .collect()
}

impl Line {
    fn is_named_by(&self, given: &[String]) -> bool {
        SourceAddress::parse(&self.source).is_ok_and(|address| address.is_named_by(given))
    }
}

/// What the repositories hold now.
fn look(app: &App, args: &Args, now: Timestamp) -> Result<Vec<Line>> {
    let set = app.policies(false)?;
    // What lies in the repositories tells more than what daemons remember.
    let ledger = app.ledger_of(&set.policies).map_err(|error| {
        app.printer.warning(&format!("what runs came to is not known: {}", error.chain()));
    });
    let ledger = ledger.ok();
    let state = app.state().ok();
    let memory = (ledger.as_deref(), state.as_ref());
    let readiness = state.as_ref().and_then(|state| state.readiness().ok());
    let mut lines = Vec::new();
    for policy in &set.policies {
        let wanted: Vec<SourceAddress> = policy
            .sources
            .keys()
            .map(|source| SourceAddress::new(&policy.stack, source))
            .filter(|address| address.is_named_by(&args.sources))
            .collect();
        if wanted.is_empty() {
            continue;
        }
        let mut repositories: BTreeMap<&str, Result<Opened>> = BTreeMap::new();
        let mut free = BTreeMap::new();
        for (name, repository) in &policy.repositories {
            repositories.insert(name, app.open(policy, name));
            let local = repository.local();
            if let Some(Ok(bytes)) = local.map(|local| free_bytes(&local.path)) {
                free.insert(name.clone(), bytes);
            }
        }
        let fenced = app.standing(policy)?.fence(&policy.stack);
        let playbooks = playbooks(readiness.as_deref(), policy);
        for address in wanted {
            let line = line(memory, policy, &address, &repositories, now);
            lines.push(Line {
                fenced: fenced.clone(),
                playbooks: playbooks.clone(),
                free_bytes: free.clone(),
                ..line
            });
        }
    }
    Ok(lines)
}

fn verdict(lines: &[Line]) -> Result<ExitStatus> {
    let is = |verdict| lines.iter().filter(|line| line.verdict == verdict).count() as u64;
    if is(Verdict::Missed) + is(Verdict::Unprotected) > 0 {
        return Ok(ExitStatus::ObjectiveMissed);
    }
    match is(Verdict::Unknown) {
        0 => Ok(ExitStatus::Done),
        unknown => Err(Error::failed(format!(
            "nobody can tell how well {} protected",
            if unknown == 1 { "a source is".to_owned() } else { format!("{unknown} sources are") }
        ))
        .hint("a repository does not answer: another one may, see ELSEWHERE")),
    }
}

fn line(
    (ledger, state): (Option<&dyn Ledger>, Option<&State>),
    policy: &Policy,
    address: &SourceAddress,
    repositories: &BTreeMap<&str, Result<Opened>>,
    now: Timestamp,
) -> Line {
    let objectives = policy.objectives_of(&address.source);
    let home = policy.repository_of(&address.source).map(|(name, _)| name);
    let mut known = false;
    let mut holding = Holding::default();
    let mut proven = Proven::default();
    let mut elsewhere = BTreeMap::new();
    let mut unreachable = BTreeMap::new();
    let mut stored = BTreeMap::new();
    for (name, opened) in repositories {
        let found = match opened {
            Ok(opened) => holding_in(opened, address, now).map(|found| (opened, found)),
            Err(error) => Err(Error::failed(error.chain())),
        };
        match found {
            Ok((opened, found)) => {
                let is_home = Some(*name) == home;
                proven.add(state, opened, address, &found, is_home);
                stored.insert((*name).to_owned(), found.stored);
                if is_home {
                    (holding, known) = (found, true);
                } else if let Some(newest) = found.newest.filter(|newest| !lies_ahead(newest, now))
                {
                    elsewhere.insert((*name).to_owned(), newest.time);
                }
            }
            Err(error) => {
                unreachable.insert((*name).to_owned(), error.chain());
            }
        }
    }
    // What other places hold is no reason to doubt what is here.
    let problem = home.and_then(|home| unreachable.get(home).cloned());
    let newest = holding.newest.clone();
    let ahead = newest.as_ref().filter(|newest| lies_ahead(newest, now)).map(|newest| {
        format!(
            "its newest recovery point is of {}, which lies ahead: a clock was wrong, or is now, \
             and nobody can tell what would be lost",
            format::time(newest.time)
        )
    });
    let replicated = elsewhere.values().max().copied();
    let measured = newest.as_ref().filter(|_| ahead.is_none());
    let exposure = measured.map(|newest| exposure(newest.time, now));
    let recovery = proven.recovery.as_ref();
    let estimate = recovery.map(|recovery| estimate(recovery, &holding));
    let late = [
        (
            "rpo",
            ahead.is_some() || exposure.is_some_and(|exposure| exposure > objectives.rpo.as_secs()),
        ),
        ("rto", estimate.is_some_and(|estimate| estimate > objectives.rto.as_secs())),
    ];
    let late = late.into_iter().filter(|(_, late)| *late);
    let missed: Vec<String> = late.map(|(name, _)| name.to_owned()).collect();
    let verdict = match exposure {
        _ if !known => Verdict::Unknown,
        None if newest.is_none() => Verdict::Unprotected,
        _ if !missed.is_empty() => Verdict::Missed,
        _ => Verdict::Holds,
    };
    Line {
        source: address.to_string(),
        tier: policy.tier,
        rpo_seconds: objectives.rpo.as_secs(),
        rto_seconds: objectives.rto.as_secs(),
        newest,
        ahead: ahead.is_some(),
        exposure_seconds: exposure,
        replicated,
        elsewhere,
        repository: home.map(str::to_owned),
        unreachable,
        holding,
        stored,
        free_bytes: BTreeMap::new(),
        newest_verified: proven.newest.map(|depth| depth.word().to_owned()),
        verified: proven.sound,
        damaged: proven.damaged.len(),
        measured_rto_seconds: recovery.map(|recovery| recovery.seconds().ceil() as u64),
        measured_rto_at: recovery.map(|recovery| recovery.at),
        estimated_rto_seconds: estimate,
        missed,
        last_run: last_run(ledger, address),
        next_run: next_run(ledger, policy, &address.source, now),
        verdict,
        fenced: None,
        problem: problem.or(ahead),
        playbooks: BTreeMap::new(),
    }
}

/// What lies in a repository. The newest instant is one that does not lie ahead, if there is one:
/// backups of a wrong clock hide no others.
fn holding_in(opened: &Opened, address: &SourceAddress, now: Timestamp) -> Result<Holding> {
    let listed = list_backups(&opened.repository, &|other| other == address)?;
    let manifests: Vec<_> = listed.into_iter().filter_map(|one| one.manifest.ok()).collect();
    let source = opened.repository.source(address);
    let holding = protection::holding(&source, &manifests)?;
    if !holding.newest.as_ref().is_some_and(|newest| lies_ahead(newest, now)) {
        return Ok(holding);
    }
    let is_past = |manifest: &Manifest| {
        !manifest.recovery_points.iter().any(|point| is_ahead(point.time, now))
    };
    let past: Vec<Manifest> = manifests.into_iter().filter(is_past).collect();
    let newest = protection::newest(&source, &past)?.or_else(|| holding.newest.clone());
    let newest_objects = newest.as_ref().map(|newest| protection::objects_of(&past, newest));
    let newest_objects = newest_objects.unwrap_or_default();
    Ok(Holding { newest, newest_objects, ..holding })
}

/// Whether the newest instant is of a clock that was wrong. That of WAL is by the store's.
fn lies_ahead(newest: &Newest, now: Timestamp) -> bool {
    !newest.by_wal && is_ahead(newest.time, now)
}

/// What verifications found.
#[derive(Default)]
struct Proven {
    sound: BTreeMap<String, Timestamp>,
    /// Repository and object.
    damaged: BTreeSet<(String, String)>,
    /// The last time that it was brought back, from any of the repositories.
    recovery: Option<Recovery>,
    /// How the newest backup of its own repository was found sound as a whole.
    newest: Option<ProofDepth>,
}

impl Proven {
    /// Adds what is remembered of one repository. What belongs to no backup any more does not count.
    fn add(
        &mut self,
        state: Option<&State>,
        opened: &Opened,
        address: &SourceAddress,
        holding: &Holding,
        is_home: bool,
    ) {
        let id = &opened.repository.descriptor().id;
        let recoveries = state.and_then(|state| state.recoveries(id, &address.to_string()).ok());
        let sound = recoveries.unwrap_or_default().into_iter().rfind(|one| one.verdict == "proven");
        if let Some(recovery) = sound
            && self.recovery.as_ref().is_none_or(|last| last.at < recovery.at)
        {
            self.recovery = Some(recovery);
        }
        let proofs = state.and_then(|state| state.proofs(id, &address.to_string()).ok());
        let (mut content, mut any) = (BTreeSet::new(), BTreeSet::new());
        for proof in proofs.unwrap_or_default() {
            match proof.result {
                ProofResult::Sound => {
                    any.insert(proof.object.clone());
                    if proof.depth == ProofDepth::Content {
                        content.insert(proof.object.clone());
                    }
                    let last =
                        self.sound.entry(proof.depth.word().to_owned()).or_insert(proof.proven_at);
                    *last = proof.proven_at.max(*last);
                }
                ProofResult::Damaged if holding.objects.contains(&proof.object) => {
                    self.damaged.insert((id.clone(), proof.object));
                }
                ProofResult::Damaged => {}
            }
        }
        let all = |sound: &BTreeSet<String>| {
            let damaged = |object: &String| self.damaged.contains(&(id.clone(), object.clone()));
            let newest = &holding.newest_objects;
            !newest.is_empty() && newest.iter().all(|one| sound.contains(one) && !damaged(one))
        };
        if is_home {
            self.newest = if all(&content) {
                Some(ProofDepth::Content)
            } else {
                all(&any).then_some(ProofDepth::Stored)
            };
        }
    }
}

/// How long it would take now: what was measured, and the restore longer or shorter as there is
/// more or less than then. WAL to replay takes what it took.
fn estimate(recovery: &Recovery, holding: &Holding) -> u64 {
    let newest = holding.sizes.iter().max_by(|one, other| one.backup.cmp(&other.backup));
    let ratio = match newest {
        Some(newest) if recovery.bytes > 0 => newest.bytes as f64 / recovery.bytes as f64,
        _ => 1.0,
    };
    (recovery.restore_seconds * ratio + recovery.recovery_seconds).ceil() as u64
}

fn exposure(newest: Timestamp, now: Timestamp) -> u64 {
    u64::try_from(now.duration_since(newest).as_secs()).unwrap_or(0)
}

/// The last run of a daemon that is over, as far as one is known.
fn last_run(ledger: Option<&dyn Ledger>, address: &SourceAddress) -> Option<RunRow> {
    let filter = RunFilter {
        stack: Some(address.stack.clone()),
        source: Some(address.source.clone()),
        states: vec![RunState::Succeeded, RunState::Failed, RunState::Missed, RunState::Abandoned],
        limit: 1,
        ..RunFilter::default()
    };
    ledger?.runs(&filter).ok()?.pop()
}

/// When a job is due for the source next, by its own schedule.
fn next_run(
    ledger: Option<&dyn Ledger>,
    policy: &Policy,
    source: &str,
    now: Timestamp,
) -> Option<Timestamp> {
    let shared = ledger.is_some_and(Ledger::is_shared);
    let host = policy.sources.get(source)?.host.as_ref();
    let here = shared || host.is_none_or(|host| *host == host_name());
    let zone = policy.time_zone();
    policy
        .jobs_of(source)
        .filter(|(_, job)| here && !matches!(job.schedule, Schedule::After(_)))
        .filter_map(|(_, job)| timetable::next_due(job, now, false, &zone))
        .map(|(_, due)| due)
        .min()
}

const HEAD: [(&str, Align); 10] = [
    ("SOURCE", Align::Left),
    ("TIER", Align::Left),
    ("NEWEST", Align::Left),
    ("VERIFIED", Align::Left),
    ("LOST NOW", Align::Right),
    ("RPO", Align::Right),
    ("RTO", Align::Right),
    ("ELSEWHERE", Align::Left),
    ("NEXT RUN", Align::Left),
    ("VERDICT", Align::Left),
];

fn cells(line: &Line, now: Timestamp) -> Vec<String> {
    let time = |at: Option<Timestamp>| at.map_or("-".to_owned(), format::time);
    let newest = line.newest.as_ref().map(|newest| newest.time);
    let by_wal =
        if line.newest.as_ref().is_some_and(|newest| newest.by_wal) { " (WAL)" } else { "" };
    let verdict = match line.verdict {
        Verdict::Holds => "holds".to_owned(),
        Verdict::Missed if line.missed == ["rto"] => {
            let estimate = line.estimated_rto_seconds.unwrap_or_default();
            format!("MISSED: recovery would take {}", format::span(estimate))
        }
        Verdict::Missed if line.ahead => "MISSED: the newest point lies ahead".to_owned(),
        Verdict::Missed => "MISSED".to_owned(),
        Verdict::Unprotected => "UNPROTECTED: nothing of it can be restored".to_owned(),
        Verdict::Unknown => "UNKNOWN: the repository cannot be asked".to_owned(),
    };
    let failed = line.last_run.as_ref().filter(|run| run.state != RunState::Succeeded);
    let verdict = match failed {
        Some(run) => format!("{verdict}; the last run {}", run.state.word()),
        None => verdict,
    };
    let verdict = match line.damaged {
        0 => verdict,
        damaged => format!("{verdict}; DAMAGED objects: {damaged}"),
    };
    vec![
        line.source.clone(),
        match line.tier {
            None => "-",
            Some(Tier::Development) => "development",
            Some(Tier::Staging) => "staging",
            Some(Tier::Production) => "production",
        }
        .to_owned(),
        format!("{}{by_wal}", time(newest)),
        match &line.newest_verified {
            _ if newest.is_none() => "-".to_owned(),
            None => "no".to_owned(),
            Some(depth) => depth.clone(),
        },
        match newest {
            Some(_) if line.ahead => "?".to_owned(),
            newest => newest.map_or("-".to_owned(), |newest| format::span(exposure(newest, now))),
        },
        format::span(line.rpo_seconds),
        match line.measured_rto_seconds {
            None => format::span(line.rto_seconds),
            Some(seconds) => {
                format!("{}, took {}", format::span(line.rto_seconds), format::span(seconds))
            }
        },
        time(line.replicated),
        time(line.next_run),
        verdict,
    ]
}
