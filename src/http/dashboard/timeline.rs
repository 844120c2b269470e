//! Runs as bars over a day or a week: what was done, and what will be.

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp, ToSpan as _};

use super::html::{Html, address, html};
use super::page::{Page, Scene, empty};
use super::runs::{line, list, what};
use super::words::tone;
use crate::daemon::timetable;
use crate::error::{Error, Result};
use crate::state::{RunFilter, RunRow, RunState};

/// The most bars of the past, and of the future.
const BARS: usize = 1500;

/// Rows of the table beside the picture.
const ROWS: usize = 200;

/// How far before the picture a run may have been due that reaches into it.
const REACH: SignedDuration = SignedDuration::from_hours(48);

/// Where bars begin, where they end, and how high a lane is.
const LEFT: f64 = 170.0;
const RIGHT: f64 = 1000.0;
const LANE: f64 = 11.0;

/// The most lanes of a job.
const LANES: usize = 4;

/// What is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Span {
    Day,
    Week,
}

/// A bar.
struct Bar {
    row: usize,
    from: Timestamp,
    until: Timestamp,
    class: &'static str,
    label: String,
    link: Option<String>,
}

/// The picture's edges.
struct Window {
    from: Timestamp,
    until: Timestamp,
}

/// The page.
pub fn page(scene: &Scene<'_>) -> Result<Page> {
    let span = match scene.query.get("span") {
        Some("week") => Span::Week,
        None | Some("day") => Span::Day,
        Some(other) => return Err(Error::usage(format!("`{other}` is neither day nor week"))),
    };
    let today = scene.now.to_zoned(scene.zone.clone()).date();
    let date = match scene.query.get("at") {
        None => today,
        Some(text) => text.parse::<Date>().map_err(|_| {
            Error::usage(format!("`{text}` is not a date")).hint("write it as 2026-11-21")
        })?,
    };
    let (first, last) = stretch(span, date)?;
    let instant = |date: Date| {
        date.to_zoned(scene.zone.clone())
            .map(|at| at.timestamp())
            .map_err(|_| Error::usage(format!("{date} is beyond what can be shown")))
    };
    let window = Window { from: instant(first)?, until: instant(last)? };
    let filter = RunFilter {
        since: window.from.checked_sub(REACH).ok(),
        until: Some(window.until),
        limit: BARS,
        ..RunFilter::default()
    };
    let mut runs = (scene.api.ledger)()?.runs(&filter)?;
    let cut = runs.len() == BARS;
    runs.retain(|run| reaches(scene, run, &window));
    let jobs: Vec<(&str, &str)> = scene
        .sheet
        .policies
        .iter()
        .flat_map(|policy| policy.jobs.keys().map(|job| (policy.stack.as_str(), job.as_str())))
        .collect();
    let mut bars = past(scene, &jobs, &runs);
    bars.extend(future(scene, &jobs, &window));
    let mut body = steps(scene, span, first, last, today);
    if jobs.is_empty() {
        body.push(&empty(scene.say(
            "There are no jobs. Write `jobs` into a policy: their runs are shown here.",
            "没有任务。在策略中编写 `jobs` 后，其运行会显示在这里。",
        )));
    } else {
        body.push(&picture(scene, span, &window, &jobs, bars));
        body.push(&legend(scene));
    }
    if cut {
        let text = scene.words.pick(
            || format!("Only the newest {BARS} runs are drawn."),
            || format!("仅显示最新的 {BARS} 个运行。"),
        );
        body.add("<p class=\"note warn\">{}</p>", &[&text]);
    }
    runs.reverse();
    let rows: Html = runs.iter().take(ROWS).map(|run| line(scene, run)).collect();
    if !rows.is_empty() {
        let caption =
            scene.say("The runs of the picture, the newest first", "图中的运行（最新在前）");
        body.add(
            "<details class=\"alternative\"><summary>{}</summary>{}</details>",
            &[&scene.say("The same as a table", "以表格显示"), &list(scene, caption, &rows)],
        );
    }
    Ok(Page::new("timeline", scene.say("Timeline", "时间线"), body).live(60))
}

/// The first day, and the day after the last.
fn stretch(span: Span, date: Date) -> Result<(Date, Date)> {
    let far = |_| Error::usage(format!("{date} is beyond what can be shown"));
    match span {
        Span::Day => Ok((date, date.tomorrow().map_err(far)?)),
        Span::Week => {
            let back = i64::from(date.weekday().to_monday_zero_offset());
            let first = date.checked_sub(back.days()).map_err(far)?;
            Ok((first, first.checked_add(7.days()).map_err(far)?))
        }
    }
}

fn reaches(scene: &Scene<'_>, run: &RunRow, window: &Window) -> bool {
    let (from, until) = times(scene, run);
    until >= window.from && from < window.until
}

/// When a run began and ended; when it was due, if it never did.
fn times(scene: &Scene<'_>, run: &RunRow) -> (Timestamp, Timestamp) {
    match (run.started, run.state) {
        (Some(from), RunState::Running) => (from, scene.now),
        (Some(from), _) => (from, run.ended.unwrap_or(from)),
        (None, RunState::Waiting) => (run.not_before, run.not_before),
        (None, _) => (run.due, run.due),
    }
}

fn past(scene: &Scene<'_>, jobs: &[(&str, &str)], runs: &[RunRow]) -> Vec<Bar> {
    let bar = |run: &RunRow| {
        let row = jobs
            .iter()
            .position(|(stack, job)| *stack == run.slot.stack && *job == run.slot.job)?;
        let (from, until) = times(scene, run);
        let took = run.started.map(|_| scene.words.took(until.duration_since(from).as_secs_f64()));
        let label = format!(
            "{} · {} · {} {}",
            what(run),
            scene.words.state(run.state),
            from.to_zoned(scene.zone.clone()).strftime("%m-%d %H:%M"),
            took.unwrap_or_default()
        );
        let link = Some(address(&["runs", &run.id], &[]));
        Some(Bar { row, from, until, class: tone(run.state), label, link })
    };
    runs.iter().filter_map(bar).collect()
}

fn future(scene: &Scene<'_>, jobs: &[(&str, &str)], window: &Window) -> Vec<Bar> {
    let from = window.from.max(scene.now);
    if from >= window.until {
        return Vec::new();
    }
    let mut bars = Vec::new();
    for policy in &*scene.sheet.policies {
        for run in timetable::runs(policy, from, window.until) {
            if run.is_covered() || bars.len() >= BARS {
                continue;
            }
            let own = |(stack, job): &(&str, &str)| *stack == policy.stack && *job == run.job;
            let Some(row) = jobs.iter().position(own) else { continue };
            let at = run.start.to_zoned(scene.zone.clone()).strftime("%m-%d %H:%M").to_string();
            let label =
                format!("{} {} · {} {at}", policy.stack, run.job, scene.say("planned", "计划"));
            bars.push(Bar {
                row,
                from: run.start,
                until: run.end,
                class: "plan",
                label,
                link: None,
            });
        }
    }
    bars
}

fn picture(
    scene: &Scene<'_>,
    span: Span,
    window: &Window,
    jobs: &[(&str, &str)],
    mut bars: Vec<Bar>,
) -> Html {
    let length = window.until.duration_since(window.from).as_secs_f64();
    let x = |at: Timestamp| {
        let share = at.duration_since(window.from).as_secs_f64() / length;
        LEFT + (RIGHT - LEFT) * share.clamp(0.0, 1.0)
    };
    bars.sort_by_key(|bar| (bar.row, bar.from, bar.until));
    // Each bar goes to the first lane of its job that is free: the ends of the last one of each.
    let mut lanes: Vec<Vec<f64>> = vec![Vec::new(); jobs.len()];
    let placed: Vec<(usize, f64, f64)> = bars
        .iter()
        .map(|bar| {
            let from = x(bar.from).min(RIGHT - 4.0);
            let width = (x(bar.until) - from).max(4.0);
            let own = &mut lanes[bar.row];
            let lane = own.iter().position(|end| *end <= from).unwrap_or(own.len()).min(LANES - 1);
            if lane == own.len() {
                own.push(0.0);
            }
            own[lane] = from + width + 1.0;
            (lane, from, width)
        })
        .collect();
    let mut tops = Vec::new();
    let mut height = 24.0;
    for own in &lanes {
        tops.push(height);
        height += own.len().max(1) as f64 * LANE + 12.0;
    }
    let mut drawn = grid(scene, span, window, height, &x);
    for (at, (stack, job)) in jobs.iter().enumerate() {
        let name = if scene.sheet.policies.len() > 1 {
            format!("{stack}/{job}")
        } else {
            (*job).to_owned()
        };
        let short: String = name.chars().take(24).collect();
        drawn.add(
            "<path class=\"rule\" d=\"M0 {}H1000\"/><text x=\"0\" y=\"{}\">{}<title>{}</title></text>",
            &[&tops[at], &(tops[at] + 15.0), &short, &name],
        );
    }
    for (bar, (lane, from, width)) in bars.iter().zip(placed) {
        let y = tops[bar.row] + 6.0 + lane as f64 * LANE;
        // What went wrong stands out for those who see no colours, too.
        let rise = if bar.class == "bad" { 5.0 } else { 0.0 };
        let shape = html(
            "<rect class=\"{}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"><title>{}</title></rect>",
            &[&bar.class, &from, &(y - rise), &width, &(9.0 + rise), &bar.label],
        );
        match &bar.link {
            Some(link) => {
                drawn.add("<a href=\"{}\" aria-label=\"{}\">{}</a>", &[link, &bar.label, &shape]);
            }
            None => drawn.push(&shape),
        }
    }
    if scene.now >= window.from && scene.now < window.until {
        let now = x(scene.now);
        drawn.add(
            "<path class=\"now\" d=\"M{} 18V{}\"><title>{}</title></path>",
            &[&now, &height, &scene.say("now", "现在")],
        );
    }
    let label = scene.words.pick(
        || format!("{} runs of {} jobs; the table below says the same", bars.len(), jobs.len()),
        || format!("{} 个任务的 {} 个运行；下方表格内容相同", jobs.len(), bars.len()),
    );
    html(
        "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"{}\"><svg class=\"gantt\" viewBox=\"0 0 1000 {}\" role=\"group\" aria-label=\"{}\"><desc>{}</desc>{}</svg></div>",
        &[&scene.say("Timeline", "时间线"), &height, &label, &label, &drawn],
    )
}

fn grid(
    scene: &Scene<'_>,
    span: Span,
    window: &Window,
    height: f64,
    x: &dyn Fn(Timestamp) -> f64,
) -> Html {
    let mut drawn = Html::default();
    let start = window.from.to_zoned(scene.zone.clone());
    let step = |number: i64| match span {
        Span::Day => start.checked_add((number * 3).hours()),
        Span::Week => start.checked_add(number.days()),
    };
    for number in 0..8 {
        let Ok(at) = step(number) else { break };
        if at.timestamp() >= window.until {
            break;
        }
        let label = match span {
            Span::Day => at.strftime("%H:%M").to_string(),
            Span::Week => format!("{} {}", weekday(scene, at.weekday()), at.strftime("%m-%d")),
        };
        let left = x(at.timestamp());
        drawn.add(
            "<path class=\"tick\" d=\"M{} 18V{}\"/><text class=\"hour\" x=\"{}\" y=\"12\">{}</text>",
            &[&left, &height, &(left + 2.0), &label],
        );
    }
    drawn
}

/// A day of the week, short.
pub fn weekday(scene: &Scene<'_>, day: jiff::civil::Weekday) -> &'static str {
    const NAMES: [(&str, &str); 7] = [
        ("Mon", "周一"),
        ("Tue", "周二"),
        ("Wed", "周三"),
        ("Thu", "周四"),
        ("Fri", "周五"),
        ("Sat", "周六"),
        ("Sun", "周日"),
    ];
    let (en, zh) = NAMES[usize::from(day.to_monday_zero_offset().unsigned_abs()) % 7];
    scene.say(en, zh)
}

fn legend(scene: &Scene<'_>) -> Html {
    let entry = |class: &'static str, text: &'static str| {
        html(
            "<li><svg width=\"18\" height=\"9\" aria-hidden=\"true\"><rect class=\"{}\" x=\"1\" y=\"1\" width=\"16\" height=\"7\"/></svg> {}</li>",
            &[&class, &text],
        )
    };
    html(
        "<ul class=\"legend\">{}{}{}{}{}</ul>",
        &[
            &entry("good", scene.say("succeeded", "成功")),
            &entry("bad", scene.say("failed, missed, abandoned", "失败、错过、中止")),
            &entry("busy", scene.say("running", "运行中")),
            &entry("calm", scene.say("waiting, skipped", "等待、跳过")),
            &entry("plan", scene.say("planned", "计划")),
        ],
    )
}

/// From this stretch to others.
fn steps(scene: &Scene<'_>, span: Span, first: Date, last: Date, today: Date) -> Html {
    let name = if span == Span::Day { "day" } else { "week" };
    let to = |span: &str, date: Date| {
        address(&["timeline"], &[("span", span), ("at", &date.to_string())])
    };
    let length = if span == Span::Day { 1 } else { 7 };
    let before = first.checked_sub(i64::from(length).days()).unwrap_or(first);
    let end = last.yesterday().unwrap_or(last);
    let text = if span == Span::Day {
        format!("{} {first}", weekday(scene, first.weekday()))
    } else {
        format!("{first} – {end}")
    };
    let choice = |own: &str, label: &'static str| {
        let current = if own == name { " aria-current=\"true\"" } else { "" };
        let date = if (first..last).contains(&today) { today } else { first };
        html("<a href=\"{}\"{}>{}</a> ", &[&to(own, date), &Html::default().with(current), &label])
    };
    html(
        "<nav class=\"pages\" aria-label=\"{}\"><a href=\"{}\">{}</a> <strong>{}</strong> <a href=\"{}\">{}</a> <span>{}{}</span> <a href=\"{}\">{}</a></nav>",
        &[
            &scene.say("Other times", "其他时间"),
            &to(name, before),
            &scene.say("← Earlier", "← 更早"),
            &text,
            &to(name, last),
            &scene.say("Later →", "更晚 →"),
            &choice("day", scene.say("Day", "日")),
            &choice("week", scene.say("Week", "周")),
            &address(&["timeline"], &[("span", name)]),
            &scene.say("Now", "现在"),
        ],
    )
}
