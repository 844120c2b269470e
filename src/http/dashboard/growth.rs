//! What the repositories hold and will hold.

use std::collections::BTreeMap;

use jiff::civil::Date;
use serde::Deserialize;

use super::catalogue::{Backup, Listed, listed};
use super::finder::Known;
use super::html::{Html, html};
use super::page::{Page, Scene, empty, table};
use super::words::size;
use crate::error::Result;

/// How old the numbers may be, in seconds: they are of weeks.
const AGE: u64 = 3600;

/// The most days of the picture.
const DAYS: usize = 90;

/// What a repository holds of a source, as `backstay plan --growth` has it.
#[derive(Debug, Clone, Deserialize)]
struct Line {
    repository: String,
    source: String,
    bytes: u64,
    wal_bytes: u64,
    content_bytes_a_day: Option<i64>,
    settled_bytes: Option<u64>,
    year_bytes: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Plan {
    stack: String,
    #[serde(default)]
    growth: Vec<Line>,
}

/// The page.
pub fn page(scene: &Scene<'_>) -> Result<Page> {
    let title = scene.say("Storage growth", "存储增长");
    let mut body = Html::default();
    let mut reading = false;
    match scene.find(&["plan", "--growth"], AGE, None) {
        Known::Found(found, failed) => {
            let plans: Vec<Plan> = Deserialize::deserialize(&*found.value).unwrap_or_default();
            body.push(&lines(scene, &plans));
            body.push(&scene.as_of(found.at, failed.as_ref()));
        }
        Known::Reading => {
            reading = true;
            body.push(&scene.reading());
        }
        Known::Failed(error) => body.push(&scene.trouble(&error)),
    }
    if let Listed::Backups(backups, ..) = listed(scene)? {
        body.push(&added(scene, &backups));
    }
    let page = Page::new("growth", title, body);
    Ok(if reading { page.live(2) } else { page })
}

fn lines(scene: &Scene<'_>, plans: &[Plan]) -> Html {
    let all: Vec<(&str, &Line)> = plans
        .iter()
        .flat_map(|plan| plan.growth.iter().map(|line| (plan.stack.as_str(), line)))
        .collect();
    if all.is_empty() {
        return empty(scene.say(
            "The repositories hold nothing yet. What they will hold is known from the first backups on.",
            "存储库中还没有内容。有了备份之后才能估计增长。",
        ));
    }
    let most = all
        .iter()
        .map(|(_, line)| {
            line.bytes.max(line.settled_bytes.unwrap_or(0)).max(line.year_bytes.unwrap_or(0))
        })
        .max()
        .unwrap_or(1)
        .max(1);
    let shown = |bytes: Option<u64>| bytes.map_or_else(|| "–".to_owned(), size);
    let row = |(stack, line): &(&str, &Line)| {
        let gains = match line.content_bytes_a_day {
            None => "–".to_owned(),
            Some(gains) if gains < 0 => format!("−{}", size(gains.unsigned_abs())),
            Some(gains) => format!("+{}", size(gains.unsigned_abs())),
        };
        let wal =
            (line.wal_bytes > 0).then(|| html(" <small>WAL {}</small>", &[&size(line.wal_bytes)]));
        html(
            "<tr><th scope=\"row\">{}/{}</th><td>{}</td><td>{}</td><td class=\"number\">{}{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td></tr>",
            &[
                stack,
                &line.source,
                &line.repository,
                &bars(scene, line, most),
                &size(line.bytes),
                &wal,
                &shown(line.settled_bytes),
                &gains,
                &shown(line.year_bytes),
            ],
        )
    };
    let rows: Html = all.iter().map(row).collect();
    let table = table(
        scene.say("What lies in each repository", "各存储库的占用"),
        &[
            (scene.say("Source", "数据源"), ""),
            (scene.say("Repository", "存储库"), ""),
            (scene.say("Now, settled, in a year", "现在、稳定后、一年后"), ""),
            (scene.say("Holds", "现在"), "number"),
            (scene.say("Will hold", "稳定后"), "number"),
            (scene.say("Content a day", "内容每日变化"), "number"),
            (scene.say("In a year", "一年后"), "number"),
        ],
        &rows,
    );
    html(
        "{}<p class=\"quiet\">{}</p>",
        &[
            &table,
            &scene.say(
                "Will hold: once retention holds all that it will, if the source stays as it is. In a year: if it goes on to grow as it did. – is not known yet.",
                "稳定后：数据源不变时保留策略达到上限后的占用。一年后：按目前增速估计。– 表示尚不可知。",
            ),
        ],
    )
}

/// Three bars: now, settled, in a year.
fn bars(scene: &Scene<'_>, line: &Line, most: u64) -> Html {
    let width = |bytes: u64| (bytes as f64 / most as f64 * 120.0).max(1.0);
    let mut drawn = Html::default();
    let all = [(Some(line.bytes), "good"), (line.settled_bytes, "busy"), (line.year_bytes, "plan")];
    for (at, (bytes, class)) in all.iter().enumerate() {
        if let Some(bytes) = bytes {
            drawn.add(
                "<rect class=\"{}\" x=\"1\" y=\"{}\" width=\"{}\" height=\"5\"/>",
                &[class, &(at * 7 + 1), &width(*bytes)],
            );
        }
    }
    let label = scene.say("The columns to the right say the same", "右侧各列为相同数据");
    html(
        "<svg class=\"bars\" viewBox=\"0 0 122 22\" width=\"122\" height=\"22\" role=\"img\" aria-label=\"{}\"><title>{}</title>{}</svg>",
        &[&label, &label, &drawn],
    )
}

/// What the backups that there are now added, day by day.
fn added(scene: &Scene<'_>, backups: &[Backup]) -> Html {
    let mut days: BTreeMap<Date, u64> = BTreeMap::new();
    for backup in backups {
        if let (Some(end), Some(bytes)) = (backup.end, backup.stored_bytes) {
            *days.entry(end.to_zoned(scene.zone.clone()).date()).or_default() += bytes;
        }
    }
    let Some((first, last)) = days.keys().next().copied().zip(days.keys().next_back().copied())
    else {
        return Html::default();
    };
    let mut all: Vec<(Date, u64)> = Vec::new();
    let mut day = last;
    while day >= first && all.len() < DAYS {
        all.push((day, days.get(&day).copied().unwrap_or(0)));
        let Ok(before) = day.yesterday() else { break };
        day = before;
    }
    all.reverse();
    let most = all.iter().map(|(_, bytes)| *bytes).max().unwrap_or(1).max(1);
    let step = 900.0 / all.len() as f64;
    let wide = (step * 0.8).min(40.0);
    let mut drawn = Html::default();
    for (at, (day, bytes)) in all.iter().enumerate() {
        let height = *bytes as f64 / most as f64 * 100.0;
        let label = format!("{day}: {}", size(*bytes));
        drawn.add(
            "<rect class=\"busy\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"><title>{}</title></rect>",
            &[&(90.0 + at as f64 * step), &(118.0 - height), &wide, &height, &label],
        );
    }
    let (from, until) =
        (all.first().map(|(day, _)| day.to_string()), all.last().map(|(day, _)| day.to_string()));
    drawn.add(
        "<path class=\"rule\" d=\"M90 118H1000\"/><path class=\"rule\" d=\"M90 18H1000\"/><text x=\"0\" y=\"22\">{}</text><text x=\"0\" y=\"121\">0</text><text x=\"90\" y=\"136\">{}</text>",
        &[&size(most), &from],
    );
    if all.len() > 1 {
        drawn.add("<text x=\"1000\" y=\"136\" text-anchor=\"end\">{}</text>", &[&until]);
    }
    let title =
        scene.say("What the backups that exist now added, by day", "现有备份每天新增的存储");
    let rows: Html = all
        .iter()
        .rev()
        .filter(|(_, bytes)| *bytes > 0)
        .map(|(day, bytes)| {
            html(
                "<tr><th scope=\"row\">{}</th><td class=\"number\">{}</td></tr>",
                &[&day.to_string(), &size(*bytes)],
            )
        })
        .collect();
    html(
        "<section><h2>{}</h2><div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"{}\"><svg class=\"chart\" viewBox=\"0 0 1000 140\" role=\"img\" aria-label=\"{}\"><title>{}</title>{}</svg></div>\
         <details class=\"alternative\"><summary>{}</summary>{}</details></section>",
        &[
            &title,
            &title,
            &title,
            &title,
            &drawn,
            &scene.say("The same as a table", "以表格显示"),
            &table(
                title,
                &[(scene.say("Day", "日期"), ""), (scene.say("Added", "新增"), "number")],
                &rows,
            ),
        ],
    )
}
