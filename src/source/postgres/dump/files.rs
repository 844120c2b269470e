//! Where things lie in a backup of this source, and the names of files.

use serde::{Deserialize, Serialize};

/// The roles and tablespaces of the server.
pub const GLOBALS: &str = "globals.sql";
/// The server, and what was left out.
pub const OVERVIEW: &str = "server.json";
/// The directory of the dumps.
pub const DUMPS: &str = "dumps";
/// The directory of what is known of each database.
pub const FACTS: &str = "facts";

/// A dump in custom format: one file.
pub const CUSTOM: &str = "pgc";
/// A dump in directory format.
pub const DIRECTORY: &str = "pgd";

/// Where the dump of a database lies.
pub fn dump_path(database: &str, extension: &str) -> String {
    format!("{DUMPS}/{}.{extension}", encode_name(database))
}

/// Where what is known of a database lies.
pub fn facts_path(database: &str) -> String {
    format!("{FACTS}/{}.json", encode_name(database))
}

/// The name of a database as that of a file: bytes other than ASCII letters, digits, `_`, `-` and
/// inner dots become `%XX`. Two databases never share a name, and no name leaves its directory.
pub fn encode_name(database: &str) -> String {
    use std::fmt::Write as _;
    let mut name = String::new();
    for (at, byte) in database.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        if plain || (byte == b'.' && at > 0) {
            name.push(char::from(byte));
        } else {
            let _ = write!(name, "%{byte:02X}");
        }
    }
    name
}

/// The database that a name stands for. `None` if [`encode_name`] makes no such name.
pub fn decode_name(name: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = name.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'%' {
            bytes.extend(hex::decode(tail.get(..2)?).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().filter(|found| encode_name(found) == name)
}

/// What `server.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overview {
    /// The version of this form: 1.
    pub version: u32,
    /// `server_version_num`.
    pub server_version: u32,
    /// `server_version`.
    pub server: String,
    /// Whether it was a standby.
    pub standby: bool,
    /// The program that dumped the roles.
    pub pg_dumpall: String,
    /// Whether the roles in `globals.sql` have their passwords.
    pub role_passwords: bool,
    /// The databases that were dumped.
    pub databases: Vec<String>,
    /// The databases that were not.
    pub left_out: Vec<LeftOut>,
}

/// A database that was not dumped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its name.
    pub database: String,
    /// Why not.
    pub why: String,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn names_come_back(name in "\\PC{1,63}") {
            let encoded = encode_name(&name);
            prop_assert!(!encoded.contains(['/', ' ', '\n']) && !encoded.starts_with('.'));
            prop_assert_eq!(decode_name(&encoded), Some(name));
        }
    }

    #[test]
    fn odd_names_stay_in_their_directory() {
        for (name, expected) in [
            ("superset", "superset"),
            ("..", "%2E."),
            (".", "%2E"),
            ("a/b", "a%2Fb"),
            ("a.b-c_D", "a.b-c_D"),
            ("50%", "50%25"),
            ("日", "%E6%97%A5"),
            ("x y", "x%20y"),
        ] {
            assert_eq!(encode_name(name), expected);
            assert_eq!(decode_name(expected).as_deref(), Some(name));
        }
        for bad in ["%2", "%zz", "%61", "a%2fb", "%FF"] {
            assert_eq!(decode_name(bad), None, "{bad}");
        }
    }
}
