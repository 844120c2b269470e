//! PostgreSQL's `archive_command` and `restore_command`.

mod archive;
mod get;
mod push;

pub use archive::{Archive, system_id_of};
pub use get::{Got, Wanted, get};
pub use push::{Pushed, push};
