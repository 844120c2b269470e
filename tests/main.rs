//! All integration tests, in one binary.

#![expect(clippy::unwrap_used, reason = "tests")]
#![allow(missing_docs, clippy::print_stderr, clippy::default_trait_access)]

mod architecture;
mod cli;
mod common;
mod docs;
mod increments;
mod live;
mod policy;
mod roundtrip;
mod s3;
mod stores;
