//! Copies of policy files: what a daemon took over stays as it was, whatever becomes of the files.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::load::{files, read};
use crate::error::{Error, IoContext as _, Result};

/// Copies a policy file, or all of a directory, to the directory `to`, which is made. What is to be
/// loaded instead is returned.
pub fn keep(from: &Path, to: &Path) -> Result<PathBuf> {
    let failed = || format!("failed to keep the policies in {}", to.display());
    fs::DirBuilder::new().recursive(true).mode(0o700).create(to).doing(failed)?;
    let mut kept = to.to_path_buf();
    let alone = !from.is_dir();
    for file in files(from).map_err(Error::from)? {
        let name = file.file_name().ok_or_else(|| Error::usage("a policy is a file"))?;
        let place = to.join(name);
        let bytes = read(&file).map_err(Error::from)?;
        let mut options = fs::OpenOptions::new();
        let mut copy =
            options.write(true).create_new(true).mode(0o600).open(&place).doing(failed)?;
        std::io::Write::write_all(&mut copy, &bytes).doing(failed)?;
        if alone {
            kept = place;
        }
    }
    Ok(kept)
}
