//! Notes of what was archived ahead of its turn.
//!
//! A server hands over one file at a time, and waits. While it waits, the files that are ready
//! behind it are archived too, and a note is left for each that is durable in every repository that
//! must have it. When its turn comes, the note is all that is looked at.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};

/// What lies beside the server's WAL and is none of the server's: notes, and segments that were
/// fetched ahead.
const DIRECTORY: &str = ".backstay";

/// The directory for that beside a file.
pub(super) fn directory_beside(file: &Path) -> Option<PathBuf> {
    Some(file.parent()?.join(DIRECTORY))
}

/// An older note is none: the server's turn comes within seconds.
const LONGEST: SignedDuration = SignedDuration::from_mins(10);

/// Where notes are left. Without them everything works, and is slower.
#[derive(Debug, Clone)]
pub struct Notes {
    directory: PathBuf,
    /// Which repositories it is about: those of another policy are not.
    place: String,
}

/// The file that a note is about.
#[derive(Debug, Clone, Copy)]
pub struct Noted<'a> {
    /// The cluster.
    pub system_id: u64,
    /// Its name.
    pub name: &'a str,
    /// The SHA-256 of its content.
    pub digest: &'a [u8; 32],
}

impl Notes {
    /// Notes beside a file of the server's, about these repositories. The server's user writes
    /// there, and may have no other place.
    pub fn beside(file: &Path, place: String) -> Option<Self> {
        Some(Self { directory: directory_beside(file)?, place })
    }

    fn path_of(&self, system_id: u64, name: &str) -> PathBuf {
        self.directory.join(format!("archived-{system_id}-{name}"))
    }

    fn path(&self, noted: Noted<'_>) -> PathBuf {
        self.path_of(noted.system_id, noted.name)
    }

    /// Whether there is a note of a file, for what content ever.
    pub fn is_there(&self, system_id: u64, name: &str) -> bool {
        self.path_of(system_id, name).exists()
    }

    fn text(&self, noted: Noted<'_>) -> String {
        format!("{} {}", hex::encode(noted.digest), self.place)
    }

    /// Leaves a note. Failing to is no failure.
    pub fn leave(&self, noted: Noted<'_>, now: Timestamp) {
        let _ = self.try_leave(noted, now);
    }

    fn try_leave(&self, noted: Noted<'_>, now: Timestamp) -> std::io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let path = self.path(noted);
        let temporary = path.with_extension("new");
        let mut options = OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        writeln!(file, "{now}\n{}", self.text(noted))?;
        fs::rename(&temporary, &path)
    }

    /// Takes the note of a file away. Whether there was one that counts.
    pub fn take(&self, noted: Noted<'_>, now: Timestamp) -> bool {
        let path = self.path(noted);
        let Ok(text) = fs::read_to_string(&path) else { return false };
        let _ = fs::remove_file(&path);
        let Some((time, rest)) = text.trim_end().split_once('\n') else { return false };
        let age = time.parse::<Timestamp>().map(|time| now.duration_since(time));
        let recent = age.is_ok_and(|age| age <= LONGEST && age >= -LONGEST);
        recent && rest == self.text(noted)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_note_counts_once_for_what_it_is_about() {
        let state = tempfile::tempdir().unwrap();
        let now: Timestamp = "2026-11-21T02:00:00Z".parse().unwrap();
        let later = now.checked_add(SignedDuration::from_mins(11)).unwrap();
        let file = state.path().join("000000010000000000000003");
        let notes = Notes::beside(&file, "main=/srv".to_owned()).unwrap();
        let noted = Noted { system_id: 7, name: "000000010000000000000003", digest: &[1; 32] };
        assert!(!notes.take(noted, now));
        notes.leave(noted, now);
        assert!(notes.take(noted, now) && !notes.take(noted, now), "once");
        let other = Noted { digest: &[2; 32], ..noted };
        notes.leave(noted, now);
        assert!(!notes.take(other, now), "another content");
        notes.leave(noted, now);
        assert!(!notes.take(noted, later), "too old");
        notes.leave(noted, now);
        let moved = Notes::beside(&file, "main=/other".to_owned()).unwrap();
        assert!(!moved.take(noted, now), "another repository");
        fs::write(notes.path(noted), "nonsense").unwrap();
        assert!(!notes.take(noted, now));
        // Nowhere to leave one is no failure.
        let nowhere = Notes::beside(Path::new("/proc/nowhere/x"), String::new()).unwrap();
        nowhere.leave(noted, now);
    }
}
