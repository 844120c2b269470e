//! Everything decrypts and decodes, every file has its digest, archive and index agree.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, PoisonError};

use super::lists;
use super::placement::Placement;
use super::report::{Finding, Report};
use super::scope::Scope;
use super::stored::altered;
use super::sums::check_sums;
use super::totals::Totals;
use crate::archive::crypt::{DecryptReader, Keyring};
use crate::archive::digest::DigestReader;
use crate::archive::entry::{Entry, SegmentRef};
use crate::archive::manifest::{Manifest, Segment, SegmentType};
use crate::archive::member::read_error;
use crate::archive::sort::{Sorted, Sorter};
use crate::error::{Error, ErrorKind, Result};
use crate::run::Context;
use crate::run::crew::{Queue, crew};
use crate::store::{SourceStore, layout};

/// Entries of one segment handed over at once; more follow as they are wanted.
const AT_ONCE: usize = 10_000;
const CHUNK: usize = 1024;
pub(super) const BUDGET: usize = 12 << 20;

/// Reads what is in scope, and the index where it takes one, and adds what is wrong to the report.
pub fn check(
    source: &SourceStore,
    manifest: &Manifest,
    scope: Scope<'_>,
    keys: &Keyring,
    cx: &Context,
    report: &mut Report,
) -> Result<()> {
    if scope.has(&manifest.sums.path) {
        check_sums(source, manifest, cx, report)?;
        report.examined.push(manifest.sums.path.clone());
    }
    if needs_index(manifest, scope) {
        check_entries(source, manifest, scope, keys, cx, report)
    } else {
        lists::check_stored(source, manifest, scope, cx, report)
    }
}

fn needs_index(manifest: &Manifest, scope: Scope<'_>) -> bool {
    let large = manifest.large.iter().map(|list| &list.path);
    let segments = manifest.segments.iter().map(|segment| &segment.path);
    std::iter::once(&manifest.index.path).chain(large).chain(segments).any(|path| scope.has(path))
}

/// Reads the index and what is held against it.
fn check_entries(
    source: &SourceStore,
    manifest: &Manifest,
    scope: Scope<'_>,
    keys: &Keyring,
    cx: &Context,
    report: &mut Report,
) -> Result<()> {
    if report.names(&manifest.index.path) {
        return Ok(());
    }
    let checker = Checker { source, manifest, scope, keys, cx };
    let mut totals = Totals::default();
    let mut placement = Placement::of(manifest)?;
    let (sorter, bytes) = match checker.sort_index(&mut totals, &mut placement, report) {
        Ok(Some(sorted)) => sorted,
        Ok(None) => return Ok(()),
        // An altered age header looks like a wrong key: the digest tells them apart.
        Err(error) if error.kind() == ErrorKind::Denied && checker.index_is_altered()? => {
            report.findings.push(altered(&manifest.index.path));
            return Ok(());
        }
        Err(error) if error.kind() == ErrorKind::Damaged => {
            let object = manifest.index.path.clone();
            report.findings.push(Finding { object, problem: error.chain(), costs: None });
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    cx.reporter.progress().expect(report.entries, bytes);
    report.findings.extend(totals.compare(manifest)?);
    let again = || source.index(manifest, keys, &cx.reporter.fresh());
    report.findings.extend(placement.finish(again)?);
    report.examined.push(manifest.index.path.clone());
    lists::check_stored(source, manifest, scope, cx, report)?;
    if manifest.large.as_ref().is_none_or(|list| scope.has(&list.path)) {
        lists::check_large(source, manifest, totals.large(), keys, cx, report)?;
    }
    checker.check_segments(sorter, report)?;
    let segments = manifest.segments.iter().map(|segment| &segment.path);
    report.examined.extend(segments.filter(|path| scope.has(path)).cloned());
    Ok(())
}

/// What a check works with.
pub(super) struct Checker<'a> {
    pub(super) source: &'a SourceStore,
    pub(super) manifest: &'a Manifest,
    pub(super) scope: Scope<'a>,
    pub(super) keys: &'a Keyring,
    pub(super) cx: &'a Context,
}

/// One segment to check.
pub(super) struct Task {
    pub(super) segment: Segment,
    pub(super) first: Vec<Entry>,
    pub(super) more: Receiver<Vec<Entry>>,
}

impl Checker<'_> {
    fn index_is_altered(&self) -> Result<bool> {
        let index = &self.manifest.index;
        let object = self.source.open(&index.path, index.size, &self.cx.reporter).whole();
        let (_, digest) =
            DigestReader::new(object).finish().map_err(|error| read_error(error, &index.path))?;
        Ok(digest.finish_hex() != index.sha256)
    }

    /// Reads the index, which checks it, and sorts entries by where they lie.
    fn sort_index(
        &self,
        totals: &mut Totals,
        placement: &mut Placement,
        report: &mut Report,
    ) -> Result<Option<(Sorter, u64)>> {
        let index = &self.manifest.index;
        let object = self.source.open(&index.path, index.size, &self.cx.reporter).whole();
        let mut hashing = DigestReader::new(object);
        let mut sorter = Sorter::new(BUDGET);
        let mut bytes = 0;
        {
            let encrypted = layout::is_encrypted(&index.path);
            let plain = DecryptReader::open(&mut hashing, encrypted, self.keys, &index.path)?;
            let entries = crate::archive::index::IndexReader::new(
                std::io::BufReader::new(plain),
                &index.path,
                Some(index.entries),
            )?;
            let known = self.manifest.segments_by_reference()?;
            for entry in entries {
                let entry = entry?;
                totals.add(&entry, self.manifest);
                placement.add(&entry)?;
                let places = places(&entry);
                if places.is_empty() {
                    return Err(Error::damaged(format!(
                        "{} has no place for `{}`",
                        index.path,
                        entry.display_path()
                    )));
                }
                let mut counted = false;
                for (segment, frame, skip, entry) in places {
                    let Some(place) = known.get(&segment) else {
                        return Err(Error::damaged(format!(
                            "{} refers to segment {segment}, which the manifest does not name",
                            index.path
                        )));
                    };
                    if !self.scope.has(&place.path) {
                        continue;
                    }
                    report.entries += u64::from(!counted);
                    if !counted || entry.is_layer {
                        bytes = entry.size.saturating_add(bytes);
                    }
                    counted = true;
                    let mut key = segment.to_string().into_bytes();
                    key.push(0);
                    key.extend_from_slice(&frame.to_be_bytes());
                    key.extend_from_slice(&skip.to_be_bytes());
                    sorter.push(key, crate::archive::index::line_of(&entry)?)?;
                }
            }
        }
        let (_, digest) = hashing.finish().map_err(|error| read_error(error, &index.path))?;
        if digest.finish_hex() != index.sha256 {
            report.findings.push(altered(&index.path));
            return Ok(None);
        }
        Ok(Some((sorter, bytes)))
    }

    fn check_segments(&self, sorter: Sorter, report: &mut Report) -> Result<()> {
        let bad: BTreeSet<String> =
            report.findings.iter().map(|finding| finding.object.clone()).collect();
        let results: Mutex<(Vec<Finding>, Option<Error>)> = Mutex::default();
        let fed = std::thread::scope(|scope| {
            let send = crew(scope, self.cx.tuning.workers, 0, |tasks| {
                self.work(tasks, &results, &bad);
            });
            self.feed(sorter.finish()?, &bad, &mut |task| {
                send.send(task).map_err(|_| Error::failed("the threads that verify are gone"))
            })
        });
        let (mut findings, fatal) = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = fatal {
            return Err(error);
        }
        fed?;
        findings.sort_by(|a, b| (&a.object, &a.problem).cmp(&(&b.object, &b.problem)));
        report.findings.append(&mut findings);
        Ok(())
    }

    /// Hands out segments with the entries that should be in them.
    fn feed(
        &self,
        mut entries: Sorted,
        bad: &BTreeSet<String>,
        send: &mut dyn FnMut(Task) -> Result<()>,
    ) -> Result<()> {
        let mut segments: BTreeMap<SegmentRef, &Segment> = self.manifest.segments_by_reference()?;
        segments.retain(|_, segment| self.scope.has(&segment.path));
        let mut next = next_entry(&mut entries)?;
        while let Some((reference, entry)) = next.take() {
            let mut first = vec![entry];
            let segment = segments.remove(&reference).ok_or_else(|| {
                Error::damaged(format!("segment {reference} is not in the manifest"))
            })?;
            let (more, receiver) = sync_channel(2);
            let mut task =
                Some(Task { segment: segment.clone(), first: Vec::new(), more: receiver });
            loop {
                next = next_entry(&mut entries)?;
                match next.take_if(|(other, _)| *other == reference) {
                    Some((_, entry)) => first.push(entry),
                    None => break,
                }
                if task.is_some()
                    && first.len() == AT_ONCE
                    && let Some(mut task) = task.take()
                {
                    task.first = std::mem::take(&mut first);
                    send(task)?;
                } else if task.is_none() && first.len() == CHUNK {
                    // A worker that gave up has dropped its end: the rest is of no use.
                    let _ = more.send(std::mem::take(&mut first));
                }
            }
            match task.take() {
                Some(mut task) => {
                    task.first = first;
                    send(task)?;
                }
                None => drop(more.send(first)),
            }
        }
        // Segments that nothing is wanted of: an empty last segment is one.
        for segment in segments.into_values().filter(|segment| !bad.contains(&segment.path)) {
            let (_, more) = sync_channel(0);
            send(Task { segment: segment.clone(), first: Vec::new(), more })?;
        }
        Ok(())
    }

    fn work(
        &self,
        tasks: &Queue<Task>,
        results: &Mutex<(Vec<Finding>, Option<Error>)>,
        bad: &BTreeSet<String>,
    ) {
        while let Some(task) = tasks.take() {
            let over = results.lock().unwrap_or_else(PoisonError::into_inner).1.is_some();
            if over || bad.contains(&task.segment.path) {
                // Its findings are told already; entries are taken so that the sender goes on.
                while task.more.recv().is_ok() {}
                continue;
            }
            let path = task.segment.path.clone();
            let checked = match task.segment.kind {
                SegmentType::Tar => self.tree_segment(task),
                SegmentType::Stream => self.stream_segment(task),
            };
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            match checked {
                Ok(findings) => results.0.extend(findings),
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    results.0.push(Finding { object: path, problem: error.chain(), costs: None });
                }
                Err(error) => drop(results.1.get_or_insert(error)),
            }
        }
    }
}

/// Where the content of an entry lies, and what is to be found there.
fn places(entry: &Entry) -> Vec<(SegmentRef, u64, u64, Cow<'_, Entry>)> {
    if !entry.layers.is_empty() {
        let place = |member: Entry| {
            let (segment, at) = (member.segment.clone()?, member.at?);
            Some((segment, at.0, at.1, Cow::Owned(member)))
        };
        return entry.members().into_iter().filter_map(place).collect();
    }
    match (&entry.segment, entry.at) {
        (Some(segment), Some(at)) => vec![(segment.clone(), at.0, at.1, Cow::Borrowed(entry))],
        _ => entry
            .parts
            .iter()
            .map(|part| (part.segment.clone(), 0, 0, Cow::Borrowed(entry)))
            .collect(),
    }
}

fn next_entry(entries: &mut Sorted) -> Result<Option<(SegmentRef, Entry)>> {
    let Some(record) = entries.next() else { return Ok(None) };
    let (key, line) = record?;
    let name = key.split(|&b| b == 0).next().unwrap_or_default();
    let reference = SegmentRef::try_from(String::from_utf8_lossy(name).into_owned())?;
    let entry: Entry = serde_json::from_slice(&line)
        .map_err(|error| Error::failed("failed to read back an entry").with_source(error))?;
    Ok(Some((reference, entry)))
}
