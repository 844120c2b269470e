//! The journal of a run: records in a chain, in the repository and on this machine.
//!
//! A record counts when the repository has it. Its number is created once, so that of two executors
//! one loses, and whoever lost does nothing more. The copy on this machine is what somebody reads when
//! the repository is gone, and shows when the repository went back in time.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::record::{Event, Record, VERSION};
use crate::archive::digest::sha256_hex;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::id;
use crate::store::{JournalStore, Worker};

/// The journal of a run, at its end.
#[derive(Debug)]
pub struct Journal {
    at: JournalStore,
    run: String,
    local: Option<PathBuf>,
    /// The number of the last record, and its digest.
    last: (u64, String),
    by: Worker,
    clock: Arc<dyn Clock>,
}

/// Where journals are, and who writes.
#[derive(Debug, Clone)]
pub struct Place {
    /// The records in the repository.
    pub at: JournalStore,
    /// The run.
    pub run: String,
    /// The directory of the copy on this machine; none if `None`.
    pub local: Option<PathBuf>,
    /// Who writes.
    pub by: Worker,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
}

impl Journal {
    /// Opens a journal and reads all of it; a new one has no records. Whatever does not fit
    /// together is damage; a repository that knows less than this machine needs a person.
    pub fn open(place: &Place) -> Result<(Self, Vec<Record>)> {
        let stored = place.at.read()?;
        let records = check(&stored, &place.run, &place.at.place())?;
        if let Some(local) = &place.local {
            follow(local, &stored, place)?;
        }
        let last = stored.last().map(|bytes| sha256_hex(bytes)).unwrap_or_default();
        let journal = Self {
            at: place.at.clone(),
            run: place.run.clone(),
            local: place.local.clone(),
            last: (stored.len() as u64, last),
            by: place.by.clone(),
            clock: place.clock.clone(),
        };
        Ok((journal, records))
    }

    /// A journal at its last record, whatever is wrong before that, and without the copy on this machine: for the
    /// record that sets a run aside.
    pub fn behind(place: &Place, last: Option<(u64, Bytes)>) -> Self {
        let last = last.map(|(number, bytes)| (number, sha256_hex(&bytes)));
        Self {
            at: place.at.clone(),
            run: place.run.clone(),
            local: None,
            last: last.unwrap_or_default(),
            by: place.by.clone(),
            clock: place.clock.clone(),
        }
    }

    /// Writes a record. An error means that nothing may be done that it announces.
    pub fn append(&mut self, event: Event) -> Result<Record> {
        let record = Record {
            version: VERSION,
            run: self.run.clone(),
            number: self.last.0 + 1,
            previous: self.last.1.clone(),
            time: self.clock.now(),
            by: self.by.clone(),
            nonce: id::nonce(),
            event,
        };
        let body = serde_json::to_vec(&record)
            .map(Bytes::from)
            .map_err(|error| Error::failed("failed to write a record").with_source(error))?;
        let written = self.at.create(record.number, &body).map_err(|error| {
            error.context("failed to write the journal, without which nothing is done")
        })?;
        if !written {
            return Err(self.lost());
        }
        if let Some(local) = &self.local {
            keep(local, record.number, &body)?;
        }
        self.last = (record.number, sha256_hex(&body));
        Ok(record)
    }

    /// Fails where somebody else went on with the run.
    pub fn check(&self) -> Result<()> {
        if self.at.has(self.last.0 + 1)? { Err(self.lost()) } else { Ok(()) }
    }

    fn lost(&self) -> Error {
        Error::new(ErrorKind::Busy, format!("somebody else went on with run {}", self.run)).hint(
            "this process does nothing more; `backstay playbook show RUN` tells where it stands",
        )
    }
}

/// Checks the chain and parses the records.
fn check(stored: &[Bytes], run: &str, place: &str) -> Result<Vec<Record>> {
    let mut previous = String::new();
    let mut records = Vec::new();
    for (number, bytes) in (1..).zip(stored) {
        let damaged = |what: &str| Error::damaged(format!("record {number} of {place} {what}"));
        let value: serde_json::Value = serde_json::from_slice(bytes)
            .map_err(|error| damaged("is damaged").with_source(error))?;
        let version = value.get("journal").and_then(serde_json::Value::as_u64).unwrap_or(0);
        if version > u64::from(VERSION) {
            let what = format!("record {number} of {place} has format {version}");
            return Err(Error::unsupported(what).hint("use a newer backstay"));
        }
        // From the bytes, which have mappings in the order that the plan's hash was made of.
        let record: Record = serde_json::from_slice(bytes)
            .map_err(|error| damaged("is damaged").with_source(error))?;
        if record.run != run || record.number != number {
            return Err(damaged("is that of another place"));
        }
        if record.previous != previous {
            return Err(damaged("does not follow from the one before it")
                .hint("a record was changed or exchanged: compare with a copy of the journal"));
        }
        previous = sha256_hex(bytes);
        records.push(record);
    }
    Ok(records)
}

/// Brings the copy on this machine up to what the repository has.
fn follow(local: &Path, stored: &[Bytes], place: &Place) -> Result<()> {
    for number in 1.. {
        let path = path_of(local, number);
        let kept = match fs::read(&path) {
            Ok(kept) => Some(kept),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                return Err(Error::io(format!("failed to read {}", path.display()), error));
            }
        };
        match (stored.get(number as usize - 1), kept) {
            (None, None) => return Ok(()),
            (Some(bytes), Some(kept)) if *bytes == kept => {}
            (Some(bytes), None) => keep(local, number, bytes)?,
            (None, Some(_)) => {
                return Err(Error::new(
                    ErrorKind::Waiting,
                    format!(
                        "{} ends at record {}, and this machine has seen more",
                        place.at.place(),
                        stored.len()
                    ),
                )
                .hint("the repository went back in time: find out what was done since, by hand")
                .hint(format!("what this machine has seen lies in {}", local.display()))
                .hint(format!(
                    "who knows how things stand sets the run aside: `backstay playbook abort {} --leave --reason WHY`",
                    place.run
                )));
            }
            (Some(_), Some(_)) => {
                return Err(Error::damaged(format!(
                    "record {number} of {} is not the one that this machine has seen",
                    place.at.place()
                ))
                .hint(format!("compare it with {}", path.display())));
            }
        }
    }
    Ok(())
}

fn path_of(local: &Path, number: u64) -> PathBuf {
    local.join(format!("{number:08}.json"))
}

/// Writes a record to this machine, whole or not at all, and to its disk.
fn keep(local: &Path, number: u64, body: &[u8]) -> Result<()> {
    let path = path_of(local, number);
    let failed = || format!("failed to write {}", path.display());
    fs::DirBuilder::new().recursive(true).mode(0o700).create(local).doing(failed)?;
    let staged = local.join(format!(".{number:08}.{}", id::random_suffix(6)));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&staged)
        .doing(failed)?;
    file.write_all(body).and_then(|()| file.sync_all()).doing(failed)?;
    fs::rename(&staged, &path).doing(failed)?;
    fs::File::open(local).and_then(|directory| directory.sync_all()).doing(failed)
}
