//! What is asked of a prune.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use jiff::tz::TimeZone;

use crate::archive::manifest::Manifest;
use crate::id::{BackupId, SourceAddress};
use crate::policy::Keep;

/// The times that a prune goes by. Tests make them short; their order must stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// From the mark to the deletion. It covers readers that cannot write a hold.
    pub grace: SignedDuration,
    /// Without a sign of life for so long, the writer of a backup is taken for dead.
    pub silence: SignedDuration,
    /// The same for a copy, which is resumed and not begun anew: giving it up bars its id.
    pub copy_silence: SignedDuration,
    /// How long a prune acts on what it saw. Far shorter than the grace period.
    pub window: SignedDuration,
    /// How long a finished mark stays: longer than the window.
    pub linger: SignedDuration,
    /// How long the lease counts without renewal.
    pub lease: SignedDuration,
    /// How long the hold of a reader counts without renewal.
    pub hold: SignedDuration,
}

impl Times {
    /// The shortest grace period that a policy may ask for.
    pub const SHORTEST_GRACE: SignedDuration = SignedDuration::from_hours(24);

    /// The usual times, with a grace period of one's own.
    pub fn with_grace(grace: SignedDuration) -> Self {
        Self { grace, ..Self::default() }
    }
}

impl Default for Times {
    fn default() -> Self {
        Self {
            grace: Self::SHORTEST_GRACE,
            silence: SignedDuration::from_hours(48),
            copy_silence: SignedDuration::from_hours(14 * 24),
            window: SignedDuration::from_mins(10),
            linger: SignedDuration::from_hours(1),
            lease: SignedDuration::from_mins(5),
            hold: SignedDuration::from_hours(48),
        }
    }
}

/// Which backups expire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expiry {
    /// Those whose rule no longer keeps them.
    ByRule,
    /// These, whatever their rule says; and even the last good one if `last`.
    These {
        /// The backups.
        backups: BTreeSet<BackupId>,
        /// Whether the last good one may be among them.
        last: bool,
    },
}

/// A prune of one source.
pub struct Request<'a> {
    /// The source.
    pub address: SourceAddress,
    /// Which backups expire.
    pub expiry: Expiry,
    /// The rule in force for a backup, if there is one.
    pub rule: &'a dyn Fn(&Manifest) -> Option<Keep>,
    /// The zone whose days, weeks and months count.
    pub zone: TimeZone,
    /// The window of point-in-time recovery; without it WAL stays from the oldest backup on.
    pub wal_keep: Option<SignedDuration>,
    /// Grace and the like.
    pub times: Times,
}
