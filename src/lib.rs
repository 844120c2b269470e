//! Backstay: backup, restore and disaster recovery for data platforms.
//!
//! # The way of a byte
//!
//! ```text
//! Source ─entries in order→ sink ─unchanged→ index
//!                            │ new, changed
//!                            └→ tar → 4 MiB zstd frames → age → SHA-256 → multipart upload
//! all stored → index → dead lists → SHA256SUMS → the store is asked → commit
//! ```
//!
//! A backup comes into being with its commit, one create-only object. Restore is the same road
//! backwards: manifest, index, plan, ranged reads, frames, members, target. What lies in a
//! repository is specified in `docs/format.md`.
//!
//! # Modules
//!
//! | module | for |
//! |---|---|
//! | [`cli`] | one file per command; output, progress, exit codes |
//! | [`daemon`] | the policy engine: what is due when, and what comes of it |
//! | [`http`] | what programs and people read of a daemon: metrics, health, API, dashboard |
//! | [`drill`] | recovering for practice: a sandbox, checks, what was measured, and evidence of it |
//! | [`playbook`] | recovering and moving step by step, each written down before it happens |
//! | [`run`] | the verbs: backup, restore, verify |
//! | [`notify`] | telling people and programs what is wrong |
//! | [`source`] | what can be backed up: directories, commands, secrets, databases |
//! | [`store`] | repositories: keys, uploads, ranged reads, catalogue, intents, probes |
//! | [`state`] | what is remembered: SQLite on this machine, or PostgreSQL for several |
//! | [`archive`] | tar members, frames, age, digests, index, manifest; synchronous |
//! | [`policy`] | what is protected, where to, how often: model, linter, schema |
//! | [`telemetry`] | typed events, progress |
//! | [`secret`], [`clock`], [`id`], [`error`] | what everything else stands on |
//!
//! # The dependency rule
//!
//! Imports point right only, and `tests/architecture.rs` keeps it so:
//!
//! ```text
//! main → cli → http → daemon → drill → playbook → run → {source, notify} → {store, state} → archive → policy → {telemetry, secret, clock, id, error}
//! ```
//!
//! Only `store` sees object stores and, beside the server in `http`, the async runtime (which `cli` starts); everything else is
//! threads that may block, those that talk to database servers included. Only `cli` prints. Only `clock` reads the time of day.

pub mod archive;
pub mod cli;
pub mod clock;
pub mod daemon;
pub mod drill;
pub mod error;
pub mod http;
pub mod id;
pub mod notify;
pub mod playbook;
pub mod policy;
pub mod run;
pub mod secret;
pub mod source;
pub mod state;
pub mod store;
pub mod telemetry;

/// Name and version, as written into manifests and descriptors.
pub const TOOL: &str = concat!("backstay ", env!("CARGO_PKG_VERSION"));
