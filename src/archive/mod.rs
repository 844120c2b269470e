//! How bytes look: entries, tar members, zstd frames, age, digests, indexes and manifests.
//!
//! Synchronous and without network. `docs/format.md` is the specification; this is its
//! implementation. Everything that reads here reads untrusted bytes: sizes are bounded and
//! nothing is believed because it was written down.

pub mod attributes;
pub mod crypt;
pub mod digest;
pub mod entry;
pub mod frame;
pub mod increment;
pub mod index;
pub mod layer;
pub mod lists;
pub mod manifest;
pub mod member;
pub mod person;
pub mod pool;
pub mod segment;
pub mod snapshot;
pub mod sort;
pub mod table;
pub mod tenure;
pub mod wal;
