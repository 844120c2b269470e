//! Rate limits.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lets at most so many bytes a second pass, evened out over the bytes that come at once.
#[derive(Debug, Default)]
pub struct RateLimit {
    rate: Option<u64>,
    next: Mutex<Option<Instant>>,
}

impl RateLimit {
    /// At most `rate` bytes a second; `None` or 0 is no limit.
    pub fn new(rate: Option<u64>) -> Self {
        Self { rate: rate.filter(|rate| *rate > 0), next: Mutex::default() }
    }

    /// Waits until `bytes` may pass.
    pub fn take(&self, bytes: u64) {
        let Some(rate) = self.rate else { return };
        let cost = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let wait = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let start = next.map_or(now, |next| next.max(now));
            *next = Some(start + cost);
            start.saturating_duration_since(now) + cost
        };
        std::thread::sleep(wait);
    }
}
