//! The daemon under a service manager: what it tells it, and what becomes of its runs when it ends.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::daemon::Daemon;
use crate::daemon::{Site, count, hanging};
use crate::metrics::get;
use crate::notify::free_port;

/// What was told since the last time, up to a message.
fn told(manager: &UnixDatagram, last: &str) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let mut buffer = [0; 200];
        let length = manager.recv(&mut buffer).unwrap_or_else(|error| panic!("{all:?}: {error}"));
        let message = String::from_utf8(buffer[..length].to_vec()).unwrap();
        let is_last = message == last;
        all.push(message);
        if is_last {
            return all;
        }
    }
}

#[test]
fn a_service_manager_hears_of_it_and_a_run_that_is_ended_waits_for_the_next_start() {
    let site = Site::new("2026-11-21T02:59:59Z", 1, &hanging(""));
    let socket = site.sandbox.path("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(50))).unwrap();
    let log = fs::File::create(site.sandbox.path("daemon.log")).unwrap();
    let mut command = site.command(&["daemon", "--grace", "1"]);
    // Every message is worth one round at the most.
    command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "1000");
    let child = command.stderr(log).stdin(Stdio::null()).spawn().unwrap();
    let daemon = Daemon::new(child, site.sandbox.path("daemon.log"));
    assert_eq!(told(&manager, "READY=1\n"), ["READY=1\n"]);
    assert!(!told(&manager, "WATCHDOG=1\n").is_empty());
    site.until("a run", |runs| count(runs, "running") == 1);
    daemon.end();
    let rest = told(&manager, "STOPPING=1\n");
    let (last, alive) = rest.split_last().unwrap();
    assert_eq!(last, "STOPPING=1\n");
    assert!(alive.iter().all(|message| message == "WATCHDOG=1\n"), "{rest:?}");
    // Nothing of it failed: it is taken up by the next one.
    let runs = site.runs();
    let parked = runs.iter().find(|run| run["job"] == "dump").unwrap();
    assert_eq!(parked["state"], "waiting", "{parked}");
    assert_eq!(parked["why"], "the daemon ends");
    assert!(site.log().contains("waits for the next start"), "{}", site.log());
    fs::write(site.sandbox.path("go"), "").unwrap();
    let daemon = site.daemon(&[]);
    let runs = site.until("its success", |runs| count(runs, "succeeded") == 1);
    daemon.end();
    let done = runs.iter().find(|run| run["state"] == "succeeded").unwrap();
    assert_eq!((&done["id"], &done["attempts"]), (&parked["id"], &2.into()));
}

/// The command of the health check in docs/daemon.md.
fn health_check() -> String {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/daemon.md");
    let text = fs::read_to_string(page).unwrap();
    let line = text.lines().find_map(|line| line.trim().strip_prefix("test: [CMD, bash, -c, '"));
    line.and_then(|line| line.strip_suffix("']")).unwrap().to_owned()
}

#[test]
fn the_health_check_of_a_container_tells_a_daemon_that_works() {
    let site = Site::new("2026-11-21T12:00:00Z", 1, &hanging(""));
    let port = free_port();
    let check = health_check().replace("9187", &port.to_string());
    let healthy = || {
        let mut command = Command::new("bash");
        command.args(["-c", &check]).stderr(Stdio::null()).stdin(Stdio::null());
        command.status().unwrap().success()
    };
    assert!(!healthy(), "nobody is there");
    let daemon = site.daemon(&["--listen", &port.to_string()]);
    site.until("health", |_| get(port, "/healthz").is_some_and(|(status, _)| status == 200));
    assert!(healthy());
    daemon.end();
}
