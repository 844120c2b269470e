//! Files with several names. Whether a group can be taken over shows only when all its names are
//! known: leaving one out by `exclude` changes no time of the file, and a link taken over without
//! its first name would be a link to nothing.

use super::links::{linked, with_content_of};
use super::sink::push_last;
use super::tally::Tally;
use crate::archive::entry::{Entry, EntryType, sort_key};
use crate::archive::index::line_of;
use crate::archive::sort::Sorter;
use crate::error::{Error, Result};

const BUDGET: usize = 4 << 20;

/// Bytes of a record's key that name the group: device and inode.
pub const GROUP: usize = 16;

/// What the base has at a name's path.
pub struct BaseName {
    /// Its entry.
    pub entry: Entry,
    /// Its line in the base's index.
    pub line: Vec<u8>,
    /// The file is what it was.
    pub unchanged: bool,
    /// Its content may be referred to.
    pub reusable: bool,
}

/// All names of files with several, gathered while the source is read.
pub struct Groups {
    sorter: Sorter,
}

struct Name {
    key: Vec<u8>,
    entry: Entry,
    base: Option<BaseName>,
}

impl Groups {
    /// No names yet.
    pub fn new() -> Self {
        Self { sorter: Sorter::new(BUDGET) }
    }

    /// Adds a name of the file `entry.ino` on `device`.
    pub fn push(&mut self, device: u64, entry: &Entry, base: Option<&BaseName>) -> Result<()> {
        let mut key = Vec::with_capacity(GROUP + entry.path.len());
        key.extend_from_slice(&device.to_be_bytes());
        key.extend_from_slice(&entry.ino.to_be_bytes());
        key.extend(sort_key(&entry.path));
        let line = line_of(entry)?;
        let mut value = (line.len() as u32).to_be_bytes().to_vec();
        value.extend(line);
        if let Some(base) = base {
            value.push(u8::from(base.unchanged) | u8::from(base.reusable) << 1);
            value.extend_from_slice(&base.line);
        }
        self.sorter.push(key, value)
    }

    /// Takes over the groups that are as they were. Returns the names that are to be stored,
    /// group by group, and whether anything differs from the base.
    pub fn resolve(self, tally: &Tally, last: &mut Sorter) -> Result<(Sorter, bool)> {
        let mut stored = Sorter::new(BUDGET);
        let mut changed = false;
        let mut group: Vec<Name> = Vec::new();
        for record in self.sorter.finish()? {
            let (key, value) = record?;
            if group.first().is_some_and(|first| first.key[..GROUP] != key[..GROUP]) {
                changed |= settle(&std::mem::take(&mut group), tally, last, &mut stored)?;
            }
            group.push(name(key, &value)?);
        }
        changed |= settle(&group, tally, last, &mut stored)?;
        Ok((stored, changed))
    }
}

fn name(key: Vec<u8>, value: &[u8]) -> Result<Name> {
    let broken = || Error::failed("failed to read back a name of a file");
    let (length, rest) = value.split_first_chunk::<4>().ok_or_else(broken)?;
    let (line, rest) =
        rest.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or_else(broken)?;
    let parse = |line: &[u8]| -> Result<Entry> {
        serde_json::from_slice(line).map_err(|error| broken().with_source(error))
    };
    let base = match rest.split_first() {
        None => None,
        Some((flags, line)) => Some(BaseName {
            entry: parse(line)?,
            line: line.to_vec(),
            unchanged: flags & 1 != 0,
            reusable: flags & 2 != 0,
        }),
    };
    Ok(Name { key, entry: parse(line)?, base })
}

/// Takes one group over, or adds it to what is stored. Whether it differs from the base.
fn settle(group: &[Name], tally: &Tally, last: &mut Sorter, stored: &mut Sorter) -> Result<bool> {
    let same = is_same(group);
    if same && group.iter().all(|name| name.base.as_ref().is_some_and(|base| base.reusable)) {
        for base in group.iter().filter_map(|name| name.base.as_ref()) {
            tally.keep(&base.entry, &base.line)?;
        }
        return Ok(false);
    }
    let leader = group.first().and_then(|first| first.base.as_ref());
    if same && let Some(leader) = leader.filter(|base| base.reusable && base.entry.is_large()) {
        // Only its links lie in the base's last segment, and are written again with it.
        tally.keep(&leader.entry, &leader.line)?;
        for name in &group[1..] {
            let link = linked(name.entry.clone(), &leader.entry.path);
            push_last(last, &with_content_of(link, &leader.entry))?;
        }
        return Ok(false);
    }
    for name in group {
        if let Some(base) = &name.base {
            tally.bury(&base.entry)?;
        }
        stored.push(name.key.clone(), line_of(&name.entry)?)?;
    }
    Ok(!same)
}

/// Whether every name is what it was, and the first of them still is the one with the content.
fn is_same(group: &[Name]) -> bool {
    let Some((first, others)) = group.split_first() else { return true };
    let unchanged = |name: &Name| name.base.as_ref().is_some_and(|base| base.unchanged);
    let leads = first.base.as_ref().is_some_and(|base| base.entry.kind == EntryType::File);
    let follows = |name: &Name| {
        name.base
            .as_ref()
            .is_some_and(|base| base.entry.hardlink.as_ref() == Some(&first.entry.path))
    };
    leads && group.iter().all(unchanged) && others.iter().all(follows)
}
