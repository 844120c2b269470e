//! Where backups live: keys, uploads, ranged reads, commits and the probes that tell whether a
//! store can be trusted.
//!
//! The seam is `object_store`'s own trait; this is the only module that sees it. Everything here
//! blocks: callers are threads that read, compress and hash, and the runtime only moves bytes.

mod answer;
mod blocking;
mod catalogue;
mod clouds;
mod connect;
mod coordination;
mod epochs;
mod erase;
mod error;
mod evidence;
mod http;
mod journal;
mod keys;
mod lease;
mod limit;
mod local;
mod locks;
mod object_versions;
mod objects;
mod pages;
mod past;
mod policies;
mod probe;
mod reader;
mod repository;
mod role;
mod sdk;
mod snapshots;
mod sync;
mod thaw;
mod upload;
mod versions;
mod wal;
mod wal_divergent;
mod wal_slices;
mod web;

pub mod layout;
pub mod protocol;

pub use answer::Answer;
pub use blocking::{BucketAddress, Listed, Store, Written};
pub use catalogue::{CommitRef, Intent, SourceStore};
pub use clouds::{AzureLocation, GcsLocation};
pub use connect::{Location, S3Location};
pub use coordination::{Held, Hold, ListedMark, Mark, OBJECTS_PER_MARK, Pin, Worker};
pub use epochs::{Divergence, Epochs};
pub use erase::Erased;
pub use error::StoreError;
pub use evidence::{EvidenceStore, drills_with_evidence};
pub use journal::{JournalStore, last_records, runs_with_journals};
pub use keys::{
    KeyInfo, bring_key, copy_keys, generate_repository_key, is_passphrase_wrap, wrap_key,
    wrap_key_with_passphrase,
};
pub use lease::{Lease, Terms};
pub use limit::RateLimit;
pub use locks::{KeptBy, Lock, Locked};
pub use object_versions::{ListedVersion, OtherSide, VersionsFrom};
pub use objects::{Attributes, Fetched, Fetching, ListedObject, Objects, Pieces};
pub use pages::{is_known_page, page_names};
pub use policies::StoredPolicy;
pub use probe::{Finding, Probe, Verdict};
pub use reader::{ObjectReader, ReadAhead};
pub use repository::{Descriptor, InitOptions, Repository, check_presence, copy_policies};
pub use role::{ActiveSite, RoleStore};
pub use snapshots::{Examined, Flaw, SnapshotStore};
pub use sync::{Synced, SyncedDatabase};
pub use thaw::{Archived, Pace, Thaw};
pub use upload::{Completing, Upload};
pub use versions::{Version, Versioning};
pub use wal::{StoredWal, WalPut, WalStore};
pub use wal_slices::{StoredSlice, Tail};
pub use web::{Reply, Web};
