//! A look into the repositories: what `backstay status` finds.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::asking::Asking;
use crate::error::{Error, Result};
use crate::run::protection::Stored;
use crate::state::LookRow;

/// How long a look may take.
const PATIENCE: Duration = Duration::from_mins(10);

/// The most that is read of what it prints.
const MOST: u64 = 256 << 20;

/// What was found of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Look {
    /// When the look began.
    #[serde(skip)]
    pub at: Option<Timestamp>,
    /// `STACK/SOURCE`.
    pub source: String,
    /// The newest instant that can be restored.
    pub time: Option<Timestamp>,
    /// It lies ahead: a clock was wrong, or is, and it proves nothing.
    pub ahead: bool,
    /// The oldest.
    pub oldest: Option<Timestamp>,
    /// How many backups there are.
    pub backups: u64,
    /// The newest of each kind.
    pub sizes: Vec<Size>,
    /// The backups whose objects the newest one is made of, itself among them.
    pub chain_length: Option<u64>,
    /// What each repository holds of it, but for WAL.
    pub stored: BTreeMap<String, Stored>,
    /// What is free where repositories are directories of this host, in bytes.
    pub free_bytes: BTreeMap<String, u64>,
    /// The newest instant in each other repository.
    pub elsewhere: BTreeMap<String, Timestamp>,
    /// The repository that it is backed up to.
    pub repository: String,
    /// Repositories that could not be asked, and why.
    pub unreachable: BTreeMap<String, String>,
    /// When it was verified last, by depth.
    pub verified: BTreeMap<String, Timestamp>,
    /// Objects that are missing or altered.
    pub damaged: u64,
    /// How long the last recovery that was proven took.
    pub measured_rto_seconds: Option<u64>,
    /// When that was.
    pub measured_rto_at: Option<Timestamp>,
    /// How long it would take now.
    pub estimated_rto_seconds: Option<u64>,
    /// Another site is the active one: which, and since when.
    pub fenced: Option<String>,
    /// `unknown`: the repository could not be asked, and nothing of the rest is known.
    pub verdict: String,
}

/// How large the newest backup of a kind is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Size {
    /// The kind.
    pub kind: String,
    /// The backup.
    pub backup: String,
    /// Bytes of content.
    pub bytes: u64,
    /// Bytes that were stored for it, without what it shares with older ones.
    pub stored_bytes: Option<u64>,
    /// The median of those before it.
    pub median: Option<u64>,
}

impl Look {
    /// What a row of the state holds; nothing if another version wrote something else.
    pub fn read(row: &LookRow) -> Option<Self> {
        let look: Self = serde_json::from_str(&row.found).ok()?;
        Some(Self { at: Some(row.at), ..look })
    }

    /// The names in `STACK/SOURCE`.
    pub fn names(&self) -> (&str, &str) {
        self.source.split_once('/').unwrap_or((&self.source, ""))
    }

    /// Whether the repository of the source answered.
    pub fn is_known(&self) -> bool {
        self.verdict != "unknown"
    }
}

/// Looks, and gives what is to be kept of it.
pub(super) fn look(program: &[OsString], now: Timestamp) -> Result<Vec<LookRow>> {
    let row = |line: Value| {
        let (stack, source) = line["source"].as_str()?.split_once('/')?;
        let (stack, source) = (stack.to_owned(), source.to_owned());
        Some(LookRow { stack, source, at: now, found: line.to_string() })
    };
    Ok(ask(program)?.into_iter().filter_map(row).collect())
}

/// What `status` prints, an object for each source.
pub fn ask(program: &[OsString]) -> Result<Vec<Value>> {
    let doing = "failed to look into the repositories";
    let asking = Asking { doing, program, patience: PATIENCE, most: MOST };
    match asking.json(&["status"])? {
        Value::Array(sources) => Ok(sources),
        _ => Err(Error::failed(format!("{doing}: `status` printed something else"))),
    }
}
