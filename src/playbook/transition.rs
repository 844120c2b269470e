//! What may follow what. The only place that knows: live and in replay.

use serde::{Deserialize, Serialize};

/// Where a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Nothing was done.
    Pending,
    /// A person was asked.
    Waiting,
    /// It was written down that it begins; whether anything happened is not known until it is
    /// written down what came of it.
    Intended,
    /// It is done.
    Succeeded,
    /// It was tried as often as it may be.
    Failed,
    /// It began, and nobody can tell whether it is done: a person has to look.
    Unknown,
    /// It is not to be done.
    Skipped,
    /// A person says that it is done.
    Attested,
    /// It was written down that it is being taken back.
    Undoing,
    /// It was taken back.
    Undone,
    /// It could not be taken back: a person has to look.
    UndoFailed,
}

/// What happened to a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Happened {
    /// A person was asked.
    Asked,
    /// Somebody approved.
    Approved,
    /// It begins, for the first time or again.
    Intended,
    /// It was tried, failed, and is tried again.
    Tried,
    /// It is done.
    Succeeded,
    /// It failed for good.
    Failed,
    /// Nobody can tell whether it is done.
    Lost,
    /// It is not to be done.
    Skipped,
    /// A person says that it is done.
    Attested,
    /// A person wants it tried again.
    Retried,
    /// It is being taken back.
    UndoIntended,
    /// It was taken back.
    Undone,
    /// It could not be taken back.
    UndoFailed,
}

use Happened as H;
use StepState as S;

/// Every transition there is.
pub const TABLE: &[(StepState, Happened, StepState)] = &[
    (S::Pending, H::Asked, S::Waiting),
    (S::Pending, H::Intended, S::Intended),
    (S::Pending, H::Failed, S::Failed),
    (S::Pending, H::Skipped, S::Skipped),
    (S::Waiting, H::Approved, S::Waiting),
    (S::Waiting, H::Succeeded, S::Succeeded),
    (S::Waiting, H::Skipped, S::Skipped),
    (S::Waiting, H::Attested, S::Attested),
    (S::Intended, H::Intended, S::Intended),
    (S::Intended, H::Tried, S::Intended),
    (S::Intended, H::Succeeded, S::Succeeded),
    (S::Intended, H::Failed, S::Failed),
    (S::Intended, H::Lost, S::Unknown),
    (S::Intended, H::UndoIntended, S::Undoing),
    (S::Failed, H::Retried, S::Pending),
    (S::Failed, H::Skipped, S::Skipped),
    (S::Failed, H::Attested, S::Attested),
    (S::Failed, H::UndoIntended, S::Undoing),
    (S::Unknown, H::Retried, S::Pending),
    (S::Unknown, H::Skipped, S::Skipped),
    (S::Unknown, H::Attested, S::Attested),
    (S::Unknown, H::UndoIntended, S::Undoing),
    (S::Succeeded, H::UndoIntended, S::Undoing),
    (S::Attested, H::UndoIntended, S::Undoing),
    (S::Skipped, H::UndoIntended, S::Undoing),
    (S::Undoing, H::UndoIntended, S::Undoing),
    (S::Undoing, H::Undone, S::Undone),
    (S::Undoing, H::UndoFailed, S::UndoFailed),
    (S::UndoFailed, H::Retried, S::Undoing),
    (S::UndoFailed, H::Skipped, S::Skipped),
    (S::UndoFailed, H::Attested, S::Undone),
];

/// What a step becomes; `None` where that must not happen to it.
pub fn next(from: StepState, what: Happened) -> Option<StepState> {
    TABLE.iter().find(|(state, happened, _)| (*state, *happened) == (from, what)).map(|row| row.2)
}

impl StepState {
    /// All states.
    pub const ALL: [Self; 11] = [
        S::Pending,
        S::Waiting,
        S::Intended,
        S::Succeeded,
        S::Failed,
        S::Unknown,
        S::Skipped,
        S::Attested,
        S::Undoing,
        S::Undone,
        S::UndoFailed,
    ];

    /// The word, for people and programs.
    pub const fn word(self) -> &'static str {
        match self {
            S::Pending => "pending",
            S::Waiting => "waiting",
            S::Intended => "running",
            S::Succeeded => "succeeded",
            S::Failed => "failed",
            S::Unknown => "unknown",
            S::Skipped => "skipped",
            S::Attested => "attested",
            S::Undoing => "undoing",
            S::Undone => "undone",
            S::UndoFailed => "undo failed",
        }
    }

    /// Whether what comes after it may begin.
    pub const fn is_done(self) -> bool {
        matches!(self, S::Succeeded | S::Skipped | S::Attested)
    }

    /// Whether it is, or was, taken back.
    pub const fn is_taken_back(self) -> bool {
        matches!(self, S::Undoing | S::Undone | S::UndoFailed)
    }

    /// Whether it begins or is taken back right now, as far as is written down.
    pub const fn is_under_way(self) -> bool {
        matches!(self, S::Intended | S::Undoing)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_table_says_each_thing_once_and_leads_everywhere() {
        let rows: BTreeSet<_> = TABLE.iter().map(|(from, what, _)| (from, what)).collect();
        assert_eq!(rows.len(), TABLE.len());
        let mut reached = BTreeSet::from([S::Pending]);
        for _ in StepState::ALL {
            for (from, _, to) in TABLE {
                if reached.contains(from) {
                    reached.insert(*to);
                }
            }
        }
        assert_eq!(reached.len(), StepState::ALL.len());
        // What is done stays done but for being taken back, and what was taken back stays so.
        for what in [H::Intended, H::Failed, H::Retried, H::Skipped, H::Succeeded] {
            assert_eq!(next(S::Succeeded, what), None);
            assert_eq!(next(S::Undone, what), None);
        }
        // Nothing is taken back that was never begun.
        assert_eq!(next(S::Pending, H::UndoIntended), None);
        assert_eq!(next(S::Waiting, H::UndoIntended), None);
    }
}
