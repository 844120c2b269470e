//! What an incremental takes over, what it stores again, and what it builds on.

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use serde_json::json;

use crate::common::doctor::Doctor;
use crate::common::{Sandbox, assert_same_tree, noise, odd_tree, set_mtime, settle};

fn copy(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(status.unwrap().success());
}

#[test]
fn an_unchanged_tree_shares_everything_with_its_base() {
    for encrypted in [false, true] {
        let sandbox = Sandbox::ready(encrypted);
        odd_tree(&sandbox.path("src"));
        settle();
        let first = sandbox.backup_json(&[]);
        let second = sandbox.backup_json(&[]);
        assert_eq!(second["unchanged"], true);
        assert_eq!(second["kind"], "incremental");
        assert_eq!(second["base"], first["backup"]);
        let counts = &second["counts"];
        for nothing in ["new_files", "new_bytes", "stored_bytes"] {
            assert_eq!(counts[nothing], 0, "{nothing}");
        }
        assert_eq!(counts["files"], first["counts"]["files"]);
        let show = |id: &serde_json::Value| {
            sandbox.run(&["show", id.as_str().unwrap(), "--output", "json"]).expect(0).json()
        };
        let (first, second) = (show(&first["backup"]), show(&second["backup"]));
        assert_eq!(first["index"], second["index"]);
        assert_eq!(first["segments"], second["segments"]);
        sandbox.restore("out", &[]);
        assert_same_tree(&sandbox.path("src"), &sandbox.path("out"));
    }
}

#[test]
fn a_file_that_was_only_touched_is_not_stored_again() {
    let sandbox = Sandbox::ready(true);
    let file = sandbox.path("src/file");
    fs::write(&file, noise(1, 50_000)).unwrap();
    fs::write(sandbox.path("src/other"), "other").unwrap();
    settle();
    sandbox.backup(&[]);
    set_mtime(&file, 1_500_000_000, 7);
    let second = sandbox.backup_json(&[]);
    assert_eq!(second["counts"]["new_bytes"], 0);
    assert_eq!(second["counts"]["new_files"], 0);
    assert_eq!(second["unchanged"], false);
    sandbox.restore("out", &[]);
    assert_same_tree(&sandbox.path("src"), &sandbox.path("out"));
    sandbox.run_with_key(&["verify", "--depth", "content"]).expect(0);
}

#[test]
fn a_changed_mode_owner_or_attribute_and_a_new_name_are_stored_again() {
    let sandbox = Sandbox::ready(true);
    let (mode, name) = (sandbox.path("src/mode"), sandbox.path("src/name"));
    fs::write(&mode, noise(1, 30_000)).unwrap();
    fs::write(&name, noise(2, 20_000)).unwrap();
    fs::write(sandbox.path("src/attribute"), noise(3, 10_000)).unwrap();
    settle();
    sandbox.backup(&[]);
    fs::set_permissions(&mode, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(sandbox.backup_json(&[])["counts"]["new_bytes"], 30_000);
    fs::rename(&name, sandbox.path("src/renamed")).unwrap();
    // The file with the new mode was racy, is read again, and is found to be equal.
    assert_eq!(sandbox.backup_json(&[])["counts"]["new_bytes"], 20_000);
    let flags = rustix::fs::XattrFlags::empty();
    let set = rustix::fs::setxattr(sandbox.path("src/attribute"), "user.new", b"1", flags);
    if set.is_ok() {
        assert_eq!(sandbox.backup_json(&[])["counts"]["new_bytes"], 10_000);
    }
    sandbox.restore("out", &[]);
    assert_same_tree(&sandbox.path("src"), &sandbox.path("out"));
    sandbox.run_with_key(&["verify", "--depth", "content"]).expect(0);
}

#[test]
fn a_racy_file_is_marked_and_read_again_until_it_is_not() {
    let sandbox = Sandbox::ready(false);
    fs::write(sandbox.path("src/file"), noise(1, 5000)).unwrap();
    let first = sandbox.backup(&[]);
    let repo = sandbox.path("repo");
    assert_eq!(Doctor::open(&repo, &first).entry("file")["racy"], true);
    settle();
    let second = sandbox.backup_json(&[]);
    let id = second["backup"].as_str().unwrap();
    assert_eq!(second["unchanged"], false, "it was read again");
    assert_eq!(second["counts"]["new_bytes"], 0, "and found to be equal");
    assert!(Doctor::open(&repo, id).entry("file").get("racy").is_none());
    assert_eq!(sandbox.backup_json(&[])["unchanged"], true);
}

#[test]
fn a_segment_that_is_mostly_dead_is_left_behind() {
    let sandbox = Sandbox::ready(false);
    for number in 0..10u64 {
        fs::write(sandbox.path(format!("src/{number}")), noise(number, 20_000)).unwrap();
    }
    settle();
    let first = sandbox.backup(&[]);
    // Six of ten are gone: the next backup records it, the one after leaves the segment.
    for number in 0..6 {
        fs::remove_file(sandbox.path(format!("src/{number}"))).unwrap();
    }
    let second = sandbox.backup_json(&[]);
    assert_eq!(second["counts"]["new_bytes"], 0);
    let third = sandbox.backup_json(&[]);
    assert_eq!(third["counts"]["new_bytes"], 80_000, "what is alive is sent again");
    let third = sandbox.run(&["show", third["backup"].as_str().unwrap(), "--output", "json"]);
    assert!(!third.expect(0).stdout.contains(&first), "nothing refers to the old segment");
    assert_eq!(sandbox.backup_json(&[])["unchanged"], true);
    sandbox.run(&["verify", "--depth", "content"]).expect(0);
    sandbox.restore("out", &[]);
    assert_same_tree(&sandbox.path("src"), &sandbox.path("out"));
}

#[test]
fn nothing_is_ever_based_on_a_snapshot() {
    let sandbox = Sandbox::ready(true);
    fs::write(sandbox.path("src/file"), "content").unwrap();
    settle();
    let snapshot = sandbox.backup_json(&["--kind", "snapshot"]);
    assert_eq!(snapshot["kind"], "snapshot");
    let full = sandbox.backup_json(&["--kind", "incremental"]);
    assert_eq!(full["kind"], "full", "there is nothing but a snapshot");
    let another = sandbox.backup_json(&["--kind", "snapshot"]);
    assert_eq!(another["counts"]["new_files"], 1, "a snapshot refers to nothing");
    let incremental = sandbox.backup_json(&[]);
    assert_eq!(incremental["base"], full["backup"]);
}

#[test]
fn without_a_writer_identity_an_incremental_becomes_a_full_and_says_so() {
    let sandbox = Sandbox::ready(true);
    let file = sandbox.path("policy.yaml");
    let policy = fs::read_to_string(&file).unwrap();
    let start = policy.find(", writer_identity").unwrap();
    let end = start + policy[start..].find("\" }").unwrap() + 1;
    fs::write(&file, [&policy[..start], &policy[end..]].concat()).unwrap();
    fs::write(sandbox.path("src/file"), "content").unwrap();
    settle();
    sandbox.backup(&[]);
    let ran = sandbox.run(&["backup", "demo/files", "--kind", "incremental"]).expect(0);
    assert!(ran.stdout.contains("-full-"), "{}", ran.stdout);
    assert!(ran.stderr.contains("takes a full backup"), "{}", ran.stderr);
    assert!(ran.stderr.contains("no identity was given"), "{}", ran.stderr);
    sandbox.restore("out", &[]);
    assert_same_tree(&sandbox.path("src"), &sandbox.path("out"));
}

#[test]
fn paranoid_finds_a_change_that_no_time_or_size_tells() {
    // The kernel sets the change time and lets nobody set it back, so the index is told what the
    // file will look like: as if a file system had lied.
    for paranoid in [false, true] {
        let sandbox = Sandbox::with_files(false, &format!("path: SRC, paranoid: {paranoid}"));
        let file = sandbox.path("src/file");
        fs::write(&file, "original").unwrap();
        settle();
        let first = sandbox.backup(&[]);
        fs::write(&file, "altered!").unwrap();
        settle();
        let now = fs::metadata(&file).unwrap();
        let mut doctor = Doctor::open(&sandbox.path("repo"), &first);
        doctor.edit(|entry| {
            if entry["path"] == "file" {
                entry["mtime"] = json!([now.mtime(), now.mtime_nsec()]);
                entry["ctime"] = json!([now.ctime(), now.ctime_nsec()]);
            }
        });
        doctor.save();
        let second = sandbox.backup_json(&[]);
        assert_eq!(second["counts"]["new_files"], u64::from(paranoid), "paranoid: {paranoid}");
    }
}

#[test]
fn paranoid_shares_an_unchanged_file_all_the_same() {
    let sandbox = Sandbox::with_files(true, "path: SRC, paranoid: true");
    fs::write(sandbox.path("src/file"), noise(1, 9000)).unwrap();
    settle();
    sandbox.backup(&[]);
    assert_eq!(sandbox.backup_json(&[])["counts"]["new_bytes"], 0);
}

#[test]
fn large_files_with_holes_and_further_names_survive_incrementals() {
    const SMALL: [&str; 4] = ["--large-file", "100000", "--segment-size", "200000"];
    for encrypted in [false, true] {
        let sandbox = Sandbox::ready(encrypted);
        let src = sandbox.path("src");
        // Slices end at frames of 4 MiB.
        fs::write(src.join("large"), noise(1, 9 << 20)).unwrap();
        fs::hard_link(src.join("large"), src.join("also")).unwrap();
        fs::create_dir(src.join("dir")).unwrap();
        fs::hard_link(src.join("large"), src.join("dir/third")).unwrap();
        let sparse = fs::File::create(src.join("sparse")).unwrap();
        sparse.set_len(20 << 20).unwrap();
        sparse.write_all_at(&noise(2, 300_000), 7 << 20).unwrap();
        drop(sparse);
        fs::write(src.join("odd\nlarge "), noise(3, 150_000)).unwrap();
        fs::write(src.join("small"), "small").unwrap();
        set_mtime(&src.join("large"), 1_400_000_000, 5);
        settle();
        let mut kept = Vec::new();
        for round in 0..5 {
            match round {
                1 => fs::write(src.join("small"), "another").unwrap(),
                2 => {
                    let file = fs::OpenOptions::new().write(true).open(src.join("sparse"));
                    file.unwrap().write_all_at(b"changed", 1 << 20).unwrap();
                }
                3 => fs::remove_file(src.join("also")).unwrap(),
                4 => {
                    fs::remove_file(src.join("dir/third")).unwrap();
                    fs::write(src.join("odd\nlarge "), noise(4, 150_000)).unwrap();
                }
                _ => {}
            }
            let made = sandbox.backup_json(&SMALL);
            if round == 1 {
                assert_eq!(made["counts"]["new_bytes"], 7, "only the small file is new");
            }
            let to = sandbox.path(format!("copy-{round}"));
            copy(&src, &to);
            kept.push((made["backup"].as_str().unwrap().to_owned(), to));
        }
        sandbox.run_with_key(&["verify", "--depth", "content"]).expect(0);
        for (id, copy) in &kept {
            let out = format!("out-{id}");
            sandbox.restore(&out, &["--backup", id]);
            assert_same_tree(copy, &sandbox.path(&out));
            let blocks = fs::metadata(sandbox.path(&out).join("sparse")).unwrap().blocks();
            assert!(blocks * 512 < 4 << 20, "holes stay holes: {blocks} blocks");
        }
    }
}

#[test]
fn a_group_of_hard_links_is_whole_whatever_is_left_out_of_it() {
    let sandbox = Sandbox::with_files(false, "path: SRC");
    let src = sandbox.path("src");
    fs::write(src.join("a-first"), noise(1, 5000)).unwrap();
    for name in ["b-second", "c-third"] {
        fs::hard_link(src.join("a-first"), src.join(name)).unwrap();
    }
    fs::write(src.join("other"), noise(2, 50_000)).unwrap();
    settle();
    // Leaving a name out, or taking it in, changes no time of the file.
    for (round, exclude) in ["c-third", "a-first", "b-second", "", "a-first"].iter().enumerate() {
        sandbox.set_files(
            false,
            &format!("path: SRC, exclude: [\"{exclude}x\", \"{exclude}\"]"),
            "",
        );
        if exclude.is_empty() {
            sandbox.set_files(false, "path: SRC", "");
        }
        sandbox.backup(&[]);
        let out = format!("out-{round}");
        sandbox.restore(&out, &[]);
        let mut names: Vec<String> = fs::read_dir(sandbox.path(&out))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "other")
            .collect();
        names.sort();
        let expected: Vec<&str> =
            ["a-first", "b-second", "c-third"].into_iter().filter(|name| name != exclude).collect();
        assert_eq!(names, expected, "round {round}");
        for name in names {
            let file = sandbox.path(&out).join(&name);
            assert_eq!(fs::read(&file).unwrap(), noise(1, 5000));
            let links = fs::metadata(&file).unwrap().nlink();
            assert_eq!(links, expected.len() as u64, "round {round}: {name}");
        }
        sandbox.run(&["verify", "--depth", "content"]).expect(0);
    }
}

#[test]
fn what_the_store_lost_of_the_base_is_stored_again() {
    let sandbox = Sandbox::ready(false);
    let src = sandbox.path("src");
    for name in ["one", "two"] {
        fs::write(src.join(name), name.repeat(1000)).unwrap();
    }
    settle();
    sandbox.backup(&[]);
    let lost = sandbox
        .objects()
        .into_iter()
        .find(|path| path.to_string_lossy().ends_with("000001.tar.zst"))
        .unwrap();
    fs::remove_file(sandbox.path("repo").join(lost)).unwrap();
    let ran = sandbox.run(&["backup", "demo/files"]).expect(0);
    assert!(ran.stderr.contains("is stored again"), "{}", ran.stderr);
    let id = ran.stdout.trim().rsplit('@').next().unwrap();
    sandbox.run(&["verify", id, "--depth", "content"]).expect(0);
    sandbox.run(&["restore", "demo/files", "--to", "out"]).expect(0);
    crate::common::assert_same_tree(&src, &sandbox.path("out"));
}
