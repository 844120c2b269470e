//! What an incremental builds on.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufReader;

use crate::archive::crypt::{DecryptReader, Keyring};
use crate::archive::digest::DigestReader;
use crate::archive::entry::{Entry, SegmentRef};
use crate::archive::index::IndexReader;
use crate::archive::manifest::{Form, Manifest, Segment};
use crate::archive::member::read_error;
use crate::error::{Error, ErrorKind, Result};
use crate::id::BackupKind;
use crate::run::verify::check_sizes;
use crate::store::{CommitRef, ObjectReader, SourceStore};
use crate::telemetry::{Reporter, WarningCode};

/// The reader of a base's index.
pub type BaseIndex = IndexReader<DecryptReader<BufReader<ObjectReader>>>;

/// An earlier backup whose segments a new one may refer to.
pub struct Base {
    /// Its manifest.
    pub manifest: Manifest,
    segments: BTreeMap<SegmentRef, Segment>,
    /// Segments that a new backup must not refer to: marked by prune, or mostly dead.
    barred: BTreeSet<SegmentRef>,
    /// The last tree segment, which is only ever shared together with everything else.
    last: Option<SegmentRef>,
    /// Something other than a segment is marked: the index cannot be shared.
    meta_marked: bool,
}

/// Finds the newest backup that can be built on, and says why not where there is none.
pub fn find(
    source: &SourceStore,
    commits: &[CommitRef],
    source_kind: &str,
    keys: &Keyring,
    reporter: &Reporter,
) -> Result<Option<Manifest>> {
    let became_full = |why: String| {
        reporter.warn(
            WarningCode::BecameFull,
            source.address().to_string(),
            format!("{} takes a full backup: {why}", source.address()),
        );
        Ok(None)
    };
    for commit in commits.iter().rev() {
        if commit.backup.kind() == BackupKind::Snapshot {
            continue;
        }
        let Some((_, manifest)) = source.manifests(std::slice::from_ref(commit))?.pop() else {
            continue;
        };
        let manifest = match manifest {
            Ok(manifest) => manifest,
            Err(error) => {
                let message = format!("{} is not built on: {}", commit.backup, error.chain());
                reporter.warn(WarningCode::Damage, commit.backup.to_string(), message);
                continue;
            }
        };
        // What a fenced site wrote is not what this one was.
        if let Some(divergence) = source.epochs().of(&manifest) {
            let message = format!("{} is not built on: it was {divergence}", commit.backup);
            reporter.warn(WarningCode::Other, commit.backup.to_string(), message);
            continue;
        }
        if manifest.form != Form::Tree || manifest.source_kind != source_kind {
            return became_full(format!(
                "the source was a {} before and is a {source_kind} now",
                manifest.source_kind
            ));
        }
        // A base that turned out to be damaged halfway would fail this run and every later one.
        return match check(source, &manifest, keys, reporter) {
            Ok(()) => Ok(Some(manifest)),
            // A store that does not answer would not take a full backup either.
            Err(error) if error.kind() == ErrorKind::Unreachable => Err(error),
            Err(error) => became_full(error.chain()),
        };
    }
    // Nothing to warn of: every first backup is a full.
    reporter.note(format!(
        "{}: there is no earlier backup to build on, so this is a full one",
        source.address()
    ));
    Ok(None)
}

fn check(
    source: &SourceStore,
    manifest: &Manifest,
    keys: &Keyring,
    reporter: &Reporter,
) -> Result<()> {
    let reporter = reporter.fresh();
    source.index(manifest, keys, &reporter)?;
    let index = &manifest.index;
    let stored = source.open(&index.path, index.size, &reporter).whole();
    let (_, digest) =
        DigestReader::new(stored).finish().map_err(|error| read_error(error, &index.path))?;
    if digest.finish_hex() == index.sha256 {
        return Ok(());
    }
    Err(Error::damaged(format!("the index of {} was altered", manifest.backup)))
}

/// Objects of the base that the store has lost, or has in another size. What was in them is
/// stored again, so that the next backup is whole whatever became of the last one.
pub fn lost(
    source: &SourceStore,
    manifest: &Manifest,
    reporter: &Reporter,
) -> Result<BTreeSet<String>> {
    let mut lost = BTreeSet::new();
    for finding in check_sizes(source, manifest)? {
        let message = format!(
            "{} of {} {}: what was in it is stored again",
            finding.object, manifest.backup, finding.problem
        );
        reporter.warn(WarningCode::Damage, finding.object.clone(), message);
        lost.insert(finding.object);
    }
    Ok(lost)
}

impl Base {
    /// The base `manifest`. What is `marked`, by prune or because it is lost, is not referred to, and
    /// neither are segments that are mostly dead, unless `sparing` says that all must be.
    pub fn new(manifest: Manifest, marked: &BTreeSet<String>, sparing: bool) -> Result<Self> {
        let mut barred = BTreeSet::new();
        let mut segments = BTreeMap::new();
        for segment in &manifest.segments {
            let reference = segment.reference()?;
            let dead_marked = segment.dead.as_ref().is_some_and(|dead| marked.contains(&dead.path));
            let mostly_dead = segment.is_mostly_dead() && !sparing;
            if marked.contains(&segment.path) || dead_marked || mostly_dead {
                barred.insert(reference.clone());
            }
            segments.insert(reference, segment.clone());
        }
        let meta_marked = manifest.objects().any(|(path, _, _)| {
            marked.contains(path) && !manifest.segments.iter().any(|segment| segment.path == path)
        });
        let last = manifest.last_tree_segment().map(Segment::reference).transpose()?;
        Ok(Self { manifest, segments, barred, last, meta_marked })
    }

    /// Whether the whole base can be shared if nothing changed.
    pub fn is_sharable(&self) -> bool {
        self.barred.is_empty() && !self.meta_marked
    }

    /// Whether the content of `entry` may be referred to.
    pub fn can_refer_to(&self, entry: &Entry) -> bool {
        let usable = |reference: &SegmentRef| {
            self.segments.contains_key(reference)
                && !self.barred.contains(reference)
                && self.last.as_ref() != Some(reference)
        };
        if !entry.layers.is_empty() {
            return entry.layers.iter().all(|layer| usable(&layer.segment));
        }
        match (&entry.segment, entry.parts.as_slice()) {
            (Some(segment), []) => usable(segment),
            (None, parts) => !parts.is_empty() && parts.iter().all(|part| usable(&part.segment)),
            _ => false,
        }
    }

    /// What the base's manifest says of a segment.
    pub fn segment(&self, reference: &SegmentRef) -> Option<&Segment> {
        self.segments.get(reference)
    }
}
