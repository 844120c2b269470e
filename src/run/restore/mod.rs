//! Restore: from a manifest to files, a stream or a consumer.
//!
//! Plan: read the index once; create directories; sort what has content by where it lies.
//! Then: workers read ranges of segments, check every member against the index and every content
//! against its digest, and write. Links and devices come after all files, attributes of
//! directories last, and `sync` before success.

mod binlog;
mod cluster;
mod files;
mod kept;
mod layers;
mod member;
mod objects;
mod output;
mod part;
mod plan;
mod recovered;
mod recovery;
mod request;
mod selection;
mod tree;
mod worker;

pub use binlog::{Replayed, has_logs, replayed};
pub use cluster::{CLUSTER_KIND, ClusterPlan, TablespaceChoice, restore_cluster};
pub use files::BackupFiles;
pub use kept::{kept_grants, kept_listing, kept_views};
pub use member::SegmentCursor;
pub use objects::{Restored as RestoredObjects, Ways, restore_objects};
pub use output::{stream_to, stream_to_consumer};
pub use part::{DumpedPart, Part, dump_part};
pub use recovered::{Means, Recovered, recover};
pub use recovery::{Goal, Recovery, Way};
pub use request::{FINDINGS_KEPT, Failures, Finding, Outcome, Request};
pub use selection::Selection;
pub use tree::restore_tree;
pub use worker::check_content;
