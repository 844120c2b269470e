//! `playbook check --level`: how far a look goes, up to a rehearsal in a sandbox.

use std::fs;

use crate::common::{Ran, Sandbox};
use crate::drill::{evidence, ready};

/// A stack with a backup, a playbook that restores it and acts on the world, and one that restores nothing.
fn stage(drills: &str) -> Sandbox {
    let sandbox = ready(false, "  none: {}\n");
    let path = sandbox.path("policy.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let world = sandbox.path("world").display().to_string();
    let playbooks = format!(
        "playbooks:
  restore:
    recover:
      stop: {{ command: {{ apply: {{ shell: 'echo stop >> {world}' }} }} }}
      back: {{ restore: {{ source: files, to: {world}.files }} }}
    cutover:
      agree: {{ approval: {{ of: 1 }} }}
      name: {{ manual: {{ text: point the name here }}, point_of_no_return: true }}
  move:
    cutover:
      act: {{ command: {{ apply: {{ shell: 'echo act >> {world}' }} }} }}
"
    );
    fs::write(&path, text.replace("drills:\n  none: {}\n", &format!("{playbooks}{drills}")))
        .unwrap();
    sandbox
}

fn check(sandbox: &Sandbox, args: &[&str]) -> Ran {
    sandbox.run(&[&["playbook", "check"], args].concat())
}

fn drills(sandbox: &Sandbox) -> usize {
    fs::read_dir(sandbox.path("repo/demo/evidence")).map_or(0, Iterator::count)
}

#[test]
fn a_playbook_is_rehearsed_in_a_sandbox_and_nothing_else_is_touched() {
    let sandbox = stage("");
    let before = fs::read(sandbox.path("src/config.py")).unwrap();
    let args = ["restore", "--level", "rehearse", "--scratch", "scratch"];
    let told = check(&sandbox, &args).expect(0).stdout;
    assert!(told.starts_with("PASS") && told.contains("demo/rehearse-restore"), "{told}");
    assert!(told.contains("  rehearsed: recover/back\n"), "{told}");
    for step in ["recover/stop: it acts on", "cutover/agree: nobody is", "cutover/name: nobody is"]
    {
        assert!(told.contains(&format!("  not rehearsed: {step}")), "{step}: {told}");
    }
    assert!(told.contains(&format!("evidence: {}", evidence(&sandbox).display())), "{told}");
    assert!(!sandbox.path("world").exists() && !sandbox.path("world.files").exists());
    assert_eq!(fs::read(sandbox.path("src/config.py")).unwrap(), before);
    assert_eq!(fs::read_dir(sandbox.path("scratch")).unwrap().count(), 0);
    assert!(!sandbox.path("repo/demo/journal").exists(), "no run of a playbook");
    // As JSON, and without leaving evidence.
    let kept = drills(&sandbox);
    let json = [&["--output", "json", "--no-evidence"], &args[..]].concat();
    let found = check(&sandbox, &json).expect(0).json()[0].clone();
    assert_eq!(drills(&sandbox), kept);
    assert_eq!((&found["playbook"], &found["level"]), (&"restore".into(), &"rehearse".into()));
    assert_eq!(found["evidence"]["sources"][0]["restored"], true);
    assert_eq!(found["rehearsed"][0]["step"], "back");
    assert_eq!(found["not_rehearsed"].as_array().unwrap().len(), 3);
    assert!(found["place"].is_null());
}

#[test]
fn what_a_rehearsal_finds_wrong_is_how_the_check_ends() {
    // A drill of the policy says what is looked at.
    let sandbox = stage(
        "drills:\n  mine: { playbook: restore, checks: { there: { source: files, files: { present: [no-such] } } } }\n",
    );
    let all = ["--level", "rehearse", "--scratch", "scratch"];
    let told = check(&sandbox, &all).expect(1).stdout;
    assert!(told.contains("FAIL  demo/mine"), "{told}");
    assert!(told.contains("NOT REHEARSED  demo/move: it restores nothing"), "{told}");
    // One that restores nothing is no success of its own.
    let ran = check(&sandbox, &[&["move"], &all[..]].concat()).expect(1);
    assert!(ran.stderr.contains("nothing was rehearsed"), "{}", ran.stderr);
    assert!(!sandbox.path("world").exists());
}

#[test]
fn a_level_says_how_far_a_look_goes() {
    let sandbox = stage("");
    let steps = |args: &[&str]| {
        let found = check(&sandbox, &[&["restore", "--output", "json"], args].concat());
        found.expect(0).json()[0]["steps"].as_array().unwrap().len()
    };
    assert_eq!((steps(&["--level", "lint"]), steps(&["--plan-only"])), (0, 0));
    assert_eq!((steps(&["--level", "preflight"]), steps(&[])), (4, 4));
    for wrong in [
        &["--level", "rehearse", "--mode", "graceful"][..],
        &["--no-evidence"],
        &["--level", "lint", "--plan-only"],
        &["--level", "lint", "--scratch", "scratch"],
    ] {
        check(&sandbox, wrong).expect(2);
    }
}
