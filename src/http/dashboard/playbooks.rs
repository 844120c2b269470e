//! The playbooks, what one does, and the runs there were.

use jiff::Timestamp;
use serde::Deserialize;

use super::finder::Known;
use super::html::{Html, address, html};
use super::page::{Page, Scene, empty, mark, table};
use crate::error::{Error, Result};
use crate::playbook::compile::{PlannedStep, Wanted, compile};
use crate::policy::{ActionSpec, Phase, Policy};

/// How old the list of runs may be, in seconds.
const AGE: u64 = 20;

/// Runs in the list.
const SHOWN: usize = 50;

/// A run, as `backstay playbook history` has it.
#[derive(Debug, Clone, Deserialize)]
struct Row {
    run: String,
    stack: String,
    playbook: String,
    mode: String,
    repository: String,
    state: String,
    started: Timestamp,
    last: Timestamp,
}

/// The list.
pub fn page(scene: &Scene<'_>) -> Result<Page> {
    let mut rows = Html::default();
    for policy in &*scene.sheet.policies {
        for (name, playbook) in &policy.playbooks {
            let plan = compile(policy, Wanted { playbook: name, ..Wanted::default() })?;
            let modes: Vec<&str> = playbook.modes.iter().map(|mode| mode.word()).collect();
            rows.add(
                "<tr><th scope=\"row\"><a href=\"{}\">{}/{}</a></th><td>{}</td><td class=\"number\">{}</td><td><code>{}</code></td><td class=\"long\">{}</td></tr>",
                &[
                    &address(&["playbooks", "plan", &policy.stack, name], &[]),
                    &policy.stack,
                    name,
                    &modes.join(", "),
                    &plan.steps.len(),
                    &plan.hash()?.get(..12).unwrap_or_default(),
                    &playbook.description,
                ],
            );
        }
    }
    let title = scene.say("Playbooks", "预案");
    if rows.is_empty() {
        let text = scene.say(
            "No policy has `playbooks`. Write down how each stack is brought back while nothing burns.",
            "策略中没有 `playbooks`。请在平时写下每个应用栈的恢复步骤。",
        );
        return Ok(Page::new("playbooks", title, empty(text)));
    }
    let (runs, reading) = runs(scene);
    let body = html(
        "{}{}<p class=\"quiet\">{} <code>backstay playbook run NAME</code></p>",
        &[
            &runs,
            &table(
                scene.say("Playbooks of the policies", "策略中的预案"),
                &[
                    (scene.say("Playbook", "预案"), ""),
                    (scene.say("Modes", "模式"), ""),
                    (scene.say("Steps", "步骤"), "number"),
                    (scene.say("Plan", "计划哈希"), ""),
                    (scene.say("For", "用途"), ""),
                ],
                &rows,
            ),
            &scene.say(
                "A person starts one, on the host that carries it out:",
                "由人在执行主机上启动：",
            ),
        ],
    );
    Ok(Page::new("playbooks", title, body).live(if reading { 2 } else { 30 }))
}

/// The runs there were, and whether they are still being read.
fn runs(scene: &Scene<'_>) -> (Html, bool) {
    let (all, at, failed) = match scene.find(&["playbook", "history"], AGE, None) {
        Known::Reading => return (scene.reading(), true),
        Known::Failed(error) => return (scene.trouble(&error), false),
        Known::Found(found, failed) => {
            let rows: Vec<Row> = Deserialize::deserialize(&*found.value).unwrap_or_default();
            (rows, found.at, failed)
        }
    };
    if all.is_empty() {
        let text = scene.say("No playbook was run yet.", "还没有执行过预案。");
        return (empty(text), false);
    }
    let rows: Html = all.iter().rev().take(SHOWN).map(|row| line(scene, row)).collect();
    let shown = table(
        scene.say("Runs of playbooks, the newest first", "预案执行记录（最新在前）"),
        &[
            (scene.say("Began", "开始"), ""),
            (scene.say("Playbook", "预案"), ""),
            (scene.say("Mode", "模式"), ""),
            (scene.say("State", "状态"), ""),
            (scene.say("Last change", "最近变化"), ""),
            (scene.say("Journal in", "日志位置"), ""),
        ],
        &rows,
    );
    (html("{}{}", &[&shown, &scene.as_of(at, failed.as_ref())]), false)
}

fn line(scene: &Scene<'_>, row: &Row) -> Html {
    html(
        "<tr><td class=\"nowrap\">{}</td><th scope=\"row\"><a href=\"{}\">{}/{}</a></th><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
        &[
            &scene.time(row.started),
            &address(&["playbooks", "run", &row.run], &[]),
            &row.stack,
            &row.playbook,
            &row.mode,
            &standing(scene, &row.state),
            &scene.distance(row.last),
            &row.repository,
        ],
    )
}

/// What a run is doing, as the command line says it, coloured by what that means.
pub fn standing(scene: &Scene<'_>, words: &str) -> Html {
    let (first, rest) = words.split_once(": ").unwrap_or((words, ""));
    let (tone, word) = match first {
        "succeeded" => ("good", scene.say("succeeded", "成功")),
        "succeeded with failures" => ("warn", scene.say("succeeded with failures", "成功但有失败")),
        "undone" => ("warn", scene.say("undone", "已撤回")),
        "left as it was" => ("warn", scene.say("left as it was", "保持原状")),
        "waits for a person" => ("warn", scene.say("waits for a person", "等待人工")),
        "stuck" => ("bad", scene.say("stuck", "卡住")),
        "not over" if rest.is_empty() => ("busy", scene.say("not over", "未结束")),
        "not over" => ("busy", scene.say("being taken back", "正在撤回")),
        _ => ("calm", ""),
    };
    let word = if word.is_empty() { first } else { word };
    let rest = if first == "not over" { "" } else { rest };
    html("{} {}", &[&mark(tone, word), &rest])
}

/// What a playbook does.
pub fn plan(scene: &Scene<'_>, stack: &str, name: &str) -> Result<Page> {
    let missing = || {
        Error::not_found(format!("there is no playbook {stack}/{name}"))
            .hint("Playbooks lists those that there are")
    };
    let policy: &Policy = scene.policy(stack).ok_or_else(missing)?;
    let playbook = policy.playbooks.get(name).ok_or_else(missing)?;
    let asked = scene.query.get("mode");
    let mode = playbook.modes.iter().copied().find(|mode| Some(mode.word()) == asked);
    let plan = compile(policy, Wanted { playbook: name, mode, at: None })?;
    let modes: Html = playbook
        .modes
        .iter()
        .map(|mode| {
            let current = if *mode == plan.mode { " aria-current=\"true\"" } else { "" };
            let href = address(&["playbooks", "plan", stack, name], &[("mode", mode.word())]);
            html(
                "<li><a href=\"{}\"{}>{}</a></li>",
                &[&href, &Html::default().with(current), &mode.word()],
            )
        })
        .collect();
    let mut body = html(
        "<p class=\"lead\">{}</p><nav class=\"choice\" aria-label=\"{}\"><ul>{}</ul></nav><p class=\"quiet\">{} <code class=\"hash\">{}</code></p>",
        &[
            &playbook.description,
            &scene.say("Modes", "模式"),
            &modes,
            &scene.say("Hash of the plan:", "计划哈希："),
            &plan.hash()?,
        ],
    );
    for phase in Phase::ALL {
        let steps: Vec<&PlannedStep> =
            plan.steps.iter().filter(|step| step.phase == phase).collect();
        if steps.is_empty() {
            continue;
        }
        let rows: Html = steps.iter().map(|step| step_row(scene, step)).collect();
        body.push(&table(
            self::phase(scene, phase.word()),
            &[
                (scene.say("Step", "步骤"), ""),
                (scene.say("Action", "动作"), ""),
                (scene.say("After", "依赖"), ""),
                (scene.say("Remarks", "说明"), ""),
            ],
            &rows,
        ));
    }
    Ok(Page::new("playbooks", format!("{stack}/{name}"), body))
}

/// The words for a phase.
pub fn phase<'a>(scene: &Scene<'_>, word: &'a str) -> &'a str {
    match word {
        "assess" => scene.say("assess", "评估"),
        "fence" => scene.say("fence", "隔离"),
        "recover" => scene.say("recover", "恢复"),
        "validate" => scene.say("validate", "验证"),
        "cutover" => scene.say("cutover", "切换"),
        "commit" => scene.say("commit", "提交"),
        "reprotect" => scene.say("reprotect", "重新保护"),
        "cleanup" => scene.say("cleanup", "清理"),
        other => other,
    }
}

fn step_row(scene: &Scene<'_>, step: &PlannedStep) -> Html {
    let mut notes = Html::default();
    if step.excluded {
        notes.add("{} ", &[&mark("calm", scene.say("not in this mode", "此模式下不执行"))]);
    }
    if step.point_of_no_return {
        notes.add("{} ", &[&mark("bad", scene.say("point of no return", "不可撤回"))]);
    }
    if let Some(condition) = &step.when {
        notes.add(
            "{} <code>{}</code> ",
            &[&scene.say("only where", "条件"), &condition.to_string()],
        );
    }
    if let Some(timeout) = step.timeout {
        notes.add("{} {} ", &[&scene.say("within", "时限"), &timeout.to_string()]);
    }
    match &step.action {
        ActionSpec::Approval(wanted) => {
            let who = wanted.from.join(", ");
            let text = scene.words.pick(
                || format!("{} of {}", wanted.of, if who.is_empty() { "anybody" } else { &who }),
                || {
                    format!(
                        "{} 人同意：{}",
                        wanted.of,
                        if who.is_empty() { "任何人" } else { &who }
                    )
                },
            );
            notes.add("{} {} ", &[&text, &wanted.text]);
        }
        ActionSpec::Manual(manual) => notes.add("{} ", &[&manual.text]),
        _ => {}
    }
    notes.add("{}", &[&step.description]);
    html(
        "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td class=\"long\">{}</td></tr>",
        &[&step.name, &step.action.kind(), &step.needs.join(", "), &notes],
    )
}
