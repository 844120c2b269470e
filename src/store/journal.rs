//! Journals of playbooks, as they lie in a repository: records with numbers, each created once.
//!
//! What they say is decided in `playbook`; here it is bytes. That a number can be created only once
//! is what keeps two executors of a run apart: whoever loses a number does nothing more.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::blocking::Store;
use super::layout;
use crate::error::{Error, Result};

/// The largest record: the first one has the whole plan.
const RECORD_LIMIT: u64 = 4 << 20;

/// The records of one run.
#[derive(Debug, Clone)]
pub struct JournalStore {
    store: Store,
    stack: String,
    run: String,
}

/// The runs of a stack that have a journal, oldest first.
pub fn runs_with_journals(store: &Store, stack: &str) -> Result<Vec<String>> {
    store.list_directories(&layout::journals(stack))
}

impl JournalStore {
    /// The journal of a run.
    pub fn new(store: &Store, stack: &str, run: &str) -> Self {
        Self { store: store.clone(), stack: stack.to_owned(), run: run.to_owned() }
    }

    /// The store below.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Where it lies, for people.
    pub fn place(&self) -> String {
        format!("{}/{} of {}", layout::journals(&self.stack), self.run, self.store.name())
    }

    /// All records from number 1 on. Numbers without a gap: one that is missing is damage.
    pub fn read(&self) -> Result<Vec<Bytes>> {
        let directory = format!("{}/{}", layout::journals(&self.stack), self.run);
        let mut numbers: Vec<u64> = self
            .store
            .list(&directory)?
            .iter()
            .filter_map(|object| layout::journal_number(&object.key))
            .collect();
        numbers.sort_unstable();
        let keys: Vec<String> = numbers.iter().map(|number| self.key(*number)).collect();
        let mut records = Vec::new();
        for ((number, expected), bytes) in
            numbers.iter().zip(1..).zip(self.store.read_many(&keys, RECORD_LIMIT))
        {
            let missing = || {
                Error::damaged(format!("record {expected} is missing in {}", self.place()))
                    .hint("a copy or an older version of the bucket may have it")
            };
            if *number != expected {
                return Err(missing());
            }
            records.push(bytes?.ok_or_else(missing)?);
        }
        Ok(records)
    }

    /// The record with the highest number, whatever is missing before it.
    pub fn last(&self) -> Result<Option<(u64, Bytes)>> {
        let directory = format!("{}/{}", layout::journals(&self.stack), self.run);
        let listed = self.store.list(&directory)?;
        let last = listed.iter().filter_map(|object| layout::journal_number(&object.key)).max();
        let Some(number) = last else { return Ok(None) };
        // One that is too large to be a record counts, and is none.
        let bytes = self.store.read_if_exists(&self.key(number), RECORD_LIMIT);
        Ok(Some((number, bytes.ok().flatten().unwrap_or_default())))
    }

    /// Creates a record. `Ok(false)`: somebody else has written that number.
    pub fn create(&self, number: u64, body: &Bytes) -> Result<bool> {
        self.store.check_there()?;
        self.store.create_ours(&self.key(number), body)
    }

    /// Whether there is a record of this number.
    pub fn has(&self, number: u64) -> Result<bool> {
        Ok(self.store.read_if_exists(&self.key(number), RECORD_LIMIT)?.is_some())
    }

    fn key(&self, number: u64) -> String {
        layout::journal_record(&self.stack, &self.run, number)
    }
}

/// The last record of every run of a stack that has a journal, by run.
pub fn last_records(store: &Store, stack: &str) -> Result<Vec<(String, Bytes)>> {
    let prefix = layout::journals(stack);
    let mut last: BTreeMap<String, (u64, String)> = BTreeMap::new();
    for object in store.list(&prefix)? {
        let run = object.key.strip_prefix(&prefix).and_then(|rest| rest.strip_prefix('/'));
        let run = run.and_then(|rest| rest.split_once('/')).map(|(run, _)| run.to_owned());
        let (Some(run), Some(number)) = (run, layout::journal_number(&object.key)) else {
            continue;
        };
        let found = last.entry(run).or_default();
        if number > found.0 {
            *found = (number, object.key);
        }
    }
    let keys: Vec<String> = last.values().map(|(_, key)| key.clone()).collect();
    let mut records = Vec::new();
    for (run, bytes) in last.into_keys().zip(store.read_many(&keys, RECORD_LIMIT)) {
        if let Some(bytes) = bytes? {
            records.push((run, bytes));
        }
    }
    Ok(records)
}
