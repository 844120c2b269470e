//! Which entries are meant.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};

use crate::archive::entry::display_path;
use crate::error::{Error, Result};

/// A set of `--path` patterns; empty means everything.
///
/// A pattern matches a path, and with a directory everything below it. `*` and `?` do not match a
/// slash, `**` does. A leading slash is ignored. A pattern that is a path as it stands means that
/// path, whatever special characters it has; so does one that is a path as listings show it, with
/// `\xff` for a byte that is not UTF-8.
#[derive(Debug, Clone)]
pub struct Selection {
    globs: GlobSet,
    /// Paths that patterns are as they stand, and which pattern.
    literal: Vec<(usize, Vec<u8>)>,
    patterns: Vec<String>,
    /// What is odd about patterns, for when they match nothing.
    odd: Vec<(usize, String)>,
    /// Which patterns have matched something.
    matched: Arc<[AtomicBool]>,
}

impl Default for Selection {
    fn default() -> Self {
        Self {
            globs: GlobSet::empty(),
            literal: Vec::new(),
            patterns: Vec::new(),
            odd: Vec::new(),
            matched: Arc::new([]),
        }
    }
}

impl Selection {
    /// Compiles patterns.
    pub fn new(patterns: &[OsString]) -> Result<Self> {
        let mut globs = GlobSetBuilder::new();
        let (mut literal, mut odd) = (Vec::new(), Vec::new());
        let shown: Vec<String> = patterns.iter().map(|pattern| shown(pattern.as_bytes())).collect();
        for (number, pattern) in patterns.iter().enumerate() {
            let given = pattern.as_bytes();
            let mut trimmed = given;
            while let Some(rest) = trimmed.strip_prefix(b"./").or(trimmed.strip_prefix(b"/")) {
                trimmed = rest;
            }
            let trimmed = trimmed.strip_suffix(b"/").unwrap_or(trimmed);
            if matches!(trimmed, b"" | b".") {
                return Err(Error::usage(format!("`{}` is no path", shown[number]))
                    .hint("leave it out to mean everything"));
            }
            literal.push((number, trimmed.to_vec()));
            literal.extend(as_shown(trimmed).map(|path| (number, path)));
            if given.starts_with(b"/") {
                let message = format!(
                    "`{}`: paths begin at the source's directory, as `backstay ls` shows them",
                    shown[number]
                );
                odd.push((number, message));
            }
            let Ok(text) = std::str::from_utf8(trimmed) else {
                // Only a literal can have such bytes; the place of its glob is kept.
                if trimmed.iter().any(|b| b"*?[{".contains(b)) {
                    let message = format!(
                        "`{}`: a pattern cannot have bytes that are not UTF-8; `?` stands for one",
                        shown[number]
                    );
                    odd.push((number, message));
                }
                globs.add(never()?);
                continue;
            };
            globs.add(match glob(text) {
                Ok(glob) => glob,
                Err(error) => {
                    let message = format!(
                        "`{}` is no pattern ({}), only a path",
                        shown[number],
                        error.kind()
                    );
                    odd.push((number, message));
                    never()?
                }
            });
        }
        let globs =
            globs.build().map_err(|error| Error::usage("too many patterns").with_source(error))?;
        let matched = patterns.iter().map(|_| AtomicBool::new(false)).collect();
        Ok(Self { globs, literal, patterns: shown, odd, matched })
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
            for (pattern, literal) in &self.literal {
                if literal == prefix {
                    self.matched[*pattern].store(true, Ordering::Relaxed);
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

    /// What may be wrong with patterns that have matched nothing.
    pub fn hints(&self) -> impl Iterator<Item = &str> {
        let unmatched = |(pattern, _): &&(usize, String)| {
            self.matched.get(*pattern).is_some_and(|matched| !matched.load(Ordering::Relaxed))
        };
        self.odd.iter().filter(unmatched).map(|(_, message)| message.as_str())
    }
}

fn glob(text: &str) -> Result<Glob, globset::Error> {
    GlobBuilder::new(text).literal_separator(true).backslash_escape(true).build()
}

/// A pattern that no path matches.
fn never() -> Result<Glob> {
    glob("[/]").map_err(|error| Error::failed("failed to make a pattern").with_source(error))
}

/// A pattern as it was typed, as far as it can be shown.
fn shown(pattern: &[u8]) -> String {
    std::str::from_utf8(pattern).map_or_else(|_| display_path(pattern), str::to_owned)
}

/// The path that listings show as `text`, if that is another than `text`.
fn as_shown(text: &[u8]) -> Option<Vec<u8>> {
    if !text.contains(&b'\\') {
        return None;
    }
    let mut path = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'\\' {
            path.push(byte);
            rest = after;
            continue;
        }
        let (&kind, after) = after.split_first()?;
        rest = after;
        match kind {
            b'\\' => path.push(b'\\'),
            b'n' => path.push(b'\n'),
            b'r' => path.push(b'\r'),
            b't' => path.push(b'\t'),
            b'x' => {
                let (digits, after) = rest.split_at_checked(2)?;
                path.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
                rest = after;
            }
            b'u' => {
                let end = rest.iter().position(|b| *b == b'}')?;
                let digits = std::str::from_utf8(rest[..end].strip_prefix(b"{")?).ok()?;
                let c = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
                path.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                rest = &rest[end + 1..];
            }
            _ => return None,
        }
    }
    Some(path)
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
            let selection = Selection::new(&[pattern.into()]).expect("compiles");
            assert_eq!(selection.contains(path.as_bytes()), *expected, "{pattern} {path}");
        }
    }

    #[test]
    fn every_path_is_found_by_what_listings_show_of_it() {
        let paths: [&[u8]; 7] = [
            b"plain",
            b"a\xff\xfeb/c",
            b"back\\slash",
            b"line\nbreak\ttab\rreturn",
            b"bell\x07",
            "\u{85}\u{e9}".as_bytes(),
            b"\\xff",
        ];
        for path in paths {
            for given in [OsStr::from_bytes(path), OsStr::new(&display_path(path))] {
                let selection = Selection::new(&[given.to_owned()]).expect("compiles");
                assert!(selection.contains(path), "{given:?}");
                assert!(!selection.contains(b"other"), "{given:?}");
                assert_eq!(selection.hints().count(), 0);
            }
        }
    }

    #[test]
    fn what_is_odd_about_a_pattern_is_told_where_it_matched_nothing() {
        let odd = OsStr::from_bytes(b"\xff*").to_owned();
        let given = ["[".into(), "/srv/app".into(), odd];
        let selection = Selection::new(&given).expect("compiles");
        assert!(!selection.contains(b"other"));
        assert_eq!(selection.hints().count(), 3);
        assert!(selection.contains(b"["));
        assert!(selection.contains(b"srv/app/file"));
        assert!(selection.contains(b"\xff*"));
        assert_eq!(selection.hints().count(), 0);
    }
}
