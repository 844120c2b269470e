//! Keys as paths. A key is any text: `a` beside `a/b`, `//`, `..`. A path is none of these, and a
//! person is to recognise the key in it.
//!
//! Each part of a key between slashes becomes one component. An empty one is `%`; a `.` or `..`, a
//! control character, a space at the end and `%` itself are `%XX`. A component below which an object
//! lies, and which is an object itself, gets a `%` at its end: `a` and `a%/b`.

use std::fmt::Write as _;

/// The directory of the objects.
pub const OBJECTS: &str = "objects";
/// The directory of what lies behind them: older versions, and marks that something was deleted.
pub const VERSIONS: &str = "versions";

/// Makes paths of keys that come in order.
#[derive(Debug, Default)]
pub struct Paths {
    /// Keys below which further keys may still come.
    open: Vec<String>,
}

impl Paths {
    /// The path of the next key. Keys ascend.
    pub fn next(&mut self, key: &str) -> String {
        // What begins with `k/` comes before `k0`.
        self.open.retain(|open| key.as_bytes() < [open.as_bytes(), b"0"].concat().as_slice());
        let mut path = OBJECTS.to_owned();
        let mut upto = 0;
        for part in key.split('/') {
            path.push('/');
            path.push_str(&encoded(part));
            upto += part.len();
            if upto < key.len() && self.open.iter().any(|open| open == &key[..upto]) {
                path.push('%');
            }
            upto += 1;
        }
        self.open.push(key.to_owned());
        path
    }
}

fn encoded(part: &str) -> String {
    match part {
        "" => return "%".to_owned(),
        "." => return "%2E".to_owned(),
        ".." => return "%2E%2E".to_owned(),
        _ => {}
    }
    let trimmed = part.trim_end().len();
    let mut name = String::new();
    for (at, c) in part.char_indices() {
        if c.is_control() || c == '%' || at >= trimmed {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                let _ = write!(name, "%{byte:02X}");
            }
        } else {
            name.push(c);
        }
    }
    name
}

/// The key that a path is of. `None` if [`Paths`] makes no such path.
pub fn key_of(path: &str) -> Option<String> {
    let rest = path.strip_prefix(OBJECTS)?.strip_prefix('/')?;
    let mut parts = Vec::new();
    for component in rest.split('/') {
        let name = match component.strip_suffix('%') {
            Some(name) if !component.eq("%") => name,
            _ => component,
        };
        parts.push(part_of(name)?);
    }
    Some(parts.join("/"))
}

/// A part of a key, as [`encoded`] wrote it.
fn part_of(name: &str) -> Option<String> {
    if name == "%" {
        return Some(String::new());
    }
    let mut bytes = Vec::new();
    let mut left = name.as_bytes();
    while let Some((&byte, tail)) = left.split_first() {
        left = tail;
        if byte == b'%' {
            bytes.extend(hex::decode(tail.get(..2)?).ok()?);
            left = &tail[2..];
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// The path of a version of a key: directories end in `%`, so that no version is one.
pub fn version_path(key: &str, version: &str) -> String {
    let mut path = VERSIONS.to_owned();
    for part in key.split('/') {
        let _ = write!(path, "/{}%", encoded(part));
    }
    let _ = write!(path, "/{}", encoded(&version.replace('/', "%2F")));
    path
}

/// The key and the version that a path is of. `None` if `version_path` makes no such path.
pub fn version_of(path: &str) -> Option<(String, String)> {
    let rest = path.strip_prefix(VERSIONS)?.strip_prefix('/')?;
    let (directory, version) = rest.rsplit_once('/')?;
    let parts: Option<Vec<String>> =
        directory.split('/').map(|name| part_of(name.strip_suffix('%')?)).collect();
    Some((parts?.join("/"), part_of(version)?.replace("%2F", "/")))
}

/// Whether a key can be asked for over HTTP: programs take `.` and `..` out of addresses.
pub fn is_reachable(key: &str) -> bool {
    !key.split('/').any(|part| matches!(part, "." | ".."))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn paths(keys: &[&str]) -> Vec<String> {
        let sorted: BTreeSet<&str> = keys.iter().copied().collect();
        let mut paths = Paths::default();
        sorted.into_iter().map(|key| paths.next(key)).collect()
    }

    #[test]
    fn keys_stay_readable_and_apart() {
        assert_eq!(paths(&["photos/2024/x y.jpg"]), ["objects/photos/2024/x y.jpg"]);
        assert_eq!(
            paths(&["a", "a-1", "a/b", "a/b/c", "a0/b"]),
            ["objects/a", "objects/a-1", "objects/a%/b", "objects/a%/b%/c", "objects/a0/b"]
        );
        assert_eq!(
            paths(&["/x", "a//b", "a/", "../up", "50%", "nl\n", "end "]),
            [
                "objects/%2E%2E/up",
                "objects/%/x",
                "objects/50%25",
                "objects/a/%",
                "objects/a/%%/b",
                "objects/end%20",
                "objects/nl%0A",
            ]
        );
    }

    #[test]
    fn a_version_lies_below_its_key() {
        for (key, version, path) in [
            ("a", "v1", "versions/a%/v1"),
            ("a/b", "v1", "versions/a%/b%/v1"),
            ("a//", "null", "versions/a%/%%/%%/null"),
            ("../50%", "x/y", "versions/%2E%2E%/50%25%/x%252Fy"),
        ] {
            assert_eq!(version_path(key, version), path);
            assert_eq!(version_of(path), Some((key.to_owned(), version.to_owned())), "{path}");
        }
        assert_eq!(version_of("objects/a"), None);
        assert_eq!(version_of("versions/a/v1"), None);
    }

    proptest! {
        #[test]
        fn keys_come_back_and_no_path_is_another_s_parent(
            keys in prop::collection::btree_set("[ab/.% \\n0-]{1,8}", 1..40)
        ) {
            let mut paths = Paths::default();
            let made: Vec<(String, String)> =
                keys.iter().map(|key| (key.clone(), paths.next(key))).collect();
            let all: BTreeSet<&String> = made.iter().map(|(_, path)| path).collect();
            prop_assert_eq!(all.len(), made.len());
            for (key, path) in &made {
                prop_assert_eq!(key_of(path), Some(key.clone()), "{}", path);
                let mut parent = path.as_str();
                while let Some((above, _)) = parent.rsplit_once('/') {
                    prop_assert!(!all.contains(&above.to_owned()), "{} is above {}", above, path);
                    parent = above;
                }
            }
        }
    }
}
