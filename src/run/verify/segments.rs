//! One segment: decoded whole, and held against the index.

use std::io::Read;
use std::sync::mpsc::Receiver;

use super::content::{BUDGET, Checker, Task};
use super::report::{Cost, Finding};
use super::stored::altered;
use crate::archive::crypt::DecryptReader;
use crate::archive::digest::{Digest, DigestReader};
use crate::archive::entry::{Entry, EntryType, sort_key};
use crate::archive::frame::FrameReader;
use crate::archive::lists::DeadListReader;
use crate::archive::manifest::Segment;
use crate::archive::member::{self, Member, read_error};
use crate::archive::sort::Sorter;
use crate::error::{Error, ErrorKind, Result};
use crate::run::restore::check_content;
use crate::store::{ObjectReader, layout};

impl Checker<'_> {
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

    pub(super) fn stream_segment(&self, task: Task) -> Result<Vec<Finding>> {
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

    pub(super) fn tree_segment(&self, task: Task) -> Result<Vec<Finding>> {
        let segment = task.segment.clone();
        let mut findings = Vec::new();
        let mut stored = self.open(&segment);
        let mut expected =
            Expected { peeked: None, first: task.first.into_iter(), more: task.more };
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
                // An altered age header looks like a wrong key: the digest tells them apart.
                return if altered || error.kind() == ErrorKind::Damaged {
                    Ok(vec![Finding { object: segment.path, problem, costs: Some(costs) }])
                } else {
                    Err(error)
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
        let mut content = 0u64;
        let older = segment.reference()?.backup != self.manifest.backup;
        loop {
            self.cx.reporter.check()?;
            let (frame, skip) = frames.position().map_err(damaged)?;
            let Some(found) = member::decode(&mut frames, &segment.path)? else { break };
            content = content.saturating_add(found.data);
            let is_here = |e: &Entry| e.at.is_some_and(|at| (at.0, at.1) == (frame, skip));
            let Some(entry) = expected.next_if(is_here) else {
                skip_content(&mut frames, &found).map_err(damaged)?;
                unwanted.push(sort_key(&found.path), found.path)?;
                continue;
            };
            // Owner, permissions and times of a file made of layers are those of its entry.
            let same = if entry.is_layer {
                found.expect(&entry, &segment.path)
            } else {
                found.expect_all(&entry, older, &segment.path)
            };
            let checked = same.and_then(|()| self.content(&mut frames, &entry, &found, segment));
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
        match expected.peek() {
            None => Ok(unwanted),
            Some(entry) => Err(Error::damaged(format!(
                "{} does not have `{}` where the index says",
                segment.path,
                entry.display_path()
            ))),
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
        let compared = self.compare_dead(segment, unwanted, findings);
        match (compared, &segment.dead) {
            // The list alone is damaged: only restoring by hand needs it, and no file is lost.
            (Err(error), Some(dead)) if error.kind() == ErrorKind::Damaged => {
                findings.push(Finding {
                    object: dead.path.clone(),
                    problem: error.chain(),
                    costs: Some(Cost::default()),
                });
                Ok(())
            }
            (compared, _) => compared,
        }
    }

    fn compare_dead(
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

/// Entries of one segment, in order of position. One that was only looked at is still to come:
/// if decoding stops there, it is among what is lost.
struct Expected {
    peeked: Option<Entry>,
    first: std::vec::IntoIter<Entry>,
    more: Receiver<Vec<Entry>>,
}

impl Expected {
    fn peek(&mut self) -> Option<&Entry> {
        if self.peeked.is_none() {
            self.peeked = self.next();
        }
        self.peeked.as_ref()
    }

    fn next_if(&mut self, is_wanted: impl FnOnce(&Entry) -> bool) -> Option<Entry> {
        if is_wanted(self.peek()?) { self.peeked.take() } else { None }
    }
}

impl Iterator for Expected {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        if let Some(entry) = self.peeked.take() {
            return Some(entry);
        }
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
