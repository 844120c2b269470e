//! What exit codes mean to who runs the program.
//!
//! PostgreSQL reads meanings into those of `archive_command` and `restore_command` that no other
//! caller does. They hold for everything that may happen, a bad flag and a panic included; so they
//! are fixed from the arguments, before anything else looks at them.

use std::ffi::{OsStr, OsString};

use super::exit::ExitStatus;

/// What exit codes mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contract {
    /// What `docs/exit-codes.md` says.
    Usual,
    /// `wal push`: above 125 would end the server's archiver, and count as no failure.
    Archive,
    /// `wal get`: 1 to 125 means that the file does not exist, after which the server opens as if
    /// this were the end of its WAL. Only who knows that says so; everything else is 126.
    Recovery,
    /// `wal get --standby`: a standby asks again after 1, and ends after more than 125.
    Standby,
}

/// Options before the command that take a value.
const VALUED: [&str; 6] =
    ["--policy", "--repository", "--identity", "--state-dir", "--output", "--color"];

impl Contract {
    /// The one that these arguments ask for, sensible or not.
    pub fn of(arguments: &[OsString]) -> Self {
        let mut words = words(arguments.get(1..).unwrap_or_default());
        if words.next().is_none_or(|word| word != "wal") {
            return Self::Usual;
        }
        match words.next().and_then(OsStr::to_str) {
            Some("push") => Self::Archive,
            Some("get") if arguments.iter().any(|word| word == "--standby") => Self::Standby,
            Some("get") => Self::Recovery,
            _ => Self::Usual,
        }
    }

    /// How a failure ends.
    pub fn failed(self, status: ExitStatus) -> u8 {
        match self {
            Self::Usual => status as u8,
            Self::Archive => match status as u8 {
                0 | 126.. => 1,
                code => code,
            },
            Self::Recovery => 126,
            Self::Standby => 1,
        }
    }

    /// How a panic ends.
    pub fn panicked(self) -> u8 {
        match self {
            // What it is for every other program in this language.
            Self::Usual => 101,
            _ => self.failed(ExitStatus::Failed),
        }
    }
}

/// Arguments that are no options and no values of options.
fn words(arguments: &[OsString]) -> impl Iterator<Item = &OsStr> {
    let mut is_value = false;
    arguments.iter().map(OsString::as_os_str).filter(move |argument| {
        let was_value = std::mem::take(&mut is_value);
        let text = argument.to_string_lossy();
        if was_value {
            return false;
        }
        is_value = VALUED.contains(&&*text);
        !text.starts_with('-')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_known_from_the_arguments_alone() {
        let of = |line: &str| {
            let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            Contract::of(&arguments)
        };
        for (line, contract) in [
            ("backstay", Contract::Usual),
            ("backstay list", Contract::Usual),
            ("backstay wal push pg_wal/x", Contract::Archive),
            ("backstay --policy wal wal --quiet push x", Contract::Archive),
            ("backstay wal get f p", Contract::Recovery),
            ("backstay --bogus wal get", Contract::Recovery),
            ("backstay --policy=x -q wal get f p --nonsense", Contract::Recovery),
            ("backstay wal --repository u get f p", Contract::Recovery),
            ("backstay wal get f p --standby", Contract::Standby),
            ("backstay --policy wal get", Contract::Usual),
            ("backstay restore wal --to get", Contract::Usual),
        ] {
            assert_eq!(of(line), contract, "{line}");
        }
    }

    #[test]
    fn failures_end_as_the_server_needs_it() {
        assert_eq!(Contract::Recovery.failed(ExitStatus::Usage), 126);
        assert_eq!(Contract::Recovery.panicked(), 126);
        assert_eq!(Contract::Standby.failed(ExitStatus::Interrupted), 1);
        assert_eq!(Contract::Archive.failed(ExitStatus::Interrupted), 1);
        assert_eq!(Contract::Archive.failed(ExitStatus::PolicyInvalid), 3);
        assert_eq!(Contract::Usual.failed(ExitStatus::Busy), 75);
    }
}
