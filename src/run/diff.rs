//! What changed between two backups: a merge of two sorted listings.

use std::cmp::Ordering;
use std::iter::Peekable;

use serde::Serialize;

use crate::archive::entry::{Entry, EntryType, compare};
use crate::error::Result;

/// How one path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Only the newer one has it.
    Added,
    /// Only the older one has it.
    Removed,
    /// It is of another type.
    Type,
    /// Its content is another.
    Content,
    /// Mode, owner, times or attributes differ, and the content does not.
    Metadata,
}

/// One path that differs.
#[derive(Debug, Clone)]
pub struct Difference {
    /// How.
    pub change: Change,
    /// As the older one has it.
    pub old: Option<Entry>,
    /// As the newer one has it.
    pub new: Option<Entry>,
}

impl Difference {
    /// The path.
    pub fn path(&self) -> &[u8] {
        self.new.as_ref().or(self.old.as_ref()).map_or(b"", |entry| &entry.path)
    }
}

/// Differences between two listings, in index order. Memory does not grow with their length.
pub struct Differences<A: Iterator, B: Iterator> {
    old: Peekable<A>,
    new: Peekable<B>,
}

impl<A, B> Differences<A, B>
where
    A: Iterator<Item = Result<Entry>>,
    B: Iterator<Item = Result<Entry>>,
{
    /// Compares `old` with `new`, both in index order.
    pub fn new(old: A, new: B) -> Self {
        Self { old: old.peekable(), new: new.peekable() }
    }

    /// What both have of the path that comes first, or `None` at the end of both.
    fn pair(&mut self) -> Result<Option<(Option<Entry>, Option<Entry>)>> {
        let order = match (self.old.peek(), self.new.peek()) {
            (None, None) => return Ok(None),
            (Some(Ok(old)), Some(Ok(new))) => compare(&old.path, &new.path),
            (Some(_), None) | (Some(Err(_)), _) => Ordering::Less,
            (None, Some(_)) | (_, Some(Err(_))) => Ordering::Greater,
        };
        let old = if order == Ordering::Greater { None } else { self.old.next().transpose()? };
        let new = if order == Ordering::Less { None } else { self.new.next().transpose()? };
        Ok(Some((old, new)))
    }
}

impl<A, B> Iterator for Differences<A, B>
where
    A: Iterator<Item = Result<Entry>>,
    B: Iterator<Item = Result<Entry>>,
{
    type Item = Result<Difference>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (old, new) = match self.pair() {
                Err(error) => return Some(Err(error)),
                Ok(None) => return None,
                Ok(Some(pair)) => pair,
            };
            let change = match (&old, &new) {
                (Some(old), Some(new)) => change(old, new),
                (Some(_), None) => Some(Change::Removed),
                (None, _) => Some(Change::Added),
            };
            if let Some(change) = change {
                return Some(Ok(Difference { change, old, new }));
            }
        }
    }
}

fn change(old: &Entry, new: &Entry) -> Option<Change> {
    // Two names of one file: which of them is the first says nothing about the file.
    let plain = |kind| if kind == EntryType::Hardlink { EntryType::File } else { kind };
    if plain(old.kind) != plain(new.kind) {
        return Some(Change::Type);
    }
    let links = old.kind == EntryType::Hardlink || new.kind == EntryType::Hardlink;
    let content = if links {
        // A further name has no digest of its own: the time of the last change stands for it.
        (old.mtime, old.size) != (new.mtime, new.size)
    } else {
        (old.sha256, &old.fingerprint, old.size) != (new.sha256, &new.fingerprint, new.size)
            || old.layers != new.layers
            || old.target != new.target
            || old.rdev != new.rdev
    };
    if content {
        return Some(Change::Content);
    }
    let of = |entry: &Entry| (entry.mode, entry.uid, entry.gid, entry.mtime);
    let differs = of(old) != of(new) || old.xattrs != new.xattrs;
    differs.then_some(Change::Metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, digest: u8, mode: u32) -> Entry {
        let mut entry = Entry::new(path, EntryType::File);
        entry.sha256 = Some([digest; 32]);
        entry.mode = mode;
        entry
    }

    #[test]
    fn every_kind_of_change_is_told() {
        let old = [file("a", 1, 0), file("b", 1, 0), file("c", 1, 0), file("d", 1, 0)];
        let mut link = Entry::new("d", EntryType::Symlink);
        link.target = Some(b"a".to_vec());
        let new = [file("a", 1, 0), file("b", 2, 0), file("c", 1, 7), link, file("e", 1, 0)];
        let found: Vec<(Change, String)> =
            Differences::new(old.into_iter().map(Ok), new.into_iter().skip(1).map(Ok))
                .map(|found| found.expect("no error"))
                .map(|found| (found.change, String::from_utf8_lossy(found.path()).into_owned()))
                .collect();
        let expected = [
            (Change::Removed, "a"),
            (Change::Content, "b"),
            (Change::Metadata, "c"),
            (Change::Type, "d"),
            (Change::Added, "e"),
        ];
        assert_eq!(found, expected.map(|(change, path)| (change, path.to_owned())));
    }
}
