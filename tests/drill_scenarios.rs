//! Scenarios that say by themselves which backup is brought back: after an attack, and with old keys.

use std::fs;

use serde_json::Value;

use crate::bucket;
use crate::common::Sandbox;
use crate::common::moto::Moto;
use crate::drill::{add, codes, drilled, passed, ready};
use crate::locks::Bench;

fn drills(bench: &Bench) {
    add(
        &bench.sandbox,
        "  attack:
    scenario: ransomware
    evidence: { repository: other }
    checks:
      one: { source: files, files: { present: [one] } }
",
    );
    fs::create_dir_all(bench.sandbox.path("scratch")).unwrap();
}

fn held(bench: &Bench, more: &[&str], code: i32) -> Value {
    let mut args = vec!["--output", "json", "drill", "run", "attack", "--scratch", "scratch"];
    args.extend(more);
    bench.run(&args).expect(code).json()
}

#[test]
fn after_an_attack_only_what_is_locked_is_brought_back() {
    let Some(moto) = Moto::start_locking() else { return };
    let locked = "    object_lock: { mode: governance }\n";
    let bench = Bench::new(moto, locked);
    drills(&bench);
    let first = bench.backup("daily");
    // The newest one is of a time when nobody locked.
    bench.policy("");
    fs::write(bench.sandbox.path("src/two"), "two\n").unwrap();
    bench.backup("daily");
    let refused = bench.run(&["drill", "run", "--scenario", "ransomware", "--scratch", "scratch"]);
    assert!(refused.expect(2).stderr.contains("nothing is locked in `main`"));
    bench.policy(locked);
    drills(&bench);
    // An instant of whole seconds that has everything, and from which the attack is away.
    let pause = || std::thread::sleep(std::time::Duration::from_millis(2100));
    pause();
    let before = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap();
    pause();
    // What can be deleted for good is; before the rest a marker or other bytes are put.
    let listed = bench.moto.expect("GET", "?versions&prefix=repo/", &[], "");
    let mut gone = 0;
    for version in listed.split("<Version>").skip(1) {
        let of = |name: &str| {
            let (_, rest) = version.split_once(&format!("<{name}>")).unwrap();
            rest.split('<').next().unwrap().to_owned()
        };
        let (key, id) = (of("Key"), of("VersionId"));
        let answer = bench.moto.ask("DELETE", &format!("{key}?versionId={id}"), &[], "");
        if answer.contains(" 204 ") {
            gone += 1;
        } else {
            bench.moto.expect("PUT", &key, &[], "encrypted, pay here");
            bench.moto.expect("DELETE", &key, &[], "");
        }
    }
    assert!(gone > 0, "nothing was unlocked: {listed}");
    assert!(bench.moto.ask("HEAD", "repo/backstay.json", &[], "").contains(" 404 "));
    let outcome = held(&bench, &["--repository-at", &before.to_string()], 0);
    let found = &outcome["evidence"];
    assert_eq!(found["scenario"], "ransomware");
    assert_eq!(found["sources"][0]["backup"], first.as_str(), "{found:#}");
    assert_eq!(found["sources"][0]["restored"], true);
    assert_eq!(found["checks"][0]["state"], "passed", "{found:#}");
    for name in ["failed_at", "repository_at"] {
        let at: jiff::Timestamp = found[name].as_str().unwrap().parse().unwrap();
        assert_eq!(at.as_second(), before.as_second(), "{name}");
    }
    // The evidence lies at the other site, locked from its first moment on.
    let id = found["drill"].as_str().unwrap();
    let own = bench.keys(&format!("other/demo/evidence/{id}/"));
    assert!(own.len() >= 5, "{own:?}");
    let year = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(364 * 24);
    for key in &own {
        assert!(bench.locked_until(key).unwrap() > year, "{key}");
        assert_eq!(bench.header(key, "x-amz-object-lock-mode").as_deref(), Some("compliance"));
    }
    assert!(outcome["place"].as_str().unwrap().contains("locked until"), "{outcome:#}");
    bench.run(&["drill", "verify", id, "--repository", "other"]).expect(0);
}

#[test]
fn a_backup_that_is_not_locked_counts_for_nothing() {
    let Some(moto) = Moto::start_locking() else { return };
    let bench = Bench::new(moto, "");
    let only = bench.backup("daily");
    bench.policy("    object_lock: { mode: governance }\n");
    drills(&bench);
    let found = held(&bench, &[], 1);
    let evidence = &found["evidence"];
    assert_eq!(codes(evidence), ["no_locked_backup", "check_not_run"], "{evidence:#}");
    assert!(evidence["findings"].to_string().contains(&only), "{evidence:#}");
    // Once it is locked as a whole, it is what is left: no attack has to be told.
    let locked = bench.backup("daily");
    let evidence = held(&bench, &[], 0)["evidence"].clone();
    assert!(passed(&evidence), "{evidence:#}");
    assert_eq!(evidence["sources"][0]["backup"], locked.as_str());
}

#[test]
fn the_oldest_backup_of_a_former_key_is_brought_back() {
    let sandbox = ready(true, "  keys: { scenario: old_keys }\n");
    let none = drilled(&sandbox, &["keys"], 1);
    assert_eq!(none["verdict"], "inconclusive");
    assert_eq!(codes(&none), ["no_old_key"], "{none:#}");
    fs::write(sandbox.path("src/later.txt"), "later\n").unwrap();
    let second = sandbox.backup(&[]);
    sandbox.run_with_key(&["key", "rotate", "--recipient", &sandbox.public]).expect(0);
    sandbox.backup(&["--kind", "full"]);
    let found = drilled(&sandbox, &["keys"], 0);
    assert!(passed(&found), "{found:#}");
    assert_eq!(found["scenario"], "old_keys");
    let used = found["sources"][0]["backup"].as_str().unwrap();
    assert!(used < second.as_str(), "{used}");
    assert_eq!(found["sources"][0]["restored"], true);
    let aimed = sandbox.run_with_key(&["drill", "run", "keys", "--recovery-point", "random"]);
    assert!(aimed.expect(2).stderr.contains("says by itself"));
}

#[test]
fn what_is_not_encrypted_has_no_keys() {
    let sandbox: Sandbox = ready(false, "  plain: {}\n");
    let args = ["drill", "run", "plain", "--scenario", "old-keys", "--scratch", "scratch"];
    let refused = sandbox.run_with_key(&args).expect(2);
    assert!(refused.stderr.contains("is not encrypted"), "{}", refused.stderr);
}

#[test]
fn objects_of_a_bucket_are_brought_back_into_a_directory() {
    let Some(moto) = Moto::start_versioned() else { return };
    for key in ["a/b", "photos/x y.jpg"] {
        bucket::put(&moto, key, "content");
    }
    let sandbox = bucket::sandbox(&moto.endpoint(), "kept", "");
    add(
        &sandbox,
        "  lake:
    sources: [lake]
    checks:
      photo: { source: lake, files: { present: ['objects/photos/x y.jpg'], at_least: 2 } }
",
    );
    fs::create_dir_all(sandbox.path("scratch")).unwrap();
    bucket::backup(&sandbox, "full");
    let args = ["--output", "json", "drill", "run", "lake", "--scratch", "scratch"];
    let found = bucket::run(&sandbox, &args).expect(0).json()["evidence"].clone();
    assert!(passed(&found), "{found:#}");
    assert_eq!(found["sources"][0]["rpo"]["basis"], "snapshot");
    assert!(fs::read_dir(sandbox.path("scratch")).unwrap().next().is_none());
}
