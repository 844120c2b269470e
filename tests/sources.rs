//! What a source takes, leaves out, and refuses.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{
    Ran, Sandbox, as_nobody, assert_same_tree, has_root, has_tools, is_root, noise, picture,
};

fn listed_paths(sandbox: &Sandbox) -> Vec<String> {
    let ran = sandbox.run(&["ls", "demo/files"]).expect(0);
    ran.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn a_single_file_is_a_source() {
    let sandbox = Sandbox::with_files(true, "path: SRC/one");
    fs::write(sandbox.path("src/one"), "one").unwrap();
    fs::write(sandbox.path("src/two"), "two").unwrap();
    crate::common::settle();
    sandbox.backup(&[]);
    assert_eq!(listed_paths(&sandbox), ["one"]);
    assert_eq!(sandbox.backup_json(&[])["unchanged"], true);
    sandbox.restore("out", &[]);
    assert_eq!(fs::read_to_string(sandbox.path("out/one")).unwrap(), "one");
    assert_eq!(fs::read_dir(sandbox.path("out")).unwrap().count(), 1);
    sandbox.run_with_key(&["verify", "--depth", "content"]).expect(0);
}

#[test]
fn several_paths_are_stored_from_the_root_and_may_not_overlap() {
    let sandbox = Sandbox::with_files(false, "paths: [SRC/b!, SRC/b, SRC/a/file]");
    for path in ["a/file", "a/other", "b/x", "b/inner/y", "b!/z"] {
        let path = sandbox.path("src").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, path.as_os_str().as_encoded_bytes()).unwrap();
    }
    crate::common::settle();
    sandbox.backup(&[]);
    let root = sandbox.path("src").display().to_string();
    let root = root.trim_start_matches('/');
    let expected: Vec<String> = ["a/file", "b", "b/inner", "b/inner/y", "b/x", "b!", "b!/z"]
        .iter()
        .map(|path| format!("{root}/{path}"))
        .collect();
    assert_eq!(listed_paths(&sandbox), expected);
    assert_eq!(sandbox.backup_json(&[])["unchanged"], true);
    sandbox.restore("out", &[]);
    for path in ["b", "b!"] {
        let (was, is) = (sandbox.path("src").join(path), sandbox.path("out").join(root).join(path));
        assert_same_tree(&was, &is);
    }
    assert!(!sandbox.path("out").join(root).join("a/other").exists());
    sandbox.run(&["verify", "--depth", "content"]).expect(0);
    for (paths, why) in
        [("SRC/b, SRC/b/inner", "contain one another"), ("SRC/b, SRC/b", "is given twice")]
    {
        sandbox.set_files(false, &format!("paths: [{paths}]"), "");
        let ran = sandbox.run(&["backup", "demo/files"]).expect(3);
        assert!(ran.stderr.contains(why), "{}", ran.stderr);
    }
}

#[test]
fn excludes_and_tagged_caches_are_left_out() {
    let sandbox = Sandbox::with_files(
        false,
        "path: SRC, exclude: [\"*.tmp\", \"/top\", \"deep/**/skip\"], exclude_caches: true",
    );
    for path in
        ["a.tmp", "d/b.tmp", "top/x", "d/top/kept", "deep/1/2/skip/x", "deep/1/kept", "cache/data"]
    {
        let path = sandbox.path("src").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }
    let tag = "Signature: 8a477f597d28d172789f06886806bc55\n";
    fs::write(sandbox.path("src/cache/CACHEDIR.TAG"), tag).unwrap();
    fs::write(sandbox.path("src/d/CACHEDIR.TAG"), "not the signature").unwrap();
    sandbox.backup(&[]);
    let found = listed_paths(&sandbox);
    for left in ["a.tmp", "d/b.tmp", "top", "top/x", "deep/1/2/skip/x", "cache/data"] {
        assert!(!found.iter().any(|path| path == left), "{left} in {found:?}");
    }
    for kept in ["d/top/kept", "deep/1/kept", "cache", "cache/CACHEDIR.TAG", "d/CACHEDIR.TAG"] {
        assert!(found.iter().any(|path| path == kept), "{kept} not in {found:?}");
    }
}

#[test]
fn other_file_systems_are_entered_unless_told_not_to() {
    if !has_root() {
        return;
    }
    for one in [true, false] {
        let sandbox = Sandbox::with_files(false, &format!("path: SRC, one_file_system: {one}"));
        let mount = sandbox.path("src/mount");
        fs::create_dir(&mount).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "none"])
            .arg(&mount)
            .output()
            .unwrap();
        if !mounted.status.success() {
            crate::common::cannot("tmpfs cannot be mounted");
            return;
        }
        fs::write(mount.join("inside"), "x").unwrap();
        let ran = sandbox.run(&["backup", "demo/files"]);
        assert!(Command::new("umount").arg(&mount).status().unwrap().success());
        ran.expect(0);
        let found = listed_paths(&sandbox);
        assert!(found.contains(&"mount".to_owned()), "{found:?}");
        assert_eq!(found.contains(&"mount/inside".to_owned()), !one, "{found:?}");
    }
}

#[test]
fn acls_and_privileged_attributes_come_back() {
    if !has_tools(&["setfacl"]) {
        return;
    }
    let sandbox = Sandbox::ready(true);
    let src = sandbox.path("src");
    fs::create_dir(src.join("dir")).unwrap();
    fs::write(src.join("dir/file"), "x").unwrap();
    let set = |args: &[&str]| {
        Command::new("setfacl").args(args).current_dir(&src).status().unwrap().success()
    };
    if !set(&["-m", "u:1001:r,g:44:rw,m::rw", "dir/file"]) {
        crate::common::cannot("this file system has no ACLs");
        return;
    }
    assert!(set(&["-d", "-m", "u:1002:rwx", "dir"]));
    if is_root() {
        let value = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let flags = rustix::fs::XattrFlags::empty();
        fs::write(src.join("ping"), "program").unwrap();
        rustix::fs::setxattr(src.join("ping"), "security.capability", &value, flags).unwrap();
    }
    sandbox.backup(&[]);
    sandbox.restore("out", &[]);
    assert_same_tree(&src, &sandbox.path("out"));
    let attributes = &picture(&sandbox.path("out"))[&b"dir/file"[..]].xattrs;
    assert!(attributes.contains_key("system.posix_acl_access"), "{attributes:?}");
    if is_root() {
        let attributes = &picture(&sandbox.path("out"))[&b"ping"[..]].xattrs;
        assert!(attributes.contains_key("security.capability"), "{attributes:?}");
    }
    sandbox.run_with_key(&["verify", "--depth", "content"]).expect(0);
}

#[test]
fn sockets_and_fifos_are_left_out_and_named() {
    let sandbox = Sandbox::ready(false);
    fs::write(sandbox.path("src/file"), "x").unwrap();
    let made = Command::new("mkfifo").arg(sandbox.path("src/a-fifo")).status().unwrap();
    assert!(made.success());
    let _socket = std::os::unix::net::UnixListener::bind(sandbox.path("src/a-socket")).unwrap();
    let ran = sandbox.run(&["backup", "demo/files"]).expect(0);
    for name in ["a-fifo", "a-socket"] {
        assert!(ran.stderr.contains(name), "{}", ran.stderr);
    }
    let json = sandbox.backup_json(&[]);
    assert_eq!(json["counts"]["skipped"], 2);
    sandbox.restore("out", &[]);
    assert_same_tree(&sandbox.path("src"), &sandbox.path("out"));
}

#[test]
fn files_that_change_or_vanish_while_read_are_recorded_and_no_failure() {
    let sandbox = Sandbox::ready(false);
    let src = sandbox.path("src");
    for number in 0..400 {
        fs::write(src.join(format!("{number:04}")), noise(number, 20_000)).unwrap();
    }
    fs::write(src.join("growing"), noise(1, 8 << 20)).unwrap();
    let stop = AtomicBool::new(false);
    let mut seen = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0u64;
            while !stop.load(Ordering::SeqCst) {
                round += 1;
                let mut file =
                    fs::OpenOptions::new().append(true).open(src.join("growing")).unwrap();
                std::io::Write::write_all(&mut file, &noise(round, 3000)).unwrap();
                // Names come and go faster than they can be read.
                for number in (0..400).step_by(7) {
                    let path = src.join(format!("{number:04}"));
                    let _ = fs::remove_file(&path);
                    let _ = fs::write(&path, noise(round, 10_000));
                }
            }
        });
        for _ in 0..10 {
            let ran = sandbox.run(&["backup", "demo/files", "--kind", "full", "--output", "json"]);
            if ran.code != 0 {
                stop.store(true, Ordering::SeqCst);
                panic!("{}", ran.stderr);
            }
            let counts = &ran.json()["backups"][0]["counts"];
            seen.0 += counts["changed"].as_u64().unwrap();
            seen.1 += counts["vanished"].as_u64().unwrap();
            if seen.0 > 0 && seen.1 > 0 {
                break;
            }
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert!(seen.0 > 0, "a file that grew all the time was never seen to change");
    // Whatever was caught, content and digest agree.
    sandbox.run(&["verify", "--depth", "content"]).expect(0);
    // And an entry that changed is stored again.
    let next = sandbox.backup_json(&[]);
    assert_eq!(next["counts"]["changed"], 0);
    sandbox.restore("out", &[]);
    assert_same_tree(&src, &sandbox.path("out"));
}

#[test]
fn what_cannot_be_read_fails_the_backup_and_is_named() {
    for (name, mode) in [("secret", 0o600), ("locked", 0o700)] {
        let sandbox = Sandbox::ready(false);
        let src = sandbox.path("src");
        fs::write(src.join("secret"), "x").unwrap();
        fs::create_dir(src.join("locked")).unwrap();
        let open = Command::new("chmod").args(["-R", "a+rwX"]).arg(sandbox.root()).status();
        assert!(open.unwrap().success());
        let mode = if is_root() { mode } else { 0 };
        fs::set_permissions(src.join(name), fs::Permissions::from_mode(mode)).unwrap();
        let mut command = sandbox.command(&["backup", "demo/files"]);
        if is_root() {
            as_nobody(&mut command);
        }
        let ran = Ran::from(&command.output().unwrap()).expect(1);
        assert!(ran.stderr.contains(&format!("`{name}`")), "{}", ran.stderr);
        assert!(ran.stderr.contains("exclude"), "a hint: {}", ran.stderr);
        assert_eq!(sandbox.listed(), 0);
        fs::set_permissions(src.join(name), fs::Permissions::from_mode(0o700)).unwrap();
    }
}

const SECRETS: &str = "  keys: { secrets: { TOKEN: \"${env:BACKSTAY_TEST_TOKEN}\" } }\n";
const VALUE: &str = "correct horse battery staple";

#[test]
fn secrets_only_go_into_an_encrypted_repository() {
    let sandbox = Sandbox::ready(false);
    sandbox.write_policy(false, SECRETS);
    let mut command = sandbox.command(&["backup", "demo/keys"]);
    let ran = Ran::from(&command.env("BACKSTAY_TEST_TOKEN", VALUE).output().unwrap()).expect(3);
    assert!(ran.stderr.contains("repository `main` is not encrypted"), "{}", ran.stderr);
    assert!(!ran.stderr.contains(VALUE) && !ran.stdout.contains(VALUE));
    assert!(sandbox.objects().iter().all(|path| !path.to_string_lossy().contains("commits")));
}

#[test]
fn secrets_come_back_prove_themselves_and_are_shown_nowhere() {
    if !has_tools(&["age"]) {
        return;
    }
    let sandbox = Sandbox::ready(true);
    sandbox.write_policy(true, SECRETS);
    let run = |args: &[&str], value: &str| {
        let mut command = sandbox.command(args);
        let ran = Ran::from(&command.env("BACKSTAY_TEST_TOKEN", value).output().unwrap()).expect(0);
        assert!(!ran.stdout.contains(VALUE) && !ran.stderr.contains(VALUE), "{args:?}");
        ran
    };
    run(&["backup", "demo/keys", "--verbose"], VALUE);
    let ls = run(&["ls", "demo/keys", "--output", "json"], VALUE);
    assert!(ls.stdout.contains("TOKEN"));
    let restore = |out: &str, value: &str| {
        run(&["restore", "demo/keys", "--to", out, "--identity", "recovery.key"], value)
    };
    let ran = restore("same", VALUE);
    assert!(ran.stderr.contains("holds the value that was backed up"), "{}", ran.stderr);
    assert_eq!(fs::read_to_string(sandbox.path("same/TOKEN")).unwrap(), VALUE);
    let mode = fs::metadata(sandbox.path("same/TOKEN")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let ran = restore("other", "another value");
    assert!(ran.stderr.contains("holds ANOTHER value"), "{}", ran.stderr);
    run(&["verify", "demo/keys", "--depth", "content", "--identity", "recovery.key"], VALUE);
    // Neither the bytes stored nor what a backup host can open has the value or its plain digest.
    let digest = backstay::archive::digest::sha256_hex(VALUE.as_bytes());
    let has = |bytes: &[u8], what: &str| {
        bytes.windows(what.len()).any(|window| window == what.as_bytes())
    };
    for object in sandbox.objects() {
        let bytes = fs::read(sandbox.path("repo").join(&object)).unwrap();
        assert!(!has(&bytes, VALUE) && !has(&bytes, &digest), "{}", object.display());
        let name = object.to_string_lossy().into_owned();
        if name.contains("/index.") {
            let opened = Command::new("age")
                .args(["-d", "-i"])
                .arg(sandbox.path("writer.key"))
                .arg(sandbox.path("repo").join(&object))
                .output()
                .unwrap();
            assert!(opened.status.success(), "the writer identity opens an index");
            let plain = zstd::stream::decode_all(&opened.stdout[..]).unwrap();
            assert!(has(&plain, "TOKEN") && has(&plain, "hmac-sha256:"));
            assert!(!has(&plain, VALUE) && !has(&plain, &digest));
        }
    }
}

#[test]
fn a_dry_run_runs_no_command_and_stores_nothing() {
    let sandbox = Sandbox::new();
    let marker = sandbox.path("it ran");
    let line =
        format!("  dump: {{ command: {{ shell: \"echo x; touch '{}'\" }} }}\n", marker.display());
    sandbox.write_policy(false, &line);
    sandbox.run(&["init"]).expect(0);
    let before = sandbox.objects();
    sandbox.run(&["backup", "--dry-run"]).expect(0);
    assert_eq!(sandbox.objects(), before);
    assert!(!marker.exists());
}

#[test]
fn what_a_command_leaves_running_is_not_waited_for() {
    let sandbox = Sandbox::new();
    sandbox.write_policy(
        false,
        "  dump: { command: { shell: \"echo done; sleep 60 > /dev/null &\" } }\n",
    );
    sandbox.run(&["init"]).expect(0);
    let started = std::time::Instant::now();
    sandbox.run(&["backup", "demo/dump"]).expect(0);
    assert!(started.elapsed().as_secs() < 30);
}
