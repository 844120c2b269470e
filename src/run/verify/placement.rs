//! Whether every entry lies where the format lets it lie (docs/format.md §6.7, §6.8, §7, §8.3).
//! Restoring by hand depends on it: a directory in an early segment would be closed too soon.

use std::collections::BTreeMap;

use super::report::{Cost, Finding};
use crate::archive::entry::{Entry, EntryType, SegmentRef, display_path, sort_key};
use crate::archive::index::line_of;
use crate::archive::manifest::{Form, Manifest, SegmentType};
use crate::archive::sort::Sorter;
use crate::error::{Error, Result};

const BUDGET: usize = 4 << 20;

/// Takes the entries of an index in order, and says afterwards what lies where it may not.
pub struct Placement {
    form: Form,
    index: String,
    kinds: BTreeMap<SegmentRef, SegmentType>,
    last: Option<SegmentRef>,
    /// What is wrong, with the entries that it is wrong with.
    wrong: BTreeMap<&'static str, Cost>,
    /// Hard links, by the path of their leader; none in most backups.
    links: Option<Sorter>,
}

impl Placement {
    /// Begins with the index of this backup.
    pub fn of(manifest: &Manifest) -> Result<Self> {
        let mut kinds = BTreeMap::new();
        let mut last = None;
        for segment in &manifest.segments {
            let reference = segment.reference()?;
            if segment.kind == SegmentType::Tar {
                last = Some(reference.clone());
            }
            kinds.insert(reference, segment.kind);
        }
        let index = manifest.index.path.clone();
        Ok(Self { form: manifest.form, index, kinds, last, wrong: BTreeMap::new(), links: None })
    }

    /// Adds an entry.
    pub fn add(&mut self, entry: &Entry) -> Result<()> {
        if let Some(problem) = self.problem(entry) {
            self.wrong.entry(problem).or_default().add(entry.display_path());
        }
        if let (EntryType::Hardlink, Some(leader)) = (entry.kind, &entry.hardlink) {
            let links = self.links.get_or_insert_with(|| Sorter::new(BUDGET));
            links.push(sort_key(leader), line_of(entry)?)?;
        }
        Ok(())
    }

    fn problem(&self, entry: &Entry) -> Option<&'static str> {
        let is = |place: &SegmentRef, kind| self.kinds.get(place) == Some(&kind);
        let in_last = entry.segment.is_some() && entry.segment == self.last;
        if (entry.kind == EntryType::Stream) != (self.form == Form::Stream) {
            return Some("has a stream among files, or a file in place of a stream");
        }
        if entry.segment.is_some() && entry.is_large() {
            return Some("says of one entry both `in` and `parts`");
        }
        if entry.segment.as_ref().is_some_and(|place| !is(place, SegmentType::Tar)) {
            return Some("looks for an entry of an archive in a segment that is none");
        }
        if entry.parts.iter().any(|part| !is(&part.segment, SegmentType::Stream)) {
            return Some("looks for a slice in a segment that is an archive");
        }
        if entry.is_large() && !entry.has_content() {
            return Some("has slices of what is no file");
        }
        let layer_is_wrong =
            |place: &SegmentRef| !is(place, SegmentType::Tar) || Some(place) == self.last.as_ref();
        if entry.layers.iter().any(|layer| layer_is_wrong(&layer.segment)) {
            return Some("looks for a layer of a file where none can be");
        }
        if !entry.layers.is_empty() && (entry.segment.is_some() || entry.is_large()) {
            return Some("says of one entry both `layers` and where it lies");
        }
        if entry.kind == EntryType::Dir && !in_last {
            return Some("has a directory that is not in the last segment");
        }
        if entry.segment.is_some() && entry.is_awkward() && !in_last {
            return Some("has a name that no list can hold outside of the last segment");
        }
        if entry.kind == EntryType::Hardlink && entry.hardlink.is_none() {
            return Some("has a hard link to nothing");
        }
        if entry.kind == EntryType::Hardlink && entry.leader_at.is_none() && !in_last {
            return Some("has a link to a large file that is not in the last segment");
        }
        None
    }

    /// What is wrong. The index is read once more if it has hard links.
    pub fn finish<I: Iterator<Item = Result<Entry>>>(
        mut self,
        index: impl FnOnce() -> Result<I>,
    ) -> Result<Vec<Finding>> {
        if let Some(links) = self.links.take() {
            self.leaders(links, index()?)?;
        }
        let object = self.index;
        let finding = |(problem, costs): (&str, Cost)| Finding {
            object: object.clone(),
            problem: problem.to_owned(),
            costs: Some(costs),
        };
        Ok(self.wrong.into_iter().map(finding).collect())
    }

    /// Both are in the order of the index, so that each is walked once.
    fn leaders(
        &mut self,
        links: Sorter,
        mut index: impl Iterator<Item = Result<Entry>>,
    ) -> Result<()> {
        let mut at: Option<Entry> = index.next().transpose()?;
        for record in links.finish()? {
            let (leader, line) = record?;
            let link: Entry = serde_json::from_slice(&line).map_err(|error| {
                Error::failed("failed to read back an entry").with_source(error)
            })?;
            while at.as_ref().is_some_and(|entry| sort_key(&entry.path) < leader) {
                at = index.next().transpose()?;
            }
            let found = at.as_ref().filter(|entry| sort_key(&entry.path) == leader);
            if !found.is_some_and(|found| leads(found, &link)) {
                let first = link.hardlink.as_deref().map(display_path).unwrap_or_default();
                let costs = self.wrong.entry("has a hard link without its file").or_default();
                costs.add(format!("{} -> {first}", link.display_path()));
            }
        }
        Ok(())
    }
}

/// Whether the file is the leader that the link says it has.
fn leads(file: &Entry, link: &Entry) -> bool {
    let placed = if file.is_large() {
        link.leader_at.is_none()
    } else {
        link.leader_at == file.at
            && link.segment == file.segment
            && sort_key(&file.path) < sort_key(&link.path)
    };
    file.kind == EntryType::File && placed && file.sha256 == link.sha256 && file.size == link.size
}
