//! The only place that reads the time of day, so that tests and drills can set it.

use std::sync::{Arc, Mutex};

use jiff::Timestamp;

/// Tells the time. Backups, leases and retention ask this and nothing else.
pub trait Clock: std::fmt::Debug + Send + Sync {
    /// The present instant.
    fn now(&self) -> Timestamp;
}

/// The operating system's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A clock that runs faster than time, from an instant of its own: for schedules in tests.
#[derive(Debug, Clone, Copy)]
pub struct FastClock {
    /// What it shows at `anchor`.
    pub shows: Timestamp,
    /// An instant of the system's clock.
    pub anchor: Timestamp,
    /// How much faster it runs.
    pub factor: i32,
}

impl FastClock {
    /// Reads `SHOWS ANCHOR FACTOR`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        Some(Self {
            shows: words.next()?.parse().ok()?,
            anchor: words.next()?.parse().ok()?,
            factor: words.next()?.parse().ok()?,
        })
    }
}

impl Clock for FastClock {
    fn now(&self) -> Timestamp {
        let passed = Timestamp::now().duration_since(self.anchor).saturating_mul(self.factor);
        self.shows.checked_add(passed).unwrap_or(self.shows)
    }
}

/// The operating system's clock; in debug builds `BACKSTAY_CLOCK` may name a [`FastClock`].
pub fn from_environment() -> Arc<dyn Clock> {
    if cfg!(debug_assertions)
        && let Ok(text) = std::env::var("BACKSTAY_CLOCK")
        && let Some(clock) = FastClock::parse(&text)
    {
        return Arc::new(clock);
    }
    Arc::new(SystemClock)
}

/// A clock that stands still until it is set.
#[derive(Debug)]
pub struct ManualClock(Mutex<Timestamp>);

impl ManualClock {
    /// A clock that shows `now`.
    pub fn new(now: Timestamp) -> Self {
        Self(Mutex::new(now))
    }

    /// Sets the clock, forwards or back.
    pub fn set(&self, now: Timestamp) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = now;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
