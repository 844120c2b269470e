//! The dashboard: who may read it, which page an address is, and what is done there.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use http::{Method, StatusCode};
use jiff::tz::TimeZone;

use super::finder::Finder;
use super::html::{Html, html, segments};
use super::page::{Page, SCRIPT, STYLE, Scene, script_path, style_path};
use super::request::{Fields, Reply, Request};
use super::session::{LASTS, Reader, Sessions, digest, same};
use super::words::Words;
use super::{
    backup, calendar, coverage, drill, drills, growth, jobs, overview, playbook_run, playbooks,
    run, runs, timeline,
};
use crate::error::{Error, ErrorKind, Result};
use crate::http::api::Api;
use crate::state::State;

/// The dashboard of a daemon.
pub struct Dashboard {
    api: Arc<Api>,
    finder: Finder,
    sessions: Sessions,
    /// Where the state lies, opened when it is first read.
    directory: PathBuf,
    state: Mutex<Option<State>>,
    /// Connections are encrypted.
    encrypted: bool,
    /// Cookies of several daemons of one host are told apart by it.
    port: u16,
}

impl Dashboard {
    /// The dashboard of what `api` speaks for.
    pub fn new(api: Arc<Api>, directory: PathBuf, encrypted: bool, port: u16) -> Self {
        let finder = Finder::new(api.program.clone(), api.clock.clone());
        let (sessions, state) = (Sessions::default(), Mutex::default());
        Self { api, finder, sessions, directory, state, encrypted, port }
    }

    /// Answers. Blocks on files and on the state, and for a moment on repositories.
    pub fn answer(&self, request: &Request) -> Reply {
        match request.path.as_str() {
            path if path == style_path() => return Reply::asset("text/css; charset=utf-8", STYLE),
            path if path == script_path() => {
                return Reply::asset("text/javascript; charset=utf-8", SCRIPT);
            }
            _ => {}
        }
        let query = Fields::parse(request.query.as_bytes());
        let words =
            Words::of(query.get("lang"), request.cookie(LANGUAGE), request.languages.as_deref());
        let mut scene = self.scene(request, query, words);
        let mut reply = match self.route(request, &mut scene) {
            Ok(reply) => reply,
            Err(error) => {
                let status = match error.kind() {
                    ErrorKind::Usage | ErrorKind::Policy => StatusCode::BAD_REQUEST,
                    ErrorKind::NotFound => StatusCode::NOT_FOUND,
                    ErrorKind::Denied => StatusCode::FORBIDDEN,
                    ErrorKind::Conflict | ErrorKind::Busy => StatusCode::CONFLICT,
                    ErrorKind::Unreachable => StatusCode::SERVICE_UNAVAILABLE,
                    _ => StatusCode::INTERNAL_SERVER_ERROR,
                };
                Reply::page(status, scene.frame(&scene.failed(&error), None))
            }
        };
        if let Some(language) = scene.query.get("lang").filter(|asked| ["en", "zh"].contains(asked))
        {
            let cookie =
                format!("{LANGUAGE}={language}; Path=/; Max-Age=31536000; SameSite=Strict");
            reply.cookies.push(format!("{cookie}{}", self.secure()));
        }
        reply
    }

    fn scene(&self, request: &Request, query: Fields, words: Words) -> Scene<'_> {
        let sheet = self.api.board.sheet();
        let stack = query.get("stack").map(str::to_owned);
        let mut policies = sheet.policies.iter();
        let zone_name = policies
            .clone()
            .find(|policy| Some(&policy.stack) == stack.as_ref())
            .or_else(|| policies.next())
            .map_or_else(|| "UTC".to_owned(), |policy| policy.timezone.clone());
        let question = if request.query.is_empty() { "" } else { "?" };
        Scene {
            api: &self.api,
            finder: &self.finder,
            words,
            now: self.api.clock.now(),
            sheet,
            zone: TimeZone::get(&zone_name).unwrap_or(TimeZone::UTC),
            zone_name,
            reader: None,
            query,
            here: format!("{}{question}{}", request.path, request.query),
        }
    }

    fn route(&self, request: &Request, scene: &mut Scene<'_>) -> Result<Reply> {
        let nothing = || Error::not_found(format!("there is no page at {}", request.path));
        let found = segments(&request.path);
        let path: Vec<&str> = found.iter().flatten().map(String::as_str).collect();
        if path == ["login"] {
            return self.login(request, scene);
        }
        let token = self.api.token.in_force()?;
        let cookie = request.cookie(&self.cookie());
        let reader = cookie.and_then(|cookie| self.sessions.reader(cookie, token, scene.now));
        let Some(reader) = reader else {
            if request.method == Method::POST {
                return Err(Error::new(ErrorKind::Denied, "nobody is logged in")
                    .hint("log in, and do it again"));
            }
            let next = [("next", scene.here.as_str())];
            let next: &[(&str, &str)] = if scene.here == "/" { &[] } else { &next };
            return Ok(Reply::elsewhere(super::html::address(&["login"], next)));
        };
        scene.reader = Some(reader.clone());
        if found.is_none() {
            return Err(nothing());
        }
        if request.method == Method::POST {
            return self.act(request, scene, &reader, &path);
        }
        if scene.sheet.loaded.is_none() {
            return Err(Error::new(ErrorKind::Unreachable, "the daemon is starting")
                .hint("it reads its policies: come again in a few seconds"));
        }
        let page = match path[..] {
            [] => self.with_state(|state| overview::page(scene, state))?,
            ["runs"] => runs::page(scene)?,
            ["runs", id] => run::page(scene, id)?,
            ["timeline"] => timeline::page(scene)?,
            ["recovery-points"] => self.with_state(|state| calendar::page(scene, state))?,
            ["backups", repository, stack, source, id] => self
                .with_state(|state| backup::page(scene, state, (repository, stack, source, id)))?,
            ["jobs"] => jobs::page(scene)?,
            ["playbooks"] => playbooks::page(scene)?,
            ["playbooks", "run", run] => playbook_run::page(scene, run)?,
            ["playbooks", "plan", stack, name] => playbooks::plan(scene, stack, name)?,
            ["drills"] => self.with_state(|state| drills::page(scene, state))?,
            ["drills", id] => drill::page(scene, id)?,
            ["drills", id, "report"] => return drill::report(scene, id),
            ["coverage"] => self.with_state(|state| coverage::page(scene, state))?,
            ["growth"] => growth::page(scene)?,
            _ => return Err(nothing()),
        };
        let page = match scene.query.get("live") {
            Some("no") => Page { live: None, ..page },
            _ => page,
        };
        let said = self.sessions.said(&reader);
        Ok(Reply::page(StatusCode::OK, scene.frame(&page, said)))
    }

    /// What a form asks for. It says what came of it on the page that it leads to.
    fn act(
        &self,
        request: &Request,
        scene: &Scene<'_>,
        reader: &Reader,
        path: &[&str],
    ) -> Result<Reply> {
        let form = Fields::parse(&request.body);
        let given = form.get("form").unwrap_or_default();
        if !request.is_own() || !same(given, &reader.form) {
            return Err(Error::new(
                ErrorKind::Denied,
                "this form was not sent by a page of this site",
            )
            .hint("open the page again, and send it from there"));
        }
        let done = match *path {
            ["logout"] => {
                self.sessions.close(reader);
                let mut reply = Reply::elsewhere("/login".to_owned());
                reply.cookies.push(self.set_cookie("", 0));
                return Ok(reply);
            }
            ["jobs"] => jobs::trigger(scene, &form),
            ["runs", id] => run::cancel(scene, id),
            ["playbooks", "run", id] => playbook_run::approve(scene, id, &form),
            _ => return Err(Error::not_found(format!("nothing is done at {}", request.path))),
        };
        match done {
            Ok((to, text)) => {
                self.sessions.say(reader, true, text);
                Ok(Reply::elsewhere(to))
            }
            Err(error) => Err(error),
        }
    }

    fn login(&self, request: &Request, scene: &mut Scene<'_>) -> Result<Reply> {
        let form = Fields::parse(&request.body);
        let next = form.get("next").or_else(|| scene.query.get("next")).unwrap_or("/").to_owned();
        // Only to a page of this site: what begins with two slashes is another one.
        // Browsers leave out what cannot be seen, so it does not get in.
        let seen = next.chars().all(|char| char.is_ascii_graphic() && char != '\\');
        let inside = seen && next.starts_with('/') && !next.starts_with("//");
        let next = if inside { next } else { "/".to_owned() };
        if request.method != Method::POST {
            return Ok(Reply::page(StatusCode::OK, ask(scene, &next, None)));
        }
        if !request.is_own() {
            return Err(Error::new(
                ErrorKind::Denied,
                "this form was not sent by a page of this site",
            )
            .hint("open /login in the browser, and log in there"));
        }
        if !self.sessions.may_try(request.from, scene.now) {
            let text = scene.say(
                "Too many wrong tokens came from there. Wait a minute.",
                "错误次数过多，请一分钟后再试。",
            );
            let page = ask(scene, &next, Some(text));
            let reply = Reply::page(StatusCode::TOO_MANY_REQUESTS, page);
            return Ok(Reply { again: Some(60), ..reply });
        }
        let token = self.api.token.in_force()?;
        if digest(form.get("token").unwrap_or_default().trim()) != token {
            self.sessions.was_wrong(request.from, scene.now);
            let text = scene.say("This is not the token of the daemon.", "令牌不正确。");
            return Ok(Reply::page(StatusCode::FORBIDDEN, ask(scene, &next, Some(text))));
        }
        let cookie = self.sessions.open(token, scene.now)?;
        let mut reply = Reply::elsewhere(next);
        reply.cookies.push(self.set_cookie(&cookie, LASTS.as_secs()));
        Ok(reply)
    }

    fn with_state<T>(&self, read: impl FnOnce(&State) -> Result<T>) -> Result<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let open = match state.take() {
            Some(open) => open,
            None => State::open(&self.directory, self.api.clock.now())?,
        };
        let found = read(&open);
        // One that could not be read is opened again next time.
        *state = found.is_ok().then_some(open);
        found
    }

    fn cookie(&self) -> String {
        format!("backstay-{}", self.port)
    }

    fn set_cookie(&self, value: &str, seconds: i64) -> String {
        format!(
            "{}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{}",
            self.cookie(),
            self.secure()
        )
    }

    const fn secure(&self) -> &'static str {
        if self.encrypted { "; Secure" } else { "" }
    }
}

/// The cookie that remembers the language.
const LANGUAGE: &str = "backstay-language";

/// The page that asks who it is.
fn ask(scene: &Scene<'_>, next: &str, wrong: Option<&str>) -> Html {
    let wrong = wrong
        .map(|text| html("<p class=\"note bad\" role=\"alert\" id=\"wrong\">{}</p>", &[&text]));
    // A browser keeps a strict cookie to itself where it comes from another site; from here it does not.
    let again = if next == "/" {
        None
    } else {
        Some(html(
            "<p class=\"quiet\">{} <a href=\"{}\">{}</a></p>",
            &[
                &scene.say(
                    "You followed a link and are logged in already?",
                    "已经登录，从其他链接进入？",
                ),
                &next,
                &scene.say("Open the page", "打开页面"),
            ],
        ))
    };
    let body = html(
        "<p>{}</p>{}<form method=\"post\" action=\"/login\" class=\"login\"><input type=\"hidden\" name=\"next\" value=\"{}\">\
         <label for=\"token\">{}</label><input id=\"token\" name=\"token\" type=\"password\" autocomplete=\"current-password\" required autofocus spellcheck=\"false\">\
         <button>{}</button></form>{}",
        &[
            &scene.say(
                "The token is in the file that the daemon was started with (--token-file).",
                "令牌保存在启动守护进程时指定的文件中（--token-file）。",
            ),
            &wrong,
            &next,
            &scene.say("Token", "令牌"),
            &scene.say("Log in", "登录"),
            &again,
        ],
    );
    scene.frame(&Page::new("login", scene.say("Log in", "登录"), body), None)
}
