//! Sorting more than fits in memory: sorted runs in an unlinked temporary file, then a merge.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use crate::error::{Error, IoContext as _, Result};

/// How many bytes of keys and values a sorter holds before it spills a run.
pub const DEFAULT_BUDGET: usize = 24 << 20;

const RUN_BUFFER: usize = 256 << 10;

type Record = (Vec<u8>, Vec<u8>);

/// Records one behind the other in one piece of memory, which is used again after every run: as
/// small pieces of their own they would leave a heap full of holes, which grows with their number.
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    places: Vec<Place>,
}

/// Where a record lies: its key, and its value behind that.
#[derive(Clone, Copy)]
struct Place {
    start: usize,
    key: u32,
    value: u32,
}

impl Held {
    fn push(&mut self, key: &[u8], value: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        self.places.push(Place { start, key: key.len() as u32, value: value.len() as u32 });
    }

    fn size(&self) -> usize {
        self.bytes.len() + self.places.len() * size_of::<Place>()
    }

    fn get(&self, place: Place) -> (&[u8], &[u8]) {
        let value = place.start + place.key as usize;
        (&self.bytes[place.start..value], &self.bytes[value..value + place.value as usize])
    }

    fn sort(&mut self) {
        let Self { bytes, places } = self;
        let key = |place: &Place| &bytes[place.start..place.start + place.key as usize];
        // What came first lies first.
        places.sort_unstable_by(|a, b| key(a).cmp(key(b)).then(a.start.cmp(&b.start)));
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.places.clear();
    }
}

/// Collects records and gives them back in key order. Equal keys keep the order they came in.
pub struct Sorter {
    budget: usize,
    held: Held,
    spill: Option<File>,
    runs: Vec<(u64, u64)>,
    end: u64,
    count: u64,
}

impl Default for Sorter {
    fn default() -> Self {
        Self::new(DEFAULT_BUDGET)
    }
}

impl Sorter {
    /// A sorter that spills to a temporary file when it holds more than `budget` bytes.
    pub fn new(budget: usize) -> Self {
        Self { budget, held: Held::default(), spill: None, runs: Vec::new(), end: 0, count: 0 }
    }

    /// Adds a record.
    #[expect(clippy::needless_pass_by_value, reason = "it is done with")]
    pub fn push(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<()> {
        self.held.push(&key, &value);
        self.count += 1;
        if self.held.size() > self.budget {
            self.spill()?;
        }
        Ok(())
    }

    /// How many records were added.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn spill(&mut self) -> Result<()> {
        self.held.sort();
        let failed = || "failed to write a temporary file for sorting".to_owned();
        let file = match &mut self.spill {
            Some(file) => file,
            empty => empty.insert(tempfile::tempfile().doing(failed)?),
        };
        let start = self.end;
        let mut out = BufWriter::with_capacity(RUN_BUFFER, &*file);
        for place in &self.held.places {
            let (key, value) = self.held.get(*place);
            for part in [key, value] {
                out.write_all(&(part.len() as u32).to_le_bytes()).doing(failed)?;
                out.write_all(part).doing(failed)?;
                self.end += 4 + part.len() as u64;
            }
        }
        out.flush().doing(failed)?;
        drop(out);
        self.runs.push((start, self.end));
        self.held.clear();
        Ok(())
    }

    /// The records in key order. What takes memory from here on is one buffer for each run: together
    /// no more than the budget, however many records there are.
    pub fn finish(mut self) -> Result<Sorted> {
        if self.spill.is_some() && !self.held.places.is_empty() {
            self.spill()?;
        }
        let mut runs = Vec::new();
        if let Some(file) = self.spill {
            self.held = Held::default();
            let file = Arc::new(file);
            // With many runs each gets a smaller buffer, so that merging stays within the budget.
            let buffer = (self.budget / (self.runs.len() + 1)).clamp(4 << 10, RUN_BUFFER);
            for &(start, end) in &self.runs {
                runs.push(Run::File(RunReader {
                    file: file.clone(),
                    position: start,
                    end,
                    buffer: Vec::new(),
                    used: 0,
                    capacity: buffer,
                }));
            }
        } else {
            self.held.sort();
            runs.push(Run::Memory { held: self.held, next: 0 });
        }
        let mut sorted = Sorted { runs, heap: BinaryHeap::new() };
        for index in 0..sorted.runs.len() {
            sorted.refill(index)?;
        }
        Ok(sorted)
    }
}

enum Run {
    Memory { held: Held, next: usize },
    File(RunReader),
}

#[cfg(test)]
impl Run {
    /// Bytes that it takes.
    fn memory(&self) -> usize {
        match self {
            Self::Memory { held, .. } => held.size(),
            Self::File(reader) => reader.capacity,
        }
    }
}

struct RunReader {
    file: Arc<File>,
    position: u64,
    end: u64,
    buffer: Vec<u8>,
    used: usize,
    capacity: usize,
}

impl RunReader {
    fn next(&mut self) -> Result<Option<Record>> {
        if self.position == self.end && self.used == self.buffer.len() {
            return Ok(None);
        }
        let read =
            |reader: &mut Self| -> std::io::Result<Record> { Ok((reader.part()?, reader.part()?)) };
        read(self).map(Some).doing(|| "failed to read a temporary file for sorting".to_owned())
    }

    fn part(&mut self) -> std::io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.read_exact(&mut length)?;
        let mut part = vec![0; u32::from_le_bytes(length) as usize];
        self.read_exact(&mut part)?;
        Ok(part)
    }
}

impl Read for RunReader {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.used == self.buffer.len() {
            let want = (self.end - self.position).min(self.capacity as u64) as usize;
            self.buffer.resize(want, 0);
            self.file.read_exact_at(&mut self.buffer, self.position)?;
            self.position += want as u64;
            self.used = 0;
        }
        let count = out.len().min(self.buffer.len() - self.used);
        out[..count].copy_from_slice(&self.buffer[self.used..self.used + count]);
        self.used += count;
        Ok(count)
    }
}

/// The next record of a run: key, run, value. Runs are in the order records came in.
type Candidate = (Vec<u8>, usize, Vec<u8>);

/// Records in key order.
pub struct Sorted {
    runs: Vec<Run>,
    heap: BinaryHeap<Reverse<Candidate>>,
}

impl Sorted {
    fn refill(&mut self, index: usize) -> Result<()> {
        let next = match &mut self.runs[index] {
            Run::Memory { held, next } => {
                let place = held.places.get(*next).copied();
                *next += 1;
                place
                    .map(|place| held.get(place))
                    .map(|(key, value)| (key.to_vec(), value.to_vec()))
            }
            Run::File(reader) => reader.next()?,
        };
        if let Some((key, value)) = next {
            self.heap.push(Reverse((key, index, value)));
        }
        Ok(())
    }
}

impl Iterator for Sorted {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let Reverse((key, index, value)) = self.heap.pop()?;
        Some(self.refill(index).map(|()| (key, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorts_the_same_with_and_without_spilling() {
        let mut rng = fastrand::Rng::with_seed(7);
        let records: Vec<Record> = (0..5000u32)
            .map(|i| (format!("{:04}", rng.u32(..2000)).into_bytes(), i.to_le_bytes().to_vec()))
            .collect();
        let mut expected = records.clone();
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        for budget in [1 << 10, 10 << 10, 1 << 30] {
            let mut sorter = Sorter::new(budget);
            for (key, value) in &records {
                sorter.push(key.clone(), value.clone()).expect("pushes");
            }
            let sorted: Vec<Record> =
                sorter.finish().expect("sorts").collect::<Result<_>>().expect("reads");
            assert_eq!(sorted, expected, "budget {budget}");
        }
    }

    #[test]
    fn ten_times_the_records_take_no_more_memory() {
        const BUDGET: usize = 256 << 10;
        let most = [4000u64, 40_000].map(|records| {
            let mut sorter = Sorter::new(BUDGET);
            let mut most = 0;
            for number in 0..records {
                let key = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes().to_vec();
                sorter.push(key, vec![7; 100]).expect("pushes");
                most = most.max(sorter.held.bytes.capacity() + sorter.held.places.capacity() * 16);
            }
            let sorted = sorter.finish().expect("sorts");
            let buffers: usize = sorted.runs.iter().map(Run::memory).sum();
            assert!(buffers <= BUDGET, "{buffers} bytes to merge {records} records");
            assert_eq!(sorted.count() as u64, records);
            most
        });
        assert_eq!(most[0], most[1], "what is held depends on how much there is");
        assert!(most[1] <= 3 * BUDGET, "{most:?}");
    }
}
