//! Removing objects for good: from directories, and from buckets that keep versions.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use backstay::error::{ErrorKind, Result};
use backstay::store::{Erased, Location, S3Location, Store, Versioning};

use crate::common::faulty::Faulty;
use crate::common::moto::{BUCKET, Moto};
use crate::common::s3::{self, S3Server};

fn keys(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// The results alone, and that they are in the order of the keys.
#[track_caller]
fn erase(store: &Store, keys: &[String]) -> Vec<Result<Erased>> {
    let results = store.erase(keys);
    let named: Vec<&String> = results.iter().map(|(key, _)| key).collect();
    assert_eq!(named, keys.iter().collect::<Vec<_>>());
    results.into_iter().map(|(_, result)| result).collect()
}

#[track_caller]
fn erased(store: &Store, keys: &[String]) -> Vec<Erased> {
    erase(store, keys).into_iter().map(Result::unwrap).collect()
}

/// The text of the first version id in a listing of a key's versions.
fn version_of(moto: &Moto, key: &str) -> String {
    let listed = moto.expect("GET", &format!("?versions&prefix={key}"), &[], "");
    let (_, rest) = listed.split_once("<VersionId>").unwrap();
    rest.split("</VersionId>").next().unwrap().to_owned()
}

fn lock(moto: &Moto, key: &str, version: &str, until: &str) {
    let body = format!(
        "<Retention><Mode>GOVERNANCE</Mode><RetainUntilDate>{until}</RetainUntilDate></Retention>"
    );
    moto.expect("PUT", &format!("{key}?retention&versionId={version}"), &[], &body);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn every_version_and_marker_of_exactly_these_keys_goes() {
    let Some(moto) = Moto::start_versioned() else { return };
    let store = moto.store("deep/prefix");
    assert_eq!(store.versioning().unwrap(), Versioning::On);
    // A version, a marker, two versions, a marker.
    store.put_unique("a/index.zst", "one").unwrap();
    store.delete("a/index.zst").unwrap();
    store.put_unique("a/index.zst", "two").unwrap();
    store.put_unique("a/index.zst", "three").unwrap();
    store.delete("a/index.zst").unwrap();
    store.put_unique("a/plain", "plain").unwrap();
    // Only a marker is left of this one.
    store.put_unique("a/marker", "gone").unwrap();
    let id = version_of(&moto, "deep/prefix/a/marker");
    store.delete("a/marker").unwrap();
    moto.expect("DELETE", &format!("deep/prefix/a/marker?versionId={id}"), &[], "");
    // Neighbours whose keys begin the same way, and one outside of the prefix.
    store.put_unique("a/index.zst.age", "neighbour").unwrap();
    store.put_unique("a/index.zst/below", "neighbour").unwrap();
    moto.store("").put_unique("a/index.zst", "neighbour").unwrap();

    let versions = store.versions("a").unwrap();
    let of = |key: &str| -> Vec<(bool, bool, u64)> {
        let of_key = versions.iter().filter(|version| version.key == key);
        of_key.map(|v| (v.is_latest, v.is_delete_marker, v.size)).collect()
    };
    assert_eq!(of("a/plain"), [(true, false, 5)]);
    assert_eq!(of("a/marker"), [(true, true, 0)]);
    let five = of("a/index.zst");
    assert_eq!(five.len(), 5, "{versions:?}");
    assert_eq!(five[0], (true, true, 0));
    assert_eq!(five.iter().filter(|v| v.1).count(), 2);
    assert!(versions.iter().all(|v| v.version.is_some() && v.stored_at.as_second() > 0));

    let wanted = keys(&["a/never", "a/index.zst", "a/plain", "a/marker", "b/never"]);
    let expected = [Erased::Absent, Erased::Gone, Erased::Gone, Erased::Gone, Erased::Absent];
    assert_eq!(erased(&store, &wanted), expected);
    let left = moto.left();
    let neighbours =
        ["a/index.zst", "deep/prefix/a/index.zst.age", "deep/prefix/a/index.zst/below"];
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(neighbours.iter().all(|key| left.contains(&(*key).to_owned())), "{left:?}");
    // Once more: there is nothing.
    assert_eq!(erased(&store, &wanted), [Erased::Absent; 5]);
}

#[test]
fn what_is_locked_stays_and_the_rest_goes() {
    let Some(moto) = Moto::start_locking() else { return };
    let store = moto.store("repo");
    for name in ["locked", "held", "both", "hidden", "ended", "free"] {
        store.put_unique(&format!("a/{name}"), "bytes").unwrap();
    }
    let full = |name: &str| format!("repo/a/{name}");
    lock(&moto, &full("locked"), &version_of(&moto, &full("locked")), "2099-01-02T03:04:05Z");
    lock(&moto, &full("hidden"), &version_of(&moto, &full("hidden")), "2099-01-02T03:04:05Z");
    lock(&moto, &full("ended"), &version_of(&moto, &full("ended")), "2020-01-02T03:04:05Z");
    let held = version_of(&moto, &full("held"));
    let hold = "<LegalHold><Status>ON</Status></LegalHold>";
    moto.expect("PUT", &format!("repo/a/held?legal-hold&versionId={held}"), &[], hold);
    // One version is locked, the one after it is not.
    lock(&moto, &full("both"), &version_of(&moto, &full("both")), "2098-01-01T00:00:00Z");
    store.put_unique("a/both", "newer").unwrap();
    // A marker hides a locked version: were it removed, the object would be back.
    store.delete("a/hidden").unwrap();

    let until = Some("2099-01-02T03:04:05Z".parse().unwrap());
    let wanted = keys(&["a/locked", "a/held", "a/both", "a/hidden", "a/ended", "a/free"]);
    let expected = [
        Erased::Retained { until },
        Erased::Retained { until: None },
        Erased::Retained { until: Some("2098-01-01T00:00:00Z".parse().unwrap()) },
        Erased::Retained { until },
        Erased::Gone,
        Erased::Gone,
    ];
    assert_eq!(erased(&store, &wanted), expected);
    let left = store.versions("a").unwrap();
    let names: Vec<(&str, bool)> =
        left.iter().map(|v| (v.key.as_str(), v.is_delete_marker)).collect();
    let expected = [
        ("a/both", false),
        ("a/held", false),
        ("a/hidden", true),
        ("a/hidden", false),
        ("a/locked", false),
    ];
    assert_eq!(names, expected);
    assert_eq!(store.list("a").unwrap().len(), 3, "what was hidden is back");
}

#[test]
fn a_refusal_that_no_lock_explains_is_an_error() {
    let Some(moto) = Moto::start_versioned() else { return };
    let store = moto.store("repo");
    store.put_unique("a/mine", "bytes").unwrap();
    store.put_unique("a/theirs", "bytes").unwrap();
    let policy = format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Deny","Principal":"*",
            "Action":"s3:DeleteObject","Resource":"arn:aws:s3:::{BUCKET}/repo/a/theirs"}}]}}"#
    );
    moto.expect("PUT", "?policy", &[], &policy);
    let mut results = erase(&store, &keys(&["a/mine", "a/theirs"]));
    let error = results.pop().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("a/theirs"), "{error}");
    assert!(error.hints().iter().any(|hint| hint.contains("s3:DeleteObjectVersion")));
    assert_eq!(results.pop().unwrap().unwrap(), Erased::Gone);
    assert_eq!(moto.left(), ["repo/a/theirs"]);
}

#[test]
fn a_bucket_that_stopped_to_keep_versions_is_emptied_too() {
    let Some(moto) = Moto::start_versioned() else { return };
    let store = moto.store("");
    store.put_unique("a/one", "older").unwrap();
    moto.versioning("Suspended");
    assert_eq!(moto.store("").versioning().unwrap(), Versioning::Suspended);
    assert_eq!(erased(&moto.store(""), &keys(&["a/one", "a/two"])), [Erased::Gone, Erased::Absent]);
    assert_eq!(moto.left(), [""; 0]);
}

#[test]
fn a_bucket_without_versions_is_emptied_in_bulk() {
    let Some(moto) = Moto::start() else { return };
    let store = moto.store("repo");
    assert_eq!(store.versioning().unwrap(), Versioning::Off);
    let wanted: Vec<String> = (0..12).map(|n| format!("a/{n:06}.tar.zst")).collect();
    for key in &wanted {
        store.put_unique(key, "bytes").unwrap();
    }
    let versions = store.versions("a").unwrap();
    assert_eq!(versions.len(), 12);
    assert!(versions.iter().all(|v| v.is_latest && v.version.is_none() && v.size == 5));
    assert_eq!(erased(&store, &wanted), [Erased::Gone; 12]);
    assert_eq!(store.list("").unwrap(), []);
    assert_eq!(moto.seen("POST /kept/?delete"), 1, "not one request for all");
    assert_eq!(moto.seen("?versioning"), 1, "asked more than once");
}

#[test]
fn thousands_of_keys_go_in_pages() {
    let Some(moto) = Moto::start_versioned() else { return };
    let store = moto.store("repo");
    let wanted: Vec<String> = (0..2100).map(|n| format!("wal/{:02x}/{n:024X}", n % 2)).collect();
    let writers: Vec<_> = wanted
        .chunks(300)
        .map(|part| {
            let (store, part) = (store.clone(), part.to_vec());
            std::thread::spawn(move || {
                for key in &part {
                    store.put_unique(key, "bytes").unwrap();
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    // Markers, so that versions and markers do not fit one page each.
    for key in wanted.iter().step_by(7) {
        store.delete(key).unwrap();
    }
    store.put_unique("wal/00/stays", "bytes").unwrap();
    assert_eq!(store.versions("wal").unwrap().len(), 2100 + 300 + 1);
    assert!(erased(&store, &wanted).iter().all(|result| *result == Erased::Gone));
    assert_eq!(moto.left(), ["repo/wal/00/stays"]);
    // 2100 versions in three requests and 300 markers in one.
    assert_eq!(moto.seen("POST /kept/?delete"), 4);
}

#[test]
fn a_server_that_knows_no_versions_is_taken_for_one_without() {
    let server = S3Server::start();
    let runtime = runtime();
    let store = Location::S3(S3Location {
        bucket: s3::BUCKET.to_owned(),
        prefix: "repo".to_owned(),
        endpoint: Some(server.endpoint()),
        access_key_id: Some(s3::ACCESS_KEY.to_owned().into()),
        secret_access_key: Some(s3::SECRET_KEY.to_owned().into()),
        allow_http: true,
        ..S3Location::default()
    })
    .connect(runtime.handle(), true)
    .unwrap();
    assert!(matches!(store.versioning().unwrap(), Versioning::Unknown(_)));
    store.put_unique("a/one", "bytes").unwrap();
    store.put_unique("a/two", "bytes").unwrap();
    let results = erased(&store, &keys(&["a/one"]));
    assert_eq!(results, [Erased::Gone]);
    assert_eq!(server.keys(), ["repo/a/two"]);
    assert!(store.versioning_doubt().unwrap().contains("does not say whether it keeps versions"));
    assert_eq!(store.versioning_doubt(), None, "it is said once");
    let asked = server.seen().iter().filter(|r| r.query.contains("versioning")).count();
    assert_eq!(asked, 1);
}

#[test]
fn the_bucket_is_reached_the_same_way_for_versions() {
    // TLS with a private authority, and a session token.
    let server = S3Server::start_tls();
    let runtime = runtime();
    let location = S3Location {
        bucket: s3::BUCKET.to_owned(),
        endpoint: Some(server.endpoint()),
        region: Some("eu-central-1".to_owned()),
        access_key_id: Some(s3::ACCESS_KEY.to_owned().into()),
        secret_access_key: Some(s3::SECRET_KEY.to_owned().into()),
        session_token: Some(s3::TOKEN.to_owned().into()),
        ca_file: server.ca.clone(),
        ..S3Location::default()
    };
    let store = Location::S3(location.clone()).connect(runtime.handle(), true).unwrap();
    store.put_unique("a/one", "bytes").unwrap();
    assert_eq!(erased(&store, &keys(&["a/one"])), [Erased::Gone]);
    assert_eq!(server.keys(), [""; 0]);
    let seen = server.seen();
    let delete = seen.iter().find(|r| r.method == "POST" && r.query.starts_with("delete"));
    assert_eq!(delete.unwrap().path.trim_end_matches('/'), format!("/{}", s3::BUCKET));
    assert!(seen.iter().all(|request| request.token.as_deref() == Some(s3::TOKEN)));

    // Wrong credentials are no store without versions.
    let wrong = S3Location { secret_access_key: Some("wrong".to_owned().into()), ..location };
    let error = Location::S3(wrong).connect(runtime.handle(), true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
}

#[test]
fn a_store_in_memory_deletes() {
    let (objects, runtime) = (Faulty::new(), runtime());
    let store = Store::new(objects.clone(), runtime.handle().clone(), "memory");
    store.put_unique("a/one", "bytes").unwrap();
    assert_eq!(erased(&store, &keys(&["a/one"])), [Erased::Gone]);
    assert_eq!(objects.keys(), [""; 0]);
    assert_eq!(store.versioning().unwrap(), Versioning::Off);
    assert_eq!(store.erase_staged("a", jiff::Timestamp::MAX).unwrap(), []);
    assert!(!store.remove_empty_directory("a").unwrap());
}

/// A local store in a directory of its own.
fn local(runtime: &tokio::runtime::Runtime) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Location::Local(dir.path().to_owned()).connect(runtime.handle(), true).unwrap();
    (dir, store)
}

fn write(root: &Path, name: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "bytes").unwrap();
}

#[test]
fn files_of_a_local_repository_go_and_say_so() {
    let runtime = runtime();
    let (dir, store) = local(&runtime);
    for key in ["a/one", "a/two", "b/three"] {
        store.put_unique(key, "bytes").unwrap();
    }
    let wanted = keys(&["a/one", "a/never", "b/three", "c/never"]);
    let expected = [Erased::Gone, Erased::Absent, Erased::Gone, Erased::Absent];
    assert_eq!(erased(&store, &wanted), expected);
    assert!(!dir.path().join("a/one").exists() && dir.path().join("a/two").exists());
    let versions = store.versions("").unwrap();
    assert_eq!(versions.iter().map(|v| v.key.as_str()).collect::<Vec<_>>(), ["a/two"]);
}

#[test]
fn leftovers_of_killed_writers_go_and_nothing_else_does() {
    let runtime = runtime();
    let (dir, store) = local(&runtime);
    let leftovers = ["x/data/b1/000001.tar.zst#1", "x/data/b1/deep/er/index.zst#23", "x/data/#1"];
    let others = ["x/data/b1/000001.tar.zst", "x/data/b1/odd#name", "y/data/b1/000001.tar.zst#1"];
    leftovers.iter().chain(&others).for_each(|name| write(dir.path(), name));
    let elsewhere = tempfile::tempdir().unwrap();
    write(elsewhere.path(), "precious#1");
    symlink(elsewhere.path(), dir.path().join("x/data/link")).unwrap();
    symlink(elsewhere.path().join("precious#1"), dir.path().join("x/data/file#1")).unwrap();

    let listed: Vec<String> = store.staged("x/data").unwrap().into_iter().map(|l| l.key).collect();
    let mut expected = leftovers.map(str::to_owned);
    expected.sort();
    assert_eq!(listed, expected);
    let removed = store.erase_staged("x/data", jiff::Timestamp::MAX).unwrap();
    assert_eq!(removed.iter().map(|l| l.key.clone()).collect::<Vec<_>>(), expected);
    assert!(removed.iter().all(|l| l.size == 5 && l.stored_at.as_second() > 0));
    for name in leftovers {
        assert!(!dir.path().join(name).exists(), "{name}");
    }
    for name in others {
        assert!(dir.path().join(name).exists(), "{name}");
    }
    assert!(elsewhere.path().join("precious#1").exists(), "a link was followed");
    assert_eq!(store.staged("x/data").unwrap(), []);
    assert_eq!(store.erase_staged("not/there", jiff::Timestamp::MAX).unwrap(), []);
    let error = store.erase_staged("x/data/link", jiff::Timestamp::MAX).unwrap_err();
    assert!(error.hints()[0].contains("symbolic links"), "{error}");
}

#[test]
fn only_empty_directories_go() {
    let runtime = runtime();
    let (dir, store) = local(&runtime);
    write(dir.path(), "a/full/file");
    fs::create_dir_all(dir.path().join("a/empty")).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::create_dir(elsewhere.path().join("empty")).unwrap();
    symlink(elsewhere.path(), dir.path().join("link")).unwrap();

    assert!(store.remove_empty_directory("a/empty").unwrap());
    assert!(!dir.path().join("a/empty").exists());
    assert!(!store.remove_empty_directory("a/empty").unwrap());
    assert!(!store.remove_empty_directory("a/full").unwrap());
    assert!(dir.path().join("a/full/file").exists());
    for wrong in ["link", "link/empty", "a/full/file", "a/../a", "", "a/.."] {
        assert!(store.remove_empty_directory(wrong).is_err(), "{wrong}");
    }
    assert!(elsewhere.path().join("empty").exists(), "a link was followed");
}
