//! What turns restored files into a data directory that a server starts from.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown, lchown, symlink};
use std::path::{Path, PathBuf};

use super::relisted::Listed;
use crate::error::{Error, IoContext as _, Result};
use crate::source::directory::extract::HELD_SUFFIX;

/// The file that makes a data directory one: nothing starts without it.
pub const CONTROL: &str = "global/pg_control";
/// Where the tablespaces of a backup lay.
pub const TABLESPACE_MAP: &str = "tablespace_map";
/// The file that has a server recover, and then open.
pub const RECOVERY: &str = "recovery.signal";
/// The file that has a server follow another one.
pub const STANDBY: &str = "standby.signal";

/// A tablespace of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedTablespace {
    /// Its number.
    pub oid: u32,
    /// Where it lay.
    pub old: PathBuf,
    /// Where it lies now.
    pub new: PathBuf,
}

impl MappedTablespace {
    /// Its path in the tree of a backup.
    pub fn path(&self) -> String {
        format!("pg_tblspc/{}", self.oid)
    }
}

/// Reads `tablespace_map`: number and place of each tablespace. Backslashes stand before line ends
/// and backslashes.
pub fn read_map(text: &[u8]) -> Result<Vec<(u32, PathBuf)>> {
    use std::os::unix::ffi::OsStringExt as _;
    let bad = || Error::damaged("the backup's tablespace_map is damaged");
    let mut found = Vec::new();
    let mut line = Vec::new();
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => line.push(bytes.next().ok_or_else(bad)?),
            b'\n' | b'\r' if line.is_empty() => {}
            b'\n' | b'\r' => {
                let space = line.iter().position(|&b| b == b' ').ok_or_else(bad)?;
                let oid = std::str::from_utf8(&line[..space]).ok().and_then(|t| t.parse().ok());
                let place = std::ffi::OsString::from_vec(line[space + 1..].to_vec());
                found.push((oid.ok_or_else(bad)?, PathBuf::from(place)));
                line.clear();
            }
            other => line.push(other),
        }
    }
    if line.is_empty() { Ok(found) } else { Err(bad()) }
}

fn write_map(tablespaces: &[MappedTablespace]) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt as _;
    let mut text = Vec::new();
    for space in tablespaces {
        text.extend(format!("{} ", space.oid).bytes());
        for &byte in space.new.as_os_str().as_bytes() {
            if matches!(byte, b'\n' | b'\r' | b'\\') {
                text.push(b'\\');
            }
            text.push(byte);
        }
        text.push(b'\n');
    }
    text
}

/// A data directory whose files are restored, and which is not complete yet.
#[derive(Debug)]
pub struct RestoredCluster {
    pub(super) data: PathBuf,
    owner: (u32, u32),
}

impl RestoredCluster {
    /// The one in `data`. What is added belongs to its owner.
    pub fn new(data: &Path) -> Result<Self> {
        let found = fs::metadata(data).doing(|| format!("failed to look at {}", data.display()))?;
        Ok(Self { data: data.to_owned(), owner: (found.uid(), found.gid()) })
    }

    pub(super) fn failed(&self, name: &str) -> String {
        format!("failed to write {}", self.data.join(name).display())
    }

    /// Creates a file of the owner's, which must not be there.
    pub fn create(&self, name: &str) -> Result<File> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(self.data.join(name));
        let file = file.doing(|| self.failed(name))?;
        self.give(&file, name)?;
        Ok(file)
    }

    fn give(&self, file: &File, name: &str) -> Result<()> {
        if rustix::process::geteuid().is_root() {
            let (uid, gid) = self.owner;
            fchown(file, Some(uid), Some(gid)).doing(|| self.failed(name))?;
        }
        Ok(())
    }

    pub(super) fn replace(&self, name: &str, content: &[u8]) -> Result<()> {
        self.remove(name)?;
        self.create(name)?.write_all(content).doing(|| self.failed(name))
    }

    /// Removes a file, if it is there.
    pub fn remove(&self, name: &str) -> Result<()> {
        match fs::remove_file(self.data.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(
                format!("failed to remove {}", self.data.join(name).display()),
                error,
            )),
            _ => Ok(()),
        }
    }

    /// Gives directories above the data directory that were made on the way to its owner, who has
    /// to get through.
    pub fn give_directories(&self, made: &[PathBuf]) -> Result<()> {
        if rustix::process::geteuid().is_root() {
            let (uid, gid) = self.owner;
            for path in made {
                lchown(path, Some(uid), Some(gid))
                    .doing(|| format!("failed to give {} away", path.display()))?;
            }
        }
        Ok(())
    }

    /// Links tablespaces to where they lie now.
    pub fn link_tablespaces(&self, tablespaces: &[MappedTablespace]) -> Result<()> {
        for space in tablespaces {
            let link = self.data.join(space.path());
            symlink(&space.new, &link).doing(|| format!("failed to create {}", link.display()))?;
            let (uid, gid) = self.owner;
            if rustix::process::geteuid().is_root() {
                lchown(&link, Some(uid), Some(gid))
                    .doing(|| format!("failed to create {}", link.display()))?;
            }
        }
        if tablespaces.iter().all(|space| space.old == space.new) {
            return Ok(());
        }
        // The server makes the links anew from this file when it starts.
        let map = write_map(tablespaces);
        self.replace(TABLESPACE_MAP, &map)?;
        let listed = Listed::of(TABLESPACE_MAP, &map);
        self.relist(&mut |path| Ok((path == TABLESPACE_MAP).then(|| listed.clone())))
    }

    /// Has the server replay WAL as `recovery` says. It keeps apart from the cluster it was taken
    /// of: nothing is followed that is not named, and nothing archived unless it `archives`.
    pub fn configure(
        &self,
        comment: &str,
        signal: &str,
        recovery: &[(&str, String)],
        archives: bool,
    ) -> Result<()> {
        const NAME: &str = "postgresql.auto.conf";
        // A backup of a standby brings its signal, which would win.
        self.remove(STANDBY)?;
        let was = fs::read_to_string(self.data.join(NAME)).unwrap_or_default();
        let mut text = String::new();
        for line in was.lines() {
            let word = line.trim_start().split([' ', '\t', '=']).next().unwrap_or_default();
            let kept = archives && word.eq_ignore_ascii_case("archive_mode");
            if !kept && OVERRIDDEN.iter().any(|name| word.eq_ignore_ascii_case(name)) {
                let _ = writeln!(text, "# before the restore: {line}");
            } else {
                let _ = writeln!(text, "{line}");
            }
        }
        let _ = writeln!(text, "\n# {comment}");
        for name in EMPTIED.iter().filter(|name| recovery.iter().all(|(set, _)| set != *name)) {
            let _ = writeln!(text, "{name} = ''");
        }
        if !archives {
            let _ = writeln!(text, "archive_mode = 'off'");
        }
        for (name, value) in recovery {
            let value = value.replace('\\', r"\\").replace('\'', "''");
            let _ = writeln!(text, "{name} = '{value}'");
        }
        self.replace(NAME, text.as_bytes())?;
        if !self.data.join(signal).exists() {
            self.create(signal)?;
        }
        Ok(())
    }

    /// When all is written: on disk, and then the one file without which nothing starts.
    pub fn complete(self) -> Result<()> {
        let failed = || format!("failed to write {} to disk", self.data.display());
        let sync = || {
            File::open(&self.data)
                .and_then(|directory| rustix::fs::syncfs(&directory).map_err(Into::into))
        };
        sync().doing(failed)?;
        let control = self.data.join(CONTROL);
        let held = self.data.join(format!("{CONTROL}{HELD_SUFFIX}"));
        fs::rename(&held, &control).doing(|| format!("failed to write {}", control.display()))?;
        sync().doing(failed)
    }
}

/// Settings that a restored server must not have from before.
const OVERRIDDEN: [&str; 15] = [
    "archive_cleanup_command",
    "archive_mode",
    "primary_conninfo",
    "primary_slot_name",
    "recovery_end_command",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "restore_command",
    "synchronous_standby_names",
];

/// What it has without a value, unless recovery asks for one: that overrides what the main
/// configuration file says.
const EMPTIED: [&str; 10] = [
    "archive_cleanup_command",
    "recovery_end_command",
    "primary_conninfo",
    "primary_slot_name",
    "synchronous_standby_names",
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
];

/// Directories above `path`, itself included, that are not there yet.
pub fn missing_directories(path: &Path) -> Vec<PathBuf> {
    path.ancestors()
        .take_while(|above| !above.as_os_str().is_empty() && !above.exists())
        .map(Path::to_path_buf)
        .collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn maps_are_read_as_the_server_writes_them() {
        let map = b"16385 /srv/fast\n16386 /srv/odd\\\nname \\\\\n";
        let read = read_map(map).unwrap();
        assert_eq!(read[0], (16385, PathBuf::from("/srv/fast")));
        assert_eq!(read[1], (16386, PathBuf::from("/srv/odd\nname \\")));
        let spaces: Vec<MappedTablespace> = read
            .into_iter()
            .map(|(oid, old)| MappedTablespace { oid, new: old.clone(), old })
            .collect();
        assert_eq!(write_map(&spaces), map);
        assert!(read_map(b"16385").is_err());
        assert!(read_map(b"x /srv\n").is_err());
        assert!(read_map(b"").unwrap().is_empty());
    }
}
