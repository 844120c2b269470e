//! Who is told what is wrong: every kind of receiver, well and unwell, a real Alertmanager, restarts.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use serde_json::Value;
use sha2::Sha256;

use crate::common::daemon::{Daemon, introduce};
use crate::common::{Ran, Sandbox};

/// What a receiver does with a request.
#[derive(Debug, Clone, Copy)]
pub enum Answer {
    /// Answers with this status and body.
    Say(u16, &'static str),
    /// Answers 429, and when to come again.
    Later(u64),
    /// Says nothing until the other side is gone.
    Hang,
    /// Closes the connection.
    Close,
}

/// A request.
#[derive(Debug, Clone)]
pub struct Heard {
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Heard {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// A server that writes down what it hears. Answers come from a list; the last one stays.
pub struct Server {
    port: u16,
    heard: Arc<Mutex<Vec<Heard>>>,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    over: Arc<AtomicBool>,
}

impl Server {
    pub fn new(answers: &[Answer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Self {
            port,
            heard: Arc::default(),
            answers: Arc::new(Mutex::new(answers.iter().copied().collect())),
            over: Arc::default(),
        };
        let (heard, answers, over) =
            (server.heard.clone(), server.answers.clone(), server.over.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let (heard, answers) = (heard.clone(), answers.clone());
                std::thread::spawn(move || serve(stream.unwrap(), &heard, &answers));
            }
        });
        server
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// Waits until what was heard is as it should be.
    #[track_caller]
    pub fn until(
        &self,
        what: &str,
        log: &dyn Fn() -> String,
        is: impl Fn(&[Heard]) -> bool,
    ) -> Vec<Heard> {
        let begun = Instant::now();
        loop {
            let heard = self.heard();
            if is(&heard) {
                return heard;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{what}: {heard:#?}\n{}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(stream: TcpStream, heard: &Mutex<Vec<Heard>>, answers: &Mutex<VecDeque<Answer>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                break;
            }
            let (name, value) = line.trim().split_once(':').unwrap();
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let mut request = Heard { path, headers, body: String::new() };
        let length = request.header("content-length").and_then(|text| text.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body).unwrap();
        request.body = String::from_utf8(body).unwrap();
        heard.lock().unwrap().push(request);
        let answer = {
            let mut answers = answers.lock().unwrap();
            if answers.len() > 1 { answers.pop_front() } else { answers.front().copied() }
        };
        let (status, more, text) = match answer.unwrap_or(Answer::Say(200, "ok")) {
            Answer::Say(status, text) => (status, String::new(), text),
            Answer::Later(seconds) => (429, format!("retry-after: {seconds}\r\n"), "slow down"),
            Answer::Hang => {
                let _ = reader.read(&mut [0]);
                return;
            }
            Answer::Close => return,
        };
        let length = text.len();
        let written =
            write!(stream, "HTTP/1.1 {status} x\r\n{more}content-length: {length}\r\n\r\n{text}");
        if written.is_err() {
            return;
        }
    }
}

/// A repository and a policy; a clock that runs from `shows` on, `factor` times as fast as time.
pub struct Site {
    pub sandbox: Sandbox,
    clock: Option<String>,
    environment: Vec<(&'static str, String)>,
}

impl Site {
    pub fn new(clock: Option<(&str, i32)>, rest: &str) -> Self {
        let sandbox = Sandbox::new();
        fs::write(sandbox.path("src/file"), "content").unwrap();
        let clock = clock.map(|(shows, factor)| format!("{shows} {} {factor}", Timestamp::now()));
        let site = Self { sandbox, clock, environment: Vec::new() };
        site.policy(rest);
        site.run(&["init"]).expect(0);
        site
    }

    /// A site whose repository `off` is gone.
    pub fn without_off(rest: &str) -> Self {
        let site = Self::new(None, rest);
        fs::remove_dir_all(site.sandbox.path("off")).unwrap();
        site
    }

    /// Sets a variable for everything that is run from here on.
    pub fn with(mut self, name: &'static str, value: String) -> Self {
        self.environment.push((name, value));
        self
    }

    pub fn policy(&self, rest: &str) {
        let root = self.sandbox.root().display();
        let rest = rest.replace("$SRC", &self.sandbox.path("src").display().to_string());
        let text = format!(
            "version: 1\nstack: demo\nobjectives: {{ rto: 8h, rpo: 60h }}\ntimezone: UTC\n\
             repositories:\n  main: {{ local: {{ path: {root}/repo }} }}\n  \
             off: {{ local: {{ path: {root}/off }} }}\n{rest}"
        );
        fs::write(self.sandbox.path("policy.new"), text).unwrap();
        fs::rename(self.sandbox.path("policy.new"), self.sandbox.path("policy.yaml")).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.sandbox.command(args);
        if let Some(clock) = &self.clock {
            command.env("BACKSTAY_CLOCK", clock);
        }
        command.envs(self.environment.iter().map(|(name, value)| (*name, value)));
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::from(&self.command(args).output().unwrap())
    }

    pub fn daemon(&self, args: &[&str]) -> Daemon {
        if let Some(clock) = &self.clock {
            introduce(self.command(&["daemon"]), &self.sandbox, clock);
        }
        let log = self.sandbox.path("daemon.log");
        let file = fs::File::options().create(true).append(true).open(&log).unwrap();
        let mut command = self.command(&[&["daemon", "--watch", "1"], args].concat());
        let child = command.stderr(file).stdin(Stdio::null()).spawn().unwrap();
        Daemon::new(child, log)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.sandbox.path("daemon.log")).unwrap_or_default()
    }

    /// Waits until the daemon said this.
    #[track_caller]
    pub fn until_said(&self, text: &str) {
        self.until(text, || self.log().contains(text));
    }

    #[track_caller]
    pub fn until(&self, what: &str, is: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A source that can be backed up once `go` is there, tried every minute.
const DUMP: &str = "sources:\n  \
     dump: { command: { argv: [sh, -c, 'test -e go && echo x'] } }\njobs:\n  \
     often: { sources: all, kind: full, schedule: { every: 1m }, keep: { at_least: 2 }, retry: { times: 0 } }\n";

/// A source whose copies have nowhere to go: `off` is not there.
const COPIED: &str = "sources:\n  \
     files: { directory: { path: /etc/hostname } }\njobs:\n  \
     daily: { sources: all, kind: full, schedule: { cron: \"0 3 * * *\" }, keep: { for: 7d } }\n  \
     away: { copy: { to: off }, schedule: { after: [daily] }, keep: { for: 7d } }\n";

const OK: Answer = Answer::Say(200, r#"{"errcode":0,"errmsg":"ok","code":0,"msg":"success"}"#);

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The names and states in what a web hook got.
fn told(heard: &[Heard]) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    heard
        .iter()
        .flat_map(|one| one.json()["alerts"].as_array().unwrap().clone())
        .map(|alert| (text(&alert["name"]), text(&alert["status"])))
        .collect()
}

#[test]
fn a_run_that_fails_is_told_to_everybody_and_that_it_is_well_again_too() {
    let [hook, ding, wecom, feishu, ping] = [(); 5].map(|()| Server::new(&[OK]));
    let notify = format!(
        "notify:\n  language: zh\n  runbooks: https://wiki.example/backstay\n  \
         webhook: {{ url: \"{}\", headers: {{ X-Who: backstay }}, secret: \"${{env:HOOK_SECRET}}\" }}\n  \
         dingtalk: {{ url: \"${{env:DING}}\", secret: \"${{env:DING_SECRET}}\" }}\n  \
         wecom: {{ url: \"${{env:WECOM}}\" }}\n  \
         feishu: {{ url: \"${{env:FEISHU}}\", secret: \"${{env:FEISHU_SECRET}}\" }}\n  \
         ping: {{ url: \"{}?create=1\" }}\n  \
         command: {{ argv: [sh, -c, 'cat >> told; echo >> told; echo $WHO >> told'], environment: {{ WHO: me }} }}\n",
        hook.url("/hook"),
        ping.url("/key/{stack}-{job}-{source}")
    );
    let site = Site::new(Some(("2026-11-21T02:59:30Z", 10)), &format!("{DUMP}{notify}"))
        .with("HOOK_SECRET", "hook-secret-1".into())
        .with("DING", ding.url("/robot/send?access_token=ding-token-1"))
        .with("DING_SECRET", "SEC-ding-secret".into())
        .with("WECOM", wecom.url("/cgi-bin/webhook/send?key=wecom-key-1"))
        .with("FEISHU", feishu.url("/open-apis/bot/v2/hook/feishu-token-1"))
        .with("FEISHU_SECRET", "feishu-secret-1".into());
    let log = || site.log();
    let daemon = site.daemon(&[]);
    let heard = hook.until("a failure", &log, |heard| !heard.is_empty());
    assert_eq!(told(&heard)[0], ("BackstayRunFailed".into(), "firing".into()));
    for server in [&ding, &wecom, &feishu] {
        server.until("a failure", &log, |heard| !heard.is_empty());
    }
    site.until("the program", || site.sandbox.path("told").exists());
    fs::write(site.sandbox.path("go"), "").unwrap();
    let heard = hook.until("its end", &log, |heard| {
        told(heard).contains(&("BackstayRunFailed".into(), "resolved".into()))
    });
    for server in [&ding, &wecom, &feishu] {
        server.until("its end", &log, |heard| heard.iter().any(|one| one.body.contains("已恢复")));
    }
    let pings = ping.until("a success", &log, |heard| {
        heard.iter().any(|one| one.path.starts_with("/key/demo-often-dump?"))
    });
    daemon.end();

    // The web hook: the JSON, and that it is ours.
    let first = &heard[0];
    assert_eq!((first.path.as_str(), first.header("x-who")), ("/hook", Some("backstay")));
    let signed = format!("{}.{}", first.header("x-backstay-timestamp").unwrap(), first.body);
    let code = hex::encode(mac(b"hook-secret-1", signed.as_bytes()));
    assert_eq!(first.header("x-backstay-signature"), Some(format!("sha256={code}").as_str()));
    let body = first.json();
    assert_eq!(body["schema"], "backstay.alerts/1");
    assert_eq!(first.header("x-backstay-id"), body["id"].as_str());
    let alert = &body["alerts"][0];
    assert_eq!(alert["labels"]["stack"], "demo");
    assert_eq!(alert["labels"]["source"], "dump");
    assert_eq!(alert["labels"]["job"], "often");
    assert_eq!(alert["severity"], "critical");
    assert_eq!(alert["summary"], "demo/dump often：备份任务运行失败");
    assert_eq!(alert["runbook_url"], "https://wiki.example/backstay#backstayrunfailed");
    assert!(alert["starts_at"].as_str().unwrap().starts_with("2026-11-21T03:0"), "{alert}");
    // Told once while it fires, and once that it is over.
    let states = told(&hook.heard());
    let fired = states.iter().filter(|(name, _)| name == "BackstayRunFailed").count();
    assert_eq!(fired, 2, "{states:?}");

    // DingTalk signs in the address.
    let first = &ding.heard()[0];
    let url = url::Url::parse(&format!("http://x{}", first.path)).unwrap();
    let of = |name: &str| url.query_pairs().find(|(key, _)| key == name).unwrap().1.into_owned();
    assert_eq!(of("access_token"), "ding-token-1");
    let code = mac(b"SEC-ding-secret", format!("{}\nSEC-ding-secret", of("timestamp")).as_bytes());
    assert_eq!(of("sign"), base64(&code));
    assert_eq!(first.json()["msgtype"], "markdown");
    let text = first.json()["markdown"]["text"].as_str().unwrap().to_owned();
    assert!(text.starts_with("**[严重] demo/dump often：备份任务运行失败**"), "{text}");
    // WeCom has nothing to sign with.
    let text = wecom.heard()[0].json()["markdown"]["content"].as_str().unwrap().to_owned();
    assert!(text.contains("处理方法：https://wiki.example/backstay#backstayrunfailed"), "{text}");
    // Feishu signs in the body, with nothing under a key that has the time in it.
    let body = feishu.heard()[0].json();
    let key = format!("{}\nfeishu-secret-1", body["timestamp"].as_str().unwrap());
    assert_eq!(body["sign"], base64(&mac(key.as_bytes(), b"")));
    assert_eq!(body["msg_type"], "interactive");
    assert!(body["card"]["elements"][0]["content"].as_str().unwrap().contains("demo/dump"));

    // The switch: start, fail, start, success; each pair of one run.
    let steps: Vec<(&str, &str)> = pings
        .iter()
        .map(|one| {
            let (path, query) = one.path.split_once('?').unwrap();
            (path.strip_prefix("/key/demo-often-dump").unwrap(), query)
        })
        .collect();
    assert_eq!((steps[0].0, steps[1].0), ("/start", "/fail"));
    assert_eq!(steps[0].1, steps[1].1, "the same run");
    assert!(steps[0].1.starts_with("create=1&rid="), "{steps:?}");
    let last = steps.iter().position(|(path, _)| path.is_empty()).unwrap();
    assert_eq!((steps[last - 1].0, steps[last - 1].1), ("/start", steps[last].1));

    let said = fs::read_to_string(site.sandbox.path("told")).unwrap();
    assert!(said.contains("\"BackstayRunFailed\"") && said.contains("\nme\n"), "{said}");
    // Who is told is no secret, how is one.
    let log = site.log();
    for secret in ["hook-secret-1", "ding-token-1", "ding-secret", "wecom-key-1", "feishu-token-1"]
    {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
}

#[test]
fn a_receiver_that_is_unwell_is_tried_again_and_holds_nobody_up() {
    let hook = Server::new(&[
        Answer::Say(500, "broken"),
        Answer::Close,
        Answer::Later(1),
        Answer::Say(200, "ok"),
    ]);
    let stuck = Server::new(&[Answer::Hang]);
    let notify = format!(
        "notify: {{ webhook: {{ url: \"{}\" }}, alertmanager: {{ url: \"{}\" }} }}\n",
        hook.url("/"),
        stuck.url("")
    );
    let site = Site::new(Some(("2026-11-21T02:59:30Z", 10)), &format!("{DUMP}{notify}"));
    let daemon = site.daemon(&[]);
    hook.until("four tries", &|| site.log(), |heard| heard.len() >= 4);
    // Runs went on all the while.
    fs::write(site.sandbox.path("go"), "").unwrap();
    site.until_said("demo/dump often: succeeded");
    site.until("what was said", || {
        let listed = site.run(&["notify", "list", "--output", "json"]).expect(0).json();
        let receivers = listed["receivers"].as_array().unwrap().clone();
        let of = |receiver: &str, result: &str| {
            let same = |row: &&Value| row["receiver"] == receiver && row["result"] == result;
            receivers.iter().find(same).cloned().unwrap_or_default()
        };
        of("webhook", "failed")["total"] == 3
            && of("webhook", "delivered")["total"].as_u64().unwrap_or(0) >= 1
            && of("alertmanager", "failed")["said"]
                .as_str()
                .is_some_and(|said| said.contains("no answer within"))
    });
    // The run is over before anybody looks at what fires.
    site.until_said("resolved: demo/dump often: the run failed");
    daemon.end();
    let log = site.log();
    for text in [
        "demo webhook: failed to notify: it answered 500 broken",
        "it answered 429",
        "demo webhook: takes messages again",
        "demo alertmanager: failed to notify: 127.0.0.1 does not answer",
        "ALERT: demo/dump often: the run failed",
        "resolved: demo/dump often: the run failed",
    ] {
        assert!(log.contains(text), "{text}: {log}");
    }
}

#[test]
fn what_fires_and_who_knows_survives_a_restart() {
    let hook = Server::new(&[Answer::Say(200, "ok")]);
    let notify = format!("notify: {{ webhook: {{ url: \"{}\" }} }}\n", hook.url("/"));
    let site = Site::without_off(&format!("{COPIED}{notify}"));
    let log = || site.log();
    let daemon = site.daemon(&[]);
    let fires = ("BackstayRepositoryUnreachable".to_owned(), "firing".to_owned());
    hook.until("an alert", &log, |heard| told(heard).contains(&fires));
    // What was told is written down when the answer is here.
    site.until("a row", || site.run(&["notify", "list"]).expect(0).stdout.contains("delivered"));
    let listed = site.run(&["notify", "list", "--output", "json"]).expect(0).json();
    let alerts = listed["alerts"].as_array().unwrap();
    let alert = alerts.iter().find(|one| one["name"] == fires.0.as_str()).unwrap();
    assert_eq!(alert["summary"], "demo off: the repository does not answer");
    daemon.kill();
    let before = told(&hook.heard()).iter().filter(|one| **one == fires).count();
    let daemon = site.daemon(&[]);
    std::thread::sleep(Duration::from_secs(4));
    let now = told(&hook.heard()).iter().filter(|one| **one == fires).count();
    assert_eq!((before, now), (1, 1), "told once");
    site.run(&["init", "off"]).expect(0);
    let over = ("BackstayRepositoryUnreachable".to_owned(), "resolved".to_owned());
    hook.until("its end", &log, |heard| told(heard).contains(&over));
    daemon.end();
    let listed = site.run(&["notify", "list", "--output", "json"]).expect(0).json();
    let alerts = listed["alerts"].as_array().unwrap();
    assert!(alerts.iter().all(|one| one["name"] != fires.0.as_str()), "{listed}");
}

#[test]
fn policies_that_become_invalid_are_told_by_those_in_force() {
    let hook = Server::new(&[Answer::Say(200, "ok")]);
    let notify =
        format!("notify: {{ webhook: {{ url: \"{}\", severity: warning }} }}\n", hook.url("/"));
    let site = Site::new(Some(("2026-11-21T12:00:00Z", 1)), &format!("{DUMP}{notify}"));
    fs::write(site.sandbox.path("go"), "").unwrap();
    let log = || site.log();
    let daemon = site.daemon(&[]);
    site.until_said("jobs watched");
    site.policy("sources: 7\n");
    let fires = ("BackstayPolicyInvalid".to_owned(), "firing".to_owned());
    let heard = hook.until("an alert", &log, |heard| told(heard).contains(&fires));
    assert!(heard[0].body.contains("policy.yaml:"), "{}", heard[0].body);
    site.policy(&format!("{DUMP}{notify}"));
    let over = ("BackstayPolicyInvalid".to_owned(), "resolved".to_owned());
    hook.until("its end", &log, |heard| told(heard).contains(&over));
    daemon.end();
}

#[test]
fn a_test_says_what_each_receiver_answered() {
    let at = |answer: Answer| Server::new(&[answer]);
    let hook = at(Answer::Say(200, "thank you"));
    let ding = at(Answer::Say(200, r#"{"errcode":310000,"errmsg":"sign not match"}"#));
    let (wecom, feishu) = (at(Answer::Close), at(Answer::Say(200, "<html>log in</html>")));
    let ping = at(Answer::Later(7));
    let notify = format!(
        "notify:\n  webhook: {{ url: \"{}\" }}\n  dingtalk: {{ url: \"${{env:DING}}\" }}\n  \
         wecom: {{ url: \"${{env:WECOM}}\" }}\n  feishu: {{ url: \"${{env:FEISHU}}\" }}\n  \
         ping: {{ jobs: {{ often: \"{}\" }} }}\n  \
         command: {{ argv: [sh, -c, 'echo no such pager >&2; exit 3'] }}\n",
        hook.url("/"),
        ping.url("/abc")
    );
    let site = Site::new(None, &format!("{DUMP}{notify}"))
        .with("DING", ding.url("/?access_token=ding-token-2"))
        .with("WECOM", wecom.url("/?key=wecom-key-2"))
        .with("FEISHU", feishu.url("/feishu-token-2"));
    let ran = site.run(&["notify", "test", "--output", "json"]).expect(1);
    let lines: Vec<(String, String, String)> = ran
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|line| {
            let text = |key: &str| line[key].as_str().unwrap().to_owned();
            (text("receiver"), text("result"), text("said"))
        })
        .collect();
    let of = |receiver: &str| {
        let (_, result, said) = lines.iter().find(|line| line.0 == receiver).unwrap();
        format!("{result}: {said}")
    };
    assert_eq!(of("webhook"), "delivered: 200 thank you");
    assert_eq!(hook.heard()[0].json()["alerts"][0]["name"], "BackstayTest");
    assert!(
        of("dingtalk").contains("failed: it answered 200")
            && of("dingtalk").contains("sign not match")
    );
    assert!(of("wecom").starts_with("failed: 127.0.0.1 does not answer"), "{lines:?}");
    assert!(of("feishu").contains("which no such robot says"), "{lines:?}");
    assert!(of("ping").contains("failed: it answered 429"), "{lines:?}");
    assert_eq!(ping.heard()[0].path.split('?').next(), Some("/abc/log"));
    assert!(of("command").ends_with("no such pager"), "{lines:?}");
    for secret in ["ding-token-2", "wecom-key-2", "feishu-token-2"] {
        assert!(!ran.stdout.contains(secret) && !ran.stderr.contains(secret), "{secret}");
    }
    let ran = site.run(&["notify", "test", "webhook"]).expect(0);
    assert_eq!(ran.stdout, "demo webhook: delivered: 200 thank you\n");
    let ran = site.run(&["notify", "test", "web-hook"]).expect(2);
    assert!(ran.stderr.contains("did you mean `webhook`"), "{}", ran.stderr);
    let ran = site.run(&["notify", "test", "alertmanager"]).expect(1);
    assert!(ran.stderr.contains("no policy names such a receiver"), "{}", ran.stderr);
}

#[test]
fn what_looks_find_is_told_and_over_when_it_is_mended() {
    let hook = Server::new(&[Answer::Say(200, "ok")]);
    let policy = format!(
        "sources:\n  files: {{ directory: {{ path: $SRC }} }}\njobs:\n  \
         daily: {{ sources: all, kind: full, schedule: {{ cron: \"0 3 * * *\" }}, keep: {{ at_least: 9 }} }}\n\
         notify: {{ webhook: {{ url: \"{}\" }} }}\n",
        hook.url("/")
    );
    let site = Site::new(None, &policy);
    let log = || site.log();
    let back_up = || {
        let ran = site.run(&["backup", "demo/files", "--job", "daily"]).expect(0);
        ran.stdout.trim().rsplit('@').next().unwrap().to_owned()
    };
    let large = site.sandbox.path("src/large");
    fs::write(&large, vec![7; 100_000]).unwrap();
    let first = back_up();
    back_up();
    fs::remove_file(&large).unwrap();
    let small = back_up();
    let daemon = site.daemon(&[]);
    let pair = |name: &str, state: &str| (format!("Backstay{name}"), state.to_owned());
    let heard =
        hook.until("the size", &log, |heard| told(heard).contains(&pair("BackupShrunk", "firing")));
    let alert = heard[0].json()["alerts"][0].clone();
    assert_eq!(alert["severity"], "warning");
    let said = alert["description"].as_str().unwrap();
    assert!(said.starts_with(&format!("{small} holds 7 B; the median")), "{said}");
    fs::write(&large, vec![8; 100_000]).unwrap();
    back_up();
    hook.until("the size again", &log, |heard| {
        told(heard).contains(&pair("BackupShrunk", "resolved"))
    });

    // An object goes, is missed when it is verified, and comes back.
    let stored = site.sandbox.objects();
    let object = stored
        .iter()
        .map(|path| site.sandbox.path("repo").join(path))
        .find(|path| {
            let path = path.display().to_string();
            path.contains(&first) && path.ends_with("000001.tar.zst")
        })
        .unwrap();
    let bytes = fs::read(&object).unwrap();
    fs::remove_file(&object).unwrap();
    site.run(&["verify", "--depth", "stored", &first]).expect(5);
    let ran = site.run(&["status"]).expect(0);
    assert!(ran.stdout.contains("; DAMAGED objects: 1"), "{}", ran.stdout);
    hook.until("damage", &log, |heard| told(heard).contains(&pair("DamageFound", "firing")));
    fs::write(&object, bytes).unwrap();
    site.run(&["verify", "--depth", "stored", &first]).expect(0);
    hook.until("no damage", &log, |heard| told(heard).contains(&pair("DamageFound", "resolved")));
    daemon.end();
    let line = &site.run(&["status", "--output", "json"]).expect(0).json()[0];
    assert_eq!((&line["backups"], &line["damaged"]), (&4.into(), &0.into()), "{line}");
    assert_eq!(line["sizes"][0]["bytes"], 100_007);
    assert_eq!(line["repository"], "main");
    assert!(line["verified"]["stored"].is_string(), "{line}");
}

/// A program of a package that a machine may lack. Where everything has to be there it is an error.
#[track_caller]
pub fn part(names: &[&str], package: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let places =
        path.split(':').flat_map(|place| names.iter().map(move |name| format!("{place}/{name}")));
    let found = places.map(std::path::PathBuf::from).find(|path| path.is_file());
    if found.is_none() {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "{} of the package {package} is missing: scripts/install-deps.sh test",
            names[0]
        );
        eprintln!("NOT TESTED: {} of the package {package} is missing", names[0]);
    }
    found
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A real Alertmanager that hands on what it gets.
struct Alertmanager(Child);

impl Drop for Alertmanager {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_real_alertmanager_hears_of_what_fires_and_that_it_is_over() {
    let Some(program) =
        part(&["prometheus-alertmanager", "alertmanager"], "prometheus-alertmanager")
    else {
        return;
    };
    let pager = Server::new(&[Answer::Say(200, "ok")]);
    let port = free_port();
    let site = Site::without_off(&format!(
        "{COPIED}notify: {{ alertmanager: {{ url: \"http://127.0.0.1:{port}\" }} }}\n"
    ));
    let config = format!(
        "route: {{ receiver: pager, group_by: [alertname], group_wait: 0s, group_interval: 1s }}\n\
         receivers: [{{ name: pager, webhook_configs: [{{ url: \"{}\", send_resolved: true }}] }}]\n",
        pager.url("/pager")
    );
    fs::write(site.sandbox.path("alertmanager.yml"), config).unwrap();
    let log = fs::File::create(site.sandbox.path("alertmanager.log")).unwrap();
    let _manager = Alertmanager(
        Command::new(program)
            .arg(format!("--config.file={}", site.sandbox.path("alertmanager.yml").display()))
            .arg(format!("--storage.path={}", site.sandbox.path("alertmanager").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--cluster.listen-address=")
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let log = || {
        let manager = fs::read_to_string(site.sandbox.path("alertmanager.log")).unwrap_or_default();
        format!("{}\n{manager}", site.log())
    };
    let daemon = site.daemon(&[]);
    let paged = |heard: &[Heard], status: &str| {
        heard.iter().map(Heard::json).find_map(|body| {
            let alerts = body["alerts"].as_array().unwrap().clone();
            alerts.into_iter().find(|alert| {
                alert["status"] == status
                    && alert["labels"]["alertname"] == "BackstayRepositoryUnreachable"
            })
        })
    };
    let heard = pager.until("a page", &log, |heard| paged(heard, "firing").is_some());
    let alert = paged(&heard, "firing").unwrap();
    assert_eq!(
        alert["labels"],
        serde_json::json!({"alertname": "BackstayRepositoryUnreachable", "severity": "critical",
                           "stack": "demo", "repository": "off"})
    );
    assert_eq!(alert["annotations"]["summary"], "demo off: the repository does not answer");
    assert!(
        alert["annotations"]["runbook_url"]
            .as_str()
            .unwrap()
            .ends_with("#backstayrepositoryunreachable")
    );
    site.run(&["init", "off"]).expect(0);
    let heard = pager.until("its end", &log, |heard| paged(heard, "resolved").is_some());
    let over = paged(&heard, "resolved").unwrap();
    assert_eq!(over["fingerprint"], alert["fingerprint"]);
    assert_eq!(over["startsAt"], alert["startsAt"]);
    daemon.end();
}
