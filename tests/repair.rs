//! Repair from a copy: what was damaged is as it was, byte for byte, and nothing else is touched.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::common::s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};
use crate::common::{Ran, Sandbox, assert_same_tree, noise};

const SOURCE: &str = "demo/sources/files";

/// Two backups that share segments, and a copy of both.
struct Site {
    sandbox: Sandbox,
    /// Where the repository lies.
    repo: PathBuf,
    backups: Vec<String>,
    /// What lies in it, by path.
    sound: BTreeMap<PathBuf, Vec<u8>>,
}

impl Site {
    fn new(encrypted: bool) -> Self {
        let sandbox = Sandbox::new();
        let local = format!("local: {{ path: {} }}", sandbox.path("repo").display());
        let repo = sandbox.path("repo");
        Self::with(sandbox, encrypted, &local, repo)
    }

    fn with(sandbox: Sandbox, encrypted: bool, main: &str, repo: PathBuf) -> Self {
        let encryption = if encrypted {
            let writer = sandbox.path("writer.key").display().to_string();
            let public = &sandbox.public;
            format!(
                "\n    encryption: {{ recipients: [{public}], writer_identity: \"${{file:{writer}}}\" }}"
            )
        } else {
            String::new()
        };
        let text = format!(
            "version: 1\nstack: demo\ntier: development\ntimezone: UTC\nrepositories:\n  main:\n    \
             {main}{encryption}\n  offsite:\n    local: {{ path: {} }}{encryption}\nsources:\n  \
             files: {{ repository: main, directory: {{ path: {} }} }}\njobs:\n  daily: {{ sources: \
             all, kind: incremental, schedule: {{ cron: \"0 3 * * *\" }}, keep: {{ for: 7d, \
             at_least: 3 }} }}\n",
            sandbox.path("offsite").display(),
            sandbox.path("src").display(),
        );
        fs::write(sandbox.path("policy.yaml"), text).unwrap();
        let mut site = Self { sandbox, repo, backups: Vec::new(), sound: BTreeMap::new() };
        site.run(&["init", "main"]).expect(0);
        let src = site.sandbox.path("src");
        for name in ["kept", "gone"] {
            fs::write(src.join(name), name).unwrap();
        }
        fs::write(src.join("large"), noise(1, 12_000)).unwrap();
        crate::common::settle();
        for number in 0..2 {
            fs::write(src.join("changing"), number.to_string()).unwrap();
            let line = ["backup", "demo/files", "--large-file", "10000", "--job", "daily"];
            let ran = site.run(&line).expect(0);
            site.backups.push(ran.stdout.trim().rsplit('@').next().unwrap().to_owned());
            fs::remove_file(src.join("gone")).ok();
        }
        site.run(&["copy", "--to", "offsite", "--repository", "main"]).expect(0);
        site.sound = site.objects();
        site
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.sandbox.command(args);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy().to_lowercase();
            if text.starts_with("aws_") || text.ends_with("_proxy") {
                command.env_remove(name);
            }
        }
        command.env("T_ACCESS", ACCESS_KEY).env("T_SECRET", SECRET_KEY);
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::from(&self.command(args).output().unwrap())
    }

    /// `verify --repair-from offsite`.
    fn repair(&self, more: &[&str]) -> Ran {
        let repair = ["verify", "--repair-from", "offsite", "--identity", "recovery.key"];
        self.run(&[&repair[..], more].concat())
    }

    /// What lies in the repository, but for notes of those who read.
    fn objects(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut todo = vec![self.repo.clone()];
        let mut found = BTreeMap::new();
        while let Some(directory) = todo.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let relative = path.strip_prefix(&self.repo).unwrap().to_owned();
                if path.is_dir() {
                    todo.push(path);
                } else if !relative.to_string_lossy().contains("/hold/") {
                    found.insert(relative, fs::read(&path).unwrap());
                }
            }
        }
        found
    }

    /// What verification may find damaged.
    fn damageable(&self) -> Vec<PathBuf> {
        let is_one = |path: &&PathBuf| path.starts_with(format!("{SOURCE}/data"));
        let found: Vec<PathBuf> = self.sound.keys().filter(is_one).cloned().collect();
        for part in ["SHA256SUMS", "/index.", "/large.", "/dead-", ".tar.", "/000002."] {
            let is = |path: &PathBuf| path.to_string_lossy().contains(part);
            assert!(found.iter().any(is), "there is no {part}: {found:?}");
        }
        found
    }

    fn commit(&self, number: usize) -> PathBuf {
        format!("{SOURCE}/commits/{}.json", self.backups[number]).into()
    }

    fn is_as_it_was(&self) {
        assert!(self.objects() == self.sound, "the repository is not as it was");
    }
}

fn alter(root: &Path, path: &Path) {
    let path = root.join(path);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn cut(root: &Path, path: &Path) {
    let bytes = fs::read(root.join(path)).unwrap();
    fs::write(root.join(path), &bytes[..bytes.len() - 1]).unwrap();
}

fn remove(root: &Path, path: &Path) {
    fs::remove_file(root.join(path)).unwrap();
}

const WAYS: [fn(&Path, &Path); 3] = [alter, cut, remove];

fn name_of(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

#[test]
fn whatever_is_damaged_is_as_it_was() {
    for encrypted in [true, false] {
        let site = Site::new(encrypted);
        for (number, object) in site.damageable().iter().enumerate() {
            WAYS[number % 3](&site.repo, object);
            let depth = if number % 2 == 0 { "stored" } else { "content" };
            let ran = site.repair(&["--depth", depth]).expect(0);
            let told = ran.stdout.lines().find(|line| line.starts_with("repaired")).unwrap();
            assert!(told.contains(name_of(object)) && told.contains("offsite"), "{told}");
            assert!(ran.stdout.contains("DAMAGED") && ran.stdout.contains("sound"), "{told}");
            site.is_as_it_was();
        }
        // Everything at once, of one repository by its path.
        for (number, object) in site.damageable().iter().enumerate() {
            WAYS[number % 3](&site.repo, object);
        }
        let offsite = site.sandbox.path("offsite").display().to_string();
        let args = ["verify", "--depth", "content", "--repair-from", &offsite];
        let args = [&args[..], &["--identity", "recovery.key"]].concat();
        let ran = site.run(&args).expect(0);
        let repaired = ran.stdout.lines().filter(|line| line.starts_with("repaired")).count();
        assert_eq!(repaired, site.damageable().len(), "{}", ran.stdout);
        site.is_as_it_was();
        let nothing = site.repair(&[]).expect(0);
        assert!(!nothing.stdout.contains("repaired"), "{}", nothing.stdout);
        site.run(&["restore", "demo/files", "--to", "out", "--identity", "recovery.key"]).expect(0);
        assert_same_tree(&site.sandbox.path("src"), &site.sandbox.path("out"));
    }
}

#[test]
fn manifests_that_cannot_be_read_are_fetched() {
    for (encrypted, broken) in [(true, "{"), (false, ""), (false, "{\"backstay_manifest\": 1}")] {
        let site = Site::new(encrypted);
        let write = |number: usize| fs::write(site.repo.join(site.commit(number)), broken).unwrap();
        write(0);
        write(1);
        // What the backup lost as well is found once its manifest can be read.
        let object = site.damageable().into_iter().find(|path| name_of(path) == "SHA256SUMS");
        remove(&site.repo, &object.unwrap());
        let before = site.objects();
        let plan = site.repair(&["--dry-run"]).expect(5);
        assert_eq!(plan.stdout.matches("would fetch").count(), 3, "{}", plan.stdout);
        assert!(site.objects() == before, "a dry run repairs nothing");
        let ran = site.repair(&[]).expect(0);
        assert_eq!(ran.stdout.matches("repaired ").count(), 3, "{}", ran.stdout);
        site.is_as_it_was();
        // Named, as the newest and by its id.
        for (number, wanted) in
            [(1, "demo/files"), (0, &*format!("demo/files@{}", site.backups[0]))]
        {
            write(number);
            let ran = site.repair(&[wanted]).expect(0);
            assert!(ran.stdout.contains(name_of(&site.commit(number))), "{}", ran.stdout);
            site.is_as_it_was();
        }
        // Another one's damage is nobody's business who did not ask for it.
        write(0);
        site.repair(&[&site.backups[1]]).expect(0);
        assert_eq!(fs::read_to_string(site.repo.join(site.commit(0))).unwrap(), broken);
    }
}

#[test]
fn a_manifest_that_differs_is_no_authority() {
    let site = Site::new(true);
    let path = site.repo.join(site.commit(1));
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest["segments"][0]["sha256"] = Value::from("0".repeat(64));
    fs::write(&path, serde_json::to_vec(&manifest).unwrap()).unwrap();
    let before = site.objects();
    let ran = site.repair(&[]).expect(5);
    assert!(ran.stdout.contains("differ, and one of them was altered"), "{}", ran.stdout);
    assert!(site.objects() == before, "nothing is touched");
    let ran = site.run(&["verify", "--repository", "main", "--budget", "1GiB"]).expect(5);
    assert!(ran.stderr.contains("has another digest of"), "{}", ran.stderr);
}

#[test]
fn what_is_bad_in_the_copy_as_well_is_left() {
    for way in WAYS {
        let site = Site::new(true);
        let objects = site.damageable();
        let (bad, good) = (&objects[0], &objects[1]);
        alter(&site.repo, bad);
        remove(&site.repo, good);
        way(&site.sandbox.path("offsite"), bad);
        let damaged = fs::read(site.repo.join(bad)).unwrap();
        let ran = site.repair(&[]).expect(5);
        let lost = format!("lost     demo/files {}", bad.strip_prefix(SOURCE).unwrap().display());
        assert!(ran.stdout.contains(&lost), "{}", ran.stdout);
        let why = if site.sandbox.path("offsite").join(bad).exists() { "as well" } else { "none" };
        let told = ran.stdout.lines().find(|line| line.contains(&lost)).unwrap();
        assert!(told.ends_with(why), "{told}");
        assert!(
            ran.stderr.contains("1 object could not be repaired from offsite"),
            "{}",
            ran.stderr
        );
        assert_eq!(fs::read(site.repo.join(bad)).unwrap(), damaged, "it is not touched");
        assert_eq!(fs::read(site.repo.join(good)).unwrap(), site.sound[good], "the other is whole");
        assert_eq!(site.objects().len(), site.sound.len(), "nothing lies there that did not");
        let plan = site.repair(&["--dry-run", "--output", "json"]).expect(5).json();
        let result = |line: &Value| line["result"].as_str().unwrap().to_owned();
        let results: Vec<String> = plan["repairs"].as_array().unwrap().iter().map(result).collect();
        assert!(results.iter().all(|r| r == "altered_there" || r == "not_there"), "{results:?}");
    }
}

#[test]
fn a_dry_run_says_what_it_would_fetch() {
    let site = Site::new(true);
    for object in site.damageable().iter().take(3) {
        alter(&site.repo, object);
    }
    let before = site.objects();
    let plan = site.repair(&["--dry-run", "--output", "json"]).expect(5).json();
    assert_eq!((&plan["dry_run"], &plan["repair_from"]), (&true.into(), &"offsite".into()));
    let planned: Vec<&Value> = plan["repairs"].as_array().unwrap().iter().collect();
    assert!(planned.iter().all(|line| line["result"] == "would_fetch"), "{plan}");
    assert!(site.objects() == before, "nothing is repaired");
    let done = site.repair(&["--output", "json"]).expect(0).json();
    let objects = |all: &Value| {
        let object = |line: &Value| line["object"].as_str().unwrap().to_owned();
        all["repairs"].as_array().unwrap().iter().map(object).collect::<Vec<String>>()
    };
    assert_eq!(objects(&plan), objects(&done), "what was planned is what is done");
    assert_eq!(done["reports"].as_array().unwrap().len(), 2);
    site.is_as_it_was();
}

#[test]
fn keys_that_are_gone_are_fetched() {
    let site = Site::new(true);
    let is_wrap = |path: &&PathBuf| path.starts_with("keys") && name_of(path).ends_with(".age");
    let wrap = site.sound.keys().find(is_wrap).unwrap();
    remove(&site.repo, wrap);
    let ran = site.repair(&["--depth", "content"]).expect(0);
    assert!(ran.stdout.contains(&format!("repaired demo/files {}", wrap.display())));
    site.is_as_it_was();
}

#[test]
fn what_is_no_copy_is_refused() {
    for encrypted in [true, false] {
        let site = Site::new(encrypted);
        alter(&site.repo, &site.damageable()[0]);
        let before = site.objects();
        let other = Site::new(encrypted);
        let plain = Site::new(!encrypted);
        for (stranger, code, why) in [
            (other.repo.display().to_string(), 1, "holds no copy of"),
            (plain.repo.display().to_string(), 1, "encrypted"),
            (site.repo.display().to_string(), 2, "from itself"),
            ("offsit".to_owned(), 2, "offsite"),
            ("./nothing".to_owned(), 1, "there is no repository"),
        ] {
            let args = ["verify", "--repository", "main", "--repair-from", &stranger];
            let ran = site.run(&args).expect(code);
            assert!(ran.stderr.contains(why), "{stranger}: {}", ran.stderr);
            assert!(site.objects() == before, "{stranger}: nothing is touched");
        }
        let itself = site.run(&["verify", "--repository", "main", "--repair-from", "main"]);
        assert!(itself.expect(2).stderr.contains("from itself"));
        // A copy made behind everybody's back has the same name, and is as good.
        let (from, to) = (site.sandbox.path("offsite"), site.sandbox.path("moved"));
        assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
        let url = site.repo.display().to_string();
        site.sandbox
            .run_bare(&["verify", "--repository", &url, "--repair-from", "moved"])
            .expect(0);
        site.is_as_it_was();
    }
}

#[test]
fn killed_in_the_middle_nothing_is_half_replaced() {
    for name in ["copy.proven", "repair.object"] {
        let site = Site::new(true);
        let src = site.sandbox.path("src");
        // More than one part of an upload.
        fs::write(src.join("in-parts"), noise(7, 20 << 20)).unwrap();
        site.run(&["backup", "demo/files", "--job", "daily", "--kind", "full"]).expect(0);
        site.run(&["copy", "--to", "offsite", "--repository", "main"]).expect(0);
        let site = Site { sound: site.objects(), ..site };
        let mut sizes: Vec<(usize, &PathBuf)> =
            site.sound.iter().map(|(path, bytes)| (bytes.len(), path)).collect();
        sizes.sort_unstable();
        let (size, large) = sizes.pop().unwrap();
        assert!(size > 16 << 20);
        let small = &site.damageable()[0];
        alter(&site.repo, large);
        cut(&site.repo, small);
        let before = site.objects();
        let args = ["verify", "--repair-from", "offsite"];
        let killed = site.command(&args).env("BACKSTAY_FAILPOINT", name).output().unwrap();
        assert_eq!(Ran::from(&killed).code, 128 + 9, "{name} was not reached");
        for (path, bytes) in site.objects() {
            // What nobody ever lists.
            if name_of(&path).contains('#') {
                continue;
            }
            let whole = bytes == site.sound[&path];
            assert!(whole || bytes == before[&path], "{name}: {} is half", path.display());
        }
        site.repair(&["--depth", "content"]).expect(0);
        let mut after = site.objects();
        after.retain(|path, _| !name_of(path).contains('#'));
        assert!(after == site.sound, "{name}");
    }
}

#[test]
fn a_bucket_is_repaired_from_a_directory_and_back() {
    let server = S3Server::start();
    let sandbox = Sandbox::new();
    let main = format!(
        "s3: {{ bucket: {BUCKET}, prefix: main, endpoint: \"{}\", region: us-east-1, allow_http: \
         true, access_key_id: \"${{env:T_ACCESS}}\", secret_access_key: \"${{env:T_SECRET}}\" }}",
        server.endpoint()
    );
    let repo = server.root.path().join(BUCKET).join("main");
    let site = Site::with(sandbox, true, &main, repo);
    for (number, object) in site.damageable().iter().enumerate() {
        WAYS[number % 3](&site.repo, object);
    }
    fs::write(site.repo.join(site.commit(0)), "{").unwrap();
    site.repair(&["--depth", "content"]).expect(0);
    site.is_as_it_was();
    let offsite = site.sandbox.path("offsite");
    for (number, object) in site.damageable().iter().enumerate() {
        WAYS[number % 3](&offsite, object);
    }
    let back = ["verify", "--repository", "offsite", "--repair-from", "main"];
    site.run(&back).expect(0);
    for object in site.damageable() {
        assert_eq!(fs::read(offsite.join(&object)).unwrap(), site.sound[&object]);
    }
}

#[test]
fn what_was_repaired_is_remembered_as_proven() {
    let site = Site::new(false);
    alter(&site.repo, &site.damageable()[0]);
    let budget = ["verify", "--repository", "main", "--budget", "1GiB"];
    site.run(&budget).expect(5);
    site.repair(&[]).expect(0);
    let told = site.run(&[&budget[..4], &["1B", "--dry-run"]].concat()).expect(0);
    assert!(told.stdout.contains("100 % within") && !told.stdout.contains("DAMAGED"));
    let both = ["verify", "--budget", "1GiB", "--repair-from", "offsite"];
    site.run(&both).expect(2);
}
