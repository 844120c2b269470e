//! From a report to what is remembered, and back to how an object stands.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::report::{Depth, Report};
use crate::archive::manifest::Manifest;
use crate::state::{Proof, ProofDepth, ProofResult};

/// What a report proves, object by object, and what it found damaged. Nothing at [`Depth::List`].
pub fn proofs_of(report: &Report, manifest: &Manifest, at: Timestamp) -> Vec<Proof> {
    let Some(depth) = proof_depth(report.depth) else { return Vec::new() };
    let examined: BTreeSet<&str> = report.examined.iter().map(String::as_str).collect();
    manifest
        .objects()
        .filter_map(|(path, bytes, _)| {
            let result = match (report.names(path), examined.contains(path)) {
                (true, _) => ProofResult::Damaged,
                (false, true) => ProofResult::Sound,
                (false, false) => return None,
            };
            Some(Proof { object: path.to_owned(), depth, proven_at: at, bytes, result })
        })
        .collect()
}

/// The depth of the proofs that a verification of this depth makes.
pub fn proof_depth(depth: Depth) -> Option<ProofDepth> {
    match depth {
        Depth::List => None,
        Depth::Stored => Some(ProofDepth::Stored),
        Depth::Content => Some(ProofDepth::Content),
    }
}

/// How an object stands, as far as anybody remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The last look found damage.
    Damaged(Timestamp),
    /// Not proven at this depth yet.
    Never,
    /// Proven sound.
    Sound(Timestamp),
}

impl Standing {
    /// When it was last looked at.
    pub fn looked_at(self) -> Option<Timestamp> {
        match self {
            Self::Never => None,
            Self::Damaged(at) | Self::Sound(at) => Some(at),
        }
    }

    /// How an object stands at `depth` after these proofs of it.
    ///
    /// A deeper proof counts as well. Damage counts at any depth, until a proof of this depth or a
    /// deeper one says otherwise.
    pub fn new<'a>(depth: ProofDepth, proofs: impl IntoIterator<Item = &'a Proof>) -> Self {
        let counts = |proof: &&Proof| proof.depth >= depth || proof.result == ProofResult::Damaged;
        let newest = proofs.into_iter().filter(counts).max_by_key(|proof| proof.proven_at);
        match newest {
            None => Self::Never,
            Some(proof) if proof.result == ProofResult::Damaged => Self::Damaged(proof.proven_at),
            Some(proof) => Self::Sound(proof.proven_at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_proof_that_is_deep_enough_counts() {
        use ProofDepth::{Content, Stored};
        use ProofResult::{Damaged, Sound};
        let at = |second: i64| Timestamp::from_second(second).expect("in range");
        let proof = |(depth, second, result)| Proof {
            object: "o".to_owned(),
            depth,
            proven_at: at(second),
            bytes: 1,
            result,
        };
        let standing = |depth, proofs: &[(ProofDepth, i64, ProofResult)]| {
            let proofs: Vec<Proof> = proofs.iter().copied().map(proof).collect();
            Standing::new(depth, &proofs)
        };
        assert_eq!(standing(Stored, &[]), Standing::Never);
        assert_eq!(standing(Stored, &[(Content, 1, Sound)]), Standing::Sound(at(1)));
        assert_eq!(standing(Content, &[(Stored, 1, Sound)]), Standing::Never);
        let then_damaged = [(Content, 1, Sound), (Stored, 2, Damaged)];
        assert_eq!(standing(Content, &then_damaged), Standing::Damaged(at(2)));
        let then_mended = [(Content, 3, Sound), (Stored, 2, Damaged)];
        assert_eq!(standing(Content, &then_mended), Standing::Sound(at(3)));
        // Bytes that are as they were stored say nothing about what is in them.
        let wrong_content = [(Content, 1, Damaged), (Stored, 2, Sound)];
        assert_eq!(standing(Content, &wrong_content), Standing::Damaged(at(1)));
        assert_eq!(standing(Stored, &wrong_content), Standing::Sound(at(2)));
    }
}
