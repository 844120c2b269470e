//! The seam between sources and the rest.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use super::earlier::Earlier;
use crate::archive::entry::Entry;
use crate::archive::manifest::{Form, NeededWal, RecoveryPoint, Tainted};
use crate::archive::snapshot::Snapshots;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::id::{BackupId, BackupKind, SourceAddress};
use crate::store::{SnapshotStore, WalStore};
use crate::telemetry::Reporter;

/// What a source works with.
#[derive(Debug, Clone)]
pub struct SourceContext {
    /// Where it reports, and learns that it is to stop.
    pub reporter: Reporter,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Nothing is stored: contents are announced and never opened.
    pub dry_run: bool,
    /// Where the WAL of a cluster goes, beside the backup that is made.
    pub wal: Option<WalStore>,
    /// What an incremental backup builds on, for sources that look things up in it.
    pub earlier: Option<Arc<Earlier>>,
    /// Where an engine writes snapshots by itself.
    pub snapshots: Option<SnapshotPlace>,
}

/// Where an engine writes snapshots by itself, and for which backup.
#[derive(Debug, Clone)]
pub struct SnapshotPlace {
    /// The source's own place in its repository.
    pub store: SnapshotStore,
    /// The source.
    pub address: SourceAddress,
    /// The backup that is made, if one is.
    pub backup: Option<BackupId>,
}

/// Something that can be protected. Holds its configuration, and nothing open.
pub trait Source: Send + Sync {
    /// The word in policies and manifests: `directory`, `command`.
    fn kind(&self) -> &'static str;

    /// Whether it is a tree of entries or one stream.
    fn form(&self) -> Form;

    /// The kind it takes where `asked` is asked for: itself, or a full where it lacks that kind.
    fn kind_for(&self, asked: BackupKind) -> BackupKind;

    /// Whether it may have no files although it had some before.
    fn may_be_empty(&self) -> bool {
        true
    }

    /// How many of its contents are worth reading at once, where the source knows better than the
    /// machine's number of cores.
    fn readers(&self) -> Option<usize> {
        None
    }

    /// In which order it brings what it has.
    fn order(&self) -> Order {
        Order::Index
    }

    /// Whether its content may lie in a repository that is not encrypted.
    fn needs_encryption(&self) -> bool {
        false
    }

    /// Looks whether a backup would work. Changes nothing.
    fn probe(&self, cx: &SourceContext) -> Result<SourceProbe>;

    /// Looks for everything that a backup could not read. The first thing in the way ends a backup,
    /// and whoever mends it wants to know of all.
    fn survey(&self, cx: &SourceContext) -> Result<Survey> {
        let _ = cx;
        Ok(Survey::default())
    }

    /// Brings everything to `sink`, entries in index order. An error means that nothing of it
    /// may be committed.
    fn backup(&self, cx: &SourceContext, sink: &mut dyn EntrySink) -> Result<Captured>;

    /// Opens a file again that was brought before: hard-link groups are stored at the end.
    fn reopen(&self, cx: &SourceContext, path: &[u8]) -> io::Result<Box<dyn Content>> {
        let _ = (cx, path);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Whether the policy names a consumer of restored streams.
    fn has_consumer(&self) -> bool {
        false
    }

    /// Takes a restored stream where the policy names a consumer for it. `None`: there is none.
    fn consume(&self, cx: &SourceContext, input: &mut dyn Read) -> Option<Result<()>> {
        let _ = (cx, input);
        None
    }

    /// Compares what was restored at `target` with what the source says now, for what a person
    /// should know: lines to show.
    fn compare(&self, target: &Path) -> Result<Vec<String>> {
        let _ = target;
        Ok(Vec::new())
    }
}

/// In which order a source brings what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// That of an index; contents are read later, several at once, as [`Item::content`].
    Index,
    /// As it comes, from something that can only be read once and forwards: contents are read on
    /// the spot, by [`EntrySink::file`]. Such sources compare with an earlier backup themselves.
    Arrival,
}

/// What a probe found.
#[derive(Debug, Clone, Default)]
pub struct SourceProbe {
    /// Lines to show.
    pub notes: Vec<ProbeNote>,
}

/// What a source cannot read.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// How many entries.
    pub count: u64,
    /// Why, for the first `SURVEY_NAMED` of them.
    pub first: Vec<String>,
    /// What to do about them.
    pub hints: Vec<String>,
    /// It looked at so many entries and left the rest.
    pub stopped_at: Option<u64>,
}

/// How many entries a survey names.
pub const SURVEY_NAMED: usize = 20;

impl Survey {
    /// Adds an entry that cannot be read.
    pub fn add(&mut self, error: &Error) {
        self.count += 1;
        if self.first.len() < SURVEY_NAMED {
            self.first.push(error.chain());
        }
        for hint in error.hints() {
            if !self.hints.contains(hint) {
                self.hints.push(hint.clone());
            }
        }
    }

    /// The entries, one a line, and how many more there are.
    pub fn lines(&self) -> Vec<String> {
        let more = self.count - self.first.len() as u64;
        let more = (more > 0).then(|| format!("and {more} more"));
        self.first.iter().cloned().chain(more).collect()
    }
}

/// One thing a probe found.
#[derive(Debug, Clone)]
pub struct ProbeNote {
    /// What it means for backups.
    pub weight: Weight,
    /// What was found.
    pub text: String,
}

/// What a finding means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// It is well.
    Fact,
    /// Backups work, and somebody should know.
    Warning,
    /// A backup would fail, or not be worth what it promises.
    Fault,
}

impl ProbeNote {
    /// It is well, or a backup would fail.
    pub fn new(ok: bool, text: impl Into<String>) -> Self {
        let weight = if ok { Weight::Fact } else { Weight::Fault };
        Self { weight, text: text.into() }
    }

    /// It is well.
    pub fn fact(text: impl Into<String>) -> Self {
        Self::new(true, text)
    }

    /// Somebody should know.
    pub fn warning(text: impl Into<String>) -> Self {
        Self { weight: Weight::Warning, text: text.into() }
    }

    /// A backup would fail.
    pub fn fault(text: impl Into<String>) -> Self {
        Self::new(false, text)
    }
}

/// What a source says when it is done.
#[derive(Debug, Clone, Default)]
pub struct Captured {
    /// Sockets and FIFOs left out.
    pub skipped: u64,
    /// Files that were listed and then gone, before they were brought.
    pub vanished: u64,
    /// What it can be restored to, where that is not the moment at which reading began.
    pub recovery: Option<RecoveryPoint>,
    /// The first instant that it can be restored to, where that is not the only one.
    pub since: Option<RecoveryPoint>,
    /// WAL that it needs.
    pub wal: Option<NeededWal>,
    /// The server it was taken of.
    pub server: Option<String>,
    /// What was damaged at the source already.
    pub tainted: Option<Tainted>,
    /// Whether a cluster's pages have checksums.
    pub checksums: Option<bool>,
    /// Snapshots that an engine wrote by itself.
    pub snapshots: Option<Snapshots>,
}

/// One entry on its way into a backup.
pub struct Item {
    /// Its metadata; content fields are filled on the way.
    pub entry: Entry,
    /// Device number, if the file has more than one name.
    pub link_group: Option<u64>,
    /// How to read its content, for files.
    pub content: Option<Box<dyn Content>>,
}

/// The content of one file, opened when its turn comes.
pub trait Content: Send {
    /// Opens the file. Refreshes what `entry` says of size and times, and fills its extended
    /// attributes and extents. The reader gives the extents' bytes, one after another.
    /// [`io::ErrorKind::NotFound`]: it vanished.
    fn open(&mut self, entry: &mut Entry) -> Result<Box<dyn Read + Send + '_>, OpenError>;

    /// After reading: whether the file changed meanwhile.
    fn changed(&mut self) -> bool;

    /// Whether its length is known only at its end; `entry.size` is an estimate then. The end that
    /// the reader tells is believed, so it must tell none before everything that makes the content
    /// has ended well.
    fn is_open_ended(&self) -> bool {
        false
    }
}

/// Content that can be read once, where it stands.
pub trait Arriving: Read {
    /// When all of it was read and stored: says what else there is to say of the entry.
    fn ended(&mut self, entry: &mut Entry) -> Result<()> {
        let _ = entry;
        Ok(())
    }
}

impl Arriving for &[u8] {}

/// Why a file's content could not be opened.
#[derive(Debug)]
pub enum OpenError {
    /// It is gone, or something else has its name now.
    Vanished,
    /// It cannot be read, or must not be.
    Failed(Error),
}

/// The files of a backup, for who puts them back some other way than as files.
pub trait StoredFiles {
    /// Their paths, in index order.
    fn paths(&self) -> &[String];

    /// Opens one. What it gives is free of damage, and its end is told only when all of it was what
    /// was backed up.
    fn open(&self, path: &str) -> Result<Box<dyn Read + '_>>;
}

/// Where a source brings what it has.
pub trait EntrySink {
    /// Takes an entry. Entries come in index order, where the source keeps to that; otherwise
    /// what has content goes to [`EntrySink::file`].
    fn entry(&mut self, item: Item) -> Result<()>;

    /// Takes a file with its content, in any order. Without a `size` it is as long as `input`;
    /// with one, an input of another length is an error.
    fn file(&mut self, entry: Entry, size: Option<u64>, input: &mut dyn Arriving) -> Result<()>;

    /// Takes one stream whole, as `entry`. To be called once.
    fn stream(&mut self, entry: Entry, input: &mut dyn Read) -> Result<()>;

    /// What the earlier backup has at this path, if its content may be referred to.
    fn earlier(&mut self, path: &[u8]) -> Result<Option<Entry>> {
        let _ = path;
        Ok(None)
    }

    /// Takes an increment over `file`, whose layers are those below it.
    fn increment(
        &mut self,
        file: &Entry,
        increment: Increment,
        input: &mut dyn Arriving,
    ) -> Result<()> {
        let _ = (increment, input);
        Err(Error::failed(format!("no increment of `{}` is expected", file.display_path())))
    }

    /// Takes a file whose content is where the earlier backup has it.
    fn keep(&mut self, file: &Entry) -> Result<()> {
        Err(Error::failed(format!("`{}` cannot be kept", file.display_path())))
    }

    /// Takes a cluster's own list of files: it is a file like others, and also stands where the
    /// next incremental can read it.
    fn listing(&mut self, entry: Entry, input: &mut dyn Arriving) -> Result<()> {
        self.file(entry, None, input)
    }

    /// Takes digests of pages, for the next incremental.
    fn page_digests(&mut self, digests: &[u8]) -> Result<()> {
        let _ = digests;
        Ok(())
    }
}

/// One increment of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Increment {
    /// Its bytes.
    pub size: u64,
    /// Its number among those that this backup brings of the file, from 1.
    pub part: u32,
    /// More of the same file follow at once.
    pub more: bool,
}
