//! Walking a tree in index order, with memory for one path and the names of its directories.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::content::{FileContent, fill_stat, read_xattrs, unreadable};
use super::exclude::Excludes;
use super::live;
use super::owner::OwnerNames;
use crate::archive::entry::{Entry, EntryType};
use crate::archive::sort::{Sorted, Sorter};
use crate::error::{Error, ErrorKind, Result};
use crate::source::{Captured, EntrySink, Item, SourceContext, Survey};
use crate::telemetry::WarningCode;

/// Bytes of names of one directory that are sorted in memory; more spill to disk.
const NAMES_BUDGET: usize = 8 << 20;

/// Longer paths are taken by no call of the system, and by no other program.
const PATH_MAX: usize = 4096;

/// What a walk keeps to.
#[derive(Debug, Default)]
pub struct WalkOptions {
    /// Names left out.
    pub excludes: Excludes,
    /// Do not enter other file systems.
    pub one_file_system: bool,
    /// Of directories marked by a CACHEDIR.TAG, keep only the tag.
    pub exclude_caches: bool,
    /// Do not refuse data directories of servers.
    pub allow_live: bool,
}

/// Walks one root after another into a sink.
pub struct Walker<'a> {
    cx: &'a SourceContext,
    options: &'a WalkOptions,
    owners: OwnerNames,
    sink: &'a mut dyn EntrySink,
    captured: Captured,
    /// It was said that paths are longer than programs take.
    long: bool,
    /// What cannot be read is noted and passed over.
    survey: Option<Survey>,
}

struct Level {
    directory: Arc<OwnedFd>,
    names: Names,
    path_length: usize,
    device: u64,
}

enum Names {
    Few(VecDeque<CString>),
    Many(Box<Sorted>),
}

impl Names {
    fn next(&mut self) -> Result<Option<CString>> {
        match self {
            Self::Few(names) => Ok(names.pop_front()),
            Self::Many(sorted) => {
                let Some(record) = sorted.next() else { return Ok(None) };
                CString::new(record?.0)
                    .map(Some)
                    .map_err(|error| Error::failed("a name with a NUL byte").with_source(error))
            }
        }
    }
}

impl<'a> Walker<'a> {
    /// A walker that brings what it finds to `sink`.
    pub fn new(
        cx: &'a SourceContext,
        options: &'a WalkOptions,
        sink: &'a mut dyn EntrySink,
    ) -> Self {
        Self {
            cx,
            options,
            owners: OwnerNames::default(),
            sink,
            captured: Captured::default(),
            long: false,
            survey: None,
        }
    }

    /// Goes on past what cannot be read, to find all of it.
    #[must_use]
    pub fn surveying(mut self) -> Self {
        self.survey = Some(Survey::default());
        self
    }

    /// What could not be read.
    pub fn surveyed(self) -> Survey {
        self.survey.unwrap_or_default()
    }

    /// Notes an error of one entry, or ends with it.
    fn fault(&mut self, error: Error) -> Result<()> {
        match &mut self.survey {
            Some(survey) if error.kind() != ErrorKind::Interrupted => survey.add(&error),
            _ => return Err(error),
        }
        Ok(())
    }

    /// What was left out.
    pub fn finish(self) -> Captured {
        self.captured
    }

    /// Walks `root`. Its member name is `name`; everything below is `name/…`, or just `…` where
    /// `name` is `.`. A root that is a symbolic link is followed: somebody named it.
    pub fn root(&mut self, root: &Path, name: &[u8]) -> Result<()> {
        self.walk(root, name).or_else(|error| self.fault(error))
    }

    fn walk(&mut self, root: &Path, name: &[u8]) -> Result<()> {
        let failed = |errno: Errno| {
            Error::io(format!("failed to read {}", root.display()), errno.into())
                .hint("the path in the policy must exist and be readable")
        };
        let stat = rustix::fs::stat(root).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = rustix::fs::open(root, flags, Mode::empty()).map_err(failed)?;
            return self.tree(directory, name.to_vec());
        }
        let real = root
            .canonicalize()
            .map_err(|error| Error::io(format!("failed to read {}", root.display()), error))?;
        let (Some(parent), Some(last)) = (real.parent(), real.file_name()) else {
            return Err(failed(Errno::NOTDIR));
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(parent, flags, Mode::empty()).map_err(failed)?;
        let last = CString::new(std::os::unix::ffi::OsStrExt::as_bytes(last))
            .map_err(|error| Error::failed("a name with a NUL byte").with_source(error))?;
        self.leaf(&Arc::new(directory), &last, name.to_vec(), &stat)
    }

    fn tree(&mut self, root: OwnedFd, name: Vec<u8>) -> Result<()> {
        let mut path = name;
        let mut stack = Vec::new();
        if let Some(level) = self.enter(root, &path, None)? {
            stack.push(level);
        }
        // `.` names the root and is no part of the paths below it.
        if path == b"." {
            path.clear();
            if let Some(level) = stack.last_mut() {
                level.path_length = 0;
            }
        }
        while let Some(level) = stack.last_mut() {
            let Some(name) = level.names.next()? else {
                stack.pop();
                continue;
            };
            self.cx.reporter.check()?;
            path.truncate(level.path_length);
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.to_bytes());
            if path.len() >= PATH_MAX && !std::mem::replace(&mut self.long, true) {
                self.too_long(&path);
            }
            if self.options.excludes.excludes(&path, name.to_bytes()) {
                continue;
            }
            let (directory, device) = (level.directory.clone(), level.device);
            let stat = match rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => {
                    self.vanished(&path);
                    continue;
                }
                Err(errno) => {
                    let entry = Entry::new(path.as_slice(), EntryType::File);
                    self.fault(unreadable(&entry, errno))?;
                    continue;
                }
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match rustix::fs::openat(&directory, &name, flags, Mode::empty()) {
                    Ok(child) => match self.enter(child, &path, Some(device)) {
                        Ok(level) => stack.extend(level),
                        Err(error) => self.fault(error)?,
                    },
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => self.vanished(&path),
                    Err(errno) => {
                        let entry = Entry::new(path.as_slice(), EntryType::Dir);
                        self.fault(unreadable(&entry, errno))?;
                    }
                }
            } else {
                let brought = self.leaf(&directory, &name, path.clone(), &stat);
                brought.or_else(|error| self.fault(error))?;
            }
        }
        Ok(())
    }

    /// Brings the directory's own entry and lists its names. `None`: it is not to be entered.
    fn enter(&mut self, fd: OwnedFd, path: &[u8], parent: Option<u64>) -> Result<Option<Level>> {
        let mut entry = Entry::new(path, EntryType::Dir);
        let stat = rustix::fs::fstat(&fd).map_err(|errno| unreadable(&entry, errno))?;
        self.describe(&mut entry, &stat);
        entry.xattrs = read_xattrs(fd.as_fd()).map_err(|errno| unreadable(&entry, errno))?;
        let elsewhere = self.options.one_file_system && parent.is_some_and(|p| p != stat.st_dev);
        let names = if elsewhere { Names::Few(VecDeque::new()) } else { self.list(&fd, &entry)? };
        self.sink.entry(Item { entry, link_group: None, content: None })?;
        Ok((!elsewhere).then(|| Level {
            directory: Arc::new(fd),
            names,
            path_length: path.len(),
            device: stat.st_dev,
        }))
    }

    fn list(&self, fd: &OwnedFd, entry: &Entry) -> Result<Names> {
        let failed = |errno| unreadable(entry, errno);
        let mut names: Vec<CString> = Vec::new();
        let mut held = 0;
        let mut sorter = None;
        for item in Dir::read_from(fd).map_err(failed)? {
            let item = item.map_err(failed)?;
            let name: &CStr = item.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            held += name.to_bytes().len() + 40;
            names.push(name.to_owned());
            if held > NAMES_BUDGET {
                spill(&mut sorter, &mut names)?;
                held = 0;
            }
        }
        if sorter.is_some() {
            // A directory of this size is no server's data directory and no tagged cache.
            spill(&mut sorter, &mut names)?;
        }
        if let Some(sorter) = sorter {
            return Ok(Names::Many(Box::new(sorter.finish()?)));
        }
        names.sort_unstable();
        let has =
            |wanted: &[u8]| names.binary_search_by(|name| name.to_bytes().cmp(wanted)).is_ok();
        if !self.options.allow_live
            && let Some(live) = live::data_directory(&has)
        {
            return Err(live::refusal(live, &entry.display_path()));
        }
        if self.options.exclude_caches && has(b"CACHEDIR.TAG") && is_cache_tag(fd) {
            names.retain(|name| name.to_bytes() == b"CACHEDIR.TAG");
        }
        Ok(Names::Few(names.into()))
    }

    fn leaf(
        &mut self,
        directory: &Arc<OwnedFd>,
        name: &CStr,
        path: Vec<u8>,
        stat: &Stat,
    ) -> Result<()> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => EntryType::File,
            FileType::Symlink => EntryType::Symlink,
            FileType::CharacterDevice => EntryType::Char,
            FileType::BlockDevice => EntryType::Block,
            other => {
                let what = if other == FileType::Fifo { "FIFO" } else { "socket" };
                self.skipped(&path, what);
                return Ok(());
            }
        };
        let mut entry = Entry::new(path, kind);
        self.describe(&mut entry, stat);
        match kind {
            EntryType::Symlink => match rustix::fs::readlinkat(directory, name, Vec::new()) {
                Ok(target) => entry.target = Some(target.into_bytes()),
                Err(Errno::NOENT | Errno::INVAL) => {
                    self.vanished(&entry.path);
                    return Ok(());
                }
                Err(errno) => return Err(unreadable(&entry, errno)),
            },
            EntryType::Char | EntryType::Block => {
                entry.rdev =
                    Some((rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)));
            }
            _ => {}
        }
        let is_file = kind == EntryType::File;
        let content = is_file.then(|| -> Box<dyn crate::source::Content> {
            Box::new(FileContent::new(
                directory.clone(),
                name.to_owned(),
                self.cx.clock.clone(),
                self.options.allow_live,
            ))
        });
        let link_group = (is_file && stat.st_nlink > 1).then_some(stat.st_dev);
        self.sink.entry(Item { entry, link_group, content })
    }

    fn describe(&self, entry: &mut Entry, stat: &Stat) {
        fill_stat(entry, stat);
        entry.user = self.owners.user(stat.st_uid);
        entry.group = self.owners.group(stat.st_gid);
    }

    fn too_long(&self, path: &[u8]) {
        if self.survey.is_some() {
            return;
        }
        let shown = crate::archive::entry::display_path(path);
        let start: String = shown.chars().take(60).collect();
        let message = format!(
            "paths of {PATH_MAX} bytes and more come back with `backstay restore` only, not by hand: \
             for example `{start}…`"
        );
        self.cx.reporter.warn(WarningCode::Other, shown, message);
    }

    fn skipped(&mut self, path: &[u8], what: &str) {
        if self.survey.is_some() {
            return;
        }
        self.captured.skipped += 1;
        let path = crate::archive::entry::display_path(path);
        let message = format!("left out {what} `{path}`: it has no content");
        self.cx.reporter.warn(WarningCode::SkippedSpecial, path, message);
    }

    fn vanished(&mut self, path: &[u8]) {
        if self.survey.is_some() {
            return;
        }
        self.captured.vanished += 1;
        let path = crate::archive::entry::display_path(path);
        let message = format!("`{path}` was removed before it could be read");
        self.cx.reporter.warn(WarningCode::Vanished, path, message);
    }
}

fn spill(sorter: &mut Option<Sorter>, names: &mut Vec<CString>) -> Result<()> {
    let sorter = sorter.get_or_insert_with(|| Sorter::new(NAMES_BUDGET));
    names.drain(..).try_for_each(|name| sorter.push(name.into_bytes(), Vec::new()))
}

/// Whether the directory's CACHEDIR.TAG is one, by its first line.
fn is_cache_tag(directory: &OwnedFd) -> bool {
    const SIGNATURE: &[u8; 43] = b"Signature: 8a477f597d28d172789f06886806bc55";
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let mut head = [0; 43];
    rustix::fs::openat(directory, c"CACHEDIR.TAG", flags, Mode::empty())
        .and_then(|file| rustix::io::pread(&file, &mut head, 0))
        .is_ok_and(|read| read == head.len() && head == *SIGNATURE)
}
