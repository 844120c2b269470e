//! `wait`: a while, counted from when the step first began, whoever waits.

use jiff::{SignedDuration, Timestamp};

use crate::error::Result;
use crate::playbook::action::{Action, Job, Observed, Preview};
use crate::playbook::record::Outputs;
use crate::policy::WaitAction;

/// Waits.
pub struct Wait(pub WaitAction);

impl Wait {
    fn left(&self, job: &Job<'_>) -> SignedDuration {
        let period = SignedDuration::try_from(self.0.period.get()).unwrap_or(SignedDuration::MAX);
        let until = job.began.checked_add(period).unwrap_or(Timestamp::MAX);
        until.duration_since(job.cx.clock.now())
    }
}

impl Action for Wait {
    fn preview(&self, _job: &Job<'_>) -> Result<Preview> {
        Ok(Preview::of(format!("waits for {}", self.0.period)))
    }

    fn observe(&self, job: &Job<'_>) -> Result<Observed> {
        let over = !self.left(job).is_positive();
        Ok(if over { Observed::Done(Outputs::new()) } else { Observed::NotDone })
    }

    fn apply(&self, job: &Job<'_>) -> Result<Outputs> {
        loop {
            let left = self.left(job);
            if !left.is_positive() {
                return Ok(Outputs::new());
            }
            job.pause(left.unsigned_abs().min(std::time::Duration::from_secs(1)))?;
        }
    }
}
