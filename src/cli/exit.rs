//! Exit codes. They are an interface: scripts branch on them.

use crate::error::ErrorKind;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitStatus {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// A policy is invalid.
    PolicyInvalid = 3,
    /// An objective is missed.
    ObjectiveMissed = 4,
    /// Damage was found in a repository.
    DamageFound = 5,
    /// Waiting for a person.
    Waiting = 6,
    /// A lease is held by somebody else.
    Busy = 75,
    /// Interrupted.
    Interrupted = 130,
}

/// Every exit code with what it means, for the manual.
pub const EXIT_CODES: &[(ExitStatus, &str)] = &[
    (ExitStatus::Done, "done"),
    (ExitStatus::Failed, "failed"),
    (ExitStatus::Usage, "the command line makes no sense"),
    (ExitStatus::PolicyInvalid, "a policy is invalid"),
    (ExitStatus::ObjectiveMissed, "an objective (RPO or RTO) is missed"),
    (ExitStatus::DamageFound, "damage was found in a repository"),
    (ExitStatus::Waiting, "waiting for a person"),
    (ExitStatus::Busy, "a lease is held by somebody else"),
    (ExitStatus::Interrupted, "interrupted"),
];

impl From<ErrorKind> for ExitStatus {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Usage => Self::Usage,
            ErrorKind::Policy => Self::PolicyInvalid,
            ErrorKind::Objective => Self::ObjectiveMissed,
            ErrorKind::Damaged => Self::DamageFound,
            ErrorKind::Waiting => Self::Waiting,
            ErrorKind::Busy => Self::Busy,
            ErrorKind::Interrupted => Self::Interrupted,
            ErrorKind::NotFound
            | ErrorKind::Denied
            | ErrorKind::Unreachable
            | ErrorKind::Conflict
            | ErrorKind::Unsupported
            | ErrorKind::OutputClosed
            | ErrorKind::Failed => Self::Failed,
        }
    }
}
