//! One backup from its intent to its commit.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};

use super::ahead;
use super::arrival::Known;
use super::base::{self, Base};
use super::finish;
use super::request::{Outcome, Request, Terms};
use super::sink::{Gathered, Sink};
use super::tally::Tally;
use super::worker;
use crate::archive::crypt::{Keyring, Recipients};
use crate::archive::manifest::{Counts, Form, Manifest};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{self, BackupId, BackupKind};
use crate::run::Context;
use crate::run::context::host_name;
use crate::run::crew::crew;
use crate::run::space::{self, Room};
use crate::source::{Captured, Earlier, Order, Refusal, SnapshotPlace, SourceContext};
use crate::store::{CommitRef, Intent, Repository, SnapshotStore, SourceStore, Worker, layout};
use crate::store::{KeyInfo, WalStore};
use crate::telemetry::{Event, WarningCode, failpoint};

/// How long an intent says it takes. Nothing depends on it: only a tombstone ends an intent.
const INTENT_HOURS: i64 = 48;

/// How far names of backups may run ahead of the clock before it is doubted: several backups within
/// one second are named after the seconds that follow.
const CLOCK_AHEAD: SignedDuration = SignedDuration::from_secs(5);

/// Batches that wait for a worker.
const QUEUED_BATCHES: usize = 2;

/// What everything that writes needs.
pub struct Writing<'a> {
    /// Reporter, clock and sizes.
    pub cx: &'a Context,
    /// Where to.
    pub source: SourceStore,
    /// The backup.
    pub backup: BackupId,
    /// Who can read content.
    pub content: Recipients,
    /// Who can read indexes and lists.
    pub index: Recipients,
    /// The repository key's id, if encrypted.
    pub key: Option<String>,
    /// zstd level.
    pub level: i32,
    /// Tells this run's intent and commit from another's.
    pub nonce: String,
    /// Held while a large file is stored.
    pub large: Mutex<()>,
    /// Threads that compress one content of unknown length: several of them are read at once.
    pub compressors: usize,
}

impl Writing<'_> {
    /// Whether objects are encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.key.is_some()
    }
}

/// Makes one backup of one source.
pub fn backup(repository: &Repository, request: &Request<'_>, cx: &Context) -> Result<Outcome> {
    backup_within(repository, request, &Terms::default(), cx)
}

/// The same, on these terms.
pub fn backup_within(
    repository: &Repository,
    request: &Request<'_>,
    terms: &Terms<'_>,
    cx: &Context,
) -> Result<Outcome> {
    let refusal = Refusal::default();
    let outcome = attempt(repository, request, terms, cx, Some(&refusal));
    let Some(why) = refusal.take() else { return outcome };
    let address = &request.address;
    let message = format!("{address} takes a full backup: {why}");
    cx.reporter.warn(WarningCode::BecameFull, address.to_string(), message);
    attempt(repository, request, terms, cx, None)
}

/// One attempt. Without a `refusal` to say so to, it builds on nothing.
fn attempt(
    repository: &Repository,
    request: &Request<'_>,
    terms: &Terms<'_>,
    cx: &Context,
    refusal: Option<&Refusal>,
) -> Result<Outcome> {
    let started = std::time::Instant::now();
    let address = &request.address;
    check_encryption(repository, request)?;
    let source = repository.source(address);
    let commits = source.commits()?;
    let start = cx.clock.now();
    warn_of_clock(start, &commits, cx);

    let asked = request.source.kind_for(request.kind);
    let base = match asked {
        BackupKind::Incremental if refusal.is_some() => {
            base::find(&source, &commits, request.source.kind(), &request.writer, &cx.reporter)?
        }
        _ => None,
    };
    let kind = match (asked, &base) {
        (BackupKind::Incremental, None) => BackupKind::Full,
        (asked, _) => asked,
    };
    if terms.room != Room::default() {
        space::check(&terms.room, repository.store(), &source, &commits, kind)?;
    }
    if terms.lock.is_some() && !request.dry_run {
        repository.store().check_locking()?;
    }
    let backup = BackupId::new(kind, start, commits.last().map(|commit| &commit.backup));
    let key = repository.write_key();
    let content = key.map(KeyInfo::recipients).transpose()?.unwrap_or_default();
    let index = if key.is_some() {
        content.with(&request.writer.recipients())
    } else {
        Recipients::default()
    };
    let writing = Writing {
        cx,
        source,
        backup,
        content,
        index,
        key: key.map(|key| key.id.clone()),
        level: request.level,
        nonce: id::nonce(),
        large: Mutex::new(()),
        compressors: (cx.tuning.workers / request.source.readers().unwrap_or(1).max(1)).max(1),
    };
    if request.dry_run && request.source.form() == Form::Stream {
        // What a command would print is known only by running it.
        cx.reporter.note(format!("{address}: would run its command; its size is not known"));
        return Ok(Outcome {
            source: address.to_string(),
            backup: None,
            kind,
            base: None,
            unchanged: false,
            counts: Counts::default(),
            seconds: started.elapsed().as_secs_f64(),
            warnings: 0,
            manifest: None,
        });
    }
    cx.reporter.emit(Event::Started {
        verb: "backup",
        source: address.to_string(),
        backup: (!request.dry_run).then(|| writing.backup.to_string()),
        kind: Some(kind.to_string()),
    });
    if let Some(base) = &base {
        cx.reporter.progress().expect(base.index.entries, base.counts.bytes);
    }
    if !request.dry_run
        && let Some(text) = request.policy
    {
        repository.keep_policy(&address.stack, text, &writing.index)?;
    }
    let previous = previous(&writing.source, &commits, base.as_ref());
    let refusal = refusal.cloned().unwrap_or_default();
    let result = run(&writing, request, terms, base, start, previous.as_ref(), &refusal);
    let (manifest, unchanged, counts, base) = match result {
        Ok(done) => done,
        Err(error) if refusal.is_said() => {
            // Nothing was stored by then, and whoever comes next need not wait for it.
            if !request.dry_run {
                let _ = writing.source.delete_intent(&writing.backup);
            }
            return Err(error);
        }
        Err(error) => return Err(explain(error, &writing, request)),
    };
    Ok(Outcome {
        source: address.to_string(),
        backup: manifest.is_some().then(|| writing.backup.clone()),
        kind,
        base,
        unchanged,
        counts,
        seconds: started.elapsed().as_secs_f64(),
        warnings: cx.reporter.progress().snapshot().warnings,
        manifest,
    })
}

/// What the backup before this one counted. One that cannot be read says nothing.
fn previous(
    source: &SourceStore,
    commits: &[CommitRef],
    base: Option<&Manifest>,
) -> Option<Counts> {
    if let Some(base) = base {
        return Some(base.counts.clone());
    }
    let newest = commits.last()?;
    source.manifest(&newest.backup).ok().map(|manifest| manifest.counts)
}

fn check_encryption(repository: &Repository, request: &Request<'_>) -> Result<()> {
    if request.source.needs_encryption() && !repository.is_encrypted() {
        return Err(Error::new(
            ErrorKind::Policy,
            format!("{} only goes into an encrypted repository", request.address),
        )
        .hint("create a repository with `encryption.recipients`, and name it in the source"));
    }
    if let Some(asked) = request.encrypted
        && asked != repository.is_encrypted()
    {
        return Err(Error::new(
            ErrorKind::Policy,
            if asked {
                "the policy asks for encryption, and the repository is not encrypted"
            } else {
                "the repository is encrypted, and the policy says nothing of encryption"
            },
        )
        .hint("a repository stays as it was created: create another one, or mend the policy")
        .hint("if backstay.json says other than it did, somebody changed it"));
    }
    if let Some(key) = repository.write_key()
        && key.wraps.is_empty()
    {
        return Err(Error::damaged(format!(
            "nobody could open a new backup: the secret half of the repository key {} is gone",
            key.id
        ))
        .hint(format!("bring keys/{}.age back from a copy or an older version", key.id))
        .hint("or make a new key for what is backed up from now on: `backstay key rotate`"));
    }
    match (&request.pinned_key, repository.write_key()) {
        (Some(pinned), Some(key)) if *pinned != key.recipient => Err(Error::new(
            ErrorKind::Denied,
            format!("the repository's key is {} and the policy insists on {pinned}", key.recipient),
        )
        .hint("somebody may have replaced the key; after `key rotate`, update the policy")),
        (Some(_), None) => Err(Error::new(
            ErrorKind::Policy,
            "the policy insists on a repository key and the repository is not encrypted",
        )),
        _ => Ok(()),
    }
}

fn warn_of_clock(now: Timestamp, commits: &[CommitRef], cx: &Context) {
    let Some(newest) = commits.last() else { return };
    let ahead = newest.backup.time().duration_since(now);
    if ahead > CLOCK_AHEAD {
        cx.reporter.warn(
            WarningCode::ClockBehind,
            newest.backup.to_string(),
            format!(
                "the newest backup is named {} and this machine's clock says {now}: \
                 the new one is named after it; check the clock",
                newest.backup
            ),
        );
    }
}

type Done = (Option<Box<Manifest>>, bool, Counts, Option<BackupId>);

fn run(
    writing: &Writing<'_>,
    request: &Request<'_>,
    terms: &Terms<'_>,
    base: Option<Manifest>,
    start: Timestamp,
    previous: Option<&Counts>,
    refusal: &Refusal,
) -> Result<Done> {
    if !request.dry_run {
        announce(writing, request, base.as_ref(), start)?;
        // Only now: who takes a run over counts its epoch up before looking for intents, so one of
        // both sees the other.
        terms.permit.map_or(Ok(()), |permit| permit())?;
    }
    // Only now: prune lists intents after it made its mark, so one of both sees the other.
    let marked = match &base {
        Some(base) => unusable(writing, base)?,
        None => BTreeSet::new(),
    };
    if let Some(why) = base.as_ref().and_then(|base| lacks_snapshots(writing, base, &marked)) {
        return Err(refusal.refuse(why));
    }
    let arrives = request.source.order() == Order::Arrival;
    let base = base.map(|manifest| Base::new(manifest, &marked, arrives)).transpose()?;
    if let Some(base) = base.as_ref().filter(|base| arrives && !base.is_sharable()) {
        // Such a source cannot bring again what is not to be referred to.
        let why =
            format!("objects of {} are damaged, or about to be removed", base.manifest.backup);
        return Err(refusal.refuse(why));
    }
    let tally = Tally::default();
    writing.cx.reporter.phase("reading");
    let gathered = gather(writing, request, base.as_ref(), &tally, refusal).inspect_err(|_| {
        // What is on its way arrives, and is then told of as left behind; how does not matter.
        let _ = tally.wait_for_segments();
    });
    let (gathered, captured) = gathered?;
    let lock = terms.lock;
    let finishing =
        finish::Finishing { writing, request, base: base.as_ref(), start, previous, lock };
    let base_id = base.as_ref().map(|base| base.manifest.backup.clone());
    if request.dry_run {
        let (unchanged, counts) = finish::pretend(&finishing, tally, &gathered, &captured)?;
        return Ok((None, unchanged, counts, base_id));
    }
    let (manifest, unchanged) = finish::finish(&finishing, tally, gathered, &captured)?;
    let counts = manifest.counts.clone();
    Ok((Some(Box::new(manifest)), unchanged, counts, base_id))
}

/// Why snapshots of the base cannot be referred to.
fn lacks_snapshots(
    writing: &Writing<'_>,
    base: &Manifest,
    marked: &BTreeSet<String>,
) -> Option<String> {
    let snapshots = base.snapshots.as_ref()?;
    let store = SnapshotStore::of(&writing.source);
    snapshots.directories().find_map(|(snapshot, directory)| {
        if marked.iter().any(|path| path.starts_with(&directory)) {
            return Some(format!("the snapshot {} is about to be removed", snapshot.label));
        }
        let there = store.objects(&snapshots.repository, &snapshot.label).ok()?;
        let bytes = there.iter().fold(0, |sum: u64, object| sum.saturating_add(object.size));
        let whole = there.len() as u64 >= snapshot.objects && bytes >= snapshot.bytes;
        (!whole).then(|| format!("the snapshot {} lost objects", snapshot.label))
    })
}

/// Objects of the base that a new backup must not refer to.
fn unusable(writing: &Writing<'_>, base: &Manifest) -> Result<BTreeSet<String>> {
    // It may have expired before the intent was there to hold it.
    writing.source.manifest(&base.backup).map_err(|error| {
        error.context(format!("the base {} went away", base.backup)).hint("run the backup again")
    })?;
    let mut objects = writing.source.marked()?;
    objects.extend(super::base::lost(&writing.source, base, &writing.cx.reporter)?);
    Ok(objects)
}

fn announce(
    writing: &Writing<'_>,
    request: &Request<'_>,
    base: Option<&Manifest>,
    start: Timestamp,
) -> Result<()> {
    let expires = start.checked_add(SignedDuration::from_hours(INTENT_HOURS)).unwrap_or(start);
    writing.source.create_intent(&Intent {
        version: 1,
        backup: writing.backup.clone(),
        commit: layout::commit(&writing.backup),
        base: base.map(|base| base.backup.clone()),
        created: start,
        expires,
        writer: Worker::here(host_name()),
        run: Some(request.run.clone()),
        objects: Vec::new(),
        nonce: writing.nonce.clone(),
    })?;
    failpoint::reach("backup.intent");
    Ok(())
}

/// Lets the source bring what it has, while workers store it.
fn gather(
    writing: &Writing<'_>,
    request: &Request<'_>,
    base: Option<&Base>,
    tally: &Tally,
    refusal: &Refusal,
) -> Result<(Gathered, Captured)> {
    let workers = if request.source.form() == Form::Tree && !request.dry_run {
        request.source.readers().unwrap_or(writing.cx.tuning.workers).max(1)
    } else {
        0
    };
    // What can be read only once is stored by the thread that reads it.
    let arrives = request.source.order() == Order::Arrival;
    let workers = if arrives { 0 } else { workers };
    let result = std::thread::scope(|scope| {
        let send = crew(scope, workers, QUEUED_BATCHES, |batches| {
            worker::work(writing, tally, batches);
        });
        let known = match base.filter(|_| arrives) {
            Some(base) => Some(know(writing, base, &request.writer, refusal)?),
            None => None,
        };
        let base = match base.filter(|_| !arrives) {
            Some(base) => {
                let index = open_base(writing, base, &request.writer)?;
                let (send, entries) = ahead::ahead();
                // Ends when the sink is dropped: nobody takes its entries then.
                scope.spawn(move || ahead::read(index, &send));
                Some((base, entries))
            }
            None => None,
        };
        let options = (request.paranoid, request.dry_run);
        let mut sink = Sink::new(writing, tally, send, base, options)?;
        let earlier = known.as_ref().map(|known| known.earlier.clone());
        if arrives {
            sink = sink.in_any_order(known);
        }
        let source_cx = SourceContext {
            dry_run: request.dry_run,
            earlier,
            wal: Some(WalStore::new(&writing.source, &writing.content)),
            snapshots: Some(SnapshotPlace {
                store: SnapshotStore::of(&writing.source),
                address: request.address.clone(),
                backup: Some(writing.backup.clone()),
            }),
            ..writing.cx.for_source()
        };
        match request.source.backup(&source_cx, &mut sink) {
            // Dropping the sink ends the workers.
            Ok(captured) => Ok((sink.finish()?, captured)),
            Err(error) => {
                // Told to the workers first, so that they drop what they have and do not store it.
                // If one of them failed before, that is the cause.
                tally.fail(error);
                Err(Error::failed("storing failed"))
            }
        }
    });
    match tally.take_error() {
        Some(error) => Err(error),
        None => result,
    }
}

fn know<'a>(
    writing: &Writing<'_>,
    base: &'a Base,
    keys: &Keyring,
    refusal: &Refusal,
) -> Result<Known<'a>> {
    let (store, reporter) = (&writing.source, &writing.cx.reporter);
    let earlier = Earlier::open(base.manifest.clone(), store, keys, reporter, refusal.clone())?;
    Ok(Known { base, earlier: Arc::new(earlier) })
}

fn open_base(writing: &Writing<'_>, base: &Base, keys: &Keyring) -> Result<base::BaseIndex> {
    // Its own counters: what is read of the base is no progress of this backup.
    writing.source.index(&base.manifest, keys, &writing.cx.reporter.fresh())
}

/// Names everything that cannot be read where one such thing was in the way.
fn name_unreadable(error: Error, writing: &Writing<'_>, request: &Request<'_>) -> Error {
    if error.kind() != ErrorKind::Denied {
        return error;
    }
    let surveyed = request.source.survey(&writing.cx.for_source());
    let Ok(survey) = surveyed.map(|survey| (survey.count > 1).then_some(survey)) else {
        return error;
    };
    let Some(survey) = survey else { return error };
    let (count, lines) = (survey.count, survey.lines());
    let all = format!("{count} entries cannot be read:\n{}", lines.join("\n"));
    let all = Error::new(ErrorKind::Denied, all);
    error.hints().iter().fold(all, |all, hint| all.hint(hint.as_str()))
}

/// Says what a failed backup leaves behind. Nothing of it is listed.
fn explain(error: Error, writing: &Writing<'_>, request: &Request<'_>) -> Error {
    let error = if error.kind() == ErrorKind::Interrupted {
        // What happened to be read at that moment has nothing to do with it.
        Error::new(ErrorKind::Interrupted, "interrupted")
    } else {
        name_unreadable(error, writing, request)
    };
    let failed = error.context(format!("failed to back up {}", request.address));
    if request.dry_run {
        return failed;
    }
    if writing.source.is_given_up(&writing.backup) {
        // Whatever came of it, this is why: its objects may be gone already.
        return SourceStore::given_up(&writing.backup)
            .context(format!("failed to back up {}", request.address));
    }
    // A create whose reply was lost may have been taken all the same.
    if writing.source.manifest(&writing.backup).is_ok() {
        let message = format!("{} was committed all the same, and is listed", writing.backup);
        writing.cx.reporter.warn(WarningCode::Other, writing.backup.to_string(), message);
        return failed;
    }
    let left = writing.source.key(&layout::data(&writing.backup));
    let engine = writing.source.store().list(&writing.source.key(layout::SNAPSHOTS));
    let engine = engine.unwrap_or_default().into_iter().filter(|object| {
        let path = object.key.strip_prefix(&writing.source.key("")).unwrap_or_default();
        layout::backup_of(path).as_ref() == Some(&writing.backup)
    });
    let listed = writing.source.store().list(&left).map(|mut listed| {
        listed.extend(engine);
        listed
    });
    match listed {
        Ok(objects) if objects.is_empty() => {
            // Nothing stored: nothing for prune to do either.
            let _ = writing.source.delete_intent(&writing.backup);
            failed
        }
        Ok(objects) => {
            let bytes: u64 = objects.iter().map(|object| object.size).sum();
            let message = format!(
                "nothing was committed; prune will collect what is left in {left} \
                 (objects: {}, bytes: {bytes})",
                objects.len()
            );
            writing.cx.reporter.warn(WarningCode::LeftBehind, left, message);
            failed
        }
        Err(_) => failed,
    }
}
