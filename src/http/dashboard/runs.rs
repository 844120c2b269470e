//! The runs: what was done, is done and waits.

use jiff::Timestamp;

use super::html::{Html, address, html};
use super::page::{Page, Scene, empty, mark, table};
use super::words::tone;
use crate::error::{Error, Result};
use crate::state::{RunFilter, RunRow, RunState};

/// Runs on a page.
const SHOWN: usize = 50;

/// The furthest page: what lies further back is found by narrowing the list.
const FURTHEST: usize = 200;

/// The page.
pub fn page(scene: &Scene<'_>) -> Result<Page> {
    let query = &scene.query;
    let text = |name: &str| query.get(name).map(str::to_owned);
    let page = match query.get("page") {
        None => 1,
        Some(given) => {
            given.parse().ok().filter(|page| (1..=FURTHEST).contains(page)).ok_or_else(|| {
                Error::usage(format!("`{given}` is no page: there are 1 to {FURTHEST}"))
                    .hint("name a job, a source or a state for what lies further back")
            })?
        }
    };
    let mut states = Vec::new();
    for given in query.all("state").filter(|given| !given.is_empty()) {
        let state = RunState::from_word(given);
        states.push(state.ok_or_else(|| Error::usage(format!("`{given}` is no state of a run")))?);
    }
    let filter = RunFilter {
        stack: text("stack"),
        source: text("source"),
        job: text("job"),
        states,
        skip: (page - 1) * SHOWN,
        // One more shows whether there is another page.
        limit: SHOWN + 1,
        ..RunFilter::default()
    };
    let mut rows = (scene.api.ledger)()?.runs(&filter)?;
    rows.reverse();
    let more = rows.len() > SHOWN;
    rows.truncate(SHOWN);
    let mut body = form(scene);
    if rows.is_empty() {
        body.push(&empty(if page > 1 || is_narrowed(scene) {
            scene.say(
                "No run is like this. Leave something of what is asked for away.",
                "没有符合条件的运行，请放宽筛选条件。",
            )
        } else {
            scene.say(
                "There was no run yet: the first comes when a job is due. A job can be begun by hand under Jobs.",
                "还没有运行。任务到期后会自动开始，也可以在“任务”页面手动执行。",
            )
        }));
    } else {
        let lines: Html = rows.iter().map(|row| line(scene, row)).collect();
        body.push(&list(
            scene,
            scene.say("Runs, the newest first", "运行记录（最新在前）"),
            &lines,
        ));
    }
    body.push(&pages(scene, page, more));
    Ok(Page::new("runs", scene.say("Runs", "运行"), body).live(15))
}

/// A table of runs.
pub fn list(scene: &Scene<'_>, caption: &str, lines: &Html) -> Html {
    table(
        caption,
        &[
            (scene.say("Due", "计划时间"), ""),
            (scene.say("What", "内容"), ""),
            (scene.say("State", "状态"), ""),
            (scene.say("Took", "耗时"), "number"),
            (scene.say("What came of it", "结果"), ""),
        ],
        lines,
    )
}

/// `STACK/SOURCE job`.
pub fn what(run: &RunRow) -> String {
    let slash = if run.slot.source.is_empty() { "" } else { "/" };
    format!("{}{slash}{} {}", run.slot.stack, run.slot.source, run.slot.job)
}

/// How long a run took, or takes until now. One that waits to be tried again, or was never begun, takes
/// no time.
pub fn seconds(run: &RunRow, now: Timestamp) -> Option<f64> {
    let until = match run.state {
        RunState::Running => now,
        RunState::Succeeded | RunState::Failed | RunState::Abandoned => run.ended?,
        RunState::Waiting | RunState::Skipped | RunState::Missed => return None,
    };
    Some(until.duration_since(run.started?).as_secs_f64())
}

/// A row of a table of runs.
pub fn line(scene: &Scene<'_>, run: &RunRow) -> Html {
    let took = seconds(run, scene.now).map(|seconds| scene.words.took(seconds));
    let outcome = match (run.state, &run.backup, &run.why) {
        (RunState::Succeeded, Some(backup), _) => html("<code>{}</code>", &[backup]),
        (_, _, Some(why)) => html("{}", &[&why.lines().next().unwrap_or_default()]),
        _ if run.cancelled && !run.state.is_final() => {
            html("{}", &[&scene.say("told to end", "已要求结束")])
        }
        _ => Html::default(),
    };
    let tries = (run.attempts > 1).then(|| {
        let tries = scene.words.count(run.attempts.into(), "attempt", "attempts", "次尝试");
        html(" <small>{}</small>", &[&tries])
    });
    html(
        "<tr><td class=\"nowrap\">{}</td><th scope=\"row\"><a href=\"{}\">{}</a></th><td>{}</td><td class=\"number\">{}</td><td class=\"long\">{}{}</td></tr>",
        &[
            &scene.time(run.due),
            &address(&["runs", &run.id], &[]),
            &what(run),
            &mark(tone(run.state), scene.words.state(run.state)),
            &took,
            &outcome,
            &tries,
        ],
    )
}

fn is_narrowed(scene: &Scene<'_>) -> bool {
    ["stack", "source", "job", "state"].iter().any(|name| scene.query.get(name).is_some())
}

/// What narrows the list.
fn form(scene: &Scene<'_>) -> Html {
    let pick = |name: &'static str, label: &'static str, all: Vec<(&str, &str)>| {
        let chosen = scene.query.get(name);
        let options: Html = all
            .iter()
            .map(|(value, text)| {
                let selected = if chosen == Some(value) { " selected" } else { "" };
                html(
                    "<option value=\"{}\"{}>{}</option>",
                    &[value, &Html::default().with(selected), text],
                )
            })
            .collect();
        html(
            "<label>{} <select name=\"{}\"><option value=\"\">{}</option>{}</select></label>",
            &[&label, &name, &scene.say("all", "全部"), &options],
        )
    };
    let mut names: [Vec<(&str, &str)>; 3] = Default::default();
    for policy in &*scene.sheet.policies {
        names[0].push((&policy.stack, &policy.stack));
        names[1].extend(policy.sources.keys().map(|name| (name.as_str(), name.as_str())));
        names[2].extend(policy.jobs.keys().map(|name| (name.as_str(), name.as_str())));
    }
    for list in &mut names {
        list.sort_unstable();
        list.dedup();
    }
    let [stacks, sources, jobs] = names;
    let states = ["waiting", "running", "succeeded", "failed", "skipped", "missed", "abandoned"];
    let states = states
        .iter()
        .filter_map(|word| Some((*word, scene.words.state(RunState::from_word(word)?))));
    html(
        "<form class=\"narrow\" method=\"get\" action=\"/runs\" role=\"search\">{}{}{}{}<button>{}</button></form>",
        &[
            &pick("stack", scene.say("Stack", "应用栈"), stacks),
            &pick("source", scene.say("Source", "数据源"), sources),
            &pick("job", scene.say("Job", "任务"), jobs),
            &pick("state", scene.say("State", "状态"), states.collect()),
            &scene.say("Show", "筛选"),
        ],
    )
}

fn pages(scene: &Scene<'_>, page: usize, more: bool) -> Html {
    let link = |to: usize, rel: &'static str, text: &'static str| {
        let href = scene.link_with("page", &to.to_string());
        html("<a rel=\"{}\" href=\"{}\">{}</a>", &[&rel, &href, &text])
    };
    let newer = (page > 1).then(|| link(page - 1, "prev", scene.say("← Newer", "← 较新")));
    let older =
        (more && page < FURTHEST).then(|| link(page + 1, "next", scene.say("Older →", "较旧 →")));
    if newer.is_none() && older.is_none() {
        return Html::default();
    }
    let number = scene.words.pick(|| format!("Page {page}"), || format!("第 {page} 页"));
    html(
        "<nav class=\"pages\" aria-label=\"{}\">{} <span>{}</span> {}</nav>",
        &[&scene.say("Pages of runs", "运行分页"), &newer, &number, &older],
    )
}
