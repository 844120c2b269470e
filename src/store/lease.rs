//! Leases: who does something that two should not do at once.
//!
//! A lease is the highest number under its name. Taking it is creating the next one, create-only;
//! renewing and giving it back are the same. **A lease saves work and protects nothing**: whoever
//! holds one may be stopped for an hour and wake up. What must not happen twice is prevented by
//! `protocol`, by create-only commits and, for sites, by epochs.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::blocking::{Listed, Store};
use super::catalogue::to_json;
use super::coordination::{CONTROL_LIMIT, Worker};
use super::layout;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::id;

/// One number of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// Format version.
    #[serde(rename = "lease")]
    version: u32,
    by: Worker,
    /// The machine's boot and the namespace of process ids: a process id means nothing in another one.
    boot: String,
    purpose: String,
    created: Timestamp,
    /// How long it counts, in seconds, from the store's own time of it.
    seconds: i64,
    /// Given back: it no longer counts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    released: bool,
    nonce: String,
}

/// How a lease is to be taken.
#[derive(Debug, Clone)]
pub struct Terms<'a> {
    /// The stack.
    pub stack: &'a str,
    /// The name: `prune`.
    pub name: &'a str,
    /// What for, in messages of those who are turned away.
    pub purpose: &'a str,
    /// How long it counts without renewal.
    pub period: SignedDuration,
    /// Who asks.
    pub by: Worker,
}

/// A lease that is held, renewed in the background, and given back when it is dropped.
#[derive(Debug)]
pub struct Lease {
    stored_at: Timestamp,
    keeping: Arc<Mutex<Keeping>>,
    stop: Option<Sender<()>>,
    renewing: Option<JoinHandle<()>>,
}

impl Lease {
    /// Takes a lease; somebody else's is [`ErrorKind::Busy`].
    pub fn take(store: &Store, terms: &Terms<'_>, clock: &Arc<dyn Clock>) -> Result<Self> {
        let numbers =
            Numbers { store: store.clone(), directory: layout::lease(terms.stack, terms.name) };
        let highest = numbers.highest()?;
        if let Some((_, listed)) = &highest
            && let Some(record) = numbers.read(listed)?
            && let Some(until) = record.counts_until(listed.stored_at, clock.now(), &terms.by)
        {
            return Err(busy(terms, &record, until));
        }
        let record = Record {
            version: 1,
            by: terms.by.clone(),
            boot: boot_id(),
            purpose: terms.purpose.to_owned(),
            created: clock.now(),
            seconds: terms.period.as_secs(),
            released: false,
            nonce: id::nonce(),
        };
        let number = highest.map_or(1, |(number, _)| number + 1);
        let taken = || {
            Error::new(
                ErrorKind::Busy,
                format!("somebody else began to {} just now", terms.purpose),
            )
            .hint("try again when it is done")
        };
        let begun = Instant::now();
        if !numbers.create(number, &record)? {
            return Err(taken());
        }
        // Twice: a store whose listings lag shows the truth the second time, or not at all.
        let mut stored_at = record.created;
        for _ in 0..2 {
            match numbers.highest()? {
                Some((found, listed)) if found == number => stored_at = listed.stored_at,
                _ => return Err(taken()),
            }
        }
        numbers.delete_below(number);
        let (stop, stopped) = channel();
        let period = terms.period.unsigned_abs();
        let keeping = Arc::new(Mutex::new(Keeping {
            numbers,
            record,
            number,
            clock: clock.clone(),
            period,
            renewed: begun,
            lost: false,
        }));
        let kept = keeping.clone();
        let renewing = std::thread::spawn(move || {
            while stopped.recv_timeout(period / 3) == Err(RecvTimeoutError::Timeout) {
                lock(&kept).renew();
            }
            lock(&kept).release();
        });
        Ok(Self { stored_at, keeping, stop: Some(stop), renewing: Some(renewing) })
    }

    /// When the store took it: the store's clock, as it was just now.
    pub fn stored_at(&self) -> Timestamp {
        self.stored_at
    }

    /// Fails once somebody else has it. Where it was not renewed in time, because this process stood
    /// still or the store did not answer, it is renewed first: only the store knows whose it is then.
    pub fn check(&self) -> Result<()> {
        let mut keeping = lock(&self.keeping);
        let ours = !keeping.lost && (keeping.counts() || keeping.renew());
        if !ours {
            return Err(Error::new(ErrorKind::Busy, "somebody else took the lease over")
                .hint("this process was stopped for too long, or its renewals failed"));
        }
        Ok(())
    }
}

fn lock(keeping: &Mutex<Keeping>) -> MutexGuard<'_, Keeping> {
    keeping.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(renewing) = self.renewing.take() {
            let _ = renewing.join();
        }
    }
}

fn busy(terms: &Terms<'_>, record: &Record, until: Timestamp) -> Error {
    Error::new(
        ErrorKind::Busy,
        format!(
            "{} has the lease `{}` of {}: {}",
            record.by, terms.name, terms.stack, record.purpose
        ),
    )
    .hint(format!("if that process is gone, the lease ends by itself at {until}"))
}

impl Record {
    /// Until when it counts, or `None` if it no longer does.
    fn counts_until(&self, stored_at: Timestamp, now: Timestamp, me: &Worker) -> Option<Timestamp> {
        let until = stored_at.checked_add(SignedDuration::from_secs(self.seconds)).ok()?;
        let died = self.by.host == me.host && self.boot == boot_id() && !is_running(self.by.pid);
        (!self.released && !died && now < until).then_some(until)
    }
}

/// Containers on one host have its boot, and maybe its name, but do not see each other's processes.
fn boot_id() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let namespace = std::fs::read_link("/proc/self/ns/pid");
    match (boot, namespace) {
        (Ok(boot), Ok(namespace)) => format!("{} {}", boot.trim(), namespace.display()),
        // What cannot be told is like nothing else.
        _ => crate::id::nonce(),
    }
}

/// Where it cannot be told, a process counts as running.
pub(super) fn is_running(pid: u32) -> bool {
    !std::path::Path::new("/proc/self").exists()
        || std::path::Path::new(&format!("/proc/{pid}")).exists()
}

/// The numbers under one name.
#[derive(Debug)]
struct Numbers {
    store: Store,
    directory: String,
}

impl Numbers {
    fn all(&self) -> Result<Vec<(u64, Listed)>> {
        let number = |listed: &Listed| {
            let name = listed.key.strip_prefix(&self.directory)?.strip_prefix('/')?;
            name.strip_suffix(".json")?.parse().ok()
        };
        let listed = self.store.list(&self.directory)?.into_iter();
        let mut all: Vec<(u64, Listed)> =
            listed.filter_map(|listed| Some((number(&listed)?, listed))).collect();
        all.sort_by_key(|(number, _)| *number);
        Ok(all)
    }

    fn highest(&self) -> Result<Option<(u64, Listed)>> {
        Ok(self.all()?.pop())
    }

    fn read(&self, listed: &Listed) -> Result<Option<Record>> {
        let Some(bytes) = self.store.read_if_exists(&listed.key, CONTROL_LIMIT)? else {
            return Ok(None);
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Error::damaged(format!("the lease {} is damaged", listed.key)).with_source(error)
        })
    }

    fn create(&self, number: u64, record: &Record) -> Result<bool> {
        let key = format!("{}/{number}.json", self.directory);
        self.store.check_there()?;
        self.store.create_ours(&key, &to_json(record, &key)?)
    }

    /// Removes older numbers. The highest stays for ever, so that numbers only grow.
    fn delete_below(&self, number: u64) {
        let Ok(all) = self.all() else { return };
        for (_, listed) in all.into_iter().filter(|(other, _)| *other < number) {
            // The next one who takes the lease tries again.
            let _ = self.store.delete(&listed.key);
        }
    }
}

#[derive(Debug)]
struct Keeping {
    numbers: Numbers,
    record: Record,
    number: u64,
    clock: Arc<dyn Clock>,
    period: Duration,
    /// When what the store has was sent there: the store's own time of it is not before that.
    renewed: Instant,
    lost: bool,
}

impl Keeping {
    /// Whether nobody can have taken it since.
    fn counts(&self) -> bool {
        self.renewed.elapsed() < self.period
    }

    /// Whether the store took the next number.
    fn renew(&mut self) -> bool {
        if self.lost {
            return false;
        }
        self.record.created = self.clock.now();
        let begun = Instant::now();
        match self.numbers.create(self.number + 1, &self.record) {
            Ok(true) => {
                self.number += 1;
                self.renewed = begun;
                self.numbers.delete_below(self.number);
                true
            }
            Ok(false) => {
                self.lost = true;
                false
            }
            // It still counts for a while; the next renewal may get through.
            Err(_) => false,
        }
    }

    fn release(&mut self) {
        self.record.released = true;
        self.record.created = self.clock.now();
        if !self.lost && matches!(self.numbers.create(self.number + 1, &self.record), Ok(true)) {
            self.numbers.delete_below(self.number + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::clock::SystemClock;
    use crate::store::{Location, layout};

    #[test]
    fn who_was_late_asks_the_store_whose_it_is() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join(layout::DESCRIPTOR), "{}").unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let location = Location::parse(place.path().to_str().unwrap()).unwrap();
        let store = location.connect(runtime.handle(), true).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let period = SignedDuration::from_hours(1);
        let by = Worker::here("here".to_owned());
        let terms = Terms { stack: "demo", name: "prune", purpose: "prune", period, by };
        let lease = Lease::take(&store, &terms, &clock).unwrap();
        let number = || lock(&lease.keeping).number;
        let late = || lock(&lease.keeping).period = Duration::ZERO;
        lease.check().unwrap();
        assert_eq!(number(), 1, "in time: nobody is asked");
        late();
        lease.check().unwrap();
        assert_eq!(number(), 2, "late, and nobody took it");
        {
            let keeping = lock(&lease.keeping);
            assert!(keeping.numbers.create(3, &keeping.record).unwrap());
        }
        let error = lease.check().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error:?}");
        assert!(lease.check().is_err() && number() == 2, "for good");
    }
}
