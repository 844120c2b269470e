//! The verbs: backup, copy, diff, find, prove, prune, repair, restore, verify. Each first plans, which is pure reading, and then does.

mod context;
pub mod copy;
mod crew;
pub mod diff;
pub mod find;
pub mod hold;
mod inspect;
pub mod lock;
mod pin;
pub mod place;
pub mod protection;
pub mod rebuild;
mod select;
pub mod space;

pub mod backup;
pub mod prove;
pub mod prune;
pub mod repair;
pub mod restore;
pub mod role;
pub mod sync;
pub mod thaw;
pub mod verify;
pub mod wal;

pub use context::{Context, HOST_LABEL, Tuning, host_name};
pub use inspect::{Listing, list_backups, retention_rule};
pub use pin::{PinOf, pin, unpin};
pub use select::{BackupChoice, find_backup, find_by_name, find_source};
