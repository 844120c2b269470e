//! Who may refer to what, and what may go: the decisions of writers and prunes over what they saw.
//!
//! A store has no transactions, so safety is a matter of order. Everyone *says* what they are about
//! to do before they *look* at what others said; of two that meet, at least one sees the other:
//!
//! | who | says | then looks | and then |
//! |---|---|---|---|
//! | writer | intent | marks | refers to nothing that is marked |
//! | restore, verify, copy | hold | manifest | reads |
//! | pin | pin | marks | is refused where its backup is named |
//! | prune | mark | intents, holds, pins | deletes manifests of expired backups |
//! | prune, a grace period later | tombstones | intents, holds, **then** manifests | deletes what is marked and still unwanted |
//!
//! These functions are pure and know neither store nor clock, only the order in which a [`Survey`]
//! was made. The model in `tests/prune_model.rs` runs exactly them through every interleaving and
//! every crash.

use std::collections::{BTreeMap, BTreeSet};

/// Someone who relies on objects without having committed anything that names them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim<B, O> {
    /// The backup that is being written; none for a hold.
    pub writes: Option<B>,
    /// The backup whose objects are read or referred to.
    pub relies_on: Option<B>,
    /// Objects that it named itself: a copy knows them beforehand.
    pub objects: BTreeSet<O>,
}

/// What a prune saw of one source. **The order matters**: objects first, then claims, then
/// manifests. Whoever stored an object before the first look has a claim at the second or a
/// manifest at the third.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey<B, O> {
    /// Objects that lie there, with the backup whose directory they are in.
    pub stored: BTreeMap<O, B>,
    /// Open intents (their commit key is absent) and holds.
    pub claims: Vec<Claim<B, O>>,
    /// Every manifest, with what it needs.
    pub needs: BTreeMap<B, BTreeSet<O>>,
}

/// A claim relies on a backup whose manifest is gone: what it needs cannot be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown<B> {
    /// The backup that is gone.
    pub gone: B,
    /// Who writes, if it is a writer.
    pub writes: Option<B>,
}

/// Whether a writer may refer to `object`, given the marks it listed after its intent was there.
pub fn may_refer<O: Ord>(object: &O, marked: &BTreeSet<O>) -> bool {
    !marked.contains(object)
}

/// Backups that may expire now, out of those whose time has come: nobody relies on them.
pub fn may_expire<B: Ord + Clone, O: Ord>(
    expired: &BTreeSet<B>,
    claims: &[Claim<B, O>],
    pinned: &BTreeSet<B>,
) -> BTreeSet<B> {
    let relied_on: BTreeSet<&B> =
        claims.iter().filter_map(|claim| claim.relies_on.as_ref()).collect();
    expired
        .iter()
        .filter(|backup| !relied_on.contains(backup) && !pinned.contains(backup))
        .cloned()
        .collect()
}

/// Objects that may be marked, once the manifests of `expiring` are gone.
pub fn to_mark<B: Ord + Clone, O: Ord + Clone>(
    survey: &Survey<B, O>,
    expiring: &BTreeSet<B>,
) -> Result<BTreeSet<O>, Unknown<B>> {
    let wanted = wanted(survey, expiring)?;
    Ok(survey.stored.keys().filter(|object| !wanted.contains(object)).cloned().collect())
}

/// Objects of a mark that may be deleted, by a survey made after the grace period.
///
/// A writer whose intent came after that survey's claims were read sees the mark, which is removed
/// after the last deletion, and refers to nothing in it.
pub fn to_delete<B: Ord + Clone, O: Ord + Clone>(
    marked: &BTreeSet<O>,
    survey: &Survey<B, O>,
) -> Result<BTreeSet<O>, Unknown<B>> {
    let wanted = wanted(survey, &BTreeSet::new())?;
    Ok(marked.iter().filter(|object| !wanted.contains(object)).cloned().collect())
}

/// Everything that somebody needs, when `expiring` no longer count.
fn wanted<'a, B: Ord + Clone, O: Ord + Clone>(
    survey: &'a Survey<B, O>,
    expiring: &BTreeSet<B>,
) -> Result<BTreeSet<&'a O>, Unknown<B>> {
    let mut wanted = BTreeSet::new();
    for (backup, needs) in &survey.needs {
        if !expiring.contains(backup) {
            wanted.extend(needs);
        }
    }
    let mut writing = BTreeSet::new();
    for claim in &survey.claims {
        wanted.extend(&claim.objects);
        writing.extend(claim.writes.as_ref());
        let Some(base) = &claim.relies_on else { continue };
        match survey.needs.get(base) {
            Some(needs) => wanted.extend(needs),
            None => return Err(Unknown { gone: base.clone(), writes: claim.writes.clone() }),
        }
    }
    let own = survey.stored.iter().filter(|(_, backup)| writing.contains(backup));
    wanted.extend(own.map(|(object, _)| object));
    Ok(wanted)
}
