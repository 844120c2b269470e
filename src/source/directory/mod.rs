//! Directories and files: everything a file system keeps, and back.

mod content;
mod exclude;
mod live;
mod owner;
mod source;
mod walk;
mod writeback;

pub mod extract;
pub mod heartbeat;

pub use owner::{OwnerNames, OwnerNumbers};
pub use source::{Config, DirectorySource, raise_file_limit};
