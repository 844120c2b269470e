//! What is done in the sandbox: bringing back, and looking.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::checks::{self, Surroundings};
use super::evidence::{
    Check, CheckState, Reach, RpoBasis, Severity, SourceResult, SourceRto, Step, StepState,
};
use super::heartbeat;
use super::hold::{Chosen, Holding};
use super::journal::Event;
use super::measure;
use super::plan::Rehearsed;
use super::sandbox::Sandbox;
use crate::error::Result;
use crate::policy::{DrillCheck, Policy, SourceSpec, SqlCheck};
use crate::run::prove::{self, Live, Proof, bring_back};
use crate::run::restore::CLUSTER_KIND;
use crate::source::postgres::{Settings, Surroundings as PostgresSurroundings};

/// A query that takes this much longer than it used to is a finding.
const SLOWER: f64 = 3.0;

/// And at least this many seconds longer.
const SECONDS: f64 = 1.0;

impl Holding<'_> {
    /// Makes the sandbox, and looks whether production is out of reach.
    pub(super) fn contain(&mut self) -> Result<Option<(Sandbox, Vec<String>)>> {
        let (id, scratch) = (self.tools.id, self.tools.scratch);
        let reporter = &self.tools.cx.reporter;
        let made =
            self.step("make a sandbox", "contain", |_| Sandbox::make(scratch, id, reporter))?;
        let (sandbox, found) = match made {
            Ok(made) => made,
            Err(error) => {
                self.found(Severity::Unproven, "no_sandbox", None, error.chain())?;
                return Ok(None);
            }
        };
        for text in &found {
            self.found(Severity::Finding, "left_by_a_killed_drill", None, text.clone())?;
        }
        self.probes = self.production.iter().map(|one| one.probe(self.isolated)).collect();
        let reached = self.probes.iter().find(|probe| probe.before == Reach::Reachable);
        if let Some(probe) = reached.filter(|_| self.isolated) {
            let text = format!("{} is reached from the sandbox: nothing is started", probe.address);
            self.found(Severity::Failure, "production_reachable", None, text)?;
            return Ok(None);
        }
        Ok(Some((sandbox, found)))
    }

    /// Brings everything back.
    pub(super) fn recover(
        &mut self,
        chosen: &[Chosen<'_>],
        sandbox: &Sandbox,
        failed_at: Timestamp,
        lives: &mut BTreeMap<String, Live>,
    ) -> Result<()> {
        for one in chosen {
            let name = one.planned.source.clone();
            (self.tools.tell)(&format!("bringing back {name} from {}", one.manifest.backup));
            let mut proof = Proof::default();
            let back = self.step(&format!("recover {name}"), "recover", |this| {
                this.bring_back(one, sandbox, &mut proof)
            })?;
            let (live, why) = match back {
                Ok(live) => (Some(live), None),
                Err(error) => (None, Some(error)),
            };
            let mut result = self.result(one, &proof, live.as_ref(), failed_at);
            if let Some(live) = &live {
                self.take_heartbeat(&name, live, &mut result, failed_at)?;
            }
            let given = self.tools.failed_at.filter(|_| result.rpo.recovered_to > Some(failed_at));
            if given.is_some() {
                // Nobody had it yet when it failed: it says nothing about what would be lost.
                let target = result.rpo.target_seconds;
                result.rpo = measure::rpo(RpoBasis::None, None, failed_at, target);
                let text = "what came back is from after the failure: aim before that with `--at`";
                self.found(Severity::Unproven, "after_failure", Some(&name), text.to_owned())?;
            }
            let text = why.map(|error| error.chain());
            if let Some(text) = text {
                self.found(Severity::Failure, "not_restored", Some(&name), text)?;
            }
            for text in proof.findings {
                self.found(Severity::Failure, "damaged", Some(&name), text)?;
            }
            for text in proof.not_proven {
                self.found(Severity::Unproven, "not_proven", Some(&name), text)?;
            }
            self.sources.push(result);
            if let Some(live) = live {
                lives.insert(name, live);
            }
        }
        Ok(())
    }

    fn bring_back(&self, one: &Chosen<'_>, sandbox: &Sandbox, proof: &mut Proof) -> Result<Live> {
        let scratch = sandbox.of(&one.planned.source)?;
        let roles = if self.tools.commands {
            roles(self.tools.policy, &one.planned.source)
        } else {
            Vec::new()
        };
        let request = prove::Request {
            source: one.repository.source(&one.manifest.address()),
            manifest: &one.manifest,
            keys: &one.keys,
            scratch: &scratch,
            programs: self.tools.programs,
            roles: &roles,
            isolated: self.isolated,
        };
        bring_back(&request, one.aim, proof, &self.tools.cx.fresh())
    }

    /// Measures by the heartbeat in a copy, where the policy has one written.
    fn take_heartbeat(
        &mut self,
        name: &str,
        live: &Live,
        result: &mut SourceResult,
        failed_at: Timestamp,
    ) -> Result<()> {
        let Some(source) = self.tools.policy.sources.get(name) else { return Ok(()) };
        let Some(beating) = source.heartbeat else { return Ok(()) };
        let beat = match heartbeat::find(live, source, self.tools.cx.clock.now()) {
            Ok(beat) => beat,
            Err(error) => {
                let text = format!("the heartbeat could not be looked for: {}", error.chain());
                self.found(Severity::Finding, "heartbeat_missing", Some(name), text)?;
                return Ok(());
            }
        };
        let every = SignedDuration::try_from(beating.every.get()).unwrap_or_default();
        let otherwise = (result.rpo.basis, result.rpo.recovered_to);
        let told = heartbeat::judge(beat.as_ref(), every, otherwise);
        if let Some((code, text)) = told.finding {
            self.found(Severity::Finding, code, Some(name), text)?;
        }
        let target = result.rpo.target_seconds;
        result.rpo = measure::rpo(told.basis, told.recovered_to, failed_at, target);
        result.heartbeat = beat.as_ref().map(heartbeat::evidence);
        Ok(())
    }

    fn result(
        &self,
        one: &Chosen<'_>,
        proof: &Proof,
        live: Option<&Live>,
        failed_at: Timestamp,
    ) -> SourceResult {
        let manifest = &one.manifest;
        let points = manifest.recovery_points.iter().map(|point| point.time);
        let point = points.clone().filter(|time| *time <= failed_at).max().or_else(|| points.min());
        let (basis, recovered_to) = match live {
            None => (RpoBasis::None, None),
            Some(live) if manifest.source_kind == CLUSTER_KIND => {
                (RpoBasis::LastCommit, live.last_commit().ok().flatten())
            }
            Some(_) => (RpoBasis::Snapshot, point),
        };
        let mut chain: Vec<String> = manifest
            .segments
            .iter()
            .filter_map(|segment| Some(segment.reference().ok()?.backup.to_string()))
            .chain([manifest.backup.to_string()])
            .collect();
        chain.sort();
        chain.dedup();
        let seconds = proof.restore_seconds;
        let rate = (seconds > 0.0 && proof.bytes > 0).then(|| proof.bytes as f64 / seconds);
        SourceResult {
            source: one.planned.source.clone(),
            kind: one.planned.kind.clone(),
            restored: live.is_some(),
            repository: one.planned.repository.clone(),
            backup: Some(manifest.backup.to_string()),
            backup_point: point,
            chain,
            digest: Some(manifest.sums.sha256.clone()),
            key: manifest.encryption.as_ref().map(|encryption| encryption.key.clone()),
            server: proof.server.clone(),
            bytes: proof.bytes,
            heartbeat: None,
            rpo: measure::rpo(basis, recovered_to, failed_at, one.planned.rpo_target_seconds),
            rto: SourceRto {
                restore_seconds: proof.restore_seconds,
                recovery_seconds: proof.recovery_seconds,
                check_seconds: proof.check_seconds,
                target_seconds: one.planned.rto_target_seconds,
                bytes_per_second: rate,
            },
            proven: proof.proven.clone(),
            not_proven: proof.not_proven.clone(),
        }
    }

    /// Looks at everything that came back.
    pub(super) fn validate(&mut self, lives: &mut BTreeMap<String, Live>) -> Result<()> {
        let mut looked = Vec::new();
        for (name, live) in &*lives {
            let mut proof = Proof::default();
            (self.tools.tell)(&format!("looking at {name}"));
            let done = self.step(&format!("look at {name}"), "validate", |this| {
                live.look(&mut proof, &this.tools.cx.fresh())
            })?;
            if let Err(error) = done {
                self.found(Severity::Unproven, "not_looked_at", Some(name), error.chain())?;
            }
            looked.push((name.clone(), proof));
        }
        for (name, proof) in looked {
            self.take_in(&name, proof)?;
        }
        let around = Surroundings {
            drill: self.tools.id,
            stack: &self.tools.policy.stack,
            complete: lives.len() == self.plan.sources.len(),
            lives,
            web: self.tools.web,
            commands: self.tools.commands,
            cx: self.tools.cx,
        };
        for one in &self.plan.rehearsed {
            self.rehearse(one, &around)?;
        }
        for name in &self.plan.checks {
            let Some(spec) = self.tools.drill.checks.get(name) else { continue };
            (self.tools.tell)(&format!("check {name}"));
            let mut check = checks::make(name, spec, &around)?;
            check.baseline_seconds = self.baseline(name);
            self.judge(check)?;
        }
        Ok(())
    }

    /// Asks a query of a playbook, of what was recovered.
    fn rehearse(&mut self, one: &Rehearsed, around: &Surroundings<'_>) -> Result<()> {
        let Rehearsed { phase, name, .. } = one;
        if !around.commands {
            return self.not_executed(name, phase, checks::UNTRUSTED);
        }
        let settings = Settings::resolve(&one.sql.connection, &PostgresSurroundings::here());
        let database = match settings {
            Ok(settings) => settings.database,
            Err(error) => return self.not_executed(name, phase, &error.chain()),
        };
        let (query, expect) = (one.sql.query.clone(), one.sql.expect.clone());
        let spec = DrillCheck {
            source: Some(one.source.clone()),
            sql: Some(SqlCheck { database, query, expect }),
            timeout: one.timeout,
            ..DrillCheck::default()
        };
        (self.tools.tell)(&format!("step {name}"));
        let offset = self.journal.offset();
        self.journal.write(Event::StepBegan { step: name.clone() })?;
        let mut check = checks::make(name, &spec, around)?;
        check.baseline_seconds = self.baseline(name);
        let (state, why) = match check.state {
            CheckState::Passed => (StepState::Done, None),
            CheckState::Failed | CheckState::NotRun => (StepState::Failed, check.found.clone()),
        };
        self.journal.write(Event::StepEnded { step: name.clone(), state, why: why.clone() })?;
        self.steps.push(Step {
            name: name.clone(),
            phase: phase.clone(),
            state,
            offset: Some(offset),
            seconds: Some(self.journal.offset() - offset),
            why,
        });
        self.judge(check)
    }

    /// Adds what was found in a source.
    fn take_in(&mut self, name: &str, proof: Proof) -> Result<()> {
        for text in &proof.findings {
            self.found(Severity::Failure, "damaged", Some(name), text.clone())?;
        }
        for text in &proof.not_proven {
            self.found(Severity::Unproven, "not_proven", Some(name), text.clone())?;
        }
        let Some(source) = self.sources.iter_mut().find(|source| source.source == name) else {
            return Ok(());
        };
        source.proven.extend(proof.proven);
        source.not_proven.extend(proof.not_proven);
        source.rto.check_seconds += proof.check_seconds;
        if source.server.is_none() {
            source.server = proof.server;
        }
        Ok(())
    }

    /// How long a check took in earlier drills, in the middle.
    fn baseline(&self, name: &str) -> Option<f64> {
        let earlier = self.tools.earlier.iter().flat_map(|evidence| &evidence.checks);
        let passed =
            earlier.filter(|check| check.name == name && check.state == CheckState::Passed);
        measure::median(passed.map(|check| check.seconds).collect())
    }

    fn judge(&mut self, check: Check) -> Result<()> {
        let (name, state, found) = (check.name.clone(), check.state, check.found.clone());
        self.journal.write(Event::Checked { check: name.clone(), state, found: found.clone() })?;
        let source = check.source.clone();
        // All of it is in the table of checks; here it is one line.
        let said = found.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
        let said = checks::shortened(&said);
        match state {
            CheckState::Passed => {
                let slower = check.baseline_seconds.filter(|usual| {
                    check.seconds > usual * SLOWER && check.seconds > usual + SECONDS
                });
                if let Some(usual) = slower {
                    let text = format!(
                        "check `{name}` took {:.1} s, and {usual:.1} s in earlier drills",
                        check.seconds
                    );
                    self.found(Severity::Finding, "check_slower", source.as_deref(), text)?;
                }
            }
            CheckState::Failed => {
                let text = format!("check `{name}`: {said}");
                self.found(Severity::Failure, "check_failed", source.as_deref(), text)?;
            }
            CheckState::NotRun => {
                let text = format!("check `{name}` could not be made: {said}");
                self.found(Severity::Unproven, "check_not_run", source.as_deref(), text)?;
            }
        }
        self.checks.push(check);
        Ok(())
    }
}

/// The role that the policy connects as, which a recovered server knows too.
fn roles(policy: &Policy, source: &str) -> Vec<String> {
    let connection = policy.sources.get(source).and_then(|source| match &source.spec {
        SourceSpec::PostgresCluster(cluster) => Some(&cluster.connection),
        _ => None,
    });
    connection
        .and_then(|text| Settings::resolve(text, &PostgresSurroundings::here()).ok())
        .map(|settings| settings.user)
        .into_iter()
        .collect()
}
