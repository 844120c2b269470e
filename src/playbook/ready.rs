//! Whether a playbook could be carried out, from what was found when somebody looked last. Pure.

use crate::error::Result;
use crate::policy::Policy;
use crate::state::ReadinessRow;

use super::compile::{Wanted, compile};

/// Whether a playbook could be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Nothing was missing in any of its modes.
    Ready,
    /// So much was missing.
    NotReady(u64),
    /// Nobody looked since it is what it is now.
    NeedsVerify,
}

impl Readiness {
    /// The words, for people and programs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::NotReady(_) => "not ready",
            Self::NeedsVerify => "needs verify",
        }
    }
}

/// The plan of each mode of a playbook: the mode, and the hash.
pub fn plans(policy: &Policy, name: &str) -> Result<Vec<(&'static str, String)>> {
    let Some(playbook) = policy.playbooks.get(name) else { return Ok(Vec::new()) };
    let plan = |mode| {
        let plan = compile(policy, Wanted { playbook: name, mode: Some(mode), at: None })?;
        Ok((mode.word(), plan.hash()?))
    };
    playbook.modes.iter().map(|mode| plan(*mode)).collect()
}

/// The row of a plan, if somebody looked at exactly that one.
pub fn row_of<'a>(
    rows: &'a [ReadinessRow],
    (stack, name): (&str, &str),
    (mode, hash): (&str, &str),
) -> Option<&'a ReadinessRow> {
    rows.iter().find(|row| {
        row.stack == stack && row.playbook == name && row.mode == mode && row.hash == hash
    })
}

/// How a playbook stands, all its modes taken together.
pub fn readiness(
    rows: &[ReadinessRow],
    of: (&str, &str),
    plans: &[(&'static str, String)],
) -> Readiness {
    let mut problems = 0;
    let mut unknown = false;
    for (mode, hash) in plans {
        match row_of(rows, of, (mode, hash)) {
            Some(row) => problems += row.problems,
            None => unknown = true,
        }
    }
    match (problems, unknown) {
        (0, false) => Readiness::Ready,
        (0, true) => Readiness::NeedsVerify,
        (problems, _) => Readiness::NotReady(problems),
    }
}
