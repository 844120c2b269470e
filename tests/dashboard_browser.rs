//! The dashboard in a real Chromium: every page at four widths, light and dark, by keyboard, without
//! scripts; and an approval and a job, clicked, whose effect the command line tells.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use backstay::state::{RunRow, RunState, Slot, State};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::common::{cannot, has_tools};
use crate::dashboard::{POLICY, Shown, TOKEN};
use crate::dashboard_drills::{DRILLS, drilled};

/// Where the screenshots go.
fn shots() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/dashboard");
    fs::create_dir_all(&path).unwrap();
    path
}

/// The directory with the script and what it needs, installed once. `None` where that cannot be.
fn browser() -> Option<PathBuf> {
    if !has_tools(&["chromium", "node", "npm"]) {
        cannot("chromium, node and npm are needed: scripts/install-deps.sh test");
        return None;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let place = root.join("target/test-tools/browser");
    fs::create_dir_all(&place).unwrap();
    let lock = fs::read_to_string(root.join("tests/browser/package-lock.json")).unwrap();
    let done = place.join("installed");
    if fs::read_to_string(&done).is_ok_and(|installed| installed == lock) {
        return Some(place);
    }
    for name in ["package.json", "package-lock.json"] {
        fs::copy(root.join("tests/browser").join(name), place.join(name)).unwrap();
    }
    let npm = Command::new("npm")
        .args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"])
        .current_dir(&place)
        .output()
        .unwrap();
    if !npm.status.success() {
        let why = String::from_utf8_lossy(&npm.stderr).into_owned();
        cannot(&format!("playwright-core could not be installed: {why}"));
        return None;
    }
    fs::write(&done, lock).unwrap();
    Some(place)
}

/// Backups of days that are gone, as a clock of those days would have made them.
fn backups(this: &Shown) {
    for days in [9, 8, 6, 5, 3, 2, 1] {
        let now = Timestamp::now();
        let then = now.checked_sub(SignedDuration::from_hours(24 * days)).unwrap();
        fs::write(this.site.sandbox.path("src/file"), "content ".repeat(days as usize)).unwrap();
        let kind = if days % 3 == 0 { "full" } else { "incremental" };
        let mut command = this.site.sandbox.command(&["backup", "files", "--kind", kind]);
        let ran = command.env("BACKSTAY_CLOCK", format!("{then} {now} 1")).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    }
}

/// Runs of the days before, so that there is something to draw.
fn runs(this: &Shown) {
    let now = Timestamp::now();
    let run = |number: i64| {
        let due = now.checked_sub(SignedDuration::from_mins(number * 171 + 40)).unwrap();
        let state = match number % 9 {
            4 => RunState::Failed,
            7 => RunState::Missed,
            8 => RunState::Skipped,
            _ => RunState::Succeeded,
        };
        let done = matches!(state, RunState::Failed | RunState::Succeeded);
        let took = SignedDuration::from_mins(4 + number * 7 % 50);
        let why =
            (state != RunState::Succeeded).then(|| "the server closed the connection".to_owned());
        RunRow {
            id: format!("planted-{number:03}"),
            slot: Slot {
                stack: "demo".to_owned(),
                job: if number % 3 == 0 { "dump" } else { "daily" }.to_owned(),
                source: ["dump", "files", "keys"][number as usize % 3].to_owned(),
                nominal: format!("planted {number}"),
            },
            due,
            not_before: due,
            state,
            why,
            attempts: u32::from(done),
            owner: done.then(|| "host-a".to_owned()),
            heartbeat: None,
            started: done.then_some(due),
            ended: Some(if done { due.checked_add(took).unwrap() } else { due }),
            backup: None,
            cancelled: false,
        }
    };
    let rows: Vec<RunRow> = (0..70).map(run).collect();
    let state = State::open(&this.site.sandbox.path("state"), now).unwrap();
    backstay::state::Ledger::restore_runs(&state, &rows).unwrap();
}

#[test]
fn every_page_can_be_read_by_everybody_and_used() {
    let Some(browser) = browser() else { return };
    let (this, daemon) = Shown::start(&format!(
        "{}{DRILLS}",
        POLICY.replace("<script>alert(1)</script> & ", "The shop, with ")
    ));
    backups(&this);
    runs(&this);
    this.job("daily");
    this.job("dump");
    this.job("away");
    let run = this.playbook();
    let json = |args: &[&str]| this.site.run(args).expect(0).json();
    let listed = json(&["list", "files", "--output", "json"]);
    let backup = listed.as_array().unwrap().last().unwrap()["backup"].as_str().unwrap().to_owned();
    let failed = json(&["runs", "--job", "dump", "--state", "failed", "--output", "json"]);
    let failed = failed.as_array().unwrap().last().unwrap()["id"].as_str().unwrap().to_owned();
    this.site.run(&["verify", "files"]).expect(0);
    let (drill, bad) = (drilled(&this, "prove"), drilled(&this, "wrong"));
    let cookie = this.login();
    this.site.until("a look", || this.get("/", &cookie).body.contains("Sources of demo"));
    let approval = format!("/playbooks/run/{run}");
    let shots = shots();
    let wanted = json!({
        "base": format!("http://localhost:{}", this.port),
        "token": TOKEN,
        "chromium": "/usr/bin/chromium",
        "shots": shots,
        "approval": approval,
        "pages": {
            "overview": "/",
            "runs": "/runs",
            "runs-none": "/runs?state=abandoned",
            "run": format!("/runs/{failed}"),
            "timeline": "/timeline",
            "timeline-week": "/timeline?span=week",
            "recovery-points": "/recovery-points",
            "recovery-points-none": "/recovery-points?stack=demo&source=dump",
            "backup": format!("/backups/main/demo/files/{backup}"),
            "jobs": "/jobs",
            "playbooks": "/playbooks",
            "playbook": "/playbooks/plan/demo/move",
            "playbook-run": approval,
            "drills": "/drills",
            "drill": format!("/drills/{drill}"),
            "drill-failed": format!("/drills/{bad}"),
            "coverage": "/coverage",
            "growth": "/growth",
            "error": "/runs/nothing",
        },
    });
    let mut node = Command::new("node")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/pages.js"))
        .env("NODE_PATH", browser.join("node_modules"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    node.stdin.take().unwrap().write_all(wanted.to_string().as_bytes()).unwrap();
    let output = node.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let wrong: Vec<&str> = lines.iter().filter_map(|line| line["wrong"].as_str()).collect();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(wrong.is_empty(), "{}\n{stderr}", wrong.join("\n"));
    assert_eq!(
        lines.last().unwrap()["done"],
        wanted["pages"].as_object().unwrap().len(),
        "{told}{stderr}"
    );
    // What was clicked is what the command line finds.
    let shown = json(&["playbook", "show", &run, "--output", "json"]);
    let steps = shown["steps"].as_array().unwrap();
    let agreed = steps.iter().find(|step| step["name"] == "agree").unwrap();
    assert!(agreed["approved_by"][0].as_str().unwrap().starts_with("ann"), "{agreed}");
    let begun = json(&["runs", "--job", "dump", "--output", "json"]);
    let asked = |run: &&Value| run["nominal"].as_str().unwrap().starts_with("asked for at");
    assert_eq!(begun.as_array().unwrap().iter().filter(asked).count(), 2, "{begun}");
    assert!(fs::read_dir(&shots).unwrap().count() >= 60);
    daemon.end();
}
