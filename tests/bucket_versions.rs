//! Buckets: what lies behind objects, what changes while it is read, and stores that are too busy.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use crate::bucket::{backup, body, put, run, sandbox};
use crate::common::chaos::{Fault, Lasts};
use crate::common::moto::Moto;
use crate::common::s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};
use crate::common::{Ran, Sandbox};

/// Versions and marks below a prefix as the store lists them: key, whether it is a mark, content.
fn history(moto: &Moto, prefix: &str) -> Vec<(String, Option<String>)> {
    let listed = moto.expect("GET", &format!("?versions&prefix={prefix}"), &[], "");
    let field = |text: &str, name: &str| {
        let rest = text.split(&format!("<{name}>")).nth(1).unwrap();
        rest.split(&format!("</{name}>")).next().unwrap().to_owned()
    };
    let mut found = Vec::new();
    let mut rest = body(&listed);
    loop {
        let version = rest.find("<Version>");
        let mark = rest.find("<DeleteMarker>");
        let Some(at) = version.into_iter().chain(mark).min() else { return found };
        let one = &rest[at..];
        let key = field(one, "Key");
        let id = field(one, "VersionId");
        let content = (Some(at) == version).then(|| {
            let answer = moto.expect("GET", &format!("{key}?versionId={id}"), &[], "");
            body(&answer).to_owned()
        });
        found.push((key[prefix.len()..].to_owned(), content));
        rest = &one[10..];
    }
}

/// Contents of one key, and the marks, in the order of the store.
fn of_key(history: &[(String, Option<String>)], key: &str) -> Vec<Option<String>> {
    history.iter().filter(|(own, _)| own == key).map(|(_, content)| content.clone()).collect()
}

#[test]
fn versions_and_marks_come_back_in_their_order() {
    let Some(moto) = Moto::start_versioned() else { return };
    for content in ["one", "two", "three"] {
        put(&moto, "a", content);
        put(&moto, "a/b", &format!("below {content}"));
    }
    put(&moto, "gone", "was here");
    moto.expect("DELETE", "data/gone", &[], "");
    put(&moto, "plain", "only one");
    let sandbox = sandbox(&moto.endpoint(), BUCKET_OF_MOTO, "versions: true");
    let said = run(&sandbox, &["check", "--output", "json"]).expect(0).stdout;
    assert!(said.contains("versioning is on"), "{said}");
    let done = backup(&sandbox, "full");
    // 3 that are there, 2 + 2 + 1 behind them, a mark, and the settings.
    assert!(done.to_string().contains("\"files\":10"), "{done}");
    let gets = || moto.seen("GET /kept/data/");
    let before = gets();
    backup(&sandbox, "incremental");
    assert_eq!(gets(), before, "nothing changed, and something was read");
    // As objects: what one gets who asks for the key, and nothing that was deleted.
    let target = |prefix: &str| {
        format!("s3://{BUCKET_OF_MOTO}/{prefix}?endpoint={}&region=us-east-1", moto.endpoint())
    };
    run(&sandbox, &["restore", "demo/lake", "--to", &target("now")]).expect(0);
    assert_eq!(history(&moto, "now/").len(), 3);
    // With everything behind them.
    let ran = run(&sandbox, &["restore", "demo/lake", "--to", &target("all"), "--versions"]);
    let ran = ran.expect(0);
    assert!(ran.stderr.contains("3 objects and 6 versions behind them"), "{}", ran.stderr);
    let (own, copy) = (history(&moto, "data/"), history(&moto, "all/"));
    assert!(!of_key(&own, "a").is_empty());
    for key in ["a", "a/b", "plain"] {
        assert_eq!(of_key(&own, key), of_key(&copy, key), "{key}");
    }
    let mut gone = of_key(&copy, "gone");
    gone.sort();
    assert_eq!(gone, [None, Some("was here".to_owned())]);
    assert!(moto.ask("GET", "all/gone", &[], "").contains("404"));
    // As files; and one key of all.
    run(&sandbox, &["restore", "demo/lake", "--to", "out"]).expect(0);
    assert_eq!(std::fs::read_dir(sandbox.path("out/versions/a%/b%")).unwrap().count(), 2);
    let one = ["restore", "demo/lake", "--to", &target("one"), "--versions", "--path", "gone"];
    run(&sandbox, &one).expect(0);
    assert_eq!(history(&moto, "one/").len(), 2);
    // What is there stays, with all that lies behind it.
    let ran = run(&sandbox, &["restore", "demo/lake", "--to", &target("all"), "--versions"]);
    assert!(ran.code == 1 && ran.stderr.contains("3 objects exist"), "{}", ran.stderr);
    assert_eq!(of_key(&history(&moto, "all/"), "a").len(), 3);
    run(&sandbox, &["verify", "demo/lake", "--depth", "content"]).expect(0);
}

#[test]
fn versions_go_only_where_versions_are_kept() {
    let Some(moto) = Moto::start() else { return };
    put(&moto, "a", "one");
    let sandbox = sandbox(&moto.endpoint(), BUCKET_OF_MOTO, "versions: true");
    let said = run(&sandbox, &["check", "--output", "json"]).expect(0).stdout;
    assert!(said.contains("the bucket keeps none"), "{said}");
    backup(&sandbox, "full");
    let target = format!("s3://{BUCKET_OF_MOTO}/x?endpoint={}&region=us-east-1", moto.endpoint());
    let ran = run(&sandbox, &["restore", "demo/lake", "--to", &target, "--versions"]).expect(1);
    assert!(ran.stderr.contains("keeps no versions"), "{}", ran.stderr);
    let ran = run(&sandbox, &["restore", "demo/lake", "--to", "out", "--versions"]).expect(2);
    assert!(ran.stderr.contains("--versions goes with"), "{}", ran.stderr);
}

/// The bucket that moto has.
const BUCKET_OF_MOTO: &str = "kept";

/// Backs up, and does something when the program has come to a step.
fn backup_and_meanwhile(sandbox: &Sandbox, step: &str, meanwhile: impl FnOnce()) -> Ran {
    let mut command = sandbox.command(&["backup", "demo/lake", "--kind", "full"]);
    command.env("T_ACCESS", ACCESS_KEY).env("T_SECRET", SECRET_KEY);
    command.env("BACKSTAY_FAILPOINT", format!("{step}:stop"));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stat = format!("/proc/{}/stat", child.id());
    while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {
        assert!(child.try_wait().unwrap().is_none(), "it never came to {step}");
        std::thread::yield_now();
    }
    meanwhile();
    kill_process(Pid::from_child(&child), Signal::CONT).unwrap();
    Ran::from(&child.wait_with_output().unwrap())
}

#[test]
fn what_changes_between_listing_and_reading_is_named() {
    let Some(moto) = Moto::start() else { return };
    for number in 0..30 {
        put(&moto, &format!("{number:02}"), "as it was listed");
    }
    let sandbox = sandbox(&moto.endpoint(), BUCKET_OF_MOTO, "");
    let ran = backup_and_meanwhile(&sandbox, "bucket.listed", || {
        put(&moto, "07", "and longer by the time it is read");
        moto.expect("DELETE", "data/08", &[], "");
    });
    let ran = ran.expect(0);
    assert!(ran.stderr.contains("replaced between listing and reading: `07`"), "{}", ran.stderr);
    run(&sandbox, &["restore", "demo/lake", "--to", "out"]).expect(0);
    let read = |name: &str| std::fs::read_to_string(sandbox.path("out/objects").join(name));
    assert_eq!(read("07").unwrap(), "and longer by the time it is read");
    assert!(read("08").is_err());
    let show = run(&sandbox, &["show", "demo/lake", "--output", "json"]).expect(0).json();
    assert_eq!(show["counts"]["vanished"], 1, "{show}");
    // Another one comes with the next.
    backup(&sandbox, "incremental");
    run(&sandbox, &["verify", "demo/lake", "--depth", "content"]).expect(0);
}

#[test]
fn a_large_object_that_is_replaced_while_it_is_read_is_never_half_of_each() {
    let Some(moto) = Moto::start() else { return };
    let large = "0123456789abcdef".repeat(3 << 20);
    moto.expect("PUT", "data/large", &[], &large);
    let sandbox = sandbox(&moto.endpoint(), BUCKET_OF_MOTO, "");
    let ran = backup_and_meanwhile(&sandbox, "bucket.piece", || {
        moto.expect("PUT", "data/large", &[], &large.replace('0', "x"));
    });
    let ran = ran.expect(1);
    assert!(ran.stderr.contains("it was replaced while it was read"), "{}", ran.stderr);
    let list = run(&sandbox, &["list", "demo/lake", "--output", "json"]).expect(0).json();
    assert_eq!(list.as_array().unwrap().len(), 0);
    // In ranges of 8 MiB, of which none is asked for twice.
    let before = moto.seen("GET /kept/data/large");
    backup(&sandbox, "full");
    assert_eq!(moto.seen("GET /kept/data/large") - before, 6);
}

#[test]
fn a_bucket_that_is_too_busy_is_asked_again_and_named_in_the_end() {
    let server = S3Server::start();
    let directory = server.root.path().join(BUCKET).join("data");
    std::fs::create_dir_all(&directory).unwrap();
    for number in 0..20 {
        std::fs::write(directory.join(format!("{number:02}")), format!("{number}")).unwrap();
    }
    let sandbox = sandbox(&server.endpoint(), BUCKET, "");
    server.chaos.begin("data", Fault::SlowDown, Lasts::Passing, 7);
    let done = backup(&sandbox, "full");
    assert!(done.to_string().contains("\"files\":21"), "{done}");
    assert!(!server.chaos.end("data").is_empty(), "nothing was ever refused");
    // For good: in the middle of it.
    let path = sandbox.path("policy.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("allow_http: true", "allow_http: true, retry_for: 1s"))
        .unwrap();
    server.chaos.begin("data", Fault::SlowDown, Lasts::From(10), 7);
    let ran = run(&sandbox, &["backup", "demo/lake", "--kind", "full"]).expect(1);
    assert!(ran.stderr.contains("SlowDown"), "{}", ran.stderr);
    assert!(ran.stderr.contains("hint"), "{}", ran.stderr);
    server.chaos.end("data");
    let list = run(&sandbox, &["list", "demo/lake", "--output", "json"]).expect(0).json();
    assert_eq!(list.as_array().unwrap().len(), 1, "nothing half is listed");
    backup(&sandbox, "full");
}

#[test]
fn what_a_bucket_is_set_to_do_is_kept() {
    let Some(moto) = Moto::start_locking() else { return };
    let lock = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>GOVERNANCE</Mode><Days>3</Days></DefaultRetention></Rule></ObjectLockConfiguration>";
    moto.expect("PUT", "?object-lock", &[], lock);
    let rule = "<LifecycleConfiguration><Rule><ID>old</ID><Filter><Prefix>tmp/</Prefix></Filter><Status>Enabled</Status><Expiration><Days>9</Days></Expiration></Rule></LifecycleConfiguration>";
    moto.expect("PUT", "?lifecycle", &[], rule);
    let sandbox = sandbox(&moto.endpoint(), BUCKET_OF_MOTO, "");
    backup(&sandbox, "full");
    run(&sandbox, &["restore", "demo/lake", "--to", "out", "--path", "bucket.json"]).expect(0);
    let text = std::fs::read_to_string(sandbox.path("out/bucket.json")).unwrap();
    let settings: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(settings["versioning"], "on", "{text}");
    assert_eq!(settings["object_lock"]["days"], 3, "{text}");
    assert_eq!(settings["object_lock"]["mode"], "GOVERNANCE", "{text}");
    assert_eq!(settings["lifecycle"][0]["expire_days"], 9, "{text}");
}

#[test]
fn check_looks_at_both_sides_of_a_replication() {
    let Some(moto) = Moto::start_locking() else { return };
    put(&moto, "x", "x");
    let rule = |to: &str| {
        format!(
            "<ReplicationConfiguration><Role>arn:aws:iam::123456789012:role/r</Role><Rule><ID>r</ID><Status>Enabled</Status><Priority>1</Priority><Filter><Prefix></Prefix></Filter><DeleteMarkerReplication><Status>Enabled</Status></DeleteMarkerReplication><Destination><Bucket>arn:aws:s3:::{to}</Bucket></Destination></Rule></ReplicationConfiguration>"
        )
    };
    let sandbox = sandbox(&moto.endpoint(), BUCKET_OF_MOTO, "");
    moto.expect("PUT", "?replication", &[], &rule(BUCKET_OF_MOTO));
    let said = run(&sandbox, &["check", "--output", "json"]).expect(0).stdout;
    for part in [
        "it is replicated, which is no backup",
        "arn:aws:s3:::kept, keeps versions and",
        "1 of 1 objects that were looked at were never replicated",
    ] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
}
