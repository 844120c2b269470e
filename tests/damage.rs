//! Damage is found, named, and never restored as if it were content.
//!
//! `BACKSTAY_SOAK=1` flips every byte, one after another.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use backstay::archive::crypt::Keyring;
use backstay::clock::SystemClock;
use backstay::error::Result;
use backstay::id::SourceAddress;
use backstay::run::restore::{self, Selection};
use backstay::run::verify::{Depth, verify};
use backstay::run::{BackupChoice, Context, Tuning, find_backup};
use backstay::source::directory::extract::Existing;
use backstay::store::{Repository, Store};
use backstay::telemetry::Reporter;
use bytes::Bytes;
use object_store::ObjectStoreExt as _;
use object_store::memory::InMemory;
use serde_json::Value;

use crate::common::doctor::{Doctor, frames};
use crate::common::{Picture, Sandbox, noise, picture, thorough};

/// A small repository with everything a backup can refer to: an older segment with a dead list, a
/// large file, a hard link, an awkward name, a sparse file.
fn small(encrypted: bool) -> Sandbox {
    const LARGE: [&str; 2] = ["--large-file", "300"];
    let sandbox = Sandbox::ready(encrypted);
    let src = sandbox.path("src");
    fs::write(src.join("kept"), "kept in the older segment").unwrap();
    fs::write(src.join("gone"), "gone").unwrap();
    fs::write(src.join("large"), noise(1, 400)).unwrap();
    crate::common::settle();
    sandbox.backup(&LARGE);
    fs::remove_file(src.join("gone")).unwrap();
    fs::write(src.join("new"), "new content").unwrap();
    fs::hard_link(src.join("new"), src.join("same")).unwrap();
    std::os::unix::fs::symlink("new", src.join("link")).unwrap();
    fs::write(src.join("awkward "), "odd").unwrap();
    sandbox.backup(&LARGE);
    sandbox
}

/// The repository in memory, so that one byte can be changed thousands of times.
struct Lab {
    runtime: tokio::runtime::Runtime,
    memory: Arc<InMemory>,
    store: Store,
    keys: Keyring,
    /// Saves unwrapping the repository key where that is not what is tried.
    unlocked: Option<Keyring>,
    cx: Context,
    objects: BTreeMap<String, Vec<u8>>,
    expected: BTreeMap<Vec<u8>, Picture>,
    scratch: tempfile::TempDir,
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// Refused, or reported as damaged.
    Noticed,
    /// Everything is as it was.
    Unnoticed,
}

impl Lab {
    fn new(sandbox: &Sandbox) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let memory = Arc::new(InMemory::new());
        let store = Store::new(memory.clone(), runtime.handle().clone(), "memory");
        let identity = fs::read_to_string(sandbox.path("recovery.key")).unwrap();
        let keys = Keyring::parse(&identity, "recovery.key").unwrap();
        let tuning = Tuning { workers: 1, ..Tuning::default() };
        let cx = Context { reporter: Reporter::silent(), clock: Arc::new(SystemClock), tuning };
        // Not on a disk that would have to be synced thousands of times.
        let shared = Path::new("/dev/shm");
        let scratch = if shared.is_dir() {
            tempfile::tempdir_in(shared).unwrap()
        } else {
            tempfile::tempdir().unwrap()
        };
        let objects: BTreeMap<String, Vec<u8>> = sandbox
            .objects()
            .into_iter()
            .map(|path| {
                let bytes = fs::read(sandbox.path("repo").join(&path)).unwrap();
                (path.to_str().unwrap().to_owned(), bytes)
            })
            .collect();
        let mut expected = picture(&sandbox.path("src"));
        // The tree the restore is compared with is made of what can be told apart.
        for picture in expected.values_mut() {
            picture.links = 0;
        }
        let lab =
            Self { runtime, memory, store, keys, unlocked: None, cx, objects, expected, scratch };
        for (key, bytes) in &lab.objects {
            lab.put(key, bytes);
        }
        lab
    }

    fn put(&self, key: &str, bytes: &[u8]) {
        let bytes = Bytes::copy_from_slice(bytes);
        self.runtime.block_on(self.memory.put(&key.into(), bytes.into())).unwrap();
    }

    fn delete(&self, key: &str) {
        self.runtime.block_on(self.memory.delete(&key.into())).unwrap();
    }

    /// The objects that the newest backup needs, its manifest included.
    fn needed(&self) -> Vec<String> {
        let address = SourceAddress::new("demo", "files");
        let repository = Repository::open(&self.store).unwrap();
        let manifest = find_backup(&repository, &address, &BackupChoice::Latest).unwrap();
        let source = repository.source(&address);
        let mut needed: Vec<String> =
            manifest.objects().map(|(path, _, _)| source.key(path)).collect();
        needed.push(source.key(&format!("commits/{}.json", manifest.backup)));
        assert!(needed.iter().all(|key| self.objects.contains_key(key)));
        needed
    }

    /// Verifies and restores the newest backup. A restore that claims success must have brought
    /// everything.
    fn examine(&self, what: &str) -> Outcome {
        let out = self.scratch.path().join("out");
        let (sound, restored) = self.verify_and_restore(&out).unwrap_or_default();
        if restored {
            let mut found = picture(&out);
            found.values_mut().for_each(|picture| picture.links = 0);
            assert!(found == self.expected, "{what}: restored something else without a word");
        }
        let _ = fs::remove_dir_all(&out);
        if sound && restored { Outcome::Unnoticed } else { Outcome::Noticed }
    }

    fn verify_and_restore(&self, out: &Path) -> Result<(bool, bool)> {
        let repository = Repository::open(&self.store)?;
        let keys = match &self.unlocked {
            Some(keys) => keys.clone(),
            None => repository.unlock(&self.keys, &mut |_| {})?,
        };
        let address = SourceAddress::new("demo", "files");
        let source = repository.source(&address);
        let manifest = find_backup(&repository, &address, &BackupChoice::Latest)?;
        let sound = verify(&source, &manifest, Depth::Content, &keys, &self.cx)
            .is_ok_and(|report| report.is_sound());
        let request = restore::Request {
            source,
            manifest: &manifest,
            keys,
            selection: Selection::new(&[])?,
            target: out.to_owned(),
            placement: Default::default(),
            existing: Existing::Refuse,
            numeric_owner: true,
            dry_run: false,
        };
        let restored = restore::restore_tree(&request, &self.cx)
            .is_ok_and(|outcome| outcome.is_complete() && outcome.not_set.is_empty());
        Ok((sound, restored))
    }
}

/// All pointers of a document, with numbers in lists left out.
fn fields(document: &Value) -> BTreeSet<String> {
    fn walk(value: &Value, at: &str, into: &mut BTreeSet<String>) {
        into.insert(at.to_owned());
        match value {
            Value::Object(map) => {
                map.iter().for_each(|(key, value)| walk(value, &format!("{at}/{key}"), into));
            }
            Value::Array(list) => {
                list.iter().for_each(|value| walk(value, &format!("{at}/*"), into))
            }
            _ => {}
        }
    }
    let mut into = BTreeSet::new();
    walk(document, "", &mut into);
    into
}

/// JSON pointers at which two documents differ, with numbers in lists left out.
fn differences(a: &Value, b: &Value, at: &str, into: &mut BTreeSet<String>) {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys()) {
                let (a, b) = (a.get(key), b.get(key));
                differences(
                    a.unwrap_or(&Value::Null),
                    b.unwrap_or(&Value::Null),
                    &format!("{at}/{key}"),
                    into,
                );
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).for_each(|(a, b)| differences(a, b, &format!("{at}/*"), into));
        }
        // A number that is left out is 0.
        (Value::Null, Value::Number(n)) | (Value::Number(n), Value::Null)
            if n.as_u64() == Some(0) => {}
        (a, b) if a != b => drop(into.insert(at.to_owned())),
        _ => {}
    }
}

/// Fields of a manifest that tell a person something and change nothing of what is restored.
const INFORMATIVE: &[&str] = &[
    "/base",
    "/counts/skipped",
    "/counts/unreadable",
    "/counts/vanished",
    "/end",
    "/epoch",
    "/nonce",
    "/recovery_points/*/time",
    "/run",
    "/source_kind",
    "/start",
    "/writer/host",
    "/writer/system",
    "/writer/tool",
];

/// Of how many bytes one is tried: all of them take ten minutes.
fn stride() -> usize {
    if thorough() { 1 } else { 8 }
}

fn flipped_bytes(encrypted: bool) {
    let sandbox = small(encrypted);
    let mut lab = Lab::new(&sandbox);
    let repository = Repository::open(&lab.store).unwrap();
    lab.unlocked = Some(match repository.keys().first() {
        Some(key) => {
            let secret = repository.secret_of(key, &lab.keys).unwrap().unwrap();
            Keyring::parse(secrecy::ExposeSecret::expose_secret(&secret), "repository").unwrap()
        }
        None => Keyring::default(),
    });
    assert_eq!(lab.examine("nothing"), Outcome::Unnoticed, "the repository is sound to begin with");
    let mut harmless = BTreeSet::new();
    let mut tried = 0;
    for (number, key) in lab.needed().into_iter().enumerate() {
        let original = &lab.objects[&key];
        let mut bytes = original.clone();
        for at in (number % stride()..bytes.len()).step_by(stride()) {
            tried += 1;
            bytes[at] ^= 1;
            lab.put(&key, &bytes);
            let what = format!("{key} with byte {at} flipped");
            if lab.examine(&what) == Outcome::Unnoticed {
                assert!(key.contains("/commits/"), "{what} is not noticed");
                let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
                let mut pointers = BTreeSet::new();
                differences(&parse(original), &parse(&bytes), "", &mut pointers);
                // A key that nobody knows, in place of one that may be absent.
                let known: BTreeSet<String> = fields(&parse(original));
                harmless.extend(pointers.intersection(&known).cloned());
            }
            bytes[at] ^= 1;
        }
        lab.put(&key, original);
    }
    assert!(tried > 3000 / stride(), "{tried} bytes");
    harmless.retain(|pointer| !INFORMATIVE.contains(&pointer.as_str()));
    assert!(harmless.is_empty(), "changes of these are not noticed: {harmless:#?}");
}

#[test]
fn flipped_bytes_of_a_plain_repository_are_noticed_or_proven_harmless() {
    flipped_bytes(false);
}

#[test]
fn flipped_bytes_of_an_encrypted_repository_are_noticed_or_proven_harmless() {
    flipped_bytes(true);
}

#[test]
fn truncated_missing_and_swapped_objects_are_noticed() {
    for encrypted in [false, true] {
        let sandbox = small(encrypted);
        let lab = Lab::new(&sandbox);
        let needed = lab.needed();
        for key in &needed {
            let original = &lab.objects[key];
            let length = original.len();
            // A manifest ends in a line break that nobody needs.
            let lengths = [0, 1, length / 3, length / 2, length - 2, length - 1];
            let needless = usize::from(key.contains("/commits/"));
            for cut in &lengths[..lengths.len() - needless] {
                let cut = *cut;
                lab.put(key, &original[..cut]);
                let what = format!("{key} cut to {cut} of {length} bytes");
                assert_eq!(lab.examine(&what), Outcome::Noticed, "{what}");
            }
            let mut longer = original.clone();
            longer.push(b'x');
            lab.put(key, &longer);
            assert_eq!(lab.examine("longer"), Outcome::Noticed, "{key} with a byte more");
            // An object of the same kind from another place.
            let ending = key.rsplit('/').next().unwrap();
            for other in lab.objects.keys().filter(|other| {
                *other != key && other.ends_with(ending) && lab.objects[*other] != *original
            }) {
                lab.put(key, &lab.objects[other]);
                let what = format!("{other} in place of {key}");
                assert_eq!(lab.examine(&what), Outcome::Noticed, "{what}");
            }
            // Without the newest manifest the one before is the newest: nothing to notice.
            if !key.contains("/commits/") {
                lab.delete(key);
                assert_eq!(lab.examine("deleted"), Outcome::Noticed, "{key} is gone");
            }
            lab.put(key, original);
        }
        // Two objects of one backup in each other's place.
        for pair in needed.windows(2) {
            lab.put(&pair[0], &lab.objects[&pair[1]]);
            lab.put(&pair[1], &lab.objects[&pair[0]]);
            assert_eq!(lab.examine("swapped"), Outcome::Noticed, "{pair:?} swapped");
            lab.put(&pair[0], &lab.objects[&pair[0]]);
            lab.put(&pair[1], &lab.objects[&pair[1]]);
        }
        assert_eq!(lab.examine("mended"), Outcome::Unnoticed);
    }
}

#[test]
fn damaged_keys_never_open_anything_nor_take_new_backups() {
    let sandbox = small(true);
    let lab = Lab::new(&sandbox);
    for (key, original) in lab.objects.iter().filter(|(key, _)| key.starts_with("keys/")) {
        let mut bytes = original.clone();
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            lab.put(key, &bytes);
            let what = format!("{key} with byte {at} flipped");
            if key.ends_with(".pub") {
                let usable = Repository::open(&lab.store)
                    .is_ok_and(|repository| repository.write_key().unwrap().recipients().is_ok());
                // What follows the key's own line is nobody's business.
                let last = at + 1 == bytes.len();
                assert!(!usable || last, "{what}");
            } else {
                assert_eq!(lab.examine(&what), Outcome::Noticed, "{what}");
            }
            bytes[at] ^= 1;
        }
        lab.put(key, original);
    }
}

#[test]
fn newer_formats_are_refused_with_a_hint_and_older_backups_stay_readable() {
    let sandbox = Sandbox::ready(false);
    fs::write(sandbox.path("src/file"), "content").unwrap();
    let first = sandbox.backup(&[]);
    let second = sandbox.backup(&["--kind", "full"]);
    let repo = sandbox.path("repo");

    let mut doctor = Doctor::open(&repo, &second);
    let index = doctor.manifest["index"]["path"].as_str().unwrap().to_owned();
    let plain = String::from_utf8(doctor.plain(&index)).unwrap();
    doctor.set_index_plain(plain.replace("backstay_index\":1", "backstay_index\":2").as_bytes());
    doctor.save();
    let ran = sandbox.run(&["restore", "demo/files", "--to", "a"]).expect(1);
    assert!(ran.stderr.contains("has index format 2; this program reads 1"), "{}", ran.stderr);
    assert!(ran.stderr.contains("hint: use a newer backstay"), "{}", ran.stderr);

    doctor.manifest["backstay_manifest"] = 2.into();
    doctor.save();
    let ran = sandbox.run(&["restore", "demo/files", "--to", "a"]).expect(1);
    assert!(ran.stderr.contains("has format 2; this program reads 1"), "{}", ran.stderr);
    assert!(ran.stderr.contains("hint: use a newer backstay"), "{}", ran.stderr);
    sandbox.run(&["restore", "demo/files", "--backup", &first, "--to", "b"]).expect(0);

    let file = repo.join("backstay.json");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("\"backstay_repository\": 1", "\"backstay_repository\": 2"))
        .unwrap();
    for args in [&["list"][..], &["backup"], &["verify"]] {
        let ran = sandbox.run(args).expect(1);
        assert!(ran.stderr.contains("format 2"), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("hint: use a newer backstay"), "{args:?}: {}", ran.stderr);
    }
}

#[test]
fn a_missing_or_wrong_key_is_told_and_nothing_is_written() {
    let sandbox = Sandbox::ready(true);
    fs::write(sandbox.path("src/file"), "content").unwrap();
    sandbox.backup(&[]);
    sandbox.run_bare(&["key", "generate", "--out", "wrong.key"]).expect(0);
    let restore = ["restore", "demo/files", "--to", "out"];
    let ran = sandbox.run(&restore).expect(1);
    assert!(ran.stderr.contains("--identity"), "{}", ran.stderr);
    assert!(ran.stderr.contains("encrypted"), "{}", ran.stderr);
    let ran = sandbox.run(&[&restore[..], &["--identity", "wrong.key"]].concat()).expect(1);
    let key = fs::read_dir(sandbox.path("repo/keys"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .find_map(|name| name.strip_suffix(".pub").map(str::to_owned))
        .unwrap();
    assert!(ran.stderr.contains(&key), "it says which key: {}", ran.stderr);
    let ran = sandbox.run(&[&restore[..], &["--identity", "nowhere.key"]].concat()).expect(1);
    assert!(ran.stderr.contains("nowhere.key"), "{}", ran.stderr);
    assert!(!sandbox.path("out").exists());
    // Without a key the stored bytes can still be proven, and the content cannot.
    sandbox.run(&["verify", "--depth", "stored"]).expect(0);
    sandbox.run(&["verify", "--depth", "content"]).expect(1);
    // The writer identity reads names and no content.
    sandbox.run(&["ls", "demo/files"]).expect(0);
    sandbox.run(&[&restore[..], &["--identity", "writer.key"]].concat()).expect(1);
}

#[test]
fn verify_names_the_files_that_a_damaged_segment_costs() {
    for depth in ["stored", "content"] {
        let sandbox = Sandbox::ready(false);
        for name in ["first", "second"] {
            fs::write(sandbox.path("src").join(name), noise(3, 3000)).unwrap();
        }
        let id = sandbox.backup(&[]);
        let doctor = Doctor::open(&sandbox.path("repo"), &id);
        let place = doctor.entry("first")["in"].as_str().unwrap().to_owned();
        let segment = doctor.dir.join(format!("data/{place}.tar.zst"));
        let mut bytes = fs::read(&segment).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        fs::write(&segment, bytes).unwrap();
        let ran = sandbox.run(&["verify", "--depth", depth]).expect(5);
        assert!(ran.stdout.contains("DAMAGED"), "{}", ran.stdout);
        for name in ["first", "second", "000001.tar.zst"] {
            assert!(ran.stdout.contains(name), "{depth}, {name}: {}", ran.stdout);
        }
        let json = sandbox.run(&["verify", "--depth", depth, "--output", "json"]).expect(5).json();
        let costs = &json[0]["findings"][0]["costs"];
        assert_eq!(costs["count"], 2, "{json:#}");
        fs::remove_file(&segment).unwrap();
        let ran = sandbox.run(&["verify", "--depth", "list"]).expect(5);
        assert!(ran.stdout.contains("is missing"), "{}", ran.stdout);
        assert!(ran.stdout.contains("first"), "{}", ran.stdout);
    }
}

#[test]
fn a_list_with_one_damaged_manifest_still_lists_the_others() {
    let sandbox = Sandbox::ready(false);
    fs::write(sandbox.path("src/file"), "content").unwrap();
    let ids = [sandbox.backup(&[]), sandbox.backup(&[]), sandbox.backup(&[])];
    let commit = sandbox.path(format!("repo/demo/sources/files/commits/{}.json", ids[1]));
    fs::write(commit, "{\"backstay_manifest\":1,").unwrap();
    let ran = sandbox.run(&["list"]);
    for id in &ids {
        assert!(ran.stdout.contains(id.as_str()), "{id}: {}", ran.stdout);
    }
    assert!(ran.stdout.contains("DAMAGED"), "{}", ran.stdout);
    let json = sandbox.run(&["list", "--output", "json"]).json();
    assert_eq!(json.as_array().unwrap().len(), 3);
    assert!(json[1]["damaged"].is_string(), "{json:#}");
    for id in [&ids[0], &ids[2]] {
        sandbox.run(&["restore", "demo/files", "--backup", id, "--to", id]).expect(0);
    }
    sandbox.run(&["verify", "--depth", "content"]).expect(5);
    // And the next backup is none the worse for it.
    sandbox.backup(&[]);
}

#[test]
fn what_two_descriptions_of_a_backup_say_is_compared() {
    // Each with digests that fit: only comparing tells.
    let cases: &[(&str, fn(&mut Doctor))] = &[
        ("counts", |doctor| doctor.manifest["counts"]["files"] = 7.into()),
        ("bytes", |doctor| doctor.manifest["counts"]["bytes"] = 7.into()),
        ("plain", |doctor| doctor.manifest["segments"][0]["plain"] = 7.into()),
        ("content", |doctor| doctor.manifest["segments"][0]["content"] = 7.into()),
        ("live", |doctor| doctor.manifest["segments"][0]["live"] = 7.into()),
        ("mode", |doctor| {
            doctor.edit(|e| {
                if e["path"] == "new" {
                    e["mode"] = "0777".into()
                }
            })
        }),
        ("owner", |doctor| {
            doctor.edit(|e| {
                if e["path"] == "new" {
                    e["uid"] = 4711.into()
                }
            })
        }),
        ("mtime", |doctor| {
            doctor.edit(|e| {
                if e["path"] == "new" {
                    e["mtime"] = serde_json::json!([5, 0])
                }
            });
        }),
        ("target", |doctor| {
            doctor.edit(|e| {
                if e["path"] == "link" {
                    e["target"] = "x".into()
                }
            })
        }),
        ("xattrs", |doctor| {
            doctor.edit(|e| {
                if e["path"] == "new" {
                    e["xattrs"] = serde_json::json!({"user.a": "YQ=="})
                }
            });
        }),
        ("large list", |doctor| {
            let path = doctor.manifest["large"]["path"].as_str().unwrap().to_owned();
            let list = String::from_utf8(doctor.plain(&path)).unwrap().replace("large", "other");
            doctor.replace(&path, &frames(list.as_bytes()));
        }),
        ("dead list", |doctor| {
            let segments = doctor.manifest["segments"].as_array().unwrap();
            let dead = segments.iter().find_map(|s| s.get("dead")).unwrap();
            let path = dead["path"].as_str().unwrap().to_owned();
            doctor.replace(&path, &frames(b"other\n"));
        }),
    ];
    let mut unnoticed = Vec::new();
    let sandbox = small(false);
    let latest = sandbox.run(&["show", "demo/files", "--output", "json"]).expect(0).json();
    fs::rename(sandbox.path("repo"), sandbox.path("sound")).unwrap();
    for (what, change) in cases {
        let _ = fs::remove_dir_all(sandbox.path("repo"));
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .args([sandbox.path("sound"), sandbox.path("repo")])
            .status();
        assert!(copied.unwrap().success());
        let mut doctor = Doctor::open(&sandbox.path("repo"), latest["backup"].as_str().unwrap());
        change(&mut doctor);
        doctor.save();
        let ran = sandbox.run(&["verify", "demo/files", "--depth", "content"]);
        if ran.code != 5 {
            unnoticed.push(*what);
        }
    }
    assert!(unnoticed.is_empty(), "not noticed: {unnoticed:?}");
}

/// What verification says is lost is what a restore loses, also where a whole frame is broken.
#[test]
fn content_depth_names_all_that_a_broken_frame_costs() {
    let sandbox = Sandbox::ready(true);
    for name in ["a", "c", "d/b"] {
        let path = sandbox.path("src").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, crate::common::noise(name.len() as u64, 600)).unwrap();
    }
    let backup = sandbox.backup(&[]);
    let segment =
        sandbox.path("repo/demo/sources/files/data").join(&backup).join("000001.tar.zst.age");
    let mut bytes = std::fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let verified = sandbox.run_with_key(&["verify", "--depth", "content", "--output", "json"]);
    let report = verified.expect(5).json();
    let mut named: Vec<String> = Vec::new();
    for finding in report[0]["findings"].as_array().unwrap() {
        for path in finding["costs"]["paths"].as_array().into_iter().flatten() {
            named.push(path.as_str().unwrap().to_owned());
        }
    }
    named.sort();
    named.dedup();
    sandbox.run_with_key(&["restore", "demo/files", "--to", "out"]).expect(5);
    let lost = |name: &&str| !sandbox.path("out").join(name).exists();
    let lost: Vec<&str> = ["a", "c", "d/b"].into_iter().filter(lost).collect();
    assert_eq!(lost, ["a", "c", "d/b"]);
    assert_eq!(named, lost);
}
