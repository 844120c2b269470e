//! The commands, one file each.

pub mod backup;
pub mod cancel;
pub mod check;
pub mod completions;
pub mod copy;
pub mod daemon;
pub mod delete;
pub mod diff;
pub mod find;
pub mod init;
pub mod key;
pub mod list;
pub mod logs;
pub mod ls;
pub mod man;
pub mod pin;
pub mod plan;
pub mod prune;
pub mod restore;
pub mod restore_cluster;
pub mod restore_database;
pub mod runs;
pub mod schema;
pub mod show;
pub mod unpin;
pub mod verify;
