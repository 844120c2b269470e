//! Which names are left out.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::error::{Error, ErrorKind, Result};

/// Compiled exclusions.
///
/// A pattern without a slash matches a name at any depth; one with a slash matches the path from
/// the root of the source. `*` and `?` do not match a slash, `**` does. An excluded directory is
/// left out with everything in it.
#[derive(Debug, Default)]
pub struct Excludes {
    names: GlobSet,
    paths: GlobSet,
}

impl Excludes {
    /// Compiles `patterns`; `root` is cut from patterns that start with it.
    pub fn new(patterns: &[String], root: Option<&Path>) -> Result<Self> {
        let (mut names, mut paths) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        for pattern in patterns {
            let bad = |error| {
                Error::new(ErrorKind::Policy, format!("`{pattern}` is not a pattern"))
                    .with_source(error)
            };
            let glob = |text: &str| {
                GlobBuilder::new(text)
                    .literal_separator(true)
                    .backslash_escape(true)
                    .build()
                    .map_err(bad)
            };
            let trimmed = pattern.strip_suffix('/').unwrap_or(pattern);
            if trimmed.contains('/') {
                let rooted = root
                    .and_then(|root| root.to_str())
                    .and_then(|root| trimmed.strip_prefix(root))
                    .filter(|rest| rest.starts_with('/'))
                    .unwrap_or(trimmed);
                paths.add(glob(rooted.trim_start_matches('/'))?);
            } else {
                names.add(glob(trimmed)?);
            }
        }
        let built = |set: GlobSetBuilder| {
            set.build().map_err(|error| {
                Error::new(ErrorKind::Policy, "the exclude patterns are too large")
                    .with_source(error)
            })
        };
        Ok(Self { names: built(names)?, paths: built(paths)? })
    }

    /// Whether the entry at `path`, called `name`, is left out.
    pub fn excludes(&self, path: &[u8], name: &[u8]) -> bool {
        (!self.names.is_empty() && self.names.is_match(OsStr::from_bytes(name)))
            || (!self.paths.is_empty() && self.paths.is_match(OsStr::from_bytes(path)))
    }
}
