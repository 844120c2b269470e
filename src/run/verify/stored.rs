//! Objects, sizes and stored bytes; and what a damaged object costs.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::content;
use super::report::{Cost, Depth, Finding, Report};
use super::scope::Scope;
use super::snapshots;
use super::wal;
use crate::archive::crypt::Keyring;
use crate::archive::digest::Digest;
use crate::archive::entry::SegmentRef;
use crate::archive::manifest::Manifest;
use crate::error::{Error, ErrorKind, Result};
use crate::run::{Context, hold};
use crate::store::SourceStore;
use crate::telemetry::Event;

/// Verifies one backup. What is wrong with it is in the report; an error means that the store
/// could not be read, or ([`ErrorKind::NotFound`]) that the backup expired meanwhile.
pub fn verify(
    source: &SourceStore,
    manifest: &Manifest,
    depth: Depth,
    keys: &Keyring,
    cx: &Context,
) -> Result<Report> {
    verify_part(source, manifest, Scope::All, depth, keys, cx)
}

/// Like [`verify`], of some of its objects.
pub fn verify_part(
    source: &SourceStore,
    manifest: &Manifest,
    scope: Scope<'_>,
    depth: Depth,
    keys: &Keyring,
    cx: &Context,
) -> Result<Report> {
    let started = Instant::now();
    cx.reporter.emit(Event::Started {
        verb: "verify",
        source: manifest.address().to_string(),
        backup: Some(manifest.backup.to_string()),
        kind: Some(manifest.kind.to_string()),
    });
    let told = || manifest.objects().filter(|(path, _, _)| scope.tells_of(path));
    let mut report = Report {
        source: manifest.address().to_string(),
        backup: manifest.backup.clone(),
        depth,
        objects: told().count() as u64,
        bytes: told().fold(0, |sum, object| sum.saturating_add(object.1)),
        entries: 0,
        findings: Vec::new(),
        seconds: 0.0,
        examined: Vec::new(),
    };
    // A listing is the same wherever the bytes lie.
    let hold = if depth == Depth::List { hold::hold_only } else { hold::hold };
    let _held = hold(source, manifest, "verify", cx)?;
    cx.reporter.phase("listing");
    report.findings = check_sizes(source, manifest)?;
    report.findings.retain(|finding| scope.tells_of(&finding.object));
    if depth == Depth::Stored {
        cx.reporter.phase("reading");
        cx.reporter.progress().expect(report.objects, report.bytes);
        read_all(source, manifest, scope, cx, &mut report)?;
    }
    if depth == Depth::Content {
        cx.reporter.phase("reading");
        content::check(source, manifest, scope, keys, cx, &mut report)?;
    }
    if !matches!(scope, Scope::Only(_)) {
        wal::check(source, manifest, depth, keys, cx, &mut report)?;
        snapshots::check(source, manifest, depth, cx, &mut report)?;
    }
    if !report.findings.is_empty() {
        // Where no hold could be written it may have expired: what is missing then is no damage.
        hold::check_listed(source, manifest)?;
        tell_costs(source, manifest, keys, cx, &mut report.findings);
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// Objects that are missing, or have another size than they should.
pub fn check_sizes(source: &SourceStore, manifest: &Manifest) -> Result<Vec<Finding>> {
    let mut listed: BTreeMap<String, u64> = BTreeMap::new();
    let mut directories: Vec<&str> = manifest
        .objects()
        .filter_map(|(path, _, _)| path.rsplit_once('/').map(|(directory, _)| directory))
        .collect();
    directories.sort_unstable();
    directories.dedup();
    for directory in directories {
        for object in source.store().list(&source.key(directory))? {
            listed.insert(object.key, object.size);
        }
    }
    let mut findings = Vec::new();
    for (path, size, _) in manifest.objects() {
        let problem = match listed.get(&source.key(path)) {
            None => "is missing".to_owned(),
            Some(found) if *found != size => format!("has {found} bytes instead of {size}"),
            Some(_) => continue,
        };
        findings.push(Finding { object: path.to_owned(), problem, costs: None });
    }
    Ok(findings)
}

/// Reads every object that is there and compares its digest.
fn read_all(
    source: &SourceStore,
    manifest: &Manifest,
    scope: Scope<'_>,
    cx: &Context,
    report: &mut Report,
) -> Result<()> {
    let objects: Vec<(&str, u64, &str)> =
        manifest.objects().filter(|(path, _, _)| scope.has(path) && !report.names(path)).collect();
    let next = AtomicUsize::new(0);
    let found: Mutex<Vec<Finding>> = Mutex::default();
    let fatal: Mutex<Option<Error>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..cx.tuning.workers {
            scope.spawn(|| {
                while let Some((path, size, sha256)) =
                    objects.get(next.fetch_add(1, Ordering::SeqCst))
                {
                    match digest_of(source, path, *size, cx) {
                        Ok(digest) if digest == *sha256 => {}
                        Ok(_) => lock(&found).push(altered(path)),
                        Err(error) if error.kind() == ErrorKind::Damaged => {
                            lock(&found).push(Finding {
                                object: (*path).to_owned(),
                                problem: error.chain(),
                                costs: None,
                            });
                        }
                        Err(error) => {
                            lock(&fatal).get_or_insert(error);
                            return;
                        }
                    }
                    cx.reporter.progress().add_file();
                }
            });
        }
    });
    if let Some(error) = lock(&fatal).take() {
        return Err(error);
    }
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_by(|a, b| a.object.cmp(&b.object));
    report.findings.append(&mut found);
    report.examined = objects.iter().map(|(path, _, _)| (*path).to_owned()).collect();
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The finding for an object whose bytes are others than were stored.
pub fn altered(path: &str) -> Finding {
    Finding {
        object: path.to_owned(),
        problem: "was altered: its bytes do not have the SHA-256 they were stored with".to_owned(),
        costs: None,
    }
}

/// The digest of an object's stored bytes.
pub(in crate::run) fn digest_of(
    source: &SourceStore,
    path: &str,
    size: u64,
    cx: &Context,
) -> Result<String> {
    let mut object = source.open(path, size, &cx.reporter).whole();
    let mut digest = Digest::default();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = object
            .read(&mut buffer)
            .map_err(|error| Error::io(format!("failed to read {path}"), error))?;
        if read == 0 {
            return Ok(digest.finish_hex());
        }
        digest.update(&buffer[..read]);
        cx.reporter.progress().add_bytes(read as u64);
    }
}

/// Names the files that damaged segments cost, as far as the index can be read.
fn tell_costs(
    source: &SourceStore,
    manifest: &Manifest,
    keys: &Keyring,
    cx: &Context,
    findings: &mut [Finding],
) {
    let by_segment: BTreeMap<SegmentRef, usize> = findings
        .iter()
        .enumerate()
        .filter(|(_, finding)| finding.costs.is_none())
        .filter_map(|(at, finding)| {
            let segment = manifest.segments.iter().find(|s| s.path == finding.object)?;
            Some((segment.reference().ok()?, at))
        })
        .collect();
    if by_segment.is_empty() {
        return;
    }
    let reporter = cx.reporter.fresh();
    let Ok(index) = source.index(manifest, keys, &reporter) else { return };
    let mut costs: BTreeMap<usize, Cost> =
        by_segment.values().map(|at| (*at, Cost::default())).collect();
    for entry in index {
        let Ok(entry) = entry else { break };
        for segment in entry.segments() {
            if let Some(cost) = by_segment.get(segment).and_then(|at| costs.get_mut(at)) {
                cost.add(entry.display_path());
            }
        }
    }
    for (at, cost) in costs {
        findings[at].costs = Some(cost);
    }
}
