//! Restoring without this program: the repository's own script with standard tools, and a reader
//! that was written from the specification alone.

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{
    Picture, Ran, Sandbox, as_nobody, assert_same_tree, cannot, has_tools, is_root, noise,
    odd_tree, picture, settle,
};

/// What the script may use, beside a shell.
const TOOLS: &[&str] = &[
    "sh",
    "tar",
    "zstd",
    "age",
    "curl",
    "sha256sum",
    "grep",
    "sed",
    "find",
    "readlink",
    "mktemp",
    "rm",
    "cat",
    "id",
    "mkdir",
    "head",
    "tail",
    "sort",
    "tr",
    "dd",
    "stat",
    "chmod",
    "chown",
    "touch",
    "mv",
    "cut",
    "printf",
    "env",
];

/// A full and two incrementals with deletions, odd names, links, holes and large files; each with
/// a copy of what it was made of.
fn three_backups(sandbox: &Sandbox) -> Vec<(String, PathBuf)> {
    const SMALL: [&str; 4] = ["--large-file", "100000", "--segment-size", "20000"];
    let src = sandbox.path("src");
    odd_tree(&src);
    fs::write(src.join("large \\ one"), noise(1, 5 << 20)).unwrap();
    fs::hard_link(src.join("large \\ one"), src.join("dir/large too")).unwrap();
    let sparse = fs::File::create(src.join("large-sparse")).unwrap();
    sparse.set_len(12 << 20).unwrap();
    sparse.write_all_at(&noise(2, 200_000), 6 << 20).unwrap();
    settle();
    let mut made = Vec::new();
    for round in 0..3 {
        match round {
            1 => {
                fs::remove_file(src.join("many/03/file-0003.bin")).unwrap();
                fs::remove_file(src.join("dir/new\nline")).unwrap();
                fs::remove_file(src.join("dir/*?[glob]")).unwrap();
                fs::write(src.join("plain.txt"), "changed through one name").unwrap();
                fs::write(src.join("dir/ends in space"), "not the other").unwrap();
            }
            2 => {
                fs::remove_dir_all(src.join("many/05")).unwrap();
                fs::rename(src.join("many/07"), src.join("many/moved")).unwrap();
                fs::remove_file(src.join("dir/ends in space ")).unwrap();
                fs::write(src.join("-starts-with-dash"), "again").unwrap();
                fs::remove_file(src.join("large-sparse")).unwrap();
            }
            _ => {}
        }
        let id = sandbox.backup(&SMALL);
        let copy = sandbox.path(format!("copy-{round}"));
        let copied = Command::new("cp").arg("-a").arg(&src).arg(&copy).status().unwrap();
        assert!(copied.success());
        made.push((id, copy));
    }
    made
}

/// A directory with links to nothing but the tools needed.
fn tools_only(sandbox: &Sandbox) -> PathBuf {
    let bin = sandbox.path("bin");
    fs::create_dir(&bin).unwrap();
    for tool in TOOLS {
        let found = std::env::split_paths(&std::env::var_os("PATH").unwrap())
            .map(|path| path.join(tool))
            .find(|path| path.exists())
            .unwrap();
        symlink(found, bin.join(tool)).unwrap();
    }
    bin
}

/// Runs the repository's script as an unprivileged user.
fn by_hand(sandbox: &Sandbox, bin: &Path, args: &[&str]) -> Ran {
    let mut command = Command::new(bin.join("sh"));
    command
        .arg(sandbox.path("restore.sh"))
        .args(args)
        .env_clear()
        .env("PATH", bin)
        .env("TMPDIR", sandbox.path("tmp"))
        .current_dir(sandbox.path("work"));
    if is_root() {
        as_nobody(&mut command);
    }
    Ran::from(&command.output().unwrap())
}

/// Makes everything readable for, and `work` and `tmp` belong to, the unprivileged user.
fn open_up(sandbox: &Sandbox) {
    sandbox.open_to_all();
    for name in ["work", "tmp"] {
        fs::create_dir_all(sandbox.path(name)).unwrap();
        fs::set_permissions(sandbox.path(name), fs::Permissions::from_mode(0o777)).unwrap();
    }
    fs::copy(sandbox.path("repo/restore.sh"), sandbox.path("restore.sh")).unwrap();
    for name in ["repo", "restore.sh", "recovery.key"] {
        let opened = Command::new("chmod").args(["-R", "a+rX"]).arg(sandbox.path(name)).status();
        assert!(opened.unwrap().success());
    }
}

/// Content, names, links, times and permissions; an unprivileged user gets no owners, devices or
/// privileged attributes back.
fn assert_same_for_nobody(expected: &Path, found: &Path) {
    let plain = |(path, mut picture): (Vec<u8>, Picture)| {
        picture.owner = (0, 0);
        picture.mode &= 0o777;
        picture.xattrs.clear();
        (picture.kind != "device").then_some((path, picture))
    };
    let expected: Vec<_> = picture(expected).into_iter().filter_map(plain).collect();
    let found: Vec<_> = picture(found).into_iter().filter_map(plain).collect();
    let names = |all: &[(Vec<u8>, Picture)]| -> Vec<String> {
        all.iter().map(|(path, _)| String::from_utf8_lossy(path).into_owned()).collect()
    };
    assert_eq!(names(&expected), names(&found));
    for ((path, expected), (_, found)) in expected.iter().zip(&found) {
        let name = String::from_utf8_lossy(path);
        assert!(expected.content == found.content, "{name} has other content");
        assert_eq!(expected.kind, found.kind, "{name}");
        assert_eq!(expected.mode, found.mode, "{name}");
        assert_eq!(expected.links, found.links, "{name}");
        assert_eq!(expected.mtime, found.mtime, "{name}");
    }
}

/// A web server over a directory, stopped when it is dropped.
struct Web(Child, u16);

impl Web {
    fn over(directory: &Path) -> Option<Self> {
        let port = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        let child = Command::new("python3")
            .args(["-m", "http.server", "--bind", "127.0.0.1", &port.to_string()])
            .current_dir(directory)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let web = Self(child, port);
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            if start.elapsed() > Duration::from_secs(20) {
                cannot("python3's web server does not answer");
                return None;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(web)
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn every_backup_restores_with_standard_tools_from_a_directory_and_over_http() {
    if !has_tools(TOOLS) || !has_tools(&["python3"]) {
        return;
    }
    for encrypted in [false, true] {
        let sandbox = Sandbox::ready(encrypted);
        let made = three_backups(&sandbox);
        open_up(&sandbox);
        let bin = tools_only(&sandbox);
        let Some(web) = Web::over(&sandbox.path("repo")) else { return };
        let url = format!("http://127.0.0.1:{}", web.1);
        let local = sandbox.path("repo").display().to_string();
        let key = sandbox.path("recovery.key").display().to_string();
        for (round, (id, copy)) in made.iter().enumerate() {
            // The newest over both ways, the others over one each.
            let ways = match round {
                0 => vec![&local],
                1 => vec![&url],
                _ => vec![&local, &url],
            };
            for (way, place) in ways.into_iter().enumerate() {
                let target = format!("{id}-{way}");
                let mut args = vec![place.as_str(), "demo/files", id, &target];
                if encrypted {
                    args.splice(0..0, ["-i", key.as_str()]);
                }
                let ran = by_hand(&sandbox, &bin, &args);
                // Devices cannot be made by nobody: the script says so and ends with 1.
                assert_eq!(ran.code, i32::from(is_root()), "{}", ran.stderr);
                if is_root() {
                    assert!(ran.stderr.contains("null-device"), "{}", ran.stderr);
                }
                assert_same_for_nobody(copy, &sandbox.path("work").join(target));
            }
        }
    }
}

#[test]
fn as_root_the_script_brings_owners_devices_and_attributes_back_too() {
    if !has_tools(TOOLS) || !crate::common::has_root() {
        return;
    }
    let sandbox = Sandbox::ready(true);
    let made = three_backups(&sandbox);
    for (id, copy) in made {
        let out = sandbox.path(format!("out-{id}"));
        let ran = Command::new("sh")
            .arg(sandbox.path("repo/restore.sh"))
            .arg("-i")
            .arg(sandbox.path("recovery.key"))
            .arg(sandbox.path("repo"))
            .args(["demo/files", &id])
            .arg(&out)
            .output()
            .unwrap();
        Ran::from(&ran).expect(0);
        assert_same_tree(&copy, &out);
    }
}

#[test]
fn a_stream_restores_with_standard_tools() {
    if !has_tools(TOOLS) {
        return;
    }
    for encrypted in [false, true] {
        let sandbox = Sandbox::ready(encrypted);
        sandbox.write_policy(encrypted, "  dump: { command: { argv: [cat, input] } }\n");
        let input = noise(7, 9 << 20);
        fs::write(sandbox.path("input"), &input).unwrap();
        sandbox.run(&["backup", "demo/dump", "--segment-size", "3000000"]).expect(0);
        open_up(&sandbox);
        let bin = tools_only(&sandbox);
        let repo = sandbox.path("repo").display().to_string();
        let key = sandbox.path("recovery.key").display().to_string();
        let mut args = vec![repo.as_str(), "demo/dump", "latest", "dumped"];
        if encrypted {
            args.splice(0..0, ["-i", key.as_str()]);
        }
        by_hand(&sandbox, &bin, &args).expect(0);
        assert!(fs::read(sandbox.path("work/dumped")).unwrap() == input);
    }
}

#[test]
fn the_script_refuses_damage_and_a_missing_key() {
    if !has_tools(TOOLS) {
        return;
    }
    let sandbox = Sandbox::ready(true);
    fs::write(sandbox.path("src/file"), noise(1, 5000)).unwrap();
    let id = sandbox.backup(&[]);
    open_up(&sandbox);
    let bin = tools_only(&sandbox);
    let repo = sandbox.path("repo").display().to_string();
    let key = sandbox.path("recovery.key").display().to_string();
    let ran = by_hand(&sandbox, &bin, &[&repo, "demo/files", &id, "a"]).expect(1);
    assert!(ran.stderr.contains("give the recovery identity"), "{}", ran.stderr);
    let segment = sandbox.path(format!("repo/demo/sources/files/data/{id}/000001.tar.zst.age"));
    let mut bytes = fs::read(&segment).unwrap();
    bytes[300] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let ran = by_hand(&sandbox, &bin, &["-i", &key, &repo, "demo/files", &id, "b"]).expect(1);
    assert!(ran.stderr.contains("damaged object"), "{}", ran.stderr);
    assert!(!sandbox.path("work/b/file").exists());
}

#[test]
fn a_reader_written_from_the_specification_agrees() {
    if !has_tools(&["python3", "zstd", "age"]) {
        return;
    }
    let reader = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/foreign/reader.py");
    for encrypted in [false, true] {
        let sandbox = Sandbox::ready(encrypted);
        let mut made = three_backups(&sandbox);
        // An unchanged one shares everything.
        settle();
        sandbox.backup(&["--large-file", "100000"]);
        let unchanged = sandbox.backup(&["--large-file", "100000"]);
        made.push((unchanged, sandbox.path("src")));
        for (id, copy) in &made {
            let out = sandbox.path(format!("out-{id}"));
            let run = |verb: &str| {
                let mut command = Command::new("python3");
                command.arg(reader).arg(verb).arg(sandbox.path("repo")).args(["demo/files", id]);
                if verb == "restore" {
                    command.arg(&out);
                }
                if encrypted {
                    command.arg("--identity").arg(sandbox.path("recovery.key"));
                }
                Ran::from(&command.arg("--small-slices").output().unwrap()).expect(0)
            };
            run("verify");
            run("restore");
            assert_same_tree(copy, &out);
        }
    }
}
