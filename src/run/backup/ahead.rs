//! Reads the base's index ahead of the source's walk, in a thread of its own: decoding one costs
//! about as much as the other, and an unchanged tree is nothing but these two.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::base::BaseIndex;
use crate::archive::entry::Entry;
use crate::error::Result;

/// Entries that are handed over at once.
const BATCH: usize = 256;

/// Batches that wait.
const QUEUED: usize = 4;

/// An entry, and the line of the index that it was read from.
pub type Lined = (Entry, Vec<u8>);

/// The entries of a base, in order.
pub struct Ahead {
    batches: Receiver<Result<Vec<Lined>>>,
    batch: std::vec::IntoIter<Lined>,
}

/// The entries, and what has to be run in a thread to bring them: [`read`].
pub fn ahead() -> (SyncSender<Result<Vec<Lined>>>, Ahead) {
    let (send, batches) = sync_channel(QUEUED);
    (send, Ahead { batches, batch: Vec::new().into_iter() })
}

/// Reads an index to its end, or until nobody wants more of it.
pub fn read(mut index: BaseIndex, send: &SyncSender<Result<Vec<Lined>>>) {
    loop {
        let batch = next_batch(&mut index);
        let over = batch.as_ref().map_or(true, |batch| batch.len() < BATCH);
        if send.send(batch).is_err() || over {
            return;
        }
    }
}

fn next_batch(index: &mut BaseIndex) -> Result<Vec<Lined>> {
    let mut batch = Vec::with_capacity(BATCH);
    while batch.len() < BATCH
        && let Some(entry) = index.next_entry()?
    {
        batch.push((entry, index.last_line().to_vec()));
    }
    Ok(batch)
}

impl Ahead {
    /// The next entry. After an error nothing more comes.
    pub fn next_entry(&mut self) -> Result<Option<Lined>> {
        if let Some(next) = self.batch.next() {
            return Ok(Some(next));
        }
        // A reader that is gone said all it had.
        let Ok(batch) = self.batches.recv() else { return Ok(None) };
        self.batch = batch?.into_iter();
        Ok(self.batch.next())
    }
}
