//! Runs that are killed at every boundary, and gone on with elsewhere: the same end, each effect once.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::playbook::{Stage, effect};
use crate::common::{Ran, finish};

/// Three steps with effects, one that only looks and leaves an output, and one at the end.
fn playbook(last: &str) -> String {
    format!(
        "  move:\n    on_failure: undo\n    \
         assess:\n      look: {{ command: {{ apply: {{ shell: \"echo lag=3\" }}, outputs: [lag], read_only: true }} }}\n    \
         fence:\n      a: {{ {} }}\n    \
         recover:\n      b: {{ {} }}\n      c: {{ {} }}\n      {last}    \
         cleanup:\n      sweep: {{ {} }}\n",
        effect("a"),
        effect("b"),
        effect("c"),
        effect("sweep"),
    )
}

/// Kills a run at the `time`th passage of a failpoint, goes on elsewhere until it is over, and gives
/// the ledger. `None`: it never got there.
fn killed(stage: &Stage, point: &str, time: u32, code: i32) -> Option<Vec<String>> {
    let ledger = format!("{point}-{time}");
    let mut command = stage.command(&ledger, &["run", "move", "--yes"]);
    command.env("BACKSTAY_FAILPOINT", format!("{point}@{time}"));
    let ran = Ran::from(&command.output().unwrap());
    if ran.code == code {
        return None;
    }
    let ran = ran.expect(128 + 9);
    let run = stage.newest();
    let ended = stage.run_elsewhere(&ledger, &["resume", &run]);
    assert_eq!(ended.code, code, "{point}@{time}\n{}\n{}", ran.stderr, ended.stderr);
    Some(stage.ledger(&ledger))
}

fn matrix(stage: &Stage, points: &[&str], code: i32) -> BTreeMap<String, u32> {
    stage.run("whole", &["run", "move", "--yes"]).expect(code);
    let whole = stage.ledger("whole");
    let mut cases = BTreeMap::new();
    for point in points {
        for time in 1..20 {
            let Some(ledger) = killed(stage, point, time, code) else { break };
            assert_eq!(ledger, whole, "{point}@{time}");
            *cases.entry((*point).to_owned()).or_insert(0) += 1;
        }
    }
    assert_eq!(cases.len(), points.len(), "not reached: {cases:?} of {points:?}");
    cases
}

#[test]
fn killed_at_any_boundary_on_the_way_forward() {
    let stage = Stage::new(&playbook("d: { wait: { for: 1s } }\n"));
    let points = [
        "playbook.started",
        "playbook.before_intent",
        "playbook.after_intent",
        "playbook.mid_apply",
        "playbook.after_apply",
        "playbook.after_result",
        "playbook.before_end",
    ];
    let cases = matrix(&stage, &points, 0);
    assert_eq!(stage.ledger("whole"), ["+a", "+b", "+c", "+sweep"]);
    // Every step, at every boundary.
    assert_eq!(cases["playbook.after_intent"], 6);
    assert_eq!(cases["playbook.after_apply"], 6);
}

#[test]
fn killed_at_any_boundary_on_the_way_back() {
    let failing = "d: { command: { apply: { argv: [false] }, observe: { argv: [false] } } }\n";
    let stage = Stage::new(&playbook(failing));
    let points = [
        "playbook.unwinding",
        "playbook.undo_intent",
        "playbook.mid_undo",
        "playbook.after_undo",
        "playbook.after_undo_result",
        "playbook.before_end",
    ];
    let cases = matrix(&stage, &points, 1);
    assert_eq!(stage.ledger("whole"), ["+a", "+b", "+c", "-c", "-b", "-a", "+sweep"]);
    assert_eq!(cases["playbook.undo_intent"], 3);
    assert_eq!(cases["playbook.after_undo"], 3);
}

/// A step that may be done only once and cannot tell whether it was is for a person.
#[test]
fn what_may_happen_once_and_is_not_known_is_asked() {
    let stage = Stage::new(
        "  move:\n    recover:\n      pay: { command: { apply: { shell: \"echo paid >> $LEDGER\" } } }\n      after: { command: { apply: { shell: \"echo after >> $LEDGER\" } } }\n",
    );
    for (ledger, point) in [("x", "playbook.after_intent"), ("y", "playbook.after_apply")] {
        let mut command = stage.command(ledger, &["run", "move", "--yes"]);
        command.env("BACKSTAY_FAILPOINT", point);
        Ran::from(&command.output().unwrap()).expect(128 + 9);
        let run = stage.newest();
        let before = stage.ledger(ledger);
        let ran = stage.run_elsewhere(ledger, &["resume", &run]).expect(6);
        assert!(ran.stderr.contains("`pay` may or may not be done"), "{}", ran.stderr);
        assert_eq!(stage.ledger(ledger), before, "nothing is guessed");
        // The person looked.
        if before.is_empty() {
            stage.run(ledger, &["retry-step", &run, "pay"]).expect(0);
        } else {
            stage.run(ledger, &["attest", &run, "pay", "--text", "it is in the books"]).expect(0);
        }
        stage.run_elsewhere(ledger, &["resume", &run]).expect(0);
        assert_eq!(stage.ledger(ledger), ["paid", "after"]);
    }
}

/// Whoever was stopped past the lease finds that somebody else went on, and does nothing.
#[test]
fn a_process_that_stood_still_past_its_lease_does_nothing() {
    for point in ["playbook.before_intent@3", "playbook.after_intent@3", "playbook.after_result@3"]
    {
        let stage = Stage::new(&playbook("d: { wait: { for: 1s } }\n"));
        let mut command = stage.command("l", &["run", "move", "--yes"]);
        command.env("BACKSTAY_FAILPOINT", format!("{point}:stop"));
        command.env("BACKSTAY_TUNING", "lease=2");
        let stale = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stat = format!("/proc/{}/stat", stale.id());
        wait(|| {
            std::fs::read_to_string(&stat).unwrap().rsplit(") ").next().unwrap().starts_with('T')
        });
        let run = stage.newest();
        wait(|| {
            let mut command = stage.elsewhere("l", &["resume", &run]);
            let ran = Ran::from(&command.env("BACKSTAY_TUNING", "lease=2").output().unwrap());
            assert!([0, 75].contains(&ran.code), "{}", ran.stderr);
            ran.code == 0
        });
        let whole = ["+a", "+b", "+c", "+sweep"];
        assert_eq!(stage.ledger("l"), whole, "{point}");
        kill_process(Pid::from_child(&stale), Signal::CONT).unwrap();
        let ran = finish(stale).expect(75);
        assert!(ran.stderr.contains("somebody else"), "{}", ran.stderr);
        assert_eq!(stage.ledger("l"), whole, "{point}: the stale one did something");
    }
}

fn wait(mut until: impl FnMut() -> bool) {
    let start = Instant::now();
    while !until() {
        assert!(start.elapsed() < Duration::from_secs(120), "it takes too long");
        std::thread::sleep(Duration::from_millis(100));
    }
}
