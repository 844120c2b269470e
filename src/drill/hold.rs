//! Holding a drill: from a plan to evidence.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;

use super::begun::Begun;
use super::contain::{Address, addresses};
use super::evidence::{
    Check, Cleanup, Earlier, Environment, Evidence, Finding, JournalEnd, NOT_SIGNED, Phase, Probe,
    Reach, Rpo, RpoBasis, Rto, Scope, Severity, SourceResult, SourceRto, Step, StepState, VERSION,
    Verdict,
};
use super::journal::{Event, Journal, clock_step};
use super::measure;
use super::plan::{Plan, Planned, left_out};
use crate::archive::crypt::Keyring;
use crate::archive::digest::sha256_hex;
use crate::archive::manifest::Manifest;
use crate::error::{Error, ErrorKind, Result};
use crate::policy::{Drill, Policy};
use crate::run::prove::{self, Live};
use crate::run::{Context, host_name};
use crate::source::isolation;
use crate::store::{Repository, Web};

/// Opens a repository of the policy, and says what opens its content.
pub type Open<'a> = dyn Fn(&str) -> Result<(Repository, Keyring)> + 'a;

/// What a drill works with.
pub struct Tools<'a> {
    /// The policy.
    pub policy: &'a Policy,
    /// The drill as the policy has it; an empty one for one that it does not name.
    pub drill: &'a Drill,
    /// Its id.
    pub id: &'a str,
    /// Opens repositories.
    pub open: &'a Open<'a>,
    /// A directory with room for what is recovered.
    pub scratch: &'a Path,
    /// The directory of PostgreSQL's programs, where they are not to be looked for.
    pub programs: Option<&'a Path>,
    /// When what is supposed to have happened did, where somebody says so.
    pub failed_at: Option<Timestamp>,
    /// The instant at which repositories are read, where it is not now.
    pub repository_at: Option<Timestamp>,
    /// Who holds it.
    pub user: &'a str,
    /// Whether commands of the policy may be run.
    pub commands: bool,
    /// Whether the evidence is going to be signed.
    pub signed: bool,
    /// Drills of the same name before this one, oldest first.
    pub earlier: &'a [Evidence],
    /// Sends requests of checks.
    pub web: &'a Web,
    /// Is told a line when something is done.
    pub tell: &'a dyn Fn(&str),
    /// Reporter, clock and sizes.
    pub cx: &'a Context,
}

/// A drill that was held.
pub struct Held {
    /// What is written down of it.
    pub evidence: Evidence,
    /// Its journal, as it is stored.
    pub journal: String,
    /// What this machine keeps of it until its evidence is written.
    pub begun: Option<Begun>,
}

pub(super) struct Holding<'a> {
    pub(super) tools: &'a Tools<'a>,
    pub(super) plan: &'a Plan,
    pub(super) journal: Journal<'a>,
    pub(super) findings: Vec<Finding>,
    pub(super) phases: Vec<Phase>,
    pub(super) steps: Vec<Step>,
    pub(super) checks: Vec<Check>,
    pub(super) sources: Vec<SourceResult>,
    pub(super) isolated: bool,
    pub(super) production: Vec<Address>,
    pub(super) probes: Vec<Probe>,
}

/// A backup that is going to be brought back.
pub(super) struct Chosen<'a> {
    pub(super) planned: &'a Planned,
    pub(super) repository: Repository,
    pub(super) keys: Keyring,
    pub(super) manifest: Manifest,
    pub(super) aim: prove::Aim,
}

/// Holds a drill. An error says that somebody stopped it; whatever else goes wrong is in the evidence.
pub fn hold(plan: &Plan, tools: &Tools<'_>, begun: Option<Begun>) -> Result<Held> {
    let why_not = isolation::impossible();
    let journal = Journal::begin(tools.id, tools.cx.clock.as_ref(), begun);
    let draft = draft(plan, tools, journal.started(), why_not.clone());
    let mut holding = Holding {
        tools,
        plan,
        journal,
        findings: Vec::new(),
        phases: Vec::new(),
        steps: Vec::new(),
        checks: Vec::new(),
        sources: Vec::new(),
        isolated: why_not.is_none(),
        // What names them may be a command: `${command:…}` in a connection.
        production: if tools.commands { addresses(tools.policy) } else { Vec::new() },
        probes: Vec::new(),
    };
    holding.journal.keep(&draft)?;
    holding.journal.write(Event::Started {
        stack: tools.policy.stack.clone(),
        name: plan.name.clone(),
        scenario: plan.scenario.word().to_owned(),
        policy_sha256: sha256_hex(tools.policy.text.as_bytes()),
        rto_target: plan.rto_target_seconds,
        user: tools.user.to_owned(),
    })?;
    if !tools.signed {
        holding.found(Severity::Note, NOT_SIGNED, None, UNSIGNED)?;
    }
    holding.run(why_not, draft)
}

/// What is said where nobody signs.
const UNSIGNED: &str =
    "the evidence is not signed: whoever can write to the repository can exchange it";

/// What is known of a drill before it begins, and all that is known of one that is killed.
fn draft(plan: &Plan, tools: &Tools<'_>, started: Timestamp, why_not: Option<String>) -> Evidence {
    let unsigned = || Finding {
        severity: Severity::Note,
        code: NOT_SIGNED.to_owned(),
        source: None,
        text: UNSIGNED.to_owned(),
    };
    Evidence {
        version: VERSION,
        drill: tools.id.to_owned(),
        stack: tools.policy.stack.clone(),
        name: plan.name.clone(),
        description: tools.drill.description.clone(),
        mode: plan.mode,
        playbook: plan.playbook.clone(),
        policy_sha256: sha256_hex(tools.policy.text.as_bytes()),
        scenario: plan.scenario,
        scope: Some(scope(plan)),
        aim: plan.aim.clone(),
        repository_at: tools.repository_at,
        failed_at: tools.failed_at.or(plan.aim.at).unwrap_or(started),
        started,
        ended: started,
        verdict: Verdict::Inconclusive,
        findings: (!tools.signed).then(unsigned).into_iter().collect(),
        rto: measure::rto(&[], None, false, plan.rto_target_seconds),
        rpo_seconds: None,
        skew_seconds: None,
        rpo_target_seconds: plan.rpo_target_seconds,
        phases: Vec::new(),
        steps: left_out(plan),
        sources: Vec::new(),
        checks: Vec::new(),
        environment: environment(tools, why_not, Vec::new()),
        cleanup: Cleanup::default(),
        journal: JournalEnd { records: 0, sha256: String::new() },
        earlier: tools.earlier.iter().map(Evidence::in_short).collect::<Vec<Earlier>>(),
    }
}

impl Holding<'_> {
    fn run(mut self, why_not: Option<String>, draft: Evidence) -> Result<Held> {
        let started = self.journal.started();
        let (aim, chosen) = self.phase("assess", Self::assess)?;
        let failed_at = self.tools.failed_at.or(aim.at).unwrap_or(started);
        let made = self.phase("contain", Self::contain)?;
        let mut cleanup = Cleanup { complete: true, ..Cleanup::default() };
        if let Some((sandbox, found)) = made {
            cleanup.found_before = found;
            let mut lives = BTreeMap::new();
            let worked = self
                .phase("recover", |this| this.recover(&chosen, &sandbox, failed_at, &mut lives));
            let worked =
                worked.and_then(|()| self.phase("validate", |this| this.validate(&mut lives)));
            for (address, probe) in self.production.iter().zip(&mut self.probes) {
                probe.after = Some(address.reach(self.isolated));
            }
            let left = self.phase("cleanup", |_| {
                lives.into_values().for_each(Live::stop);
                Ok(sandbox.remove())
            })?;
            worked?;
            for text in &left {
                self.found(Severity::Failure, "left_over", None, text.clone())?;
            }
            cleanup.complete = left.is_empty();
            cleanup.left = left;
        }
        self.judge_containment(why_not.as_ref())?;
        self.conclude(Evidence { aim, failed_at, cleanup, ..draft }, why_not)
    }

    fn phase<T>(&mut self, name: &str, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let (started, offset) = (self.tools.cx.clock.now(), self.journal.offset());
        self.journal.write(Event::PhaseBegan { phase: name.to_owned() })?;
        let done = work(self);
        self.journal.write(Event::PhaseEnded { phase: name.to_owned() })?;
        self.phases.push(Phase {
            name: name.to_owned(),
            started,
            ended: self.tools.cx.clock.now(),
            seconds: self.journal.offset() - offset,
        });
        done
    }

    pub(super) fn found(
        &mut self,
        severity: Severity,
        code: &str,
        source: Option<&str>,
        text: impl Into<String>,
    ) -> Result<()> {
        let text = crate::secret::mask(&text.into());
        self.journal.write(Event::Found { severity, code: code.to_owned(), text: text.clone() })?;
        let source = source.map(str::to_owned);
        self.findings.push(Finding { severity, code: code.to_owned(), source, text });
        Ok(())
    }

    /// Does a step. What goes wrong with it is written down, and `None`; somebody who stops the drill
    /// is an error.
    pub(super) fn step<T>(
        &mut self,
        name: &str,
        phase: &str,
        work: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<std::result::Result<T, Error>> {
        let offset = self.journal.offset();
        self.journal.write(Event::StepBegan { step: name.to_owned() })?;
        let done = work(self);
        if let Err(error) = &done
            && error.kind() == ErrorKind::Interrupted
        {
            return done.map(Ok);
        }
        let why = done.as_ref().err().map(|error| crate::secret::mask(&error.chain()));
        let state = if why.is_some() { StepState::Failed } else { StepState::Done };
        let seconds = self.journal.offset() - offset;
        self.journal.write(Event::StepEnded { step: name.to_owned(), state, why: why.clone() })?;
        self.steps.push(Step {
            name: name.to_owned(),
            phase: phase.to_owned(),
            state,
            offset: Some(offset),
            seconds: Some(seconds),
            why,
        });
        Ok(done)
    }

    pub(super) fn not_executed(&mut self, name: &str, phase: &str, why: &str) -> Result<()> {
        let state = StepState::NotExecuted;
        let why = Some(why.to_owned());
        self.journal.write(Event::StepEnded { step: name.to_owned(), state, why: why.clone() })?;
        let (name, phase) = (name.to_owned(), phase.to_owned());
        self.steps.push(Step { name, phase, state, offset: None, seconds: None, why });
        Ok(())
    }

    /// Says plainly what keeps the sandbox apart, and what does not.
    fn judge_containment(&mut self, why_not: Option<&String>) -> Result<()> {
        let answering = |after: bool| -> Vec<&str> {
            let answers = |probe: &&Probe| {
                let reach = if after { probe.after } else { Some(probe.before) };
                reach == Some(Reach::Reachable)
            };
            self.probes.iter().filter(answers).map(|probe| probe.address.as_str()).collect()
        };
        if let Some(why) = why_not {
            let open = answering(false);
            let reached = if open.is_empty() {
                "no address of production answered".to_owned()
            } else {
                format!("these answer from here: {}", open.join(", "))
            };
            let text =
                format!("servers of the sandbox had no network of their own: {why}; {reached}");
            return self.found(Severity::Finding, "not_isolated", None, text);
        }
        let again = answering(true).join(", ");
        if !again.is_empty() {
            let text = format!("reached from the sandbox at its end: {again}");
            self.found(Severity::Failure, "production_reachable", None, text)?;
        }
        Ok(())
    }

    /// Measures, compares, and comes to a verdict.
    fn conclude(mut self, draft: Evidence, why_not: Option<String>) -> Result<Held> {
        let all = !self.sources.is_empty()
            && self.sources.len() == self.plan.sources.len()
            && self.sources.iter().all(|source| source.restored);
        let rto = measure::rto(
            self.journal.lines(),
            self.tools.failed_at,
            all,
            self.plan.rto_target_seconds,
        );
        self.judge_objectives(&rto)?;
        if let Some(step) = clock_step(self.journal.lines()) {
            let text = format!("the clock was set by {step:.0} s while the drill went on");
            self.found(Severity::Unproven, "clock_stepped", None, text)?;
        }
        self.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        let verdict = measure::verdict(&self.findings);
        self.journal.write(Event::Ended { verdict })?;
        let (rpo_seconds, skew_seconds) = measure::together(&self.sources);
        let mut steps = std::mem::take(&mut self.steps);
        steps.extend(draft.steps);
        let tools = self.tools;
        let evidence = Evidence {
            ended: tools.cx.clock.now(),
            verdict,
            findings: self.findings,
            rto,
            rpo_seconds,
            skew_seconds,
            phases: self.phases,
            steps,
            sources: self.sources,
            checks: self.checks,
            environment: environment(tools, why_not, self.probes),
            journal: self.journal.end(),
            ..draft
        };
        let begun = self.journal.take_begun();
        Ok(Held { evidence, journal: self.journal.text().to_owned(), begun })
    }

    fn judge_objectives(&mut self, rto: &Rto) -> Result<()> {
        if let (Some(false), Some(seconds)) = (rto.met, rto.from_declaration_seconds) {
            let text =
                format!("the recovery took {seconds:.1} s, and may take {} s", rto.target_seconds);
            self.found(Severity::Objective, "rto_missed", None, text)?;
        }
        let sources: Vec<(String, Rpo, SourceRto, bool)> = self
            .sources
            .iter()
            .map(|one| (one.source.clone(), one.rpo.clone(), one.rto.clone(), one.restored))
            .collect();
        for (name, rpo, rto, restored) in sources {
            if !restored {
                continue;
            }
            match (rpo.met, rpo.seconds) {
                (Some(false), Some(seconds)) => {
                    let most = match rpo.basis {
                        RpoBasis::LastCommit => " at most",
                        _ => "",
                    };
                    let text = format!(
                        "{seconds:.0} s{most} of `{name}` are lost, and {} s may be",
                        rpo.target_seconds
                    );
                    self.found(Severity::Objective, "rpo_missed", Some(&name), text)?;
                }
                (None, _) => {
                    let text = format!(
                        "how much of `{name}` is lost was not measured: no commit was replayed"
                    );
                    self.found(Severity::Unproven, "rpo_not_measured", Some(&name), text)?;
                }
                _ => {}
            }
            let took = rto.restore_seconds + rto.recovery_seconds;
            if took > rto.target_seconds as f64 {
                let text =
                    format!("`{name}` took {took:.1} s, and may take {} s", rto.target_seconds);
                self.found(Severity::Objective, "rto_missed", Some(&name), text)?;
            }
        }
        Ok(())
    }
}

/// What of the stack is meant.
pub(super) fn scope(plan: &Plan) -> Scope {
    let sources = plan.sources.iter().map(|one| one.source.clone()).collect();
    Scope { sources, of: plan.of_sources }
}

fn environment(tools: &Tools<'_>, why_not: Option<String>, probes: Vec<Probe>) -> Environment {
    Environment {
        host: host_name(),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        tool: crate::TOOL.to_owned(),
        user: tools.user.to_owned(),
        network_isolated: why_not.is_none(),
        not_isolated_why: why_not,
        containment: [
            "servers listen on sockets in a directory of their own, and on no port",
            "nothing is archived, nothing is streamed, no subscription and no event runs",
            "the repository is only read; the evidence is created beside what is there",
        ]
        .map(str::to_owned)
        .to_vec(),
        probes,
    }
}
