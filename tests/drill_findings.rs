//! What somebody finds who holds drills for the first time: what is refused before there is evidence,
//! what a plan tells, what was killed, altered or signed by nobody, and what a report says.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::common::Sandbox;
use crate::drill::{add, codes, drill, drilled, evidence, ready};

/// Every drill that there is evidence of.
fn listed(sandbox: &Sandbox) -> Vec<Value> {
    let ran = sandbox.run(&["--output", "json", "drill", "list"]).expect(0).json();
    ran.as_array().unwrap().clone()
}

/// A second source beside `files`.
fn with_a_second(sandbox: &Sandbox) {
    let path = sandbox.path("policy.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::create_dir(sandbox.path("more")).unwrap();
    fs::write(sandbox.path("more/file"), "more\n").unwrap();
    let more = sandbox.path("more").display().to_string();
    let source = format!("sources:\n  more: {{ directory: {{ path: {more} }} }}\n");
    fs::write(path, text.replacen("sources:\n", &source, 1)).unwrap();
    sandbox.run(&["backup", "more", "--kind", "full"]).expect(0);
}

#[test]
fn a_drill_of_a_part_is_told_apart_from_one_of_all() {
    let sandbox = ready(false, "  all: {}\n  half: { sources: [files] }\n");
    with_a_second(&sandbox);
    // One source alone is no site.
    let part = drilled(&sandbox, &["all", "--source", "files"], 0);
    assert_eq!(part["scenario"], "source_lost");
    assert_eq!(drilled(&sandbox, &["half"], 0)["scenario"], "source_lost");
    let ran = drill(&sandbox, &["all", "--source", "files", "--scenario", "site-lost"]).expect(2);
    assert!(ran.stderr.contains("every source of the stack, and not of 1 of 2"), "{}", ran.stderr);
    // Another scenario of one source says of how much it was.
    drilled(
        &sandbox,
        &[
            "all",
            "--source",
            "files",
            "--scenario",
            "late-corruption",
            "--recovery-point",
            "random",
        ],
        0,
    );
    let rows = listed(&sandbox);
    let late = rows.iter().find(|row| row["scenario"] == "late_corruption").unwrap();
    let id = late["drill"].as_str().unwrap();
    assert_eq!((&late["partial"], &late["scope"]["of"]), (&true.into(), &2.into()), "{late}");
    let table = sandbox.run(&["drill", "list"]).expect(0).stdout;
    assert!(table.contains("late_corruption (1 of 2 sources)"), "{table}");
    let report = sandbox.run(&["drill", "report", id]).expect(0).stdout;
    assert!(report.contains("1 of the 2 of the stack"), "{report}");
    let chinese = sandbox.run(&["drill", "report", id, "--language", "zh"]).expect(0).stdout;
    assert!(chinese.contains("2 个数据源中的 1 个"), "{chinese}");
    drilled(&sandbox, &["all"], 0);
    let covered = sandbox.run(&["--output", "json", "drill", "list", "--coverage"]).expect(0);
    let covered = covered.json();
    let of = |source: &str, scenario: &str| -> Vec<bool> {
        let all = covered.as_array().unwrap().iter();
        all.filter(|one| one["source"] == source && one["scenario"] == scenario)
            .map(|one| one["partial"].as_bool().unwrap())
            .collect()
    };
    assert_eq!(of("files", "site_lost"), [false], "{covered}");
    assert_eq!(of("files", "source_lost"), [false]);
    assert_eq!(of("files", "late_corruption"), [true]);
    assert_eq!(of("more", "site_lost"), [false]);
    assert!(of("more", "source_lost").is_empty());
}

#[test]
fn a_seed_is_the_same_instant_again_while_the_backups_are_the_same() {
    let sandbox = ready(false, "  any: { recovery_point: random }\n  last: {}\n");
    crate::common::settle();
    sandbox.backup(&[]);
    let first = drilled(&sandbox, &["any"], 0)["aim"].clone();
    assert!(first["from"].as_str().unwrap() <= first["until"].as_str().unwrap(), "{first}");
    let seed = first["seed"].to_string();
    assert_eq!(drilled(&sandbox, &["any", "--seed", &seed], 0)["aim"], first);
    // The plan says it too, before anything is done.
    let args = ["--output", "json", "drill", "run", "any", "--seed", &seed, "--dry-run"];
    assert_eq!(sandbox.run(&args).expect(0).json()["found"]["aim"], first);
    let report = sandbox.run(&["drill", "report"]).expect(0).stdout;
    assert!(report.contains("the same seed over the same backups"), "{report}");
    for more in
        [&["last", "--seed", "7"][..], &["any", "--seed", "7", "--recovery-point", "latest"]]
    {
        let ran = drill(&sandbox, more).expect(2);
        assert!(ran.stderr.contains("none is made here"), "{}", ran.stderr);
    }
}

#[test]
fn what_somebody_gets_wrong_leaves_no_evidence() {
    let sandbox = ready(true, "  all: {}\n");
    for (args, says) in [
        (&["drill", "run", "all", "--scratch", "nowhere"][..], "there is no directory"),
        (&["drill", "run", "all", "--scratch", "policy.yaml"], "there is no directory"),
        (&["drill", "run", "all", "--programs", "nowhere"], "there is no directory"),
        (&["drill", "run", "all", "--source", "filse"], "no source `filse`"),
        (&["drill", "run", "--source", "files", "--backup", "20200101T000000Z"], "no backup"),
    ] {
        let ran = sandbox.run_with_key(args);
        assert_ne!(ran.code, 0, "{args:?}");
        assert!(ran.stderr.contains(says), "{args:?}: {}", ran.stderr);
    }
    assert!(!sandbox.path("repo/demo/evidence").exists());
}

#[test]
fn a_plan_looks_whether_it_could_be_carried_out() {
    let sandbox = ready(
        true,
        "  all: { checks: { smoke: { command: { argv: [no-such-program-here] } } } }\n  plain: {}\n",
    );
    let dry = |args: &[&str]| {
        let args = [&["drill", "run"], args, &["--dry-run", "--scratch", "scratch"]].concat();
        sandbox.run_with_key(&args)
    };
    let plan = dry(&["plain"]).expect(0).stdout;
    assert!(plan.contains("would bring back 20") && plan.contains("from `main`"), "{plan}");
    assert!(plan.contains("sandbox in scratch") && !plan.contains("MISSING"), "{plan}");
    let plan = dry(&["all"]).expect(1).stdout;
    assert!(plan.contains("MISSING: check `smoke`: there is no program"), "{plan}");
    let plan = dry(&["plain", "--at", "2001-01-01T00:00:00Z"]).expect(1).stdout;
    assert!(plan.contains("MISSING: `files`: "), "{plan}");
    let args = ["drill", "run", "plain", "--dry-run", "--scratch", "nowhere"];
    let plan = sandbox.run(&args).expect(1).stdout;
    assert!(plan.contains("MISSING: no identity opens what lies in `main`"), "{plan}");
    assert!(plan.contains("MISSING: there is no directory nowhere"), "{plan}");
    assert!(!sandbox.path("repo/demo/evidence").exists());
}

#[test]
fn a_drill_that_was_killed_is_listed_as_such() {
    let sandbox =
        ready(false, "  long: { checks: { wait: { command: { argv: [sleep, '1000'] } } } }\n");
    let args = ["drill", "run", "long", "--scratch", "scratch"];
    let mut child = sandbox.command(&args).spawn().unwrap();
    let kept = sandbox.path("state/drills-begun");
    let journal = || -> String {
        let all = fs::read_dir(&kept).into_iter().flatten().flatten();
        all.filter_map(|one| fs::read_to_string(one.path().join("journal.jsonl")).ok()).collect()
    };
    while !journal().contains("\"phase\":\"validate\"") {
        assert!(child.try_wait().unwrap().is_none(), "it ended");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!sandbox.path("repo/demo/evidence").exists());
    drilled(&sandbox, &["--source", "files"], 0);
    let rows = listed(&sandbox);
    assert_eq!(rows.len(), 2, "{rows:#?}");
    let killed = rows.iter().find(|row| row["name"] == "long").unwrap();
    assert_eq!(killed["aborted"], true);
    assert_eq!(killed["verdict"], "inconclusive");
    let killed = killed["drill"].as_str().unwrap();
    sandbox.run(&["drill", "verify", killed]).expect(0);
    let report = sandbox.run(&["drill", "report", killed]).expect(0).stdout;
    assert!(report.contains("killed or stopped in phase validate"), "{report}");
    assert!(sandbox.run(&["drill", "list"]).expect(0).stdout.contains("ABORTED"));
    assert!(fs::read_dir(&kept).unwrap().next().is_none());
    // It is written down once.
    drilled(&sandbox, &["--source", "files"], 0);
    assert_eq!(listed(&sandbox).len(), 3);
}

#[test]
fn altered_evidence_is_not_shown_as_if_it_were_true() {
    let sandbox = ready(false, "  all: {}\n");
    drilled(&sandbox, &["all"], 0);
    drilled(&sandbox, &["all"], 0);
    let path = evidence(&sandbox).join("evidence.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("\"bytes\": ", "\"bytes\": 1", 1)).unwrap();
    let ran = sandbox.run(&["drill", "list"]);
    assert_ne!(ran.code, 0);
    assert!(ran.stdout.contains("NOT WHAT WAS WRITTEN"), "{}", ran.stdout);
    assert!(ran.stderr.contains("was altered"), "{}", ran.stderr);
    let report = sandbox.run(&["drill", "report"]).expect(5);
    assert!(report.stdout.is_empty() && report.stderr.contains("was altered"), "{}", report.stderr);
    // The page that was stored is what was written, and is shown as it is.
    let page = sandbox.run(&["drill", "report", "--stored"]).expect(0).stdout;
    assert_eq!(page, fs::read_to_string(evidence(&sandbox).join("report.html")).unwrap());
    fs::write(evidence(&sandbox).join("report.html"), "<p>PASS</p>").unwrap();
    sandbox.run(&["drill", "report", "--stored"]).expect(5);
}

#[test]
fn where_the_policy_has_drills_signed_one_that_is_not_is_none() {
    let sandbox = ready(false, "  all: {}\n");
    drilled(&sandbox, &["all"], 0);
    let report = sandbox.run(&["drill", "report"]).expect(0).stdout;
    assert!(report.contains("sha256sum") && !report.contains("ssh-keygen"), "{report}");
    let unsigned = sandbox.run(&["drill", "verify"]).expect(0);
    assert!(unsigned.stderr.contains("not signed"), "{}", unsigned.stderr);
    let policy = sandbox.path("policy.yaml");
    let text = fs::read_to_string(&policy).unwrap();
    let key = sandbox.path("drill.key");
    let signed = format!("  all: {{ sign_with: \"${{file:{}}}\" }}\n", key.display());
    fs::write(&policy, text.replace("  all: {}\n", &signed)).unwrap();
    let made = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "drills", "-f"])
        .arg(&key)
        .status()
        .unwrap();
    assert!(made.success());
    let refused = sandbox.run(&["drill", "verify"]).expect(5);
    assert!(refused.stderr.contains("`sign_with`"), "{}", refused.stderr);
    let place: PathBuf = evidence(&sandbox);
    sandbox.run(&["drill", "verify", place.to_str().unwrap()]).expect(5);
    let signed = drilled(&sandbox, &["all"], 0);
    let id = signed["drill"].as_str().unwrap();
    sandbox.run(&["drill", "verify", id]).expect(0);
    let report = sandbox.run(&["drill", "report", id]).expect(0).stdout;
    assert!(report.contains("ssh-keygen -Y verify"), "{report}");
}

#[test]
fn a_check_that_fails_keeps_what_it_said_last_and_is_told_in_chinese() {
    let sandbox = ready(false, "  nothing: {}\n");
    let policy = sandbox.path("policy.yaml");
    let text = fs::read_to_string(&policy).unwrap();
    fs::write(&policy, text.split("drills:").next().unwrap()).unwrap();
    add(
        &sandbox,
        "  wrong:
    checks:
      smoke: { command: { shell: 'seq 1 5000; echo the last line; exit 3' } }
      gone: { source: files, files: { present: [missing.txt], at_least: 9 } }
",
    );
    let found = drilled(&sandbox, &["wrong"], 1);
    assert_eq!(codes(&found), ["check_failed", "check_failed"]);
    let said = found["checks"][0]["found"].as_str().unwrap();
    assert!(said.ends_with("5000\nthe last line") && said.len() < 4500, "{said}");
    let one = found["findings"][0]["text"].as_str().unwrap();
    assert!(!one.contains('\n') && one.len() < 500, "{one}");
    let chinese = sandbox.run(&["drill", "report", "--language", "zh"]).expect(0).stdout;
    for text in [
        "以状态 3 结束；其输出末尾为：",
        "检查 `gone`：",
        "缺少 `missing.txt`",
        "至少 9 个文件",
        "恢复 files",
        "已恢复 2 个文件，摘要与索引一致",
        "证据未签名",
    ] {
        assert!(chinese.contains(text), "{text}: {chinese}");
    }
    for english in ["the evidence is not signed", "make a sandbox", "servers listen on sockets"] {
        assert!(!chinese.contains(english), "{english}");
    }
}
