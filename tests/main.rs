//! All integration tests, in one binary.

#![expect(clippy::unwrap_used, reason = "tests")]
#![allow(missing_docs)]

mod common;
mod live;
mod policy;
mod roundtrip;
mod s3;
