//! What programs read of the daemon: metrics and health, over restarts and with jobs that go.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use crate::notify::{Site, free_port, part};

/// Asks for a page: the status and the body.
pub fn get(port: u16, path: &str) -> Option<(u16, String)> {
    ask(port, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
}

fn ask(port: u16, request: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// The value of a series.
pub fn value(page: &str, series: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

const JOBS: &str = "sources:\n  \
     files: { directory: { path: /etc/apt } }\n  \
     dump: { command: { argv: [sh, -c, 'test -e go && echo x'] } }\njobs:\n  \
     often: { sources: all, kind: full, schedule: { every: 1m }, keep: { at_least: 2 }, retry: { times: 0 } }\n  \
     away: { copy: { to: off }, schedule: { after: [often] }, keep: { for: 7d } }\n";

#[test]
fn metrics_tell_what_is_survive_restarts_and_end_with_their_job() {
    let site = Site::new(Some(("2026-11-21T02:59:30Z", 10)), JOBS);
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let daemon = site.daemon(&["--listen", &listen]);
    let page = || get(port, "/metrics").map(|(_, page)| page).unwrap_or_default();
    let files = r#"{stack="demo",job_name="often",source="files"}"#;
    let ended = r#"{stack="demo",job_name="often",source="files",outcome="succeeded"}"#;
    let ended = format!("backstay_job_runs_total{ended}");
    site.until("two runs, and a look after them", || {
        let page = page();
        value(&page, &ended) >= Some(2.0)
            && value(&page, r#"backstay_recovery_points{stack="demo",source="files"}"#) >= Some(2.0)
            && value(&page, r#"backstay_recovery_point_newest_timestamp_seconds{stack="demo",source="files",stage="replicated"}"#).is_some()
    });
    let text = page();
    let is = |series: &str| value(&text, series).unwrap_or_else(|| panic!("{series}: {text}"));
    assert_eq!(is("backstay_policies_valid"), 1.0);
    assert_eq!(is(&format!("backstay_job_never_succeeded{files}")), 0.0);
    assert_eq!(
        is(r#"backstay_job_never_succeeded{stack="demo",job_name="often",source="dump"}"#),
        1.0
    );
    assert_eq!(
        is(
            r#"backstay_job_last_outcome{stack="demo",job_name="often",source="dump",outcome="failed"}"#
        ),
        1.0
    );
    assert_eq!(
        is(r#"backstay_job_expected_interval_seconds{stack="demo",job_name="often"}"#),
        60.0
    );
    assert_eq!(is(r#"backstay_rpo_target_seconds{stack="demo",source="files"}"#), 216_000.0);
    assert_eq!(is(r#"backstay_rpo_breach{stack="demo",source="files"}"#), 0.0);
    assert!(is(r#"backstay_rpo_exposure_seconds{stack="demo",source="files"}"#) < 600.0);
    assert_eq!(is(r#"backstay_source_unprotected{stack="demo",source="dump"}"#), 1.0);
    assert_eq!(is(r#"backstay_repository_reachable{stack="demo",repository="off"}"#), 1.0);
    assert!(is(r#"backstay_backup_size_bytes{stack="demo",source="files",kind="full"}"#) > 0.0);
    assert!(is(r#"backstay_backup_stored_bytes{stack="demo",source="files",kind="full"}"#) > 0.0);
    assert_eq!(is(r#"backstay_chain_length{stack="demo",source="files"}"#), 1.0);
    for repository in ["main", "off"] {
        for what in ["bytes", "objects", "free_bytes"] {
            let series =
                format!(r#"backstay_repository_{what}{{stack="demo",repository="{repository}"}}"#);
            assert!(is(&series) > 0.0, "{series}");
        }
    }
    let digest = is("backstay_policies_digest");
    assert!(digest > 0.0 && digest < 2_f64.powi(48) && digest.fract() == 0.0);
    assert!(is("backstay_daemon_heartbeat_timestamp_seconds") > 1_795_000_000.0);
    let count = is(r#"backstay_job_run_duration_seconds_count{stack="demo",job_name="often"}"#);
    let all =
        r#"backstay_job_run_duration_seconds_bucket{stack="demo",job_name="often",le="+Inf"}"#;
    assert_eq!(is(all), count);
    // Nothing that would be another series for every run.
    assert!(!text.contains("2026"), "{text}");
    // What promtool says of it.
    if let Some(promtool) = part(&["promtool"], "prometheus") {
        let mut child = Command::new(promtool)
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.is_empty(), "{said}");
    }
    let before = is(&ended);
    daemon.kill();

    // Before the first run of the next daemon all of it is there again, and no less.
    let daemon = site.daemon(&["--listen", &listen]);
    site.until("the next daemon", || value(&page(), &ended) >= Some(before));
    assert!(
        value(&page(), r#"backstay_recovery_points{stack="demo",source="files"}"#) >= Some(2.0)
    );
    site.policy(&JOBS.replace("often", "seldom"));
    site.until("another job", || {
        let page = page();
        !page.contains("often") && page.contains("job_name=\"seldom\"")
    });
    assert_ne!(value(&page(), "backstay_policies_digest"), Some(digest), "other policies");
    daemon.end();
}

#[test]
fn health_says_whether_the_daemon_works_and_is_ready() {
    let site = Site::new(None, JOBS);
    let port = free_port();
    let daemon = site.daemon(&["--listen", &port.to_string()]);
    site.until("readiness", || get(port, "/readyz").is_some_and(|(status, _)| status == 200));
    assert_eq!(get(port, "/healthz"), Some((200, "ok\n".to_owned())));
    assert_eq!(get(port, "/nothing").unwrap().0, 404);
    assert_eq!(
        ask(port, "POST /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap().0,
        405
    );
    // An invalid policy is told, and the daemon works on with the old one.
    let good = fs::read_to_string(site.sandbox.path("policy.yaml")).unwrap();
    site.policy("sources: 7\n");
    site.until("what is invalid", || {
        get(port, "/readyz").is_some_and(|(status, body)| status == 200 && body.contains("invalid"))
    });
    assert_eq!(value(&get(port, "/metrics").unwrap().1, "backstay_policies_valid"), Some(0.0));
    fs::write(site.sandbox.path("policy.yaml"), good).unwrap();
    site.until("what is valid", || get(port, "/readyz").is_some_and(|(_, body)| body == "ready\n"));
    // Somebody who takes the state's tables away: not ready, and it says why.
    let state = rusqlite::Connection::open(site.sandbox.path("state/state.db")).unwrap();
    state.execute_batch("ALTER TABLE runs RENAME TO stolen").unwrap();
    site.until("trouble", || {
        get(port, "/readyz")
            .is_some_and(|(status, body)| status == 503 && body.contains("the state"))
    });
    assert_eq!(get(port, "/healthz").unwrap().0, 200, "it lives");
    state.execute_batch("ALTER TABLE stolen RENAME TO runs").unwrap();
    site.until("no trouble", || get(port, "/readyz").is_some_and(|(status, _)| status == 200));
    daemon.end();
}

#[test]
fn an_address_that_is_taken_or_none_is_said() {
    let site = Site::new(None, JOBS);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ran = site.run(&["daemon", "--listen", &address]).expect(1);
    assert!(ran.stderr.contains(&format!("failed to listen at {address}")), "{}", ran.stderr);
    assert!(ran.stderr.contains("another address to --listen"), "{}", ran.stderr);
    let ran = site.run(&["daemon", "--listen", "everywhere"]).expect(2);
    assert!(ran.stderr.contains("127.0.0.1:9187"), "{}", ran.stderr);
}
