//! The command line as people and scripts see it: texts, JSON, exit codes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::{BACKSTAY, Ran, Sandbox, finish, settle};

const COMMANDS: &[&[&str]] = &[
    &[],
    &["init"],
    &["check"],
    &["schema"],
    &["plan"],
    &["playbook"],
    &["playbook", "list"],
    &["playbook", "show"],
    &["playbook", "check"],
    &["playbook", "run"],
    &["playbook", "resume"],
    &["playbook", "approve"],
    &["playbook", "attest"],
    &["playbook", "retry-step"],
    &["playbook", "skip-step"],
    &["playbook", "abort"],
    &["playbook", "history"],
    &["policy"],
    &["policy", "list"],
    &["policy", "fetch"],
    &["policy", "confirm"],
    &["drill"],
    &["drill", "run"],
    &["drill", "list"],
    &["drill", "report"],
    &["drill", "verify"],
    &["daemon"],
    &["status"],
    &["role"],
    &["role", "show"],
    &["runs"],
    &["logs"],
    &["cancel"],
    &["trigger"],
    &["state"],
    &["state", "rebuild"],
    &["notify"],
    &["notify", "list"],
    &["notify", "test"],
    &["backup"],
    &["list"],
    &["show"],
    &["ls"],
    &["find"],
    &["diff"],
    &["restore"],
    &["verify"],
    &["copy"],
    &["sync"],
    &["prune"],
    &["pin"],
    &["unpin"],
    &["thaw"],
    &["delete"],
    &["wal"],
    &["wal", "push"],
    &["wal", "get"],
    &["wal", "receive"],
    &["wal", "status"],
    &["key"],
    &["key", "generate"],
    &["key", "list"],
    &["key", "add-recipient"],
    &["key", "remove-recipient"],
    &["key", "rotate"],
    &["completions"],
    &["man"],
];

/// A source whose names, modes and times are the same in every run.
fn ready(encrypted: bool) -> Sandbox {
    let sandbox = Sandbox::ready(encrypted);
    fs::create_dir_all(sandbox.path("src/etc")).unwrap();
    fs::write(sandbox.path("src/etc/app.conf"), "port = 80\n").unwrap();
    fs::write(sandbox.path("src/notes.txt"), "notes\n").unwrap();
    std::os::unix::fs::symlink("etc/app.conf", sandbox.path("src/link")).unwrap();
    for (name, mode) in [("", 0o755), ("etc", 0o755), ("etc/app.conf", 0o640), ("notes.txt", 0o644)]
    {
        let path = sandbox.path("src").join(name);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    sandbox
}

/// What a command printed, as one text, without what differs from run to run.
fn told(sandbox: &Sandbox, args: &[&str], ran: &Ran) -> String {
    let mut text = format!("$ backstay {}\n", args.join(" "));
    for (name, part) in [("stdout", &ran.stdout), ("stderr", &ran.stderr)] {
        if !part.is_empty() {
            writeln!(text, "[{name}]\n{}", part.trim_end()).unwrap();
        }
    }
    write!(text, "[exit {}]", ran.code).unwrap();
    text.replace(&sandbox.root().display().to_string(), "DIR")
}

fn filters() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for (pattern, text) in [
        (r"\d{8}T\d{6}Z-(full|incr|snap)-[0-9a-z]{4}", "ID-$1"),
        (r"\d{8}T\d{6}Z-[0-9a-z]{4}", "KEY-ID"),
        (r"age1[0-9a-z]{58}", "AGE-KEY"),
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
        (r"oldest proof: \d{4}-\d\d-\d\d", "oldest proof: DATE"),
        (r"\b\d+(\.\d)? (B|KiB|MiB)\b", "SIZE"),
        (r"\b\d+\.\ds\b", "SECONDS"),
        (r"(?m)^run +\S+$", "run  RUN"),
        (r" on \S+ \(linux \S+\)", " on HOST (linux ARCH)"),
        (r"\b(root|\w+) +(root|\w+) +(\d+) TIME", "USER GROUP $3 TIME"),
        // Columns are as wide as what was redacted.
        (r"(?m)([^ \n]) {2,}", "$1  "),
    ] {
        settings.add_filter(pattern, text);
    }
    settings
}

/// Runs, asserts the exit code, and compares everything printed with the snapshot.
#[track_caller]
fn check(name: &str, sandbox: &Sandbox, args: &[&str], code: i32) -> Ran {
    let ran = sandbox.run(args).expect(code);
    filters().bind(|| insta::assert_snapshot!(name, told(sandbox, args, &ran)));
    ran
}

fn bare(args: &[&str]) -> Ran {
    let mut command = Command::new(BACKSTAY);
    command.args(args).env_remove("BACKSTAY_POLICY").env_remove("BACKSTAY_IDENTITY");
    command.env_remove("BACKSTAY_STATE_DIR");
    command.env("NO_COLOR", "1").env("COLUMNS", "100").current_dir("/");
    Ran::from(&command.stdin(Stdio::null()).output().unwrap())
}

#[test]
fn every_command_has_help() {
    let mut all = String::new();
    for command in COMMANDS {
        let ran = bare(&[command, &["-h"][..]].concat()).expect(0);
        assert!(ran.stderr.is_empty());
        // Options that every command takes are shown once.
        let own = ran.stdout.lines().filter(|line| {
            let global = ["--policy", "--repository", "--identity", "--output", "--color"];
            let more =
                ["--no-progress", "--quiet", "--verbose", "--version", "--help", "--state-dir"];
            command.is_empty() || !global.iter().chain(&more).any(|name| line.contains(name))
        });
        writeln!(all, "$ backstay {} -h", command.join(" ")).unwrap();
        own.for_each(|line| writeln!(all, "{line}").unwrap());
    }
    filters().bind(|| insta::assert_snapshot!("help", all));
}

#[test]
fn a_command_line_without_sense_is_exit_2() {
    let sandbox = Sandbox::new();
    let mut all = String::new();
    for args in [
        &["bakcup"][..],
        &["restore", "demo/files"],
        &["restore", "demo/files", "--to", "x", "--at", "now-ish"],
        &["restore", "demo/files", "--to", "x", "--overwrite", "--delta"],
        &["backup", "--kind", "differential"],
        &["backup", "demo/fiels"],
        &["backup", "fiels"],
        &["backup", "dmeo/files"],
        &["backup", "--job", "dayly"],
        &["list", "--repository", "gopher://x"],
        &["list", "--repository", "s3://key:hunter2@bucket/x"],
        &["list", "--repository", "https://key:hunter2@host/x"],
        &["list", "--repository", "s3://bucket/x?port=9"],
        &["init", "--repository", "new"],
        &["init", "mian"],
        &["verify", "--depth", "deep"],
        &["verify", "--budget", "10"],
        &["verify", "--budget", "1GiB", "--depth", "list"],
        &["verify", "--dry-run"],
        &["verify", "--budget", "1GiB", "--repair-from", "copy"],
        &["completions", "tcsh"],
    ] {
        let ran = sandbox.run(args);
        writeln!(all, "{}\n", told(&sandbox, args, &ran)).unwrap();
        assert_eq!(ran.code, 2, "{all}");
        assert!(ran.stdout.is_empty(), "data from a command that did nothing: {}", ran.stdout);
    }
    let shown = all.lines().filter(|line| !line.starts_with('$')).any(|l| l.contains("hunter2"));
    assert!(!shown, "a secret is shown:\n{all}");
    filters().bind(|| insta::assert_snapshot!("usage", all));
}

#[test]
fn without_a_policy_the_two_ways_out_are_named() {
    let ran = bare(&["list"]).expect(2);
    insta::assert_snapshot!(ran.stderr, @r"
    error: there is no policy
    hint: give --policy PATH or set BACKSTAY_POLICY; looked in ./policies and /etc/backstay/policies
    hint: without a policy: --repository URL --identity FILE
    ");
}

#[test]
fn a_policy_that_is_wrong_is_exit_3() {
    let sandbox = Sandbox::new();
    let policy = fs::read_to_string(sandbox.path("policy.yaml")).unwrap();
    fs::write(sandbox.path("policy.yaml"), policy.replace("timezone: UTC", "timezone: Mars/Base"))
        .unwrap();
    check("policy_invalid", &sandbox, &["check"], 3);
    fs::remove_file(sandbox.path("policy.yaml")).unwrap();
    let ran = sandbox.run(&["list"]);
    assert_ne!(ran.code, 0);
    assert!(ran.stderr.contains("policy.yaml"), "{}", ran.stderr);
}

/// Makes a copy of the repository, `copy`, and another, `sound`, and removes a list of the newest
/// backup. Returns its path.
fn damaged_beside_a_copy(sandbox: &Sandbox) -> std::path::PathBuf {
    for name in ["copy", "sound"] {
        let (from, to) = (sandbox.path("repo"), sandbox.path(name));
        assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
    }
    let sums = sandbox.objects().into_iter().rfind(|path| path.ends_with("SHA256SUMS"));
    let sums = sandbox.path("repo").join(sums.unwrap());
    fs::remove_file(&sums).unwrap();
    sums
}

#[test]
fn the_main_job_reads_well() {
    let sandbox = ready(false);
    settle();
    let run = |name: &str, args: &[&str], code: i32| check(name, &sandbox, args, code);
    run("check", &["check"], 0);
    run("list_empty", &["list"], 0);
    run("init_again", &["init"], 0);
    run("backup_dry_run", &["backup", "--dry-run"], 0);
    run("backup_full", &["backup", "demo/files"], 0);
    run("backup_unchanged", &["backup", "demo/files"], 0);
    fs::write(sandbox.path("src/notes.txt"), "other notes\n").unwrap();
    run("backup_incremental", &["backup"], 0);
    run("list", &["list"], 0);
    run("show", &["show", "demo/files"], 0);
    run("ls", &["ls", "demo/files"], 0);
    run("ls_long", &["ls", "demo/files", "etc", "-l"], 0);
    run("ls_nothing", &["ls", "demo/files", "nothing/here"], 1);
    run("verify", &["verify"], 0);
    run("verify_content", &["verify", "demo/files", "--depth", "content"], 0);
    run("verify_budget", &["verify", "--budget", "10GiB", "--depth", "content"], 0);
    run("verify_budget_dry_run", &["verify", "--budget", "1B", "--dry-run"], 0);
    let sums = damaged_beside_a_copy(&sandbox);
    let repair = ["verify", "--repair-from", "./copy"];
    run("verify_damaged", &["verify"], 5);
    run("verify_repair_dry_run", &[&repair[..], &["--dry-run"]].concat(), 5);
    run("verify_repair", &repair, 0);
    fs::write(&sums, "").unwrap();
    fs::remove_dir_all(sandbox.path("copy/demo/sources/files/data")).unwrap();
    run("verify_repair_nothing", &repair, 5);
    fs::remove_dir_all(sandbox.path("repo")).unwrap();
    fs::rename(sandbox.path("sound"), sandbox.path("repo")).unwrap();
    run("restore_dry_run", &["restore", "demo/files", "--to", "out", "--dry-run"], 0);
    run("restore", &["restore", "demo/files", "--to", "out"], 0);
    run("restore_not_empty", &["restore", "demo/files", "--to", "out"], 1);
    run("restore_delta", &["restore", "demo/files", "--to", "out", "--delta", "--yes"], 0);
    run("restore_path", &["restore", "demo/files", "--to", "part", "--path", "**/*.conf"], 0);
    run("restore_nothing", &["restore", "demo/files", "--to", "none", "--path", "*.zip"], 1);
    run("restore_unknown", &["restore", "demo/other", "--to", "none"], 1);
    run("show_unknown", &["show", "20200101"], 1);
}

#[test]
fn an_encrypted_repository_says_which_key_it_wants() {
    let sandbox = ready(true);
    let run = |name: &str, args: &[&str], code: i32| check(name, &sandbox, args, code);
    run("key_list", &["key", "list"], 0);
    run("encrypted_backup", &["backup"], 0);
    run("encrypted_restore_without_key", &["restore", "demo/files", "--to", "out"], 1);
    let wrong = ["restore", "demo/files", "--to", "out", "--identity", "writer.key"];
    run("encrypted_restore_wrong_key", &wrong, 1);
    assert!(!sandbox.path("out").exists(), "a refused restore leaves a directory");
    let right = ["restore", "demo/files", "--to", "out", "--identity", "recovery.key"];
    run("encrypted_restore", &right, 0);
    run("key_overwrite", &["key", "generate", "--out", "recovery.key"], 1);
}

#[test]
fn damage_is_exit_5_and_names_what_it_costs() {
    let sandbox = ready(false);
    sandbox.backup(&[]);
    let segment = sandbox.objects().into_iter().find(|path| path.ends_with("000001.tar.zst"));
    let segment = sandbox.path("repo").join(segment.unwrap());
    let mut bytes = fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&segment, bytes).unwrap();
    check("verify_flipped", &sandbox, &["verify"], 5);
    // Which files a flipped bit costs depends on where in the frame it is.
    let ran = sandbox.run(&["verify", "--depth", "content"]).expect(5);
    assert!(ran.stdout.contains("DAMAGED") && ran.stdout.contains("costs"), "{}", ran.stdout);
    fs::remove_file(&segment).unwrap();
    check("verify_missing", &sandbox, &["verify", "--depth", "list"], 5);
    sandbox.run(&["restore", "demo/files", "--to", "out"]).expect(5);
    let commit =
        sandbox.objects().into_iter().find(|path| path.to_string_lossy().contains("commits"));
    fs::write(sandbox.path("repo").join(commit.unwrap()), "{").unwrap();
    check("list_damaged", &sandbox, &["list"], 5);
}

#[test]
fn what_destroys_waits_for_a_person() {
    let sandbox = ready(false);
    sandbox.backup(&[]);
    fs::create_dir(sandbox.path("out")).unwrap();
    fs::write(sandbox.path("out/notes.txt"), "mine").unwrap();
    let args = ["restore", "demo/files", "--to", "out", "--overwrite"];
    check("overwrite_refused", &sandbox, &args, 6);
    assert_eq!(fs::read_to_string(sandbox.path("out/notes.txt")).unwrap(), "mine");
    sandbox.run(&[&args[..], &["--yes"]].concat()).expect(0);
    assert_eq!(fs::read_to_string(sandbox.path("out/notes.txt")).unwrap(), "notes\n");
}

#[test]
fn an_interrupt_is_exit_130() {
    let sandbox = Sandbox::new();
    sandbox.write_policy(false, "  slow: { command: { argv: [sleep, \"60\"] } }\n");
    sandbox.run(&["init"]).expect(0);
    let mut command = sandbox.command(&["backup", "demo/slow"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(700));
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let begun = std::time::Instant::now();
    finish(child).expect(130);
    assert!(begun.elapsed().as_secs() < 10, "it took {:?} to stop", begun.elapsed());
}

#[test]
fn a_command_that_fails_is_exit_1_and_not_listed() {
    let sandbox = Sandbox::new();
    let sources = "  dump: { command: { pipeline: [[echo, data], [sh, -c, \"cat; exit 7\"]] } }\n";
    sandbox.write_policy(false, sources);
    sandbox.run(&["init"]).expect(0);
    check("backup_command_fails", &sandbox, &["backup", "demo/dump"], 1);
    fs::write(sandbox.path("src/one"), "one").unwrap();
    let ran = check("backup_one_of_two_fails", &sandbox, &["backup"], 1);
    assert_eq!(ran.stdout.lines().count(), 1, "the source that is well is backed up");
    assert!(!sandbox.run(&["list"]).stdout.contains("demo/dump"));
}

#[test]
fn quiet_says_nothing_but_data() {
    let sandbox = ready(false);
    let id = sandbox.run(&["backup", "--quiet"]).expect(0);
    assert_eq!(id.stderr, "");
    assert_eq!(id.stdout.lines().count(), 1);
    for args in [
        &["init", "--quiet"][..],
        &["restore", "demo/files", "--to", "out", "--quiet"],
        &["backup", "--dry-run", "-q"],
    ] {
        let ran = sandbox.run(args).expect(0);
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""), "{args:?}");
    }
    // Errors are said all the same.
    let ran = sandbox.run(&["show", "20200101", "-q"]).expect(1);
    assert!(ran.stderr.starts_with("error: "), "{}", ran.stderr);
}

/// Keys and types of a JSON value; of arrays the first element.
fn shape(value: &Value) -> Value {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) => "bool".into(),
        Value::Number(number) if number.is_f64() => "float".into(),
        Value::Number(_) => "integer".into(),
        Value::String(_) => "string".into(),
        Value::Array(items) => Value::Array(items.first().map(shape).into_iter().collect()),
        Value::Object(fields) => {
            let sorted: BTreeMap<_, _> =
                fields.iter().map(|(k, v)| (k.clone(), shape(v))).collect();
            Value::Object(sorted.into_iter().collect())
        }
    }
}

#[test]
fn json_keeps_its_shape() {
    let sandbox = ready(true);
    let mut all = String::new();
    for args in [
        &["init"][..],
        &["check"],
        &["backup"],
        &["list"],
        &["show", "demo/files"],
        &["verify"],
        &["verify", "--budget", "1GiB"],
        &["restore", "demo/files", "--to", "out"],
        &["key", "list"],
        &["key", "generate", "--out", "third.key"],
        &["schema"],
    ] {
        let ran = sandbox.run_with_key(&[args, &["--output", "json"]].concat()).expect(0);
        let mut json = ran.json();
        if args == ["schema"] {
            json = Value::String(json["title"].as_str().unwrap().to_owned());
        }
        let text = serde_json::to_string_pretty(&shape(&json)).unwrap();
        writeln!(all, "$ backstay {} --output json\n{text}\n", args.join(" ")).unwrap();
        for line in ran.stderr.lines() {
            let event: Value = serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("{args:?}: not an event: {error}: {line}"));
            assert!(event["event"].is_string(), "{line}");
        }
    }
    damaged_beside_a_copy(&sandbox);
    let repair = ["verify", "--repair-from", "./copy"];
    let json = sandbox.run(&[&repair[..], &["--output", "json"]].concat()).expect(0).json();
    let text = serde_json::to_string_pretty(&shape(&json)).unwrap();
    writeln!(all, "$ backstay {} --output json\n{text}\n", repair.join(" ")).unwrap();
    let lines = sandbox.run_with_key(&["ls", "demo/files", "--output", "json"]).expect(0).stdout;
    for line in lines.lines() {
        let json: Value = serde_json::from_str(line).unwrap();
        if json["path"] == "notes.txt" {
            let text = serde_json::to_string_pretty(&shape(&json)).unwrap();
            writeln!(all, "$ backstay ls --output json (a line each)\n{text}").unwrap();
        }
    }
    filters().bind(|| insta::assert_snapshot!("json", all));
}

#[test]
fn events_and_errors_are_json_lines() {
    let sandbox = ready(false);
    let events = |args: &[&str], code: i32| -> Vec<Value> {
        let ran = sandbox.run(&[args, &["--output", "json"]].concat()).expect(code);
        ran.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let backup = events(&["backup", "demo/files"], 0);
    let started = backup.iter().find(|event| event["event"] == "started").unwrap();
    assert_eq!(started["verb"], "backup");
    assert_eq!(started["source"], "demo/files");
    assert!(backup.iter().any(|event| event["event"] == "phase" && event["phase"] == "reading"));
    assert!(backup.iter().any(|event| event["event"] == "phase" && event["phase"] == "committing"));
    let missing = events(&["show", "20200101"], 1);
    let error = missing.last().unwrap();
    assert_eq!(error["event"], "error");
    assert_eq!(error["kind"], "notfound");
    assert!(error["hints"].as_array().is_some_and(|hints| !hints.is_empty()), "{error}");
}

#[test]
fn completions_are_there_for_every_shell() {
    let shells = ["bash", "zsh", "fish", "powershell", "elvish"];
    let scripts: Vec<String> = shells
        .iter()
        .map(|shell| bare(&["completions", shell]).expect(0).stdout)
        .inspect(|script| assert!(script.contains("add-recipient"), "a command is missing"))
        .collect();
    let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut bash.stdin.take().unwrap(), scripts[0].as_bytes()).unwrap();
    assert!(bash.wait().unwrap().success(), "the completions for bash are not valid bash");
}

#[test]
fn manual_pages_render() {
    let page = bare(&["man"]).expect(0).stdout;
    for section in [".TH backstay 1", ".SH NAME", ".SH SYNOPSIS", ".SH OPTIONS"] {
        assert!(page.contains(section), "no {section}");
    }
    let directory = tempfile::tempdir().unwrap();
    bare(&["man", "--out", &directory.path().to_string_lossy()]).expect(0);
    let pages = fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(pages, COMMANDS.len(), "a page for every command");
}

#[test]
fn a_reader_that_hangs_up_is_no_error() {
    let sandbox = ready(false);
    sandbox.backup(&[]);
    for args in [&["list"][..], &["ls", "demo/files"], &["schema"], &["completions", "bash"]] {
        let mut command = sandbox.command(args);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let ran = finish(child);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{args:?}");
    }
}

#[test]
fn the_version_is_said() {
    let expected = format!("backstay {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(bare(&["--version"]).expect(0).stdout, expected);
}
