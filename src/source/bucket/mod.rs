//! The `bucket` source: the objects of an S3-compatible bucket.
//!
//! ```text
//! objects/KEY    each object under its key, what is kept beside it as extended attributes
//! bucket.json    what the bucket is set to do
//! ```

mod key;
mod put;
mod source;

pub use key::{OBJECTS, Paths, key_of};
pub use put::{Put, put};
pub use source::{BucketSource, Config, KIND};
