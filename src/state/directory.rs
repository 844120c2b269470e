//! Where the state lies.

use std::ffi::OsString;
use std::path::PathBuf;

/// For programs that run as root.
const SYSTEM: &str = "/var/lib/backstay";

/// The directory that is taken where none was given, as the FHS and the XDG base directory
/// specification have it: `/var/lib/backstay` for root, else `$XDG_STATE_HOME/backstay` or
/// `~/.local/state/backstay`. `None` for a user without a home. `variable` reads the environment.
pub fn default_directory(
    root: bool,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Option<PathBuf> {
    if root {
        return Some(SYSTEM.into());
    }
    // The specification: a path that is not absolute is invalid and ignored.
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("backstay"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_follows_the_user() {
        let with = |pairs: &'static [(&str, &str)]| {
            move |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, v)| v.into())
        };
        let both = with(&[("XDG_STATE_HOME", "/s"), ("HOME", "/home/a")]);
        assert_eq!(default_directory(true, both), Some("/var/lib/backstay".into()));
        assert_eq!(default_directory(false, both), Some("/s/backstay".into()));
        let relative = with(&[("XDG_STATE_HOME", "s"), ("HOME", "/home/a")]);
        let home = Some("/home/a/.local/state/backstay".into());
        assert_eq!(default_directory(false, relative), home);
        assert_eq!(default_directory(false, with(&[])), None);
    }
}
