//! Repositories of every format version ever written stay readable. They are fixtures for ever:
//! `BACKSTAY_WRITE_GOLDEN=1 cargo nextest run golden` writes those of the present version anew,
//! which is for a format that was never released.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use backstay::archive::digest::sha256_hex;

use crate::common::{Sandbox, has_tools, noise, picture, set_mtime, settle};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/repositories").join(name)
}

/// A line for everything in a tree, the same wherever and by whomever it is restored.
fn listing(root: &Path) -> String {
    let mut text = String::new();
    for (path, picture) in picture(root) {
        let path = String::from_utf8_lossy(&path).escape_debug().to_string();
        let shown = if path.is_empty() { "." } else { &path };
        let content = match picture.kind.as_str() {
            "file" => sha256_hex(&picture.content),
            "symlink" => String::from_utf8_lossy(&picture.content).into_owned(),
            _ => "-".to_owned(),
        };
        let mode = if picture.kind == "symlink" { 0o777 } else { picture.mode };
        text.push_str(&format!(
            "{} {mode:04o} {}.{:09} {} {content} {shown}\n",
            picture.kind, picture.mtime.0, picture.mtime.1, picture.links
        ));
    }
    text
}

fn write(name: &str, encrypted: bool) {
    const SMALL: [&str; 4] = ["--large-file", "2000", "--segment-size", "4000"];
    let sandbox = Sandbox::ready(encrypted);
    let sources = "  dump: { command: { argv: [cat, input] } }\n";
    sandbox.write_policy(encrypted, sources);
    let src = sandbox.path("src");
    fs::create_dir_all(src.join("dir/empty")).unwrap();
    let deep = format!("deep/{}", "0123456789/".repeat(20));
    fs::create_dir_all(src.join(&deep)).unwrap();
    for (path, content) in [
        ("dir/plain", noise(1, 900)),
        ("dir/new\nline", b"awkward".to_vec()),
        ("ends in space ", b"awkward too".to_vec()),
        ("\u{4e2d}\u{6587}", b"unicode".to_vec()),
        ("back\\slash", b"backslash".to_vec()),
        ("large", noise(2, 2100)),
        ("gone", b"only in the first".to_vec()),
        ("empty", Vec::new()),
        ("zz-first", b"linked".to_vec()),
    ] {
        fs::write(src.join(path), content).unwrap();
    }
    fs::write(src.join(deep).join("bottom"), "deep").unwrap();
    fs::hard_link(src.join("zz-first"), src.join("zz-second")).unwrap();
    fs::hard_link(src.join("large"), src.join("zz-large")).unwrap();
    std::os::unix::fs::symlink("dir/plain", src.join("link")).unwrap();
    let sparse = fs::File::create(src.join("sparse")).unwrap();
    sparse.set_len(100_000).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"in the middle", 50_000).unwrap();
    drop(sparse);
    set_mtime(&src.join("dir/plain"), -5, 500_000_000);
    settle();
    let mut listings = String::new();
    for round in 0..3 {
        match round {
            1 => {
                fs::remove_file(src.join("gone")).unwrap();
                fs::write(src.join("dir/added"), "added").unwrap();
            }
            2 => fs::rename(src.join("back\\slash"), src.join("renamed")).unwrap(),
            _ => {}
        }
        // Links have no time that can be set everywhere; all else gets a known one.
        let id = sandbox.backup(&SMALL);
        listings.push_str(&format!("# files {id}\n{}", listing(&src)));
    }
    fs::write(sandbox.path("input"), noise(3, 500)).unwrap();
    let ran = sandbox.run(&["backup", "demo/dump"]).expect(0);
    let id = ran.stdout.trim().rsplit('@').next().unwrap().to_owned();
    listings.push_str(&format!("# dump {id}\n{}\n", sha256_hex(&noise(3, 500))));
    fs::create_dir_all(fixture("")).unwrap();
    fs::write(fixture(&format!("{name}.txt")), listings).unwrap();
    if encrypted {
        let key = fs::read_to_string(sandbox.path("recovery.key")).unwrap();
        let warning = "# a test's key, known to everybody: it protects nothing\n";
        let key = format!("{warning}{key}");
        fs::write(fixture("insecure-test-recovery.key"), key).unwrap();
    }
    // What a backup does not consist of, and what says where this was made.
    fs::remove_dir_all(sandbox.path("repo/demo/policy")).unwrap();
    fs::remove_file(sandbox.path("repo/RESTORE.md")).unwrap();
    fs::remove_file(sandbox.path("repo/restore.sh")).unwrap();
    for path in sandbox.objects().iter().filter(|path| path.to_string_lossy().contains("commits")) {
        let path = sandbox.path("repo").join(path);
        let text = fs::read_to_string(&path).unwrap();
        let host = rustix::system::uname();
        let host = format!("\"host\": \"{}\"", host.nodename().to_string_lossy());
        assert!(text.contains(&host));
        fs::write(path, text.replace(&host, "\"host\": \"golden\"")).unwrap();
    }
    let packed = Command::new("tar")
        .args(["--blocking-factor=1"])
        .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "-cf"])
        .arg(fixture(&format!("{name}.tar")))
        .args(["-C"])
        .arg(sandbox.root())
        .arg("repo")
        .status()
        .unwrap();
    assert!(packed.success());
}

fn check(name: &str, encrypted: bool) {
    if !has_tools(&["tar"]) {
        return;
    }
    if std::env::var_os("BACKSTAY_WRITE_GOLDEN").is_some() {
        write(name, encrypted);
    }
    let dir = tempfile::tempdir().unwrap();
    let unpacked = Command::new("tar")
        .args(["--no-same-owner", "-xf"])
        .arg(fixture(&format!("{name}.tar")))
        .args(["-C"])
        .arg(dir.path())
        .status()
        .unwrap();
    assert!(unpacked.success());
    let repo = dir.path().join("repo").display().to_string();
    let key = fixture("insecure-test-recovery.key").display().to_string();
    let run = |args: &[&str]| {
        let mut command = Command::new(crate::common::BACKSTAY);
        command.args(args).args(["--repository", &repo]).env_remove("BACKSTAY_POLICY");
        command.env("BACKSTAY_STATE_DIR", dir.path().join("state"));
        if encrypted {
            command.args(["--identity", &key]);
        }
        let output = command.current_dir(dir.path()).output().unwrap();
        crate::common::Ran::from(&output).expect(0)
    };
    run(&["verify", "--depth", "content"]);
    let expected = fs::read_to_string(fixture(&format!("{name}.txt"))).unwrap();
    let mut found = String::new();
    for line in expected.lines().filter_map(|line| line.strip_prefix("# ")) {
        let (source, id) = line.split_once(' ').unwrap();
        let out = dir.path().join(id);
        let address = format!("demo/{source}");
        run(&["restore", &address, "--backup", id, "--to", &out.display().to_string()]);
        found.push_str(&format!("# {source} {id}\n"));
        if source == "dump" {
            found.push_str(&format!("{}\n", sha256_hex(&fs::read(&out).unwrap())));
        } else {
            found.push_str(&listing(&out));
        }
    }
    assert_eq!(found, expected);
    assert!(expected.lines().filter(|line| line.starts_with("# ")).count() == 4);
}

#[test]
fn golden_plain_repository_of_version_1_restores() {
    check("v1-plain", false);
}

#[test]
fn golden_encrypted_repository_of_version_1_restores() {
    check("v1-encrypted", true);
}
