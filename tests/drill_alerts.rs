//! What is told of drills to programs and people: metrics, and alerts about those that did not pass and
//! those that are overdue.

use std::collections::BTreeMap;

use backstay::daemon::drills::{Facts, alerts};
use backstay::notify::text::Style;
use backstay::notify::{Alert, What};
use backstay::policy::{self, Language, Period, Policy};
use backstay::state::{DrillRow, State};
use jiff::{SignedDuration, Timestamp};

use crate::dashboard::{POLICY, Shown};
use crate::dashboard_drills::{DRILLS, drilled};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn row(name: &str, when: &str, verdict: &str, passed: Option<&str>) -> DrillRow {
    DrillRow {
        stack: "shop".to_owned(),
        name: name.to_owned(),
        drill: "20261101T000000Z-aaaaaa".to_owned(),
        at: at(when),
        verdict: verdict.to_owned(),
        why: "check `orders`: is 3".to_owned(),
        rto: Some(12.5),
        rpo: None,
        passed: passed.map(at),
    }
}

fn the_policy() -> Vec<Policy> {
    let text = "version: 1\nstack: shop\ntier: development\ntimezone: UTC\nrepositories: { main: { local: { path: /r } } }\nsources: { files: { directory: { path: /s } } }\ndrills:\n  monthly: { schedule: { every: 30d } }\n  byhand: {}\n";
    policy::parse(text, "policy.yaml").unwrap().policies
}

/// What fires, by name and job.
fn firing(
    rows: &[DrillRow],
    oldest: Option<&str>,
    already: &[Alert],
    now: &str,
) -> Vec<(String, String)> {
    let policies = the_policy();
    let day = 86_400;
    let intervals = BTreeMap::from([(
        ("shop".to_owned(), "drill-monthly".to_owned()),
        Period::from_secs(30 * day),
    )]);
    let oldest = oldest.map(|oldest| ("shop".to_owned(), at(oldest))).into_iter().collect();
    let facts = Facts {
        policies: &policies,
        rows,
        intervals: &intervals,
        oldest: &oldest,
        open: &[],
        firing: already,
        now: at(now),
    };
    let name = |alert: &Alert| (alert.what.name().to_owned(), alert.job.clone());
    alerts(&facts).iter().map(name).collect()
}

fn named(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(name, job)| (format!("BackstayDrill{name}"), format!("drill-{job}"))).collect()
}

#[test]
fn a_drill_that_did_not_pass_is_told_until_one_does() {
    let now = "2026-11-10T00:00:00Z";
    let good =
        row("monthly", "2026-11-01T00:00:00Z", "pass_with_findings", Some("2026-11-01T00:00:00Z"));
    assert_eq!(firing(&[good], None, &[], now), named(&[]));
    let passed = Some("2026-10-20T00:00:00Z");
    for verdict in ["fail", "inconclusive"] {
        let bad = row("monthly", "2026-11-01T00:00:00Z", verdict, passed);
        assert_eq!(
            firing(std::slice::from_ref(&bad), None, &[], now),
            named(&[("Failed", "monthly")])
        );
        // The run that held it says so already.
        let failed = What::RunFailed { run: "r".to_owned(), attempts: 1, why: String::new() };
        let told = Alert::of("shop", failed).job("drill-monthly");
        assert_eq!(firing(&[bad], None, &[told], now), named(&[]));
    }
    // One that nobody schedules counts too; one that no policy names does not.
    let bad = row("byhand", "2020-11-01T00:00:00Z", "fail", None);
    let gone = row("gone", "2026-11-01T00:00:00Z", "fail", None);
    assert_eq!(firing(&[bad, gone], None, &[], now), named(&[("Failed", "byhand")]));
}

#[test]
fn a_drill_that_did_not_pass_for_too_long_is_overdue() {
    let held = |passed| vec![row("monthly", "2026-10-01T00:00:00Z", "pass", passed)];
    let passed = held(Some("2026-10-01T00:00:00Z"));
    // Thirty days, a tenth of that, and an hour.
    assert_eq!(firing(&passed, None, &[], "2026-11-03T00:30:00Z"), named(&[]));
    assert_eq!(
        firing(&passed, None, &[], "2026-11-03T01:30:00Z"),
        named(&[("Overdue", "monthly")])
    );
    // One that never passed counts from when there was something to recover; without that nobody knows.
    assert_eq!(firing(&[], None, &[], "2026-11-03T01:30:00Z"), named(&[]));
    let oldest = Some("2026-10-01T00:00:00Z");
    assert_eq!(firing(&[], oldest, &[], "2026-10-20T00:00:00Z"), named(&[]));
    assert_eq!(firing(&[], oldest, &[], "2026-11-04T00:00:00Z"), named(&[("Overdue", "monthly")]));
    let style = |language| Style { language, zone: jiff::tz::TimeZone::UTC };
    let what = What::DrillOverdue { passed: None, allowed: 30 * 86_400 };
    let alert = Alert::of("shop", what).job("drill-monthly");
    assert_eq!(
        style(Language::En).summary(&alert),
        "shop drill-monthly: no drill has passed for too long"
    );
    assert!(style(Language::Zh).description(&alert).contains("尚无通过的演练"));
}

#[test]
fn what_is_known_of_drills_only_becomes_newer() {
    let directory = tempfile::tempdir().unwrap();
    let state = State::open(directory.path(), Timestamp::now()).unwrap();
    let new = row("monthly", "2026-11-02T00:00:00Z", "fail", None);
    let old = row("monthly", "2026-11-01T00:00:00Z", "pass", Some("2026-11-01T00:00:00Z"));
    state.put_drill(&new).unwrap();
    assert_eq!(state.drills().unwrap(), std::slice::from_ref(&new));
    // An older one changes when one last passed, and nothing else.
    state.put_drill(&old).unwrap();
    let both = DrillRow { passed: old.passed, ..new };
    assert_eq!(state.drills().unwrap(), std::slice::from_ref(&both));
    state
        .put_drill(&row("monthly", "2026-10-01T00:00:00Z", "pass", Some("2026-10-01T00:00:00Z")))
        .unwrap();
    assert_eq!(state.drills().unwrap(), std::slice::from_ref(&both));
    let next = DrillRow {
        at: both.at.checked_add(SignedDuration::from_hours(1)).unwrap(),
        rto: None,
        ..both
    };
    state.put_drill(&next).unwrap();
    assert_eq!(state.drills().unwrap(), [next]);
}

#[test]
fn metrics_and_alerts_know_of_drills_wherever_they_were_held() {
    let (this, daemon) = Shown::start(&format!("{POLICY}{DRILLS}"));
    this.job("daily");
    drilled(&this, "prove");
    let metrics = || this.get("/metrics", "").body;
    assert!(!metrics().contains("drill=\"wrong\""), "{}", metrics());
    for text in [
        "backstay_drill_last_verdict{stack=\"demo\",drill=\"prove\",verdict=\"fail\"} 0",
        "backstay_drill_rto_seconds{stack=\"demo\",drill=\"prove\"} ",
        "backstay_drill_rpo_seconds{stack=\"demo\",drill=\"prove\"} ",
        "backstay_drill_last_pass_timestamp_seconds{stack=\"demo\",drill=\"prove\"} ",
    ] {
        assert!(metrics().contains(text), "{text}: {}", metrics());
    }
    let overdue = "backstay_drill_overdue{stack=\"demo\",drill=\"prove\"} 0";
    this.site.until(overdue, || metrics().contains(overdue));
    // On another machine: another state. Whoever lists drills here learns of it.
    let elsewhere = this.site.sandbox.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let state = elsewhere.to_str().unwrap();
    let ran = this
        .site
        .run(&["--state-dir", state, "--output", "json", "drill", "run", "wrong"])
        .expect(1);
    assert_eq!(ran.json()["evidence"]["verdict"], "fail");
    assert!(!metrics().contains("drill=\"wrong\""), "{}", metrics());
    this.site.run(&["drill", "list"]).expect(0);
    let failed = "backstay_drill_last_verdict{stack=\"demo\",drill=\"wrong\",verdict=\"fail\"} 1";
    assert!(metrics().contains(failed), "{}", metrics());
    let fires = "alert=\"BackstayDrillFailed\"";
    this.site.until(fires, || metrics().contains(fires));
    this.site.until_said("demo drill-wrong: the drill did not pass");
    daemon.end();
}
