//! A month of recovery points of a source: what it can be restored to.

use std::collections::BTreeMap;

use jiff::ToSpan as _;
use jiff::civil::Date;

use super::catalogue::{Backup, Listed, listed};
use super::html::{Html, address, html};
use super::page::{Page, Scene, empty, table};
use super::standing::{Source, sources};
use super::timeline::weekday;
use super::words::{grouped, size};
use crate::error::{Error, Result};
use crate::state::State;

/// Backups in the list of a day or a month.
const SHOWN: usize = 200;

/// Backups by their ids, with those of all repositories.
type Copies<'a> = BTreeMap<&'a str, Vec<&'a Backup>>;

/// The page.
pub fn page(scene: &Scene<'_>, state: &State) -> Result<Page> {
    let all = sources(scene, state)?;
    let title = scene.say("Recovery points", "恢复点");
    let Some(source) = chosen(scene, &all)? else {
        let text = scene.say(
            "There are no sources. Write `sources` into a policy: what they can be restored to is shown here.",
            "没有数据源。在策略中编写 `sources` 后，可恢复的时间点会显示在这里。",
        );
        return Ok(Page::new("recovery-points", title, empty(text)));
    };
    let mut body = choice(scene, &all, source);
    body.push(&window(scene, source));
    let (backups, at, failed) = match listed(scene)? {
        Listed::Reading => {
            body.push(&scene.reading());
            return Ok(Page::new("recovery-points", title, body).live(2));
        }
        Listed::Failed(error) => {
            body.push(&scene.trouble(&error));
            return Ok(Page::new("recovery-points", title, body));
        }
        Listed::Backups(backups, at, failed) => (backups, at, failed),
    };
    let address = format!("{}/{}", source.policy.stack, source.name);
    let own: Vec<&Backup> = backups.iter().filter(|backup| backup.source == address).collect();
    let today = scene.now.to_zoned(scene.zone.clone()).date();
    let month = match scene.query.get("month") {
        None => today.first_of_month(),
        Some(text) => format!("{text}-01").parse::<Date>().map_err(|_| {
            Error::usage(format!("`{text}` is not a month")).hint("write it as 2026-11")
        })?,
    };
    // A copy is the same backup in another repository: one of them stands for all, a damaged one
    // before others.
    let mut copies: Copies<'_> = BTreeMap::new();
    for backup in own {
        copies.entry(&backup.id).or_default().push(backup);
    }
    let mut days: BTreeMap<Date, Vec<&Backup>> = BTreeMap::new();
    for all in copies.values() {
        let Some(one) = all.iter().find(|one| one.damaged.is_some()).or(all.first()) else {
            continue;
        };
        if let Some(at) = one.at() {
            days.entry(at.to_zoned(scene.zone.clone()).date()).or_default().push(one);
        }
    }
    for backups in days.values_mut() {
        backups.sort_by_key(|backup| backup.at());
    }
    body.push(&steps(scene, month, today, &days));
    body.push(&grid(scene, month, today, &days));
    body.push(&details(scene, month, &days, &copies));
    body.push(&scene.as_of(at, failed.as_ref()));
    Ok(Page::new("recovery-points", title, body))
}

fn chosen<'a, 'b>(scene: &Scene<'_>, all: &'b [Source<'a>]) -> Result<Option<&'b Source<'a>>> {
    let (stack, name) = (scene.query.get("stack"), scene.query.get("source"));
    let fits = |source: &&Source<'_>| {
        stack.is_none_or(|stack| stack == source.policy.stack)
            && name.is_none_or(|name| name == source.name)
    };
    let found = all.iter().find(fits);
    if found.is_none() && !all.is_empty() {
        return Err(Error::not_found("the policies have no such source")
            .hint("choose one under Recovery points"));
    }
    Ok(found)
}

fn choice(scene: &Scene<'_>, all: &[Source<'_>], chosen: &Source<'_>) -> Html {
    let many = scene.sheet.policies.len() > 1;
    let one = |source: &Source<'_>| {
        let is = source.policy.stack == chosen.policy.stack && source.name == chosen.name;
        let current = if is { " aria-current=\"true\"" } else { "" };
        let query = [("stack", source.policy.stack.as_str()), ("source", source.name)];
        let prefix = many.then(|| html("{}/", &[&source.policy.stack]));
        html(
            "<li><a href=\"{}\"{}>{}{}</a></li>",
            &[
                &address(&["recovery-points"], &query),
                &Html::default().with(current),
                &prefix,
                &source.name,
            ],
        )
    };
    let entries: Html = all.iter().map(one).collect();
    html(
        "<nav class=\"choice\" aria-label=\"{}\"><ul>{}</ul></nav>",
        &[&scene.say("Sources", "数据源"), &entries],
    )
}

/// The stretch in which it can be restored.
fn window(scene: &Scene<'_>, source: &Source<'_>) -> Html {
    let Some((_, found)) = &source.found else { return Html::default() };
    let (Some(newest), Some(oldest)) = (found.time, found.oldest) else { return Html::default() };
    let what = if found.by_wal {
        scene.say("Newest point, reached by replaying WAL:", "最新可恢复时间点（重放 WAL）：")
    } else {
        scene.say("Newest point:", "最新恢复点：")
    };
    html(
        "<p>{} <b>{}</b>. {} {}.</p>",
        &[&what, &scene.when(newest), &scene.say("Oldest:", "最早："), &scene.time(oldest)],
    )
}

fn link(scene: &Scene<'_>, name: &str, value: &str) -> String {
    let mut query: Vec<(&str, &str)> = Vec::new();
    for own in ["stack", "source"] {
        query.extend(scene.query.get(own).map(|value| (own, value)));
    }
    query.push((name, value));
    address(&["recovery-points"], &query)
}

fn steps(scene: &Scene<'_>, month: Date, today: Date, days: &BTreeMap<Date, Vec<&Backup>>) -> Html {
    let text = |date: Date| date.strftime("%Y-%m").to_string();
    let to = |date: Date, label: &'static str| {
        html("<a href=\"{}\">{}</a>", &[&link(scene, "month", &text(date)), &label])
    };
    let before = month.yesterday().map(Date::first_of_month).ok();
    let before = before.filter(|_| days.keys().next().is_some_and(|first| *first < month));
    let before = before.map(|date| to(date, scene.say("← Month before", "← 上个月")));
    let after = month.checked_add(1.month()).ok().filter(|date| *date <= today);
    let after = after.map(|date| to(date, scene.say("Month after →", "下个月 →")));
    html(
        "<nav class=\"pages\" aria-label=\"{}\">{} <strong>{}</strong> {}</nav>",
        &[&scene.say("Months", "月份"), &before, &text(month), &after],
    )
}

fn grid(scene: &Scene<'_>, month: Date, today: Date, days: &BTreeMap<Date, Vec<&Backup>>) -> Html {
    let mut head = Html::default();
    let mut date = month
        .checked_sub(i64::from(month.weekday().to_monday_zero_offset()).days())
        .unwrap_or(month);
    let mut day = date;
    for _ in 0..7 {
        head.add("<th scope=\"col\">{}</th>", &[&weekday(scene, day.weekday())]);
        day = day.tomorrow().unwrap_or(day);
    }
    let mut rows = Html::default();
    for _ in 0..6 {
        let mut cells = Html::default();
        for _ in 0..7 {
            cells.push(&cell(scene, month, today, date, days));
            date = date.tomorrow().unwrap_or(date);
        }
        rows.add("<tr>{}</tr>", &[&cells]);
        if date.first_of_month() > month {
            break;
        }
    }
    let caption = scene.words.pick(
        || {
            format!(
                "Recovery points of {}: F full, I incremental, S snapshot",
                month.strftime("%Y-%m")
            )
        },
        || format!("{} 的恢复点：F 全量，I 增量，S 快照", month.strftime("%Y-%m")),
    );
    html(
        "<table class=\"calendar\"><caption>{}</caption><thead><tr>{}</tr></thead><tbody>{}</tbody></table>",
        &[&caption, &head, &rows],
    )
}

fn cell(
    scene: &Scene<'_>,
    month: Date,
    today: Date,
    date: Date,
    days: &BTreeMap<Date, Vec<&Backup>>,
) -> Html {
    if date.first_of_month() != month {
        return html("<td class=\"other\"></td>", &[]);
    }
    let number = date.day().to_string();
    let now = if date == today { " today" } else { "" };
    let Some(backups) = days.get(&date) else {
        let is_gap = date <= today && days.keys().next().is_some_and(|first| *first < date);
        let gap =
            is_gap.then(|| html("<span class=\"gap\">{}</span>", &[&scene.say("none", "无")]));
        let class = if is_gap { "gap" } else { "future" };
        return html(
            "<td class=\"{}{}\"><span class=\"day\">{}</span>{}</td>",
            &[&class, &now, &number, &gap],
        );
    };
    let count = |kind: &str| backups.iter().filter(|one| one.kind.as_deref() == Some(kind)).count();
    let mut marks = Html::default();
    for (kind, letter) in [("full", "F"), ("incremental", "I"), ("snapshot", "S")] {
        let number = count(kind);
        if number > 0 {
            marks.add("<span class=\"kind\">{}{}</span> ", &[&letter, &number]);
        }
    }
    let damaged = backups.iter().filter(|one| one.damaged.is_some()).count();
    if damaged > 0 {
        marks.add(
            "<span class=\"mark bad\">{} {}</span>",
            &[&damaged, &scene.say("damaged", "损坏")],
        );
    }
    let label = scene.words.pick(
        || {
            format!(
                "{date}: {}",
                scene.words.count(backups.len() as u64, "backup", "backups", "个备份")
            )
        },
        || format!("{date}：{} 个备份", backups.len()),
    );
    html(
        "<td class=\"has{}\"><a href=\"{}#backups\" aria-label=\"{}\"><span class=\"day\">{}</span> {}</a></td>",
        &[&now, &link(scene, "day", &date.to_string()), &label, &number, &marks],
    )
}

fn details(
    scene: &Scene<'_>,
    month: Date,
    days: &BTreeMap<Date, Vec<&Backup>>,
    copies: &Copies<'_>,
) -> Html {
    let day = scene.query.get("day").and_then(|text| text.parse::<Date>().ok());
    let (what, mut backups): (String, Vec<&Backup>) = match day {
        Some(day) => (day.to_string(), days.get(&day).cloned().unwrap_or_default()),
        None => (
            month.strftime("%Y-%m").to_string(),
            days.iter()
                .filter(|(day, _)| day.first_of_month() == month)
                .flat_map(|(_, all)| all.iter().copied())
                .collect(),
        ),
    };
    if backups.is_empty() {
        let text = if days.is_empty() {
            scene.say(
                "There is no backup of it yet. Begin a job that makes one under Jobs.",
                "还没有备份。请在“任务”页面执行备份任务。",
            )
        } else {
            scene.say("There is no backup of that time.", "该时间没有备份。")
        };
        return html("<div id=\"backups\">{}</div>", &[&empty(text)]);
    }
    backups.reverse();
    let more = backups.len().saturating_sub(SHOWN);
    let rows: Html = backups.iter().take(SHOWN).map(|backup| row(scene, backup, copies)).collect();
    let caption = scene.words.pick(|| format!("Backups of {what}"), || format!("{what} 的备份"));
    let more = (more > 0).then(|| {
        let text = scene.words.pick(
            || format!("and {more} more: choose a day"),
            || format!("还有 {more} 个，请选择日期"),
        );
        html("<p class=\"quiet\">{}</p>", &[&text])
    });
    html(
        "<div id=\"backups\">{}{}</div>",
        &[
            &table(
                &caption,
                &[
                    (scene.say("Recovery point", "恢复点"), ""),
                    (scene.say("Backup", "备份"), ""),
                    (scene.say("Kind", "类型"), ""),
                    (scene.say("Files", "文件数"), "number"),
                    (scene.say("Content", "内容大小"), "number"),
                    (scene.say("Added", "新增存储"), "number"),
                    (scene.say("Repositories", "存储库"), ""),
                ],
                &rows,
            ),
            &more,
        ],
    )
}

/// A row of a table of backups.
fn row(scene: &Scene<'_>, backup: &Backup, copies: &Copies<'_>) -> Html {
    let (stack, source) = backup.source.split_once('/').unwrap_or((&backup.source, ""));
    let kind = match &backup.damaged {
        Some(why) => html(
            "<span class=\"mark bad\">{}</span> <small>{}</small>",
            &[&scene.say("damaged", "损坏"), why],
        ),
        None => html("{}", &[&scene.words.kind(backup.kind.as_deref().unwrap_or_default())]),
    };
    let place = |one: &&Backup| {
        let path = ["backups", &one.repository, stack, source, &one.id];
        html("<a href=\"{}\">{}</a> ", &[&address(&path, &[]), &one.repository])
    };
    let places: Html = copies.get(backup.id.as_str()).into_iter().flatten().map(place).collect();
    html(
        "<tr><td class=\"nowrap\">{}</td><th scope=\"row\"><a href=\"{}\"><code>{}</code></a></th><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td><td>{}</td></tr>",
        &[
            &backup.at().map(|at| scene.time(at)),
            &address(&["backups", &backup.repository, stack, source, &backup.id], &[]),
            &backup.id,
            &kind,
            &backup.files.map(grouped),
            &backup.bytes.map(size),
            &backup.stored_bytes.map(size),
            &places,
        ],
    )
}
