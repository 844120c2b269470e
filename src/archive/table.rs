//! A sorted list on disk that is looked up by key: what is too long for memory and is asked for in
//! an order of its own.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt as _;

use crate::error::{Error, IoContext as _, Result};

const BUFFER: usize = 256 << 10;

/// Writes a table. Keys must ascend.
pub struct TableWriter {
    records: BufWriter<File>,
    places: BufWriter<File>,
    end: u64,
    count: u64,
}

/// Records by key, in unlinked temporary files.
#[derive(Debug)]
pub struct Table {
    records: File,
    /// Where each record begins, eight bytes each.
    places: File,
    count: u64,
}

fn failed() -> String {
    "failed to use a temporary file for looking things up".to_owned()
}

impl TableWriter {
    /// An empty table.
    pub fn new() -> Result<Self> {
        let file = || tempfile::tempfile().doing(failed);
        Ok(Self {
            records: BufWriter::with_capacity(BUFFER, file()?),
            places: BufWriter::with_capacity(BUFFER, file()?),
            end: 0,
            count: 0,
        })
    }

    /// Adds a record.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.places.write_all(&self.end.to_le_bytes()).doing(failed)?;
        for part in [key, value] {
            self.records.write_all(&(part.len() as u32).to_le_bytes()).doing(failed)?;
            self.records.write_all(part).doing(failed)?;
            self.end += 4 + part.len() as u64;
        }
        self.count += 1;
        Ok(())
    }

    /// The table, to be looked up.
    pub fn finish(self) -> Result<Table> {
        let file = |out: BufWriter<File>| {
            out.into_inner().map_err(|error| Error::io(failed(), error.into_error()))
        };
        Ok(Table { records: file(self.records)?, places: file(self.places)?, count: self.count })
    }
}

impl Table {
    /// The value of this key.
    pub fn find(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.look(key).doing(failed)
    }

    fn look(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            let mut place = [0; 8];
            self.places.read_exact_at(&mut place, middle * 8)?;
            let place = u64::from_le_bytes(place);
            let found = self.part(place)?;
            match found[..].cmp(key) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return self.part(place + 4 + found.len() as u64).map(Some),
            }
        }
        Ok(None)
    }

    fn part(&self, place: u64) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.records.read_exact_at(&mut length, place)?;
        let mut part = vec![0; u32::from_le_bytes(length) as usize];
        self.records.read_exact_at(&mut part, place + 4)?;
        Ok(part)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn every_key_is_found_and_no_other() {
        for count in [0u32, 1, 2, 1000] {
            let mut writer = TableWriter::new().unwrap();
            for number in 0..count {
                writer.push(&(number * 2).to_be_bytes(), &number.to_le_bytes()).unwrap();
            }
            let table = writer.finish().unwrap();
            for number in 0..count {
                let found = table.find(&(number * 2).to_be_bytes()).unwrap();
                assert_eq!(found.unwrap(), number.to_le_bytes());
                assert!(table.find(&(number * 2 + 1).to_be_bytes()).unwrap().is_none());
            }
            assert!(table.find(b"").unwrap().is_none());
        }
    }
}
