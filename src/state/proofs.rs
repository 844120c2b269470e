//! The table `proofs`: what was proven of an object, and when it was last.

use jiff::Timestamp;
use rusqlite::{Row, params};

use super::database::State;
use crate::error::Result;

/// How deep a proof went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProofDepth {
    /// The digest of its stored bytes.
    Stored,
    /// What is in it, against the index.
    Content,
}

/// What a proof came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProofResult {
    /// It is what it should be.
    Sound,
    /// It is not, or not there.
    Damaged,
}

/// One object as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Its path, relative to its source.
    pub object: String,
    /// How deep.
    pub depth: ProofDepth,
    /// When.
    pub proven_at: Timestamp,
    /// Its stored bytes.
    pub bytes: u64,
    /// What came of it.
    pub result: ProofResult,
}

impl ProofDepth {
    /// The word in the table and in results.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Content => "content",
        }
    }
}

impl ProofResult {
    fn word(self) -> &'static str {
        match self {
            Self::Sound => "sound",
            Self::Damaged => "damaged",
        }
    }
}

impl State {
    /// Keeps proofs of objects of one source (`STACK/SOURCE`) in the repository with this id. A
    /// newer proof replaces the last one of the same depth.
    pub fn record_proofs(&self, repository: &str, source: &str, proofs: &[Proof]) -> Result<()> {
        let record = || {
            let transaction = self.connection.unchecked_transaction()?;
            {
                let mut insert = transaction.prepare(
                    "INSERT OR REPLACE INTO proofs
                     (repository, source, object, depth, proven_at, bytes, result)
                     VALUES (?, ?, ?, ?, ?, ?, ?)",
                )?;
                for proof in proofs {
                    insert.execute(params![
                        repository,
                        source,
                        proof.object,
                        proof.depth.word(),
                        proof.proven_at.as_microsecond(),
                        i64::try_from(proof.bytes).unwrap_or(i64::MAX),
                        proof.result.word(),
                    ])?;
                }
            }
            transaction.commit()
        };
        record().map_err(|error| self.error("record proofs", error))
    }

    /// Every proof of a source's objects in a repository, by object and depth.
    pub fn proofs(&self, repository: &str, source: &str) -> Result<Vec<Proof>> {
        let read = || -> rusqlite::Result<Vec<Proof>> {
            let mut select = self.connection.prepare(
                "SELECT object, depth, proven_at, bytes, result FROM proofs
                 WHERE repository = ? AND source = ? ORDER BY object, depth",
            )?;
            select.query_map([repository, source], proof)?.collect()
        };
        read().map_err(|error| self.error("read proofs", error))
    }

    /// Every proof of a source's objects, in whichever repository they lie.
    pub fn proofs_of(&self, source: &str) -> Result<Vec<Proof>> {
        let read = || -> rusqlite::Result<Vec<Proof>> {
            let mut select = self.connection.prepare(
                "SELECT object, depth, proven_at, bytes, result FROM proofs
                 WHERE source = ? ORDER BY object, depth",
            )?;
            select.query_map([source], proof)?.collect()
        };
        read().map_err(|error| self.error("read proofs", error))
    }

    /// Drops the proofs of objects that are no more.
    pub fn forget_proofs(&self, repository: &str, source: &str, objects: &[String]) -> Result<()> {
        let forget = || {
            let transaction = self.connection.unchecked_transaction()?;
            {
                let mut delete = transaction.prepare(
                    "DELETE FROM proofs WHERE repository = ? AND source = ? AND object = ?",
                )?;
                for object in objects {
                    delete.execute([repository, source, object])?;
                }
            }
            transaction.commit()
        };
        forget().map_err(|error| self.error("forget proofs", error))
    }
}

fn proof(row: &Row<'_>) -> rusqlite::Result<Proof> {
    let depth: String = row.get(1)?;
    let at: i64 = row.get(2)?;
    let bytes: i64 = row.get(3)?;
    let result: String = row.get(4)?;
    // The table takes no other words.
    Ok(Proof {
        object: row.get(0)?,
        depth: if depth == "content" { ProofDepth::Content } else { ProofDepth::Stored },
        proven_at: Timestamp::from_microsecond(at).unwrap_or(Timestamp::UNIX_EPOCH),
        bytes: bytes.unsigned_abs(),
        result: if result == "sound" { ProofResult::Sound } else { ProofResult::Damaged },
    })
}
