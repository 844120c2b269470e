//! What people and programs are told, and what is waited for.

use std::fs;
use std::net::TcpListener;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::finish;
use crate::common::playbook::{Stage, effect};

fn one(steps: &str) -> String {
    format!("  move:\n    recover:\n{steps}")
}

fn wait(what: &str, mut until: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !until() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_port_is_waited_for_until_the_time_is_over_however_short_it_is() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    // The pause between two tries is longer than all the time there is: one more is made at its end.
    let stage = Stage::new(&one(&format!(
        "      port: {{ tcp: {{ address: \"127.0.0.1:{port}\", every: 1h }}, timeout: 5s }}\n"
    )));
    let child = stage
        .command("l", &["run", "move", "--yes"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Once the step began it was tried in vain; now somebody listens.
    wait("the step begins", || {
        let runs = stage.run("none", &["history", "--output", "json"]);
        runs.code == 0 && !runs.json().as_array().unwrap().is_empty()
    });
    let run = stage.newest();
    wait("it is under way", || stage.state(&run, "port") == "running");
    let _listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    finish(child).expect(0);
}

#[test]
fn what_a_program_left_behind_is_not_waited_for() {
    let stage = Stage::new(&one(
        "      start: { command: { apply: { shell: \"setsid sleep 600 & echo pid=$!\" }, outputs: [pid] } }\n",
    ));
    stage.run("l", &["run", "move", "--yes"]).expect(0);
    let run = stage.newest();
    let shown = stage.run("l", &["show", &run, "--output", "json"]).expect(0).json();
    let pid: i32 = shown["steps"][0]["outputs"]["pid"].as_str().unwrap().parse().unwrap();
    // It goes on, and held what it was given open all the time.
    assert!(fs::metadata(format!("/proc/{pid}")).is_ok(), "it was not to be ended");
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn what_failed_is_told_in_words_and_as_an_event() {
    let stage =
        Stage::new(&one("      files: { restore: { source: files, to: /proc/none/out } }\n"));
    fs::write(stage.sandbox.path("src/a"), "a").unwrap();
    stage.sandbox.run(&["backup", "demo/files"]).expect(0);
    let ran = stage.run("l", &["run", "move", "--yes"]).expect(1);
    assert!(ran.stderr.contains("failed to restore demo/files"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("{\"") && !ran.stderr.contains("\"chain\""), "{}", ran.stderr);
    let run = stage.newest();
    stage.run("l", &["abort", &run, "--leave", "--reason", "x", "--yes"]).expect(0);
    let ran = stage.run("l", &["run", "move", "--yes", "--output", "json"]).expect(1);
    let last: serde_json::Value = serde_json::from_str(ran.stderr.lines().last().unwrap()).unwrap();
    assert_eq!((last["event"].as_str(), last["exit_code"].as_u64()), (Some("error"), Some(1)));
    assert!(last["chain"].as_str().unwrap().contains("`files`: failed to restore"), "{last}");
    // One that waits for a person says so as well.
    let run = stage.newest();
    stage.run("l", &["abort", &run, "--leave", "--reason", "x", "--yes"]).expect(0);
    stage.write(&one("      agree: { approval: { of: 1 } }\n"));
    let ran = stage.run("l", &["run", "move", "--yes", "--output", "json"]).expect(6);
    let last: serde_json::Value = serde_json::from_str(ran.stderr.lines().last().unwrap()).unwrap();
    assert_eq!((last["kind"].as_str(), last["exit_code"].as_u64()), (Some("waiting"), Some(6)));
}

#[test]
fn a_plan_is_read_before_it_is_gone_on_with_by_its_hash() {
    let step = |text: &str| {
        one(&format!(
            "      agree: {{ approval: {{ of: 1 }} }}\n      say: {{ command: {{ apply: {{ shell: \"echo {text} >> $LEDGER\" }} }} }}\n"
        ))
    };
    let stage = Stage::new(&step("first"));
    stage.run("l", &["run", "move", "--yes"]).expect(6);
    let run = stage.newest();
    stage.run("l", &["approve", &run, "agree", "--yes"]).expect(0);
    stage.write(&step("second"));
    let ran = stage.run("l", &["resume", &run]).expect(6);
    assert!(ran.stderr.contains(&format!("show {run} --output json")), "{}", ran.stderr);
    let shown = stage.run("l", &["show", &run, "--output", "json"]).expect(0).json();
    let plan = shown["plan"]["steps"].as_array().unwrap();
    assert!(plan[1].to_string().contains("echo first >> $LEDGER"), "{}", shown["plan"]);
    let hash = shown["hash"].as_str().unwrap();
    stage.run("l", &["resume", &run, "--plan", &hash[..12]]).expect(0);
    assert_eq!(stage.ledger("l"), ["first"]);
}

#[test]
fn schedulers_are_kept_quiet_before_anything_is_looked_at() {
    let say = |name: &str| {
        format!(
            "      {name}: {{ command: {{ apply: {{ shell: \"echo {name} >> $LEDGER\" }} }} }}\n"
        )
    };
    let stage = Stage::new(&format!(
        "  move:\n    modes: [graceful, drill]\n    validate:\n{}    quiesce:\n{}    recover:\n{}",
        say("look"),
        say("beat"),
        say("data")
    ));
    for (ledger, mode) in [("g", "graceful"), ("d", "drill")] {
        stage.run(ledger, &["run", "move", "--mode", mode, "--yes"]).expect(0);
        assert_eq!(stage.ledger(ledger), ["data", "beat", "look"], "{mode}");
    }
}

/// A terminal sees where the run stands, drawn again and again; what is no terminal sees lines alone.
#[test]
fn a_terminal_sees_where_a_run_stands() {
    if !crate::common::has_tools(&["python3"]) {
        return;
    }
    let stage = Stage::new(&one(
        "      first: { wait: { for: 1s } }\n      second: { command: { apply: { argv: [true] } } }\n",
    ));
    let plain = stage.run("l", &["run", "move", "--yes"]).expect(0);
    assert!(!plain.stderr.contains("of 2 steps") && !plain.stderr.contains('\u{1b}'));
    let ours = stage.command("l", &["run", "move", "--yes"]);
    let mut command = std::process::Command::new("python3");
    let script = "import os,pty,sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
    command.args(["-c", script]).arg(ours.get_program()).args(ours.get_args());
    command.current_dir(ours.get_current_dir().unwrap());
    for (name, value) in ours.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("TERM", "xterm").env_remove("NO_COLOR").stdin(Stdio::null());
    let output = command.output().unwrap();
    let seen = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{seen}");
    assert!(seen.contains("move (graceful): 0 of 2 steps"), "{seen}");
    assert!(seen.contains("first") && seen.contains("running"), "{seen}");
    assert!(seen.contains("succeeded"), "{seen}");
}

#[test]
fn what_a_program_started_ends_with_whoever_carries_the_run_out() {
    // The shell is a child of the program; what it starts is not.
    let stage = Stage::new(&one(
        "      work: { command: { apply: { shell: \"sh -c 'echo $$ > $LEDGER; while :; do sleep 0.1; echo on >> $LEDGER.more; done'; true\" } } }\n",
    ));
    let mut child = stage
        .command("l", &["run", "move", "--yes"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait("the program's program is at work", || stage.sandbox.path("l.more").exists());
    let pid = stage.ledger("l")[0].clone();
    child.kill().unwrap();
    child.wait().unwrap();
    let is_there = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        !status.is_empty() && !status.contains("State:\tZ")
    };
    wait("it ends", || !is_there());
    // Whoever goes on is alone.
    let before = fs::read_to_string(stage.sandbox.path("l.more")).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(fs::read_to_string(stage.sandbox.path("l.more")).unwrap(), before);
}

#[test]
fn what_ends_a_program_is_told_as_it_was() {
    let stage = Stage::new(&one("      die: { command: { apply: { shell: \"kill -9 $$\" } } }\n"));
    let ran = stage.run("l", &["run", "move", "--yes"]).expect(1);
    assert!(ran.stderr.contains("`bash` ended with signal: 9 (SIGKILL)"), "{}", ran.stderr);
    stage.run("l", &["abort", &stage.newest(), "--reason", "x", "--yes"]).expect(0);
    stage.write(&one("      no: { command: { apply: { argv: [/no/such/program] } } }\n"));
    let ran = stage.run("l", &["run", "move", "--yes"]).expect(1);
    assert!(ran.stderr.contains("failed to start `/no/such/program`"), "{}", ran.stderr);
    stage.run("l", &["abort", &stage.newest(), "--reason", "x", "--yes"]).expect(0);
    stage.write(&one("      slow: { command: { apply: { shell: \"sleep 60\" } }, timeout: 2s }\n"));
    let ran = stage.run("l", &["run", "move", "--yes"]).expect(1);
    assert!(ran.stderr.contains("was ended after 2 seconds"), "{}", ran.stderr);
}

#[test]
fn a_run_whose_journal_is_damaged_is_set_aside_and_keeps_nobody_from_another() {
    let steps = one(&format!(
        "      a: {{ {} }}\n      ask: {{ manual: {{ text: \"wait\" }} }}\n",
        effect("a")
    ));
    let stage = Stage::new(&steps);
    stage.run("l", &["run", "move", "--yes"]).expect(6);
    let run = stage.newest();
    let leave = ["abort", &run, "--leave", "--reason", "looked at all of it", "--yes"];
    let record = stage.journal(&run).join("00000002.json");
    let whole = fs::read(&record).unwrap();
    fs::write(&record, "{").unwrap();
    for args in [&["run", "move", "--yes"][..], &["show", &run], &["resume", &run]] {
        let ran = stage.run("l", args).expect(5);
        assert!(ran.stderr.contains("record 2 of"), "{args:?}: {}", ran.stderr);
        assert!(
            ran.stderr.contains(&format!("abort {run} --leave --reason WHY")),
            "{}",
            ran.stderr
        );
    }
    let ran = stage.run("l", &["history"]).expect(1);
    assert!(ran.stdout.contains(&run) && ran.stdout.contains("cannot be read"), "{}", ran.stdout);
    // Nobody takes anything back of which nobody knows.
    stage.run("l", &["abort", &run, "--reason", "x", "--yes"]).expect(5);
    stage.run("l", &leave[..5]).expect(6);
    let ran = stage.run("l", &leave).expect(0);
    assert!(ran.stderr.contains("is set aside"), "{}", ran.stderr);
    let ran = stage.run("l", &["history"]).expect(0);
    assert!(ran.stdout.contains("set aside: damaged"), "{}", ran.stdout);
    let last = fs::read_dir(stage.journal(&run)).unwrap().map(|e| e.unwrap().path()).max().unwrap();
    let last: serde_json::Value = serde_json::from_slice(&fs::read(last).unwrap()).unwrap();
    assert!(last["why"].as_str().unwrap().starts_with("looked at all of it ("), "{last}");
    stage.run("l", &leave).expect(1);
    // Another begins, and what is well is not set aside.
    stage.run("l", &["run", "move", "--yes"]).expect(6);
    let next = stage.newest();
    stage.run("l", &["abort", &next, "--leave", "--reason", "x", "--yes"]).expect(0);
    assert_eq!(stage.state(&next, "ask"), "not executed");
    // A record that is missing is damage as well; the journal is read as far as it is whole.
    fs::write(&record, whole).unwrap();
    fs::remove_file(stage.journal(&next).join("00000003.json")).unwrap();
    stage.run("l", &["show", &next]).expect(5);
    stage.run("l", &["run", "move", "--yes"]).expect(6);
}

#[test]
fn who_is_asked_at_times_is_asked_where_nobody_knows() {
    let stage = Stage::new(&one(
        "      look: { command: { apply: { shell: \"test -e ready && echo over=no\" }, outputs: [over], read_only: true } }\n      agree: { approval: {}, when: { output: look.over, is: \"yes\" } }\n      tell: { command: { apply: { shell: \"echo +tell >> $LEDGER\" } }, when: { output: look.over, is: \"yes\" } }\n      go: { command: { apply: { shell: \"echo +go >> $LEDGER\" } } }\n",
    ));
    stage.run("l", &["run", "move", "--yes"]).expect(1);
    let run = stage.newest();
    stage.run("l", &["skip-step", &run, "look", "--reason", "no time"]).expect(0);
    stage.run("l", &["resume", &run]).expect(6);
    assert!(stage.ledger("l").is_empty());
    stage.run("l", &["approve", &run, "agree", "--yes"]).expect(0);
    stage.run("l", &["resume", &run]).expect(0);
    assert_eq!(stage.ledger("l"), ["+go"]);
    let shown = stage.run("l", &["show", &run]).expect(0).stdout;
    assert!(shown.contains("`look.over` is not known"), "{shown}");
    // Where it is known nobody is.
    fs::write(stage.sandbox.path("ready"), "").unwrap();
    stage.run("m", &["run", "move", "--yes"]).expect(0);
    assert_eq!(stage.ledger("m"), ["+go"]);
}

#[test]
fn a_run_of_which_the_repository_knows_less_is_set_aside() {
    let stage = Stage::new(&one("      agree: { approval: {} }\n"));
    stage.run("l", &["run", "move", "--yes"]).expect(6);
    let run = stage.newest();
    let records = fs::read_dir(stage.journal(&run)).unwrap().map(|entry| entry.unwrap().path());
    fs::remove_file(records.max().unwrap()).unwrap();
    let ran = stage.run("l", &["resume", &run]).expect(6);
    assert!(ran.stderr.contains(&format!("abort {run} --leave --reason WHY")), "{}", ran.stderr);
    stage.run("l", &["run", "move", "--yes"]).expect(1);
    stage.run("l", &["abort", &run, "--leave", "--reason", "nothing was done", "--yes"]).expect(0);
    stage.run("l", &["run", "move", "--yes"]).expect(6);
}

#[test]
fn what_a_step_printed_moves_no_cursor_where_people_decide() {
    let stage = Stage::new(&one(
        "      look: { command: { apply: { shell: \"printf 'loss=9\\\\033[2K\\\\rloss = 0'\" }, outputs: [loss], read_only: true } }\n      agree: { approval: {} }\n",
    ));
    stage.run("l", &["run", "move", "--yes"]).expect(6);
    let run = stage.newest();
    let shown = stage.run("l", &["show", &run]).expect(0);
    let agreed = stage.run("l", &["approve", &run, "agree", "--yes"]).expect(0);
    for text in [&shown.stdout, &agreed.stderr] {
        assert!(text.contains("9\\u{1b}[2K") && !text.contains('\u{1b}'), "{text:?}");
    }
}

#[test]
fn a_mode_that_a_playbook_is_not_made_for_is_not_checked() {
    let stage = Stage::new(&one("      a: { wait: { for: 1s } }\n"));
    let ran = stage.run("l", &["check", "move", "--mode", "drill"]).expect(2);
    assert!(ran.stderr.contains("is not made for mode `drill`"), "{}", ran.stderr);
}

#[test]
fn a_repository_that_goes_away_meanwhile_is_not_made_anew() {
    let stage = Stage::new(&one(
        "      wait: { command: { apply: { shell: \"touch $LEDGER; while ! test -e go; do sleep 0.1; done\" } } }\n",
    ));
    let child = stage
        .command("l", &["run", "move", "--yes"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait("the step begins", || stage.sandbox.path("l").exists());
    let (repository, away) = (stage.sandbox.path("repo"), stage.sandbox.path("away"));
    fs::rename(&repository, &away).unwrap();
    fs::create_dir(&repository).unwrap();
    fs::write(stage.sandbox.path("go"), "").unwrap();
    let ran = finish(child).expect(1);
    assert!(ran.stderr.contains("is no repository any more"), "{}", ran.stderr);
    assert_eq!(fs::read_dir(&repository).unwrap().count(), 0, "nothing is written there");
    // When it is back the run goes on.
    fs::remove_dir(&repository).unwrap();
    fs::rename(&away, &repository).unwrap();
    let run = stage.newest();
    stage.run("l", &["attest", &run, "wait", "--text", "it is"]).expect(1);
    stage.run("l", &["resume", &run]).expect(6);
}

#[test]
fn what_stays_when_the_others_are_taken_back_is_named() {
    let stage = Stage::new(&format!(
        "  move:\n    on_failure: undo\n    recover:\n      a: {{ {} }}\n      b: {{ command: {{ apply: {{ shell: \"echo +b >> $LEDGER\" }} }} }}\n      c: {{ command: {{ apply: {{ argv: [false] }} }} }}\n",
        effect("a")
    ));
    stage.run("l", &["run", "move", "--yes"]).expect(1);
    assert_eq!(stage.ledger("l"), ["+a", "+b", "-a"]);
    let listed = stage.run("l", &["history"]).expect(0).stdout;
    assert!(listed.contains("undone; `b` cannot be taken back, and stays"), "{listed}");
}
