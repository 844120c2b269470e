//! The source itself: a listing, and what changed in it.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::Range;

use bytes::{Buf as _, Bytes};
use globset::{Glob, GlobSet, GlobSetBuilder};

use super::key::{OBJECTS, Paths, VERSIONS, is_reachable, version_path};
use super::listing::{Found, Listing, What};
use super::probe;
use crate::archive::entry::{Entry, EntryType};
use crate::archive::manifest::Form;
use crate::error::{Error, ErrorKind, Result};
use crate::id::BackupKind;
use crate::source::{
    Arriving, Captured, EntrySink, Item, Order, Source, SourceContext, SourceProbe,
};
use crate::store::{Attributes, Fetched, Fetching, ListedObject, Location, Objects};
use crate::telemetry::{Reporter, WarningCode, failpoint};

/// The word in policies and manifests.
pub const KIND: &str = "bucket";

/// Bytes that one request asks for.
const PIECE: u64 = 8 << 20;
/// Bytes under way at once, of small objects and of one large one.
const UNDER_WAY: u64 = 32 << 20;
/// Requests under way at once.
const REQUESTS: usize = 16;
/// Keys named in a warning.
const NAMED: usize = 10;

/// What begins the names of attributes that are kept beside an object.
pub(super) const ATTRIBUTE: &str = "user.s3.";
/// What the store calls an object's content.
const ETAG: &str = "user.s3.etag";

/// A mark that the object was deleted.
pub const DELETED: &str = "user.s3.deleted";
/// How many versions of the key are newer, as the store lists them.
pub const NTH: &str = "user.s3.nth";
/// It is what one meets who asks for the key.
const LATEST: &str = "user.s3.latest";

/// What a policy says of the source.
#[derive(Debug, Clone)]
pub struct Config {
    /// The bucket.
    pub bucket: crate::policy::S3Repository,
    /// Globs of keys that are left out.
    pub exclude: Vec<String>,
    /// What lies behind the objects is stored too.
    pub versions: bool,
}

/// A bucket.
#[derive(Debug)]
pub struct BucketSource {
    config: Config,
}

impl BucketSource {
    /// A source as `config` says.
    pub fn new(config: Config) -> Self {
        Self { config }
    }

    fn open(&self) -> Result<Objects> {
        Objects::open(&Location::of_s3(&self.config.bucket)?)
    }

    fn excluded(&self) -> Result<GlobSet> {
        let bad = |error| Error::usage("a bad pattern in `exclude`").with_source(error);
        let mut set = GlobSetBuilder::new();
        for pattern in &self.config.exclude {
            set.add(Glob::new(pattern).map_err(bad)?);
        }
        set.build().map_err(bad)
    }
}

/// An object whose turn comes.
struct Next {
    listed: ListedObject,
    /// The version that is meant; `None`: the one that there is.
    version: Option<String>,
    /// How many of its key are newer.
    nth: u32,
    path: String,
}

impl Next {
    fn of(listed: ListedObject, what: What, nth: u32, path: String) -> Self {
        let version = match what {
            What::Current => None,
            What::Older(version) | What::Deleted { version, .. } => Some(version),
        };
        Self { listed, version, nth, path }
    }
}

/// What is on its way from one bucket into one backup.
struct Work<'a> {
    objects: &'a Objects,
    reporter: &'a Reporter,
    waiting: VecDeque<(Next, Fetching)>,
    bytes: u64,
    vanished: u64,
    changed: Vec<String>,
}

impl Work<'_> {
    fn begin(&mut self, next: Next, sink: &mut dyn EntrySink) -> Result<()> {
        let size = next.listed.size;
        while !self.waiting.is_empty()
            && (self.waiting.len() >= REQUESTS || self.bytes + size.min(PIECE) > UNDER_WAY)
        {
            self.store_next(sink)?;
        }
        self.bytes += size.min(PIECE);
        // A store refuses a range of nothing.
        let range = (size > 0).then_some(0..PIECE);
        let fetching = self.objects.fetch(&next.listed.key, next.version.as_deref(), range, None);
        self.waiting.push_back((next, fetching));
        Ok(())
    }

    fn store_next(&mut self, sink: &mut dyn EntrySink) -> Result<()> {
        let Some((next, fetching)) = self.waiting.pop_front() else { return Ok(()) };
        let Next { listed, version, nth, path } = next;
        self.reporter.check()?;
        self.bytes -= listed.size.min(PIECE);
        let Some(first) = self.objects.wait(&listed.key, fetching)? else {
            self.vanished += 1;
            return Ok(());
        };
        if first.etag != listed.etag {
            self.changed.push(listed.key.clone());
        }
        let now = ListedObject {
            size: first.size,
            etag: first.etag.clone(),
            modified: first.modified.unwrap_or(listed.modified),
            ..listed
        };
        let mut entry = entry(&path, &now);
        for (name, value) in &first.attributes {
            entry.xattrs.insert(format!("{ATTRIBUTE}{name}"), value.clone().into_bytes());
        }
        if version.is_some() {
            entry.xattrs.insert(NTH.to_owned(), nth.to_string().into_bytes());
        }
        let size = first.size;
        let mut content = Pieces::new(self.objects, (&now, version), first);
        sink.file(entry, Some(size), &mut content)
    }
}

fn entry(path: &str, listed: &ListedObject) -> Entry {
    let mut entry = Entry::new(path, EntryType::File);
    entry.mode = 0o600;
    entry.size = listed.size;
    entry.mtime = (listed.modified.as_second(), listed.modified.subsec_nanosecond().unsigned_abs());
    entry.ctime = entry.mtime;
    entry.xattrs.insert(ETAG.to_owned(), listed.etag.clone().into_bytes());
    entry
}

/// Whether an earlier backup has the object as the listing shows it. A listing knows seconds, and
/// some answers do too.
fn is_same(earlier: &Entry, listed: &ListedObject) -> bool {
    earlier.size == listed.size
        && earlier.mtime.0 == listed.modified.as_second()
        && earlier.xattrs.get(ETAG).map(Vec::as_slice) == Some(listed.etag.as_bytes())
        && !listed.etag.is_empty()
}

/// The content of one object: its first piece, and the others, several of which are on their way.
struct Pieces<'a> {
    objects: &'a Objects,
    key: String,
    version: Option<String>,
    etag: String,
    size: u64,
    piece: Bytes,
    asked: u64,
    waiting: VecDeque<(Range<u64>, Fetching)>,
}

impl<'a> Pieces<'a> {
    fn new(
        objects: &'a Objects,
        (listed, version): (&ListedObject, Option<String>),
        first: Fetched,
    ) -> Self {
        let asked = first.bytes.len() as u64;
        Self {
            objects,
            key: listed.key.clone(),
            version,
            etag: first.etag,
            size: first.size,
            piece: first.bytes,
            asked,
            waiting: VecDeque::new(),
        }
    }

    fn ask(&mut self) {
        while self.asked < self.size && (self.waiting.len() as u64) < UNDER_WAY / PIECE {
            let range = self.asked..(self.asked + PIECE).min(self.size);
            self.asked = range.end;
            // Of the content that was begun, and no other.
            let (version, etag) = (self.version.as_deref(), Some(self.etag.as_str()));
            let fetching = self.objects.fetch(&self.key, version, Some(range.clone()), etag);
            self.waiting.push_back((range, fetching));
        }
    }

    fn next(&mut self) -> Result<bool> {
        failpoint::reach("bucket.piece");
        self.ask();
        let Some((range, fetching)) = self.waiting.pop_front() else { return Ok(false) };
        let gone = || {
            Error::new(ErrorKind::Conflict, format!("`{}` was removed while it was read", self.key))
                .hint("run this again")
        };
        let fetched = self.objects.wait(&self.key, fetching)?.ok_or_else(gone)?;
        if fetched.bytes.len() as u64 != range.end - range.start {
            return Err(Error::failed(format!(
                "the store gave {} bytes of `{}` where {} were asked for",
                fetched.bytes.len(),
                self.key,
                range.end - range.start
            )));
        }
        self.piece = fetched.bytes;
        Ok(true)
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            if !self.next().map_err(Error::into_io)? {
                return Ok(0);
            }
        }
        let length = out.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut out[..length]);
        Ok(length)
    }
}

impl Arriving for Pieces<'_> {}

impl Source for BucketSource {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn form(&self) -> Form {
        Form::Tree
    }

    fn kind_for(&self, asked: BackupKind) -> BackupKind {
        asked
    }

    fn order(&self) -> Order {
        Order::Arrival
    }

    fn probe(&self, _cx: &SourceContext) -> Result<SourceProbe> {
        probe::probe(&self.open()?, self.config.versions)
    }

    fn backup(&self, cx: &SourceContext, sink: &mut dyn EntrySink) -> Result<Captured> {
        let objects = self.open()?;
        let excluded = self.excluded()?;
        let now = cx.clock.now().as_second();
        let versions = self.config.versions.then_some(VERSIONS);
        for path in [".", OBJECTS].into_iter().chain(versions) {
            let mut entry = Entry::new(path, EntryType::Dir);
            (entry.mode, entry.mtime, entry.ctime) = (0o700, (now, 0), (now, 0));
            if !cx.dry_run {
                sink.entry(Item { entry, link_group: None, content: None })?;
            }
        }
        let mut work = Work {
            objects: &objects,
            reporter: &cx.reporter,
            waiting: VecDeque::new(),
            bytes: 0,
            vanished: 0,
            changed: Vec::new(),
        };
        let (mut listing, mut paths) =
            (Listing::new(&objects, self.config.versions), Paths::default());
        let mut unreachable = Vec::new();
        let (mut count, mut total) = (0, 0);
        while let Some(page) = listing.page()? {
            failpoint::reach("bucket.listed");
            for Found { object: listed, what, nth } in page {
                cx.reporter.check()?;
                if excluded.is_match(&listed.key) {
                    continue;
                }
                if !is_reachable(&listed.key) {
                    unreachable.push(listed.key);
                    continue;
                }
                (count, total) = (count + 1, total + listed.size);
                if cx.dry_run {
                    continue;
                }
                let path = match &what {
                    What::Current => paths.next(&listed.key),
                    What::Older(version) | What::Deleted { version, .. } => {
                        version_path(&listed.key, version)
                    }
                };
                match (sink.earlier(path.as_bytes())?, what) {
                    (_, What::Deleted { latest, .. }) => {
                        let mut entry = entry(&path, &listed);
                        entry.xattrs.insert(DELETED.to_owned(), b"true".to_vec());
                        entry.xattrs.insert(NTH.to_owned(), nth.to_string().into_bytes());
                        if latest {
                            entry.xattrs.insert(LATEST.to_owned(), b"true".to_vec());
                        }
                        sink.file(entry, Some(0), &mut &[][..])?;
                    }
                    (Some(earlier), _) if is_same(&earlier, &listed) => sink.keep(&earlier)?,
                    (_, what) => work.begin(Next::of(listed, what, nth, path), sink)?,
                }
            }
        }
        while !work.waiting.is_empty() {
            work.store_next(sink)?;
        }
        let warn = |what: &str, keys: &[String], why: &str| {
            if let Some(first) = keys.first() {
                let named = keys.iter().take(NAMED).map(|key| format!("`{}`", key.escape_debug()));
                let named = named.collect::<Vec<_>>().join(", ");
                let more = keys.len().saturating_sub(NAMED);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                let text = format!("{what}: {named}{more}; {why}");
                cx.reporter.warn(WarningCode::Other, first.clone(), text);
            }
        };
        warn(
            "not stored, because nobody can ask for them over HTTP",
            &unreachable,
            "`.` and `..` are taken out of addresses on the way: copy them to other keys",
        );
        warn(
            "replaced between listing and reading",
            &work.changed,
            "stored as they were when they were read",
        );
        if cx.dry_run {
            cx.reporter.note(format!("{count} objects, {} MiB", total >> 20));
            return Ok(Captured::default());
        }
        let settings = objects.settings()?;
        let mut json = serde_json::to_vec_pretty(&settings)
            .map_err(|error| Error::failed("failed to write JSON").with_source(error))?;
        json.push(b'\n');
        let mut entry = Entry::new("bucket.json", EntryType::File);
        (entry.mode, entry.mtime) = (0o600, (now, 0));
        sink.file(entry, Some(json.len() as u64), &mut &json[..])?;
        Ok(Captured {
            skipped: unreachable.len() as u64,
            vanished: work.vanished,
            ..Captured::default()
        })
    }
}

/// Attributes of an entry as those of an object.
pub(super) fn attributes(entry: &Entry) -> Attributes {
    entry
        .xattrs
        .iter()
        .filter_map(|(name, value)| {
            let name = name.strip_prefix(ATTRIBUTE).filter(|name| *name != "etag")?;
            Some((name.to_owned(), String::from_utf8(value.clone()).ok()?))
        })
        .collect()
}
