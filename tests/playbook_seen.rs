//! What people see of playbooks: the commands they run, the texts they agree to, and journals that went away.

use std::fs;

use crate::common::playbook::{Stage, effect};

fn one(steps: &str) -> String {
    format!("  move:\n    description: for a test\n{steps}")
}

#[test]
fn who_is_asked_to_do_the_point_of_no_return_by_hand_may_have_done_it() {
    let stage = Stage::new(&one(&format!(
        "    on_failure: undo\n    fence:\n      a: {{ {} }}\n    cutover:\n      name: {{ manual: {{ text: \"Point the name elsewhere\" }}, point_of_no_return: true }}\n",
        effect("a")
    )));
    stage.run("l", &["run", "move", "--yes"]).expect(6);
    let run = stage.newest();
    let refused = stage.run("l", &["abort", &run, "--reason", "x", "--yes"]).expect(1);
    assert!(refused.stderr.contains("past its point of no return"), "{}", refused.stderr);
    assert_eq!(stage.ledger("l"), ["+a"], "nothing is taken back");
    stage.run("l", &["attest", &run, "name", "--text", "dig shows it"]).expect(0);
    stage.run("l", &["resume", &run]).expect(0);
    assert_eq!(stage.ledger("l"), ["+a"]);
}

#[test]
fn a_playbook_that_nobody_knows_has_no_history() {
    let stage = Stage::new(&one(&format!("    fence:\n      a: {{ {} }}\n", effect("a"))));
    stage.run("l", &["history", "move"]).expect(0);
    let refused = stage.run("l", &["history", "mvoe"]).expect(1);
    assert!(refused.stderr.contains("there is no playbook `mvoe`"), "{}", refused.stderr);
    assert!(refused.stderr.contains("move"), "{}", refused.stderr);
}

#[test]
fn a_journal_that_is_gone_is_missed_where_it_was_seen() {
    let stage = Stage::new(&one(&format!(
        "    fence:\n      a: {{ {} }}\n      ask: {{ manual: {{ text: \"wait\" }} }}\n",
        effect("a")
    )));
    stage.run("l", &["run", "move", "--yes"]).expect(6);
    let run = stage.newest();
    let (journal, aside) = (stage.journal(&run), stage.sandbox.path("aside"));
    fs::rename(&journal, &aside).unwrap();
    let ran = stage.run("l", &["history"]).expect(1);
    let gone = format!("the journal of run {run} is in no repository any more");
    assert!(ran.stderr.contains(&gone), "{}", ran.stderr);
    for args in [&["show", &run][..], &["resume", &run], &["run", "move", "--yes"]] {
        let ran = stage.run("l", args).expect(6);
        assert!(ran.stderr.contains(&gone), "{args:?}\n{}", ran.stderr);
    }
    assert_eq!(stage.ledger("l"), ["+a"], "nothing begins beside it");
    // Elsewhere nobody knows of it.
    stage.run_elsewhere("l", &["show", &run]).expect(1);
    fs::rename(&aside, &journal).unwrap();
    stage.run("l", &["attest", &run, "ask", "--text", "done"]).expect(0);
    stage.run("l", &["resume", &run]).expect(0);
    // One that was over keeps nobody from beginning another, and is missed all the same.
    fs::rename(&journal, &aside).unwrap();
    stage.run("l", &["run", "move", "--yes"]).expect(6);
    let ran = stage.run("l", &["history"]).expect(1);
    assert!(ran.stderr.contains(&gone), "{}", ran.stderr);
}

#[test]
fn what_a_playbook_runs_and_what_people_agree_to_can_be_read() {
    let stage = Stage::new(&one(
        "    assess:\n      look: { command: { apply: { shell: \"echo loss=3 seconds\" }, outputs: [loss], read_only: true } }\n    fence:\n      stop: { command: { apply: { argv: [touch, \"two words\"] }, undo: { pipeline: [[rm, a], [cat]] } } }\n      agree: { approval: { text: \"{{look.loss}} are lost in {{run.id}}\" } }\n      name: { manual: { text: \"tell them of {{look.loss}}\" } }\n",
    ));
    let shown = stage.run("l", &["show", "move"]).expect(0).stdout;
    for line in ["echo loss=3 seconds", "touch 'two words'", "rm a | cat"] {
        assert!(shown.contains(line), "{line}\n{shown}");
    }
    let ran = stage.run("l", &["run", "move", "--yes"]).expect(6);
    let run = stage.newest();
    assert!(ran.stderr.contains(&format!("3 seconds are lost in {run}")), "{}", ran.stderr);
    let ran = stage.run("l", &["approve", &run, "agree", "--as", "ann", "--yes"]).expect(0);
    assert!(ran.stderr.contains(&format!("3 seconds are lost in {run}")), "{}", ran.stderr);
    let ran = stage.run("l", &["resume", &run]).expect(6);
    assert!(ran.stderr.contains("tell them of 3 seconds"), "{}", ran.stderr);
}
