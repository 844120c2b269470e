//! The server's own list of files, made to say what a restored data directory has.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, BufWriter, Read as _, Write as _};

use super::restored::RestoredCluster;
use crate::archive::digest::Digest;
use crate::archive::increment::increment_of;
use crate::error::{Error, IoContext as _, Result};
use crate::source::directory::extract::HELD_SUFFIX;
use crate::telemetry::Reporter;

const MANIFEST: &str = "backup_manifest";
const LABEL: &str = "backup_label";

/// What lines of a label begin with that make a server take it for that of an increment.
const INCREMENTAL: &str = "INCREMENTAL FROM ";

/// A file as the list is to have it.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    path: String,
    size: u64,
    crc: u32,
}

impl Listed {
    /// A file of this content.
    pub(super) fn of(path: &str, content: &[u8]) -> Self {
        let path = path.to_owned();
        Self { path, size: content.len() as u64, crc: crc32c::crc32c(content) }
    }
}

impl RestoredCluster {
    /// Where increments of the server's were put together: label and list say what is there now,
    /// so that server and programs take the directory for what it is.
    pub fn combined(&self, reporter: &Reporter) -> Result<()> {
        let path = self.data.join(LABEL);
        let label =
            fs::read_to_string(&path).doing(|| format!("failed to read {}", path.display()))?;
        if !label.lines().any(|line| line.starts_with(INCREMENTAL)) {
            return Ok(());
        }
        let lines = label.split_inclusive('\n').filter(|line| !line.starts_with(INCREMENTAL));
        let label: String = lines.collect();
        self.replace(LABEL, label.as_bytes())?;
        let mut buffer = vec![0; 256 << 10];
        self.relist(&mut |path| {
            reporter.check()?;
            if path == LABEL {
                return Ok(Some(Listed::of(LABEL, label.as_bytes())));
            }
            let Some(target) = increment_of(path.as_bytes()) else { return Ok(None) };
            self.look_at(&String::from_utf8_lossy(&target), &mut buffer).map(Some)
        })
    }

    /// Size and checksum of a file that was put together.
    fn look_at(&self, path: &str, buffer: &mut [u8]) -> Result<Listed> {
        let place = self.data.join(path);
        let failed = || format!("failed to read {}", place.display());
        let mut file = File::open(&place).doing(failed)?;
        let mut listed = Listed { path: path.to_owned(), size: 0, crc: 0 };
        loop {
            let read = file.read(buffer).doing(failed)?;
            if read == 0 {
                return Ok(listed);
            }
            listed.size += read as u64;
            listed.crc = crc32c::crc32c_append(listed.crc, &buffer[..read]);
        }
    }

    /// Has the backup's own list of files say what files are now: `amend` is asked for each path.
    pub(super) fn relist(
        &self,
        amend: &mut dyn FnMut(&str) -> Result<Option<Listed>>,
    ) -> Result<()> {
        let path = self.data.join(MANIFEST);
        let failed = || self.failed(MANIFEST);
        let input = match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => BufReader::new(other.doing(failed)?),
        };
        let temporary = format!("{MANIFEST}{HELD_SUFFIX}");
        let mut out = BufWriter::new(self.create(&temporary)?);
        let mut digest = Digest::default();
        for line in input.split(b'\n') {
            let mut line = line.doing(failed)?;
            if line.starts_with(b"\"Manifest-Checksum\"") {
                let sum = std::mem::take(&mut digest).finish_hex();
                line = format!("\"Manifest-Checksum\": \"{sum}\"}}").into_bytes();
            } else if line.starts_with(b"{ \"Path\"") {
                line = amended(line, amend)?;
            }
            line.push(b'\n');
            digest.update(&line);
            out.write_all(&line).doing(failed)?;
        }
        out.flush().doing(failed)?;
        fs::rename(self.data.join(temporary), path).doing(failed)
    }
}

/// A line of the list, with another content if there is one.
fn amended(
    line: Vec<u8>,
    amend: &mut dyn FnMut(&str) -> Result<Option<Listed>>,
) -> Result<Vec<u8>> {
    let bad = || Error::damaged("the backup's backup_manifest is damaged");
    let text = std::str::from_utf8(&line).map_err(|error| bad().with_source(error))?;
    let (object, comma) = match text.strip_suffix(',') {
        Some(object) => (object, ","),
        None => (text, ""),
    };
    let file: serde_json::Value =
        serde_json::from_str(object).map_err(|error| bad().with_source(error))?;
    let Some(listed) = amend(file["Path"].as_str().ok_or_else(bad)?)? else { return Ok(line) };
    let Listed { path, size, crc } = listed;
    let (path, sum) = (serde_json::Value::from(path), hex::encode(crc.to_le_bytes()));
    let changed = format!(
        "{{ \"Path\": {path}, \"Size\": {size}, \"Last-Modified\": {}, \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"{sum}\" }}{comma}",
        file["Last-Modified"],
    );
    Ok(changed.into_bytes())
}
