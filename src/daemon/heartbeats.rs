//! Heartbeats: the daemon writes the time at the sources that want it, each in a thread of its own.
//!
//! Whatever becomes of one, no run is held up or fails: a warning says so, and the drill that misses it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::error::Result;
use crate::policy::{Databases, Policy, SourceSpec};
use crate::source::directory;
use crate::source::heartbeat::Writer;
use crate::source::postgres::heartbeat::Pulse;
use crate::telemetry::{Reporter, WarningCode};

/// How often it is said that one still cannot be written.
const AGAIN: Duration = Duration::from_hours(1);

/// What is written, where and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Beating {
    writer: Writer,
    every: Duration,
    place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Directory(PathBuf),
    Postgres { connection: String, database: Option<String> },
}

/// The heartbeats of a daemon. They end with it.
pub struct Heartbeats {
    host: String,
    clock: Arc<dyn Clock>,
    reporter: Reporter,
    going: BTreeMap<(String, String), (Beating, Sender<()>)>,
}

impl Heartbeats {
    /// None yet.
    pub fn new(host: String, clock: Arc<dyn Clock>, reporter: Reporter) -> Self {
        Self { host, clock, reporter, going: BTreeMap::new() }
    }

    /// Other policies are in force: what they want begins, and what they do not want any more ends.
    pub fn policies_changed(&mut self, policies: &[Policy]) {
        let wanted = wanted(policies, &self.host);
        self.going.retain(|key, (beating, _)| wanted.get(key) == Some(beating));
        for (key, beating) in wanted {
            if self.going.contains_key(&key) {
                continue;
            }
            let (stop, stopped) = channel();
            let thread = Thread {
                beating: beating.clone(),
                clock: self.clock.clone(),
                reporter: self.reporter.clone(),
                pulse: None,
                failed: None,
            };
            std::thread::spawn(move || thread.run(&stopped));
            self.going.insert(key, (beating, stop));
        }
    }
}

/// What policies want of a host, by stack and source.
fn wanted(policies: &[Policy], host: &str) -> BTreeMap<(String, String), Beating> {
    let mut wanted = BTreeMap::new();
    for policy in policies {
        for (name, source) in &policy.sources {
            let Some(heartbeat) = source.heartbeat else { continue };
            if source.host.as_deref().is_some_and(|own| own != host) {
                continue;
            }
            let place = match &source.spec {
                SourceSpec::Directory(directory) => {
                    let Some(path) = directory.paths().next() else { continue };
                    Place::Directory(path.to_owned())
                }
                SourceSpec::PostgresCluster(cluster) => {
                    Place::Postgres { connection: cluster.connection.clone(), database: None }
                }
                SourceSpec::PostgresDump(dump) => Place::Postgres {
                    connection: dump.connection.clone(),
                    // What is not dumped is in no copy.
                    database: match &dump.databases {
                        Some(Databases::Names(names)) => names.first().cloned(),
                        Some(Databases::All) | None => None,
                    },
                },
                _ => continue,
            };
            let address = format!("{}/{name}", policy.stack);
            let writer = Writer { host: host.to_owned(), source: address };
            let beating = Beating { writer, every: heartbeat.every.get(), place };
            wanted.insert((policy.stack.clone(), name.clone()), beating);
        }
    }
    wanted
}

struct Thread {
    beating: Beating,
    clock: Arc<dyn Clock>,
    reporter: Reporter,
    pulse: Option<Pulse>,
    /// Since when none can be written: when that was said last.
    failed: Option<Instant>,
}

impl Thread {
    fn run(mut self, stopped: &Receiver<()>) {
        let mut next = Instant::now();
        loop {
            let done = self.beat();
            self.tell(done);
            next += self.beating.every;
            // One that took long is followed by the next in its time, and not by several.
            next = next.max(Instant::now());
            let pause = next.saturating_duration_since(Instant::now());
            if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    fn beat(&mut self) -> Result<()> {
        match &self.beating.place {
            Place::Directory(path) => {
                directory::heartbeat::beat(path, &self.beating.writer, self.clock.now()).map(drop)
            }
            Place::Postgres { connection, database } => {
                if self.pulse.is_none() {
                    self.pulse = Pulse::begin(connection, database.as_deref())?;
                }
                let Some(pulse) = &mut self.pulse else { return Ok(()) };
                let beaten = pulse.beat(&self.beating.writer, self.clock.now());
                if beaten.is_err() {
                    self.pulse = None;
                }
                beaten.map(drop)
            }
        }
    }

    fn tell(&mut self, done: Result<()>) {
        let source = &self.beating.writer.source;
        match done {
            Ok(()) if self.failed.take().is_some() => {
                self.reporter.note(format!("{source}: the heartbeat is written again"));
            }
            Ok(()) => {}
            Err(error) => {
                if self.failed.is_none_or(|said| said.elapsed() >= AGAIN) {
                    self.failed = Some(Instant::now());
                    let text = format!("no heartbeat is written: {}", error.advised());
                    self.reporter.warn(WarningCode::Other, source.clone(), text);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const TEXT: &str = "version: 1\nstack: shop\ntier: development\ntimezone: UTC\nrepositories:\n  \
        main: { local: { path: /srv/repo } }\nsources:\n  files: { directory: { path: /srv/files }, \
        heartbeat: { every: 30s } }\n  far: { directory: { path: /srv/far }, host: other, heartbeat: { \
        every: 30s } }\n  quiet: { directory: { path: /srv/quiet } }\n  dump: { postgres_dump: { \
        connection: 'host=db', databases: [one, two] }, heartbeat: { every: 1m } }\njobs:\n  daily: { \
        sources: all, kind: full, schedule: { every: 12h }, keep: { for: 7d, at_least: 3 } }\n";

    #[test]
    fn only_what_is_wanted_here_beats() {
        let policies = crate::policy::parse(TEXT, "shop.yaml").unwrap().policies;
        let found = wanted(&policies, "here");
        let names: Vec<&str> = found.keys().map(|(_, source)| source.as_str()).collect();
        assert_eq!(names, ["dump", "files"]);
        let dump = &found[&("shop".to_owned(), "dump".to_owned())];
        assert_eq!(dump.every, Duration::from_mins(1));
        assert!(
            matches!(&dump.place, Place::Postgres { database: Some(name), .. } if name == "one"),
            "{dump:?}"
        );
        assert_eq!(wanted(&policies, "other").len(), 3);
    }
}
