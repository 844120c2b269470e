//! What this machine remembers: its file, its schema, and what becomes of a damaged one.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use backstay::error::ErrorKind;
use backstay::state::{
    AlertRow, Cursor, NewRun, NotifyResult, Proof, ProofDepth, ProofResult, RunState, Slot, State,
    Told,
};
use jiff::Timestamp;
use rusqlite::Connection;

const NOW: &str = "2026-11-21T08:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn open(directory: &Path) -> State {
    State::open(directory, at(NOW)).unwrap()
}

fn proof(object: &str, depth: ProofDepth, when: &str, result: ProofResult) -> Proof {
    Proof { object: object.to_owned(), depth, proven_at: at(when), bytes: 7, result }
}

fn aside(directory: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    names.filter(|path| path.to_string_lossy().contains("damaged")).collect()
}

#[test]
fn nobody_else_reads_it() {
    let sandbox = tempfile::tempdir().unwrap();
    let directory = sandbox.path().join("a/state");
    let state = open(&directory);
    state.record_proofs("r", "s/t", &[]).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    for entry in fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    let raw = Connection::open(state.path()).unwrap();
    let journal: String = raw.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
    assert_eq!(journal, "wal");
}

#[test]
fn proofs_are_kept_by_object_and_depth() {
    use ProofDepth::{Content, Stored};
    use ProofResult::{Damaged, Sound};
    let sandbox = tempfile::tempdir().unwrap();
    let first = [
        proof("a", Stored, "2026-11-01T00:00:00Z", Sound),
        proof("a", Content, "2026-11-02T00:00:00Z", Sound),
        proof("b", Stored, "2026-11-03T00:00:00.123456Z", Sound),
    ];
    open(sandbox.path()).record_proofs("r", "s/t", &first).unwrap();
    let again = proof("b", Stored, "2026-11-04T00:00:00Z", Damaged);
    let state = open(sandbox.path());
    assert!(state.set_aside().is_none());
    state.record_proofs("r", "s/t", std::slice::from_ref(&again)).unwrap();
    state.record_proofs("other", "s/t", &first).unwrap();
    let [stored, content, _] = first.clone();
    assert_eq!(state.proofs("r", "s/t").unwrap(), [content, stored, again.clone()]);
    state.forget_proofs("r", "s/t", &["a".to_owned()]).unwrap();
    assert_eq!(state.proofs("r", "s/t").unwrap(), [again]);
    assert_eq!(state.proofs("other", "s/t").unwrap().len(), 3);
    assert!(state.proofs("r", "s/u").unwrap().is_empty());
}

#[test]
fn a_newer_schema_is_left_alone() {
    let sandbox = tempfile::tempdir().unwrap();
    let path = open(sandbox.path()).path().to_owned();
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 999).unwrap();
    let before = fs::read(&path).unwrap();
    let error = State::open(sandbox.path(), at(NOW)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert!(error.hints().iter().any(|hint| hint.contains("newer backstay")), "{error:?}");
    assert_eq!(fs::read(&path).unwrap(), before);
    assert!(aside(sandbox.path()).is_empty());
}

#[test]
fn a_damaged_file_is_set_aside_and_not_trusted() {
    let sandbox = tempfile::tempdir().unwrap();
    let proofs: Vec<Proof> = (0..2000)
        .map(|n| proof(&format!("object-{n}"), ProofDepth::Stored, NOW, ProofResult::Sound))
        .collect();
    let path = {
        let state = open(sandbox.path());
        state.record_proofs("r", "s/t", &proofs).unwrap();
        state.path().to_owned()
    };
    let good = fs::read(&path).unwrap();
    let (mut torn, mut zeroed) = (good.clone(), good.clone());
    torn.truncate(good.len() / 2);
    zeroed[4096..].fill(0);
    for (number, bad) in [b"no database at all".repeat(100), torn, zeroed].iter().enumerate() {
        fs::write(&path, bad).unwrap();
        let state = open(sandbox.path());
        let place = state.set_aside().expect("it is damaged").to_owned();
        assert_eq!(&fs::read(place).unwrap(), bad);
        assert_eq!(aside(sandbox.path()).len(), number + 1);
        assert!(state.proofs("r", "s/t").unwrap().is_empty());
        state.record_proofs("r", "s/t", &proofs[..1]).unwrap();
        drop(state);
        let again = open(sandbox.path());
        assert!(again.set_aside().is_none());
        assert_eq!(again.proofs("r", "s/t").unwrap(), proofs[..1]);
    }
}

#[test]
fn many_find_a_damaged_file_and_one_sets_it_aside() {
    let sandbox = tempfile::tempdir().unwrap();
    fs::write(sandbox.path().join("state.db"), b"no database at all".repeat(100)).unwrap();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let directory = sandbox.path();
            scope.spawn(move || {
                let name = format!("object-{number}");
                let proof = proof(&name, ProofDepth::Content, NOW, ProofResult::Sound);
                open(directory).record_proofs("r", "s/t", &[proof]).unwrap();
            });
        }
    });
    assert_eq!(aside(sandbox.path()).len(), 1);
    assert_eq!(open(sandbox.path()).proofs("r", "s/t").unwrap().len(), 8);
}

#[test]
fn a_place_that_cannot_be_is_said() {
    let sandbox = tempfile::tempdir().unwrap();
    let file = sandbox.path().join("file");
    fs::write(&file, "").unwrap();
    let error = State::open(&file.join("state"), at(NOW)).unwrap_err();
    assert!(error.to_string().contains("failed to open the state in"), "{error:?}");
    assert!(error.hints().iter().any(|hint| hint.contains("--state-dir")), "{error:?}");
}

#[test]
fn counters_of_runs_never_go_back() {
    let sandbox = tempfile::tempdir().unwrap();
    let state = open(sandbox.path());
    let run = |number: i64, run_state: RunState| {
        let due = at("2025-01-01T00:00:00Z") + jiff::SignedDuration::from_hours(number);
        NewRun {
            slot: Slot {
                stack: "s".into(),
                job: "j".into(),
                source: "t".into(),
                nominal: due.to_string(),
            },
            id: format!("run-{number}"),
            due,
            not_before: due,
            state: run_state,
            why: None,
        }
    };
    let runs = [
        run(1, RunState::Waiting),
        run(2, RunState::Waiting),
        run(3, RunState::Missed),
        run(4, RunState::Missed),
        run(5, RunState::Waiting),
    ];
    state.add_runs(&runs).unwrap();
    // A slot that is there already is not counted again.
    state.add_runs(&runs).unwrap();
    for (id, took) in [("run-1", 5), ("run-2", 100)] {
        let begun = at(NOW);
        let ended = begun + jiff::SignedDuration::from_secs(took);
        assert!(state.claim(id, "o", begun).unwrap());
        // Put back and begun again is not over.
        assert!(state.retry(id, "o", "x", begun).unwrap());
        assert!(state.claim(id, "o", begun).unwrap());
        assert!(state.finish(id, "o", (RunState::Succeeded, None), None, ended).unwrap());
    }
    state.settle(&[("run-5".into(), RunState::Skipped, "x".into())], at(NOW)).unwrap();
    let totals = |state: &State| {
        let found = state.run_totals().unwrap();
        let mut found: Vec<(String, u64)> =
            found.into_iter().map(|total| (total.state, total.total)).collect();
        found.sort();
        found
    };
    let expected: Vec<(String, u64)> =
        [("missed", 2), ("skipped", 1), ("succeeded", 2)].map(|(k, v)| (k.into(), v)).to_vec();
    assert_eq!(totals(&state), expected);
    let durations = state.run_durations().unwrap().into_values().next().unwrap();
    assert_eq!((durations.count, durations.micros), (2, 105_000_000));
    assert_eq!((durations.at_most[&10], durations.at_most[&60]), (1, 1));
    assert_eq!(durations.at_most[&300], 2);
    assert!(state.forget_runs(at(NOW)).unwrap() > 0);
    assert_eq!(totals(&open(sandbox.path())), expected);
}

#[test]
fn a_state_of_the_last_version_keeps_its_rows_and_counts_them() {
    let sandbox = tempfile::tempdir().unwrap();
    let path = open(sandbox.path()).path().to_path_buf();
    // What the second schema was: without what the third has.
    let raw = Connection::open(&path).unwrap();
    raw.execute_batch(
        "DROP TRIGGER runs_end; DROP TRIGGER runs_never_begin; DROP TABLE alerts; DROP TABLE told;
         DROP TABLE notifications; DROP TABLE looks; DROP TABLE run_totals; DROP TABLE run_durations; DROP TABLE recoveries;
         DROP TABLE readiness; DROP TABLE drills; ALTER TABLE cursors DROP COLUMN schedule;
         INSERT INTO cursors (stack, job, until) VALUES ('s', 'j', 7000000);
         INSERT INTO runs (id, stack, job, source, nominal, due, not_before, state)
         VALUES ('r', 's', 'j', 't', 'n', 1, 1, 'missed');
         PRAGMA user_version = 2;",
    )
    .unwrap();
    drop(raw);
    let state = open(sandbox.path());
    assert_eq!(state.set_aside(), None);
    assert_eq!(state.run_totals().unwrap()[0].total, 1);
    assert_eq!(state.run("r").unwrap().unwrap().state, RunState::Missed);
    let until = at("1970-01-01T00:00:07Z");
    assert_eq!(state.cursor("s", "j", at(NOW)).unwrap(), Cursor { until, schedule: None });
    let known = Cursor { until: at(NOW), schedule: Some("every 60 s".into()) };
    state.set_cursor("s", "j", &known).unwrap();
    state.advance("s", "j", until, &[]).unwrap();
    assert_eq!(state.cursor("s", "j", until).unwrap(), known);
}

#[test]
fn what_fires_and_who_was_told_are_rows() {
    let sandbox = tempfile::tempdir().unwrap();
    let state = open(sandbox.path());
    let row = |resolved: Option<&str>| AlertRow {
        fingerprint: "f".into(),
        alert: "{}".into(),
        started: at(NOW),
        resolved: resolved.map(at),
    };
    state.put_alerts(&[row(None)]).unwrap();
    state.put_alerts(&[row(Some("2026-11-21T09:00:00Z"))]).unwrap();
    state.tell(("s", "webhook"), &[("f".into(), false)], at(NOW)).unwrap();
    let who = ("s", "webhook");
    state.count_notification(who, NotifyResult::Failed, "no", at(NOW)).unwrap();
    state.count_notification(who, NotifyResult::Failed, "still no", at(NOW)).unwrap();
    let state = open(sandbox.path());
    assert_eq!(state.alerts().unwrap(), [row(Some("2026-11-21T09:00:00Z"))]);
    let told = state.told().unwrap();
    let key = ("s".to_owned(), "webhook".to_owned());
    assert_eq!(told[&key]["f"], Told { at: at(NOW), resolved: false });
    let totals = state.notification_totals().unwrap();
    assert_eq!((totals[0].total, totals[0].said.as_str()), (2, "still no"));
    state.forget_alerts(&["f".to_owned()].into()).unwrap();
    assert!(state.alerts().unwrap().is_empty() && state.told().unwrap().is_empty());
}
