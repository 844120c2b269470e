//! PostgreSQL: connections, and what is backed up over them.
//!
//! Everything here is threads that may block; `postgres` is the blocking face of `tokio-postgres`.

pub mod cluster;
pub mod dump;
pub mod heartbeat;
pub mod restore;

mod archiver;
mod basebackup;
mod connection;
mod conninfo;
mod login;
mod parse;
mod passfile;
mod replication;
mod server;
mod start;
mod tls;
mod tools;
mod wire;

pub use archiver::{Archived, ServerWal, server_wal, switch_segment};
pub use basebackup::{BaseBackup, Part, Tablespace};
pub use connection::{Connection, OLDEST, Server};
pub use conninfo::{Host, Place, Settings, Surroundings, Wanted, quote_value};
pub use replication::{BackupOptions, Identity, OLDEST_CLUSTER, Replication, WalNews, WalStream};
pub use server::{Launch, ServerUser, ThrowawayServer, end_leftover};
pub use start::{Started, start_restored};
pub use tls::{SslMode, Tls};
