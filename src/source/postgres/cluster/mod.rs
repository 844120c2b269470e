//! A whole cluster: a base backup over the replication protocol, and the WAL that belongs to it.
//!
//! ```text
//! walsender 1 ─tar─► members ─► pages judged, CRC32C ─► sink        backup_manifest: compared, stored
//! walsender 2 ─WAL─► whole segments ─► objects beside the backup
//! both over ─► every segment from start to stop is in the repository ─► commit
//! ```

mod archive;
mod listing;
mod managed;
mod pages;
mod probe;
mod receive;
mod relisted;
mod restored;
mod source;
mod taking;
mod way;

pub use restored::{
    CONTROL, MappedTablespace, RECOVERY, RestoredCluster, STANDBY, TABLESPACE_MAP,
    missing_directories, read_map,
};
pub use source::{ClusterSource, Config};
