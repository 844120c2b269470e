//! What every verb works with.

use std::sync::Arc;

use jiff::SignedDuration;

use super::prune;
use crate::clock::Clock;
use crate::source::SourceContext;
use crate::telemetry::Reporter;

/// Reporter, clock and sizes.
#[derive(Debug, Clone)]
pub struct Context {
    /// Where work reports, and learns that it is to stop.
    pub reporter: Reporter,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Sizes and counts.
    pub tuning: Tuning,
}

impl Context {
    /// The same with counters of its own.
    #[must_use]
    pub fn fresh(&self) -> Self {
        Self { reporter: self.reporter.fresh(), ..self.clone() }
    }

    /// What a source needs of it.
    pub fn for_source(&self) -> SourceContext {
        SourceContext {
            reporter: self.reporter.clone(),
            clock: self.clock.clone(),
            dry_run: false,
            wal: None,
            earlier: None,
            snapshots: None,
        }
    }
}

/// Sizes that tests make small and machines make large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// Stored bytes after which a segment ends.
    pub segment_size: u64,
    /// Files larger than this become streams of their own.
    pub large_file: u64,
    /// Threads that compress, or restore.
    pub workers: usize,
    /// The times that prune goes by, but for the grace period of the policy.
    pub prune: prune::Times,
}

impl Default for Tuning {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        // More than four do not pay off for the memory they hold: 13 MiB each.
        Self {
            segment_size: 256 << 20,
            large_file: 1 << 30,
            workers: cores.clamp(1, 4),
            prune: prune::Times::default(),
        }
    }
}

impl Tuning {
    /// The usual sizes. In debug builds `BACKSTAY_TUNING=grace=2,window=0.5` makes the times of
    /// prune as short as tests need them, in seconds.
    pub fn from_environment() -> Self {
        let mut tuning = Self::default();
        if cfg!(debug_assertions)
            && let Ok(text) = std::env::var("BACKSTAY_TUNING")
        {
            for (name, seconds) in text.split(',').filter_map(|item| item.split_once('=')) {
                let Ok(seconds) = seconds.parse::<f64>() else { continue };
                let period = SignedDuration::from_secs_f64(seconds);
                match name {
                    "grace" => tuning.prune.grace = period,
                    "silence" => tuning.prune.silence = period,
                    "copy_silence" => tuning.prune.copy_silence = period,
                    "window" => tuning.prune.window = period,
                    "linger" => tuning.prune.linger = period,
                    "lease" => tuning.prune.lease = period,
                    "hold" => tuning.prune.hold = period,
                    _ => {}
                }
            }
        }
        tuning
    }
}

/// The environment variable with the label of this host, where that is not its name.
pub const HOST_LABEL: &str = "BACKSTAY_HOST";

/// This machine's label or name, as manifests and intents record it.
pub fn host_name() -> String {
    if let Some(label) = std::env::var(HOST_LABEL).ok().filter(|label| !label.is_empty()) {
        return label;
    }
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
