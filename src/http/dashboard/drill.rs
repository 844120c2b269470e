//! A drill: what it came to, what was found, how long everything took, and what was looked at.

use serde::Deserialize;

use super::drills::{detail, report_link, scope, shown};
use super::finder::Known;
use super::html::{Html, address, html};
use super::page::{Page, Scene, empty, mark, table};
use super::request::Reply;
use super::standing::gauge;
use super::words::size;
use crate::drill::evidence::{CheckState, Evidence, Severity, SourceResult, Step, StepState};
use crate::drill::{catalogue, report as told};
use crate::error::{Error, ErrorKind, Result};

/// How old what is shown may be, in seconds: evidence is written once.
const AGE: u64 = 300;

/// The page.
pub fn page(scene: &Scene<'_>, id: &str) -> Result<Page> {
    check(id)?;
    let (evidence, at, failed) =
        match scene.find(&["drill", "report", "--format", "json", "--", id], AGE, None) {
            Known::Reading => return Ok(Page::new("drills", id, scene.reading()).live(2)),
            Known::Failed(error) => return Err(error),
            Known::Found(found, failed) => {
                let evidence = Evidence::deserialize(&*found.value).map_err(|error| {
                    Error::damaged("what `drill report` tells cannot be read").with_source(error)
                })?;
                (evidence, found.at, failed)
            }
        };
    let language = scene.words.0;
    let mut body = html(
        "<p class=\"lead\">{} {}</p><p>{} · {}</p>",
        &[
            &shown(scene, Some(evidence.verdict), evidence.is_aborted()),
            &told::meaning(language, evidence.verdict),
            &report_link(scene, &evidence.drill),
            &html(
                "<a href=\"{}\">{}</a>",
                &[
                    &address(&["drills"], &[("stack", &evidence.stack), ("name", &evidence.name)]),
                    &scene.say("All drills of this name", "同名演练"),
                ],
            ),
        ],
    );
    body.push(&facts(scene, &evidence));
    body.push(&findings(scene, &evidence));
    body.push(&sources(scene, &evidence));
    body.push(&phases(scene, &evidence));
    body.push(&checks(scene, &evidence));
    body.push(&steps(scene, &evidence));
    body.push(&earlier(scene, &evidence));
    body.push(&scene.as_of(at, failed.as_ref()));
    Ok(Page::new("drills", format!("{}/{}", evidence.stack, evidence.name), body))
}

/// The report as it was stored, which nobody changed since.
pub fn report(scene: &Scene<'_>, id: &str) -> Result<Reply> {
    check(id)?;
    match scene.find(&["drill", "report", "--stored", "--output", "json", "--", id], AGE, None) {
        Known::Reading => {
            let page = Page::new("drills", id, scene.reading()).live(2);
            Ok(Reply::page(http::StatusCode::OK, scene.frame(&page, None)))
        }
        Known::Failed(error) => Err(error),
        Known::Found(found, _) => match found.value["report"].as_str() {
            Some(page) => Ok(Reply::stored(page.to_owned())),
            None => Err(Error::damaged("what `drill report` tells cannot be read")),
        },
    }
}

/// What becomes part of a command line is a drill.
fn check(id: &str) -> Result<()> {
    let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if plain && catalogue::is_id(id) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::NotFound, "there is no such drill")
        .hint("Drills lists those that there are"))
}

fn facts(scene: &Scene<'_>, evidence: &Evidence) -> Html {
    let language = scene.words.0;
    let mut list = Html::default();
    let mut fact = |name: &'static str, value: Html| {
        list.add("<div><dt>{}</dt><dd>{}</dd></div>", &[&name, &value]);
    };
    let measured =
        |name: &'static str, seconds: Option<f64>, target: u64, missed: bool| match seconds {
            None => html(
                "<span class=\"quiet\">{} / {}</span>",
                &[&scene.say("not measured", "未测得"), &scene.words.span(target)],
            ),
            Some(seconds) => html(
                "{} <span class=\"nowrap\">{} / {}</span>",
                &[
                    &gauge(
                        scene,
                        name,
                        seconds.max(0.0).ceil() as u64,
                        target,
                        if missed { "bad" } else { "good" },
                    ),
                    &scene.words.took(seconds),
                    &scene.words.span(target),
                ],
            ),
        };
    let rto = &evidence.rto;
    fact(
        scene.say("RTO, from the declaration", "RTO（自宣告起）"),
        measured("RTO", rto.from_declaration_seconds, rto.target_seconds, rto.met == Some(false)),
    );
    let missed = evidence.sources.iter().any(|one| one.rpo.met == Some(false));
    fact(
        scene.say("RPO, the worst of its sources", "RPO（数据源中最差）"),
        measured("RPO", evidence.rpo_seconds, evidence.rpo_target_seconds, missed),
    );
    fact(scene.say("Drill", "演练"), html("<code>{}</code>", &[&evidence.drill]));
    fact(
        scene.say("Scenario", "场景"),
        scope(scene, evidence.scenario, evidence.scope.as_ref(), evidence.is_partial()),
    );
    let aim = evidence.aim.at.map(|at| scene.when(at));
    let seed = evidence.aim.seed.map(|seed| html(" <code>--seed {}</code>", &[&seed]));
    fact(
        scene.say("Recovery point", "恢复点"),
        html("{} {}{}", &[&told::choice(language, evidence.aim.choice), &aim, &seed]),
    );
    fact(scene.say("Began", "开始"), scene.when(evidence.started));
    fact(scene.say("Ended", "结束"), scene.when(evidence.ended));
    let environment = &evidence.environment;
    // Who held it is said with the host, mostly.
    let elsewhere = !environment.user.contains(&environment.host);
    let host = elsewhere.then(|| html(" <small>{}</small>", &[&environment.host]));
    fact(scene.say("Held by", "执行人"), html("{}{}", &[&environment.user, &host]));
    let signed = if evidence.says_signed() {
        scene.say("yes; `backstay drill verify` checks it", "是；用 `backstay drill verify` 验证")
    } else {
        scene.say("no", "否")
    };
    fact(scene.say("Signed", "已签名"), html("{}", &[&signed]));
    let isolated = if environment.network_isolated {
        scene.say("a network of its own with nothing in it", "空的独立网络")
    } else {
        scene.say("no network of its own", "没有独立网络")
    };
    fact(scene.say("Sandbox", "沙箱"), html("{}", &[&isolated]));
    html("<dl>{}</dl>", &[&list])
}

fn findings(scene: &Scene<'_>, evidence: &Evidence) -> Html {
    let language = scene.words.0;
    if evidence.findings.is_empty() {
        return empty(scene.say("Nothing was found.", "没有发现问题。"));
    }
    let rows: Html = evidence
        .findings
        .iter()
        .map(|finding| {
            let tone = match finding.severity {
                Severity::Note => "calm",
                Severity::Finding | Severity::Unproven => "warn",
                Severity::Objective | Severity::Failure => "bad",
            };
            html(
                "<tr><td>{}</td><th scope=\"row\">{}</th><td>{}</td><td class=\"long\">{}</td></tr>",
                &[
                    &mark(tone, told::severity(language, finding.severity)),
                    &told::finding(language, &finding.code),
                    &finding.source,
                    &detail(scene, &finding.text),
                ],
            )
        })
        .collect();
    table(
        scene.say("Findings, the gravest first", "发现（最严重在前）"),
        &[
            (scene.say("Gravity", "程度"), ""),
            (scene.say("What", "类别"), ""),
            (scene.say("Source", "数据源"), ""),
            (scene.say("Finding", "详情"), ""),
        ],
        &rows,
    )
}

fn sources(scene: &Scene<'_>, evidence: &Evidence) -> Html {
    if evidence.sources.is_empty() {
        return empty(scene.say("No source was brought back.", "没有恢复任何数据源。"));
    }
    let rows: Html =
        evidence.sources.iter().map(|one| source(scene, one, &evidence.stack)).collect();
    table(
        scene.say("Sources", "数据源"),
        &[
            (scene.say("Source", "数据源"), ""),
            (scene.say("Came back", "已恢复"), ""),
            (scene.say("Backup", "备份"), ""),
            (scene.say("Goes up to", "数据截至"), ""),
            (scene.say("RPO, of target", "RPO / 目标"), "number"),
            (scene.say("Back in, of target", "恢复耗时 / 目标"), "number"),
            (scene.say("Size", "大小"), "number"),
        ],
        &rows,
    )
}

fn source(scene: &Scene<'_>, one: &SourceResult, stack: &str) -> Html {
    let came = if one.restored {
        mark("good", scene.say("yes", "是"))
    } else {
        mark("bad", scene.say("no", "否"))
    };
    let backup = one.backup.as_deref().map(|backup| {
        html(
            "<a href=\"{}\"><code>{}</code></a>",
            &[&address(&["backups", &one.repository, stack, &one.source, backup], &[]), &backup],
        )
    });
    let of = |seconds: Option<f64>, target: u64| {
        let seconds = seconds.map_or_else(|| "–".to_owned(), |seconds| scene.words.took(seconds));
        html("{} <small>/ {}</small>", &[&seconds, &scene.words.span(target)])
    };
    let took = one.restored.then_some(one.rto.restore_seconds + one.rto.recovery_seconds);
    html(
        "<tr><th scope=\"row\">{} <small>{}</small></th><td>{}</td><td>{}</td><td>{} <small>{}</small></td><td class=\"number\">{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td></tr>",
        &[
            &one.source,
            &one.server.as_deref().unwrap_or(&one.kind),
            &came,
            &backup,
            &one.rpo.recovered_to.map(|at| scene.when(at)),
            &told::basis(scene.words.0, one.rpo.basis),
            &of(one.rpo.seconds, one.rpo.target_seconds),
            &of(took, one.rto.target_seconds),
            &size(one.bytes),
        ],
    )
}

fn phases(scene: &Scene<'_>, evidence: &Evidence) -> Html {
    if evidence.phases.is_empty() {
        return Html::default();
    }
    let rows: Html = evidence
        .phases
        .iter()
        .map(|phase| {
            html(
                "<tr><th scope=\"row\">{}</th><td>{}</td><td class=\"number\">{}</td></tr>",
                &[
                    &told::phase(scene.words.0, &phase.name),
                    &scene.time(phase.started),
                    &scene.words.took(phase.seconds),
                ],
            )
        })
        .collect();
    table(
        scene.say("Phases", "阶段"),
        &[
            (scene.say("Phase", "阶段"), ""),
            (scene.say("Began", "开始"), ""),
            (scene.say("Took", "耗时"), "number"),
        ],
        &rows,
    )
}

fn checks(scene: &Scene<'_>, evidence: &Evidence) -> Html {
    let mut rows = Html::default();
    for check in &evidence.checks {
        let tone = match check.state {
            CheckState::Passed => "good",
            CheckState::Failed => "bad",
            CheckState::NotRun => "warn",
        };
        rows.add(
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td class=\"long\">{}</td><td class=\"number\">{}</td></tr>",
            &[
                &check.name,
                &check.source,
                &mark(tone, told::check(scene.words.0, check.state)),
                &check.found.as_deref().map(|text| detail(scene, text)),
                &scene.words.took(check.seconds),
            ],
        );
    }
    for one in &evidence.sources {
        let proven =
            one.proven.iter().map(|text| (text, mark("good", scene.say("proven", "已证实"))));
        let not = one
            .not_proven
            .iter()
            .map(|text| (text, mark("warn", scene.say("not proven", "未证实"))));
        for (text, word) in proven.chain(not) {
            rows.add(
                "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td class=\"long\">{}</td><td class=\"number\"></td></tr>",
                &[&scene.say("always", "固定检查"), &one.source, &word, &detail(scene, text)],
            );
        }
    }
    if rows.is_empty() {
        return empty(scene.say("Nothing was looked at.", "没有检查任何内容。"));
    }
    table(
        scene.say("What was looked at", "检查"),
        &[
            (scene.say("Check", "检查"), ""),
            (scene.say("Source", "数据源"), ""),
            (scene.say("State", "状态"), ""),
            (scene.say("Found", "结果"), ""),
            (scene.say("Took", "耗时"), "number"),
        ],
        &rows,
    )
}

/// What was not done, and what failed: the rest is in the report.
fn steps(scene: &Scene<'_>, evidence: &Evidence) -> Html {
    let open = |step: &&Step| step.state != StepState::Done;
    let rows: Html = evidence
        .steps
        .iter()
        .filter(open)
        .map(|step| {
            let tone = if step.state == StepState::Failed { "bad" } else { "calm" };
            html(
                "<tr><td>{}</td><th scope=\"row\">{}</th><td>{}</td><td class=\"long\">{}</td></tr>",
                &[
                    &told::phase(scene.words.0, &step.phase),
                    &detail(scene, &step.name),
                    &mark(tone, told::step(scene.words.0, step.state)),
                    &step.why.as_deref().map(|why| detail(scene, why)),
                ],
            )
        })
        .collect();
    if rows.is_empty() {
        return Html::default();
    }
    table(
        scene.say("Steps that were not executed, or failed", "未执行或失败的步骤"),
        &[
            (scene.say("Phase", "阶段"), ""),
            (scene.say("Step", "步骤"), ""),
            (scene.say("State", "状态"), ""),
            (scene.say("Why", "原因"), ""),
        ],
        &rows,
    )
}

/// Those of the same name before it.
fn earlier(scene: &Scene<'_>, evidence: &Evidence) -> Html {
    if evidence.earlier.is_empty() {
        return Html::default();
    }
    let took = |seconds: Option<f64>| {
        seconds.map_or_else(|| "–".to_owned(), |seconds| scene.words.took(seconds))
    };
    let rows: Html = evidence
        .earlier
        .iter()
        .rev()
        .map(|one| {
            html(
                "<tr><th scope=\"row\"><a href=\"{}\"><code>{}</code></a></th><td>{}</td><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td></tr>",
                &[
                    &address(&["drills", &one.drill], &[]),
                    &one.drill,
                    &scene.when(one.started),
                    &shown(scene, Some(one.verdict), false),
                    &took(one.rto_seconds),
                    &took(one.rpo_seconds),
                ],
            )
        })
        .collect();
    table(
        scene.say("Earlier drills of this name", "以往的同名演练"),
        &[
            (scene.say("Drill", "演练"), ""),
            (scene.say("Began", "开始"), ""),
            (scene.say("Verdict", "结论"), ""),
            ("RTO", "number"),
            ("RPO", "number"),
        ],
        &rows,
    )
}
