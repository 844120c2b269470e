//! What is stored when everything else is: hard-link groups, and the last segment.

use std::collections::BTreeMap;

use super::groups::GROUP;
use super::session::Writing;
use super::sink::push_last;
use super::tally::Tally;
use super::worker::{SegmentSeries, Stored, vanished};
use crate::archive::entry::{Entry, EntryType};
use crate::archive::sort::Sorter;
use crate::error::{Error, Result};
use crate::source::Source;

/// Stores files with several names, each group in one segment, its first name first. Groups with
/// a name that no list can hold, and links to large files, are left to the last segment.
pub fn store_links(
    writing: &Writing<'_>,
    tally: &Tally,
    source: &dyn Source,
    links: Sorter,
    last: &mut Sorter,
) -> Result<()> {
    let mut series = SegmentSeries::new(writing, tally).keeping();
    let mut group: Vec<Entry> = Vec::new();
    let mut inode = Vec::new();
    // Entries settle in the order they were stored: a link's leader is the last one before it.
    let mut leaders = Leaders { all: BTreeMap::new(), only_last: true };
    for record in links.finish()? {
        let (key, line) = record?;
        if inode != key[..GROUP] {
            store_group(writing, tally, source, &mut series, std::mem::take(&mut group), last)?;
            add_settled(&mut series, tally, &mut leaders)?;
            inode = key[..GROUP].to_vec();
        }
        group.push(parse(&line)?);
    }
    store_group(writing, tally, source, &mut series, group, last)?;
    series.finish()?;
    add_settled(&mut series, tally, &mut leaders)
}

/// First names of groups whose links are still to come.
struct Leaders {
    all: BTreeMap<Vec<u8>, Entry>,
    only_last: bool,
}

fn store_group(
    writing: &Writing<'_>,
    tally: &Tally,
    source: &dyn Source,
    series: &mut SegmentSeries<'_>,
    group: Vec<Entry>,
    last: &mut Sorter,
) -> Result<()> {
    let awkward = group.iter().any(Entry::is_awkward);
    let mut names = group.into_iter();
    if awkward {
        let Some(first) = names.next() else { return Ok(()) };
        push_last(last, &first)?;
        return names.try_for_each(|name| push_last(last, &linked(name, &first.path)));
    }
    // The first name that is still there carries the content.
    let leader = loop {
        let Some(name) = names.next() else { return Ok(()) };
        let path = name.path.clone();
        if store_file(writing, tally, source, series, name)? {
            break path;
        }
    };
    if series.last_was_large() {
        let Some(large) = series.take_settled().pop() else { return Ok(()) };
        tally.add_entry(&large)?;
        for name in names {
            push_last(last, &with_content_of(linked(name, &leader), &large))?;
        }
        return Ok(());
    }
    names.try_for_each(|name| series.push(linked(name, &leader), None))?;
    // A group is never divided, so only between two groups a segment may end.
    series.end_if_full()
}

/// The name as a link to `leader`.
pub fn linked(mut name: Entry, leader: &[u8]) -> Entry {
    name.kind = EntryType::Hardlink;
    name.hardlink = Some(leader.to_vec());
    name.xattrs.clear();
    name
}

/// Gives a link what it repeats of its first name.
pub fn with_content_of(mut link: Entry, leader: &Entry) -> Entry {
    link.size = leader.size;
    link.sha256 = leader.sha256;
    link.leader_at = leader.at;
    link.changed = leader.changed;
    link.racy = leader.racy;
    link.mode = leader.mode;
    (link.uid, link.gid) = (leader.uid, leader.gid);
    link.user.clone_from(&leader.user);
    link.group.clone_from(&leader.group);
    (link.mtime, link.ctime) = (leader.mtime, leader.ctime);
    link
}

/// Puts settled entries into the index. First names come before their links.
fn add_settled(series: &mut SegmentSeries<'_>, tally: &Tally, leaders: &mut Leaders) -> Result<()> {
    for entry in series.take_settled() {
        let complete = match (&entry.hardlink, entry.sha256) {
            // A link to a large file has got everything already.
            (Some(leader), None) => match leaders.all.get(leader) {
                Some(leader) => with_content_of(entry, leader),
                None => return Err(Error::failed("a hard link without its first name")),
            },
            (Some(_), Some(_)) => entry,
            (None, _) => {
                if entry.kind == EntryType::File {
                    if leaders.only_last {
                        leaders.all.clear();
                    }
                    leaders.all.insert(entry.path.clone(), entry.clone());
                }
                entry
            }
        };
        tally.add_entry(&complete)?;
    }
    Ok(())
}

fn store_file(
    writing: &Writing<'_>,
    tally: &Tally,
    source: &dyn Source,
    series: &mut SegmentSeries<'_>,
    entry: Entry,
) -> Result<bool> {
    let path = entry.path.clone();
    let stored = match source.reopen(&writing.cx.for_source(), &path) {
        Ok(mut content) => series.store(entry, &mut *content)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Stored::Vanished(path),
        Err(error) => {
            return Err(Error::io(format!("failed to read `{}`", entry.display_path()), error));
        }
    };
    match stored {
        Stored::Yes => Ok(true),
        // Another file by now: it is stored as that, and leads no group.
        Stored::Replaced => Ok(false),
        Stored::Vanished(path) => {
            vanished(writing, tally, &path);
            Ok(false)
        }
    }
}

/// Stores the last segment: names that fit in no list, links to large files, then directories.
/// It is written even if it is empty, so that what is last is always the same thing. Returns its
/// number.
pub fn store_last(
    writing: &Writing<'_>,
    tally: &Tally,
    source: &dyn Source,
    last: Sorter,
) -> Result<Option<u32>> {
    let mut series = SegmentSeries::new(writing, tally).keeping();
    series.open()?;
    let number = series.number();
    let mut stored = std::collections::BTreeSet::new();
    let mut leaders = Leaders { all: BTreeMap::new(), only_last: false };
    for record in last.finish()? {
        let mut entry = parse(&record?.1)?;
        let orphan = entry.sha256.is_none()
            && entry.hardlink.as_ref().is_some_and(|leader| !stored.contains(leader));
        if orphan {
            (entry.kind, entry.hardlink) = (EntryType::File, None);
        }
        match entry.kind {
            EntryType::File => {
                let path = entry.path.clone();
                if store_file(writing, tally, source, &mut series, entry)? {
                    stored.insert(path);
                }
            }
            EntryType::Dir => {
                // From here on there are only directories: what is settled need not be kept.
                series.push(entry, None)?;
                add_settled(&mut series, tally, &mut leaders)?;
            }
            _ => series.push(entry, None)?,
        }
    }
    series.finish()?;
    add_settled(&mut series, tally, &mut leaders)?;
    Ok(number)
}

fn parse(line: &[u8]) -> Result<Entry> {
    serde_json::from_slice(line)
        .map_err(|error| Error::failed("failed to read back an entry").with_source(error))
}
