//! What would be lost is agreed to before anything takes over, whether or not the playbook asks.

use std::fs;

use backstay::playbook::compile::{Plan, Wanted, compile};
use backstay::policy::Mode;

use crate::common::playbook::Stage;
use crate::playbook_sites::Sites;

/// The plan of a playbook: each step with what it needs.
fn plan(mode: Mode, steps: &str) -> Plan {
    let text = format!(
        "version: 1\nstack: demo\ntier: production\ntimezone: UTC\nrepositories:\n  main: {{ local: {{ path: /srv/repo }} }}\n\
         role: {{ repository: main, site: a }}\nsites: {{ a: null, b: null }}\n\
         sources:\n  files: {{ directory: {{ path: /etc }}, objectives: {{ rpo: 26h }} }}\n\
         jobs:\n  daily: {{ sources: all, kind: full, schedule: {{ cron: \"0 3 * * *\" }}, keep: {{ for: 7d, at_least: 3 }} }}\n\
         playbooks:\n  move:\n    modes: [graceful, ungraceful, drill]\n{steps}"
    );
    let set = backstay::policy::parse(text, "demo.yaml").unwrap_or_else(|error| {
        panic!("{}", error.render(false));
    });
    let wanted = Wanted { playbook: "move", mode: Some(mode), at: None };
    compile(&set.policies[0], wanted).unwrap()
}

fn names(mode: Mode, steps: &str) -> Vec<String> {
    let plan = plan(mode, steps);
    plan.steps.iter().map(|step| format!("{}<{}", step.name, step.needs.join(","))).collect()
}

/// `role` stands where a policy has sites; what proves the fence is not what this is about.
fn with_role(assess: &str) -> String {
    format!(
        "    assess:\n      proof: {{ postgres: {{ prove_fenced: {{ connection: \"host=a\" }} }} }}\n{assess}    cutover:\n      active: {{ role: {{ to: b, proof: \"{{{{proof.proof}}}}\" }} }}\n      lead: {{ postgres: {{ promote: {{ connection: \"host=b\" }} }}, point_of_no_return: true }}\n"
    )
}

#[test]
fn whatever_takes_over_is_asked_for_where_more_than_the_rpo_would_be_lost() {
    let loss = "      loss: { postgres: { loss: { standby: \"host=b\" } } }\n";
    // Nobody tells: it is looked at, and asked for before the epoch that leads to it.
    let bare = with_role("");
    for mode in [Mode::Graceful, Mode::Ungraceful] {
        assert_eq!(
            names(mode, &bare),
            [
                "proof<",
                "lead:loss<proof",
                "lead:agreed<lead:loss",
                "active<lead:agreed",
                "lead<active"
            ]
        );
    }
    // A drill that does it as well, too; one that does not has nothing to ask.
    assert_eq!(names(Mode::Drill, &bare).len(), 5);
    let sparing = bare.replace("point_of_no_return: true", "modes: [graceful, ungraceful]");
    assert!(!names(Mode::Drill, &sparing).iter().any(|name| name.contains(':')));
    // What is told already is not told twice.
    assert_eq!(
        names(Mode::Ungraceful, &with_role(loss)),
        ["proof<", "loss<proof", "lead:agreed<loss", "active<lead:agreed", "lead<active"]
    );
    // Who is asked in any case, knowing it, is not asked twice; who knows nothing of it is.
    let asked = format!("{loss}      agree: {{ approval: {{}} }}\n");
    assert_eq!(names(Mode::Ungraceful, &with_role(&asked)).len(), 5);
    let asked_before = format!("      agree: {{ approval: {{}} }}\n{loss}");
    assert!(
        names(Mode::Ungraceful, &with_role(&asked_before)).contains(&"lead:agreed<loss".to_owned())
    );
    // One that is only asked at times is no substitute, until it was given.
    let at_times = format!(
        "{loss}      agree: {{ approval: {{}}, when: {{ output: loss.over, is: \"yes\" }} }}\n"
    );
    assert!(
        names(Mode::Ungraceful, &with_role(&at_times)).contains(&"lead:agreed<agree".to_owned())
    );
    // A standby that has everything that was written before nobody could loses nothing.
    let all = format!(
        "{loss}      stop: {{ postgres: {{ stop_writers: {{ connection: \"host=a\" }} }} }}\n      all: {{ postgres: {{ wait_for: {{ connection: \"host=b\", lsn: \"{{{{stop.lsn}}}}\" }} }} }}\n"
    );
    assert!(!names(Mode::Graceful, &with_role(&all)).iter().any(|name| name.contains(':')));
    let some = all.replace("{{stop.lsn}}", "{{loss.lsn}}");
    assert!(names(Mode::Graceful, &with_role(&some)).contains(&"lead:agreed<all".to_owned()));
    // StarRocks: nobody tells, so that somebody is asked where the other site is gone.
    let activate = "    cutover:\n      lead: { starrocks: { activate: { cluster: { frontends: [fe], user: u }, rights: [\"INSERT ON ALL TABLES IN DATABASE dw\"], of: [ROLE etl] } } }\n";
    assert_eq!(names(Mode::Graceful, activate), ["lead<"]);
    assert_eq!(names(Mode::Ungraceful, activate), ["lead:agreed<", "lead<lead:agreed"]);
    // And any other way that leads back no more.
    let files = "    assess:\n      points: { recovery_points: { sources: [files], max_loss: 90d } }\n    recover:\n      go: { wait: { for: 1s }, point_of_no_return: true }\n";
    assert_eq!(names(Mode::Graceful, files), ["points<", "go:agreed<points", "go<go:agreed"]);
    // What is restored is looked at where the playbook does not, and once.
    let restore = |backup: &str, more: &str| {
        format!(
            "    recover:\n      one: {{ restore: {{ source: files, to: /srv/one{backup} }} }}\n      two: {{ restore: {{ source: files, to: /srv/two }} }}\n{more}    cutover:\n      go: {{ wait: {{ for: 1s }}, point_of_no_return: true }}\n"
        )
    };
    assert_eq!(
        names(Mode::Graceful, &restore("", "")),
        ["one<", "two<one", "go:points<two", "go:agreed<go:points", "go<go:agreed"]
    );
    let approval = "      agree: { approval: {} }\n";
    assert_eq!(
        names(Mode::Graceful, &restore("", approval)),
        ["one<", "two<one", "agree<two", "go<agree"]
    );
    // Of a backup that is named nobody tells.
    let named = plan(Mode::Graceful, &restore(", backup: 20261121T020000Z-abcdef", ""));
    let asked = named.steps.iter().find(|step| step.name == "go:agreed").unwrap();
    assert_eq!(asked.beyond_rpo.as_deref().unwrap(), ["one", "go:points"]);
}

#[test]
fn what_is_restored_is_not_switched_to_before_somebody_agreed_to_how_old_it_is() {
    // Nobody asks `recovery_points`: three days are more than the RPO of a day.
    let stage = Stage::new(
        "  over:\n    on_failure: undo\n    recover:\n      back: { restore: { source: files, to: out } }\n    cutover:\n      go: { command: { apply: { shell: \"echo +go >> $LEDGER\" } }, point_of_no_return: true }\n",
    );
    fs::write(stage.sandbox.path("src/a"), "a").unwrap();
    stage.sandbox.run(&["backup", "demo/files"]).expect(0);
    stage.run("now", &["run", "over", "--yes"]).expect(0);
    assert_eq!(stage.ledger("now"), ["+go"]);
    fs::remove_dir_all(stage.sandbox.path("out")).unwrap();
    let later = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(72);
    let clock = format!("{later} {} 1", jiff::Timestamp::now());
    let ran = stage.command("l", &["run", "over", "--yes"]).env("BACKSTAY_CLOCK", clock).output();
    let ran = crate::common::Ran::from(&ran.unwrap()).expect(6);
    assert!(ran.stderr.contains("more would be lost than the RPO allows"), "{}", ran.stderr);
    assert!(stage.ledger("l").is_empty());
}

#[test]
fn more_than_the_rpo_is_not_given_up_before_somebody_agreed_to_it() {
    // The playbook takes a loss of a year; the RPO is a day.
    let steps = "  over:\n    on_failure: undo\n    assess:\n      points: { recovery_points: { sources: [files], max_loss: 365d } }\n    recover:\n      go: { command: { apply: { shell: \"echo +go >> $LEDGER\" } }, point_of_no_return: true }\n";
    let stage = Stage::new(steps);
    fs::write(stage.sandbox.path("src/a"), "a").unwrap();
    // Of three days ago.
    let now = jiff::Timestamp::now();
    let then = now - jiff::SignedDuration::from_hours(72);
    let mut backup = stage.sandbox.command(&["backup", "demo/files"]);
    let backup = backup.env("BACKSTAY_CLOCK", format!("{then} {now} 1")).output();
    crate::common::Ran::from(&backup.unwrap()).expect(0);
    let at = now.to_string();
    let ran = stage.run("old", &["run", "over", "--yes", "--at", &at]).expect(6);
    let run = stage.newest();
    assert!(ran.stderr.contains("more would be lost than the RPO allows"), "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("playbook approve {run} go:agreed")), "{}", ran.stderr);
    assert!(stage.ledger("old").is_empty());
    // Neither skipped nor attested, and no resuming gets past it.
    for verb in ["skip-step", "attest"] {
        let args =
            [verb, &run, "go:agreed", if verb == "attest" { "--text" } else { "--reason" }, "x"];
        stage.run("old", &args).expect(2);
    }
    stage.run_elsewhere("old", &["resume", &run]).expect(6);
    assert!(stage.ledger("old").is_empty());
    // What was agreed to: the plan, the recovery point, the loss.
    let shown = stage.run("old", &["show", &run, "--output", "json"]).expect(0).json();
    let points = &shown["steps"][0]["outputs"];
    assert_eq!((points["over"].as_str(), points["beyond_rpo"].as_str()), (Some("no"), Some("yes")));
    stage.run("old", &["approve", &run, "go:agreed", "--as", "ann", "--yes"]).expect(0);
    stage.run_elsewhere("old", &["resume", &run]).expect(0);
    assert_eq!(stage.ledger("old"), ["+go"]);

    // What is there now is young enough: nobody is asked, and that is written down.
    stage.sandbox.run(&["backup", "demo/files"]).expect(0);
    stage.run("young", &["run", "over", "--yes"]).expect(0);
    assert_eq!(stage.ledger("young"), ["+go"]);
    assert_eq!(stage.state(&stage.newest(), "go:agreed"), "skipped");
}

#[test]
fn a_standby_that_promises_nothing_is_not_promoted_before_somebody_agreed() {
    let Some(sites) = Sites::new() else { return };
    let stage = &sites.stage;
    stage.write(&format!(
        "  failover:\n    modes: [ungraceful]\n    cutover:\n      promote: {{ postgres: {{ promote: {{ connection: \"{}\" }} }}, point_of_no_return: true, timeout: 2m }}\n",
        sites.b.connection()
    ));
    // A cluster promises less than a second; the files have a promise of their own.
    let path = stage.sandbox.path("policy.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let text = text
        .replace("tier: development\n", "tier: development\nobjectives: { rpo: 1s }\n")
        .replace(" } }\njobs:", " }, objectives: { rpo: 24h } }\njobs:");
    fs::write(&path, text).unwrap();
    sites.a.kill();
    stage.run("l", &["run", "failover", "--yes"]).expect(6);
    let run = stage.newest();
    assert_eq!(stage.state(&run, "promote:agreed"), "waiting");
    assert_eq!(sites.b.value("SELECT pg_is_in_recovery()::text"), "true");
    let shown = stage.run("l", &["show", &run, "--output", "json"]).expect(0).json();
    let loss = &shown["steps"][0]["outputs"];
    assert_eq!(loss["beyond_rpo"], "yes", "{loss}");
    assert!(loss["lsn"].as_str().unwrap().contains('/'), "{loss}");
    stage.run("l", &["approve", &run, "promote:agreed", "--as", "ann", "--yes"]).expect(0);
    stage.run_elsewhere("l", &["resume", &run]).expect(0);
    assert_eq!(sites.b.value("SELECT pg_is_in_recovery()::text"), "false");
}
