//! The `sqlite` source: one database file, as it is in one transaction.
//!
//! ```text
//! superset.db         the database, to be opened as it is
//! superset.db.json    what it is: pages, journal mode, what `integrity_check` said
//! ```
//!
//! A file that is copied while somebody writes to it is torn, and what is committed may lie in its
//! `-wal` file alone. Here a read transaction is begun, and every page is read through it.

mod database;
mod place;
mod source;

pub use database::{Facts, check_file};
pub use place::{Placed, Placing, facts_path};
pub use source::{Config, KIND, SqliteSource};
