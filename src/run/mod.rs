//! The verbs: backup, restore, verify. Each first plans, which is pure reading, and then does.

mod context;
mod inspect;
mod select;

pub mod backup;
pub mod restore;
pub mod verify;

pub use context::{Context, Tuning, host_name};
pub use inspect::{Listing, list_backups};
pub use select::{BackupChoice, find_backup, find_by_prefix};
