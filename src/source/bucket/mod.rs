//! The `bucket` source: the objects of an S3-compatible bucket.
//!
//! ```text
//! objects/KEY                each object under its key, what is kept beside it as extended attributes
//! versions/KEY%/VERSION      what lies behind it, and marks that it was deleted, where that is wanted
//! bucket.json                what the bucket is set to do
//! ```

mod key;
mod listing;
mod probe;
mod put;
mod source;

pub use key::{OBJECTS, Paths, VERSIONS, key_of, version_of};
pub use put::{Put, put};
pub use source::{BucketSource, Config, DELETED, KIND, NTH};
