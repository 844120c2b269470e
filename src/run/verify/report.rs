//! What a verification found.

use serde::Serialize;

use crate::id::BackupId;

/// How much is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Depth {
    /// Objects and sizes.
    List,
    /// Digests of stored bytes.
    #[default]
    Stored,
    /// Digests of every file.
    Content,
}

/// Files that a damaged object costs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// How many.
    pub count: u64,
    /// Their names, the first of them.
    pub paths: Vec<String>,
}

/// Names kept of what one finding costs.
pub const NAMES_KEPT: usize = 1000;

impl Cost {
    /// Adds a name.
    pub fn add(&mut self, path: String) {
        self.count += 1;
        if self.paths.len() < NAMES_KEPT {
            self.paths.push(path);
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The object, relative to the source's directory.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
    /// Files that cannot be restored because of it; `None` where that cannot be told.
    pub costs: Option<Cost>,
}

/// What came of verifying one backup.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// `STACK/SOURCE`.
    pub source: String,
    /// The backup.
    pub backup: BackupId,
    /// How deep.
    pub depth: Depth,
    /// Objects looked at.
    pub objects: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// Entries whose content was checked.
    pub entries: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Seconds it took.
    pub seconds: f64,
    /// Objects that were read to their end, and proven where no finding names them. At
    /// [`Depth::List`] there are none.
    #[serde(skip)]
    pub examined: Vec<String>,
}

impl Report {
    /// Whether a finding names the object.
    pub fn names(&self, object: &str) -> bool {
        self.findings.iter().any(|finding| finding.object == object)
    }

    /// Whether a finding names a directory, which ends in a slash, or something below it.
    pub fn names_below(&self, directory: &str) -> bool {
        self.findings.iter().any(|finding| finding.object.starts_with(directory))
    }

    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }
}
