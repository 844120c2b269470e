//! Dumps into a directory, for who restores them at once.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::source::{Config, MysqlSource};
use crate::archive::entry::{Entry, EntryType};
use crate::error::{Error, IoContext as _, Result};
use crate::source::{Arriving, EntrySink, Item, Source as _, SourceContext, StoredFiles};

/// The files of a dump in a directory.
#[derive(Debug)]
pub struct LocalDumps {
    root: PathBuf,
    paths: Vec<String>,
}

impl LocalDumps {
    /// Dumps what `config` says to `directory`, which is there and empty.
    pub fn make(config: Config, directory: &Path, cx: &SourceContext) -> Result<Self> {
        let mut files = Self { root: directory.to_path_buf(), paths: Vec::new() };
        MysqlSource::new(config).backup(cx, &mut files)?;
        files.paths.sort();
        Ok(files)
    }
}

impl StoredFiles for LocalDumps {
    fn paths(&self) -> &[String] {
        &self.paths
    }

    fn open(&self, path: &str) -> Result<Box<dyn Read + '_>> {
        let path = self.root.join(path);
        let file = File::open(&path).doing(|| format!("failed to open {}", path.display()))?;
        Ok(Box::new(file))
    }
}

impl EntrySink for LocalDumps {
    fn entry(&mut self, item: Item) -> Result<()> {
        let path = self.root.join(String::from_utf8_lossy(&item.entry.path).as_ref());
        if item.entry.kind == EntryType::Dir {
            return fs::create_dir_all(&path)
                .doing(|| format!("failed to make {}", path.display()));
        }
        Err(Error::failed("a dump brings no such entries"))
    }

    fn file(&mut self, entry: Entry, _: Option<u64>, mut input: &mut dyn Arriving) -> Result<()> {
        // Names of dumps are made of letters, digits and a few signs.
        let name = String::from_utf8_lossy(&entry.path).into_owned();
        let path = self.root.join(&name);
        let failed = || format!("failed to write {}", path.display());
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).doing(failed)?;
        }
        let mut file = File::create_new(&path).doing(failed)?;
        io::copy(&mut input, &mut file).doing(failed)?;
        self.paths.push(name);
        Ok(())
    }

    fn stream(&mut self, _: Entry, _: &mut dyn Read) -> Result<()> {
        Err(Error::failed("a dump brings no streams"))
    }
}
