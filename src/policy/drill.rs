//! Drills: what is recovered for practice, and what is looked at then.

use std::path::PathBuf;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    action::Expectation,
    execution::{Execution, Retry},
    job::{Job, Work},
    notify::Language,
    repository::Limits,
    retention::Keep,
    schedule::Schedule,
    source::Program,
    value::{Period, Setting},
};
use crate::secret::SecretRef;

/// A recovery for practice: into a sandbox, with checks, a verdict and evidence.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Drill {
    /// What it is for, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// A playbook that is rehearsed: what its steps `restore` is restored into the sandbox instead of to
    /// where they say; its other steps are listed as not executed. Without it the sources are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub playbook: Option<String>,
    /// The sources that are recovered; all if left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    /// What is supposed to have happened.
    pub scenario: Scenario,
    /// What is aimed at.
    pub recovery_point: PointChoice,
    /// The repository that is read; each source's own if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// A directory with room for what is recovered; the system's for temporary files if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scratch: Option<PathBuf>,
    /// The directory of PostgreSQL's programs; looked for if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub programs: Option<PathBuf>,
    /// What is looked at, beside what is always looked at.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub checks: IndexMap<String, DrillCheck>,
    /// Where the evidence goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<EvidencePlace>,
    /// A private Ed25519 key as OpenSSH writes it, without a passphrase, that signs the evidence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sign_with: Option<SecretRef>,
    /// The language of the stored report. `drill report --language` shows it in either.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<Language>,
    /// When it is held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
}

impl Drill {
    /// The name of the job that holds a drill.
    pub fn job_name(drill: &str) -> String {
        format!("drill-{drill}")
    }

    /// The job that holds it, if it has a schedule. One that failed is not held again before its
    /// time: it has said what it found.
    pub fn job(&self, name: &str) -> Option<Job> {
        let execution =
            Execution { retry: Retry { times: 0, ..Retry::default() }, ..Execution::default() };
        Some(Job {
            work: Work::Drill(name.to_owned()),
            schedule: self.schedule.clone()?,
            keep: Keep::default(),
            limits: Limits::default(),
            expected: None,
            execution,
        })
    }
}

/// Where evidence goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvidencePlace {
    /// A repository, best that of the other site; the first of the policy if no place is given.
    pub repository: String,
    /// How long it is locked in a repository with `object_lock`; a year if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked_for: Option<Period>,
}

/// What is aimed at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PointChoice {
    /// As new as there is.
    #[default]
    Latest,
    /// Any instant since the oldest recovery point that all sources have, by chance.
    Random,
}

/// What is supposed to have happened.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Scenario {
    /// The site is gone: everything is brought back as new as can be.
    #[default]
    SiteLost,
    /// One source is gone.
    SourceLost,
    /// Somebody deleted or changed something: everything is brought back as of before that.
    ObjectLost,
    /// A table was dropped: the database is brought back as of before that.
    TableDropped,
    /// Data went bad long ago, and nobody saw it: an old recovery point is needed.
    LateCorruption,
    /// The repository is gone: everything is brought back from the copy.
    RepositoryLost,
    /// Every machine that knew of the backups is gone: address and identity are all there is.
    BackstayLost,
    /// Whoever broke in deleted and overwrote what nothing kept: only what object lock keeps is
    /// brought back, as the repository was before that.
    Ransomware,
    /// Keys were exchanged since: the oldest backup of a key that nothing is encrypted to any more
    /// is brought back.
    OldKeys,
}

impl Scenario {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::SiteLost,
        Self::SourceLost,
        Self::ObjectLost,
        Self::TableDropped,
        Self::LateCorruption,
        Self::RepositoryLost,
        Self::BackstayLost,
        Self::Ransomware,
        Self::OldKeys,
    ];

    /// The word in a policy.
    pub const fn word(self) -> &'static str {
        match self {
            Self::SiteLost => "site_lost",
            Self::SourceLost => "source_lost",
            Self::ObjectLost => "object_lost",
            Self::TableDropped => "table_dropped",
            Self::LateCorruption => "late_corruption",
            Self::RepositoryLost => "repository_lost",
            Self::BackstayLost => "backstay_lost",
            Self::Ransomware => "ransomware",
            Self::OldKeys => "old_keys",
        }
    }

    /// Whether it says by itself which backup is brought back.
    pub const fn chooses(self) -> bool {
        matches!(self, Self::Ransomware | Self::OldKeys)
    }

    /// Whether it is about an instant before something happened, which has to be given.
    pub const fn needs_instant(self) -> bool {
        matches!(self, Self::ObjectLost | Self::TableDropped | Self::LateCorruption)
    }
}

/// Something that is looked at. Exactly one of `sql`, `files`, `http` and `command` is needed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DrillCheck {
    /// The source it looks at; needed by `sql` and `files`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// A query of the recovered server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sql: Option<SqlCheck>,
    /// Files that were brought back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<FilesCheck>,
    /// A page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpCheck>,
    /// A program of yours: it has to end with 0. What it is to look at is in its environment:
    /// `BACKSTAY_DRILL`, and for each source `BACKSTAY_SOURCE_NAME`: a directory, or how its server is
    /// reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Program>,
    /// When it has taken too long; an hour if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Period>,
}

impl DrillCheck {
    /// The keys of which exactly one is written.
    pub(super) const KINDS: [&'static str; 4] = ["sql", "files", "http", "command"];

    /// Its kind, as in a policy.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self { sql: Some(_), .. } => "sql",
            Self { files: Some(_), .. } => "files",
            Self { http: Some(_), .. } => "http",
            _ => "command",
        }
    }
}

/// A query of a recovered server, as its superuser, in a transaction that can only read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlCheck {
    /// The database.
    pub database: String,
    /// One query.
    pub query: String,
    /// What its first value has to be.
    #[serde(default)]
    pub expect: Expectation,
}

/// Files that were brought back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FilesCheck {
    /// Paths below the source that have to be there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub present: Vec<String>,
    /// Paths below the source, and the SHA-256 that each has to have.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub sha256: IndexMap<String, String>,
    /// How many files there have to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_least: Option<u64>,
}

/// A page that has to answer as expected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpCheck {
    /// `http://…` or `https://…`.
    pub url: String,
    /// Headers; secrets as references.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub headers: IndexMap<String, Setting>,
    /// The statuses that are well; 200 to 299 if left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub status: Vec<u16>,
    /// A text that the answer has to have in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
}
