//! The `directory` source.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::content::FileContent;
use super::exclude::Excludes;
use super::walk::{WalkOptions, Walker};
use crate::archive::entry::{Entry, sort_key};
use crate::archive::manifest::Form;
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::id::BackupKind;
use crate::source::{
    Arriving, Captured, Content, EntrySink, Item, OpenError, ProbeNote, Source, SourceContext,
    SourceProbe, Survey, Weight,
};

/// What a policy says of a directory source.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The directories and files.
    pub paths: Vec<PathBuf>,
    /// Members are named from the one path, not from `/`.
    pub relative: bool,
    /// Names left out.
    pub exclude: Vec<String>,
    /// Do not enter other file systems.
    pub one_file_system: bool,
    /// Of directories marked by a CACHEDIR.TAG, keep only the tag.
    pub exclude_caches: bool,
    /// Do not refuse data directories of servers.
    pub allow_live: bool,
    /// Do not refuse a directory that had files before and has none now.
    pub allow_empty: bool,
}

/// Directories and files of this machine.
#[derive(Debug)]
pub struct DirectorySource {
    config: Config,
    options: WalkOptions,
}

impl DirectorySource {
    /// A source as `config` says.
    pub fn new(config: Config) -> Result<Self> {
        let root = config.relative.then(|| config.paths.first()).flatten();
        let options = WalkOptions {
            excludes: Excludes::new(&config.exclude, root.map(PathBuf::as_path))?,
            one_file_system: config.one_file_system,
            exclude_caches: config.exclude_caches,
            allow_live: config.allow_live,
        };
        Ok(Self { config, options })
    }

    /// Looks at so many entries, whether they can be read.
    fn look(&self, cx: &SourceContext, most: u64) -> Result<Survey> {
        let mut sink = Opening { left: most };
        let mut walker = Walker::new(cx, &self.options, &mut sink).surveying();
        for (path, name) in self.roots() {
            match walker.root(path, &name) {
                Err(error) if cx.reporter.is_cancelled() => return Err(error),
                Err(_) => return Ok(Survey { stopped_at: Some(most), ..walker.surveyed() }),
                Ok(()) => {}
            }
        }
        Ok(walker.surveyed())
    }

    /// Roots with their member names, in index order, none inside another.
    fn roots(&self) -> Vec<(&Path, Vec<u8>)> {
        if self.config.relative {
            return self
                .config
                .paths
                .iter()
                .take(1)
                .map(|path| (&**path, self.root_name(path)))
                .collect();
        }
        let mut roots: Vec<(&Path, Vec<u8>)> =
            self.config.paths.iter().map(|path| (&**path, absolute_name(path))).collect();
        roots.sort_by_cached_key(|(_, name)| sort_key(name));
        let mut kept: Vec<(&Path, Vec<u8>)> = Vec::new();
        for (path, name) in roots {
            let inside = kept.last().is_some_and(|(_, last)| {
                name.strip_prefix(&last[..]).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
                    || last == b"."
            });
            if !inside {
                kept.push((path, name));
            }
        }
        kept
    }

    /// `.` for a directory, its own name for a single file.
    fn root_name(&self, path: &Path) -> Vec<u8> {
        match path.file_name() {
            Some(name) if !path.is_dir() => name.as_bytes().to_vec(),
            _ => b".".to_vec(),
        }
    }

    /// The place of a member on this machine: the directory that the policy names, and the way from
    /// there.
    fn place(&self, member: &[u8]) -> (PathBuf, PathBuf) {
        let whole = match self.config.paths.first() {
            Some(root) if self.config.relative && !root.is_dir() => root.clone(),
            Some(root) if self.config.relative => root.join(OsStr::from_bytes(member)),
            _ => Path::new("/").join(OsStr::from_bytes(member)),
        };
        for root in &self.config.paths {
            let base = if root.is_dir() { Some(root.as_path()) } else { root.parent() };
            if let Some(base) = base
                && let Ok(rest) = whole.strip_prefix(base)
            {
                return (base.to_owned(), rest.to_owned());
            }
        }
        let rest = whole.strip_prefix("/").map(Path::to_owned).unwrap_or_default();
        (PathBuf::from("/"), rest)
    }
}

/// Entries that a probe looks at: enough for most trees, and no reason to wait for long.
const PROBED: u64 = 300_000;

/// Opens every file and reads none.
struct Opening {
    left: u64,
}

impl EntrySink for Opening {
    fn entry(&mut self, item: Item) -> Result<()> {
        let Item { mut entry, content, .. } = item;
        self.left = self.left.checked_sub(1).ok_or_else(enough)?;
        let Some(mut content) = content else { return Ok(()) };
        match content.open(&mut entry) {
            Err(OpenError::Failed(error)) => Err(error),
            _ => Ok(()),
        }
    }

    fn file(&mut self, _: Entry, _: Option<u64>, _: &mut dyn Arriving) -> Result<()> {
        Ok(())
    }

    fn stream(&mut self, _: Entry, _: &mut dyn io::Read) -> Result<()> {
        Ok(())
    }
}

/// Ends a survey, as nothing else but a person does.
fn enough() -> Error {
    Error::new(ErrorKind::Interrupted, "looked at enough")
}

fn absolute_name(path: &Path) -> Vec<u8> {
    let parts: Vec<&[u8]> = path
        .components()
        .filter_map(|part| match part {
            std::path::Component::Normal(name) => Some(name.as_bytes()),
            _ => None,
        })
        .collect();
    if parts.is_empty() { b".".to_vec() } else { parts.join(&b'/') }
}

impl Source for DirectorySource {
    fn kind(&self) -> &'static str {
        "directory"
    }

    fn form(&self) -> Form {
        Form::Tree
    }

    fn kind_for(&self, asked: BackupKind) -> BackupKind {
        asked
    }

    fn may_be_empty(&self) -> bool {
        self.config.allow_empty
    }

    fn probe(&self, cx: &SourceContext) -> Result<SourceProbe> {
        let mut probe = SourceProbe::default();
        let before = probe.notes.len();
        for path in &self.config.paths {
            let metadata = std::fs::metadata(path);
            let text = match &metadata {
                Err(error) => format!("{}: {error}", path.display()),
                Ok(metadata) if metadata.is_dir() => match std::fs::read_dir(path) {
                    Ok(_) => format!("{} is a readable directory", path.display()),
                    Err(error) => {
                        let text = format!("{}: {error}", path.display());
                        probe.notes.push(ProbeNote::fault(text));
                        continue;
                    }
                },
                Ok(_) => format!("{} is a file", path.display()),
            };
            probe.notes.push(ProbeNote::new(metadata.is_ok(), text));
        }
        if probe.notes[before..].iter().all(|note| note.weight != Weight::Fault) {
            let survey = self.look(cx, PROBED)?;
            let notes = survey.lines().into_iter().chain(survey.hints);
            probe.notes.extend(notes.map(ProbeNote::fault));
            if let Some(number) = survey.stopped_at {
                let text = format!("looked at the first {number} entries only");
                probe.notes.push(ProbeNote::fact(text));
            }
        }
        Ok(probe)
    }

    fn survey(&self, cx: &SourceContext) -> Result<Survey> {
        self.look(cx, u64::MAX)
    }

    fn backup(&self, cx: &SourceContext, sink: &mut dyn EntrySink) -> Result<Captured> {
        let mut walker = Walker::new(cx, &self.options, sink);
        for (path, name) in self.roots() {
            walker.root(path, &name)?;
        }
        Ok(walker.finish())
    }

    fn reopen(&self, cx: &SourceContext, path: &[u8]) -> io::Result<Box<dyn Content>> {
        let (root, way) = self.place(path);
        let (Some(parent), Some(name)) = (way.parent(), way.file_name()) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let directory = match open_below(&root, parent) {
            // No directory by now, but a link for example: what was there is gone.
            Err(Errno::LOOP | Errno::NOTDIR) => return Err(io::ErrorKind::NotFound.into()),
            other => other?,
        };
        let name = CString::new(name.as_bytes())?;
        Ok(Box::new(FileContent::new(
            Arc::new(directory),
            name,
            cx.clock.clone(),
            self.options.allow_live,
        )))
    }
}

/// Opens a directory component by component: its path may be longer than the kernel takes.
/// Opens a directory below `root`. Links lead to `root`, if the policy says so, and never from
/// there to elsewhere.
fn open_below(root: &Path, way: &Path) -> rustix::io::Result<rustix::fd::OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut directory = rustix::fs::open(root, flags, Mode::empty())?;
    for part in way.components() {
        if let std::path::Component::Normal(name) = part {
            let flags = flags | OFlags::NOFOLLOW;
            directory = rustix::fs::openat(&directory, name, flags, Mode::empty())?;
        }
    }
    Ok(directory)
}

/// Raises the limit of open files as far as this process may: deep trees hold one a level.
pub fn raise_file_limit() -> Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).doing(|| "failed to raise the limit of open files".into())
}
