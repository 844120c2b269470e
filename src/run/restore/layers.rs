//! Files that are made of layers: a whole one, and increments over it, oldest first.

use std::collections::VecDeque;
use std::io::{Read, Write};

use super::member::SegmentCursor;
use super::output::ContentReader;
use super::request::Request;
use super::worker::{Worker, check_content, write_error};
use crate::archive::digest::Digest;
use crate::archive::entry::Entry;
use crate::archive::increment::{IncrementHeader, PAGE};
use crate::archive::manifest::Segment;
use crate::archive::member::read_error;
use crate::error::{Error, IoContext as _, Result};
use crate::run::Context;

fn lost(entry: &Entry) -> Error {
    Error::damaged(format!("the index has no place for a layer of `{}`", entry.display_path()))
}

impl Worker<'_> {
    /// Lays one layer over what those before it made. The file was created when the restore was
    /// planned; it gets its name and attributes when all is there.
    pub(super) fn layer(&mut self, segment: &Segment, entry: &Entry, number: usize) -> Result<()> {
        let stored = entry.layer(number).ok_or_else(|| lost(entry))?;
        let at = stored.at.ok_or_else(|| lost(entry))?;
        let mut file = self.cursor.reopen(entry)?;
        let failed = || format!("failed to restore `{}`", entry.display_path());
        self.segment(segment)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let cursor = self.segment(segment)?;
        let result = (|| {
            let member = cursor.member(&stored, at)?;
            member.expect(&stored, &segment.path)?;
            let mut digest = Digest::default();
            let mut content = cursor.content().take(stored.size);
            let mut header = None;
            if number > 0 {
                let (found, raw) = IncrementHeader::read(
                    &mut content,
                    stored.size,
                    &format!("`{}` in {}", stored.display_path(), segment.path),
                )?;
                digest.update(&raw);
                file.file().set_len(u64::from(found.truncation) * PAGE as u64).doing(failed)?;
                header = Some(found);
            } else {
                file.file().set_len(stored.size).doing(failed)?;
            }
            let mut blocks = header.iter().flat_map(|header| header.blocks.iter().copied());
            let step = if header.is_some() { PAGE } else { buffer.len() };
            loop {
                let want = (stored.size - digest.bytes()).min(step as u64) as usize;
                if want == 0 {
                    break;
                }
                content
                    .read_exact(&mut buffer[..want])
                    .map_err(|error| read_error(error, &segment.path))?;
                if let Some(block) = blocks.next() {
                    file.skip_to(u64::from(block) * PAGE as u64);
                }
                digest.update(&buffer[..want]);
                file.write_all(&buffer[..want]).map_err(|error| write_error(entry, error))?;
            }
            check_content(&stored, digest, None)
        })();
        self.buffer = buffer;
        result?;
        let progress = self.cx.reporter.progress();
        progress.add_bytes(stored.size);
        if number + 1 < entry.layers.len() {
            return Ok(());
        }
        let length = file.file().metadata().doing(failed)?.len();
        if length != entry.size {
            return Err(Error::damaged(format!(
                "the layers of `{}` make {length} bytes, and the index says {}",
                entry.display_path(),
                entry.size
            )));
        }
        self.shared.with(|results| {
            results.written += 1;
            results.bytes = results.bytes.saturating_add(entry.size);
        });
        progress.add_file();
        Ok(())
    }
}

/// One layer that is read along.
struct Source {
    cursor: SegmentCursor,
    stored: Entry,
    place: String,
    /// Of an increment.
    header: Option<IncrementHeader>,
    digest: Digest,
    /// Blocks that were read.
    read: usize,
}

impl Source {
    fn open(request: &Request<'_>, cx: &Context, entry: &Entry, number: usize) -> Result<Self> {
        let stored = entry.layer(number).ok_or_else(|| lost(entry))?;
        let (Some(reference), Some(at)) = (&stored.segment, stored.at) else {
            return Err(lost(entry));
        };
        let segment = ContentReader::segment(request, &reference.to_string())?;
        let mut cursor = SegmentCursor::open(
            &request.source,
            &segment.path,
            segment.size,
            &request.keys,
            &cx.reporter,
        )?;
        cursor.member(&stored, at)?.expect(&stored, &segment.path)?;
        let mut digest = Digest::default();
        let mut header = None;
        let place = segment.path.clone();
        if number > 0 {
            let name = format!("`{}` in {place}", stored.display_path());
            let (found, raw) = IncrementHeader::read(cursor.content(), stored.size, &name)?;
            digest.update(&raw);
            header = Some(found);
        }
        Ok(Self { cursor, stored, place, header, digest, read: 0 })
    }

    /// Reads the page of this block, if the layer has it. Blocks are asked for one after another.
    fn page(&mut self, block: u32, page: &mut [u8]) -> Result<Option<usize>> {
        let size = match &self.header {
            Some(header) if header.blocks.get(self.read) == Some(&block) => PAGE,
            Some(_) => return Ok(None),
            None => (self.stored.size - self.digest.bytes()).min(PAGE as u64) as usize,
        };
        let read = self.cursor.content().read_exact(&mut page[..size]);
        read.map_err(|error| read_error(error, &self.place))?;
        self.digest.update(&page[..size]);
        self.read += 1;
        Ok((size > 0).then_some(size))
    }

    /// Whether all of its blocks were read.
    fn is_over(&self) -> bool {
        self.header.as_ref().is_some_and(|header| self.read == header.blocks.len())
    }

    /// Reads what nobody asked for, which lies beyond the `pages` of the file, and compares all of
    /// it with its digest.
    fn finish(mut self, pages: u32) -> Result<()> {
        let left = self.header.as_ref().and_then(|header| header.blocks.get(self.read));
        if left.is_some_and(|block| *block < pages) {
            return Err(Error::damaged(format!(
                "the parts of `{}` in {} are out of order",
                self.stored.display_path(),
                self.place
            )));
        }
        let mut buffer = [0; PAGE];
        while self.digest.bytes() < self.stored.size {
            let want = (self.stored.size - self.digest.bytes()).min(PAGE as u64) as usize;
            let read = self.cursor.content().read_exact(&mut buffer[..want]);
            read.map_err(|error| read_error(error, &self.place))?;
            self.digest.update(&buffer[..want]);
        }
        check_content(&self.stored, self.digest, None)
    }
}

/// What one backup stored of a file: one layer, or the parts of one, of which one is open at a time.
struct Group {
    source: Source,
    /// Numbers of the layers that follow.
    rest: VecDeque<usize>,
}

/// The content of a file made of layers, put together as it is read.
pub(super) struct Layered<'a> {
    request: &'a Request<'a>,
    cx: &'a Context,
    entry: Entry,
    /// Oldest first.
    groups: Vec<Group>,
    pages: u32,
    next: u32,
    page: Vec<u8>,
    /// Bytes of the page that were given.
    given: usize,
}

impl<'a> Layered<'a> {
    /// Opens the layers of `entry`.
    pub(super) fn open(request: &'a Request<'a>, cx: &'a Context, entry: &Entry) -> Result<Self> {
        let mut groups: Vec<Group> = Vec::new();
        for (number, layer) in entry.layers.iter().enumerate() {
            let same = |group: &&mut Group| {
                let writer = group.source.stored.segment.as_ref().map(|segment| &segment.backup);
                writer == Some(&layer.segment.backup)
            };
            match groups.last_mut().filter(same) {
                Some(group) => group.rest.push_back(number),
                None => groups.push(Group {
                    source: Source::open(request, cx, entry, number)?,
                    rest: VecDeque::new(),
                }),
            }
        }
        let pages = u32::try_from(entry.size / PAGE as u64).map_err(|_| lost(entry))?;
        let (entry, page) = (entry.clone(), vec![0; PAGE]);
        Ok(Self { request, cx, entry, groups, pages, next: 0, page, given: PAGE })
    }

    /// The next bytes; none at the end, when all layers were what was backed up.
    pub(super) fn step(&mut self, out: &mut [u8]) -> Result<usize> {
        if self.given == PAGE {
            if self.next == self.pages {
                self.finish()?;
                return Ok(0);
            }
            self.load()?;
        }
        let count = out.len().min(PAGE - self.given);
        out[..count].copy_from_slice(&self.page[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }

    fn finish(&mut self) -> Result<()> {
        for Group { source, rest } in self.groups.drain(..) {
            source.finish(self.pages)?;
            for number in rest {
                let source = Source::open(self.request, self.cx, &self.entry, number)?;
                source.finish(self.pages)?;
            }
        }
        Ok(())
    }

    /// Puts the next page together: that of the newest layer which has it, unless a newer one cut
    /// the file before it.
    fn load(&mut self) -> Result<()> {
        let mut page = [0; PAGE];
        self.page.fill(0);
        for group in &mut self.groups {
            while group.source.is_over()
                && let Some(number) = group.rest.pop_front()
            {
                let next = Source::open(self.request, self.cx, &self.entry, number)?;
                std::mem::replace(&mut group.source, next).finish(self.pages)?;
            }
            let source = &mut group.source;
            if source.header.as_ref().is_some_and(|header| self.next >= header.truncation) {
                self.page.fill(0);
            }
            if let Some(size) = source.page(self.next, &mut page)? {
                self.page[..size].copy_from_slice(&page[..size]);
            }
        }
        self.next += 1;
        self.given = 0;
        Ok(())
    }
}
