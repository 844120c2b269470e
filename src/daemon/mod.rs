//! The policy engine: what is due when, and what comes of it.
//!
//! | file | for |
//! |---|---|
//! | `admission` | when a run that is due may begin: jitter and windows |
//! | `coalesce` | jobs that want the same source at the same time |
//! | `cover` | runs that another one stands for |
//! | `timetable` | the runs of a stretch of time, if each takes as long as expected |
//! | `forecast` | what retention holds in the long run, and the exposure of each source |
//! | `growth` | how much a repository will hold |
//! | `tick` | what is to be done now |
//! | `engine` | the loop |
//! | `slots` | makes rows of what is due |
//! | `force` | the policies in force, kept for the runs that read them |
//! | `heartbeats` | the time, written at sources for drills to find in their copies |
//! | `lease` | what daemons that share a state owe each other |
//! | `supervise` | one run: the process that does it, between its hooks |
//! | `hook` | the programs that are run around a run |
//! | `service` | what the service manager is told |
//! | `adopt` | what came of a run whose owner is gone |
//! | `alerts` | what is wrong |
//! | `tell` | who is to be told what now |
//! | `argv` | what a person would type for a run |
//! | `asking` | commands of this program, asked as processes of their own |
//! | `look` | what `status` finds in the repositories |
//! | `drills` | drills that did not pass, and those that are overdue |
//! | `preflights` | which playbooks could be carried out |
//! | `watch` | looks, and has people told |
//! | `attend` | what the loop does for those who watch |
//! | `board` | where others see what the daemon does |
//! | `trigger` | runs that a person asks for |
//! | `words` | what a run said |
//!
//! `admission`, `coalesce`, `cover`, `timetable`, `forecast`, `growth`, `tick`, `trigger`, `alerts` and `tell` are pure: policies and
//! instants in, values out.

pub mod admission;
mod adopt;
pub mod alerts;
mod argv;
pub mod asking;
mod attend;
pub mod board;
pub mod coalesce;
pub mod cover;
pub mod drills;
pub mod engine;
mod force;
pub mod forecast;
pub mod growth;
mod heartbeats;
mod hook;
mod lease;
pub mod look;
pub mod preflights;
pub mod service;
mod slots;
pub mod supervise;
pub mod tell;
pub mod tick;
pub mod timetable;
pub mod trigger;
pub mod watch;
pub mod words;
