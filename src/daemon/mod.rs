//! The policy engine: what is due when, and what comes of it.
//!
//! | file | for |
//! |---|---|
//! | `admission` | when a run that is due may begin: jitter and windows |
//! | `coalesce` | jobs that want the same source at the same time |
//! | `timetable` | the runs of a stretch of time, if each takes as long as expected |
//! | `forecast` | what retention holds in the long run, and the exposure of each source |
//!
//! | `tick` | what is to be done now |
//! | `engine` | the loop |
//! | `lease` | what daemons that share a state owe each other |
//! | `supervise` | one run: its hooks, and the process that does it |
//! | `service` | what the service manager is told |
//! | `adopt` | what came of a run whose owner is gone |
//!
//! All but the last five is pure: policies and instants in, values out.

pub mod admission;
mod adopt;
pub mod coalesce;
pub mod engine;
pub mod forecast;
mod lease;
pub mod service;
pub mod supervise;
pub mod tick;
pub mod timetable;
