//! Reading one file: its content, extents and attributes, and whether it held still.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use super::live;
use crate::archive::entry::{Entry, Time};
use crate::clock::Clock;
use crate::error::Error;
use crate::source::{Content, OpenError};

/// Changes this close before a read may leave times as they were: the file is read again.
const RACY_SECONDS: i64 = 2;

/// Files in more pieces than this are stored with their holes as zeros.
const MAX_EXTENTS: usize = 1 << 20;

/// A file, by the directory it is in.
pub struct FileContent {
    directory: Arc<OwnedFd>,
    name: CString,
    clock: Arc<dyn Clock>,
    allow_live: bool,
    file: Option<OwnedFd>,
    before: Option<Stat>,
}

impl FileContent {
    /// The file `name` in `directory`.
    pub fn new(
        directory: Arc<OwnedFd>,
        name: CString,
        clock: Arc<dyn Clock>,
        allow_live: bool,
    ) -> Self {
        Self { directory, name, clock, allow_live, file: None, before: None }
    }

    fn open_file(&self) -> rustix::io::Result<OwnedFd> {
        // Not blocking: a FIFO may have taken the file's name since it was listed.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let open = |flags| rustix::fs::openat(&self.directory, &self.name, flags, Mode::empty());
        // Only the owner and root may leave the access time alone.
        match open(flags | OFlags::NOATIME) {
            Err(Errno::PERM) => open(flags),
            other => other,
        }
    }

    fn check_sqlite(&self, file: &OwnedFd, stat: &Stat, entry: &Entry) -> Result<(), OpenError> {
        let mut head = [0; 16];
        let is_sqlite = stat.st_size >= 512
            && matches!(rustix::io::pread(file, &mut head, 0), Ok(16))
            && head == *live::SQLITE_MAGIC;
        if !is_sqlite || self.allow_live {
            return Ok(());
        }
        let journal = ["-wal", "-journal"].iter().any(|suffix| {
            let mut name = self.name.as_bytes().to_vec();
            name.extend_from_slice(suffix.as_bytes());
            CString::new(name).is_ok_and(|name| {
                rustix::fs::statat(&self.directory, &name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
                    .is_ok_and(|stat| stat.st_size > 0)
            })
        });
        if journal || live::is_open_elsewhere(stat.st_dev, stat.st_ino) {
            return Err(OpenError::Failed(live::refusal(live::SQLITE, &entry.display_path())));
        }
        Ok(())
    }
}

impl Content for FileContent {
    fn open(&mut self, entry: &mut Entry) -> Result<Box<dyn Read + Send + '_>, OpenError> {
        let failed = |errno: Errno| match errno {
            Errno::NOENT | Errno::LOOP | Errno::NXIO => OpenError::Vanished,
            errno => OpenError::Failed(unreadable(entry, errno)),
        };
        let file = self.open_file().map_err(failed)?;
        let stat = rustix::fs::fstat(&file).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(OpenError::Vanished);
        }
        self.check_sqlite(&file, &stat, entry)?;
        let xattrs = read_xattrs(file.as_fd()).map_err(failed)?;
        fill_stat(entry, &stat);
        entry.xattrs = xattrs;
        entry.racy = is_racy(entry, self.clock.now());
        let holes = (stat.st_blocks as u64) * 512 < entry.size;
        entry.sparse = if holes { extents(&file, entry.size) } else { None };
        let ranges = entry.sparse.clone().unwrap_or_else(|| vec![(0, entry.size)]);
        self.before = Some(stat);
        let file: &OwnedFd = self.file.insert(file);
        Ok(Box::new(ExtentReader { file: file.as_fd(), ranges, current: 0, within: 0 }))
    }

    fn changed(&mut self) -> bool {
        let (Some(file), Some(before)) = (self.file.take(), self.before.take()) else {
            return false;
        };
        rustix::fs::fstat(&file).map_or(true, |after| {
            (
                after.st_size,
                after.st_mtime,
                after.st_mtime_nsec,
                after.st_ctime,
                after.st_ctime_nsec,
            ) != (
                before.st_size,
                before.st_mtime,
                before.st_mtime_nsec,
                before.st_ctime,
                before.st_ctime_nsec,
            )
        })
    }
}

/// The error for a file or directory that cannot be read.
pub fn unreadable(entry: &Entry, errno: Errno) -> Error {
    Error::io(format!("failed to read `{}`", entry.display_path()), errno.into())
        .hint("run as a user that may read it, or leave it out with `exclude`")
}

/// Fills what a `stat` tells, except owner names.
pub fn fill_stat(entry: &mut Entry, stat: &Stat) {
    entry.mode = stat.st_mode & 0o7777;
    entry.uid = stat.st_uid;
    entry.gid = stat.st_gid;
    entry.mtime = time(stat.st_mtime, stat.st_mtime_nsec);
    entry.ctime = time(stat.st_ctime, stat.st_ctime_nsec);
    entry.ino = stat.st_ino;
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
        entry.size = stat.st_size as u64;
    }
}

fn time(seconds: i64, nanos: impl TryInto<u32>) -> Time {
    (seconds, nanos.try_into().unwrap_or(0))
}

fn is_racy(entry: &Entry, now: jiff::Timestamp) -> bool {
    let at = |seconds: i64| {
        let at = now.saturating_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(now);
        (at.as_second(), at.subsec_nanosecond().unsigned_abs())
    };
    let (from, until) = (at(-RACY_SECONDS), at(RACY_SECONDS));
    // A time of modification far ahead was set by somebody, and would make the file racy for ever;
    // setting it changed the inode's time, which nobody can set.
    entry.ctime >= from || (from..=until).contains(&entry.mtime)
}

/// The extents that hold data; `None` where the file system does not tell.
fn extents(file: &OwnedFd, size: u64) -> Option<Vec<(u64, u64)>> {
    let mut extents = Vec::new();
    let mut at = 0;
    while at < size {
        let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break,
            Err(_) => return None,
        };
        let hole = rustix::fs::seek(file, SeekFrom::Hole(data)).ok()?.min(size);
        if data >= size || hole <= data {
            break;
        }
        extents.push((data, hole - data));
        at = hole;
    }
    // Without a last, empty extent GNU tar would cut the file at its last data.
    if extents.last().is_none_or(|&(offset, length)| offset + length < size) {
        extents.push((size, 0));
    }
    if extents.len() > MAX_EXTENTS {
        return None;
    }
    // One extent over everything is no sparse file.
    (extents != [(0, size)]).then_some(extents)
}

/// Reads extents one after another.
struct ExtentReader<'a> {
    file: BorrowedFd<'a>,
    ranges: Vec<(u64, u64)>,
    current: usize,
    within: u64,
}

impl Read for ExtentReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while let Some(&(offset, length)) = self.ranges.get(self.current) {
            if self.within == length {
                (self.current, self.within) = (self.current + 1, 0);
                continue;
            }
            let want = out.len().min((length - self.within) as usize);
            let read = rustix::io::pread(self.file, &mut out[..want], offset + self.within)?;
            self.within += read as u64;
            return Ok(read);
        }
        Ok(0)
    }
}

/// Extended attributes of an open file or directory.
pub fn read_xattrs(file: BorrowedFd<'_>) -> rustix::io::Result<BTreeMap<String, Vec<u8>>> {
    let mut names = Vec::new();
    loop {
        let length = match rustix::fs::flistxattr_query(file) {
            Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(BTreeMap::new()),
            other => other?,
        };
        names.resize(length, 0);
        match rustix::fs::flistxattr(file, &mut names[..]) {
            Ok(length) => {
                names.truncate(length);
                break;
            }
            // It grew between the calls.
            Err(Errno::RANGE) => {}
            Err(errno) => return Err(errno),
        }
    }
    let mut attributes = BTreeMap::new();
    for name in names.split(|&b| b == 0).filter(|name| !name.is_empty()) {
        let Ok(text) = std::str::from_utf8(name) else { continue };
        match read_xattr(file, text) {
            Ok(value) => drop(attributes.insert(text.to_owned(), value)),
            // Removed meanwhile, or only for others to read.
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(attributes)
}

fn read_xattr(file: BorrowedFd<'_>, name: &str) -> rustix::io::Result<Vec<u8>> {
    loop {
        let length = rustix::fs::fgetxattr_query(file, name)?;
        let mut value = vec![0; length];
        match rustix::fs::fgetxattr(file, name, &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                return Ok(value);
            }
            Err(Errno::RANGE) => {}
            Err(errno) => return Err(errno),
        }
    }
}
