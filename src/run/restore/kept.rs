//! What a backup of StarRocks keeps beside its snapshots.

use std::collections::BTreeMap;
use std::io::Read as _;

use super::files::BackupFiles;
use crate::error::{Error, Result};
use crate::source::StoredFiles as _;
use crate::source::starrocks::{GRANTS, LISTING, Listing, View, views_path};

/// The largest file that is read.
const LIMIT: u64 = 1 << 30;

/// Which partition is in which snapshot.
pub fn kept_listing(files: &BackupFiles<'_>) -> Result<Listing> {
    Listing::parse(&read(files, LISTING)?)
}

/// Views of every database that has some.
pub fn kept_views(
    files: &BackupFiles<'_>,
    listing: &Listing,
) -> Result<BTreeMap<String, Vec<View>>> {
    let mut found = BTreeMap::new();
    for database in listing.databases.keys() {
        let path = views_path(database);
        if has(files, &path) {
            let views = serde_json::from_slice(&read(files, &path)?)
                .map_err(|error| Error::damaged(format!("{path} is damaged")).with_source(error))?;
            found.insert(database.clone(), views);
        }
    }
    Ok(found)
}

/// Statements that give rights, one a line.
pub fn kept_grants(files: &BackupFiles<'_>) -> Result<Vec<String>> {
    if !has(files, GRANTS) {
        return Err(Error::not_found("the backup has no roles and rights").hint(
            "the user may not have been allowed to ask for them; `backstay ls` shows what there is",
        ));
    }
    let bytes = read(files, GRANTS)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("--"));
    Ok(lines.map(|line| line.trim_end_matches(';').to_owned()).collect())
}

fn read(files: &BackupFiles<'_>, path: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    files
        .open(path)?
        .take(LIMIT)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::io(format!("failed to read {path}"), error))?;
    Ok(bytes)
}

fn has(files: &BackupFiles<'_>, path: &str) -> bool {
    files.paths().iter().any(|known| known == path)
}
