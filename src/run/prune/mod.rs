//! Prune: backups expire by rule, and what nobody needs any more goes, in two phases.
//!
//! Phase one marks: the manifests of expired backups go, and what only they needed is announced.
//! Phase two, a grace period later, looks again and deletes. `store::protocol` is why that is safe.
//!
//! | file | for |
//! |---|---|
//! | `request` | what is asked, and the times that matter |
//! | `look` | what lies there, in the order that makes it safe to draw conclusions |
//! | `plan` | what becomes of each backup and object, and why: pure |
//! | `execute` | does it |
//! | `wal` | which WAL goes with them |
//! | `report` | what was done |

mod execute;
mod look;
mod plan;
mod report;
mod request;
mod wal;

pub use execute::{plan, prune};
pub use plan::{Blocked, Deletion, Fate, ObjectFate, Plan, PlannedBackup};
pub use report::{Outcome, Tally};
pub use request::{Expiry, Request, Times};
pub use wal::TimelineFate;
