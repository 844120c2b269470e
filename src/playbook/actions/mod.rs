//! The kinds of actions, one file each.

mod backup;
mod build;
mod command;
mod gate;
mod itself;
mod program;
mod restore;
mod tcp;
mod wait;

pub use build::build;
