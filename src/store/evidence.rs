//! Evidence of drills, as it lies in a repository: a few files in a directory of each drill, each
//! created once.

use bytes::Bytes;

use super::blocking::Store;
use super::layout;
use super::locks::Lock;
use crate::error::{Error, ErrorKind, Result};

/// The largest file of evidence that is read.
const FILE_LIMIT: u64 = 64 << 20;

/// The most files that a directory of evidence may have: more were not written by this program.
const FILES: usize = 100;

/// The evidence of one drill.
#[derive(Debug, Clone)]
pub struct EvidenceStore {
    store: Store,
    stack: String,
    drill: String,
    lock: Option<Lock>,
}

/// The drills of a stack that left evidence, oldest first.
pub fn drills_with_evidence(store: &Store, stack: &str) -> Result<Vec<String>> {
    let mut drills = store.list_directories(&layout::evidence(stack))?;
    drills.sort();
    Ok(drills)
}

impl EvidenceStore {
    /// The evidence of a drill.
    pub fn new(store: &Store, stack: &str, drill: &str) -> Self {
        Self { store: store.clone(), stack: stack.to_owned(), drill: drill.to_owned(), lock: None }
    }

    /// The same, whose files are locked from their first moment on.
    #[must_use]
    pub fn locked(self, lock: Option<Lock>) -> Self {
        Self { lock, ..self }
    }

    /// Where it lies, for people.
    pub fn place(&self) -> String {
        format!("{}/{} of {}", layout::evidence(&self.stack), self.drill, self.store.name())
    }

    /// Creates a file of it. What is there already is never written again.
    pub fn create(&self, name: &str, body: &Bytes) -> Result<()> {
        let key = layout::evidence_file(&self.stack, &self.drill, name);
        let created = match self.lock {
            Some(lock) => self.store.create_ours_locked(&key, body, lock)?,
            None => self.store.create_ours(&key, body)?,
        };
        if created {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Conflict, format!("{} has `{name}` already", self.place())))
    }

    /// Reads a file of it; `None` if it is not there.
    pub fn read(&self, name: &str) -> Result<Option<Bytes>> {
        let key = layout::evidence_file(&self.stack, &self.drill, name);
        self.store.read_if_exists(&key, FILE_LIMIT)
    }

    /// The same file of several drills of a stack, in their order, several read at once.
    pub fn read_of(
        store: &Store,
        stack: &str,
        drills: &[String],
        name: &str,
    ) -> Vec<Result<Option<Bytes>>> {
        let keys: Vec<String> =
            drills.iter().map(|drill| layout::evidence_file(stack, drill, name)).collect();
        store.read_many(&keys, FILE_LIMIT)
    }

    /// All files, by name.
    pub fn files(&self) -> Result<Vec<(String, Bytes)>> {
        let prefix = format!("{}/{}", layout::evidence(&self.stack), self.drill);
        let mut names: Vec<String> = self
            .store
            .list(&prefix)?
            .into_iter()
            .filter_map(|object| {
                Some(object.key.strip_prefix(&prefix)?.strip_prefix('/')?.to_owned())
            })
            .collect();
        names.sort();
        if names.len() > FILES {
            return Err(Error::damaged(format!("{} has {} files", self.place(), names.len())));
        }
        let keys: Vec<String> = names.iter().map(|name| format!("{prefix}/{name}")).collect();
        let mut files = Vec::new();
        for (name, bytes) in names.into_iter().zip(self.store.read_many(&keys, FILE_LIMIT)) {
            let bytes = bytes?
                .ok_or_else(|| Error::damaged(format!("`{name}` of {} is gone", self.place())))?;
            files.push((name, bytes));
        }
        Ok(files)
    }
}
