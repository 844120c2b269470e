//! A file into the archive, and those that are ready behind it.

use std::fs::{self, File};
use std::io::{BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use serde::Serialize;

use super::archive::{Archive, system_id_of};
use super::notes::{Noted, Notes};
use crate::archive::digest::{Digest, DigestWriter};
use crate::archive::wal::mark::Packed;
use crate::archive::wal::{WalHeader, WalSegment, check_segment, is_archived_name};
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::run::Context;
use crate::store::WalPut;
use crate::telemetry::{WarningCode, failpoint};

/// The largest file: the largest segment there may be.
const LIMIT: u64 = 1 << 30;

/// Bytes that are read and hashed at once.
const PIECE: usize = 256 << 10;

/// Files that are archived ahead.
const AHEAD: usize = 8;

/// Bytes of files at hand at once, that whose turn it is included.
const AT_HAND: u64 = 48 << 20;

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
    /// It was archived when one before it was.
    pub ahead: bool,
}

/// A file that is to be archived, and was looked at.
pub struct Candidate {
    file: PathBuf,
    name: String,
    content: Vec<u8>,
    system_id: u64,
    /// Not before somebody asks: it is made while the file is compressed.
    digest: OnceLock<[u8; 32]>,
}

impl Candidate {
    /// Reads a file, which must be what its name says.
    pub fn read(file: &Path, system_id: Option<u64>) -> Result<Self> {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !is_archived_name(name) {
            return Err(Error::usage(format!("`{}` is no WAL file", file.display()))
                .hint("archive_command = 'backstay wal push %p'"));
        }
        let mut content = Vec::new();
        File::open(file)
            .and_then(|opened| {
                // At once: a buffer that grows is moved again and again.
                let size = opened.metadata()?.len().min(LIMIT);
                content.reserve_exact(size as usize + 1);
                opened.take(LIMIT + 1).read_to_end(&mut content)
            })
            .doing(|| format!("failed to read {}", file.display()))?;
        if content.len() as u64 > LIMIT {
            return Err(Error::usage(format!("{} is too large for WAL", file.display())));
        }
        let system_id = identify(file, name, &content, system_id)?;
        let (file, name) = (file.to_owned(), name.to_owned());
        Ok(Self { file, name, content, system_id, digest: OnceLock::new() })
    }

    fn digest(&self) -> &[u8; 32] {
        self.digest.get_or_init(|| {
            let mut digest = Digest::default();
            digest.update(&self.content);
            digest.finish()
        })
    }

    /// Compressed once, for all repositories.
    fn pack(&self) -> Result<Packed> {
        let packed = Packed::new(&self.content, self.digest.get().copied())
            .doing(|| format!("failed to compress {}", self.name))?;
        self.digest.get_or_init(|| *packed.digest());
        Ok(packed)
    }

    fn noted(&self) -> Noted<'_> {
        Noted { system_id: self.system_id, name: &self.name, digest: self.digest() }
    }
}

impl Pushed {
    fn nowhere(name: &str, system_id: u64) -> Self {
        let (name, system_id) = (name.to_owned(), system_id.to_string());
        Self { name, system_id, archived: Vec::new(), failed: Vec::new(), ahead: false }
    }
}

/// What became of a file, if it was archived ahead of its turn. It is hashed piece by piece then,
/// and never at hand as a whole.
pub fn pushed_ahead(
    file: &Path,
    system_id: Option<u64>,
    notes: &Notes,
    cx: &Context,
) -> Result<Option<Pushed>> {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some(system_id) =
        system_id.map_or_else(|| system_id_of(data_of(file)), |id| Ok(Some(id)))?
    else {
        return Ok(None);
    };
    if !is_archived_name(name) || !notes.is_there(system_id, name) {
        return Ok(None);
    }
    let digest = &digest_of(file).doing(|| format!("failed to read {}", file.display()))?;
    let counts = notes.take(Noted { system_id, name, digest }, cx.clock.now());
    Ok(counts.then(|| Pushed { ahead: true, ..Pushed::nowhere(name, system_id) }))
}

fn digest_of(file: &Path) -> std::io::Result<[u8; 32]> {
    let mut file = BufReader::with_capacity(PIECE, File::open(file)?.take(LIMIT + 1));
    let mut digest = DigestWriter::new(std::io::sink());
    std::io::copy(&mut file, &mut digest)?;
    Ok(digest.into_parts().1.finish())
}

/// The data directory that a file is in: `pg_wal/NAME`, told by the words, since `pg_wal` may be a
/// link to another disk.
fn data_of(file: &Path) -> &Path {
    file.parent().and_then(Path::parent).unwrap_or(Path::new(""))
}

/// Archives a file. When this returns without an error it is durable in every repository that is
/// required. What is ready behind it is archived at the same time, as far as that goes: whatever
/// becomes of that, its own turn comes.
pub fn push(
    candidate: &Candidate,
    archives: &[Archive],
    notes: Option<&Notes>,
    cx: &Context,
) -> Result<Pushed> {
    failpoint::reach("wal.push");
    let behind = notes.map(|_| ready_behind(&candidate.file)).unwrap_or_default();
    let room = (AT_HAND / (candidate.content.len() as u64).max(1 << 20)).saturating_sub(1);
    let queue = Mutex::new(behind.into_iter());
    std::thread::scope(|scope| {
        for _ in 0..room.min(3) {
            let queue = &queue;
            scope.spawn(move || {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let (Some(file), Some(notes)) = (next, notes) else { return };
                    if ahead(&file, candidate.system_id, archives, notes, cx).is_err() {
                        return;
                    }
                }
            });
        }
        one(candidate, archives, cx)
    })
}

fn one(candidate: &Candidate, archives: &[Archive], cx: &Context) -> Result<Pushed> {
    let name = &candidate.name;
    let results = everywhere(candidate, archives)?;
    let mut pushed = Pushed::nowhere(name, candidate.system_id);
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
                    cx.reporter.warn(WarningCode::Other, name.clone(), error.chain());
                }
            }
        }
    }
    worst.map_or(Ok(pushed), Err)
}

fn everywhere(candidate: &Candidate, archives: &[Archive]) -> Result<Vec<Result<WalPut>>> {
    let Candidate { name, system_id, .. } = candidate;
    let packed = &candidate.pack()?;
    Ok(std::thread::scope(|scope| {
        let threads: Vec<_> = archives
            .iter()
            .map(|archive| scope.spawn(move || archive.wal.put_packed(*system_id, name, packed)))
            .collect();
        let ended = |_| Err(Error::failed("the thread that archives is gone"));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(ended)).collect()
    }))
}

/// Archives a file ahead of its turn, and leaves a note if every repository has it: one that is
/// not required is asked again when its turn comes.
fn ahead(
    file: &Path,
    system_id: u64,
    archives: &[Archive],
    notes: &Notes,
    cx: &Context,
) -> Result<()> {
    let candidate = Candidate::read(file, Some(system_id))?;
    for result in everywhere(&candidate, archives)? {
        result?;
    }
    failpoint::reach("wal.push_ahead");
    notes.leave(candidate.noted(), cx.clock.now());
    Ok(())
}

/// Segments that the server says are ready, after this one and in their order.
fn ready_behind(file: &Path) -> Vec<PathBuf> {
    let Some(directory) = file.parent() else { return Vec::new() };
    let own = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Ok(entries) = fs::read_dir(directory.join("archive_status")) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let name = name.strip_suffix(".ready")?;
            (name.len() == 24 && is_archived_name(name) && name > own).then(|| name.to_owned())
        })
        .collect();
    names.sort_unstable();
    names.truncate(AHEAD);
    names.into_iter().map(|name| directory.join(name)).collect()
}

/// The cluster that a file is of. A segment says so itself, and is looked at.
fn identify(file: &Path, name: &str, content: &[u8], given: Option<u64>) -> Result<u64> {
    let known = match given {
        Some(id) => Some(id),
        None => system_id_of(data_of(file))?,
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
