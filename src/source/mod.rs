//! What can be backed up.
//!
//! A source is one file or folder here, one variant of [`crate::policy::SourceSpec`] and one entry in the
//! conformance suite. It brings entries in index order, or one stream, to an [`EntrySink`], and
//! knows nothing of bases, segments or stores.

mod build;
mod contract;
mod earlier;
mod leftover;
mod restored;

pub mod bucket;
pub mod command;
pub mod directory;
pub mod heartbeat;
pub mod isolation;
pub mod mysql;
pub mod postgres;
pub mod secrets;
pub mod sqlite;
pub mod starrocks;

pub use build::build;
pub use contract::{
    Arriving, Captured, Content, EntrySink, Increment, Item, OpenError, Order, ProbeNote,
    SnapshotPlace, Source, SourceContext, SourceProbe, StoredFiles, Survey, Weight,
};
pub use earlier::{Earlier, PAGE_DIGEST, Refusal, read_stored};
pub use restored::{Difference, Restored};
