//! Files.

use std::time::Instant;

use super::proof::{Proof, Request, lap};
use crate::archive::manifest::Form;
use crate::error::Result;
use crate::run::Context;
use crate::run::place::{DATA, Place};
use crate::run::restore::{self, Outcome, restore_tree};

/// A restore of everything, to where its target is set to.
pub fn whole<'a>(request: &Request<'a>) -> restore::Request<'a> {
    restore::Request::whole(request.source.clone(), request.manifest, request.keys.clone())
}

/// Restores it all, and with it compares every file's digest with the index.
pub fn prove(request: &Request<'_>, proof: &mut Proof, cx: &Context) -> Result<()> {
    restored(request, proof, cx).map(drop)
}

/// The same, and leaves what was restored to be looked at.
pub fn restored(request: &Request<'_>, proof: &mut Proof, cx: &Context) -> Result<Place> {
    let mut since = Instant::now();
    let place = Place::make(request.scratch, request.manifest.counts.bytes, &cx.reporter)?;
    let whole = restore::Request { target: place.path(DATA), ..whole(request) };
    let outcome = restore_tree(&whole, cx)?;
    proof.restore_seconds = lap(&mut since);
    proof.bytes = outcome.bytes;
    note(proof, &outcome);
    let what = match request.manifest.form {
        Form::Tree => format!("{} files restored, with the digests of the index", outcome.files),
        Form::Stream => "the stream restored, with the digest of the index".to_owned(),
    };
    proof.proven.push(what);
    Ok(place)
}

/// Puts what a restore found into a proof.
pub fn note(proof: &mut Proof, outcome: &Outcome) {
    let failed = &outcome.failed;
    proof.findings.extend(failed.first.iter().map(|f| format!("`{}`: {}", f.path, f.message)));
    let more = failed.count - failed.first.len() as u64;
    if more > 0 {
        proof.findings.push(format!("and {more} more"));
    }
    for (what, count, example) in &outcome.not_set {
        proof.not_proven.push(format!("{what} of {count} entries, such as `{example}`"));
    }
}
