//! The first page: is anything wrong, since when, and what is to be done.

use jiff::{SignedDuration, Timestamp};

use super::html::{Html, address, html};
use super::page::{Page, Scene, empty, mark, table};
use super::standing::{Source, Verdict, gauge, sources};
use super::words::tone;
use crate::error::Result;
use crate::notify::Alert;
use crate::notify::alert::RUNBOOKS;
use crate::notify::text::Style;
use crate::policy::Tier;
use crate::state::{RunRow, RunState, State};

/// What was found longer ago than this is said to be old.
const OLD: SignedDuration = SignedDuration::from_mins(30);

/// What fires and goes on that is shown at most.
const MOST: usize = 20;

/// The page.
pub fn page(scene: &Scene<'_>, state: &State) -> Result<Page> {
    let sources = sources(scene, state)?;
    let alerts: Vec<(Alert, Timestamp)> = state
        .alerts()?
        .into_iter()
        .filter(|row| row.resolved.is_none())
        .filter_map(|row| Some((serde_json::from_str(&row.alert).ok()?, row.started)))
        .collect();
    let open = (scene.api.ledger)()?.open_runs()?;
    let mut body = Html::default();
    if let Some(why) = scene.sheet.is_not_ready() {
        body.add(
            "<div class=\"note bad\" role=\"status\"><p><b>{}</b> {}</p></div>",
            &[&scene.say("The daemon is not at work:", "守护进程没有工作："), &why],
        );
    }
    body.push(&looked(scene, &sources));
    body.push(&wrong(scene, &sources, &alerts));
    body.push(&going_on(scene, &open));
    for policy in &*scene.sheet.policies {
        let own: Vec<&Source<'_>> =
            sources.iter().filter(|source| source.policy.stack == policy.stack).collect();
        body.push(&stack(scene, &own));
    }
    if sources.is_empty() {
        body.push(&empty(scene.say(
            "No policy is in force. Write one, and look whether it is right with `backstay check`.",
            "没有生效的策略。请编写策略，并用 `backstay check` 检查。",
        )));
    }
    Ok(Page::new("", verdict(scene, &sources, alerts.len()), body).live(60))
}

/// The heading: the answer to whether anything is wrong.
fn verdict(scene: &Scene<'_>, sources: &[Source<'_>], alerts: usize) -> String {
    let is = |wanted: &dyn Fn(Verdict) -> bool| {
        sources.iter().filter(|source| wanted(source.verdict(scene.now))).count()
    };
    let (wrong, unknown) = (is(&Verdict::is_wrong), is(&|one| one == Verdict::NotLooked));
    let all = sources.len();
    let words = scene.words;
    let well = all - unknown;
    match () {
        () if all == 0 => scene.say("Nothing is protected", "没有受保护的数据").to_owned(),
        () if wrong > 0 => words.pick(
            || match (wrong, all) {
                (_, 1) => "The one source is not as it should be".to_owned(),
                (1, _) => format!("1 of {all} sources is not as it should be"),
                _ => format!("{wrong} of {all} sources are not as they should be"),
            },
            || format!("{all} 个数据源中有 {wrong} 个不达标"),
        ),
        () if well == 0 => scene.say("Nobody looked yet", "尚未检查").to_owned(),
        () if alerts > 0 => words.pick(
            || {
                let things = words.count(alerts as u64, "thing is wrong", "things are wrong", "");
                format!("{things}; all sources hold their objectives")
            },
            || format!("有 {alerts} 项异常；所有数据源均达标"),
        ),
        () => words.pick(
            || match all {
                1 => "The one source is protected as it should be".to_owned(),
                _ => format!("All {well} sources are protected as they should be"),
            },
            || format!("全部 {well} 个数据源均达标"),
        ),
    }
}

/// When the repositories were looked at.
fn looked(scene: &Scene<'_>, sources: &[Source<'_>]) -> Html {
    let oldest = sources.iter().filter_map(|source| Some(source.found.as_ref()?.0)).min();
    let Some(oldest) = oldest else {
        return empty(scene.say(
            "The daemon looks into the repositories for the first time. Come again in a moment.",
            "守护进程正在首次检查存储库，请稍候。",
        ));
    };
    let age = scene.now.duration_since(oldest);
    let what = scene.say("The repositories were looked at", "存储库检查时间：");
    let line = html("{} {}", &[&what, &scene.when(oldest)]);
    if age > OLD {
        return html(
            "<p class=\"note warn\" role=\"status\">{}. {}</p>",
            &[
                &line,
                &scene.say(
                    "That is long ago: what stands here may be better than it is. `journalctl -u backstay` tells why nobody looks.",
                    "时间较久，实际情况可能更差。请用 `journalctl -u backstay` 查看原因。",
                ),
            ],
        );
    }
    html("<p class=\"quiet\">{}</p>", &[&line])
}

/// What is wrong: alerts that fire, and sources that stand badly without one.
fn wrong(scene: &Scene<'_>, sources: &[Source<'_>], alerts: &[(Alert, Timestamp)]) -> Html {
    let mut rows = Html::default();
    for (alert, since) in alerts.iter().take(MOST) {
        let zone = scene
            .policy(&alert.stack)
            .map_or_else(|| scene.zone.clone(), crate::policy::Policy::time_zone);
        let style = Style { language: scene.words.0, zone };
        let name = alert.what.name();
        rows.add(
            "<tr><th scope=\"row\">{}<br><small>{}</small></th><td>{}</td><td>{}</td></tr>",
            &[
                &style.summary(alert),
                &style.description(alert),
                &scene.when(*since),
                &to_do(scene, alert, name),
            ],
        );
    }
    let told = |source: &Source<'_>| {
        alerts
            .iter()
            .any(|(alert, _)| alert.stack == source.policy.stack && alert.source == source.name)
    };
    let untold =
        sources.iter().filter(|source| source.verdict(scene.now).is_wrong() && !told(source));
    for source in untold.take(MOST) {
        let verdict = source.verdict(scene.now);
        let since = source.missed_since(scene.now).map(|since| scene.when(since));
        rows.add(
            "<tr><th scope=\"row\">{}/{}: {}<br><small>{}</small></th><td>{}</td><td>{}</td></tr>",
            &[
                &source.policy.stack,
                &source.name,
                &verdict.words(scene),
                &why(scene, source, verdict),
                &since,
                &jobs_link(scene, &source.policy.stack),
            ],
        );
    }
    if rows.is_empty() {
        return rows;
    }
    let more = alerts.len().saturating_sub(MOST);
    let more = (more > 0).then(|| {
        let text = scene.words.pick(|| format!("and {more} more"), || format!("还有 {more} 项"));
        html("<p class=\"quiet\">{}</p>", &[&text])
    });
    html(
        "<section>{}{}</section>",
        &[
            &table(
                scene.say("What is wrong", "异常"),
                &[
                    (scene.say("What", "内容"), ""),
                    (scene.say("Since", "开始时间"), ""),
                    (scene.say("What to do", "处理方法"), ""),
                ],
                &rows,
            ),
            &more,
        ],
    )
}

fn to_do(scene: &Scene<'_>, alert: &Alert, name: &'static str) -> Html {
    let mut links = Html::default();
    if let crate::notify::What::RunFailed { run, .. } = &alert.what {
        links.add(
            "<a href=\"{}\">{}</a><br>",
            &[&address(&["runs", run], &[]), &scene.say("What the run said", "查看运行日志")],
        );
    }
    if !alert.stack.is_empty() {
        links.push(&jobs_link(scene, &alert.stack));
        links.add("<br>", &[]);
    }
    let configured =
        scene.policy(&alert.stack).and_then(|policy| policy.notify.as_ref()?.runbooks.clone());
    match configured.filter(|url| url.starts_with("https://") || url.starts_with("http://")) {
        Some(url) => links.add(
            "<a href=\"{}#{}\" rel=\"noreferrer\">{}</a>",
            &[&url, &name.to_ascii_lowercase(), &scene.say("Runbook", "处理手册")],
        ),
        None => links.add("<small>{}: {}</small>", &[&RUNBOOKS, &name]),
    }
    links
}

fn jobs_link(scene: &Scene<'_>, stack: &str) -> Html {
    html(
        "<a href=\"{}\">{}</a>",
        &[&address(&["jobs"], &[("stack", stack)]), &scene.say("Begin a job", "立即执行任务")],
    )
}

fn why(scene: &Scene<'_>, source: &Source<'_>, verdict: Verdict) -> String {
    let words = scene.words;
    let found = source.found.as_ref().map(|(_, found)| found);
    match verdict {
        Verdict::Unprotected => scene
            .say("Nothing of it can be restored: there is no backup.", "没有备份，无法恢复。")
            .to_owned(),
        Verdict::RpoMissed if found.is_some_and(|found| found.ahead) => scene
            .say(
                "Its newest recovery point lies ahead: a clock was wrong, or is now, and nobody can tell what would be lost.",
                "最新恢复点晚于当前时间：时钟曾有误或现在有误，无法判断会丢失多少数据。",
            )
            .to_owned(),
        Verdict::RpoMissed => {
            let exposure = words.span(source.exposure(scene.now).unwrap_or_default());
            let rpo = words.span(source.rpo());
            words.pick(
                || format!("{exposure} would be lost now; {rpo} may be."),
                || format!("现在会丢失 {exposure} 的数据，允许 {rpo}。"),
            )
        }
        Verdict::RtoMissed => {
            let estimated = found.and_then(|found| found.estimated_rto_seconds).unwrap_or_default();
            let (estimated, rto) = (words.span(estimated), words.span(source.rto()));
            words.pick(
                || format!("Its recovery would take {estimated}; {rto} are allowed."),
                || format!("恢复需要 {estimated}，允许 {rto}。"),
            )
        }
        Verdict::Damaged => {
            let objects = found.map_or(0, |found| found.damaged);
            words.pick(
                || format!("{objects} stored objects are missing or altered: `backstay verify --repair`."),
                || format!("{objects} 个存储对象缺失或被改动：`backstay verify --repair`。"),
            )
        }
        _ => found
            .and_then(|found| found.unreachable.iter().next())
            .map_or_else(String::new, |(name, why)| format!("{name}: {why}")),
    }
}

/// What is being done now.
fn going_on(scene: &Scene<'_>, open: &[RunRow]) -> Html {
    let running: Vec<&RunRow> = open.iter().filter(|run| run.state == RunState::Running).collect();
    let waiting = open
        .iter()
        .filter(|run| run.state == RunState::Waiting && run.not_before <= scene.now)
        .count();
    let mut list = Html::default();
    for run in running.iter().take(MOST) {
        let since = run.started.unwrap_or(run.due);
        let span = scene.words.span(scene.now.duration_since(since).as_secs().unsigned_abs());
        list.add(
            "<li><a href=\"{}\">{}</a> {}</li>",
            &[&address(&["runs", &run.id], &[]), &super::runs::what(run), &span],
        );
    }
    let waits = scene.words.count(
        waiting as u64,
        "run waits for a place",
        "runs wait for a place",
        "个运行在等待",
    );
    // What failed and waits for its next try is no more over than what goes on.
    let again = open.iter().filter(|run| {
        run.state == RunState::Waiting && run.attempts > 0 && run.not_before > scene.now
    });
    for run in again.take(MOST) {
        let why = run.why.as_deref().and_then(|why| why.lines().next()).unwrap_or_default();
        list.add(
            "<li>{} <a href=\"{}\">{}</a> {} {} <small>{}</small></li>",
            &[
                &mark("warn", scene.say("failed", "失败")),
                &address(&["runs", &run.id], &[]),
                &super::runs::what(run),
                &scene.say("is tried again", "将重试："),
                &scene.when(run.not_before),
                &why,
            ],
        );
    }
    let waits = (waiting > 0).then(|| html("<li>{}</li>", &[&waits]));
    if list.is_empty() && waits.is_none() {
        return Html::default();
    }
    html(
        "<section><h2>{}</h2><ul class=\"row\">{}{}</ul></section>",
        &[&scene.say("Going on now", "正在进行"), &list, &waits],
    )
}

/// A stack and its sources.
fn stack(scene: &Scene<'_>, sources: &[&Source<'_>]) -> Html {
    let Some(first) = sources.first() else { return Html::default() };
    let policy = first.policy;
    let objectives = policy.objectives();
    let (rpo, rto) = (objectives.rpo.as_secs(), objectives.rto.as_secs());
    let tier = policy.tier.map(|tier| match tier {
        Tier::Production => scene.say("production", "生产"),
        Tier::Staging => scene.say("staging", "预发"),
        Tier::Development => scene.say("development", "开发"),
    });
    let worst = sources.iter().map(|source| source.verdict(scene.now)).min();
    let worst = worst.unwrap_or(Verdict::NotLooked);
    let rows: Html = sources.iter().map(|source| row(scene, source)).collect();
    let caption = scene
        .words
        .pick(|| format!("Sources of {}", policy.stack), || format!("{} 的数据源", policy.stack));
    html(
        "<section class=\"stack\"><h2>{} {}</h2><p class=\"quiet\">{}{}RPO {} · RTO {}</p>{}</section>",
        &[
            &policy.stack,
            &mark(worst.tone(), worst.words(scene)),
            &policy.description.as_ref().map(|text| html("{} · ", &[text])),
            &tier.map(|tier| html("{} · ", &[&tier])),
            &scene.words.span(rpo),
            &scene.words.span(rto),
            &table(
                &caption,
                &[
                    (scene.say("Source", "数据源"), ""),
                    (scene.say("Verdict", "结论"), ""),
                    (scene.say("Would be lost now, of RPO", "当前暴露 / RPO"), ""),
                    (scene.say("Recovery takes, of RTO", "恢复耗时 / RTO"), ""),
                    (scene.say("Last run", "上次运行"), ""),
                    (scene.say("Proven", "验证"), ""),
                ],
                &rows,
            ),
        ],
    )
}

fn row(scene: &Scene<'_>, source: &Source<'_>) -> Html {
    let verdict = source.verdict(scene.now);
    let points =
        address(&["recovery-points"], &[("stack", &source.policy.stack), ("source", source.name)]);
    html(
        "<tr><th scope=\"row\"><a href=\"{}\">{}</a></th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
        &[
            &points,
            &source.name,
            &mark(verdict.tone(), verdict.words(scene)),
            &exposure(scene, source),
            &recovery(scene, source),
            &last_run(scene, source),
            &proven(scene, source),
        ],
    )
}

fn exposure(scene: &Scene<'_>, source: &Source<'_>) -> Html {
    let Some(exposure) = source.exposure(scene.now) else {
        return html("<span class=\"quiet\">{}</span>", &[&scene.say("everything", "全部")]);
    };
    if source.found.as_ref().is_some_and(|(_, found)| found.ahead) {
        return html("<span class=\"quiet\">{}</span>", &[&scene.say("cannot tell", "无法判断")]);
    }
    let rpo = source.rpo();
    let tone = if exposure > rpo { "bad" } else { "good" };
    let what = scene.say("would be lost now", "当前暴露");
    let newest = source.found.as_ref().and_then(|(_, found)| found.time);
    html(
        "{} <span class=\"nowrap\">{} / {}</span> <small>{} {}</small>",
        &[
            &gauge(scene, what, exposure, rpo, tone),
            &scene.words.span(exposure),
            &scene.words.span(rpo),
            &scene.say("newest point", "最新恢复点"),
            &newest.map(|at| scene.time(at)),
        ],
    )
}

fn recovery(scene: &Scene<'_>, source: &Source<'_>) -> Html {
    let found = source.found.as_ref().map(|(_, found)| found);
    let Some(found) = found.filter(|found| found.measured_rto_seconds.is_some()) else {
        return html(
            "<span class=\"quiet\">{} / {}</span>",
            &[&scene.say("never measured", "从未测量"), &scene.words.span(source.rto())],
        );
    };
    let measured = found.measured_rto_seconds.unwrap_or_default();
    let estimated = found.estimated_rto_seconds.unwrap_or(measured);
    let tone = if estimated > source.rto() { "bad" } else { "good" };
    let at = found.measured_rto_at.map(|at| {
        html(
            " <small>{} {} {}</small>",
            &[
                &scene.say("measured", "实测"),
                &scene.words.took(measured as f64),
                &scene.distance(at),
            ],
        )
    });
    html(
        "{} <span class=\"nowrap\">{} / {}</span>{}",
        &[
            &gauge(scene, scene.say("recovery takes", "恢复耗时"), estimated, source.rto(), tone),
            &scene.words.span(estimated),
            &scene.words.span(source.rto()),
            &at,
        ],
    )
}

fn last_run(scene: &Scene<'_>, source: &Source<'_>) -> Html {
    let run = source.found.as_ref().and_then(|(_, found)| found.last_run.as_ref());
    let Some(run) = run else {
        return html("<span class=\"quiet\">{}</span>", &[&scene.say("none", "无")]);
    };
    html(
        "{} <a href=\"{}\">{}</a>",
        &[
            &mark(tone(run.state), scene.words.state(run.state)),
            &address(&["runs", &run.id], &[]),
            &scene.distance(run.ended.unwrap_or(run.due)),
        ],
    )
}

fn proven(scene: &Scene<'_>, source: &Source<'_>) -> Html {
    let found = source.found.as_ref().map(|(_, found)| found);
    let last = found.and_then(|found| {
        let restored = found.measured_rto_at.map(|at| (at, scene.say("restored", "已恢复验证")));
        let verified = found.verified.iter().max_by_key(|(_, at)| **at);
        let verified = verified.map(|(depth, at)| (*at, super::coverage::depth(scene, depth)));
        restored.into_iter().chain(verified).max_by_key(|(at, _)| *at)
    });
    match last {
        Some((at, how)) => html("{} <small>{}</small>", &[&how, &scene.distance(at)]),
        None => html("<span class=\"quiet\">{}</span>", &[&scene.say("never", "从未")]),
    }
}
