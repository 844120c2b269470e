//! Prove: a backup is restored to a place of its own, started if it is one of a server, looked at,
//! and thrown away.
//!
//! | file | for |
//! |---|---|
//! | `proof` | what is asked, and what came of it |
//! | `cluster` | a base backup: a server recovers from it |
//! | `dump` | dumps: a new server takes them |
//! | `mysql` | dumps of MySQL and MariaDB: a new server takes them |
//! | `sqlite` | a database file: `SQLite` looks at all of it |
//! | `tree` | files |

mod cluster;
mod dump;
mod mysql;
mod proof;
mod sqlite;
mod tree;

pub use proof::{Proof, Request, Verdict, prove};
