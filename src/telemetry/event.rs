//! The events and the handle they are reported through.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use super::progress::{Progress, ProgressSnapshot};
use crate::error::{Error, ErrorKind, Result};

/// How much an event matters to a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// For whoever watches.
    Info,
    /// Unexpected, but the work went on.
    Warning,
}

/// Why a warning was given. Stable: scripts may match on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WarningCode {
    /// A socket or FIFO: it has no content to back up.
    SkippedSpecial,
    /// The file changed while it was read; what was read is stored and marked.
    Changed,
    /// The file was listed and gone when it was to be read.
    Vanished,
    /// An incremental was asked for and a full was taken.
    BecameFull,
    /// This machine's clock is behind the newest backup's.
    ClockBehind,
    /// The repository was accepted although its store failed a probe.
    WeakStore,
    /// An attribute could not be set on restore.
    Attribute,
    /// An entry could not be restored; the others were.
    Refused,
    /// An object is left behind that prune will collect.
    LeftBehind,
    /// A stored object is missing or damaged.
    Damage,
    /// Anything else.
    Other,
}

/// Something that happened.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A piece of work on one source began.
    Started {
        /// `backup`, `restore`, `verify` …
        verb: &'static str,
        /// `STACK/SOURCE`.
        source: String,
        /// The backup it is about, once it has a name.
        backup: Option<String>,
        /// The kind of backup, for `backup`.
        kind: Option<String>,
    },
    /// What is being done now, in a few words.
    Phase {
        /// `reading`, `committing`, `planning` …
        phase: &'static str,
    },
    /// How far the work is. Sent about five times a second.
    Progress(ProgressSnapshot),
    /// Unexpected, but the work went on.
    Warning {
        /// Why.
        code: WarningCode,
        /// The file or object it is about.
        subject: Option<String>,
        /// One line for a person.
        message: String,
    },
    /// One line that matters to whoever watches.
    Note {
        /// The line.
        message: String,
    },
    /// A note or a warning about a run of the daemon.
    #[serde(untagged)]
    OfRun(OfRun),
}

/// What is said of a run of the daemon.
#[derive(Debug, Clone, Serialize)]
pub struct OfRun {
    /// `note` or `warning`, as of other events.
    pub event: &'static str,
    /// Why it is a warning, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<WarningCode>,
    /// One line for a person.
    pub message: String,
    /// The stack.
    pub stack: String,
    /// The source; empty for a run that is not of one source.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// The job.
    pub job: String,
    /// The id of the run.
    pub run: String,
}

/// Where events go. Called from many threads; must not block for long.
pub trait EventSink: Send + Sync {
    /// Takes one event.
    fn emit(&self, event: Event);
}

impl<F: Fn(Event) + Send + Sync> EventSink for F {
    fn emit(&self, event: Event) {
        self(event);
    }
}

/// The handle work reports through and learns of cancellation from. Cheap to clone.
#[derive(Clone)]
pub struct Reporter {
    sink: Arc<dyn EventSink>,
    progress: Arc<Progress>,
    cancelled: Arc<AtomicBool>,
    hung_up: Arc<AtomicBool>,
}

impl Reporter {
    /// Reports to `sink`.
    pub fn new(sink: Arc<dyn EventSink>) -> Self {
        Self { sink, progress: Arc::default(), cancelled: Arc::default(), hung_up: Arc::default() }
    }

    /// Reports to nobody.
    pub fn silent() -> Self {
        Self::new(Arc::new(|_: Event| {}))
    }

    /// The same sink and cancellation, with counters of its own: one per source.
    #[must_use]
    pub fn fresh(&self) -> Self {
        Self {
            sink: self.sink.clone(),
            progress: Arc::default(),
            cancelled: self.cancelled.clone(),
            hung_up: self.hung_up.clone(),
        }
    }

    /// Asks whoever goes on for long to read its settings again.
    pub fn hang_up(&self) {
        self.hung_up.store(true, Ordering::SeqCst);
    }

    /// Whether somebody asked for that since this was last looked at.
    pub fn take_hangup(&self) -> bool {
        self.hung_up.swap(false, Ordering::SeqCst)
    }

    /// Sends an event.
    pub fn emit(&self, event: Event) {
        self.sink.emit(event);
    }

    /// Says what is being done now.
    pub fn phase(&self, phase: &'static str) {
        self.emit(Event::Phase { phase });
    }

    /// Sends a warning and counts it.
    pub fn warn(
        &self,
        code: WarningCode,
        subject: impl Into<Option<String>>,
        message: impl Into<String>,
    ) {
        self.progress.count_warning();
        self.emit(Event::Warning { code, subject: subject.into(), message: message.into() });
    }

    /// Sends a line for whoever watches.
    pub fn note(&self, message: impl Into<String>) {
        self.emit(Event::Note { message: message.into() });
    }

    /// The counters.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Asks all work that reports here to stop.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
    }

    /// Whether the work was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// An error of kind [`ErrorKind::Interrupted`] if the work was asked to stop.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            return Err(Error::new(ErrorKind::Interrupted, "interrupted"));
        }
        Ok(())
    }
}

impl std::fmt::Debug for Reporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reporter").field("cancelled", &self.is_cancelled()).finish_non_exhaustive()
    }
}
