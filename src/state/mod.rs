//! What is remembered: an SQLite database in a directory of its own, and, where several daemons
//! share their runs, a PostgreSQL database for these.
//!
//! The repository is the truth; this is a cache of it, and history. Losing it costs no backup: what
//! was proven when is not known then, and is proven again.
//!
//! | file | for |
//! |---|---|
//! | `directory` | where it lies |
//! | `database` | opens it, brings it to the newest schema, sets a damaged one aside |
//! | `schema` | every schema there was |
//! | `proofs` | which objects were proven sound, and when |
//! | `recoveries` | how long it took to bring backups back |
//! | `drills` | the newest drill of each name |
//! | `readiness` | whether each playbook could have been carried out, when somebody looked last |
//! | `runs` | every time that a job was due, and what came of it |
//! | `totals` | how many runs ended how, and how long they took |
//! | `alerts` | what fires, who was told, and what was last found of each source |
//! | `ledger` | what is asked of runs, whatever they are kept in |
//! | `local`, `postgres` | the two things they are kept in |

mod alerts;
mod database;
mod directory;
mod drills;
mod ledger;
mod local;
mod postgres;
mod proofs;
mod readiness;
mod recoveries;
mod runs;
mod schema;
mod totals;

pub use alerts::{AlertRow, LookRow, NotifyResult, NotifyTotal, Told, ToldBy};
pub use database::State;
pub use directory::default_directory;
pub use drills::DrillRow;
pub use ledger::{Cursor, Epoch, Fence, Held, LastEnds, Ledger};
pub use postgres::{Connect, SharedState};
pub use proofs::{Proof, ProofDepth, ProofResult};
pub use readiness::ReadinessRow;
pub use recoveries::Recovery;
pub use runs::{NewRun, RunFilter, RunRow, RunState, Slot};
pub use totals::{Durations, OUTCOMES, RunTotal};
