//! Copy: backups into another repository, byte for byte.
//!
//! Nothing is decrypted and nothing renamed: a copy has the same id, keys and digests, and is
//! restored without the repository it came from. It is written like a backup: intent first, older
//! segments before newer ones, the manifest last; each object is read back before it counts.
//!
//! | file | for |
//! |---|---|
//! | `request` | what is asked, and what came of it |
//! | `plan` | which backups the other repository lacks and would keep |
//! | `execute` | sends them |
//! | `object` | sends one object |
//! | `wal` | WAL of what was copied, for point-in-time recovery from the copies |

mod execute;
mod object;
mod plan;
mod request;
mod wal;

pub use execute::{check_fit, copy, prepare};
pub(super) use object::{Proof, send};
pub use plan::{Plan, PlannedCopy, Why, plan};
pub(super) use plan::{below, sizes};
pub use request::{Copied, Outcome, Request};
pub use wal::{WalCopied, WalPlan};
