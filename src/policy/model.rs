//! A policy: one stack and all that is done for it.

use std::path::PathBuf;

use indexmap::IndexMap;
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    drill::Drill,
    job::Job,
    job::Work,
    notify::Notify,
    objective::{Objectives, Targets, Tier},
    playbook::Playbook,
    repository::Repository,
    retention::Keep,
    source::{Compression, Source},
    value::{Period, Setting},
    window::Window,
};

/// A policy that was read and passed every rule.
///
/// Everything that names something else (a repository, a source, a job) names something that
/// exists.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(
    deny_unknown_fields,
    title = "Backstay policy",
    description = "One stack: what of it is backed up, where to, how often, how long it is kept, and how much may be lost."
)]
pub struct Policy {
    /// The version of the policy format: 1.
    #[schemars(range(min = 1, max = 1))]
    pub version: u32,
    /// The name of the stack. It is part of every object's key: it cannot be changed later.
    #[schemars(pattern(r"^[a-z0-9][a-z0-9._-]{0,63}$"))]
    pub stack: String,
    /// Where it was read back from by `backstay policy fetch`. Nothing uses such a policy before
    /// `backstay policy confirm` took this line out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unconfirmed: Option<String>,
    /// What the stack is, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The class of service. This or both of `objectives` is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// Objectives, where they differ from the tier's.
    #[serde(default)]
    pub objectives: Targets,
    /// The IANA time zone of all schedules, such as `Asia/Shanghai`; UTC if left out.
    #[serde(default = "utc")]
    pub timezone: String,
    /// Where backups live. The first is the default.
    pub repositories: IndexMap<String, Repository>,
    /// What is backed up.
    pub sources: IndexMap<String, Source>,
    /// When, how, and kept how long.
    #[serde(default)]
    pub jobs: IndexMap<String, Job>,
    /// Stretches of time in which jobs begin, or do not.
    #[serde(default)]
    pub windows: IndexMap<String, Window>,
    /// How many runs may go on at once of all jobs that name the pool.
    #[serde(default)]
    pub pools: IndexMap<String, u32>,
    /// Compression, where a source does not say otherwise.
    #[serde(default)]
    pub compression: Compression,
    /// Where it is recorded which site is active.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Places where the stack can be active.
    #[serde(default)]
    pub sites: IndexMap<String, serde_json::Value>,
    /// What is done to recover or to move.
    #[serde(default)]
    pub playbooks: IndexMap<String, Playbook>,
    /// What is recovered for practice.
    #[serde(default)]
    pub drills: IndexMap<String, Drill>,
    /// Who is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notify: Option<Notify>,
    /// Where runs are recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// The file it was read from.
    #[serde(skip)]
    pub file: PathBuf,
    /// The file's text, to be stored beside the backups.
    #[serde(skip)]
    pub text: String,
}

/// The zone of a policy that names none.
fn utc() -> String {
    "UTC".to_owned()
}

impl Policy {
    /// The keys of a policy file.
    pub(super) const KEYS: [&'static str; 19] = [
        "version",
        "stack",
        "unconfirmed",
        "description",
        "tier",
        "objectives",
        "timezone",
        "repositories",
        "sources",
        "jobs",
        "windows",
        "pools",
        "compression",
        "role",
        "sites",
        "playbooks",
        "drills",
        "notify",
        "state",
    ];

    /// The objectives of the stack.
    pub fn objectives(&self) -> Objectives {
        self.tier.unwrap_or(Tier::Development).objectives().with(self.objectives)
    }

    /// The objectives of a source; those of the stack for an unknown one.
    pub fn objectives_of(&self, source: &str) -> Objectives {
        let targets = self.sources.get(source).map(|source| source.objectives).unwrap_or_default();
        self.objectives().with(targets)
    }

    /// The repository that is used where a source names none.
    pub fn default_repository(&self) -> Option<(&str, &Repository)> {
        self.repositories.first().map(|(name, repository)| (name.as_str(), repository))
    }

    /// The repository of a source, with its name.
    pub fn repository_of(&self, source: &str) -> Option<(&str, &Repository)> {
        match self.sources.get(source)?.repository.as_deref() {
            Some(name) => {
                self.repositories.get_key_value(name).map(|(name, one)| (name.as_str(), one))
            }
            None => self.default_repository(),
        }
    }

    /// The window of point-in-time recovery of a source, if it has one.
    pub fn wal_keep(&self, source: &str) -> Option<jiff::SignedDuration> {
        let super::SourceSpec::PostgresCluster(cluster) = &self.sources.get(source)?.spec else {
            return None;
        };
        jiff::SignedDuration::try_from(cluster.wal.as_ref()?.keep?.get()).ok()
    }

    /// The compression of a source.
    pub fn compression_of(&self, source: &str) -> Compression {
        self.sources.get(source).and_then(|source| source.compression).unwrap_or(self.compression)
    }

    /// The jobs that back a source up.
    pub fn jobs_of<'a>(&'a self, source: &'a str) -> impl Iterator<Item = (&'a str, &'a Job)> {
        let jobs = self.jobs.iter().filter(move |(_, job)| job.covers(source));
        jobs.map(|(name, job)| (name.as_str(), job))
    }

    /// Whether `repository` only holds copies: a job copies into it, and no source is backed up
    /// there.
    pub fn holds_copies_only(&self, repository: &str) -> bool {
        let is_target = |job: &Job| matches!(&job.work, Work::Copy(copy) if copy.to == repository);
        let is_home = |source: &String| {
            self.repository_of(source).is_some_and(|(home, _)| home == repository)
        };
        self.jobs.values().any(is_target) && !self.sources.keys().any(is_home)
    }

    /// The keep rule in force for backups that `job` made of `source` and that lie in
    /// `repository`. `None` where the policy has no say: the rule recorded with them counts.
    pub fn keep_of(&self, repository: &str, source: &str, job: Option<&str>) -> Option<Keep> {
        let home = self.repository_of(source).or_else(|| self.default_repository());
        if home.is_some_and(|(home, _)| home == repository) {
            return self.jobs.get(job?).filter(|job| job.kind().is_some()).map(|job| job.keep);
        }
        let copies = self
            .jobs
            .values()
            .filter(|job| matches!(&job.work, Work::Copy(copy) if copy.to == repository));
        copies.map(|job| job.keep).reduce(Keep::or)
    }

    /// The time zone of all schedules.
    pub fn time_zone(&self) -> TimeZone {
        TimeZone::get(&self.timezone).unwrap_or(TimeZone::UTC)
    }
}

/// Where it is recorded which site is active.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Role {
    /// A repository, best at a third place.
    pub repository: String,
    /// Which of `sites` this host belongs to, mostly `"${env:BACKSTAY_SITE}"`. On a host of a site that is
    /// not the active one nothing is backed up, archived or removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<Setting>,
    /// Stop also where it cannot be asked which site is active. Otherwise a warning says so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub self_fence: bool,
    /// How long a site stays the active one at the least: before that no other takes over, unless
    /// people agree (`unsettled` of the step). What goes to and fro loses something every time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settle: Option<Period>,
}

/// Where runs are recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum State {
    /// A file of one daemon.
    Sqlite {
        /// An absolute path.
        path: PathBuf,
    },
    /// A database that several daemons share.
    Postgres {
        /// A libpq connection string or URI; `password=` only as a reference.
        connection: String,
    },
}
