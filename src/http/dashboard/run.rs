//! A run: what it is, what came of it, what it said.

use std::io::Read as _;

use serde_json::Value;

use super::html::{Html, address, html};
use super::page::{Page, Scene, empty, mark};
use super::runs::{seconds, what};
use super::words::{grouped, size, tone};
use crate::daemon::words;
use crate::error::{Error, IoContext as _, Result};
use crate::http::api::find;
use crate::state::{Ledger, RunRow, RunState};

/// The most of what a run said that is read: the end of it.
const WORDS: u64 = 256 << 10;

/// The most lines of it that are shown.
const LINES: usize = 300;

/// The page.
pub fn page(scene: &Scene<'_>, id: &str) -> Result<Page> {
    let ledger = (scene.api.ledger)()?;
    let run = find(&*ledger, id)?;
    let mut body = html(
        "<p class=\"lead\">{} {}</p>",
        &[
            &mark(tone(run.state), scene.words.state(run.state)),
            &run.why.as_ref().map(|why| html("{}", &[why])),
        ],
    );
    body.push(&facts(scene, &run));
    if !run.state.is_final() {
        body.push(&ending(scene, &run));
    }
    body.add("<h2>{}</h2>", &[&scene.say("What it said", "运行日志")]);
    body.push(&said(scene, &*ledger, &run)?);
    let page = Page::new("runs", what(&run), body);
    Ok(if run.state.is_final() { page } else { page.live(5) })
}

/// Ends a run.
pub fn cancel(scene: &Scene<'_>, id: &str) -> Result<(String, String)> {
    let run = scene.api.end(id)?;
    let text = if run.state.is_final() {
        scene.say("The run does not begin.", "运行已取消。")
    } else {
        scene.say(
            "The run was told to end: it does within seconds, and what it stored is never listed.",
            "已要求结束，几秒内生效；已写入的内容不会被列出。",
        )
    };
    Ok((address(&["runs", &run.id], &[]), text.to_owned()))
}

fn facts(scene: &Scene<'_>, run: &RunRow) -> Html {
    let mut list = Html::default();
    let mut fact = |name: &'static str, value: Html| {
        if !value.is_empty() {
            list.add("<div><dt>{}</dt><dd>{}</dd></div>", &[&name, &value]);
        }
    };
    let when = |at: Option<jiff::Timestamp>| at.map(|at| scene.when(at)).unwrap_or_default();
    fact(scene.say("Run", "运行"), html("<code>{}</code>", &[&run.id]));
    fact(scene.say("Due", "计划时间"), scene.when(run.due));
    if run.state == RunState::Waiting {
        let what = if run.attempts > 0 {
            scene.say("Tried again", "重试时间")
        } else {
            scene.say("Not before", "最早开始")
        };
        fact(what, scene.when(run.not_before));
    }
    fact(scene.say("Began", "开始"), when(run.started));
    fact(scene.say("Ended", "结束"), when(run.ended));
    if let Some(seconds) = seconds(run, scene.now) {
        fact(scene.say("Took", "耗时"), html("{}", &[&scene.words.took(seconds)]));
    }
    fact(scene.say("Attempts", "尝试次数"), html("{}", &[&run.attempts]));
    if let Some(owner) = &run.owner {
        fact(scene.say("By the daemon", "守护进程"), html("{}", &[owner]));
    }
    let slot = &run.slot;
    if let Some(backup) = &run.backup {
        let home = scene.policy(&slot.stack).and_then(|policy| policy.repository_of(&slot.source));
        let shown = match home {
            Some((repository, _)) => html(
                "<a href=\"{}\"><code>{}</code></a>",
                &[
                    &address(&["backups", repository, &slot.stack, &slot.source, backup], &[]),
                    backup,
                ],
            ),
            None => html("<code>{}</code>", &[backup]),
        };
        fact(scene.say("Backup", "备份"), shown);
    }
    fact(scene.say("Scheduled as", "计划标识"), html("{}", &[&slot.nominal]));
    html("<dl>{}</dl>", &[&list])
}

fn ending(scene: &Scene<'_>, run: &RunRow) -> Html {
    if run.cancelled {
        return html(
            "<p class=\"note warn\">{}</p>",
            &[&scene.say("It was told to end.", "已要求结束。")],
        );
    }
    html(
        "<details><summary>{}</summary><form method=\"post\" action=\"{}\">{}<p>{}</p><button class=\"danger\">{}</button></form></details>",
        &[
            &scene.say("End this run…", "结束此运行…"),
            &address(&["runs", &run.id], &[]),
            &scene.form(),
            &scene.say(
                "What it stored so far is never listed, and is collected later. The schedule stays as it is.",
                "已写入的内容不会被列出，之后会被清理。计划不变。",
            ),
            &scene.say("End the run", "结束运行"),
        ],
    )
}

fn said(scene: &Scene<'_>, ledger: &dyn Ledger, run: &RunRow) -> Result<Html> {
    let nothing = || {
        empty(match run.state {
            RunState::Waiting => scene.say("Nothing yet: it has not begun.", "尚未开始。"),
            RunState::Running => scene.say("Nothing yet.", "暂无输出。"),
            _ => scene.say("Nothing, or it is kept no longer.", "没有输出，或已不再保留。"),
        })
    };
    let words = match words::of(ledger, &scene.api.logs, run, Some(WORDS)) {
        Ok(words) => words,
        Err(error) if error.kind() == crate::error::ErrorKind::NotFound => return Ok(nothing()),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    words
        .take(WORDS)
        .read_to_end(&mut bytes)
        .doing(|| format!("failed to read what run {} said", run.id))?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines: Vec<Html> = text.lines().filter_map(|line| told(scene, line)).collect();
    let cut = lines.len().saturating_sub(LINES);
    lines.drain(..cut);
    if lines.is_empty() {
        return Ok(nothing());
    }
    let cut = (cut > 0 || bytes.len() as u64 == WORDS).then(|| {
        let what = scene.say("The end of it; all of it:", "仅显示末尾，完整日志：");
        html("<p class=\"quiet\">{} <code>backstay logs {}</code></p>", &[&what, &run.id])
    });
    Ok(html("{}<ol class=\"log\">{}</ol>", &[&cut, &lines]))
}

/// A line as it is read; `None` for what only moves a bar.
fn told(scene: &Scene<'_>, line: &str) -> Option<Html> {
    let plain = || Some(html("<li>{}</li>", &[&line]));
    if line.trim().is_empty() {
        return None;
    }
    let Ok(Value::Object(event)) = serde_json::from_str(line) else { return plain() };
    let text = |name: &str| event.get(name).and_then(Value::as_str);
    match text("event") {
        Some("progress") => None,
        Some("started") => Some(html(
            "<li>{} {} <b>{}</b></li>",
            &[
                &scene.say("begins:", "开始："),
                &text("verb").unwrap_or_default(),
                &text("source").unwrap_or_default(),
            ],
        )),
        Some("phase") => {
            Some(html("<li class=\"quiet\">{}</li>", &[&text("phase").unwrap_or_default()]))
        }
        Some("note") => Some(html("<li>{}</li>", &[&text("message").unwrap_or_default()])),
        Some("warning") => Some(html(
            "<li class=\"warn\"><b>{}</b> {}{}</li>",
            &[
                &scene.say("warning", "警告"),
                &text("subject").map(|subject| html("{}: ", &[&subject])),
                &text("message").unwrap_or_default(),
            ],
        )),
        Some("error") => {
            let hints = event.get("hints").and_then(Value::as_array).into_iter().flatten();
            let hints: Html = hints
                .filter_map(Value::as_str)
                .map(|hint| {
                    html("<br><small>{} {}</small>", &[&scene.say("to do:", "处理："), &hint])
                })
                .collect();
            let said = text("chain").or_else(|| text("message")).unwrap_or_default();
            Some(html(
                "<li class=\"bad\"><b>{}</b> {}{}</li>",
                &[&scene.say("error", "错误"), &said, &hints],
            ))
        }
        _ => Some(data(scene, &event).unwrap_or_else(|| html("<li>{}</li>", &[&line]))),
    }
}

/// What a backup printed of itself.
fn data(scene: &Scene<'_>, value: &serde_json::Map<String, Value>) -> Option<Html> {
    let (backup, counts) = (value.get("backup")?.as_str()?, value.get("counts"));
    let number = |name: &str| counts.and_then(|counts| counts.get(name)).and_then(Value::as_u64);
    let files = number("files")
        .map(|files| html(", {} {}", &[&grouped(files), &scene.say("files", "个文件")]));
    let stored = number("stored_bytes")
        .map(|bytes| html(", {} {}", &[&size(bytes), &scene.say("stored", "已存储")]));
    Some(html(
        "<li>{} <code>{}</code>{}{}</li>",
        &[&scene.say("backup", "备份"), &backup, &files, &stored],
    ))
}

/// The error for something that a form left out.
pub fn missing(scene: &Scene<'_>, name: &'static str) -> Error {
    let message =
        scene.words.pick(|| format!("`{name}` was not given"), || format!("缺少 `{name}`"));
    Error::usage(message).hint(scene.say("go back, and fill it in", "请返回并填写"))
}
