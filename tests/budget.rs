//! Proving a repository bit by bit, and remembering what was proven when.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use backstay::archive::crypt::Keyring;
use backstay::clock::SystemClock;
use backstay::id::SourceAddress;
use backstay::run::verify::{Depth, Scope, verify_part};
use backstay::run::{BackupChoice, Context, Tuning, find_backup};
use backstay::store::{Location, Repository};
use backstay::telemetry::Reporter;
use rusqlite::Connection;
use serde_json::Value;

use crate::common::{Ran, Sandbox, noise};

/// Three backups that share most segments; an older one has names the newest does not want.
fn three(encrypted: bool) -> (Sandbox, Vec<String>) {
    let sandbox = Sandbox::ready(encrypted);
    let src = sandbox.path("src");
    for number in 0..6 {
        // Each in a segment of its own.
        fs::write(src.join(format!("large-{number}")), noise(number, 12_000)).unwrap();
        fs::write(src.join(number.to_string()), noise(50 + number, 1500)).unwrap();
    }
    crate::common::settle();
    let mut backups = Vec::new();
    for number in 0..3 {
        fs::write(src.join("changing"), noise(100 + number, 3000)).unwrap();
        if number == 1 {
            fs::remove_file(src.join("3")).unwrap();
        }
        backups.push(sandbox.backup(&["--large-file", "10000"]));
    }
    let dead = objects(&sandbox).into_keys().filter(|path| path.contains("/dead-")).count();
    assert!(dead > 0, "no segment is shared in part");
    (sandbox, backups)
}

fn verify(sandbox: &Sandbox, args: &[&str]) -> Ran {
    sandbox.run_with_key(&[&["verify"], args].concat())
}

fn json(sandbox: &Sandbox, args: &[&str]) -> Value {
    verify(sandbox, &[args, &["--output", "json"]].concat()).expect(0).json()
}

/// What would be read within a budget, in that order.
fn planned(sandbox: &Sandbox, args: &[&str]) -> Vec<String> {
    let plan = json(sandbox, &[args, &["--dry-run"]].concat());
    let Some(planned) = plan["planned"].as_array().cloned() else { return Vec::new() };
    planned.iter().map(|line| line["object"].as_str().unwrap().to_owned()).collect()
}

/// Every object that some backup needs, with its size.
fn objects(sandbox: &Sandbox) -> BTreeMap<String, u64> {
    let root = "demo/sources/files/";
    let relative = |path: PathBuf| {
        let size = fs::metadata(sandbox.path("repo").join(&path)).unwrap().len();
        Some((path.to_str()?.strip_prefix(root)?.to_owned(), size))
    };
    let all = sandbox.objects().into_iter().filter_map(relative);
    all.filter(|(path, _)| path.starts_with("data/")).collect()
}

fn database(sandbox: &Sandbox) -> Connection {
    Connection::open(sandbox.path("state/state.db")).unwrap()
}

#[test]
fn each_run_goes_on_where_the_last_one_ended() {
    for (encrypted, depth) in [(true, "stored"), (true, "content"), (false, "content")] {
        let (sandbox, _) = three(encrypted);
        let all = objects(&sandbox);
        let args = ["--budget", "25kB", "--depth", depth];
        let (mut seen, mut runs, mut total) = (BTreeSet::new(), 0, 0);
        loop {
            let next = planned(&sandbox, &args);
            let fresh: BTreeSet<String> = next.into_iter().collect();
            if fresh.iter().all(|object| seen.contains(object)) {
                break;
            }
            let told = json(&sandbox, &args);
            let read = told["read"].as_u64().unwrap();
            assert!(read <= 25_000, "{depth}: {read} bytes");
            let sizes: u64 = fresh.iter().map(|object| all[object]).sum();
            assert_eq!(read, sizes, "{depth}: what was planned is what is read");
            total += read;
            runs += 1;
            seen.extend(fresh);
            let coverage = &told["coverage"][0];
            let left: u64 = all.iter().filter(|(o, _)| !seen.contains(*o)).map(|(_, s)| s).sum();
            assert_eq!(coverage["never_bytes"], left, "{depth}");
            assert_eq!(coverage["bytes"].as_u64().unwrap(), all.values().sum::<u64>());
        }
        assert_eq!(seen, all.keys().cloned().collect(), "{depth}: everything had its turn");
        assert!(runs > 3, "{runs}");
        let whole: u64 = all.values().sum();
        assert!(total < whole * 3 / 2, "{depth}: {total} of {whole}: only indexes are read again");
        let told = verify(&sandbox, &["--budget", "1B", "--depth", depth]).expect(0);
        assert!(told.stdout.contains("100 % within 30 days"), "{}", told.stdout);
        assert!(!told.stdout.contains("never"), "{}", told.stdout);
    }
}

#[test]
fn what_was_proven_longest_ago_comes_first() {
    let (sandbox, _) = three(true);
    verify(&sandbox, &[]).expect(0);
    let all = objects(&sandbox);
    let old = all.keys().nth(4).unwrap();
    let long_ago = 1_600_000_000_000_000i64;
    let update = "UPDATE proofs SET proven_at = ?1 WHERE object = ?2";
    assert_eq!(database(&sandbox).execute(update, (long_ago, old)).unwrap(), 1);
    let told = verify(&sandbox, &["--budget", "1B", "--dry-run"]).expect(0);
    assert!(told.stdout.contains("oldest proof: 2020-09-13"), "{}", told.stdout);
    assert!(!told.stdout.contains("100 %"), "{}", told.stdout);
    assert_eq!(planned(&sandbox, &["--budget", "1B"]), std::slice::from_ref(old));
    verify(&sandbox, &["--budget", "1B"]).expect(0);
    let told = verify(&sandbox, &["--budget", "1B", "--dry-run"]).expect(0);
    assert!(told.stdout.contains("100 % within"), "{}", told.stdout);
    // Bytes that are as they were stored prove nothing about what is in them.
    let content = ["--budget", "1TiB", "--depth", "content", "--dry-run"];
    let told = verify(&sandbox, &content).expect(0);
    assert!(told.stdout.contains("0 % within"), "{}", told.stdout);
    assert_eq!(planned(&sandbox, &content[..4]).len(), all.len());
    // What is in them proves the bytes as well.
    database(&sandbox).execute("DELETE FROM proofs", ()).unwrap();
    verify(&sandbox, &["--depth", "content"]).expect(0);
    let told = verify(&sandbox, &["--budget", "1B", "--dry-run"]).expect(0);
    assert!(told.stdout.contains("100 % within"), "{}", told.stdout);
}

#[test]
fn damage_is_remembered_until_it_is_proven_gone() {
    let (sandbox, backups) = three(true);
    verify(&sandbox, &[]).expect(0);
    let is_tree = |path: &String| path.contains(&backups[0]) && path.contains(".tar.");
    let object = objects(&sandbox).into_keys().find(is_tree).unwrap();
    let path = sandbox.path("repo/demo/sources/files").join(&object);
    let good = fs::read(&path).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    fs::write(&path, &bad).unwrap();
    let found = verify(&sandbox, &["--budget", "1TiB", "--depth", "content"]).expect(5);
    assert!(found.stdout.contains("DAMAGED  demo/files@"), "{}", found.stdout);
    assert!(found.stdout.contains("costs "), "{}", found.stdout);
    assert!(found.stdout.contains("1 object DAMAGED"), "{}", found.stdout);
    // Another object's turn: the damage is told all the same, at either depth.
    let others = "UPDATE proofs SET proven_at = proven_at - 60000000 WHERE object != ?1";
    assert!(database(&sandbox).execute(others, [&object]).unwrap() > 3);
    for depth in ["stored", "content"] {
        let next = verify(&sandbox, &["--budget", "1B", "--depth", depth]).expect(5);
        assert!(next.stdout.contains(&format!("KNOWN    demo/files {object}")), "{}", next.stdout);
        assert!(next.stderr.contains("1 object was damaged when last read"), "{}", next.stderr);
    }
    fs::write(&path, &good).unwrap();
    verify(&sandbox, &["--depth", "content"]).expect(0);
    verify(&sandbox, &["--budget", "1B", "--depth", "content"]).expect(0);
    // What is missing needs no budget to be found.
    fs::remove_file(&path).unwrap();
    let found = verify(&sandbox, &["--budget", "1B"]).expect(5);
    assert!(found.stdout.contains(&format!("{object} is missing")), "{}", found.stdout);
    // Neither does a manifest that cannot be read.
    fs::write(&path, &good).unwrap();
    verify(&sandbox, &[]).expect(0);
    let commit = format!("repo/demo/sources/files/commits/{}.json", backups[1]);
    fs::write(sandbox.path(commit), "{").unwrap();
    verify(&sandbox, &["--budget", "1B"]).expect(5);
}

#[test]
fn only_what_was_asked_for_is_proven() {
    let (sandbox, backups) = three(true);
    let of_first = planned(&sandbox, &[&backups[0], "--budget", "1TiB"]);
    assert!(of_first.iter().all(|object| object.contains(&backups[0])), "{of_first:?}");
    let of_two = planned(&sandbox, &[&backups[0], &backups[1], "--budget", "1TiB"]);
    let own = of_two.iter().filter(|object| object.contains(&backups[1])).count();
    assert!(own > 0 && of_two.len() > of_first.len(), "{of_two:?}");
    assert!(!of_two.iter().any(|object| object.starts_with(&format!("data/{}", backups[2]))));
}

#[test]
fn what_is_gone_is_forgotten() {
    let (sandbox, backups) = three(false);
    verify(&sandbox, &[]).expect(0);
    let count = || -> i64 {
        let query = "SELECT count(*) FROM proofs WHERE object LIKE ?1";
        let like = format!("data/{}/%", backups[2]);
        database(&sandbox).query_row(query, [like], |row| row.get(0)).unwrap()
    };
    assert!(count() > 0);
    let commit = format!("repo/demo/sources/files/commits/{}.json", backups[2]);
    fs::remove_file(sandbox.path(commit)).unwrap();
    verify(&sandbox, &["--budget", "1B"]).expect(0);
    assert_eq!(count(), 0);
}

#[test]
fn without_a_state_there_is_a_warning_or_a_refusal() {
    let (sandbox, _) = three(false);
    fs::write(sandbox.path("state"), "in the way").unwrap();
    let told = verify(&sandbox, &[]).expect(0);
    assert!(told.stderr.contains("what is proven will not be remembered"), "{}", told.stderr);
    let told = verify(&sandbox, &["--budget", "1GiB"]).expect(1);
    assert!(told.stderr.contains("failed to open the state"), "{}", told.stderr);
    assert!(told.stderr.contains("--state-dir"), "{}", told.stderr);
    let told = verify(&sandbox, &["--budget", "1GiB", "--state-dir", "other"]).expect(0);
    assert!(told.stdout.contains("100 % within 30 days"), "{}", told.stdout);
    // A damaged one is set aside, and nothing in it is believed.
    fs::write(sandbox.path("other/state.db"), "nonsense".repeat(999)).unwrap();
    let told = verify(&sandbox, &["--budget", "1B", "--state-dir", "other"]).expect(0);
    assert!(told.stderr.contains("was damaged and lies in"), "{}", told.stderr);
    assert!(told.stdout.contains("never proven"), "{}", told.stdout);
}

#[test]
fn without_a_key_content_is_not_proven() {
    let (sandbox, _) = three(true);
    let told = sandbox.run(&["verify", "--budget", "1GiB", "--depth", "content"]);
    assert_eq!(told.code, 1, "{}", told.stderr);
    assert!(told.stderr.contains("--identity"), "{}", told.stderr);
    let told = sandbox.run(&["verify", "--budget", "1B", "--depth", "content", "--dry-run"]);
    assert!(told.stdout.contains("0 % within 30 days"), "{}", told.stdout);
}

#[test]
fn what_was_found_sound_is_not_read_twice() {
    let (sandbox, backups) = three(false);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let location = Location::parse(sandbox.path("repo").to_str().unwrap()).unwrap();
    let repository = Repository::open(&location.connect(runtime.handle(), false).unwrap()).unwrap();
    let address = SourceAddress::new("demo", "files");
    let choice = BackupChoice::Id(backups[2].clone());
    let manifest = find_backup(&repository, &address, &choice).unwrap();
    let source = repository.source(&address);
    let cx = Context {
        reporter: Reporter::silent(),
        clock: Arc::new(SystemClock),
        tuning: Tuning::default(),
    };
    let older = |path: &str| !path.contains(&backups[2]);
    let known: BTreeSet<String> =
        manifest.objects().map(|(path, _, _)| path.to_owned()).filter(|p| older(p)).collect();
    assert!(known.len() > 3);
    let keys = Keyring::default();
    let part = verify_part(&source, &manifest, Scope::Except(&known), Depth::Stored, &keys, &cx);
    let part = part.unwrap();
    assert!(part.is_sound() && part.examined.iter().all(|path| !older(path)));
    assert_eq!(part.objects, manifest.objects().count() as u64, "the report is of all");
    let read = cx.reporter.progress().snapshot().stored_bytes;
    assert!(read < manifest.stored_total() / 2, "{read} bytes were read");
}
