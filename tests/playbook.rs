//! Playbooks as people use them: lists, plans, runs, gates, failures, and what people do about them.

use std::fs;
use std::time::{Duration, Instant};

use crate::common::playbook::{Stage, effect};
use crate::common::{Ran, finish};

/// `playbooks:` with one called `move`.
fn one(body: &str) -> String {
    format!("  move:\n{body}")
}

/// What was printed, without what differs from run to run.
fn told(stage: &Stage, ran: &Ran) -> String {
    format!("[stdout]\n{}[stderr]\n{}[exit {}]", ran.stdout, ran.stderr, ran.code)
        .replace(&stage.sandbox.root().display().to_string(), "DIR")
}

fn snapshot(name: &str, text: String) {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for (pattern, text) in [
        (r"\d{8}T\d{6}Z-[0-9a-z]{6}", "RUN"),
        (r"\b[0-9a-f]{64}\b", "HASH"),
        (r"\b[0-9a-f]{12}\b", "HASH"),
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
        (r"\d\d:\d\d:\d\dZ", "TIME"),
        (r"\b\d+\.\ds\b", "SECONDS"),
        (r"by \S+ on \S+", "by USER on HOST"),
        (r"(\S+) \(\S+ on \S+\)", "$1 (USER on HOST)"),
        (r"(?m)([^ \n]) {2,}", "$1  "),
    ] {
        settings.add_filter(pattern, text);
    }
    settings.bind(|| insta::assert_snapshot!(format!("playbook-{name}"), text));
}

/// Every kind of thing that a playbook can have, small enough to be read.
fn example() -> String {
    one(&format!(
        "    description: To the other side\n    modes: [graceful, ungraceful]\n    \
         assess:\n      look: {{ command: {{ apply: {{ shell: \"echo lag=3; echo lost=no\" }}, outputs: [lag, lost], read_only: true }}, timeout: 30s }}\n    \
         fence:\n      stop: {{ {}, modes: [graceful] }}\n    \
         recover:\n      left: {{ {}, group: both }}\n      right: {{ {}, group: both, retry: {{ times: 2, pause: 1s }} }}\n      late: {{ {}, when: {{ output: look.lost, is: \"yes\" }} }}\n    \
         cutover:\n      agree: {{ approval: {{ of: 2, from: [ann, bo], text: \"Users see the other side\" }} }}\n      switch: {{ {}, point_of_no_return: true }}\n    \
         cleanup:\n      sweep: {{ command: {{ apply: {{ shell: \"echo swept {{{{look.lag}}}} >> $LEDGER\" }}, repeatable: true }} }}\n",
        effect("stop"),
        effect("left"),
        effect("right"),
        effect("late"),
        effect("switch"),
    ))
}

#[test]
fn a_playbook_is_listed_shown_and_checked() {
    let stage = Stage::new(&example());
    snapshot("list", told(&stage, &stage.run("l", &["list"]).expect(0)));
    snapshot("show", told(&stage, &stage.run("l", &["show", "move"]).expect(0)));
    let ungraceful = stage.run("l", &["show", "demo/move", "--mode", "ungraceful"]).expect(0);
    snapshot("show-ungraceful", told(&stage, &ungraceful));
    snapshot("check", told(&stage, &stage.run("l", &["check"]).expect(0)));
    let graceful = stage.run("l", &["show", "move", "--output", "json"]).expect(0).json();
    let other = stage.run("l", &["show", "move", "--mode", "ungraceful", "--output", "json"]);
    assert_ne!(graceful["hash"], other.expect(0).json()["hash"], "the mode is part of the plan");
    // The same text gives the same plan wherever it lies; another text another one.
    let again = stage.run_elsewhere("l", &["show", "move", "--output", "json"]).expect(0).json();
    assert_eq!(graceful["hash"], again["hash"]);
    stage.write(&example().replace("timeout: 30s", "timeout: 31s"));
    let changed = stage.run("l", &["show", "move", "--output", "json"]).expect(0).json();
    assert_ne!(graceful["hash"], changed["hash"]);
    let ran = stage.run("l", &["show", "mvoe"]).expect(2);
    assert!(ran.stderr.contains("did you mean `move`?"), "{}", ran.stderr);
    assert!(stage.ledger("l").is_empty());
}

#[test]
fn a_dry_run_says_what_is_missing_and_does_nothing() {
    let stage = Stage::new(&one(
        "    recover:\n      one: { command: { apply: { argv: [no-such-program] } } }\n      two: { command: { apply: { argv: [true] }, environment: { A: \"${env:NOT_SET}\" } } }\n      three: { restore: { source: files, to: /nowhere/out } }\n",
    ));
    let ran = stage.run("l", &["run", "move", "--dry-run"]).expect(1);
    for missing in ["no-such-program", "NOT_SET", "there is no backup of demo/files"] {
        assert!(ran.stdout.contains(missing), "{missing}:\n{}", ran.stdout);
    }
    assert!(!stage.sandbox.path("repo/demo/journal").exists());
    stage.run("l", &["run", "move", "--mode", "dry-run"]).expect(1);
    stage.run("l", &["check"]).expect(1);
    stage.run("l", &["check", "--plan-only"]).expect(0);
}

#[test]
fn whoever_agrees_is_counted_once_and_says_why() {
    let stage = Stage::new("  move:\n    assess:\n      agree: { approval: { of: 2 } }\n");
    stage.run("l", &["run", "move", "--yes"]).expect(6);
    let run = stage.newest();
    let approve = |who: &str| stage.run("l", &["approve", &run, "agree", "--as", who, "--yes"]);
    approve("ann").expect(0);
    let again = approve("ANN").expect(1);
    assert!(again.stderr.contains("has approved `agree` already"), "{}", again.stderr);
    stage.run("l", &["resume", &run]).expect(6);
    for args in [
        &["skip-step", &run, "agree", "--reason", " "][..],
        &["attest", &run, "agree", "--text", ""],
        &["abort", &run, "--leave", "--reason", ""],
    ] {
        let ran = stage.run("l", args).expect(2);
        assert!(ran.stderr.contains("nothing is said"), "{}", ran.stderr);
    }
    approve("bo").expect(0);
    stage.run("l", &["resume", &run]).expect(0);
}

#[test]
fn a_run_goes_from_gate_to_gate() {
    let stage = Stage::new(&example());
    // Nobody is there to be asked.
    let ran = stage.run("l", &["run", "move"]).expect(6);
    assert!(ran.stderr.contains("--yes"), "{}", ran.stderr);
    let ran = stage.run("l", &["run", "move", "--yes"]).expect(6);
    snapshot("run-waits", sorted(told(&stage, &ran)));
    let mut done = stage.ledger("l");
    done[1..].sort();
    assert_eq!(done, ["+stop", "+left", "+right"]);
    let run = stage.newest();
    // Who is not asked cannot agree, one person is not two, and nothing takes an approval's place.
    let ran = stage.run("l", &["approve", &run, "agree", "--as", "eve", "--yes"]).expect(1);
    assert!(ran.stderr.contains("it asks ann, bo"), "{}", ran.stderr);
    stage.run("l", &["approve", &run, "agree", "--as", "ann"]).expect(6);
    stage.run("l", &["approve", &run, "agree", "--as", "ann", "--yes"]).expect(0);
    stage.run("l", &["approve", &run, "agree", "--as", "ann", "--yes"]).expect(1);
    stage.run("l", &["skip-step", &run, "agree", "--reason", "no time"]).expect(2);
    stage.run("l", &["attest", &run, "agree", "--text", "they said so"]).expect(2);
    stage.run("l", &["resume", &run]).expect(6);
    stage.run_elsewhere("l", &["approve", &run, "agree", "--as", "bo", "--yes"]).expect(0);
    let ran = stage.run_elsewhere("l", &["resume", &run]).expect(0);
    snapshot("run-resumed", told(&stage, &ran));
    assert_eq!(stage.ledger("l")[3..], ["+switch", "swept 3"]);
    // What is over stays so.
    stage.run("l", &["resume", &run]).expect(0);
    stage.run("l", &["abort", &run, "--reason", "late", "--yes"]).expect(1);
    assert_eq!(stage.ledger("l").len(), 5);
    let history = stage.run("l", &["history", "--output", "json"]).expect(0).json();
    assert_eq!(history[0]["state"], "succeeded");
}

/// Steps of a group end in any order.
fn sorted(text: String) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    let both = |line: &&str| line.contains(" left ") || line.contains(" right ");
    let told = |line: &&str| both(line) && line.contains("Z  ");
    let (first, last) = (lines.iter().position(&told), lines.iter().rposition(told));
    if let (Some(first), Some(last)) = (first, last) {
        lines[first..=last].sort_by_key(|line| line.split("Z  ").nth(1).unwrap_or("").to_owned());
    }
    lines.join("\n")
}

#[test]
fn an_approval_does_not_count_for_what_was_found_later() {
    let stage = Stage::new(&one(
        "    assess:\n      look: { command: { apply: { shell: \"echo lag=$(cat $LEDGER.lag)\" }, outputs: [lag], read_only: true, repeatable: true } }\n      \
         check: { command: { apply: { shell: \"test -e $LEDGER.ok\" }, read_only: true }, needs: [] }\n      \
         agree: { approval: { of: 1 }, needs: [look] }\n    cutover:\n      go: { command: { apply: { shell: \"echo go >> $LEDGER\" } } }\n",
    ));
    fs::write(stage.sandbox.path("l.lag"), "3").unwrap();
    stage.run("l", &["run", "move", "--yes"]).expect(1);
    let run = stage.newest();
    // What it was shown and what it is now differ: refused. The chain is what binds it.
    let shown = stage.run("l", &["show", &run, "--output", "json"]).expect(0).json();
    assert_eq!(shown["steps"][0]["outputs"]["lag"], "3");
    fs::write(stage.sandbox.path("l.ok"), "").unwrap();
    stage.run("l", &["retry-step", &run, "check"]).expect(0);
    stage.run("l", &["resume", &run]).expect(6);
    stage.run("l", &["approve", &run, "agree", "--yes"]).expect(0);
    stage.run("l", &["resume", &run]).expect(0);
    assert_eq!(stage.ledger("l"), ["go"]);
}

#[test]
fn a_failed_step_stops_the_run_and_a_person_decides() {
    let step = |name: &str, shell: &str| {
        format!("      {name}: {{ command: {{ apply: {{ shell: \"{shell}\" }} }} }}\n")
    };
    let playbook = one(&format!(
        "    recover:\n{}{}{}",
        step("first", "echo first >> $LEDGER"),
        step("second", "test -e $LEDGER.ok && echo second >> $LEDGER"),
        step("third", "echo third >> $LEDGER")
    ));
    let stage = Stage::new(&playbook);
    let ran = stage.run("a", &["run", "move", "--yes"]).expect(1);
    snapshot("run-stuck", told(&stage, &ran));
    let run = stage.newest();
    // Beside a run that is not over no other one begins.
    let ran = stage.run("b", &["run", "move", "--yes"]).expect(1);
    assert!(ran.stderr.contains("is not over"), "{}", ran.stderr);
    // Going on alone changes nothing.
    stage.run("a", &["resume", &run]).expect(1);
    assert_eq!(stage.ledger("a"), ["first"]);
    fs::write(stage.sandbox.path("a.ok"), "").unwrap();
    stage.run("a", &["retry-step", &run, "third"]).expect(1);
    stage.run("a", &["retry-step", &run, "second"]).expect(0);
    stage.run("a", &["resume", &run]).expect(0);
    assert_eq!(stage.ledger("a"), ["first", "second", "third"]);
    assert_eq!(stage.state(&run, "second"), "succeeded");
    // Skipped, and attested.
    for (ledger, verb, option, end) in [
        ("c", "skip-step", "--reason", "succeeded with failures"),
        ("d", "attest", "--text", "succeeded"),
    ] {
        stage.run(ledger, &["run", "move", "--yes"]).expect(1);
        let run = stage.newest();
        stage.run(ledger, &[verb, &run, "second", option, "seen by hand"]).expect(0);
        let ran = stage.run(ledger, &["resume", &run, "--output", "json"]).expect(0);
        assert_eq!(ran.json()["state"], end);
        assert_eq!(stage.ledger(ledger), ["first", "third"]);
    }
}

#[test]
fn what_is_not_critical_does_not_stop_the_run_and_is_told() {
    let stage = Stage::new(&one(
        "    recover:\n      nice: { command: { apply: { argv: [false] } }, critical: false, retry: { times: 1, pause: 1s } }\n      must: { command: { apply: { shell: \"echo must >> $LEDGER\" } } }\n",
    ));
    let ran = stage.run("l", &["run", "move", "--yes"]).expect(0);
    assert!(ran.stderr.contains("is tried again"), "{}", ran.stderr);
    assert!(ran.stderr.contains("warning: steps failed"), "{}", ran.stderr);
    assert_eq!(stage.ledger("l"), ["must"]);
    let run = stage.newest();
    assert_eq!(stage.state(&run, "nice"), "failed");
}

fn undoable(on_failure: &str, last: &str) -> String {
    one(&format!(
        "    on_failure: {on_failure}\n    fence:\n      a: {{ {} }}\n    recover:\n      b: {{ {}, group: g }}\n      c: {{ {}, group: g }}\n      d: {{ {} }}\n      last: {{ command: {{ apply: {{ shell: \"{last}\" }} }} }}\n    cleanup:\n      sweep: {{ command: {{ apply: {{ shell: \"echo swept >> $LEDGER\" }} }} }}\n",
        effect("a"),
        effect("b"),
        effect("c"),
        effect("d"),
    ))
}

/// The ledger with what happens side by side in one order.
fn in_order(mut ledger: Vec<String>) -> Vec<String> {
    for pair in [["+b", "+c"], ["-b", "-c"]] {
        if let Some(at) = ledger.windows(2).position(|w| w[0] == pair[1] && w[1] == pair[0]) {
            ledger.swap(at, at + 1);
        }
    }
    ledger
}

#[test]
fn what_was_done_is_taken_back_in_reverse() {
    let stage = Stage::new(&undoable("undo", "exit 1"));
    stage.run("l", &["run", "move", "--yes"]).expect(1);
    let expected = ["+a", "+b", "+c", "+d", "-d", "-b", "-c", "-a", "swept"];
    assert_eq!(in_order(stage.ledger("l")), expected);
    // The same when a person says so.
    stage.write(&undoable("stop", "exit 1"));
    stage.run("m", &["run", "move", "--yes"]).expect(1);
    let run = stage.newest();
    stage.run("m", &["abort", &run, "--reason", "enough"]).expect(6);
    assert_eq!(in_order(stage.ledger("m")), expected[..4]);
    let ran = stage.run_elsewhere("m", &["abort", &run, "--reason", "enough", "--yes"]).expect(0);
    assert_eq!(in_order(stage.ledger("m")), expected, "{}", ran.stderr);
    assert_eq!(stage.state(&run, "last"), "failed");
    assert_eq!(stage.state(&run, "a"), "undone");
}

#[test]
fn past_the_point_of_no_return_nothing_is_taken_back() {
    let playbook =
        undoable("undo", "exit 1").replace("      d: {", "      d: { point_of_no_return: true,");
    let stage = Stage::new(&playbook);
    stage.run("l", &["run", "move", "--yes"]).expect(1);
    assert_eq!(in_order(stage.ledger("l")), ["+a", "+b", "+c", "+d"]);
    let run = stage.newest();
    let ran = stage.run("l", &["abort", &run, "--reason", "x", "--yes"]).expect(1);
    assert!(ran.stderr.contains("past its point of no return"), "{}", ran.stderr);
    stage.run("l", &["abort", &run, "--reason", "x", "--leave", "--yes"]).expect(0);
    assert_eq!(in_order(stage.ledger("l")), ["+a", "+b", "+c", "+d"]);
    let history = stage.run("l", &["history", "--output", "json"]).expect(0).json();
    assert_eq!(history[0]["state"], "left as it was");
    // And another one may begin.
    stage.run("m", &["run", "move", "--yes"]).expect(1);
}

#[test]
fn a_step_that_cannot_be_taken_back_needs_a_person_and_then_the_rest_is() {
    let playbook = undoable("undo", "exit 1").replace("echo -d ", "test -e $LEDGER.ok && echo -d ");
    let stage = Stage::new(&playbook);
    stage.run("l", &["run", "move", "--yes"]).expect(1);
    let run = stage.newest();
    assert_eq!(stage.state(&run, "d"), "undo failed");
    assert_eq!(
        in_order(stage.ledger("l")),
        ["+a", "+b", "+c", "+d"],
        "nothing before it is taken back"
    );
    fs::write(stage.sandbox.path("l.ok"), "").unwrap();
    stage.run("l", &["retry-step", &run, "d"]).expect(0);
    stage.run("l", &["resume", &run]).expect(1);
    assert_eq!(
        in_order(stage.ledger("l")),
        ["+a", "+b", "+c", "+d", "-d", "-b", "-c", "-a", "swept"]
    );
}

#[test]
fn outputs_go_on_and_a_missing_one_is_a_failure() {
    let stage = Stage::new(&one(
        "    assess:\n      look: { command: { apply: { shell: \"echo noise; echo 'name = it is'; echo other=1\" }, outputs: [name] } }\n    recover:\n      use: { command: { apply: { argv: [sh, -c, 'echo \"$1\" >> $LEDGER', x, \"{{look.name}} in {{run.mode}} of {{run.stack}}\"] } } }\n",
    ));
    stage.run("l", &["run", "move", "--yes"]).expect(0);
    assert_eq!(stage.ledger("l"), ["it is in graceful of demo"]);
    stage.write(&one(
        "    assess:\n      look: { command: { apply: { argv: [true] }, outputs: [name] } }\n",
    ));
    let ran = stage.run("l", &["run", "move", "--yes"]).expect(1);
    assert!(ran.stderr.contains("did not print `name=…`"), "{}", ran.stderr);
}

#[test]
fn a_step_that_takes_too_long_fails_with_its_children() {
    let stage = Stage::new(&one(
        "    recover:\n      slow: { command: { apply: { shell: \"sleep 300; echo late >> $LEDGER\" } }, timeout: 1s }\n",
    ));
    let start = Instant::now();
    let ran = stage.run("l", &["run", "move", "--yes"]).expect(1);
    assert!(start.elapsed() < Duration::from_secs(120));
    assert!(ran.stderr.contains("ended after"), "{}", ran.stderr);
    assert!(stage.ledger("l").is_empty());
}

#[test]
fn an_interrupted_run_is_gone_on_with() {
    let stage = Stage::new(&one(
        "    recover:\n      slow: { command: { apply: { shell: \"touch $LEDGER.began; test -e $LEDGER.ok || sleep 300; echo slow >> $LEDGER\" }, observe: { shell: \"test -e $LEDGER\" } } }\n",
    ));
    let child = stage
        .command("l", &["run", "move", "--yes"])
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !stage.sandbox.path("l.began").exists() {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(20));
    }
    // While somebody acts nobody else does.
    let run = stage.newest();
    stage.run("l", &["resume", &run]).expect(75);
    stage.run("l", &["skip-step", &run, "slow", "--reason", "x"]).expect(75);
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&child),
        rustix::process::Signal::INT,
    )
    .unwrap();
    let ran = finish(child).expect(130);
    assert!(ran.stderr.contains(&format!("playbook resume {run}")), "{}", ran.stderr);
    fs::write(stage.sandbox.path("l.ok"), "").unwrap();
    stage.run_elsewhere("l", &["resume", &run]).expect(0);
    assert_eq!(stage.ledger("l"), ["slow"]);
}

#[test]
fn a_person_does_what_only_people_can() {
    let stage = Stage::new(&one(
        "    cutover:\n      name: { manual: { text: \"Point the name at the other side\" } }\n      after: { command: { apply: { shell: \"echo after >> $LEDGER\" } } }\n",
    ));
    let ran = stage.run("l", &["run", "move", "--yes"]).expect(6);
    assert!(ran.stderr.contains("Point the name"), "{}", ran.stderr);
    let run = stage.newest();
    stage.run("l", &["attest", &run, "name", "--text", "dig shows it", "--as", "ann"]).expect(0);
    stage.run("l", &["resume", &run]).expect(0);
    assert_eq!(stage.ledger("l"), ["after"]);
    assert_eq!(stage.state(&run, "name"), "attested");
}

#[test]
fn somebody_stays_while_people_are_waited_for() {
    let stage = Stage::new(&one(
        "    cutover:\n      agree: { approval: {} }\n      after: { command: { apply: { shell: \"echo after >> $LEDGER\" } } }\n",
    ));
    let child = stage
        .command("l", &["run", "move", "--yes", "--wait"])
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    let run = loop {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(50));
        let history = stage.run("l", &["history", "--output", "json"]).expect(0).json();
        let Some(row) = history.as_array().unwrap().first() else { continue };
        let run = row["run"].as_str().unwrap().to_owned();
        // The lease is given back while people are waited for.
        if stage.run("l", &["approve", &run, "agree", "--yes"]).code == 0 {
            break run;
        }
    };
    finish(child).expect(0);
    assert_eq!(stage.ledger("l"), ["after"]);
    assert_eq!(stage.state(&run, "agree"), "succeeded");
}

#[test]
fn a_policy_that_changed_is_not_carried_out_unseen() {
    let stage = Stage::new(&one(
        "    recover:\n      one: { command: { apply: { shell: \"test -e $LEDGER.ok && echo one >> $LEDGER\" } } }\n",
    ));
    stage.run("l", &["run", "move", "--yes"]).expect(1);
    let run = stage.newest();
    stage.write(&one(
        "    recover:\n      one: { command: { apply: { shell: \"echo other >> $LEDGER\" } } }\n",
    ));
    fs::write(stage.sandbox.path("l.ok"), "").unwrap();
    stage.run("l", &["retry-step", &run, "one"]).expect(0);
    let ran = stage.run("l", &["resume", &run]).expect(6);
    assert!(ran.stderr.contains("the policy is not what it was"), "{}", ran.stderr);
    assert!(stage.ledger("l").is_empty());
    let shown = stage.run("l", &["show", &run, "--output", "json"]).expect(0).json();
    let hash = shown["hash"].as_str().unwrap();
    stage.run("l", &["resume", &run, "--plan", "0000000000"]).expect(1);
    stage.run("l", &["resume", &run, "--plan", &hash[..12]]).expect(0);
    assert_eq!(stage.ledger("l"), ["one"], "the plan it began with");
}

#[test]
fn a_journal_that_was_tampered_with_or_went_back_in_time_is_refused() {
    let stage = Stage::new(&one(
        "    recover:\n      a: { command: { apply: { shell: \"echo a >> $LEDGER\" } } }\n    cutover:\n      b: { manual: { text: Look } }\n",
    ));
    stage.run("l", &["run", "move", "--yes"]).expect(6);
    let run = stage.newest();
    let records = stage.journal(&run);
    let second = records.join("00000002.json");
    let whole = fs::read_to_string(&second).unwrap();
    fs::write(&second, whole.replace("intended", "intendet")).unwrap();
    stage.run("l", &["resume", &run]).expect(5);
    fs::write(&second, whole.replace("\"attempt\":1", "\"attempt\":2")).unwrap();
    let ran = stage.run_elsewhere("l", &["resume", &run]).expect(5);
    assert!(ran.stderr.contains("does not follow"), "{}", ran.stderr);
    fs::write(&second, &whole).unwrap();
    let third = fs::read(records.join("00000003.json")).unwrap();
    fs::remove_file(records.join("00000003.json")).unwrap();
    let ran = stage.run_elsewhere("l", &["resume", &run]).expect(5);
    assert!(ran.stderr.contains("record 3 is missing"), "{}", ran.stderr);
    // A repository that went back knows less than this machine: a person has to look.
    let fourth = fs::read(records.join("00000004.json")).unwrap();
    fs::remove_file(records.join("00000004.json")).unwrap();
    let ran = stage.run("l", &["resume", &run]).expect(6);
    assert!(ran.stderr.contains("this machine has seen more"), "{}", ran.stderr);
    fs::write(records.join("00000003.json"), third).unwrap();
    fs::write(records.join("00000004.json"), fourth).unwrap();
    stage.run("l", &["attest", &run, "b", "--text", "seen"]).expect(0);
    stage.run("l", &["resume", &run]).expect(0);
    assert_eq!(stage.ledger("l"), ["a"]);
}

#[test]
fn secrets_that_commands_print_are_not_recorded() {
    let stage = Stage::new(&one(
        "    recover:\n      a: { command: { apply: { shell: \"echo token is $TOKEN >&2; exit 1\" }, environment: { TOKEN: \"${env:SECRET_TOKEN}\" } } }\n",
    ));
    let mut command = stage.command("l", &["run", "move", "--yes"]);
    let ran =
        Ran::from(&command.env("SECRET_TOKEN", "hunter2-hunter2").output().unwrap()).expect(1);
    let run = stage.newest();
    let mut all = format!("{}{}", ran.stdout, ran.stderr);
    for entry in fs::read_dir(stage.journal(&run)).unwrap() {
        all.push_str(&fs::read_to_string(entry.unwrap().path()).unwrap());
    }
    assert!(all.contains("token is") && !all.contains("hunter2"), "{all}");
}

#[test]
fn a_source_is_restored_as_of_an_instant() {
    let stage = Stage::new("  restore:\n    recover:\n      a: { wait: { for: 1s } }\n");
    let src = stage.sandbox.path("src/file");
    fs::write(&src, "old").unwrap();
    stage.sandbox.backup(&[]);
    std::thread::sleep(Duration::from_millis(1100));
    let between = Command::now();
    std::thread::sleep(Duration::from_millis(1100));
    fs::write(&src, "newer").unwrap();
    stage.sandbox.backup(&[]);
    let playbook = |to: &str| {
        format!(
            "  restore:\n    recover:\n      files: {{ restore: {{ source: files, to: {} }} }}\n      look: {{ command: {{ apply: {{ shell: \"cat {{{{files.target}}}}/file >> $LEDGER; echo >> $LEDGER\" }} }} }}\n    reprotect:\n      again: {{ backup: {{ sources: [files] }} }}\n",
            stage.sandbox.path(to).display()
        )
    };
    stage.write(&playbook("now"));
    stage.run("l", &["run", "restore", "--yes"]).expect(0);
    assert_eq!(stage.ledger("l"), ["newer"]);
    assert_eq!(stage.sandbox.listed(), 3, "backed up again");
    stage.write(&playbook("then"));
    stage.run("m", &["run", "restore", "--yes", "--at", &between]).expect(0);
    assert_eq!(stage.ledger("m"), ["old"]);
    // What is in the way is nobody's to replace, also when it is tried again.
    fs::create_dir(stage.sandbox.path("used")).unwrap();
    fs::write(stage.sandbox.path("used/file"), "mine").unwrap();
    stage.write(&playbook("used"));
    stage.run("n", &["run", "restore", "--yes"]).expect(1);
    let run = stage.newest();
    stage.run("n", &["retry-step", &run, "files"]).expect(0);
    stage.run("n", &["resume", &run]).expect(1);
    assert_eq!(fs::read_to_string(stage.sandbox.path("used/file")).unwrap(), "mine");
}

#[test]
fn points_that_lie_too_far_apart_need_approval_and_runs_tell_how_long_it_takes() {
    let sandbox_policy = |skew: &str| {
        format!(
            "  restore:\n    assess:\n      points: {{ recovery_points: {{ sources: [files, notes], max_skew: {skew}, max_loss: 1h }} }}\n      agree: {{ approval: {{}}, when: {{ output: points.over, is: \"yes\" }} }}\n    recover:\n      go: {{ command: {{ apply: {{ shell: \"sleep 1; echo {{{{points.skew}}}} >> $LEDGER\" }} }} }}\n"
        )
    };
    let stage = Stage::new("  none: { cleanup: { a: { wait: { for: 1s } } } }\n");
    let write = |skew: &str| {
        let notes = stage.sandbox.path("notes");
        let _ = fs::create_dir(&notes);
        let source = format!("  notes: {{ directory: {{ path: {} }} }}\n", notes.display());
        stage.sandbox.write_policy(false, &source);
        let path = stage.sandbox.path("policy.yaml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{text}playbooks:\n{}", sandbox_policy(skew))).unwrap();
    };
    write("1s");
    stage.sandbox.run(&["backup", "demo/files"]).expect(0);
    std::thread::sleep(Duration::from_secs(3));
    stage.sandbox.run(&["backup", "demo/notes"]).expect(0);
    std::thread::sleep(Duration::from_secs(1));
    let ran = stage.run("l", &["run", "restore", "--dry-run"]).expect(0);
    assert!(ran.stdout.contains("s apart") && !ran.stdout.contains("it takes"), "{}", ran.stdout);
    stage.run("l", &["run", "restore", "--yes"]).expect(6);
    let run = stage.newest();
    stage.run("l", &["approve", &run, "agree", "--yes"]).expect(0);
    stage.run("l", &["resume", &run]).expect(0);
    assert!(stage.ledger("l")[0].parse::<u64>().unwrap() >= 2);
    write("1h");
    stage.run("m", &["run", "restore", "--yes"]).expect(0);
    let ran = stage.run("m", &["run", "restore", "--dry-run"]).expect(0);
    assert!(ran.stdout.contains("by 2 runs") && ran.stdout.contains("RTO 24h"), "{}", ran.stdout);
    let estimate = stage.run("m", &["check", "--output", "json"]).expect(0).json();
    assert!(estimate[0]["estimate"]["seconds"].as_f64().unwrap() >= 1.0, "{estimate}");
}

/// The present instant, as an argument.
struct Command;

impl Command {
    fn now() -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        jiff::Timestamp::from_second(now.as_secs() as i64).unwrap().to_string()
    }
}
