//! Drills that go on, as this machine knows them: what is known of one that is killed is not lost, and
//! the next one writes down that there was one.

use std::fs::{self, DirBuilder, File};
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::evidence::{ABORTED, Cleanup, EVIDENCE, Evidence, Finding, JOURNAL, Severity, Verdict};
use super::journal::{self, Event};
use crate::error::{Error, IoContext as _, Result};
use crate::run::place;

/// What the names of their directories begin with.
const PREFIX: &str = "begun-";

/// Held for as long as the drill goes on.
const LOCK: &str = ".lock";

/// A drill that goes on.
#[derive(Debug)]
pub struct Begun {
    directory: PathBuf,
    journal: File,
    _lock: File,
}

impl Begun {
    /// Notes that a drill begins.
    pub fn begin(root: &Path, drill: &str) -> Result<Self> {
        let directory = root.join(format!("{PREFIX}{drill}"));
        let failed = || format!("failed to write {}", directory.display());
        DirBuilder::new().recursive(true).mode(0o700).create(&directory).doing(failed)?;
        let lock = File::create(directory.join(LOCK)).doing(failed)?;
        lock.lock().doing(failed)?;
        let journal = File::create(directory.join(JOURNAL)).doing(failed)?;
        Ok(Self { directory, journal, _lock: lock })
    }

    /// Keeps what is known of it beforehand.
    pub(super) fn draft(&self, evidence: &Evidence) -> Result<()> {
        let text = serde_json::to_vec(evidence)
            .map_err(|error| Error::failed("failed to write the evidence").with_source(error))?;
        let path = self.directory.join(EVIDENCE);
        fs::write(&path, text).doing(|| format!("failed to write {}", path.display()))
    }

    /// Adds a line of the journal.
    pub(super) fn write(&mut self, line: &str) -> Result<()> {
        self.journal
            .write_all(format!("{line}\n").as_bytes())
            .doing(|| format!("failed to write {}", self.directory.display()))
    }

    /// Its evidence is written: nothing more is to be known of it here.
    pub fn is_over(self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A drill that was killed, or stopped by somebody.
#[derive(Debug)]
pub struct Aborted {
    /// What there is to say of it.
    pub evidence: Evidence,
    /// Its journal, closed.
    pub journal: String,
    directory: PathBuf,
    _lock: File,
}

impl Aborted {
    /// Its evidence is written.
    pub fn is_kept(self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The drills of a stack that began here and nobody goes on with. What of them cannot be read is
/// removed: nothing could be said of it, now or later.
pub fn aborted(root: &Path, stack: &str, now: Timestamp) -> Result<Vec<Aborted>> {
    if !root.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for (directory, lock) in place::abandoned(root, PREFIX, LOCK)? {
        let draft = fs::read(directory.join(EVIDENCE)).unwrap_or_default();
        let Ok(draft) = serde_json::from_slice::<Evidence>(&draft) else {
            let _ = fs::remove_dir_all(&directory);
            continue;
        };
        if draft.stack != stack {
            continue;
        }
        let journal = fs::read(directory.join(JOURNAL)).unwrap_or_default();
        let (evidence, journal) = close(draft, &String::from_utf8_lossy(&journal), now)?;
        found.push(Aborted { evidence, journal, directory, _lock: lock });
    }
    Ok(found)
}

/// What is written down of a drill that came to no end.
fn close(draft: Evidence, journal: &str, now: Timestamp) -> Result<(Evidence, String)> {
    let whole = journal.rfind('\n').map_or("", |end| &journal[..=end]);
    let (lines, _) = journal::read(whole, &draft.drill)?;
    let phase = lines.iter().rev().find_map(|line| match &line.event {
        Event::PhaseBegan { phase } => Some(phase.as_str()),
        _ => None,
    });
    let offset = lines.last().map_or(0.0, |line| line.offset);
    let phase = phase.map(|phase| format!(" in phase {phase}")).unwrap_or_default();
    let text = format!(
        "the drill was killed or stopped{phase}, {offset:.0} s after it began: nothing is proven by it"
    );
    let severity = Severity::Unproven;
    let verdict = Verdict::Inconclusive;
    let found = Event::Found { severity, code: ABORTED.to_owned(), text: text.clone() };
    let (journal, end) =
        journal::closed(journal, &draft.drill, now, [found, Event::Ended { verdict }])?;
    let mut findings = vec![Finding { severity, code: ABORTED.to_owned(), source: None, text }];
    findings.extend(draft.findings);
    let cleanup = Cleanup {
        complete: false,
        left: vec![
            "nobody looked: the next drill in the same directory removes what it left".to_owned(),
        ],
        found_before: Vec::new(),
    };
    let ended = lines.last().map_or(draft.started, |line| line.time);
    Ok((Evidence { ended, verdict, findings, cleanup, journal: end, ..draft }, journal))
}
