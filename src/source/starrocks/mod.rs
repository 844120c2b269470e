//! The `starrocks` source: databases of a StarRocks cluster, by its own snapshots.
//!
//! StarRocks writes a snapshot into a bucket by itself, past everything here. What this does is to
//! have it written under the source's own directory, to see it through to its end, to look whether
//! it is whole before a backup is committed, and to store beside it what a snapshot leaves out.
//!
//! | module | for |
//! |---|---|
//! | `session`, `cluster` | one frontend; all of them, whichever answers |
//! | `sql` | every statement that is sent |
//! | `said` | what frontends answer, as errors with a hint |
//! | `job` | seeing a job through to its end |
//! | `content`, `beside` | what there is to back up; what a snapshot leaves out |
//! | `repository` | telling StarRocks where to write |
//! | `partitions` | which partition is in which snapshot |
//! | `taking`, `source`, `probe` | the backup |
//! | `restore` | the way back |

mod beside;
mod cluster;
mod content;
mod job;
mod partitions;
mod probe;
mod repository;
mod rows;
mod said;
mod session;
mod source;
mod taking;
mod version;

pub mod restore;
pub mod sql;

pub use beside::{GRANTS, View, views_path};
pub use cluster::{Cluster, Login, Target};
pub use partitions::{LISTING, Listing};
pub use repository::Bucket;
pub use rows::Rows;
pub use said::Failure;
pub use source::{StarRocksSource, Which};
pub use version::Version;
