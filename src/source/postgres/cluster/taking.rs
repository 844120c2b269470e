//! What the server sends, file by file: judged, counted, and brought to the sink.

use std::io::{self, Read};

use super::archive::Archive;
use super::listing::{Comparison, Listing};
use super::pages::{Digester, Judge, is_main_fork, is_sound, relation_segment};
use super::receive::Receiver;
use super::source::{bare, renamed};
use super::way::Way;
use crate::archive::entry::{Entry, EntryType};
use crate::archive::increment::{IncrementHeader, PAGE, increment_of};
use crate::archive::manifest::Tainted;
use crate::archive::wal::{Lsn, WalRange};
use crate::error::{Error, Result};
use crate::source::postgres::Connection;
use crate::source::postgres::basebackup::{BaseBackup, Part, Tablespace};
use crate::source::{Arriving, EntrySink, Increment, PAGE_DIGEST, SourceContext};
use crate::telemetry::WarningCode;

/// Changed pages that are kept in memory before they are stored.
const HELD_PAGES: usize = 8 << 20;

/// A base backup on its way into a sink.
pub(super) struct Taking<'a> {
    pub(super) cx: &'a SourceContext,
    pub(super) sink: &'a mut dyn EntrySink,
    pub(super) receiver: Receiver,
    pub(super) sql: Option<Connection>,
    pub(super) start: Lsn,
    /// Pages in a segment of a relation, where they are judged.
    pub(super) pages: Option<u64>,
    pub(super) comparison: Comparison,
    pub(super) tainted: Tainted,
    /// A file of the cluster, for its owner.
    pub(super) owner: Option<Entry>,
    pub(super) system_id: u64,
    /// How increments come about.
    pub(super) way: Way,
    /// Digests of pages that were made so far.
    pub(super) next_page: u64,
}

impl Taking<'_> {
    /// Takes all parts of the backup.
    pub(super) fn parts(&mut self, mut backup: BaseBackup) -> Result<(BaseBackup, Vec<WalRange>)> {
        let mut ranges = Vec::new();
        while let Some(part) = backup.next_part()? {
            match part {
                Part::Base => self.archive(&mut backup, "")?,
                Part::Tablespace(Tablespace { oid, .. }) => {
                    self.archive(&mut backup, &format!("pg_tblspc/{oid}/"))?;
                }
                Part::Manifest => {
                    let like = self.owner.clone();
                    let like = like.unwrap_or_else(|| Entry::new("PG_VERSION", EntryType::File));
                    let entry =
                        Entry { mode: 0o600, ..renamed(&like, "backup_manifest".to_owned()) };
                    let mut listing = Listing::new(&mut backup, &mut self.comparison);
                    self.sink.listing(entry, &mut listing)?;
                    ranges = listing.finish(self.system_id)?;
                }
            }
        }
        Ok((backup, ranges))
    }

    fn archive(&mut self, backup: &mut BaseBackup, prefix: &str) -> Result<()> {
        let mut archive = Archive::new(backup, prefix);
        while let Some(mut entry) = archive.next_entry()? {
            self.cx.reporter.check()?;
            self.receiver.check()?;
            match entry.kind {
                EntryType::File => self.file(entry, &mut archive)?,
                // A tablespace: its content comes below this path, so that a backup is one tree.
                // Where it lay is in `tablespace_map`.
                EntryType::Symlink if is_tablespace(&entry.path) => {
                    (entry.kind, entry.mode, entry.target) = (EntryType::Dir, 0o700, None);
                    self.sink.entry(bare(entry))?;
                }
                _ => self.sink.entry(bare(entry))?,
            }
        }
        Ok(())
    }

    fn file(&mut self, mut entry: Entry, input: &mut dyn Read) -> Result<()> {
        if self.owner.is_none() {
            self.owner = Some(entry.clone());
        }
        let (size, path) = (entry.size, entry.path.clone());
        let changed_only =
            matches!(self.way, Way::Server(_)).then(|| increment_of(&path)).flatten();
        let digested = self.way.digests_pages() && is_main_fork(&path) && size % PAGE as u64 == 0;
        let target = changed_only.as_deref().unwrap_or(&path);
        let judge = self.pages.and_then(|pages| {
            let first = u64::from(relation_segment(target)?) * pages;
            Some(Judge::new(u32::try_from(first).ok()?, self.start))
        });
        let mut examined = Examined {
            input,
            crc: 0,
            judge,
            digests: digested.then(Digester::default),
            start: self.start,
            pages: self.pages.unwrap_or(1),
            sql: &mut self.sql,
            cx: self.cx,
            tainted: &mut self.tainted,
        };
        if digested {
            entry.pages = Some(self.next_page);
            let earlier = self.sink.earlier(&path)?;
            let old = match earlier.filter(|earlier| !earlier.as_layers().is_empty()) {
                Some(earlier) => self.way.digests_of(&earlier)?.map(|old| (earlier, old)),
                None => None,
            };
            match old {
                Some((earlier, old)) => compare(self.sink, entry, &earlier, &old, &mut examined)?,
                None => self.sink.file(entry, Some(size), &mut examined)?,
            }
            let digests = examined.digests.take().map(Digester::finish).unwrap_or_default();
            self.next_page += (digests.len() / PAGE_DIGEST) as u64;
            self.sink.page_digests(&digests)?;
        } else if let Some(target) = changed_only {
            increment(self.sink, Entry { path: target, ..entry }, &mut examined)?;
        } else {
            self.sink.file(entry, Some(size), &mut examined)?;
        }
        let crc = examined.crc;
        self.comparison.came(&path, size, crc)
    }
}

/// Takes an increment that the server made.
fn increment(sink: &mut dyn EntrySink, mut file: Entry, input: &mut Examined<'_>) -> Result<()> {
    let size = file.size;
    let shown = file.display_path();
    let judge = input.judge.take();
    let (header, raw) = IncrementHeader::read(input, size, &format!("the increment of `{shown}`"))?;
    input.judge = judge.map(|judge| judge.of_blocks(header.blocks.clone()));
    let earlier = sink.earlier(&file.path)?.filter(|earlier| !earlier.as_layers().is_empty());
    let earlier = earlier.ok_or_else(|| {
        Error::damaged(format!(
            "the server sent an increment of `{shown}`, which the earlier backup does not have"
        ))
    })?;
    if header.blocks.is_empty() && header.result() == earlier.size {
        // Nothing changed: what the server sent says no more.
        return sink.keep(&file.with_content_of(&earlier));
    }
    file.size = header.result();
    file.layers = earlier.as_layers();
    let mut content = Chained { head: &raw, input };
    sink.increment(&file, Increment { size, part: 1, more: false }, &mut content)
}

/// Takes a file of which the earlier backup has the digests of all pages, as far as it changed.
fn compare(
    sink: &mut dyn EntrySink,
    mut file: Entry,
    earlier: &Entry,
    old: &[u8],
    input: &mut Examined<'_>,
) -> Result<()> {
    let size = file.size;
    let pages = u32::try_from(size / PAGE as u64)
        .map_err(|_| Error::unsupported(format!("`{}` is too large", file.display_path())))?;
    file.layers = earlier.as_layers();
    let whole = Entry { layers: Vec::new(), ..file.clone() };
    let mut header = IncrementHeader { truncation: pages, blocks: Vec::new() };
    let (mut held, mut page) = (Vec::new(), vec![0; PAGE]);
    let mut part = 1;
    for block in 0..pages {
        input.read_exact(&mut page).map_err(|error| {
            Error::io(format!("failed to read `{}`", file.display_path()), error)
        })?;
        let before = old.chunks_exact(PAGE_DIGEST).nth(block as usize);
        if before.is_some_and(|before| input.last_digest() == Some(before)) {
            continue;
        }
        header.blocks.push(block);
        held.extend_from_slice(&page);
        if held.len() < HELD_PAGES {
            continue;
        }
        if held.len() as u64 == (u64::from(block) + 1) * PAGE as u64 {
            // Nothing of the earlier one was of use so far.
            let mut content = Chained { head: &held, input };
            return sink.file(whole, Some(size), &mut content);
        }
        store(sink, &file, (&mut header, &mut held), (&mut part, true), input)?;
    }
    if held.len() as u64 == size {
        return sink.file(whole, Some(size), &mut Chained { head: &held, input });
    }
    if header.blocks.is_empty() && part == 1 && size == earlier.size {
        let mut kept = Entry { layers: Vec::new(), ..file }.with_content_of(earlier);
        input.ended(&mut kept)?;
        return sink.keep(&kept);
    }
    store(sink, &file, (&mut header, &mut held), (&mut part, false), input)
}

/// Stores the pages that are held as an increment.
fn store(
    sink: &mut dyn EntrySink,
    file: &Entry,
    (header, held): (&mut IncrementHeader, &mut Vec<u8>),
    (part, more): (&mut u32, bool),
    input: &mut Examined<'_>,
) -> Result<()> {
    let increment = Increment { size: header.size(), part: *part, more };
    // What was judged is told with the last of them.
    let input = (!more).then_some(input);
    let head = header.encode();
    let mut content = Judged { content: (&head[..]).chain(&held[..]), input };
    let result = sink.increment(file, increment, &mut content);
    *part += 1;
    header.blocks.clear();
    held.clear();
    result
}

/// Whether the path is the link of a tablespace.
fn is_tablespace(path: &[u8]) -> bool {
    path.strip_prefix(b"pg_tblspc/")
        .is_some_and(|oid| !oid.is_empty() && oid.iter().all(u8::is_ascii_digit))
}

/// Looks at bytes as they go by.
struct Examined<'a> {
    input: &'a mut dyn Read,
    crc: u32,
    judge: Option<Judge>,
    digests: Option<Digester>,
    start: Lsn,
    pages: u64,
    sql: &'a mut Option<Connection>,
    cx: &'a SourceContext,
    tainted: &'a mut Tainted,
}

impl Read for Examined<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(out)?;
        self.crc = crc32c::crc32c_append(self.crc, &out[..read]);
        if let Some(judge) = &mut self.judge {
            judge.update(&out[..read]);
        }
        if let Some(digests) = &mut self.digests {
            digests.update(&out[..read]);
        }
        Ok(read)
    }
}

impl Arriving for Examined<'_> {
    /// Pages that something spoke against are read again: one that was torn while the server wrote
    /// it is whole by now, or newer than the beginning of the backup. What still is wrong is
    /// damage, which the backup has like the server.
    fn ended(&mut self, entry: &mut Entry) -> Result<()> {
        let suspects = self.judge.take().map(|judge| judge.suspects).unwrap_or_default();
        let path = entry.display_path();
        let mut bad = Vec::new();
        for page in suspects {
            self.cx.reporter.check()?;
            if !self.is_sound_now(&path, page) {
                bad.push(page);
            }
        }
        if bad.is_empty() {
            return Ok(());
        }
        self.tainted.files += 1;
        self.tainted.pages += bad.len() as u64;
        let first: Vec<String> = bad.iter().take(5).map(ToString::to_string).collect();
        let more = if bad.len() > 5 { ", …" } else { "" };
        self.cx.reporter.warn(
            WarningCode::Damage,
            path.clone(),
            format!(
                "`{path}` has pages with a wrong checksum ({} of them: {}{more}); the server's disk or memory damaged them, and the backup has them as they are",
                bad.len(),
                first.join(", ")
            ),
        );
        entry.bad_pages = bad;
        Ok(())
    }
}

impl Examined<'_> {
    /// The digest of the page that was read last.
    fn last_digest(&self) -> Option<&[u8]> {
        self.digests.as_ref().and_then(Digester::last)
    }

    fn is_sound_now(&mut self, path: &str, page: u32) -> bool {
        let Some(sql) = self.sql else { return false };
        let offset = i64::from(page) % self.pages as i64 * PAGE as i64;
        let size = PAGE as i64;
        let query = "SELECT pg_catalog.pg_read_binary_file($1, $2, $3, true)";
        let doing = "failed to read a page again";
        let Ok(rows) = sql.query(query, &[&path, &offset, &size], doing) else { return false };
        match rows.first().and_then(|row| row.try_get::<_, Option<Vec<u8>>>(0).ok()) {
            // The file is gone, or ends before: replay knows.
            Some(None) => true,
            Some(Some(bytes)) => match bytes.first_chunk::<PAGE>() {
                Some(bytes) => is_sound(bytes, page, self.start),
                None => true,
            },
            None => false,
        }
    }
}

/// Bytes that were read already, then the rest.
struct Chained<'a, 'b> {
    head: &'a [u8],
    input: &'a mut Examined<'b>,
}

impl Read for Chained<'_, '_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.head.is_empty() { self.input.read(out) } else { self.head.read(out) }
    }
}

impl Arriving for Chained<'_, '_> {
    fn ended(&mut self, entry: &mut Entry) -> Result<()> {
        self.input.ended(entry)
    }
}

/// Content of its own, made of what was examined.
struct Judged<'a, 'b> {
    content: io::Chain<&'a [u8], &'a [u8]>,
    input: Option<&'a mut Examined<'b>>,
}

impl Read for Judged<'_, '_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.content.read(out)
    }
}

impl Arriving for Judged<'_, '_> {
    fn ended(&mut self, entry: &mut Entry) -> Result<()> {
        self.input.as_mut().map_or(Ok(()), |input| input.ended(entry))
    }
}
