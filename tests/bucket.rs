//! Buckets as sources, with an S3 server in process and with moto.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use crate::common::many::Many;
use crate::common::moto::Moto;
use crate::common::s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};
use crate::common::{Ran, Sandbox};

/// Keys that a file system, a shell or an address would take for something else.
const ODD: [&str; 13] = [
    "a",
    "a-1",
    "a/b",
    "a/b/c",
    "a/",
    "a//b",
    "/first",
    "photos/2024/x y.jpg",
    "日本語/ü",
    "50%/%41",
    "end ",
    "k+p&q=r?s#t",
    "back\\slash*",
];

/// A sandbox with the source `demo/lake`: the prefix `data` of a bucket.
pub fn sandbox(endpoint: &str, bucket: &str, more: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    let comma = if more.is_empty() { "" } else { ", " };
    let source = format!(
        "  lake: {{ bucket: {{ s3: {{ bucket: {bucket}, prefix: data, endpoint: '{endpoint}', region: us-east-1, allow_http: true, access_key_id: \"${{env:T_ACCESS}}\", secret_access_key: \"${{env:T_SECRET}}\" }}{comma}{more} }} }}\n"
    );
    sandbox.write_policy(true, &source);
    run(&sandbox, &["init"]).expect(0);
    sandbox
}

pub fn run(sandbox: &Sandbox, args: &[&str]) -> Ran {
    let mut all = args.to_vec();
    all.extend(["--identity", "recovery.key"]);
    let mut command = sandbox.command(&all);
    command.env("T_ACCESS", ACCESS_KEY).env("T_SECRET", SECRET_KEY);
    command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
    Ran::from(&command.output().unwrap())
}

pub fn backup(sandbox: &Sandbox, kind: &str) -> serde_json::Value {
    run(sandbox, &["backup", "demo/lake", "--kind", kind, "--output", "json"]).expect(0).json()
}

/// A key as part of an address.
pub fn escaped(key: &str) -> String {
    key.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'/' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

pub fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

/// A header of an answer.
pub fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    answer.lines().take_while(|line| !line.is_empty()).find_map(|line| {
        let (found, value) = line.split_once(": ")?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

pub fn put(moto: &Moto, key: &str, body: &str) {
    let headers = [
        ("Content-Type", "text/x-odd"),
        ("x-amz-meta-owner", "Ann"),
        ("x-amz-tagging", "team=blue&x=y%20z"),
    ];
    moto.expect("PUT", &format!("data/{}", escaped(key)), &headers, body);
}

#[test]
fn any_key_comes_back_with_all_that_is_kept_beside_it() {
    let Some(moto) = Moto::start_versioned() else { return };
    for key in ODD {
        put(&moto, key, &format!("content of {key}"));
    }
    let large: String = (0..3_000_000).map(|n| format!("{n:07}")).collect();
    moto.expect("PUT", "data/large", &[], &large);
    moto.expect("PUT", "data/empty", &[], "");
    moto.expect("PUT", "elsewhere/x", &[], "not of this source");
    let policy = "{\"Version\":\"2012-10-17\",\"Statement\":[]}";
    moto.expect("PUT", "?policy", &[], policy);
    let sandbox = sandbox(&moto.endpoint(), "kept", "");
    let done = backup(&sandbox, "full");
    assert!(done.to_string().contains("\"files\":16"), "{done}");
    let ls = run(&sandbox, &["ls", "demo/lake"]).expect(0).stdout;
    for path in ["objects/a", "objects/a%/b", "objects/a%/b%/c", "objects/photos/2024/x y.jpg"] {
        assert!(ls.lines().any(|line| line == path), "{path}: {ls}");
    }
    // To another prefix, as objects.
    let target = format!("s3://kept/copy?endpoint={}&region=us-east-1", moto.endpoint());
    let ran = run(&sandbox, &["restore", "demo/lake", "--to", &target]).expect(0);
    assert!(ran.stderr.contains("15 objects"), "{}", ran.stderr);
    for key in ODD {
        let answer = moto.expect("GET", &format!("copy/{}", escaped(key)), &[], "");
        assert_eq!(body(&answer), format!("content of {key}"), "{key:?}");
        assert_eq!(header(&answer, "content-type"), Some("text/x-odd"), "{key:?}");
        assert_eq!(header(&answer, "x-amz-meta-owner"), Some("Ann"), "{key:?}");
        let tags = moto.expect("GET", &format!("copy/{}?tagging", escaped(key)), &[], "");
        assert!(tags.contains("<Value>y z</Value>") && tags.contains("<Key>team</Key>"), "{tags}");
    }
    assert_eq!(body(&moto.expect("GET", "copy/large", &[], "")), large);
    assert_eq!(body(&moto.expect("GET", "copy/empty", &[], "")), "");
    assert!(moto.ask("GET", "copy/bucket.json", &[], "").contains("404"));
    // As files, and by hand.
    run(&sandbox, &["restore", "demo/lake", "--to", "out"]).expect(0);
    let read = |path: &str| fs::read_to_string(sandbox.path("out").join(path)).unwrap();
    assert_eq!(read("objects/a%/b"), "content of a/b");
    assert_eq!(read("objects/a/%".replace("a/", "a%/").as_str()), "content of a/");
    assert_eq!(read("objects/large"), large);
    let settings: serde_json::Value = serde_json::from_str(&read("bucket.json")).unwrap();
    assert_eq!(
        (&settings["versioning"], &settings["policy"]["Version"]),
        (&"on".into(), &"2012-10-17".into())
    );
    // By its key, one of them.
    let target = format!("s3://kept/one?endpoint={}&region=us-east-1", moto.endpoint());
    run(&sandbox, &["restore", "demo/lake", "--to", &target, "--path", "photos/**"]).expect(0);
    assert_eq!(moto.left().iter().filter(|key| key.starts_with("one/")).count(), 1);
    let ran = run(&sandbox, &["restore", "demo/lake", "--to", &target, "--path", "nothing/**"]);
    assert!(ran.code != 0 && ran.stderr.contains("nothing/**"), "{}", ran.stderr);
    run(&sandbox, &["verify", "demo/lake", "--depth", "content"]).expect(0);
}

#[test]
fn an_incremental_reads_what_the_listing_shows_as_changed() {
    let Some(moto) = Moto::start() else { return };
    for number in 0..50 {
        put(&moto, &format!("dir/{number:03}"), &format!("first {number}"));
    }
    let sandbox = sandbox(&moto.endpoint(), "kept", "exclude: ['**/*.tmp']");
    backup(&sandbox, "full");
    let gets = || moto.seen("GET /kept/data/");
    let before = gets();
    backup(&sandbox, "incremental");
    assert_eq!(gets(), before, "nothing changed, and something was read");
    put(&moto, "dir/007", "second 7");
    put(&moto, "dir/new", "new");
    put(&moto, "dir/x.tmp", "left out");
    moto.expect("DELETE", "data/dir/013", &[], "");
    let done = backup(&sandbox, "incremental");
    assert!(done.to_string().contains("\"kind\":\"incremental\""), "{done}");
    // Content and tags of two.
    assert!(gets() - before <= 4, "{}", gets() - before);
    run(&sandbox, &["restore", "demo/lake", "--to", "out"]).expect(0);
    let found: BTreeMap<String, String> = fs::read_dir(sandbox.path("out/objects/dir"))
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read_to_string(entry.path()).unwrap())
        })
        .collect();
    let mut expected: BTreeMap<String, String> =
        (0..50).map(|number| (format!("{number:03}"), format!("first {number}"))).collect();
    expected.remove("013");
    expected.insert("007".into(), "second 7".into());
    expected.insert("new".into(), "new".into());
    assert_eq!(found, expected);
    run(&sandbox, &["verify", "demo/lake", "--depth", "content"]).expect(0);
}

#[test]
fn what_lies_in_a_bucket_is_replaced_only_on_request() {
    let Some(moto) = Moto::start() else { return };
    put(&moto, "kept", "as it was");
    put(&moto, "lost", "as it was");
    let sandbox = sandbox(&moto.endpoint(), "kept", "");
    backup(&sandbox, "full");
    put(&moto, "kept", "changed since");
    moto.expect("DELETE", "data/lost", &[], "");
    let get = |key: &str| {
        let answer = moto.ask("GET", &format!("data/{key}"), &[], "");
        body(&answer).to_owned()
    };
    let ran = run(&sandbox, &["restore", "demo/lake", "--to", "bucket", "--dry-run"]).expect(0);
    assert!(ran.stderr.contains("would restore"), "{}", ran.stderr);
    assert!(get("lost").contains("NoSuchKey"));
    let ran = run(&sandbox, &["restore", "demo/lake", "--to", "bucket"]);
    if ran.stderr.contains("1 object exist") {
        assert_eq!((ran.code, get("kept").as_str()), (1, "changed since"), "{}", ran.stderr);
        assert_eq!(get("lost"), "as it was");
    }
    let ran = run(&sandbox, &["restore", "demo/lake", "--to", "bucket", "--overwrite"]).expect(6);
    assert!(ran.stderr.contains("--yes"), "{}", ran.stderr);
    run(&sandbox, &["restore", "demo/lake", "--to", "bucket", "--overwrite", "--yes"]).expect(0);
    assert_eq!((get("kept").as_str(), get("lost").as_str()), ("as it was", "as it was"));
}

#[test]
fn replication_is_said_to_be_no_backup() {
    let Some(moto) = Moto::start_versioned() else { return };
    put(&moto, "x", "x");
    let rule = "<ReplicationConfiguration><Role>arn:aws:iam::123456789012:role/r</Role><Rule><ID>r</ID><Status>Enabled</Status><Priority>1</Priority><Filter><Prefix></Prefix></Filter><DeleteMarkerReplication><Status>Enabled</Status></DeleteMarkerReplication><Destination><Bucket>arn:aws:s3:::kept</Bucket></Destination></Rule></ReplicationConfiguration>";
    let sandbox = sandbox(&moto.endpoint(), "kept", "");
    let said = run(&sandbox, &["check", "--output", "json"]).expect(0).stdout;
    assert!(said.contains("versioning is on") && !said.contains("which is no backup"), "{said}");
    if moto.ask("PUT", "?replication", &[], rule).starts_with("HTTP/1.1 2") {
        let said = run(&sandbox, &["check", "--output", "json"]).expect(0).stdout;
        assert!(said.contains("it is replicated, which is no backup"), "{said}");
        // moto passes no deletions on, whatever the rule says.
        assert!(!said.contains("deleted there"), "{said}");
    }
}

#[test]
fn a_bucket_that_is_not_there_or_refuses_is_said_so() {
    let server = S3Server::start();
    let place = sandbox(&server.endpoint(), "nowhere", "");
    let ran = run(&place, &["backup", "demo/lake"]).expect(1);
    assert!(
        ran.stderr.contains("NoSuchBucket") || ran.stderr.contains("failed to list"),
        "{}",
        ran.stderr
    );
    let place = sandbox(&server.endpoint(), BUCKET, "");
    let mut command = place.command(&["backup", "demo/lake"]);
    command.env("T_ACCESS", ACCESS_KEY).env("T_SECRET", "not the secret");
    let ran = Ran::from(&command.output().unwrap()).expect(1);
    assert!(ran.stderr.contains("check access key and secret key"), "{}", ran.stderr);
    let list = run(&place, &["list", "demo/lake", "--output", "json"]).expect(0).json();
    assert_eq!(list.as_array().unwrap().len(), 0);
}

/// The most memory that a command held, in KiB.
pub fn peak(sandbox: &Sandbox, args: &[&str]) -> u64 {
    let mut command = sandbox.command(args);
    command.env("T_ACCESS", ACCESS_KEY).env("T_SECRET", SECRET_KEY);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let now = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        peak = peak.max(now.unwrap_or(0));
        std::thread::sleep(Duration::from_millis(10));
    }
    let ran = Ran::from(&child.wait_with_output().unwrap());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    peak
}

/// What a command holds at most does not depend on how many objects there are: what must be sorted or
/// looked up lies in files.
#[test]
fn memory_does_not_grow_with_the_number_of_objects() {
    // `BACKSTAY_SOAK` has as many as the promise says.
    let soak = std::env::var_os("BACKSTAY_SOAK").is_some();
    let (few, many) = if soak { (50_000, 200_000) } else { (2_000, 6_000) };
    let used = |count: u64| {
        let server = Many::start(count);
        let sandbox = sandbox(&server.endpoint(), BUCKET, "");
        let full = peak(&sandbox, &["backup", "demo/lake", "--kind", "full"]);
        let next = peak(&sandbox, &["backup", "demo/lake", "--kind", "incremental"]);
        let show = run(&sandbox, &["show", "demo/lake", "--output", "json"]).expect(0).json();
        assert_eq!(show["counts"]["files"], count + 1);
        assert_eq!(show["kind"], "incremental");
        assert!(show["segments"].as_array().unwrap().len() < 10, "small objects are packed");
        eprintln!("{count} objects: {full} KiB, and {next} KiB where nothing changed");
        full.max(next)
    };
    let (small, large) = (used(few), used(many));
    assert!(large < 128 << 10, "{large} KiB");
    if soak {
        assert!(large < small + small / 4, "{small} KiB for {few}, {large} KiB for {many}");
    }
}
