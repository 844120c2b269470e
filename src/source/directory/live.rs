//! Data directories of running servers: copying their files gives a backup that may not start.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::sync::OnceLock;

use crate::error::Error;

/// A data directory that must not be copied while its server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Live {
    /// What it is.
    pub what: &'static str,
    /// What says so.
    pub sign: &'static str,
    /// What to do instead.
    pub instead: &'static str,
}

/// What the names in a directory say of it.
pub fn data_directory(has: &dyn Fn(&[u8]) -> bool) -> Option<Live> {
    if has(b"PG_VERSION") && has(b"global") && has(b"postmaster.pid") {
        return Some(Live {
            what: "the data directory of a running PostgreSQL server",
            sign: "postmaster.pid",
            instead: "back it up as a `postgres_dump`, or stop the server first",
        });
    }
    if has(b"node.lock") && (has(b"_state") || has(b"indices") || has(b"nodes")) {
        return Some(Live {
            what: "an Elasticsearch data directory",
            sign: "node.lock",
            instead: "take a snapshot by Elasticsearch's snapshot API; \
                      copied data directories are not supported even when it is stopped",
        });
    }
    if has(b"image") && has(b"bdb") {
        return Some(Live {
            what: "the metadata directory of a StarRocks frontend",
            sign: "image/ beside bdb/",
            instead: "stop the frontend first, or use StarRocks' BACKUP",
        });
    }
    if has(b"cluster_id") && has(b"data") && has(b"meta") {
        return Some(Live {
            what: "a storage directory of a StarRocks backend",
            sign: "cluster_id beside data/ and meta/",
            instead: "use StarRocks' BACKUP",
        });
    }
    if has(b"ibdata1") && has(b"mysql") {
        return Some(Live {
            what: "a MySQL or MariaDB data directory",
            sign: "ibdata1 beside mysql/",
            instead: "back it up with a `mysql_dump` source, or stop the server first",
        });
    }
    None
}

/// The error for a live data directory or database at `path`.
pub fn refusal(live: Live, path: &str) -> Error {
    Error::failed(format!("`{path}` is {} ({})", live.what, live.sign))
        .hint(live.instead)
        .hint("if it is not in use set `allow_live: true`, or leave it out with `exclude`")
}

/// The first bytes of an SQLite database.
pub const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// An SQLite database that is in use.
pub const SQLITE: Live = Live {
    what: "an SQLite database in use",
    sign: "a journal lies beside it, or a process has it open",
    instead: "back it up with a `sqlite` source, or stop what uses it first",
};

/// Whether a process other than this one has the file open. What other users' processes do is
/// seen by root only.
pub fn is_open_elsewhere(device: u64, inode: u64) -> bool {
    static OPEN: OnceLock<HashSet<(u64, u64)>> = OnceLock::new();
    OPEN.get_or_init(open_files).contains(&(device, inode))
}

fn open_files() -> HashSet<(u64, u64)> {
    let own = std::process::id().to_string();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter(|process| {
            let name = process.file_name();
            let name = name.to_string_lossy();
            name.bytes().all(|b| b.is_ascii_digit()) && name != own
        })
        .flat_map(|process| std::fs::read_dir(process.path().join("fd")).into_iter().flatten())
        .flatten()
        .filter_map(|fd| std::fs::metadata(fd.path()).ok())
        .filter(std::fs::Metadata::is_file)
        .map(|metadata| (metadata.dev(), metadata.ino()))
        .collect()
}
