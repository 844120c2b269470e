//! Playbooks in the hands of people in a hurry, and journals in those of others.

use std::time::{Duration, Instant};

use crate::common::playbook::{Stage, effect};

fn one(steps: &str) -> String {
    format!("  move:\n    description: for a test\n{steps}")
}

#[test]
fn who_does_without_the_point_of_no_return_is_past_it_all_the_same() {
    let stage = Stage::new(&one(&format!(
        "    on_failure: undo\n    fence:\n      a: {{ {} }}\n    cutover:\n      switch: {{ command: {{ apply: {{ shell: \"echo switched >> $LEDGER; exit 3\" }} }}, point_of_no_return: true }}\n    reprotect:\n      later: {{ command: {{ apply: {{ argv: [false] }} }} }}\n",
        effect("a")
    )));
    stage.run("l", &["run", "move", "--yes"]).expect(1);
    let run = stage.newest();
    stage.run("l", &["skip-step", &run, "switch", "--reason", "it did what it should"]).expect(0);
    stage.run("l", &["resume", &run]).expect(1);
    assert_eq!(stage.ledger("l"), ["+a", "switched"], "nothing is taken back");
    let refused = stage.run("l", &["abort", &run, "--reason", "x", "--yes"]);
    assert!(refused.stderr.contains("past its point of no return"), "{}", refused.stderr);
}

#[test]
fn what_was_attested_or_done_without_is_taken_back_with_the_rest() {
    let halfway = "command: { apply: { shell: \"echo +b >> $LEDGER; exit 1\" }, undo: { shell: \"echo -b >> $LEDGER\" } }";
    for (ledger, verb, option) in [("a", "attest", "--text"), ("s", "skip-step", "--reason")] {
        let stage = Stage::new(&one(&format!(
            "    fence:\n      a: {{ {} }}\n      b: {{ {halfway} }}\n      end: {{ command: {{ apply: {{ argv: [false] }} }} }}\n",
            effect("a")
        )));
        stage.run(ledger, &["run", "move", "--yes"]).expect(1);
        let run = stage.newest();
        stage.run(ledger, &[verb, &run, "b", option, "by hand"]).expect(0);
        stage.run(ledger, &["resume", &run]).expect(1);
        stage.run(ledger, &["abort", &run, "--reason", "enough", "--yes"]).expect(0);
        assert_eq!(stage.ledger(ledger), ["+a", "+b", "-b", "-a"], "{verb}");
    }
}

/// Begins a run, whose step `b` has an effect and goes on.
fn begun_to_b(stage: &Stage) -> std::process::Child {
    let child = stage.command("l", &["run", "move", "--yes"]).spawn().unwrap();
    let begun = Instant::now();
    while !stage.ledger("l").contains(&"+b".to_owned()) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", stage.ledger("l"));
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

/// Begins a run, and kills it as soon as its step `b` has an effect. Then it is taken back.
fn killed_in_b_and_taken_back(stage: &Stage) -> crate::common::Ran {
    let mut child = begun_to_b(stage);
    child.kill().unwrap();
    child.wait().unwrap();
    let run = stage.newest();
    let mut command = stage.elsewhere("l", &["abort", &run, "--reason", "enough", "--yes"]);
    // What the killed process holds is over at once.
    command.env("BACKSTAY_TUNING", "lease=0.2");
    crate::common::Ran::from(&command.output().unwrap())
}

#[test]
fn what_was_under_way_when_a_run_was_killed_is_taken_back_before_what_it_was_built_on() {
    let b = "apply: { shell: \"echo +b >> $LEDGER; sleep 60\" }";
    let undo = "undo: { shell: \"sleep 1; echo -b >> $LEDGER\" }";
    // Whatever is seen of it, it is not done once more on the way back; nor taken back where it is seen not to be there.
    let none = (", observe: { shell: \"exit 1\" }", &["+a", "+b", "-a"][..]);
    let taken_back = &["+a", "+b", "-b", "-a"][..];
    for (seen, expected) in [("", taken_back), (", repeatable: true", taken_back), none] {
        let stage = Stage::new(&one(&format!(
            "    fence:\n      a: {{ {} }}\n      b: {{ command: {{ {b}, {undo}{seen} }} }}\n",
            effect("a")
        )));
        let ran = killed_in_b_and_taken_back(&stage);
        assert_eq!(stage.ledger("l"), expected, "{seen}: {}", ran.stderr);
    }
    let stage = Stage::new(&one(&format!(
        "    fence:\n      a: {{ {} }}\n      b: {{ command: {{ {b}, repeatable: true }} }}\n",
        effect("a")
    )));
    let ran = killed_in_b_and_taken_back(&stage);
    assert_eq!(stage.ledger("l"), ["+a", "+b", "-a"], "{}", ran.stderr);
    let shown = stage.run("l", &["show", &stage.newest()]).expect(0).stdout;
    assert!(shown.contains("`b` cannot be taken back, and stays"), "{shown}");
}

#[test]
fn what_a_program_printed_is_never_a_command() {
    let stage = Stage::new(&one(
        "    assess:\n      look: { command: { apply: { shell: \"echo 'v=$(touch $LEDGER.owned) `touch $LEDGER.too`; touch $LEDGER.three'\" }, outputs: [v], read_only: true } }\n    recover:\n      use: { command: { apply: { shell: \"echo \\\"seen {{look.v}}\\\" >> $LEDGER\" } } }\n",
    ));
    stage.run("l", &["run", "move", "--yes"]).expect(0);
    let said = stage.ledger("l").join("\n");
    assert_eq!(said, "seen $(touch $LEDGER.owned) `touch $LEDGER.too`; touch $LEDGER.three");
    for name in ["l.owned", "l.too", "l.three"] {
        assert!(!stage.sandbox.path(name).exists(), "{name}");
    }
    // Nor a reference to a secret, or to a program.
    let stage = Stage::new(&one(
        "    assess:\n      look: { command: { apply: { shell: \"echo 'v=$'{command:touch owned}\" }, outputs: [v], read_only: true } }\n    recover:\n      use: { command: { apply: { argv: [echo, \"{{look.v}}\"] } } }\n",
    ));
    let refused = stage.run("l", &["run", "move", "--yes"]).expect(1);
    assert!(refused.stderr.contains("read as a reference"), "{}", refused.stderr);
}

#[test]
fn one_person_is_one_however_the_name_is_written() {
    let stage = Stage::new(&one(
        "    assess:\n      agree: { approval: { of: 2, text: \"Both of you\" } }\n",
    ));
    stage.run("l", &["run", "move", "--yes"]).expect(6);
    let run = stage.newest();
    stage.run("l", &["approve", &run, "agree", "--as", "ann", "--yes"]).expect(0);
    for name in ["ann", "ann ", "  ann"] {
        let refused = stage.run("l", &["approve", &run, "agree", "--as", name, "--yes"]).expect(1);
        assert!(refused.stderr.contains("`ann` has approved"), "{}", refused.stderr);
        stage.run("l", &["resume", &run]).expect(6);
    }
    for name in ["", "  ", "an\u{1b}[31mn", "ann\nbo"] {
        let refused = stage.run("l", &["approve", &run, "agree", "--as", name, "--yes"]).expect(2);
        assert!(refused.stderr.contains("no name of a person"), "{}", refused.stderr);
    }
    stage.run("l", &["approve", &run, "agree", "--as", "bo", "--yes"]).expect(0);
    stage.run("l", &["resume", &run]).expect(0);
}

#[test]
fn outputs_that_nobody_read_to_their_end_are_none() {
    let long = "head -c 70000 /dev/zero; echo; echo found=1";
    let step = |outputs: &str| {
        one(&format!(
            "    assess:\n      look: {{ command: {{ apply: {{ shell: \"{long}\" }}, read_only: true{outputs} }} }}\n"
        ))
    };
    let stage = Stage::new(&step(", outputs: [found]"));
    let ran = stage.run("l", &["run", "move", "--yes"]).expect(1);
    assert!(ran.stderr.contains("printed more than 64 KiB"), "{}", ran.stderr);
    // Who has none may say as much as they like.
    let stage = Stage::new(&step(""));
    stage.run("l", &["run", "move", "--yes"]).expect(0);
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_written() {
    let stage = Stage::new(&one("    cleanup:\n      a: { wait: { for: 1s } }\n"));
    let ran = stage.run("l", &["run", "move", "--at", "2999-01-01T00:00:00Z", "--yes"]).expect(2);
    assert!(ran.stderr.contains("is in the future"), "{}", ran.stderr);
    let ran = stage.run("l", &["run", "move", "--at", "2999-01-01T00:00:00Z", "--dry-run"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    for limit in ["0", "-1", "x"] {
        stage.run("l", &["history", "--limit", limit]).expect(2);
    }
    assert!(stage.run("l", &["history"]).expect(0).stdout.is_empty());
    assert_eq!(stage.sandbox.run(&["runs", "--limit", "0"]).code, 2);
    stage.write(&one("    cleanup:\n      a: { wait: { for: 1h }, timeout: 5s }\n"));
    let ran = stage.sandbox.run(&["check"]);
    assert!(ran.stderr.contains("the step waits for 1h, and fails after 5s"), "{}", ran.stderr);
}

#[test]
fn taking_back_is_what_was_asked_for_in_the_events_as_well() {
    let stage = Stage::new(&one(&format!(
        "    fence:\n      a: {{ {} }}\n      end: {{ command: {{ apply: {{ argv: [false] }} }} }}\n",
        effect("a")
    )));
    let ran = stage.run("l", &["run", "move", "--yes", "--output", "json"]).expect(1);
    let last = |ran: &crate::common::Ran| -> serde_json::Value {
        serde_json::from_str(ran.stderr.lines().last().unwrap()).unwrap()
    };
    assert_eq!((&last(&ran)["event"], &last(&ran)["exit_code"]), (&"error".into(), &1.into()));
    let args = ["abort", &stage.newest(), "--reason", "x", "--yes", "--output", "json"];
    let ran = stage.run("l", &args).expect(0);
    assert_eq!(last(&ran)["event"], "ended", "{}", ran.stderr);
    assert!(!ran.stderr.contains("exit_code"), "{}", ran.stderr);
    assert_eq!(stage.ledger("l"), ["+a", "-a"]);
}

#[test]
fn a_run_whose_plan_has_mappings_in_any_order_is_read_and_gone_on_with() {
    let stage = Stage::new(&one(
        "    assess:\n      a: { command: { apply: { shell: \"echo $ZULU$ALPHA >> $LEDGER\" }, environment: { ZULU: z, ALPHA: a } } }\n      agree: { approval: {} }\n",
    ));
    stage.run("l", &["run", "move", "--yes"]).expect(6);
    let run = stage.newest();
    stage.run("l", &["approve", &run, "agree", "--yes"]).expect(0);
    stage.run_elsewhere("l", &["resume", &run]).expect(0);
    assert_eq!(stage.ledger("l"), ["za"]);
}

#[test]
fn a_restore_that_could_not_be_done_is_found_before() {
    let steps = |more: &str| {
        one(&format!(
            "    recover:\n      back: {{ restore: {{ source: files, to: out{more} }} }}\n"
        ))
    };
    let stage = Stage::new(&steps(""));
    stage.sandbox.run(&["backup", "demo/files"]).expect(0);
    stage.run("l", &["check", "move"]).expect(0);
    for (more, why) in [
        (", options: [--nonsense]", "unexpected argument '--nonsense'"),
        (", identity: [/nowhere/key]", "/nowhere/key"),
    ] {
        stage.write(&steps(more));
        let ran = stage.run("l", &["check", "move"]).expect(1);
        assert!(ran.stdout.contains(why), "{more}: {}", ran.stdout);
    }
    assert!(!stage.sandbox.path("out").exists());
}

#[test]
fn nobody_takes_a_process_for_dead_that_cannot_be_seen_from_where_it_is() {
    let stage = Stage::new(&one(
        "    recover:\n      b: { command: { apply: { shell: \"echo +b >> $LEDGER; sleep 20\" } } }\n",
    ));
    let mut child = begun_to_b(&stage);
    // As in another container of the same host.
    let inside = ["--pid", "--fork", "--mount-proc"];
    let can = std::process::Command::new("unshare").args(inside).arg("true").output();
    if can.is_ok_and(|ran| ran.status.success()) {
        let resume = stage.elsewhere("l", &["resume", &stage.newest()]);
        let mut contained = std::process::Command::new("unshare");
        contained.args(inside).arg(resume.get_program()).args(resume.get_args());
        for (name, value) in resume.get_envs() {
            match value {
                Some(value) => contained.env(name, value),
                None => contained.env_remove(name),
            };
        }
        let directory = resume.get_current_dir().unwrap();
        let ran = contained.current_dir(directory).output().unwrap();
        crate::common::Ran::from(&ran).expect(75);
    } else {
        crate::common::cannot("namespaces of processes cannot be made here");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(stage.ledger("l"), ["+b"]);
}
