//! From snapshots back to databases: beside what is in use, compared, and put in its place on request.

mod plan;
mod standby;
mod work;

pub use plan::{Names, Plan, Step};
pub use standby::{Change, Followed, Following};
pub use work::{Compared, Done, Options, Restored, Restoring};
