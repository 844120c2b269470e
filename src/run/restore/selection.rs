//! Which entries are meant.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};

use crate::error::{Error, Result};

/// A set of `--path` patterns; empty means everything.
///
/// A pattern matches a path, and with a directory everything below it. `*` and `?` do not match a
/// slash, `**` does. A leading slash is ignored. A pattern that is a path as it stands means that
/// path, whatever special characters it has.
#[derive(Debug, Clone)]
pub struct Selection {
    globs: GlobSet,
    literal: Vec<Vec<u8>>,
    patterns: Vec<String>,
    /// Which patterns have matched something.
    matched: Arc<[AtomicBool]>,
}

impl Default for Selection {
    fn default() -> Self {
        Self {
            globs: GlobSet::empty(),
            literal: Vec::new(),
            patterns: Vec::new(),
            matched: Arc::new([]),
        }
    }
}

impl Selection {
    /// Compiles patterns.
    pub fn new(patterns: &[String]) -> Result<Self> {
        let mut globs = GlobSetBuilder::new();
        let mut literal = Vec::new();
        for pattern in patterns {
            let trimmed = pattern.trim_start_matches("./").trim_start_matches('/');
            let trimmed = trimmed.strip_suffix('/').unwrap_or(trimmed);
            if matches!(trimmed, "" | ".") {
                return Err(Error::usage(format!("`{pattern}` is no path"))
                    .hint("leave out --path to restore everything"));
            }
            literal.push(trimmed.as_bytes().to_vec());
            globs.add(glob(trimmed, pattern)?);
        }
        let globs =
            globs.build().map_err(|error| Error::usage("too many patterns").with_source(error))?;
        let matched = patterns.iter().map(|_| AtomicBool::new(false)).collect();
        Ok(Self { globs, literal, patterns: patterns.to_vec(), matched })
    }

    /// Whether everything is meant.
    pub fn is_all(&self) -> bool {
        self.patterns.is_empty()
    }

    /// The patterns as given.
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }

    /// Whether `path` is meant: itself, or a directory above it.
    pub fn contains(&self, path: &[u8]) -> bool {
        if self.is_all() {
            return true;
        }
        let slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
        slashes.chain(std::iter::once(path.len())).any(|end| {
            let prefix = &path[..end];
            let mut hit = false;
            for (literal, matched) in self.literal.iter().zip(&*self.matched) {
                if literal == prefix {
                    matched.store(true, Ordering::Relaxed);
                    hit = true;
                }
            }
            if self.globs.is_match(OsStr::from_bytes(prefix)) {
                for index in self.globs.matches(OsStr::from_bytes(prefix)) {
                    self.matched[index].store(true, Ordering::Relaxed);
                }
                hit = true;
            }
            hit
        })
    }

    /// Patterns that nothing asked for so far has matched.
    pub fn unmatched(&self) -> impl Iterator<Item = &str> {
        let patterns = self.patterns.iter().zip(&*self.matched);
        patterns
            .filter(|(_, matched)| !matched.load(Ordering::Relaxed))
            .map(|(pattern, _)| pattern.as_str())
    }
}

fn glob(text: &str, given: &str) -> Result<Glob> {
    GlobBuilder::new(text)
        .literal_separator(true)
        .backslash_escape(true)
        .build()
        .or_else(|_| Glob::new(&globset::escape(text)))
        .map_err(|error| Error::usage(format!("`{given}` is no pattern")).with_source(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_people_expect() {
        let cases: &[(&str, &str, bool)] = &[
            ("etc", "etc/a/b", true),
            ("/etc/a", "etc/a/b", true),
            ("etc/a/", "etc/a", true),
            ("etc/*.conf", "etc/x.conf", true),
            ("etc/*.conf", "etc/d/x.conf", false),
            ("**/*.conf", "etc/d/x.conf", true),
            ("**/*.conf", "x.conf", true),
            ("[odd]", "[odd]/file", true),
            ("etc", "etcetera", false),
        ];
        for (pattern, path, expected) in cases {
            let selection = Selection::new(&[(*pattern).to_owned()]).expect("compiles");
            assert_eq!(selection.contains(path.as_bytes()), *expected, "{pattern} {path}");
        }
    }
}
