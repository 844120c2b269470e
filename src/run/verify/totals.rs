//! What the manifest counts and what the large list names, against the index.

use std::collections::BTreeMap;

use super::report::Finding;
use crate::archive::digest::Digest;
use crate::archive::entry::{Entry, EntryType, SegmentRef};
use crate::archive::layer::Layer;
use crate::archive::lists::large_lines;
use crate::archive::manifest::{Counts, Form, Manifest};
use crate::error::Result;

/// Sums over the entries of an index.
#[derive(Default)]
pub struct Totals {
    counts: Counts,
    live: BTreeMap<SegmentRef, u64>,
    large: Option<Digest>,
    layered: u64,
}

impl Totals {
    /// Adds an entry; entries come in the order of the index.
    pub fn add(&mut self, entry: &Entry, manifest: &Manifest) {
        let counts = &mut self.counts;
        match entry.kind {
            EntryType::File | EntryType::Stream => {
                counts.files += 1;
                counts.bytes = counts.bytes.saturating_add(entry.size);
                let place = entry.segment.as_ref().or(entry.parts.first().map(|p| &p.segment));
                if place.is_some_and(|place| place.backup == manifest.backup) {
                    counts.new_files += 1;
                    counts.new_bytes = counts.new_bytes.saturating_add(entry.size);
                }
                let own = |layer: &&Layer| layer.segment.backup == manifest.backup;
                let mut layers = entry.layers.iter().filter(own).peekable();
                counts.new_files += u64::from(layers.peek().is_some());
                for layer in layers {
                    counts.new_bytes = counts.new_bytes.saturating_add(layer.size);
                }
            }
            EntryType::Dir => counts.directories += 1,
            EntryType::Symlink => counts.symlinks += 1,
            EntryType::Hardlink => counts.hardlinks += 1,
            EntryType::Char | EntryType::Block => counts.devices += 1,
        }
        counts.changed += u64::from(entry.changed);
        self.layered += u64::from(!entry.layers.is_empty());
        if let Some(segment) = &entry.segment {
            let data = match (entry.kind, &entry.sparse) {
                (EntryType::File, Some(extents)) => {
                    extents.iter().fold(0, |sum: u64, extent| sum.saturating_add(extent.1))
                }
                (EntryType::File, None) => entry.size,
                _ => 0,
            };
            let live = self.live.entry(segment.clone()).or_default();
            *live = live.saturating_add(data);
        }
        for layer in &entry.layers {
            let live = self.live.entry(layer.segment.clone()).or_default();
            *live = live.saturating_add(layer.size);
        }
        for part in &entry.parts {
            let live = self.live.entry(part.segment.clone()).or_default();
            *live = live.saturating_add(part.size);
        }
        if entry.is_large() && manifest.form == Form::Tree {
            self.large.get_or_insert_default().update(&large_lines(entry));
        }
    }

    /// The digest of the large list as it should be, if there should be one.
    pub fn large(&mut self) -> Option<String> {
        self.large.take().map(Digest::finish_hex)
    }

    /// What the manifest says otherwise.
    pub fn compare(&self, manifest: &Manifest) -> Result<Vec<Finding>> {
        let mut wrong = Vec::new();
        let (found, said) = (&self.counts, &manifest.counts);
        let own = format!("data/{}/", manifest.backup);
        let stored = manifest
            .objects()
            .filter(|(path, _, _)| path.starts_with(&own) && *path != manifest.sums.path)
            .filter(|(path, _, _)| manifest.beside().all(|object| object.path != *path))
            .fold(0, |sum: u64, (_, size, _)| sum.saturating_add(size));
        for (what, found, said) in [
            ("files", found.files, said.files),
            ("directories", found.directories, said.directories),
            ("symlinks", found.symlinks, said.symlinks),
            ("hardlinks", found.hardlinks, said.hardlinks),
            ("devices", found.devices, said.devices),
            ("bytes", found.bytes, said.bytes),
            ("changed", found.changed, said.changed),
            ("new_files", found.new_files, said.new_files),
            ("new_bytes", found.new_bytes, said.new_bytes),
            ("stored_bytes", stored, said.stored_bytes),
        ] {
            if found != said {
                wrong.push(format!("says `{what}` is {said} and the index has {found}"));
            }
        }
        if let Some(cluster) = manifest.cluster.as_ref().filter(|c| c.layered != self.layered) {
            wrong.push(format!(
                "says that {} files are made of layers, and the index has {}",
                cluster.layered, self.layered
            ));
        }
        for segment in &manifest.segments {
            let live = self.live.get(&segment.reference()?).copied().unwrap_or_default();
            if live != segment.live {
                wrong.push(format!(
                    "says that {} bytes of {} are wanted, and the index wants {live}",
                    segment.live, segment.path
                ));
            }
        }
        let object = format!("commits/{}.json", manifest.backup);
        let finding = |problem| Finding { object: object.clone(), problem, costs: None };
        Ok(wrong.into_iter().map(finding).collect())
    }
}
