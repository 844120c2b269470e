//! Where others see what the daemon does: health and metrics read it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::policy::{Period, Policy};

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
        let mut sheet = self.lock();
        path.clone_into(&mut sheet.path);
        (sheet.policies, sheet.loaded, sheet.invalid) = (policies, Some(now), None);
        sheet.published = None;
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
