//! WAL that is written while a base backup runs, stored segment by segment beside it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::archive::wal::{Lsn, WalSegment, check_segment};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::source::postgres::replication::{Replication, WalNews, WalStream};
use crate::store::WalStore;

/// How often the server is told that somebody listens; it gives up after `wal_sender_timeout`, a
/// minute by default.
const REPORT: Duration = Duration::from_secs(10);

/// How long nothing may come once it is known what is missing.
const PATIENCE: Duration = Duration::from_mins(2);

/// What is to be received.
pub(super) struct Wanted {
    /// The slot that keeps WAL meanwhile.
    pub(super) slot: String,
    /// Where the backup begins.
    pub(super) from: Lsn,
    /// Its timeline.
    pub(super) timeline: u32,
    /// The cluster.
    pub(super) system_id: u64,
    /// Bytes in a segment.
    pub(super) segment_size: u64,
    /// Whether the server may be told what is durable. Where commits wait for standbys it may
    /// not: they would wait for whole segments.
    pub(super) acknowledge: bool,
}

/// A thread that receives.
pub(super) struct Receiver {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<Received>>>,
}

/// What was received beyond whole segments.
#[derive(Default)]
pub(super) struct Received {
    /// Name and content, filled up with zeros, of a segment that the server is still writing and
    /// of which the backup needs the beginning.
    pub(super) tail: Option<(String, Vec<u8>)>,
}

#[derive(Default)]
struct Shared {
    goal: Mutex<Option<Goal>>,
    over: AtomicBool,
    given_up: AtomicBool,
}

#[derive(Clone, Copy)]
struct Goal {
    stop: Lsn,
    /// The server completes the last segment; otherwise nobody knows when.
    whole: bool,
}

impl Receiver {
    /// Begins to receive.
    pub(super) fn start(
        session: Replication,
        wanted: Wanted,
        store: WalStore,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let first = WalSegment::of(wanted.timeline, wanted.from, wanted.segment_size);
        let start = first.start(wanted.segment_size);
        let stream = session.start_wal(Some(&wanted.slot), start, wanted.timeline)?;
        let shared = Arc::new(Shared::default());
        let mut work = Work {
            stream,
            store,
            clock,
            shared: shared.clone(),
            segment: first,
            buffer: Vec::with_capacity(wanted.segment_size as usize),
            durable: start,
            wanted,
            heard: Instant::now(),
            reported: Instant::now(),
        };
        let thread = std::thread::Builder::new().name("receive-wal".to_owned()).spawn(move || {
            let result = work.run();
            work.shared.over.store(true, Ordering::SeqCst);
            result
        });
        let thread =
            thread.map_err(|error| Error::io("failed to start a thread for WAL", error))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// An error if receiving ended: nobody asked it to.
    pub(super) fn check(&mut self) -> Result<()> {
        if !self.shared.over.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.join().and_then(|_| Err(Error::failed("receiving WAL ended too early")))
    }

    /// Waits until everything up to `stop` is stored.
    pub(super) fn finish(mut self, stop: Lsn, whole: bool) -> Result<Received> {
        *self.shared.goal.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Goal { stop, whole });
        self.join()
    }

    fn join(&mut self) -> Result<Received> {
        let ended = || Error::failed("the thread that receives WAL is gone");
        let thread = self.thread.take().ok_or_else(ended)?;
        thread.join().unwrap_or_else(|_| Err(ended()))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.given_up.store(true, Ordering::SeqCst);
        if self.thread.is_some() {
            let _ = self.join();
        }
    }
}

struct Work {
    stream: WalStream,
    store: WalStore,
    clock: Arc<dyn Clock>,
    shared: Arc<Shared>,
    wanted: Wanted,
    segment: WalSegment,
    buffer: Vec<u8>,
    durable: Lsn,
    heard: Instant,
    reported: Instant,
}

impl Work {
    fn run(&mut self) -> Result<Received> {
        let size = self.wanted.segment_size;
        loop {
            if self.shared.given_up.load(Ordering::SeqCst) {
                return Err(Error::new(ErrorKind::Interrupted, "interrupted"));
            }
            let mut asked = false;
            match self.stream.news()? {
                WalNews::Data { .. } => {
                    self.heard = Instant::now();
                    self.take()?;
                }
                WalNews::Alive { asks, .. } => asked = asks,
                WalNews::Silence => {}
                WalNews::TimelineEnd => {
                    return Err(Error::new(
                        ErrorKind::Conflict,
                        format!(
                            "timeline {} ended while the backup ran: another server was promoted",
                            self.wanted.timeline
                        ),
                    )
                    .hint("run the backup again"));
                }
            }
            if asked || self.reported.elapsed() > REPORT {
                self.report()?;
            }
            let goal = *self.shared.goal.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(goal) = goal else {
                // Silence counts only once it is known that something must come.
                self.heard = Instant::now();
                continue;
            };
            let last = goal.stop.0.saturating_sub(1) / size;
            if self.segment.number > last {
                return Ok(Received::default());
            }
            if !goal.whole && self.position() >= goal.stop {
                let mut tail = std::mem::take(&mut self.buffer);
                tail.resize(size as usize, 0);
                return Ok(Received { tail: Some((self.segment.name(size), tail)) });
            }
            if self.heard.elapsed() > PATIENCE {
                return Err(Error::new(
                    ErrorKind::Unreachable,
                    format!(
                        "the server sends no more WAL: it is at {}, and the backup needs it up to {}",
                        self.position(),
                        goal.stop
                    ),
                )
                .hint("is this a standby that lost its primary?"));
            }
        }
    }

    fn position(&self) -> Lsn {
        Lsn(self.segment.start(self.wanted.segment_size).0 + self.buffer.len() as u64)
    }

    fn take(&mut self) -> Result<()> {
        let size = self.wanted.segment_size as usize;
        let mut at = 0;
        while let Some(bytes) = self.stream.data().get(at..).filter(|bytes| !bytes.is_empty()) {
            let count = bytes.len().min(size - self.buffer.len());
            self.buffer.extend_from_slice(&bytes[..count]);
            at += count;
            if self.buffer.len() == size {
                self.store()?;
            }
        }
        Ok(())
    }

    fn store(&mut self) -> Result<()> {
        let Wanted { system_id, segment_size, .. } = self.wanted;
        check_segment(&self.buffer, system_id, self.segment, segment_size)?;
        let name = self.segment.name(segment_size);
        self.store.put(system_id, &name, &self.buffer)?;
        self.buffer.clear();
        self.segment.number += 1;
        self.durable = self.segment.start(segment_size);
        Ok(())
    }

    fn report(&mut self) -> Result<()> {
        self.reported = Instant::now();
        let durable = if self.wanted.acknowledge { self.durable } else { Lsn(0) };
        let time = self.clock.now().as_microsecond();
        self.stream.report(self.position(), durable, time)
    }
}
