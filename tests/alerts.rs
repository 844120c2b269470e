//! What raises an alert, what ends it, and what does neither: facts in, alerts out.

use std::collections::BTreeMap;

use backstay::daemon::alerts::{Facts, evaluate, is_undecided};
use backstay::daemon::look::Look;
use backstay::daemon::tell::{compare, done, due, read};
use backstay::notify::{Alert, Notice, Receiver, What};
use backstay::policy::{self, Period, Policy};
use backstay::state::{AlertRow, RunRow, RunState, Slot, Told};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

const POLICY: &str = r#"version: 1
stack: shop
objectives: { rto: 8h, rpo: 26h }
timezone: UTC
repositories:
  main: { local: { path: /srv/main } }
  off: { local: { path: /srv/off } }
sources:
  db: { command: { argv: [dump] } }
  files: { directory: { path: /etc } }
jobs:
  daily: { sources: all, kind: full, schedule: { cron: "0 3 * * *" }, expected: 30m, keep: { for: 7d } }
  away: { copy: { to: off }, schedule: { after: [daily] }, keep: { for: 7d } }
notify: { webhook: { url: "https://x.example/" }, alertmanager: { url: "http://y.example:9093", severity: critical } }
"#;

fn policy(text: &str) -> Policy {
    let parsed = policy::parse(text, "policy.yaml");
    parsed.unwrap_or_else(|error| panic!("{}", error.render(false))).policies.remove(0)
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn look(source: &str, more: Value) -> Look {
    let mut line =
        json!({"source": source, "repository": "main", "verdict": "holds", "backups": 3});
    line.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(line).unwrap()
}

/// Both sources as they should be at this time.
fn well(newest: &str) -> Vec<Look> {
    let more =
        json!({"time": newest, "oldest": "2026-11-01T03:00:00Z", "elsewhere": {"off": newest}});
    vec![look("shop/db", more.clone()), look("shop/files", more)]
}

fn row(job: &str, source: &str, state: RunState) -> RunRow {
    let due = at("2026-11-21T03:00:00Z");
    RunRow {
        id: "20261121T030000Z-aaaaaa".into(),
        slot: Slot {
            stack: "shop".into(),
            job: job.into(),
            source: source.into(),
            nominal: "2026-11-21T03:00:00".into(),
        },
        due,
        not_before: due,
        state,
        why: Some("the disk is full".into()),
        attempts: 3,
        owner: None,
        heartbeat: None,
        started: Some(due),
        ended: Some(due),
        backup: None,
        cancelled: false,
    }
}

struct Case {
    policies: Vec<Policy>,
    outcomes: Vec<RunRow>,
    open: Vec<RunRow>,
    looks: Vec<Look>,
    invalid: Option<String>,
    now: Timestamp,
}

impl Case {
    /// All is well.
    fn new(now: &str) -> Self {
        Self {
            policies: vec![policy(POLICY)],
            outcomes: Vec::new(),
            open: Vec::new(),
            looks: well("2026-11-21T03:10:00Z"),
            invalid: None,
            now: at(now),
        }
    }

    fn alerts(&self) -> Vec<Alert> {
        let key = |job: &str| ("shop".to_owned(), job.to_owned());
        let day: Period = "24h".parse().unwrap();
        let intervals = BTreeMap::from([(key("daily"), day), (key("away"), day)]);
        evaluate(&self.facts(&intervals))
    }

    fn facts<'a>(&'a self, intervals: &'a BTreeMap<(String, String), Period>) -> Facts<'a> {
        Facts {
            policies: &self.policies,
            outcomes: &self.outcomes,
            open: &self.open,
            looks: &self.looks,
            intervals,
            invalid: self.invalid.as_deref(),
            now: self.now,
        }
    }

    fn names(&self) -> Vec<(String, String)> {
        let name = |alert: &Alert| {
            (alert.what.name().strip_prefix("Backstay").unwrap().to_owned(), alert.subject())
        };
        self.alerts().iter().map(name).collect()
    }
}

fn names(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, subject)| ((*name).to_owned(), (*subject).to_owned())).collect()
}

#[test]
fn where_all_is_well_nothing_fires() {
    for now in ["2026-11-21T03:11:00Z", "2026-11-21T20:00:00Z", "2026-11-22T02:59:00Z"] {
        assert_eq!(Case::new(now).names(), names(&[]), "{now}");
    }
}

#[test]
fn runs_fire_until_one_succeeds_and_only_those_of_the_policy() {
    let mut case = Case::new("2026-11-21T04:00:00Z");
    let cancelled = RunRow { cancelled: true, ..row("daily", "files", RunState::Failed) };
    case.outcomes = vec![
        row("daily", "db", RunState::Failed),
        cancelled,
        row("away", "", RunState::Missed),
        row("gone", "db", RunState::Failed),
        row("daily", "gone", RunState::Failed),
    ];
    assert_eq!(case.names(), names(&[("RunFailed", "shop/db daily"), ("RunMissed", "shop away")]));
    case.outcomes =
        vec![row("daily", "db", RunState::Succeeded), row("away", "", RunState::Abandoned)];
    assert_eq!(case.names(), names(&[("RunFailed", "shop away")]));
    case.outcomes = Vec::new();
    case.invalid = Some("policy.yaml:3: no".into());
    assert_eq!(case.names(), names(&[("PolicyInvalid", "")]));
}

#[test]
fn exposure_fires_when_the_rpo_is_missed_and_before_it_will_be() {
    let both = |name: &str| {
        let of = |source: &str| (name.to_owned(), format!("shop/{source}"));
        vec![of("db"), of("files")]
    };
    // The newest is of 03:10, the RPO is 26 h: 05:10 the next day is the last moment.
    assert_eq!(Case::new("2026-11-22T05:10:00Z").names()[..2], both("ObjectiveAtRisk"));
    assert_eq!(Case::new("2026-11-22T05:11:00Z").names()[..2], both("ObjectiveMissed"));
    // At 03:20 the run of 03:00 goes on: it will have ended in time. One that hangs will not.
    let mut case = Case::new("2026-11-22T03:35:00Z");
    let running = |source: &str| RunRow {
        due: at("2026-11-22T03:00:00Z"),
        started: Some(at("2026-11-22T03:00:00Z")),
        ..row("daily", source, RunState::Running)
    };
    case.open = vec![running("db"), running("files")];
    assert_eq!(case.names(), names(&[]));
    // Without it the next is due too late.
    case.open.remove(1);
    assert_eq!(case.names(), names(&[("ObjectiveAtRisk", "shop/files")]));
    let alert = &case.alerts()[0];
    let What::ObjectiveAtRisk { next, .. } = &alert.what else { panic!("{alert:?}") };
    assert_eq!(*next, Some(at("2026-11-23T03:30:00Z")));
}

#[test]
fn what_a_run_made_since_the_last_look_is_not_doubted() {
    let mut case = Case::new("2026-11-22T03:40:00Z");
    for look in &mut case.looks {
        look.at = Some(at("2026-11-22T03:25:00Z"));
    }
    assert_eq!(case.names().len(), 2, "no run goes on, and none is near");
    let done =
        |ended: &str| RunRow { ended: Some(at(ended)), ..row("daily", "db", RunState::Succeeded) };
    case.outcomes = vec![done("2026-11-22T03:24:00Z")];
    assert_eq!(case.names().len(), 2, "what the look saw is not enough");
    case.outcomes = vec![done("2026-11-22T03:30:00Z")];
    assert_eq!(case.names(), names(&[("ObjectiveAtRisk", "shop/files")]));
    let missed = Alert::of("shop", What::ObjectiveMissed { newest: None, rpo: 1 }).source("db");
    assert!(is_undecided(&missed, &case.facts(&BTreeMap::new())), "nor is it over");
}

#[test]
fn what_was_never_backed_up_fires_where_no_run_is_near() {
    let mut case = Case::new("2026-11-21T04:00:00Z");
    case.looks =
        vec![look("shop/db", json!({"backups": 0})), well("2026-11-21T03:10:00Z").remove(1)];
    assert_eq!(case.names(), names(&[]), "the first run comes within the RPO");
    let text = POLICY.replace("0 3 * * *", "0 3 * * 0").replace("rpo: 26h", "rpo: 200h");
    case.policies =
        vec![policy(&text.replace("files: {", "more: { command: { argv: [x] } }\n  files: {"))];
    assert_eq!(case.names(), names(&[]), "nobody looked at `more` yet");
    case.policies = vec![policy(&POLICY.replace("sources: all", "sources: [files]"))];
    assert_eq!(case.names(), names(&[("ObjectiveMissed", "shop/db")]), "no job makes one");
}

#[test]
fn a_hard_window_that_breaks_the_rpo_is_told_before_it_does() {
    let windows = |hard: bool| {
        let with = POLICY.replace("jobs:\n", &format!("windows:\n  freeze: {{ from: \"2026-11-22T02:00\", until: \"2026-11-22T09:00\", hard: {hard} }}\njobs:\n"));
        policy(&with.replace("expected: 30m,", "expected: 30m, avoid: [freeze],"))
    };
    let mut case = Case::new("2026-11-21T12:00:00Z");
    case.policies = vec![windows(true)];
    let alerts = case.alerts();
    assert_eq!(alerts[0].what.name(), "BackstayWindowBreaksObjective");
    let What::WindowBreaksObjective { windows: names, begins, missed } = &alerts[0].what else {
        panic!("{alerts:?}")
    };
    assert_eq!(names, &["freeze"]);
    assert_eq!((*begins, *missed), (Some(at("2026-11-22T09:00:00Z")), at("2026-11-22T05:10:00Z")));
    // A soft one gives way.
    case.policies = vec![windows(false)];
    assert_eq!(case.names(), self::names(&[]));
}

#[test]
fn repositories_that_do_not_answer_fire_once_and_leave_the_rest_undecided() {
    let mut case = Case::new("2026-11-25T04:00:00Z");
    let silent = json!({"verdict": "unknown", "unreachable": {"main": "no route to host"}});
    case.looks = vec![look("shop/db", silent.clone()), look("shop/files", silent)];
    assert_eq!(case.names(), names(&[("RepositoryUnreachable", "shop main")]));
    let missed = Alert::of("shop", What::ObjectiveMissed { newest: None, rpo: 1 });
    let intervals = BTreeMap::new();
    let undecided = |case: &Case, alert: &Alert| is_undecided(alert, &case.facts(&intervals));
    assert!(undecided(&case, &missed.clone().source("db")));
    assert!(!undecided(&case, &missed.clone().source("gone")), "it is in no policy any more");
    let failed = What::RunFailed { run: String::new(), attempts: 1, why: String::new() };
    assert!(!undecided(&case, &Alert::of("shop", failed).source("db")), "rows tell");
    case.looks = well("2026-11-25T03:10:00Z");
    assert!(!undecided(&case, &missed.clone().source("db")));
    case.looks.clear();
    let silent = What::RepositoryUnreachable { why: String::new() };
    assert!(undecided(&case, &Alert::of("shop", silent).repository("main")), "nobody looked yet");
}

#[test]
fn sizes_damage_and_copies_fire() {
    let mut case = Case::new("2026-11-21T12:00:00Z");
    let size = |bytes: u64, median: Value| {
        json!({"time": "2026-11-21T03:10:00Z", "elsewhere": {"off": "2026-11-21T03:10:00Z"},
               "sizes": [{"kind": "full", "backup": "b", "bytes": bytes, "median": median}]})
    };
    for (bytes, median, fires) in [
        (500, json!(1000), false),
        (499, json!(1000), true),
        (0, Value::Null, false),
        (0, json!(0), false),
    ] {
        case.looks[0] = look("shop/db", size(bytes, median.clone()));
        let expected = if fires { names(&[("BackupShrunk", "shop/db")]) } else { names(&[]) };
        assert_eq!(case.names(), expected, "{bytes} of {median}");
    }
    case.looks = well("2026-11-21T03:10:00Z");
    case.looks[1].damaged = 2;
    assert_eq!(case.names(), names(&[("DamageFound", "shop/files")]));
    // One copy that failed is not late yet, two are.
    let mut case = Case::new("2026-11-23T12:00:00Z");
    case.looks = well("2026-11-23T03:10:00Z");
    let copied = |case: &mut Case, at: &str| {
        case.looks[0].elsewhere = BTreeMap::from([("off".to_owned(), self::at(at))]);
    };
    copied(&mut case, "2026-11-22T03:10:00Z");
    assert_eq!(case.names(), names(&[]));
    copied(&mut case, "2026-11-21T03:10:00Z");
    assert_eq!(case.names(), names(&[("CopyLags", "shop/db off")]));
    // Nothing there at all: since the oldest that could be.
    case.looks[0].elsewhere.clear();
    assert_eq!(case.names(), names(&[("CopyLags", "shop/db off")]));
    case.looks[0].oldest = Some(at("2026-11-22T20:00:00Z"));
    assert_eq!(case.names(), names(&[]));
}

#[test]
fn wal_that_stops_is_noticed_at_half_the_rpo() {
    let cluster = "db: { postgres_cluster: { connection: \"host=db user=b\", wal: { archive: { to: [main] }, keep: 14d } }, objectives: { rpo: 1h } }";
    let mut case = Case::new("2026-11-21T12:00:00Z");
    case.policies = vec![policy(&POLICY.replace("db: { command: { argv: [dump] } }", cluster))];
    let newest = |case: &mut Case, text: &str| {
        case.looks[0].time = Some(at(text));
        case.looks[0].elsewhere = BTreeMap::from([("off".to_owned(), at(text))]);
    };
    newest(&mut case, "2026-11-21T11:31:00Z");
    assert_eq!(case.names(), names(&[]), "what WAL brings waits for no run");
    newest(&mut case, "2026-11-21T11:29:00Z");
    assert_eq!(case.names(), names(&[("WalArchivingStopped", "shop/db")]));
    newest(&mut case, "2026-11-21T10:59:00Z");
    assert_eq!(
        case.names(),
        names(&[("ObjectiveMissed", "shop/db"), ("WalArchivingStopped", "shop/db")])
    );
}

#[test]
fn rows_keep_when_it_began_and_what_fires_again_begins_again() {
    let hour = |hour: i64| at("2026-11-21T00:00:00Z") + SignedDuration::from_hours(hour);
    let failed = |why: &str| {
        let what = What::RunFailed { run: "r".into(), attempts: 1, why: why.into() };
        Alert::of("shop", what).source("db").job("daily")
    };
    let first = compare(&[], &[failed("x"), failed("x")], |_| false, hour(1));
    assert_eq!(first.len(), 1);
    assert_eq!(compare(&first, &[failed("x")], |_| false, hour(2)), []);
    let other = compare(&first, &[failed("y")], |_| false, hour(2));
    assert_eq!((other[0].started, other.len()), (hour(1), 1), "another reason, the same alert");
    assert_eq!(compare(&first, &[], |_| true, hour(3)), [], "nobody can tell");
    let over = compare(&first, &[], |_| false, hour(3));
    assert_eq!((over[0].started, over[0].resolved), (hour(1), Some(hour(3))));
    assert_eq!(compare(&over, &[], |_| false, hour(4)), [], "over is over");
    let again = compare(&over, &[failed("x")], |_| false, hour(5));
    assert_eq!((again[0].started, again[0].resolved), (hour(5), None));
}

#[test]
fn each_is_told_once_reminded_and_told_that_it_is_over() {
    let policy = policy(POLICY);
    let hour = |hour: i64| at("2026-11-21T00:00:00Z") + SignedDuration::from_hours(hour);
    let receivers = Receiver::all(policy.notify.as_ref().unwrap());
    let [manager, hook] = receivers.as_slice() else { panic!("{receivers:?}") };
    let failed = What::RunFailed { run: "r".into(), attempts: 1, why: String::new() };
    let missed = What::RunMissed { due: hour(0), why: String::new() };
    let notice = |stack: &str, what: &What, resolved: Option<i64>| Notice {
        alert: Alert::of(stack, what.clone()),
        started: hour(1),
        resolved: resolved.map(hour),
    };
    let told_at = |at: i64, resolved: bool| {
        let told = Told { at: hour(at), resolved };
        BTreeMap::from([(Alert::of("shop", failed.clone()).fingerprint(), told)])
    };
    let is_due = |notice: Notice, told: &BTreeMap<String, Told>, receiver: &Receiver, now: i64| {
        !due(&[notice], told, &policy, receiver, hour(now)).is_empty()
    };
    let nobody = BTreeMap::new();
    assert!(is_due(notice("shop", &failed, None), &nobody, hook, 1));
    assert!(!is_due(notice("other", &failed, None), &nobody, hook, 1), "another stack's");
    assert!(is_due(notice("", &failed, None), &nobody, hook, 1), "everybody's");
    assert!(is_due(notice("shop", &missed, None), &nobody, hook, 1));
    assert!(!is_due(notice("shop", &missed, None), &nobody, manager, 1), "not bad enough");
    // People are reminded after 4 h, an Alertmanager every minute.
    assert!(!is_due(notice("shop", &failed, None), &told_at(1, false), hook, 4));
    assert!(is_due(notice("shop", &failed, None), &told_at(1, false), hook, 5));
    assert!(is_due(notice("shop", &failed, None), &told_at(1, false), manager, 2));
    // What is over is told once, to those who knew.
    assert!(is_due(notice("shop", &failed, Some(2)), &told_at(1, false), hook, 2));
    assert!(!is_due(notice("shop", &failed, Some(2)), &told_at(2, true), hook, 9));
    assert!(!is_due(notice("shop", &failed, Some(2)), &nobody, hook, 2), "who never knew");
    assert!(is_due(notice("shop", &failed, None), &told_at(0, false), hook, 1), "it began again");

    let over = AlertRow {
        fingerprint: Alert::of("shop", failed.clone()).fingerprint(),
        alert: serde_json::to_string(&Alert::of("shop", failed.clone())).unwrap(),
        started: hour(1),
        resolved: Some(hour(2)),
    };
    assert_eq!(read(&over).unwrap(), notice("shop", &failed, Some(2)));
    let key = ("shop".to_owned(), "webhook".to_owned());
    let knows = |told| std::collections::BTreeMap::from([(key.clone(), told)]);
    let rows = [over];
    assert_eq!(done(&rows, &knows(told_at(1, false)), hour(3)).len(), 0);
    assert_eq!(done(&rows, &knows(told_at(2, true)), hour(3)).len(), 1);
    assert_eq!(done(&rows, &knows(told_at(1, false)), hour(27)).len(), 1, "it is long ago");
}

#[test]
fn an_alertmanager_is_told_for_five_minutes_that_something_is_over() {
    let policy = policy(POLICY);
    let second = |second: i64| at("2026-11-21T00:00:00Z") + SignedDuration::from_secs(second);
    let receivers = Receiver::all(policy.notify.as_ref().unwrap());
    let [manager, hook] = receivers.as_slice() else { panic!("{receivers:?}") };
    let what = What::RunFailed { run: "r".into(), attempts: 1, why: String::new() };
    let alert = Alert::of("shop", what);
    let notice = Notice { alert: alert.clone(), started: second(0), resolved: Some(second(600)) };
    let row = AlertRow {
        fingerprint: alert.fingerprint(),
        alert: serde_json::to_string(&alert).unwrap(),
        started: second(0),
        resolved: Some(second(600)),
    };
    for receiver in [manager, hook] {
        let mut told =
            BTreeMap::from([(alert.fingerprint(), Told { at: second(540), resolved: false })]);
        let mut heard = Vec::new();
        let mut forgotten = None;
        for now in (600..1200).step_by(10) {
            if !due(std::slice::from_ref(&notice), &told, &policy, receiver, second(now)).is_empty()
            {
                heard.push(now);
                told.insert(alert.fingerprint(), Told { at: second(now), resolved: true });
            }
            let key = ("shop".to_owned(), receiver.name().to_owned());
            let by = BTreeMap::from([(key, told.clone())]);
            if forgotten.is_none() && !done(std::slice::from_ref(&row), &by, second(now)).is_empty()
            {
                forgotten = Some(now);
            }
        }
        let (times, gone): (&[i64], _) = match receiver {
            Receiver::Alertmanager(_) => (&[600, 660, 720, 780, 840], 900),
            _ => (&[600], 600),
        };
        assert_eq!((heard.as_slice(), forgotten), (times, Some(gone)), "{}", receiver.name());
    }
}

#[test]
fn a_fenced_site_is_told_once_and_not_by_each_job() {
    let mut case = Case::new("2026-11-21T12:00:00Z");
    case.outcomes =
        vec![row("daily", "db", RunState::Failed), row("daily", "files", RunState::Failed)];
    assert_eq!(case.names().len(), 2);
    let fenced =
        "site a of stack shop is fenced: site b is active since epoch 2, 2026-11-21T01:00:00Z";
    for look in &mut case.looks {
        look.fenced = Some(fenced.to_owned());
    }
    assert_eq!(case.names(), [("SiteFenced".to_owned(), "shop".to_owned())]);
    assert!(matches!(&case.alerts()[0].what, What::SiteFenced { why } if why == fenced));
}
