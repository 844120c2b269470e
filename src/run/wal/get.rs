//! A file out of the archive.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::archive::Archive;
use super::notes::directory_beside;
use crate::archive::wal::{HEADER, WalHeader, WalSegment};
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::id;
use crate::run::Context;
use crate::store::Repository;
use crate::telemetry::{WarningCode, failpoint};

/// What is asked for.
pub struct Wanted<'a> {
    /// The file's name.
    pub name: &'a str,
    /// Where it goes: a path, at which nothing is before it is whole and on disk.
    pub destination: &'a Path,
    /// The cluster.
    pub system_id: u64,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Got {
    /// The file is there.
    Fetched,
    /// **No repository has it**, and each of them answered: only then may a server take this for
    /// the end of its WAL.
    Missing,
}

/// Segments that are fetched at once.
const AT_ONCE: usize = 4;

/// A segment that was fetched ahead of its turn, put where it is wanted. Whether there was one.
pub fn get_fetched(wanted: &Wanted<'_>) -> bool {
    let Some(directory) = directory_beside(wanted.destination) else { return false };
    if wanted.name.len() != 24 {
        // Asked for before recovery and after it: nothing waits any more.
        let _ = fs::remove_dir_all(directory);
        return false;
    }
    let waiting = directory.join(wanted.name);
    if !waiting.exists() || check(&waiting, wanted.name, wanted.system_id).is_err() {
        return false;
    }
    fs::rename(&waiting, wanted.destination).is_ok()
}

/// Fetches the segments that follow one that was fetched, as many as are there. Whatever becomes
/// of them, their own turn comes.
pub fn get_ahead(wanted: &Wanted<'_>, count: usize, archives: &[Archive], cx: &Context) {
    if count > 0 {
        let _ = try_ahead(wanted, count, archives, cx);
    }
}

fn try_ahead(wanted: &Wanted<'_>, count: usize, archives: &[Archive], cx: &Context) -> Option<()> {
    let mut head = [0; HEADER];
    File::open(wanted.destination).ok()?.read_exact(&mut head).ok()?;
    let size = WalHeader::read(&head)?.segment_size;
    let segment = WalSegment::parse(wanted.name, size)?;
    let directory = directory_beside(wanted.destination)?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).ok()?;
    let at_once = AT_ONCE.min(((64 << 20) / size).max(1) as usize);
    let numbers: Vec<u64> = (1..=count as u64).map(|step| segment.number + step).collect();
    for some in numbers.chunks(at_once) {
        let fetched = std::thread::scope(|scope| {
            let threads: Vec<_> = some
                .iter()
                .map(|number| {
                    let name = WalSegment { number: *number, ..segment }.name(size);
                    let destination = directory.join(&name);
                    scope.spawn(move || {
                        let ahead = Wanted {
                            name: &name,
                            destination: &destination,
                            system_id: wanted.system_id,
                        };
                        destination.exists()
                            || archives.iter().any(|one| from(one, &ahead, cx).unwrap_or(false))
                    })
                })
                .collect();
            threads.into_iter().all(|thread| thread.join().unwrap_or(false))
        });
        if !fetched {
            break;
        }
    }
    Some(())
}

/// Fetches a file from the first repository that has it.
pub fn get(wanted: &Wanted<'_>, archives: &[Archive], cx: &Context) -> Result<Got> {
    let mut failed = None;
    for archive in archives {
        failpoint::reach("wal.get");
        match from(archive, wanted, cx) {
            Ok(true) => return Ok(Got::Fetched),
            Ok(false) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                let doing = format!("failed to get {} from `{}`", wanted.name, archive.name);
                let error = error.context(doing);
                if failed.is_none() && archives.len() > 1 {
                    let name = wanted.name.to_owned();
                    cx.reporter.warn(WarningCode::Other, name, error.chain());
                }
                failed.get_or_insert(error);
            }
        }
    }
    failed.map_or(Ok(Got::Missing), Err)
}

fn from(archive: &Archive, wanted: &Wanted<'_>, cx: &Context) -> Result<bool> {
    let &Wanted { name, destination, system_id } = wanted;
    let temporary = Temporary::beside(destination)?;
    let file = OpenOptions::new()
        .write(true)
        .read(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary.0)
        .doing(|| format!("failed to create {}", temporary.0.display()))?;
    let mut out = BufWriter::new(&file);
    let reporter = cx.reporter.fresh();
    if let Some(divergence) = archive.wal.barred(system_id, name, &archive.keys, &reporter)? {
        let text = format!("{name} ends the way: it was {divergence}");
        cx.reporter.warn(WarningCode::Other, name.to_owned(), text);
        return Ok(false);
    }
    let found = archive.wal.get(system_id, name, &archive.keys, &cx.reporter.fresh(), &mut out)?;
    if !found {
        // A directory that is no longer mounted has no file either.
        Repository::open(archive.repository.store())?;
        return Ok(false);
    }
    let failed = || format!("failed to write {}", destination.display());
    out.flush().doing(failed)?;
    drop(out);
    check(&temporary.0, name, system_id)?;
    file.sync_all().doing(failed)?;
    fs::rename(&temporary.0, destination).doing(failed)?;
    let directory = destination.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new("."))).and_then(|d| d.sync_all()).doing(failed)?;
    Ok(true)
}

/// A segment must be the one it is called, and whole.
fn check(path: &Path, name: &str, system_id: u64) -> Result<()> {
    let stem = name.strip_suffix(".partial").unwrap_or(name);
    if stem.len() != 24 {
        return Ok(());
    }
    let failed = || format!("failed to read {}", path.display());
    let mut file = File::open(path).doing(failed)?;
    let mut head = [0; HEADER];
    let damaged = |what: &str| Err(Error::damaged(format!("WAL segment {name} {what}")));
    if file.read_exact(&mut head).is_err() {
        return damaged("has no header");
    }
    let Some(header) = WalHeader::read(&head) else { return damaged("does not begin like one") };
    let Some(segment) = WalSegment::parse(stem, header.segment_size) else {
        return damaged("has segments of another size than its name");
    };
    header.expect(system_id, segment, header.segment_size)?;
    if file.metadata().doing(failed)?.len() == header.segment_size {
        Ok(())
    } else {
        damaged("has another length than its header says")
    }
}

/// A file that is removed unless it got its name.
struct Temporary(PathBuf);

impl Temporary {
    fn beside(destination: &Path) -> Result<Self> {
        let name = destination.file_name().ok_or_else(|| {
            Error::usage(format!("{} is no place for a file", destination.display()))
        })?;
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}", id::random_suffix(6)));
        Ok(Self(destination.with_file_name(temporary)))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
