//! Jobs: which sources, which kind, when, and kept how long.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use crate::id::BackupKind;

use super::{
    execution::{CatchUp, Execution, Hooks, Overlap, Retry},
    repository::Limits,
    retention::{self, Keep},
    schedule::Schedule,
    sync::Sync,
    value::{Period, Size},
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
    /// Keeps a standby at the newest backup.
    Sync(Box<Sync>),
    /// Verifies the backups of the stack.
    Verify(Verify),
    /// Lets backups of the stack expire, and removes what nobody needs.
    Prune(Prune),
    /// Holds a drill of the policy, which says itself when.
    Drill(String),
}

impl Work {
    /// What it is called where a backup has its kind.
    pub const fn verb(&self) -> &'static str {
        match self {
            Self::Backup { .. } => "backup",
            Self::Copy(_) => "copy",
            Self::Sync(_) => "sync",
            Self::Verify(_) => "verify",
            Self::Prune(_) => "prune",
            Self::Drill(_) => "drill",
        }
    }

    /// Whether its results are kept by a rule.
    pub const fn is_kept(&self) -> bool {
        matches!(self, Self::Backup { .. } | Self::Copy(_))
    }
}

impl Job {
    /// Whether the job backs `source` up.
    pub fn covers(&self, source: &str) -> bool {
        match &self.work {
            Work::Backup { sources, .. } => sources.contains(source),
            _ => false,
        }
    }

    /// The kind of backup, if it makes some.
    pub const fn kind(&self) -> Option<BackupKind> {
        match &self.work {
            Work::Backup { kind, .. } => Some(*kind),
            _ => None,
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

/// How backups are verified.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Verify {
    /// How deep.
    pub depth: VerifyDepth,
    /// At most so many bytes are read each time, of what was proven longest ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Size>,
    /// For `depth: restore`: the directory to restore to, with room for the largest backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scratch: Option<String>,
    /// For `depth: restore`: the directory of PostgreSQL's programs; looked for if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub programs: Option<String>,
    /// For `depth: restore`: the sources whose newest backups are restored; all if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sources: Option<Vec<String>>,
}

impl Verify {
    /// What goes together and what does not.
    fn check(&self) -> Result<(), &'static str> {
        let restores = self.depth == VerifyDepth::Restore;
        match (&self.scratch, &self.sources) {
            (None, _) if restores => Err(
                "`depth: restore` needs a place to restore to\nadd `scratch: /DIR`, with room for the largest backup; it is empty afterwards",
            ),
            (Some(scratch), _) if !scratch.starts_with('/') => {
                Err("`scratch` is relative\ngive the path from the root")
            }
            (Some(_), _) if !restores => {
                Err("`scratch` goes with `depth: restore`\nremove it, or take that depth")
            }
            _ if !restores && self.programs.is_some() => {
                Err("`programs` goes with `depth: restore`\nremove it, or take that depth")
            }
            (_, Some(_)) if !restores => Err(
                "`sources` goes with `depth: restore`\nremove it: the other depths verify all backups of the stack",
            ),
            _ if restores && self.budget.is_some() => Err(
                "`budget` says nothing about `depth: restore`\nremove it; `sources` narrows what is restored",
            ),
            _ => Ok(()),
        }
    }
}

/// How deep a verification goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VerifyDepth {
    /// Every object is there and has its size.
    List,
    /// Every stored byte is what it was.
    #[default]
    Stored,
    /// Every file is what it was; needs an identity on this host.
    Content,
    /// The newest backup of each source comes back, and starts; needs an identity on this host.
    Restore,
}

impl VerifyDepth {
    /// The word, as on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Stored => "stored",
            Self::Content => "content",
            Self::Restore => "restore",
        }
    }
}

/// How backups expire: by the rules of the jobs that made them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Prune {}

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
    /// Keeps a standby of a StarRocks source at the newest backup, instead of `sources` and `kind`.
    #[serde(skip_serializing_if = "Option::is_none")]
    sync: Option<Sync>,
    /// Verifies the backups of the stack, instead of `sources` and `kind`.
    #[serde(skip_serializing_if = "Option::is_none")]
    verify: Option<Verify>,
    /// Lets backups expire, instead of `sources` and `kind`.
    #[serde(skip_serializing_if = "Option::is_none")]
    prune: Option<Prune>,
    /// When the job runs.
    schedule: Schedule,
    /// How long its results are kept.
    #[serde(default, deserialize_with = "retention::written")]
    keep: Option<Keep>,
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
        if let Some(verify) = &written.verify {
            verify.check()?;
        }
        let other = [
            written.copy.map(Work::Copy),
            written.sync.map(|sync| Work::Sync(Box::new(sync))),
            written.verify.map(Work::Verify),
            written.prune.map(Work::Prune),
        ];
        let mut other = other.into_iter().flatten();
        let work = match (written.sources, written.kind, other.next()) {
            (Some(sources), Some(kind), None) => Work::Backup { sources, kind },
            (None, None, Some(work)) if other.next().is_none() => work,
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
                    "a job backs up, copies, syncs, verifies or prunes\ngive each a job of its own, with `schedule: { after: [THIS] }`",
                );
            }
        };
        let keep = match written.keep {
            Some(_) if !work.is_kept() => {
                return Err(
                    "`keep` says nothing here: the job makes nothing that is kept\nremove it; rules stand with the jobs that back up",
                );
            }
            None if work.is_kept() => {
                return Err("`keep` is missing\nadd `keep: { for: 7d }`");
            }
            keep => keep.unwrap_or_default(),
        };
        Ok(Self {
            work,
            schedule: written.schedule,
            keep,
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
        let keep = job.work.is_kept().then_some(job.keep);
        let (mut sources, mut kind, mut copy, mut sync, mut verify, mut prune) =
            (None, None, None, None, None, None);
        match job.work {
            Work::Backup { sources: which, kind: what } => {
                (sources, kind) = (Some(which), Some(what));
            }
            Work::Copy(work) => copy = Some(work),
            Work::Sync(work) => sync = Some(*work),
            Work::Verify(work) => verify = Some(work),
            Work::Prune(work) => prune = Some(work),
            // Written with the drill.
            Work::Drill(_) => {}
        }
        let execution = job.execution;
        Self {
            sources,
            kind,
            copy,
            sync,
            verify,
            prune,
            schedule: job.schedule,
            keep,
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
