//! Backstay: backup, restore and disaster recovery for data platforms.

pub mod archive;
pub mod cli;
pub mod clock;
pub mod error;
pub mod id;
pub mod policy;
pub mod run;
pub mod secret;
pub mod source;
pub mod store;
pub mod telemetry;

/// Name and version, as written into manifests and descriptors.
pub const TOOL: &str = concat!("backstay ", env!("CARGO_PKG_VERSION"));
