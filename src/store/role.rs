//! Which site of a stack is active: one record for each epoch, created once and never removed.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::blocking::Store;
use super::catalogue::to_json;
use super::coordination::{CONTROL_LIMIT, Worker};
use super::layout;
use crate::error::{Error, Result};

/// The version of records that this program writes and reads.
const VERSION: u32 = 1;

/// The site that is active since an epoch began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveSite {
    /// Format version.
    #[serde(rename = "role")]
    pub version: u32,
    /// Counts from 1.
    pub epoch: u64,
    /// The site.
    pub site: String,
    /// Since when.
    pub time: Timestamp,
    /// The run of a playbook that made it so.
    pub run: String,
    /// How it is known that the site before takes no writes: what a server refused, or who attested it.
    pub fence: String,
    /// Who wrote it.
    pub by: Worker,
    /// Tells this write from another's.
    pub nonce: String,
}

impl ActiveSite {
    /// A new record.
    pub fn new(
        epoch: u64,
        site: &str,
        run: &str,
        fence: &str,
        by: Worker,
        time: Timestamp,
    ) -> Self {
        Self {
            version: VERSION,
            epoch,
            site: site.to_owned(),
            time,
            run: run.to_owned(),
            fence: fence.to_owned(),
            by,
            nonce: crate::id::nonce(),
        }
    }
}

/// The epochs of a stack.
#[derive(Debug, Clone)]
pub struct RoleStore {
    store: Store,
    stack: String,
}

impl RoleStore {
    /// Of a stack, in the one repository that holds them.
    pub fn new(store: &Store, stack: &str) -> Self {
        Self { store: store.clone(), stack: stack.to_owned() }
    }

    /// The present one. `None` where no playbook ever made a site the active one.
    pub fn current(&self) -> Result<Option<ActiveSite>> {
        let listed = self.store.list(&layout::roles(&self.stack))?;
        let newest = listed.iter().filter_map(|one| layout::journal_number(&one.key)).max();
        newest.map(|epoch| self.read(epoch)).transpose()
    }

    /// All of them, oldest first. Records never change: of those that are `known` the last one is read
    /// again, and the others only if that one is not what it was.
    pub fn history(&self, known: &[ActiveSite]) -> Result<Vec<ActiveSite>> {
        let listed = self.store.list(&layout::roles(&self.stack))?;
        let mut epochs: Vec<u64> =
            listed.iter().filter_map(|one| layout::journal_number(&one.key)).collect();
        epochs.sort_unstable();
        let known = match known.last() {
            Some(last) if epochs.contains(&last.epoch) && self.read(last.epoch)? == *last => known,
            _ => &[],
        };
        let at = |epoch: u64| known.iter().find(|one| one.epoch == epoch).cloned();
        epochs.into_iter().map(|epoch| at(epoch).map_or_else(|| self.read(epoch), Ok)).collect()
    }

    fn read(&self, epoch: u64) -> Result<ActiveSite> {
        let key = layout::role(&self.stack, epoch);
        let damaged = || Error::damaged(format!("the role {key} is damaged"));
        let bytes = self.store.read_if_exists(&key, CONTROL_LIMIT)?.ok_or_else(damaged)?;
        let found: ActiveSite =
            serde_json::from_slice(&bytes).map_err(|error| damaged().with_source(error))?;
        if found.version > VERSION {
            let what = format!("the role {key} has format {}; this program reads 1", found.version);
            return Err(Error::unsupported(what).hint("use a newer backstay"));
        }
        if found.epoch != epoch {
            return Err(damaged());
        }
        Ok(found)
    }

    /// Begins an epoch. `Ok(false)`: somebody else began it.
    pub fn begin(&self, site: &ActiveSite) -> Result<bool> {
        let key = layout::role(&self.stack, site.epoch);
        self.store.create_ours(&key, &to_json(site, &key)?)
    }
}
