//! Directories and files: everything a file system keeps, and back.

mod content;
mod exclude;
mod live;
mod owner;
mod source;
mod walk;

pub mod extract;

pub use owner::{OwnerNames, OwnerNumbers};
pub use source::{Config, DirectorySource, raise_file_limit};
