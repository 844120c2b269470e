//! Backstay: backup, restore and disaster recovery for data platforms.

pub mod archive;
pub mod clock;
pub mod error;
pub mod id;
pub mod secret;
pub mod telemetry;
