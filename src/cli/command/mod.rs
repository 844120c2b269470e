//! The commands, one file each.

pub mod backup;
pub mod check;
pub mod completions;
pub mod init;
pub mod key;
pub mod list;
pub mod ls;
pub mod man;
pub mod restore;
pub mod schema;
pub mod show;
pub mod verify;
