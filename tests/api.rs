//! The API of the daemon, and the commands that ask one elsewhere.

use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::common::Ran;
use crate::common::daemon::Daemon;
use crate::common::s3::authority_and_certificate;
use crate::notify::{Site, free_port};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

const JOBS: &str = "sources:\n  \
     files: { directory: { path: $SRC }, objectives: { rpo: 400d } }\n  \
     dump: { command: { argv: [sh, -c, 'echo said >&2; test ! -e stop && echo x'] }, objectives: { rpo: 400d } }\n  \
     far: { directory: { path: $SRC }, host: elsewhere, objectives: { rpo: 400d } }\njobs:\n  \
     daily: { sources: [files, dump], kind: full, schedule: { cron: \"0 3 1 1 *\" }, keep: { at_least: 2 }, retry: { times: 0 } }\n  \
     there: { sources: [far], kind: full, schedule: { cron: \"0 3 1 1 *\" }, keep: { at_least: 2 } }\n  \
     away: { copy: { to: off }, schedule: { cron: \"0 5 1 1 *\" }, keep: { for: 7d } }\n";

/// A site with a daemon that answers the API.
struct Asked {
    site: Site,
    url: String,
    port: u16,
}

impl Asked {
    fn start() -> (Self, Daemon) {
        let site = Site::new(None, JOBS);
        let port = free_port();
        let this = Self { url: format!("http://127.0.0.1:{port}"), port, site };
        this.token(TOKEN, 0o600);
        let token = this.place("token");
        let daemon = this.site.daemon(&["--listen", &port.to_string(), "--token-file", &token]);
        this.site.until("the API", || {
            this.ask("GET", "/api/v1/jobs", true, "").is_some_and(|(status, _, _)| status == 200)
        });
        (this, daemon)
    }

    fn place(&self, name: &str) -> String {
        self.site.sandbox.path(name).display().to_string()
    }

    fn token(&self, token: &str, mode: u32) {
        fs::write(self.place("token"), token).unwrap();
        fs::set_permissions(self.place("token"), Permissions::from_mode(mode)).unwrap();
    }

    /// The status, the head and the body.
    fn ask(
        &self,
        method: &str,
        path: &str,
        token: bool,
        body: &str,
    ) -> Option<(u16, String, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        let token =
            if token { format!("authorization: Bearer {TOKEN}\r\n") } else { String::new() };
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{token}\r\n{body}"
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, head.to_owned(), body.to_owned()))
    }

    fn json(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let (status, _, body) = self.ask(method, path, true, body).unwrap();
        (status, serde_json::from_str(&body).unwrap())
    }

    /// Runs a command that asks the daemon, far from its policy and its state.
    fn remote(&self, args: &[&str]) -> Ran {
        let mut command = self.site.sandbox.command(args);
        command
            .env_remove("BACKSTAY_POLICY")
            .env("BACKSTAY_STATE_DIR", self.place("nowhere"))
            .env("BACKSTAY_REMOTE", &self.url)
            .env("BACKSTAY_TOKEN_FILE", self.place("token"))
            .current_dir("/");
        Ran::from(&command.output().unwrap())
    }
}

#[test]
fn a_daemon_elsewhere_is_asked_and_told() {
    let (this, daemon) = Asked::start();
    let begun = this.remote(&["trigger", "daily", "--output", "json"]).expect(0).json();
    let ids: Vec<String> = begun
        .as_array()
        .unwrap()
        .iter()
        .map(|run| run["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), 2, "{begun}");
    let runs = || this.remote(&["runs", "--job", "daily", "--output", "json"]).expect(0).json();
    this.site.until("both runs", || {
        runs().as_array().unwrap().iter().filter(|run| run["state"] == "succeeded").count() == 2
    });
    // What is asked elsewhere is what is said here.
    let here = |args: &[&str]| this.site.run(args).expect(0).stdout;
    let there = |args: &[&str]| this.remote(args).expect(0).stdout;
    for args in [&["runs"][..], &["runs", "--state", "succeeded", "--limit", "1"]] {
        assert_eq!(here(args), there(args), "{args:?}");
    }
    let dump =
        runs().as_array().unwrap().iter().find(|run| run["source"] == "dump").unwrap().clone();
    let dump = dump["id"].as_str().unwrap();
    assert_eq!(here(&["logs", dump]), there(&["logs", dump]));
    assert!(there(&["logs", dump]).contains("dump"), "{}", there(&["logs", dump]));
    let verdicts = |ran: Ran| -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let lines = ran.json();
        let lines = lines.as_array().unwrap().iter();
        lines.map(|line| (text(&line["source"]), text(&line["verdict"]))).collect()
    };
    // `far` was never backed up.
    let status = this.remote(&["status", "--output", "json"]).expect(4);
    assert_eq!(verdicts(status), verdicts(this.site.run(&["status", "--output", "json"])));
    let one = this.remote(&["status", "files"]).expect(0).stdout;
    assert!(one.contains("demo/files") && !one.contains("demo/dump"), "{one}");

    // Only some of its sources; what cannot be is refused before anything is begun.
    let only = this.remote(&["trigger", "demo/daily", "files"]).expect(0).stdout;
    assert!(only.contains("demo/files") && only.lines().count() == 1, "{only}");
    for (args, code, says) in [
        (&["trigger", "weekly"][..], 1, "there is no job `weekly`"),
        (&["trigger", "daily", "uploads"], 1, "has no source `uploads`"),
        (&["trigger", "away", "files"], 2, "not done by source"),
        (&["trigger", "there"], 1, "lies on elsewhere"),
        (&["trigger", "daily", "--dry-run"], 2, "cannot be asked what it would do"),
        (&["logs", "nothing/../x"], 1, "there is no run"),
        (&["cancel", &ids[0]], 1, "is succeeded already"),
        (&["status", "nothing"], 1, "no source"),
    ] {
        let ran = this.remote(args).expect(code);
        assert!(ran.stderr.contains(says), "{args:?}: {}", ran.stderr);
    }
    daemon.end();
}

#[test]
fn a_run_that_is_asked_for_waits_for_a_daemon_and_is_ended_from_elsewhere() {
    let (this, daemon) = Asked::start();
    daemon.end();
    let shown = this.site.run(&["trigger", "daily", "--dry-run"]).expect(0);
    assert_eq!(shown.stdout.lines().count(), 2, "{}", shown.stdout);
    assert!(this.site.run(&["runs"]).expect(0).stdout.is_empty());
    let id = this.site.run(&["trigger", "daily", "dump"]).expect(0).stdout;
    let id = id.split_whitespace().next().unwrap().to_owned();
    let gone = this.remote(&["runs"]).expect(1);
    assert!(gone.stderr.contains("does not answer"), "{}", gone.stderr);
    let row = this.site.run(&["runs", "--output", "json"]).expect(0).json();
    assert_eq!(row[0]["state"], "waiting", "{row}");
    // A source that takes until it is told to end.
    this.site.policy(&JOBS.replace("echo said >&2; test ! -e stop && echo x", "echo x; sleep 100"));
    let daemon = this.site.daemon(&[
        "--listen",
        &this.port.to_string(),
        "--token-file",
        &this.place("token"),
    ]);
    let state = || {
        let (_, _, body) = this.ask("GET", &format!("/api/v1/runs/{id}"), true, "")?;
        let run: Value = serde_json::from_str(&body).unwrap();
        Some(run["state"].as_str()?.to_owned())
    };
    this.site.until("the run", || state().as_deref() == Some("running"));
    let told = this.remote(&["cancel", &id]).expect(0);
    assert!(told.stderr.contains("is told to end"), "{}", told.stderr);
    this.site.until("its end", || state().as_deref() == Some("failed"));
    daemon.end();
}

#[test]
fn nobody_asks_without_the_token_and_wrong_questions_are_told() {
    let (this, daemon) = Asked::start();
    let all = [
        ("GET", "/api/v1/status"),
        ("GET", "/api/v1/jobs"),
        ("GET", "/api/v1/runs"),
        ("POST", "/api/v1/runs"),
        ("GET", "/api/v1/runs/x/log"),
        ("POST", "/api/v1/runs/x/cancel"),
        ("GET", "/api/v1/nothing"),
        ("DELETE", "/api/v1/runs"),
    ];
    for (method, path) in all {
        let (status, head, body) = this.ask(method, path, false, "").unwrap();
        assert_eq!(status, 401, "{method} {path}: {body}");
        assert!(head.contains("www-authenticate: Bearer"), "{head}");
        assert!(!body.contains(TOKEN), "{body}");
    }
    let (status, _, body) = this.ask("GET", "/api/v1/openapi.json", false, "").unwrap();
    assert!(status == 200 && body.contains("\"openapi\":\"3.1.0\""), "{body}");
    for (method, path, body, code) in [
        ("GET", "/api/v1/nothing", "", 404),
        ("GET", "/api/v1/runs/none", "", 404),
        ("DELETE", "/api/v1/runs", "", 405),
        ("GET", "/api/v1/runs?state=lost", "", 400),
        ("GET", "/api/v1/runs?limit=0", "", 400),
        ("POST", "/api/v1/runs", "{", 400),
        ("POST", "/api/v1/runs", r#"{"job": "daily", "kind": "full"}"#, 400),
        ("POST", "/api/v1/runs", r#"{"job": "daily", "stack": "other"}"#, 404),
    ] {
        let (status, said) = this.json(method, path, body);
        assert_eq!(status, code, "{method} {path}: {said}");
        assert!(said["error"]["message"].is_string(), "{said}");
    }
    let long = this.ask("POST", "/api/v1/runs", true, &"x".repeat(100 << 10));
    assert!(long.is_none_or(|(status, _, _)| status == 413));
    let (_, jobs) = this.json("GET", "/api/v1/jobs", "");
    assert_eq!(jobs.as_array().unwrap().len(), 3, "{jobs}");
    assert_eq!(jobs[0]["job"], "daily");
    assert_eq!(jobs[0]["sources"], serde_json::json!(["files", "dump"]));

    // Another token is in force at once; one that is none opens nothing.
    this.token(&TOKEN.replace('0', "z"), 0o600);
    assert_eq!(this.ask("GET", "/api/v1/jobs", true, "").unwrap().0, 401);
    this.remote(&["runs"]).expect(0);
    // One that others may read opens nothing any more, and is given to nobody.
    this.token(TOKEN, 0o644);
    let (status, _, body) = this.ask("GET", "/api/v1/jobs", true, "").unwrap();
    assert!(status == 503 && !body.contains("/token"), "{status}: {body}");
    let refused = this.remote(&["runs"]).expect(1);
    assert!(refused.stderr.contains("chmod 600"), "{}", refused.stderr);
    this.token("", 0o600);
    assert_eq!(this.ask("GET", "/api/v1/jobs", true, "").unwrap().0, 503);
    // Many that say nothing do not keep others out.
    let idle: Vec<TcpStream> =
        (0..60).map(|_| TcpStream::connect(("127.0.0.1", this.port)).unwrap()).collect();
    assert_eq!(this.ask("GET", "/healthz", false, "").unwrap().0, 200);
    drop(idle);
    daemon.end();

    // A daemon without a token has no API.
    let daemon = this.site.daemon(&["--listen", &this.port.to_string()]);
    this.site.until("the daemon", || this.ask("GET", "/healthz", false, "").is_some());
    assert_eq!(this.ask("GET", "/api/v1/jobs", true, "").unwrap().0, 404);
    daemon.end();
}

#[test]
fn what_would_show_the_token_to_others_is_refused() {
    let site = Site::new(None, JOBS);
    let port = free_port().to_string();
    let token = site.sandbox.path("token");
    let file = token.display().to_string();
    let daemon = |args: &[&str]| site.run(&[&["daemon"], args].concat());
    let write = |text: &str, mode| {
        fs::write(&token, text).unwrap();
        fs::set_permissions(&token, Permissions::from_mode(mode)).unwrap();
    };
    let none = daemon(&["--listen", &port, "--token-file", &file]).expect(1);
    assert!(none.stderr.contains("failed to read the token"), "{}", none.stderr);
    write("short", 0o600);
    let short = daemon(&["--listen", &port, "--token-file", &file]).expect(2);
    assert!(short.stderr.contains("openssl rand -hex 32"), "{}", short.stderr);
    write(TOKEN, 0o644);
    let open = daemon(&["--listen", &port, "--token-file", &file]).expect(1);
    assert!(open.stderr.contains("chmod 600"), "{}", open.stderr);
    write(TOKEN, 0o600);
    let plain = daemon(&["--listen", &format!("0.0.0.0:{port}"), "--token-file", &file]).expect(2);
    assert!(plain.stderr.contains("in plain text"), "{}", plain.stderr);
    daemon(&["--token-file", &file]).expect(2);
    daemon(&["--listen", &port, "--tls-certificate", &file]).expect(2);
    let wrong =
        daemon(&["--listen", &port, "--tls-certificate", &file, "--tls-key", &file]).expect(1);
    assert!(wrong.stderr.contains("the certificate"), "{}", wrong.stderr);
    for (remote, says) in [
        ("http://backup.example:9187", "in plain text"),
        ("ftp://backup.example", "not the address of a daemon"),
        ("backup.example", "not the address of a daemon"),
        ("https://me:pass@backup.example", "not the address of a daemon"),
    ] {
        let ran = site.run(&["runs", "--remote", remote, "--token-file", &file]).expect(2);
        assert!(ran.stderr.contains(says), "{remote}: {}", ran.stderr);
    }
    let ran = site.run(&["runs", "--remote", "https://127.0.0.1:1"]).expect(2);
    assert!(ran.stderr.contains("there is no token"), "{}", ran.stderr);
}

#[test]
fn it_is_asked_over_tls_and_a_renewed_certificate_is_taken_over() {
    let site = Site::new(None, JOBS);
    let port = free_port().to_string();
    let place = |name: &str| site.sandbox.path(name).display().to_string();
    let issue = || {
        let (authority, certificate, key) = authority_and_certificate();
        fs::write(place("ca.pem"), authority).unwrap();
        fs::write(place("cert.pem"), certificate).unwrap();
        fs::write(place("key.pem"), key).unwrap();
    };
    issue();
    fs::write(place("token"), TOKEN).unwrap();
    fs::set_permissions(place("token"), Permissions::from_mode(0o600)).unwrap();
    let (token, certificate, key) = (place("token"), place("cert.pem"), place("key.pem"));
    let daemon = site.daemon(&[
        "--listen",
        &port,
        "--token-file",
        &token,
        "--tls-certificate",
        &certificate,
        "--tls-key",
        &key,
    ]);
    site.until_said("dashboard, metrics, health and API: https://");
    let url = format!("https://127.0.0.1:{port}");
    let ask = |more: &[&str]| {
        site.run(&[&["runs", "--remote", &url, "--token-file", &token], more].concat())
    };
    let authority = place("ca.pem");
    ask(&["--remote-ca", &authority]).expect(0);
    // Who it is has to be shown.
    let unknown = ask(&[]).expect(1);
    assert!(unknown.stderr.contains("ertificate"), "{}", unknown.stderr);
    let before = fs::read(&authority).unwrap();
    issue();
    ask(&["--remote-ca", &authority]).expect(0);
    fs::write(place("old.pem"), before).unwrap();
    ask(&["--remote-ca", &place("old.pem")]).expect(1);
    // Plain text gets no answer.
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    assert!(!said.starts_with(b"HTTP"), "{said:?}");
    daemon.end();
}
