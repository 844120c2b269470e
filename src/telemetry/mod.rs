//! What happens while work is done, as types.
//!
//! One stream of [`Event`]s feeds the progress bar, the JSON lines, the logs and the run record.
//! The library never prints: it reports, and whoever runs it decides what a person sees.

mod event;
mod progress;

pub mod failpoint;
pub mod human;

pub use event::{Event, EventSink, OfRun, Reporter, Severity, WarningCode};
pub use progress::{Progress, ProgressSnapshot};
