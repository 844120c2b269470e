//! Jobs: which sources, which kind, when, and kept how long.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use crate::id::BackupKind;

use super::{
    execution::{CatchUp, Execution, Hooks, Overlap, Retry},
    repository::Limits,
    retention::{self, Keep},
    schedule::Schedule,
    value::Period,
};

/// Work that is done on a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Written", into = "Written")]
#[schemars(with = "Written")]
pub struct Job {
    /// What is done.
    pub work: Work,
    /// When.
    pub schedule: Schedule,
    /// How long the results are kept.
    pub keep: Keep,
    /// Limits narrower than the repository's.
    pub limits: Limits,
    /// How long a run usually takes.
    pub expected: Option<Period>,
    /// How its runs behave.
    pub execution: Execution,
}

/// What a job does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Backs sources up.
    Backup {
        /// Which sources.
        sources: Selection,
        /// Which kind of backup.
        kind: BackupKind,
    },
    /// Copies backups to another repository.
    Copy(Copy),
}

impl Job {
    /// Whether the job backs `source` up.
    pub fn covers(&self, source: &str) -> bool {
        match &self.work {
            Work::Backup { sources, .. } => sources.contains(source),
            Work::Copy(_) => false,
        }
    }

    /// The kind of backup, unless it is a copy.
    pub const fn kind(&self) -> Option<BackupKind> {
        match &self.work {
            Work::Backup { kind, .. } => Some(*kind),
            Work::Copy(_) => None,
        }
    }
}

/// Which sources a job is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All of the policy, those added later included.
    All,
    /// These.
    Names(Vec<String>),
}

impl Selection {
    /// Whether `source` is one of them.
    pub fn contains(&self, source: &str) -> bool {
        match self {
            Self::All => true,
            Self::Names(names) => names.iter().any(|name| name == source),
        }
    }
}

/// Where backups are copied to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Copy {
    /// A repository.
    pub to: String,
}

/// A job as it is written.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename = "Job")]
struct Written {
    /// `all`, or a list of names. Needs `kind`; excludes `copy`.
    #[serde(skip_serializing_if = "Option::is_none")]
    sources: Option<Selection>,
    /// The kind of backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<BackupKind>,
    /// Copies backups to another repository, instead of `sources` and `kind`.
    #[serde(skip_serializing_if = "Option::is_none")]
    copy: Option<Copy>,
    /// When the job runs.
    schedule: Schedule,
    /// How long its results are kept.
    #[serde(deserialize_with = "retention::written")]
    keep: Keep,
    /// Limits narrower than the repository's.
    #[serde(default)]
    limits: Limits,
    /// How long a run usually takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<Period>,
    /// Runs begin up to so much later, each job always by the same share of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    jitter: Option<Period>,
    /// A run that could not begin within this time is missed.
    #[serde(skip_serializing_if = "Option::is_none")]
    start_within: Option<Period>,
    /// A run that takes longer than this is ended, and failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_after: Option<Period>,
    /// What happens when a run is due and the last has not ended.
    #[serde(default)]
    overlap: Overlap,
    /// What happens with runs that were due while nobody was there to do them.
    #[serde(default)]
    catch_up: CatchUp,
    /// Of two that wait, the one with the higher number goes first.
    #[serde(default)]
    priority: i32,
    /// Pools that a run takes a place in each of.
    #[serde(default)]
    pools: Vec<String>,
    /// Windows in which no run begins.
    #[serde(default)]
    avoid: Vec<String>,
    /// Windows in one of which runs begin.
    #[serde(default)]
    within: Vec<String>,
    /// How often a run that failed is tried again.
    #[serde(default)]
    retry: Retry,
    /// What is run before and after it.
    #[serde(default)]
    hooks: Hooks,
}

impl TryFrom<Written> for Job {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let work = match (written.sources, written.kind, written.copy) {
            (Some(sources), Some(kind), None) => Work::Backup { sources, kind },
            (None, None, Some(copy)) => Work::Copy(copy),
            (None, None, None) => {
                return Err(
                    "the job does nothing\nadd `sources: all` and `kind: full`, or `copy: { to: NAME }`",
                );
            }
            (Some(_), None, None) => {
                return Err(
                    "`kind` is missing\nadd `kind: full`, `kind: incremental` or `kind: snapshot`",
                );
            }
            (None, Some(_), None) => {
                return Err("`sources` is missing\nadd `sources: all` or a list of names");
            }
            (_, _, Some(_)) => {
                return Err(
                    "a job either backs up or copies\nmove `copy` to a job of its own, with `schedule: { after: [THIS] }`",
                );
            }
        };
        Ok(Self {
            work,
            schedule: written.schedule,
            keep: written.keep,
            limits: written.limits,
            expected: written.expected,
            execution: Execution {
                jitter: written.jitter,
                start_within: written.start_within,
                stop_after: written.stop_after,
                overlap: written.overlap,
                catch_up: written.catch_up,
                priority: written.priority,
                pools: written.pools,
                avoid: written.avoid,
                within: written.within,
                retry: written.retry,
                hooks: written.hooks,
            },
        })
    }
}

impl From<Job> for Written {
    fn from(job: Job) -> Self {
        let (sources, kind, copy) = match job.work {
            Work::Backup { sources, kind } => (Some(sources), Some(kind), None),
            Work::Copy(copy) => (None, None, Some(copy)),
        };
        let execution = job.execution;
        Self {
            sources,
            kind,
            copy,
            schedule: job.schedule,
            keep: job.keep,
            limits: job.limits,
            expected: job.expected,
            jitter: execution.jitter,
            start_within: execution.start_within,
            stop_after: execution.stop_after,
            overlap: execution.overlap,
            catch_up: execution.catch_up,
            priority: execution.priority,
            pools: execution.pools,
            avoid: execution.avoid,
            within: execution.within,
            retry: execution.retry,
            hooks: execution.hooks,
        }
    }
}

impl<'de> Deserialize<'de> for Selection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SelectionVisitor)
    }
}

struct SelectionVisitor;

impl<'de> de::Visitor<'de> for SelectionVisitor {
    type Value = Selection;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("`all` or a list of names of sources")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Selection, E> {
        if text == "all" {
            return Ok(Selection::All);
        }
        Err(E::custom(format!(
            "expected `all` or a list of names of sources\nwrite `sources: all` or `sources: [{text}]`"
        )))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Selection, A::Error> {
        let mut names = Vec::new();
        while let Some(name) = items.next_element()? {
            names.push(name);
        }
        Ok(Selection::Names(names))
    }
}

impl Serialize for Selection {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::Names(names) => names.serialize(serializer),
        }
    }
}

impl JsonSchema for Selection {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Selection".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "`all`, or a list of names of sources.",
            "oneOf": [
                { "const": "all" },
                { "type": "array", "items": { "type": "string" }, "minItems": 1 }
            ]
        })
    }
}
