//! What this machine remembers: its file, its schema, and what becomes of a damaged one.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use backstay::error::ErrorKind;
use backstay::state::{Proof, ProofDepth, ProofResult, State};
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
