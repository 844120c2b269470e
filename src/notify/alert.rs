//! What may be wrong.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::archive::digest::sha256_hex;
use crate::policy::AlertSeverity;

/// Something that is wrong, and with what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// The stack; empty where it is about all of them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stack: String,
    /// The source, if it is about one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// The job, if it is about one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub job: String,
    /// The repository, if it is about one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub repository: String,
    /// The playbook, if it is about one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub playbook: String,
    /// What is wrong.
    pub what: What,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "snake_case")]
pub enum What {
    /// The last run failed, and is not tried again.
    RunFailed {
        /// The run.
        run: String,
        /// How often it was tried.
        attempts: u32,
        /// One line.
        why: String,
    },
    /// The last run that was due was not done.
    RunMissed {
        /// When it was due.
        due: Timestamp,
        /// One line.
        why: String,
    },
    /// More would be lost now than the RPO allows.
    ObjectiveMissed {
        /// The newest instant that can be restored; `None`: nothing can.
        newest: Option<Timestamp>,
        /// The RPO in seconds.
        rpo: u64,
    },
    /// More will be lost than the RPO allows before the next run can end.
    ObjectiveAtRisk {
        /// The newest instant that can be restored.
        newest: Timestamp,
        /// The RPO in seconds.
        rpo: u64,
        /// When the next run can have ended, if there is one.
        next: Option<Timestamp>,
    },
    /// The repository cannot be asked.
    RepositoryUnreachable {
        /// One line.
        why: String,
    },
    /// The policies changed and are invalid.
    PolicyInvalid {
        /// What is wrong with them.
        why: String,
    },
    /// A hard window keeps the next run from beginning before the RPO is missed.
    WindowBreaksObjective {
        /// The windows.
        windows: Vec<String>,
        /// When the run can begin at last; `None`: never.
        begins: Option<Timestamp>,
        /// When the RPO is missed.
        missed: Timestamp,
    },
    /// A backup is much smaller than those before it.
    BackupShrunk {
        /// The backup.
        backup: String,
        /// Bytes of content.
        bytes: u64,
        /// The median of those of 7 days before it.
        median: u64,
    },
    /// A verification found objects that are missing or not what they were.
    DamageFound {
        /// How many.
        objects: u64,
    },
    /// No WAL arrives any more.
    WalArchivingStopped {
        /// The newest instant that can be restored.
        newest: Timestamp,
    },
    /// The other repository is behind.
    CopyLags {
        /// The newest instant that can be restored from it.
        copied: Option<Timestamp>,
        /// By how many seconds it may be behind.
        allowed: u64,
    },
    /// Another site is the active one: nothing is backed up or archived here.
    SiteFenced {
        /// Which, and since when.
        why: String,
    },
    /// A step of a playbook has something to say.
    PlaybookSays {
        /// The run.
        run: String,
        /// The step.
        step: String,
        /// What it says.
        text: String,
        /// How bad it is.
        severity: AlertSeverity,
    },
    /// A playbook could not be carried out now, or nobody looked since it was changed.
    PlaybookNotReady {
        /// The mode in which it could not.
        mode: String,
        /// How much is missing; 0: nobody looked.
        problems: u64,
        /// The first of it.
        why: String,
    },
    /// The last drill of a name did not pass.
    DrillFailed {
        /// The drill.
        drill: String,
        /// What it came to, as it is shown.
        verdict: String,
        /// The gravest of its findings.
        why: String,
    },
    /// No drill of a name passed for longer than its schedule allows.
    DrillOverdue {
        /// When one last passed; `None`: never.
        passed: Option<Timestamp>,
        /// How many seconds may be between two.
        allowed: u64,
    },
    /// Nothing: somebody tries whether messages arrive.
    Test,
}

/// The names of all alerts, each a section of `docs/runbooks.md`.
pub const NAMES: [&str; 17] = [
    "BackstayRunFailed",
    "BackstayRunMissed",
    "BackstayObjectiveMissed",
    "BackstayObjectiveAtRisk",
    "BackstayRepositoryUnreachable",
    "BackstayPolicyInvalid",
    "BackstayWindowBreaksObjective",
    "BackstayBackupShrunk",
    "BackstayDamageFound",
    "BackstayWalArchivingStopped",
    "BackstayCopyLags",
    "BackstaySiteFenced",
    "BackstayTest",
    "BackstayPlaybookSays",
    "BackstayPlaybookNotReady",
    "BackstayDrillFailed",
    "BackstayDrillOverdue",
];

/// Where the sections for each alert are, where a policy names no address: the page that comes with
/// the program.
pub const RUNBOOKS: &str = "docs/runbooks.md";

impl What {
    /// The name, as Prometheus writes them.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::RunFailed { .. } => NAMES[0],
            Self::RunMissed { .. } => NAMES[1],
            Self::ObjectiveMissed { .. } => NAMES[2],
            Self::ObjectiveAtRisk { .. } => NAMES[3],
            Self::RepositoryUnreachable { .. } => NAMES[4],
            Self::PolicyInvalid { .. } => NAMES[5],
            Self::WindowBreaksObjective { .. } => NAMES[6],
            Self::BackupShrunk { .. } => NAMES[7],
            Self::DamageFound { .. } => NAMES[8],
            Self::WalArchivingStopped { .. } => NAMES[9],
            Self::CopyLags { .. } => NAMES[10],
            Self::SiteFenced { .. } => NAMES[11],
            Self::Test => NAMES[12],
            Self::PlaybookSays { .. } => NAMES[13],
            Self::PlaybookNotReady { .. } => NAMES[14],
            Self::DrillFailed { .. } => NAMES[15],
            Self::DrillOverdue { .. } => NAMES[16],
        }
    }

    /// How bad it is.
    pub const fn severity(&self) -> AlertSeverity {
        match self {
            Self::RunFailed { .. }
            | Self::ObjectiveMissed { .. }
            | Self::RepositoryUnreachable { .. }
            | Self::DamageFound { .. }
            | Self::DrillFailed { .. }
            | Self::WalArchivingStopped { .. } => AlertSeverity::Critical,
            Self::RunMissed { .. }
            | Self::ObjectiveAtRisk { .. }
            | Self::PolicyInvalid { .. }
            | Self::WindowBreaksObjective { .. }
            | Self::BackupShrunk { .. }
            | Self::CopyLags { .. }
            | Self::SiteFenced { .. }
            | Self::PlaybookNotReady { .. }
            | Self::DrillOverdue { .. }
            | Self::Test => AlertSeverity::Warning,
            Self::PlaybookSays { severity, .. } => *severity,
        }
    }

    /// Whether only a look into the repositories tells that it is over.
    pub const fn needs_look(&self) -> bool {
        !matches!(
            self,
            Self::RunFailed { .. }
                | Self::RunMissed { .. }
                | Self::PolicyInvalid { .. }
                | Self::PlaybookSays { .. }
                | Self::PlaybookNotReady { .. }
                | Self::DrillFailed { .. }
                | Self::DrillOverdue { .. }
                | Self::Test
        )
    }
}

impl Alert {
    /// An alert about a stack.
    pub fn of(stack: &str, what: What) -> Self {
        Self {
            stack: stack.to_owned(),
            source: String::new(),
            job: String::new(),
            repository: String::new(),
            playbook: String::new(),
            what,
        }
    }

    /// The same about a source of it.
    #[must_use]
    pub fn source(mut self, source: &str) -> Self {
        source.clone_into(&mut self.source);
        self
    }

    /// The same about a job of it.
    #[must_use]
    pub fn job(mut self, job: &str) -> Self {
        job.clone_into(&mut self.job);
        self
    }

    /// The same about a repository of it.
    #[must_use]
    pub fn repository(mut self, repository: &str) -> Self {
        repository.clone_into(&mut self.repository);
        self
    }

    /// The same about a playbook of it.
    #[must_use]
    pub fn playbook(mut self, playbook: &str) -> Self {
        playbook.clone_into(&mut self.playbook);
        self
    }

    /// What it is about, as people write it: `STACK/SOURCE JOB`.
    pub fn subject(&self) -> String {
        let mut subject = self.stack.clone();
        if !self.source.is_empty() {
            subject = format!("{subject}/{}", self.source);
        }
        for part in [&self.job, &self.repository, &self.playbook] {
            if !part.is_empty() {
                subject = format!("{subject} {part}");
            }
        }
        subject.trim().to_owned()
    }

    /// The labels that make it the one it is; none of them changes while it fires.
    pub fn labels(&self) -> BTreeMap<&'static str, &str> {
        let mut labels = BTreeMap::from([
            ("alertname", self.what.name()),
            ("severity", self.what.severity().word()),
        ]);
        let more = [
            ("stack", &self.stack),
            ("source", &self.source),
            ("job", &self.job),
            ("repository", &self.repository),
            ("playbook", &self.playbook),
        ];
        labels.extend(
            more.into_iter().filter(|(_, value)| !value.is_empty()).map(|(k, v)| (k, v.as_str())),
        );
        labels
    }

    /// The same for the same labels, on every machine and in every version.
    pub fn fingerprint(&self) -> String {
        let text: Vec<String> =
            self.labels().iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        sha256_hex(text.concat().as_bytes())[..16].to_owned()
    }

    /// The section that says what to do, on the page at `runbooks`.
    pub fn runbook(&self, runbooks: Option<&str>) -> String {
        let page = runbooks.unwrap_or(RUNBOOKS);
        format!("{page}#{}", self.what.name().to_ascii_lowercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_while_it_fires_does_not_change_the_fingerprint() {
        let failed = |why: &str, attempts| {
            let why = why.to_owned();
            Alert::of("shop", What::RunFailed { run: "a".into(), attempts, why })
                .source("db")
                .job("daily")
        };
        assert_eq!(failed("x", 1).fingerprint(), failed("y", 3).fingerprint());
        assert_ne!(failed("x", 1).fingerprint(), failed("x", 1).source("files").fingerprint());
        // It is kept in states and in other people's systems: it must never be another.
        assert_eq!(failed("x", 1).fingerprint().len(), 16);
        assert_eq!(failed("x", 1).subject(), "shop/db daily");
        let text = serde_json::to_string(&failed("x", 1)).unwrap_or_default();
        assert_eq!(serde_json::from_str::<Alert>(&text).ok(), Some(failed("x", 1)));
    }
}
