//! `backstay plan`

mod growth;

use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};
use serde::Serialize;

use crate::cli::ExitStatus;
use crate::cli::format::{self, Align, table};
use crate::cli::gantt::{self, Span};
use crate::cli::setup::App;
use crate::daemon::forecast::{self, Exposure, Holding};
use crate::daemon::growth::Growth;
use crate::daemon::timetable::{self, Run};
use crate::error::{Error, Result};
use crate::policy::{Period, Policy};

/// Show what the policies will do.
///
/// The next runs, how much of each source may be lost at the worst, and what retention will hold in
/// the long run; all of it as far as runs take as long as `expected` says and none fails. Where an
/// RPO does not hold, the exit code is 4.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only these stacks.
    #[arg(value_name = "STACK")]
    stacks: Vec<String>,

    /// From when on; a time without an offset is in the policy's time zone. Now, if left out.
    #[arg(long, value_name = "TIME")]
    from: Option<String>,

    /// Up to when; a day after the begin, if left out.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,

    /// Draw the runs of a day or of a week.
    #[arg(long, value_enum, value_name = "SPAN")]
    gantt: Option<SpanArg>,

    /// Say what each repository holds, and what it will once retention is settled and in a year.
    ///
    /// Reads the manifests of every repository: sizes come from backups that there are.
    #[arg(long)]
    growth: bool,
}

/// Spans, as the command line spells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum SpanArg {
    /// 24 hours, half an hour a column.
    Day,
    /// 7 days, three hours a column.
    Week,
}

/// Runs that are listed one by one.
const LISTED: usize = 100;

#[derive(Serialize)]
struct Plan {
    stack: String,
    timezone: String,
    from: Timestamp,
    until: Timestamp,
    runs: Vec<Run>,
    sources: Vec<Exposure>,
    retention: Vec<Holding>,
    #[serde(skip_serializing_if = "Option::is_none")]
    growth: Option<Vec<Growth>>,
}

/// Runs the command.
pub fn run(app: &App, args: &Args) -> Result<ExitStatus> {
    let set = app.policies(false)?;
    for name in &args.stacks {
        if !set.policies.iter().any(|policy| policy.stack == *name) {
            let known = set.policies.iter().map(|policy| policy.stack.as_str());
            return Err(Error::not_found(format!("there is no policy of stack `{name}`"))
                .hint(crate::policy::hint_at(name, known)));
        }
    }
    let mut plans = Vec::new();
    for policy in &set.policies {
        if args.stacks.is_empty() || args.stacks.contains(&policy.stack) {
            plans.push((policy, plan(app, args, policy)?));
        }
    }
    let holds = plans.iter().all(|(_, plan)| plan.sources.iter().all(|source| source.holds));
    if app.printer.is_json() {
        let plans: Vec<&Plan> = plans.iter().map(|(_, plan)| plan).collect();
        app.printer.json(&plans)?;
    } else {
        for (at, (policy, plan)) in plans.iter().enumerate() {
            if at > 0 {
                app.printer.data("")?;
            }
            show(app, args, policy, plan)?;
        }
    }
    Ok(if holds { ExitStatus::Done } else { ExitStatus::ObjectiveMissed })
}

fn plan(app: &App, args: &Args, policy: &Policy) -> Result<Plan> {
    let zone = policy.time_zone();
    let now = app.cx.clock.now();
    let from = args.from.as_deref().map_or(Ok(now), |text| instant(text, &zone))?;
    let long = match args.gantt {
        Some(SpanArg::Week) => SignedDuration::from_hours(7 * 24),
        _ => SignedDuration::from_hours(24),
    };
    let until = match args.until.as_deref() {
        Some(text) => instant(text, &zone)?,
        None => from.checked_add(long).unwrap_or(Timestamp::MAX),
    };
    if until <= from {
        return Err(
            Error::usage("the end is not after the begin").hint("give --until a time after --from")
        );
    }
    let retention = forecast::holdings(policy, from);
    let growth = args.growth.then(|| growth::of(app, policy, &retention)).transpose()?;
    Ok(Plan {
        stack: policy.stack.clone(),
        timezone: policy.timezone.clone(),
        from,
        until,
        runs: timetable::runs(policy, from, until),
        sources: forecast::exposures(policy, from),
        retention,
        growth,
    })
}

fn instant(text: &str, zone: &TimeZone) -> Result<Timestamp> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    let bad = || {
        Error::usage(format!("`{text}` is not a time"))
            .hint("for example 2026-11-21, 2026-11-21T02:00 or 2026-11-21T02:00:00Z")
    };
    let time: DateTime = text.replace(' ', "T").parse().map_err(|_| bad())?;
    time.to_zoned(zone.clone()).map(|at| at.timestamp()).map_err(|_| bad())
}

fn show(app: &App, args: &Args, policy: &Policy, plan: &Plan) -> Result<()> {
    let zone = policy.time_zone();
    let at = |instant: Timestamp| instant.to_zoned(zone.clone());
    app.printer.data(format!(
        "{}: {} to {}, times in {}",
        plan.stack,
        at(plan.from).strftime("%a %Y-%m-%d %H:%M"),
        at(plan.until).strftime("%a %Y-%m-%d %H:%M"),
        plan.timezone
    ))?;
    app.printer.data("")?;
    if let Some(span) = args.gantt {
        let span = match span {
            SpanArg::Day => Span::Day,
            SpanArg::Week => Span::Week,
        };
        for line in gantt::draw(policy, &plan.runs, plan.from, span) {
            app.printer.data(line)?;
        }
    } else {
        let rows: Vec<Vec<String>> =
            plan.runs.iter().take(LISTED).map(|run| cells(policy, run, &zone)).collect();
        lines(app, &RUNS, &rows, "no job runs in this time")?;
        if plan.runs.len() > LISTED {
            let more = plan.runs.len() - LISTED;
            app.printer.data(format!("and {more} more; --output json lists all of them"))?;
        }
    }
    app.printer.data("")?;
    let rows: Vec<Vec<String>> =
        plan.sources.iter().map(|source| exposure(source, &zone)).collect();
    lines(app, &SOURCES, &rows, "there are no sources")?;
    app.printer.data("")?;
    let rows: Vec<Vec<String>> = plan.retention.iter().map(holding).collect();
    lines(app, &RETENTION, &rows, "no job makes backups")?;
    if let Some(growth) = &plan.growth {
        app.printer.data("")?;
        let rows: Vec<Vec<String>> = growth.iter().map(growth::cells).collect();
        lines(app, &growth::HEAD, &rows, "the repositories hold nothing of it yet")?;
    }
    Ok(())
}

fn lines(app: &App, head: &[(&str, Align)], rows: &[Vec<String>], none: &str) -> Result<()> {
    if rows.is_empty() {
        return app.printer.data(none);
    }
    for line in table(head, rows) {
        app.printer.data(line)?;
    }
    Ok(())
}

const RUNS: [(&str, Align); 5] = [
    ("STARTS", Align::Left),
    ("ENDS", Align::Left),
    ("JOB", Align::Left),
    ("KIND", Align::Left),
    ("WHAT", Align::Left),
];

fn cells(policy: &Policy, run: &Run, zone: &TimeZone) -> Vec<String> {
    let at = |instant: Timestamp, format: &str| {
        instant.to_zoned(zone.clone()).strftime(format).to_string()
    };
    let end = if run.end == run.start { String::new() } else { at(run.end, "%H:%M") };
    let kind = run.kind.map_or_else(|| run.verb.to_owned(), |kind| kind.to_string());
    let mut what = if run.kind.is_some() && run.sources.len() == policy.sources.len() {
        "all sources".to_owned()
    } else {
        run.sources.join(", ")
    };
    let mut note = |text: String| {
        if !what.is_empty() {
            what.push_str("; ");
        }
        what.push_str(&text);
    };
    if let Some(job) = &run.follows {
        note(format!("after {job}"));
    }
    if !run.waits_for.is_empty() {
        note(format!("due {}, waits for {}", at(run.due, "%H:%M"), run.waits_for.join(", ")));
    }
    if !run.despite.is_empty() {
        note(format!("despite {}, for the RPO", run.despite.join(", ")));
    }
    let mut jobs: Vec<&String> = run.covered.values().collect();
    jobs.sort_unstable();
    jobs.dedup();
    for job in jobs {
        let sources: Vec<&str> = run
            .covered
            .iter()
            .filter(|(_, other)| *other == job)
            .map(|(source, _)| source.as_str())
            .collect();
        note(format!("{} left to {job}", sources.join(", ")));
    }
    vec![at(run.start, "%a %m-%d %H:%M"), end, run.job.clone(), kind, what]
}

const SOURCES: [(&str, Align); 5] = [
    ("SOURCE", Align::Left),
    ("RPO", Align::Right),
    ("LONGEST GAP", Align::Right),
    ("WORST LOSS", Align::Right),
    ("VERDICT", Align::Left),
];

fn exposure(source: &Exposure, zone: &TimeZone) -> Vec<String> {
    let shown = |period: Option<Period>| period.map_or("-".to_owned(), |period| period.to_string());
    let when = || {
        let at = source.at.map(|at| at.to_zoned(zone.clone()));
        at.map_or(String::new(), |at| format!(", first before {}", at.strftime("%Y-%m-%d %H:%M")))
    };
    let verdict = match (source.holds, source.archives_wal, source.worst) {
        (true, true, _) => "holds while WAL is archived".to_owned(),
        (true, false, _) => "holds".to_owned(),
        (false, _, Some(_)) => format!("MISSED{}", when()),
        (false, _, None) => "MISSED: no job backs it up twice".to_owned(),
    };
    vec![
        source.source.clone(),
        source.rpo.to_string(),
        shown(source.longest_gap),
        shown(source.worst),
        verdict,
    ]
}

const RETENTION: [(&str, Align); 5] = [
    ("JOB", Align::Left),
    ("KIND", Align::Left),
    ("KEEP", Align::Left),
    ("BACKUPS", Align::Right),
    ("OLDEST", Align::Right),
];

fn holding(holding: &Holding) -> Vec<String> {
    let more = if holding.growing { "+" } else { "" };
    vec![
        holding.job.clone(),
        holding.kind.to_string(),
        format::keep(&holding.keep),
        format!("{}{more}", holding.backups),
        format::span(holding.oldest.as_secs()),
    ]
}
