//! What a restore will do, from one pass over the index.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::iter::Peekable;

use super::request::{Failures, Finding, Outcome, Request};
use super::selection::Selection;
use crate::archive::entry::{Entry, EntryType, SegmentRef, is_safe, sort_key};
use crate::archive::index::line_of;
use crate::archive::manifest::Segment;
use crate::archive::sort::{Sorted, Sorter};
use crate::error::{Error, Result};
use crate::run::Context;

const CONTENT_BUDGET: usize = 16 << 20;
const LATE_BUDGET: usize = 4 << 20;

/// Everything that is to be done, in sorters that spill.
pub struct Plan {
    /// Files and slices, by segment and position.
    pub content: Sorter,
    /// Increments over files, by segment and position: those of an older backup come first.
    pub increments: Sorter,
    /// Links and devices, hard links last, by path.
    pub late: Sorter,
    /// Directories and large files whose attributes come last, deepest first.
    pub attributes: Sorter,
    /// Entries and bytes.
    pub files: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Large files that are right already.
    pub kept: u64,
    /// Their bytes.
    pub kept_bytes: u64,
    /// Files that changed while they were backed up.
    pub changed: u64,
    /// Directories.
    pub directories: u64,
    /// Links and devices.
    pub others: u64,
    /// Entries refused by name.
    pub refused: Failures,
}

/// One piece of content to restore.
pub struct Piece {
    /// The entry to restore.
    pub entry: Entry,
    /// The slice of a large file, or the layer of one that is made of layers: its number.
    pub part: Option<usize>,
}

impl Piece {
    /// Where it lies, and its bytes.
    fn place(&self) -> Option<(&SegmentRef, u64)> {
        let Some(part) = self.part else {
            return self.entry.segment.as_ref().map(|segment| (segment, self.entry.size));
        };
        match self.entry.layers.get(part) {
            Some(layer) => Some((&layer.segment, layer.size)),
            None => self.entry.parts.get(part).map(|part| (&part.segment, part.size)),
        }
    }
}

impl Plan {
    fn new() -> Self {
        Self {
            content: Sorter::new(CONTENT_BUDGET),
            increments: Sorter::new(LATE_BUDGET),
            late: Sorter::new(LATE_BUDGET),
            attributes: Sorter::new(LATE_BUDGET),
            files: 0,
            bytes: 0,
            kept: 0,
            kept_bytes: 0,
            changed: 0,
            directories: 0,
            others: 0,
            refused: Failures::default(),
        }
    }

    /// Reads the index and plans. `prepare` is called for directories and large files, in index
    /// order, so that parents exist before what they hold; it says whether content is needed.
    pub fn make(
        request: &Request<'_>,
        cx: &Context,
        prepare: &mut dyn FnMut(&Entry) -> Result<bool>,
    ) -> Result<Self> {
        let mut planner = Planner {
            plan: Self::new(),
            selection: &request.selection,
            ancestors: Vec::new(),
            adopted: HashMap::new(),
            orphans: BTreeSet::new(),
        };
        let reporter = &cx.reporter;
        for entry in request.source.index(request.manifest, &request.keys, reporter)? {
            reporter.check()?;
            planner.entry(entry?, prepare)?;
        }
        if !planner.orphans.is_empty() {
            // Links to large files that are not restored themselves: rare enough for a second look.
            let wanted = std::mem::take(&mut planner.orphans);
            let leaders: BTreeMap<Vec<u8>, Vec<Vec<u8>>> =
                wanted.into_iter().fold(BTreeMap::new(), |mut map, (leader, link)| {
                    map.entry(leader).or_insert_with(Vec::new).push(link);
                    map
                });
            for entry in request.source.index(request.manifest, &request.keys, reporter)? {
                let entry = entry?;
                let Some(links) = leaders.get(&entry.path) else { continue };
                for link in links {
                    let stand_in = Entry { path: link.clone(), ..entry.clone() };
                    planner.file(&stand_in, prepare)?;
                }
            }
        }
        Ok(planner.plan)
    }

    /// Starts the outcome.
    pub fn outcome(&self) -> Outcome {
        Outcome {
            directories: self.directories,
            others: self.others,
            changed: self.changed,
            bytes: self.bytes,
            failed: self.refused.clone(),
            ..Outcome::default()
        }
    }
}

struct Planner<'a> {
    plan: Plan,
    selection: &'a Selection,
    /// Directories above the current entry that were not selected themselves.
    ancestors: Vec<Entry>,
    /// For links whose first name is not restored: the link that took its place.
    adopted: HashMap<Vec<u8>, Vec<u8>>,
    /// Links to large files that are not restored: first name and link.
    orphans: BTreeSet<(Vec<u8>, Vec<u8>)>,
}

impl Planner<'_> {
    fn entry(
        &mut self,
        entry: Entry,
        prepare: &mut dyn FnMut(&Entry) -> Result<bool>,
    ) -> Result<()> {
        self.ancestors.retain(|above| is_above(&above.path, &entry.path));
        if !self.selection.contains(&entry.path) {
            if entry.kind == EntryType::Dir {
                self.ancestors.push(entry);
            }
            return Ok(());
        }
        if !is_safe(&entry.path) {
            self.refuse(&entry, "its path would lead out of the target");
            return Ok(());
        }
        // Selected for the first time below these: they come back as they were.
        for above in std::mem::take(&mut self.ancestors) {
            if is_safe(&above.path) {
                self.directory(&above, prepare)?;
            }
        }
        match entry.kind {
            EntryType::Dir => self.directory(&entry, prepare),
            EntryType::File | EntryType::Stream => self.file(&entry, prepare),
            EntryType::Hardlink => self.hardlink(entry),
            EntryType::Symlink | EntryType::Char | EntryType::Block => {
                self.plan.others += 1;
                let mut key = vec![0];
                key.extend(sort_key(&entry.path));
                self.plan.late.push(key, line_of(&entry)?)
            }
        }
    }

    fn refuse(&mut self, entry: &Entry, why: &str) {
        self.plan.refused.push(Finding {
            path: entry.display_path(),
            message: why.to_owned(),
            damage: true,
        });
    }

    fn directory(
        &mut self,
        entry: &Entry,
        prepare: &mut dyn FnMut(&Entry) -> Result<bool>,
    ) -> Result<()> {
        self.plan.directories += 1;
        if let Err(error) = prepare(entry) {
            self.plan.refused.push(failed(entry, &error));
            return Ok(());
        }
        self.push_attributes(entry)
    }

    /// Deepest first: a directory that may not be written to is closed after what is below it.
    fn push_attributes(&mut self, entry: &Entry) -> Result<()> {
        let depth =
            entry.path.split(|b| *b == b'/').count() as u32 - 1 + u32::from(entry.path != b".");
        let mut key = (u32::MAX - depth).to_be_bytes().to_vec();
        key.extend(sort_key(&entry.path));
        self.plan.attributes.push(key, line_of(entry)?)
    }

    fn file(
        &mut self,
        entry: &Entry,
        prepare: &mut dyn FnMut(&Entry) -> Result<bool>,
    ) -> Result<()> {
        self.plan.files += 1;
        self.plan.changed += u64::from(entry.changed);
        self.plan.bytes = self.plan.bytes.saturating_add(entry.size);
        if entry.parts.is_empty() && entry.layers.is_empty() {
            return self.content(entry);
        }
        let parts = entry.parts.iter().try_fold(0u64, |sum, part| sum.checked_add(part.size));
        if entry.layers.is_empty() && parts != Some(entry.size) {
            self.refuse(entry, "its slices do not add up to its size");
            return Ok(());
        }
        match prepare(entry) {
            Ok(true) => {}
            Ok(false) => {
                self.plan.kept += 1;
                self.plan.kept_bytes = self.plan.kept_bytes.saturating_add(entry.size);
                self.plan.files -= 1;
                return Ok(());
            }
            Err(error) => {
                self.plan.refused.push(failed(entry, &error));
                return Ok(());
            }
        }
        for (number, part) in entry.parts.iter().enumerate() {
            let key = position_key(&part.segment, 0, 0);
            let mut value = (number as u32 + 1).to_be_bytes().to_vec();
            value.extend(line_of(entry)?);
            self.plan.content.push(key, value)?;
        }
        for (number, layer) in entry.layers.iter().enumerate() {
            let key = position_key(&layer.segment, layer.at.0, layer.at.1);
            let mut value = (number as u32 + 1).to_be_bytes().to_vec();
            value.extend(line_of(entry)?);
            let below = number == 0;
            let pieces = if below { &mut self.plan.content } else { &mut self.plan.increments };
            pieces.push(key, value)?;
        }
        self.push_attributes(entry)
    }

    fn content(&mut self, entry: &Entry) -> Result<()> {
        let at = if entry.kind == EntryType::Hardlink { entry.leader_at } else { entry.at };
        let (Some(segment), Some(at)) = (&entry.segment, at) else {
            self.refuse(entry, "the index does not say where its content lies");
            return Ok(());
        };
        let mut value = 0u32.to_be_bytes().to_vec();
        value.extend(line_of(entry)?);
        self.plan.content.push(position_key(segment, at.0, at.1), value)
    }

    fn hardlink(&mut self, entry: Entry) -> Result<()> {
        let Some(leader) = entry.hardlink.clone() else {
            self.refuse(&entry, "a hard link to nothing");
            return Ok(());
        };
        if !is_safe(&leader) {
            self.refuse(&entry, "a hard link that would lead out of the target");
            return Ok(());
        }
        if !self.selection.contains(&leader) {
            if let Some(stand_in) = self.adopted.get(&leader) {
                let link = Entry { hardlink: Some(stand_in.clone()), ..entry };
                return self.link(&link);
            }
            if entry.leader_at.is_none() {
                self.orphans.insert((leader, entry.path));
                return Ok(());
            }
            self.adopted.insert(leader, entry.path.clone());
            self.plan.files += 1;
            self.plan.bytes = self.plan.bytes.saturating_add(entry.size);
            return self.content(&entry);
        }
        self.link(&entry)
    }

    fn link(&mut self, entry: &Entry) -> Result<()> {
        self.plan.others += 1;
        let mut key = vec![1];
        key.extend(sort_key(&entry.path));
        self.plan.late.push(key, line_of(entry)?)
    }
}

/// A finding from an error.
pub fn failed(entry: &Entry, error: &Error) -> Finding {
    Finding {
        path: entry.display_path(),
        message: error.chain(),
        damage: error.kind() == crate::error::ErrorKind::Damaged,
    }
}

fn is_above(above: &[u8], path: &[u8]) -> bool {
    above == b"." || path.strip_prefix(above).is_some_and(|rest| rest.first() == Some(&b'/'))
}

fn position_key(segment: &SegmentRef, frame: u64, skip: u64) -> Vec<u8> {
    let mut key = segment.to_string().into_bytes();
    key.push(0);
    key.extend_from_slice(&frame.to_be_bytes());
    key.extend_from_slice(&skip.to_be_bytes());
    key
}

/// The pieces of one segment that go to one worker.
pub struct Batch {
    /// The segment.
    pub segment: Segment,
    /// In order of position.
    pub pieces: Vec<Piece>,
}

/// Bytes of content, and pieces, after which a batch ends.
const BATCH_BYTES: u64 = 32 << 20;
const BATCH_PIECES: usize = 1024;

/// What is left of a plan, in order of position.
pub type Pieces = Peekable<Sorted>;

/// The backup that wrote what comes next.
pub fn next_writer(pieces: &mut Pieces) -> Option<Vec<u8>> {
    match pieces.peek()? {
        Ok((key, _)) => Some(key.split(|&b| b == b'/').next().unwrap_or_default().to_vec()),
        // Whoever takes it learns of it.
        Err(_) => Some(Vec::new()),
    }
}

/// Hands out batches in the order of the plan; with `of`, only what this backup wrote.
pub fn batches(
    pieces: &mut Pieces,
    of: Option<&[u8]>,
    segments: &BTreeMap<SegmentRef, &Segment>,
    send: &mut dyn FnMut(Batch) -> Result<()>,
) -> Result<()> {
    let mut open: Option<(SegmentRef, Batch, u64)> = None;
    while of.is_none() || next_writer(pieces).as_deref() == of {
        let Some(record) = pieces.next() else { break };
        let (_, value) = record?;
        let Some((number, line)) = value.split_first_chunk::<4>() else { continue };
        let entry: Entry = serde_json::from_slice(line)
            .map_err(|error| Error::failed("failed to read back an entry").with_source(error))?;
        let part = (u32::from_be_bytes(*number) as usize).checked_sub(1);
        let piece = Piece { entry, part };
        let (reference, bytes) = piece
            .place()
            .map(|(reference, bytes)| (reference.clone(), bytes))
            .ok_or_else(|| Error::failed("a piece without a place"))?;
        let full = open.as_ref().is_some_and(|(current, batch, bytes)| {
            *current != reference || *bytes > BATCH_BYTES || batch.pieces.len() >= BATCH_PIECES
        });
        if full && let Some((_, batch, _)) = open.take() {
            send(batch)?;
        }
        if let Some((_, batch, sum)) = &mut open {
            *sum = sum.saturating_add(bytes);
            batch.pieces.push(piece);
        } else {
            let segment = segments.get(&reference).ok_or_else(|| {
                Error::damaged(format!(
                    "the index refers to segment {reference}, which the manifest does not name"
                ))
            })?;
            let batch = Batch { segment: (*segment).clone(), pieces: vec![piece] };
            open = Some((reference, batch, bytes));
        }
    }
    open.map_or(Ok(()), |(_, batch, _)| send(batch))
}
