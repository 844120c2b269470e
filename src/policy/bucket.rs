//! Buckets as sources, as a policy writes them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::repository::S3Repository;

/// The objects of an S3-compatible bucket, with what is kept beside their bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BucketSource {
    /// The bucket, or a prefix in one.
    pub s3: S3Repository,
    /// Globs of keys that are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Whether versions behind the objects are stored too, and marks that something was deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub versions: bool,
}
