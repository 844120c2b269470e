//! Heartbeats in a directory: one small file.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use jiff::Timestamp;

use crate::error::{Error, IoContext as _, Result};
use crate::policy::Heartbeat;
use crate::source::heartbeat::{Beat, Writer};

/// More is no heartbeat.
const LIMIT: u64 = 4096;

/// Writes one; how many that were. The file is the old or the new one at any instant.
pub fn beat(directory: &Path, writer: &Writer, at: Timestamp) -> Result<u64> {
    let doing = || format!("failed to write the heartbeat in {}", directory.display());
    if !directory.metadata().doing(doing)?.is_dir() {
        return Err(Error::failed(format!("{}: {} is no directory", doing(), directory.display()))
            .hint("name the directory that it lies in, or remove `heartbeat`"));
    }
    let (path, new) = (directory.join(Heartbeat::MARKER), directory.join(Heartbeat::NEW));
    if !has_others(directory).doing(doing)? {
        // It would make files of nothing, and nobody would see that something is not mounted.
        let _ = fs::remove_file(&path);
        return Err(
            Error::failed(format!("{}: it is empty", doing())).hint("is something not mounted?")
        );
    }
    let before = find(directory).filter(|beat| beat.host == writer.host);
    let beat = Beat {
        host: writer.host.clone(),
        source: writer.source.clone(),
        beats: before.map_or(0, |beat| beat.beats).saturating_add(1),
        at,
        server_at: None,
    };
    let text =
        serde_json::to_string(&beat).map_err(|error| Error::failed(doing()).with_source(error))?;
    // Whatever lies there was left by one that was killed, or is a trap.
    let _ = fs::remove_file(&new);
    let mut file =
        File::options().write(true).create_new(true).mode(0o600).open(&new).doing(doing)?;
    let written = writeln!(file, "{text}").and_then(|()| fs::rename(&new, &path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written.doing(doing)?;
    Ok(beat.beats)
}

/// Whether there is anything but heartbeats.
fn has_others(directory: &Path) -> std::io::Result<bool> {
    for entry in directory.read_dir()? {
        let name = entry?.file_name();
        if name != Heartbeat::MARKER && name != Heartbeat::NEW {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The heartbeat of a directory; `None` where none can be read.
pub fn find(directory: &Path) -> Option<Beat> {
    let path = directory.join(Heartbeat::MARKER);
    if !path.symlink_metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    File::open(&path).ok()?.take(LIMIT).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::os::unix::fs::symlink;

    use super::*;

    fn writer() -> Writer {
        Writer { host: "one".to_owned(), source: "demo/files".to_owned() }
    }

    #[test]
    fn it_counts_and_never_follows_a_link() {
        let place = tempfile::tempdir().unwrap();
        let (directory, other) = (place.path().join("src"), place.path().join("other"));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("a"), "a").unwrap();
        fs::write(&other, "untouched").unwrap();
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(beat(&directory, &writer(), at(10)).unwrap(), 1);
        assert_eq!(beat(&directory, &writer(), at(20)).unwrap(), 2);
        assert_eq!(find(&directory).unwrap().at, at(20));
        symlink(&other, directory.join(Heartbeat::NEW)).unwrap();
        fs::remove_file(directory.join(Heartbeat::MARKER)).unwrap();
        symlink(&other, directory.join(Heartbeat::MARKER)).unwrap();
        assert!(find(&directory).is_none());
        assert_eq!(beat(&directory, &writer(), at(30)).unwrap(), 1);
        assert_eq!(fs::read_to_string(&other).unwrap(), "untouched");
        assert_eq!(find(&directory).unwrap().at, at(30));
    }

    #[test]
    fn nothing_is_made_of_an_empty_directory() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("a"), "a").unwrap();
        let now = Timestamp::from_second(1).unwrap();
        beat(place.path(), &writer(), now).unwrap();
        fs::remove_file(place.path().join("a")).unwrap();
        let said = beat(place.path(), &writer(), now).unwrap_err();
        assert!(said.chain().contains("it is empty"), "{said:?}");
        assert!(fs::read_dir(place.path()).unwrap().next().is_none());
        assert!(beat(&place.path().join("gone"), &writer(), now).is_err());
    }
}
