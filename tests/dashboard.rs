//! The dashboard over HTTP: who may read it, what forms may do, that nothing on it is markup that
//! was text or a secret, and that every link leads somewhere.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;

use backstay::state::{NewRun, RunState, Slot, State};
use jiff::{SignedDuration, Timestamp};

use crate::common::daemon::Daemon;
use crate::notify::{Site, free_port};

pub const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// What no page may show.
const SECRET: &str = "hunter2-is-a-secret";

/// Sources, jobs and playbooks of every kind that pages show, with names and words that would be
/// markup if they were not escaped.
pub const POLICY: &str = "description: \"<script>alert(1)</script> & \\\"quotes\\\"\"\nsources:\n  \
     files: { directory: { path: $SRC }, objectives: { rpo: 400d } }\n  \
     keys: { command: { argv: [sh, -c, 'printenv APP_KEY | wc -c'], environment: { APP_KEY: \"${env:APP_KEY}\" } }, objectives: { rpo: 400d } }\n  \
     dump: { command: { argv: [sh, -c, 'echo \"<img src=x onerror=alert(1)> {}\" >&2; exit 3'] }, objectives: { rpo: 400d } }\njobs:\n  \
     daily: { sources: [files, keys], kind: full, schedule: { cron: \"0 3 1 1 *\" }, keep: { at_least: 2 } }\n  \
     dump: { sources: [dump], kind: full, schedule: { cron: \"0 3 1 1 *\" }, keep: { at_least: 2 }, retry: { times: 0 } }\n  \
     away: { copy: { to: off }, schedule: { cron: \"0 5 1 1 *\" }, keep: { for: 7d } }\nplaybooks:\n  \
     move:\n    description: \"To <b>the other</b> side\"\n    modes: [graceful, ungraceful]\n    \
     assess:\n      look: { command: { apply: { shell: \"echo lag=3; echo lost=no\" }, outputs: [lag, lost], read_only: true } }\n    \
     cutover:\n      agree: { approval: { of: 2, from: [ann, bo], text: \"Users see <i>the other</i> side, {{look.lag}} s behind\" } }\n      \
     switch: { command: { apply: { shell: \"true\" }, repeatable: true }, point_of_no_return: true }\n";

/// A site with a daemon that shows a dashboard.
pub struct Shown {
    pub site: Site,
    pub port: u16,
}

/// An answer.
pub struct Page {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Page {
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// `NAME=VALUE` of the cookie that is set.
    pub fn cookie(&self) -> String {
        self.header("set-cookie").unwrap().split(';').next().unwrap().to_owned()
    }

    /// What the first form has to send back.
    pub fn form(&self) -> String {
        let (_, rest) = self.body.split_once("name=\"form\" value=\"").unwrap();
        rest.split('"').next().unwrap().to_owned()
    }

    /// The addresses that it links to.
    pub fn links(&self) -> Vec<String> {
        let parts = self.body.split(" href=\"").skip(1);
        let links = parts.map(|part| part.split('"').next().unwrap().replace("&amp;", "&"));
        links.filter(|link| link.starts_with('/')).collect()
    }
}

/// Values of a form.
pub fn form(fields: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

impl Shown {
    pub fn start(policy: &str) -> (Self, Daemon) {
        let site = Site::new(None, policy).with("APP_KEY", SECRET.to_owned());
        let this = Self { site, port: free_port() };
        this.token(TOKEN);
        let token = this.site.sandbox.path("token").display().to_string();
        let port = this.port.to_string();
        let daemon = this.site.daemon(&["--listen", &port, "--token-file", &token]);
        this.site.until("a page", || {
            TcpStream::connect(("127.0.0.1", this.port)).is_ok()
                && this.get("/login", "").status == 200
        });
        this.site.until("the daemon", || this.get("/readyz", "").status == 200);
        (this, daemon)
    }

    pub fn token(&self, token: &str) {
        let path = self.site.sandbox.path("token");
        fs::write(&path, token).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    }

    pub fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Page {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let (port, length) = (self.port, body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost:{port}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = Vec::new();
        stream.read_to_end(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Page { status, head: head.to_owned(), body: body.to_owned() }
    }

    pub fn get(&self, path: &str, cookie: &str) -> Page {
        let cookie =
            if cookie.is_empty() { String::new() } else { format!("cookie: {cookie}\r\n") };
        self.send("GET", path, &cookie, "")
    }

    fn origin(&self) -> String {
        format!("origin: http://localhost:{}\r\n", self.port)
    }

    pub fn post(&self, path: &str, cookie: &str, fields: &[(&str, &str)]) -> Page {
        let headers = format!("{}cookie: {cookie}\r\n", self.origin());
        self.send("POST", path, &headers, &form(fields))
    }

    pub fn login(&self) -> String {
        let page = self.send("POST", "/login", &self.origin(), &form(&[("token", TOKEN)]));
        assert_eq!(page.status, 303, "{}", page.body);
        page.cookie()
    }

    /// Has a job done, and waits until no run is open.
    pub fn job(&self, job: &str) {
        self.site.run(&["trigger", job]).expect(0);
        self.site.until(job, || {
            let ran = self
                .site
                .run(&["runs", "--state", "waiting", "--state", "running", "--output", "json"]);
            ran.expect(0).json().as_array().unwrap().is_empty()
        });
    }

    /// Starts the playbook, which waits for people, and gives its run.
    pub fn playbook(&self) -> String {
        self.site.run(&["playbook", "run", "move", "--yes"]).expect(6);
        let ran = self.site.run(&["playbook", "history", "--output", "json"]).expect(0).json();
        ran.as_array().unwrap().last().unwrap()["run"].as_str().unwrap().to_owned()
    }
}

#[test]
fn only_who_has_the_token_reads() {
    let (this, daemon) = Shown::start(POLICY);
    for (path, to) in [("/", "/login"), ("/runs?job=daily", "/login?next=%2Fruns%3Fjob%3Ddaily")] {
        let page = this.get(path, "");
        assert_eq!((page.status, page.header("location")), (303, Some(to)), "{path}");
        assert!(page.body.is_empty());
    }
    // A form from elsewhere, or none of a browser, logs nobody in.
    let right = form(&[("token", TOKEN)]);
    for origin in ["", "origin: null\r\n", "origin: http://evil.example\r\n"] {
        assert_eq!(this.send("POST", "/login", origin, &right).status, 403, "{origin}");
    }
    let wrong = this.send("POST", "/login", &this.origin(), &form(&[("token", "no")]));
    assert_eq!(wrong.status, 403);
    assert!(wrong.body.contains("This is not the token"), "{}", wrong.body);
    assert_eq!(wrong.header("set-cookie"), None);
    // It leads to the page that was asked for, and to no other site.
    for (next, to) in [
        ("/runs?job=x", "/runs?job=x"),
        ("//evil.example/", "/"),
        ("/\\evil", "/"),
        ("/\t/evil.example", "/"),
        ("https://evil.example", "/"),
    ] {
        let fields = form(&[("token", TOKEN), ("next", next)]);
        let page = this.send("POST", "/login", &this.origin(), &fields);
        assert_eq!((page.status, page.header("location")), (303, Some(to)), "{next}");
        let cookie = page.header("set-cookie").unwrap();
        assert!(cookie.ends_with("; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict"), "{cookie}");
        assert!(!cookie.contains(TOKEN), "{cookie}");
    }
    let cookie = this.login();
    let page = this.get("/", &cookie);
    assert_eq!(page.status, 200);
    assert_eq!(page.header("cache-control"), Some("no-store"));
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'none';"));
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    let style = page.body.split('"').find(|part| part.starts_with("/assets/style-")).unwrap();
    let style = this.get(style, "");
    assert_eq!(style.header("content-type"), Some("text/css; charset=utf-8"));
    assert!(style.header("cache-control").unwrap().contains("immutable"));
    assert_eq!(this.send("PUT", "/", &format!("cookie: {cookie}\r\n"), "").status, 405);
    assert_eq!(this.send("HEAD", "/", &format!("cookie: {cookie}\r\n"), "").body, "");
    // What is not there says so, and what to do, to who is logged in only.
    let page = this.get("/nothing/%3Cscript%3E", &cookie);
    assert_eq!(page.status, 404);
    assert!(page.body.contains("Back to the overview") && !page.body.contains("<script>"));
    assert_eq!(this.get("/nothing", "").status, 303);
    // Programs have their own way in.
    assert_eq!(this.get("/api/v1/jobs", &cookie).status, 401);
    assert_eq!(this.get("/healthz", "").body, "ok\n");
    // Who logs out is out; another token closes what was opened with the old one.
    let other = this.login();
    let sent = this.get("/", &cookie).form();
    let out = this.post("/logout", &cookie, &[("form", &sent)]);
    assert_eq!((out.status, out.header("location")), (303, Some("/login")));
    assert_eq!(this.get("/", &cookie).status, 303);
    assert_eq!(this.get("/", &other).status, 200);
    this.token(&TOKEN.replace('0', "x"));
    assert_eq!(this.get("/", &other).status, 303);
    this.token(TOKEN);
    // Who guesses has to wait, also with the right one.
    let wrong = form(&[("token", "guess")]);
    let guess = || this.send("POST", "/login", &this.origin(), &wrong).status;
    let tries: Vec<u16> = (0..12).map(|_| guess()).collect();
    assert_eq!((tries[0], tries[11]), (403, 429), "{tries:?}");
    let page = this.send("POST", "/login", &this.origin(), &right);
    assert_eq!((page.status, page.header("retry-after")), (429, Some("60")));
    assert!(!this.site.log().contains(TOKEN), "{}", this.site.log());
    daemon.end();
}

#[test]
fn only_forms_of_its_own_pages_do_something() {
    let (this, daemon) = Shown::start(POLICY);
    let cookie = this.login();
    let jobs = this.get("/jobs", &cookie);
    let sent = jobs.form();
    let fields = [("stack", "demo"), ("job", "daily"), ("source", "files")];
    let with = |form: &str| {
        let mut all = vec![("form", form.to_owned())];
        all.extend(fields.iter().map(|(name, value)| (*name, (*value).to_owned())));
        all
    };
    let encoded = |all: Vec<(&str, String)>| {
        let all: Vec<(&str, &str)> =
            all.iter().map(|(name, value)| (*name, value.as_str())).collect();
        form(&all)
    };
    let none = form(&fields);
    let (other, own) = (encoded(with(&"0".repeat(64))), encoded(with(&sent)));
    let cookies = format!("cookie: {cookie}\r\n");
    let mine = format!("{}{cookies}", this.origin());
    for (headers, body, why) in [
        (&mine, &none, "no token of the form"),
        (&mine, &other, "another one"),
        (&cookies, &own, "no origin"),
        (&format!("origin: http://evil.example\r\n{cookies}"), &own, "another origin"),
        (&format!("origin: null\r\n{cookies}"), &own, "no origin that is told"),
        (&this.origin(), &own, "nobody logged in"),
    ] {
        let page = this.send("POST", "/jobs", headers, body);
        assert_eq!(page.status, 403, "{why}: {}", page.body);
    }
    assert!(
        this.site
            .run(&["runs", "--output", "json"])
            .expect(0)
            .json()
            .as_array()
            .unwrap()
            .is_empty()
    );
    // Its own does what `backstay trigger` does.
    let page = this.send("POST", "/jobs", &mine, &own);
    assert_eq!((page.status, page.header("location")), (303, Some("/runs?stack=demo&job=daily")));
    let runs = this.site.run(&["runs", "--output", "json"]).expect(0).json();
    assert_eq!(runs.as_array().unwrap().len(), 1, "{runs}");
    assert_eq!((&runs[0]["job"], &runs[0]["source"]), (&"daily".into(), &"files".into()));
    // What came of it is told once.
    assert!(this.get("/runs", &cookie).body.contains("1 run was asked for"));
    assert!(!this.get("/runs", &cookie).body.contains("1 run was asked for"));
    for (fields, status, says) in [
        (&[("form", sent.as_str()), ("job", "weekly")][..], 404, "there is no job `weekly`"),
        (&[("form", &sent), ("job", "daily"), ("source", "x")], 404, "has no source `x`"),
        (&[("form", &sent)], 400, "`job` was not given"),
    ] {
        let page = this.post("/jobs", &cookie, fields);
        assert_eq!(page.status, status, "{}", page.body);
        assert!(page.body.contains(says), "{}", page.body);
    }
    let id = runs[0]["id"].as_str().unwrap();
    this.site.until("the run", || {
        let ran = this.site.run(&["runs", "--state", "succeeded", "--output", "json"]);
        ran.expect(0).json().as_array().unwrap().len() == 1
    });
    let page = this.post(&format!("/runs/{id}"), &cookie, &[("form", &sent)]);
    assert_eq!(page.status, 409);
    assert!(page.body.contains("is succeeded already"), "{}", page.body);
    // One that waits does not begin.
    let now = Timestamp::now();
    add(&this, &[waiting("later", now.checked_add(SignedDuration::from_hours(5)).unwrap())]);
    assert!(this.get("/runs/later", &cookie).body.contains("End this run"));
    let page = this.post("/runs/later", &cookie, &[("form", &sent)]);
    assert_eq!(page.status, 303, "{}", page.body);
    let runs = this.site.run(&["runs", "--state", "skipped", "--output", "json"]).expect(0).json();
    assert_eq!(runs[0]["why"], "cancelled");
    daemon.end();
}

fn waiting(id: &str, at: Timestamp) -> NewRun {
    let slot = Slot {
        stack: "demo".to_owned(),
        job: "daily".to_owned(),
        source: "files".to_owned(),
        nominal: format!("planted {id}"),
    };
    NewRun { slot, id: id.to_owned(), due: at, not_before: at, state: RunState::Waiting, why: None }
}

fn add(this: &Shown, runs: &[NewRun]) {
    let state = State::open(&this.site.sandbox.path("state"), Timestamp::now()).unwrap();
    state.add_runs(runs).unwrap();
}

#[test]
fn an_approval_is_what_the_command_line_makes() {
    let (this, daemon) = Shown::start(POLICY);
    let run = this.playbook();
    let cookie = this.login();
    let path = format!("/playbooks/run/{run}");
    let page = this.get(&path, &cookie);
    assert_eq!(page.status, 200);
    assert!(page.body.contains("0 of 2 approvals given"), "{}", page.body);
    assert!(page.body.contains("look.lag"), "{}", page.body);
    let (_, rest) = page.body.split_once("name=\"binds\" value=\"").unwrap();
    let (binds, sent) = (rest.split('"').next().unwrap(), page.form());
    let approve = |name: &str, binds: &str| {
        let fields = [
            ("form", sent.as_str()),
            ("step", "agree"),
            ("name", name),
            ("binds", binds),
            ("reason", "it is <time>"),
        ];
        this.post(&path, &cookie, &fields)
    };
    // Not what was shown, and not by somebody who is not asked.
    let other = approve("ann", &"0".repeat(64));
    assert_eq!(other.status, 409, "{}", other.body);
    assert!(other.body.contains("is not what it was when it was shown"), "{}", other.body);
    assert_eq!(approve("eve", binds).status, 403);
    assert_eq!(approve("--yes", binds).status, 403);
    assert_eq!(approve("ann", binds).status, 303);
    let page = this.get(&path, &cookie);
    assert!(page.body.contains("1 of 2 approvals given: ann"), "{}", page.body);
    assert_eq!(approve("ann", binds).status, 409);
    // The command line sees it, adds its own, and the page sees that.
    let shown = || this.site.run(&["playbook", "show", &run, "--output", "json"]).expect(0).json();
    let step = |name: &str| {
        let all = shown();
        all["steps"].as_array().unwrap().iter().find(|step| step["name"] == name).unwrap().clone()
    };
    assert_eq!(step("agree")["approval"]["given"], 1);
    let stale = this
        .site
        .run(&["playbook", "approve", &run, "agree", "--as", "bo", "--binds", "x", "--yes"]);
    assert!(stale.expect(1).stderr.contains("when it was shown"));
    this.site.run(&["playbook", "approve", &run, "agree", "--as", "bo", "--yes"]).expect(0);
    this.site.until("both", || this.get(&path, &cookie).body.contains("Enough people agreed"));
    this.site.run(&["playbook", "resume", &run]).expect(0);
    assert_eq!(step("switch")["state"], "succeeded");
    this.site.until("the end", || !this.get(&path, &cookie).body.contains("data-reload"));
    assert!(this.get(&path, &cookie).body.contains("succeeded"));
    for odd in ["nothing", "..%2F..", "20261121T000000Z-aaaaaa", "--help"] {
        let page = this.get(&format!("/playbooks/run/{odd}"), &cookie);
        assert_eq!(page.status, 404, "{odd}: {}", page.body);
    }
    daemon.end();
}

#[test]
fn every_link_leads_to_a_page_without_secrets_or_markup_that_was_text() {
    let (this, daemon) = Shown::start(POLICY);
    this.job("daily");
    this.job("dump");
    this.job("away");
    let run = this.playbook();
    let id = this.site.run(&["list", "files", "--output", "json"]).expect(0).json();
    let id = id[0]["backup"].as_str().unwrap().to_owned();
    this.site.run(&["pin", &format!("demo/files@{id}"), "--reason", "<audit>"]).expect(0);
    this.site.run(&["verify", "files"]).expect(0);
    let cookie = this.login();
    // The daemon looks every second.
    this.site.until("a look", || {
        this.get("/", &cookie).body.contains("Sources of demo")
            && this.get("/", &cookie).body.contains("holds")
    });
    let read = |path: &str| {
        this.site.until(path, || !this.get(path, &cookie).body.contains("are being read"));
        this.get(path, &cookie)
    };
    let mut todo: VecDeque<String> =
        ["/".to_owned(), format!("/playbooks/run/{run}"), "/login".to_owned()].into();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut all = String::new();
    while let Some(path) = todo.pop_front() {
        let path = path.split('#').next().unwrap().to_owned();
        // Months and days go on for ever, and the other language is the same pages again.
        let endless = path.contains("at=") || path.contains("lang=") || path.contains("month=");
        if endless || !seen.insert(path.clone()) || path == "/logout" {
            continue;
        }
        let page = if path.starts_with("/assets") { this.get(&path, &cookie) } else { read(&path) };
        assert_eq!(page.status, 200, "{path}: {}", page.body);
        for text in
            [SECRET, TOKEN, "<script>alert", "<img", "<b>the other", "<i>the other", "<audit>"]
        {
            assert!(!page.body.contains(text), "{path} shows {text}: {}", page.body);
        }
        todo.extend(page.links());
        all.push_str(&page.body);
        assert!(seen.len() < 200, "{seen:#?}");
    }
    assert!(seen.len() > 25, "{seen:#?}");
    for text in [
        "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;quotes&quot;",
        "&lt;img src=x onerror=alert(1)&gt;",
        "Users see &lt;i&gt;the other&lt;/i&gt; side, 3 s behind",
        "&lt;audit&gt;",
        &id,
        "stored bytes verified",
    ] {
        assert!(all.contains(text), "no page shows {text}");
    }
    // What is asked for and cannot be is said.
    for (path, status) in [
        ("/runs?page=0", 400),
        ("/runs?state=lost", 400),
        ("/timeline?span=year", 400),
        ("/timeline?at=yesterday", 400),
        ("/timeline?at=9999-12-31", 400),
        ("/timeline?at=-009999-01-01&span=week", 400),
        ("/recovery-points?month=13", 400),
        ("/recovery-points?source=nothing", 404),
        ("/runs/nothing", 404),
        ("/backups/main/demo/files/--help", 404),
        ("/backups/main/demo/files/20200101T000000Z-full-aaaa", 404),
        ("/backups/elsewhere/demo/files/20200101T000000Z-full-aaaa", 404),
        ("/playbooks/plan/demo/nothing", 404),
        ("/%ff", 404),
    ] {
        let page = this.get(path, &cookie);
        assert_eq!(page.status, status, "{path}: {}", page.body);
        assert!(page.body.contains("Back to the overview"), "{path}");
    }
    // In Chinese it is the same.
    let page = this.send(
        "GET",
        "/",
        &format!("cookie: {cookie}\r\naccept-language: zh-CN,en;q=0.5\r\n"),
        "",
    );
    assert!(
        page.body.contains("<html lang=\"zh-CN\">") && page.body.contains("总览"),
        "{}",
        page.body
    );
    let page = this.get("/?lang=zh", &cookie);
    let kept = page.cookie();
    assert!(this.get("/runs", &format!("{cookie}; {kept}")).body.contains("运行"));
    daemon.end();
}

#[test]
fn long_lists_come_in_pages() {
    let (this, daemon) = Shown::start(POLICY);
    let now = Timestamp::now();
    let runs: Vec<NewRun> = (0..120)
        .map(|number| {
            let due = now.checked_sub(SignedDuration::from_mins(number)).unwrap();
            let state = if number % 2 == 0 { RunState::Missed } else { RunState::Skipped };
            NewRun {
                state,
                why: Some("planted".to_owned()),
                ..waiting(&format!("r{number:03}"), due)
            }
        })
        .collect();
    add(&this, &runs);
    let cookie = this.login();
    let ids = |path: &str| -> Vec<String> {
        let links = this.get(path, &cookie).links();
        links.into_iter().filter_map(|link| Some(link.strip_prefix("/runs/")?.to_owned())).collect()
    };
    let expected = |from: usize, until: usize| -> Vec<String> {
        (from..until.min(120)).map(|number| format!("r{number:03}")).collect()
    };
    assert_eq!(ids("/runs"), expected(0, 50));
    assert_eq!(ids("/runs?page=2"), expected(50, 100));
    assert_eq!(ids("/runs?page=3"), expected(100, 120));
    let third = this.get("/runs?page=3", &cookie).body;
    assert!(third.contains("rel=\"prev\"") && !third.contains("rel=\"next\""));
    assert_eq!(ids("/runs?state=missed&page=2").len(), 10);
    assert!(this.get("/runs?page=4", &cookie).body.contains("No run is like this"));
    assert_eq!(this.get("/runs?page=201", &cookie).status, 400);
    // The picture has them all, and the table beside it.
    let timeline = this.get("/timeline?span=week", &cookie).body;
    assert!(timeline.contains("role=\"group\"") && timeline.contains("The same as a table"));
    daemon.end();
}
