//! What this machine remembers: an SQLite database in a directory of its own.
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
//! | `runs` | every time that a job was due, and what came of it |

mod database;
mod directory;
mod proofs;
mod runs;
mod schema;

pub use database::State;
pub use directory::default_directory;
pub use proofs::{Proof, ProofDepth, ProofResult};
pub use runs::{NewRun, RunFilter, RunRow, RunState, Slot};
