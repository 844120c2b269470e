//! What is asked of a proof, and what came of it.

use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use super::{cluster, dump, mysql, sqlite, tree};
use crate::archive::crypt::Keyring;
use crate::archive::manifest::Manifest;
use crate::error::Result;
use crate::run::Context;
use crate::run::restore::CLUSTER_KIND;
use crate::store::SourceStore;
use crate::telemetry::Event;

/// A proof of one backup.
pub struct Request<'a> {
    /// Where from.
    pub source: SourceStore,
    /// What.
    pub manifest: &'a Manifest,
    /// What opens it.
    pub keys: &'a Keyring,
    /// A directory with room for it.
    pub scratch: &'a Path,
    /// Where a server's programs are, if they are not to be looked for.
    pub programs: Option<&'a Path>,
    /// Roles that the server may have, besides `postgres`.
    pub roles: &'a [String],
    /// Servers get a network of their own, with nothing in it.
    pub isolated: bool,
}

/// What a proof came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It came back, and all that was to be looked at is right.
    Proven,
    /// It came back, and something could not be looked at: nobody knows.
    #[default]
    Inconclusive,
    /// Something is wrong.
    Damaged,
}

impl Verdict {
    /// The word in tables and JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Inconclusive => "inconclusive",
            Self::Damaged => "damaged",
        }
    }
}

/// What was proven.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Proof {
    /// What it came to.
    pub verdict: Verdict,
    /// `STACK/SOURCE`.
    pub source: String,
    /// The backup.
    pub backup: String,
    /// What started from it: `PostgreSQL 17.2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Bytes restored.
    pub bytes: u64,
    /// What was looked at and found right, in words.
    pub proven: Vec<String>,
    /// What could not be looked at, and why.
    pub not_proven: Vec<String>,
    /// What is wrong.
    pub findings: Vec<String>,
    /// Seconds until everything was restored.
    pub restore_seconds: f64,
    /// Seconds more until the server took writes.
    pub recovery_seconds: f64,
    /// Seconds that looking at it took.
    pub check_seconds: f64,
}

/// Restores, starts, looks, throws away.
pub fn prove(request: &Request<'_>, cx: &Context) -> Result<Proof> {
    let manifest = request.manifest;
    cx.reporter.emit(Event::Started {
        verb: "prove",
        source: manifest.address().to_string(),
        backup: Some(manifest.backup.to_string()),
        kind: Some(manifest.kind.to_string()),
    });
    let mut proof = Proof {
        source: manifest.address().to_string(),
        backup: manifest.backup.to_string(),
        ..Proof::default()
    };
    match manifest.source_kind.as_str() {
        CLUSTER_KIND => cluster::prove(request, &mut proof, cx)?,
        "postgres_dump" => dump::prove(request, &mut proof, cx)?,
        crate::source::mysql::KIND => mysql::prove(request, &mut proof, cx)?,
        crate::source::sqlite::KIND => sqlite::prove(request, &mut proof, cx)?,
        _ => tree::prove(request, &mut proof, cx)?,
    }
    proof.verdict = match (proof.findings.is_empty(), proof.not_proven.is_empty()) {
        (false, _) => Verdict::Damaged,
        (true, false) => Verdict::Inconclusive,
        (true, true) => Verdict::Proven,
    };
    Ok(proof)
}

/// Adds the seconds since a moment, and begins the next.
pub(super) fn lap(since: &mut Instant) -> f64 {
    let now = Instant::now();
    let seconds = now.duration_since(*since).as_secs_f64();
    *since = now;
    seconds
}
