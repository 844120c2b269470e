//! Proving a repository bit by bit: which objects come next, and how much of it is proven.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::proofs::Standing;
use crate::archive::manifest::Manifest;
use crate::error::{Error, Result};
use crate::id::BackupId;
use crate::state::{Proof, ProofDepth, ProofResult};
use crate::store::{SourceStore, layout};

/// Manifests in memory at once.
const MANIFESTS_AT_ONCE: usize = 16;

/// Proofs that are not older than this are recent.
pub const RECENT_DAYS: i64 = 30;

/// An object of a repository with what is known of it.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Which of the sources that are looked at, by number.
    pub place: usize,
    /// Its path, relative to its source.
    pub path: String,
    /// Its stored bytes.
    pub size: u64,
    /// The newest backup that needs it: it is held against this one's index.
    pub backup: BackupId,
    /// How it stands.
    pub standing: Standing,
    /// The store lists it with its size. One that is not costs nothing to find damaged.
    pub listed: bool,
    /// Objects that are read with it, by number.
    pub along: Vec<usize>,
}

impl Candidate {
    fn cost(&self) -> u64 {
        if self.listed { self.size } else { 0 }
    }

    /// Notes what came of a look at it.
    pub fn note(&mut self, proof: &Proof) {
        self.standing = match proof.result {
            ProofResult::Sound => Standing::Sound(proof.proven_at),
            ProofResult::Damaged => Standing::Damaged(proof.proven_at),
        };
    }
}

/// What a source has to prove.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Every object once.
    pub candidates: Vec<Candidate>,
    /// Manifests that cannot be read, or contradict a newer one.
    pub unreadable: Vec<(BackupId, Error)>,
}

/// Collects the objects of a source. `first` is the number the first candidate gets; `proofs` is
/// what is remembered of them; `wanted` are the backups that count, all if `None`.
pub fn gather(
    source: &SourceStore,
    (place, first): (usize, usize),
    wanted: Option<&BTreeSet<BackupId>>,
    depth: ProofDepth,
    proofs: &[Proof],
) -> Result<Gathered> {
    let root = source.key("");
    let listed: BTreeMap<String, u64> = source
        .store()
        .list(&source.key(layout::DATA))?
        .into_iter()
        .filter_map(|object| Some((object.key.strip_prefix(&root)?.to_owned(), object.size)))
        .collect();
    let mut known: BTreeMap<&str, Vec<&Proof>> = BTreeMap::new();
    for proof in proofs {
        known.entry(&proof.object).or_default().push(proof);
    }
    let mut commits = source.commits()?;
    commits.retain(|commit| wanted.is_none_or(|wanted| wanted.contains(&commit.backup)));
    // Newest first: whoever names an object first is the newest backup that needs it.
    commits.reverse();
    let mut gathered = Gathered::default();
    let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
    let mut digests: BTreeMap<String, String> = BTreeMap::new();
    for some in commits.chunks(MANIFESTS_AT_ONCE) {
        for (commit, manifest) in source.manifests(some)? {
            let manifest = match manifest {
                Ok(manifest) => manifest,
                Err(error) => {
                    gathered.unreadable.push((commit.backup, error));
                    continue;
                }
            };
            let begin = gathered.candidates.len();
            let mut contradicts = None;
            for (path, size, sha256) in manifest.objects() {
                if numbers.contains_key(path) {
                    if digests.get(path).is_some_and(|known| known != sha256) {
                        contradicts = Some(path.to_owned());
                    }
                    continue;
                }
                numbers.insert(path.to_owned(), first + gathered.candidates.len());
                digests.insert(path.to_owned(), sha256.to_owned());
                let proofs = known.get(path).into_iter().flatten().copied();
                gathered.candidates.push(Candidate {
                    place,
                    path: path.to_owned(),
                    size,
                    backup: manifest.backup.clone(),
                    standing: Standing::new(depth, proofs),
                    listed: listed.get(path) == Some(&size),
                    along: Vec::new(),
                });
            }
            if let Some(path) = contradicts {
                let error = Error::damaged(format!(
                    "the manifest of {} has another digest of {path} than a newer one: one of \
                     them was altered",
                    manifest.backup
                ));
                gathered.unreadable.push((manifest.backup.clone(), error));
            }
            if depth == ProofDepth::Content {
                for candidate in &mut gathered.candidates[begin..] {
                    candidate.along = along(&manifest, &candidate.path, &numbers);
                }
            }
        }
    }
    Ok(gathered)
}

/// What is read with an object to prove its content.
fn along(manifest: &Manifest, path: &str, numbers: &BTreeMap<String, usize>) -> Vec<usize> {
    let segment = manifest.segments.iter().find(|segment| segment.path == path);
    let is_large = manifest.large.as_ref().is_some_and(|list| list.path == path);
    if segment.is_none() && !is_large {
        return Vec::new();
    }
    let dead = segment.and_then(|segment| segment.dead.as_ref()).map(|dead| &dead.path);
    std::iter::once(&manifest.index.path)
        .chain(dead)
        .filter_map(|path| numbers.get(path).copied())
        .collect()
}

/// Chooses what is proven within a budget of bytes, by number: what was never looked at, then what
/// was looked at longest ago. Ends where the next one does not fit, so that none waits for ever;
/// the first that has to be read always fits. What is known to be damaged waits its turn: it would
/// keep everything else from being proven.
pub fn choose(candidates: &[Candidate], budget: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    let key = |at: &usize| {
        let candidate = &candidates[*at];
        (candidate.listed, candidate.standing.looked_at(), candidate.place, &candidate.path)
    };
    order.sort_by(|a, b| key(a).cmp(&key(b)));
    let mut chosen = BTreeSet::new();
    let (mut sequence, mut used) = (Vec::new(), 0u64);
    for at in order {
        if chosen.contains(&at) {
            continue;
        }
        let fresh: BTreeSet<usize> = std::iter::once(at)
            .chain(candidates[at].along.iter().copied())
            .filter(|at| !chosen.contains(at))
            .collect();
        let cost = fresh.iter().map(|at| candidates[*at].cost()).fold(0, u64::saturating_add);
        let total = used.saturating_add(cost);
        if used > 0 && total > budget {
            break;
        }
        used = total;
        sequence.extend(&fresh);
        chosen.extend(fresh);
    }
    sequence
}

/// One verification: objects of one backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Which source.
    pub place: usize,
    /// The backup they are held against.
    pub backup: BackupId,
    /// The objects, by number.
    pub objects: Vec<usize>,
}

/// Puts together what is held against the same backup, in the order of what comes first in each.
pub fn batches(candidates: &[Candidate], chosen: &[usize]) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    let mut known: BTreeMap<(usize, &BackupId), usize> = BTreeMap::new();
    for at in chosen {
        let candidate = &candidates[*at];
        let number = *known.entry((candidate.place, &candidate.backup)).or_insert_with(|| {
            let (place, backup) = (candidate.place, candidate.backup.clone());
            batches.push(Batch { place, backup, objects: Vec::new() });
            batches.len() - 1
        });
        batches[number].objects.push(*at);
    }
    batches
}

/// How much is proven.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// Objects that backups need.
    pub objects: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// Bytes proven within the last [`RECENT_DAYS`] days.
    pub recent_bytes: u64,
    /// Objects never proven.
    pub never_objects: u64,
    /// Their bytes.
    pub never_bytes: u64,
    /// Objects that were damaged when they were last looked at.
    pub damaged_objects: u64,
    /// When what was proven longest ago was proven.
    pub oldest_proof: Option<Timestamp>,
}

/// Adds up how the candidates stand.
pub fn coverage<'a>(
    candidates: impl IntoIterator<Item = &'a Candidate>,
    now: Timestamp,
) -> Coverage {
    let since = now.checked_sub(SignedDuration::from_hours(RECENT_DAYS * 24));
    let since = since.unwrap_or(Timestamp::MIN);
    let mut sum = Coverage::default();
    for candidate in candidates {
        sum.objects += 1;
        sum.bytes = sum.bytes.saturating_add(candidate.size);
        match candidate.standing {
            Standing::Damaged(_) => sum.damaged_objects += 1,
            Standing::Never => {
                sum.never_objects += 1;
                sum.never_bytes = sum.never_bytes.saturating_add(candidate.size);
            }
            Standing::Sound(at) => {
                if at >= since {
                    sum.recent_bytes = sum.recent_bytes.saturating_add(candidate.size);
                }
                sum.oldest_proof = Some(sum.oldest_proof.map_or(at, |oldest| oldest.min(at)));
            }
        }
    }
    sum
}

impl Coverage {
    /// `part` of all bytes in percent, rounded down: 100 only if it is everything.
    pub fn percent(&self, part: u64) -> u64 {
        if self.bytes == 0 { 100 } else { (u128::from(part) * 100 / u128::from(self.bytes)) as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: i64) -> Timestamp {
        Timestamp::from_second(day * 86_400).expect("in range")
    }

    fn candidate(path: &str, size: u64, standing: Standing) -> Candidate {
        let backup = BackupId::parse("20261121T020000Z-full-7k3f").expect("an id");
        let along = Vec::new();
        Candidate { place: 0, path: path.into(), size, backup, standing, listed: true, along }
    }

    fn names(candidates: &[Candidate], budget: u64) -> Vec<&str> {
        choose(candidates, budget).into_iter().map(|at| candidates[at].path.as_str()).collect()
    }

    #[test]
    fn the_unproven_comes_first_then_the_oldest() {
        let candidates = [
            candidate("new", 10, Standing::Sound(at(9))),
            candidate("old", 10, Standing::Sound(at(2))),
            candidate("never", 10, Standing::Never),
            candidate("bad", 10, Standing::Damaged(at(3))),
        ];
        assert_eq!(names(&candidates, 40), ["never", "old", "bad", "new"]);
        assert_eq!(names(&candidates, 39), ["never", "old", "bad"]);
        assert_eq!(names(&candidates, 1), ["never"], "one is proven whatever it takes");
        assert!(names(&[], 10).is_empty());
    }

    #[test]
    fn what_is_gone_costs_nothing() {
        let mut gone = candidate("gone", 1000, Standing::Sound(at(9)));
        gone.listed = false;
        let candidates = [candidate("a", 10, Standing::Never), gone];
        assert_eq!(names(&candidates, 10), ["gone", "a"]);
    }

    #[test]
    fn none_is_left_behind_because_it_is_large() {
        let candidates = [
            candidate("first", 10, Standing::Sound(at(1))),
            candidate("large", 50, Standing::Sound(at(2))),
            candidate("small", 1, Standing::Sound(at(3))),
        ];
        assert_eq!(names(&candidates, 20), ["first"]);
    }

    #[test]
    fn what_is_read_along_is_paid_once() {
        let mut candidates = [
            candidate("index", 5, Standing::Sound(at(9))),
            candidate("one", 10, Standing::Sound(at(1))),
            candidate("two", 10, Standing::Sound(at(2))),
        ];
        candidates[1].along = vec![0];
        candidates[2].along = vec![0];
        assert_eq!(names(&candidates, 25), ["index", "one", "two"]);
        assert_eq!(names(&candidates, 24), ["index", "one"]);
        let batches = batches(&candidates, &choose(&candidates, 25));
        assert_eq!(batches.len(), 1);
        assert_eq!(batches[0].objects, [0, 1, 2]);
    }

    #[test]
    fn coverage_counts_bytes() {
        let candidates = [
            candidate("a", 34, Standing::Sound(at(99))),
            candidate("b", 6, Standing::Sound(at(2))),
            candidate("c", 50, Standing::Never),
            candidate("d", 10, Standing::Damaged(at(99))),
        ];
        let sum = coverage(&candidates, at(100));
        assert_eq!((sum.objects, sum.bytes, sum.damaged_objects), (4, 100, 1));
        assert_eq!((sum.never_objects, sum.never_bytes), (1, 50));
        assert_eq!((sum.percent(sum.recent_bytes), sum.oldest_proof), (34, Some(at(2))));
    }
}
