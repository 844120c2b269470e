//! Policies: what is protected, where to, how often, for how long, and how much may be lost.
//!
//! One YAML file is one *stack*. The way of a file:
//!
//! ```text
//! bytes ─load→ text ─yaml→ tree with positions ─assemble→ model ─lint→ Policy + warnings
//!                                  └────────────redact───────────────→ what a message may show
//! ```
//!
//! Everything but [`load()`] is pure: [`parse`] takes text and gives a policy or *all* that is wrong
//! with it, each as a [`Diagnostic`] with file, line, column and what to do now. A policy never
//! holds a secret, only references to secrets, and no diagnostic shows one that was written there
//! by mistake.
//!
//! | file | for |
//! |---|---|
//! | `load`, `keep` | files and directories, and copies of them: the only I/O |
//! | `yaml` | text to a tree with positions, within limits; the only user of the YAML library |
//! | `assemble`, `decode` | tree to model: item by item, by `serde` |
//! | `model`, `repository`, `source`, `job`, `retention`, `objective`, `value` | the types, and with them the JSON Schema |
//! | `schedule`, `cron`, `window` | when a job runs, and the longest interval between runs |
//! | `execution` | how its runs behave |
//! | `notify` | who is told what |
//! | `drill` | what is recovered for practice |
//! | `playbook`, `action`, `server_action` | what is done to recover or to move, step by step |
//! | `lint` | the rules across fields |
//! | `redact` | which parts of a text must not be shown |
//! | `diagnostic`, `suggest` | how a problem is shown |

mod action;
mod assemble;
mod bucket;
mod cron;
mod decode;
mod diagnostic;
mod divergence;
mod dns;
mod drill;
mod execution;
mod heartbeat;
mod job;
mod keep;
mod lint;
mod load;
mod model;
mod mysql_dump;
mod notify;
mod objective;
mod playbook;
mod postgres_dump;
mod recipient;
mod redact;
mod repository;
mod retention;
mod schedule;
mod server_action;
mod source;
mod sqlite;
mod starrocks;
mod structure;
mod suggest;
mod sync;
mod unconfirmed;
mod value;
mod window;
mod yaml;

pub use action::{
    ApprovalAction, BackupAction, CommandAction, Expectation, HaproxyAction, HttpAction, Manager,
    ManualAction, Port, RecoveryPointsAction, RedisFlushAction, RestoreAction, RoleAction,
    SecretCheckAction, ServerState, ServiceAction, ServiceVerb, SqlAction, TcpAction, VantagePoint,
    WaitAction,
};
pub use bucket::BucketSource;
pub use cron::{Cron, Due};
pub use diagnostic::{Diagnostic, Severity, render, render_all};
pub use divergence::DivergenceAction;
pub use dns::{DnsAction, DnsAlgorithm, DnsKey, DnsType};
pub use drill::{
    Drill, DrillCheck, EvidencePlace, FilesCheck, HttpCheck, PointChoice, Scenario, SqlCheck,
};
pub use execution::{CatchUp, Execution, Hook, Hooks, Overlap, Retry};
pub use heartbeat::Heartbeat;
pub use job::{BackupKind, Copy, Job, Prune as PruneWork, Selection, Verify, VerifyDepth, Work};
pub use keep::keep;
pub use load::{
    Fingerprint, LoadError, MAX_FILE_SIZE, PolicySet, fingerprint, json_schema, load, load_kept,
    load_valid, parse,
};
pub use model::{Policy, Role, State};
pub use mysql_dump::MysqlDump;
pub use notify::{
    AlertSeverity, Alertmanager, Language, Notify, NotifyCommand, Ping, Robot, Webhook, Wecom,
};
pub use objective::{Objectives, Targets, Tier};
pub use playbook::{
    ActionSpec, Condition, Mode, OF_RUN, OnFailure, Phase, Placed, Playbook, Preflight, Step, uses,
};
pub use postgres_dump::{Databases, PostgresDump};
pub use recipient::{RecipientError, check_recipient};
pub use repository::{
    AzureRepository, Encryption, GcsRepository, Limits, LocalRepository, LockMode, ObjectLock,
    Prune, Repository, S3Profile, S3Repository, Storage, StorageClass,
};
pub use retention::{
    CLOCK_TOLERANCE, Calendar, Candidate, Keep, Reason, Verdict, plan as plan_retention,
};
pub use schedule::{Rhythm, Schedule, WorstGap, rhythms, worst_gap};
pub use server_action::{ClusterLogin, NotifyAction, PostgresAction, ServerFiles, StarRocksAction};
pub use source::{
    Checkpoint, CommandSource, Compression, DirectorySource, PostgresCluster, Program, Source,
    SourceKind, SourceSpec, Wal, WalArchive,
};
pub use sqlite::Sqlite;
pub use starrocks::{StarRocks, StarRocksStorage, StarRocksTls};
pub use suggest::{hint as hint_at, hint_near};
pub use sync::{Standby, Sync};
pub use unconfirmed::{Runs, marked, runs, unmarked};
pub use value::{Period, Setting, Size, ValueError, is_valid_name};
pub use window::{CivilTime, When, Window};
