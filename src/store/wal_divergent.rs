//! WAL that a site wrote after another one became the active one.
//!
//! A server writes a timeline from its beginning to its end, and only one server can: who comes second with
//! another content is refused. So what is divergent is the end of a timeline, and one look at its last
//! segment tells that there is nothing.

use jiff::Timestamp;

use super::wal::{StoredWal, WalStore};
use super::wal_slices::StoredSlice;
use super::{Divergence, layout};
use crate::archive::crypt::Keyring;
use crate::archive::wal::{History, WalHeader, WalSegment};
use crate::error::Result;
use crate::telemetry::Reporter;

impl WalStore {
    /// Marks the divergent end of a timeline, whose files stand in the order of their names.
    pub(super) fn mark_divergent(&self, system_id: u64, files: &mut [StoredWal]) -> Result<()> {
        let mut first: Option<String> = None;
        for file in files.iter().rev().filter(|file| file.name.len() == 24) {
            if self.divergence(system_id, file)?.is_none() {
                break;
            }
            first = Some(file.name.clone());
        }
        let Some(first) = first else { return Ok(()) };
        for file in files {
            let stem = file.name.get(..24).filter(|_| !file.name.ends_with(".history"));
            file.divergent = stem.is_some_and(|stem| stem >= first.as_str());
        }
        Ok(())
    }

    /// Why a file is divergent.
    pub fn divergence(&self, system_id: u64, file: &StoredWal) -> Result<Option<Divergence>> {
        self.divergence_at(&self.key(system_id, &file.name)?, file.stored_at)
    }

    /// Leaves out the divergent end of slices of one segment.
    pub(super) fn without_divergent(
        &self,
        system_id: u64,
        mut slices: Vec<StoredSlice>,
    ) -> Result<Vec<StoredSlice>> {
        slices.sort_by_key(|slice| (slice.stored_at, slice.from));
        while let Some(last) = slices.last() {
            let range = (last.from, last.to);
            let path = layout::wal_slice(system_id, &last.segment, range, self.is_encrypted());
            if self.divergence_at(&self.source().key(&path), last.stored_at)?.is_none() {
                break;
            }
            slices.pop();
        }
        Ok(slices)
    }

    /// Why a file is not to be replayed. What lies before the place where a newer timeline branched off is
    /// the past of that one too, whoever brought it.
    pub fn barred(
        &self,
        system_id: u64,
        name: &str,
        keys: &Keyring,
        reporter: &Reporter,
    ) -> Result<Option<Divergence>> {
        let timeline = name.get(..8).and_then(|text| u32::from_str_radix(text, 16).ok());
        let (Some(timeline), 24) = (timeline, name.len()) else { return Ok(None) };
        // Whenever the store took it: it was written before that.
        let found = self.divergence_at(&self.key(system_id, name)?, Timestamp::MAX)?;
        if found.is_none() {
            return Ok(None);
        }
        for newer in self.timelines(system_id)?.into_iter().filter(|newer| *newer > timeline) {
            let mut text = Vec::new();
            if !self.get(system_id, &format!("{newer:08X}.history"), keys, reporter, &mut text)? {
                continue;
            }
            let history = History::parse(newer, &String::from_utf8_lossy(&text))?;
            let left = history.0.iter().find(|ancestor| ancestor.timeline == timeline);
            let Some(left) = left else { continue };
            let size = self.segment_size(system_id, name, keys, reporter)?;
            let segment = WalSegment::parse(name, size);
            if segment.is_some_and(|segment| segment.start(size).0 + size <= left.end.0) {
                return Ok(None);
            }
        }
        Ok(found)
    }

    /// What the header of a segment says of its size.
    fn segment_size(
        &self,
        system_id: u64,
        name: &str,
        keys: &Keyring,
        reporter: &Reporter,
    ) -> Result<u64> {
        let mut plain = Vec::new();
        self.get(system_id, name, keys, reporter, &mut plain)?;
        Ok(WalHeader::read(&plain).map_or(16 << 20, |head| head.segment_size))
    }
}
