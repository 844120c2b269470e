//! A name in DNS, changed at a real server by playbooks: signed, looked at after a crash, and taken back.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::playbook::Stage;
use crate::common::{Ran, has_tools};

pub const SECRET: &str = "c2VjcmV0LW9mLXRoZS1uYW1lLXNlcnZlci10ZXN0cw==";

/// Knot DNS with a zone.
pub struct Knot {
    process: Child,
    port: u16,
    config: PathBuf,
}

impl Knot {
    pub fn start(stage: &Stage) -> Option<Self> {
        if !has_tools(&["knotd", "knotc"]) {
            return None;
        }
        let root = stage.sandbox.path("knot");
        fs::create_dir(&root).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let zone = "@ 60 SOA ns hostmaster 1 3600 900 86400 60\n@ 60 NS ns\nns 60 A 127.0.0.1\ndb 60 A 192.0.2.1\nother 60 A 192.0.2.9\n";
        fs::write(root.join("zone"), format!("$ORIGIN example.test.\n{zone}")).unwrap();
        let config = root.join("knot.conf");
        let place = root.display();
        let text = format!(
            "server:\n  rundir: {place}\n  listen: 127.0.0.1@{port}\ndatabase:\n  storage: {place}\n\
             key:\n  - id: backstay\n    algorithm: hmac-sha256\n    secret: {SECRET}\n\
             acl:\n  - id: change\n    key: backstay\n    action: update\n    update-owner: name\n    update-owner-match: equal\n    update-owner-name: [db.example.test., www.example.test.]\n\
             zone:\n  - domain: example.test\n    storage: {place}\n    file: zone\n    acl: change\n"
        );
        fs::write(&config, text).unwrap();
        let process = Command::new("knotd")
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(fs::File::create(root.join("log")).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let knot = Self { process, port, config };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() || knot.held("db").is_empty() {
            let log = || fs::read_to_string(root.join("log")).unwrap_or_default();
            assert!(begun.elapsed() < Duration::from_secs(60), "knot does not answer\n{}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(knot)
    }

    /// What the server itself says a name has: TTL, type and value, in order.
    pub fn held(&self, name: &str) -> Vec<String> {
        let mut command = Command::new("knotc");
        command.arg("-c").arg(&self.config).args(["zone-read", "example.test", name]);
        let said = command.output().unwrap();
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        let mut found: Vec<String> = text
            .lines()
            .filter_map(|line| line.split_once("example.test. "))
            .map(|(_, record)| record.to_owned())
            .collect();
        found.sort();
        found
    }

    /// Makes a name have this address alone, by the server's own program.
    pub fn put(&self, name: &str, address: &str) {
        let say = |words: &[&str]| {
            let mut command = Command::new("knotc");
            command.arg("-c").arg(&self.config).args(words).output().unwrap().status.success()
        };
        assert!(say(&["zone-begin", "example.test"]));
        // It may have nothing.
        say(&["zone-unset", "example.test", name]);
        assert!(say(&["zone-set", "example.test", name, "60", "A", address]));
        assert!(say(&["zone-commit", "example.test"]));
    }

    pub fn step(&self, name: &str, kind: &str, values: &str) -> String {
        format!(
            "dns: {{ server: \"127.0.0.1:{}\", zone: example.test, name: {name}.example.test, type: {kind}, values: [{values}], ttl: 30s, key: {{ name: backstay, secret: \"${{env:TSIG}}\" }} }}",
            self.port
        )
    }
}

impl Drop for Knot {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn run(stage: &Stage, secret: &str, args: &[&str]) -> Ran {
    Ran::from(&stage.command("l", args).env("TSIG", secret).output().unwrap())
}

#[test]
fn a_name_is_changed_looked_at_after_a_crash_and_taken_back() {
    let stage = Stage::new("  none: { cleanup: { a: { wait: { for: 1s } } } }\n");
    let Some(knot) = Knot::start(&stage) else { return };
    assert_eq!(knot.held("db"), ["60 A 192.0.2.1"]);
    let fails = "    reprotect:\n      no: { command: { apply: { argv: [false] } } }\n";
    let playbook = |name: &str, steps: &[String], end: &str| {
        let steps: String =
            steps.iter().zip(1..).map(|(step, n)| format!("      s{n}: {{ {step} }}\n")).collect();
        format!("  {name}:\n    on_failure: undo\n    cutover:\n{steps}{end}")
    };
    let db = knot.step("db", "A", "192.0.2.2, 192.0.2.3");
    let www = knot.step("www", "CNAME", "db.example.test.");
    stage.write(&format!(
        "{}{}{}",
        playbook("move", &[db.clone(), www.clone()], ""),
        playbook(
            "try",
            &[knot.step("db", "A", "192.0.2.7"), knot.step("www", "CNAME", "ns.example.test")],
            fails
        ),
        playbook("other", &[knot.step("other", "A", "192.0.2.8")], ""),
    ));

    // What would be done is told, and nothing is.
    let ran = run(&stage, SECRET, &["run", "move", "--dry-run"]).expect(0);
    assert!(ran.stdout.contains("becomes 192.0.2.2, 192.0.2.3; now: 192.0.2.1"), "{}", ran.stdout);
    assert_eq!(knot.held("db"), ["60 A 192.0.2.1"]);

    // With another secret, or for a name that the key may not change, the server refuses.
    let ran = run(&stage, "b3RoZXI=", &["run", "move", "--yes"]).expect(1);
    assert!(ran.stderr.contains("the secret is another one"), "{}", ran.stderr);
    let ran = run(&stage, "not base64!", &["run", "move", "--yes"]).expect(1);
    assert!(ran.stderr.contains("is not base64"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("not base64!"), "{}", ran.stderr);
    let ran = run(&stage, SECRET, &["run", "other", "--yes"]).expect(1);
    assert!(ran.stderr.contains("or not for this name"), "{}", ran.stderr);
    assert_eq!(
        (knot.held("db"), knot.held("other")),
        (vec!["60 A 192.0.2.1".to_owned()], vec!["60 A 192.0.2.9".to_owned()])
    );

    // Killed when the server had made the change, and gone on with from elsewhere.
    let mut command = stage.command("l", &["run", "move", "--yes"]);
    command.env("TSIG", SECRET).env("BACKSTAY_FAILPOINT", "playbook.after_apply");
    Ran::from(&command.output().unwrap()).expect(128 + 9);
    let moved = ["30 A 192.0.2.2", "30 A 192.0.2.3"];
    assert_eq!(knot.held("db"), moved);
    let id = stage.newest();
    let mut command = stage.elsewhere("l", &["resume", &id]);
    let ran = Ran::from(&command.env("TSIG", SECRET).output().unwrap()).expect(0);
    assert!(ran.stderr.contains("found done"), "{}", ran.stderr);
    assert_eq!(knot.held("db"), moved);
    assert_eq!(knot.held("www"), ["30 CNAME db.example.test."]);

    // A step that fails behind it: every name has what it had.
    run(&stage, SECRET, &["run", "try", "--yes"]).expect(1);
    assert_eq!(knot.held("db"), moved);
    assert_eq!(knot.held("www"), ["30 CNAME db.example.test."]);

    // A server that is gone is said to be.
    let (port, config) = (knot.port, knot.config.clone());
    drop(knot);
    assert!(config.exists());
    let ran = run(&stage, SECRET, &["check", "move"]).expect(1);
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(said.contains(&format!("failed to ask the name server 127.0.0.1:{port}")), "{said}");
}
