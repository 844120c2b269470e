//! The place where a drill is held, and what killed ones left there.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::error::{Error, IoContext as _, Result};
use crate::run::place;
use crate::telemetry::Reporter;

/// What the names of such directories begin with.
const PREFIX: &str = "backstay-drill-";

/// Held for as long as the drill goes on.
const LOCK: &str = ".lock";

/// Says which drill it is.
const MARKER: &str = ".drill";

/// How long a process that is told to end may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A directory of one's own, with one below it for each source.
#[derive(Debug)]
pub struct Sandbox {
    directory: TempDir,
    _lock: File,
}

impl Sandbox {
    /// Makes one below `scratch`, and says what killed drills had left there and was removed.
    pub fn make(scratch: &Path, drill: &str, reporter: &Reporter) -> Result<(Self, Vec<String>)> {
        if !scratch.is_dir() {
            return Err(Error::usage(format!("there is no directory {}", scratch.display()))
                .hint("--scratch DIR, with room for what is recovered"));
        }
        let found = clean(scratch, reporter)?;
        let failed = || format!("failed to create a directory in {}", scratch.display());
        let directory =
            tempfile::Builder::new().prefix(PREFIX).tempdir_in(scratch).doing(failed)?;
        open_to_servers(directory.path())?;
        let lock = directory.path().join(LOCK);
        let file = File::create(&lock).doing(failed)?;
        file.lock().doing(|| format!("failed to lock {}", lock.display()))?;
        fs::write(directory.path().join(MARKER), drill).doing(failed)?;
        Ok((Self { directory, _lock: file }, found))
    }

    /// The directory that a source is brought back below.
    pub fn of(&self, source: &str) -> Result<PathBuf> {
        let path = self.directory.path().join(source);
        fs::create_dir(&path).doing(|| format!("failed to create {}", path.display()))?;
        open_to_servers(&path)?;
        Ok(path)
    }

    /// Ends what still runs there and removes everything. What was not ended by those who started it,
    /// and what is still there, is said.
    pub fn remove(self) -> Vec<String> {
        let path = self.directory.path().to_path_buf();
        let mut left = end_all_below(&path);
        if let Err(error) = self.directory.close()
            && error.kind() != std::io::ErrorKind::NotFound
        {
            left.push(format!("{} could not be removed: {error}", path.display()));
        }
        left
    }
}

/// Servers do not run as root: their user passes through, and sees no names.
fn open_to_servers(directory: &Path) -> Result<()> {
    let mode = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
    fs::set_permissions(directory, fs::Permissions::from_mode(mode))
        .doing(|| format!("failed to set the permissions of {}", directory.display()))
}

/// Removes what killed drills left: nobody holds their lock.
fn clean(scratch: &Path, reporter: &Reporter) -> Result<Vec<String>> {
    let failed = || format!("failed to read {}", scratch.display());
    let mut found = Vec::new();
    for (path, _lock) in place::abandoned(scratch, PREFIX, LOCK)? {
        let drill = fs::read_to_string(path.join(MARKER)).unwrap_or_default();
        for source in fs::read_dir(&path).doing(failed)? {
            let source = source.doing(failed)?.path();
            if source.is_dir() {
                place::clean(&source, reporter)?;
            }
        }
        end_all_below(&path);
        fs::remove_dir_all(&path).doing(|| format!("failed to remove {}", path.display()))?;
        found.push(format!(
            "drill {} was killed: what it left in {} is removed",
            drill.trim(),
            path.display()
        ));
    }
    Ok(found)
}

/// Ends every process that is at home below a directory, and says which those were.
fn end_all_below(directory: &Path) -> Vec<String> {
    let mut ended = Vec::new();
    for pid in at_home(directory) {
        let name = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()));
        let name = name.map(|name| name.trim().to_owned()).unwrap_or_default();
        let still = || at_home(directory).contains(&pid);
        let deadline = Instant::now() + PATIENCE;
        let mut signal = Signal::TERM;
        while still() {
            if Instant::now() > deadline {
                signal = Signal::KILL;
            }
            let _ = kill_process(pid, signal);
            std::thread::sleep(Duration::from_millis(50));
            if Instant::now() > deadline + PATIENCE {
                break;
            }
        }
        let number = pid.as_raw_nonzero();
        ended.push(if still() {
            format!("process {number} ({name}) still runs in the sandbox")
        } else {
            format!("process {number} ({name}) was left in the sandbox, and was ended")
        });
    }
    ended
}

/// Processes whose working directory is below this one. Threads of this program are none.
fn at_home(directory: &Path) -> Vec<Pid> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let number: i32 = entry.file_name().to_str()?.parse().ok()?;
            let home = fs::read_link(entry.path().join("cwd")).ok()?;
            home.starts_with(directory).then(|| Pid::from_raw(number)).flatten()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::process::Command;

    use super::*;

    #[test]
    fn what_still_runs_there_is_ended_and_said() {
        let scratch = tempfile::tempdir().unwrap();
        let reporter = Reporter::silent();
        let (sandbox, found) = Sandbox::make(scratch.path(), "d", &reporter).unwrap();
        assert!(found.is_empty());
        let home = sandbox.of("files").unwrap();
        let mut left = Command::new("sleep").arg("1000").current_dir(&home).spawn().unwrap();
        let wait = std::thread::spawn(move || left.wait().unwrap());
        let said = sandbox.remove();
        assert!(said[0].contains("(sleep) was left in the sandbox"), "{said:?}");
        assert!(!wait.join().unwrap().success());
        assert!(fs::read_dir(scratch.path()).unwrap().next().is_none());
    }

    #[test]
    fn what_a_killed_drill_left_is_removed_by_the_next() {
        let scratch = tempfile::tempdir().unwrap();
        let left = scratch.path().join("backstay-drill-abc");
        fs::create_dir_all(left.join("files/backstay-scratch-x")).unwrap();
        fs::write(left.join(LOCK), "").unwrap();
        fs::write(left.join(MARKER), "20261121T020000Z-x").unwrap();
        let held = scratch.path().join("backstay-drill-def");
        fs::create_dir(&held).unwrap();
        let lock = File::create(held.join(LOCK)).unwrap();
        lock.lock().unwrap();
        let (_sandbox, found) = Sandbox::make(scratch.path(), "d", &Reporter::silent()).unwrap();
        assert!(found[0].contains("20261121T020000Z-x was killed"), "{found:?}");
        assert_eq!(found.len(), 1);
        assert!(!left.exists() && held.exists());
    }
}
