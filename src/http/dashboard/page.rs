//! What every page has: head, navigation, what was just done, and where the reader is.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::finder::{Finder, Known};
use super::html::{Html, address, html};
use super::request::Fields;
use super::session::Reader;
use super::words::Words;
use crate::daemon::board::Sheet;
use crate::error::{Error, ErrorKind};
use crate::http::api::Api;
use crate::policy::Policy;

/// The style, and the name that changes with it.
pub const STYLE: &str = include_str!("style.css");
/// The script, which only reloads pages that are about what goes on.
pub const SCRIPT: &str = include_str!("live.js");

/// What a page is made from.
pub struct Scene<'a> {
    /// What may be asked of the daemon.
    pub api: &'a Api,
    /// What is read from repositories.
    pub finder: &'a Finder,
    /// The language.
    pub words: Words,
    /// The time.
    pub now: Timestamp,
    /// What the daemon does.
    pub sheet: Sheet,
    /// The zone of times.
    pub zone: TimeZone,
    /// Its name.
    pub zone_name: String,
    /// Who reads; `None` on the page that asks who it is.
    pub reader: Option<Reader>,
    /// What follows the `?`.
    pub query: Fields,
    /// The path and that, for a link to this very page.
    pub here: String,
}

/// A page without what every page has.
pub struct Page {
    /// Its heading, and the title of the window.
    pub title: String,
    /// The entry of the navigation it belongs to.
    pub part: &'static str,
    /// What is between the heading and the end.
    pub body: Html,
    /// It is about what goes on, and is read again after so many seconds.
    pub live: Option<u32>,
}

impl Page {
    /// A page.
    pub fn new(part: &'static str, title: impl Into<String>, body: Html) -> Self {
        Self { title: title.into(), part, body, live: None }
    }

    /// The same, read again after so many seconds.
    #[must_use]
    pub fn live(self, seconds: u32) -> Self {
        Self { live: Some(seconds), ..self }
    }
}

/// The navigation: path, English, Chinese.
const PARTS: [(&str, &str, &str); 9] = [
    ("", "Overview", "总览"),
    ("runs", "Runs", "运行"),
    ("timeline", "Timeline", "时间线"),
    ("recovery-points", "Recovery points", "恢复点"),
    ("jobs", "Jobs", "任务"),
    ("playbooks", "Playbooks", "预案"),
    ("drills", "Drills", "演练"),
    ("coverage", "Coverage", "验证覆盖"),
    ("growth", "Growth", "存储增长"),
];

impl Scene<'_> {
    /// One of two.
    pub const fn say(&self, en: &'static str, zh: &'static str) -> &'static str {
        self.words.say(en, zh)
    }

    /// An instant: `11-21 14:03`, with the year where it is another one, in the zone of the page.
    pub fn time(&self, at: Timestamp) -> Html {
        let local = at.to_zoned(self.zone.clone());
        let same_year = local.year() == self.now.to_zoned(self.zone.clone()).year();
        let text = local.strftime(if same_year { "%m-%d %H:%M" } else { "%Y-%m-%d %H:%M" });
        let whole = local.strftime("%Y-%m-%d %H:%M:%S %:z").to_string();
        html("<time datetime=\"{}\" title=\"{}\">{}</time>", &[&at, &whole, &text.to_string()])
    }

    /// The same, and how long ago that is, or how soon.
    pub fn when(&self, at: Timestamp) -> Html {
        html("{} <small>{}</small>", &[&self.time(at), &self.distance(at)])
    }

    /// `12 min ago`, `in 3 h`.
    pub fn distance(&self, at: Timestamp) -> String {
        let seconds = self.now.duration_since(at).as_secs();
        let span = self.words.span(seconds.unsigned_abs());
        if seconds >= 0 {
            self.words.pick(|| format!("{span} ago"), || format!("{span}前"))
        } else {
            self.words.pick(|| format!("in {span}"), || format!("{span}后"))
        }
    }

    /// What every form has first.
    pub fn form(&self) -> Html {
        let form = self.reader.as_ref().map(|reader| reader.form.as_str()).unwrap_or_default();
        html("<input type=\"hidden\" name=\"form\" value=\"{}\">", &[&form])
    }

    /// The policy of a stack.
    pub fn policy(&self, stack: &str) -> Option<&Policy> {
        self.sheet.policies.iter().find(|policy| policy.stack == stack)
    }

    /// What a command finds in the repositories.
    pub fn find(&self, args: &[&str], seconds: u64, since: Option<Timestamp>) -> Known {
        let age = std::time::Duration::from_secs(seconds);
        self.finder.find(&self.sheet.path, args, age, since)
    }

    /// What stands where something is still being read.
    pub fn reading(&self) -> Html {
        html(
            "<p class=\"empty\">{}</p>",
            &[&self.say(
                "The repositories are being read. This page comes again by itself when they are.",
                "正在读取存储库，完成后本页会自动刷新。",
            )],
        )
    }

    /// What stands where something could not be read.
    pub fn trouble(&self, error: &Error) -> Html {
        let hints: Html = error.hints().iter().map(|hint| html("<li>{}</li>", &[hint])).collect();
        let hints = if hints.is_empty() { hints } else { html("<ul>{}</ul>", &[&hints]) };
        html(
            "<div class=\"note bad\" role=\"status\"><p><b>{}</b> {}</p>{}</div>",
            &[&self.say("This could not be read:", "读取失败："), &error.chain(), &hints],
        )
    }

    /// When something was read, and why it is not newer.
    pub fn as_of(&self, at: Timestamp, failed: Option<&Error>) -> Html {
        let mut line = html(
            "<p class=\"quiet\">{} {}</p>",
            &[&self.say("Repositories as of", "存储库状态截至"), &self.when(at)],
        );
        if let Some(error) = failed {
            line.push(&self.trouble(error));
        }
        line
    }

    /// A whole page.
    pub fn frame(&self, page: &Page, said: Option<(bool, String)>) -> Html {
        let live = page.live.map(|seconds| self.live(seconds));
        let heading = html("<h1>{}</h1>", &[&page.title]);
        let said = said.map(|(good, text)| {
            let class = if good { "note good" } else { "note bad" };
            html("<p class=\"{}\" role=\"status\">{}</p>", &[&class, &text])
        });
        let reload = page.live.map(|seconds| {
            html(
                "<noscript><meta http-equiv=\"refresh\" content=\"{}\"></noscript><script src=\"{}\" defer></script>",
                &[&seconds, &script_path()],
            )
        });
        html(
            "<!doctype html>\n<html lang=\"{}\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
             <meta name=\"color-scheme\" content=\"light dark\"><title>{} · Backstay</title>\
             <link rel=\"icon\" href=\"data:,\"><link rel=\"stylesheet\" href=\"{}\">{}</head>\n\
             <body{}><a class=\"skip\" href=\"#main\">{}</a>{}<main id=\"main\" tabindex=\"-1\">{}{}{}{}</main>{}</body></html>\n",
            &[
                &self.words.code(),
                &page.title,
                &style_path(),
                &reload,
                &page.live.map(|seconds| html(" data-reload=\"{}\"", &[&seconds])),
                &self.say("Skip to the content", "跳到正文"),
                &self.header(page),
                &heading,
                &said,
                &page.body,
                &live,
                &self.footer(),
            ],
        )
    }

    fn live(&self, seconds: u32) -> Html {
        let text = self.words.pick(
            || format!("This page reads itself again every {seconds} s."),
            || format!("本页每 {seconds} 秒自动刷新。"),
        );
        let still = self.link_with("live", "no");
        html(
            "<p class=\"quiet live\">{} <a href=\"{}\">{}</a></p>",
            &[&text, &still, &self.say("Hold it", "暂停刷新")],
        )
    }

    /// The address of this page with one more of the query.
    pub fn link_with(&self, name: &str, value: &str) -> String {
        let (path, query) = self.here.split_once('?').unwrap_or((&self.here, ""));
        let rest = url::form_urlencoded::parse(query.as_bytes()).filter(|(own, _)| own != name);
        let mut text = url::form_urlencoded::Serializer::new(String::new());
        for (own, value) in rest {
            text.append_pair(&own, &value);
        }
        text.append_pair(name, value);
        format!("{path}?{}", text.finish())
    }

    fn header(&self, page: &Page) -> Html {
        if self.reader.is_none() {
            return html(
                "<header><p class=\"brand\">Backstay</p><p class=\"tools\">{}</p></header>",
                &[&self.language()],
            );
        }
        let entry = |(path, en, zh): &(&str, &'static str, &'static str)| {
            let current = if *path == page.part { " aria-current=\"page\"" } else { "" };
            let current = Html::default().with(current);
            let href = if path.is_empty() { address(&[], &[]) } else { address(&[path], &[]) };
            html("<li><a href=\"{}\"{}>{}</a></li>", &[&href, &current, &self.say(en, zh)])
        };
        let entries: Html = PARTS.iter().map(entry).collect();
        html(
            "<header><p class=\"brand\">Backstay</p><nav aria-label=\"{}\"><ul>{}</ul></nav>\
             <div class=\"tools\">{}<form method=\"post\" action=\"/logout\">{}<button class=\"plain\">{}</button></form></div></header>",
            &[
                &self.say("Pages", "页面"),
                &entries,
                &self.language(),
                &self.form(),
                &self.say("Log out", "退出"),
            ],
        )
    }

    fn language(&self) -> Html {
        let (code, tag, name) = self.words.other();
        let href = self.link_with("lang", code);
        html("<a href=\"{}\" lang=\"{}\" hreflang=\"{}\">{}</a>", &[&href, &tag, &tag, &name])
    }

    fn footer(&self) -> Html {
        let local = self.now.to_zoned(self.zone.clone());
        let now = local.strftime("%Y-%m-%d %H:%M:%S").to_string();
        let offset = local.strftime("%:z").to_string();
        let version = self.reader.as_ref().map(|_| html(" · {}", &[&crate::TOOL]));
        html(
            "<footer><p>{} {} (UTC{}) · {} <time datetime=\"{}\">{}</time>{}</p></footer>",
            &[
                &self.say("Times in", "时区"),
                &self.zone_name,
                &offset,
                &self.say("made at", "生成于"),
                &self.now,
                &now,
                &version,
            ],
        )
    }

    /// A page about an error: what it is, and what to do.
    pub fn failed(&self, error: &Error) -> Page {
        let title = match error.kind() {
            ErrorKind::NotFound => self.say("There is nothing here", "没有找到"),
            ErrorKind::Denied => self.say("This was not allowed", "未被允许"),
            ErrorKind::Conflict | ErrorKind::Busy => {
                self.say("This cannot be done now", "现在无法执行")
            }
            ErrorKind::Unreachable => self.say("Something does not answer", "没有响应"),
            ErrorKind::Usage => self.say("This was not understood", "无法理解该请求"),
            _ => self.say("This did not work", "操作失败"),
        };
        let hints: Html = error.hints().iter().map(|hint| html("<li>{}</li>", &[hint])).collect();
        let hints = if hints.is_empty() { hints } else { html("<ul>{}</ul>", &[&hints]) };
        let back =
            html("<p><a href=\"/\">{}</a></p>", &[&self.say("Back to the overview", "返回总览")]);
        let body = html("<p class=\"lead\">{}</p>{}{}", &[&error.chain(), &hints, &back]);
        Page::new("error", title, body)
    }
}

impl Html {
    /// This with markup of this program behind it.
    #[must_use]
    pub fn with(mut self, markup: &'static str) -> Self {
        self.add(markup, &[]);
        self
    }
}

/// A table in a region of its own, so that only it scrolls where it is wider than the page.
pub fn table(caption: &str, head: &[(&str, &'static str)], rows: &Html) -> Html {
    let cells: Html = head
        .iter()
        .map(|(text, class)| html("<th scope=\"col\" class=\"{}\">{}</th>", &[class, text]))
        .collect();
    html(
        "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"{}\"><table><caption>{}</caption><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>",
        &[&caption, &caption, &cells, &rows.labelled(head)],
    )
}

/// What stands where there is nothing, and what to do.
pub fn empty(text: &str) -> Html {
    html("<p class=\"empty\">{}</p>", &[&text])
}

/// A word, coloured by what it means.
pub fn mark(tone: &'static str, word: &str) -> Html {
    html("<span class=\"mark {}\">{}</span>", &[&tone, &word])
}

fn named(prefix: &str, content: &str, ending: &str) -> String {
    let digest = super::session::digest(content);
    format!("/assets/{prefix}-{}.{ending}", hex::encode(&digest[..6]))
}

/// Where the style lies.
pub fn style_path() -> String {
    named("style", STYLE, "css")
}

/// Where the script lies.
pub fn script_path() -> String {
    named("live", SCRIPT, "js")
}
