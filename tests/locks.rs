//! Object lock, legal holds, buckets as they were, and archives of the store: against moto.

use std::fs;
use std::time::{Duration, Instant};

use crate::common::moto::Moto;
use crate::common::{Ran, Sandbox, assert_same_tree};

/// A sandbox whose policy keeps backups in moto's bucket; `more` are further lines of the repository.
pub struct Bench {
    pub moto: Moto,
    pub sandbox: Sandbox,
}

impl Bench {
    pub fn new(moto: Moto, more: &str) -> Self {
        let sandbox = Sandbox::new();
        let bench = Self { moto, sandbox };
        fs::write(bench.sandbox.path("id"), "AKIDMOTO").unwrap();
        fs::write(bench.sandbox.path("secret"), "not-checked").unwrap();
        bench.policy(more);
        fs::write(bench.sandbox.path("src/one"), "one\n").unwrap();
        bench.run(&["init"]).expect(0);
        bench
    }

    pub fn policy(&self, more: &str) {
        let (sandbox, file) = (&self.sandbox, |name: &str| self.sandbox.path(name));
        let s3 = |prefix: &str| {
            format!(
                "s3: {{ bucket: kept, prefix: {prefix}, endpoint: \"{}\", region: us-east-1, allow_http: \
                 true, access_key_id: \"${{file:{}}}\", secret_access_key: \"${{file:{}}}\" }}",
                self.moto.endpoint(),
                file("id").display(),
                file("secret").display()
            )
        };
        let encryption = format!(
            "encryption: {{ recipients: [{}], writer_identity: \"${{file:{}}}\" }}",
            sandbox.public,
            file("writer.key").display()
        );
        let text = format!(
            "version: 1\nstack: demo\ntier: development\ntimezone: UTC\nrepositories:\n  main:\n    {}\n    \
             {encryption}\n{more}  other:\n    {}\n    object_lock: {{ mode: compliance }}\nsources:\n  \
             files: {{ directory: {{ path: {} }} }}\njobs:\n  daily: {{ sources: all, kind: incremental, \
             schedule: {{ cron: \"0 3 * * *\" }}, keep: {{ for: 7d, at_least: 1 }} }}\n  monthly: {{ \
             sources: all, kind: incremental, schedule: {{ cron: \"0 5 1 * *\" }}, keep: {{ for: 60d, \
             at_least: 1 }} }}\n  offsite: {{ copy: {{ to: other }}, schedule: {{ after: [daily] }}, keep: \
             {{ for: 20d, at_least: 1 }} }}\n",
            s3("repo"),
            s3("other"),
            file("src").display()
        );
        fs::write(file("policy.yaml"), text).unwrap();
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        let mut args = args.to_vec();
        args.extend(["--identity", "recovery.key"]);
        self.sandbox.run(&args)
    }

    /// What a plain read of a key's head says under a name.
    pub fn header(&self, key: &str, name: &str) -> Option<String> {
        let head = self.moto.expect("HEAD", key, &[], "").to_lowercase();
        let (_, rest) = head.split_once(&format!("\r\n{name}: "))?;
        Some(rest.split("\r\n").next().unwrap().to_owned())
    }

    pub fn locked_until(&self, key: &str) -> Option<jiff::Timestamp> {
        let until = self.header(key, "x-amz-object-lock-retain-until-date")?;
        Some(until.to_uppercase().parse().unwrap())
    }

    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let mut keys = self.moto.left();
        keys.sort();
        keys.dedup();
        keys.retain(|key| key.starts_with(prefix));
        keys
    }

    pub fn backup(&self, job: &str) -> String {
        let ran = self.run(&["backup", "demo/files", "--job", job]).expect(0);
        ran.stdout.trim().rsplit('@').next().unwrap().to_owned()
    }
}

const SOURCE: &str = "repo/demo/sources/files";

#[test]
fn what_a_backup_needs_is_locked_to_the_end_of_its_retention_and_nothing_else_is() {
    let Some(moto) = Moto::start_locking() else { return };
    let bench = Bench::new(moto, "    object_lock: { mode: governance }\n");
    let began = jiff::Timestamp::now();
    let day = jiff::SignedDuration::from_hours(24);
    let first = bench.backup("daily");
    let own = bench.keys(&format!("{SOURCE}/data/{first}/"));
    assert!(own.len() >= 3, "{own:?}");
    let commit = |id: &str| format!("{SOURCE}/commits/{id}.json");
    let locked: Vec<String> = bench
        .keys("repo/")
        .into_iter()
        .filter(|key| bench.moto.ask("HEAD", key, &[], "").contains(" 200 "))
        .filter(|key| bench.locked_until(key).is_some())
        .collect();
    for key in own.iter().chain(&[commit(&first)]) {
        assert!(locked.contains(key), "{key} is not locked");
        assert_eq!(bench.header(key, "x-amz-object-lock-mode").as_deref(), Some("governance"));
        let until = bench.locked_until(key).unwrap();
        assert!(until >= began + 7 * day && until <= jiff::Timestamp::now() + 14 * day, "{until}");
        let monday = until.to_zoned(jiff::tz::TimeZone::UTC).weekday();
        assert_eq!((monday, until.as_second() % 86_400), (jiff::civil::Weekday::Monday, 0));
    }
    // Without the repository's keys nothing of it could be opened.
    assert!(locked.iter().any(|key| key.starts_with("repo/keys/") && key.ends_with(".age")));
    let others = ["lease/", "intent/", "prune/", "hold/", "pin/", "policy/"];
    let odd = locked.iter().find(|key| others.iter().any(|other| key.contains(other)));
    assert_eq!(odd, None, "objects that coordinate are locked");

    // A backup that stays longer prolongs what it refers to, and only that.
    fs::write(bench.sandbox.path("src/two"), "two\n").unwrap();
    let second = bench.backup("monthly");
    let segment = own.iter().find(|key| key.contains("/000001.")).unwrap();
    let long = bench.locked_until(segment).unwrap();
    assert!(long >= began + 60 * day, "{long}");
    assert!(bench.locked_until(&commit(&first)).unwrap() < began + 15 * day);
    assert_eq!(bench.locked_until(&commit(&second)), Some(long));
    // What is locked long enough is left alone: only what is new is locked.
    let before = bench.moto.seen("retention&versionId");
    let third = bench.backup("monthly");
    let new = bench.keys(&format!("{SOURCE}/data/{third}/")).len();
    assert_eq!(bench.moto.seen("retention&versionId") - before, new, "locked once more");
    let shorter = bench.backup("daily");
    assert_eq!(bench.locked_until(segment), Some(long), "a lock was made shorter");

    // Who may delete cannot, and that is no error.
    let plan = bench.run(&["delete", &first, "--dry-run"]).expect(0);
    assert!(plan.stdout.contains("locked until"), "{}", plan.stdout);
    let kept = bench.run(&["delete", &first, "--yes"]).expect(0);
    assert!(kept.stderr.contains("kept by object lock"), "{}", kept.stderr);
    assert!(kept.stderr.contains("is still there"), "{}", kept.stderr);
    bench.run(&["prune", "--yes"]).expect(0);
    let listed = bench.run(&["list"]).expect(0).stdout;
    assert!([&first, &second, &third, &shorter].iter().all(|id| listed.contains(*id)), "{listed}");

    // Copies are locked by the rule of the copy, in the mode of their repository.
    bench.run(&["copy", "--to", "other", "demo/files"]).expect(0);
    let copies = bench.keys("other/demo/sources/files/data/");
    assert!(!copies.is_empty());
    for key in copies.iter().chain(&bench.keys("other/demo/sources/files/commits/")) {
        assert_eq!(bench.header(key, "x-amz-object-lock-mode").as_deref(), Some("compliance"));
        assert!(bench.locked_until(key).unwrap() >= began + 20 * day);
    }
}

#[test]
fn a_bucket_that_cannot_lock_is_refused_before_anything_is_stored() {
    let Some(moto) = Moto::start_versioned() else { return };
    let bench = Bench::new(moto, "    object_lock: { mode: governance }\n");
    let refused = bench.run(&["backup", "demo/files"]).expect(3);
    assert!(refused.stderr.contains("has no object lock"), "{}", refused.stderr);
    assert_eq!(bench.keys(&format!("{SOURCE}/")), [""; 0]);
    bench.policy("");
    let id = bench.backup("daily");
    let refused = bench.run(&["pin", &id, "--hold"]).expect(3);
    assert!(refused.stderr.contains("has no object lock"), "{}", refused.stderr);
    bench.run(&["unpin", &id]).expect(0);
}

#[test]
fn a_pin_with_a_hold_is_a_legal_hold_until_it_is_unpinned() {
    let Some(moto) = Moto::start_locking() else { return };
    let bench = Bench::new(moto, "");
    let first = bench.backup("daily");
    fs::write(bench.sandbox.path("src/two"), "two\n").unwrap();
    let second = bench.backup("daily");
    let commit = |id: &str| format!("{SOURCE}/commits/{id}.json");
    let shared = bench.keys(&format!("{SOURCE}/data/{first}/000001."));
    let held =
        |key: &str| bench.header(key, "x-amz-object-lock-legal-hold").as_deref() == Some("on");
    assert!(!held(&shared[0]));
    bench.run(&["pin", &first, "--hold", "--reason", "audit"]).expect(0);
    bench.run(&["pin", &second, "--hold"]).expect(0);
    assert!(held(&shared[0]) && held(&commit(&first)) && held(&commit(&second)));
    // Somebody took the pin away, and the hold stays.
    bench.moto.expect("DELETE", &format!("{SOURCE}/pin/{first}.json"), &[], "");
    let kept = bench.run(&["delete", &first, "--yes"]).expect(0);
    assert!(kept.stderr.contains("is still there"), "{}", kept.stderr);
    let plan = bench.run(&["delete", &first, "--dry-run"]).expect(0);
    assert!(plan.stdout.contains("under a legal hold"), "{}", plan.stdout);
    bench.run(&["pin", &first, "--hold"]).expect(0);
    bench.run(&["unpin", &first]).expect(0);
    assert!(!held(&commit(&first)) && held(&shared[0]), "what the other needs was released");
    bench.run(&["unpin", &second]).expect(0);
    assert!(!held(&shared[0]) && !held(&commit(&second)));
    // A plain pin is no hold, and does not become one in silence.
    bench.run(&["pin", &second]).expect(0);
    assert!(!held(&commit(&second)));
    bench.run(&["pin", &second, "--hold"]).expect(1);
}

/// Waits until the second is over: listings of versions have no fractions.
fn next_second() {
    let (second, begun) = (jiff::Timestamp::now().as_second(), Instant::now());
    while jiff::Timestamp::now().as_second() == second {
        assert!(begun.elapsed() < Duration::from_secs(60), "the clock stands still");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_bucket_is_read_as_it_was_after_everything_was_deleted() {
    let Some(moto) = Moto::start_versioned() else { return };
    let bench = Bench::new(moto, "");
    let long_ago = "2020-01-01T00:00:00Z";
    let first = bench.backup("daily");
    let then = jiff::Timestamp::now().to_string();
    next_second();
    fs::write(bench.sandbox.path("src/two"), "two\n").unwrap();
    let second = bench.backup("daily");
    let later = jiff::Timestamp::now().to_string();
    next_second();
    for key in bench.keys("repo/") {
        bench.moto.expect("DELETE", &key, &[], "");
    }
    let gone = bench.run(&["list", "--repository", "main"]);
    assert!(gone.code == 1 && gone.stderr.contains("there is no repository"), "{}", gone.stderr);
    let url = format!("s3://kept/repo?endpoint={}&region=us-east-1", bench.moto.endpoint());
    let at = |time: &str, args: &[&str]| {
        let mut args = args.to_vec();
        args.extend(["--repository", &url, "--repository-at", time, "--identity", "recovery.key"]);
        let mut command = bench.sandbox.bare(&args);
        command.env("AWS_ACCESS_KEY_ID", "AKIDMOTO").env("AWS_SECRET_ACCESS_KEY", "not-checked");
        Ran::from(&command.output().unwrap())
    };
    let listed = at(&later, &["list"]).expect(0).stdout;
    assert!(listed.contains(&first) && listed.contains(&second), "{listed}");
    assert!(listed.contains("as of") || listed.contains("s3://"), "{listed}");
    let listed = at(&then, &["list"]).expect(0).stdout;
    assert!(listed.contains(&first) && !listed.contains(&second), "{listed}");
    let before = at(long_ago, &["list"]);
    assert!(
        before.code == 1 && before.stderr.contains("there is no repository"),
        "{}",
        before.stderr
    );
    at(&later, &["verify", "--depth", "content"]).expect(0);
    at(&later, &["restore", "demo/files", "--to", "out"]).expect(0);
    assert_same_tree(&bench.sandbox.path("src"), &bench.sandbox.path("out"));
    at(&later, &["policy", "list"]).expect(0);
    // The policy's repository as well, and nothing is written.
    let args = ["ls", &second, "--repository", "main", "--repository-at", &later];
    assert!(bench.run(&args).expect(0).stdout.contains("two"));
    for args in [
        &["backup", "demo/files"][..],
        &["pin", &second, "--repository", "main"],
        &["prune", "--yes"],
        &["init"],
    ] {
        let mut args = args.to_vec();
        args.extend(["--repository-at", &later]);
        let refused = bench.run(&args);
        assert!(refused.code != 0, "{args:?}");
        assert!(
            refused.stderr.contains("leave `--repository-at` out"),
            "{args:?}: {}",
            refused.stderr
        );
    }
    assert!(at("yesterday", &["list"]).code == 2);
    // Where there are no versions, there is only now.
    let local = Sandbox::ready(false);
    local.run(&["list", "--repository-at", &then]).expect(2);
    let Some(moto) = Moto::start() else { return };
    let plain = Bench::new(moto, "");
    plain.backup("daily");
    let refused = plain.run(&["list", "--repository", "main", "--repository-at", &later]);
    assert!(
        refused.code != 0 && refused.stderr.contains("keeps no versions"),
        "{}",
        refused.stderr
    );
}

#[test]
fn archived_segments_are_named_and_waited_for() {
    let Some(moto) = Moto::start() else { return };
    let bench = Bench::new(moto, "    storage_class: glacier\n");
    let id = bench.backup("daily");
    let listed = bench.moto.expect("GET", "?list-type=2&prefix=repo/", &[], "");
    let class = |key: &str| {
        let (_, rest) = listed.split_once(&format!("<Key>{key}</Key>")).unwrap();
        let (_, rest) = rest.split_once("<StorageClass>").unwrap();
        rest.split('<').next().unwrap().to_owned()
    };
    let mut segments = Vec::new();
    for key in bench.keys(&format!("{SOURCE}/data/")) {
        let segment = key.contains("/00000");
        assert_eq!(class(&key), if segment { "GLACIER" } else { "STANDARD" }, "{key}");
        if segment {
            segments.push(key);
        }
    }
    assert_eq!(class(&format!("{SOURCE}/commits/{id}.json")), "STANDARD");
    // What is read at once is: listings, names, sizes, the next incremental.
    bench.run(&["ls", &id]).expect(0);
    bench.run(&["verify", &id, "--depth", "list"]).expect(0);
    fs::write(bench.sandbox.path("src/two"), "two\n").unwrap();
    let second = bench.backup("daily");
    assert!(bench.run(&["show", &second]).expect(0).stdout.contains("incremental"));

    let short = |key: &String| key.strip_prefix("repo/").unwrap().to_owned();
    let restore = ["restore", "demo/files", "--backup", &id, "--to", "out"];
    let mut dry = restore.to_vec();
    dry.push("--dry-run");
    let names_all = |ran: &Ran| {
        for key in segments.iter().map(short) {
            assert!(ran.stderr.contains(&format!("{key} is in class GLACIER")), "{}", ran.stderr);
        }
    };
    for args in [&restore[..], &["verify", &id, "--depth", "stored"], &["verify"]] {
        names_all(&bench.run(args).expect(6));
    }
    names_all(&bench.run(&dry).expect(0));
    assert!(!bench.sandbox.path("out").join("one").exists());
    // What the message says helps. This store thaws at once.
    let told = bench.run(&restore).expect(6).stderr;
    assert!(told.contains(&format!("`backstay thaw demo/files@{id}`")), "{told}");
    let planned = bench.run(&["thaw", &second, "--dry-run", "--output", "json"]).expect(0).json();
    let (all, old) = (planned["archived"].as_array().unwrap().len(), segments.len());
    assert!(all > old && planned["ready"] == false, "{planned}");
    assert_eq!(planned["asked"].as_array().unwrap().len(), 0, "{planned}");
    names_all(&bench.run(&restore).expect(6));
    bench.run(&["thaw", &id, "--days", "2", "--tier", "bulk"]).expect(0);
    bench.run(&restore).expect(0);
    // The newer one needs more.
    bench.run(&["restore", "demo/files", "--to", "more"]).expect(6);
    let thawed = bench.run(&["thaw", "demo/files", "--output", "json"]).expect(0).json();
    let asked = thawed["asked"].as_array().unwrap();
    let own = |key: &serde_json::Value| key.as_str().unwrap().contains(&second);
    assert!(!asked.is_empty() && asked.iter().all(own), "{thawed}");
    assert_eq!(thawed["ready"], true, "{thawed}");
    let again = bench.run(&["thaw", "demo/files"]).expect(0).stderr;
    assert!(again.contains("can be read now"), "{again}");
    bench.run(&["thaw", "demo/files", "--days", "0"]).expect(2);
    fs::remove_dir_all(bench.sandbox.path("out")).unwrap();
    bench.run(&["restore", "demo/files", "--to", "out"]).expect(0);
    assert_same_tree(&bench.sandbox.path("src"), &bench.sandbox.path("out"));
    bench.run(&["verify"]).expect(0);
}
