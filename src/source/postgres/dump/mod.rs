//! The `postgres_dump` source: databases as `pg_dump` writes them.
//!
//! A tree of files that PostgreSQL's own programs take back:
//!
//! ```text
//! dumps/NAME.pgc     custom format (or dumps/NAME.pgd/, directory format)
//! facts/NAME.json    what the database is, and rows per table in the snapshot of the dump
//! globals.sql        roles, memberships, tablespaces
//! server.json        the server, and what was left out
//! ```

mod archive;
mod choose;
mod content;
mod facts;
mod files;
mod local;
mod probe;
mod session;
mod source;

pub use archive::Walk;
pub use choose::{Choice, Listed, Which, choose};
pub use facts::{Facts, Grant, Setting, Table, measure};
pub use files::{
    CUSTOM, DIRECTORY, DUMPS, FACTS, GLOBALS, Overview, decode_name, dump_path, encode_name,
    facts_path,
};
pub use local::LocalDumps;
pub use source::{CONTENT, Config, DumpSource};
