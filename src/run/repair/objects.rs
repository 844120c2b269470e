//! Segments, indexes, lists and SHA256SUMS.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::manifest::{Found, look};
use super::outcome::{Mended, Outcome, Pair};
use crate::archive::manifest::Manifest;
use crate::error::{Error, ErrorKind, Result};
use crate::run::copy::{Proof, send, sizes};
use crate::run::hold;
use crate::run::verify::digest_of;
use crate::store::SourceStore;
use crate::telemetry::failpoint;

/// An object with its size and digest.
type Object<'a> = (&'a str, u64, &'a str);

/// Fetches what is damaged of a backup. `wanted` says which of its objects, by path. What cannot
/// be fetched stays as it is, and the outcome says why.
pub fn mend(
    pair: Pair<'_>,
    manifest: &Manifest,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<Vec<Mended>> {
    let mut objects: Vec<Object<'_>> =
        manifest.objects().filter(|(path, _, _)| wanted(path)).collect();
    objects.sort_unstable();
    if objects.is_empty() {
        return Ok(Vec::new());
    }
    // What expires meanwhile must not be brought back.
    let _held = hold::hold_only(pair.here, manifest, "repair", pair.cx)?;
    let results = if manifests_differ(pair, manifest)? {
        vec![Outcome::ManifestsDiffer; objects.len()]
    } else {
        let bytes = objects.iter().fold(0, |sum: u64, object| sum.saturating_add(object.1));
        pair.cx.reporter.phase("repairing");
        pair.cx.reporter.progress().expect(objects.len() as u64, bytes);
        all(pair, &objects)?
    };
    let mended = objects.iter().zip(results).map(|(object, result)| Mended {
        source: pair.here.address().to_string(),
        object: object.0.to_owned(),
        bytes: object.1,
        result,
    });
    Ok(mended.collect())
}

/// Whether both have a manifest that can be read, and not the same: one of them was altered, and
/// nobody knows which.
fn manifests_differ(pair: Pair<'_>, manifest: &Manifest) -> Result<bool> {
    let both = (look(pair.here, &manifest.backup)?, look(pair.there, &manifest.backup)?);
    Ok(matches!(both, (Found::Backup(_, here), Found::Backup(_, there)) if here != there))
}

fn all(pair: Pair<'_>, objects: &[Object<'_>]) -> Result<Vec<Outcome>> {
    let (here, there) = (sizes(pair.here)?, sizes(pair.there)?);
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<Outcome>>> = Mutex::new(vec![None; objects.len()]);
    let failed: Mutex<Option<Error>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..pair.cx.tuning.workers.min(objects.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(object) = objects.get(at) else { return };
                    match one(pair, *object, (&here, &there)) {
                        Ok(outcome) => lock(&results)[at] = Some(outcome),
                        Err(error) => {
                            next.store(objects.len(), Ordering::Relaxed);
                            lock(&failed).get_or_insert(error);
                            return;
                        }
                    }
                    pair.cx.reporter.progress().add_file();
                }
            });
        }
    });
    if let Some(error) = lock(&failed).take() {
        return Err(error);
    }
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(results.into_iter().map(|result| result.unwrap_or(Outcome::NotThere)).collect())
}

fn one(
    pair: Pair<'_>,
    object: Object<'_>,
    (here, there): (&BTreeMap<String, u64>, &BTreeMap<String, u64>),
) -> Result<Outcome> {
    let (path, size, _) = object;
    // A moment ago it was damaged; if it no longer is, it is left alone.
    if here.get(path) == Some(&size) && is_sound(pair.here, object, pair)? {
        return Ok(Outcome::AsStored);
    }
    match there.get(path) {
        None => return Ok(Outcome::NotThere),
        Some(found) if *found != size => return Ok(Outcome::AlteredThere),
        Some(_) => {}
    }
    if pair.dry_run {
        let sound = is_sound(pair.there, object, pair)?;
        return Ok(if sound { Outcome::WouldFetch } else { Outcome::AlteredThere });
    }
    let proven = (path, size, Proof::Sha256(object.2));
    match send(pair.there, pair.here, proven, false, &pair.cx.reporter) {
        Err(error) if error.kind() == ErrorKind::Damaged => return Ok(Outcome::AlteredThere),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Outcome::NotThere),
        sent => sent?,
    }
    if !is_sound(pair.here, object, pair)? {
        let store = pair.here.store().name();
        return Err(Error::damaged(format!("{store} did not keep {path} as it was sent"))
            .hint("the store cannot be trusted: `backstay check` probes it"));
    }
    failpoint::reach("repair.object");
    Ok(Outcome::Fetched)
}

/// Whether the stored bytes are those that were stored once.
fn is_sound(
    source: &SourceStore,
    (path, size, sha256): Object<'_>,
    pair: Pair<'_>,
) -> Result<bool> {
    match digest_of(source, path, size, pair.cx) {
        Ok(digest) => Ok(digest == sha256),
        Err(error) if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::NotFound) => Ok(false),
        Err(error) => Err(error),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
