//! Everything is read: links, the last segment, index, lists, sums, commit.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::time::Duration;

use jiff::Timestamp;

use super::arrival::BesideObjects;
use super::base::Base;
use super::buried::Buried;
use super::links;
use super::request::Request;
use super::session::Writing;
use super::sink::Gathered;
use super::tally::{HAS_PARTS, Results, Tally};
use crate::archive::digest::sha256_hex;
use crate::archive::entry::{Entry, SegmentRef, compare};
use crate::archive::frame::FrameWriter;
use crate::archive::index::IndexWriter;
use crate::archive::lists::{DeadListReader, DeadListWriter, large_lines};
use crate::archive::manifest::{
    ClusterFacts, Counts, Encryption, Form, IndexObject, Manifest, RecoveryPoint, Segment,
    SegmentType, StoredObject, VERSION, Writer,
};
use crate::archive::segment::{SealedWriter, sealed, unseal};
use crate::archive::snapshot::Snapshots;
use crate::archive::sort::{Sorted, Sorter};
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::run::context::host_name;
use crate::run::lock::{self, LockTerms};
use crate::source::{Captured, Order};
use crate::store::{Lock, Upload, WalStore, check_presence, layout};
use crate::telemetry::{WarningCode, failpoint};

/// zstd level of indexes and lists: they are read back by every incremental.
const META_LEVEL: i32 = 3;

/// The longest pause before a store is asked once more for what it should list.
const LONGEST_LAG: Duration = Duration::from_millis(1600);

/// What is needed to end a backup.
pub struct Finishing<'a> {
    /// The backup.
    pub writing: &'a Writing<'a>,
    /// What was asked.
    pub request: &'a Request<'a>,
    /// What it builds on.
    pub base: Option<&'a Base>,
    /// When reading began.
    pub start: Timestamp,
    /// What the backup before this one counted.
    pub previous: Option<&'a Counts>,
    /// How it is locked.
    pub lock: Option<LockTerms>,
}

/// What a dry run would have come to: whether nothing changed, and the counts.
pub fn pretend(
    finishing: &Finishing<'_>,
    tally: Tally,
    gathered: &Gathered,
    captured: &Captured,
) -> Result<(bool, Counts)> {
    let unchanged = finishing.is_unchanged(gathered);
    let mut counts = tally.into_results().counts;
    counts.skipped += captured.skipped;
    counts.vanished += captured.vanished;
    if let (true, Some(base)) = (unchanged, finishing.base) {
        counts = shared_counts(base, captured);
    } else {
        counts.files += gathered.links.len();
        counts.directories += gathered.last.len();
    }
    // What can be read only once is not read to count it.
    if finishing.request.source.order() == Order::Index {
        finishing.check_emptied(&counts)?;
    }
    Ok((unchanged, counts))
}

/// Stores what is left and commits. Returns the manifest, and whether all of the base is shared.
pub fn finish(
    finishing: &Finishing<'_>,
    tally: Tally,
    gathered: Gathered,
    captured: &Captured,
) -> Result<(Manifest, bool)> {
    let Finishing { writing, request, base, .. } = *finishing;
    writing.cx.reporter.phase("committing");
    let unchanged = finishing.is_unchanged(&gathered);
    let contents = match base {
        Some(base) if unchanged => Contents::shared(base, captured),
        _ => {
            let Gathered { links, mut last, beside, .. } = gathered;
            let mut number = None;
            if request.source.form() == Form::Tree {
                number = links::store_links(writing, &tally, request.source, links, &mut last)
                    .and_then(|()| links::store_last(writing, &tally, request.source, last))
                    .inspect_err(|_| drop(tally.wait_for_segments()))?;
                failpoint::reach("backup.last_segment");
            }
            tally.wait_for_segments()?;
            finishing.contents(tally.into_results(), number, captured, beside)?
        }
    };
    finishing.check_emptied(&contents.counts)?;
    let manifest = finishing.manifest(contents, captured)?;
    finishing.check_stored(&manifest)?;
    finishing.warn_of_other_cluster(&manifest);
    let lock = finishing.lock(&manifest)?;
    // The last moment to give up: after this line the backup exists.
    writing.cx.reporter.check()?;
    failpoint::reach("backup.before_commit");
    check_presence(writing.source.store())?;
    writing.source.commit(&manifest, lock)?;
    failpoint::reach("backup.after_commit");
    // A leftover intent of a committed backup says nothing; prune drops it.
    let _ = writing.source.delete_intent(&writing.backup);
    Ok((manifest, unchanged))
}

/// What the manifest says of content.
struct Contents {
    segments: Vec<Segment>,
    index: IndexObject,
    large: Option<StoredObject>,
    counts: Counts,
    cluster: Option<ClusterFacts>,
    snapshots: Option<Snapshots>,
}

impl Contents {
    fn shared(base: &Base, captured: &Captured) -> Self {
        Self {
            segments: base.manifest.segments.clone(),
            index: base.manifest.index.clone(),
            large: base.manifest.large.clone(),
            counts: shared_counts(base, captured),
            cluster: base.manifest.cluster.clone(),
            snapshots: base.manifest.snapshots.clone(),
        }
    }
}

fn shared_counts(base: &Base, captured: &Captured) -> Counts {
    Counts {
        new_files: 0,
        new_bytes: 0,
        stored_bytes: 0,
        skipped: captured.skipped,
        vanished: captured.vanished,
        ..base.manifest.counts.clone()
    }
}

impl Finishing<'_> {
    /// A source that had files and has none now is a mount that is missing, most likely. It would
    /// become the newest good backup, and push the others out.
    fn check_emptied(&self, counts: &Counts) -> Result<()> {
        let Some(previous) = self.previous else { return Ok(()) };
        let (before, now) = (previous.files, counts.files);
        if now == 0 && before > 0 && !self.request.source.may_be_empty() {
            return Err(Error::failed(format!("it is empty now, and had {before} files before"))
                .hint("is something not mounted?")
                .hint("if it is meant to be empty, say `allow_empty: true` in the policy"));
        }
        if now < before / 10 {
            let message = format!("{now} files are left of {before}: is something not mounted?");
            let name = self.request.address.to_string();
            self.writing.cx.reporter.warn(WarningCode::Other, name, message);
        }
        Ok(())
    }

    fn is_unchanged(&self, gathered: &Gathered) -> bool {
        !gathered.changed && self.base.is_some_and(Base::is_sharable)
    }

    fn contents(
        &self,
        results: Results,
        last: Option<u32>,
        captured: &Captured,
        beside: BesideObjects,
    ) -> Result<Contents> {
        let Results { index, mut dead, live, segments: own, mut counts, layered } = results;
        counts.skipped += captured.skipped;
        counts.vanished += captured.vanished;
        let (index, large, slices) = self.write_index(index, &mut dead)?;
        failpoint::reach("backup.index");
        counts.stored_bytes += index.size + large.as_ref().map_or(0, |large| large.size);
        let older = self.older_segments(&live, dead, &mut counts)?;
        let segments = in_order(older, own, &slices, last)?;
        let BesideObjects { mut listing, pages } = beside;
        let snapshots = captured
            .snapshots
            .clone()
            .map(|snapshots| Snapshots { listing: listing.take(), ..snapshots });
        let cluster =
            captured.checksums.map(|checksums| ClusterFacts { checksums, layered, listing, pages });
        Ok(Contents { segments, index, large, counts, cluster, snapshots })
    }

    /// Writes the index, and beside it the list of large files. Also returns the slices in the
    /// order of that list. Where base and source were not walked side by side, what is not wanted
    /// of the base any more is found here.
    fn write_index(
        &self,
        lines: Sorter,
        dead: &mut Sorter,
    ) -> Result<(IndexObject, Option<StoredObject>, Vec<SegmentRef>)> {
        let backup = &self.writing.backup;
        let path = layout::index(backup, self.writing.is_encrypted());
        let failed = || format!("failed to write {path}");
        let mut index = IndexWriter::new(self.open(&path)?, META_LEVEL).doing(failed)?;
        let mut large: Option<FrameWriter<SealedWriter<Upload>>> = None;
        let large_path = layout::large(backup, self.writing.is_encrypted());
        let mut slices = Vec::new();
        let mut buried = self
            .base
            .filter(|_| self.request.source.order() == Order::Arrival)
            .map(|base| {
                let reporter = self.writing.cx.reporter.fresh();
                let keys = &self.request.writer;
                Buried::new(self.writing.source.index(&base.manifest, keys, &reporter)?, dead)
            })
            .transpose()?;
        let mut previous = None;
        for record in lines.finish()? {
            let (key, value) = record?;
            if previous.as_ref() == Some(&key) {
                return Err(Error::failed("the source brought one path twice"));
            }
            previous = Some(key);
            let (flag, line) = value.split_first().ok_or_else(|| Error::failed("an empty line"))?;
            index.push_line(line).doing(failed)?;
            if *flag != HAS_PARTS && buried.is_none() {
                continue;
            }
            let entry: Entry = serde_json::from_slice(line).map_err(|error| {
                Error::failed("failed to read back an entry").with_source(error)
            })?;
            if let Some(buried) = &mut buried {
                buried.pass(&entry)?;
            }
            if *flag != HAS_PARTS {
                continue;
            }
            slices.extend(entry.parts.iter().map(|part| part.segment.clone()));
            if self.request.source.form() == Form::Tree {
                let out = match &mut large {
                    Some(out) => out,
                    none => none.insert(
                        FrameWriter::new(self.open(&large_path)?, META_LEVEL).doing(failed)?,
                    ),
                };
                out.write_all(&large_lines(&entry)).doing(failed)?;
            }
        }
        buried.map_or(Ok(()), Buried::finish)?;
        let (out, entries) = index.finish().doing(failed)?;
        let StoredObject { path, size, sha256 } = self.close(&path, out)?;
        let index = IndexObject { path, size, sha256, entries };
        let large = large
            .map(|out| {
                let (out, _) = out.finish().doing(|| format!("failed to write {large_path}"))?;
                self.close(&large_path, out)
            })
            .transpose()?;
        Ok((index, large, slices))
    }

    /// The older segments that are still wanted, with new dead lists where they are wanted less.
    fn older_segments(
        &self,
        live: &BTreeMap<SegmentRef, u64>,
        dead: Sorter,
        counts: &mut Counts,
    ) -> Result<Vec<Segment>> {
        let Some(base) = self.base else { return Ok(Vec::new()) };
        let mut older = Vec::new();
        for (reference, live) in live {
            let segment = base.segment(reference).ok_or_else(|| {
                Error::failed(format!("an entry refers to {reference}, which the base lacks"))
            })?;
            older.push((reference, Segment { live: *live, ..segment.clone() }));
        }
        let mut dead = DeadNames { records: dead.finish()?, next: None };
        dead.advance()?;
        for (reference, segment) in &mut older {
            dead.skip_to(reference)?;
            if dead.is_at(reference) {
                let list = self.write_dead(reference, segment, &mut dead)?;
                counts.stored_bytes += list.size;
                segment.dead = Some(list);
            }
        }
        Ok(older.into_iter().map(|(_, segment)| segment).collect())
    }

    /// Merges what the base did not want of a segment with what this backup does not want either.
    fn write_dead(
        &self,
        reference: &SegmentRef,
        segment: &Segment,
        new: &mut DeadNames,
    ) -> Result<StoredObject> {
        let encrypted = self.writing.is_encrypted();
        let path = layout::dead(&self.writing.backup, reference, encrypted);
        let failed = || format!("failed to write {path}");
        let mut list = DeadListWriter::new(self.open(&path)?, META_LEVEL).doing(failed)?;
        let mut old = segment
            .dead
            .as_ref()
            .map(|old| {
                let reporter = self.writing.cx.reporter.fresh();
                let keys = &self.request.writer;
                let plain = self.writing.source.open_plain(&old.path, old.size, keys, &reporter)?;
                DeadListReader::new(plain, &old.path)
            })
            .transpose()?;
        let mut next_old = old.as_mut().and_then(Iterator::next).transpose()?;
        loop {
            let new_first = match (&next_old, new.path_at(reference)) {
                (None, None) => break,
                (Some(_), None) => false,
                (None, Some(_)) => true,
                (Some(old), Some(new)) => compare(new, old).is_lt(),
            };
            if new_first {
                if let Some(name) = new.take()? {
                    list.push(&name).doing(failed)?;
                }
            } else if let Some(name) = next_old.take() {
                list.push(&name).doing(failed)?;
                next_old = old.as_mut().and_then(Iterator::next).transpose()?;
            }
        }
        let (out, _) = list.finish().doing(failed)?;
        self.close(&path, out)
    }

    fn open(&self, path: &str) -> Result<SealedWriter<Upload>> {
        let upload = self.writing.source.upload(path, &self.writing.cx.reporter);
        sealed(upload, &self.writing.index).doing(|| format!("failed to write {path}"))
    }

    fn close(&self, path: &str, out: SealedWriter<Upload>) -> Result<StoredObject> {
        let (upload, size, sha256) = unseal(out).doing(|| format!("failed to write {path}"))?;
        upload.finish()?;
        Ok(StoredObject { path: path.to_owned(), size, sha256 })
    }

    fn manifest(&self, contents: Contents, captured: &Captured) -> Result<Manifest> {
        let Self { writing, request, base, start, .. } = self;
        let Contents { segments, index, large, counts, cluster, snapshots } = contents;
        let older = base.and_then(|base| base.manifest.encryption.as_ref());
        let keys: BTreeSet<String> =
            writing.key.iter().chain(older.iter().flat_map(|one| &one.keys)).cloned().collect();
        let tenure = writing.source.epochs().tenure();
        let mut manifest = Manifest {
            version: VERSION,
            backup: writing.backup.clone(),
            stack: request.address.stack.clone(),
            source: request.address.source.clone(),
            source_kind: request.source.kind().to_owned(),
            form: request.source.form(),
            kind: writing.backup.kind(),
            base: base.map(|base| base.manifest.backup.clone()),
            run: request.run.clone(),
            job: request.job.clone(),
            keep: request.keep.clone(),
            epoch: tenure.map_or(0, |tenure| tenure.epoch),
            site: tenure.map(|tenure| tenure.site.clone()).filter(|site| !site.is_empty()),
            start: *start,
            end: writing.cx.clock.now(),
            recovery_points: captured
                .since
                .iter()
                .cloned()
                .chain([captured.recovery.clone().unwrap_or_else(|| RecoveryPoint::at(*start))])
                .collect(),
            server: captured.server.clone(),
            wal: captured.wal.clone(),
            tainted: captured.tainted.clone(),
            cluster,
            snapshots,
            encryption: writing
                .key
                .clone()
                .map(|key| Encryption { key, keys: keys.into_iter().collect() }),
            segments,
            index,
            large,
            sums: StoredObject {
                path: layout::sums(&writing.backup),
                size: 0,
                sha256: String::new(),
            },
            counts,
            writer: Writer {
                tool: crate::TOOL.to_owned(),
                host: host_name(),
                system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            },
            nonce: writing.nonce.clone(),
        };
        manifest.sums = self.write_sums(&manifest)?;
        failpoint::reach("backup.sums");
        Ok(manifest)
    }

    fn write_sums(&self, manifest: &Manifest) -> Result<StoredObject> {
        let mut text = String::new();
        for (path, sha256) in manifest.summed() {
            text.push_str(sha256);
            text.push_str("  ");
            text.push_str(path);
            text.push('\n');
        }
        let path = manifest.sums.path.clone();
        let (size, sha256) = (text.len() as u64, sha256_hex(text.as_bytes()));
        self.writing.source.put(&path, text.into())?;
        Ok(StoredObject { path, size, sha256 })
    }

    /// Locks everything that the backup needs, own objects and older ones. Returns the lock that its
    /// commit is to have.
    fn lock(&self, manifest: &Manifest) -> Result<Option<Lock>> {
        let Some(terms) = self.lock else { return Ok(None) };
        let Some(lock) = terms.lock(manifest.end, manifest.end) else { return Ok(None) };
        let keys = lock::needed(&self.writing.source, manifest)?;
        let locked = self.writing.source.store().lock(&keys, lock)?;
        self.writing.cx.reporter.note(format!(
            "{}: {} of {} objects were locked until {}",
            manifest.address(),
            locked.changed,
            locked.objects,
            lock.until
        ));
        Ok(Some(lock))
    }

    /// A connection that leads to another server than last time is right after an upgrade, and
    /// wrong at any other time.
    fn warn_of_other_cluster(&self, manifest: &Manifest) {
        let Some(now) = &manifest.wal else { return };
        let source = &self.writing.source;
        let newest = source.commits().ok().and_then(|commits| commits.into_iter().next_back());
        let before = newest.and_then(|newest| source.manifest(&newest.backup).ok());
        let Some(before) = before else { return };
        if let Some(wal) = before.wal
            && wal.system_id != now.system_id
        {
            self.writing.cx.reporter.warn(
                WarningCode::Other,
                manifest.address().to_string(),
                format!(
                    "this is cluster {}, and {} is of cluster {}: right after an upgrade; otherwise look where the connection leads",
                    now.system_id, before.backup, wal.system_id
                ),
            );
        }
    }

    /// Asks the store what it has of this backup before anybody is told that it exists. A store
    /// that lists an object a moment after it took it is asked again.
    fn check_stored(&self, manifest: &Manifest) -> Result<()> {
        let mut pause = Duration::from_millis(200);
        loop {
            let missing = match self.check_listed(manifest)? {
                None => return Ok(()),
                Some(missing) if pause > LONGEST_LAG => missing,
                Some(_) => {
                    self.writing.cx.reporter.check()?;
                    std::thread::sleep(pause);
                    pause *= 2;
                    continue;
                }
            };
            return Err(Error::damaged(format!("the store took {missing} and does not list it"))
                .hint("`backstay check` probes the store"));
        }
    }

    /// The first object of this backup that is not listed.
    fn check_listed(&self, manifest: &Manifest) -> Result<Option<String>> {
        let directory = self.writing.source.key(&layout::data(&self.writing.backup));
        let listed: BTreeMap<String, u64> = self
            .writing
            .source
            .store()
            .list(&directory)?
            .into_iter()
            .map(|object| (object.key, object.size))
            .collect();
        for (path, size, _) in manifest.objects() {
            let key = self.writing.source.key(path);
            if !key.starts_with(&format!("{directory}/")) {
                continue;
            }
            match listed.get(&key) {
                Some(found) if *found == size => {}
                Some(found) => {
                    return Err(Error::damaged(format!(
                        "the store took {size} bytes of {key} and lists {found}"
                    )));
                }
                None => return Ok(Some(key)),
            }
        }
        // A base backup without its WAL is none.
        let Some(needed) = &manifest.wal else { return Ok(None) };
        let wal = WalStore::new(&self.writing.source, &self.writing.content);
        // Nor is one whose WAL is about to go: a standby may begin before what others need.
        let marked = self.writing.source.marked()?;
        let path = |name: &String| wal.path(needed.system_id, name);
        if let Some(name) = needed.segments().find(|name| marked.contains(&path(name))) {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("a prune is about to remove {}", path(&name)),
            )
            .hint("back up again when that prune is finished, or from a server that is less far behind"));
        }
        Ok(wal.missing(needed)?.into_iter().next())
    }
}

/// Older tree segments, own ones, slices as the list of large files has them, the last one.
fn in_order(
    older: Vec<Segment>,
    own: Vec<Segment>,
    slices: &[SegmentRef],
    last: Option<u32>,
) -> Result<Vec<Segment>> {
    let mut trees = Vec::new();
    let mut streams = BTreeMap::new();
    let mut end = None;
    let older_count = older.len();
    let mut own = own;
    own.sort_by(|a, b| a.path.cmp(&b.path));
    for (at, segment) in older.into_iter().chain(own).enumerate() {
        let reference = segment.reference()?;
        if segment.kind == SegmentType::Stream {
            streams.insert(reference, segment);
        } else if at >= older_count && Some(reference.number) == last {
            end = Some(segment);
        } else {
            trees.push(segment);
        }
    }
    for slice in slices {
        // Two names of one large file share their slices.
        trees.extend(streams.remove(slice));
    }
    trees.extend(end);
    Ok(trees)
}

/// Names that became dead, by segment and then in index order.
struct DeadNames {
    records: Sorted,
    next: Option<(Vec<u8>, Vec<u8>)>,
}

impl DeadNames {
    fn advance(&mut self) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        let next = self.records.next().transpose()?;
        Ok(std::mem::replace(&mut self.next, next))
    }

    fn segment_key(reference: &SegmentRef) -> Vec<u8> {
        let mut key = reference.to_string().into_bytes();
        key.push(0);
        key
    }

    /// Drops names of segments before this one: nobody wants anything of them any more.
    fn skip_to(&mut self, reference: &SegmentRef) -> Result<()> {
        let wanted = Self::segment_key(reference);
        while self.next.as_ref().is_some_and(|(key, _)| key[..] < wanted[..]) {
            self.advance()?;
        }
        Ok(())
    }

    fn is_at(&self, reference: &SegmentRef) -> bool {
        self.path_at(reference).is_some()
    }

    fn path_at(&self, reference: &SegmentRef) -> Option<&[u8]> {
        let wanted = Self::segment_key(reference);
        self.next.as_ref().filter(|(key, _)| key.starts_with(&wanted)).map(|(_, path)| &path[..])
    }

    fn take(&mut self) -> Result<Option<Vec<u8>>> {
        Ok(self.advance()?.map(|(_, path)| path))
    }
}
