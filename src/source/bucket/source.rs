//! The source itself: a listing, and what changed in it.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::Range;

use bytes::{Buf as _, Bytes};
use globset::{Glob, GlobSet, GlobSetBuilder};

use super::key::{OBJECTS, Paths, is_reachable};
use crate::archive::entry::{Entry, EntryType};
use crate::archive::manifest::Form;
use crate::error::{Error, ErrorKind, Result};
use crate::id::BackupKind;
use crate::source::{
    Arriving, Captured, EntrySink, Item, Order, ProbeNote, Source, SourceContext, SourceProbe,
};
use crate::store::{Attributes, Fetched, Fetching, ListedObject, Location, Objects};
use crate::telemetry::{Reporter, WarningCode};

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

/// What a policy says of the source.
#[derive(Debug, Clone)]
pub struct Config {
    /// The bucket.
    pub bucket: crate::policy::S3Repository,
    /// Globs of keys that are left out.
    pub exclude: Vec<String>,
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
    path: String,
    fetching: Fetching,
}

/// What is on its way from one bucket into one backup.
struct Work<'a> {
    objects: &'a Objects,
    reporter: &'a Reporter,
    waiting: VecDeque<Next>,
    bytes: u64,
    vanished: u64,
    changed: Vec<String>,
}

impl Work<'_> {
    fn begin(
        &mut self,
        listed: ListedObject,
        path: String,
        sink: &mut dyn EntrySink,
    ) -> Result<()> {
        while !self.waiting.is_empty()
            && (self.waiting.len() >= REQUESTS || self.bytes + listed.size.min(PIECE) > UNDER_WAY)
        {
            self.store_next(sink)?;
        }
        self.bytes += listed.size.min(PIECE);
        // A store refuses a range of nothing.
        let range = (listed.size > 0).then_some(0..PIECE);
        let fetching = self.objects.fetch(&listed.key, range, None);
        self.waiting.push_back(Next { listed, path, fetching });
        Ok(())
    }

    fn store_next(&mut self, sink: &mut dyn EntrySink) -> Result<()> {
        let Some(Next { listed, path, fetching }) = self.waiting.pop_front() else { return Ok(()) };
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
        let size = first.size;
        let mut content = Pieces::new(self.objects, &now, first);
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
    etag: String,
    size: u64,
    piece: Bytes,
    asked: u64,
    waiting: VecDeque<(Range<u64>, Fetching)>,
}

impl<'a> Pieces<'a> {
    fn new(objects: &'a Objects, listed: &ListedObject, first: Fetched) -> Self {
        let asked = first.bytes.len() as u64;
        Self {
            objects,
            key: listed.key.clone(),
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
            let fetching = self.objects.fetch(&self.key, Some(range.clone()), Some(&self.etag));
            self.waiting.push_back((range, fetching));
        }
    }

    fn next(&mut self) -> Result<bool> {
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
        let mut notes = Vec::new();
        let objects = self.open()?;
        match objects.list(None) {
            Ok((found, more)) => {
                let more = if more.is_some() { " and more" } else { "" };
                notes.push(ProbeNote::fact(format!(
                    "{}: {} objects{more}",
                    objects.name(),
                    found.len()
                )));
            }
            Err(error) => {
                let mut parts = vec![error.chain()];
                parts.extend(error.hints().iter().cloned());
                return Ok(SourceProbe { notes: vec![ProbeNote::fault(parts.join("; "))] });
            }
        }
        let settings = objects.settings()?;
        let versioning = settings.get("versioning").and_then(|found| found.as_str());
        notes.push(ProbeNote::fact(format!(
            "versioning is {}",
            versioning.unwrap_or("not known of this store")
        )));
        notes.extend(replication(&settings, versioning));
        Ok(SourceProbe { notes })
    }

    fn backup(&self, cx: &SourceContext, sink: &mut dyn EntrySink) -> Result<Captured> {
        let objects = self.open()?;
        let excluded = self.excluded()?;
        let now = cx.clock.now().as_second();
        for path in [".", OBJECTS] {
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
        let (mut token, mut paths) = (None, Paths::default());
        let (mut last, mut unreachable) = (None::<String>, Vec::new());
        let (mut count, mut total) = (0, 0);
        loop {
            let (page, next) = objects.list(token.as_deref())?;
            for listed in page {
                cx.reporter.check()?;
                if last.as_ref().is_some_and(|last| *last >= listed.key) {
                    return Err(Error::unsupported(format!(
                        "{} lists its objects in no order: `{}` came after `{}`",
                        objects.name(),
                        listed.key,
                        last.unwrap_or_default()
                    )));
                }
                last = Some(listed.key.clone());
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
                let path = paths.next(&listed.key);
                match sink.earlier(path.as_bytes())?.filter(|earlier| is_same(earlier, &listed)) {
                    Some(earlier) => sink.keep(&earlier)?,
                    None => work.begin(listed, path, sink)?,
                }
            }
            token = next;
            if token.is_none() {
                break;
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

/// What is to be known of a bucket that is replicated.
fn replication(
    settings: &std::collections::BTreeMap<String, serde_json::Value>,
    versioning: Option<&str>,
) -> Option<ProbeNote> {
    let rules = settings.get("replication")?.as_array()?;
    let deletes = rules.iter().any(|rule| rule["deletes"] == "Enabled");
    let mut text =
        "it is replicated, which is no backup: what is overwritten here is overwritten there"
            .to_owned();
    if deletes {
        text.push_str(", and what is deleted here is deleted there");
    }
    if versioning != Some("on") {
        text.push_str("; without versions on both sides neither can be undone");
    }
    text.push_str("; objects from before the rule are not replicated unless somebody did so");
    Some(ProbeNote::warning(text))
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
