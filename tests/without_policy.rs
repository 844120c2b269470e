//! With a repository's place and a key alone: everything that reads, and policies that were in force.

use std::fs;

use crate::common::{Sandbox, assert_same_tree, odd_tree};

/// A sandbox with two backups, whose policy and state are then lost.
fn lost() -> (Sandbox, String, Vec<String>) {
    let sandbox = Sandbox::ready(true);
    odd_tree(&sandbox.path("src"));
    let first = sandbox.backup(&[]);
    fs::write(sandbox.path("src/more"), "more\n").unwrap();
    let second = sandbox.backup(&[]);
    fs::remove_file(sandbox.path("policy.yaml")).unwrap();
    fs::remove_file(sandbox.path("writer.key")).unwrap();
    let _ = fs::remove_dir_all(sandbox.path("state"));
    let url = sandbox.path("repo").display().to_string();
    (sandbox, url, vec![first, second])
}

#[test]
fn a_place_and_a_key_are_enough_to_look_to_verify_and_to_restore() {
    let (sandbox, url, ids) = lost();
    let run = |args: &[&str]| {
        let mut args = args.to_vec();
        args.extend(["--repository", &url, "--identity", "recovery.key"]);
        sandbox.run_bare(&args)
    };
    let listed = run(&["list", "--output", "json"]).expect(0).json();
    let listed: Vec<&str> =
        listed.as_array().unwrap().iter().map(|line| line["backup"].as_str().unwrap()).collect();
    assert_eq!(listed, ids);
    assert!(run(&["show", &ids[1]]).expect(0).stdout.contains("demo/files"));
    assert!(run(&["ls", &ids[1]]).expect(0).stdout.contains("plain.txt"));
    assert!(run(&["find", "plain.txt"]).expect(0).stdout.contains("plain.txt"));
    assert!(run(&["diff", &ids[0], &ids[1]]).expect(0).stdout.contains("more"));
    for depth in ["list", "stored", "content"] {
        run(&["verify", "--depth", depth]).expect(0);
    }
    fs::create_dir(sandbox.path("scratch")).unwrap();
    run(&["verify", "--depth", "restore", "--scratch", "scratch"]).expect(0);
    run(&["key", "list"]).expect(0);
    run(&["restore", "demo/files", "--to", "out"]).expect(0);
    assert_same_tree(&sandbox.path("src"), &sandbox.path("out"));
    run(&["restore", "demo/files", "--to", "part", "--path", "plain.txt", "--backup", &ids[0]])
        .expect(0);
    assert_eq!(fs::read(sandbox.path("part/plain.txt")).unwrap(), b"plain\n");
    // Without the key: what lies in the open, and a word about what does not.
    let bare = |args: &[&str]| {
        let mut args = args.to_vec();
        args.extend(["--repository", &url]);
        sandbox.run_bare(&args)
    };
    bare(&["list"]).expect(0);
    bare(&["verify", "--depth", "stored"]).expect(0);
    for args in [&["ls", &ids[1]][..], &["restore", "demo/files", "--to", "no"]] {
        let ran = bare(args);
        assert!(ran.code == 1 && ran.stderr.contains("--identity"), "{}", ran.stderr);
    }
}

#[test]
fn a_policy_that_was_read_back_runs_nothing_before_a_person_confirms_it() {
    let sandbox = Sandbox::ready(true);
    fs::write(sandbox.path("src/one"), "one\n").unwrap();
    let ran = |name: &str| sandbox.path(name).exists();
    sandbox.write_policy(
        true,
        &format!(
            "  dump: {{ command: {{ shell: \"touch {0}; echo dump\" }} }}\n  keys: {{ secrets: {{ ONE: \
             \"${{command:touch {1}}}\" }} }}\n",
            sandbox.path("ran-source").display(),
            sandbox.path("ran-secret").display()
        ),
    );
    let text = fs::read_to_string(sandbox.path("policy.yaml")).unwrap();
    let hook = format!(
        "keep: {{ for: 7d, at_least: 3 }}, hooks: {{ before: {{ argv: [touch, {}] }} }}",
        sandbox.path("ran-hook").display()
    );
    let text = text.replace("keep: { for: 7d, at_least: 3 }", &hook);
    fs::write(sandbox.path("policy.yaml"), &text).unwrap();
    sandbox.backup(&[]);
    fs::remove_file(sandbox.path("policy.yaml")).unwrap();

    let url = sandbox.path("repo").display().to_string();
    let with = |args: &[&str]| {
        let mut args = args.to_vec();
        args.extend(["--repository", &url, "--identity", "recovery.key"]);
        sandbox.run_bare(&args)
    };
    let listed = with(&["policy", "list", "--output", "json"]).expect(0).json();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(listed[0]["stack"], "demo");
    // Sealed to those who hold a key.
    let sealed = sandbox.run_bare(&["policy", "fetch", "demo", "--repository", &url]);
    assert!(sealed.code == 1 && sealed.stderr.contains("--identity"), "{}", sealed.stderr);
    let shown = with(&["policy", "fetch", "demo"]).expect(0).stdout;
    assert!(shown.ends_with(&text) && shown.contains("\nunconfirmed: "), "{shown}");
    with(&["policy", "fetch", "demo", "--out", "policy.yaml"]).expect(0);
    with(&["policy", "fetch", "demo", "--out", "policy.yaml"]).expect(1);
    with(&["policy", "fetch", "other"]).expect(1);
    with(&["policy", "fetch", "demo", "--digest", "zz"]).expect(1);

    for args in [&["check"][..], &["backup"], &["backup", "demo/dump"], &["daemon", "--once"]] {
        let said = sandbox.run(args);
        assert!(said.code == 3 || said.code == 2, "{args:?}: {}", said.stderr);
        if said.code == 3 {
            assert!(said.stderr.contains("policy confirm"), "{}", said.stderr);
        }
    }
    // Nobody is there to be asked, and a dry run asks nobody.
    let waits = sandbox.run(&["policy", "confirm", "policy.yaml"]).expect(6);
    let dry = sandbox.run(&["policy", "confirm", "policy.yaml", "--dry-run"]).expect(0);
    for said in [&waits.stdout, &dry.stdout] {
        assert!(said.contains("sources.dump.command.shell: touch "), "{said}");
        assert!(said.contains("sources.keys.secrets.ONE: ${command:touch "), "{said}");
        assert!(said.contains("jobs.daily.hooks.before.argv: touch "), "{said}");
    }
    sandbox.run(&["backup", "demo/dump"]).expect(3);
    assert!(!["ran-source", "ran-secret", "ran-hook"].iter().any(|name| ran(name)));

    let done = sandbox.run(&["policy", "confirm", "policy.yaml", "--yes", "--output", "json"]);
    assert_eq!(done.expect(0).json()["confirmed"], true);
    assert_eq!(fs::read_to_string(sandbox.path("policy.yaml")).unwrap(), text);
    sandbox.run(&["policy", "confirm", "policy.yaml", "--yes"]).expect(2);
    sandbox.run(&["backup", "demo/dump"]).expect(0);
    assert!(ran("ran-source"));
}

#[test]
fn a_playbook_without_a_policy_says_how_one_is_had_and_that_is_how() {
    let (sandbox, url, _) = lost();
    let near = ["--repository", &url, "--identity", "recovery.key"];
    let ran = sandbox.run_bare(&[&["playbook", "run", "demo/restore"], &near[..]].concat());
    let ran = ran.expect(2);
    let said = |start: &str| {
        let line = ran.stderr.lines().find_map(|line| line.strip_prefix(start));
        let line = line.unwrap_or_else(|| panic!("{start}: {}", ran.stderr));
        line.split_whitespace().map(str::to_owned).collect::<Vec<String>>()
    };
    for (start, more) in [("policy fetch demo", None), ("policy confirm", Some("--yes"))] {
        let words = said(&format!("hint: backstay {start} "));
        let words = start.split(' ').chain(words.iter().map(String::as_str)).chain(more);
        sandbox.run_bare(&words.collect::<Vec<_>>()).expect(0);
    }
    sandbox.run_bare(&["--policy", "policy.yaml", "playbook", "history"]).expect(0);
    // Where nobody said which stack and which repository.
    let ran = sandbox.run_bare(&["--policy", "", "playbook", "history"]).expect(2);
    assert!(
        ran.stderr.contains("policy fetch STACK --repository URL --identity FILE"),
        "{}",
        ran.stderr
    );
}
