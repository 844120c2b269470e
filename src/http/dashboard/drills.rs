//! The drills: what was recovered for practice, what that came to, and what it proves of which source.
//!
//! What is shown is the evidence in the repositories, read beside the pages: a repository that does not
//! answer holds no page up.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Deserialize;

use super::finder::Known;
use super::html::{Html, address, html};
use super::page::{Page, Scene, empty, mark, table};
use super::standing::sources;
use crate::drill::coverage::Covered;
use crate::drill::evidence::{Scenario, Scope, Verdict};
use crate::drill::report;
use crate::error::Result;
use crate::policy::Drill;
use crate::state::{OUTCOMES, RunFilter, State};

/// How old a listing may be, in seconds.
const AGE: u64 = 300;

/// The most drills that are shown.
const MOST: usize = 200;

/// A proof is new for so many days, and old after so many.
const NEW: i64 = 31;
const OLD: i64 = 100;

/// A drill, as `backstay drill list` has it.
#[derive(Debug, Deserialize)]
struct Row {
    drill: String,
    stack: String,
    name: Option<String>,
    started: Option<Timestamp>,
    scenario: Option<Scenario>,
    scope: Option<Scope>,
    #[serde(default)]
    partial: bool,
    verdict: Option<Verdict>,
    #[serde(default)]
    aborted: bool,
    rto_seconds: Option<f64>,
    rto_target_seconds: Option<u64>,
    rpo_seconds: Option<f64>,
    rpo_target_seconds: Option<u64>,
    gravest: Option<String>,
    problem: Option<String>,
}

/// The page.
pub fn page(scene: &Scene<'_>, state: &State) -> Result<Page> {
    let title = scene.say("Drills", "演练");
    let mut body = away(scene, state)?;
    let since = ended(scene)?;
    let mut reading = false;
    match scene.find(&["drill", "list"], AGE, since) {
        Known::Found(found, failed) => {
            let all: &[serde_json::Value] = found.value.as_array().map_or(&[], Vec::as_slice);
            let rows = all.iter().rev().filter_map(|line| Row::deserialize(line).ok());
            let only = (scene.query.get("stack"), scene.query.get("name"));
            let rows = rows.filter(|row| {
                only.0.is_none_or(|stack| stack == row.stack)
                    && only.1.is_none_or(|name| Some(name) == row.name.as_deref())
            });
            body.push(&list(scene, &rows.take(MOST).collect::<Vec<_>>()));
            body.push(&scene.as_of(found.at, failed.as_ref()));
        }
        Known::Reading => {
            reading = true;
            body.push(&scene.reading());
        }
        Known::Failed(error) => body.push(&scene.trouble(&error)),
    }
    if !reading {
        body.push(&coverage(scene, since, &mut reading));
    }
    let page = Page::new("drills", title, body);
    Ok(if reading { page.live(2) } else { page })
}

/// When a drill of a policy was last over: what was read before is old.
fn ended(scene: &Scene<'_>) -> Result<Option<Timestamp>> {
    let ledger = (scene.api.ledger)()?;
    let mut last = None;
    for policy in &*scene.sheet.policies {
        for name in policy.drills.keys() {
            let filter = RunFilter {
                stack: Some(policy.stack.clone()),
                job: Some(Drill::job_name(name)),
                states: OUTCOMES.to_vec(),
                limit: 1,
                ..RunFilter::default()
            };
            last = last.max(ledger.runs(&filter)?.pop().and_then(|run| run.ended));
        }
    }
    Ok(last)
}

/// Repositories that did not answer when the daemon last looked: what lies there is not shown.
fn away(scene: &Scene<'_>, state: &State) -> Result<Html> {
    let sources = sources(scene, state)?;
    let found = sources.iter().filter_map(|source| source.found.as_ref());
    let names: BTreeSet<&String> = found.flat_map(|(_, found)| found.unreachable.keys()).collect();
    if names.is_empty() {
        return Ok(Html::default());
    }
    let names: Vec<&str> = names.into_iter().map(String::as_str).collect();
    let names = names.join(", ");
    let text = scene.words.pick(
        || format!("No answer from {names}: drills whose evidence lies there alone are not shown."),
        || format!("{names} 没有响应：仅存放在其中的演练证据不会显示。"),
    );
    Ok(html("<p class=\"note warn\" role=\"status\">{}</p>", &[&text]))
}

fn list(scene: &Scene<'_>, rows: &[Row]) -> Html {
    if rows.is_empty() {
        return empty(scene.say(
            "There is no evidence of any drill. `backstay drill run` holds one; `drills` in a policy has them held by schedule.",
            "没有演练证据。用 `backstay drill run` 执行演练，或在策略中编写 `drills` 按计划执行。",
        ));
    }
    let lines: Html = rows.iter().map(|row| line(scene, row)).collect();
    table(
        scene.say("Drills, the newest first", "演练（最新在前）"),
        &[
            (scene.say("Began", "开始"), ""),
            (scene.say("Drill", "演练"), ""),
            (scene.say("Verdict", "结论"), ""),
            (scene.say("Scenario", "场景"), ""),
            (scene.say("RTO, of target", "RTO / 目标"), "number"),
            (scene.say("RPO, of target", "RPO / 目标"), "number"),
            (scene.say("Gravest finding", "最严重的发现"), ""),
            (scene.say("Report", "报告"), ""),
        ],
        &lines,
    )
}

fn line(scene: &Scene<'_>, row: &Row) -> Html {
    let of = |seconds: Option<f64>, target: Option<u64>| {
        let measured = seconds.map_or_else(|| "–".to_owned(), |seconds| scene.words.took(seconds));
        let target = target.map(|target| scene.words.span(target)).unwrap_or_default();
        html("{} <small>/ {}</small>", &[&measured, &target])
    };
    let began = row.started.map(|at| scene.when(at));
    let gravest = row.gravest.as_deref().map(|text| detail(scene, text));
    html(
        "<tr><td>{}</td><th scope=\"row\"><a href=\"{}\">{}/{}</a> <small><code>{}</code></small></th><td>{}</td><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td><td class=\"long\">{}{}</td><td>{}</td></tr>",
        &[
            &began,
            &address(&["drills", &row.drill], &[]),
            &row.stack,
            &row.name.as_deref().unwrap_or("?"),
            &row.drill,
            &shown(scene, row.verdict, row.aborted),
            &row.scenario.map(|scenario| scope(scene, scenario, row.scope.as_ref(), row.partial)),
            &of(row.rto_seconds, row.rto_target_seconds),
            &of(row.rpo_seconds, row.rpo_target_seconds),
            &row.problem,
            &gravest,
            &row.verdict.map(|_| report_link(scene, &row.drill)),
        ],
    )
}

/// The page that was stored.
pub fn report_link(scene: &Scene<'_>, drill: &str) -> Html {
    html(
        "<a href=\"{}\">{}</a>",
        &[&address(&["drills", drill, "report"], &[]), &scene.say("Report", "报告")],
    )
}

/// A text that this program wrote into evidence.
pub fn detail(scene: &Scene<'_>, text: &str) -> String {
    scene.words.pick(|| text.to_owned(), || report::chinese(text))
}

/// A verdict.
pub fn shown(scene: &Scene<'_>, verdict: Option<Verdict>, aborted: bool) -> Html {
    let Some(verdict) = verdict else {
        return mark("bad", scene.say("not what was written", "与写入时不符"));
    };
    let tone = match verdict {
        _ if aborted => "warn",
        Verdict::Pass => "good",
        Verdict::PassWithFindings | Verdict::Inconclusive => "warn",
        Verdict::Fail => "bad",
    };
    let word = if aborted {
        scene.say("ABORTED", "已中止")
    } else {
        report::verdict(scene.words.0, verdict)
    };
    mark(tone, word)
}

/// What was played, and of how much where that is less than it is about.
pub fn scope(scene: &Scene<'_>, scenario: Scenario, scope: Option<&Scope>, partial: bool) -> Html {
    let word = report::scenario(scene.words.0, scenario);
    let of = match scope {
        _ if !partial => return html("{}", &[&word]),
        Some(scope) => {
            let (some, all) = (scope.sources.len(), scope.of);
            scene.words.pick(
                || format!("{some} of {all} sources"),
                || format!("{all} 个数据源中的 {some} 个"),
            )
        }
        None => scene.say("a part", "部分").to_owned(),
    };
    html("{} <small>{}</small>", &[&word, &of])
}

/// What is proven of which source in which scenario, and how long ago.
fn coverage(scene: &Scene<'_>, since: Option<Timestamp>, reading: &mut bool) -> Html {
    let title = scene.say("What drills prove", "演练覆盖");
    let inside = match scene.find(&["drill", "list", "--coverage"], AGE, since) {
        Known::Found(found, _) => {
            let all: &[serde_json::Value] = found.value.as_array().map_or(&[], Vec::as_slice);
            let all = all.iter().filter_map(|line| Covered::deserialize(line).ok());
            matrix(scene, &all.collect::<Vec<_>>())
        }
        Known::Reading => {
            *reading = true;
            scene.reading()
        }
        // The list says it.
        Known::Failed(_) => return Html::default(),
    };
    html("<section><h2>{}</h2>{}</section>", &[&title, &inside])
}

fn matrix(scene: &Scene<'_>, all: &[Covered]) -> Html {
    let wanted = scene.sheet.policies.iter().flat_map(|policy| policy.drills.values());
    let mut columns: BTreeSet<Scenario> = wanted.map(|drill| drill.scenario).collect();
    columns.extend(all.iter().filter_map(|one| one.scenario));
    let columns: Vec<Scenario> = columns.into_iter().collect();
    let sources: BTreeSet<(&str, &str)> =
        all.iter().map(|one| (one.stack.as_str(), one.source.as_str())).collect();
    if sources.is_empty() || columns.is_empty() {
        return empty(scene.say("No drill proves anything yet.", "尚无演练证明任何内容。"));
    }
    let rows: Html = sources
        .iter()
        .map(|(stack, source)| {
            let cells: Html = columns
                .iter()
                .map(|scenario| {
                    let of = all.iter().filter(|one| {
                        (one.stack.as_str(), one.source.as_str()) == (*stack, *source)
                            && one.scenario == Some(*scenario)
                    });
                    cell(scene, &of.collect::<Vec<_>>())
                })
                .collect();
            html("<tr><th scope=\"row\">{}/{}</th>{}</tr>", &[stack, source, &cells])
        })
        .collect();
    let mut head = vec![(scene.say("Source", "数据源"), "")];
    head.extend(columns.iter().map(|one| (report::scenario(scene.words.0, *one), "")));
    let caption = scene.say(
        "What a drill that passed proves of each source, by scenario, and how long ago",
        "通过的演练对各数据源、各场景的证明及时间",
    );
    let table = table(caption, &head, &rows);
    if !all.iter().any(|one| one.partial) {
        return table;
    }
    let part = scene.say(
        "A part: the source was brought back without the rest of its stack.",
        "部分：该数据源未与系统其余部分一起恢复。",
    );
    html("{}<p class=\"quiet\">{}</p>", &[&table, &part])
}

/// How long ago it was proven, in words and by its shade; and what the last try came to, where that is
/// something else.
fn cell(scene: &Scene<'_>, of: &[&Covered]) -> Html {
    // Of the whole before of a part, the newest before older ones.
    let best = of.iter().filter(|one| one.proven.is_some());
    let best = best.max_by_key(|one| (!one.partial, one.proven));
    let tried = of.iter().filter(|one| one.tried.is_some()).max_by_key(|one| one.tried);
    let failed = tried.filter(|one| one.verdict.is_some_and(|verdict| !verdict.is_good()));
    let failed = failed.map(|one| html(" {}", &[&shown(scene, one.verdict, false)]));
    let Some((one, at)) = best.and_then(|one| Some((one, one.proven?))) else {
        return html(
            "<td class=\"shade never\">{}{}</td>",
            &[&scene.say("never", "从未"), &failed],
        );
    };
    let days = scene.now.duration_since(at).as_hours() / 24;
    let class = match days {
        _ if one.partial => "shade old",
        ..NEW => "shade new",
        NEW..OLD => "shade aged",
        _ => "shade old",
    };
    let part = one.partial.then(|| scene.say("a part", "部分"));
    html(
        "<td class=\"{}\">{} <small>{} {}</small>{}</td>",
        &[&class, &scene.distance(at), &scene.time(at), &part, &failed],
    )
}
