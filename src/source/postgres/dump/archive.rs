//! The custom format of `pg_dump`, walked from its beginning to its end while it passes by.
//!
//! A process that ends with 0 said that it wrote everything; this tells whether everything arrived:
//! as many blocks of data as the table of contents promises, each with its end. Follows
//! `pg_backup_archiver.c` and `pg_backup_custom.c` of PostgreSQL, archive versions 1.12 to 1.16
//! (pg_dump 10 to 18). Of others only the beginning is looked at. Nothing is kept but counters.

use crate::error::{Error, Result};

const MAGIC: &[u8] = b"PGDMP";
const KNOWN: std::ops::RangeInclusive<u8> = 12..=16;
const CUSTOM: i64 = 1;
const DATA: i64 = 1;
const BLOBS: i64 = 3;
/// The longest number that has to be put together from two reads.
const LONGEST: usize = 16;

/// A field of the header or of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Byte,
    Int,
    Text,
    Offset,
    /// Texts up to one that is missing.
    Texts,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Magic, version, sizes and format: 11 bytes.
    Start,
    /// The fields of the header, by number.
    Header(usize),
    /// How many entries there are.
    Count,
    /// The fields of an entry, by number.
    Entry(usize),
    Block,
    BlockId,
    LargeObject,
    Chunk,
    /// A version that is not known.
    Unknown,
}

/// Walks over an archive.
#[derive(Debug)]
pub struct Walk {
    next: Next,
    version: u8,
    int: usize,
    offset: usize,
    pending: Vec<u8>,
    skip: u64,
    entries: i64,
    with_data: u64,
    blocks: u64,
    in_blobs: bool,
    wrong: Option<&'static str>,
}

impl Default for Walk {
    fn default() -> Self {
        Self {
            next: Next::Start,
            version: 0,
            int: 4,
            offset: 8,
            pending: Vec::with_capacity(LONGEST),
            skip: 0,
            entries: 0,
            with_data: 0,
            blocks: 0,
            in_blobs: false,
            wrong: None,
        }
    }
}

impl Walk {
    /// Takes the next bytes.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.wrong.is_none() && self.next != Next::Unknown {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len() as u64);
                self.skip -= skipped;
                bytes = &bytes[skipped as usize..];
                continue;
            }
            let need = self.need();
            let take = (need - self.pending.len()).min(bytes.len());
            self.pending.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            if self.pending.len() == need {
                let taken = std::mem::take(&mut self.pending);
                if let Err(wrong) = self.step(&taken) {
                    self.wrong = Some(wrong);
                }
                self.pending = taken;
                self.pending.clear();
            }
        }
    }

    /// All bytes were there: an error unless they are a whole archive.
    pub fn finish(&self) -> Result<()> {
        let damaged = |what: &str| {
            Err(Error::failed(format!("the dump is no whole archive: {what}"))
                .hint("is something writing to pg_dump's standard output, or cutting it off?"))
        };
        if let Some(wrong) = self.wrong {
            return damaged(wrong);
        }
        match self.next {
            Next::Unknown => Ok(()),
            Next::Block if self.pending.is_empty() && self.skip == 0 => {
                if self.blocks == self.with_data {
                    return Ok(());
                }
                damaged(&format!(
                    "it has {} blocks of data of {} that it lists",
                    self.blocks, self.with_data
                ))
            }
            Next::Start => damaged("it has no beginning"),
            _ => damaged("it ends within"),
        }
    }

    fn header(&self) -> &'static [Field] {
        use Field::{Byte, Int, Text};
        // Compression, seven parts of a time, database, version of the server, version of pg_dump.
        if self.version >= 15 {
            &[Byte, Int, Int, Int, Int, Int, Int, Int, Text, Text, Text]
        } else {
            &[Int, Int, Int, Int, Int, Int, Int, Int, Text, Text, Text]
        }
    }

    /// Id, whether it has data, two oids, tag, kind, section, three statements, schema, tablespace,
    /// access method (1.14), kind of relation (1.16), owner, oids, dependencies, position.
    fn entry(&self) -> &'static [Field] {
        use Field::{Int, Offset, Text, Texts};
        match self.version {
            12 | 13 => &[
                Int, Int, Text, Text, Text, Text, Int, Text, Text, Text, Text, Text, Text, Text,
                Texts, Offset,
            ],
            14 | 15 => &[
                Int, Int, Text, Text, Text, Text, Int, Text, Text, Text, Text, Text, Text, Text,
                Text, Texts, Offset,
            ],
            _ => &[
                Int, Int, Text, Text, Text, Text, Int, Text, Text, Text, Text, Text, Text, Int,
                Text, Text, Texts, Offset,
            ],
        }
    }

    fn field(&self) -> Field {
        match self.next {
            Next::Header(at) => self.header()[at],
            Next::Entry(at) => self.entry()[at],
            Next::Block => Field::Byte,
            _ => Field::Int,
        }
    }

    fn need(&self) -> usize {
        if self.next == Next::Start {
            return 11;
        }
        match self.field() {
            Field::Byte => 1,
            Field::Offset => 1 + self.offset,
            _ => 1 + self.int,
        }
    }

    /// A sign and the bytes of a number, the lowest first.
    fn number(bytes: &[u8]) -> i64 {
        let Some((&sign, digits)) = bytes.split_first() else { return 0 };
        let value = digits.iter().rev().take(8).fold(0_i64, |v, &b| (v << 8) | i64::from(b));
        if sign == 0 { value } else { -value }
    }

    fn step(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        let number = match bytes {
            [byte] => i64::from(*byte),
            _ => Self::number(bytes),
        };
        // The body of a text follows its length.
        let text = matches!(self.field(), Field::Text | Field::Texts)
            && matches!(self.next, Next::Header(_) | Next::Entry(_));
        if text && number > 0 {
            self.skip = number as u64;
        }
        match self.next {
            Next::Start => return self.start(bytes),
            Next::Header(at) => {
                self.next =
                    if at + 1 < self.header().len() { Next::Header(at + 1) } else { Next::Count };
            }
            Next::Count => {
                self.entries = number;
                self.next = if number > 0 { Next::Entry(0) } else { Next::Block };
            }
            Next::Entry(at) => {
                if at == 1 && number != 0 {
                    self.with_data += 1;
                }
                let more = self.field() == Field::Texts && number >= 0;
                if !more && at + 1 < self.entry().len() {
                    self.next = Next::Entry(at + 1);
                } else if !more {
                    self.entries -= 1;
                    self.next = if self.entries > 0 { Next::Entry(0) } else { Next::Block };
                }
            }
            Next::Block => {
                self.in_blobs = match number {
                    DATA => false,
                    BLOBS => true,
                    _ => return Err("a block of an unknown kind"),
                };
                self.next = Next::BlockId;
            }
            Next::BlockId => {
                self.next = if self.in_blobs { Next::LargeObject } else { Next::Chunk };
            }
            Next::LargeObject if number == 0 => self.end_block(),
            Next::LargeObject => self.next = Next::Chunk,
            Next::Chunk if number > 0 => self.skip = number as u64,
            Next::Chunk if number < 0 => return Err("a block of negative length"),
            Next::Chunk if self.in_blobs => self.next = Next::LargeObject,
            Next::Chunk => self.end_block(),
            Next::Unknown => {}
        }
        Ok(())
    }

    fn end_block(&mut self) {
        self.blocks += 1;
        self.next = Next::Block;
    }

    fn start(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        let Some(&[major, minor, _, int, offset, format]) =
            bytes.strip_prefix(MAGIC).and_then(|rest| rest.first_chunk::<6>())
        else {
            return Err("it does not begin as one");
        };
        if i64::from(format) != CUSTOM {
            return Err("it is not in custom format");
        }
        if major != 1 || !KNOWN.contains(&minor) {
            self.next = Next::Unknown;
            return Ok(());
        }
        (self.version, self.int, self.offset) = (minor, int.into(), offset.into());
        if !(2..=8).contains(&self.int) || !(2..=8).contains(&self.offset) {
            return Err("its numbers have an odd size");
        }
        self.next = Next::Header(0);
        Ok(())
    }
}
