//! Jobs that want the same source at the same time become one run of the strongest kind.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::id::BackupKind;

/// A run that is to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The job.
    pub job: String,
    /// Its kind; `None` is no backup, and never becomes one with others.
    pub kind: Option<BackupKind>,
    /// Its sources.
    pub sources: Vec<String>,
}

/// What a run may hand over to another one: which source, and which job backs it up instead.
pub type Covered = BTreeMap<String, String>;

/// For each run what others do in its place. Each source is left to exactly one of those that want
/// it: to the strongest kind, and of equals to the first.
pub fn coalesce(wanted: &[Wanted]) -> Vec<Covered> {
    let mut winners: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, run) in wanted.iter().enumerate() {
        let Some(kind) = run.kind else { continue };
        for source in &run.sources {
            let winner = winners.entry(source).or_insert(at);
            let held = wanted[*winner].kind.map_or(0, strength);
            if (strength(kind), Reverse(at)) > (held, Reverse(*winner)) {
                *winner = at;
            }
        }
    }
    let covered = |(at, run): (usize, &Wanted)| {
        let others = run.sources.iter().filter_map(|source| {
            let winner = *winners.get(source.as_str())?;
            (run.kind.is_some() && winner != at)
                .then(|| (source.clone(), wanted[winner].job.clone()))
        });
        others.collect()
    };
    wanted.iter().enumerate().map(covered).collect()
}

/// A full is all that the others are; an incremental can be built on, a snapshot cannot.
pub const fn strength(kind: BackupKind) -> u8 {
    match kind {
        BackupKind::Full => 3,
        BackupKind::Incremental => 2,
        BackupKind::Snapshot => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(job: &str, kind: BackupKind, sources: &[&str]) -> Wanted {
        let sources = sources.iter().map(|source| (*source).to_owned()).collect();
        Wanted { job: job.to_owned(), kind: Some(kind), sources }
    }

    fn covered(pairs: &[(&str, &str)]) -> Covered {
        pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    #[test]
    fn the_strongest_kind_covers_the_others() {
        let runs = [
            wanted("hourly", BackupKind::Snapshot, &["db", "files"]),
            wanted("daily", BackupKind::Incremental, &["db", "files", "keys"]),
            wanted("weekly", BackupKind::Full, &["db"]),
        ];
        assert_eq!(
            coalesce(&runs),
            [
                covered(&[("db", "weekly"), ("files", "daily")]),
                covered(&[("db", "weekly")]),
                covered(&[])
            ]
        );
    }

    #[test]
    fn of_equals_the_first_and_copies_never() {
        let runs = [
            wanted("a", BackupKind::Full, &["db"]),
            wanted("b", BackupKind::Full, &["db"]),
            Wanted { kind: None, ..wanted("copy", BackupKind::Full, &["db"]) },
        ];
        assert_eq!(coalesce(&runs), [covered(&[]), covered(&[("db", "a")]), covered(&[])]);
    }
}
