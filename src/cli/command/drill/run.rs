//! `backstay drill run`

use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use secrecy::ExposeSecret as _;
use serde::Serialize;

use super::plan::look_only;
use super::{aborted, lost, place};
use crate::cli::command::playbook::person;
use crate::cli::setup::{App, Opened};
use crate::cli::time::{instant, whole_second};
use crate::cli::{ExitStatus, format};
use crate::drill::catalogue;
use crate::drill::evidence::{
    EVIDENCE, Evidence, JOURNAL, REPORT_HTML, REPORT_MARKDOWN, RpoBasis, Severity, Verdict,
};
use crate::drill::hold::{Tools, hold};
use crate::drill::only_objectives;
use crate::drill::plan::{Plan, Wanted, plan};
use crate::drill::ready::{self, Looking};
use crate::drill::report;
use crate::drill::seal::{Named, seal};
use crate::drill::sshsig::Signer;
use crate::error::{Error, IoContext as _, Result};
use crate::id;
use crate::policy::{Drill, Period, PointChoice, Policy, Scenario, SourceSpec};
use crate::run::lock::LockTerms;
use crate::state::Recovery;
use crate::store::{EvidenceStore, Lock, Repository, Web};

/// How many earlier drills of the same name a trend has.
const EARLIER: usize = 20;

/// How long evidence is locked where nothing is said: until everything was to be held once more.
const LOCKED: Period = Period::from_secs(365 * 24 * 3600);

/// Recover into a sandbox, check, measure, and leave evidence.
///
/// Servers are started on sockets of their own, with a network of their own where the system allows it
/// (for root). Everything is removed at the end; what a killed drill left is removed by the next one.
/// Exit codes: 0 PASS and PASS WITH FINDINGS, 4 an objective is missed and nothing else is wrong, 1 FAIL
/// and INCONCLUSIVE.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A drill of the policy: STACK/NAME, or NAME. Without one, or with a STACK, every source of the stack is
    /// recovered.
    #[arg(value_name = "NAME")]
    pub(super) name: Option<String>,

    /// Only this source. May be given several times.
    #[arg(long, value_name = "SOURCE")]
    source: Vec<String>,

    /// The newest recovery point, or any by chance.
    #[arg(long, value_enum, value_name = "WHICH", group = "aim")]
    recovery_point: Option<PointArg>,

    /// The newest point of each source not after this instant: 2026-11-21T02:00:00Z, or with a zone.
    #[arg(long, value_name = "TIME", group = "aim")]
    at: Option<String>,

    /// This backup, of one source.
    #[arg(long, value_name = "ID", group = "aim")]
    backup: Option<String>,

    /// What is supposed to have happened.
    #[arg(long, value_enum, value_name = "SCENARIO")]
    pub(super) scenario: Option<ScenarioArg>,

    /// Make a choice by chance again: as the report of a drill says.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// When what is supposed to have happened did. Default: the instant that is aimed at, or now.
    #[arg(long, value_name = "TIME")]
    failed_at: Option<String>,

    /// A directory with room for what is recovered. Default: the policy's, or that for temporary files.
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,

    /// The directory of PostgreSQL's programs. Default: the policy's, or looked for.
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,

    /// With --repository URL: make the queries, requests and commands of the policy that lies in the
    /// repository. Read it first.
    #[arg(long)]
    pub(super) trust_policy: bool,

    /// Look at the repositories, the recovery points, the programs and the place, say what would be done, and
    /// do nothing. Something is missing: exit code 1.
    #[arg(long)]
    dry_run: bool,
}

/// What is aimed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum PointArg {
    /// As new as there is.
    Latest,
    /// Any instant since the oldest recovery point that all sources have.
    Random,
}

/// Scenarios, as the command line spells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum ScenarioArg {
    /// The site is gone.
    SiteLost,
    /// One source is gone.
    SourceLost,
    /// Somebody deleted or changed something: needs --at.
    ObjectLost,
    /// A table was dropped: needs --at.
    TableDropped,
    /// Data went bad long ago: needs --at, or --recovery-point random.
    LateCorruption,
    /// The repository is gone: needs --repository NAME of the one with the copy.
    RepositoryLost,
    /// Every machine that knew of the backups is gone: needs --repository URL and --identity, and no
    /// policy, which is read from the repository.
    BackstayLost,
    /// Whoever broke in deleted what nothing kept: only what object lock keeps is used, as the
    /// repository was at --repository-at TIME, or is now.
    Ransomware,
    /// Keys were exchanged since: the oldest backup of a key that is not used any more.
    OldKeys,
}

impl From<ScenarioArg> for Scenario {
    fn from(scenario: ScenarioArg) -> Self {
        match scenario {
            ScenarioArg::SiteLost => Self::SiteLost,
            ScenarioArg::SourceLost => Self::SourceLost,
            ScenarioArg::ObjectLost => Self::ObjectLost,
            ScenarioArg::TableDropped => Self::TableDropped,
            ScenarioArg::LateCorruption => Self::LateCorruption,
            ScenarioArg::RepositoryLost => Self::RepositoryLost,
            ScenarioArg::BackstayLost => Self::BackstayLost,
            ScenarioArg::Ransomware => Self::Ransomware,
            ScenarioArg::OldKeys => Self::OldKeys,
        }
    }
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    if app.repository_url().is_some() {
        return lost::run(app, args);
    }
    if args.trust_policy || args.scenario == Some(ScenarioArg::BackstayLost) {
        return Err(Error::usage("Backstay is lost: then there is no policy either")
            .hint("--repository URL --identity FILE, and no --policy"));
    }
    let set = app.policies_to_read()?;
    let (policy, name) = place::find(&set, args.name.as_deref())?;
    // The evidence is written now, whatever is read as it was.
    let open = |name: &str| app.open_as_of(policy, name, None);
    let read = |name: &str, at| app.open_as_of(policy, name, at);
    run_with(app, args, &Given { policy, name, open: &open, read: &read, commands: true })
}

/// What a drill is held of.
pub(super) struct Given<'a> {
    /// The policy.
    pub policy: &'a Policy,
    /// A drill of it.
    pub name: Option<String>,
    /// Opens a repository of the policy.
    pub open: &'a dyn Fn(&str) -> Result<Opened>,
    /// The same as it was at an instant.
    pub read: &'a dyn Fn(&str, Option<Timestamp>) -> Result<Opened>,
    /// Whether commands of the policy may be run.
    pub commands: bool,
}

/// Holds it.
pub(super) fn run_with(app: &App, args: &Args, given: &Given<'_>) -> Result<ExitStatus> {
    let Given { policy, name, commands, .. } = given;
    let wanted = wanted(app, policy, args, name.clone())?;
    let plan = plan(policy, &wanted)?;
    let drill = wanted.name.as_ref().and_then(|name| policy.drills.get(name)).cloned();
    let mut drill = drill.unwrap_or_default();
    if !*commands {
        // Where a policy that nobody trusts wants programs run from, and files written.
        (drill.programs, drill.scratch) = (None, None);
    }
    let failed_at = args.failed_at.as_deref().map(|text| instant(app, text)).transpose()?;
    let when = When::of(app, &plan, failed_at)?;
    let temporary = std::env::temp_dir();
    let scratch = args.scratch.as_deref().or(drill.scratch.as_deref()).unwrap_or(&temporary);
    refuse_inside(policy, scratch)?;
    let open = |name: &str| {
        let opened = (given.read)(name, when.repository_at)?;
        Ok((opened.repository, opened.keys))
    };
    let programs = args.programs.as_deref().or(drill.programs.as_deref());
    let looking =
        Looking { policy, drill: &drill, open: &open, scratch, programs, commands: *commands };
    if args.dry_run {
        return look_only(app, given, &plan, &looking);
    }
    let (evidence, place) = carry_out(app, given, &plan, &looking, &when, true)?;
    tell_outcome(app, &evidence, place.as_ref().ok().and_then(Option::as_ref))?;
    place?;
    if app.printer.is_json() && !evidence.verdict.is_good() {
        app.printer.error(&bad(&evidence));
    }
    Ok(status_of(&evidence))
}

/// Instants that a drill is about.
pub(super) struct When {
    /// When it begins.
    pub now: Timestamp,
    /// When what is supposed to have happened did.
    pub failed_at: Option<Timestamp>,
    /// The repositories are read as they were then.
    pub repository_at: Option<Timestamp>,
}

impl When {
    /// Those of a plan, and of what was asked for.
    pub fn of(app: &App, plan: &Plan, failed_at: Option<Timestamp>) -> Result<Self> {
        let now = app.cx.clock.now();
        if failed_at.is_some_and(|at| at > now) {
            return Err(Error::usage("--failed-at is in the future"));
        }
        let repository_at = app.repository_at()?;
        if repository_at.is_some_and(|at| at > now) {
            return Err(Error::usage("--repository-at is in the future"));
        }
        let attack = plan.scenario == Scenario::Ransomware;
        let failed_at = failed_at.or(repository_at.filter(|_| attack));
        // What was deleted before this moment is gone for a plain read, too.
        let repository_at = repository_at.or_else(|| attack.then_some(now));
        Ok(Self { now, failed_at, repository_at })
    }
}

/// Where the evidence of a drill lies, if it is kept; or why it does not lie in its repository.
pub(super) type Kept = Result<Option<String>>;

/// Holds a drill, and leaves evidence of it where that is wanted.
///
/// # Errors
/// Where it cannot begin. What goes wrong later is in the evidence.
pub(super) fn carry_out(
    app: &App,
    given: &Given<'_>,
    plan: &Plan,
    looking: &Looking<'_>,
    when: &When,
    keeps: bool,
) -> Result<(Evidence, Kept)> {
    let (policy, drill) = (given.policy, looking.drill);
    // What somebody got wrong is no finding: there is no evidence of it.
    ready::refuse(plan, looking)?;
    let signer = if keeps { signer(app, drill)? } else { None };
    let evidence = if keeps { Some(evidence_store(given, drill, when.now)?) } else { None };
    if keeps {
        aborted::keep(app, given);
    }
    let earlier =
        evidence.as_ref().map(|(store, _)| earlier(store, policy, plan)).unwrap_or_default();
    let id = id::run_id(when.now);
    let printer = app.printer.clone();
    let tell = |line: &str| printer.talk(format!("  {line}"));
    let tools = Tools {
        policy,
        drill,
        id: &id,
        open: looking.open,
        scratch: looking.scratch,
        programs: looking.programs,
        failed_at: when.failed_at,
        repository_at: when.repository_at,
        user: &person(None)?.to_string(),
        commands: looking.commands,
        signed: signer.is_some(),
        earlier: &earlier,
        web: &Web::new(app.runtime.handle().clone()),
        tell: &tell,
        cx: &app.cx,
    };
    let begun = if keeps { aborted::begin(app, &id) } else { None };
    let held = app.display.during(&app.cx.reporter, || hold(plan, &tools, begun))?;
    remember(app, given, &held.evidence);
    let kept = match &evidence {
        None => Ok(None),
        Some(store) => {
            let files = files(&held.evidence, &held.journal, drill, signer.as_ref())?;
            keep(app, store, policy, &id, &files).map(Some)
        }
    };
    if let Some(begun) = held.begun {
        begun.is_over();
    }
    Ok((held.evidence, kept))
}

/// How a command ends that held a drill.
pub(super) fn status_of(evidence: &Evidence) -> ExitStatus {
    match evidence.verdict {
        Verdict::Pass | Verdict::PassWithFindings => ExitStatus::Done,
        Verdict::Fail if only_objectives(&evidence.findings) => ExitStatus::ObjectiveMissed,
        Verdict::Fail | Verdict::Inconclusive => ExitStatus::Failed,
    }
}

/// Refuses a sandbox inside of what is protected, or of a repository.
pub(super) fn refuse_inside(policy: &Policy, scratch: &Path) -> Result<()> {
    let Ok(scratch) = scratch.canonicalize() else { return Ok(()) };
    let repositories = policy.repositories.values().filter_map(|one| one.local());
    let sources = policy.sources.values().filter_map(|source| match &source.spec {
        SourceSpec::Directory(directory) => Some(directory.paths()),
        _ => None,
    });
    let mut all = repositories.map(|local| local.path.as_path()).chain(sources.flatten());
    let around = |path: &&Path| path.canonicalize().is_ok_and(|path| scratch.starts_with(path));
    match all.find(around) {
        None => Ok(()),
        Some(path) => Err(Error::usage(format!(
            "the sandbox would lie in {}, which is backed up or a repository",
            path.display()
        ))
        .hint("--scratch DIR elsewhere, with room for what is recovered")),
    }
}

/// What whoever has drills held reads of one that did not end well: the gravest finding.
pub(super) fn bad(evidence: &Evidence) -> Error {
    let gravest = evidence.findings.iter().rev().max_by_key(|finding| finding.severity);
    let text = gravest.map_or("nobody knows why", |finding| finding.text.as_str());
    Error::failed(format!("the drill ended with {}: {text}", evidence.verdict.words()))
        .hint(format!("backstay drill report {}", evidence.drill))
}

fn wanted(app: &App, policy: &Policy, args: &Args, name: Option<String>) -> Result<Wanted> {
    let at = args.at.as_deref().map(|text| instant(app, text)).transpose()?.map(whole_second);
    if at.is_some_and(|at| at > app.cx.clock.now()) {
        return Err(Error::usage("--at is in the future"));
    }
    let sources = args
        .source
        .iter()
        .map(|given| match given.split_once('/') {
            Some((stack, source)) if stack == policy.stack => Ok(source.to_owned()),
            Some((stack, _)) => {
                Err(Error::usage(format!("`{stack}` is not the stack of the drill")))
            }
            None => Ok(given.clone()),
        })
        .collect::<Result<indexmap::IndexSet<_>>>()?;
    let sources: Vec<String> = sources.into_iter().collect();
    if args.backup.is_some() && sources.len() != 1 {
        return Err(Error::usage("--backup is of one source").hint("say which: --source SOURCE"));
    }
    let choice = args.recovery_point.map(|which| match which {
        PointArg::Latest => PointChoice::Latest,
        PointArg::Random => PointChoice::Random,
    });
    Ok(Wanted {
        name,
        sources,
        choice,
        at,
        backup: args.backup.clone(),
        seed: args.seed,
        scenario: match app.repository_url() {
            Some(_) => Some(Scenario::BackstayLost),
            None => args.scenario.map(Scenario::from),
        },
        repository: app.global.repository.clone().filter(|_| app.repository_url().is_none()),
    })
}

/// Who signs. On a machine that has nothing there is no key either.
pub(super) fn signer(app: &App, drill: &Drill) -> Result<Option<Signer>> {
    if app.repository_url().is_some() {
        return Ok(None);
    }
    let Some(reference) = &drill.sign_with else { return Ok(None) };
    let secret = reference.resolve()?;
    Signer::parse(secret.expose_secret()).map(Some)
}

/// Where the evidence goes: a repository that answers before anything is begun.
pub(super) fn evidence_store(
    given: &Given<'_>,
    drill: &Drill,
    now: Timestamp,
) -> Result<(Repository, Option<Lock>)> {
    let policy = given.policy;
    let first = policy.default_repository().map(|(name, _)| name.to_owned());
    let name = drill.evidence.as_ref().map(|place| place.repository.clone()).or(first);
    let name = name.ok_or_else(|| Error::usage("the policy has no repository"))?;
    let opened = (given.open)(&name).map_err(|error| {
        error.context(format!("failed to open repository `{name}`, where the evidence goes"))
    })?;
    let locking = policy.repositories.get(&name).and_then(|one| one.object_lock.as_ref());
    let Some(locking) = locking else { return Ok((opened.repository, None)) };
    opened.repository.store().check_locking()?;
    let period = drill.evidence.as_ref().and_then(|place| place.locked_for);
    let period = SignedDuration::try_from(period.unwrap_or(LOCKED).get()).unwrap_or_default();
    let terms = LockTerms { mode: locking.mode, period };
    Ok((opened.repository, terms.lock(now, now)))
}

/// Drills of the same name before this one, oldest first.
fn earlier(store: &Repository, policy: &Policy, plan: &Plan) -> Vec<Evidence> {
    let listed = catalogue::list(store.store(), &policy.stack, 200).unwrap_or_default();
    let mut earlier: Vec<Evidence> = listed
        .into_iter()
        .filter_map(|one| one.evidence.ok())
        .filter(|evidence| evidence.name == plan.name && evidence.mode == plan.mode)
        .collect();
    earlier.split_off(earlier.len().saturating_sub(EARLIER))
}

/// The files of evidence.
pub(super) fn files(
    held: &Evidence,
    journal: &str,
    drill: &Drill,
    signer: Option<&Signer>,
) -> Result<Vec<Named>> {
    let mut evidence = serde_json::to_vec_pretty(held)
        .map_err(|error| Error::failed("failed to write the evidence").with_source(error))?;
    evidence.push(b'\n');
    let language = drill.language.unwrap_or_default();
    let files = vec![
        (EVIDENCE.to_owned(), evidence.into()),
        (JOURNAL.to_owned(), journal.to_owned().into()),
        (REPORT_HTML.to_owned(), report::html(held, language).into()),
        (REPORT_MARKDOWN.to_owned(), report::markdown(held, language).into()),
    ];
    Ok(seal(files, signer))
}

/// Writes the evidence, and says where it is. Where the repository does not take it, it is kept on this
/// machine.
fn keep(
    app: &App,
    (repository, lock): &(Repository, Option<Lock>),
    policy: &Policy,
    id: &str,
    files: &[Named],
) -> Result<String> {
    let store = EvidenceStore::new(repository.store(), &policy.stack, id).locked(*lock);
    let written = files.iter().try_for_each(|(name, bytes)| store.create(name, bytes));
    let Err(error) = written else {
        return Ok(match repository.store().directory() {
            Some(directory) => directory
                .join(crate::store::layout::evidence_file(&policy.stack, id, ""))
                .display()
                .to_string(),
            None => match lock {
                Some(lock) => format!("{}, locked until {}", store.place(), lock.until),
                None => store.place(),
            },
        });
    };
    let local = app.state_directory()?.join("drills").join(&policy.stack).join(id);
    save(&local, files)?;
    Err(error
        .context("failed to write the evidence to the repository")
        .hint(format!("it is kept in {}", local.display())))
}

fn save(directory: &Path, files: &[Named]) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let failed = || format!("failed to write {}", directory.display());
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).doing(failed)?;
    files
        .iter()
        .try_for_each(|(name, bytes)| std::fs::write(directory.join(name), bytes))
        .doing(failed)
}

/// Keeps how long each source took: that is what a recovery is estimated from.
fn remember(app: &App, given: &Given<'_>, evidence: &Evidence) {
    let kept = app.state().and_then(|state| {
        if given.name.is_some() {
            state.put_drill(&catalogue::in_row(evidence))?;
        }
        for source in evidence.sources.iter().filter(|source| source.restored) {
            let opened = (given.read)(&source.repository, evidence.repository_at)?;
            let damaged = evidence.findings.iter().any(|finding| {
                finding.severity == Severity::Failure
                    && finding.source.as_ref() == Some(&source.source)
            });
            let verdict = match (damaged, source.not_proven.is_empty()) {
                (true, _) => "damaged",
                (false, true) => "proven",
                (false, false) => "inconclusive",
            };
            let recovery = Recovery {
                backup: source.backup.clone().unwrap_or_default(),
                at: evidence.started,
                bytes: source.bytes,
                restore_seconds: source.rto.restore_seconds,
                recovery_seconds: source.rto.recovery_seconds,
                check_seconds: source.rto.check_seconds,
                verdict: verdict.to_owned(),
            };
            let address = format!("{}/{}", evidence.stack, source.source);
            state.record_recovery(&opened.repository.descriptor().id, &address, &recovery)?;
        }
        Ok(())
    });
    if let Err(error) = kept {
        app.printer.warning(&format!("how long it took will not be remembered: {}", error.chain()));
    }
}

#[derive(Serialize)]
struct Outcome<'a> {
    evidence: &'a Evidence,
    place: Option<&'a String>,
}

pub(super) fn tell_outcome(app: &App, evidence: &Evidence, place: Option<&String>) -> Result<()> {
    if app.printer.is_json() {
        return app.printer.json(&Outcome { evidence, place });
    }
    let printer = &app.printer;
    printer.data(format!(
        "{}  {}/{}  {}",
        evidence.verdict.words(),
        evidence.stack,
        evidence.name,
        evidence.drill
    ))?;
    let measured = |value: Option<f64>| value.map_or("not measured".to_owned(), format::seconds);
    let phases: Vec<String> = evidence
        .phases
        .iter()
        .filter(|phase| phase.name != "cleanup")
        .map(|phase| format!("{} {}", phase.name, format::seconds(phase.seconds)))
        .collect();
    printer.data(format!(
        "  RTO {} of {}: {}",
        measured(evidence.rto.from_declaration_seconds),
        format::span(evidence.rto.target_seconds),
        phases.join(", ")
    ))?;
    for source in &evidence.sources {
        let by = match source.rpo.basis {
            RpoBasis::Heartbeat => ", by the heartbeat in the copy",
            RpoBasis::LastCommit => " at most, by the last commit replayed",
            RpoBasis::Snapshot => " at most, by the instant of the copy",
            RpoBasis::None => "",
        };
        printer.data(format!(
            "  RPO {} of {}: {}{by}",
            measured(source.rpo.seconds),
            format::span(source.rpo.target_seconds),
            source.source
        ))?;
    }
    if let Some(skew) = evidence.skew_seconds {
        printer.data(format!("  the sources' copies lie {} apart", format::seconds(skew)))?;
    }
    for finding in &evidence.findings {
        let word = match finding.severity {
            Severity::Note => "note",
            Severity::Finding => "finding",
            Severity::Unproven => "NOT PROVEN",
            Severity::Objective => "OBJECTIVE MISSED",
            Severity::Failure => "WRONG",
        };
        let of = finding.source.as_ref().map(|source| format!("{source}: ")).unwrap_or_default();
        printer.data(format!("  {word}: {of}{}", finding.text))?;
    }
    if let Some(place) = place {
        printer.data(format!("  evidence: {place}"))?;
    }
    if place.is_some() {
        printer.talk(format!("`backstay drill report {}` shows all of it", evidence.drill));
    }
    Ok(())
}
