//! The source itself.

use std::fs::File;
use std::io::{Read, Seek as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::database::{Facts, Snapshot, check_file};
use super::place::{facts_path, users};
use crate::archive::entry::{Entry, EntryType};
use crate::archive::manifest::{Form, Tainted};
use crate::error::{Error, IoContext as _, Result};
use crate::id::BackupKind;
use crate::source::directory::OwnerNames;
use crate::source::{
    Arriving, Captured, EntrySink, Item, Order, ProbeNote, Source, SourceContext, SourceProbe,
};
use crate::telemetry::{Reporter, WarningCode};

/// The word in policies and manifests.
pub const KIND: &str = "sqlite";

/// What a policy says of the source.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The database's file.
    pub path: PathBuf,
    /// Where a copy is made that it is stored from.
    pub scratch: Option<PathBuf>,
}

/// A database.
#[derive(Debug)]
pub struct SqliteSource {
    config: Config,
}

impl SqliteSource {
    /// A source as `config` says.
    pub fn new(config: Config) -> Self {
        Self { config }
    }

    /// What its files are called, and whose they are.
    fn entry(&self) -> Result<Entry> {
        let path = &self.config.path;
        let name = path
            .file_name()
            .ok_or_else(|| Error::usage(format!("{} names no file", path.display())))?;
        let metadata = path.metadata().doing(|| format!("failed to look at {}", path.display()))?;
        let names = OwnerNames::default();
        let mut entry = Entry::new(name.as_bytes(), EntryType::File);
        entry.mode = metadata.mode() & 0o7777;
        (entry.uid, entry.gid) = (metadata.uid(), metadata.gid());
        entry.user = names.user(entry.uid);
        entry.group = names.group(entry.gid);
        entry.mtime = (metadata.mtime(), metadata.mtime_nsec() as u32);
        Ok(entry)
    }

    /// Copies the database to `scratch`, which ends the transaction as soon as may be.
    fn copy(&self, snapshot: Snapshot, scratch: &Path, reporter: &Reporter) -> Result<Copied> {
        let doing =
            || format!("failed to copy {} to {}", self.config.path.display(), scratch.display());
        reporter.phase("copying to scratch");
        let mut file =
            tempfile::Builder::new().prefix(".backstay-").tempfile_in(scratch).doing(doing)?;
        std::io::copy(&mut snapshot.pages(reporter), &mut file).doing(doing)?;
        drop(snapshot);
        let wrong = check_file(file.path());
        file.rewind().doing(doing)?;
        Ok(Copied { file, wrong })
    }
}

struct Copied {
    file: tempfile::NamedTempFile<File>,
    wrong: Vec<String>,
}

impl Read for Copied {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.file.read(out)
    }
}

impl Arriving for Copied {}

impl Source for SqliteSource {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn form(&self) -> Form {
        Form::Tree
    }

    fn kind_for(&self, asked: BackupKind) -> BackupKind {
        match asked {
            BackupKind::Incremental => BackupKind::Full,
            other => other,
        }
    }

    fn order(&self) -> Order {
        Order::Arrival
    }

    fn may_be_empty(&self) -> bool {
        false
    }

    fn probe(&self, _cx: &SourceContext) -> Result<SourceProbe> {
        let mut notes = Vec::new();
        match Snapshot::begin(&self.config.path) {
            Err(error) => {
                let mut text = error.chain();
                for hint in error.hints() {
                    text.push_str(&format!("; {hint}"));
                }
                notes.push(ProbeNote::fault(text));
            }
            Ok(snapshot) => {
                notes.extend(describe(&snapshot, self.config.scratch.is_some()));
                drop(snapshot);
                let users = users(&self.config.path);
                if !users.is_empty() {
                    notes.push(ProbeNote::fact(format!("open in {}", users.join(", "))));
                }
            }
        }
        if let Some(scratch) = self.config.scratch.as_ref().filter(|scratch| !scratch.is_dir()) {
            notes.push(ProbeNote::fault(format!(
                "there is no directory {} for `scratch`",
                scratch.display()
            )));
        }
        Ok(SourceProbe { notes })
    }

    fn backup(&self, cx: &SourceContext, sink: &mut dyn EntrySink) -> Result<Captured> {
        let snapshot = Snapshot::begin(&self.config.path)?;
        let mut facts = snapshot.facts().clone();
        let (entry, bytes) = (self.entry()?, snapshot.bytes());
        cx.reporter.progress().expect(2, bytes);
        if cx.dry_run {
            cx.reporter.note(format!("the database has about {} MiB", bytes >> 20));
            return Ok(Captured::default());
        }
        let mut root = Entry { mode: 0o700, ..entry.clone() };
        (root.path, root.kind) = (b".".to_vec(), EntryType::Dir);
        sink.entry(Item { entry: root, link_group: None, content: None })?;
        if let Some(scratch) = &self.config.scratch {
            let mut copied = self.copy(snapshot, scratch, &cx.reporter)?;
            cx.reporter.phase("storing");
            sink.file(entry.clone(), Some(bytes), &mut copied)?;
            facts.integrity = copied.wrong;
        } else {
            sink.file(entry.clone(), Some(bytes), &mut snapshot.pages(&cx.reporter))?;
            cx.reporter.phase("checking");
            facts.integrity = snapshot.integrity()?;
        }
        let tainted = self.tainted(&facts, cx);
        let mut json = serde_json::to_vec_pretty(&facts)
            .map_err(|error| Error::failed("failed to write JSON").with_source(error))?;
        json.push(b'\n');
        let beside = Entry { path: facts_path(&entry.path), mode: 0o600, ..entry };
        sink.file(beside, Some(json.len() as u64), &mut &json[..])?;
        Ok(Captured {
            server: Some(format!("SQLite {}", facts.sqlite)),
            tainted,
            ..Captured::default()
        })
    }
}

impl SqliteSource {
    /// A database that is damaged already is stored as it is, and said to be so.
    fn tainted(&self, facts: &Facts, cx: &SourceContext) -> Option<Tainted> {
        let first = facts.integrity.first()?;
        let path = self.config.path.display().to_string();
        let message = format!(
            "{path} is damaged where it lies: integrity_check found {} things, such as: {first}",
            facts.integrity.len()
        );
        cx.reporter.warn(WarningCode::Other, path, message);
        Some(Tainted { files: 1, pages: facts.integrity.len() as u64 })
    }
}

/// What a look at a database says of its backups.
fn describe(snapshot: &Snapshot, scratch: bool) -> Vec<ProbeNote> {
    let facts = snapshot.facts();
    let mut notes = vec![ProbeNote::fact(format!(
        "SQLite database, {} KiB in {} tables, journal mode {}",
        snapshot.bytes() >> 10,
        facts.tables,
        facts.journal_mode
    ))];
    if facts.tables == 0 {
        notes.push(ProbeNote::warning(
            "it has no tables: is it the database that the application uses?",
        ));
    }
    if facts.journal_mode != "wal" && !scratch {
        notes.push(ProbeNote::warning(format!(
            "in journal mode {} writers wait while it is stored: `PRAGMA journal_mode=WAL` in the application, or `scratch: DIR`, and they wait only for a local copy",
            facts.journal_mode
        )));
    }
    notes
}
