//! Stores that lie and stores that fail: neither makes a backup that is not there, or hides one
//! that is.

use std::fs;
use std::sync::Arc;

use backstay::archive::crypt::Keyring;
use backstay::clock::{ManualClock, SystemClock};
use backstay::error::{Error, ErrorKind, Result};
use backstay::id::{BackupKind, SourceAddress};
use backstay::run::backup::{Outcome, Request, backup};
use backstay::run::restore::{self, Selection, restore_tree};
use backstay::run::verify::{Depth, Report, verify};
use backstay::run::{BackupChoice, Context, Tuning, find_backup, list_backups};
use backstay::source::directory::extract::Existing;
use backstay::source::directory::{Config, DirectorySource};
use backstay::store::{InitOptions, Probe, Repository, Store};
use backstay::telemetry::Reporter;

use crate::common::faulty::{Fault, Faulty};
use crate::common::{assert_same_tree, settle};

/// A repository in a faulty store, and a directory to back up.
struct Bench {
    dir: tempfile::TempDir,
    objects: Arc<Faulty>,
    store: Store,
    repository: Repository,
    cx: Context,
    _runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let objects = Faulty::new();
        let store = Store::new(objects.clone(), runtime.handle().clone(), "the faulty store");
        let now = "2026-11-21T02:00:00Z".parse().unwrap();
        let repository = Repository::init(&store, &InitOptions::default(), now).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("src")).unwrap();
        fs::write(dir.path().join("src/one"), "one\n").unwrap();
        fs::write(dir.path().join("src/two"), "two\n").unwrap();
        let cx = Context {
            reporter: Reporter::silent(),
            clock: Arc::new(SystemClock),
            tuning: Tuning::default(),
        };
        Self { dir, objects, store, repository, cx, _runtime: runtime }
    }

    fn address() -> SourceAddress {
        SourceAddress::new("demo", "files")
    }

    fn backup(&self, kind: BackupKind) -> Result<Outcome> {
        let source = DirectorySource::new(Config {
            paths: vec![self.dir.path().join("src")],
            relative: true,
            ..Config::default()
        })?;
        let request = Request {
            address: Self::address(),
            source: &source,
            kind,
            run: "run".into(),
            job: None,
            keep: None,
            level: 3,
            paranoid: false,
            writer: Keyring::default(),
            encrypted: None,
            pinned_key: None,
            policy: None,
            dry_run: false,
        };
        backup(&self.repository, &request, &self.cx.fresh())
    }

    fn full(&self) -> Result<Outcome> {
        self.backup(BackupKind::Full)
    }

    fn backups(&self) -> usize {
        let listings = list_backups(&self.repository, &|_| true).unwrap();
        listings.iter().filter(|listing| listing.manifest.is_ok()).count()
    }

    fn restore(&self, to: &str) -> Result<restore::Outcome> {
        let manifest = find_backup(&self.repository, &Self::address(), &BackupChoice::Latest)?;
        let request = restore::Request {
            source: self.repository.source(&Self::address()),
            manifest: &manifest,
            keys: Keyring::default(),
            selection: Selection::new(&[])?,
            target: self.dir.path().join(to),
            placement: Default::default(),
            existing: Existing::Refuse,
            numeric_owner: false,
            dry_run: false,
        };
        restore_tree(&request, &self.cx.fresh())
    }

    fn verify(&self, depth: Depth) -> Result<Report> {
        let manifest = find_backup(&self.repository, &Self::address(), &BackupChoice::Latest)?;
        let source = self.repository.source(&Self::address());
        verify(&source, &manifest, depth, &Keyring::default(), &self.cx.fresh())
    }

    /// Asserts that the newest backup is what lies in the directory.
    #[track_caller]
    fn assert_restores(&self) {
        self.objects.fail(Fault::None, "");
        let outcome = self.restore("restored").unwrap();
        assert!(outcome.is_complete(), "{:?}", outcome.failed);
        assert_same_tree(&self.dir.path().join("src"), &self.dir.path().join("restored"));
        let report = self.verify(Depth::Content).unwrap();
        assert!(report.is_sound(), "{:?}", report.findings);
    }

    /// Asserts that a backup failed with `kind`, and that nothing of it is listed.
    #[track_caller]
    fn assert_refused(&self, result: Result<Outcome>, kind: ErrorKind, says: &str) {
        self.objects.fail(Fault::None, "");
        let error = match result {
            Ok(outcome) => panic!("a backup was made: {:?}", outcome.backup),
            Err(error) => error,
        };
        assert_eq!(error.kind(), kind, "{}", error.chain());
        assert!(error.chain().contains(says), "`{says}` is not said: {}", error.chain());
        assert_eq!(self.backups(), 0, "a backup that failed is listed");
    }
}

/// Bytes that no compressor makes smaller, enough for three parts.
fn three_parts() -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut bytes = Vec::with_capacity(20 << 20);
    while bytes.len() < 20 << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes
}

fn weak(fault: Fault) -> Vec<(&'static str, String)> {
    let bench = Bench::new();
    bench.objects.fail(fault, "probe/");
    let probe = Probe::run(&bench.store).unwrap();
    probe.weak().map(|finding| (finding.what, finding.detail.clone())).collect()
}

#[test]
fn an_honest_store_passes_every_probe_and_is_left_clean() {
    let bench = Bench::new();
    let before = bench.objects.keys();
    let probe = Probe::run(&bench.store).unwrap();
    assert_eq!(probe.weak().count(), 0, "{:?}", probe.findings);
    let tried: Vec<&str> = probe.findings.iter().map(|finding| finding.what).collect();
    let all = [
        "read after write",
        "ranged read",
        "create only",
        "create race",
        "list after write",
        "multipart upload",
        "delete",
    ];
    assert_eq!(tried, all);
    assert_eq!(bench.objects.keys(), before);
}

#[test]
fn a_store_that_accepts_a_second_create_is_weak() {
    let found = weak(Fault::CreatesOverwrite);
    assert!(
        found.iter().any(|(what, detail)| *what == "create only" && detail.contains("accepted"))
    );
    assert!(found.iter().any(|(what, _)| *what == "create race"), "{found:?}");
}

#[test]
fn a_store_that_refuses_and_overwrites_is_weak() {
    let found = weak(Fault::RefusedAndOverwritten);
    let overwrote = |(what, detail): &(&str, String)| {
        *what == "create only" && detail.contains("overwrote the object")
    };
    assert!(found.iter().any(overwrote), "{found:?}");
}

#[test]
fn a_store_that_tells_several_writers_they_won_is_weak() {
    let found = weak(Fault::SeveralWinners);
    assert!(found.iter().any(|(what, _)| *what == "create race"), "{found:?}");
}

#[test]
fn a_store_that_does_not_list_what_it_took_is_weak() {
    let found = weak(Fault::ListsNothing);
    assert_eq!(found.iter().map(|(what, _)| *what).collect::<Vec<_>>(), ["list after write"]);
}

#[test]
fn a_store_that_ignores_ranges_is_weak() {
    let found = weak(Fault::IgnoresRanges);
    assert_eq!(found.iter().map(|(what, _)| *what).collect::<Vec<_>>(), ["ranged read"]);
}

#[test]
fn a_store_that_drops_a_part_is_weak() {
    let found = weak(Fault::ForgetsSecondPart);
    assert_eq!(found.iter().map(|(what, _)| *what).collect::<Vec<_>>(), ["multipart upload"]);
}

#[test]
fn a_commit_whose_reply_was_lost_is_recognised_as_ours() {
    for fault in [Fault::LosesReply(1), Fault::MeetsItself(1), Fault::Conflicts(1)] {
        let bench = Bench::new();
        bench.objects.fail(fault.clone(), "/commits/");
        bench.full().unwrap_or_else(|error| panic!("{fault:?}: {}", error.chain()));
        assert_eq!(bench.objects.happened(), 1, "{fault:?} did not happen");
        assert_eq!(bench.backups(), 1, "{fault:?}");
        bench.assert_restores();
    }
}

#[test]
fn an_intent_whose_reply_was_lost_is_recognised_as_ours() {
    for fault in [Fault::LosesReply(1), Fault::MeetsItself(1), Fault::Conflicts(2)] {
        let bench = Bench::new();
        bench.objects.fail(fault.clone(), "/intent/");
        bench.full().unwrap_or_else(|error| panic!("{fault:?}: {}", error.chain()));
        let left = bench.objects.keys().iter().any(|key| key.contains("/intent/"));
        assert!(!left, "an intent is left after {fault:?}");
    }
}

#[test]
fn a_commit_that_never_goes_through_is_a_failure() {
    let bench = Bench::new();
    bench.objects.fail(Fault::Conflicts(1000), "/commits/");
    let result = bench.full();
    assert!(bench.objects.happened() > 1, "a conflict was not tried again");
    bench.assert_refused(result, ErrorKind::Unreachable, "/commits/");
}

#[test]
fn a_tombstone_at_the_commit_key_ends_the_backup() {
    let bench = Bench::new();
    let stone = r#"{"aborted":{"by":"prune","time":"2026-11-21T02:00:00Z","reason":"dead"}}"#;
    bench.objects.fail(Fault::Taken(stone), "/commits/");
    let result = bench.full();
    let hints = match &result {
        Err(error) => error.hints().join(" "),
        Ok(_) => String::new(),
    };
    assert!(hints.contains("run the backup again"), "no way out: {hints}");
    bench.assert_refused(result, ErrorKind::Conflict, "was given up");
    // The key stays taken, and the source can be backed up again under another.
    let stones: Vec<String> =
        bench.objects.keys().into_iter().filter(|key| key.contains("/commits/")).collect();
    assert_eq!(bench.objects.content(&stones[0]), stone);
    bench.full().unwrap();
    assert_eq!(bench.backups(), 1);
    bench.assert_restores();
}

#[test]
fn a_store_that_takes_fewer_bytes_than_sent_gets_no_commit() {
    for place in ["000001.tar.zst", "index.zst", "SHA256SUMS"] {
        let bench = Bench::new();
        bench.objects.fail(Fault::DropsLastByte, place);
        let result = bench.full();
        assert!(bench.objects.happened() > 0, "nothing was written to {place}");
        bench.assert_refused(result, ErrorKind::Damaged, place);
    }
}

#[test]
fn a_store_that_forgets_a_part_gets_no_commit() {
    let bench = Bench::new();
    fs::write(bench.dir.path().join("src/large"), three_parts()).unwrap();
    bench.objects.fail(Fault::ForgetsSecondPart, "/data/");
    let result = bench.full();
    bench.assert_refused(result, ErrorKind::Damaged, ".tar.zst");
}

#[test]
fn a_store_that_lists_nothing_gets_no_commit() {
    let bench = Bench::new();
    bench.objects.fail(Fault::ListsNothing, "/data/");
    let result = bench.full();
    bench.assert_refused(result, ErrorKind::Damaged, "does not list it");
}

#[test]
fn an_upload_that_fails_gets_no_commit() {
    for fault in [Fault::RefusesPart(1), Fault::RefusesPart(3), Fault::RefusesComplete] {
        let bench = Bench::new();
        fs::write(bench.dir.path().join("src/large"), three_parts()).unwrap();
        bench.objects.fail(fault, "/data/");
        let result = bench.full();
        bench.assert_refused(result, ErrorKind::Unreachable, ".tar.zst");
        // The next attempt is not hindered by what is left.
        bench.full().unwrap();
        assert_eq!(bench.backups(), 1);
    }
}

#[test]
fn a_restore_never_succeeds_on_reads_that_fail_or_end_early() {
    for (fault, kinds) in [
        (Fault::RefusesReads, &[ErrorKind::Unreachable][..]),
        (Fault::ShortReads, &[ErrorKind::Damaged]),
    ] {
        for place in ["/commits/", "index.zst", ".tar.zst"] {
            let bench = Bench::new();
            bench.full().unwrap();
            bench.objects.fail(fault.clone(), place);
            match bench.restore("out") {
                Err(error) => {
                    let kind = error.kind();
                    assert!(kinds.contains(&kind), "{fault:?} {place}: {kind:?} {}", error.chain());
                }
                // What was cut off may not have been needed: then everything is right.
                Ok(outcome) if outcome.is_complete() => {
                    assert!(matches!(fault, Fault::ShortReads), "{place}: a failed read is right");
                    assert_same_tree(&bench.dir.path().join("src"), &bench.dir.path().join("out"));
                }
                Ok(outcome) => {
                    let damage = outcome.failed.first.iter().all(|finding| finding.damage);
                    let expected = kinds.contains(&ErrorKind::Damaged);
                    assert_eq!(damage, expected, "{fault:?} {place}: {:?}", outcome.failed);
                }
            }
            assert!(bench.objects.happened() > 0, "{fault:?} {place} did not happen");
        }
    }
}

#[test]
fn verify_tells_a_store_that_is_away_from_one_that_lost_something() {
    for depth in [Depth::Stored, Depth::Content] {
        let bench = Bench::new();
        bench.full().unwrap();
        bench.objects.fail(Fault::ShortReads, ".tar.zst");
        let report = bench.verify(depth).unwrap();
        assert!(!report.is_sound(), "{depth:?}: a truncated segment is sound");
        assert!(report.findings[0].object.contains(".tar.zst"), "{:?}", report.findings);

        bench.objects.fail(Fault::RefusesReads, ".tar.zst");
        match bench.verify(depth) {
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unreachable, "{}", error.chain()),
            Ok(report) => panic!("{depth:?}: a store that is away gives {:?}", report.findings),
        }
    }
}

#[test]
fn a_ranged_read_that_gives_the_whole_object_is_no_wrong_content() {
    let bench = Bench::new();
    fs::write(bench.dir.path().join("src/large"), three_parts()).unwrap();
    bench.full().unwrap();
    bench.objects.fail(Fault::IgnoresRanges, ".tar.zst");
    if bench.restore("out").is_ok_and(|outcome| outcome.is_complete()) {
        assert_same_tree(&bench.dir.path().join("src"), &bench.dir.path().join("out"));
    }
}

#[test]
fn an_incremental_does_not_refer_to_what_prune_has_marked() {
    let mut bench = Bench::new();
    // Stored in several segments, so that one can be marked and the others shared.
    bench.cx.tuning.segment_size = 1;
    bench.cx.tuning.workers = 1;
    for (number, content) in three_parts().chunks(512 << 10).take(24).enumerate() {
        fs::write(bench.dir.path().join(format!("src/file-{number:02}")), content).unwrap();
    }
    settle();
    let full = bench.full().unwrap().manifest.unwrap();
    assert!(full.segments.len() >= 3, "{} segments", full.segments.len());
    let marked = &full.segments[0].path;
    bench.objects.plant(
        "demo/sources/files/prune/20261121T030000Z-abcd.json",
        format!(r#"{{"mark":1,"created":"2026-11-21T03:00:00Z","objects":["{marked}"]}}"#),
    );
    let next = bench.backup(BackupKind::Incremental).unwrap();
    assert_eq!(next.kind, BackupKind::Incremental);
    assert!(!next.unchanged, "a base with a marked segment was shared as a whole");
    let manifest = next.manifest.unwrap();
    let refers = |path: &str| manifest.objects().any(|(object, _, _)| object == path);
    assert!(!refers(marked), "the backup refers to {marked}, which prune will delete");
    assert!(refers(&full.segments[1].path), "nothing at all is shared");
    assert!(next.counts.new_files > 0);

    // Prune does what it announced; the backup stays whole.
    let gone = format!("demo/sources/files/{marked}");
    bench.store.delete(&gone).unwrap();
    bench.assert_restores();
}

#[test]
fn a_base_whose_index_is_marked_is_not_shared() {
    let bench = Bench::new();
    settle();
    let full = bench.full().unwrap().manifest.unwrap();
    bench.objects.plant(
        "demo/sources/files/prune/20261121T030000Z-abcd.json",
        format!(
            r#"{{"mark":1,"created":"2026-11-21T03:00:00Z","objects":["{}"]}}"#,
            full.index.path
        ),
    );
    let next = bench.backup(BackupKind::Incremental).unwrap();
    assert!(!next.unchanged);
    assert_ne!(next.manifest.unwrap().index.path, full.index.path);
}

#[test]
fn backups_are_named_in_order_when_the_clock_steps_back() {
    let mut bench = Bench::new();
    let clock = Arc::new(ManualClock::new("2026-11-21T02:00:00Z".parse().unwrap()));
    bench.cx.clock = clock.clone();
    let first = bench.full().unwrap().backup.unwrap();
    clock.set("2026-11-21T01:00:00Z".parse().unwrap());
    let second = bench.full().unwrap().backup.unwrap();
    assert!(second > first, "{second} does not sort after {first}");
    let latest = find_backup(&bench.repository, &Bench::address(), &BackupChoice::Latest).unwrap();
    assert_eq!(latest.backup, second);
}

#[test]
fn two_repositories_are_never_created_in_one_place() {
    let bench = Bench::new();
    let now = "2026-11-21T02:00:00Z".parse().unwrap();
    let second: Result<Repository, Error> =
        Repository::init(&bench.store, &InitOptions::default(), now);
    assert_eq!(second.unwrap_err().kind(), ErrorKind::Conflict);
}
