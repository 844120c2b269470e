//! The files of a backup, for a source that puts them back some other way than as files.

use std::collections::BTreeMap;
use std::io::Read;

use super::output::ContentReader;
use super::request::Request;
use crate::archive::entry::{Entry, EntryType, is_safe};
use crate::error::{Error, Result};
use crate::run::Context;
use crate::run::hold;
use crate::source::StoredFiles;
use crate::store::Held;

/// The files of the backup that a request names. While it exists the backup is held: prune leaves
/// it alone.
pub struct BackupFiles<'a> {
    request: &'a Request<'a>,
    cx: &'a Context,
    paths: Vec<String>,
    entries: BTreeMap<String, Entry>,
    _held: Option<Held>,
}

impl<'a> BackupFiles<'a> {
    /// Reads the index. Sources of this kind have few files.
    pub fn open(request: &'a Request<'a>, cx: &'a Context) -> Result<Self> {
        let held = if request.dry_run {
            None
        } else {
            hold::hold(&request.source, request.manifest, "restore", cx)?
        };
        let (mut paths, mut entries) = (Vec::new(), BTreeMap::new());
        for entry in request.source.index(request.manifest, &request.keys, &cx.reporter.fresh())? {
            let entry = entry?;
            if entry.kind != EntryType::File || !is_safe(&entry.path) {
                continue;
            }
            let Ok(path) = String::from_utf8(entry.path.clone()) else { continue };
            paths.push(path.clone());
            entries.insert(path, entry);
        }
        Ok(Self { request, cx, paths, entries, _held: held })
    }
}

impl StoredFiles for BackupFiles<'_> {
    fn paths(&self) -> &[String] {
        &self.paths
    }

    fn open(&self, path: &str) -> Result<Box<dyn Read + '_>> {
        let entry = self
            .entries
            .get(path)
            .ok_or_else(|| Error::damaged(format!("the backup has no `{path}`")))?;
        Ok(Box::new(ContentReader::of(self.request, self.cx, entry.clone())?))
    }
}
