//! Prove: a backup is restored to a place of its own, started if it is one of a server, looked at,
//! and thrown away.
//!
//! | file | for |
//! |---|---|
//! | `proof` | what is asked, and what came of it |
//! | `cluster` | a base backup: a server recovers from it |
//! | `live` | what was brought back, for as long as somebody looks at it |
//! | `dump` | dumps: a new server takes them |
//! | `mysql` | dumps of MySQL and MariaDB: a new server takes them |
//! | `needs` | whether there is what a server is started with |
//! | `sqlite` | a database file: `SQLite` looks at all of it |
//! | `tree` | files |

mod cluster;
mod dump;
mod live;
mod mysql;
mod needs;
mod proof;
mod sqlite;
mod tree;

pub use live::{Aim, Live, bring_back};
pub use needs::can_start;
pub use proof::{Proof, Request, Verdict, prove};
