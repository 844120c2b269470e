//! Everything decrypts and decodes, every file has its digest, archive and index agree.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, PoisonError};

use super::report::{Cost, Finding, Report};
use super::stored::altered;
use super::sums::check_sums;
use super::totals::Totals;
use crate::archive::crypt::{DecryptReader, Keyring};
use crate::archive::digest::{Digest, DigestReader};
use crate::archive::entry::{Entry, EntryType, SegmentRef, sort_key};
use crate::archive::frame::FrameReader;
use crate::archive::lists::DeadListReader;
use crate::archive::manifest::{Manifest, Segment, SegmentType};
use crate::archive::member::{self, Member, read_error};
use crate::archive::sort::{Sorted, Sorter};
use crate::error::{Error, ErrorKind, Result};
use crate::run::Context;
use crate::run::restore::check_content;
use crate::store::{ObjectReader, SourceStore, layout};

/// Entries of one segment handed over at once; more follow as they are wanted.
const AT_ONCE: usize = 10_000;
const CHUNK: usize = 1024;
const BUDGET: usize = 12 << 20;

/// Reads everything and adds what is wrong to the report.
pub fn check(
    source: &SourceStore,
    manifest: &Manifest,
    keys: &Keyring,
    cx: &Context,
    report: &mut Report,
) -> Result<()> {
    check_sums(source, manifest, cx, report)?;
    if report.findings.iter().any(|finding| finding.object == manifest.index.path) {
        return Ok(());
    }
    let checker = Checker { source, manifest, keys, cx };
    let mut totals = Totals::default();
    let (sorter, bytes) = match checker.sort_index(&mut totals, report) {
        Ok(Some(sorted)) => sorted,
        Ok(None) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::Damaged => {
            let object = manifest.index.path.clone();
            report.findings.push(Finding { object, problem: error.chain(), costs: None });
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    cx.reporter.progress().expect(report.entries, bytes);
    report.findings.extend(totals.compare(manifest)?);
    checker.check_lists(report)?;
    checker.check_large(totals.large(), report)?;
    checker.check_segments(sorter, report)
}

struct Checker<'a> {
    source: &'a SourceStore,
    manifest: &'a Manifest,
    keys: &'a Keyring,
    cx: &'a Context,
}

/// One segment to check.
struct Task {
    segment: Segment,
    first: Vec<Entry>,
    more: Receiver<Vec<Entry>>,
}

impl Checker<'_> {
    /// Reads the index, which checks it, and sorts entries by where they lie.
    fn sort_index(
        &self,
        totals: &mut Totals,
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
                report.entries += 1;
                bytes = entry.size.saturating_add(bytes);
                totals.add(&entry, self.manifest);
                let line = crate::archive::index::line_of(&entry)?;
                let places: Vec<(&SegmentRef, u64, u64)> = match (&entry.segment, entry.at) {
                    (Some(segment), Some(at)) => vec![(segment, at.0, at.1)],
                    _ => entry.parts.iter().map(|part| (&part.segment, 0, 0)).collect(),
                };
                if places.is_empty() {
                    return Err(Error::damaged(format!(
                        "{} has no place for `{}`",
                        index.path,
                        entry.display_path()
                    )));
                }
                for (segment, frame, skip) in places {
                    if !known.contains_key(segment) {
                        return Err(Error::damaged(format!(
                            "{} refers to segment {segment}, which the manifest does not name",
                            index.path
                        )));
                    }
                    let mut key = segment.to_string().into_bytes();
                    key.push(0);
                    key.extend_from_slice(&frame.to_be_bytes());
                    key.extend_from_slice(&skip.to_be_bytes());
                    sorter.push(key, line.clone())?;
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

    /// Large and dead lists: their stored bytes. What dead lists say is checked with segments.
    fn check_lists(&self, report: &mut Report) -> Result<()> {
        let lists = self
            .manifest
            .large
            .iter()
            .chain(self.manifest.segments.iter().filter_map(|s| s.dead.as_ref()));
        for list in lists {
            if report.findings.iter().any(|finding| finding.object == list.path) {
                continue;
            }
            let object = self.source.open(&list.path, list.size, &self.cx.reporter).whole();
            match DigestReader::new(object).finish() {
                Ok((_, digest)) if digest.clone().finish_hex() == list.sha256 => {}
                Ok(_) => report.findings.push(altered(&list.path)),
                Err(error) => match read_error(error, &list.path) {
                    error if error.kind() == ErrorKind::Damaged => report.findings.push(Finding {
                        object: list.path.clone(),
                        problem: error.chain(),
                        costs: None,
                    }),
                    error => return Err(error),
                },
            }
        }
        Ok(())
    }

    /// The large list says of slices what the index says.
    fn check_large(&self, expected: Option<String>, report: &mut Report) -> Result<()> {
        let index = || self.manifest.index.path.clone();
        let (object, same) = match (&self.manifest.large, expected) {
            (None, None) => return Ok(()),
            (None, Some(_)) => (index(), false),
            (Some(list), None) => (list.path.clone(), false),
            (Some(list), _) if report.findings.iter().any(|f| f.object == list.path) => {
                return Ok(());
            }
            (Some(list), Some(expected)) => {
                let reporter = &self.cx.reporter;
                let plain = self.source.open_plain(&list.path, list.size, self.keys, reporter)?;
                let damaged = |error| read_error(error, &list.path);
                let mut digest = DigestReader::new(FrameReader::new(plain, 0).map_err(damaged)?);
                std::io::copy(&mut digest, &mut std::io::sink()).map_err(damaged)?;
                let (_, digest) = digest.finish().map_err(damaged)?;
                (list.path.clone(), digest.finish_hex() == expected)
            }
        };
        if !same {
            let problem = "large list and index name other slices".to_owned();
            report.findings.push(Finding { object, problem, costs: None });
        }
        Ok(())
    }

    fn check_segments(&self, sorter: Sorter, report: &mut Report) -> Result<()> {
        let bad: BTreeSet<String> =
            report.findings.iter().map(|finding| finding.object.clone()).collect();
        let (send, receive) = sync_channel::<Task>(0);
        let receive = Mutex::new(receive);
        let results: Mutex<(Vec<Finding>, Option<Error>)> = Mutex::default();
        let fed = std::thread::scope(|scope| {
            for _ in 0..self.cx.tuning.workers {
                scope.spawn(|| self.work(&receive, &results, &bad));
            }
            let send = send;
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
        tasks: &Mutex<Receiver<Task>>,
        results: &Mutex<(Vec<Finding>, Option<Error>)>,
        bad: &BTreeSet<String>,
    ) {
        loop {
            let task = tasks.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(task) = task else { return };
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

    fn open(&self, segment: &Segment) -> DigestReader<ObjectReader> {
        let object = self.source.open(&segment.path, segment.size, &self.cx.reporter).whole();
        DigestReader::new(object)
    }

    /// Ends reading: whatever was not decoded is read too, and all of it has its digest.
    fn close(
        stored: DigestReader<ObjectReader>,
        segment: &Segment,
        findings: &mut Vec<Finding>,
    ) -> Result<()> {
        let (_, digest) = stored.finish().map_err(|error| read_error(error, &segment.path))?;
        if digest.finish_hex() != segment.sha256 {
            findings.insert(0, altered(&segment.path));
        }
        Ok(())
    }

    fn stream_segment(&self, task: Task) -> Result<Vec<Finding>> {
        let Task { segment, first, more } = task;
        while more.recv().is_ok() {}
        let mut findings = Vec::new();
        let mut stored = self.open(&segment);
        let decoded = self.digest_stream(&mut stored, &segment);
        Self::close(stored, &segment, &mut findings)?;
        let reference = segment.reference()?;
        let (bytes, digest) = match decoded {
            Ok(decoded) => decoded,
            // The altered bytes say it all.
            Err(_) if !findings.is_empty() => return Ok(findings),
            Err(error) => return Err(error),
        };
        let wrong = first
            .iter()
            .flat_map(|entry| entry.parts.iter().map(move |p| (entry, p)))
            .find(|(_, part)| {
                part.segment == reference && (part.size != bytes || part.sha256 != digest)
            });
        let said = [segment.plain, segment.content];
        if findings.is_empty() && said != [bytes; 2] {
            findings.push(miscounted(&segment));
        }
        if let (Some((entry, _)), true) = (wrong, findings.is_empty()) {
            let mut costs = Cost::default();
            costs.add(entry.display_path());
            findings.push(Finding {
                object: segment.path.clone(),
                problem: "does not have the content the index says".to_owned(),
                costs: Some(costs),
            });
        }
        Ok(findings)
    }

    fn digest_stream(
        &self,
        stored: &mut DigestReader<ObjectReader>,
        segment: &Segment,
    ) -> Result<(u64, String)> {
        let encrypted = layout::is_encrypted(&segment.path);
        let plain = DecryptReader::open(stored, encrypted, self.keys, &segment.path)?;
        let damaged = |error| read_error(error, &segment.path);
        let mut frames = FrameReader::new(plain, 0).map_err(damaged)?;
        let mut digest = Digest::default();
        let mut buffer = vec![0; 256 << 10];
        loop {
            let read = frames.read(&mut buffer).map_err(damaged)?;
            if read == 0 {
                return Ok((digest.bytes(), digest.finish_hex()));
            }
            digest.update(&buffer[..read]);
            self.cx.reporter.progress().add_bytes(read as u64);
        }
    }

    fn tree_segment(&self, task: Task) -> Result<Vec<Finding>> {
        let segment = task.segment.clone();
        let mut findings = Vec::new();
        let mut stored = self.open(&segment);
        let mut expected = Expected { first: task.first.into_iter(), more: task.more };
        let unwanted = self.members(&mut stored, &segment, &mut expected, &mut findings);
        Self::close(stored, &segment, &mut findings)?;
        let altered =
            findings.first().is_some_and(|finding| finding.problem.starts_with("was alt"));
        match unwanted {
            Ok(unwanted) => self.check_dead(&segment, unwanted, &mut findings)?,
            Err(error) => {
                let problem = if altered { findings.remove(0).problem } else { error.chain() };
                // From where decoding stopped on nothing was proven.
                let mut costs = Cost::default();
                findings
                    .iter()
                    .filter_map(|f| f.costs.as_ref())
                    .flat_map(|c| &c.paths)
                    .for_each(|path| costs.add(path.clone()));
                expected.for_each(|entry| costs.add(entry.display_path()));
                return match error.kind() {
                    ErrorKind::Damaged => {
                        Ok(vec![Finding { object: segment.path, problem, costs: Some(costs) }])
                    }
                    _ => Err(error),
                };
            }
        }
        Ok(findings)
    }

    /// Goes through all members. Those the index wants are checked; the others' names come back.
    fn members(
        &self,
        stored: &mut DigestReader<ObjectReader>,
        segment: &Segment,
        expected: &mut Expected,
        findings: &mut Vec<Finding>,
    ) -> Result<Sorter> {
        let encrypted = layout::is_encrypted(&segment.path);
        let plain = DecryptReader::open(stored, encrypted, self.keys, &segment.path)?;
        let damaged = |error| read_error(error, &segment.path);
        let mut frames = FrameReader::new(plain, 0).map_err(damaged)?;
        let mut unwanted = Sorter::new(BUDGET / 4);
        let mut next = expected.next();
        let mut content = 0u64;
        let older = segment.reference()?.backup != self.manifest.backup;
        loop {
            self.cx.reporter.check()?;
            let (frame, skip) = frames.position().map_err(damaged)?;
            let Some(found) = member::decode(&mut frames, &segment.path)? else { break };
            content = content.saturating_add(found.data);
            let wanted = next.take_if(|e| e.at.is_some_and(|at| (at.0, at.1) == (frame, skip)));
            let Some(entry) = wanted else {
                skip_content(&mut frames, &found).map_err(damaged)?;
                unwanted.push(sort_key(&found.path), found.path)?;
                continue;
            };
            next = expected.next();
            let checked = found
                .expect_all(&entry, older, &segment.path)
                .and_then(|()| self.content(&mut frames, &entry, &found, segment));
            if let Err(error) = checked {
                if error.kind() != ErrorKind::Damaged {
                    return Err(error);
                }
                let mut costs = Cost::default();
                costs.add(entry.display_path());
                findings.push(Finding {
                    object: segment.path.clone(),
                    problem: error.chain(),
                    costs: Some(costs),
                });
            }
            self.cx.reporter.progress().add_file();
        }
        // After the archive's end there is nothing but zeros.
        let mut rest = vec![0; 64 << 10];
        loop {
            let read = frames.read(&mut rest).map_err(damaged)?;
            if read == 0 {
                break;
            }
            if frames.plain() > segment.plain {
                return Err(Error::damaged(format!(
                    "{} has more in it than the manifest says",
                    segment.path
                )));
            }
            if rest[..read].iter().any(|&b| b != 0) {
                return Err(Error::damaged(format!("{} goes on after its end", segment.path)));
            }
        }
        if [frames.plain(), content] != [segment.plain, segment.content] {
            findings.push(miscounted(segment));
        }
        match next {
            None => Ok(unwanted),
            Some(entry) => {
                let path = entry.display_path();
                expected.first = std::iter::once(entry)
                    .chain(&mut expected.first)
                    .collect::<Vec<_>>()
                    .into_iter();
                Err(Error::damaged(format!(
                    "{} does not have `{path}` where the index says",
                    segment.path
                )))
            }
        }
    }

    fn content(
        &self,
        frames: &mut dyn Read,
        entry: &Entry,
        found: &Member,
        segment: &Segment,
    ) -> Result<()> {
        let mut digest = Digest::default();
        let mut value = entry.fingerprint.is_some().then(Vec::new);
        let mut buffer = vec![0; (64 << 10).min(found.data.max(1) as usize)];
        let whole = [(0, found.size)];
        let mut logical = 0;
        if found.kind == EntryType::File {
            for &(offset, length) in found.sparse.as_deref().unwrap_or(&whole) {
                digest.update_zeros(offset.saturating_sub(logical));
                let mut left = length;
                while left > 0 {
                    let want = left.min(buffer.len() as u64) as usize;
                    frames
                        .read_exact(&mut buffer[..want])
                        .map_err(|error| read_error(error, &segment.path))?;
                    digest.update(&buffer[..want]);
                    if let Some(value) = &mut value {
                        value.extend_from_slice(&buffer[..want]);
                    }
                    left -= want as u64;
                }
                logical = offset + length;
            }
            digest.update_zeros(found.size.saturating_sub(logical));
            skip(frames, member::padding(found.data))
                .map_err(|error| read_error(error, &segment.path))?;
            self.cx.reporter.progress().add_bytes(entry.size);
            return check_content(entry, digest, value.as_deref());
        }
        Ok(())
    }

    /// Members that the index does not want are exactly those on the dead list.
    fn check_dead(
        &self,
        segment: &Segment,
        unwanted: Sorter,
        findings: &mut Vec<Finding>,
    ) -> Result<()> {
        let mut found = unwanted.finish()?;
        let mut listed: Box<dyn Iterator<Item = Result<Vec<u8>>>> = match &segment.dead {
            None => Box::new(std::iter::empty()),
            Some(dead) => {
                let reporter = &self.cx.reporter;
                let plain = self.source.open_plain(&dead.path, dead.size, self.keys, reporter)?;
                Box::new(DeadListReader::new(plain, &dead.path)?)
            }
        };
        loop {
            let found = found.next().transpose()?.map(|(_, path)| path);
            let listed = listed.next().transpose()?;
            if found != listed {
                let name = found.or(listed).unwrap_or_default();
                let object = segment.dead.as_ref().map_or(&segment.path, |dead| &dead.path);
                findings.push(Finding {
                    object: object.clone(),
                    problem: format!(
                        "does not name exactly what is not wanted of {}: see `{}`",
                        segment.path,
                        crate::archive::entry::display_path(&name)
                    ),
                    costs: Some(Cost::default()),
                });
                return Ok(());
            }
            if found.is_none() {
                return Ok(());
            }
        }
    }
}

/// Entries of one segment, in order of position.
struct Expected {
    first: std::vec::IntoIter<Entry>,
    more: Receiver<Vec<Entry>>,
}

impl Iterator for Expected {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        loop {
            if let Some(entry) = self.first.next() {
                return Some(entry);
            }
            self.first = self.more.recv().ok()?.into_iter();
        }
    }
}

fn miscounted(segment: &Segment) -> Finding {
    Finding {
        object: segment.path.clone(),
        problem: "has another length than the manifest says".to_owned(),
        costs: Some(Cost::default()),
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

fn skip_content(input: &mut dyn Read, member: &Member) -> std::io::Result<()> {
    if member.kind != EntryType::File {
        return Ok(());
    }
    skip(input, member.data + member::padding(member.data))
}

fn skip(input: &mut dyn Read, bytes: u64) -> std::io::Result<()> {
    let skipped = std::io::copy(&mut input.take(bytes), &mut std::io::sink())?;
    if skipped == bytes { Ok(()) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
}
