//! From snapshots back to databases: beside what is in use, compared, and put in its place on request.

mod plan;
mod work;

pub use plan::{Plan, Step};
pub use work::{Compared, Done, Options, Restored, Restoring};
