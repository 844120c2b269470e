//! The `mysql_dump` source: databases of MySQL and MariaDB, as `mysqldump` writes them.
//!
//! ```text
//! dumps/NAME.sql        tables, routines, triggers, events: to be fed to a client that is in an empty database
//! dumps/NAME.views.sql  views, after all tables
//! facts/NAME.json       what the database is, and rows per table in the snapshot of the dump
//! users.sql             users, roles, rights
//! binlog/NAME           binary logs since the dump, in incremental backups
//! server.json           the server, and its position in the binary log
//! ```

mod binlog;
mod choose;
mod client;
mod conninfo;
mod definers;
mod files;
mod incremental;
mod local;
mod look;
mod probe;
mod restore;
mod server;
mod snapshot;
mod source;
mod split;
mod swap;
mod tools;

pub use binlog::{BINLOG, Goal};
pub use choose::Which;
pub use client::Client;
pub use conninfo::{Settings, SslMode};
pub use files::{Facts, OVERVIEW, Overview, Position, Table};
pub use local::LocalDumps;
pub use restore::{DatabasePlan, Done, Options, Restoring, replay_into};
pub use server::{Launch, ThrowawayServer, end_leftover};
pub use source::{Config, KIND, MysqlSource};
pub use split::{Part, Splitter};
