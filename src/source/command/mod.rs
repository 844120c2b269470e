//! The output of a command, or of a pipeline of them.

mod pipeline;
mod source;

pub use pipeline::{GUARD, Pipeline, Running, Stage};
pub use source::{CommandSource, Config};
