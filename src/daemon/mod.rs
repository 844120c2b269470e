//! The policy engine: what is due when, and what comes of it.
//!
//! | file | for |
//! |---|---|
//! | `admission` | when a run that is due may begin: jitter and windows |
//! | `coalesce` | jobs that want the same source at the same time |
//! | `timetable` | the runs of a stretch of time, if each takes as long as expected |
//! | `forecast` | what retention holds in the long run, and the exposure of each source |
//!
//! All of it is pure: policies and instants in, values out.

pub mod admission;
pub mod coalesce;
pub mod forecast;
pub mod timetable;
