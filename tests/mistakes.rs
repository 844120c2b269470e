//! Slips of the people at the prompt: mistyped names, half-remembered addresses, broken policies.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;

use crate::common::{Ran, Sandbox};

fn with_a_backup(encrypted: bool) -> (Sandbox, String) {
    let sandbox = Sandbox::ready(encrypted);
    fs::write(sandbox.path("src/file"), "content").unwrap();
    let backup = sandbox.backup(&[]);
    (sandbox, backup)
}

#[test]
fn a_name_that_nothing_has_is_no_empty_list() {
    let (sandbox, backup) = with_a_backup(false);
    let latest = "demo/files@latest";
    for name in ["nope", "demo/nope", "demo/", "", &backup, latest, "flies", "dmeo"] {
        for verb in [&["list"][..], &["find", "file", "--source"], &["prune", "--dry-run"]] {
            let refused = sandbox.run(&[verb, &[name]].concat()).expect(1);
            assert!(refused.stdout.is_empty(), "{}", refused.stdout);
            assert!(refused.stderr.contains("there is no source or stack"), "{}", refused.stderr);
            assert!(refused.stderr.contains("hint: "), "{}", refused.stderr);
        }
    }
    let refused = sandbox.run(&["list", "demo/fiels"]).expect(1);
    assert!(refused.stderr.contains("did you mean `demo/files`?"), "{}", refused.stderr);
    let refused = sandbox.run(&["list", &backup]).expect(1);
    assert!(refused.stderr.contains("backstay show"), "{}", refused.stderr);
    // A source that was never backed up is known all the same.
    sandbox.write_policy(false, "  other: { directory: { path: /etc/ssl } }\n");
    let empty = sandbox.run(&["list", "other"]).expect(0);
    assert!(empty.stderr.contains("there are no backups of other yet"), "{}", empty.stderr);
    // So is one that is gone from the policy.
    fs::write(
        sandbox.path("policy.yaml"),
        fs::read_to_string(sandbox.path("policy.yaml")).unwrap().replace("  files:", "  former:"),
    )
    .unwrap();
    sandbox.run(&["list", "demo/files"]).expect(0);
}

#[test]
fn a_backup_is_found_by_every_name_that_is_shown_of_it() {
    let (sandbox, backup) = with_a_backup(true);
    let repo = sandbox.path("repo").display().to_string();
    let at = format!("demo/files@{backup}");
    let short = format!("files@{}", &backup[..20]);
    for (number, name) in
        [at.as_str(), &short, &backup, &backup[..20], "demo/files", "files", "files@latest"]
            .into_iter()
            .enumerate()
    {
        for verb in [&["show"][..], &["ls"], &["verify"], &["pin", "--dry-run"]] {
            sandbox.run(&[verb, &[name]].concat()).expect(0);
        }
        let out = format!("out-{number}");
        sandbox.run_with_key(&["restore", name, "--to", &out]).expect(0);
        assert_eq!(fs::read(sandbox.path(&out).join("file")).unwrap(), b"content");
        let out = format!("bare-{number}");
        let from = ["--repository", &repo, "--identity", "recovery.key"];
        sandbox.run_bare(&[&["restore", name, "--to", &out], &from[..]].concat()).expect(0);
    }
    sandbox.run(&["verify", "demo"]).expect(0);
    for twice in [&at[..], &backup] {
        let args = ["restore", twice, "--backup", "20261121", "--to", "twice"];
        let refused = sandbox.run_with_key(&args).expect(2);
        assert!(refused.stderr.contains("names a backup"), "{}", refused.stderr);
    }
    sandbox.run(&["show", ""]).expect(2);
    sandbox.run(&["show", "files@"]).expect(2);
    sandbox.run(&["show", "nope@latest"]).expect(1);
    assert!(!sandbox.path("twice").exists());
}

#[test]
fn a_name_that_means_two_sources_is_asked_about() {
    let sandbox = Sandbox::ready(false);
    fs::write(sandbox.path("src/file"), "content").unwrap();
    let more = format!("  more: {{ directory: {{ path: {} }} }}\n", sandbox.path("src").display());
    sandbox.write_policy(false, &more);
    sandbox.run(&["backup"]).expect(0);
    let refused = sandbox.run(&["show", "demo"]).expect(2);
    assert!(refused.stderr.contains("say which: demo/files, demo/more"), "{}", refused.stderr);
}

#[test]
fn a_time_as_listed_finds_the_backup_that_was_listed_with_it() {
    let (sandbox, first) = with_a_backup(false);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let second = sandbox.backup(&["--kind", "full"]);
    let listed = sandbox.run(&["list"]).expect(0).stdout;
    for backup in [first, second] {
        let line = listed.lines().find(|line| line.contains(&backup)).unwrap();
        let mut words = line.split_whitespace().skip_while(|word| !word.starts_with("20"));
        words.next();
        let words: Vec<&str> = words.collect();
        let date = words.iter().position(|word| word.len() == 10 && word.contains('-')).unwrap();
        let at = format!("{} {}", words[date], words[date + 1]);
        let ran = sandbox.run(&["restore", "files", "--at", &at, "--to", "x", "--dry-run"]);
        let told = ran.expect(0).stderr;
        assert!(told.contains(&backup), "--at '{at}' is not {backup}: {told}");
    }
}

#[test]
fn one_broken_policy_does_not_hide_the_backups_of_others() {
    let (sandbox, backup) = with_a_backup(false);
    fs::create_dir(sandbox.path("all")).unwrap();
    fs::rename(sandbox.path("policy.yaml"), sandbox.path("all/good.yaml")).unwrap();
    fs::write(sandbox.path("all/broken.yaml"), "version: 1\nstack: broken\ntires: x\n").unwrap();
    let run = |args: &[&str]| -> Ran { sandbox.run_bare(&[&["--policy", "all"], args].concat()) };
    // What is about everything is not done; what is about one stack is.
    for (args, code) in [
        (&["list"][..], 1),
        (&["verify"], 1),
        (&["list", "demo"], 0),
        (&["show", &backup], 0),
        (&["ls", "files"], 0),
        (&["restore", "files", "--to", "out"], 0),
        (&["backup", "demo/files"], 0),
        (&["backup"], 3),
        (&["check"], 3),
    ] {
        let ran = run(args).expect(code);
        assert!(ran.stderr.contains("all/broken.yaml:3:1"), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("--repository URL"), "{args:?}: {}", ran.stderr);
        assert_eq!(ran.stderr.matches("broken.yaml:3:1").count(), 1, "{}", ran.stderr);
    }
    assert!(run(&["list"]).expect(1).stdout.contains(&backup));
}

#[test]
fn programs_are_told_what_is_wrong() {
    let sandbox = Sandbox::new();
    let error = |ran: &Ran| -> serde_json::Value {
        assert!(ran.stdout.is_empty(), "{}", ran.stdout);
        serde_json::from_str(ran.stderr.lines().last().unwrap()).expect(&ran.stderr)
    };
    let policy = sandbox.path("policy.yaml");
    let text = fs::read_to_string(&policy).unwrap();
    fs::write(&policy, text.replace("timezone: UTC", "timezone: Mars/Base")).unwrap();
    let told = error(&sandbox.run(&["check", "--output", "json"]).expect(3));
    assert_eq!((&told["kind"], &told["exit_code"]), (&"policy".into(), &3.into()));
    let diagnostic = &told["diagnostics"][0];
    assert_eq!((&diagnostic["line"], &diagnostic["column"]), (&4.into(), &11.into()), "{told}");
    assert!(diagnostic["file"].as_str().unwrap().ends_with("policy.yaml"));
    fs::write(&policy, text).unwrap();
    for args in [&["bakcup", "--output", "json"][..], &["restore", "--output=json"]] {
        let told = error(&sandbox.run(args).expect(2));
        assert_eq!((&told["kind"], &told["exit_code"]), (&"usage".into(), &2.into()));
        assert!(!told["message"].as_str().unwrap().is_empty());
    }
    let told = error(&sandbox.run(&["list", "--output", "json"]).expect(1));
    assert_eq!(told["kind"], "notfound");
    assert!(told["hints"][0].as_str().unwrap().contains("backstay init"), "{told}");
    // Said once, and where to look.
    let ran = sandbox.run_bare(&["list", "--policy", "/nonexist"]).expect(1);
    assert_eq!(ran.stderr.matches("/nonexist").count(), 1, "{}", ran.stderr);
}

#[test]
fn names_that_are_not_utf_8_are_found_as_shown_and_as_they_are() {
    let sandbox = Sandbox::ready(false);
    let name = OsStr::from_bytes(b"odd\xff\xfe");
    fs::write(sandbox.path("src").join(name), "content").unwrap();
    fs::write(sandbox.path("src/back\\slash"), "content").unwrap();
    sandbox.backup(&[]);
    let shown = sandbox.run(&["ls", "files"]).expect(0).stdout;
    for (number, shown) in shown.lines().filter(|line| *line != ".").enumerate() {
        assert_eq!(sandbox.run(&["ls", "files", shown]).expect(0).stdout.trim(), shown);
        let out = format!("out-{number}");
        sandbox.run(&["restore", "files", "--path", shown, "--to", &out]).expect(0);
        assert_eq!(fs::read_dir(sandbox.path(&out)).unwrap().count(), 1);
    }
    let mut command = sandbox.command(&["restore", "files", "--to", "raw", "--path"]);
    let ran = Ran::from(&command.arg(name).output().unwrap()).expect(0);
    assert!(ran.stderr.contains("1 file"), "{}", ran.stderr);
    assert!(sandbox.path("raw").join(name).exists());
}

#[test]
fn a_pattern_that_matches_nothing_is_explained_and_leaves_nothing_behind() {
    let (sandbox, _) = with_a_backup(false);
    let absolute = sandbox.path("src/file").display().to_string();
    for (pattern, why) in [("[", "is no pattern"), (absolute.as_str(), "begin at the source's")] {
        for args in [
            &["ls", "files", pattern][..],
            &["find", pattern],
            &["restore", "files", "--to", "out", "--path", pattern],
        ] {
            let ran = sandbox.run(args).expect(1);
            assert!(ran.stderr.contains(why), "{args:?}: {}", ran.stderr);
        }
    }
    assert!(!sandbox.path("out").exists());
}

/// A sandbox whose files are nobody's, and what runs a command as nobody: root may read everything.
fn as_nobody(sandbox: &Sandbox, args: &[&str]) -> Ran {
    use std::os::unix::process::CommandExt as _;
    let mut command = sandbox.command(args);
    if crate::common::is_root() {
        let chown = std::process::Command::new("chown")
            .args(["-R", "65534:65534"])
            .arg(sandbox.root())
            .status();
        assert!(chown.unwrap().success());
        command.uid(65534).gid(65534);
    }
    Ran::from(&command.output().unwrap())
}

#[test]
fn all_that_cannot_be_read_is_named_at_once_and_by_check_before() {
    use std::os::unix::fs::PermissionsExt as _;
    let sandbox = Sandbox::ready(false);
    for number in 0..25 {
        let file = sandbox.path(format!("src/closed-{number:02}"));
        fs::write(&file, "content").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    }
    let directory = sandbox.path("src/a-directory");
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o000)).unwrap();
    for args in [&["backup"][..], &["check"]] {
        let ran = as_nobody(&sandbox, args).expect(1);
        let told = ran.stdout + &ran.stderr;
        for name in ["`a-directory`", "`closed-00`", "`closed-18`", "and 6 more"] {
            assert!(told.contains(name), "{args:?} {name}: {told}");
        }
        assert!(!told.contains("`closed-19`"), "{told}");
    }
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn check_says_what_a_backup_would_refuse_and_what_it_did_not_look_at() {
    use std::os::unix::fs::PermissionsExt as _;
    let sandbox = Sandbox::ready(false);
    let more = "  away: { host: other.example, directory: { path: /etc } }\n";
    sandbox.write_policy(false, more);
    let told = sandbox.run(&["check"]).expect(0).stdout;
    assert!(told.contains("elsewhere  demo/away"), "{told}");
    assert!(told.contains("lies on host other.example: not looked at"), "{told}");
    for name in ["PG_VERSION", "global", "postmaster.pid"] {
        fs::create_dir_all(sandbox.path("src/below/data")).unwrap();
        fs::write(sandbox.path("src/below/data").join(name), "").unwrap();
    }
    let told = sandbox.run(&["check"]).expect(1).stdout;
    assert!(told.contains("`below/data` is the data directory of a running PostgreSQL"), "{told}");
    fs::remove_dir_all(sandbox.path("src/below")).unwrap();
    let repo = sandbox.path("repo");
    fs::set_permissions(&repo, fs::Permissions::from_mode(0o500)).unwrap();
    let told = as_nobody(&sandbox, &["check"]).expect(1).stdout;
    fs::set_permissions(&repo, fs::Permissions::from_mode(0o700)).unwrap();
    assert!(told.contains("cannot be written to"), "{told}");
}

#[test]
fn what_a_killed_backup_left_is_counted_by_check() {
    let (sandbox, _) = with_a_backup(false);
    assert!(!sandbox.run(&["check"]).expect(0).stdout.contains("unfinished"));
    fs::write(sandbox.path("src/new"), "new").unwrap();
    let mut command = sandbox.command(&["backup"]);
    let killed = command.env("BACKSTAY_FAILPOINT", "backup.sums").output().unwrap();
    assert!(!killed.status.success(), "{}", String::from_utf8_lossy(&killed.stderr));
    let told = sandbox.run(&["check"]).expect(0).stdout;
    assert!(told.contains("1 backup unfinished, "), "{told}");
}

#[test]
fn one_damaged_wrap_does_not_shut_out_who_has_another() {
    let (sandbox, _) = with_a_backup(true);
    let other = sandbox.run_bare(&["key", "generate", "--out", "other.key"]).expect(0).stdout;
    sandbox.run_with_key(&["key", "add-recipient", other.trim()]).expect(0);
    let wraps: Vec<_> = sandbox.objects().into_iter().filter(|o| o.starts_with("keys")).collect();
    let (second, first): (Vec<_>, Vec<_>) = wraps
        .into_iter()
        .filter(|wrap| wrap.extension().is_some_and(|e| e == "age"))
        .partition(|wrap| wrap.to_string_lossy().ends_with(".2.age"));
    fs::write(sandbox.path("repo").join(&second[0]), "").unwrap();
    sandbox.run_with_key(&["list"]).expect(0);
    sandbox.run_with_key(&["restore", "files", "--to", "out"]).expect(0);
    fs::write(sandbox.path("repo").join(&first[0]), "").unwrap();
    let listed = sandbox.run_with_key(&["list"]).expect(0);
    assert!(listed.stderr.contains("is truncated"), "{}", listed.stderr);
    sandbox.run_with_key(&["restore", "files", "--to", "not"]).expect(1);
}

#[test]
fn what_programs_say_is_short_and_without_the_secrets_they_were_given() {
    let sandbox = Sandbox::ready(false);
    let source = |line: &str| {
        format!(
            "  cmd: {{ command: {{ shell: \"{line}\", environment: {{ PW: \
             \"${{file:{}}}\" }} }} }}\n",
            sandbox.path("password").display()
        )
    };
    fs::write(sandbox.path("password"), "s3cr3tvalue\n").unwrap();
    sandbox.write_policy(false, &source("echo err $PW x >&2; exit 3"));
    for output in ["text", "json"] {
        let ran = sandbox.run(&["backup", "cmd", "--output", output]).expect(1);
        let told = ran.stdout + &ran.stderr;
        assert!(!told.contains("s3cr3tvalue"), "{told}");
        assert!(told.contains("err … x"), "{told}");
    }
    sandbox.write_policy(false, &source("seq 3000 >&2; exit 3"));
    let told = sandbox.run(&["backup", "cmd"]).expect(1).stderr;
    assert!(told.contains("it said at last: 2981\n"), "{told}");
    assert!(told.contains("3000") && !told.contains("2980"), "{told}");
}
