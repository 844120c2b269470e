//! A run of a playbook: where each step stands, what waits for whom, and agreeing to it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;

use super::finder::Known;
use super::html::{Html, address, html};
use super::page::{Page, Scene, mark, table};
use super::playbooks::{phase, standing};
use super::request::Fields;
use super::run::missing;
use crate::error::{Error, ErrorKind, Result};
use crate::id::BackupId;

/// How old what is shown of a run may be, in seconds: many readers ask no more often than one.
const AGE: u64 = 3;

/// The longest name or reason that is taken.
const LONGEST: usize = 500;

/// A run, as `backstay playbook show` has it.
#[derive(Debug, Deserialize)]
struct Report {
    run: String,
    stack: String,
    playbook: String,
    mode: String,
    hash: String,
    started: Timestamp,
    last: Timestamp,
    outcome: Option<String>,
    state: String,
    past_return: bool,
    steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
struct Step {
    name: String,
    phase: String,
    action: String,
    state: String,
    attempts: u32,
    began: Option<Timestamp>,
    changed: Option<Timestamp>,
    why: Option<String>,
    #[serde(default)]
    outputs: BTreeMap<String, String>,
    #[serde(default)]
    approved_by: Vec<String>,
    approval: Option<Asked>,
    by_hand: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Asked {
    text: Option<String>,
    from: Vec<String>,
    of: u32,
    given: u32,
    binds: String,
    known: BTreeMap<String, BTreeMap<String, String>>,
}

/// The page.
pub fn page(scene: &Scene<'_>, run: &str) -> Result<Page> {
    check(run)?;
    let report: Report = match scene.find(&["playbook", "show", "--", run], AGE, None) {
        Known::Reading => return Ok(Page::new("playbooks", run, scene.reading()).live(2)),
        Known::Failed(error) => return Err(error),
        Known::Found(found, failed) => {
            if let Some(error) = failed {
                return Err(error);
            }
            Deserialize::deserialize(&*found.value).map_err(|error| {
                Error::damaged("what `playbook show` tells cannot be read").with_source(error)
            })?
        }
    };
    let mut body = html("<p class=\"lead\">{}</p>", &[&standing(scene, &report.state)]);
    for step in &report.steps {
        body.push(&waits(scene, &report, step));
    }
    body.push(&facts(scene, &report));
    body.push(&steps(scene, &report));
    let page = Page::new("playbooks", format!("{}/{}", report.stack, report.playbook), body);
    Ok(if report.outcome.is_some() { page } else { page.live(5) })
}

/// Agrees to a step, as `backstay playbook approve` does.
pub fn approve(scene: &Scene<'_>, run: &str, form: &Fields) -> Result<(String, String)> {
    check(run)?;
    let step = form.get("step").ok_or_else(|| missing(scene, "step"))?;
    let binds = form.get("binds").ok_or_else(|| missing(scene, "binds"))?;
    let name = form.get("name").map(str::trim).filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| missing(scene, "name"))?;
    let reason = form.get("reason").map(str::trim).unwrap_or_default();
    if name.len() > LONGEST || reason.len() > LONGEST {
        return Err(Error::usage(format!("a name or a reason is longer than {LONGEST} bytes")));
    }
    let (who, what) = (format!("--as={name}"), format!("--binds={binds}"));
    let why = format!("--reason={reason}");
    let mut args = vec!["playbook", "approve", "--yes", &who, &what];
    if !reason.is_empty() {
        args.push(&why);
    }
    args.extend(["--", run, step]);
    scene.finder.act(&scene.sheet.path, &args, &["playbook"])?;
    let text = scene
        .words
        .pick(|| format!("{name} approved `{step}`."), || format!("{name} 已同意“{step}”。"));
    Ok((address(&["playbooks", "run", run], &[]), text))
}

/// What becomes part of a command line is a run.
fn check(run: &str) -> Result<()> {
    if BackupId::looks_like(run)
        && run.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    {
        return Ok(());
    }
    Err(Error::new(ErrorKind::NotFound, "there is no such run of a playbook")
        .hint("Playbooks lists those that there are"))
}

/// What a step waits for, and what is to be done about it.
fn waits(scene: &Scene<'_>, report: &Report, step: &Step) -> Html {
    let run = &report.run;
    match (step.state.as_str(), &step.approval, &step.by_hand) {
        ("waiting", Some(asked), _) => agreeing(scene, report, step, asked),
        ("waiting", None, Some(text)) => html(
            "<section class=\"ask\"><h2>{}: {}</h2><p>{}</p><p>{}</p><pre tabindex=\"0\"><code>backstay playbook attest {} {} --text 'HOW YOU KNOW'</code></pre></section>",
            &[
                &scene.say("To be done by hand", "需人工完成"),
                &step.name,
                text,
                &scene.say("Then say so, and how you know:", "完成后请声明："),
                run,
                &step.name,
            ],
        ),
        ("failed" | "unknown" | "undo failed", _, _) if report.outcome.is_none() => html(
            "<section class=\"ask\"><h2>{}: {}</h2><p>{}</p><p>{}</p><pre tabindex=\"0\"><code>backstay playbook retry-step {} {}\nbackstay playbook attest {} {} --text 'HOW YOU KNOW'\nbackstay playbook skip-step {} {} --reason WHY</code></pre></section>",
            &[
                &state_word(scene, &step.state),
                &step.name,
                &step.why,
                &scene.say(
                    "Try it again, say that it is done, or do without it:",
                    "重试、声明已完成，或跳过：",
                ),
                run,
                &step.name,
                run,
                &step.name,
                run,
                &step.name,
            ],
        ),
        _ => Html::default(),
    }
}

fn agreeing(scene: &Scene<'_>, report: &Report, step: &Step, asked: &Asked) -> Html {
    if asked.given >= asked.of {
        return html(
            "<section class=\"ask\"><h2>{}: {}</h2><p>{}</p><pre tabindex=\"0\"><code>backstay playbook resume {}</code></pre></section>",
            &[
                &scene.say("Approved", "已同意"),
                &step.name,
                &scene.say(
                    "Enough people agreed. Whoever carries it out goes on:",
                    "同意人数已足够。由执行人继续：",
                ),
                &report.run,
            ],
        );
    }
    let known: Html = asked
        .known
        .iter()
        .flat_map(|(step, outputs)| outputs.iter().map(move |(name, value)| (step, name, value)))
        .map(|(step, name, value)| {
            html("<div><dt>{}.{}</dt><dd>{}</dd></div>", &[step, name, value])
        })
        .collect();
    let known = (!known.is_empty()).then(|| html("<dl>{}</dl>", &[&known]));
    let given = scene.words.pick(
        || format!("{} of {} approvals given", asked.given, asked.of),
        || format!("已有 {} / {} 人同意", asked.given, asked.of),
    );
    let by = (!step.approved_by.is_empty()).then(|| html(": {}", &[&step.approved_by.join(", ")]));
    let names: Html = asked.from.iter().map(|name| html("<option>{}</option>", &[name])).collect();
    let field = if asked.from.is_empty() {
        html(
            "<input id=\"name\" name=\"name\" required maxlength=\"200\" autocomplete=\"name\">",
            &[],
        )
    } else {
        html(
            "<select id=\"name\" name=\"name\" required><option value=\"\"></option>{}</select>",
            &[&names],
        )
    };
    html(
        "<section class=\"ask\"><h2>{}: {}</h2><p>{}</p><p>{}{}</p>{}<p class=\"quiet\">{} <code class=\"hash\">{}</code></p>\
         <form method=\"post\" action=\"{}\">{}<input type=\"hidden\" name=\"step\" value=\"{}\"><input type=\"hidden\" name=\"binds\" value=\"{}\">\
         <p><label for=\"name\">{}</label> {}</p><p><label for=\"reason\">{}</label> <input id=\"reason\" name=\"reason\" maxlength=\"200\" autocomplete=\"off\"></p>\
         <button>{}</button></form></section>",
        &[
            &scene.say("Waits for approval", "等待同意"),
            &step.name,
            &asked.text,
            &given,
            &by,
            &known,
            &scene.say(
                "What is agreed to is this plan and what is known above:",
                "同意的内容为此计划及以上信息：",
            ),
            &report.hash,
            &address(&["playbooks", "run", &report.run], &[]),
            &scene.form(),
            &step.name,
            &asked.binds,
            &scene.say("Who agrees", "同意人"),
            &field,
            &scene.say("Why (optional)", "原因（可选）"),
            &scene
                .words
                .pick(|| format!("Approve {}", step.name), || format!("同意 {}", step.name)),
        ],
    )
}

fn facts(scene: &Scene<'_>, report: &Report) -> Html {
    let past = report.past_return.then(|| {
        html(
            "<p class=\"note warn\">{}</p>",
            &[&scene.say(
                "Past the point of no return: nothing is taken back any more.",
                "已过不可撤回点，不再撤回。",
            )],
        )
    });
    html(
        "{}<dl><div><dt>{}</dt><dd><code>{}</code></dd></div><div><dt>{}</dt><dd>{}</dd></div><div><dt>{}</dt><dd>{}</dd></div><div><dt>{}</dt><dd>{}</dd></div><div><dt>{}</dt><dd><code class=\"hash\">{}</code></dd></div></dl>",
        &[
            &past,
            &scene.say("Run", "执行"),
            &report.run,
            &scene.say("Mode", "模式"),
            &report.mode,
            &scene.say("Began", "开始"),
            &scene.when(report.started),
            &scene.say("Last change", "最近变化"),
            &scene.when(report.last),
            &scene.say("Plan", "计划哈希"),
            &report.hash,
        ],
    )
}

fn steps(scene: &Scene<'_>, report: &Report) -> Html {
    let mut last = "";
    let mut rows = Html::default();
    for step in &report.steps {
        let begins = step.phase != last;
        last = &step.phase;
        let took = step
            .began
            .zip(step.changed)
            .map(|(began, changed)| scene.words.took(changed.duration_since(began).as_secs_f64()));
        let mut more = Html::default();
        if let Some(why) = &step.why {
            more.add("{} ", &[why]);
        }
        for (name, value) in &step.outputs {
            more.add("<code>{}={}</code> ", &[name, value]);
        }
        if !step.approved_by.is_empty() {
            more.add(
                "{} {} ",
                &[&scene.say("approved by", "同意人："), &step.approved_by.join(", ")],
            );
        }
        if step.attempts > 1 {
            let tries = scene.words.count(step.attempts.into(), "attempt", "attempts", "次尝试");
            more.add("<small>{}</small>", &[&tries]);
        }
        let name = if begins { phase(scene, &step.phase) } else { "" };
        rows.add(
            "<tr><td>{}</td><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td class=\"number\">{}</td><td class=\"long\">{}</td></tr>",
            &[&name, &step.name, &step.action, &mark(state_tone(&step.state), state_word(scene, &step.state)), &took, &more],
        );
    }
    table(
        scene.say("Steps, in the order of the plan", "步骤（按计划顺序）"),
        &[
            (scene.say("Phase", "阶段"), ""),
            (scene.say("Step", "步骤"), ""),
            (scene.say("Action", "动作"), ""),
            (scene.say("State", "状态"), ""),
            (scene.say("Took", "耗时"), "number"),
            (scene.say("What is known", "信息"), ""),
        ],
        &rows,
    )
}

fn state_tone(word: &str) -> &'static str {
    match word {
        "succeeded" | "done" | "attested" => "good",
        "failed" | "unknown" | "undo failed" => "bad",
        "waiting" => "warn",
        "intended" | "running" | "undoing" => "busy",
        _ => "calm",
    }
}

fn state_word<'a>(scene: &Scene<'_>, word: &'a str) -> &'a str {
    match word {
        "pending" => scene.say("pending", "未开始"),
        "waiting" => scene.say("waiting", "等待"),
        "succeeded" => scene.say("succeeded", "成功"),
        "failed" => scene.say("failed", "失败"),
        "unknown" => scene.say("unknown", "未知"),
        "skipped" => scene.say("skipped", "跳过"),
        "attested" => scene.say("attested", "已声明"),
        "undone" => scene.say("undone", "已撤回"),
        "not executed" => scene.say("not executed", "未执行"),
        other => other,
    }
}
