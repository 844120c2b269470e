//! What daemons that share a state owe each other: to say that they are there, to take over from
//! those that are not, and to let go of what others took.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::time::Duration;

use jiff::Timestamp;

use super::adopt;
use super::engine::{Engine, Going, MEMORY};
use super::supervise::{EPOCH, LEASE, Reason, Stop};
use super::tick::is_replaced;
use crate::error::Result;
use crate::state::{Epoch, RunRow};

/// How often the daemon says that it is still there, and looks for others that are not; more often
/// where less silence is borne.
const BEAT: Duration = Duration::from_secs(5);

/// How long after trouble with the state nothing is taken over: those that are there had the same
/// trouble, and say so first.
const AFTER_TROUBLE: Duration = Duration::from_secs(20);

/// The most that is kept of what a run said, from the end.
const WORDS: u64 = 1 << 20;

impl Engine<'_> {
    /// How often [`Engine::beat`] is due.
    pub(super) fn pulse(&self) -> Duration {
        let silence = Duration::try_from(self.settings.silence).unwrap_or(BEAT);
        BEAT.min(silence / 4).max(Duration::from_millis(200))
    }

    /// What a process of a run learns of its lease.
    pub(super) fn lease(&self, epoch: Epoch) -> Vec<(&'static str, String)> {
        if self.fleet.is_none() {
            return Vec::new();
        }
        let silence = self.settings.silence.as_secs().to_string();
        vec![(EPOCH, epoch.to_string()), (LEASE, silence)]
    }

    /// Renews what this daemon has, ends what is not its own any more, and takes over what others
    /// that are gone had.
    pub(super) fn beat(&mut self, now: Timestamp) -> Result<()> {
        let held = self.state.beat(&self.owner, &self.settings.host, now)?;
        // Whichever daemon found that a later run takes the place of another could only cancel it.
        let shared = self.fleet.is_some() && held.iter().any(|held| held.cancelled);
        let open = if shared { self.state.open_runs()? } else { Vec::new() };
        let mut lost = Vec::new();
        for (id, going) in &mut self.running {
            match held.iter().find(|held| held.id == *id && held.epoch == going.epoch) {
                Some(held) if held.cancelled => {
                    let replaced = is_replaced(&self.policies, &open, &going.row, now);
                    let reason = if replaced { Reason::Replaced } else { Reason::Cancelled };
                    going.stop.now(reason);
                }
                None if self.fleet.is_some() && !going.lost => {
                    going.lost = true;
                    going.stop.now(Reason::Lost);
                    lost.push(going.row.clone());
                }
                Some(_) | None => {}
            }
        }
        for row in lost {
            self.warn_of(&row, "another daemon took it over: it is ended here");
        }
        // Claimed by this daemon, which did not learn of it: the answer was lost.
        for held in held {
            let known = self.running.contains_key(&held.id)
                || self.unwritten.iter().any(|(going, _)| going.row.id == held.id);
            if !known && let Some(row) = self.state.run(&held.id)? {
                self.look(row, held.epoch);
            }
        }
        let settled =
            self.fleet.is_none() || self.well.is_some_and(|since| since.elapsed() >= AFTER_TROUBLE);
        if settled && !self.is_ending() {
            let silence = self.settings.silence;
            for (row, epoch) in self.state.take_over(&self.owner, silence, now)? {
                self.warn_of(&row, "whoever did it is gone: looking what came of it");
                self.look(row, epoch);
            }
        }
        if let Some(fleet) = &mut self.fleet {
            fleet.hosts = self.state.hosts(self.settings.silence)?;
            self.protected = self.state.newest_successes()?;
            self.tell_words()?;
        }
        self.state.forget_runs(now.checked_sub(MEMORY).unwrap_or(now)).map(drop)
    }

    /// Looks what came of a run that somebody else began.
    fn look(&mut self, row: RunRow, epoch: Epoch) {
        let mut program = self.settings.program.clone();
        program.extend(["--policy".into(), self.force.path().into()]);
        let stop: Stop = adopt::start(&program, &row, self.tell.clone());
        let going = Going { stop, row, epoch, adopted: true, lost: false, said: 0 };
        self.running.insert(going.row.id.clone(), going);
    }

    /// Writes down what could not be written down when it happened.
    pub(super) fn write_late(&mut self) -> Result<()> {
        while let Some((going, ended)) = self.unwritten.pop() {
            if let Err(error) = self.write_down(&going, &ended) {
                self.unwritten.push((going, ended));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Keeps what runs that go on said since the last time.
    fn tell_words(&mut self) -> Result<()> {
        let mut said = Vec::new();
        for (id, going) in &self.running {
            let path = self.settings.logs.join(id).with_extension("log");
            let length = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
            if length != going.said && !going.adopted {
                self.keep_words(going)?;
                said.push((id.clone(), length));
            }
        }
        for (id, length) in said {
            if let Some(going) = self.running.get_mut(&id) {
                going.said = length;
            }
        }
        Ok(())
    }

    /// Keeps what a run said where others can read it.
    pub(super) fn keep_words(&self, going: &Going) -> Result<()> {
        if self.fleet.is_none() || going.adopted {
            return Ok(());
        }
        let path = self.settings.logs.join(&going.row.id).with_extension("log");
        // It may have said nothing.
        match end_of(&path) {
            Ok(words) => self.state.keep_words(&going.row.id, &words),
            Err(_) => Ok(()),
        }
    }
}

/// The last words of a file, from the beginning of a line.
fn end_of(path: &std::path::Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let from = file.metadata()?.len().saturating_sub(WORDS);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(WORDS).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(match text.split_once('\n') {
        Some((_, rest)) if from > 0 => rest.to_owned(),
        _ => text,
    })
}
