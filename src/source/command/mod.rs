//! The output of a command, or of a pipeline of them.

mod guard;
mod pipeline;
mod source;

pub use guard::{PATIENT_GUARD, run_guarded};
pub use pipeline::{GUARD, Pipeline, Running, Stage, wait_for};
pub use source::{CommandSource, Config, find_program};
