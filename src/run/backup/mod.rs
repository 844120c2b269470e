//! Backup: from a source to a commit.
//!
//! ```text
//! Source ─entries in order→ TreeSink ─unchanged→ index
//!                             │ new, changed → workers: tar → frames → age → sha256 → upload
//!                             │ directories, odd names, hard links → kept until the end
//! Source ─one stream──────→ slices: frames in parallel → age → sha256 → upload
//! all stored → index → dead lists → SHA256SUMS → commit
//! ```

mod ahead;
mod arrival;
mod base;
mod beside;
mod buried;
mod finish;
mod give_up;
mod groups;
mod layering;
mod links;
mod request;
mod session;
mod sink;
mod stream;
mod tally;
mod worker;

pub use give_up::give_up;
pub use request::{Outcome, Request, Terms};
pub use session::{backup, backup_within};
