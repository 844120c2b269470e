//! What a playbook that cannot be read, or be carried out, says of itself.

use std::fs;

use crate::common::Ran;
use crate::common::playbook::Stage;

fn check(stage: &Stage, playbooks: &str, code: i32) -> String {
    stage.write(playbooks);
    stage.sandbox.run(&["check", "--offline"]).expect(code).stderr
}

#[test]
fn everything_that_is_wrong_with_playbooks_is_said_at_once() {
    let stage = Stage::new("  none: { cleanup: { a: { wait: { for: 1s } } } }\n");
    let said = check(
        &stage,
        "  one:\n    modes: [gracefully]\n    recover:\n      a: { teleport: { to: b } }\n      b: { postgres: { start_standby: { server: { dat: /x } } } }\n      c: { tcp: { adress: \"db:1\", every: 1 } }\n      d: { wait: { for: 1s }, retries: 3 }\n      e: { wait: { for: 1s }, command: { apply: { shell: \"true\" } } }\n  two:\n    recovery: { a: { wait: { for: 1s } } }\n    recover:\n      a: { postgres: { promte: { connection: \"host=db\" } } }\n",
        3,
    );
    for wanted in [
        "unknown choice `gracefully`",
        "unknown key `teleport`",
        "exactly one of `command`, `wait`",
        "`primary` and `connection` are missing",
        "add `primary: …` and `connection: …` here",
        "unknown key `dat`",
        "`data` is missing",
        "unknown key `adress`",
        "`address` is missing",
        "unknown key `retries`",
        "both `wait` and `command`",
        "unknown key `recovery`",
        "unknown choice `promte`",
    ] {
        assert!(said.contains(wanted), "`{wanted}` is not said:\n{said}");
    }
    // None of it twice.
    for once in ["`address` is missing", "unknown choice `promte`", "unknown key `teleport`"] {
        assert_eq!(said.matches(once).count(), 1, "{once}:\n{said}");
    }
}

#[test]
fn a_query_may_have_a_semicolon_in_its_text() {
    let stage = Stage::new("  none: { cleanup: { a: { wait: { for: 1s } } } }\n");
    let query = |query: &str| {
        format!(
            "  look:\n    validate:\n      a: {{ sql: {{ connection: \"host=db\", query: {query:?}, expect: {{ is: x }} }} }}\n"
        )
    };
    check(&stage, &query("SELECT string_agg(name, '; ') FROM t"), 0);
    let said = check(&stage, &query("SELECT ';'; DROP TABLE t"), 3);
    assert!(said.contains("several statements"), "{said}");
}

#[test]
fn resume_takes_yes_and_asks_nothing() {
    let stage = Stage::new("  ask:\n    assess:\n      agree: { approval: {} }\n");
    stage.run("l", &["run", "ask", "--yes"]).expect(6);
    let run = stage.newest();
    stage.run("l", &["approve", &run, "agree", "--yes"]).expect(0);
    let ran = stage.run("l", &["resume", &run, "--yes"]).expect(0);
    assert!(ran.stderr.contains("asks nothing"), "{}", ran.stderr);
}

#[test]
fn programs_that_refuse_root_are_told_by_whom_they_are_to_be_run() {
    // As pg_ctl does.
    let stage = Stage::new("  none: { cleanup: { a: { wait: { for: 1s } } } }\n");
    let programs = stage.sandbox.path("programs");
    fs::create_dir(&programs).unwrap();
    let text = "#!/bin/sh\necho 'pg_ctl: cannot be run as root' >&2\nexit 1\n";
    let program = programs.join("pg_ctl");
    fs::write(&program, text).unwrap();
    let mut mode = fs::metadata(&program).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o755);
    fs::set_permissions(&program, mode).unwrap();
    stage.write(&format!(
        "  down:\n    reprotect:\n      halt: {{ postgres: {{ demote: {{ server: {{ data: /srv/data, programs: {} }} }} }} }}\n",
        programs.display()
    ));
    let ran = stage.run("l", &["check", "down"]).expect(1);
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(
        said.contains("PostgreSQL refuses root") && said.contains("`user: postgres`"),
        "{said}"
    );
}

#[test]
fn a_host_that_does_not_know_its_site_says_where_it_is_to_be_written() {
    let stage = Stage::new("  none: { cleanup: { a: { wait: { for: 1s } } } }\n");
    let path = stage.sandbox.path("policy.yaml");
    let site = stage.sandbox.path("site");
    let text = fs::read_to_string(&path).unwrap();
    let role = format!(
        "role: {{ repository: main, site: \"${{file:{}}}\" }}\nsites: {{ frankfurt: null, b: null }}\nplaybooks:\n",
        site.display()
    );
    fs::write(&path, text.replace("playbooks:\n", &role)).unwrap();
    fs::write(stage.sandbox.path("src/a"), "a").unwrap();
    let backup = || Ran::from(&stage.sandbox.command(&["backup", "demo/files"]).output().unwrap());
    for (content, wanted) in [
        (None, "failed to find out which site of stack demo this host belongs to"),
        (Some("\n"), "failed to find out which site of stack demo this host belongs to"),
        (Some("berlin\n"), "stack demo has no site `"),
    ] {
        match content {
            Some(content) => fs::write(&site, content).unwrap(),
            None => _ = fs::remove_file(&site),
        }
        let ran = backup();
        assert!(ran.code != 0 && ran.stderr.contains(wanted), "{content:?}\n{}", ran.stderr);
        assert!(ran.stderr.contains("frankfurt, b"), "{content:?}\n{}", ran.stderr);
    }
    // Space around it does no harm, and a name is no secret that is kept out of what is told.
    fs::write(&site, " frankfurt \n").unwrap();
    assert_eq!(backup().code, 0);
    let shown = stage.sandbox.run(&["role", "show"]).expect(0);
    assert!(format!("{}{}", shown.stdout, shown.stderr).contains("frankfurt"), "{}", shown.stdout);
}

#[test]
fn status_tells_programs_of_playbooks() {
    let stage = Stage::new("  move: { recover: { a: { wait: { for: 1s } } } }\n");
    let playbooks = || {
        let lines = stage.sandbox.run(&["status", "--output", "json"]).json();
        lines[0]["playbooks"].clone()
    };
    assert_eq!(playbooks(), serde_json::json!({ "move": "needs verify" }));
    stage.run("l", &["check", "move"]).expect(0);
    assert_eq!(playbooks(), serde_json::json!({ "move": "ready" }));
}
