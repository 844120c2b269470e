//! Which part, to where, over what, and as whom.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

use crate::common::{
    Ran, Sandbox, as_nobody, assert_same_tree, has_root, noise, odd_tree, set_mtime,
};

/// A plain repository with one backup of a few files.
fn few() -> Sandbox {
    let sandbox = Sandbox::ready(false);
    let src = sandbox.path("src");
    fs::create_dir_all(src.join("etc/conf.d")).unwrap();
    for name in ["etc/a.conf", "etc/conf.d/b.conf", "etc/notes", "top"] {
        fs::write(src.join(name), name).unwrap();
    }
    fs::write(src.join("shared"), "shared content").unwrap();
    fs::hard_link(src.join("shared"), src.join("zz-also")).unwrap();
    fs::hard_link(src.join("shared"), src.join("zz-third")).unwrap();
    fs::write(src.join("large"), noise(1, 50_000)).unwrap();
    fs::hard_link(src.join("large"), src.join("zz-large")).unwrap();
    fs::set_permissions(src.join("etc/conf.d"), fs::Permissions::from_mode(0o751)).unwrap();
    set_mtime(&src.join("etc/conf.d"), 1_300_000_000, 0);
    sandbox.backup(&["--large-file", "20000"]);
    sandbox
}

fn names(sandbox: &Sandbox, out: &str) -> Vec<String> {
    let root = sandbox.path(out);
    let mut found: Vec<String> = crate::common::picture(&root)
        .into_iter()
        .filter(|(_, picture)| picture.kind != "dir")
        .map(|(path, _)| String::from_utf8(path).unwrap())
        .collect();
    found.sort();
    found
}

#[test]
fn paths_and_patterns_select_what_they_say() {
    let sandbox = few();
    for (number, (pattern, expected)) in [
        ("top", vec!["top"]),
        ("/etc/notes", vec!["etc/notes"]),
        ("etc", vec!["etc/a.conf", "etc/conf.d/b.conf", "etc/notes"]),
        ("**/*.conf", vec!["etc/a.conf", "etc/conf.d/b.conf"]),
        ("etc/*.conf", vec!["etc/a.conf"]),
        ("zz-also", vec!["zz-also"]),
        ("zz-large", vec!["zz-large"]),
        ("large", vec!["large"]),
    ]
    .into_iter()
    .enumerate()
    {
        let out = format!("out-{number}");
        sandbox.restore(&out, &["--path", pattern]);
        assert_eq!(names(&sandbox, &out), expected, "{pattern}");
        for name in expected {
            let (was, is) = (sandbox.path("src").join(name), sandbox.path(&out).join(name));
            assert!(fs::read(&was).unwrap() == fs::read(&is).unwrap(), "{name}");
            assert_eq!(fs::metadata(&was).unwrap().mtime(), fs::metadata(&is).unwrap().mtime());
            assert_eq!(fs::metadata(&was).unwrap().mode(), fs::metadata(&is).unwrap().mode());
        }
    }
    let directory = fs::metadata(sandbox.path("out-3/etc/conf.d")).unwrap();
    assert_eq!(directory.mode() & 0o7777, 0o751, "directories above come back as they were");
    assert_eq!(directory.mtime(), 1_300_000_000);
    let ran = sandbox.run(&["restore", "demo/files", "--to", "x", "--path", "nowhere"]).expect(1);
    assert!(ran.stderr.contains("nowhere"), "{}", ran.stderr);
    assert!(!sandbox.path("x").exists() || names(&sandbox, "x").is_empty());
}

#[test]
fn links_whose_first_name_is_not_selected_stay_links_to_each_other() {
    let sandbox = few();
    sandbox.restore("out", &["--path", "zz-also", "--path", "zz-third"]);
    let also = fs::metadata(sandbox.path("out/zz-also")).unwrap();
    let third = fs::metadata(sandbox.path("out/zz-third")).unwrap();
    assert_eq!(also.ino(), third.ino());
    assert_eq!(fs::read_to_string(sandbox.path("out/zz-third")).unwrap(), "shared content");
}

#[test]
fn one_file_can_be_written_to_standard_output() {
    let sandbox = few();
    for name in ["top", "zz-also", "large", "zz-large", "shared"] {
        let output = sandbox
            .command(&["restore", "demo/files", "--to", "-", "--path", name])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{name}");
        assert!(output.stdout == fs::read(sandbox.path("src").join(name)).unwrap(), "{name}");
    }
    let ran = sandbox.run(&["restore", "demo/files", "--to", "-", "--path", "etc"]).expect(2);
    assert!(ran.stderr.contains("more than one file"), "{}", ran.stderr);
    assert!(ran.stdout.is_empty());
}

#[test]
fn a_target_that_is_not_empty_is_refused() {
    let sandbox = few();
    fs::create_dir(sandbox.path("out")).unwrap();
    fs::write(sandbox.path("out/mine"), "mine").unwrap();
    let ran = sandbox.run(&["restore", "demo/files", "--to", "out"]).expect(1);
    assert!(ran.stderr.contains("is not empty"), "{}", ran.stderr);
    assert_eq!(names(&sandbox, "out"), ["mine"]);
    // Without a terminal nobody can say yes, so it has to be said before.
    for way in ["--overwrite", "--delta"] {
        sandbox.run(&["restore", "demo/files", "--to", "out", way]).expect(6);
    }
    assert_eq!(names(&sandbox, "out"), ["mine"]);
}

#[test]
fn overwrite_replaces_and_delta_keeps_what_is_right() {
    let sandbox = few();
    for way in ["--overwrite", "--delta"] {
        let out = &way[2..];
        sandbox.restore(out, &[]);
        let target = sandbox.path(out);
        fs::write(target.join("top"), "altered").unwrap();
        fs::write(target.join("extra"), "stays").unwrap();
        fs::remove_file(target.join("etc/notes")).unwrap();
        fs::remove_file(target.join("zz-large")).unwrap();
        set_mtime(&target.join("etc/a.conf"), 5, 5);
        let kept = fs::metadata(target.join("etc/a.conf")).unwrap().ino();
        let args = ["restore", "demo/files", "--to", out, way, "--yes", "--output", "json"];
        let json = sandbox.run(&args).expect(0).json();
        let same = fs::metadata(target.join("etc/a.conf")).unwrap().ino() == kept;
        assert_eq!(same, way == "--delta", "{json:#}");
        assert_eq!(json["tree"]["kept"].as_u64().unwrap() > 0, way == "--delta", "{json:#}");
        assert_eq!(fs::read_to_string(target.join("extra")).unwrap(), "stays");
        fs::remove_file(target.join("extra")).unwrap();
        set_mtime(&target, 0, 0);
        set_mtime(&sandbox.path("src"), 0, 0);
        assert_same_tree(&sandbox.path("src"), &target);
    }
}

/// A large file is written by several threads, piece by piece: until all of it is there, what it
/// replaces stays.
#[test]
fn a_large_file_replaces_another_only_when_it_is_complete() {
    let sandbox = Sandbox::ready(false);
    fs::write(sandbox.path("src/large"), noise(1, 200_000)).unwrap();
    fs::hard_link(sandbox.path("src/large"), sandbox.path("src/link")).unwrap();
    sandbox.backup(&["--large-file", "100000"]);
    for way in ["--overwrite", "--delta"] {
        let out = sandbox.path("out");
        fs::create_dir(&out).unwrap();
        fs::write(out.join("large"), "precious").unwrap();
        let args = ["restore", "demo/files", "--to", "out", way, "--yes"];
        let mut command = sandbox.command(&args);
        let killed = command.env("BACKSTAY_FAILPOINT", "restore.before_attributes").output();
        assert_eq!(killed.unwrap().status.signal(), Some(9));
        assert_eq!(fs::read_to_string(out.join("large")).unwrap(), "precious", "{way}");
        sandbox.run(&args).expect(0);
        assert_same_tree(&sandbox.path("src"), &out);
        let inode = |name: &str| fs::metadata(out.join(name)).unwrap().ino();
        assert_eq!(inode("large"), inode("link"), "{way}");
        // What is right already is kept, and linked to.
        fs::remove_file(out.join("link")).unwrap();
        sandbox.run(&args).expect(0);
        assert_same_tree(&sandbox.path("src"), &out);
        assert_eq!(inode("large"), inode("link"), "{way}");
        fs::remove_dir_all(&out).unwrap();
    }
}

#[test]
fn dry_runs_of_every_verb_that_writes_write_nothing() {
    let sandbox = Sandbox::new();
    // Probing writes and removes, so there must be a place to write to.
    fs::create_dir(sandbox.path("repo")).unwrap();
    sandbox.run(&["init", "--dry-run"]).expect(0);
    assert_eq!(sandbox.objects(), Vec::<std::path::PathBuf>::new());
    sandbox.run(&["init"]).expect(0);
    fs::write(sandbox.path("src/file"), "content").unwrap();
    let before = sandbox.objects();
    let ran = sandbox.run(&["backup", "demo/files", "--dry-run"]).expect(0);
    assert!(ran.stderr.contains("would store"), "{}", ran.stderr);
    assert_eq!(sandbox.objects(), before);
    sandbox.backup(&[]);
    let before = sandbox.objects();
    sandbox.run(&["backup", "demo/files", "--dry-run"]).expect(0);
    assert_eq!(sandbox.objects(), before);
    sandbox.restore("out", &["--dry-run"]);
    assert!(!sandbox.path("out").exists());
}

#[test]
fn backups_are_found_by_run_by_time_and_by_the_start_of_their_id() {
    let sandbox = Sandbox::ready(false);
    let mut made = Vec::new();
    for round in 0..3 {
        fs::write(sandbox.path("src/round"), format!("{round}")).unwrap();
        let json = sandbox.run(&["backup", "demo/files", "--output", "json"]).expect(0).json();
        let id = json["backups"][0]["backup"].as_str().unwrap().to_owned();
        made.push((json["run"].as_str().unwrap().to_owned(), id));
        std::thread::sleep(std::time::Duration::from_millis(1100));
    }
    let check = |number: usize, how: &str, what: &str| {
        let out = format!("out-{number}{how}");
        let ran = sandbox.run(&["restore", "demo/files", "--to", &out, how, what]).expect(0);
        let found = fs::read_to_string(sandbox.path(&out).join("round")).unwrap();
        assert_eq!(found, number.to_string(), "{how} {what}: {}", ran.stderr);
    };
    for (number, (run, id)) in made.iter().enumerate() {
        check(number, "--run", run);
        check(number, "--backup", &id[..id.len() - 2]);
        let show = sandbox.run(&["show", id, "--output", "json"]).expect(0).json();
        let point = show["recovery_points"][0]["time"].as_str().unwrap();
        check(number, "--at", point);
    }
    let ran =
        sandbox.run(&["restore", "demo/files", "--to", "x", "--backup", &made[0].1[..8]]).expect(2);
    assert!(ran.stderr.contains("3 backups"), "{}", ran.stderr);
    assert!(ran.stderr.contains(&made[1].1), "{}", ran.stderr);
    for args in [["--backup", "2001"], ["--run", "none"], ["--at", "2001-01-01T00:00:00Z"]] {
        let ran = sandbox.run(&[&["restore", "demo/files", "--to", "x"][..], &args].concat());
        assert_eq!(ran.code, 1, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("there is no backup"), "{args:?}: {}", ran.stderr);
    }
    assert!(!sandbox.path("x").exists());
}

#[test]
fn owners_go_by_name_unless_numbers_are_asked_for() {
    if !has_root() {
        return;
    }
    let sandbox = Sandbox::ready(false);
    let file = sandbox.path("src/file");
    fs::write(&file, "content").unwrap();
    std::os::unix::fs::chown(&file, Some(65534), None).unwrap();
    let id = sandbox.backup(&[]);
    // As if made on a machine where nobody has another number.
    let mut doctor = crate::common::doctor::Doctor::open(&sandbox.path("repo"), &id);
    doctor.edit(|entry| {
        if entry["path"] == "file" {
            entry["uid"] = 4711.into();
        }
    });
    doctor.save();
    sandbox.restore("by-name", &[]);
    sandbox.restore("by-number", &["--numeric-owner"]);
    assert_eq!(fs::metadata(sandbox.path("by-name/file")).unwrap().uid(), 65534);
    assert_eq!(fs::metadata(sandbox.path("by-number/file")).unwrap().uid(), 4711);
}

#[test]
fn who_is_not_root_is_told_which_owners_are_not_set_and_gets_no_set_id_programs() {
    if !has_root() {
        return;
    }
    let sandbox = Sandbox::ready(false);
    let program = sandbox.path("src/program");
    fs::write(&program, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    sandbox.backup(&[]);
    sandbox.open_to_all();
    let opened = Command::new("chmod").args(["-R", "a+rX"]).arg(sandbox.path("repo")).status();
    assert!(opened.unwrap().success());
    fs::set_permissions(sandbox.path("policy.yaml"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::create_dir(sandbox.path("work")).unwrap();
    std::os::unix::fs::chown(sandbox.path("work"), Some(65534), Some(65534)).unwrap();
    let mut command = sandbox.command(&["restore", "demo/files", "--to", "work/out"]);
    let ran = Ran::from(&as_nobody(&mut command).output().unwrap()).expect(0);
    assert!(ran.stderr.contains("owner"), "{}", ran.stderr);
    assert!(ran.stderr.contains("set-id"), "{}", ran.stderr);
    assert!(ran.stderr.contains("restore as root"), "{}", ran.stderr);
    assert_eq!(fs::metadata(sandbox.path("work/out/program")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn a_whole_tree_restores_without_any_policy() {
    let sandbox = Sandbox::ready(true);
    odd_tree(&sandbox.path("src"));
    sandbox.backup(&[]);
    fs::remove_file(sandbox.path("policy.yaml")).unwrap();
    let args = ["restore", "demo/files", "--to", "out"];
    let no_policy = ["--repository", "repo", "--identity", "recovery.key"];
    sandbox.run_bare(&[&args[..], &no_policy].concat()).expect(0);
    assert_same_tree(&sandbox.path("src"), &sandbox.path("out"));
    sandbox.run_bare(&[&["list"][..], &no_policy].concat()).expect(0);
}

/// A sandbox with a command source `dump` of these settings.
fn with_dump(settings: &str) -> Sandbox {
    let sandbox = Sandbox::ready(false);
    sandbox.write_policy(false, &format!("  dump: {{ command: {{ {settings} }} }}\n"));
    fs::write(sandbox.path("input"), noise(9, 700_000)).unwrap();
    sandbox
}

#[test]
fn a_stream_goes_to_a_file_to_standard_output_or_to_its_consumer() {
    let program = "restore: { shell: \"cat > consumed\" }";
    let sandbox = with_dump(&format!("pipeline: [[cat, input], [cat]], {program}"));
    let input = fs::read(sandbox.path("input")).unwrap();
    sandbox.run(&["backup", "demo/dump"]).expect(0);
    sandbox.run(&["restore", "demo/dump", "--to", "file"]).expect(0);
    assert!(fs::read(sandbox.path("file")).unwrap() == input);
    sandbox.run(&["restore", "demo/dump", "--to", "file"]).expect(1);
    sandbox.run(&["restore", "demo/dump", "--to", "file", "--overwrite", "--yes"]).expect(0);
    let output = sandbox.command(&["restore", "demo/dump", "--to", "-"]).output().unwrap();
    assert!(output.status.success() && output.stdout == input);
    sandbox.run(&["restore", "demo/dump", "--to", "consumer"]).expect(6);
    sandbox.run(&["restore", "demo/dump", "--to", "consumer", "--dry-run"]).expect(0);
    assert!(!sandbox.path("consumed").exists());
    sandbox.run(&["restore", "demo/dump", "--to", "consumer", "--yes"]).expect(0);
    assert!(fs::read(sandbox.path("consumed")).unwrap() == input);
    // Who stopped reading did not get all of it: a pipeline into a database must not look well.
    let mut child = sandbox
        .command(&["restore", "demo/dump", "--to", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn a_consumer_that_fails_or_stops_reading_fails_the_restore() {
    for (consumer, said) in [
        ("restore: { shell: \"cat > /dev/null; echo it broke >&2; exit 4\" }", "it broke"),
        ("restore: { shell: \"exit 0\" }", "stopped reading"),
        ("restore: { argv: [no-such-program-here] }", "no-such-program-here"),
    ] {
        let sandbox = with_dump(&format!("argv: [cat, input], {consumer}"));
        sandbox.run(&["backup", "demo/dump"]).expect(0);
        let ran = sandbox.run(&["restore", "demo/dump", "--to", "consumer", "--yes"]).expect(1);
        assert!(ran.stderr.contains(said), "{consumer}: {}", ran.stderr);
    }
    let sandbox = with_dump("argv: [cat, input]");
    sandbox.run(&["backup", "demo/dump"]).expect(0);
    let ran = sandbox.run(&["restore", "demo/dump", "--to", "consumer", "--yes"]).expect(2);
    assert!(ran.stderr.contains("has no `restore:`"), "{}", ran.stderr);
}

#[test]
fn a_producer_that_fails_in_any_way_leaves_nothing_listed() {
    for (settings, said) in [
        ("shell: \"cat input; exit 3\"", "exit status: 3"),
        ("shell: \"false | cat input\"", "exit status: 1"),
        ("pipeline: [[cat, input], [\"false\"], [cat]]", "`false`"),
        ("pipeline: [[bash, -c, \"cat input; exit 3\"], [cat], [cat]]", "exit status: 3"),
        ("shell: \"cat input; kill -9 $$\"", "signal: 9"),
        ("argv: [\"true\"]", "wrote nothing"),
        ("argv: [no-such-program-here]", "no-such-program-here"),
        ("argv: [sleep, \"60\"], timeout: 1s", "ended after 1 second"),
        ("shell: \"cat input; echo all is lost >&2; exit 9\"", "all is lost"),
    ] {
        let sandbox = with_dump(settings);
        let ran = sandbox.run(&["backup", "demo/dump"]).expect(1);
        assert!(ran.stderr.contains(said), "{settings}: {}", ran.stderr);
        assert_eq!(sandbox.listed(), 0, "{settings}");
    }
    let sandbox = with_dump("argv: [\"true\"], allow_empty: true");
    sandbox.run(&["backup", "demo/dump"]).expect(0);
    let output = sandbox.command(&["restore", "demo/dump", "--to", "-"]).output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty());
    std::io::stderr().flush().unwrap();
}

#[test]
fn one_name_that_cannot_be_restored_does_not_end_the_restore() {
    let sandbox = Sandbox::ready(false);
    for name in ["aaa", "mmm", "zzz"] {
        fs::write(sandbox.path("src").join(name), name).unwrap();
    }
    sandbox.backup(&[]);
    fs::create_dir_all(sandbox.path("out/mmm/in the way")).unwrap();
    let ran =
        sandbox.run(&["restore", "demo/files", "--to", "out", "--overwrite", "--yes"]).expect(1);
    assert!(ran.stderr.contains("not restored: `mmm`"), "{}", ran.stderr);
    assert_eq!(fs::read_to_string(sandbox.path("out/aaa")).unwrap(), "aaa");
    assert_eq!(fs::read_to_string(sandbox.path("out/zzz")).unwrap(), "zzz");
    let left: Vec<_> = fs::read_dir(sandbox.path("out"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.to_string_lossy().starts_with(".backstay"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_pattern_that_matches_nothing_is_told() {
    let sandbox = Sandbox::ready(false);
    fs::write(sandbox.path("src/here"), "x").unwrap();
    sandbox.backup(&[]);
    let args = ["restore", "demo/files", "--to", "out", "--path", "here", "--path", "nosuch"];
    let ran = sandbox.run(&args).expect(1);
    assert!(ran.stderr.contains("`nosuch`: matches nothing"), "{}", ran.stderr);
    assert!(sandbox.path("out/here").exists());
}
