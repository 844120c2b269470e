//! Versions of StarRocks, as far as anything depends on them.

use std::fmt;

/// `3.3.5`, with whatever stands behind it left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second.
    pub minor: u32,
    /// The third.
    pub patch: u32,
}

impl Version {
    /// The oldest that is taken.
    pub const OLDEST: Self = Self::new(2, 5);

    /// The first of a series.
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor, patch: 0 }
    }

    /// Reads `3.3.5-6d81f75` and the like.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().trim_start_matches(['v', 'V']);
        let numbers = text.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
        let mut numbers = numbers.split('.').map(str::parse::<u32>);
        let (major, minor) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        Some(Self { major, minor, patch: numbers.next().and_then(Result::ok).unwrap_or(0) })
    }

    /// Whether users, roles and rights are those of 3.0 and later.
    pub fn has_roles(self) -> bool {
        self >= Self::new(3, 0)
    }

    /// Whether tables partitioned by lists can be backed up.
    pub fn takes_lists(self) -> bool {
        self >= Self::new(3, 4)
    }

    /// Whether a restore makes the database that it is to restore into.
    pub fn creates_databases(self) -> bool {
        self >= Self::new(3, 4)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared() {
        let version = |text: &str| Version::parse(text).map(|version| version.to_string());
        assert_eq!(version("3.3.5-6d81f75").as_deref(), Some("3.3.5"));
        assert_eq!(version("v4.0.0-rc01").as_deref(), Some("4.0.0"));
        assert_eq!(version("2.5").as_deref(), Some("2.5.0"));
        assert_eq!(version("main-1234"), None);
        assert!(Version::parse("3.10.1") > Version::parse("3.4.9"));
    }
}
