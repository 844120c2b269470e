//! Drills: what was backed up is recovered for practice, looked at, measured, and written down.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use crate::common::{Ran, Sandbox};

/// A stack with files, and drills.
pub fn ready(encrypted: bool, drills: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write_policy(encrypted, "");
    add(&sandbox, drills);
    fs::write(sandbox.path("src/config.py"), "SECRET = 'x'\n").unwrap();
    fs::create_dir(sandbox.path("src/sub")).unwrap();
    fs::write(sandbox.path("src/sub/page.txt"), "a page\n").unwrap();
    fs::create_dir(sandbox.path("scratch")).unwrap();
    sandbox.run(&["init"]).expect(0);
    sandbox.backup(&[]);
    sandbox
}

/// Adds drills to the policy.
pub fn add(sandbox: &Sandbox, drills: &str) {
    let path = sandbox.path("policy.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(path, format!("{text}drills:\n{drills}")).unwrap();
}

/// Holds a drill in `scratch`.
pub fn drill(sandbox: &Sandbox, args: &[&str]) -> Ran {
    let args = [&["drill", "run"], args, &["--scratch", "scratch"]].concat();
    sandbox.run_with_key(&args)
}

/// The same, as JSON.
pub fn drilled(sandbox: &Sandbox, args: &[&str], code: i32) -> Value {
    let args = [&["--output", "json", "drill", "run"], args, &["--scratch", "scratch"]].concat();
    sandbox.run_with_key(&args).expect(code).json()["evidence"].clone()
}

/// Codes of findings, without those that change nothing.
pub fn codes(evidence: &Value) -> Vec<String> {
    evidence["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["severity"] != "note" && finding["code"] != "not_isolated")
        .map(|finding| finding["code"].as_str().unwrap().to_owned())
        .collect()
}

/// Passed, whether or not this machine has network namespaces.
pub fn passed(evidence: &Value) -> bool {
    let isolated = evidence["environment"]["network_isolated"] == true;
    evidence["verdict"] == if isolated { "pass" } else { "pass_with_findings" }
}

/// The directory of the newest evidence.
pub fn evidence(sandbox: &Sandbox) -> PathBuf {
    let all = fs::read_dir(sandbox.path("repo/demo/evidence")).unwrap();
    all.map(|entry| entry.unwrap().path()).max().unwrap()
}

fn is_clean(sandbox: &Sandbox) -> bool {
    fs::read_dir(sandbox.path("scratch")).unwrap().next().is_none()
}

const CHECKED: &str = "  quarterly:
    description: Everything, every quarter
    checks:
      page: { source: files, files: { present: [config.py, sub/page.txt], at_least: 2 } }
      digest: { source: files, files: { sha256: { sub/page.txt: PAGE } } }
      read: { command: { shell: 'grep -q SECRET \"$BACKSTAY_SOURCE_FILES/config.py\" && echo it is there' } }
";

fn checked() -> String {
    use sha2::Digest as _;
    let digest = hex::encode(sha2::Sha256::digest(b"a page\n"));
    CHECKED.replace("PAGE", &digest)
}

#[test]
fn files_are_recovered_checked_and_written_down() {
    let sandbox = ready(true, &checked());
    let ran = drill(&sandbox, &["quarterly"]).expect(0);
    assert!(ran.stdout.starts_with("PASS"), "{}", ran.stdout);
    assert!(ran.stdout.contains("RTO ") && ran.stdout.contains("RPO "), "{}", ran.stdout);
    assert!(ran.stdout.contains("evidence: "), "{}", ran.stdout);
    assert!(is_clean(&sandbox));
    let place = evidence(&sandbox);
    for name in ["evidence.json", "journal.jsonl", "report.html", "report.md", "SHA256SUMS"] {
        assert!(place.join(name).is_file(), "{name}");
    }
    let sums = Command::new("sha256sum")
        .args(["--check", "--strict", "SHA256SUMS"])
        .current_dir(&place)
        .output()
        .unwrap();
    assert!(sums.status.success(), "{sums:?}");
    let found: Value =
        serde_json::from_slice(&fs::read(place.join("evidence.json")).unwrap()).unwrap();
    assert!(passed(&found), "{found:#}");
    assert_eq!(found["scenario"], "site_lost");
    assert_eq!(found["sources"][0]["rpo"]["basis"], "snapshot");
    let checks: Vec<_> =
        found["checks"].as_array().unwrap().iter().map(|check| &check["state"]).collect();
    assert_eq!(checks, ["passed"; 3]);
    assert_eq!(found["checks"][2]["found"], "it is there");
    // The second one knows the first.
    let again = drilled(&sandbox, &["quarterly"], 0);
    assert_eq!(again["earlier"].as_array().unwrap().len(), 1);
    assert!(again["checks"][0]["baseline_seconds"].is_number());
    let listed = sandbox.run(&["--output", "json", "drill", "list"]).expect(0).json();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    let covered =
        sandbox.run(&["--output", "json", "drill", "list", "--coverage"]).expect(0).json();
    assert_eq!(covered[0]["source"], "files");
    assert!(covered[0]["proven"].is_string());
    let changes = sandbox.run(&["drill", "report", "--compare"]).expect(0);
    assert!(changes.stdout.starts_with("since "), "{}", changes.stdout);
    assert!(!changes.stdout.contains("verdict"), "{}", changes.stdout);
}

#[test]
fn reports_are_whole_in_both_languages() {
    let sandbox = ready(true, &checked());
    drill(&sandbox, &["quarterly"]).expect(0);
    let report =
        |more: &[&str]| sandbox.run(&[&["drill", "report"], more].concat()).expect(0).stdout;
    let page = report(&["--format", "html"]);
    assert_eq!(page, fs::read_to_string(evidence(&sandbox).join("report.html")).unwrap());
    assert!(page.contains("<svg") && page.contains("prefers-color-scheme: dark"), "{page}");
    for outside in ["http://", "https://", "<script", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    for section in [
        "Findings",
        "Scope",
        "measured",
        "Steps",
        "Validations",
        "Containment",
        "Trend",
        "Clean-up",
        "Integrity",
        "Sign-off",
    ] {
        assert!(page.contains(section), "{section}");
    }
    let chinese = report(&["--language", "zh"]);
    for section in ["恢复演练", "发现与偏差", "实测恢复时间与恢复点", "步骤（含未执行）", "签署"]
    {
        assert!(chinese.contains(section), "{section}");
    }
    let json: Value = serde_json::from_str(&report(&["--format", "json"])).unwrap();
    assert_eq!(json["backstay_evidence"], 1);
    sandbox.run(&["drill", "report", "20200101T000000Z"]).expect(1);
    sandbox.run(&["drill", "report", "quarterly"]).expect(2);
}

#[test]
fn without_an_identity_nobody_knows() {
    let sandbox = ready(true, &checked());
    let args = ["--output", "json", "drill", "run", "quarterly", "--scratch", "scratch"];
    let found = sandbox.run(&args).expect(1).json()["evidence"].clone();
    assert_eq!(found["verdict"], "inconclusive");
    assert!(codes(&found).contains(&"no_identity".to_owned()), "{found:#}");
    assert_eq!(found["sources"].as_array().unwrap().len(), 0);
    assert!(found["rto"]["met"].is_null());
    let steps = found["steps"].as_array().unwrap();
    assert!(steps.iter().any(|step| step["state"] == "not_executed"), "{steps:?}");
}

#[test]
fn planted_damage_fails() {
    let sandbox = ready(true, &checked());
    let segment =
        sandbox.objects().into_iter().find(|path| path.to_string_lossy().contains(".tar.zst"));
    let segment = sandbox.path("repo").join(segment.unwrap());
    let mut bytes = fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let found = drilled(&sandbox, &["quarterly"], 1);
    assert_eq!(found["verdict"], "fail");
    let codes = codes(&found);
    assert!(codes.iter().any(|code| code == "damaged" || code == "not_restored"), "{found:#}");
    assert!(is_clean(&sandbox));
}

#[test]
fn each_check_that_fails_or_cannot_be_made_is_told_apart() {
    let sandbox = ready(
        false,
        "  wrong:
    checks:
      gone: { source: files, files: { present: [missing.txt] } }
      ends: { command: { argv: ['false'] } }
  cannot:
    checks:
      program: { command: { argv: [no-such-program-here] } }
",
    );
    let wrong = drilled(&sandbox, &["wrong"], 1);
    assert_eq!(wrong["verdict"], "fail");
    assert_eq!(codes(&wrong), ["check_failed", "check_failed"]);
    let cannot = drilled(&sandbox, &["cannot"], 1);
    assert_eq!(cannot["verdict"], "inconclusive");
    assert_eq!(codes(&cannot), ["check_not_run"]);
}

#[test]
fn too_slow_for_its_tier_is_an_objective_missed() {
    let sandbox =
        ready(false, "  slow: { checks: { wait: { command: { argv: [sleep, '1.2'] } } } }\n");
    let path = sandbox.path("policy.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(path, text.replace("tier: development\n", "objectives: { rto: 1s, rpo: 24h }\n"))
        .unwrap();
    let found = drilled(&sandbox, &["slow"], 4);
    assert_eq!(found["verdict"], "fail");
    assert_eq!(codes(&found), ["rto_missed"]);
    assert_eq!(found["rto"]["met"], false);
}

#[test]
fn what_is_left_running_is_found_and_ended() {
    let sandbox = ready(
        false,
        "  untidy: { checks: { left: { command: { shell: '(cd \"$BACKSTAY_SOURCE_FILES\" && exec setsid sleep 1000) >/dev/null 2>&1 & sleep 0.3' } } } }\n",
    );
    let found = drilled(&sandbox, &["untidy"], 1);
    assert!(codes(&found).contains(&"left_over".to_owned()), "{found:#}");
    assert_eq!(found["cleanup"]["complete"], false);
    assert!(is_clean(&sandbox));
}

#[test]
fn a_drill_that_was_killed_leaves_nothing_for_the_next() {
    let sandbox =
        ready(false, "  long: { checks: { wait: { command: { argv: [sleep, '1000'] } } } }\n");
    let args = ["drill", "run", "long", "--scratch", "scratch"];
    let mut child = sandbox.command(&args).spawn().unwrap();
    let restored = || {
        let all = walk(&sandbox.path("scratch"));
        all.iter().any(|path| path.ends_with("data/config.py"))
    };
    while !restored() {
        assert!(child.try_wait().unwrap().is_none(), "it ended");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!is_clean(&sandbox));
    let found = drilled(&sandbox, &["--source", "files"], 0);
    assert!(codes(&found).contains(&"left_by_a_killed_drill".to_owned()), "{found:#}");
    assert_eq!(found["verdict"], "pass_with_findings");
    assert!(is_clean(&sandbox));
}

fn walk(root: &std::path::Path) -> Vec<PathBuf> {
    let (mut todo, mut found) = (vec![root.to_path_buf()], Vec::new());
    while let Some(directory) = todo.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            if entry.path().is_dir() {
                todo.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn the_time_it_took_is_that_of_a_stopwatch() {
    let sandbox = ready(
        false,
        "  timed: { checks: { last: { command: { shell: 'sleep 1; date +%s.%N' } } } }\n",
    );
    let wall = |text: &str| text.trim().parse::<f64>().unwrap();
    let now = || {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        since.as_secs_f64()
    };
    let (began, stopwatch) = (now(), Instant::now());
    let found = drilled(&sandbox, &["timed"], 0);
    let whole = stopwatch.elapsed().as_secs_f64();
    let rto = found["rto"]["from_declaration_seconds"].as_f64().unwrap();
    // By the check's own clock, which was read last of all.
    let outside = wall(found["checks"][0]["found"].as_str().unwrap()) - began;
    assert!(
        (rto - outside).abs() < 1.0,
        "{rto} measured, {outside} by the stopwatch, {whole} in all"
    );
    let phases: f64 = found["phases"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|phase| phase["name"] != "cleanup")
        .map(|phase| phase["seconds"].as_f64().unwrap())
        .sum();
    assert!((rto - phases).abs() < 0.5, "{rto} is the sum of its phases, {phases}");
}

#[test]
fn a_point_by_chance_is_found_again() {
    let sandbox = ready(false, "  any: { recovery_point: random }\n");
    crate::common::settle();
    fs::write(sandbox.path("src/config.py"), "SECRET = 'y'\n").unwrap();
    sandbox.backup(&[]);
    let first = drilled(&sandbox, &["any"], 0);
    let seed = first["aim"]["seed"].to_string();
    let second = drilled(&sandbox, &["any", "--seed", &seed], 0);
    assert_eq!(first["aim"]["choice"], "random");
    assert_eq!(first["aim"]["seed"], second["aim"]["seed"]);
    let at = second["aim"]["at"].as_str().unwrap();
    assert_eq!(second["failed_at"], at);
    assert!(second["sources"][0]["backup"].is_string());
}

#[test]
fn a_playbook_is_rehearsed_and_what_is_not_done_is_said() {
    let sandbox = ready(false, "  rehearsal: {}\n");
    let path = sandbox.path("policy.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let playbook = "playbooks:
  restore:
    recover:
      stop: { service: { do: stop, manager: { systemd: {} }, names: [web] } }
      back: { restore: { source: files, to: /srv/files } }
    validate:
      page: { http: { url: 'http://127.0.0.1:1/' } }
    cutover:
      agree: { approval: { of: 1 } }
";
    fs::write(
        path,
        text.replace(
            "drills:\n  rehearsal: {}\n",
            &format!("{playbook}drills:\n  rehearsal: {{ playbook: restore }}\n"),
        ),
    )
    .unwrap();
    let found = drilled(&sandbox, &["rehearsal"], 0);
    assert_eq!((&found["mode"], &found["playbook"]), (&"playbook".into(), &"restore".into()));
    let left_out: Vec<&str> = found["steps"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|step| step["state"] == "not_executed")
        .map(|step| step["name"].as_str().unwrap())
        .collect();
    assert_eq!(left_out, ["stop", "page", "agree"]);
    assert!(!std::path::Path::new("/srv/files").exists());
    let dry = sandbox.run(&["drill", "run", "rehearsal", "--dry-run"]).expect(0).stdout;
    assert!(dry.contains("not executed: cutover/agree"), "{dry}");
}

#[test]
fn scenarios_that_are_not_played_are_refused() {
    let sandbox = ready(false, "  any: {}\n");
    let refused = |args: &[&str]| drill(&sandbox, args).expect(2).stderr;
    assert!(refused(&["--scenario", "table-dropped"]).contains("--at"));
    assert!(refused(&["--scenario", "repository-lost"]).contains("the repository that is lost"));
    assert!(refused(&["--backup", "2026"]).contains("--source"));
    assert!(refused(&["--source", "nothing"]).contains("no source `nothing`"));
    assert!(refused(&["ani"]).contains("did you mean `any`"));
    assert!(refused(&["--at", "2999-01-01T00:00:00Z"]).contains("future"));
    let gone = drilled(&sandbox, &["--at", "2001-01-01T00:00:00Z"], 1);
    assert_eq!(codes(&gone), ["no_backup"]);
}

#[test]
fn with_nothing_but_a_repository_and_a_key_it_is_done_on_a_fresh_machine() {
    let sandbox = ready(true, &checked());
    let fresh = tempfile::tempdir().unwrap();
    for name in ["scratch", "state"] {
        fs::create_dir(fresh.path().join(name)).unwrap();
    }
    fs::copy(sandbox.path("recovery.key"), fresh.path().join("recovery.key")).unwrap();
    // Neither policy nor state, and what was protected is gone.
    fs::rename(sandbox.path("policy.yaml"), sandbox.path("policy.gone")).unwrap();
    fs::rename(sandbox.path("src"), sandbox.path("src.gone")).unwrap();
    let repository = sandbox.path("repo");
    let run = |more: &[&str]| {
        let mut command = sandbox.bare(&["--repository", repository.to_str().unwrap()]);
        command.args(["--identity", "recovery.key", "--state-dir", "state", "--output", "json"]);
        command.args(["drill", "run", "--scratch", "scratch"]).args(more).current_dir(fresh.path());
        Ran::from(&command.output().unwrap())
    };
    let since = Instant::now();
    let found = run(&[]).expect(0).json()["evidence"].clone();
    assert!(since.elapsed().as_secs_f64() > found["rto"]["technical_seconds"].as_f64().unwrap());
    assert!(passed(&found), "{found:#}");
    assert_eq!(found["scenario"], "backstay_lost");
    assert_eq!(found["sources"][0]["restored"], true);
    // Commands that come from a bucket are run only where somebody says so.
    let careful = run(&["quarterly"]).expect(1).json()["evidence"].clone();
    assert_eq!(careful["verdict"], "inconclusive");
    assert_eq!(codes(&careful), ["check_not_run"]);
    let trusting = run(&["quarterly", "--trust-policy"]).expect(0).json()["evidence"].clone();
    assert!(passed(&trusting), "{trusting:#}");
}

#[test]
fn a_sandbox_lies_in_nothing_that_is_protected() {
    let sandbox = ready(false, "  all: {}\n");
    for inside in ["src", "repo"] {
        let place = sandbox.path(inside);
        let args = ["drill", "run", "--scratch", place.to_str().unwrap(), "--source", "files"];
        let ran = sandbox.run(&args).expect(2);
        assert!(ran.stderr.contains("the sandbox would lie in"), "{}", ran.stderr);
        let left = fs::read_dir(&place).unwrap().flatten();
        assert!(
            !left.into_iter().any(|entry| entry.file_name().to_string_lossy().contains("drill"))
        );
    }
}
