//! Where others see what the daemon does: health and metrics read it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::archive::digest::{Digest, sha256_hex};
use crate::policy::{Period, Policy, fingerprint};

/// A round that lies further back than this is the last one of a daemon that hangs.
const SILENCE: Duration = Duration::from_mins(1);

/// How often what is not urgent is copied here.
const PUBLISH: Duration = Duration::from_secs(5);

/// The board. Cheap to clone: all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<Mutex<Sheet>>);

/// What stands on it.
#[derive(Debug, Clone, Default)]
pub struct Sheet {
    /// What is in force.
    pub policies: Arc<Vec<Policy>>,
    /// Where runs read it.
    pub path: PathBuf,
    /// Since when.
    pub loaded: Option<Timestamp>,
    /// What is wrong with the policies as they are in their files now.
    pub invalid: Option<String>,
    /// When each job is due next, by stack and job.
    pub due: Arc<HashMap<(String, String), Option<Timestamp>>>,
    /// The longest interval between two runs, by stack and job.
    pub intervals: Arc<BTreeMap<(String, String), Period>>,
    /// A number made of the files that are in force, of 48 bits: it says whether two are the same.
    pub digest: Option<u64>,
    /// When the daemon last wrote to the state that it is there.
    pub beaten: Option<Timestamp>,
    /// Rounds of the daemon that failed.
    pub failed_rounds: u64,
    ticked: Option<Instant>,
    published: Option<Instant>,
    trouble: Option<String>,
}

impl Board {
    /// What stands on it now.
    pub fn sheet(&self) -> Sheet {
        self.lock().clone()
    }

    /// Policies are in force.
    pub(super) fn loaded(&self, policies: &[Policy], path: &Path, now: Timestamp) {
        let policies = Arc::new(policies.to_vec());
        let digest = digest_of(path);
        let mut sheet = self.lock();
        sheet.digest = digest;
        path.clone_into(&mut sheet.path);
        (sheet.policies, sheet.loaded, sheet.invalid) = (policies, Some(now), None);
        sheet.published = None;
    }

    /// The state took that the daemon is there.
    pub(super) fn beaten(&self, now: Timestamp) {
        self.lock().beaten = Some(now);
    }

    /// Changed policies are not.
    pub(super) fn refused(&self, why: &str) {
        self.lock().invalid = Some(why.to_owned());
    }

    /// A round was done, or failed.
    pub(super) fn ticked(&self, trouble: Option<String>) {
        let mut sheet = self.lock();
        sheet.ticked = Some(Instant::now());
        sheet.failed_rounds += u64::from(trouble.is_some());
        sheet.trouble = trouble;
    }

    /// What is due when.
    pub(super) fn publish(
        &self,
        due: &HashMap<(String, String), Option<Timestamp>>,
        intervals: &BTreeMap<(String, String), Period>,
    ) {
        let mut sheet = self.lock();
        if sheet.published.is_none_or(|instant| instant.elapsed() >= PUBLISH) {
            sheet.published = Some(Instant::now());
            sheet.due = Arc::new(due.clone());
            sheet.intervals = Arc::new(intervals.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Sheet> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of the names and contents of the files that lie there. `None` if one cannot be read.
fn digest_of(path: &Path) -> Option<u64> {
    let mut digest = Digest::default();
    for (file, ..) in fingerprint(path) {
        digest.update(file.file_name()?.as_encoded_bytes());
        digest.update(&[0]);
        digest.update(sha256_hex(&std::fs::read(&file).ok()?).as_bytes());
    }
    u64::from_str_radix(digest.finish_hex().get(..12)?, 16).ok()
}

impl Sheet {
    /// Why the daemon is not at work, if it is not.
    pub fn is_stuck(&self) -> Option<String> {
        let ticked = self.ticked?;
        let silent = ticked.elapsed();
        (silent > SILENCE).then(|| format!("the last round was {} s ago", silent.as_secs()))
    }

    /// Why the daemon is not ready, if it is not.
    pub fn is_not_ready(&self) -> Option<String> {
        if self.loaded.is_none() {
            return Some("no policy is loaded yet".to_owned());
        }
        if self.ticked.is_none() {
            return Some("the first round is not done yet".to_owned());
        }
        self.is_stuck().or_else(|| self.trouble.clone().map(|why| format!("the state: {why}")))
    }
}
