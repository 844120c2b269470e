//! A file into the archive.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde::Serialize;

use super::archive::{Archive, system_id_of};
use crate::archive::wal::{WalHeader, WalSegment, check_segment, is_archived_name};
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::run::Context;
use crate::store::WalPut;
use crate::telemetry::{WarningCode, failpoint};

/// The largest file: the largest segment there may be.
const LIMIT: u64 = 1 << 30;

/// What became of a file.
#[derive(Debug, Clone, Serialize)]
pub struct Pushed {
    /// Its name.
    pub name: String,
    /// The cluster, as text: it is too large for most programs' numbers.
    pub system_id: String,
    /// Repositories that have it now, and whether they had it before.
    pub archived: Vec<(String, bool)>,
    /// Repositories that do not have it, and why.
    pub failed: Vec<(String, String)>,
}

/// Archives a file. When this returns without an error it is durable in every repository that is
/// required.
pub fn push(
    file: &Path,
    system_id: Option<u64>,
    archives: &[Archive],
    cx: &Context,
) -> Result<Pushed> {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if !is_archived_name(name) {
        return Err(Error::usage(format!("`{}` is no WAL file", file.display()))
            .hint("archive_command = 'backstay wal push %p'"));
    }
    let mut content = Vec::new();
    File::open(file)
        .and_then(|opened| opened.take(LIMIT + 1).read_to_end(&mut content))
        .doing(|| format!("failed to read {}", file.display()))?;
    if content.len() as u64 > LIMIT {
        return Err(Error::usage(format!("{} is too large for WAL", file.display())));
    }
    let system_id = identify(file, name, &content, system_id)?;
    failpoint::reach("wal.push");
    let results: Vec<Result<WalPut>> = std::thread::scope(|scope| {
        let content = &content[..];
        let threads: Vec<_> = archives
            .iter()
            .map(|archive| scope.spawn(move || archive.wal.put(system_id, name, content)))
            .collect();
        let ended = |_| Err(Error::failed("the thread that archives is gone"));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(ended)).collect()
    });
    let mut pushed = Pushed {
        name: name.to_owned(),
        system_id: system_id.to_string(),
        archived: Vec::new(),
        failed: Vec::new(),
    };
    let mut worst = None;
    for (archive, result) in archives.iter().zip(results) {
        match result {
            Ok(put) => pushed.archived.push((archive.name.clone(), put == WalPut::Present)),
            Err(error) => {
                pushed.failed.push((archive.name.clone(), error.chain()));
                let error =
                    error.context(format!("failed to archive {name} in `{}`", archive.name));
                if archive.required {
                    worst.get_or_insert(error);
                } else {
                    cx.reporter.warn(WarningCode::Other, name.to_owned(), error.chain());
                }
            }
        }
    }
    worst.map_or(Ok(pushed), Err)
}

/// The cluster that a file is of. A segment says so itself, and is looked at.
fn identify(file: &Path, name: &str, content: &[u8], given: Option<u64>) -> Result<u64> {
    // `pg_wal/NAME`: told by the words, since `pg_wal` may be a link to another disk.
    let data = file.parent().and_then(Path::parent).unwrap_or(Path::new(""));
    let known = match given {
        Some(id) => Some(id),
        None => system_id_of(data)?,
    };
    let stem = name.strip_suffix(".partial").unwrap_or(name);
    if stem.len() != 24 {
        return known.ok_or_else(|| {
            Error::usage(format!("nothing says of which cluster {} is", file.display()))
                .hint("push it from below its data directory, or give --system-id")
        });
    }
    let header = WalHeader::read(content)
        .ok_or_else(|| Error::damaged(format!("{} does not begin like WAL", file.display())))?;
    let system_id = known.unwrap_or(header.system_id);
    let segment = WalSegment::parse(stem, header.segment_size).ok_or_else(|| {
        Error::new(
            ErrorKind::Conflict,
            format!("{name} is no name for segments of {} bytes", header.segment_size),
        )
    })?;
    check_segment(content, system_id, segment, header.segment_size)?;
    Ok(system_id)
}
