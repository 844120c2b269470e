//! What is written down of a drill: `evidence.json`, whose schema is `docs/evidence.schema.json`.
//!
//! Readers ignore fields that they do not know, and refuse a newer version.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::policy::Scenario;

/// The version of `evidence.json` that this program writes and reads.
pub const VERSION: u32 = 1;

/// The file with all of it, for programs.
pub const EVIDENCE: &str = "evidence.json";
/// The report, for people.
pub const REPORT_HTML: &str = "report.html";
/// The same as text.
pub const REPORT_MARKDOWN: &str = "report.md";
/// What happened, line by line, each with the digest of the one before.
pub const JOURNAL: &str = "journal.jsonl";
/// The digests of all of these.
pub const SUMS: &str = "SHA256SUMS";
/// The signature of the digests, as `ssh-keygen -Y verify` takes it.
pub const SIGNATURE: &str = "SHA256SUMS.sig";

/// The finding of a drill that was killed or stopped.
pub const ABORTED: &str = "aborted";
/// The finding that nobody signed.
pub const NOT_SIGNED: &str = "not_signed";

/// What a drill came to.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All was brought back in time, and all that was to be looked at is right.
    Pass,
    /// The same, and something should be mended.
    PassWithFindings,
    /// Something could not be looked at, or was not measured: nobody knows.
    Inconclusive,
    /// Something is wrong, missing, too slow or too old.
    Fail,
}

impl Verdict {
    /// Whether it was proven that the stack comes back.
    pub const fn is_good(self) -> bool {
        matches!(self, Self::Pass | Self::PassWithFindings)
    }

    /// All of them.
    pub const ALL: [Self; 4] = [Self::Pass, Self::PassWithFindings, Self::Inconclusive, Self::Fail];

    /// As it is written in evidence.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::PassWithFindings => "pass_with_findings",
            Self::Inconclusive => "inconclusive",
            Self::Fail => "fail",
        }
    }

    /// As it is shown.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::PassWithFindings => "PASS WITH FINDINGS",
            Self::Inconclusive => "INCONCLUSIVE",
            Self::Fail => "FAIL",
        }
    }
}

/// How grave a finding is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Said for completeness: it changes no verdict.
    Note,
    /// To be mended: PASS WITH FINDINGS at best.
    Finding,
    /// Not proven or not measured: INCONCLUSIVE at best.
    Unproven,
    /// An objective is missed: FAIL.
    Objective,
    /// Something is wrong: FAIL.
    Failure,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// How grave it is.
    pub severity: Severity,
    /// A short name that stays the same from drill to drill, such as `rpo_missed`.
    pub code: String,
    /// The source it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What was found.
    pub text: String,
}

/// What was brought back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Every source of the stack.
    WholeStack,
    /// Some of its sources.
    Sources,
    /// What a playbook restores.
    Playbook,
}

/// How the recovery point was chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// As new as there is.
    #[default]
    Latest,
    /// Any instant between the oldest recovery point and now, by chance.
    Random,
    /// An instant that was given.
    At,
    /// A backup that was given.
    Backup,
}

/// The recovery point that was aimed at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Aim {
    /// How it was chosen.
    pub choice: Choice,
    /// The instant; none for the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// What a choice by chance can be made again with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// What was chosen from by chance began here: the oldest point that all sources have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// And ended here: the point of the newest backup. The same seed over the same backups is the
    /// same instant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// What of the stack was meant to be brought back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Scope {
    /// These sources.
    pub sources: Vec<String>,
    /// Of so many that the stack had.
    pub of: u64,
}

/// A stretch of the drill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Phase {
    /// `assess`, `contain`, `recover`, `validate` or `cleanup`.
    pub name: String,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// How long it took, by a clock that nobody sets.
    pub seconds: f64,
}

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Done.
    Done,
    /// It failed.
    Failed,
    /// Left out as was said beforehand.
    Skipped,
    /// Not come to, or not possible in a sandbox.
    NotExecuted,
    /// A person said that it is done.
    Attested,
}

/// A step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Step {
    /// Its name.
    pub name: String,
    /// The phase it belongs to.
    pub phase: String,
    /// What became of it.
    pub state: StepState,
    /// Seconds since the drill began, where it was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<f64>,
    /// How long it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Why it failed or was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What a recovery point objective was measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RpoBasis {
    /// The heartbeat that was found in the copy: exact.
    Heartbeat,
    /// The last commit that was replayed: no more than this is lost.
    LastCommit,
    /// The instant of a consistent copy, of which all was found again: no more than this is lost.
    Snapshot,
    /// Nothing: it was not measured.
    None,
}

/// A heartbeat that was found in a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FoundBeat {
    /// The machine whose daemon wrote it.
    pub host: String,
    /// How many it had written.
    pub beats: u64,
    /// When, by the clock of that machine.
    pub at: Timestamp,
    /// The same by the clock of the server that it was written to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_at: Option<Timestamp>,
}

/// How much of a source was lost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rpo {
    /// What it was measured by.
    pub basis: RpoBasis,
    /// What the copy goes up to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovered_to: Option<Timestamp>,
    /// From there to the failure. Only where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// What the policy allows.
    pub target_seconds: u64,
    /// Whether it is within that. Only where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub met: Option<bool>,
}

/// How long a source took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SourceRto {
    /// Seconds until its files were there.
    pub restore_seconds: f64,
    /// Seconds more until a server took writes.
    pub recovery_seconds: f64,
    /// Seconds that looking at it took.
    pub check_seconds: f64,
    /// What the policy allows.
    pub target_seconds: u64,
    /// Bytes brought back in a second of restoring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<f64>,
}

/// What became of a source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SourceResult {
    /// Its name.
    pub source: String,
    /// Its kind: `postgres_cluster`, `directory`, …
    pub kind: String,
    /// Whether it came back.
    pub restored: bool,
    /// The repository that was read.
    pub repository: String,
    /// The backup that was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// The backup's own recovery point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_point: Option<Timestamp>,
    /// The backups whose segments it needs, itself among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<String>,
    /// SHA-256 of the list of digests that the backup has of all that it needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The repository key that its content is encrypted to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What started from it: `PostgreSQL 17.2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Bytes brought back.
    pub bytes: u64,
    /// The heartbeat that was found in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<FoundBeat>,
    /// How much was lost.
    pub rpo: Rpo,
    /// How long it took.
    pub rto: SourceRto,
    /// What was looked at and found right, in words.
    #[serde(default)]
    pub proven: Vec<String>,
    /// What could not be looked at, and why.
    #[serde(default)]
    pub not_proven: Vec<String>,
}

/// What became of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckState {
    /// As expected.
    Passed,
    /// Not as expected.
    Failed,
    /// It could not be made.
    NotRun,
}

/// A check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    /// Its name in the policy, or that of a check that is always made.
    pub name: String,
    /// `sql`, `command`, `http`, `files`, `counts`, `amcheck`, …
    pub kind: String,
    /// The source it looks at, if it looks at one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What became of it.
    pub state: CheckState,
    /// What was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
    /// What was expected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    /// How long it took.
    pub seconds: f64,
    /// How long it took in earlier drills, in the middle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline_seconds: Option<f64>,
}

/// How long the recovery took, on three bases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rto {
    /// From the failure until the last check passed. Only where the drill was told when that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_failure_seconds: Option<f64>,
    /// From when the drill began until the last check passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_declaration_seconds: Option<f64>,
    /// The same without the time in which people were waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub technical_seconds: Option<f64>,
    /// The time in which people were waited for.
    pub waits_seconds: f64,
    /// What the policy allows.
    pub target_seconds: u64,
    /// Whether it is within that, by the time from declaration. Only where everything came back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub met: Option<bool>,
}

/// Whether something of production can be reached from the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// It cannot be reached.
    Unreachable,
    /// It answers.
    Reachable,
    /// It is a socket in the file system, which no network namespace cuts off.
    LocalSocket,
}

/// A try to reach production from where the servers of the sandbox run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Probe {
    /// `HOST:PORT`, or a path.
    pub address: String,
    /// What names it in the policy.
    pub of: String,
    /// Before anything was started.
    pub before: Reach,
    /// After the last check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Reach>,
}

/// Where the drill was held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Environment {
    /// The machine.
    pub host: String,
    /// `linux x86_64`.
    pub system: String,
    /// Name and version of this program.
    pub tool: String,
    /// Who held it.
    pub user: String,
    /// Whether the servers had a network of their own, with nothing in it.
    pub network_isolated: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_isolated_why: Option<String>,
    /// What else keeps the servers apart, in words.
    #[serde(default)]
    pub containment: Vec<String>,
    /// Tries to reach production.
    #[serde(default)]
    pub probes: Vec<Probe>,
}

/// What was left when the drill was over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cleanup {
    /// Servers, data and sockets are gone: that was looked at.
    pub complete: bool,
    /// What is not.
    #[serde(default)]
    pub left: Vec<String>,
    /// What earlier drills had left, and this one removed.
    #[serde(default)]
    pub found_before: Vec<String>,
}

/// The journal, as it ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JournalEnd {
    /// How many records it has.
    pub records: u64,
    /// SHA-256 of the last line.
    pub sha256: String,
}

/// An earlier drill, in short.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Earlier {
    /// The drill.
    pub drill: String,
    /// When it began.
    pub started: Timestamp,
    /// What it came to.
    pub verdict: Verdict,
    /// RTO from declaration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rto_seconds: Option<f64>,
    /// The largest RPO of its sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo_seconds: Option<f64>,
    /// Bytes brought back.
    pub bytes: u64,
}

/// All that is written down of a drill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Backstay drill evidence")]
pub struct Evidence {
    /// The version of this format.
    #[serde(rename = "backstay_evidence")]
    pub version: u32,
    /// The drill: `20261121T020000Z-x7k3fq`.
    pub drill: String,
    /// The stack.
    pub stack: String,
    /// Its name in the policy; `unplanned` for one that the policy does not name.
    pub name: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What was brought back.
    pub mode: Mode,
    /// The playbook that was rehearsed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub playbook: Option<String>,
    /// SHA-256 of the policy that was in force.
    pub policy_sha256: String,
    /// What is supposed to have happened.
    pub scenario: Scenario,
    /// What of the stack was meant to be brought back. Drills of early versions do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// What was aimed at.
    pub aim: Aim,
    /// Buckets were read as they were at this instant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_at: Option<Timestamp>,
    /// When what is supposed to have happened did: what was written after it is not missed.
    pub failed_at: Timestamp,
    /// When the drill began, which is when the disaster was declared.
    pub started: Timestamp,
    /// When it was over, cleaned up.
    pub ended: Timestamp,
    /// What it came to.
    pub verdict: Verdict,
    /// What was found, the gravest first.
    pub findings: Vec<Finding>,
    /// How long the recovery took.
    pub rto: Rto,
    /// The largest RPO that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo_seconds: Option<f64>,
    /// How far the sources' copies lie apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skew_seconds: Option<f64>,
    /// What the policy allows of the stack as a whole.
    pub rpo_target_seconds: u64,
    /// Stretches of the drill.
    pub phases: Vec<Phase>,
    /// What was done and what was not.
    pub steps: Vec<Step>,
    /// What became of each source.
    pub sources: Vec<SourceResult>,
    /// What was looked at.
    pub checks: Vec<Check>,
    /// Where it was held.
    pub environment: Environment,
    /// What was left.
    pub cleanup: Cleanup,
    /// How the journal ends.
    pub journal: JournalEnd,
    /// Earlier drills of the same name, oldest first.
    #[serde(default)]
    pub earlier: Vec<Earlier>,
}

impl Evidence {
    /// Whether only a part of the stack was meant, although the scenario is about all of it: it proves
    /// nothing of the rest.
    pub fn is_partial(&self) -> bool {
        if self.scenario == Scenario::SourceLost {
            return false;
        }
        match &self.scope {
            Some(scope) => (scope.sources.len() as u64) < scope.of,
            None => self.mode != Mode::WholeStack,
        }
    }

    /// Whether the drill was killed or stopped before it came to a verdict.
    pub fn is_aborted(&self) -> bool {
        self.findings.iter().any(|finding| finding.code == ABORTED)
    }

    /// Whether its digests are signed, as it says itself.
    pub fn says_signed(&self) -> bool {
        !self.findings.iter().any(|finding| finding.code == NOT_SIGNED)
    }

    /// The same in short, for the drills after it.
    pub fn in_short(&self) -> Earlier {
        Earlier {
            drill: self.drill.clone(),
            started: self.started,
            verdict: self.verdict,
            rto_seconds: self.rto.from_declaration_seconds,
            rpo_seconds: self.rpo_seconds,
            bytes: self.sources.iter().map(|source| source.bytes).sum(),
        }
    }
}

/// The JSON Schema of `evidence.json`.
pub fn schema() -> schemars::Schema {
    schemars::schema_for!(Evidence)
}
