//! What the dashboard tells of drills, and lines of it that told too little or what was over.

use std::fs;

use backstay::state::{Ledger as _, RunRow, RunState, Slot, State};
use jiff::{SignedDuration, Timestamp};

use crate::dashboard::{POLICY, Shown};

/// Drills of the source `files`: one that passes, and one that does not.
pub const DRILLS: &str = "drills:\n  prove: { sources: [files], description: \"Every <b>quarter</b>\", schedule: { cron: \"0 3 1 1 *\" } }\n  \
     wrong: { sources: [files], checks: { smoke: { command: { shell: 'echo \"<script>alert(1)</script> nobody answers\"; exit 3' } } } }\n";

/// Holds a drill, and gives its id.
pub fn drilled(this: &Shown, name: &str) -> String {
    let ran = this.site.run(&["--output", "json", "drill", "run", name]);
    ran.json()["evidence"]["drill"].as_str().unwrap().to_owned()
}

fn shown() -> (Shown, crate::common::daemon::Daemon) {
    Shown::start(&format!("{POLICY}{DRILLS}"))
}

/// A page, once what it shows is read.
fn read(this: &Shown, path: &str, cookie: &str) -> String {
    this.site.until(path, || !this.get(path, cookie).body.contains("being read"));
    this.get(path, cookie).body
}

#[test]
fn drills_are_listed_with_what_they_measured_and_prove() {
    let (this, daemon) = shown();
    this.job("daily");
    let (good, bad) = (drilled(&this, "prove"), drilled(&this, "wrong"));
    let cookie = this.login();
    let page = read(&this, "/drills", &cookie);
    for text in [&good, &bad, "PASS", "FAIL", "one source is lost", "nobody answers", "Coverage"] {
        assert!(page.contains(text), "{text}: {page}");
    }
    assert!(page.contains("What drills prove") && page.contains("demo/keys"), "{page}");
    assert!(!page.contains("<script>alert"), "{page}");
    let only = read(&this, "/drills?stack=demo&name=wrong", &cookie);
    assert!(only.contains(&bad) && !only.contains(&format!("/drills/{good}")), "{only}");
    let one = read(&this, &format!("/drills/{bad}"), &cookie);
    for text in ["Check failed", "smoke", "nobody answers", "Phases", "/backups/main/demo/files/"] {
        assert!(one.contains(text), "{text}: {one}");
    }
    assert!(!one.contains("<script>alert"), "{one}");
    let chinese = read(&this, &format!("/drills/{bad}?lang=zh"), &cookie);
    for text in ["未通过", "检查未通过", "检查 `smoke`", "已恢复 1 个文件"] {
        assert!(chinese.contains(text), "{text}: {chinese}");
    }
    for (path, status) in [
        ("/drills/nothing", 404),
        ("/drills/--help", 404),
        ("/drills/20200101T000000Z-aaaaaa", 404),
        ("/drills/20200101T000000Z-aaaaaa/report", 404),
    ] {
        this.site.until(path, || !this.get(path, &cookie).body.contains("being read"));
        assert_eq!(this.get(path, &cookie).status, status, "{path}");
    }
    daemon.end();
}

#[test]
fn a_stored_report_is_shown_as_it_is_and_may_do_nothing() {
    let (this, daemon) = shown();
    this.job("daily");
    let id = drilled(&this, "prove");
    let cookie = this.login();
    let path = format!("/drills/{id}/report");
    assert_eq!(this.get(&path, "").status, 303);
    this.site.until(&path, || !this.get(&path, &cookie).body.contains("being read"));
    let page = this.get(&path, &cookie);
    let stored = this.site.sandbox.path(format!("repo/demo/evidence/{id}/report.html"));
    assert_eq!(page.body, fs::read_to_string(&stored).unwrap());
    let policy = page.header("content-security-policy").unwrap();
    for part in ["default-src 'none'", "sandbox", "frame-ancestors 'none'"] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("script-src"), "{policy}");
    // Evidence that is not what was written is none, and the page says so.
    let id = drilled(&this, "prove");
    let place = this.site.sandbox.path(format!("repo/demo/evidence/{id}"));
    fs::write(place.join("report.html"), "<p>PASS</p>").unwrap();
    let text = fs::read_to_string(place.join("evidence.json")).unwrap();
    fs::write(place.join("evidence.json"), text.replace("\"pass", "\"fail")).unwrap();
    for path in [format!("/drills/{id}/report"), format!("/drills/{id}")] {
        this.site.until(&path, || !this.get(&path, &cookie).body.contains("being read"));
        let page = this.get(&path, &cookie);
        assert_eq!(page.status, 500, "{}", page.body);
        assert!(page.body.contains("was altered"), "{}", page.body);
    }
    let list = read(&this, "/drills", &cookie);
    assert!(list.contains("not what was written") && list.contains("was altered"), "{list}");
    daemon.end();
}

#[test]
fn a_repository_that_is_away_is_said_to_be() {
    let (this, daemon) = shown();
    this.job("daily");
    drilled(&this, "prove");
    for name in ["repo", "off"] {
        fs::rename(this.site.sandbox.path(name), this.site.sandbox.path("away-".to_owned() + name))
            .unwrap();
    }
    let cookie = this.login();
    let page = read(&this, "/drills", &cookie);
    assert!(page.contains("This could not be read"), "{page}");
    this.site.until("a look", || this.get("/drills", &cookie).body.contains("No answer from main"));
    daemon.end();
}

fn planted(id: &str, state: RunState, started: Timestamp, ended: Option<Timestamp>) -> RunRow {
    RunRow {
        id: id.to_owned(),
        slot: Slot {
            stack: "demo".to_owned(),
            job: "daily".to_owned(),
            source: "files".to_owned(),
            nominal: format!("asked for at {started}"),
        },
        due: started,
        not_before: Timestamp::now().checked_add(SignedDuration::from_hours(3)).unwrap(),
        state,
        why: Some("the disk is full".to_owned()),
        attempts: 1,
        owner: None,
        heartbeat: None,
        started: Some(started),
        ended,
        backup: None,
        cancelled: false,
    }
}

#[test]
fn lines_tell_what_is_so_now() {
    let (this, daemon) = shown();
    this.job("daily");
    let now = Timestamp::now();
    let before = |hours: i64| now.checked_sub(SignedDuration::from_hours(hours)).unwrap();
    let state = State::open(&this.site.sandbox.path("state"), now).unwrap();
    let rows = [
        planted("again", RunState::Waiting, before(5), None),
        planted("left-out", RunState::Skipped, before(0), Some(now)),
    ];
    state.restore_runs(&rows).unwrap();
    let cookie = this.login();
    // What waits for its next try is shown, and its time does not go on.
    let page = this.get("/", &cookie).body;
    assert!(page.contains("/runs/again") && page.contains("is tried again"), "{page}");
    let page = this.get("/runs/again", &cookie).body;
    assert!(page.contains("Tried again") && !page.contains("Took"), "{page}");
    // What somebody asked for and was left out is said to be.
    let page = this.get("/jobs", &cookie).body;
    assert!(page.contains("/runs/left-out") && page.contains("the disk is full"), "{page}");
    // The newest point has its time.
    this.site.until("a look", || this.get("/", &cookie).body.contains("newest point <time"));
    // What an approval is about is known.
    let run = this.playbook();
    let path = format!("/playbooks/run/{run}");
    this.site.until(&path, || this.get(&path, &cookie).body.contains("Waits for approval"));
    let page = this.get(&path, &cookie).body;
    assert!(page.contains("side, 3 s behind") && !page.contains("{{"), "{page}");
    daemon.end();
}
