//! Which source was proven how, and how long ago: what was never tried stands out.

use jiff::Timestamp;

use super::html::{Html, address, html};
use super::page::{Page, Scene, empty, table};
use super::standing::{Source, sources};
use crate::error::Result;
use crate::state::State;

/// A proof is new for so many days, and old after so many.
const NEW: i64 = 31;
const OLD: i64 = 100;

/// The page.
pub fn page(scene: &Scene<'_>, state: &State) -> Result<Page> {
    let all = sources(scene, state)?;
    let title = scene.say("Coverage", "验证覆盖");
    if all.is_empty() {
        let text = scene.say(
            "There are no sources. Write `sources` into a policy: how each was proven is shown here.",
            "没有数据源。在策略中编写 `sources` 后，验证情况会显示在这里。",
        );
        return Ok(Page::new("coverage", title, empty(text)));
    }
    let rows: Html = all.iter().map(|source| row(scene, source)).collect();
    let never = all.iter().filter(|source| restored(source).is_none()).count();
    let lead = if never > 0 {
        scene.words.pick(
            || format!("{never} of {} sources were never restored for a proof.", all.len()),
            || format!("{} 个数据源中有 {never} 个从未做过恢复验证。", all.len()),
        )
    } else {
        scene.say("Every source was restored for a proof.", "所有数据源都做过恢复验证。").to_owned()
    };
    let body = html(
        "<p class=\"lead\">{}</p>{}<p class=\"quiet\">{}</p>",
        &[
            &lead,
            &table(
                scene.say("What was proven of each source, and when", "各数据源的验证情况"),
                &[
                    (scene.say("Source", "数据源"), ""),
                    (scene.say("Backed up", "已备份"), ""),
                    (scene.say("Copied elsewhere", "异地副本"), ""),
                    (depth(scene, "stored"), ""),
                    (depth(scene, "content"), ""),
                    (scene.say("Restored and looked at", "恢复验证"), ""),
                ],
                &rows,
            ),
            &scene.say(
                "Stored: the bytes are what they were. Content: every file is what the index says. Restored: a server took it, and it was asked. `backstay verify --depth restore` does the last.",
                "存储：字节未变。内容：每个文件与索引一致。恢复：已由服务器实际恢复并检查，用 `backstay verify --depth restore` 执行。",
            ),
        ],
    );
    Ok(Page::new("coverage", title, body))
}

/// The words for how deep a proof went.
pub const fn depth(scene: &Scene<'_>, depth: &str) -> &'static str {
    match depth.as_bytes() {
        b"content" => scene.say("content verified", "内容校验"),
        b"restore" => scene.say("restored", "恢复验证"),
        _ => scene.say("stored bytes verified", "存储校验"),
    }
}

fn restored(source: &Source<'_>) -> Option<Timestamp> {
    let (_, found) = source.found.as_ref()?;
    found.measured_rto_at.max(found.verified.get("restore").copied())
}

fn row(scene: &Scene<'_>, source: &Source<'_>) -> Html {
    let found = source.found.as_ref().map(|(_, found)| found);
    let verified = |depth: &str| found.and_then(|found| found.verified.get(depth).copied());
    let elsewhere = found.and_then(|found| found.elsewhere.values().max().copied());
    let wants_copy = source.policy.repositories.len() > 1;
    let query = [("stack", source.policy.stack.as_str()), ("source", source.name)];
    let copied = if wants_copy || elsewhere.is_some() {
        cell(scene, elsewhere)
    } else {
        html("<td class=\"quiet\">{}</td>", &[&scene.say("one repository only", "仅一个存储库")])
    };
    html(
        "<tr><th scope=\"row\"><a href=\"{}\">{}/{}</a></th>{}{}{}{}{}</tr>",
        &[
            &address(&["recovery-points"], &query),
            &source.policy.stack,
            &source.name,
            &cell(scene, found.and_then(|found| found.time)),
            &copied,
            &cell(scene, verified("stored")),
            &cell(scene, verified("content")),
            &cell(scene, restored(source)),
        ],
    )
}

/// A cell of the matrix: how long ago, in words and by its shade.
fn cell(scene: &Scene<'_>, at: Option<Timestamp>) -> Html {
    let Some(at) = at else {
        return html("<td class=\"shade never\">{}</td>", &[&scene.say("never", "从未")]);
    };
    let days = scene.now.duration_since(at).as_hours() / 24;
    let class = match days {
        ..NEW => "shade new",
        NEW..OLD => "shade aged",
        _ => "shade old",
    };
    html(
        "<td class=\"{}\">{} <small>{}</small></td>",
        &[&class, &scene.distance(at), &scene.time(at)],
    )
}
