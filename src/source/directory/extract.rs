//! Writing a tree back, never outside its target.
//!
//! Every name is walked component by component from the target's own descriptor, and no component
//! may be a symbolic link: what an archive says cannot lead out, whatever it says and whatever
//! lies in the target already.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::owner::OwnerNumbers;
use super::writeback::Writeback;
use crate::archive::digest::sha256_hex;
use crate::archive::entry::{Entry, EntryType};
use crate::error::{Error, ErrorKind, IoContext as _, Result};

/// What to do with what is in the target already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Existing {
    /// The target must be empty.
    #[default]
    Refuse,
    /// Replace files of the same name, each when its successor is complete.
    Overwrite,
    /// Keep files whose content is right already; replace the others.
    Delta,
}

/// Entries that do not lie where their path says.
#[derive(Debug, Clone, Default)]
pub struct Placement {
    /// Directories of the tree that lie elsewhere: path in the tree, and where.
    pub mounts: Vec<(Vec<u8>, PathBuf)>,
    /// A file that gets its name when all else is on disk: until then it is called
    /// [`HELD_SUFFIX`] as well, and who restores renames it.
    pub held: Option<Vec<u8>>,
}

/// What the name of a held file ends in.
pub const HELD_SUFFIX: &str = ".restoring";

/// Attributes that could not be set, by what it was: how often, and the first name.
pub type Problems = BTreeMap<String, (u64, String)>;

/// A target directory.
#[derive(Debug)]
pub struct Extractor {
    root: OwnedFd,
    path: PathBuf,
    mounts: Vec<(Vec<u8>, OwnedFd)>,
    held: Option<Vec<u8>>,
    existing: Existing,
    numeric_owner: bool,
    is_root: bool,
    owners: OwnerNumbers,
    problems: Mutex<Problems>,
    writeback: Arc<Writeback>,
}

impl Extractor {
    /// Opens, or creates, the directory `path`.
    pub fn open(path: &Path, existing: Existing, numeric_owner: bool) -> Result<Self> {
        Self::open_placed(path, &Placement::default(), existing, numeric_owner)
    }

    /// The same, with entries that lie elsewhere.
    pub fn open_placed(
        path: &Path,
        placement: &Placement,
        existing: Existing,
        numeric_owner: bool,
    ) -> Result<Self> {
        let root = open_target(path, existing)?;
        let mounts = placement
            .mounts
            .iter()
            .map(|(prefix, place)| Ok((prefix.clone(), open_target(place, existing)?)));
        Ok(Self {
            writeback: Writeback::new(&root),
            root,
            path: path.to_owned(),
            mounts: mounts.collect::<Result<_>>()?,
            held: placement.held.clone(),
            existing,
            numeric_owner,
            is_root: rustix::process::geteuid().is_root(),
            owners: OwnerNumbers::default(),
            problems: Mutex::default(),
        })
    }

    /// The target's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What to do with what is there.
    pub fn existing(&self) -> Existing {
        self.existing
    }

    /// What could not be set so far.
    pub fn problems(&self) -> Problems {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn problem(&self, what: &str, why: Errno, entry: &Entry) {
        let why = io::Error::from(why);
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        problems.entry(format!("{what} ({why})")).or_insert_with(|| (0, entry.display_path())).0 +=
            1;
    }

    /// Everything written so far is on disk when this returns.
    pub fn sync(&self) -> Result<()> {
        let roots = self.mounts.iter().map(|(_, root)| root).chain(std::iter::once(&self.root));
        for root in roots {
            rustix::fs::syncfs(root)
                .doing(|| format!("failed to write {} to disk", self.path.display()))?;
        }
        Ok(())
    }

    /// Where a path is to be looked up from, and what of it is left to walk.
    fn root_of<'a>(&self, path: &'a [u8]) -> (&OwnedFd, &'a [u8]) {
        let inside = |prefix: &[u8]| {
            let rest = path.strip_prefix(prefix)?;
            if rest.is_empty() { Some(rest) } else { rest.strip_prefix(b"/") }
        };
        self.mounts
            .iter()
            .find_map(|(prefix, root)| Some((root, inside(prefix)?)))
            .unwrap_or((&self.root, path))
    }

    /// A cursor for one thread.
    pub fn cursor(&self) -> Cursor<'_> {
        Cursor { target: self, path: Vec::new(), directory: None }
    }
}

fn open_target(path: &Path, existing: Existing) -> Result<OwnedFd> {
    let failed = || format!("failed to open the target {}", path.display());
    create_target(path)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(path, flags, Mode::empty()).doing(failed)?;
    if existing == Existing::Refuse {
        let mut entries = std::fs::read_dir(path).doing(failed)?;
        if entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != "lost+found")) {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("the target {} is not empty", path.display()),
            )
            .hint("restore to an empty directory, and move things when you have looked at them")
            .hint("or: `--delta` keeps what matches and replaces what differs, `--overwrite` replaces all"));
        }
    }
    Ok(root)
}

fn create_target(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .doing(|| format!("failed to create the target {}", path.display()))
}

/// Writes entries; remembers the directory it was in last.
pub struct Cursor<'a> {
    target: &'a Extractor,
    path: Vec<u8>,
    directory: Option<OwnedFd>,
}

/// A file being written.
pub struct NewFile {
    file: File,
    /// Its name until it is complete, if that is not its own.
    temporary: Option<Vec<u8>>,
    position: u64,
    writeback: Arc<Writeback>,
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        use std::os::unix::fs::FileExt as _;
        let written = self.file.write_at(bytes, self.position)?;
        self.position += written as u64;
        self.writeback.written(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl NewFile {
    /// Goes on writing at `position`; what lies between stays a hole.
    pub fn skip_to(&mut self, position: u64) {
        self.position = position;
    }

    /// The file as such.
    pub fn file(&self) -> &File {
        &self.file
    }
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn refused(entry: &Entry, errno: Errno) -> Error {
    let error = Error::io(format!("failed to restore `{}`", entry.display_path()), errno.into());
    // What concerns the target as a whole ends the restore; all else is one entry less.
    let all = matches!(
        errno,
        Errno::NOSPC
            | Errno::DQUOT
            | Errno::ROFS
            | Errno::IO
            | Errno::MFILE
            | Errno::NFILE
            | Errno::NOMEM
    );
    let error = error.with_kind(if all { ErrorKind::Failed } else { ErrorKind::Conflict });
    match errno {
        Errno::LOOP | Errno::NOTDIR => error
            .with_kind(ErrorKind::Denied)
            .hint("a part of its path is not a directory; links are never followed"),
        Errno::NOSPC => error.hint("the target's file system is full"),
        Errno::ROFS => error.hint("the target's file system is mounted read-only"),
        _ => error,
    }
}

impl Cursor<'_> {
    /// The directory at `path`, created with its parents where it is missing.
    fn enter(&mut self, path: &[u8]) -> rustix::io::Result<BorrowedFd<'_>> {
        if self.directory.is_none() || self.path != path {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut current: Option<OwnedFd> = None;
            let (root, rest) = self.target.root_of(path);
            for part in rest.split(|&b| b == b'/').filter(|part| !part.is_empty() && *part != b".")
            {
                let parent = current.as_ref().unwrap_or(root);
                let name = OsStr::from_bytes(part);
                let next = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
                    Err(Errno::NOENT) => {
                        match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
                            Ok(()) | Err(Errno::EXIST) => {}
                            Err(errno) => return Err(errno),
                        }
                        rustix::fs::openat(parent, name, flags, Mode::empty())?
                    }
                    other => other?,
                };
                current = Some(next);
            }
            let directory = match current {
                Some(directory) => directory,
                None => rustix::io::fcntl_dupfd_cloexec(root, 0)?,
            };
            self.path = path.to_vec();
            self.directory = Some(directory);
        }
        self.directory.as_ref().map(AsFd::as_fd).ok_or(Errno::NOENT)
    }

    /// Makes sure that a directory is there. Its attributes come last, by [`Cursor::attributes`].
    pub fn directory(&mut self, entry: &Entry) -> Result<()> {
        self.enter(&entry.path).map(drop).map_err(|errno| refused(entry, errno))
    }

    /// Creates a file to write `entry`'s content to.
    pub fn create(&mut self, entry: &Entry) -> Result<NewFile> {
        let replace = self.target.existing != Existing::Refuse;
        let held = self.target.held.as_ref() == Some(&entry.path);
        let (parent, name) = split(&entry.path);
        let name = if held { [name, HELD_SUFFIX.as_bytes()].concat() } else { name.to_vec() };
        let name = &name[..];
        let directory = self.enter(parent).map_err(|errno| refused(entry, errno))?;
        let temporary =
            replace.then(|| format!(".backstay-{}", crate::id::random_suffix(10)).into_bytes());
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(
            directory,
            OsStr::from_bytes(temporary.as_deref().unwrap_or(name)),
            flags,
            Mode::RUSR | Mode::WUSR,
        )
        .map_err(|errno| refused(entry, errno))?;
        let writeback = Arc::clone(&self.target.writeback);
        Ok(NewFile { file: File::from(file), temporary, position: 0, writeback })
    }

    /// A complete file gets its size, attributes and name.
    pub fn complete(&mut self, entry: &Entry, new: &NewFile) -> Result<()> {
        if entry.sparse.is_some() {
            new.file
                .set_len(entry.size)
                .doing(|| format!("failed to restore `{}`", entry.display_path()))?;
        }
        self.target.set_attributes(entry, new.file.as_fd());
        if let Some(temporary) = &new.temporary {
            let (parent, name) = split(&entry.path);
            let directory = self.enter(parent).map_err(|errno| refused(entry, errno))?;
            rustix::fs::renameat(
                directory,
                OsStr::from_bytes(temporary),
                directory,
                OsStr::from_bytes(name),
            )
            .map_err(|errno| refused(entry, errno))?;
        }
        Ok(())
    }

    /// Removes a file that turned out to be wrong.
    pub fn discard(&mut self, entry: &Entry, new: &NewFile) {
        let (parent, name) = split(&entry.path);
        if let Ok(directory) = self.enter(parent) {
            let name = new.temporary.as_deref().unwrap_or(name);
            let _ = rustix::fs::unlinkat(directory, OsStr::from_bytes(name), AtFlags::empty());
        }
    }

    /// Opens the regular file that is there, to see whether it is right already.
    pub fn existing(&mut self, entry: &Entry) -> Option<File> {
        let (parent, name) = split(&entry.path);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let directory = self.enter(parent).ok()?;
        let file =
            rustix::fs::openat(directory, OsStr::from_bytes(name), flags, Mode::empty()).ok()?;
        let stat = rustix::fs::fstat(&file).ok()?;
        let right = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && stat.st_size as u64 == entry.size;
        right.then(|| File::from(file))
    }

    /// Sets the attributes of a file whose content is right.
    pub fn adopt(&self, entry: &Entry, file: &File) {
        self.target.set_attributes(entry, file.as_fd());
    }

    /// Opens a file that [`Cursor::create_large`] made.
    pub fn reopen(&mut self, entry: &Entry) -> Result<NewFile> {
        let (parent, name) = self.large_name(&entry.path);
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let directory = self.enter(parent).map_err(|errno| refused(entry, errno))?;
        let file = rustix::fs::openat(directory, OsStr::from_bytes(&name), flags, Mode::empty())
            .map_err(|errno| refused(entry, errno))?;
        let writeback = Arc::clone(&self.target.writeback);
        Ok(NewFile { file: File::from(file), temporary: None, position: 0, writeback })
    }

    /// The directory of a large file, and its name there until it is complete: where it replaces
    /// another one, a name that all threads find, and the next run if this one is killed.
    fn large_name<'p>(&self, path: &'p [u8]) -> (&'p [u8], Vec<u8>) {
        let (parent, name) = split(path);
        if self.target.existing == Existing::Refuse {
            return (parent, name.to_vec());
        }
        (parent, format!(".backstay-{}", &sha256_hex(path)[..16]).into_bytes())
    }

    /// Creates a large file in its full size, for several threads to write into.
    pub fn create_large(&mut self, entry: &Entry) -> Result<()> {
        if self.target.existing != Existing::Refuse {
            self.remove_incomplete(entry);
        }
        let (parent, name) = self.large_name(&entry.path);
        let directory = self.enter(parent).map_err(|errno| refused(entry, errno))?;
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = OsStr::from_bytes(&name);
        let file = rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| refused(entry, errno))?;
        File::from(file)
            .set_len(entry.size)
            .doing(|| format!("failed to restore `{}`", entry.display_path()))
    }

    /// Removes what has the entry's name, where that is allowed; never a directory.
    fn remove(&mut self, entry: &Entry) -> Result<()> {
        if self.target.existing == Existing::Refuse {
            return Ok(());
        }
        let (parent, name) = split(&entry.path);
        let directory = self.enter(parent).map_err(|errno| refused(entry, errno))?;
        match rustix::fs::unlinkat(directory, OsStr::from_bytes(name), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(refused(entry, errno)),
        }
    }

    /// Creates a symbolic link or a device.
    pub fn special(&mut self, entry: &Entry) -> Result<()> {
        self.remove(entry)?;
        let (parent, name) = split(&entry.path);
        let (target, name) = (self.target, OsStr::from_bytes(name));
        let directory = self.enter(parent).map_err(|errno| refused(entry, errno))?;
        let made = match entry.kind {
            EntryType::Symlink => {
                let to = entry.target.as_deref().unwrap_or_default();
                rustix::fs::symlinkat(OsStr::from_bytes(to), directory, name)
            }
            EntryType::Char | EntryType::Block => {
                let kind = if entry.kind == EntryType::Char {
                    FileType::CharacterDevice
                } else {
                    FileType::BlockDevice
                };
                let (major, minor) = entry.rdev.unwrap_or_default();
                let device = rustix::fs::makedev(major, minor);
                rustix::fs::mknodat(directory, name, kind, Mode::RUSR | Mode::WUSR, device)
            }
            _ => Err(Errno::INVAL),
        };
        made.map_err(|errno| match errno {
            Errno::PERM if entry.rdev.is_some() => {
                refused(entry, errno).hint("only root may create devices")
            }
            errno => refused(entry, errno),
        })?;
        target.set_owner_at(entry, directory, name);
        if entry.kind != EntryType::Symlink {
            let mode = Mode::from_raw_mode(entry.mode);
            if let Err(why) = rustix::fs::chmodat(directory, name, mode, AtFlags::empty()) {
                target.problem("permissions", why, entry);
            }
        }
        let times = times(entry);
        if let Err(why) = rustix::fs::utimensat(directory, name, &times, AtFlags::SYMLINK_NOFOLLOW)
        {
            target.problem("times", why, entry);
        }
        Ok(())
    }

    /// Creates a further name of the file at `leader`.
    pub fn link(&mut self, entry: &Entry, leader: &[u8]) -> Result<()> {
        self.remove(entry)?;
        let (leader_parent, leader_name) = split(leader);
        let from = self
            .enter(leader_parent)
            .and_then(|directory| rustix::io::fcntl_dupfd_cloexec(directory, 0))
            .map_err(|errno| refused(entry, errno))?;
        let (_, unnamed) = self.large_name(leader);
        let (parent, name) = split(&entry.path);
        let directory = self.enter(parent).map_err(|errno| refused(entry, errno))?;
        let link = |leader: &[u8]| {
            let (leader, name) = (OsStr::from_bytes(leader), OsStr::from_bytes(name));
            rustix::fs::linkat(&from, leader, directory, name, AtFlags::empty())
        };
        // A leader without a place of its own is a large file: it has no name yet, unless it was
        // right already.
        let linked = match entry.leader_at {
            None => match link(&unnamed) {
                Err(Errno::NOENT) => link(leader_name),
                other => other,
            },
            Some(_) => link(leader_name),
        };
        linked.map_err(|errno| refused(entry, errno))
    }

    /// Removes a large file of which a part is missing; what it was to replace stays.
    pub fn remove_incomplete(&mut self, entry: &Entry) {
        let (parent, name) = self.large_name(&entry.path);
        if let Ok(directory) = self.enter(parent) {
            let _ = rustix::fs::unlinkat(directory, OsStr::from_bytes(&name), AtFlags::empty());
        }
    }

    /// Sets the attributes of a directory, when nothing below it will change, or those of a large
    /// file, which gets its name with them.
    pub fn attributes(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind == EntryType::Dir {
            let path = entry.path.clone();
            let target = self.target;
            let directory = self.enter(&path).map_err(|errno| refused(entry, errno))?;
            target.set_attributes(entry, directory);
        } else {
            let file = self.reopen(entry)?;
            self.target.set_attributes(entry, file.file.as_fd());
            let (parent, temporary) = self.large_name(&entry.path);
            let name = OsStr::from_bytes(split(&entry.path).1);
            if temporary != name.as_bytes() {
                let directory = self.enter(parent).map_err(|errno| refused(entry, errno))?;
                rustix::fs::renameat(directory, OsStr::from_bytes(&temporary), directory, name)
                    .map_err(|errno| refused(entry, errno))?;
            }
        }
        Ok(())
    }
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.mtime.0, tv_nsec: entry.mtime.1.into() };
    Timestamps { last_access: time, last_modification: time }
}

impl Extractor {
    fn owner_of(&self, entry: &Entry) -> (u32, u32) {
        if self.numeric_owner {
            (entry.uid, entry.gid)
        } else {
            (
                self.owners.user(entry.user.as_deref(), entry.uid),
                self.owners.group(entry.group.as_deref(), entry.gid),
            )
        }
    }

    fn set_owner_at(&self, entry: &Entry, directory: BorrowedFd<'_>, name: &OsStr) {
        let (uid, gid) = self.owner_of(entry);
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        let set =
            rustix::fs::chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
        if let Err(why) = set {
            self.problem("owner", why, entry);
        }
    }

    fn set_xattrs(&self, entry: &Entry, file: BorrowedFd<'_>, wanted: &dyn Fn(&str) -> bool) {
        for (name, value) in entry.xattrs.iter().filter(|(name, _)| wanted(name)) {
            let set = rustix::fs::fsetxattr(file, name.as_str(), value, XattrFlags::empty());
            if let Err(why) = set {
                self.problem(&format!("attribute {name}"), why, entry);
            }
        }
    }

    /// Owner first, which clears set-id bits; then permissions and attributes; times last.
    fn set_attributes(&self, entry: &Entry, file: BorrowedFd<'_>) {
        let (uid, gid) = self.owner_of(entry);
        let (mut mode, mut owned) = (entry.mode, true);
        let is_ours = !self.is_root
            && rustix::fs::fstat(file).is_ok_and(|stat| (stat.st_uid, stat.st_gid) == (uid, gid));
        if !is_ours {
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            // Who may not give files away may still give them to a group of his.
            if let Err(why) = rustix::fs::fchown(file, uid, gid) {
                self.problem("owner", why, entry);
                let _ = rustix::fs::fchown(file, None, gid);
                owned = false;
            }
        }
        if !owned && mode & 0o6000 != 0 && entry.kind != EntryType::Dir {
            // A set-id program of another owner is another program.
            mode &= !0o6000;
            self.problem("set-id bit without its owner", Errno::PERM, entry);
        }
        // Users' own attributes need a file that may be written to; ACLs change permissions, and
        // capabilities are dropped with the owner: they come after.
        self.set_xattrs(entry, file, &|name| name.starts_with("user."));
        if let Err(why) = rustix::fs::fchmod(file, Mode::from_raw_mode(mode)) {
            self.problem("permissions", why, entry);
        }
        self.set_xattrs(entry, file, &|name| !name.starts_with("user."));
        if let Err(why) = rustix::fs::futimens(file, &times(entry)) {
            self.problem("times", why, entry);
        }
    }
}
