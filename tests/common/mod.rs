//! What integration tests share: a sandbox with keys, a policy and a repository, trees with
//! everything a file system knows, and a picture of a tree to compare.

#![allow(dead_code, clippy::unwrap_used, missing_docs)]

pub mod azurite;
pub mod chaos;
pub mod conformance;
pub mod daemon;
pub mod doctor;
pub mod faulty;
pub mod many;
pub mod moto;
pub mod mysql;
pub mod pair;
pub mod playbook;
pub mod postgres;
pub mod s3;
pub mod starrocks;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The binary under test.
pub const BACKSTAY: &str = env!("CARGO_BIN_EXE_backstay");

/// What a command did.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn from(output: &Output) -> Self {
        Self {
            // A process that was killed by a signal has the shell's code for it.
            code: output.status.code().unwrap_or_else(|| {
                128 + std::os::unix::process::ExitStatusExt::signal(&output.status).unwrap_or(0)
            }),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Asserts the exit code and shows everything if it is another.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "\nstdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}:\n{}\n{}", self.stdout, self.stderr))
    }
}

/// A directory of its own with keys, a policy and room for a repository.
pub struct Sandbox {
    dir: tempfile::TempDir,
    pub public: String,
}

impl Sandbox {
    /// Keys, and a policy with one stack `demo`, one local repository `main` and one source
    /// `files` that is the directory `src`. The repository is not created yet.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut sandbox = Self { dir, public: String::new() };
        fs::create_dir(sandbox.path("src")).unwrap();
        sandbox.public = sandbox
            .run_bare(&["key", "generate", "--out", "recovery.key"])
            .expect(0)
            .stdout
            .trim()
            .into();
        sandbox.run_bare(&["key", "generate", "--out", "writer.key"]).expect(0);
        sandbox.write_policy(true, "");
        sandbox
    }

    /// A sandbox whose repository exists.
    pub fn ready(encrypted: bool) -> Self {
        let sandbox = Self::new();
        sandbox.write_policy(encrypted, "");
        sandbox.run(&["init"]).expect(0);
        sandbox
    }

    /// Writes the policy; `sources` are further lines below `sources:`, indented by two.
    pub fn write_policy(&self, encrypted: bool, sources: &str) {
        let encryption = if encrypted {
            format!(
                "\n    encryption: {{ recipients: [{}], writer_identity: \"${{file:{}}}\" }}",
                self.public,
                self.path("writer.key").display()
            )
        } else {
            String::new()
        };
        let text = format!(
            "version: 1\nstack: demo\ntier: development\ntimezone: UTC\nrepositories:\n  main:\n    \
             local: {{ path: {repo} }}{encryption}\nsources:\n  files: {{ directory: {{ path: {src} \
             }} }}\n{sources}jobs:\n  daily: {{ sources: all, kind: incremental, schedule: {{ cron: \
             \"0 3 * * *\" }}, keep: {{ for: 7d, at_least: 3 }} }}\n",
            repo = self.path("repo").display(),
            src = self.path("src").display(),
        );
        fs::write(self.path("policy.yaml"), text).unwrap();
    }

    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A command with the sandbox as its directory and the policy in its environment.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.bare(args);
        command.env("BACKSTAY_POLICY", self.path("policy.yaml"));
        command
    }

    /// A command with the sandbox as its directory and no policy.
    pub fn bare(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BACKSTAY);
        command
            .args(args)
            .current_dir(self.root())
            .env_remove("BACKSTAY_POLICY")
            .env_remove("BACKSTAY_IDENTITY")
            .env("BACKSTAY_STATE_DIR", self.path("state"))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::from(&self.command(args).output().unwrap())
    }

    pub fn run_bare(&self, args: &[&str]) -> Ran {
        Ran::from(&self.bare(args).output().unwrap())
    }

    /// Backs `demo/files` up and returns the backup's id.
    #[track_caller]
    pub fn backup(&self, more: &[&str]) -> String {
        let mut args = vec!["backup", "demo/files"];
        args.extend(more);
        let ran = self.run(&args).expect(0);
        ran.stdout.trim().rsplit('@').next().unwrap().to_owned()
    }

    /// Runs with the recovery identity.
    pub fn run_with_key(&self, args: &[&str]) -> Ran {
        let mut args = args.to_vec();
        args.extend(["--identity", "recovery.key"]);
        self.run(&args)
    }

    /// All regular files below `repo`, relative, sorted.
    pub fn objects(&self) -> Vec<PathBuf> {
        self.objects_in("repo")
    }

    /// All regular files below a directory of the sandbox, relative to it, sorted.
    pub fn objects_in(&self, directory: &str) -> Vec<PathBuf> {
        let root = self.path(directory);
        let mut found = Vec::new();
        let mut todo = vec![root.clone()];
        while let Some(directory) = todo.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    todo.push(path);
                } else {
                    found.push(path.strip_prefix(&root).unwrap().to_path_buf());
                }
            }
        }
        found.sort();
        found
    }
}

/// Whether there is time for the whole of long tables (`make soak`), or a part of each has to do.
pub fn thorough() -> bool {
    std::env::var_os("BACKSTAY_SOAK").is_some()
}

/// Whether tests run as root: owners, devices and some attributes need it.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Fills `root` with everything a file system knows. Files are old enough not to be racy.
pub fn odd_tree(root: &Path) {
    let write = |name: &[u8], content: &[u8]| {
        let path = root.join(OsStr::from_bytes(name));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
    };
    write(b"plain.txt", b"plain\n");
    write(b"empty", b"");
    write(b"dir/with space/and 'quotes' \"\\back\\slash", b"odd name");
    write(b"dir/*?[glob]", b"glob characters");
    write(b"dir/new\nline", b"a name with a line break");
    write(b"dir/ends in space ", b"awkward for lists");
    write(b"dir/\xff\xfenot utf-8", b"bytes");
    write("dir/unicode-\u{4e2d}\u{6587}-\u{e9}".as_bytes(), b"unicode");
    write(b"-starts-with-dash", b"dash");
    write(b"!bang", b"sorts before dot");
    for number in 0..200u32 {
        let content: Vec<u8> =
            (0..number * 37).map(|i| (i.wrapping_mul(number + 7) >> 3) as u8).collect();
        write(format!("many/{:02}/file-{number:04}.bin", number % 17).as_bytes(), &content);
    }
    fs::create_dir_all(root.join("empty-dir/below")).unwrap();
    symlink("../plain.txt", root.join("dir/link")).unwrap();
    symlink("/nowhere/at all", root.join("dangling")).unwrap();
    fs::hard_link(root.join("plain.txt"), root.join("dir/hard")).unwrap();
    fs::hard_link(root.join("plain.txt"), root.join("zz-hard")).unwrap();
    let deep = format!("deep/{}", "0123456789abcdef/".repeat(120));
    fs::create_dir_all(root.join(&deep)).unwrap();
    fs::write(root.join(deep).join("bottom"), b"deep").unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(9 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"in the middle", 5 << 20).unwrap();
    fs::set_permissions(root.join("empty"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(root.join("empty-dir"), fs::Permissions::from_mode(0o2500)).unwrap();
    let _ = rustix::fs::setxattr(
        root.join("plain.txt"),
        "user.note",
        b"bin\0ary\n",
        rustix::fs::XattrFlags::empty(),
    );
    if is_root() {
        std::os::unix::fs::chown(root.join("!bang"), Some(12345), Some(54321)).unwrap();
        std::os::unix::fs::lchown(root.join("dangling"), Some(7), Some(8)).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.join("null-device"),
            rustix::fs::FileType::CharacterDevice,
            rustix::fs::Mode::from_raw_mode(0o666),
            rustix::fs::makedev(1, 3),
        )
        .unwrap();
    }
    let old = |path: &Path, seconds: i64, nanos: i64| {
        let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanos };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            .unwrap();
    };
    old(&root.join("plain.txt"), 1_700_000_000, 123_456_789);
    old(&root.join("!bang"), -5, 500_000_000);
    old(&root.join("empty-dir"), 1_600_000_000, 1);
    old(&root.join("dangling"), 1_500_000_000, 0);
}

/// What is known of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    pub kind: String,
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: (i64, i64),
    pub content: Vec<u8>,
    pub links: u64,
    pub xattrs: BTreeMap<String, Vec<u8>>,
    pub device: u64,
}

/// Everything below `root`, by relative path; sockets and FIFOs are left out.
pub fn picture(root: &Path) -> BTreeMap<Vec<u8>, Picture> {
    let mut all = BTreeMap::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(path) = todo.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let kind = metadata.file_type();
        if kind.is_fifo() || kind.is_socket() {
            continue;
        }
        let (name, content) = if kind.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            ("dir", Vec::new())
        } else if kind.is_symlink() {
            ("symlink", fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes())
        } else if kind.is_file() {
            ("file", fs::read(&path).unwrap())
        } else {
            ("device", Vec::new())
        };
        let relative = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        all.insert(
            relative,
            Picture {
                kind: name.to_owned(),
                mode: metadata.mode() & 0o7777,
                owner: (metadata.uid(), metadata.gid()),
                mtime: (metadata.mtime(), metadata.mtime_nsec()),
                content,
                links: if kind.is_dir() { 0 } else { metadata.nlink() },
                xattrs: xattrs(&path, kind.is_file() || kind.is_dir()),
                device: metadata.rdev(),
            },
        );
    }
    all
}

fn xattrs(path: &Path, wanted: bool) -> BTreeMap<String, Vec<u8>> {
    if !wanted {
        return BTreeMap::new();
    }
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    names[..length]
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let name = String::from_utf8(name.to_vec()).unwrap();
            let mut value = vec![0; 64 << 10];
            let length = rustix::fs::lgetxattr(path, name.as_str(), &mut value[..]).unwrap();
            value.truncate(length);
            (name, value)
        })
        .collect()
}

/// Asserts that two trees are the same, and names what differs.
#[track_caller]
pub fn assert_same_tree(expected: &Path, found: &Path) {
    let (expected, found) = (picture(expected), picture(found));
    let mut differences = Vec::new();
    for (path, picture) in &expected {
        match found.get(path) {
            None => differences.push(format!("missing: {}", String::from_utf8_lossy(path))),
            Some(other) if other != picture => {
                let brief = |p: &Picture| Picture {
                    content: p.content.iter().take(40).copied().collect(),
                    ..p.clone()
                };
                differences.push(format!(
                    "{}:\n  expected {:?}\n  found    {:?}",
                    String::from_utf8_lossy(path),
                    brief(picture),
                    brief(other)
                ));
            }
            Some(_) => {}
        }
    }
    for path in found.keys().filter(|path| !expected.contains_key(*path)) {
        differences.push(format!("too many: {}", String::from_utf8_lossy(path)));
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// Makes the clock's last two seconds not matter: what was written is not racy after this.
pub fn settle() {
    std::thread::sleep(std::time::Duration::from_millis(3100));
}

/// Waits for a child and shows what it printed.
pub fn finish(child: std::process::Child) -> Ran {
    Ran::from(&child.wait_with_output().unwrap())
}

impl Sandbox {
    /// A sandbox whose policy has only the source `files`, a directory source with these settings.
    pub fn with_files(encrypted: bool, settings: &str) -> Self {
        let sandbox = Self::new();
        sandbox.set_files(encrypted, settings, "");
        sandbox.run(&["init"]).expect(0);
        sandbox
    }

    /// Writes the policy with other settings of the directory source `files`. `SRC` in them is
    /// the sandbox's `src`; `sources` are further lines below `sources:`, indented by two.
    pub fn set_files(&self, encrypted: bool, settings: &str, sources: &str) {
        self.write_policy(encrypted, sources);
        let src = self.path("src").display().to_string();
        let text = fs::read_to_string(self.path("policy.yaml")).unwrap();
        let settings = settings.replace("SRC", &src);
        let text = text.replace(
            &format!("directory: {{ path: {src} }}"),
            &format!("directory: {{ {settings} }}"),
        );
        fs::write(self.path("policy.yaml"), text).unwrap();
    }

    /// Backs `demo/files` up and returns what JSON output says of it.
    #[track_caller]
    pub fn backup_json(&self, more: &[&str]) -> serde_json::Value {
        let mut args = vec!["backup", "demo/files", "--output", "json"];
        args.extend(more);
        let ran = self.run(&args).expect(0);
        ran.json()["backups"][0].clone()
    }

    /// How many backups are listed.
    #[track_caller]
    pub fn listed(&self) -> usize {
        self.run(&["list", "--output", "json"]).expect(0).json().as_array().unwrap().len()
    }

    /// Restores `demo/files` into the directory `out` of the sandbox, with the recovery key.
    #[track_caller]
    pub fn restore(&self, out: &str, more: &[&str]) -> Ran {
        let mut args = vec!["restore", "demo/files", "--to", out];
        args.extend(more);
        self.run_with_key(&args).expect(0)
    }

    /// Lets users other than the tests' own into the sandbox.
    pub fn open_to_all(&self) {
        fs::set_permissions(self.root(), fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// Whether these programs are here. Where `CI` is set a missing one fails the test; elsewhere the
/// test says so and is left.
#[must_use]
pub fn has_tools(tools: &[&str]) -> bool {
    let paths: Vec<PathBuf> =
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    let missing: Vec<&&str> =
        tools.iter().filter(|tool| !paths.iter().any(|path| path.join(tool).exists())).collect();
    missing.is_empty() || cannot(&format!("these programs are missing: {missing:?}"))
}

/// Whether the tests run as root, which this one needs.
#[must_use]
pub fn has_root() -> bool {
    is_root() || cannot("it needs root")
}

/// Says that a test cannot run here; fails it where `CI` is set. Always `false`.
pub fn cannot(why: &str) -> bool {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "this test cannot run: {why}");
    eprintln!("\n*** NOT TESTED: {why} ***\n");
    false
}

/// Makes a command run as the user `nobody`, who owns nothing.
pub fn as_nobody(command: &mut Command) -> &mut Command {
    use std::os::unix::process::CommandExt as _;
    command.uid(65534).gid(65534)
}

/// Sets a file's modification time.
pub fn set_mtime(path: &Path, seconds: i64, nanos: i64) {
    let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
        .unwrap();
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}
