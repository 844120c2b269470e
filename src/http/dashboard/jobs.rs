//! The jobs: what is done when, what came of it last, and having one done now.

use std::collections::BTreeMap;

use super::html::{Html, address, html};
use super::page::{Page, Scene, empty, mark, table};
use super::request::Fields;
use super::run::missing;
use super::words::tone;
use crate::daemon::trigger::{Wish, is_asked_for};
use crate::error::Result;
use crate::policy::{Job, Policy, Schedule, Work};
use crate::state::{Ledger, RunFilter, RunRow, RunState};

/// The page.
pub fn page(scene: &Scene<'_>) -> Result<Page> {
    let ledger = (scene.api.ledger)()?;
    let only = scene.query.get("stack");
    let mut body = Html::default();
    let policies = scene.sheet.policies.iter();
    for policy in policies.filter(|policy| only.is_none_or(|stack| stack == policy.stack)) {
        body.push(&stack(scene, &*ledger, policy)?);
    }
    if body.is_empty() {
        body = empty(scene.say(
            "There are no jobs. Write `jobs` into a policy: without them nothing is done by itself.",
            "没有任务。请在策略中编写 `jobs`，否则不会自动执行任何操作。",
        ));
    }
    Ok(Page::new("jobs", scene.say("Jobs", "任务"), body))
}

/// Begins a job.
pub fn trigger(scene: &Scene<'_>, form: &Fields) -> Result<(String, String)> {
    let job = form.get("job").ok_or_else(|| missing(scene, "job"))?;
    let wish = Wish {
        stack: form.get("stack").map(str::to_owned),
        job: job.to_owned(),
        sources: form.all("source").filter(|one| !one.is_empty()).map(str::to_owned).collect(),
    };
    let runs = scene.api.begin(&wish)?;
    let text = scene.words.pick(
        || match runs.len() {
            1 => "1 run was asked for. It begins when there is room for it.".to_owned(),
            many => format!("{many} runs were asked for. They begin when there is room for them."),
        },
        || format!("已请求 {} 个运行，有空位时开始。", runs.len()),
    );
    let stack = runs.first().map(|run| run.slot.stack.clone()).unwrap_or_default();
    Ok((address(&["runs"], &[("stack", &stack), ("job", job)]), text))
}

fn stack(scene: &Scene<'_>, ledger: &dyn Ledger, policy: &Policy) -> Result<Html> {
    let mut rows = Html::default();
    for (name, job) in &policy.jobs {
        let filter = RunFilter {
            stack: Some(policy.stack.clone()),
            job: Some(name.clone()),
            states: crate::state::OUTCOMES.to_vec(),
            limit: 64,
            ..RunFilter::default()
        };
        let mut runs = ledger.runs(&filter)?;
        // One that a schedule names is left out as a matter of course; one that somebody asked for is not.
        let skipped = RunFilter { states: vec![RunState::Skipped], limit: 16, ..filter };
        runs.extend(ledger.runs(&skipped)?.into_iter().filter(is_asked_for));
        runs.sort_by_key(|run| run.ended.unwrap_or(run.due));
        rows.push(&row(scene, policy, name, job, &runs));
    }
    if rows.is_empty() {
        return Ok(Html::default());
    }
    let caption = scene
        .words
        .pick(|| format!("Jobs of {}", policy.stack), || format!("{} 的任务", policy.stack));
    Ok(html(
        "<section><h2>{}</h2>{}</section>",
        &[
            &policy.stack,
            &table(
                &caption,
                &[
                    (scene.say("Job", "任务"), ""),
                    (scene.say("Does", "内容"), ""),
                    (scene.say("Schedule", "计划"), ""),
                    (scene.say("Next", "下次"), ""),
                    (scene.say("Last", "上次"), ""),
                    (scene.say("Begin now", "立即执行"), ""),
                ],
                &rows,
            ),
        ],
    ))
}

fn row(scene: &Scene<'_>, policy: &Policy, name: &str, job: &Job, runs: &[RunRow]) -> Html {
    let sources: Vec<&str> =
        policy.sources.keys().map(String::as_str).filter(|source| job.covers(source)).collect();
    let verb = job.kind().map_or_else(|| job.work.verb().to_owned(), |kind| kind.to_string());
    let does = match &job.work {
        Work::Copy(copy) => html("{} → {}", &[&scene.words.kind(&verb), &copy.to]),
        _ if sources.is_empty() => html("{}", &[&scene.words.kind(&verb)]),
        _ => html("{} <small>{}</small>", &[&scene.words.kind(&verb), &sources.join(", ")]),
    };
    let due = scene.sheet.due.get(&(policy.stack.clone(), name.to_owned())).copied().flatten();
    let due = due.map(|due| scene.when(due));
    // Of each source the newest.
    let mut last: BTreeMap<&str, &RunRow> = BTreeMap::new();
    for run in runs {
        last.insert(&run.slot.source, run);
    }
    let last: Html = last
        .into_values()
        .map(|run| {
            let source = if run.slot.source.is_empty() { name } else { &run.slot.source };
            let why = run.why.as_deref().filter(|_| run.state == RunState::Skipped);
            html(
                "<li>{} <a href=\"{}\">{}</a> <small>{} {}</small></li>",
                &[
                    &mark(tone(run.state), scene.words.state(run.state)),
                    &address(&["runs", &run.id], &[]),
                    &source,
                    &scene.distance(run.ended.unwrap_or(run.due)),
                    &why.and_then(|why| why.lines().next()),
                ],
            )
        })
        .collect();
    let last = if last.is_empty() {
        html("<span class=\"quiet\">{}</span>", &[&scene.say("never", "从未")])
    } else {
        html("<ul class=\"plain\">{}</ul>", &[&last])
    };
    html(
        "<tr><th scope=\"row\"><a href=\"{}\">{}</a></th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
        &[
            &address(&["runs"], &[("stack", &policy.stack), ("job", name)]),
            &name,
            &does,
            &schedule(scene, &job.schedule),
            &due,
            &last,
            &begin(scene, policy, name, job, &sources),
        ],
    )
}

/// The form that begins a job.
fn begin(scene: &Scene<'_>, policy: &Policy, name: &str, job: &Job, sources: &[&str]) -> Html {
    let by_source = job.kind().is_some() && sources.len() > 1;
    let only = by_source.then(|| {
        let options: Html =
            sources.iter().map(|source| html("<option>{}</option>", &[source])).collect();
        let label =
            scene.words.pick(|| format!("Sources of {name}"), || format!("{name} 的数据源"));
        html(
            "<select name=\"source\" aria-label=\"{}\"><option value=\"\">{}</option>{}</select> ",
            &[&label, &scene.say("all sources", "全部数据源"), &options],
        )
    });
    let label = scene.words.pick(|| format!("Begin {name} now"), || format!("立即执行 {name}"));
    html(
        "<form class=\"inline\" method=\"post\" action=\"/jobs\">{}<input type=\"hidden\" name=\"stack\" value=\"{}\"><input type=\"hidden\" name=\"job\" value=\"{}\">{}<button aria-label=\"{}\">{}</button></form>",
        &[&scene.form(), &policy.stack, &name, &only, &label, &scene.say("Begin", "执行")],
    )
}

fn schedule(scene: &Scene<'_>, schedule: &Schedule) -> Html {
    match schedule {
        Schedule::Cron(cron) => html("<code>{}</code>", &[&cron.to_string()]),
        Schedule::Every(period) => html("{} {}", &[&scene.say("every", "每"), &period.to_string()]),
        Schedule::After(jobs) => {
            html("{} {}", &[&scene.say("after", "在其后："), &jobs.join(", ")])
        }
    }
}
