//! Large and dead lists.

use super::report::{Finding, Report};
use super::scope::Scope;
use super::stored::altered;
use crate::archive::crypt::Keyring;
use crate::archive::digest::DigestReader;
use crate::archive::frame::FrameReader;
use crate::archive::manifest::{Manifest, StoredObject};
use crate::archive::member::read_error;
use crate::error::{Error, ErrorKind, Result};
use crate::run::Context;
use crate::store::SourceStore;

/// Compares the stored bytes of all lists with their digests. What dead lists say is checked with
/// their segments.
pub fn check_stored(
    source: &SourceStore,
    manifest: &Manifest,
    scope: Scope<'_>,
    cx: &Context,
    report: &mut Report,
) -> Result<()> {
    let dead = manifest.segments.iter().filter_map(|segment| segment.dead.as_ref());
    let lists = manifest.large.iter().chain(dead).chain(manifest.beside());
    for list in lists.filter(|list| scope.has(&list.path)) {
        if report.names(&list.path) {
            continue;
        }
        let object = source.open(&list.path, list.size, &cx.reporter).whole();
        match DigestReader::new(object).finish() {
            Ok((_, digest)) if digest.clone().finish_hex() == list.sha256 => {}
            Ok(_) => report.findings.push(altered(&list.path)),
            Err(error) => damage(read_error(error, &list.path), &list.path, report)?,
        }
        report.examined.push(list.path.clone());
    }
    Ok(())
}

/// Compares what the large list says with `expected`, the digest of what the index says.
pub fn check_large(
    source: &SourceStore,
    manifest: &Manifest,
    expected: Option<String>,
    keys: &Keyring,
    cx: &Context,
    report: &mut Report,
) -> Result<()> {
    let (object, same) = match (&manifest.large, expected) {
        (None, None) => return Ok(()),
        (None, Some(_)) => (&manifest.index.path, false),
        (Some(list), None) => (&list.path, false),
        (Some(list), Some(_)) if report.findings.iter().any(|f| f.object == list.path) => {
            return Ok(());
        }
        (Some(list), Some(expected)) => match plain_digest(source, list, keys, cx) {
            Ok(found) => (&list.path, found == expected),
            Err(error) => return damage(error, &list.path, report),
        },
    };
    if !same {
        let problem = "large list and index name other slices".to_owned();
        report.findings.push(Finding { object: object.clone(), problem, costs: None });
    }
    Ok(())
}

fn plain_digest(
    source: &SourceStore,
    list: &StoredObject,
    keys: &Keyring,
    cx: &Context,
) -> Result<String> {
    let plain = source.open_plain(&list.path, list.size, keys, &cx.reporter)?;
    let damaged = |error| read_error(error, &list.path);
    let frames = FrameReader::new(plain, 0).map_err(damaged)?;
    let (_, digest) = DigestReader::new(frames).finish().map_err(damaged)?;
    Ok(digest.finish_hex())
}

/// Damage is a finding; anything else ends the verification.
fn damage(error: Error, path: &str, report: &mut Report) -> Result<()> {
    if error.kind() != ErrorKind::Damaged {
        return Err(error);
    }
    report.findings.push(Finding { object: path.to_owned(), problem: error.chain(), costs: None });
    Ok(())
}
