//! What a base has and a new backup does not want, where the two were not walked side by side:
//! found when the new index is written, in its order.

use super::base::BaseIndex;
use crate::archive::entry::{Entry, EntryType, SegmentRef, compare, sort_key};
use crate::archive::sort::Sorter;
use crate::error::Result;

/// Adds a name that is not wanted of a segment any more.
pub fn bury(dead: &mut Sorter, segment: &SegmentRef, path: &[u8]) -> Result<()> {
    let mut key = segment.to_string().into_bytes();
    key.push(0);
    key.extend(sort_key(path));
    dead.push(key, path.to_vec())
}

/// Goes along a base's index.
pub struct Buried<'a> {
    index: BaseIndex,
    next: Option<Entry>,
    dead: &'a mut Sorter,
}

impl<'a> Buried<'a> {
    /// Names go to `dead`.
    pub fn new(mut index: BaseIndex, dead: &'a mut Sorter) -> Result<Self> {
        let next = index.next_entry()?;
        Ok(Self { index, next, dead })
    }

    fn advance(&mut self) -> Result<Option<Entry>> {
        // The end is told once.
        if self.next.is_none() {
            return Ok(None);
        }
        let next = self.index.next_entry()?;
        Ok(std::mem::replace(&mut self.next, next))
    }

    /// The new index has this entry next.
    pub fn pass(&mut self, entry: &Entry) -> Result<()> {
        loop {
            let order = match &self.next {
                Some(next) => compare(&next.path, &entry.path),
                None => return Ok(()),
            };
            if order.is_gt() {
                return Ok(());
            }
            let Some(old) = self.advance()? else { return Ok(()) };
            let kept = if order.is_eq() { entry.members() } else { Vec::new() };
            self.drop_members(&old, &kept)?;
        }
    }

    /// The new index has no more.
    pub fn finish(mut self) -> Result<()> {
        while let Some(old) = self.advance()? {
            self.drop_members(&old, &[])?;
        }
        Ok(())
    }

    fn drop_members(&mut self, old: &Entry, kept: &[Entry]) -> Result<()> {
        // What lies in a last segment is never referred to, so it needs no dead list.
        if old.kind == EntryType::Dir || old.is_awkward() {
            return Ok(());
        }
        for member in old.members() {
            let is_kept =
                |other: &Entry| (&other.segment, other.at) == (&member.segment, member.at);
            if let Some(segment) = &member.segment
                && !kept.iter().any(is_kept)
            {
                bury(self.dead, segment, &member.path)?;
            }
        }
        Ok(())
    }
}
