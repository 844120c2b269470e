//! What every verb works with.

use std::sync::Arc;

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
        SourceContext { reporter: self.reporter.clone(), clock: self.clock.clone() }
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
}

impl Default for Tuning {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        // More than four do not pay off for the memory they hold: 13 MiB each.
        Self { segment_size: 256 << 20, large_file: 1 << 30, workers: cores.clamp(1, 4) }
    }
}

/// This machine's name, as manifests and intents record it.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
