//! What came of a run whose owner is gone: the repository knows.

use std::ffi::OsString;
use std::process::{Command, Stdio};
use std::sync::mpsc::Sender;

use super::supervise::{Ended, Stop};
use crate::error::{Error, IoContext as _, Result};
use crate::state::RunRow;

/// Looks for the backup of a run, in a thread of its own, and tells `done` as if the run had just
/// ended.
pub fn start(program: &[OsString], row: &RunRow, done: Sender<(String, Ended)>) -> Stop {
    let (program, row) = (program.to_vec(), row.clone());
    std::thread::spawn(move || {
        let ended = match backup_of(&program, &row) {
            Ok(Some(backup)) => Ended::Succeeded(Some(backup)),
            Ok(None) => Ended::Failed {
                why: "whoever did it is gone, and left no backup".into(),
                again: true,
            },
            Err(error) => Ended::Failed {
                why: format!(
                    "whoever did it is gone, and the repository says nothing: {}",
                    error.chain()
                ),
                again: true,
            },
        };
        let _ = done.send((row.id, ended));
    });
    Stop::default()
}

/// The backup that names the run, if one was committed. From here on none is any more: who began it
/// may only stand still.
fn backup_of(program: &[OsString], row: &RunRow) -> Result<Option<String>> {
    // Of a copy nothing is lost: it goes on where it was.
    if row.slot.source.is_empty() {
        return Ok(None);
    }
    let (first, rest) = program.split_first().ok_or_else(|| Error::usage("no program"))?;
    let output = Command::new(first)
        .args(rest)
        .args(["backup", "--give-up", "--run", &row.id])
        .arg(format!("{}/{}", row.slot.stack, row.slot.source))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .doing(|| "failed to look for the backup".into())?;
    if !output.status.success() {
        return Err(Error::failed(format!("looking for the backup ended with {}", output.status)));
    }
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| Error::failed("failed to read what was found").with_source(error))?;
    Ok(report["backups"][0]["backup"].as_str().map(str::to_owned))
}
